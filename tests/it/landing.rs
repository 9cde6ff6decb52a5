//! Copies in a landing zone, in real folders: whole or not at all, checked, the newest in place of the older.

use std::path::{Path, PathBuf};

use reportd::connection::environment::Environment;
use reportd::delivery::Trouble;
use reportd::delivery::landing::{Source, copy};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A file of an archive with these bytes.
pub fn source(archive: &Path, name: &str, bytes: &[u8]) -> Source {
    let path = archive.join(name);
    std::fs::write(&path, bytes).unwrap();
    let sha256 = hex::encode(Sha256::digest(bytes));
    Source { path, name: name.into(), media_type: "text/csv".into(), sha256, bytes: bytes.len() as u64 }
}

fn folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (archive, zone) = (folder.path().join("archive"), folder.path().join("zone"));
    std::fs::create_dir(&archive).unwrap();
    std::fs::create_dir(&zone).unwrap();
    (folder, archive, zone)
}

async fn put(url: &str, sources: &[Source], id: u128) -> Result<Option<String>, Trouble> {
    copy(url, sources, Uuid::from_u128(id), &Environment::default()).await
}

/// Everything below a folder, with its bytes.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            found.extend(files(&entry.path()).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            found.push((name, std::fs::read(entry.path()).unwrap()));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_copy_has_the_archives_bytes_and_makes_the_folders_that_are_missing() {
    let (_folder, archive, zone) = folders();
    let bytes: Vec<u8> = (0..200_003_u32).flat_map(u32::to_le_bytes).collect();
    let url = format!("{}/a/b/2026-03-03.csv", zone.display());
    let told = put(&url, &[source(&archive, "report.csv", &bytes)], 1).await.unwrap();
    assert_eq!(told, Some(format!("{url}, 800012 bytes")));
    assert!(files(&zone) == [("a/b/2026-03-03.csv".to_owned(), bytes)], "one file, these bytes and no others");
}

#[tokio::test]
async fn a_newer_revision_replaces_the_older_and_what_a_crash_left_is_replaced_too() {
    let (_folder, archive, zone) = folders();
    let url = format!("{}/r.csv", zone.display());
    std::fs::write(zone.join("r.csv"), "an older and longer report").unwrap();
    // A crash of this very delivery left its temporary file; another delivery's is not ours to touch.
    std::fs::write(zone.join(format!(".reportd-{}-0", Uuid::from_u128(2).simple())), "half of it, and more").unwrap();
    std::fs::write(zone.join(format!(".reportd-{}-0", Uuid::from_u128(3).simple())), "another's").unwrap();
    put(&url, &[source(&archive, "report.csv", b"new")], 2).await.unwrap();
    let others = format!(".reportd-{}-0", Uuid::from_u128(3).simple());
    assert_eq!(files(&zone), [(others, b"another's".to_vec()), ("r.csv".to_owned(), b"new".to_vec())]);
}

#[tokio::test]
async fn several_files_land_together_or_not_at_all() {
    let (_folder, archive, zone) = folders();
    let mut pages = [source(&archive, "page-0001.json", b"one"), source(&archive, "page-0002.json", b"two")];
    let url = format!("{}/day.json", zone.display());
    put(&url, &pages, 4).await.unwrap();
    let both = [("day_page-0001.json".to_owned(), b"one".to_vec()), ("day_page-0002.json".to_owned(), b"two".to_vec())];
    assert_eq!(files(&zone), both);
    pages[0] = source(&archive, "page-0001.json", b"new");
    std::fs::write(&pages[1].path, "twO").unwrap();
    assert!(matches!(put(&url, &pages, 4).await, Err(Trouble::Refused(_))));
    assert_eq!(files(&zone), both, "the second is damaged, so the first is not replaced");
}

#[tokio::test]
async fn a_damaged_archive_file_is_never_delivered() {
    let (_folder, archive, zone) = folders();
    std::fs::write(zone.join("r.csv"), "good").unwrap();
    for damaged in ["", "goo", "gOod and", "good and\n", "good and more"] {
        let right = source(&archive, "report.csv", b"good and");
        std::fs::write(&right.path, damaged).unwrap();
        match put(&format!("{}/r.csv", zone.display()), &[right], 5).await {
            Err(Trouble::Refused(why)) => assert!(why.contains("is damaged") && why.contains("report.csv"), "{why}"),
            other => panic!("{damaged:?}: {other:?}"),
        }
        assert_eq!(files(&zone), [("r.csv".to_owned(), b"good".to_vec())], "and nothing is left behind");
    }
}

#[tokio::test]
async fn a_link_to_a_folder_is_followed_and_a_climbing_name_is_not() {
    let (folder, archive, zone) = folders();
    std::os::unix::fs::symlink(&zone, folder.path().join("link")).unwrap();
    let report = [source(&archive, "report.csv", b"x")];
    put(&format!("{}/link/", folder.path().display()), &report, 6).await.unwrap();
    assert_eq!(files(&zone), [("report.csv".to_owned(), b"x".to_vec())]);
    for url in [format!("{}/../up.csv", zone.display()), "in/x.csv".to_owned(), format!("{}/..", zone.display())] {
        assert!(matches!(put(&url, &report, 6).await, Err(Trouble::Refused(_))), "{url}");
    }
    assert!(!folder.path().join("up.csv").exists());
}

#[tokio::test]
async fn a_name_in_the_way_needs_a_person_and_a_lost_archive_comes_back() {
    let (_folder, archive, zone) = folders();
    std::fs::write(zone.join("file"), "x").unwrap();
    std::fs::create_dir(zone.join("folder")).unwrap();
    let report = [source(&archive, "report.csv", b"x")];
    for path in ["file/r.csv", "file/deep/r.csv", "folder"] {
        match put(&format!("{}/{path}", zone.display()), &report, 7).await {
            Err(Trouble::Person(why)) => assert!(why.contains(path.split('/').next().unwrap()), "{why}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    std::fs::remove_file(&report[0].path).unwrap();
    let lost = put(&format!("{}/r.csv", zone.display()), &report, 7).await;
    assert!(matches!(lost, Err(Trouble::Later { .. })), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_at_the_same_copy_never_leave_half_a_file() {
    let (_folder, archive, zone) = folders();
    let bytes = vec![b'x'; 1024 * 1024];
    let report = [source(&archive, "report.csv", &bytes)];
    let url = format!("{}/r.csv", zone.display());
    for _ in 0..5 {
        let (one, two) = tokio::join!(put(&url, &report, 8), put(&url, &report, 8));
        let fine = |result: &Result<_, Trouble>| matches!(result, Ok(_) | Err(Trouble::Later { .. }));
        assert!(fine(&one) && fine(&two) && (one.is_ok() || two.is_ok()), "{one:?} {two:?}");
        assert!(files(&zone) == [("r.csv".to_owned(), bytes.clone())], "{:?}", files(&zone).len());
    }
}
