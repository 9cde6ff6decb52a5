//! `doctor`: each kind of trouble is told with what to do, none hides another, and looking changes nothing anywhere.

use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reportd::run::store::permit::Permit;
use reportd::sandbox::credentials;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::harness::{Ran, Shop, run};
use crate::smtp::{Act, PASSWORD, Rough, Step, USER};
use crate::verbs::{DAY, LIVECHAT, keys, text};

/// A job with every kind of notice that needs something.
const TELLING: &str = "schedule: \"30 6 * * *\"\nwindow: yesterday\nheartbeat: env:BEAT\n\
    deliver: [{ email: ops@shop.example }, { webhook: { url: env:HOOK, keys: [env:HOOK_KEY] } }]\n";

/// A port of this machine at which nobody listens.
async fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("127.0.0.1:{}", listener.local_addr().unwrap().port())
}

/// A server that takes connections and says nothing, as long as the test goes on.
async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    (listener, place)
}

/// reportd.yaml with these base URLs and further sections; BIK has an `appId`, so that it answers whole.
fn config(shop: &Shop, urls: [&str; 3], more: &str) {
    let [bik, livechat, jaicp] = urls;
    let text = format!(
        "connections:\n  north:\n    zone: Asia/Kolkata\n    \
         bik: {{ base_url: \"{bik}\", key: env:BIK_KEY, secret: env:BIK_SECRET, quiet_emails: [bi@north.example], appId: app-1 }}\n    \
         livechat: {{ base_url: \"{livechat}\", token: env:LIVECHAT }}\n    \
         jaicp: {{ base_url: \"{jaicp}\", token: env:JAICP }}\n{more}"
    );
    std::fs::write(shop.folder.path().join("reportd.yaml"), text).unwrap();
}

fn good_urls(shop: &Shop) -> [String; 3] {
    [shop.sandbox.bik_base_url(), shop.sandbox.livechat_base_url(), shop.sandbox.jaicp_base_url()]
}

fn good_config(shop: &Shop, more: &str) {
    let urls = good_urls(shop);
    config(shop, [&urls[0], &urls[1], &urls[2]], more);
}

fn mail(place: &str) -> String {
    format!("mail: {{ url: \"smtp://{place}\", from: r@shop.example, username: env:U, password: env:P }}\n")
}

fn doctor(shop: &Shop) -> Command {
    doctor_with(shop, &["--format", "json"])
}

fn doctor_with(shop: &Shop, more: &[&str]) -> Command {
    let mut command = shop.command(&[&["doctor"], more].concat());
    command.envs([("U", USER), ("P", PASSWORD), ("HOOK", "https://hooks.example/T0/s3cr3t-hook")]);
    command.envs([("HOOK_KEY", "k3y-of-the-hook"), ("BEAT", "https://hc.example/s3cr3t-beat")]);
    command
}

/// The one line of a check, or of an account as `north/bik`.
#[track_caller]
fn of<'a>(lines: &'a [Value], what: &str) -> &'a Value {
    let is = |line: &&Value| line["check"] == what || (line["check"] == "account" && line["subject"] == what);
    let found: Vec<&Value> = lines.iter().filter(is).collect();
    assert_eq!(found.len(), 1, "{what} in {lines:#?}");
    found[0]
}

/// Fails the test unless the check stands so, says that, and names what to do.
#[track_caller]
fn stands(lines: &[Value], what: &str, state: &str, says: &str, action: &str) {
    let line = of(lines, what);
    assert_eq!(line["state"], state, "{line}");
    assert!(text(&line["message"]).contains(says), "'{says}' in {line}");
    match &line["action"] {
        Value::Null => assert!(state == "ok" && action.is_empty(), "{line}"),
        there => assert!(text(there).contains(action), "'{action}' in {line}"),
    }
}

fn bad(lines: &[Value]) -> Vec<String> {
    let name = |line: &Value| match text(&line["check"]) {
        "account" => text(&line["subject"]).to_owned(),
        check => check.to_owned(),
    };
    lines.iter().filter(|line| line["state"] == "bad").map(name).collect()
}

