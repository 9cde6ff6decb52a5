//! Runs that are told by mail, from the job file to the mailbox: what comes with a mail, to whom, how often, and what becomes of
//! it when the mail server or we ourselves are in trouble.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::{Ran, Shop, offline, run};
use crate::receiver::Receiver;
use crate::smtp::{Act, Mail, Mode, PASSWORD, Rough, Smtp, Step, USER};
use crate::vendors::{Script, bound, http, json as answer};
use crate::verbs::{BIK, DAY, JAICP, LEASES, LIVECHAT, NEXT_DAY, QUERY, Started, sha256, text, until};

const MINUTE: Duration = Duration::from_secs(60);
const SENT: &str = "SELECT count(*) FROM deliveries WHERE state = 'sent'";
const PENDING: &str = "SELECT count(*) FROM deliveries WHERE state = 'pending'";
const TRIES: &str = "SELECT sum(tries)::bigint FROM deliveries";

/// `mail:` of reportd.yaml, and whatever comes after it.
fn mail(url: &str, rest: &str) -> String {
    format!("mail:\n  url: {url}\n  from: \"Отчёты 📊, ежедневно <reports@shop.example>\"\n{rest}")
}

/// One mail to the lead, whoever made the run.
const TO_LEAD: &str = "deliver:\n  - on: [manual]\n    email: { to: lead@shop.example, attach: true }\n";
/// One mail to the operators when something needs a person.
const TO_OPS: &str = "alert:\n  - email: ops@shop.example\n";

fn job(vendor: &str, notices: &str) -> String {
    format!("window: yesterday\n{vendor}{notices}")
}

async fn shop(url: &str, vendor: &str, notices: &str) -> Shop {
    let shop = Shop::with(&mail(url, "")).await;
    shop.job("report", &job(vendor, notices));
    shop
}

impl Shop {
    /// Takes the vendors' settings of `accounts` and lets mail go out by this server.
    fn accounts_and_mail(&self, url: &str, changes: &[(&str, &str, &str)]) {
        self.accounts(changes);
        let path = self.folder.path().join("reportd.yaml");
        let text = std::fs::read_to_string(&path).unwrap() + &mail(url, "");
        std::fs::write(path, text).unwrap();
    }

    /// A run whose process dies when its notices are made and not yet sent.
    async fn dies_before_it_sends(&self, window: &str) {
        let mut command = self.command(&["run-job", "report", "--window", window]);
        command.env("REPORTD_CRASH_AT", "deliveries-committed");
        assert_eq!(run(command).await.code, None);
    }

    async fn retry_delivery(&self) -> Ran {
        let id: String = self.one("SELECT id::text FROM deliveries ORDER BY made_at DESC LIMIT 1").await;
        self.run(&["delivery", "retry", &id]).await
    }

    async fn words(&self) -> String {
        self.one("SELECT COALESCE(words, '') FROM deliveries ORDER BY made_at DESC LIMIT 1").await
    }

    async fn until_tried(&self, times: i64) {
        until("another try", || async { self.number(TRIES).await >= times }).await;
    }
}

/// Words that were broken into lines, on one; without the marks of lines.
fn squeezed(text: &str) -> String {
    text.split_whitespace().filter(|word| *word != "!").collect::<Vec<_>>().join(" ")
}

fn ids(mails: &[Mail]) -> Vec<&str> {
    mails.iter().map(|mail| mail.header("Message-ID")).collect()
}

fn subjects(mails: &[Mail]) -> Vec<&str> {
    mails.iter().map(|mail| mail.header("Subject")).collect()
}

