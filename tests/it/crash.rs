//! Crashes: the process dies at every named point, at random moments, and by Ctrl-C; what the vendors saw, what the archive
//! holds and what the database says afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use reportd::sandbox::Vendor;
use rustix::process::Signal;

use crate::harness::{Ran, Shop, run};
use crate::mailing::POINTS as NOTICES;
use crate::retention::POINT as RETENTION;
use crate::verbs::{BIK, DAY, JAICP, LEASES, LIVECHAT, QUERY, text};

/// Every `crash::point` of src/worker that a run passes.
pub const POINTS: [&str; 13] = [
    "before-intent",
    "intent-committed",
    "call-answered",
    "ticket-committed",
    "poll-answered",
    "poll-committed",
    "ready-noted",
    "files-linked",
    "manifest-put",
    "deletion-noted",
    "archived-committed",
    "held-committed",
    "retry-committed",
];

/// Those that only some runs pass, each with a test of its own.
const ASIDE: [&str; 3] = ["failed-committed", "breaker-opened", "task-deleted"];

/// Every `crash::point` that only a process that serves passes.
pub const SERVING: [&str; 4] = ["set-applied", "claims-committed", "fires-decided", "fires-committed"];

/// One shape of a report.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Bik,
    Livechat,
    JaicpReport,
    JaicpQuery,
}

impl Kind {
    pub fn yaml(self) -> &'static str {
        match self {
            Kind::Bik => BIK,
            Kind::Livechat => LIVECHAT,
            Kind::JaicpReport => JAICP,
            Kind::JaicpQuery => QUERY,
        }
    }

    pub fn vendor(self) -> Vendor {
        match self {
            Kind::Bik => Vendor::Bik,
            Kind::Livechat => Vendor::LiveChat,
            Kind::JaicpReport | Kind::JaicpQuery => Vendor::Jaicp,
        }
    }

    fn has_ticket(self) -> bool {
        matches!(self, Kind::Bik | Kind::JaicpReport)
    }

    /// The call that brings the report nearer: made once, unless the crash makes its outcome unknown.
    fn first_call(self) -> &'static str {
        match self {
            Kind::Bik => "generateReport",
            Kind::Livechat => "report",
            Kind::JaicpReport => "create",
            Kind::JaicpQuery => "query",
        }
    }

    /// What must go wrong so that a run of this kind passes the point.
    pub fn fault(self, point: &str) -> Option<&'static str> {
        match (point, self) {
            ("poll-committed", Kind::Bik) => Some("bik.getReportById=odd-status:1"),
            ("poll-committed", Kind::JaicpReport) => Some("jaicp.task=odd-status:1"),
            ("held-committed", Kind::Bik) => Some("bik.generateReport=lost:1"),
            ("retry-committed", Kind::Bik) => Some("bik.getReportById=500:1"),
            ("retry-committed", Kind::Livechat) => Some("livechat.report=500:1"),
            ("retry-committed", Kind::JaicpReport) => Some("jaicp.task=500:1"),
            ("retry-committed", Kind::JaicpQuery) => Some("jaicp.query=500:1"),
            _ => None,
        }
    }

    /// Whether a run of this kind passes the point at all, in whatever process.
    pub fn passes(self, point: &str) -> bool {
        match point {
            "ticket-committed" | "poll-answered" | "poll-committed" | "ready-noted" => self.has_ticket(),
            "held-committed" => self == Kind::Bik,
            _ => true,
        }
    }

    /// Whether nobody can know after a death at this point if the create took effect, and it may not be repeated.
    pub fn is_held_after(self, point: &str) -> bool {
        self == Kind::Bik && matches!(point, "intent-committed" | "call-answered" | "held-committed")
    }
}

