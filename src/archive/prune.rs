//! Retention: which bytes are kept no longer, and taking them away.
//!
//! The manifest stays, and so does the window: that it was held, what was asked, and what had come remain known, nothing is fetched
//! again, and the chain of revisions stays whole. `pruned.json` is put beside the manifest before the first file goes: it tells a reader
//! without a database that the files were taken away on purpose, and a crash in between leaves what the next call finishes.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::link::sync_folder;
use super::manifest::{FileEntry, Manifest};
use super::{Archive, ArchiveError, MANIFEST, verify};
use crate::yaml::show_duration;

/// The file that says that a revision's files were taken away on purpose.
pub(super) const PRUNED: &str = "pruned.json";

/// The version written today.
const SCHEMA_VERSION: u32 = 1;

/// How long bytes are kept; `None` = for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Since they were received.
    pub age: Option<Duration>,
    /// Newest revisions of a window, at least 1.
    pub revisions: Option<u32>,
}

/// A revision whose bytes need not be kept any longer.
#[derive(Clone, Debug)]
pub struct Prunable {
    /// Its folder.
    pub folder: String,
    /// Its manifest.
    pub manifest: Manifest,
    /// Hash of the manifest's bytes.
    pub manifest_sha256: String,
    /// Those of its files that are there.
    pub files: Vec<FileEntry>,
    /// Which rule lets it go.
    pub reason: String,
}

/// What a look at the archive for such revisions found.
#[derive(Clone, Debug, Default)]
pub struct Prunables {
    /// By place.
    pub revisions: Vec<Prunable>,
    /// Manifests that cannot be used, with why: their files stay.
    pub unusable: Vec<(String, String)>,
}

/// `pruned.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Tombstone {
    schema_version: u32,
    run_id: Uuid,
    manifest_sha256: String,
    pruned_at: DateTime<Utc>,
    pruned_by: String,
    reason: String,
}

/// A manifest of a window's folder, with its place and hash.
struct Found {
    folder: String,
    manifest: Manifest,
    sha256: String,
}

/// Whether the files of a revision were taken away on purpose. The error says why its `pruned.json` is not believed.
pub(super) fn is_pruned(root: &Path, folder: &str, manifest_sha256: &str) -> Result<bool, &'static str> {
    let bytes = match std::fs::read(root.join(folder).join(PRUNED)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(_) => return Err("it cannot be read"),
    };
    let word: Tombstone = serde_json::from_slice(&bytes).map_err(|_| "it is not what reportd writes")?;
    if word.schema_version > SCHEMA_VERSION {
        return Err("its schema_version is newer than this reportd knows");
    }
    if word.manifest_sha256 == manifest_sha256 { Ok(true) } else { Err("it was written for another manifest") }
}

impl Archive {
    /// Looks for revisions whose bytes need not be kept any longer: `keep` says how long those of a manifest are, by its key. Reads
    /// every manifest.
    pub async fn prunable(
        &self,
        now: DateTime<Utc>,
        keep: impl Fn(&str) -> Keep + Send + 'static,
    ) -> Result<Prunables, ArchiveError> {
        let root = self.root().to_owned();
        let found = tokio::task::spawn_blocking(move || look(&root, now, &keep)).await;
        found.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Takes a revision's files away; `who` says so. What another process took away meanwhile is no error.
    pub async fn prune(&self, one: &Prunable, now: DateTime<Utc>, who: &str) -> Result<(), ArchiveError> {
        let word = Tombstone {
            schema_version: SCHEMA_VERSION,
            run_id: one.manifest.run_id,
            manifest_sha256: one.manifest_sha256.clone(),
            pruned_at: now,
            pruned_by: who.to_owned(),
            reason: one.reason.clone(),
        };
        let key = format!("{}/{PRUNED}", one.folder);
        let mut text =
            serde_json::to_vec_pretty(&word).map_err(|source| ArchiveError::Unreadable { key: key.clone(), source })?;
        text.push(b'\n');
        if !self.put_once(&key, text).await? {
            // Another call was here before. What does not say so of this very manifest would make the files look lost.
            let refused = |why: &str| ArchiveError::Folder {
                what: "prune what is beside",
                path: self.path(&key),
                source: std::io::Error::other(format!("it is there already, and {why}: move it away")),
            };
            if !is_pruned(self.root(), &one.folder, &one.manifest_sha256).map_err(refused)? {
                return Err(refused("then it was not"));
            }
        }
        self.sync(&one.folder)?;
        crate::crash::point("tombstone-put");
        let folder = self.path(&one.folder);
        let names: Vec<String> = one.files.iter().map(|file| file.name.clone()).collect();
        let gone = tokio::task::spawn_blocking(move || remove(&folder, &names)).await;
        gone.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Whether retention took the files of the revision with this manifest away. What is not to be believed counts as no.
    pub fn is_pruned(&self, manifest_path: &str, manifest_sha256: &str) -> bool {
        is_pruned(self.root(), parent(manifest_path), manifest_sha256) == Ok(true)
    }

    /// Whether an artifact is not there because retention took it away, so far as one sees without its manifest.
    pub fn was_pruned(&self, artifact: &str) -> bool {
        !self.path(artifact).exists() && self.path(parent(artifact)).join(PRUNED).is_file()
    }
}

fn remove(folder: &Path, names: &[String]) -> Result<(), ArchiveError> {
    let fail = |what, path: &Path, source| ArchiveError::Folder { what, path: path.to_owned(), source };
    for name in names {
        let path = folder.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail("prune", &path, e)),
            _ => {}
        }
    }
    sync_folder(folder).map_err(|source| fail("sync", folder, source))
}

