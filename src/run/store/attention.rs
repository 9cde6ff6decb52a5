//! What may need a person, read for `status` and for alerts. Each statement is served by an index and costs by what is unfinished or wrong,
//! not by how many runs there ever were: the newest run and the newest revision of a window are looked up by LATERAL with
//! LIMIT, which no plan turns into a walk over the history. Nothing is written here.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::{RunStore, StoreError, doing};

/// An account whose runs wait because its breaker is open.
#[derive(Clone, Debug, FromRow)]
pub struct OpenBreakerRow {
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: String,
    /// What the vendor said, or who opened it.
    pub reason: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// An operator opened it: no run tries.
    pub by_hand: bool,
}

/// Unfinished runs of one kind: same job and account, and stuck for the same reason or not at all.
#[derive(Clone, Debug, FromRow)]
pub struct LiveRow {
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: String,
    /// Base URL they were made for.
    pub base_url: String,
    /// Account fingerprint they were made for.
    pub account: String,
    /// They go on only after a person did something.
    pub stuck: bool,
    /// What stuck ones wait for.
    pub note: Option<String>,
    /// How many.
    pub runs: i64,
    /// The oldest.
    pub run_id: Uuid,
    /// When that was made.
    pub since: DateTime<Utc>,
}

/// A run that only an operator can move.
#[derive(Clone, Debug, FromRow)]
pub struct HeldRow {
    /// The run.
    pub run_id: Uuid,
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: String,
    /// Name of the window.
    pub window_label: String,
    /// Zone of the window.
    pub window_zone: String,
    /// What happened.
    pub failure: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// A window whose newest run failed, and which is not held.
#[derive(Clone, Debug, FromRow)]
pub struct FailedRow {
    /// Its series.
    pub series_id: i64,
    /// The run.
    pub run_id: Uuid,
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: String,
    /// Start of the window.
    pub window_start: DateTime<Utc>,
    /// Open end of the window.
    pub window_end: DateTime<Utc>,
    /// Zone of the window.
    pub window_zone: String,
    /// Name of the window.
    pub window_label: String,
    /// Why it was made.
    pub trigger: String,
    /// The class.
    pub failure_class: String,
    /// What happened.
    pub failure: String,
    /// When.
    pub finished_at: DateTime<Utc>,
}

/// An instant whose window is not held so long after it.
#[derive(Clone, Debug, FromRow)]
pub struct LateRow {
    /// Its series.
    pub series_id: i64,
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// The instant.
    pub fire_at: DateTime<Utc>,
    /// Start of the window.
    pub window_start: DateTime<Utc>,
    /// Open end of the window.
    pub window_end: DateTime<Utc>,
    /// The newest run of the window.
    pub run_id: Option<Uuid>,
    /// Where that stands.
    pub run_state: Option<String>,
    /// It waits for a person.
    pub run_stuck: Option<bool>,
    /// The run whose report may be made already, for which the schedule sent none.
    pub doubtful_run: Option<Uuid>,
}

/// A process that serves, or did.
#[derive(Clone, Debug, FromRow)]
pub struct ReplicaRow {
    /// Host and process.
    pub who: String,
    /// It takes its jobs from the database.
    pub follows: bool,
    /// When it renewed its row.
    pub seen_at: DateTime<Utc>,
    /// Its last planner pass.
    pub passed_at: Option<DateTime<Utc>>,
    /// What keeps it from planning, or from planning some series.
    pub trouble: Option<String>,
    /// When it signed off; `None` = it serves, or was killed.
    pub stopped_at: Option<DateTime<Utc>>,
}

/// A process that was not seen for longer is gone.
const SEEN: TimeDelta = TimeDelta::seconds(60);

impl ReplicaRow {
    /// Whether it serves, as far as its row tells.
    pub fn serves(&self, now: DateTime<Utc>) -> bool {
        self.stopped_at.is_none() && now - self.seen_at <= SEEN
    }

    /// Whether it decided what is due a moment ago.
    pub fn plans(&self, now: DateTime<Utc>) -> bool {
        self.passed_at.is_some_and(|at| now - at <= SEEN)
    }
}

/// What is not there, by its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WindowOf {
    /// The series.
    pub series: i64,
    /// Start of the window.
    pub start: DateTime<Utc>,
    /// Open end of the window.
    pub end: DateTime<Utc>,
}

