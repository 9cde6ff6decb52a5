//! Alerts, which gather trouble of one kind for one target. A member joins an alert once, whichever process finds it; an alert is told and closed under its row's lock.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::FromRow;
use sqlx::types::Json;
use uuid::Uuid;

use super::delivery::NewDelivery;
use super::{RunStore, StoreError, doing};

/// Trouble that joins an alert.
#[derive(Clone, Debug)]
pub struct Joining {
    /// What belongs together.
    pub key: String,
    /// Cause word.
    pub cause: &'static str,
    /// Whom to tell and how.
    pub notice: Value,
    /// What it is and which time.
    pub subject: String,
    /// Its series; `None` = an account.
    pub series: Option<i64>,
    /// Its window.
    pub window: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// What a notice says of it.
    pub about: Value,
}

/// An alert that is open, and where it stands.
#[derive(Clone, Debug, FromRow)]
pub struct OpenAlert {
    /// Id.
    pub id: Uuid,
    /// When it was told of last.
    pub told_at: Option<DateTime<Utc>>,
    /// The database's present instant.
    pub now: DateTime<Utc>,
    /// Members that no delivery told of; those that a person ended are not told of.
    pub untold: i64,
    /// When the first of them joined.
    pub untold_since: Option<DateTime<Utc>>,
    /// When the last of them joined.
    pub joined_at: Option<DateTime<Utc>>,
    /// One of them is of a series that is in no other trouble here that was told.
    pub new_series: bool,
    /// One of them is a run that somebody waits for.
    pub hurried: bool,
    /// Members that are still in trouble.
    pub unsettled: i64,
    /// Members whose recovery is to be told: their series are in no trouble here any more.
    pub back: i64,
    /// Since when the first of them is.
    pub back_since: Option<DateTime<Utc>>,
}

/// A late window in an open alert.
#[derive(Clone, Debug, FromRow)]
pub struct LateMember {
    /// What belongs together.
    pub key: String,
    /// What it is.
    pub subject: String,
    /// Job name.
    pub job: Option<String>,
    /// Connection name.
    pub connection: String,
    /// Start of its window.
    pub window_start: DateTime<Utc>,
    /// Open end.
    pub window_end: DateTime<Utc>,
}

/// Members that are still to be told of.
const UNTOLD: &str = "told_by IS NULL AND works IS NOT false";

/// Members whose recovery is to be told: no other trouble of their series is left in this alert ($1).
const BACK: &str =
    "works AND told_by IS NOT NULL AND recovered_at IS NULL AND COALESCE(series_id::text, subject) NOT IN (
    SELECT COALESCE(o.series_id::text, o.subject) FROM alert_members o WHERE o.alert_id = $1 AND o.settled_at IS NULL)";

/// What an alert is told with.
#[derive(Clone, Debug)]
pub struct AlertFacts {
    /// Cause word.
    pub cause: String,
    /// Whom to tell and how.
    pub notice: Value,
    /// The members that the delivery names, by window.
    pub members: Vec<Json<Value>>,
    /// How many there are in all.
    pub count: i64,
}

impl RunStore {
    /// Trouble that is no run's joins its alerts.
    pub async fn join_alerts(&self, joining: &[Joining]) -> Result<(), StoreError> {
        if joining.is_empty() {
            return Ok(());
        }
        let what = "open alerts";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        join(&mut tx, joining).await?;
        tx.commit().await.map_err(doing(what))
    }

