//! Revisions: what the archive holds, as the database knows it, and the commit that makes a run `archived`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use uuid::Uuid;

use super::{RunStore, StoreError, doing};
use crate::run::state::{Event, State, sources};
use crate::run::{Lease, Trigger};

/// One row of `artifacts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, FromRow)]
pub struct ArtifactRow {
    /// Key relative to the archive.
    pub path: String,
    /// Media type.
    pub media_type: String,
    /// Size.
    pub bytes: i64,
    /// Hash, 64 hex digits.
    pub sha256: String,
    /// Made by reportd from what was received.
    pub derived: bool,
    /// Fetched from loopback.
    pub simulated: bool,
}

#[derive(FromRow)]
struct RunArtifact {
    run_id: Uuid,
    #[sqlx(flatten)]
    artifact: ArtifactRow,
}

/// One row of `revisions`.
#[derive(Clone, Debug, FromRow)]
pub struct RevisionRow {
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
    /// Why that was made.
    #[sqlx(try_from = "String")]
    pub trigger: Trigger,
    /// The instant that was made for.
    pub fire_at: DateTime<Utc>,
    /// The vendor's id of the report.
    pub ticket: Option<String>,
    /// Hash of what was asked.
    pub content_hash: String,
    /// Key of the manifest.
    pub manifest_path: String,
    /// Hash of the manifest.
    pub manifest_sha256: String,
    /// When it came into the archive.
    pub archived_at: DateTime<Utc>,
}

/// The newest revision in a folder.
#[derive(Clone, Debug, FromRow)]
pub struct NewestManifest {
    /// Its number there.
    pub revision: i32,
    /// Key of its manifest.
    pub manifest_path: String,
    /// Hash of its manifest.
    pub manifest_sha256: String,
}

impl RunStore {
    /// The newest revision of a window, if the archive holds one.
    pub async fn held(
        &self,
        series: i64,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    ) -> Result<Option<RevisionRow>, StoreError> {
        sqlx::query_as(
            "SELECT * FROM revisions WHERE series_id = $1 AND window_start = $2 AND window_end = $3
             ORDER BY revision DESC LIMIT 1",
        )
        .bind(series)
        .bind(start)
        .bind(end)
        .fetch_optional(&self.pool)
        .await
        .map_err(doing("look up what is held of a window"))
    }

    /// The series that a run belongs to now, and whether it is needless: the archive holds its window, and it was not asked for another
    /// report of it.
    pub async fn standing(&self, run: Uuid) -> Result<(i64, bool), StoreError> {
        standing(&self.pool, run).await
    }

    /// The revision that a run made.
    pub async fn revision_of(&self, run: Uuid) -> Result<Option<RevisionRow>, StoreError> {
        sqlx::query_as("SELECT * FROM revisions WHERE run_id = $1")
            .bind(run)
            .fetch_optional(&self.pool)
            .await
            .map_err(doing("look up the revision of a run"))
    }

    /// The newest revision in one folder of a window, with its number there: a renamed job's windows have two folders, which each
    /// count from r1.
    pub async fn newest_manifest(
        &self,
        series: i64,
        label: &str,
        folder: &str,
    ) -> Result<Option<NewestManifest>, StoreError> {
        let mut rows: Vec<NewestManifest> = sqlx::query_as(
            "SELECT revision, manifest_path, manifest_sha256 FROM revisions WHERE series_id = $1 AND window_label = $2
                 AND starts_with(manifest_path, $3 || '/r')",
        )
        .bind(series)
        .bind(label)
        .bind(folder)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look up the previous revision"))?;
        for row in &mut rows {
            let name = row.manifest_path.rsplit('/').nth(1).and_then(|name| name.strip_prefix('r'));
            row.revision = name.and_then(|number| number.parse().ok()).unwrap_or(row.revision);
        }
        Ok(rows.into_iter().max_by_key(|row| row.revision))
    }

    /// The artifacts of the archived ones among these runs, in order, each with its run.
    pub async fn artifacts_of(&self, runs: &[Uuid]) -> Result<Vec<(Uuid, ArtifactRow)>, StoreError> {
        let rows: Vec<RunArtifact> = sqlx::query_as(
            "SELECT runs.id AS run_id, path, media_type, bytes, sha256, derived, simulated
             FROM runs JOIN artifacts USING (series_id, window_label, revision)
             WHERE runs.id = ANY ($1) AND runs.state IN ('archived', 'empty') ORDER BY runs.id, position",
        )
        .bind(runs)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look up the artifacts of runs"))?;
        Ok(rows.into_iter().map(|row| (row.run_id, row.artifact)).collect())
    }

