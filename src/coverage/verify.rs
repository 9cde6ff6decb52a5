//! `coverage --verify`: the bytes of what is held, hashed again and compared with what the database knows of them.

use std::collections::HashMap;
use std::path::PathBuf;

use futures_util::StreamExt;

use super::cell::State;
use super::look::Calendar;
use crate::archive::verify::hash_file;
use crate::run::store::StoreError;
use crate::worker::Worker;

/// Revisions that are hashed at once.
const AT_ONCE: usize = 4;

/// What was hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Revisions.
    pub revisions: usize,
    /// Files.
    pub files: usize,
    /// Bytes.
    pub bytes: u64,
}

/// Hashes every file of what is held, and its manifest, and marks what is not as it was.
pub(super) async fn hash(worker: &Worker, calendar: &mut Calendar<'_>) -> Result<(), StoreError> {
    let held: Vec<_> = calendar.cells.iter().filter_map(|cell| cell.held.as_deref()).collect();
    let revisions: Vec<_> = held.iter().map(|row| (row.series_id, row.window_label.clone(), row.revision)).collect();
    let mut files: HashMap<_, Vec<(String, String)>> = HashMap::new();
    for (row, key) in held.iter().zip(&revisions) {
        files.entry(key.clone()).or_default().push((row.manifest_path.clone(), row.manifest_sha256.clone()));
    }
    // Of what retention took away the manifest alone is there to be hashed.
    let is_pruned = |(manifest, sha256): &(String, String)| worker.archive.is_pruned(manifest, sha256);
    for row in worker.store.files_of(&revisions).await? {
        let key = (row.series_id, row.window_label, row.revision);
        let Some(files) = files.get_mut(&key) else { continue };
        if worker.archive.path(&row.path).exists() || !files.first().is_some_and(is_pruned) {
            files.push((row.path, row.sha256));
        }
    }
    let mut checked = Checked { revisions: revisions.len(), ..Checked::default() };
    let tasks = calendar.cells.iter().enumerate().filter_map(|(n, cell)| {
        let row = cell.held.as_deref()?;
        let key = (row.series_id, row.window_label.clone(), row.revision);
        let paths = files.remove(&key)?;
        let paths: Vec<_> =
            paths.into_iter().map(|(path, sha256)| (worker.archive.path(&path), path, sha256)).collect();
        Some((n, paths))
    });
    let tasks: Vec<_> = tasks.collect();
    let mut results = futures_util::stream::iter(tasks)
        .map(async |(n, paths)| {
            let hashed = tokio::task::spawn_blocking(move || trouble(&paths)).await;
            (n, hashed.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())))
        })
        .buffered(AT_ONCE);
    while let Some((n, (files, bytes, trouble))) = results.next().await {
        checked.files += files;
        checked.bytes += bytes;
        if let Some(why) = trouble {
            calendar.cells[n].state = State::Damaged;
            calendar.damage.push((calendar.cells[n].window, why));
        }
    }
    drop(results);
    calendar.checked = checked;
    Ok(())
}

/// Hashes files; how many, how many bytes, and the first thing that is wrong.
fn trouble(files: &[(PathBuf, String, String)]) -> (usize, u64, Option<String>) {
    let mut bytes = 0;
    for (at, path, sha256) in files {
        match hash_file(at) {
            Ok((size, found)) => {
                bytes += size;
                if found != *sha256 {
                    return (
                        files.len(),
                        bytes,
                        Some(format!("{path}: sha256 is {}…, not {}…", &found[..8], head(sha256))),
                    );
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return (files.len(), bytes, Some(format!("{path} is not there")));
            }
            Err(e) => return (files.len(), bytes, Some(format!("{path} cannot be read: {e}"))),
        }
    }
    (files.len(), bytes, None)
}

fn head(sha256: &str) -> &str {
    sha256.get(..8).unwrap_or(sha256)
}