    /// Which of these members have joined already.
    pub async fn joined(&self, pairs: &[(String, String)]) -> Result<Vec<(String, String)>, StoreError> {
        sqlx::query_as(
            "SELECT key, subject FROM alert_members
             WHERE (key, subject) IN (SELECT * FROM unnest($1::text[], $2::text[]))",
        )
        .bind(pairs.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>())
        .bind(pairs.iter().map(|(_, subject)| subject.clone()).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look who has joined an alert"))
    }

    /// Notes which members of open alerts are out of trouble, or were ended by a person.
    pub async fn settle_members(&self) -> Result<u64, StoreError> {
        let settled = sqlx::query(include_str!("settle_members.sql"))
            .execute(&self.pool)
            .await
            .map_err(doing("look what works again"))?;
        Ok(settled.rows_affected())
    }

    /// The open alerts. A member whose run is among `hurry` keeps nobody waiting for more.
    pub async fn open_alerts(&self, hurry: &[Uuid]) -> Result<Vec<OpenAlert>, StoreError> {
        sqlx::query_as(
            "WITH series AS (
                 SELECT m.alert_id,
                        count(*) FILTER (WHERE m.told_by IS NULL AND m.works IS NOT false) AS untold,
                        min(m.joined_at) FILTER (WHERE m.told_by IS NULL AND m.works IS NOT false) AS untold_since,
                        max(m.joined_at) FILTER (WHERE m.told_by IS NULL AND m.works IS NOT false) AS joined_at,
                        count(*) FILTER (WHERE m.told_by IS NOT NULL AND m.settled_at IS NULL) AS told_open,
                        bool_or(m.told_by IS NULL AND (m.about->>'run_id')::uuid = ANY ($1)) AS hurried,
                        count(*) FILTER (WHERE m.settled_at IS NULL) AS unsettled,
                        count(*) FILTER (WHERE m.works AND m.told_by IS NOT NULL AND m.recovered_at IS NULL) AS back,
                        min(m.settled_at) FILTER (WHERE m.works AND m.told_by IS NOT NULL AND m.recovered_at IS NULL)
                            AS back_since
                 FROM alerts a JOIN alert_members m ON m.alert_id = a.id
                 WHERE a.closed_at IS NULL GROUP BY m.alert_id, COALESCE(m.series_id::text, m.subject)
             )
             SELECT a.id, a.told_at, reportd_now() AS now, sum(s.untold)::bigint AS untold,
                    min(s.untold_since) AS untold_since, max(s.joined_at) AS joined_at,
                    bool_or(s.untold > 0 AND s.told_open = 0) AS new_series, COALESCE(bool_or(s.hurried), false) AS hurried,
                    sum(s.unsettled)::bigint AS unsettled,
                    COALESCE(sum(s.back) FILTER (WHERE s.unsettled = 0), 0)::bigint AS back,
                    min(s.back_since) FILTER (WHERE s.unsettled = 0) AS back_since
             FROM alerts a JOIN series s ON s.alert_id = a.id
             WHERE a.closed_at IS NULL GROUP BY a.id ORDER BY a.opened_at, a.id",
        )
        .bind(hurry)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("list the open alerts"))
    }

    /// Makes the delivery that tells of an alert's untold members, unless another process was faster. `make` makes it. Returns
    /// its id.
    pub async fn tell_alert(
        &self,
        alert: Uuid,
        most: i64,
        make: impl Fn(&AlertFacts) -> Option<NewDelivery> + Send,
    ) -> Result<Option<Uuid>, StoreError> {
        let what = "tell of an alert";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        let Some(facts) = facts(&mut tx, alert, UNTOLD, most).await? else { return Ok(None) };
        if facts.count == 0 {
            return Ok(None);
        }
        let Some(delivery) = make(&facts) else { return Ok(None) };
        RunStore::make_deliveries(&mut tx, std::slice::from_ref(&delivery)).await?;
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE alert_members SET told_by = $2 WHERE alert_id = $1 AND {UNTOLD}"
        )))
        .bind(alert)
        .bind(delivery.id)
        .execute(&mut *tx)
        .await
        .map_err(doing(what))?;
        sqlx::query("UPDATE alerts SET told_at = reportd_now() WHERE id = $1")
            .bind(alert)
            .execute(&mut *tx)
            .await
            .map_err(doing(what))?;
        tx.commit().await.map_err(doing(what))?;
        crate::crash::point("alert-told");
        Ok(Some(delivery.id))
    }

    /// Makes the delivery that tells that members are out of trouble whose series are in no other here. `make` makes it, or says
    /// that there is nothing to tell; either way they are done with. Returns its id.
    pub async fn recover_alert(
        &self,
        alert: Uuid,
        most: i64,
        make: impl Fn(&AlertFacts) -> Option<NewDelivery> + Send,
    ) -> Result<Option<Uuid>, StoreError> {
        let what = "tell of a recovery";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        let Some(facts) = facts(&mut tx, alert, BACK, most).await? else { return Ok(None) };
        if facts.count == 0 {
            return Ok(None);
        }
        let mut delivery = make(&facts);
        if let Some(delivery) = &mut delivery {
            // A receiver that hears of the recovery first would wait for the end of the trouble for ever.
            delivery.follows = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
                "SELECT told_by FROM alert_members JOIN deliveries d ON d.id = told_by WHERE alert_id = $1 AND {BACK}
                 ORDER BY (d.state IN ('pending', 'sending')) DESC, d.next_try_at DESC NULLS LAST LIMIT 1"
            )))
            .bind(alert)
            .fetch_one(&mut *tx)
            .await
            .map_err(doing(what))?;
        }
        if let Some(delivery) = &delivery {
            RunStore::make_deliveries(&mut tx, std::slice::from_ref(delivery)).await?;
        }
        // What joined meanwhile and is over as well was never told: told after its series' recovery it would look like new trouble.
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE alert_members SET works = false WHERE alert_id = $1 AND told_by IS NULL AND works
                 AND series_id IN (SELECT series_id FROM alert_members WHERE alert_id = $1 AND {BACK})"
        )))
        .bind(alert)
        .execute(&mut *tx)
        .await
        .map_err(doing(what))?;
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE alert_members SET recovered_at = reportd_now() WHERE alert_id = $1 AND {BACK}"
        )))
        .bind(alert)
        .execute(&mut *tx)
        .await
        .map_err(doing(what))?;
        tx.commit().await.map_err(doing(what))?;
        crate::crash::point("alert-recovered");
        Ok(delivery.map(|delivery| delivery.id))
    }

    /// Closes an alert of which nothing is left: all told of, out of trouble, and their recovery told.
    pub async fn close_alert(&self, alert: Uuid) -> Result<(), StoreError> {
        let what = "close an alert";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        // Whoever joins takes this lock first, and then finds the alert closed.
        sqlx::query("SELECT 1 FROM alerts WHERE id = $1 FOR NO KEY UPDATE")
            .bind(alert)
            .execute(&mut *tx)
            .await
            .map_err(doing(what))?;
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE alerts SET closed_at = GREATEST(opened_at, reportd_now())
             WHERE id = $1 AND closed_at IS NULL AND NOT EXISTS (
                 SELECT 1 FROM alert_members
                 WHERE alert_id = $1 AND (settled_at IS NULL OR ({UNTOLD}) OR (works AND recovered_at IS NULL)))"
        )))
        .bind(alert)
        .execute(&mut *tx)
        .await
        .map_err(doing(what))?;
        tx.commit().await.map_err(doing(what))?;
        crate::crash::point("alert-closed");
        Ok(())
    }

    /// Late windows that open alerts still wait for.
    pub async fn late_members(&self) -> Result<Vec<LateMember>, StoreError> {
        sqlx::query_as(
            "SELECT m.key, m.subject, m.about->>'job' AS job, m.about->>'connection' AS connection, m.window_start, m.window_end
             FROM alerts a JOIN alert_members m ON m.alert_id = a.id
             WHERE a.closed_at IS NULL AND a.cause = 'late' AND m.settled_at IS NULL AND m.window_start IS NOT NULL",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(doing("list the late windows that were told"))
    }

    /// A person ended these members' trouble: they are in none any more, and nobody is told that they work again.
    pub async fn end_members(&self, members: &[LateMember]) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE alert_members m SET settled_at = reportd_now(), works = false
             FROM unnest($1::text[], $2::text[]) AS w (key, subject)
             WHERE m.key = w.key AND m.subject = w.subject AND m.settled_at IS NULL",
        )
        .bind(members.iter().map(|member| member.key.clone()).collect::<Vec<_>>())
        .bind(members.iter().map(|member| member.subject.clone()).collect::<Vec<_>>())
        .execute(&self.pool)
        .await
        .map_err(doing("settle windows that are waived"))?;
        Ok(())
    }
}

