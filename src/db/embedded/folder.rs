//! The database folder: who owns it, what lies in it, and where the server's socket goes.
//!
//! Holds `lock`, `users`, `server.log`, `data`, and the socket when its path is short enough. All functions block;
//! callers run them on the blocking pool. As root everything belongs to the account that the server runs as, and links
//! in place of our files are not followed, so that this account gains nothing from a process of root's that opens them.
//!
//! Refused here: a folder that belongs to somebody else, and one that holds anything but ours.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::process::Pid;

use super::{EmbeddedError, PORT};

/// Held by whoever starts or stops the server.
pub(super) const LOCK: &str = "lock";
/// Shared by all living clients.
pub(super) const USERS: &str = "users";
/// What the server says.
pub(super) const LOG: &str = "server.log";

/// How the folder of a cluster in the making starts.
pub(super) const UNFINISHED: &str = "data.init.";

/// A socket's path may have 107 bytes on Linux and 103 on macOS.
const SOCKET_LIMIT: usize = 100;

/// Where the socket goes when the folder's path is too long. `/run` is first: cleaners and private mounts spare it.
const SOCKET_PARENTS: [&str; 2] = ["/run", "/tmp"];

/// A log that has grown past this many bytes is set aside at the next start.
const LOG_LIMIT: u64 = 16 << 20;

/// A failed start prints few lines; an error message should not carry more.
const TAIL_LINES: usize = 12;
const TAIL_BYTES: u64 = 8 << 10;

/// The user that the server runs as when we are root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) name: String,
}

/// A folder that exists and belongs to the server's user.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
    socket: PathBuf,
    account: Option<Account>,
}