fn look(root: &Path, now: DateTime<Utc>, keep: &dyn Fn(&str) -> Keep) -> Result<Prunables, ArchiveError> {
    let mut found = Prunables::default();
    let keys = verify::walk(root, None)?;
    let folders: Vec<&str> = keys.iter().filter_map(|key| key.strip_suffix(MANIFEST)?.strip_suffix('/')).collect();
    // In the order of their names the revisions of a window stand together.
    for window in folders.chunk_by(|a, b| parent(a) == parent(b)) {
        let mut revisions = Vec::with_capacity(window.len());
        for folder in window {
            match read(root, folder) {
                Ok(revision) => revisions.push(revision),
                Err(why) => found.unusable.push((format!("{folder}/{MANIFEST}"), why)),
            }
        }
        revisions.sort_by_key(|one| std::cmp::Reverse(one.manifest.revision));
        found.revisions.extend(let_go(root, revisions, now, keep));
    }
    Ok(found)
}

fn parent(folder: &str) -> &str {
    folder.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn read(root: &Path, folder: &str) -> Result<Found, String> {
    let bytes = std::fs::read(root.join(folder).join(MANIFEST)).map_err(|e| format!("it cannot be read: {e}"))?;
    let manifest = Manifest::from_bytes(&bytes).map_err(|e| format!("it is not what reportd writes: {e}"))?;
    manifest.check(folder)?;
    Ok(Found { folder: folder.to_owned(), manifest, sha256: hex::encode(Sha256::digest(&bytes)) })
}

/// Those of a window's revisions, given newest first, that may go and still have files; oldest first.
fn let_go(root: &Path, revisions: Vec<Found>, now: DateTime<Utc>, keep: &dyn Fn(&str) -> Keep) -> Vec<Prunable> {
    let newest = revisions.first().map_or(0, |one| one.manifest.revision);
    // The newest final report is no surplus, however many provisional ones came after it.
    let newest_final = revisions.iter().position(|one| !one.manifest.provisional);
    let reason = |n: usize, folder: &str, manifest: &Manifest| {
        let Keep { age, revisions } = keep(&format!("{folder}/{MANIFEST}"));
        let is_older = |age: &Duration| {
            chrono::Duration::from_std(*age).is_ok_and(|age| now.signed_duration_since(manifest.received_at) > age)
        };
        if let Some(age) = age.filter(is_older) {
            let day = manifest.received_at.format("%Y-%m-%d");
            return Some(format!("received {day}, more than {} ago", show_duration(age)));
        }
        let stay = revisions.filter(|stay| n >= *stay as usize && newest_final != Some(n))?;
        Some(format!("r{newest} is the newest, and {stay} stay"))
    };
    let prunable = |(n, found): (usize, Found)| {
        let Found { folder, manifest, sha256 } = found;
        let reason = reason(n, &folder, &manifest)?;
        let is_there = |file: &&FileEntry| root.join(&folder).join(&file.name).is_file();
        let files: Vec<FileEntry> = manifest.files.iter().filter(is_there).cloned().collect();
        (!files.is_empty()).then_some(Prunable { folder, manifest, manifest_sha256: sha256, files, reason })
    };
    let mut prunable: Vec<Prunable> = revisions.into_iter().enumerate().filter_map(prunable).collect();
    prunable.reverse();
    prunable
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::manifest::{self, ManifestWindow};

    const FOLDER: &str = "report/north/2025/2025-03-03";

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("an instant")
    }

    /// Puts a revision that was received in that year.
    fn put(root: &Path, revision: i32, year: i32, provisional: bool) {
        let folder = format!("{FOLDER}/r{revision}");
        std::fs::create_dir_all(root.join(&folder)).expect("folder");
        std::fs::write(root.join(&folder).join("report.csv"), "a,b").expect("file");
        let received = at(&format!("{year}-03-05T00:00:00Z"));
        let manifest = Manifest {
            schema_version: manifest::SCHEMA_VERSION,
            archive_id: Uuid::nil(),
            job: "report".into(),
            connection: "north".into(),
            vendor: "livechat".into(),
            run_id: Uuid::nil(),
            trigger: "manual".into(),
            fire_at: String::new(),
            window: ManifestWindow {
                start: at("2025-03-03T00:00:00Z"),
                end: at("2025-03-04T00:00:00Z"),
                label: "2025-03-03".into(),
                first_date: "2025-03-03".into(),
                last_date: "2025-03-03".into(),
                zone: "UTC".into(),
                tzdata: String::new(),
            },
            revision,
            supersedes: None,
            previous_manifest_sha256: None,
            state: "archived".into(),
            provisional,
            request: serde_json::Value::Null,
            content_hash: String::new(),
            ticket: None,
            vendor_status: None,
            requested_at: received,
            received_at: received,
            handed_in_by: None,
            files: vec![FileEntry {
                name: "report.csv".into(),
                media_type: "text/csv".into(),
                bytes: 3,
                sha256: String::new(),
                simulated: false,
                derived: false,
            }],
            reportd_version: String::new(),
        };
        std::fs::write(root.join(&folder).join(MANIFEST), manifest.to_bytes()).expect("manifest");
    }

    fn gone(root: &Path, age: Option<Duration>, revisions: Option<u32>) -> Vec<i32> {
        let found = look(root, at("2030-01-01T00:00:00Z"), &|_: &str| Keep { age, revisions }).expect("look");
        assert!(found.unusable.is_empty(), "{:?}", found.unusable);
        found.revisions.iter().map(|one| one.manifest.revision).collect()
    }

    #[test]
    fn the_newest_final_report_is_no_surplus_and_age_spares_none() {
        let folder = tempfile::tempdir().expect("folder");
        let years = Duration::from_secs(3 * 366 * 86_400);
        // r10 comes before r2 by name.
        for (revision, year, provisional) in [(1, 2025, false), (2, 2026, false), (3, 2028, true), (10, 2029, true)] {
            put(folder.path(), revision, year, provisional);
        }
        assert_eq!(gone(folder.path(), None, None), [0; 0]);
        assert_eq!(gone(folder.path(), None, Some(4)), [0; 0]);
        assert_eq!(gone(folder.path(), None, Some(2)), [1]);
        assert_eq!(gone(folder.path(), None, Some(1)), [1, 3]);
        assert_eq!(gone(folder.path(), Some(years), None), [1, 2]);
        assert_eq!(gone(folder.path(), Some(years), Some(1)), [1, 2, 3]);
        std::fs::remove_file(folder.path().join(FOLDER).join("r1/report.csv")).expect("file");
        assert_eq!(gone(folder.path(), Some(years), Some(1)), [2, 3], "what has no file left is not named again");
    }

    #[test]
    fn a_manifest_that_says_another_place_lets_nothing_go() {
        let folder = tempfile::tempdir().expect("folder");
        put(folder.path(), 1, 2025, false);
        let moved = folder.path().join("other/north/2025/2025-03-03");
        std::fs::create_dir_all(&moved).expect("folder");
        std::fs::rename(folder.path().join(FOLDER).join("r1"), moved.join("r1")).expect("rename");
        let keep = |_: &str| Keep { age: Some(Duration::from_secs(1)), revisions: Some(1) };
        let found = look(folder.path(), at("2030-01-01T00:00:00Z"), &keep).expect("look");
        assert!(found.revisions.is_empty());
        assert_eq!(found.unusable.len(), 1);
        assert!(found.unusable[0].1.contains("not where it lies"), "{:?}", found.unusable);
    }
}
