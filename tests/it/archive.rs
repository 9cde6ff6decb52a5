//! The archive: what a manifest says, what `verify` finds, what `rebuild` restores, and that nothing is ever overwritten.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reportd::archive::manifest::Manifest;
use reportd::archive::{Archive, ArchiveError};
use reportd::artifact::sniff::Expect;
use reportd::artifact::{Label, Spooled};
use serde_json::Value;
use uuid::Uuid;

use crate::harness::{Shop, run, since_epoch};
use crate::verbs::{BIK, DAY, JAICP, LIVECHAT, NEXT_DAY, json_file, keys, sha256, text};

const WINDOW: &str = "report/north/2025/2025-03-03";

/// A shop whose archive holds r1 and r2 of one window.
async fn shop_with_two_revisions() -> Shop {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    shop.run_job("report", DAY, &[]).await.expect(0);
    shop.run_job("report", DAY, &["--again"]).await.expect(0);
    shop
}

/// What `archive verify` finds, as (kind, path).
async fn faults(shop: &Shop, code: i32) -> Vec<(String, String)> {
    let lines = shop.run(&["archive", "verify", "--format", "json"]).await.expect(code).json();
    for line in &lines {
        assert_eq!(keys(line), ["path", "kind", "message"]);
        assert!(!text(&line["message"]).is_empty());
    }
    lines.iter().map(|line| (text(&line["kind"]).to_owned(), text(&line["path"]).to_owned())).collect()
}

fn found(kind: &str, path: &str) -> Vec<(String, String)> {
    vec![(kind.to_owned(), format!("{WINDOW}/{path}"))]
}

