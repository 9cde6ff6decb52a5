//! What coverage asks of the database: for many series at once, what is known of the windows in a range.
//!
//! Reads only. No statement is asked once a series or once a window; each names the index that serves it, and a lateral
//! look-up per series makes sure that it is used, whatever the planner thinks of the tables' size.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::{RunStore, StoreError, doing};
use crate::run::State;

/// A series that the database knows.
#[derive(Clone, Debug, FromRow)]
pub struct SeriesRow {
    /// Its id.
    pub id: i64,
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// When it first belonged to the set in force.
    pub first_seen_at: Option<DateTime<Utc>>,
    /// End of the earliest window that the archive holds.
    pub earliest_held: Option<DateTime<Utc>>,
}

/// The windows, or instants, in `[from, until)` of one series.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// Whose.
    pub series: i64,
    /// First start.
    pub from: DateTime<Utc>,
    /// Open end of the starts.
    pub until: DateTime<Utc>,
}

/// The newest revision of a window.
#[derive(Clone, Debug, FromRow)]
pub struct HeldRow {
    /// Its series.
    pub series_id: i64,
    /// Name of the window.
    pub window_label: String,
    /// r1, r2, ….
    pub revision: i32,
    /// Start of the window.
    pub window_start: DateTime<Utc>,
    /// Open end of the window.
    pub window_end: DateTime<Utc>,
    /// Zone of the window.
    pub window_zone: String,
    /// The report may still change.
    pub provisional: bool,
    /// `archived` or `empty`.
    #[sqlx(try_from = "String")]
    pub state: State,
    /// The run that made it.
    pub run_id: Uuid,
    /// Hash of what was asked.
    pub content_hash: String,
    /// Key of the manifest.
    pub manifest_path: String,
    /// Hash of the manifest.
    pub manifest_sha256: String,
    /// When it came into the archive.
    pub archived_at: DateTime<Utc>,
    /// Hash of its first file.
    pub sha256: Option<String>,
}

/// A run of a window: the live one, or the newest that ended.
#[derive(Clone, Debug, FromRow)]
pub struct WindowRun {
    /// Its series.
    pub series_id: i64,
    /// Start of the window.
    pub window_start: DateTime<Utc>,
    /// Open end of the window.
    pub window_end: DateTime<Utc>,
    /// Zone of the window.
    pub window_zone: String,
    /// The run.
    pub id: Uuid,
    /// Where it stands.
    #[sqlx(try_from = "String")]
    pub state: State,
    /// It goes on only after a person did something.
    pub blocked: bool,
    /// Base URL that it was made for.
    pub base_url: String,
    /// Account that it was made for; '' = not known.
    pub account: String,
}

/// An instant that did not fire.
#[derive(Clone, Debug, FromRow)]
pub struct UnfiredRow {
    /// Its series.
    pub series_id: i64,
    /// The instant.
    pub fire_at: DateTime<Utc>,
    /// `missed` or `paused`.
    pub outcome: String,
}

/// One file of a revision.
#[derive(Clone, Debug, FromRow)]
pub struct FileRow {
    /// Its series.
    pub series_id: i64,
    /// Name of the window.
    pub window_label: String,
    /// r1, r2, ….
    pub revision: i32,
    /// Key of the bytes.
    pub path: String,
    /// Size.
    pub bytes: i64,
    /// Hash.
    pub sha256: String,
}

/// How long the newest archived runs of a series took.
#[derive(Clone, Debug, FromRow)]
pub struct PaceRow {
    /// The series.
    pub series_id: i64,
    /// Runs that were looked at.
    pub runs: i64,
    /// Seconds from the call that worked to the report in the archive, on average.
    pub seconds: f64,
    /// Calls under the account's rate, on average.
    pub calls: f64,
}

/// The newest runs by which a series' pace is measured.
const MEASURED: i64 = 20;

/// The columns of ranges, as `unnest` takes them.
fn columns(ranges: &[Range]) -> (Vec<i64>, Vec<DateTime<Utc>>, Vec<DateTime<Utc>>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for range in ranges {
        columns.0.push(range.series);
        columns.1.push(range.from);
        columns.2.push(range.until);
    }
    columns
}

impl RunStore {
    /// The series of these names, in no order; one that was never seen has no row.
    pub async fn series_named(&self, names: &[(String, String)]) -> Result<Vec<SeriesRow>, StoreError> {
        let (jobs, connections): (Vec<&str>, Vec<&str>) =
            names.iter().map(|(job, connection)| (job.as_str(), connection.as_str())).unzip();
        // Served by series_name_once and revisions_of_window.
        sqlx::query_as(
            "SELECT s.id, s.job, s.connection, s.first_seen_at,
                    (SELECT window_end FROM revisions WHERE series_id = s.id
                         AND (s.first_seen_at IS NULL OR trigger <> 'manual')
                     ORDER BY window_start, window_end LIMIT 1) AS earliest_held
             FROM unnest($1::text[], $2::text[]) AS n (job, connection) JOIN series s USING (job, connection)",
        )
        .bind(jobs)
        .bind(connections)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look up series"))
    }