/// Members join the open alert of their key; one is opened where there is none. Keys are taken in order, so that two processes
/// never wait for each other.
pub(super) async fn join(tx: &mut sqlx::PgTransaction<'_>, joining: &[Joining]) -> Result<(), StoreError> {
    let what = "open an alert";
    let mut joining: Vec<&Joining> = joining.iter().collect();
    joining.sort_by(|a, b| (&a.key, &a.subject).cmp(&(&b.key, &b.subject)));
    for members in joining.chunk_by(|a, b| a.key == b.key) {
        let Some(first) = members.first() else { continue };
        // Closed in the moment between the two statements, it is opened anew.
        let mut open: Option<Uuid> = None;
        for _ in 0..5 {
            sqlx::query(
                "INSERT INTO alerts (id, key, cause, notice) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (key) WHERE closed_at IS NULL DO NOTHING",
            )
            .bind(Uuid::new_v4())
            .bind(&first.key)
            .bind(first.cause)
            .bind(Json(&first.notice))
            .execute(&mut **tx)
            .await
            .map_err(doing(what))?;
            open = sqlx::query_scalar("SELECT id FROM alerts WHERE key = $1 AND closed_at IS NULL FOR NO KEY UPDATE")
                .bind(&first.key)
                .fetch_optional(&mut **tx)
                .await
                .map_err(doing(what))?;
            if open.is_some() {
                break;
            }
        }
        sqlx::query(
            "INSERT INTO alert_members (key, subject, alert_id, series_id, window_start, window_end, happened_at, about)
             SELECT $1, m.subject, $2, m.series_id, m.window_start, m.window_end, m.happened_at, m.about
             FROM unnest($3::text[], $4::bigint[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[], $8::json[])
                 AS m (subject, series_id, window_start, window_end, happened_at, about)
             ON CONFLICT (key, subject) DO NOTHING",
        )
        .bind(&first.key)
        .bind(open)
        .bind(members.iter().map(|m| m.subject.clone()).collect::<Vec<_>>())
        .bind(members.iter().map(|m| m.series).collect::<Vec<_>>())
        .bind(members.iter().map(|m| m.window.map(|(start, _)| start)).collect::<Vec<_>>())
        .bind(members.iter().map(|m| m.window.map(|(_, end)| end)).collect::<Vec<_>>())
        .bind(members.iter().map(|m| m.at).collect::<Vec<_>>())
        .bind(members.iter().map(|m| Json(m.about.clone())).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await
        .map_err(doing(what))?;
        // Opened for members that all had joined before, it would never close.
        sqlx::query(
            "DELETE FROM alerts WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM alert_members WHERE alert_id = $1)",
        )
        .bind(open)
        .execute(&mut **tx)
        .await
        .map_err(doing(what))?;
    }
    Ok(())
}

/// An open alert, locked, with those of its members that a delivery is to name; `None` = closed meanwhile.
async fn facts(
    tx: &mut sqlx::PgTransaction<'_>,
    alert: Uuid,
    which: &'static str,
    most: i64,
) -> Result<Option<AlertFacts>, StoreError> {
    let what = "read an alert";
    let found: Option<(String, Json<Value>)> =
        sqlx::query_as("SELECT cause, notice FROM alerts WHERE id = $1 AND closed_at IS NULL FOR NO KEY UPDATE")
            .bind(alert)
            .fetch_optional(&mut **tx)
            .await
            .map_err(doing(what))?;
    let Some((cause, Json(notice))) = found else { return Ok(None) };
    let members = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT about FROM alert_members WHERE alert_id = $1 AND {which}
         ORDER BY window_start, series_id, subject LIMIT $2"
    )))
    .bind(alert)
    .bind(most)
    .fetch_all(&mut **tx)
    .await
    .map_err(doing(what))?;
    let count = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT count(*) FROM alert_members WHERE alert_id = $1 AND {which}"
    )))
    .bind(alert)
    .fetch_one(&mut **tx)
    .await
    .map_err(doing(what))?;
    Ok(Some(AlertFacts { cause, notice, members, count }))
}
