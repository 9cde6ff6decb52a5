//! Revisions that come from the archive's manifests: what `archive rebuild` writes.

use super::revision::{ArtifactRow, RevisionRow, insert_revision};
use super::{RunStore, StoreError, doing};
use crate::run::state::{Event, State, sources};

/// What became of the runs of an older database when a revision was adopted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Runs that had made it and did not know: 0 or 1.
    pub ended: u64,
    /// Queued runs of its window: 0 or 1.
    pub cancelled: u64,
}

impl RunStore {
    /// Adopts a revision that a manifest tells of; `None` = it is known. Never makes a run. An older database may still have the run
    /// that made it, which ends, and a queued one of its window, which is stopped: neither is to send anything. A run whose worker is
    /// about to commit this very revision is left to it.
    pub async fn adopt(&self, row: &RevisionRow, artifacts: &[ArtifactRow]) -> Result<Option<Adopted>, StoreError> {
        let what = "adopt a revision from its manifest";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        // A run that is known brings its revision to where it belongs now: its job may have another name than its manifest says.
        let belongs: Option<i64> = sqlx::query_scalar("SELECT series_id FROM runs WHERE id = $1")
            .bind(row.run_id)
            .fetch_optional(&mut *tx)
            .await
            .map_err(doing(what))?;
        let (named, row) = (row.series_id, &RevisionRow { series_id: belongs.unwrap_or(row.series_id), ..row.clone() });
        let known: bool = sqlx::query_scalar(
            // A renamed job's revisions belong to another series than their manifests say, and a number there may be another
            // manifest's here.
            "SELECT EXISTS (SELECT 1 FROM revisions WHERE series_id = $1 AND window_label = $2 AND revision = $3
                     AND (run_id = $6 OR manifest_path = $4))
                 OR EXISTS (SELECT 1 FROM revisions WHERE manifest_path = $4 AND manifest_sha256 = $5)",
        )
        .bind(row.series_id)
        .bind(&row.window_label)
        .bind(row.revision)
        .bind(&row.manifest_path)
        .bind(&row.manifest_sha256)
        .bind(row.run_id)
        .fetch_one(&mut *tx)
        .await
        .map_err(doing(what))?;
        if known {
            return Ok(None);
        }
        let revision = insert_revision(&mut tx, row.clone(), artifacts).await?;
        let event = if row.state == State::Empty { Event::AdoptEmpty } else { Event::Adopt };
        // It counts as told: a copy of the database does not know of the notices of its run, and nobody is to have them twice. A
        // worker looks for its manifest under the job's present name only.
        let ended = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = $2, noticed = $2, revision = $3, finished_at = $4, lease_token = NULL, lease_until = NULL,
                     claims = 0, errors = 0, errors_since = NULL, note = NULL, blocked = false, failure_class = NULL, failure = NULL
                 WHERE id = $1 AND state = ANY ($5)
                   AND (revision IS DISTINCT FROM $3 OR series_id <> $7 OR state NOT IN ('submitting', 'waiting')
                        OR lease_until IS NULL OR lease_until <= reportd_now())
                 RETURNING id
             ), task AS (
                 UPDATE remote_tasks SET finished_at = $4 FROM moved WHERE run_id = moved.id AND finished_at IS NULL
             )
             INSERT INTO run_events (run_id, kind, who, detail)
             SELECT id, 'adopted', $6, 'its manifest was in the archive already' FROM moved",
        )
        .bind(row.run_id)
        .bind(row.state.as_str())
        .bind(revision)
        .bind(row.archived_at)
        .bind(sources(event))
        .bind(&self.who.0)
        .bind(named)
        .execute(&mut *tx)
        .await
        .map_err(doing(what))?;
        let cancelled = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = 'cancelled', noticed = NULL, finished_at = reportd_now(), lease_token = NULL,
                     lease_until = NULL, failure_class = NULL, failure = NULL, note = NULL, blocked = false, errors = 0,
                     errors_since = NULL
                 WHERE series_id = $1 AND window_start = $2 AND window_end = $3 AND finished_at IS NULL AND id <> $4
                   AND state = 'queued' AND state = ANY ($5) AND (provisional OR NOT $6)
                 RETURNING id
             )
             INSERT INTO run_events (run_id, kind, who, detail)
             SELECT id, 'cancelled', $7, 'the archive holds its window: it was not sent' FROM moved",
        )
        .bind(row.series_id)
        .bind(row.window_start)
        .bind(row.window_end)
        .bind(row.run_id)
        .bind(sources(Event::Cancel))
        .bind(row.provisional)
        .bind(&self.who.0)
        .execute(&mut *tx)
        .await
        .map_err(doing(what))?;
        tx.commit().await.map_err(doing(what))?;
        Ok(Some(Adopted { ended: ended.rows_affected(), cancelled: cancelled.rows_affected() }))
    }
}
