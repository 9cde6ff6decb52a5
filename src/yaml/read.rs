//! A file's bytes from disk, with everything refused that is not a small regular file.
//!
//! It never blocks (a fifo without a writer would) and never reads more than the limit, whatever the size that the system
//! reports: what is opened is looked at through its handle, so nothing can be swapped between the look and the read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use super::problem::Problem;

/// The largest file that is read, in bytes: 1 MiB. A job file has a few hundred.
pub const MAX_BYTES: u64 = 1024 * 1024;

/// The bytes of the file at `path`, which messages call `shown_as`.
///
/// A directory, a link to nothing, a fifo, a socket, a device, an unreadable file and one above `MAX_BYTES` are each a
/// problem at 1:1.
pub fn read(path: &Path, shown_as: &str) -> Result<Vec<u8>, Problem> {
    let problem = |message: String| Problem::whole_file(shown_as, message);
    let file = open(path).map_err(|error| problem(why_not_opened(path, &error)))?;
    let metadata = file.metadata().map_err(|error| problem(unreadable(&error)))?;
    if !metadata.is_file() {
        return Err(problem(not_a_file(metadata.file_type())));
    }
    if metadata.len() > MAX_BYTES {
        return Err(problem(too_large(metadata.len())));
    }
    let mut bytes = Vec::new();
    // Files under /proc say that they are empty, and a file may grow while it is read: the limit holds for the read too.
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| problem(unreadable(&error)))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(problem(too_large(bytes.len() as u64)));
    }
    Ok(bytes)
}

/// Not waiting for a fifo's writer, and not becoming the owner of a terminal.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)
}

fn why_not_opened(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => "a link to nothing".to_owned(),
        io::ErrorKind::NotFound => "no such file".to_owned(),
        // A socket cannot be opened at all, so its handle cannot be asked.
        _ => match path.metadata() {
            Ok(metadata) if !metadata.is_file() => not_a_file(metadata.file_type()),
            _ => unreadable(error),
        },
    }
}

fn not_a_file(kind: std::fs::FileType) -> String {
    let kind = match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a fifo",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    format!("{kind}, not a file")
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {}", error.kind())
}

/// What is said of a file with `bytes` bytes.
pub(super) fn too_large(bytes: u64) -> String {
    format!("larger than 1 MiB ({bytes} bytes)")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::time::{Duration, Instant};

    use super::*;

    fn refusal(path: &Path) -> String {
        let start = Instant::now();
        let problem = read(path, "jobs/x.yaml").unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
        assert_eq!((problem.file.as_str(), problem.line, problem.column), ("jobs/x.yaml", 1, 1));
        problem.message
    }

    #[test]
    fn a_regular_file_and_a_link_to_one_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("x.yaml"), folder.path().join("link.yaml"));
        fs::write(&file, "a: 1\n").unwrap();
        symlink(&file, &link).unwrap();
        assert_eq!(read(&file, "x").unwrap(), b"a: 1\n");
        assert_eq!(read(&link, "x").unwrap(), b"a: 1\n");
    }

    #[test]
    fn what_is_not_a_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("dir.yaml")).unwrap();
        symlink(at("nothing"), at("dangling.yaml")).unwrap();
        symlink(at("loop.yaml"), at("loop.yaml")).unwrap();
        let _listener = UnixListener::bind(at("socket.yaml")).unwrap();
        assert_eq!(refusal(&at("dir.yaml")), "a directory, not a file");
        assert_eq!(refusal(&at("dangling.yaml")), "a link to nothing");
        assert_eq!(refusal(&at("missing.yaml")), "no such file");
        assert_eq!(refusal(&at("socket.yaml")), "a socket, not a file");
        assert_eq!(refusal(Path::new("/dev/zero")), "a device, not a file");
        assert!(refusal(&at("loop.yaml")).starts_with("cannot be read: "));
    }

    #[test]
    fn a_fifo_without_a_writer_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo.yaml");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(refusal(&fifo), "a fifo, not a file");
    }

    #[test]
    fn a_large_file_is_refused_without_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large.yaml");
        File::create(&large).unwrap().set_len(10 * MAX_BYTES).unwrap();
        assert_eq!(refusal(&large), "larger than 1 MiB (10485760 bytes)");
        let exact = folder.path().join("exact.yaml");
        File::create(&exact).unwrap().set_len(MAX_BYTES).unwrap();
        assert_eq!(read(&exact, "x").unwrap().len() as u64, MAX_BYTES);
    }

    #[test]
    fn a_file_that_hides_its_size_is_cut_at_the_limit() {
        // Reports 0 bytes; whatever it holds, the read ends.
        let start = Instant::now();
        let outcome = read(Path::new("/proc/self/maps"), "x");
        assert!(start.elapsed() < Duration::from_secs(1));
        assert!(outcome.is_ok_and(|bytes| !bytes.is_empty()));
    }
}
