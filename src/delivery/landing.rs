//! A copy of the report in a landing zone, for those who load it from there: a folder, or an object store (s3.rs).
//!
//! A landing zone holds the newest: what stands at the target is replaced, whole or not at all. In a folder the bytes go into a
//! temporary file beside the target, named after the delivery, so that a try after a crash replaces it; they are compared with
//! the archive's sha256 before anything is renamed, so a damaged archive file is never delivered. The same copy may be made
//! any number of times. Nothing here knows where the archive is, or follows a `..` that a placeholder brought.

mod s3;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Trouble;
use crate::connection::environment::Environment;

/// Bytes that are copied at once.
const CHUNK: usize = 256 * 1024;

/// A file of the archive that is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// Its name in the archive: `report.csv`, `page-0001.json`.
    pub name: String,
    /// For object stores, which keep one.
    pub media_type: String,
    /// sha256 of its bytes, in hex, as the archive's manifest has it.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

/// Copies the files to `url`, whose placeholders are filled: an absolute path, or `s3://bucket/key`, whose account is in the
/// `AWS_*` variables of `environment`.
///
/// One file goes exactly there; below a URL that ends with `/` files keep their names; several files are put beside each other
/// as the URL's stem, `_` and their name. `id` is the delivery's, the same at every try. Ok: where, and how many bytes.
///
/// Errors: `Refused` for a file that is not what the archive says it is and for a URL that climbs or is none, `Person` for what
/// permissions, settings or names in the way forbid, else `Later`.
pub async fn copy(
    url: &str,
    sources: &[Source],
    id: Uuid,
    environment: &Environment,
) -> Result<Option<String>, Trouble> {
    if let Some(rest) = url.strip_prefix("s3://") {
        return s3::copy(rest, sources, environment).await.map(Some);
    }
    if !url.starts_with('/') {
        return Err(Trouble::Refused(format!("'{url}' is no absolute path")));
    }
    let targets = targets(url, sources)?;
    let told = told(&targets, sources);
    let sources = sources.to_vec();
    tokio::task::spawn_blocking(move || {
        let targets: Vec<PathBuf> = targets.into_iter().map(PathBuf::from).collect();
        into_folder(&targets, &sources, id)
    })
    .await
    .map_err(|_| Trouble::later("the copy was cut short"))??;
    Ok(Some(told))
}

/// Where each file goes, of a path or a key.
fn targets(url: &str, sources: &[Source]) -> Result<Vec<String>, Trouble> {
    if sources.is_empty() {
        return Err(Trouble::Refused("the run has no file to copy".into()));
    }
    if url.split('/').any(|part| part == "..") || url.chars().any(char::is_control) {
        return Err(Trouble::Refused(format!("'{}' leads out of the landing zone", url.escape_debug())));
    }
    if let Some(source) = sources.iter().find(|source| source.name.contains('/') || source.name.starts_with('.')) {
        return Err(Trouble::Refused(format!("'{}' is no name of a file", source.name.escape_debug())));
    }
    let (folder, last) = url.split_at(url.rfind('/').map_or(0, |at| at + 1));
    let stem = last.rsplit_once('.').map_or(last, |(stem, _)| stem);
    let target = |source: &Source| match (last, sources.len()) {
        ("", _) => format!("{folder}{}", source.name),
        (_, 1) => url.to_owned(),
        _ => format!("{folder}{stem}_{}", source.name),
    };
    Ok(sources.iter().map(target).collect())
}

/// Where, and how many bytes.
fn told(targets: &[String], sources: &[Source]) -> String {
    let bytes: u64 = sources.iter().map(|source| source.bytes).sum();
    let first = targets.first().map_or("", String::as_str);
    match targets.len() {
        1 => format!("{first}, {bytes} bytes"),
        more => format!("{first} and {} more, {bytes} bytes", more - 1),
    }
}

/// Writes every file beside its target, then renames them all: what is damaged is found before anything changes.
fn into_folder(targets: &[PathBuf], sources: &[Source], id: Uuid) -> Result<(), Trouble> {
    let mut written = Vec::with_capacity(sources.len());
    for (n, (source, target)) in sources.iter().zip(targets).enumerate() {
        written.push(Temporary::write(source, target, &format!(".reportd-{}-{n}", id.simple()))?);
    }
    for (temporary, target) in written.into_iter().zip(targets) {
        temporary.place(target)?;
    }
    for folder in targets.first().iter().filter_map(|target| target.parent()) {
        sync(folder).map_err(|e| trouble("sync", folder, &e))?;
    }
    Ok(())
}

