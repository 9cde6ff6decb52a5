//! The archive: artifacts and manifests in a folder, which can be read and checked without reportd or its database.
//!
//! Nothing in it is overwritten. A revision exists when its manifest does, and the manifest is put with put-if-absent, which
//! decides between two workers. Order of a commit: bytes synced under a key that nothing else has, folder synced, manifest,
//! folder synced; only then may the database say `archived`. A crash leaves an orphan or a manifest that its run adopts,
//! never a row without bytes.
//!
//! ```text
//! <archive>/reportd.json                                          which archive this is
//! <archive>/<job>/<connection>/<yyyy>/<window>/r1/report.csv      the bytes as received
//! <archive>/<job>/<connection>/<yyyy>/<window>/r1/manifest.json   what makes the revision exist
//! <archive>/<job>/<connection>/<yyyy>/<window>/r1/pruned.json     retention took the bytes away; the manifest stays
//! <archive>/.spool/                                               files on their way in; safe to delete when nothing runs
//! ```

mod link;
pub mod manifest;
pub mod prune;
pub mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

use crate::artifact::{Spool, SpoolError, Spooled};
use crate::request::window::Window;
use link::{link_all, sync_folder};
use manifest::{FileEntry, Manifest};

/// What can go wrong with the archive.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The store failed.
    #[error("{what} {key} in the archive")]
    Store {
        /// What was being done.
        what: &'static str,
        /// With which key.
        key: String,
        /// Why it failed.
        #[source]
        source: object_store::Error,
    },
    /// The folder failed.
    #[error("{what} {path}")]
    Folder {
        /// What was being done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A JSON file of the archive cannot be read.
    #[error("read {key}: it is not the JSON that reportd writes")]
    Unreadable {
        /// Which.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The revision's manifest exists already and is another run's.
    #[error("{key} exists already and belongs to run {run}")]
    Taken {
        /// Which.
        key: String,
        /// Whose.
        run: Uuid,
    },
    /// It was not walked within the time that there was for it.
    #[error("there are too many files in the archive to look at all of them now")]
    TooLarge,
    /// The spool folder cannot be used.
    #[error("use the archive's spool folder")]
    Spool(#[source] SpoolError),
}

/// `reportd.json`: which archive this is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Identity {
    schema_version: u32,
    archive_id: Uuid,
    what: String,
}

/// The archive in a local folder.
#[derive(Clone, Debug)]
pub struct Archive {
    root: PathBuf,
    store: Arc<LocalFileSystem>,
    id: Uuid,
    spool: Spool,
}

/// A revision that is in the archive.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its manifest.
    pub manifest: Manifest,
    /// Key of the manifest.
    pub manifest_path: String,
    /// Hash of the manifest's bytes.
    pub manifest_sha256: String,
}

/// The folder of a window's revisions: `<job>/<connection>/<yyyy>/<window>`. Pure; every part is ASCII that we chose.
pub fn window_folder(job: &str, connection: &str, window: &Window) -> String {
    format!("{job}/{connection}/{:04}/{}", window.year(), window.label())
}

/// The folder of one revision.
pub fn revision_folder(job: &str, connection: &str, window: &Window, revision: i32) -> String {
    format!("{}/r{revision}", window_folder(job, connection, window))
}

const IDENTITY: &str = "reportd.json";
const MANIFEST: &str = "manifest.json";

impl Archive {
    /// Opens the archive in `root`. With `create` an archive that is not there yet is made; a folder that holds other things
    /// and no `reportd.json` is left alone and refused.
    pub async fn open(root: &Path, create: bool) -> Result<Archive, ArchiveError> {
        let folder = |what, source| ArchiveError::Folder { what, path: root.to_owned(), source };
        if create {
            std::fs::create_dir_all(root).map_err(|e| folder("make the archive folder", e))?;
        }
        let root = root.canonicalize().map_err(|e| folder("open the archive folder", e))?;
        let store = LocalFileSystem::new_with_prefix(&root)
            .map_err(|source| ArchiveError::Store { what: "open", key: root.display().to_string(), source })?
            .with_fsync(true);
        let id = match read_identity(&store).await? {
            Some(id) => id,
            None if create => match refuse_foreign(&root) {
                Ok(()) => make_identity(&store).await?,
                // What looks foreign may be the first report of a process that made this archive a moment ago.
                Err(foreign) => read_identity(&store).await?.ok_or(foreign)?,
            },
            None => {
                let missing =
                    std::io::Error::new(std::io::ErrorKind::NotFound, "it has no reportd.json: not an archive");
                return Err(ArchiveError::Folder { what: "open the archive in", path: root, source: missing });
            }
        };
        let folder = root.join(".spool");
        let spool = Spool::new(&folder);
        Ok(Archive { root, store: Arc::new(store), id, spool })
    }

