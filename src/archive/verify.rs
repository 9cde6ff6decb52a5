//! `archive verify`: every byte against its manifest, every manifest against its chain, without a database.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::manifest::{FileEntry, Manifest};
use super::prune::{PRUNED, is_pruned};
use super::{Archive, ArchiveError};

/// One thing that is wrong, or an orphan, which is not wrong but told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Key relative to the archive.
    pub path: String,
    /// `damaged`, `missing`, `unreadable`, `misplaced`, `broken_chain`, or `orphan` (a file of no manifest, which a crash
    /// leaves; harmless).
    pub kind: &'static str,
    /// What is wrong.
    pub message: String,
}

impl Fault {
    /// Whether the archive is not what its manifests say; an orphan is not such a fault.
    pub fn is_damage(&self) -> bool {
        self.kind != "orphan"
    }
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Manifests read.
    pub revisions: usize,
    /// Files hashed.
    pub files: usize,
    /// Bytes hashed.
    pub bytes: u64,
    /// Files that retention took away.
    pub pruned: usize,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

/// All files below `root` as keys, sorted; what starts with a dot is not the archive's. After `until` it is given up.
pub(crate) fn walk(root: &Path, until: Option<Instant>) -> Result<Vec<String>, ArchiveError> {
    let mut keys = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(ArchiveError::TooLarge);
        }
        let fail = |source| ArchiveError::Folder { what: "read the folder", path: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if entry.file_type().map_err(fail)?.is_dir() {
                folders.push(entry.path());
            } else if let Ok(key) = entry.path().strip_prefix(root) {
                keys.push(key.to_string_lossy().into_owned());
            }
        }
    }
    keys.sort();
    Ok(keys)
}

/// Size and sha256 of a file, in flat memory.
pub(crate) fn hash_file(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((size, hex::encode(hash.finalize())));
        }
        size += read as u64;
        hash.update(&buffer[..read]);
    }
}

impl Archive {
    /// Checks everything. Reads every byte, so it takes as long as the disk does.
    pub async fn verify(&self) -> Result<Report, ArchiveError> {
        let root = self.root().to_owned();
        let report = tokio::task::spawn_blocking(move || check(&root)).await;
        report.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

/// A manifest as a link of its window's chain of revisions.
struct Link {
    revision: i32,
    sha256: String,
    supersedes: Option<i32>,
    previous: Option<String>,
}

struct Checker<'a> {
    root: &'a Path,
    report: Report,
    /// Files that no manifest has named so far.
    unnamed: BTreeSet<&'a str>,
    /// By folder of a window.
    chains: HashMap<String, Vec<Link>>,
}

fn check(root: &Path) -> Result<Report, ArchiveError> {
    let keys = walk(root, None)?;
    let is_manifest = |key: &&String| key.ends_with("/manifest.json");
    let files = keys.iter().filter(|k| !is_manifest(k) && *k != "reportd.json").map(String::as_str);
    let mut checker = Checker { root, report: Report::default(), unnamed: files.collect(), chains: HashMap::new() };
    for key in keys.iter().filter(is_manifest) {
        checker.manifest(key);
    }
    checker.links();
    for key in std::mem::take(&mut checker.unnamed) {
        let message = "no manifest names it: a crashed attempt left it, or somebody put it there";
        checker.fault("orphan", key, message.to_owned());
    }
    checker.report.faults.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(checker.report)
}

impl Checker<'_> {
    fn fault(&mut self, kind: &'static str, path: &str, message: String) {
        self.report.faults.push(Fault { path: path.to_owned(), kind, message });
    }

    fn manifest(&mut self, key: &str) {
        let bytes = match std::fs::read(self.root.join(key)) {
            Ok(bytes) => bytes,
            Err(e) => return self.fault("unreadable", key, format!("the manifest cannot be read: {e}")),
        };
        let manifest = match Manifest::from_bytes(&bytes) {
            Ok(manifest) => manifest,
            Err(e) => return self.fault("unreadable", key, format!("the manifest is not what reportd writes: {e}")),
        };
        self.report.revisions += 1;
        let folder = key.strip_suffix("/manifest.json").unwrap_or(key);
        if let Err(why) = manifest.check(folder) {
            return self.fault("misplaced", key, why);
        }
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let is_pruned = self.is_pruned(folder, &sha256);
        for file in &manifest.files {
            self.file(folder, file, is_pruned);
        }
        let link = Link {
            revision: manifest.revision,
            sha256,
            supersedes: manifest.supersedes,
            previous: manifest.previous_manifest_sha256,
        };
        let window = folder.rsplit_once('/').map_or(folder, |(window, _)| window);
        self.chains.entry(window.to_owned()).or_default().push(link);
    }

    /// Whether retention took this revision's files away. A word of it that cannot be believed is a fault.
    fn is_pruned(&mut self, folder: &str, manifest_sha256: &str) -> bool {
        let path = format!("{folder}/{PRUNED}");
        self.unnamed.remove(path.as_str());
        is_pruned(self.root, folder, manifest_sha256).unwrap_or_else(|why| {
            self.fault("unreadable", &path, why.to_owned());
            false
        })
    }

    fn file(&mut self, folder: &str, file: &FileEntry, is_pruned: bool) {
        let path = format!("{folder}/{}", file.name);
        self.unnamed.remove(path.as_str());
        match hash_file(&self.root.join(&path)) {
            Ok((size, sha256)) => {
                self.report.files += 1;
                self.report.bytes += size;
                if size != file.bytes {
                    self.fault("damaged", &path, format!("{size} bytes, and the manifest says {}", file.bytes));
                } else if sha256 != file.sha256 {
                    self.fault("damaged", &path, format!("sha256 is {sha256}, and the manifest says {}", file.sha256));
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && is_pruned => self.report.pruned += 1,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                self.fault("missing", &path, "the manifest names it, and it is not there".into());
            }
            Err(e) => self.fault("unreadable", &path, format!("it cannot be read: {e}")),
        }
    }

    /// Every revision was written after the very manifest it says it supersedes.
    fn links(&mut self) {
        for (folder, links) in std::mem::take(&mut self.chains) {
            for link in &links {
                let Some(before) = link.supersedes else { continue };
                let found = links.iter().find(|l| l.revision == before).map(|l| &l.sha256);
                if found != link.previous.as_ref() {
                    let message = match found {
                        Some(_) => format!("r{before} is not the manifest that r{} was written after", link.revision),
                        None => format!("r{before}, which r{} supersedes, is not there", link.revision),
                    };
                    self.fault("broken_chain", &format!("{folder}/r{}/manifest.json", link.revision), message);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_ends_when_its_time_is_over() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir_all(folder.path().join("job/shop")).expect("folders");
        std::fs::write(folder.path().join("job/shop/report.csv"), "x").expect("file");
        assert_eq!(walk(folder.path(), None).expect("walk"), ["job/shop/report.csv"]);
        assert!(matches!(walk(folder.path(), Some(Instant::now())), Err(ArchiveError::TooLarge)));
        let later = Some(Instant::now() + std::time::Duration::from_secs(3600));
        assert_eq!(walk(folder.path(), later).expect("walk").len(), 1);
    }
}