/// Every file below a folder with its bytes.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((path.clone(), std::fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_says_everything_that_a_reader_without_reportd_needs() {
    let shop = Shop::open().await;
    shop.job("report", BIK);
    shop.without_waits().await;
    let run = shop.run_job("report", DAY, &["--at", "2025-03-05T06:30"]).await.expect(0).line();
    let folder = shop.archive().join(WINDOW).join("r1");
    let manifest = json_file(&folder.join("manifest.json"));
    assert_eq!(
        keys(&manifest),
        [
            "schema_version",
            "archive_id",
            "job",
            "connection",
            "vendor",
            "run_id",
            "trigger",
            "fire_at",
            "window",
            "revision",
            "supersedes",
            "previous_manifest_sha256",
            "state",
            "provisional",
            "request",
            "content_hash",
            "ticket",
            "vendor_status",
            "requested_at",
            "received_at",
            "handed_in_by",
            "files",
            "reportd_version",
        ]
    );
    let window_keys = ["start", "end", "label", "first_date", "last_date", "zone", "tzdata"];
    assert_eq!(keys(&manifest["window"]), window_keys);
    assert_eq!(keys(&manifest["files"][0]), ["name", "media_type", "bytes", "sha256", "simulated", "derived"]);
    let expected = [
        ("schema_version", 1.into()),
        ("archive_id", json_file(&shop.archive().join("reportd.json"))["archive_id"].clone()),
        ("job", "report".into()),
        ("connection", "north".into()),
        ("vendor", "bik".into()),
        ("run_id", run["run_id"].clone()),
        ("trigger", "manual".into()),
        ("fire_at", "2025-03-05T06:30:00+05:30".into()),
        ("revision", 1.into()),
        ("supersedes", Value::Null),
        ("previous_manifest_sha256", Value::Null),
        ("state", "archived".into()),
        ("provisional", false.into()),
        ("ticket", shop.sandbox.mails()[0].report_history_id.to_string().into()),
        ("vendor_status", "COMPLETED".into()),
        ("handed_in_by", Value::Null),
        ("reportd_version", env!("CARGO_PKG_VERSION").into()),
    ];
    for (key, value) in expected {
        assert_eq!(manifest[key], value, "{key}");
    }
    let window = &manifest["window"];
    assert_eq!(
        ["start", "end", "label", "first_date", "last_date", "zone"].map(|key| text(&window[key])),
        ["2025-03-02T18:30:00Z", "2025-03-03T18:30:00Z", "2025-03-03", "2025-03-03", "2025-03-03", "Asia/Kolkata"]
    );
    assert!(text(&window["tzdata"]).starts_with("20"), "{window}");
    assert_eq!(keys(&manifest["request"]), ["method", "url", "headers", "body"]);
    assert_eq!(manifest["request"]["body"], shop.sandbox.received()[0].json());
    assert!(text(&manifest["requested_at"]) <= text(&manifest["received_at"]), "{manifest}");
    let file = folder.join(text(&manifest["files"][0]["name"]));
    assert_eq!(manifest["files"][0]["sha256"], sha256(&file));
    assert_eq!(manifest["files"][0]["bytes"], std::fs::metadata(&file).unwrap().len());
    assert_eq!(manifest["files"][0]["simulated"], true);
    let mine = run["artifacts"][0].clone();
    assert_eq!((&mine["sha256"], &mine["bytes"]), (&manifest["files"][0]["sha256"], &manifest["files"][0]["bytes"]));
    let stored = shop.one::<String>("SELECT manifest_sha256 FROM revisions").await;
    assert_eq!(stored, sha256(&folder.join("manifest.json")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_content_hash_does_not_depend_on_window_or_addresses_and_does_on_the_question() {
    let shop = Shop::open().await;
    shop.without_waits().await;
    let hash = async |yaml: &str, window: &str, day: &str| {
        shop.job("report", yaml);
        shop.run_job("report", window, &[]).await.expect(0);
        text(&json_file(&shop.archive().join("report/north/2025").join(day).join("r1/manifest.json"))["content_hash"])
            .to_owned()
    };
    let first = hash(BIK, DAY, "2025-03-03").await;
    let other = BIK.replace("{var.owner}", "other@north.example").replace(" }", ", reportDescription: weekly }");
    assert_eq!(hash(&other, NEXT_DAY, "2025-03-04").await, first);
    let changed = BIK.replace(" }", ", filters: { channel: whatsapp } }");
    assert_ne!(hash(&changed, "2025-03-05..2025-03-05", "2025-03-05").await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_a_flipped_byte_a_shorter_file_and_a_missing_one() {
    let shop = shop_with_two_revisions().await;
    assert_eq!(faults(&shop, 0).await, []);
    let file = shop.archive().join(WINDOW).join("r1/report.json");
    let good = std::fs::read(&file).unwrap();
    let mut bad = good.clone();
    bad[7] ^= 1;
    std::fs::write(&file, &bad).unwrap();
    assert_eq!(faults(&shop, 1).await, found("damaged", "r1/report.json"));
    std::fs::write(&file, &good[..good.len() - 1]).unwrap();
    assert_eq!(faults(&shop, 1).await, found("damaged", "r1/report.json"));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(faults(&shop, 1).await, found("missing", "r1/report.json"));
    std::fs::write(&file, &good).unwrap();
    assert_eq!(faults(&shop, 0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_a_manifest_that_is_misplaced_unreadable_or_not_the_one_the_next_was_written_after() {
    let shop = shop_with_two_revisions().await;
    let window = shop.archive().join(WINDOW);
    let first = window.join("r1/manifest.json");
    let good = std::fs::read(&first).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();

    std::fs::write(&first, text.replace("\"provisional\": false", "\"provisional\": true")).unwrap();
    assert_eq!(faults(&shop, 1).await, found("broken_chain", "r2/manifest.json"));
    std::fs::write(&first, &text[..text.len() / 2]).unwrap();
    let broken = faults(&shop, 1).await;
    assert!(broken.contains(&found("unreadable", "r1/manifest.json")[0]), "{broken:?}");
    std::fs::write(&first, &good).unwrap();

    std::fs::rename(window.join("r1"), window.join("r7")).unwrap();
    let misplaced = faults(&shop, 1).await;
    assert!(misplaced.contains(&found("misplaced", "r7/manifest.json")[0]), "{misplaced:?}");
    std::fs::rename(window.join("r7"), window.join("r1")).unwrap();

    std::fs::rename(window.join("r1"), shop.folder.path().join("aside")).unwrap();
    assert_eq!(faults(&shop, 1).await, found("broken_chain", "r2/manifest.json"));
    std::fs::rename(shop.folder.path().join("aside"), window.join("r1")).unwrap();

    std::fs::write(&first, text.replace("\"report.json\"", "\"../r2/report.json\"")).unwrap();
    let outside = faults(&shop, 1).await;
    assert!(outside.contains(&found("misplaced", "r1/manifest.json")[0]), "{outside:?}");
    std::fs::write(&first, &good).unwrap();
    assert_eq!(faults(&shop, 0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_orphans_and_is_content_and_needs_no_database() {
    let shop = shop_with_two_revisions().await;
    std::fs::write(shop.archive().join(WINDOW).join("r1/report-0a1b2c3d.json"), "{}").unwrap();
    std::fs::create_dir(shop.archive().join(WINDOW).join("r3")).unwrap();
    let mut command = shop.command(&["archive", "verify", "--format", "json"]);
    command.env("DATABASE_URL", "postgresql://nobody@nowhere.invalid/none");
    let orphan = run(command).await.expect(0).line();
    assert_eq!(
        (&orphan["kind"], text(&orphan["path"])),
        (&"orphan".into(), found("", "r1/report-0a1b2c3d.json")[0].1.as_str())
    );
    let nowhere = Shop::open().await;
    nowhere.run(&["archive", "verify"]).await.expect(1).says("archive");
    assert!(!nowhere.archive().exists(), "a check makes no archive");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_is_rebuilt_from_the_archive_and_nothing_is_fetched_again() {
    let mut shop = shop_with_two_revisions().await;
    shop.job("tasks", JAICP);
    shop.without_waits().await;
    shop.run_job("tasks", DAY, &[]).await.expect(0);
    let held = shop.run_job("report", DAY, &[]).await.expect(0).line();
    let task = shop.run_job("tasks", DAY, &[]).await.expect(0).line();
    let (asked, before) = (shop.requests(), contents(&shop.archive()));
    shop.lose_database().await;
    for window in [DAY, NEXT_DAY] {
        shop.run_job("report", window, &[]).await.expect(2).says("reportd archive rebuild");
    }
    let rebuilt = shop.run(&["archive", "rebuild", "--format", "json"]).await.expect(0).line();
    assert_eq!(rebuilt["adopted"], 3);
    let again = shop.run(&["archive", "rebuild", "--format", "json"]).await.expect(0).line();
    assert_eq!((&again["adopted"], &again["known"]), (&0.into(), &3.into()));
    assert_eq!(shop.number("SELECT count(*) FROM runs").await, 0, "a rebuild makes no run");
    assert_eq!(shop.run_job("report", DAY, &[]).await.expect(0).line(), held);
    assert_eq!(shop.run_job("tasks", DAY, &[]).await.expect(0).line(), task);
    assert_eq!(shop.requests(), asked);
    assert_eq!(contents(&shop.archive()), before, "a rebuild changes nothing in the archive");
    let third = shop.run_job("report", DAY, &["--again"]).await.expect(0).line();
    assert_eq!(third["revision"], 3);
    assert_eq!(faults(&shop, 0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_goes_past_manifests_that_it_cannot_use_and_names_them() {
    let mut shop = shop_with_two_revisions().await;
    let first = shop.archive().join(WINDOW).join("r1/manifest.json");
    let good = std::fs::read_to_string(&first).unwrap();
    shop.lose_database().await;
    for bad in [&good[..20], &good.replace("\"report\"", "\"No Name\""), &good.replace("\"archived\"", "\"failed\"")] {
        std::fs::write(&first, bad).unwrap();
        let ran = shop.run(&["archive", "rebuild", "--format", "json"]).await.expect(1).says("r1/manifest.json");
        assert_eq!(ran.line()["unusable"].as_array().unwrap().len(), 1, "{}", ran.stdout);
    }
    assert_eq!(shop.number("SELECT count(*) FROM revisions").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_of_the_database_is_noticed_where_the_archive_knows_more() {
    let shop = shop_with_two_revisions().await;
    // The backup was taken between the two.
    for sql in ["DELETE FROM artifacts WHERE revision = 2", "DELETE FROM revisions WHERE revision = 2"] {
        sqlx::query(sql).execute(&shop.pool).await.unwrap();
    }
    let asked = shop.requests();
    shop.run_job("report", DAY, &[]).await.expect(2).says("reportd archive rebuild").says("r2");
    shop.run(&["archive", "rebuild"]).await.expect(0);
    assert_eq!(shop.run_job("report", DAY, &[]).await.expect(0).line()["revision"], 2);
    assert_eq!(shop.requests(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_archive_than_the_databases_own_is_refused() {
    let shop = shop_with_two_revisions().await;
    let asked = shop.requests();
    std::fs::rename(shop.archive(), shop.folder.path().join("moved-away")).unwrap();
    // As with a disk that is not mounted: no new archive takes its place, and nothing is called held.
    shop.run_job("report", NEXT_DAY, &[]).await.expect(2).says("mount or restore it");
    shop.run_job("report", DAY, &[]).await.expect(2).says("mount or restore it");
    assert_eq!((shop.requests(), shop.archive().exists()), (asked, false));
    // Somebody else's archive in its place.
    let other = Shop::open().await;
    other.job("report", LIVECHAT);
    other.run_job("report", DAY, &[]).await.expect(0);
    std::fs::rename(other.archive(), shop.archive()).unwrap();
    shop.run_job("report", NEXT_DAY, &[]).await.expect(2).says("another archive");
    shop.run(&["archive", "rebuild"]).await.expect(1).says("this archive does not have it");
    shop.run_job("report", NEXT_DAY, &[]).await.expect(2).says("another archive");
    assert_eq!(shop.requests(), asked);
    std::fs::remove_dir_all(shop.archive()).unwrap();
    std::fs::rename(shop.folder.path().join("moved-away"), shop.archive()).unwrap();
    shop.run_job("report", NEXT_DAY, &[]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_whose_manifest_is_gone_is_not_called_held() {
    let shop = shop_with_two_revisions().await;
    let held = shop.run_job("report", DAY, &[]).await.expect(0).line();
    let file = shop.archive().join(held["artifacts"][0]["path"].as_str().unwrap());
    std::fs::remove_file(file.with_file_name("manifest.json")).unwrap();
    shop.run_job("report", DAY, &[]).await.expect(2).says("which is not there");
    assert_eq!(shop.run_job("report", DAY, &["--again"]).await.expect(0).line()["revision"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_with_somebodys_files_is_not_made_an_archive() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    std::fs::create_dir(shop.archive()).unwrap();
    std::fs::write(shop.archive().join("thesis.tex"), "mine").unwrap();
    shop.run_job("report", DAY, &[]).await.expect(1).says("thesis.tex");
    shop.run(&["archive", "verify"]).await.expect(1).says("reportd.json");
    assert_eq!((shop.requests(), contents(&shop.archive()).len()), (0, 1));
    std::fs::remove_file(shop.archive().join("thesis.tex")).unwrap();
    // What a crash left while it made the archive is nobody's.
    std::fs::write(shop.archive().join("reportd.json#1"), "{").unwrap();
    shop.run_job("report", DAY, &[]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_use_a_new_archive_at_once_agree_on_it() {
    for round in 0..2 {
        let shop = Shop::open().await;
        shop.job("report", LIVECHAT);
        let windows: Vec<String> = (1..=5).map(|day| format!("2025-03-{day:02}..2025-03-{day:02}")).collect();
        let processes: Vec<_> = windows.iter().map(|w| shop.start(&["run-job", "report", "--window", w])).collect();
        for process in processes {
            process.end().await.expect(0);
        }
        assert_eq!(shop.number("SELECT count(*) FROM revisions").await, 5, "round {round}");
        assert_eq!(faults(&shop, 0).await, []);
    }
}

async fn spooled(archive: &Archive, bytes: &'static [u8]) -> Spooled {
    let label = Label { name: "report.json".into(), expect: Expect::Json, derived: false, simulated: true };
    archive.spool().bytes(label, Bytes::from_static(bytes)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_the_archive_is_ever_overwritten() {
    let shop = shop_with_two_revisions().await;
    let before = contents(&shop.archive());
    let archive = Archive::open(&shop.archive(), false).await.unwrap();
    let folder = format!("{WINDOW}/r1");
    let mine = archive.manifest(&folder).await.unwrap().unwrap();
    // The run that wrote it finds its own again; another run is told whose it is.
    let again = Manifest { ticket: Some("changed".into()), ..mine.manifest.clone() };
    let found = archive.put_manifest(&folder, &again).await.unwrap();
    assert_eq!((found.manifest, found.manifest_sha256), (mine.manifest.clone(), mine.manifest_sha256));
    let other = Manifest { run_id: Uuid::new_v4(), ..mine.manifest.clone() };
    let taken = archive.put_manifest(&folder, &other).await;
    assert!(matches!(&taken, Err(ArchiveError::Taken { run, .. }) if *run == mine.manifest.run_id), "{taken:?}");
    // Files get another name each time, even when the same attempt comes twice.
    let attempt = Uuid::new_v4();
    let mut names = vec!["report.json".to_owned()];
    for bytes in [&b"{\"n\":1}"[..], b"{\"n\":2}", b"{\"n\":3}"] {
        let files = Arc::new(vec![spooled(&archive, bytes).await]);
        let entries = archive.link(&folder, attempt, &files).await.unwrap();
        assert!(!names.contains(&entries[0].name), "{names:?} {entries:?}");
        assert_eq!(std::fs::read(archive.path(&folder).join(&entries[0].name)).unwrap(), bytes);
        names.push(entries[0].name.clone());
    }
    let after = contents(&shop.archive());
    assert!(before.iter().all(|file| after.contains(file)));
    assert_eq!(after.len(), before.len() + 3, "the spool is empty again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_another_run_has_taken_makes_ours_the_next() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    let made = shop.run_job("report", DAY, &["--again", "--no-wait"]).await.expect(4).line();
    // A manifest of a run that this database does not know, put there after ours was made.
    let other = shop_with_two_revisions().await;
    let folder = shop.archive().join(WINDOW);
    std::fs::create_dir_all(folder.join("r1")).unwrap();
    for name in ["manifest.json", "report.json"] {
        std::fs::copy(other.archive().join(WINDOW).join("r1").join(name), folder.join("r1").join(name)).unwrap();
    }
    let before = contents(&folder);
    let store = shop.store();
    let id: Uuid = text(&made["run_id"]).parse().unwrap();
    assert_eq!(store.take_revision(None, id, false).await.unwrap(), 1);
    // `run-job` refuses such a folder; a worker that has begun already finds it only at the end.
    shop.run_job("report", DAY, &[]).await.expect(2).says("reportd archive rebuild");
    shop.sql("UPDATE runs SET state = 'submitting', attempt_id = gen_random_uuid()").await;
    shop.run(&["archive", "rebuild"]).await.expect(0);
    shop.sql("UPDATE runs SET state = 'queued', attempt_id = NULL").await;
    let ended = shop.run_job("report", DAY, &["--again"]).await.expect(0).line();
    assert_eq!((&ended["run_id"], &ended["revision"]), (&made["run_id"], &2.into()));
    let after = contents(&folder);
    assert!(before.iter().all(|file| after.contains(file)));
    let manifest = json_file(&folder.join("r2/manifest.json"));
    assert_eq!(manifest["supersedes"], 1);
    assert_eq!(text(&manifest["previous_manifest_sha256"]), sha256(&folder.join("r1/manifest.json")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_crashes_left_in_the_spool_is_swept_when_it_is_a_day_old() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    shop.run_job("report", DAY, &[]).await.expect(0);
    let spool = shop.archive().join(".spool");
    assert_eq!(contents(&spool), []);
    for (name, age) in [("old", 25), ("young", 1)] {
        let file = std::fs::File::create(spool.join(name)).unwrap();
        let at = SystemTime::UNIX_EPOCH + since_epoch() - Duration::from_secs(age * 3600);
        file.set_modified(at).unwrap();
    }
    shop.run_job("report", DAY, &[]).await.expect(0);
    let left: Vec<_> = contents(&spool).into_iter().map(|(path, _)| path).collect();
    assert_eq!(left, [spool.join("young")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_cannot_be_written_puts_the_run_off_and_says_why() {
    let shop = Shop::open().await;
    shop.job("report", JAICP);
    shop.without_waits().await;
    shop.run_job("report", NEXT_DAY, &[]).await.expect(0);
    // A file where the folder must go stops root, too, whom a read-only folder would not.
    let folder = shop.archive().join(WINDOW);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("r1"), "in the way").unwrap();
    let waits = shop.run_job("report", DAY, &["--wait", "2s"]).await.expect(4).line();
    assert_eq!((&waits["state"], &waits["failure"]), (&"waiting".into(), &Value::Null));
    let note = shop.one::<String>("SELECT detail FROM run_events WHERE kind = 'retry' ORDER BY id DESC LIMIT 1").await;
    assert!(note.contains("make") && note.contains("r1"), "{note}");
    std::fs::remove_file(folder.join("r1")).unwrap();
    let ended = shop.run_job("report", DAY, &[]).await.expect(0).line();
    assert_eq!(ended["run_id"], waits["run_id"]);
    assert_eq!(shop.sandbox.creates(reportd::sandbox::Vendor::Jaicp), 2);
    assert_eq!(faults(&shop, 0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_writes_nothing_so_a_read_only_archive_can_be_checked() {
    use std::os::unix::fs::PermissionsExt;
    let shop = shop_with_two_revisions().await;
    let spool = shop.archive().join(".spool");
    std::fs::remove_dir(&spool).unwrap();
    let set = |mode| std::fs::set_permissions(shop.archive(), std::fs::Permissions::from_mode(mode)).unwrap();
    set(0o555);
    let verified = shop.run(&["archive", "verify"]).await;
    let refused = shop.run_job("report", NEXT_DAY, &[]).await;
    set(0o755);
    verified.expect(0);
    // Root may write anywhere.
    if rustix::process::geteuid().is_root() {
        std::fs::remove_dir(&spool).unwrap();
        shop.run(&["archive", "verify"]).await.expect(0);
        assert!(!spool.exists());
    } else {
        refused.expect(1).says("archive");
        assert_eq!(shop.number("SELECT count(*) FROM runs").await, 2);
    }
}