    /// The newest revision of every held window that starts in the ranges.
    pub async fn held_in(&self, ranges: &[Range]) -> Result<Vec<HeldRow>, StoreError> {
        let (series, from, until) = columns(ranges);
        // Served by revisions_of_window, whose order it is, and artifacts_pkey.
        sqlx::query_as(
            "SELECT h.*, (SELECT sha256 FROM artifacts a WHERE a.series_id = h.series_id
                              AND a.window_label = h.window_label AND a.revision = h.revision AND a.position = 0) AS sha256
             FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[]) AS s (id, from_at, until_at)
             CROSS JOIN LATERAL (
                 SELECT DISTINCT ON (window_start, window_end)
                        series_id, window_label, revision, window_start, window_end, window_zone, provisional, state, run_id,
                        content_hash, manifest_path, manifest_sha256, archived_at
                 FROM revisions
                 WHERE series_id = s.id AND window_start >= s.from_at AND window_start < s.until_at
                 ORDER BY window_start, window_end, revision DESC
             ) h",
        )
        .bind(series)
        .bind(from)
        .bind(until)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look up what is held of windows"))
    }

    /// The unfinished runs of these series.
    pub async fn live_of(&self, series: &[i64]) -> Result<Vec<WindowRun>, StoreError> {
        // Served by runs_live_of_series. OFFSET 0 keeps the planner from making one join over the whole table of it.
        sqlx::query_as(
            "SELECT r.* FROM unnest($1::bigint[]) AS s (id)
             CROSS JOIN LATERAL (
                 SELECT series_id, window_start, window_end, window_zone, id, state, blocked, base_url, account FROM runs
                 WHERE series_id = s.id AND finished_at IS NULL OFFSET 0
             ) r",
        )
        .bind(series)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look up the live runs of series"))
    }

    /// Unfinished runs of these series that a person made, and that wait for nobody.
    pub async fn by_hand_of(&self, series: &[i64]) -> Result<Vec<Uuid>, StoreError> {
        sqlx::query_scalar(
            "SELECT id FROM runs WHERE series_id = ANY ($1) AND finished_at IS NULL AND trigger <> 'schedule'
                 AND state <> 'held' AND NOT blocked",
        )
        .bind(series)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look up the unfinished runs that a person made"))
    }

    /// The newest ended run of every window that starts in the ranges.
    pub async fn ended_in(&self, ranges: &[Range]) -> Result<Vec<WindowRun>, StoreError> {
        let (series, from, until) = columns(ranges);
        // Served by runs_of_window, whose order it is.
        sqlx::query_as(
            "SELECT r.* FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[]) AS s (id, from_at, until_at)
             CROSS JOIN LATERAL (
                 SELECT DISTINCT ON (window_start, window_end) series_id, window_start, window_end, window_zone, id, state, blocked,
                        base_url, account
                 FROM runs
                 WHERE series_id = s.id AND window_start >= s.from_at AND window_start < s.until_at
                   AND finished_at IS NOT NULL
                 ORDER BY window_start, window_end, created_at DESC
             ) r",
        )
        .bind(series)
        .bind(from)
        .bind(until)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look up the ended runs of windows"))
    }

    /// The instants in the ranges that the ledger says were missed or paused.
    pub async fn unfired_in(&self, ranges: &[Range]) -> Result<Vec<UnfiredRow>, StoreError> {
        let (series, from, until) = columns(ranges);
        // Served by fires_pkey.
        sqlx::query_as(
            "SELECT f.* FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[]) AS s (id, from_at, until_at)
             CROSS JOIN LATERAL (
                 SELECT series_id, fire_at, outcome FROM fires
                 WHERE series_id = s.id AND fire_at >= s.from_at AND fire_at < s.until_at
                   AND outcome IN ('missed', 'paused') OFFSET 0
             ) f",
        )
        .bind(series)
        .bind(from)
        .bind(until)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look up what was decided about instants"))
    }

    /// The files of these revisions, each in its order.
    pub async fn files_of(&self, revisions: &[(i64, String, i32)]) -> Result<Vec<FileRow>, StoreError> {
        let series: Vec<i64> = revisions.iter().map(|(series, ..)| *series).collect();
        let labels: Vec<&str> = revisions.iter().map(|(_, label, _)| label.as_str()).collect();
        let numbers: Vec<i32> = revisions.iter().map(|(.., revision)| *revision).collect();
        // Served by artifacts_pkey.
        sqlx::query_as(
            "SELECT f.* FROM unnest($1::bigint[], $2::text[], $3::int[]) AS r (series_id, window_label, revision)
             CROSS JOIN LATERAL (
                 SELECT series_id, window_label, revision, path, bytes, sha256 FROM artifacts a
                 WHERE a.series_id = r.series_id AND a.window_label = r.window_label AND a.revision = r.revision
                 ORDER BY a.position
             ) f",
        )
        .bind(series)
        .bind(labels)
        .bind(numbers)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look up the files of revisions"))
    }

    /// How long the newest archived runs of these series took; a series without one has no row.
    pub async fn pace_of(&self, series: &[i64]) -> Result<Vec<PaceRow>, StoreError> {
        // Served by runs_history, run_events_of_run and artifacts_pkey. A call is a create, a poll, or a page that is kept.
        sqlx::query_as(
            "SELECT s.id AS series_id, count(*) AS runs, avg(seconds)::float8 AS seconds, avg(calls)::float8 AS calls
             FROM unnest($1::bigint[]) AS s (id)
             CROSS JOIN LATERAL (
                 SELECT GREATEST(extract(epoch FROM finished_at - COALESCE(
                            (SELECT max(at) FROM run_events e WHERE e.run_id = r.id AND e.kind = 'submitting'),
                            created_at)), 0) AS seconds,
                        polls + GREATEST(1, (SELECT count(*) FROM artifacts a WHERE a.series_id = r.series_id
                            AND a.window_label = r.window_label AND a.revision = r.revision AND NOT a.derived)) AS calls
                 FROM runs r WHERE series_id = s.id AND state IN ('archived', 'empty')
                 ORDER BY created_at DESC, id DESC LIMIT $2
             ) r
             GROUP BY s.id",
        )
        .bind(series)
        .bind(MEASURED)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("measure how long runs of series take"))
    }
}
