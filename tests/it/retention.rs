//! `archive prune`: what `retain` lets go goes, is known to have been there, and is not fetched again; nothing else goes.

use std::path::PathBuf;
use std::time::Duration;

use crate::harness::{Ran, Shop, run};
use crate::verbs::{DAY, LIVECHAT, NEXT_DAY, json_file, keys, sha256, text};

const WINDOW: &str = "report/north/2025/2025-03-03";
/// The `crash::point` of src/archive/prune.rs.
pub const POINT: &str = "tombstone-put";
const DAYS: Duration = Duration::from_secs(86_400);

impl Shop {
    /// `archive prune --format json` and more.
    async fn prune(&self, more: &[&str]) -> Ran {
        self.run(&[&["archive", "prune", "--format", "json"], more].concat()).await
    }

    /// A file of the window's folder.
    fn file(&self, path: &str) -> PathBuf {
        self.archive().join(WINDOW).join(path)
    }
}

/// The revisions that a prune names, as `JOB/…/rN`, by the path of their first file.
fn pruned(ran: &Ran) -> Vec<String> {
    let lines = ran.json();
    lines.iter().map(|line| text(&line["files"][0]["path"]).rsplit_once('/').unwrap().0.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_enough_goes_and_stays_held() {
    let mut shop = Shop::with("retain: { artifacts: 400d, events: 400d }\n").await;
    shop.job("report", LIVECHAT);
    shop.job("kept", &format!("{LIVECHAT}retain: {{ artifacts: 500d }}\n"));
    let held = shop.run_job("report", DAY, &[]).await.expect(0).line();
    shop.run_job("kept", DAY, &[]).await.expect(0);
    let bytes = std::fs::metadata(shop.file("r1/report.json")).unwrap().len();
    shop.advance(399 * DAYS).await;
    let early = shop.prune(&[]).await.expect(0).says("0 files of 0 revisions, 0 B, and 0 events removed");
    assert_eq!(early.stdout, "");
    shop.advance(2 * DAYS).await;
    let events = shop.number("SELECT count(*) FROM run_events").await;
    let dry = shop.prune(&["--dry-run"]).await.expect(0).says("1 files of 1 revisions");
    let line = dry.line();
    assert_eq!(keys(&line), ["job", "connection", "window", "revision", "run_id", "reason", "files"]);
    assert_eq!(keys(&line["window"]), ["start", "end", "zone", "label"]);
    assert_eq!((&line["run_id"], &line["window"]), (&held["run_id"], &held["window"]));
    assert_eq!(line["files"], serde_json::json!([{ "path": format!("{WINDOW}/r1/report.json"), "bytes": bytes }]));
    assert!(text(&line["reason"]).ends_with("more than 400d ago"), "{line}");
    assert!(shop.file("r1/report.json").exists() && !shop.file("r1/pruned.json").exists());
    assert_eq!(shop.number("SELECT count(*) FROM run_events").await, events, "a dry run removes nothing");

    let removed = shop.prune(&[]).await.expect(0).says(&format!("and {events} events removed"));
    assert_eq!(removed.line(), line);
    assert!(!shop.file("r1/report.json").exists());
    let word = json_file(&shop.file("r1/pruned.json"));
    assert_eq!(word["manifest_sha256"], sha256(&shop.file("r1/manifest.json")));
    assert_eq!(word["run_id"], held["run_id"]);
    assert_eq!(shop.number("SELECT count(*) FROM run_events").await, 0);
    assert_eq!(shop.prune(&[]).await.expect(0).stdout, "", "the other job's file stays, and nothing goes twice");

    shop.run(&["archive", "verify"]).await.expect(0);
    let verified = shop.run(&["archive", "verify", "--format", "json"]).await.expect(0).says("1 files pruned");
    assert_eq!(verified.stdout, "");
    let asked = shop.requests();
    assert_eq!(shop.run_job("report", DAY, &[]).await.expect(0).line(), held);
    let shown = shop.run(&["run-job", "report", "--window", DAY]).await.expect(0);
    assert!(shown.stdout.contains("(pruned)"), "{}", shown.stdout);
    shop.run_job("report", DAY, &["--out", "out"]).await.expect(1).says("run-job --again");
    shop.lose_database().await;
    assert_eq!(shop.run(&["archive", "rebuild", "--format", "json"]).await.expect(0).line()["adopted"], 2);
    assert_eq!(shop.run_job("report", DAY, &[]).await.expect(0).line(), held);
    assert_eq!(shop.requests(), asked, "what was held once is not fetched again");
    let again = shop.run_job("report", DAY, &["--again"]).await.expect(0).line();
    assert_eq!(again["revision"], 2);
    shop.run(&["archive", "verify"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn coverage_knows_what_was_pruned_and_what_was_lost() {
    let shop = Shop::with("retain: { artifacts: 400d }\n").await;
    shop.job("report", &format!("schedule: \"30 6 * * *\"\nwindow: yesterday\nsince: 2025-03-03\n{LIVECHAT}"));
    shop.run_job("report", DAY, &[]).await.expect(0);
    shop.advance(401 * DAYS).await;
    shop.prune(&[]).await.expect(0);
    let span =
        ["coverage", "report", "--from", "2025-03-03", "--to", "2025-03-03", "--verify", "--check", "--format", "json"];
    let cell = shop.run(&span).await.expect(0).says("hashed 1 files of 1 revisions").line();
    assert_eq!(cell["state"], "held");
    std::fs::remove_file(shop.file("r1/pruned.json")).unwrap();
    assert_eq!(shop.run(&span).await.expect(1).says("is not there").line()["state"], "damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_windows_revisions_the_newest_stay_by_the_rule_of_the_job_that_has_them_now() {
    let shop = Shop::with("retain: { revisions: 2 }\n").await;
    shop.job("report", LIVECHAT);
    for again in [&[][..], &["--again"], &["--again"]] {
        shop.run_job("report", DAY, again).await.expect(0);
    }
    shop.run_job("report", NEXT_DAY, &[]).await.expect(0);
    let first = format!("{WINDOW}/r1");
    assert_eq!(pruned(&shop.prune(&["--dry-run"]).await.expect(0)), std::slice::from_ref(&first));
    std::fs::remove_file(shop.folder.path().join("jobs/report.yaml")).unwrap();
    shop.job("renamed", &format!("was: [report]\nretain: {{ revisions: 1 }}\n{LIVECHAT}"));
    assert_eq!(pruned(&shop.prune(&[]).await.expect(0)), [first, format!("{WINDOW}/r2")]);
    let left: Vec<bool> = (1..=3).map(|n| shop.file(&format!("r{n}/report.json")).exists()).collect();
    assert_eq!(left, [false, false, true]);
    shop.run(&["archive", "verify", "--format", "json"]).await.expect(0).says("2 files pruned");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_was_killed_is_finished_by_the_next() {
    let shop = Shop::with("retain: { artifacts: 400d }\n").await;
    shop.job("report", LIVECHAT);
    shop.run_job("report", DAY, &[]).await.expect(0);
    shop.advance(401 * DAYS).await;
    let mut killed = shop.command(&["archive", "prune"]);
    killed.env("REPORTD_CRASH_AT", POINT);
    assert_eq!(run(killed).await.code, None);
    assert!(shop.file("r1/report.json").exists() && shop.file("r1/pruned.json").exists());
    shop.run(&["archive", "verify", "--format", "json"]).await.expect(0).says("1 files, ");
    shop.prune(&[]).await.expect(0).says("1 files of 1 revisions");
    assert!(!shop.file("r1/report.json").exists());
    shop.run(&["archive", "verify"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_notice_may_need_stays() {
    let shop = Shop::with("retain: { artifacts: 400d }\n").await;
    let deliver = "deliver:\n  - on: [manual]\n    file: { url: \"landing/{job}-{window.label}.json\" }\n";
    shop.job("report", &format!("{LIVECHAT}{deliver}"));
    shop.run_job("report", DAY, &[]).await.expect(0);
    assert_eq!(shop.number("SELECT count(*) FROM deliveries WHERE state = 'sent'").await, 1);
    shop.sql("UPDATE deliveries SET state = 'failed'").await;
    shop.advance(401 * DAYS).await;
    assert_eq!(shop.prune(&[]).await.expect(0).says("1 revisions stay until their notices are out").stdout, "");
    assert!(shop.file("r1/report.json").exists());
    let id: String = shop.one("SELECT id::text FROM deliveries").await;
    shop.run(&["delivery", "retry", &id]).await.expect(0);
    shop.prune(&[]).await.expect(0).says("1 files of 1 revisions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_is_of_another_manifest_hides_nothing() {
    let shop = Shop::with("retain: { artifacts: 400d }\n").await;
    shop.job("report", LIVECHAT);
    shop.run_job("report", DAY, &[]).await.expect(0);
    shop.run_job("report", DAY, &["--again"]).await.expect(0);
    shop.advance(401 * DAYS).await;
    shop.prune(&[]).await.expect(0).says("2 files of 2 revisions");
    std::fs::copy(shop.file("r1/pruned.json"), shop.file("r2/pruned.json")).unwrap();
    let found = shop.run(&["archive", "verify", "--format", "json"]).await.expect(1).json();
    let found: Vec<(&str, &str)> = found.iter().map(|line| (text(&line["kind"]), text(&line["path"]))).collect();
    let at = |file: &str| format!("{WINDOW}/r2/{file}");
    assert_eq!(found, [("unreadable", at("pruned.json").as_str()), ("missing", at("report.json").as_str())]);
    shop.run_job("report", DAY, &[]).await.expect(2).says("report.json");
    std::fs::write(shop.file("r2/report.json"), "handed back").unwrap();
    shop.prune(&[]).await.expect(1).says("it was written for another manifest: move it away");
    assert!(shop.file("r2/report.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_rule_everything_is_kept_and_with_a_broken_file_nothing_goes() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    shop.run_job("report", DAY, &[]).await.expect(0);
    shop.advance(4000 * DAYS).await;
    shop.prune(&[]).await.expect(0).says("everything is kept for ever");
    shop.config("retain: { artifacts: 1d }\n");
    shop.job("broken", "retain: { artifacts: soon }\n");
    shop.prune(&[]).await.expect(2).says("broken.yaml:1:");
    assert!(shop.file("r1/report.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_is_kept() {
    let shop = Shop::with("retain: { artifacts: 30d }\n").await;
    let keeps = format!("retain: {{ artifacts: 3650d }}\n{LIVECHAT}");
    shop.job("report", &keeps);
    shop.job("other", LIVECHAT);
    shop.run(&["apply"]).await.expect(0);
    shop.run_job("report", DAY, &[]).await.expect(0);
    shop.advance(401 * DAYS).await;
    // In force, and not in the folder: a mount that is missing, a checkout under way.
    shop.without_job("report");
    let kept = shop.prune(&[]).await.expect(0).says("report is in force and not in the job folder");
    assert_eq!(kept.stdout, "");
    shop.without_job("other");
    shop.prune(&[]).await.expect(2).says("the job folder holds no job files");
    assert!(shop.file("r1/report.json").exists());
    // A history that travelled, and whose new name the file does not say.
    shop.job("renamed", &format!("was: [report]\n{keeps}"));
    shop.run(&["apply"]).await.expect(0);
    shop.job("renamed", &keeps);
    shop.run(&["apply"]).await.expect(0);
    assert_eq!(shop.prune(&[]).await.expect(0).stdout, "");
    assert!(shop.file("r1/report.json").exists());
    // A job that is gone for good goes by the config's rule.
    shop.without_job("renamed");
    shop.job("other", LIVECHAT);
    shop.run(&["apply"]).await.expect(0);
    assert_eq!(pruned(&shop.prune(&[]).await.expect(0)), [format!("{WINDOW}/r1")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_has_told_nobody_yet_keeps_its_file() {
    let shop = Shop::with("retain: { artifacts: 400d }\n").await;
    let deliver = "deliver:\n  - on: [manual]\n    file: { url: \"landing/{job}-{window.label}.json\" }\n";
    shop.job("report", &format!("{LIVECHAT}{deliver}"));
    shop.run_job("report", DAY, &["--no-deliver"]).await.expect(0);
    shop.sql("UPDATE runs SET notices = '{}', noticed = NULL").await;
    shop.advance(401 * DAYS).await;
    assert_eq!(shop.prune(&[]).await.expect(0).says("1 revisions stay until their notices are out").stdout, "");
}