    /// The archive in `root` for one who writes nothing: it need not be there, and is not made.
    pub async fn attach(root: &Path) -> Result<Archive, ArchiveError> {
        if root.join(IDENTITY).is_file() {
            return Archive::open(root, false).await;
        }
        let store = Arc::new(LocalFileSystem::new());
        Ok(Archive { root: root.to_owned(), store, id: Uuid::nil(), spool: Spool::new(&root.join(".spool")) })
    }

    /// Makes sure that the archive is there and can be written: a vendor is not asked for what cannot be kept.
    pub async fn check_usable(&self) -> Result<(), ArchiveError> {
        let (root, id, spool) = (self.root.clone(), self.id, self.spool.clone());
        let checked = tokio::task::spawn_blocking(move || usable(&root, id, &spool)).await;
        checked.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Its id, which the database remembers.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Whether there is one: [`Archive::attach`] takes what is not there too.
    pub fn is_there(&self) -> bool {
        !self.id.is_nil()
    }

    /// Its folder, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where files on their way in are written.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// The absolute path of a key.
    pub fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Links the files into the revision's folder and syncs it. A name that a crashed attempt left behind is not
    /// overwritten: the file then gets the attempt's own name.
    pub async fn link(
        &self,
        folder: &str,
        attempt: Uuid,
        files: &Arc<Vec<Spooled>>,
    ) -> Result<Vec<FileEntry>, ArchiveError> {
        let (root, folder, files) = (self.root.clone(), folder.to_owned(), Arc::clone(files));
        let linked = tokio::task::spawn_blocking(move || link_all(&root, &folder, attempt, &files)).await;
        linked.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Removes files that no manifest names, just linked by this process. One that stays is an orphan, which harms nobody.
    pub(crate) fn unlink<'a>(&self, folder: &str, names: impl Iterator<Item = &'a String>) {
        for name in names {
            drop(std::fs::remove_file(self.root.join(folder).join(name)));
        }
    }

    /// Puts the manifest if there is none: what makes the revision exist. When this very run put one before (a crash came
    /// between it and the database), that one is returned; another run's is [`ArchiveError::Taken`].
    pub async fn put_manifest(&self, folder: &str, manifest: &Manifest) -> Result<Stored, ArchiveError> {
        let key = format!("{folder}/{MANIFEST}");
        let text = manifest.to_bytes();
        let sha256 = hex::encode(Sha256::digest(&text));
        if self.put_once(&key, text).await? {
            self.sync(folder)?;
            return Ok(Stored { manifest: manifest.clone(), manifest_path: key, manifest_sha256: sha256 });
        }
        match self.manifest(folder).await? {
            Some(stored) if stored.manifest.is_of(manifest.run_id, &manifest.content_hash) => {
                self.sync(folder)?;
                Ok(stored)
            }
            Some(stored) => Err(ArchiveError::Taken { key, run: stored.manifest.run_id }),
            None => Err(ArchiveError::Taken { key, run: Uuid::nil() }),
        }
    }

    /// Puts a file if there is none with its key; returns whether it did.
    async fn put_once(&self, key: &str, bytes: Vec<u8>) -> Result<bool, ArchiveError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&Key::from(key), PutPayload::from(bytes), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(source) => Err(ArchiveError::Store { what: "put", key: key.to_owned(), source }),
        }
    }

    /// Makes what is in a revision's folder durable. Whoever found a manifest there does so before the database relies on it.
    pub(crate) fn sync(&self, folder: &str) -> Result<(), ArchiveError> {
        let path = self.root.join(folder);
        sync_folder(&path).map_err(|source| ArchiveError::Folder { what: "sync", path, source })
    }

    /// The manifest of a revision, if there is one.
    pub async fn manifest(&self, folder: &str) -> Result<Option<Stored>, ArchiveError> {
        self.manifest_at(&format!("{folder}/{MANIFEST}")).await
    }

    /// The manifest with that key.
    pub async fn manifest_at(&self, key: &str) -> Result<Option<Stored>, ArchiveError> {
        let Some(bytes) = get(&self.store, key).await? else { return Ok(None) };
        let manifest =
            Manifest::from_bytes(&bytes).map_err(|source| ArchiveError::Unreadable { key: key.to_owned(), source })?;
        let manifest_sha256 = hex::encode(Sha256::digest(&bytes));
        Ok(Some(Stored { manifest, manifest_path: key.to_owned(), manifest_sha256 }))
    }

    /// The newest revision in a window's folder that has a manifest.
    pub async fn newest_revision(&self, window_folder: &str) -> Result<Option<i32>, ArchiveError> {
        let folder = self.root.join(window_folder);
        let newest = tokio::task::spawn_blocking(move || newest_in(&folder)).await;
        newest.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// The keys of all manifests, in order; [`ArchiveError::TooLarge`] when they are not found within this time.
    pub async fn manifest_keys(&self, within: Option<Duration>) -> Result<Vec<String>, ArchiveError> {
        let root = self.root.clone();
        let until = within.map(|limit| Instant::now() + limit);
        let keys = tokio::task::spawn_blocking(move || verify::walk(&root, until)).await;
        let files = keys.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        Ok(files.into_iter().filter(|key| key.ends_with("/manifest.json")).collect())
    }
}

