//! Series: their ids, and renames (`was`), which keep history and take over what was left under a former name.

use sqlx::PgTransaction;

use super::{RunStore, StoreError, doing};

impl RunStore {
    /// The id of a series, which is made when it is seen first.
    pub async fn series(&self, job: &str, connection: &str, vendor: &str) -> Result<i64, StoreError> {
        let mut own = self.pool.acquire().await.map_err(doing("look up a series"))?;
        series(&mut own, job, connection, vendor).await
    }

    /// The same for a job whose file says what it `was`: what is known under those names becomes this series' history.
    pub async fn series_of(
        &self,
        job: &str,
        connection: &str,
        vendor: &str,
        was: &[String],
    ) -> Result<i64, StoreError> {
        let what = "take over the history of a renamed job";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        // First, as every planner does: an `apply` that brings the former name into force is waited for.
        sqlx::query("SELECT 1 FROM job_set FOR SHARE").execute(&mut *tx).await.map_err(doing(what))?;
        // Whoever has that history and fires would lose it by this, or this job begin without it, and fetch it all again.
        let other: Option<(String, String, bool)> = sqlx::query_as(
            "SELECT n.former, n.job, s.in_force FROM (
                 SELECT job AS former, job FROM series WHERE job = ANY ($1) AND connection = $3 AND in_force
                 UNION ALL
                 SELECT former, job FROM former_names WHERE (former = $2 OR former = ANY ($1)) AND connection = $3
             ) n JOIN series s ON s.job = n.job AND s.connection = $3
             WHERE n.job <> $2 AND (s.in_force OR NOT n.job = ANY ($1)) LIMIT 1",
        )
        .bind(was)
        .bind(job)
        .bind(connection)
        .fetch_optional(&mut *tx)
        .await
        .map_err(doing(what))?;
        if let Some((former, holder, in_force)) = other {
            let why = if former == holder {
                format!("the file says that {job} was {former}, and {holder}@{connection} is in force")
            } else {
                format!("{former} was renamed to {holder}, which has its history")
            };
            let or = if in_force { String::new() } else { format!(", or say `was: [{holder}]` in the job file") };
            return Err(StoreError::Refused(format!(
                "{why}: first bring the job folder as it is now into force (reportd apply, or the folder of reportd serve){or}"
            )));
        }
        if !was.is_empty() {
            take_over(&mut tx, job, connection, was).await?;
        }
        // Within the transaction: an `apply` that renames this very job is to find it, or to be found.
        let id = series(&mut tx, job, connection, vendor).await?;
        tx.commit().await.map_err(doing(what))?;
        Ok(id)
    }

    /// All former names of jobs, at each connection.
    pub async fn former_names(&self) -> Result<Vec<Renamed>, StoreError> {
        former_names(&self.pool).await
    }

    /// Which of these have runs or revisions under the former name that a take-over would move: former name, connection, new name.
    pub async fn left_behind(&self, names: &[Renamed]) -> Result<Vec<Renamed>, StoreError> {
        let column = |get: fn(&Renamed) -> &String| names.iter().map(get).collect::<Vec<_>>();
        // Served by series_name_once, runs_history, runs_one_live_per_window and revisions_pkey; a take-over leaves few behind.
        sqlx::query_as(
            "SELECT n.former, n.connection, n.job
             FROM unnest($1::text[], $2::text[], $3::text[]) AS n (former, connection, job)
             JOIN series old ON old.job = n.former AND old.connection = n.connection
             JOIN series new ON new.job = n.job AND new.connection = n.connection
             CROSS JOIN LATERAL (
                 SELECT 1 FROM runs WHERE series_id = old.id AND (finished_at IS NOT NULL
                     OR NOT EXISTS (SELECT 1 FROM runs mine WHERE mine.series_id = new.id AND mine.finished_at IS NULL
                         AND mine.window_start = runs.window_start AND mine.window_end = runs.window_end)
                     AND NOT EXISTS (SELECT 1 FROM revisions mine WHERE mine.series_id = new.id
                         AND mine.window_label = runs.window_label AND mine.revision = runs.revision))
                 UNION ALL
                 SELECT 1 FROM revisions WHERE series_id = old.id AND NOT EXISTS (
                     SELECT 1 FROM revisions mine WHERE mine.series_id = new.id
                         AND mine.window_label = revisions.window_label AND mine.revision = revisions.revision)
                     AND NOT EXISTS (SELECT 1 FROM runs mine WHERE mine.series_id = new.id
                         AND mine.window_label = revisions.window_label AND mine.revision = revisions.revision
                         AND mine.finished_at IS NULL)
                 LIMIT 1
             ) left_there
             WHERE NOT old.in_force",
        )
        .bind(column(|name| &name.0))
        .bind(column(|name| &name.1))
        .bind(column(|name| &name.2))
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look for runs of former names"))
    }
}

