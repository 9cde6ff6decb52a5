//! Bytes on their way into the archive: a temporary file in the archive's own file system, hashed and looked at while it
//! is written.
//!
//! What comes out is a [`Spooled`] file: complete, synced to disk, with size and sha256, and known to be a report rather
//! than an error page ([`sniff`]). Memory stays flat: at most a few chunks are held, whatever the size. A spooled file that
//! nobody archives deletes itself; one that a crash leaves behind is swept at the next start.

pub mod sniff;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::mpsc;
use uuid::Uuid;

use sniff::{Expect, NotAReport, Sniffer};

/// Largest file that is taken from a vendor.
pub const MAX_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Bodies up to this size are written in one go; larger ones stream through a thread of their own.
const SMALL: usize = 256 * 1024;

/// Chunks between the network and that thread; with chunks of up to 64 KiB at most 2 MiB.
const CHUNKS: usize = 32;

/// Spool files older than this belong to nobody.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Why bytes could not be spooled.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// The disk.
    #[error("write {path}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// More than [`MAX_BYTES`].
    #[error("the file is larger than the limit of 4 GiB")]
    TooLarge,
    /// It is no report.
    #[error(transparent)]
    NotAReport(#[from] NotAReport),
}

/// The folder of temporary files, in the archive's file system so that a file can be linked into place.
#[derive(Clone, Debug)]
pub struct Spool {
    folder: PathBuf,
}

/// A complete, synced file that waits to be archived.
#[derive(Debug)]
pub struct Spooled {
    path: PathBuf,
    /// Name it gets in the archive: ours, never the vendor's.
    pub name: String,
    /// Media type.
    pub media_type: &'static str,
    /// Size.
    pub bytes: u64,
    /// Hash, 64 hex digits.
    pub sha256: String,
    /// Made by reportd from what was received.
    pub derived: bool,
    /// Fetched from loopback.
    pub simulated: bool,
    /// Whether the report has rows; `None` = cannot be told from the bytes.
    pub has_rows: Option<bool>,
}

impl Spooled {
    /// Where the bytes are.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        // The archive holds a link of its own by now, or nobody wants the bytes. A file that stays is swept later.
        drop(std::fs::remove_file(&self.path));
    }
}

/// What a file will be.
#[derive(Clone, Debug)]
pub struct Label {
    /// Name it gets in the archive.
    pub name: String,
    /// What it must be.
    pub expect: Expect,
    /// Made by reportd from what was received.
    pub derived: bool,
    /// Fetched from loopback.
    pub simulated: bool,
}

impl Spool {
    /// The spool in `folder`. Nothing is made or swept yet: see [`Spool::sweep`].
    pub fn new(folder: &Path) -> Spool {
        Spool { folder: folder.to_owned() }
    }

    /// Makes the folder if need be, and sweeps files that crashes left. Whoever will write calls this first.
    pub fn sweep(&self) -> Result<(), SpoolError> {
        let fail = |source| SpoolError::Io { path: self.folder.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(fail)?;
        for entry in std::fs::read_dir(&self.folder).map_err(fail)?.flatten() {
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            if age.is_some_and(|age| age > STALE) {
                drop(std::fs::remove_file(entry.path()));
            }
        }
        Ok(())
    }

    /// Starts a file.
    pub fn file(&self, label: Label) -> Writer {
        let path = self.folder.join(Uuid::new_v4().simple().to_string());
        Writer { path, label, buffered: Vec::new(), size: 0, stream: None }
    }

    /// Writes a file and takes it away again: whether there is room, and the right to write.
    pub fn probe(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(format!("probe-{}-{}", std::process::id(), uuid::Uuid::new_v4().simple()));
        let written = std::fs::write(&path, vec![0; PROBE_BYTES]);
        let removed = std::fs::remove_file(&path);
        written.and(removed)
    }

    /// Spools bytes that are in memory already.
    pub async fn bytes(&self, label: Label, bytes: Bytes) -> Result<Spooled, SpoolError> {
        let mut writer = self.file(label);
        writer.write(bytes).await?;
        writer.finish(&Finish::default()).await
    }
}

/// What must fit for the archive to count as writable: a small report.
const PROBE_BYTES: usize = 64 * 1024;

/// What only the end of a conversation tells about a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finish {
    /// The vendor says that the report has no rows, so that even 0 bytes can be right.
    pub no_rows: bool,
}

