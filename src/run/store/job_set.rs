//! The set of job files in force: what every replica fires. One writer at a time: whoever changes it holds its row.
//!
//! The store keeps texts and rules as it is given them and understands neither.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgTransaction};

use super::series::{Renamed, former_names, take_over};
use super::{RunStore, StoreError, doing};

/// One job file of the set.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct SetFile {
    /// The job's name.
    pub job: String,
    /// The file as people know it.
    pub file: String,
    /// What stands in it.
    pub text: String,
    /// sha256 of the text, 64 hex digits.
    pub sha256: String,
}

/// The set as one statement sees it.
#[derive(Clone, Debug, Default)]
pub struct JobSet {
    /// Raised by every change; 0 = nothing was ever applied.
    pub version: i64,
    /// When it was changed last.
    pub applied_at: Option<DateTime<Utc>>,
    /// By whom.
    pub applied_by: Option<String>,
    /// Its files, by name.
    pub files: Vec<SetFile>,
}

/// A series as the set's writer finds it.
#[derive(Clone, Debug, FromRow)]
pub struct KnownSeries {
    /// Its id.
    pub id: i64,
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// It belongs to the set.
    pub in_force: bool,
    /// Every instant up to here is decided; null = it was never in force.
    pub cursor_at: Option<DateTime<Utc>>,
    /// The newest version of its rule.
    pub rule: Option<Value>,
    /// For a series that was never in force: the newest instant whose report the archive holds.
    pub last_fire_at: Option<DateTime<Utc>>,
}

/// What becomes of one series.
#[derive(Clone, Debug)]
pub struct SeriesChange {
    /// Which.
    pub id: i64,
    /// It belongs to the set from now on.
    pub in_force: bool,
    /// The cursor of a series that is seen for the first time.
    pub first_cursor: Option<DateTime<Utc>>,
    /// A new version of its rule.
    pub rule: Option<Value>,
    /// The first instant after its cursor.
    pub next_at: Option<DateTime<Utc>>,
}

/// The set, locked by its writer.
#[derive(Debug)]
pub struct Applying<'a> {
    tx: PgTransaction<'a>,
    who: &'a str,
    /// The present version.
    pub version: i64,
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// sha256 of the files in force, by job.
    pub files: HashMap<String, String>,
}

impl RunStore {
    /// The set with its texts.
    pub async fn job_set(&self) -> Result<JobSet, StoreError> {
        let what = "read the set of jobs in force";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        // Version and files of one moment: writers hold this row.
        let (version, applied_at, applied_by) =
            sqlx::query_as("SELECT version, applied_at, applied_by FROM job_set FOR SHARE")
                .fetch_one(&mut *tx)
                .await
                .map_err(doing(what))?;
        let files = sqlx::query_as("SELECT job, file, text, sha256 FROM job_files ORDER BY job")
            .fetch_all(&mut *tx)
            .await
            .map_err(doing(what))?;
        tx.commit().await.map_err(doing(what))?;
        Ok(JobSet { version, applied_at, applied_by, files })
    }

    /// Which of the jobs of the set are not among these.
    pub async fn jobs_besides(&self, names: &[&str]) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar("SELECT job FROM job_files WHERE NOT job = ANY ($1) ORDER BY job")
            .bind(names)
            .fetch_all(&self.pool)
            .await
            .map_err(doing("compare the job folder with the set of jobs in force"))
    }

    /// Locks the set for a change; dropping what is returned changes nothing.
    pub async fn apply(&self) -> Result<Applying<'_>, StoreError> {
        let what = "lock the set of jobs in force";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        let version = sqlx::query_scalar("SELECT version FROM job_set FOR UPDATE")
            .fetch_one(&mut *tx)
            .await
            .map_err(doing(what))?;
        // Asked when the row is ours: a statement's time is that of its beginning, and planners went on while it waited.
        let now = sqlx::query_scalar("SELECT reportd_now()").fetch_one(&mut *tx).await.map_err(doing(what))?;
        let files: Vec<(String, String)> =
            sqlx::query_as("SELECT job, sha256 FROM job_files").fetch_all(&mut *tx).await.map_err(doing(what))?;
        Ok(Applying { tx, who: &self.who.0, version, now, files: files.into_iter().collect() })
    }
}