/// A former name of a job, a connection, and the job's name now.
pub type Renamed = (String, String, String);

/// [`RunStore::series`], also within a transaction.
async fn series(own: &mut sqlx::PgConnection, job: &str, connection: &str, vendor: &str) -> Result<i64, StoreError> {
    let known: Option<i64> = sqlx::query_scalar("SELECT id FROM series WHERE job = $1 AND connection = $2")
        .bind(job)
        .bind(connection)
        .fetch_optional(&mut *own)
        .await
        .map_err(doing("look up a series"))?;
    if let Some(id) = known {
        return Ok(id);
    }
    sqlx::query_scalar(
        "INSERT INTO series (job, connection, vendor) VALUES ($1, $2, $3)
         ON CONFLICT (job, connection) DO UPDATE SET vendor = EXCLUDED.vendor
         RETURNING id",
    )
    .bind(job)
    .bind(connection)
    .bind(vendor)
    .fetch_one(own)
    .await
    .map_err(doing("make a series"))
}

/// [`RunStore::former_names`], also within a transaction.
pub(super) async fn former_names(executor: impl sqlx::PgExecutor<'_>) -> Result<Vec<Renamed>, StoreError> {
    sqlx::query_as("SELECT former, connection, job FROM former_names ORDER BY job, former, connection")
        .fetch_all(executor)
        .await
        .map_err(doing("read the former names of jobs"))
}

/// Makes what is known under former names the history of `job` at this connection. Without a series of the new name that
/// is a change of name; with one, revisions, ended runs, fires and rules move to it, where they do not collide.
pub(super) async fn take_over(
    tx: &mut PgTransaction<'_>,
    job: &str,
    connection: &str,
    was: &[String],
) -> Result<(), StoreError> {
    let what = "take over the history of a renamed job";
    remember(tx, job, connection, was).await?;
    let former: Vec<i64> = sqlx::query_scalar(
        "SELECT id FROM series WHERE job = ANY ($1) AND job <> $2 AND connection = $3 ORDER BY id FOR UPDATE",
    )
    .bind(was)
    .bind(job)
    .bind(connection)
    .fetch_all(&mut **tx)
    .await
    .map_err(doing(what))?;
    for old in former {
        let new: Option<i64> =
            sqlx::query_scalar("SELECT id FROM series WHERE job = $1 AND connection = $2 FOR UPDATE")
                .bind(job)
                .bind(connection)
                .fetch_optional(&mut **tx)
                .await
                .map_err(doing(what))?;
        let Some(new) = new else {
            sqlx::query("UPDATE series SET job = $2 WHERE id = $1")
                .bind(old)
                .bind(job)
                .execute(&mut **tx)
                .await
                .map_err(doing(what))?;
            wake(tx, old).await?;
            continue;
        };
        let mut moved = 0;
        for (n, statement) in MOVES.into_iter().enumerate() {
            let done = sqlx::query(statement).bind(old).bind(new).execute(&mut **tx).await.map_err(doing(what))?;
            // Revisions and runs, which somebody may wait for.
            moved += if n < 2 { done.rows_affected() } else { 0 };
        }
        if moved > 0 {
            wake(tx, new).await?;
        }
    }
    Ok(())
}

