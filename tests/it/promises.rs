//! What a neighbour's failure, an operator's word or a rebuild in between must not break: no create is lost, none is sent twice.

use std::time::Duration;

use reportd::run::State;
use reportd::run::store::make::{NewRun, Opened, Wants};
use reportd::sandbox::{Credentials, Vendor};
use rustix::process::Signal;

use crate::harness::Shop;
use crate::store::new_run;
use crate::verbs::JAICP;

const ENGAGEMENT: &str =
    "window: yesterday\nbik: { reportType: Helpdesk, reportName: Agent Engagement, emails: [a@north.example] }\n";
const WEEK: &str = "2026-03-02..2026-03-04";

async fn shop() -> Shop {
    let shop = Shop::open().await;
    shop.job("engagement", ENGAGEMENT);
    shop
}

#[tokio::test(flavor = "multi_thread")]
async fn one_window_that_cannot_be_opened_stops_none_of_the_others() {
    let shop = shop().await;
    // The database does not know this revision: that day is refused, before any of its neighbours has its answer.
    let first = shop.run(&["run-job", "engagement", "--window", "2026-03-03..2026-03-03"]).await.expect(0);
    assert!(first.stdout.contains("archived"), "{first:?}");
    for table in ["artifacts", "revisions"] {
        sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM {table}"))).execute(&shop.pool).await.unwrap();
    }
    shop.fault("bik.generateReport=slow:2");
    let ran =
        shop.run(&["run-job", "engagement", "--window", WEEK, "--each", "day", "--format", "json"]).await.expect(2);
    assert!(ran.stderr.contains("archive rebuild"), "{}", ran.stderr);
    let states: Vec<_> = ran.json().iter().map(|run| run["state"].clone()).collect();
    assert_eq!(states, ["archived", "archived"], "both neighbours are carried to their end and told");
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM runs WHERE finished_at IS NULL").await, 0);
    assert_eq!(shop.sandbox.mails().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_whose_create_may_have_taken_effect_is_held_when_it_is_retried() {
    let shop = shop().await;
    shop.fault("bik.generateReport=lost:1");
    let held = shop.run(&["run-job", "engagement", "--format", "json"]).await.expect(3);
    let id = held.json()[0]["run_id"].as_str().unwrap().to_owned();
    for word in [vec!["cancel", &id], vec!["resolve", &id, "--give-up"]] {
        // The second word comes to a run that the first retry has held again.
        shop.run(&word).await.expect(0);
        let told = shop.run(&["retry", &id]).await.expect(0);
        assert!(told.stdout.contains("held"), "{told:?}");
        let state: String = shop.one("SELECT state FROM runs").await;
        assert_eq!(state, "held", "after {word:?}");
    }
    shop.run(&["run-job", "engagement"]).await.expect(3);
    assert_eq!(shop.sandbox.mails().len(), 1, "nobody was mailed twice");
    shop.run(&["resolve", &id, "--not-created"]).await.expect(0);
    shop.run(&["run-job", "engagement"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_an_operator_mistyped_makes_no_second_mail_whatever_is_said_next() {
    let shop = shop().await;
    shop.without_waits().await;
    shop.fault("bik.generateReport=lost:1");
    let held = shop.run(&["run-job", "engagement", "--format", "json"]).await.expect(3);
    let id = held.json()[0]["run_id"].as_str().unwrap().to_owned();
    let real = shop.sandbox.mails()[0].report_history_id;
    shop.run(&["resolve", &id, "--ticket", &(real + 7).to_string()]).await.expect(0);
    let again = shop.run(&["run-job", "engagement", "--format", "json"]).await.expect(3).json().remove(0);
    let message = again["failure"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("ticket {}, as ", real + 7)) && message.contains("--not-created"), "{message}");
    for word in [&["retry", &id][..], &["fill", "engagement"]] {
        shop.run(word).await;
    }
    // Whatever the vendor says of it: it may well say that the id is no good.
    for says in ["400", "inner-400"] {
        shop.fault(&format!("bik.getReportById={says}:1"));
        shop.run(&["resolve", &id, "--ticket", &(real + 7).to_string()]).await.expect(0);
        shop.run(&["run-job", "engagement"]).await.expect(3);
        let failure: String = shop.one("SELECT state || ': ' || failure FROM runs").await;
        assert!(failure.starts_with("held: ") && failure.contains("as "), "{says}: {failure}");
    }
    shop.run(&["resolve", &id, "--ticket", &real.to_string()]).await.expect(0);
    shop.run(&["run-job", "engagement"]).await.expect(0);
    assert_eq!((shop.sandbox.mails().len(), shop.number("SELECT count(*) FROM runs").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_was_given_up_is_waited_for_again_and_not_made_again_when_its_window_is_asked_for() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T06:59:30Z").await;
    let twice = "zone: UTC\nschedule: [\"0 7 * * *\", \"0 19 * * *\"]\ngive_up: 0\n";
    shop.job("engagement", &format!("{twice}{ENGAGEMENT}"));
    shop.job("messages", &format!("give_up: 0\n{JAICP}"));
    shop.without_waits().await;
    let serving = shop.serve().await;
    shop.fault("bik.getReportById=500:2");
    shop.advance(Duration::from_secs(60)).await;
    shop.until_count("SELECT count(*) FROM runs WHERE state = 'failed' AND failure_class = 'gave_up'", 1).await;
    // The evening names the same window.
    shop.advance(Duration::from_secs(12 * 3600)).await;
    shop.until_count("SELECT count(*) FROM runs WHERE state IN ('archived', 'empty')", 1).await;
    serving.stop().await;
    assert_eq!(shop.ledger("engagement").await, ["2026-03-10T07:00 fired", "2026-03-10T19:00 covered"]);
    assert_eq!(shop.reasons("engagement").await[1], "a live run works on this window");
    assert_eq!((shop.sandbox.mails().len(), shop.number("SELECT count(*) FROM runs").await), (1, 1));

    // So does a person, who says `again` for another one.
    let day = ["--window", "2026-03-05..2026-03-05"];
    shop.fault("bik.getReportById=500:2");
    shop.run(&[&["run-job", "engagement"], &day[..]].concat()).await.expect(1);
    let fill = ["fill", "engagement", "--from", "2026-03-05", "--to", "2026-03-05"];
    let would = shop.run(&[&fill[..], &["--dry-run", "--format", "json"]].concat()).await.expect(0);
    assert!(would.json()[0]["warnings"].to_string().contains("goes on with the ticket"), "{would:?}");
    let filled = shop.run(&fill).await.expect(0);
    assert!(filled.stderr.contains("by the ticket that the last run has: 1 window\n"), "{}", filled.stderr);
    assert!(!filled.stderr.contains("mails each report"), "no mail is announced that is not sent: {}", filled.stderr);
    assert_eq!(shop.sandbox.mails().len(), 2, "one for each window");
    shop.fault("bik.getReportById=500:2");
    let day = ["--window", "2026-03-04..2026-03-04"];
    shop.run(&[&["run-job", "engagement"], &day[..]].concat()).await.expect(1);
    shop.run(&[&["run-job", "engagement", "--again"], &day[..]].concat()).await.expect(0);
    assert_eq!(shop.sandbox.mails().len(), 4);

    // Where a second task harms nobody, one that never ends does not keep its window for ever.
    for tries in 1..=3 {
        shop.fault("jaicp.task=500:2");
        shop.run(&["run-job", "messages", "--window", "2026-03-05..2026-03-05"]).await.expect(1);
        assert_eq!(shop.sandbox.creates(Vendor::Jaicp), if tries < 3 { 1 } else { 2 }, "{tries}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_whose_report_was_mailed_goes_on_unless_something_else_is_asked_for_by_now() {
    let shop = Shop::open().await;
    let resubmit = format!("on_unknown: resubmit\n{ENGAGEMENT}");
    let filtered = ENGAGEMENT.replace("emails:", "filters: { channel: instagram }, emails:");
    let readdressed = ENGAGEMENT.replace("a@north.example", "b@north.example");
    let two = ENGAGEMENT.replace("[a@north.example]", "[a@north.example, b@north.example]");
    // The first is mailed to quiet_emails, for nobody to read; `--mail` is for the job's readers, who had none of that.
    for (day, then, now, mail, goes_on) in [
        (2, ENGAGEMENT, ENGAGEMENT, false, true),
        (3, &resubmit, &resubmit, false, true),
        (4, ENGAGEMENT, &readdressed, false, true),
        (5, ENGAGEMENT, &filtered, false, false),
        (6, ENGAGEMENT, ENGAGEMENT, true, false),
        // What was mailed to two serves one of them.
        (7, &two, &readdressed, true, true),
    ] {
        shop.job("engagement", then);
        let window = format!("2026-03-0{day}..2026-03-0{day}");
        let loud: &[&str] = if day == 7 { &["--mail"] } else { &[] };
        let id = begun(&shop, &window, loud).await;
        shop.run(&["cancel", &id]).await.expect(0);
        // A later run of the window that was never sent hides it not.
        let run_again = ["run-job", "engagement", "--window", &window, "--again", "--no-wait", "--format", "json"];
        let unsent = shop.run(&run_again).await.expect(4).json().remove(0);
        shop.run(&["cancel", unsent["run_id"].as_str().unwrap()]).await.expect(0);
        shop.job("engagement", now);
        let before = shop.sandbox.mails().len();
        let more: &[&str] = if mail { &["--mail"] } else { &[] };
        let run_job = ["run-job", "engagement", "--format", "json", "--window", &window];
        let ran = shop.run(&[&run_job[..], more].concat()).await.expect(0).json().remove(0);
        let went_on = (ran["run_id"] == id.as_str(), shop.sandbox.mails().len() == before);
        assert_eq!(went_on, (goes_on, goes_on), "{day}");
    }
}

/// The id of a run of the window whose worker died when it had its ticket.
async fn begun(shop: &Shop, window: &str, more: &[&str]) -> String {
    let mut killed = shop.command(&[&["run-job", "engagement", "--window", window], more].concat());
    killed.env("REPORTD_CRASH_AT", "ticket-committed");
    assert_eq!(crate::harness::run(killed).await.code, None, "killed when the ticket was committed");
    shop.one("SELECT id::text FROM runs ORDER BY created_at DESC LIMIT 1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_mail_and_meets_a_run_that_mails_others_is_told() {
    let shop = shop().await;
    let id = begun(&shop, "2026-03-03..2026-03-03", &[]).await;
    shop.advance(Duration::from_secs(61)).await;
    let run_job = ["run-job", "engagement", "--window", "2026-03-03..2026-03-03", "--mail", "--format", "json"];
    let ran = shop.run(&run_job).await.expect(0);
    assert_eq!(ran.json()[0]["run_id"], id.as_str());
    ran.says("that run mails others, not a@north.example");
    assert_eq!(shop.sandbox.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_made_without_its_secret_goes_on_too() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T06:00:00Z").await;
    let job = format!("zone: UTC\nschedule: \"0 7 * * *\"\ngive_up: 0\n{ENGAGEMENT}");
    shop.job("engagement", &job);
    shop.accounts(&[("bik", "secret", "file:secret")]);
    let serving = shop.serve().await;
    shop.clock("2026-03-10T07:00:01Z").await;
    shop.until_count("SELECT count(*) FROM runs WHERE account = ''", 1).await;
    shop.without_waits().await;
    shop.fault("bik.getReportById=500:2");
    std::fs::write(shop.folder.path().join("secret"), reportd::sandbox::credentials::BIK_SECRET).unwrap();
    serving.signal(Signal::HUP);
    shop.until_count("SELECT count(*) FROM runs WHERE failure_class = 'gave_up' AND account <> ''", 1).await;
    serving.stop().await;
    shop.run(&["run-job", "engagement", "--window", "2026-03-09..2026-03-09"]).await.expect(0);
    assert_eq!((shop.sandbox.mails().len(), shop.number("SELECT count(*) FROM runs").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_goes_on_with_what_was_mailed_to_its_readers_already_and_tells_whom_it_tells() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T06:00:00Z").await;
    let job = format!("zone: UTC\nschedule: \"0 7 * * *\"\ngive_up: 0\n{ENGAGEMENT}");
    let file = shop.folder.path().join("landed.json");
    let deliver = format!("deliver: [{{ file: {{ url: \"file://{}\" }} }}]\n", file.display());
    shop.job("engagement", &format!("{job}{deliver}"));
    shop.without_waits().await;
    shop.fault("bik.getReportById=500:2");
    shop.run(&["run-job", "engagement", "--mail", "--window", "2026-03-09..2026-03-09"]).await.expect(1);
    let serving = shop.serve().await;
    shop.clock("2026-03-10T07:00:01Z").await;
    shop.until_count("SELECT count(*) FROM runs WHERE state IN ('archived', 'empty')", 1).await;
    shop.until_count("SELECT count(*) FROM deliveries", 1).await;
    serving.stop().await;
    assert_eq!((shop.sandbox.mails().len(), shop.number("SELECT count(*) FROM runs").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_sends_nothing_while_nobody_knows_what_became_of_an_earlier_create_of_the_window() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T06:59:30Z").await;
    shop.job("engagement", &format!("zone: UTC\nschedule: \"0 7,19 * * *\"\n{ENGAGEMENT}"));
    let serving = shop.serve().await;
    shop.fault("bik.generateReport=lost:1");
    shop.clock("2026-03-10T07:00:01Z").await;
    shop.until_count("SELECT count(*) FROM runs WHERE state = 'held'", 1).await;
    let id: String = shop.one("SELECT id::text FROM runs").await;
    shop.run(&["resolve", &id, "--give-up"]).await.expect(0);
    shop.clock("2026-03-10T19:00:01Z").await;
    shop.until_count("SELECT count(*) FROM fires", 2).await;
    serving.stop().await;
    assert_eq!(shop.ledger("engagement").await, ["2026-03-10T07:00 fired", "2026-03-10T19:00 skipped"]);
    assert!(
        shop.reasons("engagement").await[1].contains(&format!("reportd retry {} holds it for your word", &id[..8]))
    );
    assert_eq!((shop.sandbox.mails().len(), shop.number("SELECT count(*) FROM runs").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_was_to_go_on_with_its_ticket_is_not_sent_anew_when_it_cannot_by_then() {
    let shop = Shop::open().await;
    let only_goes_on = NewRun { wants: Wants::GoingOn, ..new_run(3) };
    let live = shop.store().open(&new_run(3)).await.unwrap();
    let Opened::Made(live, None) = live else { panic!("{live:?}") };
    let attached = |opened: Opened| match opened {
        Opened::Attached(run) => (run.id, run.state),
        other => panic!("{other:?}"),
    };
    assert_eq!(attached(shop.store().open(&only_goes_on).await.unwrap()), (live.id, State::Queued));
    shop.store().cancel(&live).await.unwrap();
    assert_eq!(attached(shop.store().open(&only_goes_on).await.unwrap()), (live.id, State::Cancelled));
    assert_eq!(shop.number("SELECT count(*) FROM runs").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_was_made_and_could_not_be_fetched_is_asked_for_again_and_not_made_again() {
    let shop = shop().await;
    shop.without_waits().await;
    for (fault, class) in [("bik.getReportById=400:1", "refused"), ("bik.download=400:1", "refused")] {
        shop.fault(fault);
        let run_job = ["run-job", "engagement", "--again", "--format", "json"];
        let failed = shop.run(&run_job).await.expect(1).json().remove(0);
        assert_eq!(failed["failure"]["class"], class);
        let before = shop.sandbox.mails().len();
        let filled = shop.run(&["run-job", "engagement", "--format", "json"]).await.expect(0).json().remove(0);
        assert_eq!((&filled["run_id"], shop.sandbox.mails().len()), (&failed["run_id"], before), "{fault}");
        sqlx::query("DELETE FROM artifacts").execute(&shop.pool).await.unwrap();
        sqlx::query("DELETE FROM revisions").execute(&shop.pool).await.unwrap();
        std::fs::remove_dir_all(shop.archive().join("engagement")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_under_way_goes_on_under_a_new_key_when_a_person_says_that_it_is_the_same_shops() {
    let shop = shop().await;
    let first = begun(&shop, "2026-03-03..2026-03-03", &[]).await;
    // Its lease is over.
    shop.advance(Duration::from_secs(61)).await;
    shop.sandbox.set_credentials(Credentials { bik_key: "fresh".into(), ..Credentials::default() });
    std::fs::write(shop.folder.path().join("key"), "fresh").unwrap();
    shop.accounts(&[("bik", "key", "file:key")]);
    let id = &first[..8];
    let run_job = ["run-job", "engagement", "--window", "2026-03-03..2026-03-03", "--format", "json"];
    let (cancel, retry) = (format!("reportd cancel {id}"), format!("reportd retry {id}"));
    let told = shop.run(&["status"]).await.expect(1).stdout;
    assert!(told.contains(&format!("the same shop's under a new key: {cancel}, and then {retry}")), "{told}");
    shop.run(&run_job).await.expect(4).says(&retry);
    shop.run(&["cancel", id]).await.expect(0);
    shop.run(&["retry", id]).await.expect(0);
    let ran = shop.run(&run_job).await.expect(0).json().remove(0);
    assert_eq!((ran["run_id"].as_str(), shop.sandbox.mails().len()), (Some(first.as_str()), 1));
    // Who asks for its window by hand, and says nothing of the kind, has the report made anew.
    let other = begun(&shop, "2026-03-04..2026-03-04", &[]).await;
    shop.run(&["cancel", &other]).await.expect(0);
    std::fs::write(shop.folder.path().join("key"), "fresher").unwrap();
    shop.sandbox.set_credentials(Credentials { bik_key: "fresher".into(), ..Credentials::default() });
    let anew = ["run-job", "engagement", "--window", "2026-03-04..2026-03-04", "--format", "json"];
    let anew = shop.run(&anew).await.expect(0);
    let anew = anew.says(&format!("run {} of this window may have been made and mailed too", &other[..8]));
    let anew = anew.json().remove(0);
    assert_eq!((anew["run_id"] == other.as_str(), shop.sandbox.mails().len()), (false, 3));
    let history = shop.run(&["show", id]).await.expect(0).stdout;
    assert!(history.contains("goes on with its ticket, as another account"), "{history}");
    shop.run(&["status"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_with_another_key_is_made_anew_by_nobody_but_a_person() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T06:00:00Z").await;
    let job = format!("zone: UTC\nschedule: \"0 7 * * *\"\nsince: 2026-03-09\ngive_up: 0\n{ENGAGEMENT}");
    shop.job("engagement", &job);
    shop.without_waits().await;
    let first = begun(&shop, "2026-03-09..2026-03-09", &["--mail"]).await;
    let ticket: String = shop.one("SELECT remote_id FROM remote_tasks").await;
    shop.advance(Duration::from_secs(61)).await;
    let id = &first[..8];
    shop.run(&["cancel", id]).await.expect(0);
    let key = |key: &str| {
        std::fs::write(shop.folder.path().join("key"), key).unwrap();
        shop.accounts(&[("bik", "key", "file:key")]);
    };
    key("fresh");
    shop.sandbox.set_credentials(Credentials { bik_key: "fresh".into(), ..Credentials::default() });
    let serving = shop.serve().await;
    shop.clock("2026-03-10T07:00:01Z").await;
    shop.until_count("SELECT count(*) FROM fires WHERE fire_at >= '2026-03-10'", 1).await;
    serving.stop().await;
    let why: String = shop.one("SELECT outcome || ': ' || reason FROM fires WHERE fire_at >= '2026-03-10'").await;
    let advice = format!("made with another key, may be mailed: reportd retry {id} goes on with it");
    assert!(why.starts_with("skipped: ") && why.contains(&advice), "{why}");
    let span = ["--from", "2026-03-09", "--to", "2026-03-09"];
    shop.run(&[&["fill", "engagement"], &span[..]].concat()).await.expect(3).says(&advice);
    let calendar = shop.run(&[&["coverage", "engagement"], &span[..]].concat()).await.expect(0).stdout;
    assert!(calendar.contains(&format!("2026-03-09: an earlier run, {advice}")), "{calendar}");
    assert!(!calendar.contains("reportd fill"), "what fill leaves alone is no command for it: {calendar}");
    // A key that does not know the report proves nothing: it may be another shop's.
    shop.fault("bik.getReportById=404:1");
    shop.run(&["retry", id]).await.expect(0);
    let run_job = ["run-job", "engagement", "--window", "2026-03-09..2026-03-09", "--mail", "--format", "json"];
    let held = shop.run(&run_job).await.expect(3).json().remove(0);
    assert_eq!((held["run_id"].as_str(), shop.sandbox.mails().len()), (Some(first.as_str()), 1));
    shop.run(&["resolve", id, "--ticket", &ticket]).await.expect(0);
    let ran = shop.run(&run_job).await.expect(0).json().remove(0);
    assert_eq!((ran["run_id"].as_str(), shop.sandbox.mails().len()), (Some(first.as_str()), 1));
    shop.run(&[&["coverage", "engagement", "--check"], &span[..]].concat()).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_not_served_by_a_report_that_was_made_by_hand_nor_one_that_is_to_be_fetched_again() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T06:00:00Z").await;
    let job = format!("zone: UTC\nschedule: \"0 7 * * *\"\ngive_up: 0\n{ENGAGEMENT}");
    shop.job("engagement", &job);
    shop.without_waits().await;
    // Yesterday's, made by hand, whose mail went to quiet_emails.
    shop.fault("bik.getReportById=500:2");
    shop.run(&["run-job", "engagement", "--window", "2026-03-09..2026-03-09"]).await.expect(1);
    let serving = shop.serve().await;
    shop.clock("2026-03-10T07:00:01Z").await;
    shop.until_count("SELECT count(*) FROM runs WHERE state IN ('archived', 'empty') AND trigger = 'schedule'", 1)
        .await;
    assert_eq!(shop.sandbox.mails().len(), 2, "the shop has its mail");
    // `refetch` asks for a new revision at each instant, whatever became of the last.
    shop.job("engagement", &format!("refetch: true\n{}", job.replace("\"0 7", "\"0 7,19")));
    shop.until_count("SELECT count(*) FROM series_rules", 2).await;
    shop.clock("2026-03-10T19:00:01Z").await;
    shop.until_count("SELECT count(*) FROM revisions", 2).await;
    serving.stop().await;
    assert_eq!((shop.sandbox.mails().len(), shop.number("SELECT count(*) FROM runs").await), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_came_after_the_cancel_is_what_a_retry_goes_on_with() {
    let shop = shop().await;
    let held = shop.run(&["run-job", "engagement", "--wait", "0", "--format", "json"]).await.expect(4);
    let id = held.json()[0]["run_id"].as_str().unwrap().to_owned();
    // A create under way when the operator cancels: its answer is recorded by its attempt.
    let store = reportd::run::store::RunStore::new(shop.pool.clone(), reportd::run::Who("test".into()));
    let run = store.by_prefix(&id).await.unwrap();
    let attempt = uuid::Uuid::new_v4();
    for statement in [
        "INSERT INTO remote_tasks (attempt_id, run_id, connection, vendor, base_url, account)
         SELECT $1, id, connection, vendor, base_url, account FROM runs",
        "UPDATE runs SET state = 'submitting', attempt_id = $1",
    ] {
        sqlx::query(statement).bind(attempt).execute(&shop.pool).await.unwrap();
    }
    let made: serde_json::Value = {
        let client = reqwest_of(&shop).await;
        serde_json::from_str(&client).unwrap()
    };
    let ticket = made["data"]["reportHistoryId"].as_u64().unwrap();
    shop.run(&["cancel", &id]).await.expect(0);
    let seen = reportd::request::Seen { status: "QUEUE".into(), ..reportd::request::Seen::default() };
    let json = serde_json::json!({ "report_history_id": ticket });
    let moved = store.ticket(attempt, &ticket.to_string(), &json, &seen, std::time::Duration::ZERO).await.unwrap();
    assert!(!moved, "a cancelled run stays cancelled");
    let told = shop.run(&["retry", &id]).await.expect(0);
    assert!(told.stdout.contains("goes on with its ticket"), "{told:?}");
    let ran = shop.run(&["run-job", "engagement", "--format", "json"]).await.expect(0);
    assert_eq!((ran.json()[0]["ticket"].as_str(), run.state.as_str()), (Some(ticket.to_string().as_str()), "queued"));
    assert_eq!(shop.sandbox.mails().len(), 1);
}

/// The create that the test plays itself, as the program would send it.
async fn reqwest_of(shop: &Shop) -> String {
    let body = serde_json::json!({
        "reportType": "Helpdesk", "reportName": "Agent Engagement", "emails": ["a@north.example"],
        "dateRange": { "startDate": "2026-03-01T00:00:00.000Z", "endDate": "2026-03-01T23:59:59.999Z" }
    });
    let basic = "Basic c2FuZGJveC1rZXk6c2FuZGJveC1zZWNyZXQ=";
    let url = format!("{}/bikPlatformFunctions-generateReport", shop.sandbox.bik_base_url());
    // A second provider in one process is as good as the first.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(url).header("authorization", basic).json(&body);
    request.send().await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_between_a_crash_and_the_next_worker_wedges_no_run() {
    let shop = shop().await;
    let mut killed = shop.command(&["run-job", "engagement"]);
    killed.env("REPORTD_CRASH_AT", "manifest-put");
    assert_eq!(crate::harness::run(killed).await.code, None, "killed where the manifest was just put");
    shop.run(&["archive", "rebuild"]).await.expect(0);
    shop.advance(std::time::Duration::from_secs(300)).await;
    let ran = shop.run(&["run-job", "engagement", "--format", "json"]).await.expect(0);
    assert_eq!(ran.json()[0]["revision"], 1);
    let id = ran.json()[0]["run_id"].as_str().unwrap().to_owned();
    // The window was held by then; the run itself is finished by whoever claims it next.
    let ended = shop.run(&["run-job", "engagement", "--again", "--format", "json"]).await.expect(0);
    assert_eq!(ended.json()[0]["run_id"], id.as_str(), "the live run is attached to, and adopts its manifest");
    assert_eq!(shop.one::<String>("SELECT state FROM runs").await, "archived");
    assert_eq!(shop.sandbox.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_can_be_repeated_and_leaves_the_real_database_alone() {
    let shop = shop().await;
    for _ in 0..2 {
        let ran = shop.run(&["run-job", "engagement", "--sandbox", "--format", "json"]).await.expect(0);
        assert_eq!((ran.json()[0]["state"].as_str(), ran.json()[0]["revision"].as_i64()), (Some("archived"), Some(1)));
    }
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM runs").await, 0);
    assert!(shop.sandbox.mails().is_empty() && !shop.archive().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_runs_that_are_told_to_stop_stop_at_once_and_leave_nothing_half_done() {
    let shop = Shop::open().await;
    shop.config("  # more\n");
    let config = std::fs::read_to_string(shop.folder.path().join("reportd.yaml")).unwrap();
    let many = config.replace("token: env:LIVECHAT,", "token: env:LIVECHAT, max_in_flight: 200,");
    std::fs::write(shop.folder.path().join("reportd.yaml"), many).unwrap();
    shop.job("ratings", "window: yesterday\nlivechat: { report: chats/ranking }\n");
    shop.fault("livechat.report=slow");
    let args = ["run-job", "ratings", "--window", "2025-01-01..2025-07-19", "--each", "day", "--wait", "2s"];
    let ran = shop.run(&args).await.expect(4);
    assert!(!ran.stderr.contains("timed out"), "{}", ran.stderr);
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM runs").await, 200);
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM runs WHERE lease_token IS NOT NULL").await, 0);
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM runs WHERE state = 'submitting'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_for_a_person_does_not_keep_its_account_from_the_next() {
    let shop = Shop::open().await;
    let config = std::fs::read_to_string(shop.folder.path().join("reportd.yaml")).unwrap();
    let one = config.replace("max_in_flight: 8", "max_in_flight: 1");
    assert_ne!(one, config);
    std::fs::write(shop.folder.path().join("reportd.yaml"), one).unwrap();
    shop.job(
        "messages",
        "window: yesterday\njaicp:\n  report: messages\n  filters: [{ key: MESSAGE_TIME, type: DATE_TIME_RANGE }]\n  settings: { fileType: CSV }\n",
    );
    shop.fault("jaicp.task=foreign-link:1");
    let blocked = shop.run(&["run-job", "messages", "--window", "2026-03-02..2026-03-02"]).await.expect(4);
    assert!(blocked.stderr.contains("allowed_hosts"), "{}", blocked.stderr);
    shop.run(&["run-job", "messages", "--window", "2026-03-03..2026-03-03", "--wait", "30s"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_not_handed_out_as_good() {
    let shop = shop().await;
    let held = shop.run(&["run-job", "engagement", "--format", "json"]).await.expect(0);
    let file = shop.archive().join(held.json()[0]["artifacts"][0]["path"].as_str().unwrap());
    std::fs::write(&file, "changed").unwrap();
    let out = shop.folder.path().join("out");
    let ran = shop.run(&["run-job", "engagement", "--out", out.to_str().unwrap()]).await.expect(1);
    assert!(ran.stderr.contains("damaged"), "{}", ran.stderr);
    std::fs::remove_file(&file).unwrap();
    shop.run(&["run-job", "engagement"]).await.expect(2);
}
