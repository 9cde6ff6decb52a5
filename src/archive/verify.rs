//! `archive verify`: every byte against its manifest, every manifest against its chain, without a database.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::manifest::{Manifest, SCHEMA_VERSION};
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
    /// What is wrong.
    pub faults: Vec<Fault>,
}

/// All files below `root` as keys, sorted; what starts with a dot is not the archive's.
pub(crate) fn walk(root: &Path) -> Result<Vec<String>, ArchiveError> {
    let mut keys = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
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

fn check(root: &Path) -> Result<Report, ArchiveError> {
    let keys = walk(root)?;
    let mut report = Report::default();
    let mut orphans: std::collections::BTreeSet<&str> =
        keys.iter().map(String::as_str).filter(|k| !k.ends_with("/manifest.json") && *k != "reportd.json").collect();
    // Folder of a window -> revision -> (sha256 of the manifest, what it says of the one before).
    let mut chains: HashMap<String, Vec<(i32, String, Option<i32>, Option<String>)>> = HashMap::new();
    for key in keys.iter().filter(|k| k.ends_with("/manifest.json")) {
        let mut fault = |kind, path: &str, message: String| {
            report.faults.push(Fault { path: path.to_owned(), kind, message });
        };
        let bytes = match std::fs::read(root.join(key)) {
            Ok(bytes) => bytes,
            Err(e) => {
                fault("unreadable", key, format!("the manifest cannot be read: {e}"));
                continue;
            }
        };
        let manifest = match Manifest::from_bytes(&bytes) {
            Ok(manifest) => manifest,
            Err(e) => {
                fault("unreadable", key, format!("the manifest is not what reportd writes: {e}"));
                continue;
            }
        };
        report.revisions += 1;
        if manifest.schema_version > SCHEMA_VERSION {
            let message = format!("schema_version {} is newer than this reportd knows", manifest.schema_version);
            fault("unreadable", key, message);
            continue;
        }
        let folder = key.trim_end_matches("/manifest.json");
        let place = manifest
            .window
            .window()
            .map(|w| super::revision_folder(&manifest.job, &manifest.connection, &w, manifest.revision));
        if place.as_deref() != Some(folder) {
            let message = format!("the manifest describes {}, which is not where it lies", place.unwrap_or_default());
            fault("misplaced", key, message);
        }
        for file in &manifest.files {
            let path = format!("{folder}/{}", file.name);
            orphans.remove(path.as_str());
            if file.name.contains('/') || file.name.contains('\\') || file.name.starts_with('.') {
                fault("misplaced", key, format!("the manifest names a file outside its folder: {}", file.name));
                continue;
            }
            match hash_file(&root.join(&path)) {
                Ok((size, sha256)) => {
                    report.files += 1;
                    report.bytes += size;
                    if size != file.bytes {
                        fault("damaged", &path, format!("{size} bytes, and the manifest says {}", file.bytes));
                    } else if sha256 != file.sha256 {
                        fault("damaged", &path, format!("sha256 is {sha256}, and the manifest says {}", file.sha256));
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    fault("missing", &path, "the manifest names it, and it is not there".into());
                }
                Err(e) => fault("unreadable", &path, format!("it cannot be read: {e}")),
            }
        }
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let window = folder.rsplit_once('/').map_or(folder, |(window, _)| window).to_owned();
        let link = (manifest.revision, sha256, manifest.supersedes, manifest.previous_manifest_sha256);
        chains.entry(window).or_default().push(link);
    }
    for (folder, links) in chains {
        for (revision, _, supersedes, previous) in &links {
            let Some(before) = supersedes else { continue };
            let found = links.iter().find(|(r, ..)| r == before).map(|(_, sha256, ..)| sha256);
            if found != previous.as_ref() {
                let message = match found {
                    Some(_) => format!("r{before} is not the manifest that r{revision} was written after"),
                    None => format!("r{before}, which r{revision} supersedes, is not there"),
                };
                report.faults.push(Fault {
                    path: format!("{folder}/r{revision}/manifest.json"),
                    kind: "broken_chain",
                    message,
                });
            }
        }
    }
    for key in orphans {
        let message = "no manifest names it: a crashed attempt left it, or somebody put it there".to_owned();
        report.faults.push(Fault { path: key.to_owned(), kind: "orphan", message });
    }
    report.faults.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(report)
}