struct Stream {
    chunks: mpsc::Sender<Bytes>,
    thread: tokio::task::JoinHandle<std::io::Result<Written>>,
}

struct Written {
    sha256: String,
    sniffer: Sniffer,
}

/// A file being written.
pub struct Writer {
    path: PathBuf,
    label: Label,
    buffered: Vec<Bytes>,
    size: u64,
    stream: Option<Stream>,
}

impl Writer {
    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a chunk. Waits while the disk is slower than the network.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), SpoolError> {
        self.size += chunk.len() as u64;
        if self.size > MAX_BYTES {
            return Err(SpoolError::TooLarge);
        }
        if self.stream.is_none() {
            self.buffered.push(chunk);
            if self.size > SMALL as u64 {
                let (chunks, mut incoming) = mpsc::channel::<Bytes>(CHUNKS);
                let (path, expect) = (self.path.clone(), self.label.expect);
                let thread = tokio::task::spawn_blocking(move || {
                    store(&path, expect, std::iter::from_fn(|| incoming.blocking_recv()), true)
                });
                self.stream = Some(Stream { chunks, thread });
                for chunk in std::mem::take(&mut self.buffered) {
                    self.send(chunk).await?;
                }
            }
            return Ok(());
        }
        self.send(chunk).await
    }

    async fn send(&mut self, chunk: Bytes) -> Result<(), SpoolError> {
        let Some(stream) = &self.stream else { return Ok(()) };
        if stream.chunks.send(chunk).await.is_err() {
            // The thread ended early, which only a disk error does: its result says which.
            return Err(match self.join().await {
                Err(error) => error,
                Ok(_) => self.io(std::io::Error::other("the writing thread ended early")),
            });
        }
        Ok(())
    }

    fn io(&self, source: std::io::Error) -> SpoolError {
        SpoolError::Io { path: self.path.clone(), source }
    }

    async fn join(&mut self) -> Result<Written, SpoolError> {
        let result = match self.stream.take() {
            Some(Stream { chunks, thread }) => {
                drop(chunks);
                thread.await
            }
            None => {
                let (path, expect) = (self.path.clone(), self.label.expect);
                let chunks = std::mem::take(&mut self.buffered);
                tokio::task::spawn_blocking(move || store(&path, expect, chunks.into_iter(), false)).await
            }
        };
        result.map_err(|e| self.io(std::io::Error::other(e)))?.map_err(|e| self.io(e))
    }

    /// Syncs the file and decides whether it is what was expected.
    pub async fn finish(mut self, finish: &Finish) -> Result<Spooled, SpoolError> {
        let written = self.join().await?;
        let verdict = written.sniffer.verdict(self.size, finish.no_rows);
        let label = self.label.clone();
        let mut spooled = Spooled {
            path: std::mem::take(&mut self.path),
            name: label.name,
            media_type: label.expect.media_type(),
            bytes: self.size,
            sha256: written.sha256,
            derived: label.derived,
            simulated: label.simulated,
            has_rows: None,
        };
        let seen = verdict?;
        spooled.media_type = seen.media_type;
        spooled.has_rows = seen.has_rows;
        if label.expect == Expect::AnyTable {
            spooled.name = format!("{}.{}", spooled.name, seen.extension);
        }
        Ok(spooled)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Writes, hashes and looks at the chunks, then syncs. A large file is hashed on a second thread: hash and disk then take
/// the time of the slower one, not the sum.
fn store(path: &Path, expect: Expect, chunks: impl Iterator<Item = Bytes>, large: bool) -> std::io::Result<Written> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    let mut sniffer = Sniffer::new(expect);
    let mut hash = Sha256::new();
    if large {
        std::thread::scope(|scope| {
            let (to_hash, incoming) = std::sync::mpsc::sync_channel::<Bytes>(CHUNKS);
            let (hash, sniffer) = (&mut hash, &mut sniffer);
            let hasher = scope.spawn(move || {
                for chunk in incoming {
                    hash.update(&chunk);
                    sniffer.look(&chunk);
                }
            });
            for chunk in chunks {
                // The hasher ends only when the channel closes, so this cannot fail.
                drop(to_hash.send(chunk.clone()));
                file.write_all(&chunk)?;
            }
            drop(to_hash);
            hasher.join().map_err(|_| std::io::Error::other("the hashing thread panicked"))
        })?;
    } else {
        for chunk in chunks {
            hash.update(&chunk);
            sniffer.look(&chunk);
            file.write_all(&chunk)?;
        }
    }
    file.sync_all()?;
    Ok(Written { sha256: hex::encode(hash.finalize()), sniffer })
}