#[test]
fn every_crash_point_is_tested() {
    fn walk(folder: &Path, found: &mut BTreeMap<&str, BTreeSet<String>>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            for rest in source.split("crash::point(").skip(1) {
                let name = rest.trim_start().strip_prefix('"').expect("a point's name is a literal");
                let name = name.split_once('"').unwrap().0.to_owned();
                let of_the_worker = path.parent().unwrap().ends_with("src/worker");
                let of = if NOTICES.contains(&&*name) {
                    "notices"
                } else if name == RETENTION {
                    "retention"
                } else if of_the_worker {
                    "worker"
                } else {
                    "serving"
                };
                found.entry(of).or_default().insert(name);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert_eq!(found["worker"], POINTS.into_iter().chain(ASIDE).map(str::to_owned).collect());
    assert_eq!(found["serving"], SERVING.map(str::to_owned).into());
    // At each of these a mail, an alert, a webhook and a ticket die in tests of their own: mailing.rs, notices.rs.
    assert_eq!(found["notices"], NOTICES.map(str::to_owned).into());
    assert_eq!(found["retention"], [RETENTION.to_owned()].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bik_run_that_dies_at_any_point_is_held_or_archived_once_and_mails_once() {
    dies_everywhere(Kind::Bik).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_livechat_run_that_dies_at_any_point_is_archived_once() {
    dies_everywhere(Kind::Livechat).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jaicp_report_that_dies_at_any_point_is_archived_once() {
    dies_everywhere(Kind::JaicpReport).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jaicp_query_that_dies_at_any_point_is_archived_once() {
    dies_everywhere(Kind::JaicpQuery).await;
}

async fn dies_everywhere(kind: Kind) {
    let shop = Shop::open().await;
    shop.job("report", kind.yaml());
    shop.without_waits().await;
    for (n, point) in POINTS.into_iter().enumerate() {
        dies_at(&shop, kind, point, &format!("2025-03-{:02}", n + 1)).await;
    }
    let windows = i64::try_from(POINTS.len()).unwrap();
    assert_eq!(shop.number("SELECT count(*) FROM runs WHERE state IN ('archived', 'empty')").await, windows);
    assert_eq!(shop.number("SELECT count(*) FROM runs").await, windows, "no run was made twice");
    assert_eq!(shop.number("SELECT count(*) FROM revisions WHERE revision = 1").await, windows);
    assert_eq!(shop.number("SELECT count(*) FROM revisions").await, windows);
    assert_eq!(shop.number("SELECT count(*) FROM remote_tasks WHERE outcome = 'intended'").await, 0);
    let finished = "SELECT count(*) FROM remote_tasks WHERE outcome = 'created' AND finished_at IS NOT NULL";
    let tasks = shop.number(finished).await;
    assert_eq!(tasks, if kind.has_ticket() { windows } else { 0 });
    verify(&shop).await;
}

/// `archive verify` finds nothing but orphans.
pub async fn verify(shop: &Shop) {
    let faults = shop.run(&["archive", "verify", "--format", "json"]).await.expect(0).json();
    assert!(faults.iter().all(|fault| fault["kind"] == "orphan"), "{faults:?}");
}

async fn dies_at(shop: &Shop, kind: Kind, point: &str, day: &str) {
    let window = format!("{day}..{day}");
    if let Some(fault) = kind.fault(point) {
        shop.fault(fault);
    }
    let (first_calls, creates, mails) =
        (shop.asked_for(kind.first_call()), shop.sandbox.creates(kind.vendor()), shop.sandbox.mails().len());
    let mut command = shop.command(&["run-job", "report", "--window", &window, "--format", "json"]);
    command.env("REPORTD_CRASH_AT", point);
    let died = run(command).await;
    if !kind.passes(point) {
        assert_archived(&died.expect(0), point);
        return;
    }
    assert_eq!(died.code, None, "{point}: it did not die: {}{}", died.stdout, died.stderr);
    shop.advance(LEASES).await;
    let asked_until_death = shop.requests();
    let mut ended = shop.run_job("report", &window, &[]).await;
    if kind.is_held_after(point) {
        ended = resolve(shop, &ended.expect(3), point, creates, &window).await;
    }
    assert_archived(&ended.expect(0), point);
    let folder = shop.archive().join("report/north/2025").join(day);
    let revisions: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(revisions, ["r1"], "{point}");

    let created = shop.sandbox.creates(kind.vendor()) - creates;
    let called = shop.asked_for(kind.first_call()) - first_calls;
    match (kind, point) {
        (Kind::Bik, _) => assert_eq!((created, shop.sandbox.mails().len() - mails), (1, 1), "{point}"),
        (Kind::JaicpReport, "call-answered") => assert_eq!(created, 2, "the task whose id was lost is left alone"),
        (Kind::JaicpReport, _) => assert_eq!(created, 1, "{point}"),
        // Asked once more where the answer was lost with the process; not where its manifest was written.
        (_, "call-answered" | "files-linked" | "retry-committed") => assert!(called >= 2, "{point}: {called}"),
        (Kind::Livechat, _) => assert_eq!(called, 1, "{point}"),
        (Kind::JaicpQuery, _) => {}
    }
    if matches!(point, "manifest-put" | "deletion-noted" | "archived-committed") {
        assert_eq!(
            shop.requests(),
            asked_until_death,
            "{point}: what is in the archive is adopted and not asked for again"
        );
    }
}

#[track_caller]
fn assert_archived(ran: &Ran, point: &str) {
    let run = ran.line();
    // A shop may have no chats to rate on some day.
    assert!(run["state"] == "archived" || run["state"] == "empty", "{point}: {run}");
    assert_eq!(run["revision"], 1, "{point}: {run}");
}

/// The operator looks into the vendor's list and says what became of the create.
async fn resolve(shop: &Shop, held: &Ran, point: &str, creates: usize, window: &str) -> Ran {
    let run = held.line();
    assert_eq!((&run["state"], &run["failure"]["class"]), (&"held".into(), &"unknown_create".into()), "{point}: {run}");
    let id = text(&run["run_id"]);
    assert!(text(&run["failure"]["message"]).contains(&format!("reportd resolve {}", &id[..8])), "{run}");
    let made = shop.sandbox.creates(Vendor::Bik) - creates;
    assert_eq!(made, usize::from(point != "intent-committed"), "{point}");
    if made == 0 {
        shop.run(&["resolve", id, "--not-created"]).await.expect(0);
    } else {
        let ticket = shop.sandbox.mails().last().unwrap().report_history_id.to_string();
        shop.run(&["resolve", id, "--ticket", &ticket]).await.expect(0);
    }
    shop.run_job("report", window, &[]).await
}

/// Runs `run-job report` until it dies at a point, and lets its lease end.
async fn dies_aside(shop: &Shop, point: &str) {
    let mut command = shop.command(&["run-job", "report", "--window", DAY]);
    command.env("REPORTD_CRASH_AT", point);
    let died = run(command).await;
    assert_eq!(died.code, None, "{point}: it did not die: {}{}", died.stdout, died.stderr);
    shop.advance(LEASES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_right_after_a_run_failed_leaves_it_failed_and_its_window_free() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    shop.fault("livechat.report=400:1");
    dies_aside(&shop, "failed-committed").await;
    assert_eq!(shop.one::<String>("SELECT state || ' ' || failure_class FROM runs").await, "failed refused");
    assert_archived(&shop.run_job("report", DAY, &[]).await.expect(0), "failed-committed");
    assert_eq!((shop.number("SELECT count(*) FROM runs").await, shop.asked_for("report")), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_right_after_a_breaker_opened_leaves_a_run_that_goes_on_once_it_is_closed() {
    let shop = Shop::open().await;
    shop.job("report", BIK);
    shop.fault("bik.generateReport=401:1");
    dies_aside(&shop, "breaker-opened").await;
    // The create's answer died with the process: nobody knows that it was a no.
    shop.run_job("report", DAY, &[]).await.expect(3);
    let id = shop.one::<uuid::Uuid>("SELECT id FROM runs").await.to_string();
    shop.run(&["resolve", &id, "--not-created"]).await.expect(0);
    shop.run_job("report", DAY, &[]).await.expect(4);
    shop.run(&["connections", "close", "north"]).await.expect(0);
    assert_archived(&shop.run_job("report", DAY, &[]).await.expect(0), "breaker-opened");
    assert_eq!((shop.sandbox.creates(Vendor::Bik), shop.sandbox.mails().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_around_the_deletion_of_a_task_costs_no_file_and_leaves_no_task() {
    for point in ["deletion-noted", "task-deleted"] {
        let shop = Shop::open().await;
        shop.job("report", &format!("{}\n  delete_after: true\n", JAICP.trim_end()));
        dies_aside(&shop, point).await;
        assert_archived(&shop.run_job("report", DAY, &[]).await.expect(0), point);
        shop.advance(Duration::from_secs(600)).await;
        let serving = shop.serve().await;
        let deleted = "SELECT count(*) FROM remote_tasks WHERE deleted_at IS NOT NULL AND delete_at IS NULL";
        shop.until_count(deleted, 1).await;
        serving.stop().await;
        assert_eq!((shop.sandbox.deleted(), shop.sandbox.creates(Vendor::Jaicp)), (1, 1), "{point}");
        verify(&shop).await;
    }
}

/// A small generator, so that a seed names a whole test.
pub struct Random(pub u64);

impl Random {
    /// The next number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_killed_at_random_moments_lose_nothing_and_mail_nobody_twice() {
    const JOBS: [&str; 3] = ["engagement", "ratings", "messages"];
    const WINDOW: &str = "2025-03-01..2025-03-06";
    let seeds = std::env::vars().find(|(name, _)| name == "REPORTD_TEST_SEED").and_then(|(_, seed)| seed.parse().ok());
    let seed = seeds.unwrap_or(uuid::Uuid::new_v4().as_u64_pair().0 | 1);
    // Shown when the test fails: set REPORTD_TEST_SEED to it to have the same kills again.
    println!("seed {seed}");
    let mut random = Random(seed);
    let shop = Shop::open().await;
    shop.job(JOBS[0], &BIK.replace("{var.owner}", "day-{window.label}@north.example"));
    shop.job(JOBS[1], LIVECHAT);
    shop.job(JOBS[2], JAICP);
    shop.without_waits().await;
    let args = |job| ["run-job", job, "--window", WINDOW, "--each", "day", "--mail", "--format", "json"];
    for fault in [
        "bik.generateReport=lost:1",
        "bik.getReportById=500:3",
        "bik.download=reset:2",
        "livechat.report=500:3",
        "livechat.report=truncated:1",
        "jaicp.create=lost:2",
        "jaicp.task=503+1:2",
        "jaicp.download=truncated:2",
    ] {
        shop.fault(fault);
    }
    for _ in 0..24 {
        let started = shop.start(&args(JOBS[usize::try_from(random.below(3)).unwrap()]));
        // The moment is what is tried here; nothing is waited for.
        tokio::time::sleep(Duration::from_millis(40 + random.below(300))).await;
        started.signal(Signal::KILL);
        assert_ne!(started.end().await.code, Some(2));
        if random.below(2) == 0 {
            shop.advance(LEASES).await;
        }
    }
    let mut rounds = 0;
    loop {
        shop.advance(LEASES).await;
        let [first, second, third] = JOBS.map(args);
        let (bik, livechat, jaicp) = tokio::join!(shop.run(&first), shop.run(&second), shop.run(&third));
        livechat.expect(0);
        jaicp.expect(0);
        if bik.code == Some(0) {
            break;
        }
        rounds += 1;
        assert!(rounds < 4, "it does not heal: {}{}", bik.stdout, bik.stderr);
        for run in bik.expect(3).json().into_iter().filter(|run| run["state"] == "held") {
            let address = format!("day-{}@north.example", text(&run["window"]["label"]));
            let id = text(&run["run_id"]);
            match shop.sandbox.mails().iter().find(|mail| mail.to == address) {
                Some(mail) => {
                    shop.run(&["resolve", id, "--ticket", &mail.report_history_id.to_string()]).await.expect(0)
                }
                None => shop.run(&["resolve", id, "--not-created"]).await.expect(0),
            };
        }
    }
    let mut mails: BTreeMap<String, usize> = BTreeMap::new();
    for mail in shop.sandbox.mails() {
        *mails.entry(mail.to).or_default() += 1;
    }
    let expected = (1..=6).map(|day| (format!("day-2025-03-{day:02}@north.example"), 1)).collect();
    assert_eq!(mails, expected);
    assert_eq!(shop.number("SELECT count(*) FROM runs").await, 18);
    let held = "SELECT count(*) FROM runs WHERE state IN ('archived', 'empty') AND lease_token IS NULL";
    assert_eq!(shop.number(held).await, 18);
    assert_eq!(shop.number("SELECT count(*) FROM revisions WHERE revision = 1").await, 18);
    verify(&shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_create_is_finished_and_its_ticket_is_used_by_the_next_process() {
    let shop = Shop::open().await;
    shop.job("report", BIK);
    shop.fault("bik.generateReport=slow:1");
    let started = shop.start(&["run-job", "report", "--window", DAY, "--format", "json"]);
    shop.until_asked("generateReport", 1).await;
    started.signal(Signal::INT);
    let interrupted = started.end().await.expect(130).says("stopping").line();
    assert_eq!(interrupted["state"], "waiting");
    assert!(interrupted["ticket"].is_string(), "{interrupted}");
    shop.without_waits().await;
    let next = shop.run_job("report", DAY, &[]).await.expect(0).line();
    assert_eq!((&next["run_id"], &next["ticket"]), (&interrupted["run_id"], &interrupted["ticket"]));
    assert_eq!((shop.sandbox.creates(Vendor::Bik), shop.sandbox.mails().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_poll_download_or_query_is_cut_and_goes_on_at_once_in_the_next_process() {
    for (yaml, fault, operation) in [
        (BIK, "bik.getReportById=hang:1", "getReportById"),
        (JAICP, "jaicp.download=hang:1", "download"),
        (LIVECHAT, "livechat.report=hang:1", "report"),
    ] {
        let shop = Shop::open().await;
        shop.job("report", yaml);
        shop.without_waits().await;
        shop.fault(fault);
        let started = shop.start(&["run-job", "report", "--window", DAY, "--format", "json"]);
        shop.until_asked(operation, 1).await;
        started.signal(Signal::TERM);
        let interrupted = started.end().await.expect(130).line();
        assert_eq!(interrupted["state"], if yaml == LIVECHAT { "queued" } else { "waiting" }, "{operation}");
        assert_eq!(shop.number("SELECT count(*) FROM runs WHERE lease_token IS NULL AND claims = 0").await, 1);
        let next = shop.run_job("report", DAY, &[]).await.expect(0).line();
        assert_eq!((&next["run_id"], &next["state"]), (&interrupted["run_id"], &"archived".into()), "{operation}");
        assert!(shop.sandbox.creates(Vendor::Bik) + shop.sandbox.creates(Vendor::Jaicp) <= 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_interrupt_ends_the_process_at_once_and_leaves_the_create_unknown() {
    let shop = Shop::open().await;
    shop.job("report", BIK);
    shop.fault("bik.generateReport=hang:1");
    let started = shop.start(&["run-job", "report", "--window", DAY]);
    shop.until_asked("generateReport", 1).await;
    started.signal(Signal::INT);
    started.until_says("stopping").await;
    assert_eq!(shop.one::<String>("SELECT state FROM runs").await, "submitting");
    started.signal(Signal::INT);
    started.end().await.expect(130);
    assert_eq!(shop.one::<String>("SELECT state FROM runs").await, "submitting");
    shop.advance(LEASES).await;
    let held = shop.run_job("report", DAY, &[]).await.expect(3).line();
    assert_eq!(held["failure"]["class"], "unknown_create");
    assert_eq!(shop.sandbox.mails().len(), 1);
}