/// Notes that these names, and their former ones, are this one's now, which is nobody's former name any more. What the files say last
/// counts for a name, also where another job has the history that stood under it: that stays with the other.
async fn remember(tx: &mut PgTransaction<'_>, job: &str, connection: &str, was: &[String]) -> Result<(), StoreError> {
    let what = "note the former names of a job";
    sqlx::query("DELETE FROM former_names WHERE former = $1 AND connection = $2")
        .bind(job)
        .bind(connection)
        .execute(&mut **tx)
        .await
        .map_err(doing(what))?;
    for statement in [
        "UPDATE former_names SET job = $1 WHERE job = ANY ($3) AND connection = $2",
        "INSERT INTO former_names (former, connection, job)
         SELECT DISTINCT was, $2, $1 FROM unnest($3::text[]) AS was WHERE was <> $1
         ON CONFLICT (former, connection) DO UPDATE SET job = EXCLUDED.job WHERE former_names.job <> EXCLUDED.job",
    ] {
        sqlx::query(statement).bind(job).bind(connection).bind(was).execute(&mut **tx).await.map_err(doing(what))?;
    }
    Ok(())
}

/// Lets runs that wait for a person be looked at now: they may have waited for this very history.
async fn wake(tx: &mut PgTransaction<'_>, series: i64) -> Result<(), StoreError> {
    // Served by runs_live_of_series.
    sqlx::query(
        "UPDATE runs SET next_step_at = reportd_now() WHERE series_id = $1 AND finished_at IS NULL AND blocked",
    )
    .bind(series)
    .execute(&mut **tx)
    .await
    .map_err(doing("wake the runs of a renamed job"))?;
    Ok(())
}

/// What moves from series $1 to series $2, also what somebody works on at the moment: the next instant of its window must see it. A
/// live run stays of a window on which the new name has one too, or whose revision the new name has: it ends under the name it was
/// made with, and the next take-over moves it. A revision whose number a live run of the new name has stays as well.
const MOVES: [&str; 7] = [
    "UPDATE revisions SET series_id = $2 WHERE series_id = $1 AND NOT EXISTS (
         SELECT 1 FROM revisions mine WHERE mine.series_id = $2 AND mine.window_label = revisions.window_label
             AND mine.revision = revisions.revision)
         AND NOT EXISTS (SELECT 1 FROM runs mine WHERE mine.series_id = $2 AND mine.window_label = revisions.window_label
             AND mine.revision = revisions.revision AND mine.finished_at IS NULL)",
    "UPDATE runs SET series_id = $2 WHERE series_id = $1 AND (finished_at IS NOT NULL OR NOT EXISTS (
         SELECT 1 FROM runs mine WHERE mine.series_id = $2 AND mine.window_start = runs.window_start
             AND mine.window_end = runs.window_end AND mine.finished_at IS NULL) AND NOT EXISTS (
         SELECT 1 FROM revisions mine WHERE mine.series_id = $2 AND mine.window_label = runs.window_label
             AND mine.revision = runs.revision))",
    "UPDATE series_pauses SET series_id = $2 WHERE series_id = $1 AND NOT EXISTS (
         SELECT 1 FROM series_pauses mine WHERE mine.series_id = $2 AND (mine.paused_at = series_pauses.paused_at
             OR (mine.resumed_at IS NULL AND series_pauses.resumed_at IS NULL)))",
    "UPDATE fires SET series_id = $2 WHERE series_id = $1 AND NOT EXISTS (
         SELECT 1 FROM fires mine WHERE mine.series_id = $2 AND mine.fire_at = fires.fire_at)",
    "UPDATE series_rules SET series_id = $2 WHERE series_id = $1 AND from_at < (
         SELECT COALESCE(min(mine.from_at), 'infinity') FROM series_rules mine WHERE mine.series_id = $2)",
    "UPDATE series mine SET first_seen_at = LEAST(mine.first_seen_at, old.first_seen_at),
         cursor_at = COALESCE(mine.cursor_at, old.cursor_at)
     FROM series old WHERE mine.id = $2 AND old.id = $1 AND old.first_seen_at IS NOT NULL",
    "UPDATE series SET in_force = false, next_at = NULL WHERE id = $1 AND in_force AND $2 > 0",
];
