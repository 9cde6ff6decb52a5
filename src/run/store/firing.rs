//! The planner's transaction: due series in, decisions out. Every replica runs it, with no leader: rows are taken with SKIP
//! LOCKED, and the ledger's key lets each instant be decided once.
//!
//! The transaction is short and holds no network call. A replica that freezes in the middle of it is put out of it by the
//! server (`idle_in_transaction_session_timeout`, db/mod.rs); until then others go on with every other series.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Acquire, FromRow, PgTransaction, types::Json};
use uuid::Uuid;

use super::doubt::{Doubtful, doubtful};
use super::fires::{Ledger, decided};
use super::make::{NewRun, Wants};
use super::revive::{Revival, go_on, is_live_twin, revivable};
use super::{RunStore, StoreError, doing};

/// A version of a rule, as stored.
pub type RuleRow = (DateTime<Utc>, Value);

/// From, until, by whom and why: what an operator paused.
pub type PauseRow = (DateTime<Utc>, Option<DateTime<Utc>>, String, String);

/// A series that is due.
#[derive(Clone, Debug, FromRow)]
pub struct DueSeries {
    /// Its id.
    pub id: i64,
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// Every instant up to here is decided.
    pub cursor_at: DateTime<Utc>,
    /// All versions of its rule.
    pub rules: Json<Vec<RuleRow>>,
    /// What operators paused, as far as it may matter.
    pub pauses: Json<Vec<PauseRow>>,
}

/// One decided instant.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The instant.
    pub fire_at: DateTime<Utc>,
    /// The ledger's word, unless `run` decides it.
    pub outcome: &'static str,
    /// Why, for people.
    pub reason: Option<String>,
    /// What it covers.
    pub window: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// The run to make; the outcome is then `fired`, or `covered` when the window is held or a live run works on it.
    pub run: Option<Box<NewRun>>,
    /// The run is made only when no other run of the series is under way (`overlap: skip`).
    pub alone: bool,
}

/// What becomes of one due series.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Which.
    pub id: i64,
    /// Its new cursor.
    pub cursor_at: DateTime<Utc>,
    /// Its next instant.
    pub next_at: Option<DateTime<Utc>>,
    /// What was decided.
    pub decided: Vec<Decided>,
}

/// Due series, locked.
#[derive(Debug)]
pub struct Firing<'a> {
    tx: PgTransaction<'a>,
    who: &'a str,
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// The version of the set in force: a planner that has loaded another one must not decide.
    pub version: i64,
    /// What is due: first what is due in time, so that nobody's backlog makes it late; then the longest overdue.
    pub due: Vec<DueSeries>,
}

/// How much a transaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Instants decided.
    pub instants: usize,
    /// Runs made.
    pub runs: usize,
}

/// A run to be made, where it stands.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    id: Uuid,
    series: i64,
    run: &'a NewRun,
    alone: bool,
}

/// Why no run was made for a window that is not held and that nobody works on.
enum Skipped {
    /// `overlap: skip`.
    Busy,
    /// Its report may be made already.
    Doubt(Doubtful),
}

impl RunStore {
    /// Takes up to `limit` due series that nobody else has, without those in `skip`.
    pub async fn due(&self, skip: &[i64], limit: i64) -> Result<Firing<'_>, StoreError> {
        let what = "take the series that are due";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        let (version, now) = sqlx::query_as("SELECT version, reportd_now() FROM job_set FOR SHARE")
            .fetch_one(&mut *tx)
            .await
            .map_err(doing(what))?;
        let ids: Vec<i64> = sqlx::query_scalar(
            "SELECT id FROM series WHERE next_at <= $1 AND NOT id = ANY ($2)
             ORDER BY next_at <= $1 - interval '60 seconds', next_at LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED",
        )
        .bind(now)
        .bind(skip)
        .bind(limit)
        .fetch_all(&mut *tx)
        .await
        .map_err(doing(what))?;
        // A statement of its own, which sees all that was said before the rows were locked: a pause waits for the same locks.
        let due = sqlx::query_as(
            "SELECT id, job, connection, cursor_at,
                    (SELECT json_agg(json_build_array(from_at, rule)) FROM series_rules WHERE series_id = due.id) AS rules,
                    COALESCE((SELECT json_agg(json_build_array(paused_at, resumed_at, paused_by, reason))
                              FROM series_pauses WHERE series_id = due.id
                                  AND (resumed_at IS NULL OR resumed_at > due.cursor_at)), '[]') AS pauses
             FROM series due WHERE id = ANY ($1) ORDER BY next_at <= $2 - interval '60 seconds', next_at, id",
        )
        .bind(ids)
        .bind(now)
        .fetch_all(&mut *tx)
        .await
        .map_err(doing(what))?;
        Ok(Firing { tx, who: &self.who.0, now, version, due })
    }
}

