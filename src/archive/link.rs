//! Putting files into a revision's folder: linked, never over another, every new folder and name made durable.

use std::path::Path;

use uuid::Uuid;

use super::ArchiveError;
use super::manifest::FileEntry;
use crate::artifact::Spooled;

pub(super) fn link_all(
    root: &Path,
    folder: &str,
    attempt: Uuid,
    files: &[Spooled],
) -> Result<Vec<FileEntry>, ArchiveError> {
    let path = root.join(folder);
    make_folders(root, &path)?;
    let mut entries = Vec::with_capacity(files.len());
    for file in files {
        let name = link(&path, file, attempt).map_err(|source| ArchiveError::Folder {
            what: "put a file into",
            path: path.clone(),
            source,
        })?;
        entries.push(FileEntry {
            name,
            media_type: file.media_type.to_owned(),
            bytes: file.bytes,
            sha256: file.sha256.clone(),
            simulated: file.simulated,
            derived: file.derived,
        });
    }
    sync_folder(&path).map_err(|source| ArchiveError::Folder { what: "sync", path, source })?;
    Ok(entries)
}

/// Makes the folders below `root` down to `path`, and syncs the parent of each new one: a folder whose entry is lost takes
/// its files along.
fn make_folders(root: &Path, path: &Path) -> Result<(), ArchiveError> {
    let fail = |what, at: &Path, source| ArchiveError::Folder { what, path: at.to_owned(), source };
    let mut new = Vec::new();
    let mut at = path;
    while at != root && !at.is_dir() {
        new.push(at.to_owned());
        let Some(parent) = at.parent() else { break };
        at = parent;
    }
    std::fs::create_dir_all(path).map_err(|e| fail("make", path, e))?;
    for folder in new.iter().rev() {
        if let Some(parent) = folder.parent() {
            sync_folder(parent).map_err(|e| fail("sync", parent, e))?;
        }
    }
    Ok(())
}

/// Links one file into `folder`, never over another; returns the name it got.
fn link(folder: &Path, file: &Spooled, attempt: Uuid) -> std::io::Result<String> {
    let short = &attempt.simple().to_string()[..8];
    let (stem, ending) = file.name.rsplit_once('.').unwrap_or((&file.name, "bin"));
    let mut name = file.name.clone();
    for n in 0..100 {
        match put_link(file.path(), &folder.join(&name)) {
            Ok(()) => return Ok(name),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                name = if n == 0 { format!("{stem}-{short}.{ending}") } else { format!("{stem}-{short}-{n}.{ending}") };
            }
            Err(e) => return Err(e),
        }
    }
    Err(std::io::Error::other("a hundred attempts left files of this name"))
}

/// A hard link where the file system has them, else a copy that refuses to overwrite.
fn put_link(from: &Path, to: &Path) -> std::io::Result<()> {
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotFound) => Err(e),
        Err(_) => {
            let mut target = std::fs::File::options().write(true).create_new(true).open(to)?;
            std::io::copy(&mut std::fs::File::open(from)?, &mut target)?;
            target.sync_all()
        }
    }
}

/// Makes the folder's entries durable.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}