    /// The artifacts of a revision, in order.
    pub async fn artifacts(&self, series: i64, label: &str, revision: i32) -> Result<Vec<ArtifactRow>, StoreError> {
        sqlx::query_as(
            "SELECT path, media_type, bytes, sha256, derived, simulated FROM artifacts
             WHERE series_id = $1 AND window_label = $2 AND revision = $3 ORDER BY position",
        )
        .bind(series)
        .bind(label)
        .bind(revision)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look up the artifacts of a revision"))
    }

    /// Manifests that the database knows and that are not among `keys`.
    pub async fn manifests_not_among(&self, keys: &[String]) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar(
            "SELECT manifest_path FROM revisions WHERE NOT manifest_path = ANY ($1) ORDER BY manifest_path",
        )
        .bind(keys)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("compare the database with the archive"))
    }

    /// The revision number that the run writes, allocated now if it was not before. With `another` a new one: the run's own
    /// was taken by a manifest that this database does not know.
    pub async fn take_revision(&self, lease: Option<&Lease>, run: Uuid, another: bool) -> Result<i32, StoreError> {
        let taken: Option<i32> = sqlx::query_scalar(
            "UPDATE runs SET revision = CASE
                 WHEN $3 THEN GREATEST(next_revision(series_id, window_label), COALESCE(revision, 0) + 1)
                 ELSE COALESCE(revision, next_revision(series_id, window_label)) END
             WHERE id = $1 AND finished_at IS NULL AND ($2::uuid IS NULL OR lease_token = $2) RETURNING revision",
        )
        .bind(run)
        .bind(lease.map(|l| l.token))
        .bind(another)
        .fetch_optional(&self.pool)
        .await
        .map_err(doing("take a revision number"))?;
        taken.ok_or(StoreError::LeaseLost)
    }

    /// Commits what the archive already has: the run becomes `archived` or `empty`, its revision and artifacts become
    /// rows, all or nothing. `lease` is `None` when an operator hands in a held run's report. Returns the number it has in the
    /// database.
    pub async fn archived(
        &self,
        lease: Option<&Lease>,
        run: Uuid,
        row: &RevisionRow,
        artifacts: &[ArtifactRow],
    ) -> Result<i32, StoreError> {
        let what = "commit an archived run";
        let event = match (lease, row.state) {
            (None, _) => Event::ResolveFile,
            (Some(_), State::Empty) => Event::StoreEmpty,
            (Some(_), _) => Event::Store,
        };
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        // The series before the run, as who renames a job takes them: else each would wait for the other.
        sqlx::query("SELECT 1 FROM series WHERE id = (SELECT series_id FROM runs WHERE id = $1) FOR KEY SHARE")
            .bind(run)
            .execute(&mut *tx)
            .await
            .map_err(doing(what))?;
        let moved: Option<i64> = sqlx::query_scalar(
            "WITH moved AS (
                 UPDATE runs SET state = $3, noticed = NULL, revision = $4, finished_at = reportd_now(), lease_token = NULL,
                     lease_until = NULL, claims = 0, errors = 0, errors_since = NULL, note = NULL, blocked = false,
                     failure_class = NULL, failure = NULL
                 WHERE id = $1 AND ($2::uuid IS NULL OR lease_token = $2) AND state = ANY ($5)
                 RETURNING id, attempt_id, series_id
             ), task AS (
                 UPDATE remote_tasks SET finished_at = reportd_now() FROM moved
                 WHERE remote_tasks.attempt_id = moved.attempt_id AND remote_tasks.finished_at IS NULL
             ), told AS (
                 INSERT INTO run_events (run_id, kind, who, detail) SELECT id, $3, $6, $7 FROM moved
             )
             SELECT series_id FROM moved",
        )
        .bind(run)
        .bind(lease.map(|l| l.token))
        .bind(row.state.as_str())
        .bind(row.revision)
        .bind(sources(event))
        .bind(&self.who.0)
        .bind(format!(
            "r{} with {} files, {} bytes",
            row.revision,
            artifacts.len(),
            artifacts.iter().map(|a| a.bytes).sum::<i64>()
        ))
        .fetch_optional(&mut *tx)
        .await
        .map_err(doing(what))?;
        // A rename may have moved the run to another series since its worker took it.
        let row = RevisionRow { series_id: moved.ok_or(StoreError::LeaseLost)?, ..row.clone() };
        let wanted = row.revision;
        let revision = insert_revision(&mut tx, row, artifacts).await?;
        if revision != wanted {
            sqlx::query("UPDATE runs SET revision = $2 WHERE id = $1")
                .bind(run)
                .bind(revision)
                .execute(&mut *tx)
                .await
                .map_err(doing(what))?;
        }
        tx.commit().await.map_err(doing(what))?;
        Ok(revision)
    }
}