/// No secret of a test's environment is in what the program printed.
#[track_caller]
fn keeps_quiet(ran: &Ran) {
    let livechat = credentials::LIVECHAT_TOKEN;
    let secrets = [credentials::BIK_KEY, credentials::BIK_SECRET, livechat, credentials::JAICP_TOKEN, PASSWORD, USER];
    for secret in secrets.into_iter().chain(["s3cr3t", "k3y-of-the-hook", "wr0ng"]) {
        assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret), "{secret}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_is_well_every_check_says_so_and_nothing_was_made_or_mailed_anywhere() {
    let (shop, mails) = (Shop::open().await, Rough::start().await);
    good_config(&shop, &mail(&format!("127.0.0.1:{}", mails.port)));
    shop.job("ratings", LIVECHAT);
    shop.job("telling", &format!("{TELLING}{LIVECHAT}"));
    shop.run_job("ratings", DAY, &[]).await.expect(0);
    let serving = shop.serve().await;
    shop.until_count("SELECT count(*) FROM replicas WHERE passed_at IS NOT NULL", 1).await;
    shop.until_done().await;
    let before = shop.number("SELECT (SELECT count(*) FROM runs) + (SELECT count(*) FROM run_events)").await;
    let asked = shop.requests();
    let ran = run(doctor(&shop)).await.expect(0);
    let lines = ran.json();
    let names: Vec<&str> = lines.iter().map(|line| text(&line["check"])).collect();
    let accounts = ["account"; 3];
    assert_eq!(names, [&["config", "database", "clock", "archive"][..], &accounts, &["mail", "service"]].concat());
    for line in &lines {
        assert_eq!(keys(line), ["check", "subject", "state", "message", "action"]);
        assert_eq!((&line["state"], &line["action"]), (&"ok".into(), &Value::Null), "{line}");
    }
    stands(&lines, "config", "ok", "2 job files, 2 series, no warnings", "");
    stands(&lines, "database", "ok", "takes writes", "");
    stands(&lines, "archive", "ok", "the database's, takes files", "");
    stands(&lines, "service", "ok", "2 series are in force, last planner pass", "");
    keeps_quiet(&ran);
    let received = shop.sandbox.received();
    let mut operations: Vec<&str> = received[asked..].iter().map(|r| r.operation).collect();
    operations.sort_unstable();
    assert_eq!(operations, ["authPartnerViaKey", "filters", "report"], "one harmless question a vendor");
    let said = mails.said().iter().map(|said| said[..4].to_owned()).collect::<Vec<_>>();
    assert_eq!(said, ["EHLO", "AUTH", "NOOP", "QUIT"]);
    let after = shop.number("SELECT (SELECT count(*) FROM runs) + (SELECT count(*) FROM run_events)").await;
    assert_eq!(before, after);
    serving.stop().await;
    // For people: a line a check, and a sum.
    let ran = run(doctor_with(&shop, &[])).await.expect(0);
    assert!(ran.stdout.starts_with("ok    config           2 job files"), "{}", ran.stdout);
    assert!(ran.stdout.contains("\nok    north/bik        127.0.0.1 accepts the credentials\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains("\nnote  service          no process serves"), "{}", ran.stdout);
    assert!(ran.stdout.ends_with("\n      -> reportd serve\n9 checks, nothing needs you\n"), "{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trouble_hides_no_other_and_each_says_what_to_do() {
    let shop = Shop::open().await;
    let [bik, livechat, _] = good_urls(&shop);
    let dead_mail = dead().await;
    config(&shop, [&bik, &livechat, &format!("http://{}/api", dead().await)], &mail(&dead_mail));
    shop.job("ratings", LIVECHAT);
    shop.job("telling", &format!("{TELLING}{LIVECHAT}"));
    shop.job("wrong", &format!("windoww: yesterday\n{LIVECHAT}"));
    let mut command = doctor(&shop);
    command.env("BIK_SECRET", "wr0ng-secret").env_remove("LIVECHAT").env_remove("HOOK_KEY");
    command.env("DATABASE_URL", format!("postgresql://reporter:wr0ng-pass@{}/x", dead().await));
    let ran = run(command).await.expect(1);
    keeps_quiet(&ran);
    let lines = ran.json();
    let expected = ["config", "config", "database", "north/bik", "north/livechat", "north/jaicp", "mail"];
    assert_eq!(bad(&lines), expected, "{lines:#?}");
    let config: Vec<&Value> = lines.iter().filter(|line| line["check"] == "config").collect();
    assert_eq!((&config[0]["subject"], &config[1]["subject"]), (&"jobs/wrong.yaml".into(), &"env:HOOK_KEY".into()));
    assert!(text(&config[0]["message"]).starts_with("jobs/wrong.yaml:1:1: unknown key 'windoww'"), "{}", config[0]);
    let message = "environment variable HOOK_KEY is not set: a webhook of telling@north needs it";
    assert_eq!(config[1]["message"], message);
    stands(&lines, "database", "bad", "connect to the database at 127.0.0.1:", "start the server");
    stands(&lines, "clock", "note", "not compared", "database");
    stands(&lines, "archive", "note", "there is none yet", "the first run makes it");
    let right = "put the right one into env:BIK_KEY and env:BIK_SECRET";
    stands(&lines, "north/bik", "bad", "does not accept the credentials: HTTP 401: Unauthorized", right);
    stands(&lines, "north/livechat", "bad", "environment variable LIVECHAT is not set", "make it readable");
    stands(&lines, "north/jaicp", "bad", "127.0.0.1: ", "DNS, firewall, proxy");
    stands(&lines, "mail", "bad", "127.0.0.1", "`mail` in the config");
    stands(&lines, "service", "note", "not looked at", "database");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_servers_cost_their_time_limit_and_no_more() {
    let shop = Shop::open().await;
    let (mails, vendor, base) = (Rough::start().await, silent().await, silent().await);
    mails.fault(Step::Greeting, Act::Silence);
    let [_, livechat, jaicp] = good_urls(&shop);
    config(&shop, [&format!("http://{}", vendor.1), &livechat, &jaicp], &mail(&format!("127.0.0.1:{}", mails.port)));
    let mut command = doctor(&shop);
    command.env("DATABASE_URL", format!("postgresql://reporter@{}/x", base.1));
    let start = Instant::now();
    let ran = run(command).await.expect(1);
    // The database's limit, and then that of what waits for it.
    assert!(start.elapsed() < Duration::from_secs(35), "{:?}", start.elapsed());
    let lines = ran.json();
    stands(&lines, "database", "bad", "no answer within 10 s", "look whether it runs");
    stands(&lines, "north/bik", "bad", "no answer within 10 s", "DNS, firewall, proxy");
    stands(&lines, "north/livechat", "ok", "accepts the credentials", "");
    stands(&lines, "north/jaicp", "ok", "accepts the credentials", "");
    stands(&lines, "mail", "bad", "did not answer within 10 s", "mend what it says");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_ready_is_told_as_it_is_and_stays_so() {
    let shop = Shop::unmigrated("").await;
    good_config(&shop, "");
    let lines = run(doctor(&shop)).await.expect(1).json();
    stands(&lines, "database", "bad", "its schema is version 0, and this reportd needs", "reportd migrate");
    assert_eq!(bad(&lines), ["database"]);
    stands(&lines, "clock", "ok", "agree", "");
    stands(&lines, "north/bik", "ok", "accepts the credentials", "");
    stands(&lines, "service", "note", "not looked at", "database");
    assert_eq!(shop.number("SELECT count(*) FROM pg_class WHERE relname = 'runs'").await, 0, "nothing was migrated");
    shop.reportd(&["migrate"]).expect(0);
    shop.sql("INSERT INTO _sqlx_migrations SELECT 9999, description, now(), success, checksum, 1 FROM _sqlx_migrations LIMIT 1")
        .await;
    let lines = run(doctor(&shop)).await.expect(1).json();
    stands(&lines, "database", "bad", "its schema is version 9999, and this reportd", "the newer reportd");
    shop.sql("DELETE FROM _sqlx_migrations WHERE version = 9999").await;
    let name = shop.one::<String>("SELECT current_database()::text").await;
    shop.sql(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let lines = run(doctor(&shop)).await.expect(1).json();
    stands(&lines, "database", "bad", "takes no writes", "point the URL at the primary");
    assert_eq!(bad(&lines), ["database"]);
    shop.sql(&format!("SET default_transaction_read_only = off; ALTER DATABASE {name} RESET ALL")).await;
    run(doctor(&shop)).await.expect(0);
    let mut command = doctor(&shop);
    command.env_remove("DATABASE_URL");
    std::fs::write(shop.folder.path().join("reportd.yaml"), "database: env:SHOP_DATABASE\n").unwrap();
    let lines = run(command).await.expect(1).json();
    stands(&lines, "database", "bad", "SHOP_DATABASE, which is not set", "set SHOP_DATABASE");
    // The accounts that there are without a config, and that no job needs, are no fault.
    assert_eq!(bad(&lines), ["database"]);
    stands(&lines, "default/bik", "note", "BIK_AUTH_TOKEN is not set; no job needs it", "nothing, unless");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_database_is_started_and_named_and_one_that_cannot_start_says_why() {
    let shop = Shop::unmigrated("").await;
    good_config(&shop, "");
    let empty = tempfile::tempdir().unwrap();
    let mut command = doctor(&shop);
    command.env_remove("DATABASE_URL").env("REPORTD_PG_BIN", empty.path());
    let lines = run(command).await.expect(1).json();
    stands(&lines, "database", "bad", "start the embedded PostgreSQL: REPORTD_PG_BIN: ", "point DATABASE_URL at");
    let mut command = doctor(&shop);
    command.env_remove("DATABASE_URL");
    let lines = run(command).await.expect(0).json();
    stands(&lines, "database", "note", "embedded PostgreSQL in /", "the first command that needs it migrates it");
    stands(&lines, "clock", "ok", "agree", "");
    // As root it lies below /var/lib, where no test's folder takes it away.
    let data = std::path::PathBuf::from(text(&of(&lines, "database")["subject"]));
    let home = data.parent().unwrap();
    assert!(data.is_dir() && !home.join("postmaster.pid").exists() && !data.join("postmaster.pid").exists());
    if home.starts_with("/var/lib/reportd") {
        std::fs::remove_dir_all(home).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_another_ones_or_takes_nothing_is_told() {
    let shop = Shop::open().await;
    good_config(&shop, "");
    // Somebody's files, and no archive.
    std::fs::create_dir(shop.archive()).unwrap();
    std::fs::write(shop.archive().join("photo.jpg"), "").unwrap();
    let lines = run(doctor(&shop)).await.expect(1).json();
    stands(&lines, "archive", "bad", "it has no reportd.json and is not empty (it holds photo.jpg)", "another place");
    std::fs::remove_dir_all(shop.archive()).unwrap();
    shop.job("ratings", LIVECHAT);
    shop.run_job("ratings", DAY, &[]).await.expect(0);
    // Nothing can be written where files come in; a right that is missing would not keep root from it.
    std::fs::remove_dir_all(shop.archive().join(".spool")).unwrap();
    std::fs::write(shop.archive().join(".spool"), "").unwrap();
    let lines = run(doctor(&shop)).await.expect(1).json();
    stands(&lines, "archive", "bad", "write to the archive in", "the right to write there");
    std::fs::remove_file(shop.archive().join(".spool")).unwrap();
    run(doctor(&shop)).await.expect(0);
    let identity = shop.archive().join("reportd.json");
    let own = std::fs::read_to_string(&identity).unwrap();
    let id = shop.one::<uuid::Uuid>("SELECT archive_id FROM instance").await;
    std::fs::write(&identity, own.replace(&id.to_string(), &uuid::Uuid::new_v4().to_string())).unwrap();
    let lines = run(doctor(&shop)).await.expect(1).json();
    stands(&lines, "archive", "bad", "is not the one that the database belongs to", "reportd archive rebuild");
    assert_eq!(bad(&lines), ["archive"]);
    // Without a database nobody knows whose it is, and that is all.
    let mut command = doctor(&shop);
    command.env("DATABASE_URL", format!("postgresql://{}/x", dead().await));
    let lines = run(command).await.expect(1).json();
    stands(&lines, "archive", "ok", "not compared with a database, takes files", "");
    std::fs::remove_dir_all(shop.archive()).unwrap();
    let lines = run(doctor(&shop)).await.expect(1).json();
    stands(&lines, "archive", "bad", "belongs to an archive, and there is none in", "mount or restore it");
    assert!(!shop.archive().exists(), "none was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_is_told_by_how_much() {
    let shop = Shop::open().await;
    good_config(&shop, "");
    let rows =
        [("-400", 1, "bad", "6 min behind the", "time service"), ("60", 0, "note", "s ahead of the", "both clocks")];
    for (offset, code, state, says, action) in rows {
        let mut command = doctor(&shop);
        command.env("REPORTD_CLOCK_OFFSET", offset);
        let lines = run(command).await.expect(code).json();
        stands(&lines, "clock", state, says, action);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vendor_says_besides_yes_and_no_is_given_in_its_words() {
    let shop = Shop::open().await;
    // Without an appId BIK refuses the question, and not the credentials.
    for fault in ["livechat.report=429+60:1", "jaicp.filters=500:1"] {
        shop.fault(fault);
    }
    let lines = run(doctor(&shop)).await.expect(1).json();
    stands(&lines, "north/bik", "note", "says nothing against the credentials: HTTP 400: ", "set `appId`");
    stands(&lines, "north/livechat", "note", "asks to wait, and has not looked at the credentials", "again later");
    stands(&lines, "north/jaicp", "bad", "HTTP 500", "an answer of 5xx passes");
    shop.fault("jaicp.filters=404:1");
    let lines = run(doctor(&shop)).await.expect(1).json();
    stands(&lines, "north/jaicp", "bad", "the vendor refused: HTTP 404", "paths");
    let mut command = doctor(&shop);
    command.env("JAICP", "wr0ngwrg:0123456789").env("LIVECHAT", "shop:wr0ng-pat");
    let ran = run(command).await.expect(1);
    keeps_quiet(&ran);
    let lines = ran.json();
    stands(
        &lines,
        "north/jaicp",
        "bad",
        "does not accept the credentials: HTTP 401",
        "env:JAICP: a token of this project",
    );
    stands(&lines, "north/livechat", "bad", "does not accept the credentials: authentication: ", "reports_read");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_is_told_and_neither_tried_nor_closed() {
    let shop = Shop::open().await;
    good_config(&shop, "");
    let store = shop.store();
    let permit =
        |vendor, secret| Permit { connection: "north", vendor, requests_per_second: 1.0, max_in_flight: 1, secret };
    store.open_breaker(&permit("bik", "an old one"), "HTTP 401: no", false).await.unwrap();
    store.open_breaker(&permit("jaicp", ""), "opened by ann", true).await.unwrap();
    let state = "SELECT string_agg(connections::text, '; ' ORDER BY vendor) FROM connections WHERE breaker_open";
    let before = shop.one::<String>(state).await;
    let lines = run(doctor(&shop)).await.expect(0).json();
    let close = "`reportd connections close north --vendor bik` lets its runs go on at once";
    stands(
        &lines,
        "north/bik",
        "note",
        "accepts the credentials; its runs wait, since the breaker is open from",
        close,
    );
    stands(&lines, "north/jaicp", "note", ": opened by ann", "when its runs may go on");
    stands(&lines, "north/livechat", "ok", "accepts", "");
    assert_eq!(shop.one::<String>(state).await, before, "the one try that a run has is still there");
    let counted =
        shop.number("SELECT count(*) FROM connections WHERE vendor = 'livechat' AND next_free_at > '-infinity'");
    assert_eq!(counted.await, 1, "a call is counted against the account's rate");
    shop.sql("UPDATE connections SET next_free_at = reportd_now() + interval '40 s' WHERE vendor = 'livechat'").await;
    let lines = run(doctor(&shop)).await.expect(0).json();
    stands(&lines, "north/livechat", "note", "not asked: its rate lets no call through for another", "again later");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_config_is_told_and_sends_nothing_to_places_that_it_may_not_mean() {
    let shop = Shop::open().await;
    good_config(&shop, "retan: { revisions: 2 }\n");
    let lines = run(doctor(&shop)).await.expect(1).json();
    assert_eq!(bad(&lines), ["config"]);
    stands(&lines, "config", "bad", "reportd.yaml:7:1: unknown key 'retan'", "reportd validate");
    assert!(lines[1..].iter().all(|line| line["message"] == "not looked at"), "{lines:#?}");
    assert_eq!((lines.len(), shop.requests()), (7, 0));
    let mut command = doctor(&shop);
    command.args(["--config", "nowhere.yaml"]);
    let lines = run(command).await.expect(1).json();
    stands(&lines, "config", "bad", "nowhere.yaml", "correct it");
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_nobody_can_send_schedules_that_nobody_fires_and_a_folder_that_nobody_needs() {
    let shop = Shop::open().await;
    good_config(&shop, "");
    shop.job("telling", &format!("{TELLING}{LIVECHAT}"));
    shop.reportd(&["apply"]).expect(0);
    let lines = run(doctor(&shop)).await.expect(1).json();
    assert_eq!(bad(&lines), ["config"], "{lines:#?}");
    let no_mail = &lines[1];
    assert_eq!(no_mail["message"], "telling@north has notices to be mailed, and the config has no `mail:`");
    stands(&lines, "service", "note", "no process serves, and 1 series is in force", "reportd serve");
    // A machine that follows the set in force has no folder, and is told of that set.
    std::fs::remove_dir_all(shop.folder.path().join("jobs")).unwrap();
    let lines = run(doctor(&shop)).await.expect(1).json();
    assert_eq!(lines[0]["message"], "1 job file of the set in force, 1 series, no warnings");
    assert_eq!(bad(&lines), ["config"], "{lines:#?}");
    shop.sql("UPDATE job_set SET version = 0").await;
    let lines = run(doctor(&shop)).await.expect(1).json();
    stands(&lines, "config", "bad", "the job folder does not exist", "correct it");
    // A service in trouble is there, and says what it needs.
    shop.sql("INSERT INTO replicas (id, who, version, follows, trouble) VALUES (gen_random_uuid(), 'box', '1', false, 'its clock is off')")
        .await;
    let lines = run(doctor(&shop)).await.expect(1).json();
    stands(&lines, "service", "bad", "box says: its clock is off", "mend what it says");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_the_mail_server_refuses_is_told_without_it() {
    let (shop, mails) = (Shop::open().await, Rough::start().await);
    mails.fault(Step::Auth, Act::Answer("535 5.7.8 pa55/w0rd+of=mail is wrong for robot-7Qx"));
    good_config(&shop, &mail(&format!("127.0.0.1:{}", mails.port)));
    let ran = run(doctor(&shop)).await.expect(1);
    keeps_quiet(&ran);
    stands(&ran.json(), "mail", "bad", "535", "`mail` in the config");
    let mut command = doctor(&shop);
    command.env_remove("P");
    let lines = run(command).await.expect(1).json();
    stands(&lines, "mail", "bad", "environment variable P is not set", "`mail` in the config");
}

/// A vendor that repeats where it was asked and with which credentials, in every place that an error has.
async fn parrot(status: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let repeat = move |uri: axum::http::Uri, headers: axum::http::HeaderMap| async move {
        let said = format!("see {place}{uri} with {:?}", headers.get("authorization"), place = "https://x.example");
        let body = serde_json::json!({ "status": status, "errors": [{ "message": said }], "message": said,
            "error": { "type": "validation", "message": said } });
        (axum::http::StatusCode::from_u16(status).unwrap(), body.to_string())
    };
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(repeat)).await.unwrap() });
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vendor_repeats_of_the_credentials_is_blacked_out() {
    let shop = Shop::open().await;
    for status in [400, 401, 500] {
        let parrot = parrot(status).await;
        config(&shop, [&parrot, &parrot, &parrot], "");
        for format in ["text", "json"] {
            let ran = run(doctor_with(&shop, &["--format", format])).await.expect(1);
            keeps_quiet(&ran);
            assert!(ran.stdout.contains("***") && !ran.stdout.contains("0123456789abcdef"), "{}", ran.stdout);
            let basic = |user: &str, password: &str| STANDARD.encode(format!("{user}:{password}"));
            let bik = basic(credentials::BIK_KEY, credentials::BIK_SECRET);
            let livechat = basic(credentials::LIVECHAT_ACCOUNT, credentials::LIVECHAT_TOKEN);
            assert!(!ran.stdout.contains(&bik) && !ran.stdout.contains(&livechat), "{}", ran.stdout);
        }
    }
}
