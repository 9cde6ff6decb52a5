//! From an answer to the archive to the database; and adopting what a crash left in the archive.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Worker;
use super::hand::{FurtherCalls, Hand};
use super::step::Stepped;
use super::trouble::BLOCKED;
use crate::archive::manifest::{Manifest, ManifestWindow, SCHEMA_VERSION, fire_text};
use crate::archive::{ArchiveError, Stored, revision_folder, window_folder};
use crate::artifact::Spooled;
use crate::crash;
use crate::request::{Request, Shape};
use crate::run::state::{Event, State};
use crate::run::store::adopt::Adopted;
use crate::run::store::revision::{ArtifactRow, NewestManifest, RevisionRow};
use crate::run::store::{RunStore, StoreError};
use crate::run::{Lease, Run, Trigger};
use crate::vendor::{self, Collected};

/// Revisions that are tried before we believe that something is very wrong.
const REVISIONS_TRIED: u32 = 50;

/// What is known of a report besides its files.
pub(crate) struct Facts<'a> {
    pub(crate) run: &'a Run,
    pub(crate) request: &'a Request,
    pub(crate) lease: Option<&'a Lease>,
    pub(crate) attempt: Uuid,
    pub(crate) empty: bool,
    pub(crate) vendor_status: Option<String>,
    pub(crate) requested_at: DateTime<Utc>,
    pub(crate) received_at: DateTime<Utc>,
    pub(crate) handed_in_by: Option<String>,
}

/// Why a report could not be stored.
pub(crate) enum NotStored {
    Store(StoreError),
    Archive(ArchiveError),
}

impl From<StoreError> for NotStored {
    fn from(error: StoreError) -> NotStored {
        NotStored::Store(error)
    }
}

impl From<ArchiveError> for NotStored {
    fn from(error: ArchiveError) -> NotStored {
        NotStored::Archive(error)
    }
}

impl Worker {
    /// Archives what came and ends the run. A disk that fails puts the run off; the vendor is asked again then.
    pub(super) async fn store_report(
        &self,
        hand: &Hand<'_>,
        attempt: Uuid,
        collected: Collected,
    ) -> Result<Stepped, StoreError> {
        let run = hand.run();
        for note in &collected.notes {
            tracing::warn!(run.id = %run.id, "{note}");
            self.store.event(run.id, "note", note).await?;
        }
        let received_at = self.store.now().await?;
        let task = if run.ticket.is_some() { self.store.last_task(run).await? } else { None };
        let facts = Facts {
            run,
            request: &hand.request,
            lease: Some(&hand.claimed.lease),
            attempt,
            empty: collected.empty,
            vendor_status: collected.seen.map(|s| s.status),
            requested_at: task.map_or(hand.claimed.at, |task| task.intended_at),
            received_at,
            handed_in_by: None,
        };
        match self.archive_report(&facts, collected.files).await {
            Ok(row) => tracing::info!(
                run.id = %run.id, window = %row.window_label, revision = row.revision, "a report was archived"
            ),
            Err(NotStored::Store(StoreError::Refused(why))) => return self.put_off(hand.claimed, BLOCKED, &why).await,
            Err(NotStored::Store(error)) => return Err(error),
            Err(NotStored::Archive(error)) => {
                let event = if run.state == State::Waiting { Event::Poll } else { Event::Requeue };
                let why = crate::telemetry::Chain(&error).to_string();
                return self.later(hand, event, &why, None, None).await;
            }
        }
        crash::point("archived-committed");
        if let Shape::JaicpReport { delete_after: true, .. } = hand.request.shape {
            self.delete_task(hand).await?;
        }
        Ok(Stepped::Moved)
    }