impl Applying<'_> {
    /// The texts of these jobs, which are of the set or were.
    pub async fn texts(&mut self, jobs: &[String]) -> Result<HashMap<String, String>, StoreError> {
        let texts: Vec<(String, String)> = sqlx::query_as(
            "SELECT job, text FROM job_files WHERE job = ANY ($1)
             UNION ALL
             SELECT job, text FROM gone_files WHERE job = ANY ($1) AND NOT EXISTS (SELECT 1 FROM job_files f WHERE f.job = gone_files.job)",
        )
        .bind(jobs)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(doing("read jobs that are gone"))?;
        Ok(texts.into_iter().collect())
    }

    /// All former names of jobs, at each connection.
    pub async fn former_names(&mut self) -> Result<Vec<Renamed>, StoreError> {
        former_names(&mut *self.tx).await
    }

    /// The names of these jobs are no former names of others any more.
    pub async fn forget_former(&mut self, jobs: &[String]) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM former_names WHERE former = ANY ($1)")
            .bind(jobs)
            .execute(&mut *self.tx)
            .await
            .map_err(doing("forget former names"))?;
        Ok(())
    }

    /// The connections at which each of these jobs has a series, whether or not it is in force.
    pub async fn connections_of(&mut self, jobs: &[String]) -> Result<Vec<(String, String)>, StoreError> {
        sqlx::query_as("SELECT job, connection FROM series WHERE job = ANY ($1)")
            .bind(jobs)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(doing("look up the series of former names"))
    }

    /// What is known under former names becomes this series' history.
    pub async fn take_over(&mut self, job: &str, connection: &str, was: &[String]) -> Result<(), StoreError> {
        take_over(&mut self.tx, job, connection, was).await
    }

    /// Makes sure that these series (job, connection, vendor) have rows, and reads all series.
    pub async fn series(&mut self, wanted: &[(String, String, &'static str)]) -> Result<Vec<KnownSeries>, StoreError> {
        let what = "read the series in force";
        sqlx::query(
            "INSERT INTO series (job, connection, vendor)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
             ON CONFLICT (job, connection) DO UPDATE SET vendor = EXCLUDED.vendor WHERE series.vendor <> EXCLUDED.vendor",
        )
        .bind(wanted.iter().map(|(job, _, _)| job.clone()).collect::<Vec<_>>())
        .bind(wanted.iter().map(|(_, connection, _)| connection.clone()).collect::<Vec<_>>())
        .bind(wanted.iter().map(|(_, _, vendor)| *vendor).collect::<Vec<_>>())
        .execute(&mut *self.tx)
        .await
        .map_err(doing(what))?;
        // The planner moves cursors: nobody may between this look and the change.
        sqlx::query_as(
            "SELECT id, job, connection, in_force, cursor_at,
                    (SELECT rule FROM series_rules WHERE series_id = series.id ORDER BY from_at DESC LIMIT 1) AS rule,
                    CASE WHEN cursor_at IS NULL THEN (
                        SELECT max(fire_at) FROM revisions WHERE series_id = series.id AND trigger = 'schedule'
                    ) END AS last_fire_at
             FROM series ORDER BY id FOR NO KEY UPDATE",
        )
        .fetch_all(&mut *self.tx)
        .await
        .map_err(doing(what))
    }

    /// All versions of the rules of these series.
    pub async fn rules(&mut self, series: &[i64]) -> Result<HashMap<i64, Vec<(DateTime<Utc>, Value)>>, StoreError> {
        let rows: Vec<(i64, DateTime<Utc>, Value)> =
            sqlx::query_as("SELECT series_id, from_at, rule FROM series_rules WHERE series_id = ANY ($1)")
                .bind(series)
                .fetch_all(&mut *self.tx)
                .await
                .map_err(doing("read the rules in force"))?;
        let mut rules: HashMap<i64, Vec<(DateTime<Utc>, Value)>> = HashMap::new();
        for (series, from, rule) in rows {
            rules.entry(series).or_default().push((from, rule));
        }
        Ok(rules)
    }

    /// Ends without a change of the set; what was taken over stays so.
    pub async fn unchanged(self) -> Result<(), StoreError> {
        self.tx.commit().await.map_err(doing("take over the history of a renamed job"))
    }

    /// Writes the change and raises the version; returns it.
    pub async fn finish(
        mut self,
        put: &[SetFile],
        gone: &[String],
        series: &[SeriesChange],
    ) -> Result<i64, StoreError> {
        let what = "change the set of jobs in force";
        let tx = &mut *self.tx;
        sqlx::query(
            "WITH gone AS (DELETE FROM job_files WHERE job = ANY ($1) RETURNING job, text)
             INSERT INTO gone_files (job, text) SELECT job, text FROM gone
             ON CONFLICT (job) DO UPDATE SET text = EXCLUDED.text",
        )
        .bind(gone)
        .execute(&mut *tx)
        .await
        .map_err(doing(what))?;
        let column = |get: fn(&SetFile) -> &String| put.iter().map(|f| get(f).clone()).collect::<Vec<String>>();
        sqlx::query(
            "INSERT INTO job_files (job, file, text, sha256, applied_by)
             SELECT job, file, text, sha256, $5 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
                 AS f (job, file, text, sha256)
             ON CONFLICT (job) DO UPDATE SET file = EXCLUDED.file, text = EXCLUDED.text, sha256 = EXCLUDED.sha256,
                 applied_at = reportd_now(), applied_by = EXCLUDED.applied_by",
        )
        .bind(column(|f| &f.job))
        .bind(column(|f| &f.file))
        .bind(column(|f| &f.text))
        .bind(column(|f| &f.sha256))
        .bind(self.who)
        .execute(&mut *tx)
        .await
        .map_err(doing(what))?;
        sqlx::query("DELETE FROM gone_files WHERE job = ANY ($1)")
            .bind(column(|f| &f.job))
            .execute(&mut *tx)
            .await
            .map_err(doing(what))?;
        let rules: Vec<&SeriesChange> = series.iter().filter(|change| change.rule.is_some()).collect();
        // Versions of a time to come are left from a clock that was ahead.
        sqlx::query("DELETE FROM series_rules WHERE series_id = ANY ($1) AND from_at > $2")
            .bind(rules.iter().map(|change| change.id).collect::<Vec<_>>())
            .bind(self.now)
            .execute(&mut *tx)
            .await
            .map_err(doing(what))?;
        sqlx::query(
            // Two changes within one instant: the later one counts.
            "INSERT INTO series_rules (series_id, from_at, rule, applied_by)
             SELECT series_id, $3, rule, $4 FROM unnest($1::bigint[], $2::jsonb[]) AS r (series_id, rule)
             ON CONFLICT (series_id, from_at) DO UPDATE SET rule = EXCLUDED.rule, applied_by = EXCLUDED.applied_by",
        )
        .bind(rules.iter().map(|change| change.id).collect::<Vec<_>>())
        .bind(rules.iter().filter_map(|change| change.rule.clone()).collect::<Vec<_>>())
        .bind(self.now)
        .bind(self.who)
        .execute(&mut *tx)
        .await
        .map_err(doing(what))?;
        sqlx::query(
            "UPDATE series SET in_force = c.in_force, next_at = c.next_at,
                 first_seen_at = COALESCE(first_seen_at, CASE WHEN c.first_cursor IS NOT NULL THEN $5 END),
                 -- A cursor of a time to come, too.
                 cursor_at = LEAST(COALESCE(cursor_at, c.first_cursor), $5)
             FROM unnest($1::bigint[], $2::bool[], $3::timestamptz[], $4::timestamptz[])
                 AS c (id, in_force, next_at, first_cursor)
             WHERE series.id = c.id",
        )
        .bind(series.iter().map(|change| change.id).collect::<Vec<_>>())
        .bind(series.iter().map(|change| change.in_force).collect::<Vec<_>>())
        .bind(series.iter().map(|change| change.next_at).collect::<Vec<_>>())
        .bind(series.iter().map(|change| change.first_cursor).collect::<Vec<_>>())
        .bind(self.now)
        .execute(&mut *tx)
        .await
        .map_err(doing(what))?;
        let version = sqlx::query_scalar(
            "UPDATE job_set SET version = version + 1, applied_at = reportd_now(), applied_by = $1 RETURNING version",
        )
        .bind(self.who)
        .fetch_one(&mut *tx)
        .await
        .map_err(doing(what))?;
        self.tx.commit().await.map_err(doing(what))?;
        Ok(version)
    }
}