impl Folder {
    /// Makes the folder if need be, and refuses one that is not ours.
    pub(super) fn open(dir: &Path) -> Result<Self, EmbeddedError> {
        let failed = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| EmbeddedError::File { action, path, source }
        };
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(failed("make the folder", parent))?;
        }
        make_private(dir).map_err(failed("make the database folder", dir))?;
        let path = fs::canonicalize(dir).map_err(failed("find the database folder", dir))?;
        let about = fs::metadata(&path).map_err(failed("look at the database folder", &path))?;
        let us = rustix::process::geteuid().as_raw();
        let account = if us == 0 { Some(account(about.uid(), about.gid())?) } else { None };
        let owner = account.as_ref().map_or(us, |account| account.uid);
        if about.uid() != owner && about.uid() != us {
            return Err(EmbeddedError::Owner { path, owner: about.uid(), expected: owner });
        }
        // The lock is the first file ever made here, so it is looked for last: a starter beside us is no foreigner.
        let used = fs::read_dir(&path).map_err(failed("list the database folder", &path))?.next().is_some();
        if used && !path.join(LOCK).exists() {
            return Err(EmbeddedError::Foreign { path });
        }
        if about.mode() & 0o077 != 0 {
            let private = fs::Permissions::from_mode(about.mode() & 0o700);
            fs::set_permissions(&path, private).map_err(failed("close to other users the database folder", &path))?;
        }
        if let Some(account) = account.as_ref().filter(|account| account.uid != about.uid()) {
            give(&path, account).map_err(failed("hand to the server's user the database folder", &path))?;
        }
        let socket = socket_folder(&path, &about, account.as_ref(), owner)?;
        Ok(Self { path, socket, account })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(super) fn failed(&self, action: &'static str, name: &str, source: io::Error) -> EmbeddedError {
        EmbeddedError::File { action, path: self.path.join(name), source }
    }

    /// Opens a file of this folder for reading and appending; makes it, for us and the server's user alone, if need be.
    pub(super) fn file(&self, name: &str) -> Result<File, EmbeddedError> {
        let path = self.path.join(name);
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || {
            let file = File::from(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?);
            if let Some(account) = &self.account {
                let about = file.metadata()?;
                // A second name for the file would mean that somebody linked one of root's into our folder.
                if about.uid() == 0 && about.nlink() == 1 {
                    let ids = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
                    rustix::fs::fchown(&file, Some(ids.0), Some(ids.1))?;
                }
            }
            Ok(file)
        };
        open().map_err(|source| EmbeddedError::File { action: "open for writing", path: path.clone(), source })
    }

    /// The major version that wrote the data folder, `None` before there is one.
    pub(super) fn version(&self) -> Result<Option<String>, EmbeddedError> {
        match fs::read_to_string(self.data().join("PG_VERSION")) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.data().exists() => Ok(None),
            Err(error) => Err(self.failed("read the version of the data folder", "data/PG_VERSION", error)),
        }
    }

    /// What tells this cluster from any other: the number that `initdb` drew for it, first in its control file.
    pub(super) fn identity(&self) -> Result<[u8; 8], EmbeddedError> {
        let mut bytes = [0; 8];
        let read = File::open(self.data().join("global/pg_control")).and_then(|mut file| file.read_exact(&mut bytes));
        read.map_err(|error| self.failed("read", "data/global/pg_control", error))?;
        Ok(bytes)
    }

    /// The process that the server's own lock file names. It may be long gone, and its number somebody else's.
    pub(super) fn server_pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
    }

    /// Removes what a killed or failed `initdb` left behind. One that outlived its killed client may still be writing;
    /// what it keeps from being removed now is removed by a later start.
    pub(super) fn remove_unfinished(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                fs::remove_dir_all(entry.path()).ok();
            }
        }
    }

    /// Gives a finished cluster its name, after everything in it has reached the disk if that was asked for.
    pub(super) fn adopt(&self, finished: &Path, durable: bool) -> Result<(), EmbeddedError> {
        let failed = |error| self.failed("put the new cluster into", "data", error);
        if durable {
            sync_all_of(finished).map_err(failed)?;
        }
        fs::rename(finished, self.data()).map_err(failed)?;
        if durable {
            File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        Ok(())
    }

    /// The log, ready for the server to append to, and its length so far.
    pub(super) fn log(&self) -> Result<(File, u64), EmbeddedError> {
        let length = |file: &File| file.metadata().map_or(0, |about| about.len());
        let file = self.file(LOG)?;
        if length(&file) < LOG_LIMIT {
            let so_far = length(&file);
            return Ok((file, so_far));
        }
        let old = self.path.join("server.log.old");
        fs::rename(self.path.join(LOG), old).map_err(|error| self.failed("set aside", LOG, error))?;
        Ok((self.file(LOG)?, 0))
    }

    /// The last lines of the log after its first `from` bytes.
    pub(super) fn log_tail(&self, from: u64) -> String {
        let mut bytes = Vec::new();
        let read = File::open(self.path.join(LOG)).and_then(|mut file| {
            let start = from.max(file.metadata()?.len().saturating_sub(TAIL_BYTES));
            file.seek(SeekFrom::Start(start))?;
            file.take(TAIL_BYTES).read_to_end(&mut bytes)
        });
        if let Err(error) = read {
            return format!("(unreadable: {error})");
        }
        last_lines(&String::from_utf8_lossy(&bytes))
    }

    /// Removes the socket's folder if it stands apart; the server has removed the socket.
    pub(super) fn remove_socket_folder(&self) {
        if self.socket != self.path {
            // Left behind it is empty, private, and used again by the next start.
            fs::remove_dir(&self.socket).ok();
        }
    }

    /// The first folder on the way to this one that the server's user may not pass, judged by the permission bits.
    pub(super) fn blocked_at(&self) -> Option<PathBuf> {
        let account = self.account.as_ref()?;
        let blocks = |folder: &&Path| {
            fs::metadata(folder).is_ok_and(|about| match about.mode() {
                mode if about.uid() == account.uid => mode & 0o100 == 0,
                mode if about.gid() == account.gid => mode & 0o010 == 0,
                mode => mode & 0o001 == 0,
            })
        };
        let mut above: Vec<&Path> = self.path.ancestors().skip(1).collect();
        above.reverse();
        above.into_iter().find(blocks).map(Path::to_path_buf)
    }
}

