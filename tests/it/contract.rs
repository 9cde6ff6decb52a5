//! The command line's contract (DESIGN 3): JSON keys, exit codes, what needs nothing, what a rehearsal leaves alone, and
//! how hostile files are told.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use crate::harness::{Ran, Shop, run};
use crate::verbs::{BIK, DAY, JAICP, LIVECHAT, json_file, keys, text};

const RUN: [&str; 11] = [
    "run_id",
    "job",
    "connection",
    "vendor",
    "trigger",
    "state",
    "window",
    "ticket",
    "revision",
    "artifacts",
    "failure",
];
const WINDOW: [&str; 4] = ["start", "end", "zone", "label"];

#[tokio::test(flavor = "multi_thread")]
async fn a_run_as_json_has_every_key_of_the_contract_and_null_where_nothing_is() {
    let shop = Shop::open().await;
    shop.job("good", JAICP);
    shop.job("bad", LIVECHAT);
    shop.without_waits().await;
    let run = shop.run_job("good", DAY, &[]).await.expect(0).line();
    assert_eq!(keys(&run), RUN);
    assert_eq!(keys(&run["window"]), WINDOW);
    assert_eq!(keys(&run["artifacts"][0]), ["path", "sha256", "bytes", "media_type"]);
    assert_eq!((&run["failure"], &run["trigger"], &run["vendor"]), (&Value::Null, &"manual".into(), &"jaicp".into()));
    assert_eq!(run["window"]["start"], "2025-03-03T00:00:00+05:30");
    assert_eq!(run["window"]["end"], "2025-03-04T00:00:00+05:30");
    assert_eq!(run["window"]["zone"], "Asia/Kolkata");
    assert_eq!(run["artifacts"][0]["path"], "good/north/2025/2025-03-03/r1/report.csv");
    shop.fault("livechat.report=400:1");
    let failed = shop.run_job("bad", DAY, &[]).await.expect(1).line();
    assert_eq!(keys(&failed), RUN);
    assert_eq!(keys(&failed["failure"]), ["class", "message"]);
    assert_eq!(
        (&failed["ticket"], &failed["revision"], &failed["artifacts"]),
        (&Value::Null, &Value::Null, &Value::Array(vec![]))
    );
    let listed = shop.run(&["runs", "--format", "json"]).await.expect(0).json();
    assert_eq!(listed, [failed, run.clone()], "`runs` prints what `run-job` printed");
    let shown = shop.run(&["show", text(&run["run_id"]), "--format", "json"]).await.expect(0).line();
    assert_eq!(keys(&shown)[..RUN.len()], RUN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_line_has_every_key_of_the_contract_and_the_offset_of_its_instant() {
    let shop = Shop::open().await;
    shop.job("report", &format!("schedule: \"30 6 * * *\"\nwindow: yesterday\nzone: Europe/Berlin\n{BIK}"));
    shop.job("by-hand", LIVECHAT);
    let lines = shop.run(&["plan", "report", "--at", "2026-03-28T12:00", "--count", "2", "--format", "json"]).await;
    let lines = lines.expect(0).json();
    for line in &lines {
        assert_eq!(keys(line), ["job", "connection", "vendor", "fire_at", "window", "request", "warnings"]);
        assert_eq!(keys(&line["window"]), WINDOW);
        assert_eq!(keys(&line["request"]), ["method", "url", "headers", "body"]);
    }
    assert_eq!(lines[0]["fire_at"], "2026-03-29T06:30:00+02:00");
    assert_eq!(lines[0]["window"]["start"], "2026-03-28T00:00:00+01:00");
    assert_eq!(lines[1]["window"]["start"], "2026-03-29T00:00:00+01:00");
    assert_eq!(lines[1]["window"]["end"], "2026-03-30T00:00:00+02:00");
    let by_hand = shop.run(&["plan", "by-hand", "--format", "json"]).await.expect(0).line();
    assert_eq!((&by_hand["window"], &by_hand["request"]), (&Value::Null, &Value::Null));
    assert!(!by_hand["warnings"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dry_run_prints_is_what_is_sent() {
    let shop = Shop::open().await;
    shop.job("report", BIK);
    let dry = shop.run_job("report", DAY, &["--dry-run"]).await.expect(0).line();
    assert_eq!(shop.requests(), 0);
    assert_eq!(shop.number("SELECT count(*) FROM runs").await, 0);
    shop.without_waits().await;
    shop.run_job("report", DAY, &[]).await.expect(0);
    assert_eq!(dry["request"]["body"], shop.sandbox.received()[0].json());
    assert!(text(&dry["request"]["url"]).ends_with(&shop.sandbox.received()[0].path));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_exit_code_means_what_the_contract_says() {
    let shop = Shop::open().await;
    shop.job("bik", BIK);
    shop.job("livechat", LIVECHAT);
    let job = async |job: &str, day: u32, more: &[&str]| {
        shop.run_job(job, &format!("2025-03-{day:02}..2025-03-{day:02}"), more).await.code.unwrap()
    };
    assert_eq!(job("livechat", 1, &[]).await, 0);
    shop.fault("livechat.report=no-rows:1");
    assert_eq!(job("livechat", 2, &[]).await, 0, "empty is done");
    shop.fault("livechat.report=400:1");
    assert_eq!(job("livechat", 3, &[]).await, 1);
    assert_eq!(job("livechatt", 4, &[]).await, 2);
    shop.fault("bik.generateReport=lost:1");
    assert_eq!(job("bik", 5, &[]).await, 3);
    assert_eq!(job("bik", 6, &["--no-wait"]).await, 4);
    assert_eq!(shop.run(&["--version"]).await.code, Some(0));
    assert_eq!(shop.run(&["--help"]).await.code, Some(0));
    assert_eq!(shop.run(&["no-such-command"]).await.code, Some(2));
    assert_eq!(shop.run(&["runs", "--format", "github"]).await.code, Some(2));
    let id = shop.one::<String>("SELECT id::text FROM runs WHERE state = 'queued'").await;
    shop.run(&["cancel", &id]).await.expect(0);
    let states: Vec<String> =
        sqlx::query_scalar("SELECT state FROM runs ORDER BY window_start").fetch_all(&shop.pool).await.unwrap();
    assert_eq!(states, ["archived", "empty", "failed", "held", "cancelled"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_job_or_connection_is_told_with_what_there_is() {
    let shop = Shop::open().await;
    shop.job("chat-ratings", LIVECHAT);
    for command in ["run-job", "plan"] {
        shop.run(&[command, "chat-rating"]).await.expect(2).says("did you mean 'chat-ratings'?");
        shop.run(&[command, "chat-ratings@south"]).await.expect(2).says("it runs for north");
        shop.run(&[command, "../etc/passwd"]).await.expect(2).says("JOB@CONNECTION");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_are_told_with_their_place_in_three_forms() {
    let shop = Shop::open().await;
    shop.job("good", LIVECHAT);
    shop.job("bad", "livechat:\n  report: chats/ratings\n  distributon: day\n");
    shop.job("worse", "window: yesterday\n");
    let words = shop.run(&["validate"]).await.expect(2).stdout;
    assert!(words.contains("jobs/bad.yaml:3:3: unknown key 'distributon'"), "{words}");
    assert!(words.contains("did you mean 'distribution'?"), "{words}");
    assert!(words.contains("  distributon: day"), "the source line is shown: {words}");
    assert!(words.contains("jobs/worse.yaml:"), "all problems of all files: {words}");
    let lines = shop.run(&["validate", "--format", "json"]).await.expect(2).json();
    for line in &lines {
        assert_eq!(keys(line), ["file", "line", "column", "severity", "message"]);
    }
    let bad = lines.iter().find(|line| line["file"] == "jobs/bad.yaml").unwrap();
    assert_eq!((&bad["line"], &bad["column"], &bad["severity"]), (&3.into(), &3.into(), &"error".into()));
    let github = shop.run(&["validate", "--format", "github"]).await.expect(2).stdout;
    assert!(github.contains("::error file=jobs/bad.yaml,line=3,col=3"), "{github}");
    // One broken file is no hindrance to the others, and no run of its own is made.
    shop.run_job("good", DAY, &[]).await.expect(0);
    let refused = shop.run_job("bad", DAY, &[]).await.expect(2);
    assert!(refused.says("jobs/bad.yaml:3:3").stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lint_warns_and_is_an_error_only_with_strict() {
    let shop = Shop::open().await;
    shop.job("report", &format!("schedule: \"30 6 1 * *\"\nwindow: yesterday\n{LIVECHAT}"));
    let warned = shop.run(&["validate", "--format", "json"]).await.expect(0).json();
    assert!(warned.iter().all(|line| line["severity"] == "warning") && !warned.is_empty(), "{warned:?}");
    let strict = shop.run(&["validate", "--strict", "--format", "json"]).await.expect(2).json();
    assert!(strict.iter().all(|line| line["severity"] == "error"), "{strict:?}");
    assert_eq!(strict.len(), warned.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_job_files_get_a_problem_with_a_place_at_once() {
    let shop = Shop::open().await;
    let bomb: String = std::iter::once("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned())
        .chain((1..12).map(|n| {
            let alias = format!("*a{}", n - 1);
            format!("a{n}: &a{n} [{}]\n", [alias.as_str(); 9].join(", "))
        }))
        .collect();
    let files: [(&str, Vec<u8>); 8] = [
        ("bomb", bomb.into_bytes()),
        ("deep", "[".repeat(100_000).into_bytes()),
        (
            "huge",
            format!("livechat: {{ report: chats/ratings }}\n{}", "# a line of a comment\n".repeat(480_000))
                .into_bytes(),
        ),
        ("nul", b"livechat:\n  report: chats/\0ratings\n".to_vec()),
        ("latin", b"description: caf\xe9\nlivechat: { report: chats/ratings }\n".to_vec()),
        ("twice", b"livechat: { report: chats/ratings }\nlivechat: { report: chats/ratings }\n".to_vec()),
        ("many", b"livechat: { report: chats/ratings }\n---\nlivechat: { report: chats/ratings }\n".to_vec()),
        ("tabs", b"livechat:\n\treport: chats/ratings\n".to_vec()),
    ];
    let folder = |name: &str| {
        let folder = shop.folder.path().join(format!("jobs-{name}"));
        std::fs::create_dir(&folder).unwrap();
        folder
    };
    let mut folders = Vec::new();
    for (name, bytes) in &files {
        let folder = folder(name);
        std::fs::write(folder.join("x.yaml"), bytes).unwrap();
        folders.push(folder);
    }
    let directory = folder("directory");
    std::fs::create_dir(directory.join("x.yaml")).unwrap();
    let dangling = folder("dangling");
    std::os::unix::fs::symlink("nowhere", dangling.join("x.yaml")).unwrap();
    let fifo = folder("fifo");
    mknodat(CWD, fifo.join("x.yaml"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    folders.extend([directory, dangling, fifo]);
    for folder in folders {
        let started = Instant::now();
        let ran = shop.run(&["validate", "--jobs", folder.to_str().unwrap(), "--format", "json"]).await;
        let took = started.elapsed();
        let name = folder.file_name().unwrap().to_str().unwrap();
        let problems = ran.expect(2).json();
        assert_eq!(problems.iter().filter(|p| p["severity"] == "error").count(), 1, "{name}: {problems:?}");
        assert!(text(&problems[0]["file"]).ends_with(&format!("{name}/x.yaml")), "{problems:?}");
        let whole_file = ["jobs-directory", "jobs-dangling", "jobs-fifo", "jobs-huge"].contains(&name);
        assert!(whole_file || problems[0]["line"].as_u64() >= Some(1), "{name}: {problems:?}");
        assert!(text(&problems[0]["message"]).len() < 400, "{name}: {problems:?}");
        // One second on an idle machine; the tests share theirs.
        assert!(took < Duration::from_secs(4), "{name} took {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_and_validate_need_no_database_no_secret_and_no_network() {
    let shop = Shop::open().await;
    shop.job("report", &format!("schedule: \"30 6 * * *\"\nwindow: yesterday\n{BIK}"));
    for args in [
        &["validate", "--strict"][..],
        &["plan", "report"],
        &["run-job", "report", "--window", DAY, "--dry-run"],
        &["schema", "job"],
        &["completions", "bash"],
    ] {
        let mut command = shop.command(args);
        command.env_clear().env("DATABASE_URL", "postgresql://nobody@nowhere.invalid/none");
        run(command).await.expect(0);
    }
    assert_eq!(shop.requests(), 0);
    assert!(!shop.archive().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_named_and_not_set_or_cannot_be_reached_is_told_plainly() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    let with = |url: &'static str| {
        let mut command = shop.command(&["run-job", "report", "--window", DAY]);
        command.env("DATABASE_URL", url);
        run(command)
    };
    let unreadable = with("postgresql://reportd:hunter2@[").await.expect(2);
    assert!(!unreadable.stderr.contains("hunter2"), "{}", unreadable.stderr);
    let refused = with("postgresql://reportd:hunter2@127.0.0.1:1/none").await.expect(1).says("connect to the database");
    assert!(!refused.stderr.contains("hunter2"), "{}", refused.stderr);
    let yaml = shop.folder.path().join("reportd.yaml");
    let config = std::fs::read_to_string(&yaml).unwrap();
    std::fs::write(yaml, format!("database: env:REPORTS_DB\n{config}")).unwrap();
    shop.run_job("report", DAY, &[]).await.expect(2).says("REPORTS_DB");
    assert_eq!(shop.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_told_by_its_name_before_a_run_is_made() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    let mut command = shop.command(&["run-job", "report", "--window", DAY]);
    command.env_remove("LIVECHAT");
    run(command).await.expect(2).says("LIVECHAT");
    assert_eq!(shop.number("SELECT count(*) FROM runs").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bik_mails_nobody_by_hand_unless_it_is_said() {
    let shop = Shop::open().await;
    shop.job("report", BIK);
    let config = std::fs::read_to_string(shop.folder.path().join("reportd.yaml")).unwrap();
    let loud = config.replace(", quiet_emails: [bi@north.example]", "");
    assert_ne!(config, loud);
    std::fs::write(shop.folder.path().join("reportd.yaml"), loud).unwrap();
    let week = "2025-03-03..2025-03-09";
    shop.run_job("report", week, &["--each", "day"]).await.expect(2).says("7 reports and 7 mails").says("--mail");
    assert_eq!((shop.requests(), shop.number("SELECT count(*) FROM runs").await), (0, 0));
    shop.without_waits().await;
    shop.run_job("report", DAY, &["--mail"]).await.expect(0);
    let to: Vec<String> = shop.sandbox.mails().into_iter().map(|mail| mail.to).collect();
    assert_eq!(to, ["asha@north.example"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_and_completions_are_printed() {
    let shop = Shop::open().await;
    let schema = |ran: Ran| serde_json::from_str::<Value>(&ran.expect(0).stdout).unwrap();
    let job = schema(shop.run(&["schema", "job"]).await);
    assert!(job["properties"]["jaicp"].is_object(), "{job}");
    assert_eq!(job["additionalProperties"], false);
    let config = schema(shop.run(&["schema", "config"]).await);
    assert!(config["properties"]["connections"].is_object(), "{config}");
    let bash = shop.run(&["completions", "bash"]).await.expect(0).stdout;
    assert!(bash.contains("run-job") && bash.contains("--again"), "{bash}");
    shop.run(&["completions", "tcsh"]).await.expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_copied_out_under_names_that_tell_what_they_are() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    let run = shop.run_job("report", DAY, &["--out", "out"]).await.expect(0).line();
    let copy = std::fs::read(shop.folder.path().join("out/report_north_2025-03-03.json")).unwrap();
    assert_eq!(copy, std::fs::read(shop.archive().join(text(&run["artifacts"][0]["path"]))).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_is_no_error() {
    let shop = Shop::open().await;
    let mut command = std::process::Command::new("sh");
    let reportd = env!("CARGO_BIN_EXE_reportd");
    command.args(["-c", &format!("{reportd} schema job | head -n 1")]);
    command.current_dir(shop.folder.path());
    let ran = run(command).await.expect(0);
    assert_eq!(ran.stderr, "");
}

/// Removes the embedded database that a rehearsal said it made: as root it lies outside the folder.
fn clean_up(ran: &Ran) {
    for line in ran.stderr.lines().filter(|line| line.contains("embedded PostgreSQL")) {
        let data =
            line.split(" in ").nth(1).and_then(|rest| rest.split(';').next()).expect("the line names the folder");
        std::fs::remove_dir_all(Path::new(data).parent().unwrap()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_leaves_the_real_database_archive_and_vendors_alone_and_says_what_it_is() {
    let shop = Shop::open().await;
    shop.job("engagement", BIK);
    shop.job("ratings", LIVECHAT);
    let one = shop.run_job("ratings", DAY, &["--sandbox"]).await.expect(0).says("rehearsal");
    let demo = shop.run(&["demo"]).await.expect(0).says("simulated");
    assert!(demo.stdout.contains("engagement@north") && demo.stdout.contains("ratings@north"), "{}", demo.stdout);
    assert!(demo.stdout.contains("simulated"), "{}", demo.stdout);
    clean_up(&one);
    clean_up(&demo);
    assert_eq!((shop.requests(), shop.number("SELECT count(*) FROM runs").await), (0, 0));
    assert!(!shop.archive().exists());
    let path = text(&one.line()["artifacts"][0]["path"]).to_owned();
    let manifest = shop.folder.path().join(".reportd/sandbox/archive").join(path).with_file_name("manifest.json");
    assert_eq!(json_file(&manifest)["files"][0]["simulated"], true);
    // What was rehearsed is not held.
    assert_eq!(shop.run_job("ratings", DAY, &[]).await.expect(0).line()["revision"], 1);
    assert_eq!(shop.asked_for("report"), 1);
}