impl Firing<'_> {
    /// Writes the ledger, makes the runs and moves the cursors, all or nothing. Instants that the ledger has already are left
    /// out: a cursor that was set back, by a clock that was wrong, makes no second run.
    pub async fn settle(mut self, mut settled: Vec<Settled>) -> Result<Made, StoreError> {
        let decided = decided(&mut self.tx, &settled).await?;
        for series in &mut settled {
            series.decided.retain(|one| !decided.contains(&(series.id, one.fire_at)));
        }
        let wanted: Vec<Wanted<'_>> = settled
            .iter()
            .flat_map(|series| series.decided.iter().map(move |d| (series.id, d)))
            .filter_map(|(series, d)| {
                Some(Wanted { id: Uuid::new_v4(), series, run: d.run.as_deref()?, alone: d.alone })
            })
            .collect();
        let mut skipped: HashMap<Uuid, Skipped> = HashMap::new();
        let (alone, beside): (Vec<Wanted<'_>>, Vec<Wanted<'_>>) = wanted.iter().partition(|w| w.alone);
        let mut made = HashSet::new();
        if !beside.is_empty() {
            made.extend(self.make(&beside, &mut skipped).await?);
        }
        for one in alone {
            if self.is_busy(one.series).await? {
                skipped.insert(one.id, Skipped::Busy);
            } else {
                made.extend(self.make(&[one], &mut skipped).await?);
            }
        }
        let uncovered: Vec<Wanted<'_>> = wanted.iter().filter(|w| !made.contains(&w.id)).copied().collect();
        let covering = self.covering(&uncovered).await?;
        self.write_ledger(&settled, &wanted, &made, &skipped, &covering).await?;
        let what = "move the cursors of series";
        sqlx::query(
            "UPDATE series SET cursor_at = GREATEST(series.cursor_at, s.cursor_at), next_at = s.next_at
             FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[]) AS s (id, cursor_at, next_at)
             WHERE series.id = s.id",
        )
        .bind(settled.iter().map(|s| s.id).collect::<Vec<_>>())
        .bind(settled.iter().map(|s| s.cursor_at).collect::<Vec<_>>())
        .bind(settled.iter().map(|s| s.next_at).collect::<Vec<_>>())
        .execute(&mut *self.tx)
        .await
        .map_err(doing(what))?;
        crate::crash::point("fires-decided");
        self.tx.commit().await.map_err(doing(what))?;
        Ok(Made { instants: settled.iter().map(|s| s.decided.len()).sum(), runs: made.len() })
    }

    /// Whether a run of the series has not ended; one that waits for an operator keeps nobody waiting.
    async fn is_busy(&mut self, series: i64) -> Result<bool, StoreError> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM runs WHERE series_id = $1 AND finished_at IS NULL AND state <> 'held')",
        )
        .bind(series)
        .fetch_one(&mut *self.tx)
        .await
        .map_err(doing("look whether a series has a run under way"))
    }

    /// Makes the runs whose windows are neither held, nor worked on, nor in doubt; returns their ids. Those in doubt are `skipped`.
    async fn make(
        &mut self,
        wanted: &[Wanted<'_>],
        skipped: &mut HashMap<Uuid, Skipped>,
    ) -> Result<HashSet<Uuid>, StoreError> {
        let what = "make the runs of a schedule";
        let going_on = self.going_on(wanted).await?;
        self.revive(going_on).await?;
        let made: Vec<Uuid> = sqlx::query_scalar(
            "INSERT INTO runs (id, series_id, job, connection, vendor, trigger, state, window_start, window_end,
                               window_zone, window_label, provisional, fire_at, request, base_url, account, next_step_at, notices,
                               again)
             SELECT id, series_id, job, connection, vendor, trigger, 'queued', window_start, window_end,
                    window_zone, window_label, provisional, fire_at, request::json, base_url, account,
                    GREATEST(reportd_now(), not_before), notices::json, again
             FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
                         $8::timestamptz[], $9::text[], $10::text[], $11::bool[], $12::timestamptz[], $13::text[],
                         $14::text[], $15::text[], $16::timestamptz[], $17::bool[], $18::text[])
                 AS w (id, series_id, job, connection, vendor, trigger, window_start, window_end, window_zone, window_label,
                       provisional, fire_at, request, base_url, account, not_before, again, notices)
             WHERE again OR NOT window_is_held(series_id, window_start, window_end, provisional)
             ON CONFLICT (series_id, window_start, window_end) WHERE finished_at IS NULL DO NOTHING
             RETURNING id",
        )
        .bind(wanted.iter().map(|w| w.id).collect::<Vec<_>>())
        .bind(wanted.iter().map(|w| w.series).collect::<Vec<_>>())
        .bind(column(wanted, |r| r.job.clone()))
        .bind(column(wanted, |r| r.connection.clone()))
        .bind(column(wanted, |r| r.vendor))
        .bind(column(wanted, |r| r.trigger.as_str()))
        .bind(column(wanted, |r| r.window_start))
        .bind(column(wanted, |r| r.window_end))
        .bind(column(wanted, |r| r.window_zone))
        .bind(column(wanted, |r| r.window_label.clone()))
        .bind(column(wanted, |r| r.provisional))
        .bind(column(wanted, |r| r.fire_at))
        // As text: sqlx binds JSON values as jsonb, which sorts keys, and what is sent must be what `plan` shows.
        .bind(column(wanted, |r| r.request.to_string()))
        .bind(column(wanted, |r| r.base_url.clone()))
        .bind(column(wanted, |r| r.account.clone()))
        .bind(column(wanted, |r| r.not_before))
        .bind(column(wanted, |r| r.wants == Wants::Another))
        .bind(column(wanted, |r| r.notices.as_ref().map(Value::to_string)))
        .fetch_all(&mut *self.tx)
        .await
        .map_err(doing(what))?;
        // The run that was live when we looked may have been archived since: this statement sees it.
        let again: Vec<Uuid> = wanted.iter().filter(|w| w.run.wants == Wants::Another).map(|w| w.id).collect();
        // Or it ended without its report: then it goes on after all, or leaves its window in doubt.
        let anew: Vec<Wanted<'_>> = wanted.iter().filter(|w| made.contains(&w.id)).copied().collect();
        // Doubt first: a ticket that comes in between is gone on with, and the other way round neither would see it.
        let doubts = self.in_doubt(&anew).await?;
        let going_on = self.going_on(&anew).await?;
        let unwanted: Vec<Uuid> = going_on.iter().map(|(w, _)| w.id).chain(doubts.keys().copied()).collect();
        skipped.extend(doubts.into_iter().map(|(id, doubt)| (id, Skipped::Doubt(doubt))));
        let late: Vec<Uuid> = sqlx::query_scalar(
            "DELETE FROM runs WHERE id = ANY ($1) AND (id = ANY ($3) OR NOT id = ANY ($2)
                 AND window_is_held(series_id, window_start, window_end, provisional))
             RETURNING id",
        )
        .bind(&made)
        .bind(&again)
        .bind(&unwanted)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(doing(what))?;
        let made: Vec<Uuid> = made.into_iter().filter(|id| !late.contains(id)).collect();
        if !going_on.is_empty() {
            self.revive(going_on).await?;
        }
        sqlx::query(
            "INSERT INTO run_events (run_id, kind, who, detail)
             SELECT id, 'made', $2, 'made by ' || trigger || ' for ' || window_label FROM runs WHERE id = ANY ($1)",
        )
        .bind(&made)
        .bind(self.who)
        .execute(&mut *self.tx)
        .await
        .map_err(doing(what))?;
        Ok(made.into_iter().collect())
    }

    /// Why some of these runs, which were just made, are not to be sent. Asked when they are there: the run that was under way before
    /// has ended by then, and no other can begin.
    async fn in_doubt(&mut self, made: &[Wanted<'_>]) -> Result<HashMap<Uuid, Doubtful>, StoreError> {
        // `refetch` asks for another report whatever there is.
        let heed: Vec<Wanted<'_>> = made.iter().filter(|w| w.run.wants != Wants::Another).copied().collect();
        let found = doubtful(&mut *self.tx, &asked(&heed)).await?;
        let of = |w: &Wanted<'_>| {
            let is_it = |one: &&Doubtful| one.series_id == w.series && one.is_of(w.run.window_start, w.run.window_end);
            found.iter().find(is_it).copied()
        };
        Ok(heed.iter().filter_map(|w| Some((w.id, of(w)?))).collect())
    }

    /// The last runs of these windows that can go on with their tickets.
    async fn going_on<'w>(&mut self, wanted: &[Wanted<'w>]) -> Result<Vec<(Wanted<'w>, Revival)>, StoreError> {
        let found = revivable(&mut *self.tx, &asked(wanted)).await?;
        let of =
            |w: &Wanted<'_>| found.iter().find(|found| found.is_of(w.series, w.run)).map(|found| found.revival.clone());
        Ok(wanted.iter().filter_map(|w| Some((*w, of(w)?))).collect())
    }

    /// Lets these runs go on with their tickets; they are then live.
    async fn revive(&mut self, going_on: Vec<(Wanted<'_>, Revival)>) -> Result<(), StoreError> {
        let what = "take up runs again";
        for (_, revival) in going_on {
            // Somebody may make or take up a run of this window by hand at the same moment, which must not end the pass.
            let mut savepoint = self.tx.begin().await.map_err(doing(what))?;
            match go_on(&mut *savepoint, &revival, self.who).await {
                Ok(_) => savepoint.commit().await.map_err(doing(what))?,
                Err(error) if is_live_twin(&error) => savepoint.rollback().await.map_err(doing(what))?,
                Err(error) => return Err(doing(what)(error)),
            }
        }
        Ok(())
    }

    /// For each of these windows the run that works on it, or that made what is held, and which of them that is.
    async fn covering(&mut self, uncovered: &[Wanted<'_>]) -> Result<HashMap<Uuid, (Uuid, String)>, StoreError> {
        if uncovered.is_empty() {
            return Ok(HashMap::new());
        }
        let rows: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
            "SELECT w.id, COALESCE(live.id, held.run_id),
                    CASE WHEN live.id IS NULL THEN 'the archive holds this window'
                         WHEN live.provisional AND NOT w.provisional
                             THEN 'a live run asks for this window before its report is final: fill asks for that one'
                         ELSE 'a live run works on this window' END
             FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::bool[])
                 AS w (id, series_id, window_start, window_end, provisional)
             LEFT JOIN LATERAL (SELECT id, provisional FROM runs WHERE series_id = w.series_id AND window_start = w.window_start
                 AND window_end = w.window_end AND finished_at IS NULL) live ON true
             LEFT JOIN LATERAL (SELECT run_id FROM revisions WHERE series_id = w.series_id AND window_start = w.window_start
                 AND window_end = w.window_end AND (w.provisional OR NOT provisional) ORDER BY revision DESC LIMIT 1) held ON true
             WHERE COALESCE(live.id, held.run_id) IS NOT NULL",
        )
        .bind(uncovered.iter().map(|w| w.id).collect::<Vec<_>>())
        .bind(uncovered.iter().map(|w| w.series).collect::<Vec<_>>())
        .bind(column(uncovered, |r| r.window_start))
        .bind(column(uncovered, |r| r.window_end))
        .bind(column(uncovered, |r| r.provisional))
        .fetch_all(&mut *self.tx)
        .await
        .map_err(doing("look what covers the windows of a schedule"))?;
        Ok(rows.into_iter().map(|(wanted, run, why)| (wanted, (run, why))).collect())
    }

    async fn write_ledger(
        &mut self,
        settled: &[Settled],
        wanted: &[Wanted<'_>],
        made: &HashSet<Uuid>,
        skipped: &HashMap<Uuid, Skipped>,
        covering: &HashMap<Uuid, (Uuid, String)>,
    ) -> Result<(), StoreError> {
        let mut rows = Ledger::default();
        // `wanted` was made in this very order.
        let mut ids = wanted.iter().map(|w| w.id);
        for series in settled {
            for decided in &series.decided {
                let id = decided.run.as_ref().and_then(|_| ids.next());
                let (outcome, run, reason) = match id {
                    Some(id) if made.contains(&id) => ("fired", Some(id), decided.reason.clone()),
                    Some(id) => match covering.get(&id) {
                        Some((run, why)) => ("covered", Some(*run), Some(why.clone())),
                        None => match skipped.get(&id) {
                            Some(Skipped::Busy) => {
                                ("skipped", None, Some("the previous run had not ended, and overlap is skip".into()))
                            }
                            // Its run makes it a window that may be late: nobody but a person brings it.
                            Some(Skipped::Doubt(doubt)) => ("skipped", Some(doubt.run_id), Some(doubt.advice())),
                            None => ("covered", None, Some("another run of this window came first".into())),
                        },
                    },
                    None => (decided.outcome, None, decided.reason.clone()),
                };
                rows.push(series.id, decided, outcome, run, reason);
            }
        }
        rows.insert(&mut self.tx).await
    }
}

fn asked<'w>(wanted: &[Wanted<'w>]) -> Vec<(i64, &'w NewRun)> {
    wanted.iter().map(|w| (w.series, w.run)).collect()
}

fn column<T>(wanted: &[Wanted<'_>], get: fn(&NewRun) -> T) -> Vec<T> {
    wanted.iter().map(|w| get(w.run)).collect()
}