/// A number of bytes as people say it: `1.4 MB`.
pub fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let bytes_f = bytes as f64;
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{:.1} kB", bytes_f / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes_f / 1e6),
        _ => format!("{:.1} GB", bytes_f / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(expect: Expect) -> Label {
        Label { name: "report.csv".into(), expect, derived: false, simulated: true }
    }

    #[tokio::test]
    async fn small_and_large_files_get_the_size_and_hash_of_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path());
        for lines in [1_usize, 200_000] {
            let mut writer = spool.file(label(Expect::Csv { with_header: true }));
            let mut all = Vec::new();
            for i in 0..lines {
                let line = format!("{i},name,\"a,b\"\r\n");
                all.extend_from_slice(line.as_bytes());
                writer.write(Bytes::from(line)).await.unwrap();
            }
            let spooled = writer.finish(&Finish::default()).await.unwrap();
            assert_eq!(spooled.bytes, all.len() as u64);
            assert_eq!(spooled.sha256, hex::encode(Sha256::digest(&all)));
            assert_eq!(std::fs::read(spooled.path()).unwrap(), all);
            assert_eq!(spooled.has_rows, Some(lines > 1));
        }
    }

    #[tokio::test]
    async fn a_file_may_reach_the_limit_and_not_pass_it() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path());
        let mut writer = spool.file(label(Expect::AnyTable));
        writer.size = MAX_BYTES - 1;
        writer.write(Bytes::from_static(b"x")).await.unwrap();
        let error = writer.write(Bytes::from_static(b"x")).await.unwrap_err();
        assert!(matches!(error, SpoolError::TooLarge), "{error}");
    }

    #[tokio::test]
    async fn nothing_stays_behind_when_a_file_is_refused_or_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path());
        let html = Bytes::from_static(b"<!doctype html><title>502</title>");
        let error = spool.bytes(label(Expect::Csv { with_header: true }), html).await.unwrap_err();
        assert!(matches!(error, SpoolError::NotAReport(_)), "{error}");
        let mut writer = spool.file(label(Expect::Csv { with_header: true }));
        writer.write(Bytes::from(vec![b'x'; SMALL + 1])).await.unwrap();
        drop(writer.finish(&Finish::default()).await.unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn files_that_a_crash_left_are_swept_when_they_are_a_day_old() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        for path in [&old, &new] {
            std::fs::write(path, "x").unwrap();
        }
        let two_days_ago = std::fs::metadata(&new).unwrap().modified().unwrap() - STALE * 2;
        File::options().write(true).open(&old).unwrap().set_modified(two_days_ago).unwrap();
        Spool::new(folder.path()).sweep().unwrap();
        assert!(!old.exists() && new.exists());
    }
}
