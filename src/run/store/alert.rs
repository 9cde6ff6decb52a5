//! The herald's statements: runs that have told nobody yet, and alerts, which gather trouble of one kind for one target.
//!
//! Whoever tells of a run notes that in the same transaction that makes its deliveries, so nothing is told twice and nothing
//! is forgotten. A member joins an alert once, whichever process finds it; an alert is told and closed under its row's lock.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::FromRow;
use sqlx::types::Json;
use uuid::Uuid;

use super::delivery::{NewDelivery, Untold};
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

/// What telling of a run comes to.
#[derive(Clone, Debug, Default)]
pub struct Telling {
    /// Notices of its own.
    pub deliveries: Vec<NewDelivery>,
    /// Alerts that it joins.
    pub joining: Vec<Joining>,
}

/// An alert that is open, and where it stands.
#[derive(Clone, Debug, FromRow)]
pub struct OpenAlert {
    /// Id.
    pub id: Uuid,
    /// When it was opened.
    pub opened_at: DateTime<Utc>,
    /// When it was told of last.
    pub told_at: Option<DateTime<Utc>>,
    /// The database's present instant.
    pub now: DateTime<Utc>,
    /// When a member joined last that no delivery told of.
    pub joined_at: Option<DateTime<Utc>>,
    /// Members that no delivery told of.
    pub untold: i64,
    /// One of those is of a series that no delivery told of.
    pub new_series: bool,
    /// Members that are still in trouble.
    pub unsettled: i64,
    /// One of the untold is a run that somebody waits for.
    pub hurried: bool,
}

/// One member for a delivery.
#[derive(Clone, Debug, FromRow)]
pub struct MemberRow {
    /// What a notice says of it.
    pub about: Json<Value>,
    /// It works again.
    pub works: Option<bool>,
}

/// What an alert is told with.
#[derive(Clone, Debug)]
pub struct AlertFacts {
    /// Cause word.
    pub cause: String,
    /// Whom to tell and how.
    pub notice: Value,
    /// The members that the delivery names, by window.
    pub members: Vec<MemberRow>,
    /// How many there are in all.
    pub count: i64,
}

impl RunStore {
    /// Tells of up to `limit` runs that have told nobody, `only` these if that is given: `tell` says how, and in one transaction
    /// its deliveries are made and the runs noted. Returns how many runs there were.
    pub async fn tell_of_runs(
        &self,
        only: Option<&[Uuid]>,
        limit: i64,
        tell: impl Fn(&Untold) -> Telling + Send,
    ) -> Result<usize, StoreError> {
        let what = "tell of runs";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        let untold: Vec<Untold> = sqlx::query_as(
            "SELECT runs.*, reportd_now() AS now FROM runs
             WHERE notices IS NOT NULL AND noticed IS NULL AND state IN ('held', 'archived', 'empty', 'failed')
                 AND ($1::uuid[] IS NULL OR id = ANY ($1))
             ORDER BY id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED",
        )
        .bind(only)
        .bind(limit)
        .fetch_all(&mut *tx)
        .await
        .map_err(doing(what))?;
        if untold.is_empty() {
            return Ok(0);
        }
        let mut all = Telling::default();
        for one in &untold {
            let told = tell(one);
            all.deliveries.extend(told.deliveries);
            all.joining.extend(told.joining);
        }
        RunStore::make_deliveries(&mut tx, &all.deliveries).await?;
        join(&mut tx, &all.joining).await?;
        sqlx::query("UPDATE runs SET noticed = state WHERE id = ANY ($1)")
            .bind(untold.iter().map(|one| one.run.id).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await
            .map_err(doing(what))?;
        crate::crash::point("deliveries-made");
        tx.commit().await.map_err(doing(what))?;
        crate::crash::point("deliveries-committed");
        Ok(untold.len())
    }

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
                 SELECT m.alert_id, max(m.joined_at) FILTER (WHERE m.told_by IS NULL) AS joined_at,
                        count(*) FILTER (WHERE m.told_by IS NULL) AS untold, count(m.told_by) AS told,
                        count(*) FILTER (WHERE m.settled_at IS NULL) AS unsettled,
                        bool_or(m.told_by IS NULL AND (m.about->>'run_id')::uuid = ANY ($1)) AS hurried
                 FROM alerts a JOIN alert_members m ON m.alert_id = a.id
                 WHERE a.closed_at IS NULL GROUP BY m.alert_id, m.series_id
             )
             SELECT a.id, a.opened_at, a.told_at, reportd_now() AS now, max(s.joined_at) AS joined_at,
                    sum(s.untold)::bigint AS untold, bool_or(s.untold > 0 AND s.told = 0) AS new_series,
                    sum(s.unsettled)::bigint AS unsettled, COALESCE(bool_or(s.hurried), false) AS hurried
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
        let Some(facts) = facts(&mut tx, alert, "told_by IS NULL", most).await? else { return Ok(None) };
        if facts.count == 0 {
            return Ok(None);
        }
        let Some(delivery) = make(&facts) else { return Ok(None) };
        RunStore::make_deliveries(&mut tx, std::slice::from_ref(&delivery)).await?;
        sqlx::query("UPDATE alert_members SET told_by = $2 WHERE alert_id = $1 AND told_by IS NULL")
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