/// A file beside its target. Taken away again when it is not placed.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    /// Writes and checks it.
    fn write(source: &Source, target: &Path, name: &str) -> Result<Temporary, Trouble> {
        if target.is_dir() {
            let message = format!("{} is a folder: a url of a folder ends with /", target.display());
            return Err(Trouble::Person(message));
        }
        if target.symlink_metadata().is_ok_and(|there| !there.is_file() && !there.is_symlink()) {
            let message = format!("{} is a device, a pipe or a socket: a copy replaces files only", target.display());
            return Err(Trouble::Refused(message));
        }
        let folder = target.parent().unwrap_or(Path::new("/"));
        make_folders(folder).map_err(|e| trouble("make", folder, &e))?;
        let path = folder.join(name);
        // What an earlier try left. A new file, not the old one truncated: whoever still writes that one writes into nothing.
        if let Err(e) = std::fs::remove_file(&path)
            && e.kind() != ErrorKind::NotFound
        {
            return Err(trouble("replace", &path, &e));
        }
        let file = File::options().write(true).create_new(true).open(&path).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => other(),
            _ => trouble("write", &path, &e),
        })?;
        let mut temporary = Temporary { path, file };
        let mut reader = Checked::open(source)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = reader.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            temporary.file.write_all(&chunk[..n]).map_err(|e| trouble("write", &temporary.path, &e))?;
        }
        reader.finish()?;
        temporary.file.sync_all().map_err(|e| trouble("sync", &temporary.path, &e))?;
        Ok(temporary)
    }

    /// Renames it over whatever is there.
    fn place(self, target: &Path) -> Result<(), Trouble> {
        if !self.is_ours() {
            return Err(other());
        }
        std::fs::rename(&self.path, target).map_err(|e| trouble("put", target, &e))
    }

    /// Whether the name still leads to our file: a worker that was frozen for long may meet its successor's.
    fn is_ours(&self) -> bool {
        let inode = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let ours = self.file.metadata().map(inode);
        std::fs::symlink_metadata(&self.path).map(inode).is_ok_and(|found| ours.is_ok_and(|ours| ours == found))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the rename the name is gone or another's.
        if self.is_ours() {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Two workers at the same delivery: one was frozen until its lease ended.
fn other() -> Trouble {
    Trouble::later("another process is making the same copy")
}

/// A file of the archive that is compared with its manifest while it is read.
struct Checked {
    source: Source,
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Checked {
    fn open(source: &Source) -> Result<Checked, Trouble> {
        let file = File::open(&source.path).map_err(|e| trouble("read the archive's", &source.path, &e))?;
        Ok(Checked { source: source.clone(), file, hash: Sha256::new(), bytes: 0 })
    }

    /// Fills `chunk` as far as there are bytes; 0 = the end.
    fn read(&mut self, chunk: &mut [u8]) -> Result<usize, Trouble> {
        let mut filled = 0;
        while filled < chunk.len() {
            match self.file.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(trouble("read the archive's", &self.source.path, &e)),
            }
        }
        self.hash.update(&chunk[..filled]);
        self.bytes += filled as u64;
        Ok(filled)
    }

    /// Refuses what is not the archive's file.
    fn finish(self) -> Result<(), Trouble> {
        let Source { path, sha256, bytes, .. } = &self.source;
        if self.bytes == *bytes && hex::encode(self.hash.finalize()).eq_ignore_ascii_case(sha256) {
            return Ok(());
        }
        let message = format!(
            "{} is damaged: it has {} bytes, and its manifest says {bytes} with another sha256; see `archive verify`",
            path.display(),
            self.bytes
        );
        Err(Trouble::Refused(message))
    }
}

/// Makes missing folders, each durable in its parent.
fn make_folders(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let missing: Vec<&Path> = folder.ancestors().take_while(|at| !at.is_dir()).collect();
    std::fs::create_dir_all(folder)?;
    missing.into_iter().rev().filter_map(Path::parent).try_for_each(sync)
}

/// Makes a folder's entries durable.
fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// What a failed operation on files means.
fn trouble(what: &str, path: &Path, error: &std::io::Error) -> Trouble {
    let why = format!("{what} {}: {error}", path.display());
    match error.kind() {
        ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::NotADirectory
        | ErrorKind::AlreadyExists
        | ErrorKind::IsADirectory => Trouble::Person(why),
        ErrorKind::InvalidInput | ErrorKind::InvalidFilename => Trouble::Refused(why),
        // A full disk is emptied, a lost mount comes back.
        _ => Trouble::later(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str) -> Source {
        Source {
            path: PathBuf::new(),
            name: name.into(),
            media_type: "text/csv".into(),
            sha256: String::new(),
            bytes: 5,
        }
    }

    #[test]
    fn one_file_goes_exactly_there_and_several_beside_each_other() {
        let (one, two) = (source("report.csv"), source("rows.ndjson"));
        let paths = |url: &str, sources: &[Source]| targets(url, sources).unwrap();
        assert_eq!(paths("/in/2026-03-03.csv", std::slice::from_ref(&one)), ["/in/2026-03-03.csv"]);
        assert_eq!(paths("/in/", std::slice::from_ref(&one)), ["/in/report.csv"]);
        let both = [one, two];
        assert_eq!(paths("/in/a.json", &both), ["/in/a_report.csv", "/in/a_rows.ndjson"]);
        assert_eq!(paths("/in.d/a", &both), ["/in.d/a_report.csv", "/in.d/a_rows.ndjson"]);
        assert_eq!(paths("key.json", &both), ["key_report.csv", "key_rows.ndjson"]);
        assert_eq!(told(&paths("/in/", &both), &both), "/in/report.csv and 1 more, 10 bytes");
    }

    #[test]
    fn nothing_climbs_out_of_the_landing_zone() {
        for (url, name) in [
            ("/in/../etc/x", "r.csv"),
            ("/in/..", "r.csv"),
            ("/in/a\nb", "r.csv"),
            ("/in/", "../r.csv"),
            ("/in/", ".r"),
        ] {
            assert!(matches!(targets(url, &[source(name)]), Err(Trouble::Refused(_))), "{url} {name}");
        }
        assert!(targets("/in/a..b", &[source("r.csv")]).is_ok(), "two dots in a name climb nowhere");
    }

    #[test]
    fn a_worker_that_was_frozen_neither_places_nor_takes_away_its_successors_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archived");
        std::fs::write(&path, "bytes").unwrap();
        let sha256 = hex::encode(Sha256::digest("bytes"));
        let (source, target) = (Source { path, sha256, ..source("r.csv") }, folder.path().join("r.csv"));
        let write = || Temporary::write(&source, &target, ".same").unwrap();
        let frozen = write();
        let successor = write();
        // Only now does the first go on.
        assert!(matches!(frozen.place(&target), Err(Trouble::Later { .. })));
        assert!(!target.exists() && successor.path.exists());
        successor.place(&target).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"bytes");
        drop(write());
        assert!(!folder.path().join(".same").exists(), "what is not placed is taken away");
    }

    #[test]
    fn what_a_person_must_change_is_told_from_what_passes() {
        let word = |kind: ErrorKind| match trouble("write", Path::new("/in/x"), &kind.into()) {
            Trouble::Later { why, .. } => ("later", why),
            Trouble::Person(why) | Trouble::Credentials(why) => ("person", why),
            Trouble::Refused(why) => ("refused", why),
            Trouble::Unclear(why) => ("unclear", why),
        };
        for (kind, expected) in [
            (ErrorKind::StorageFull, "later"),
            (ErrorKind::QuotaExceeded, "later"),
            (ErrorKind::StaleNetworkFileHandle, "later"),
            (ErrorKind::NotFound, "later"),
            (ErrorKind::PermissionDenied, "person"),
            (ErrorKind::ReadOnlyFilesystem, "person"),
            (ErrorKind::NotADirectory, "person"),
            (ErrorKind::InvalidFilename, "refused"),
        ] {
            let (word, why) = word(kind);
            assert_eq!(word, expected, "{kind}");
            assert!(why.starts_with("write /in/x: "), "{why}");
        }
    }
}
