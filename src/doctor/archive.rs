//! The archive: there, the database's, writable, with room. A file as large as a small report is written into its spool folder
//! and taken away again; an archive that is not there yet is not made.

use std::path::Path;

use rustix::fs::{Access, access, statvfs};

use super::{Check, Ground, LIMIT, within};
use crate::archive::{Archive, refuse_foreign};
use crate::artifact::size;
use crate::run::store::{Instance, RunStore};
use crate::status::gather::archive_trouble;
use crate::telemetry::Chain;
use crate::worker::open::OpenError;

const NAME: &str = "archive";

/// With less room than this the next large report does not fit.
const ROOM: u64 = 1024 * 1024 * 1024;

const NO_ROOM: &str = "make room, or move the archive and correct `archive` in the config";

pub(super) async fn check(ground: &Ground) -> Check {
    let database = ground.database().await;
    let known = database.instance().zip(database.store());
    let root = &ground.files.settings.archive;
    let late = |message: String| {
        Check::bad(NAME, Some(root.display().to_string()), &message, "look at the disk or share that it is on")
    };
    within(LIMIT, look(root, known), late).await
}

async fn look(root: &Path, known: Option<(&Instance, &RunStore)>) -> Check {
    let place = root.display().to_string();
    let bad = |message: &str, action: &str| Check::bad(NAME, Some(place.clone()), message, action);
    if let Some((instance, store)) = known {
        match archive_trouble(root, instance, store, LIMIT / 2).await {
            Ok(None) => {}
            Ok(Some((message, action))) => return bad(&message, &action),
            Err(OpenError::Store(error)) => {
                let message = format!("the archive was not compared with the database: {}", Chain(&error));
                return bad(&message, "see what is said of the database");
            }
            Err(error) => {
                let message = format!("the archive was not compared with the database: {}", Chain(&error));
                return Check::note(NAME, Some(place.clone()), &message, "run `reportd coverage`, which compares them");
            }
        }
    }
    let archive = match Archive::attach(root).await {
        Ok(archive) => archive,
        Err(error) => {
            let message = format!("the archive cannot be opened: {}", Chain(&error));
            return bad(&message, "restore it, or correct `archive` in the config");
        }
    };
    if archive.is_there()
        && let Err(error) = archive.check_usable().await
    {
        let action = if is_full(&error) {
            "make room on that disk: runs wait for it, and go on by themselves"
        } else {
            "give the user of this process the right to write there, or end its read-only mount"
        };
        return bad(&Chain(&error).to_string(), action);
    }
    let (there, path) = (archive.is_there(), root.to_owned());
    let ground = tokio::task::spawn_blocking(move || beneath(&path, there)).await;
    let room = match ground {
        Ok(Ok(room)) => room,
        Ok(Err(message)) => return bad(&message, "give it another place in the config (`archive`), or mend that one"),
        Err(error) => return bad(&Chain(&error).to_string(), "report this: it is a fault of reportd"),
    };
    let whose = if known.is_some() { "the database's" } else { "not compared with a database" };
    judge(&place, there, room, whose)
}

/// Room for this user where the archive is, or where it would be made; the error says why it could not be made.
fn beneath(root: &Path, there: bool) -> Result<u64, String> {
    let found = root.ancestors().find(|path| path.exists());
    let base = found.ok_or_else(|| format!("nothing of {} is there", root.display()))?;
    if !there {
        let fail = |what: &str, why: &dyn std::fmt::Display| {
            format!("there is no archive yet, and {what} {}: {why}", base.display())
        };
        access(base, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| fail("none can be made in", &e))?;
        if base == root {
            refuse_foreign(root).map_err(|e| Chain(&e).to_string())?;
        }
    }
    let room = statvfs(base).map_err(|e| format!("ask for free space in {}: {e}", base.display()))?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

fn judge(place: &str, there: bool, room: u64, whose: &str) -> Check {
    let free = format!("{} free", size(room));
    let subject = Some(place.to_owned());
    if room < ROOM {
        return Check::bad(NAME, subject, &format!("{place}: only {free}"), NO_ROOM);
    }
    if there {
        return Check::ok(NAME, subject, &format!("{place}: {whose}, takes files, {free}"));
    }
    let message = format!("there is none yet in {place}; {free}");
    Check::note(NAME, subject, &message, "nothing: the first run makes it; if there should be one, correct `archive`")
}

/// Whether there is no room left on the disk, or in the user's quota.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| matches!(error.kind(), StorageFull | QuotaExceeded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn less_than_a_gibibyte_of_room_is_a_fault_whether_the_archive_is_there_or_not() {
        assert_eq!(judge("/a", true, ROOM, "the database's").state, State::Ok);
        assert_eq!(judge("/a", false, ROOM, "the database's").state, State::Note);
        for there in [true, false] {
            let check = judge("/a", there, ROOM - 1, "the database's");
            assert_eq!((check.state, check.action.as_deref()), (State::Bad, Some(NO_ROOM)));
        }
    }

    #[test]
    fn a_full_disk_is_told_from_one_that_may_not_be_written() {
        use std::io::{Error, ErrorKind};
        let of =
            |kind| crate::archive::ArchiveError::Folder { what: "write", path: "/a".into(), source: Error::from(kind) };
        assert!(is_full(&of(ErrorKind::StorageFull)) && is_full(&of(ErrorKind::QuotaExceeded)));
        assert!(!is_full(&of(ErrorKind::PermissionDenied)) && !is_full(&of(ErrorKind::ReadOnlyFilesystem)));
    }
}