    /// Bytes, manifest, database, in this order.
    pub(crate) async fn archive_report(
        &self,
        facts: &Facts<'_>,
        files: Vec<Spooled>,
    ) -> Result<RevisionRow, NotStored> {
        let (run, request) = (facts.run, facts.request);
        let files = Arc::new(files);
        let mut revision = match run.revision {
            Some(revision) => revision,
            None => self.store.take_revision(facts.lease, run.id, false).await?,
        };
        for _ in 0..REVISIONS_TRIED {
            let folder = revision_folder(&run.job, &run.connection, &request.window, revision);
            let entries = self.archive.link(&folder, facts.attempt, &files).await?;
            crash::point("files-linked");
            // Not that of the claim: a rename may have moved the run since.
            let (series, _) = self.store.standing(run.id).await?;
            // The chain is that of one folder: a renamed job begins another.
            let window = window_folder(&run.job, &run.connection, &request.window);
            let before = self.store.newest_manifest(series, &run.window_label, &window).await?;
            let manifest = manifest(facts, self.archive.id(), revision, before.as_ref(), entries);
            match self.archive.put_manifest(&folder, &manifest).await {
                Ok(stored) => {
                    // A manifest of this very run was there already, from before a crash: it counts, our files do not.
                    let ours = manifest.files.iter().map(|f| &f.name);
                    let unnamed = ours.filter(|name| !stored.manifest.files.iter().any(|f| f.name == **name));
                    self.archive.unlink(&folder, unnamed);
                    crash::point("manifest-put");
                    let (row, artifacts) = rows(series, &stored)
                        .ok_or_else(|| StoreError::Refused("the manifest just written cannot be read back".into()))?;
                    self.want_deletion(run, request).await?;
                    crash::point("deletion-noted");
                    let revision = self.store.archived(facts.lease, run.id, &row, &artifacts).await?;
                    return Ok(RevisionRow { revision, ..row });
                }
                // Somebody else's revision, which the database does not know of: never overwritten, ours is the next.
                Err(ArchiveError::Taken { .. }) => {
                    self.archive.unlink(&folder, manifest.files.iter().map(|file| &file.name));
                    revision = self.store.take_revision(facts.lease, run.id, true).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Refused(
            "the archive holds revisions that the database does not know: run `reportd archive rebuild`".into(),
        )
        .into())
    }

    /// After a crash: when this run's manifest is in the archive, the run ended and only the database does not know.
    pub(super) async fn adopt(&self, hand: &Hand<'_>) -> Result<bool, StoreError> {
        let run = hand.run();
        let Some(revision) = run.revision else { return Ok(false) };
        if run.state == State::Queued {
            return Ok(false);
        }
        let folder = revision_folder(&run.job, &run.connection, &hand.request.window, revision);
        let stored = match self.archive.manifest(&folder).await {
            Ok(Some(stored)) if stored.manifest.is_of(run.id, &hand.request.content_hash) => stored,
            Ok(_) => return Ok(false),
            Err(error) => {
                tracing::warn!(run.id = %run.id, error = %crate::telemetry::Chain(&error), "a manifest could not be read");
                return Ok(false);
            }
        };
        let Some((row, artifacts)) = rows(run.series_id, &stored) else { return Ok(false) };
        if let Err(error) = self.archive.sync(&folder) {
            tracing::warn!(run.id = %run.id, error = %crate::telemetry::Chain(&error), "an archived revision could not be synced");
            return Ok(false);
        }
        self.want_deletion(run, &hand.request).await?;
        self.store.archived(Some(&hand.claimed.lease), run.id, &row, &artifacts).await?;
        self.store.event(run.id, "adopted", "its manifest was in the archive already").await?;
        if let Shape::JaicpReport { delete_after: true, .. } = hand.request.shape {
            self.delete_task(hand).await?;
        }
        Ok(true)
    }

    /// Notes before the commit that the task is to be deleted after it: a crash in between must not leave it at the vendor.
    async fn want_deletion(&self, run: &Run, request: &Request) -> Result<(), StoreError> {
        match (&request.shape, run.attempt_id) {
            (Shape::JaicpReport { delete_after: true, .. }, Some(attempt)) => self.store.want_deletion(attempt).await,
            _ => Ok(()),
        }
    }

    /// Deletes the task at the vendor, now that its file is archived. What goes wrong here is told and changes nothing.
    pub(super) async fn delete_task(&self, hand: &Hand<'_>) -> Result<(), StoreError> {
        let run = hand.run();
        let (Some(ticket), Some(attempt)) = (&run.ticket, run.attempt_id) else { return Ok(()) };
        let permits = FurtherCalls::new(&self.store, hand);
        let context = self.context(hand, &permits, &|_| {});
        match vendor::jaicp::delete(&context, &hand.request, ticket).await {
            Ok(()) => {
                crash::point("task-deleted");
                self.store.task_deleted(attempt).await?;
                self.store.event(run.id, "deleted", "the task was deleted at the vendor, as the job asks").await
            }
            Err(error) => {
                let text = format!("the task could not be deleted at the vendor: {}", crate::telemetry::Chain(&error));
                self.store.event(run.id, "note", &text).await
            }
        }
    }
}

fn manifest(
    facts: &Facts<'_>,
    archive_id: Uuid,
    revision: i32,
    before: Option<&NewestManifest>,
    files: Vec<crate::archive::manifest::FileEntry>,
) -> Manifest {
    let (run, request) = (facts.run, facts.request);
    Manifest {
        schema_version: SCHEMA_VERSION,
        archive_id,
        job: run.job.clone(),
        connection: run.connection.clone(),
        vendor: run.vendor.clone(),
        run_id: run.id,
        trigger: run.trigger.as_str().to_owned(),
        fire_at: fire_text(run.fire_at, request.window.zone()),
        window: ManifestWindow::of(&request.window),
        revision,
        supersedes: before.map(|b| b.revision),
        previous_manifest_sha256: before.map(|b| b.manifest_sha256.clone()),
        state: if facts.empty { State::Empty } else { State::Archived }.as_str().to_owned(),
        provisional: run.provisional,
        request: request.call.redacted(),
        content_hash: request.content_hash.clone(),
        ticket: run.ticket_id(),
        vendor_status: facts.vendor_status.clone(),
        requested_at: facts.requested_at,
        received_at: facts.received_at,
        handed_in_by: facts.handed_in_by.clone(),
        files,
        reportd_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The rows that a manifest stands for; `None` when it does not describe a revision that could have rows.
pub(crate) fn rows(series: i64, stored: &Stored) -> Option<(RevisionRow, Vec<ArtifactRow>)> {
    let manifest = &stored.manifest;
    let window = manifest.window.window()?;
    let folder = stored.manifest_path.strip_suffix("/manifest.json")?;
    manifest.check(folder).ok()?;
    let row = RevisionRow {
        series_id: series,
        window_label: window.label(),
        revision: manifest.revision,
        window_start: window.start(),
        window_end: window.end(),
        window_zone: manifest.window.zone.clone(),
        provisional: manifest.provisional,
        state: manifest.state.parse().ok().filter(|s: &State| s.is_held_in_archive())?,
        run_id: manifest.run_id,
        trigger: manifest.trigger.parse::<Trigger>().ok()?,
        fire_at: DateTime::parse_from_rfc3339(&manifest.fire_at).ok()?.to_utc(),
        ticket: manifest.ticket.clone(),
        content_hash: manifest.content_hash.clone(),
        manifest_path: stored.manifest_path.clone(),
        manifest_sha256: stored.manifest_sha256.clone(),
        archived_at: manifest.received_at,
    };
    let artifact = |file: &crate::archive::manifest::FileEntry| {
        Some(ArtifactRow {
            path: format!("{folder}/{}", file.name),
            media_type: file.media_type.clone(),
            bytes: i64::try_from(file.bytes).ok()?,
            sha256: file.sha256.clone(),
            derived: file.derived,
            simulated: file.simulated,
        })
    };
    let artifacts = manifest.files.iter().map(artifact).collect::<Option<Vec<_>>>()?;
    Some((row, artifacts))
}

/// Writes the rows of a manifest; `None` = it stands for none, `Some(None)` = they are there.
pub(crate) async fn adopt_stored(store: &RunStore, stored: &Stored) -> Result<Option<Option<Adopted>>, StoreError> {
    let manifest = &stored.manifest;
    let series = store.series(&manifest.job, &manifest.connection, &manifest.vendor).await?;
    match rows(series, stored) {
        Some((row, artifacts)) => store.adopt(&row, &artifacts).await.map(Some),
        None => Ok(None),
    }
}
