//! `archive rebuild`: rows from manifests. Restores coverage, revisions and the bond between archive and database; never
//! makes a run, and changes nothing in the archive.

use super::commit::adopt_stored;
use crate::archive::{Archive, ArchiveError};
use crate::run::store::{RunStore, StoreError};

/// What a rebuild did.
#[derive(Clone, Debug, Default)]
pub struct Rebuilt {
    /// Revisions that the database did not know.
    pub adopted: usize,
    /// Revisions that it knew.
    pub known: usize,
    /// Runs that had made what was adopted: an older database did not know that they ended.
    pub ended: u64,
    /// Queued runs of windows that were adopted: an older database had not sent them yet.
    pub cancelled: u64,
    /// Manifests that the database knows and the archive lacks.
    pub missing: Vec<String>,
    /// Manifests that could not be used, with why.
    pub unusable: Vec<(String, String)>,
}

/// Why a rebuild stopped.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The archive failed.
    #[error("read the archive")]
    Archive(#[from] ArchiveError),
    /// The database failed.
    #[error("write the database")]
    Store(#[from] StoreError),
}

/// Reads every manifest of the archive into the database and bonds the two.
pub async fn rebuild(archive: &Archive, store: &RunStore) -> Result<Rebuilt, RebuildError> {
    let mut rebuilt = Rebuilt::default();
    let seen = archive.manifest_keys(None).await?;
    rebuilt.missing = store.manifests_not_among(&seen).await?;
    let bonded_elsewhere = store.instance().await?.archive_id.is_some_and(|id| id != archive.id());
    if bonded_elsewhere && !rebuilt.missing.is_empty() {
        // This is not the archive that the database belongs to: nothing of it may get into the database.
        return Ok(rebuilt);
    }
    for key in seen {
        let stored = match archive.manifest_at(&key).await {
            Ok(Some(stored)) => stored,
            Ok(None) => continue,
            Err(error) => {
                rebuilt.unusable.push((key, crate::telemetry::Chain(&error).to_string()));
                continue;
            }
        };
        match adopt_stored(store, &stored).await {
            Ok(Some(Some(adopted))) => {
                rebuilt.adopted += 1;
                rebuilt.ended += adopted.ended;
                rebuilt.cancelled += adopted.cancelled;
            }
            Ok(Some(None)) => rebuilt.known += 1,
            Ok(None) => rebuilt.unusable.push((key, "it describes no revision that could be held".into())),
            // A manifest that a constraint refuses (a name that is none, a run twice) must not stop the others.
            Err(StoreError::Database { source: sqlx::Error::Database(e), .. }) if e.constraint().is_some() => {
                rebuilt
                    .unusable
                    .push((key, format!("the database refuses it: {}", e.constraint().unwrap_or_default())));
            }
            Err(error) => return Err(error.into()),
        }
    }
    // An archive that lacks what the database knows is not the one it belongs to, or was damaged: no bond is made to it.
    if rebuilt.missing.is_empty() {
        store.bond(archive.id(), true).await?;
    }
    Ok(rebuilt)
}