/// The last lines that are worth showing of what a program printed.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Flushes the file system that holds a folder.
#[cfg(target_os = "linux")]
fn sync_all_of(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

/// Elsewhere `initdb` has flushed its files itself.
#[cfg(not(target_os = "linux"))]
fn sync_all_of(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes a folder that nobody else can enter; one that is there already is left as it is.
fn make_private(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result,
    }
}

fn give(path: &Path, account: &Account) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(account.uid), Some(account.gid))
}

/// Whoever owns the folder already, so that root and a plain user can take turns on it; `postgres` for a new one.
fn account(owner: u32, group: u32) -> Result<Account, EmbeddedError> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut accounts = passwd.lines().filter_map(parse_account);
    if owner == 0 {
        return accounts.find(|account| account.name == "postgres" && account.uid != 0).ok_or(EmbeddedError::NoAccount);
    }
    let name = accounts.find(|account| account.uid == owner).map_or_else(|| owner.to_string(), |account| account.name);
    Ok(Account { uid: owner, gid: group, name })
}

/// `name:password:uid:gid:…`
fn parse_account(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    Some(Account { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()?, name })
}

/// The database folder itself, or one with a short name made from its identity, which a move does not change.
fn socket_folder(
    path: &Path,
    about: &fs::Metadata,
    account: Option<&Account>,
    owner: u32,
) -> Result<PathBuf, EmbeddedError> {
    let longest = format!("/.s.PGSQL.{PORT}").len() + path.as_os_str().len();
    // sqlx writes the path as text, so it has to be UTF-8 too.
    if longest <= SOCKET_LIMIT && path.to_str().is_some() {
        return Ok(path.to_path_buf());
    }
    let places =
        SOCKET_PARENTS.map(|parent| Path::new(parent).join(format!("reportd-{:x}-{:x}", about.dev(), about.ino())));
    // One that is there comes first: root may write to places where the client that made it could not.
    let ours = |place: &&PathBuf| {
        fs::symlink_metadata(place).is_ok_and(|it| it.is_dir() && it.uid() == owner && it.mode() & 0o777 == 0o700)
    };
    if let Some(place) = places.iter().find(ours) {
        return Ok(place.clone());
    }
    let mut last = None;
    for place in &places {
        let made = make_private(place).and_then(|()| account.map_or(Ok(()), |account| give(place, account)));
        match made {
            Ok(()) if ours(&place) => return Ok(place.clone()),
            Ok(()) => {
                let owner_of_place = fs::symlink_metadata(place).map_or(0, |about| about.uid());
                return Err(EmbeddedError::Owner { path: place.clone(), owner: owner_of_place, expected: owner });
            }
            Err(source) => {
                last = Some(EmbeddedError::File { action: "make the socket's folder", path: place.clone(), source });
            }
        }
    }
    Err(last.expect("there is at least one place, and each left its error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_read_from_a_passwd_line() {
        let account = parse_account("postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash");
        assert_eq!(account, Some(Account { uid: 101, gid: 104, name: "postgres".into() }));
        assert_eq!(parse_account("+@nis"), None);
        assert_eq!(parse_account("a:x:-1:1"), None);
    }

    #[test]
    fn only_the_end_of_a_long_output_is_shown() {
        let text = (0..50).map(|n| format!("line {n}")).collect::<Vec<_>>().join("\n");
        let tail = last_lines(&text);
        assert!(tail.starts_with("line 38\n") && tail.ends_with("line 49"), "{tail}");
        assert_eq!(last_lines(""), "");
    }

    #[test]
    fn a_folder_with_other_peoples_files_is_refused_and_left_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("home");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.join("letter"), "dear").unwrap();
        assert!(matches!(Folder::open(&dir), Err(EmbeddedError::Foreign { .. })));
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o755);
    }
}