impl RunStore {
    /// All series that are known.
    pub async fn all_series(&self) -> Result<Vec<super::ledger::SeriesRow>, StoreError> {
        sqlx::query_as("SELECT id, job, connection, vendor, in_force, first_seen_at, cursor_at FROM series")
            .fetch_all(&self.pool)
            .await
            .map_err(doing("list the series"))
    }

    /// The breakers that are open.
    pub async fn breakers_that_are_open(&self) -> Result<Vec<OpenBreakerRow>, StoreError> {
        sqlx::query_as(
            "SELECT connection, vendor, breaker_reason AS reason, breaker_opened_at AS since, breaker_by_hand AS by_hand
             FROM connections WHERE breaker_open ORDER BY connection, vendor",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(doing("list open breakers"))
    }

    /// Unfinished runs, those that wait for a person apart. A run found in `submitting` that nobody has was put off for want
    /// of a secret: while a call is under way its run has a lease.
    pub async fn live_runs(&self) -> Result<Vec<LiveRow>, StoreError> {
        sqlx::query_as(
            "SELECT job, connection, vendor, base_url, account, stuck, note, count(*) AS runs,
                    (array_agg(id ORDER BY created_at, id))[1] AS run_id, min(created_at) AS since
             FROM (SELECT *, CASE WHEN waits THEN text END AS note, waits AS stuck FROM (
                       SELECT id, job, connection, vendor, base_url, account, created_at, left(runs.note, 1000) AS text,
                              blocked OR (state = 'submitting' AND lease_token IS NULL) AS waits
                       FROM runs WHERE state IN ('queued', 'submitting', 'waiting')) live) live
             GROUP BY job, connection, vendor, base_url, account, stuck, note ORDER BY since, run_id",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(doing("count the runs that have not ended"))
    }

    /// Held runs, the oldest first.
    pub async fn held_runs(&self) -> Result<Vec<HeldRow>, StoreError> {
        sqlx::query_as(
            "SELECT id AS run_id, job, connection, vendor, window_label, window_zone, left(failure, 1000) AS failure,
                    COALESCE((SELECT e.at FROM run_events e WHERE e.run_id = runs.id AND e.kind = 'held'
                              ORDER BY e.id DESC LIMIT 1), created_at) AS since
             FROM runs WHERE state = 'held' ORDER BY created_at, id",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(doing("list held runs"))
    }

    /// Windows whose newest run failed and which are not held since, the newest failure first. A run that is not finished
    /// counts as the newest, whenever it was made.
    pub async fn failed_windows(&self) -> Result<Vec<FailedRow>, StoreError> {
        sqlx::query_as(
            "SELECT r.series_id, r.id AS run_id, r.job, r.connection, r.vendor, r.window_start, r.window_end, r.window_zone,
                    r.window_label, r.trigger, r.failure_class, left(r.failure, 500) AS failure, r.finished_at
             FROM runs r CROSS JOIN LATERAL (
                 SELECT n.id FROM runs n
                 WHERE n.series_id = r.series_id AND n.window_start = r.window_start AND n.window_end = r.window_end
                 ORDER BY (n.finished_at IS NULL) DESC, n.created_at DESC LIMIT 1
             ) newest LEFT JOIN LATERAL (
                 SELECT v.provisional AND NOT r.provisional AND v.archived_at < r.finished_at AS outdated FROM revisions v
                 WHERE v.series_id = r.series_id AND v.window_start = r.window_start AND v.window_end = r.window_end
                 ORDER BY v.revision DESC LIMIT 1
             ) held ON true
             WHERE r.state = 'failed' AND newest.id = r.id AND COALESCE(held.outdated, true)
             ORDER BY r.finished_at DESC, r.id",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(doing("list the windows whose runs failed"))
    }

    /// Instants of the ledger, at most `back` older than that, whose windows are not held so many seconds after them, for each of
    /// these jobs at these connections. What was skipped, paused or is stood for by a newer instant is not wanted, and so is not
    /// late. With `breaches` only what somebody is to be told of: of series in force, and nothing that was late before its
    /// series was first seen here.
    pub async fn late_windows(
        &self,
        late_after: &[(&str, &str, f64)],
        back: Duration,
        breaches: bool,
    ) -> Result<Vec<LateRow>, StoreError> {
        sqlx::query_as(
            "SELECT s.id AS series_id, s.job, s.connection, f.fire_at, f.window_start, f.window_end, newest.id AS run_id,
                    newest.state AS run_state, newest.stuck AS run_stuck,
                    CASE WHEN f.outcome = 'skipped' AND EXISTS (
                        SELECT 1 FROM remote_tasks t WHERE t.run_id = f.run_id
                            AND (t.outcome IN ('intended', 'unknown') OR t.outcome = 'created' AND t.finished_at IS NULL)
                    ) THEN f.run_id END AS doubtful_run
             FROM unnest($1::text[], $2::text[], $3::float8[]) AS asked (job, connection, late_s)
             JOIN series s ON s.job = asked.job AND s.connection = asked.connection AND (s.in_force OR NOT $5)
             CROSS JOIN LATERAL (
                 SELECT * FROM fires
                 WHERE fires.series_id = s.id AND fires.fire_at > reportd_now() - make_interval(secs => asked.late_s + $4)
                     AND fires.fire_at <= reportd_now() - make_interval(secs => asked.late_s)
                     AND (NOT $5 OR fires.fire_at > s.first_seen_at - make_interval(secs => asked.late_s)) OFFSET 0
             ) f LEFT JOIN LATERAL (
                 -- One that was asked for by hand, before its report was final, is nobody's fire.
                 SELECT NOT v.provisional OR v.fire_at = f.fire_at AS final FROM revisions v
                 WHERE v.series_id = s.id AND v.window_start = f.window_start AND v.window_end = f.window_end
                 ORDER BY v.revision DESC LIMIT 1
             ) held ON true LEFT JOIN LATERAL (
                 SELECT n.id, n.state, n.blocked OR (n.state = 'submitting' AND n.lease_token IS NULL) AS stuck FROM runs n
                 WHERE n.series_id = s.id AND n.window_start = f.window_start AND n.window_end = f.window_end
                 ORDER BY (n.finished_at IS NULL) DESC, n.created_at DESC LIMIT 1
             ) newest ON true
             WHERE f.window_start IS NOT NULL AND NOT COALESCE(held.final, false)
                 AND (f.outcome IN ('fired', 'missed') OR (f.outcome IN ('covered', 'skipped') AND f.run_id IS NOT NULL))
             ORDER BY s.id, f.fire_at",
        )
        .bind(late_after.iter().map(|(job, _, _)| *job).collect::<Vec<_>>())
        .bind(late_after.iter().map(|(_, connection, _)| *connection).collect::<Vec<_>>())
        .bind(late_after.iter().map(|(_, _, seconds)| *seconds).collect::<Vec<_>>())
        .bind(back.as_secs_f64())
        .bind(breaches)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look for windows that are late"))
    }

    /// Which of these windows are neither held nor worked on.
    pub async fn not_there(&self, windows: &[WindowOf]) -> Result<Vec<WindowOf>, StoreError> {
        let rows: Vec<(i64, DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(
            "SELECT w.series_id, w.window_start, w.window_end
             FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[]) AS w (series_id, window_start, window_end)
             LEFT JOIN LATERAL (SELECT 1 AS one FROM revisions v WHERE v.series_id = w.series_id
                 AND v.window_start = w.window_start AND v.window_end = w.window_end AND NOT v.provisional LIMIT 1) held ON true
             LEFT JOIN LATERAL (SELECT 1 AS one FROM runs r WHERE r.series_id = w.series_id
                 AND r.window_start = w.window_start AND r.window_end = w.window_end AND r.finished_at IS NULL LIMIT 1) live ON true
             WHERE held.one IS NULL AND live.one IS NULL",
        )
        .bind(windows.iter().map(|w| w.series).collect::<Vec<_>>())
        .bind(windows.iter().map(|w| w.start).collect::<Vec<_>>())
        .bind(windows.iter().map(|w| w.end).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look which windows are held"))?;
        Ok(rows.into_iter().map(|(series, start, end)| WindowOf { series, start, end }).collect())
    }

    /// The processes that serve, or did in the last day.
    pub async fn replicas(&self) -> Result<Vec<ReplicaRow>, StoreError> {
        sqlx::query_as(
            "SELECT who, follows, seen_at, passed_at, trouble, stopped_at FROM replicas ORDER BY seen_at DESC, id",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(doing("list the processes that serve"))
    }
}