fn newest_in(folder: &Path) -> Result<Option<i32>, ArchiveError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ArchiveError::Folder { what: "look into", path: folder.to_owned(), source }),
    };
    let revisions = entries.flatten().filter_map(|entry| {
        let revision = entry.file_name().to_str()?.strip_prefix('r')?.parse::<i32>().ok()?;
        entry.path().join(MANIFEST).is_file().then_some(revision)
    });
    Ok(revisions.max())
}

async fn get(store: &LocalFileSystem, key: &str) -> Result<Option<bytes::Bytes>, ArchiveError> {
    let fail = |source| ArchiveError::Store { what: "read", key: key.to_owned(), source };
    match store.get(&Key::from(key)).await {
        Ok(found) => found.bytes().await.map(Some).map_err(fail),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(source) => Err(fail(source)),
    }
}

/// Reads the identity and writes a file as large as a small report, which is taken away again.
fn usable(root: &Path, id: Uuid, spool: &Spool) -> Result<(), ArchiveError> {
    let fail = |what: &'static str| move |source| ArchiveError::Folder { what, path: root.to_owned(), source };
    let text = std::fs::read(root.join(IDENTITY)).map_err(fail("read reportd.json of the archive in"))?;
    let found: Identity =
        serde_json::from_slice(&text).map_err(|source| ArchiveError::Unreadable { key: IDENTITY.into(), source })?;
    if found.archive_id != id {
        let other = std::io::Error::other("it is another archive now");
        return Err(fail("use the archive in")(other));
    }
    spool.probe().map_err(fail("write to the archive in"))
}

async fn read_identity(store: &LocalFileSystem) -> Result<Option<Uuid>, ArchiveError> {
    let Some(bytes) = get(store, IDENTITY).await? else { return Ok(None) };
    let identity: Identity =
        serde_json::from_slice(&bytes).map_err(|source| ArchiveError::Unreadable { key: IDENTITY.into(), source })?;
    Ok(Some(identity.archive_id))
}

async fn make_identity(store: &LocalFileSystem) -> Result<Uuid, ArchiveError> {
    let identity = Identity {
        schema_version: 1,
        archive_id: Uuid::new_v4(),
        what: "an archive of reportd: every folder with a manifest.json is one revision of one report".into(),
    };
    let text = serde_json::to_vec_pretty(&identity)
        .map_err(|source| ArchiveError::Unreadable { key: IDENTITY.into(), source })?;
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(&Key::from(IDENTITY), PutPayload::from(text), options).await {
        Ok(_) => Ok(identity.archive_id),
        // Another process made it meanwhile: then that one counts.
        Err(object_store::Error::AlreadyExists { .. }) => {
            Ok(read_identity(store).await?.unwrap_or(identity.archive_id))
        }
        Err(source) => Err(ArchiveError::Store { what: "make", key: IDENTITY.into(), source }),
    }
}

/// A folder that already holds somebody's files is not turned into an archive.
pub fn refuse_foreign(root: &Path) -> Result<(), ArchiveError> {
    let fail = |source| ArchiveError::Folder { what: "look into", path: root.to_owned(), source };
    let foreign = std::fs::read_dir(root).map_err(fail)?.flatten().find(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // `reportd.json#1` is one on its way in: another process makes this archive now, or died while it did.
        !name.starts_with('.') && !name.starts_with(IDENTITY)
    });
    match foreign {
        None => Ok(()),
        Some(entry) => Err(ArchiveError::Folder {
            what: "use as an archive",
            path: root.to_owned(),
            source: std::io::Error::other(format!(
                "it has no reportd.json and is not empty (it holds {}): name another folder, or bring reportd.json back",
                entry.file_name().to_string_lossy()
            )),
        }),
    }
}
