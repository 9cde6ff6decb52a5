//! Series: their ids, and renames (`was`), which keep history.

use sqlx::PgTransaction;

use super::{RunStore, StoreError, doing};

impl RunStore {
    /// The id of a series, which is made when it is seen first.
    pub async fn series(&self, job: &str, connection: &str, vendor: &str) -> Result<i64, StoreError> {
        let known: Option<i64> = sqlx::query_scalar("SELECT id FROM series WHERE job = $1 AND connection = $2")
            .bind(job)
            .bind(connection)
            .fetch_optional(&self.pool)
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
        .fetch_one(&self.pool)
        .await
        .map_err(doing("make a series"))
    }

    /// The same for a job whose file says what it `was`: what is known under those names becomes this series' history.
    pub async fn series_of(
        &self,
        job: &str,
        connection: &str,
        vendor: &str,
        was: &[String],
    ) -> Result<i64, StoreError> {
        if !was.is_empty() {
            let what = "take over the history of a renamed job";
            let mut tx = self.pool.begin().await.map_err(doing(what))?;
            // Whoever fires the former name still would lose its history by this, and fetch it all again.
            let in_force: Option<String> = sqlx::query_scalar(
                "SELECT job FROM series WHERE job = ANY ($1) AND job <> $2 AND connection = $3 AND in_force LIMIT 1",
            )
            .bind(was)
            .bind(job)
            .bind(connection)
            .fetch_optional(&mut *tx)
            .await
            .map_err(doing(what))?;
            if let Some(former) = in_force {
                return Err(StoreError::Refused(format!(
                    "the file says that {job} was {former}, and {former}@{connection} is in force: first bring the renamed file \
                     into force (reportd apply, or the folder of reportd serve)"
                )));
            }
            take_over(&mut tx, job, connection, was).await?;
            tx.commit().await.map_err(doing(what))?;
        }
        self.series(job, connection, vendor).await
    }
}

impl RunStore {
    /// Which of these series, job and connection, have live runs that nobody works on.
    pub async fn left_behind(&self, names: &[(String, String)]) -> Result<Vec<(String, String)>, StoreError> {
        let (jobs, connections): (Vec<&str>, Vec<&str>) =
            names.iter().map(|(job, connection)| (job.as_str(), connection.as_str())).unzip();
        // Served by series_name_once and runs_live_of_series.
        sqlx::query_as(
            "SELECT s.job, s.connection FROM unnest($1::text[], $2::text[]) AS n (job, connection)
             JOIN series s USING (job, connection) CROSS JOIN LATERAL (
                 SELECT 1 FROM runs WHERE series_id = s.id AND finished_at IS NULL AND lease_token IS NULL LIMIT 1
             ) live",
        )
        .bind(jobs)
        .bind(connections)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look for runs of former names"))
    }
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
            continue;
        };
        for statement in MOVES {
            sqlx::query(statement).bind(old).bind(new).execute(&mut **tx).await.map_err(doing(what))?;
        }
    }
    Ok(())
}

/// What moves from series $1 to series $2. A run that somebody works on stays, and so does a live run of a window on which the new
/// name has one too: they end under the name they were made with, and the next take-over moves them.
const MOVES: [&str; 7] = [
    "UPDATE revisions SET series_id = $2 WHERE series_id = $1 AND NOT EXISTS (
         SELECT 1 FROM revisions mine WHERE mine.series_id = $2 AND mine.window_label = revisions.window_label
             AND mine.revision = revisions.revision)",
    "UPDATE runs SET series_id = $2 WHERE series_id = $1 AND lease_token IS NULL AND (finished_at IS NOT NULL OR NOT EXISTS (
         SELECT 1 FROM runs mine WHERE mine.series_id = $2 AND mine.window_start = runs.window_start
             AND mine.window_end = runs.window_end AND mine.finished_at IS NULL))",
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