/// [`RunStore::standing`], also within a transaction.
pub(super) async fn standing(executor: impl sqlx::PgExecutor<'_>, run: Uuid) -> Result<(i64, bool), StoreError> {
    sqlx::query_as(
        "SELECT series_id, NOT again AND window_is_held(series_id, window_start, window_end, provisional)
         FROM runs WHERE id = $1",
    )
    .bind(run)
    .fetch_one(executor)
    .await
    .map_err(doing("look whether a run's window is held"))
}

/// Writes a revision and its artifacts; returns its number, which is the next free one where the number is another manifest's: a
/// renamed job's folders each count from r1.
pub(super) async fn insert_revision(
    tx: &mut sqlx::PgTransaction<'_>,
    mut row: RevisionRow,
    artifacts: &[ArtifactRow],
) -> Result<i32, StoreError> {
    let what = "write a revision";
    while !insert_row(tx, &row).await? {
        // A rebuild read this very manifest before its run came back: then all is as it should be.
        let same: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM revisions WHERE series_id = $1 AND window_label = $2 AND revision = $3
                 AND run_id = $4 AND manifest_sha256 = $5)",
        )
        .bind(row.series_id)
        .bind(&row.window_label)
        .bind(row.revision)
        .bind(row.run_id)
        .bind(&row.manifest_sha256)
        .fetch_one(&mut **tx)
        .await
        .map_err(doing(what))?;
        if same {
            return Ok(row.revision);
        }
        row.revision = sqlx::query_scalar("SELECT next_revision($1, $2)")
            .bind(row.series_id)
            .bind(&row.window_label)
            .fetch_one(&mut **tx)
            .await
            .map_err(doing(what))?;
    }
    let column = |get: fn(&ArtifactRow) -> String| artifacts.iter().map(get).collect::<Vec<String>>();
    sqlx::query(
        "INSERT INTO artifacts (series_id, window_label, revision, position, path, media_type, bytes, sha256, derived, simulated)
         SELECT $1, $2, $3, n - 1, path, media_type, bytes, sha256, derived, simulated
         FROM unnest($4::text[], $5::text[], $6::bigint[], $7::text[], $8::bool[], $9::bool[])
             WITH ORDINALITY AS a (path, media_type, bytes, sha256, derived, simulated, n)",
    )
    .bind(row.series_id)
    .bind(&row.window_label)
    .bind(row.revision)
    .bind(column(|a| a.path.clone()))
    .bind(column(|a| a.media_type.clone()))
    .bind(artifacts.iter().map(|a| a.bytes).collect::<Vec<i64>>())
    .bind(column(|a| a.sha256.clone()))
    .bind(artifacts.iter().map(|a| a.derived).collect::<Vec<bool>>())
    .bind(artifacts.iter().map(|a| a.simulated).collect::<Vec<bool>>())
    .execute(&mut **tx)
    .await
    .map_err(doing("write the artifacts of a revision"))?;
    Ok(row.revision)
}

/// Whether the row was written: its number was free.
async fn insert_row(tx: &mut sqlx::PgTransaction<'_>, row: &RevisionRow) -> Result<bool, StoreError> {
    let written = sqlx::query(
        "INSERT INTO revisions (series_id, window_label, revision, window_start, window_end, window_zone, provisional, state,
                                run_id, trigger, fire_at, ticket, content_hash, manifest_path, manifest_sha256, archived_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
         ON CONFLICT (series_id, window_label, revision) DO NOTHING",
    )
    .bind(row.series_id)
    .bind(&row.window_label)
    .bind(row.revision)
    .bind(row.window_start)
    .bind(row.window_end)
    .bind(&row.window_zone)
    .bind(row.provisional)
    .bind(row.state.as_str())
    .bind(row.run_id)
    .bind(row.trigger.as_str())
    .bind(row.fire_at)
    .bind(&row.ticket)
    .bind(&row.content_hash)
    .bind(&row.manifest_path)
    .bind(&row.manifest_sha256)
    .bind(row.archived_at)
    .execute(&mut **tx)
    .await
    .map_err(doing("write a revision"))?;
    Ok(written.rows_affected() == 1)
}