    /// Closes an alert whose members are all told of and out of trouble. `make` makes the notice of recovery, if there is one.
    pub async fn close_alert(
        &self,
        alert: Uuid,
        most: i64,
        make: impl Fn(&AlertFacts) -> Option<NewDelivery> + Send,
    ) -> Result<Option<Uuid>, StoreError> {
        let what = "close an alert";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        let Some(facts) = facts(&mut tx, alert, "true", most).await? else { return Ok(None) };
        let open: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM alert_members WHERE alert_id = $1 AND (settled_at IS NULL OR told_by IS NULL))",
        )
        .bind(alert)
        .fetch_one(&mut *tx)
        .await
        .map_err(doing(what))?;
        if open {
            return Ok(None);
        }
        let delivery = make(&facts);
        if let Some(delivery) = &delivery {
            RunStore::make_deliveries(&mut tx, std::slice::from_ref(delivery)).await?;
        }
        sqlx::query("UPDATE alerts SET closed_at = GREATEST(opened_at, reportd_now()) WHERE id = $1")
            .bind(alert)
            .execute(&mut *tx)
            .await
            .map_err(doing(what))?;
        tx.commit().await.map_err(doing(what))?;
        crate::crash::point("alert-closed");
        Ok(delivery.map(|delivery| delivery.id))
    }

    /// Whether runs have told nobody, deliveries are due, or alerts are open: one question, answered by three indexes.
    pub async fn news(&self) -> Result<News, StoreError> {
        sqlx::query_as(
            "SELECT EXISTS (SELECT 1 FROM runs WHERE notices IS NOT NULL AND noticed IS NULL
                            AND state IN ('held', 'archived', 'empty', 'failed')) AS untold,
                    EXISTS (SELECT 1 FROM deliveries WHERE state IN ('pending', 'sending')
                            AND next_try_at <= reportd_now()) AS due,
                    EXISTS (SELECT 1 FROM alerts WHERE closed_at IS NULL) AS alerts,
                    EXISTS (SELECT 1 FROM connections WHERE breaker_open) AS breakers",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(doing("look for what is to be told"))
    }
}

/// What there is to do for those who tell and deliver.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct News {
    /// Runs that have told nobody.
    pub untold: bool,
    /// Deliveries that are due.
    pub due: bool,
    /// Alerts that are open.
    pub alerts: bool,
    /// Breakers that are open.
    pub breakers: bool,
}

/// Members join the open alert of their key; one is opened where there is none. Keys are taken in order, so that two processes
/// never wait for each other.
async fn join(tx: &mut sqlx::PgTransaction<'_>, joining: &[Joining]) -> Result<(), StoreError> {
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
    let members = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "SELECT about, works FROM alert_members WHERE alert_id = $1 AND {which}
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