/// What a mail must carry of a run: every file of it, byte by byte.
#[track_caller]
fn assert_carries(shop: &Shop, run: &Value, mail: &Mail, names: &[&str]) {
    let attached = mail.attachments();
    let artifacts = run["artifacts"].as_array().unwrap();
    assert_eq!(attached.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), names);
    assert_eq!(attached.len(), artifacts.len());
    for (artifact, (name, media_type, bytes)) in artifacts.iter().zip(&attached) {
        let hash = hex::encode(Sha256::digest(bytes));
        assert_eq!(hash, text(&artifact["sha256"]), "{name}");
        assert_eq!(hash, sha256(&shop.archive().join(text(&artifact["path"]))), "{name}");
        let essence = text(&artifact["media_type"]).split(';').next().unwrap();
        assert_eq!(media_type, essence, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archives_bytes_are_attached_under_the_name_of_job_connection_and_window() {
    let smtp = Smtp::start(Mode::Plain);
    let shop = shop(&smtp.url(), LIVECHAT, TO_LEAD).await;
    for (n, (name, vendor, file)) in [
        ("ratings", LIVECHAT, "ratings_north_2025-03-03.json"),
        ("engagement", BIK, "engagement_north_2025-03-03.csv"),
        ("messages", JAICP, "messages_north_2025-03-03.csv"),
        ("sheet", &JAICP.replace("CSV", "XLSX"), "sheet_north_2025-03-03.xlsx"),
    ]
    .into_iter()
    .enumerate()
    {
        shop.job(name, &job(vendor, TO_LEAD));
        let run = shop.run_job(name, DAY, &["--mail"]).await.expect(0).line();
        let mails = smtp.mails();
        assert_eq!(mails.len(), n + 1, "{name}");
        assert_carries(&shop, &run, &mails[n], &[file]);
        assert!(mails[n].text().contains(file) && mails[n].html().contains(file), "{}", mails[n].text());
    }
    // A query has a file for each page.
    shop.accounts_and_mail(&smtp.url(), &[("jaicp", "page_size", "20")]);
    shop.job("texts", &job(QUERY, TO_LEAD));
    let run = shop.run_job("texts", DAY, &[]).await.expect(0).line();
    let names: Vec<String> = run["artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| format!("texts_north_2025-03-03_{}", text(&file["path"]).rsplit('/').next().unwrap()))
        .collect();
    assert!(names.len() > 2, "{names:?}");
    assert_carries(&shop, &run, &smtp.mails()[4], &names.iter().map(String::as_str).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_livechat_mail_shows_its_rows_in_both_parts_and_attaches_only_when_asked() {
    let smtp = Smtp::start(Mode::Plain);
    let script = Script::start(|_| {
        answer(&serde_json::json!({ "name": "ratings-report", "total": 5, "records": {
            "2025-03-03": { "chats": 4711, "good": 17, "bad": 2 }, "2025-03-04": { "chats": 12, "good": 3, "bad": 0 } } }))
    });
    let shop = shop(&smtp.url(), LIVECHAT, &TO_LEAD.replace("true", "false")).await;
    shop.accounts_and_mail(&smtp.url(), &[("livechat", "base_url", &script.base(""))]);
    shop.run_job("report", DAY, &[]).await.expect(0);
    let mails = smtp.mails();
    let (plain, page) = (mails[0].text(), mails[0].html());
    for part in ["4711", "17", "12", "2025-03-03"] {
        assert!(plain.contains(part) && page.contains(part), "{part}\n{plain}");
    }
    assert!(plain.contains('█') && page.contains("<table") && page.contains("bgcolor"), "{plain}");
    assert!(mails[0].attachments().is_empty() && !plain.contains("ttached"), "{plain}");
    assert!(plain.contains("report/north/2025/2025-03-03/r1/"), "{plain}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_report_is_told_as_such_with_its_file() {
    let smtp = Smtp::start(Mode::Plain);
    let shop = shop(&smtp.url(), LIVECHAT, TO_LEAD).await;
    shop.fault("livechat.report=no-rows:1");
    let run = shop.run_job("report", DAY, &[]).await.expect(0).line();
    assert_eq!(run["state"], "empty");
    let mails = smtp.mails();
    assert_eq!(subjects(&mails), ["No rows: report@north 2025-03-03"]);
    assert_carries(&shop, &run, &mails[0], &["report_north_2025-03-03.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_over_the_limit_is_not_attached_and_the_mail_says_where_it_is() {
    let smtp = Smtp::start(Mode::Plain);
    let script = Script::start(|asked| {
        let rows = if asked.body.contains("2025-03-03") { 11 } else { 6 } * 1024 * 1024;
        answer(&serde_json::json!({ "name": "ratings-report", "pad": "x".repeat(rows),
            "records": { "2025-03-03": { "chats": 4711, "good": 1, "bad": 0 } } }))
    });
    let shop = shop(&smtp.url(), LIVECHAT, TO_LEAD).await;
    shop.accounts_and_mail(&smtp.url(), &[("livechat", "base_url", &script.base(""))]);
    let run = shop.run_job("report", DAY, &[]).await.expect(0).line();
    let mails = smtp.mails();
    assert!(mails[0].attachments().is_empty());
    let (plain, page) = (mails[0].text(), mails[0].html());
    let path = text(&run["artifacts"][0]["path"]);
    for part in [path, &*shop.archive().to_string_lossy(), "Nothing is attached: the limit is 10 MiB and 20 files"] {
        assert!(plain.contains(part) && page.contains(part), "{part}: {plain}");
    }
    let run = shop.run_job("report", "2025-03-10..2025-03-10", &[]).await.expect(0).line();
    assert_carries(&shop, &run, &smtp.mails()[1], &["report_north_2025-03-10.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_damaged_or_lost_in_the_archive_is_never_attached_nor_shown() {
    let smtp = Smtp::start(Mode::Plain);
    let shop = shop(&smtp.url(), LIVECHAT, TO_LEAD).await;
    for (n, (window, lost)) in [(DAY, false), (NEXT_DAY, true)].into_iter().enumerate() {
        shop.dies_before_it_sends(window).await;
        let path: String = shop.one("SELECT path FROM artifacts ORDER BY path DESC LIMIT 1").await;
        let file = shop.archive().join(&path);
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::remove_file(&file).unwrap();
        if !lost {
            std::fs::write(&file, bytes).unwrap();
        }
        shop.retry_delivery().await.expect(0);
        let mails = smtp.mails();
        assert_eq!(mails.len(), n + 1);
        assert!(mails[n].attachments().is_empty(), "lost: {lost}");
        let told = mails[n].text();
        let told = squeezed(&told);
        assert!(told.contains(&format!("{path} is damaged or gone: reportd archive verify")), "{told}");
        assert!(!told.contains('█') && !mails[n].html().contains("bgcolor=\"#4a86c5\""), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_notice_makes_one_mail_to_all_of_its_recipients_at_once() {
    let smtp = Smtp::start(Mode::Plain);
    let notices = "deliver:\n  - on: [manual, fill]\n    email: { to: \"{var.team}\", subject: \"first\" }\n  \
         - on: [manual]\n    email: { to: [\"Анна, лид <{var.owner}>\", b@shop.example, asha@north.example], subject: \"second\" }\n  \
         - email: { to: on-schedule@shop.example }\n  - on: [fill]\n    email: { to: on-fill@shop.example, subject: third }\n";
    let shop = shop(&smtp.url(), LIVECHAT, "").await;
    let config = std::fs::read_to_string(shop.folder.path().join("reportd.yaml")).unwrap();
    let config = config.replace("vars: { ", "vars: { team: [one@shop.example, \"Два <two@shop.example>\"], ");
    std::fs::write(shop.folder.path().join("reportd.yaml"), config).unwrap();
    shop.job("report", &job(LIVECHAT, notices));
    shop.run_job("report", DAY, &[]).await.expect(0);
    let mut mails = smtp.mails();
    mails.sort_by_key(|mail| mail.header("Subject").to_owned());
    assert_eq!(subjects(&mails), ["first", "second"]);
    assert_eq!(mails[0].to, ["one@shop.example", "two@shop.example"]);
    assert_eq!(mails[0].mailboxes("To")[1], (Some("Два".to_owned()), "two@shop.example".to_owned()));
    assert_eq!(mails[1].to, ["asha@north.example", "b@shop.example"], "each once");
    assert_eq!(mails[1].mailboxes("To")[0], (Some("Анна, лид".to_owned()), "asha@north.example".to_owned()));
    // A run that fills a gap is told those who asked for it.
    shop.job("report", &job(LIVECHAT, &format!("schedule: \"0 6 * * *\"\nsince: 2025-03-03\n{notices}")));
    shop.run(&["fill", "report", "--from", "2025-03-04", "--to", "2025-03-04"]).await.expect(0);
    let mails = smtp.mails();
    let mut told: Vec<&str> = subjects(&mails[2..]);
    told.sort_unstable();
    assert_eq!(told, ["first", "third"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configs_defaults_tell_whom_no_job_names_and_a_jobs_own_list_replaces_them() {
    let smtp = Smtp::start(Mode::Plain);
    let defaults =
        "defaults:\n  deliver: [{ on: [manual], email: all@shop.example }]\n  alert: [{ email: \"{var.owner}\" }]\n";
    let shop = Shop::with(&mail(&smtp.url(), defaults)).await;
    shop.job("plain", &job(LIVECHAT, ""));
    shop.job("own", &job(LIVECHAT, TO_LEAD));
    shop.job("quiet", &job(LIVECHAT, "deliver: []\nalert: []\n"));
    let to = |mails: &[Mail]| mails.iter().map(|mail| mail.to.join(" ")).collect::<Vec<_>>();
    for name in ["plain", "own", "quiet"] {
        shop.run_job(name, DAY, &[]).await.expect(0);
    }
    assert_eq!(to(&smtp.mails()), ["all@shop.example", "lead@shop.example"]);
    shop.fault("livechat.report=400:3");
    for name in ["quiet", "plain"] {
        shop.run_job(name, NEXT_DAY, &[]).await.expect(1);
    }
    assert_eq!(to(&smtp.mails())[2..], ["asha@north.example"]);
    assert_eq!(shop.number("SELECT count(*) FROM deliveries").await, 3);
}

#[test]
fn a_notice_that_cannot_be_mailed_is_told_at_its_place_before_anything_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("jobs")).unwrap();
    let write = |defaults: &str, deliver: &str| {
        let config = format!(
            "connections:\n  north:\n    zone: UTC\n    vars: {{ owner: a@b.example, bad: \"x\\r\\nBcc: c@d.example\", list: [a@b.example, oops] }}\n    \
             livechat: {{ token: env:T }}\nmail: {{ url: \"smtps://mail.example\", from: a@b.example }}\n{defaults}"
        );
        std::fs::write(folder.path().join("reportd.yaml"), config).unwrap();
        std::fs::write(folder.path().join("jobs/report.yaml"), job(LIVECHAT, deliver)).unwrap();
    };
    let refused = |place: &str, message: &str| {
        let ran = offline(folder.path(), &["validate"]).expect(2);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains(&format!("{place}: ")) && said.contains(message), "{place} {message}\n{said}");
        assert!(!said.contains("\r\n"), "{said}");
        let problems = offline(folder.path(), &["validate", "--format", "json"]).expect(2).json();
        let error = problems.iter().find(|problem| problem["severity"] == "error").unwrap();
        assert!(text(&error["message"]).contains(message), "{error}");
        assert_eq!(format!("{}:{}:{}", text(&error["file"]), error["line"], error["column"]), place);
    };
    for (email, column, message) in [
        ("lead", 12, "'lead' is not an e-mail address"),
        ("{ to: \"{var.onwer}\" }", 18, "did you mean '{var.owner}'?"),
        ("{ to: a@b.example, subject: \"{jbo} came\" }", 40, "did you mean"),
        ("{ to: a@b.example, subject: \"{job\" }", 40, "{"),
        ("{ to: \"{var.bad}\" }", 18, "is not an e-mail address"),
        ("{ to: \"Ops {var.bad} <a@b.example>\" }", 18, "is not an e-mail address"),
        ("{ to: \"{var.list}\" }", 18, "'oops' is not an e-mail address"),
        ("{ to: \"a@b.example\\r\\nRCPT TO:<c@d.example>\" }", 18, "is not an e-mail address"),
        ("{ to: [a@b.example, \"b@c.example, d@e.example\"] }", 18, "is not an e-mail address"),
        ("{ subject: x }", 12, "email needs at least one address in 'to'"),
    ] {
        write("", &format!("deliver:\n  - email: {email}\n"));
        refused(&format!("jobs/report.yaml:4:{column}"), message);
    }
    write("", "deliver:\n  - email: { to: \"{var.owner}\", subject: \"{job} {{ok\" }\n");
    offline(folder.path(), &["validate"]).expect(0);
    // What the config's defaults spoil is told for each job that takes them.
    write("defaults: { alert: [ { email: \"{var.nobody}\" } ] }\n", "");
    let ran = offline(folder.path(), &["validate"]).expect(2);
    assert!(
        format!("{}{}", ran.stdout, ran.stderr).contains("defaults.alert of the config: unknown variable"),
        "{ran:?}"
    );
    for (alert, message) in
        [("oops", "'oops' is not an e-mail address"), ("{ to: a@b.example, subject: \"{oops}\" }", "{oops}")]
    {
        write(&format!("defaults:\n  alert:\n    - email: {alert}\n"), "");
        let ran = offline(folder.path(), &["validate"]).expect(2);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains(message), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_subjects_of_every_script_arrive_as_they_were_written() {
    let smtp = Smtp::start(Mode::Plain);
    let shop = shop(&smtp.url(), LIVECHAT, "").await;
    let config = std::fs::read_to_string(shop.folder.path().join("reportd.yaml")).unwrap();
    let config = config.replace("vars: { ", "vars: { lead: \"Лид, Анна (север) 🦊\", shop: \"उत्तर की दुकान\", ");
    std::fs::write(shop.folder.path().join("reportd.yaml"), config).unwrap();
    let notices = "deliver:\n  - on: [manual]\n    email: { to: \"{var.lead} <a@shop.example>\", subject: \"Отчёт 📈 {var.shop}: {job}@{connection} за {window.label} — готово\" }\n";
    shop.job("report", &job(LIVECHAT, notices));
    shop.run_job("report", DAY, &[]).await.expect(0);
    let mails = smtp.mails();
    assert_eq!(subjects(&mails), ["Отчёт 📈 उत्तर की दुकान: report@north за 2025-03-03 — готово"]);
    assert_eq!(mails[0].mailboxes("To"), [(Some("Лид, Анна (север) 🦊".to_owned()), "a@shop.example".to_owned())]);
    let from = (Some("Отчёты 📊, ежедневно".to_owned()), "reports@shop.example".to_owned());
    assert_eq!(mails[0].mailboxes("From"), [from]);
    assert!(mails[0].raw.is_ascii());
    let listed = shop.run(&["deliveries", "--format", "json"]).await.expect(0).line();
    assert_eq!(listed["target"], "a…@shop.example");
}

const HEADERS: [&str; 9] = [
    "Message-ID",
    "Date",
    "From",
    "To",
    "Subject",
    "Auto-Submitted",
    "X-Reportd-Delivery",
    "MIME-Version",
    "Content-Type",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_line_break_of_a_variable_a_subject_or_a_vendor_makes_a_header_or_a_recipient() {
    let smtp = Smtp::start(Mode::Plain);
    let evil = "no\r\nBcc: evil@evil.example\nX-Evil: 1\r\n\r\n<b>body</b>\r\n.\r\nMAIL FROM:<evil@evil.example>";
    let body = serde_json::json!({ "error": { "type": "validation", "message": evil } }).to_string();
    let script = Script::start(move |_| http(400, "content-type: application/json\r\n", &body));
    let shop = shop(&smtp.url(), LIVECHAT, "").await;
    shop.accounts_and_mail(&smtp.url(), &[("livechat", "base_url", &script.base(""))]);
    let path = shop.folder.path().join("reportd.yaml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("vars: { ", "vars: { evil: \"x\\r\\nBcc: var@evil.example\\r\\n\\r\\ny\", "))
        .unwrap();
    let alert = "alert:\n  - email: { to: ops@shop.example, subject: \"{job}\\r\\nBcc: own@evil.example {var.evil}: {failure}\" }\n  \
         - email: { to: [\"{failure} <two@shop.example>\", three@shop.example] }\n";
    shop.job("report", &job(LIVECHAT, alert));
    shop.run_job("report", DAY, &[]).await.expect(1);
    let mails = smtp.mails();
    assert_eq!(mails.len(), 2, "{:?}", shop.words().await);
    for mail in &mails {
        let names: Vec<&str> = mail.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.len() == HEADERS.len() && names.iter().all(|name| HEADERS.contains(name)), "{names:?}");
        assert!(mail.to.iter().all(|to| to.ends_with("@shop.example")), "{:?}", mail.to);
        let raw = String::from_utf8(mail.raw.clone()).unwrap();
        let head = raw.split("\r\n\r\n").next().unwrap();
        assert!(head.lines().all(|line| !line.to_lowercase().starts_with("bcc")), "{head}");
        assert!(!mail.html().contains("<b>body"), "{}", mail.html());
    }
    let own = mails.iter().find(|mail| mail.to == ["ops@shop.example"]).unwrap();
    assert!(own.header("Subject").starts_with("report Bcc: own@evil.example x Bcc: var@evil.example y: "));
    let other = mails.iter().find(|mail| mail.to != ["ops@shop.example"]).unwrap();
    assert!(other.to.contains(&"three@shop.example".to_owned()), "{:?}", other.to);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_windows_of_an_outage_are_one_mail_that_lists_them_and_one_when_it_works_again() {
    let smtp = Smtp::start(Mode::Plain);
    let alert = "alert:\n  - email: ops@shop.example\n  - email: { to: lead@shop.example, subject: \"FAILED {job}: {window.label}\" }\n";
    let shop = shop(&smtp.url(), LIVECHAT, alert).await;
    shop.fault("livechat.report=400:50");
    let days = "2025-03-01..2025-04-19";
    shop.run_job("report", days, &["--each", "day"]).await.expect(1);
    let to = |who: &str| smtp.mails().into_iter().filter(|mail| mail.to == [who]).collect::<Vec<_>>();
    let mails = to("ops@shop.example");
    assert_eq!(subjects(&mails), ["Failed: 50 windows, 2025-03-01 to 2025-04-19, report@north"]);
    let (plain, page) = (mails[0].text(), mails[0].html());
    for day in ["2025-03-01", "2025-03-17", "2025-04-19"] {
        assert!(plain.contains(day) && page.contains(day), "{day}: {plain}");
    }
    assert_eq!(plain.matches("  run ").count(), 50, "{plain}");
    assert!(plain.contains("reportd fill report@north") && plain.contains("Bad Request"), "{plain}");
    assert_eq!(subjects(&to("lead@shop.example")), ["FAILED report: 2025-03-01 and 49 more"]);

    shop.run_job("report", DAY, &[]).await.expect(0);
    let mails = to("ops@shop.example");
    assert_eq!(subjects(&mails)[1..], ["Works again: report@north"]);
    // 49 windows are as missing as before.
    let plain = mails[1].text();
    assert!(
        squeezed(&plain).contains("50 windows, 2025-03-01 to 2025-04-19, were in trouble, and all works again."),
        "{plain}"
    );
    assert!(plain.contains("reportd coverage report@north") && !plain.contains("came"), "{plain}");
    assert_ne!(mails[0].header("Message-ID"), mails[1].header("Message-ID"));
    // Whatever template the people wrote, it does not read like another failure.
    assert_eq!(subjects(&to("lead@shop.example"))[1..], ["Works again: FAILED report: 2025-03-01 and 49 more"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_bik_run_is_mailed_with_the_commands_that_end_it() {
    let smtp = Smtp::start(Mode::Plain);
    let shop = shop(&smtp.url(), BIK, TO_OPS).await;
    shop.fault("bik.generateReport=lost:1");
    let held = shop.run_job("report", DAY, &["--mail"]).await.expect(3).line();
    let mails = smtp.mails();
    assert_eq!(subjects(&mails), ["Held: report@north 2025-03-03"]);
    let id = &text(&held["run_id"])[..8];
    for ending in ["--ticket ID", "--not-created", "--file PATH", "--give-up"] {
        let command = format!("reportd resolve {id} {ending}");
        assert!(mails[0].text().contains(&command) && mails[0].html().contains(&command), "{}", mails[0].text());
    }
    // The command of the mail does what it says, and the next mail tells that it is over.
    shop.run(&["resolve", id, "--not-created"]).await.expect(0);
    shop.run_job("report", DAY, &["--mail"]).await.expect(0);
    assert_eq!(subjects(&smtp.mails())[1..], ["Works again: report@north"]);
}

/// Every point at which a process that makes or sends notices may die; those of alerts are passed by alerts only.
pub const POINTS: [&str; 8] = [
    "deliveries-made",
    "deliveries-committed",
    "delivery-claimed",
    "delivery-sent",
    "delivery-settled",
    "alert-told",
    "alert-recovered",
    "alert-closed",
];

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_point_of_a_mail_it_arrives_and_every_copy_has_the_same_id() {
    let smtp = Smtp::start(Mode::Plain);
    let shop = shop(&smtp.url(), LIVECHAT, TO_LEAD).await;
    let mut days = (3..).map(|day| format!("2025-03-{day:02}"));
    for point in POINTS.into_iter().filter(|point| !point.starts_with("alert")) {
        let day = days.next().unwrap();
        let before = smtp.mails().len();
        let mut command = shop.command(&["run-job", "report", "--window", &format!("{day}..{day}")]);
        command.env("REPORTD_CRASH_AT", point);
        let ran = run(command).await;
        assert_eq!(ran.code, None, "{point}: {}", ran.stderr);
        shop.advance(LEASES).await;
        let serving = shop.serve().await;
        until(point, || async { smtp.mails().len() > before && shop.number(PENDING).await == 0 }).await;
        shop.until_count("SELECT count(*) FROM deliveries WHERE state = 'sending'", 0).await;
        serving.stop().await;
        let copies = smtp.mails().split_off(before);
        assert_eq!(copies.len(), if point == "delivery-sent" { 2 } else { 1 }, "{point}");
        assert!(copies.iter().all(|copy| copy.header("Message-ID") == copies[0].header("Message-ID")), "{point}");
        assert!(copies.iter().all(|copy| copy.header("Subject") == format!("Report: report@north {day}")), "{point}");
        assert!(copies.iter().all(|copy| copy.attachments() == copies[0].attachments()), "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_point_of_an_alert_trouble_and_its_end_are_mailed_under_one_id_each() {
    for point in POINTS {
        let smtp = Smtp::start(Mode::Plain);
        let shop = shop(&smtp.url(), LIVECHAT, TO_OPS).await;
        shop.fault("livechat.report=400:1");
        let dying = |window: &str| {
            let mut command = shop.command(&["run-job", "report", "--window", window]);
            command.env("REPORTD_CRASH_AT", point);
            command
        };
        let closing = matches!(point, "alert-recovered" | "alert-closed");
        let failing = run(dying(DAY)).await;
        assert_eq!(failing.code, if closing { Some(1) } else { None }, "{point}: {}", failing.stderr);
        if closing {
            assert_eq!(run(dying(NEXT_DAY)).await.code, None);
        }
        shop.advance(LEASES).await;
        let serving = shop.serve().await;
        if !closing {
            until(point, || async { !smtp.mails().is_empty() && shop.number(SENT).await == 1 }).await;
            shop.run_job("report", NEXT_DAY, &[]).await.expect(0);
        }
        until(point, || async { shop.number(SENT).await == 2 }).await;
        serving.stop().await;
        let mails = smtp.mails();
        let mut unique = ids(&mails);
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), 2, "{point}: {:?}", subjects(&mails));
        let told = |word: &str| subjects(&mails).iter().filter(|subject| subject.starts_with(word)).count();
        assert_eq!(told("Failed: "), if point == "delivery-sent" { 2 } else { 1 }, "{point}");
        assert_eq!(told("Works again: "), 1, "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_in_the_middle_of_a_mail_ends_in_time_and_it_goes_out_later() {
    let rough = Rough::start().await;
    let shop = shop(&rough.url(), LIVECHAT, TO_LEAD).await;
    shop.dies_before_it_sends(DAY).await;
    rough.fault(Step::End, Act::Hold);
    let serving = shop.serve().await;
    until("the mail is handed over", || async { rough.mails().len() == 1 }).await;
    let asked = Instant::now();
    serving.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    assert_eq!(shop.one::<String>("SELECT state FROM deliveries").await, "pending");
    assert_eq!(shop.words().await, "no answer had come when the process ended");
    rough.behave();
    let serving = shop.serve().await;
    shop.until_count(SENT, 1).await;
    serving.stop().await;
    let mails = rough.mails();
    assert_eq!(mails.len(), 2);
    assert_eq!(ids(&mails)[0], ids(&mails)[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_sends_the_mail_of_a_frozen_one_under_the_same_id_and_the_frozen_one_writes_nothing() {
    let rough = Rough::start().await;
    let shop = shop(&rough.url(), LIVECHAT, TO_LEAD).await;
    shop.dies_before_it_sends(DAY).await;
    rough.fault(Step::End, Act::Hold);
    let frozen = shop.serve().await;
    until("the mail is handed over", || async { rough.mails().len() == 1 }).await;
    frozen.signal(Signal::STOP);
    shop.advance(LEASES).await;
    let second = shop.serve().await;
    until("the other hands it over too", || async { rough.mails().len() == 2 }).await;
    rough.behave();
    shop.until_count(SENT, 1).await;
    let row = "SELECT settled_by || ' ' || settled_at || ' ' || tries FROM deliveries";
    let settled: String = shop.one(row).await;
    frozen.signal(Signal::CONT);
    frozen.until_says("the delivery is another worker's by now").await;
    assert_eq!(shop.one::<String>(row).await, settled);
    second.stop().await;
    let mails = rough.mails();
    assert_eq!((mails.len(), ids(&mails)[0]), (2, ids(&mails)[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_answer_is_tried_again_and_a_permanent_one_ends_with_the_servers_words() {
    let rough = Rough::start().await;
    let shop = shop(&rough.url(), LIVECHAT, TO_LEAD).await;
    rough.fault(Step::End, Act::Answer("451 4.3.0 try again in a while"));
    shop.dies_before_it_sends(DAY).await;
    shop.retry_delivery().await.expect(4);
    assert!(shop.words().await.contains("451 4.3.0 try again in a while"), "{}", shop.words().await);
    rough.behave();
    let serving = shop.serve().await;
    shop.advance(MINUTE).await;
    shop.until_count(SENT, 1).await;
    serving.stop().await;
    assert_eq!(rough.mails().len(), 1);

    rough.fault(Step::Rcpt, Act::Answer("550 5.1.1 no such user here"));
    shop.run_job("report", NEXT_DAY, &[]).await.expect(0);
    assert_eq!(shop.number("SELECT count(*) FROM deliveries WHERE state = 'failed' AND tries = 1").await, 1);
    let status = shop.run(&["status"]).await.expect(1).stdout;
    assert!(
        status.contains("email to l…@shop.example did not go out") && status.contains("550 5.1.1 no such user here"),
        "{status}"
    );
    let id: String = shop.one("SELECT left(id::text, 8) FROM deliveries WHERE state = 'failed'").await;
    assert!(status.contains(&format!("reportd delivery resolve {id}")), "{status}");
    shop.run(&["delivery", "resolve", &id]).await.expect(0);
    let status = shop.run(&["status"]).await.stdout;
    assert!(!status.contains("email"), "{status}");
    assert_eq!(rough.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_recipient_of_three_is_named_and_the_others_have_the_mail_once() {
    let rough = Rough::start().await;
    let to = "deliver:\n  - on: [manual]\n    email: { to: [a@shop.example, gone@shop.example, b@shop.example] }\n";
    let shop = shop(&rough.url(), LIVECHAT, to).await;
    rough.fault_for(Step::Rcpt, "gone@", Act::Answer("550 5.1.1 no such user"));
    shop.run_job("report", DAY, &[]).await.expect(0);
    let mails = rough.mails();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].to, ["a@shop.example", "b@shop.example"]);
    let listed = shop.run(&["deliveries", "--format", "json"]).await.expect(0).line();
    assert_eq!((text(&listed["state"]), &listed["tries"]), ("sent", &1.into()));
    assert!(text(&listed["words"]).contains("refused: g…@shop.example: 550 5.1.1"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_and_once_it_is_corrected_the_mail_goes_out_without_a_restart() {
    let smtp = Smtp::start(Mode::Login);
    let shop = shop(&smtp.url(), LIVECHAT, TO_LEAD).await;
    let login = mail(&smtp.url(), "  username: env:MAIL_USER\n  password: file:mail-password\n");
    shop.config(&login);
    let password = shop.folder.path().join("mail-password");
    std::fs::write(&password, "an older one\n").unwrap();
    shop.dies_before_it_sends(DAY).await;
    let mut command = shop.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env("MAIL_USER", USER);
    let serving = Started::new(command);
    shop.until_count("SELECT count(*) FROM deliveries WHERE state = 'pending' AND tries = 1", 1).await;
    let words = shop.words().await;
    assert!(words.contains("535") && words.contains("check username and password of mail in reportd.yaml"), "{words}");
    assert!(!words.contains("older") && !words.contains(USER), "{words}");
    shop.advance(16 * MINUTE).await;
    shop.until_count("SELECT count(*) FROM deliveries WHERE state = 'pending' AND tries = 2", 1).await;
    let status = squeezed(&shop.run(&["status"]).await.expect(1).stdout);
    assert!(status.contains("is tried in vain") && status.contains("535"), "{status}");
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    shop.advance(6 * MINUTE).await;
    shop.until_count(SENT, 1).await;
    let status = shop.run(&["status"]).await.stdout;
    assert!(!status.contains("email"), "{status}");
    serving.stop().await;
    assert_eq!(smtp.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_that_is_down_for_two_hours_costs_two_hours_and_nothing_else() {
    let socket = bound(([127, 0, 0, 1], 0).into());
    let url = format!("smtp://{}", socket.local_addr().unwrap());
    let shop = shop(&url, LIVECHAT, TO_LEAD).await;
    shop.dies_before_it_sends(DAY).await;
    let serving = shop.serve().await;
    for tries in 1..=8 {
        shop.until_tried(tries).await;
        shop.until_count(PENDING, 1).await;
        assert!(shop.words().await.starts_with("no connection to 127.0.0.1"), "{}", shop.words().await);
        shop.advance(15 * MINUTE).await;
    }
    // Runs go on meanwhile.
    shop.run_job("report", NEXT_DAY, &["--no-deliver"]).await.expect(0);
    let rough = Rough::at(socket.listen(16).unwrap());
    shop.advance(15 * MINUTE).await;
    shop.until_count(SENT, 1).await;
    serving.stop().await;
    assert_eq!(subjects(&rough.mails()), ["Report: report@north 2025-03-03"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_mail_server_keeps_no_other_notice_waiting_and_no_command_for_long() {
    let (rough, receiver) = (Rough::start().await, Receiver::start().await);
    rough.fault(Step::Greeting, Act::Silence);
    let hook = format!("  - on: [manual]\n    webhook: {{ url: \"{}\", keys: [env:KEY] }}\n", receiver.url("/ok"));
    let shop = shop(&rough.url(), LIVECHAT, &format!("{TO_LEAD}{hook}")).await;
    // Tried three times, while the mail hangs.
    receiver.answers(&[503, 503]);
    let mut command = shop.command(&["run-job", "report", "--window", DAY]);
    command.env("KEY", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let asked = Instant::now();
    let ran = run(command).await.expect(0);
    assert!(asked.elapsed() < Duration::from_secs(35), "{:?}", asked.elapsed());
    assert!(ran.stderr.contains("1 notice still to be sent: `reportd deliveries` says why"), "{}", ran.stderr);
    assert_eq!(receiver.at("/ok").len(), 3);
    assert_eq!((shop.number(PENDING).await, shop.number(SENT).await), (1, 1));
    rough.behave();
    let id: String = shop.one("SELECT id::text FROM deliveries WHERE kind = 'email'").await;
    shop.run(&["delivery", "retry", &id]).await.expect(0);
    assert_eq!(rough.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_mail_server_in_the_config_a_mail_waits_until_there_is_one() {
    let smtp = Smtp::start(Mode::Plain);
    let shop = Shop::open().await;
    shop.job("report", &job(LIVECHAT, TO_LEAD));
    shop.dies_before_it_sends(DAY).await;
    let serving = shop.serve().await;
    shop.until_tried(1).await;
    // What became of the try is written down, and when the next one comes.
    shop.until_count(PENDING, 1).await;
    shop.advance(16 * MINUTE).await;
    shop.until_tried(2).await;
    shop.until_count(PENDING, 1).await;
    let status = squeezed(&shop.run(&["status"]).await.expect(1).stdout);
    assert!(status.contains("the config of this process has no `mail:`"), "{status}");
    // Taken up with the next reload.
    shop.config(&mail(&smtp.url(), ""));
    serving.signal(Signal::HUP);
    until("the mail", || async {
        shop.advance(MINUTE).await;
        smtp.mails().len() == 1
    })
    .await;
    serving.stop().await;
    assert_eq!(shop.number(SENT).await, 1);
}
