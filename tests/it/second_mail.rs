//! What must not make a second mail when two things happen at once, or when a window's history stands elsewhere.

use std::time::Duration;

use reportd::run::store::make::{NewRun, Opened, Second};
use reportd::run::{State, Trigger};
use reportd::sandbox::Credentials;

use crate::harness::Shop;
use crate::store::{new_run, run_of};
use crate::verbs::{BIK, LIVECHAT, text, until};

/// A BIK job that a schedule fires at 7 and 19, and whose failures are final at once.
fn twice_a_day() -> String {
    format!("zone: UTC\nschedule: \"0 7,19 * * *\"\nwindow: yesterday\ngive_up: 0\n{BIK}")
}

/// The program dies when its create was answered, and leaves a run with a ticket; its id.
async fn begun(shop: &Shop, job: &str, window: &str, more: &[&str], at: &str) -> String {
    let mut killed = shop.command(&[&["run-job", job, "--window", window], more].concat());
    killed.env("REPORTD_CRASH_AT", at);
    assert_eq!(crate::harness::run(killed).await.code, None, "killed at {at}");
    shop.advance(Duration::from_secs(61)).await;
    shop.one("SELECT id::text FROM runs ORDER BY created_at DESC LIMIT 1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_while_its_window_is_asked_for_goes_on_and_makes_room_for_no_other() {
    // `resolve --give-up`, a failure, a cancel: each commits while a schedule's instant, or `run-job`, waits for it.
    let new = |trigger| NewRun { trigger, second: Second::Mailed, ..new_run(3) };
    for (trigger, doubt) in
        [(Trigger::Manual, false), (Trigger::Schedule, false), (Trigger::Schedule, true), (Trigger::Fill, true)]
    {
        let shop = Shop::open().await;
        let store = shop.store();
        let run = run_of(store.open(&new(Trigger::Manual)).await.unwrap());
        let known = if doubt {
            "'unknown', NULL, NULL::jsonb, NULL::timestamptz"
        } else {
            "'created', '1', '{}'::jsonb, now()"
        };
        shop.sql(&format!(
            "INSERT INTO remote_tasks (attempt_id, run_id, connection, vendor, base_url, account, outcome, remote_id, ticket, created_at)
             SELECT gen_random_uuid(), id, connection, vendor, base_url, account, {known} FROM runs"
        ))
        .await;
        let mut ending = shop.pool.begin().await.unwrap();
        sqlx::query("UPDATE runs SET state = 'cancelled', finished_at = reportd_now() WHERE id = $1")
            .bind(run.id)
            .execute(&mut *ending)
            .await
            .unwrap();
        let series = crate::serving::make_due(&shop, "report").await;
        let asking = {
            let (store, new) = (store.on_own_connection(), new(trigger));
            tokio::spawn(async move {
                if trigger == Trigger::Schedule {
                    crate::serving::settle_one(&store, series, new).await;
                    None
                } else {
                    Some(store.open(&new).await.unwrap())
                }
            })
        };
        shop.until_count(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
            1,
        )
        .await;
        ending.commit().await.unwrap();
        let opened = asking.await.unwrap();
        let state = store.run(run.id).await.unwrap().unwrap().state;
        assert_eq!(shop.number("SELECT count(*) FROM runs").await, 1, "{trigger:?} {doubt}: {opened:?}");
        assert_eq!(state, if doubt { State::Cancelled } else { State::Waiting }, "{trigger:?} {doubt}: {opened:?}");
        match (trigger, opened) {
            (Trigger::Schedule, None) => {
                let outcome: String = shop.one("SELECT outcome FROM fires").await;
                assert_eq!(outcome, if doubt { "skipped" } else { "covered" });
                assert_eq!(shop.one::<uuid::Uuid>("SELECT run_id FROM fires").await, run.id);
            }
            (Trigger::Manual, Some(Opened::Attached(same))) => assert_eq!(same.id, run.id),
            (Trigger::Fill, Some(Opened::LeftAlone(found))) => assert_eq!(found.run_id, run.id),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_leaves_a_window_alone_that_came_into_doubt_after_it_had_looked() {
    let shop = Shop::open().await;
    let new = NewRun { trigger: Trigger::Fill, second: Second::Mailed, ..new_run(3) };
    let Opened::Made(run, None) = shop.store().open(&new).await.unwrap() else { panic!("nothing is in doubt yet") };
    shop.store().cancel(&run).await.unwrap();
    shop.sql(
        "INSERT INTO remote_tasks (attempt_id, run_id, connection, vendor, base_url, account)
         SELECT gen_random_uuid(), id, connection, vendor, base_url, account FROM runs",
    )
    .await;
    let opened = shop.store().open(&new).await.unwrap();
    assert!(matches!(&opened, Opened::LeftAlone(doubt) if doubt.run_id == run.id), "{opened:?}");
    let by_hand = NewRun { trigger: Trigger::Manual, ..new };
    let opened = shop.store().open(&by_hand).await.unwrap();
    assert!(matches!(&opened, Opened::Made(_, Some(doubt)) if doubt.run_id == run.id), "{opened:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_and_a_renamed_job_that_is_applied_before_the_rebuild_send_nothing_again() {
    let shop = Shop::open().await;
    shop.clock("2025-03-06T06:00:00Z").await;
    let yaml = format!("since: 2025-03-03\n{}", twice_a_day());
    shop.job("old", &yaml);
    for day in 3..=5 {
        shop.run_job("old", &format!("2025-03-0{day}..2025-03-0{day}"), &[]).await.expect(0);
    }
    let mails = shop.sandbox.mails().len();
    shop.without_job("old");
    shop.job("new", &format!("was: [old]\n{yaml}"));
    for table in ["artifacts", "revisions", "run_events", "remote_tasks", "runs", "series"] {
        shop.sql(&format!("DELETE FROM {table}")).await;
    }
    shop.run(&["apply"]).await.expect(0);
    shop.run(&["archive", "rebuild"]).await.expect(0);
    shop.clock("2025-03-06T07:00:01Z").await;
    let serving = shop.serve_with(&["--follow"], &[]).await;
    until("every instant is decided", || async {
        shop.ledger("new").await.last().is_some_and(|last| last.starts_with("2025-03-06T07:00"))
    })
    .await;
    serving.stop().await;
    assert_eq!(shop.ledger("new").await.last().map(String::as_str), Some("2025-03-06T07:00 covered"));
    assert_eq!((shop.sandbox.mails().len(), shop.number("SELECT count(*) FROM runs").await), (mails, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_sends_nothing_anew_while_another_run_of_the_window_may_bring_the_report() {
    let shop = Shop::open().await;
    shop.job("report", BIK);
    shop.without_waits().await;
    shop.fault("bik.generateReport=400:1");
    let window = "2025-03-03..2025-03-03";
    let refused = shop.run_job("report", window, &[]).await.expect(1).line();
    let made = begun(&shop, "report", window, &[], "ticket-committed").await;
    shop.run(&["cancel", &made]).await.expect(0);
    let retry = ["retry", text(&refused["run_id"])];
    shop.run(&retry).await.expect(2).says(&format!("reportd retry {} goes on with that", &made[..8]));
    shop.run(&["retry", &made]).await.expect(0);
    assert_eq!(shop.run_job("report", window, &[]).await.expect(0).line()["run_id"], made.as_str());
    assert_eq!(shop.sandbox.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_skips_only_what_would_serve_it_and_late_after_tells_of_what_it_skipped() {
    let shop = Shop::open().await;
    shop.clock("2025-03-04T06:00:00Z").await;
    shop.without_waits().await;
    let job = format!("late_after: 1h\n{}", twice_a_day());
    // Lost by hand: what quiet_emails would have had, and with another question, is no report for the shop's readers.
    shop.job("other", &job.replace("reportName: ", "reportName: Another "));
    shop.job("same", &job);
    for (name, more) in [("other", &[][..]), ("same", &["--mail"])] {
        shop.fault("bik.generateReport=lost:1");
        let lost = shop.run_job(name, "2025-03-03..2025-03-03", more).await.expect(3).line();
        shop.run(&["cancel", text(&lost["run_id"])]).await.expect(0);
    }
    shop.job("other", &job);
    let serving = shop.serve().await;
    shop.clock("2025-03-04T07:00:01Z").await;
    until("both are decided", || async { shop.number("SELECT count(*) FROM fires").await == 2 }).await;
    shop.until_count("SELECT count(*) FROM runs WHERE state IN ('archived', 'empty')", 1).await;
    serving.stop().await;
    assert_eq!(shop.ledger("other").await, ["2025-03-04T07:00 fired"]);
    assert_eq!(shop.ledger("same").await, ["2025-03-04T07:00 skipped"]);
    let why = shop.run(&["why", "same", "--at", "2025-03-04T07:00:00Z"]).await.expect(0).stdout;
    assert!(why.contains("no run was made: an earlier run may have been made and mailed"), "{why}");
    shop.clock("2025-03-04T08:30:00Z").await;
    let told = shop.run(&["status", "--format", "json"]).await.expect(1).json();
    let late: Vec<&serde_json::Value> = told.iter().filter(|item| item["cause"] == "late").collect();
    let [late] = late.as_slice() else { panic!("{told:?}") };
    let run = &text(&late["run_id"])[..8];
    assert_eq!((text(&late["job"]), text(&late["action"])), ("same", &*format!("reportd retry {run}")));
    assert!(shop.run(&["retry", run]).await.expect(0).stdout.contains("is held"));
    // When the doubt is over, `status` names no command for it that would send the report again.
    shop.run(&["resolve", run, "--not-created"]).await.expect(0);
    shop.run(&["cancel", run]).await.expect(0);
    let told = shop.run(&["status", "--format", "json"]).await.expect(1).json();
    let late = told.iter().find(|item| item["cause"] == "late").unwrap();
    assert_eq!(text(&late["action"]), "reportd fill same@north");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provisional_report_stands_for_no_final_one_that_is_in_doubt() {
    let shop = Shop::open().await;
    let store = shop.store();
    let new = NewRun { trigger: Trigger::Schedule, second: Second::Mailed, ..new_run(3) };
    let run = run_of(store.open(&new).await.unwrap());
    store.cancel(&run).await.unwrap();
    shop.sql(
        "INSERT INTO remote_tasks (attempt_id, run_id, connection, vendor, base_url, account)
         SELECT gen_random_uuid(), id, connection, vendor, base_url, account FROM runs",
    )
    .await;
    let (mut row, files) = crate::store::revision(&run, 1);
    (row.provisional, row.run_id) = (true, uuid::Uuid::new_v4());
    store.adopt(&row, &files).await.unwrap();
    let series = crate::serving::make_due(&shop, "report").await;
    crate::serving::settle_one(&store, series, new.clone()).await;
    assert_eq!(shop.one::<String>("SELECT outcome FROM fires").await, "skipped");
    // A provisional one in doubt does not keep the final one from being asked for.
    shop.sql("UPDATE runs SET provisional = true").await;
    let fire_at = new.fire_at + chrono::TimeDelta::hours(1);
    crate::serving::settle_one(&store, series, NewRun { fire_at, ..new }).await;
    assert_eq!(shop.one::<String>("SELECT outcome FROM fires ORDER BY fire_at DESC LIMIT 1").await, "fired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_of_all_leaves_a_job_without_schedule_alone_and_a_run_that_was_cancelled_meanwhile_fails() {
    let shop = Shop::open().await;
    shop.job("by-hand", &format!("window: yesterday\nzone: UTC\n{BIK}"));
    shop.without_waits().await;
    shop.fault("bik.generateReport=lost:1");
    let lost = shop.run_job("by-hand", "2025-03-03..2025-03-03", &[]).await.expect(3).line();
    shop.run(&["fill", "by-hand"]).await.expect(3);
    shop.run(&["fill", "--all"]).await.expect(0);
    shop.run(&["cancel", text(&lost["run_id"])]).await.expect(0);
    // A run that `fill` was to carry on, and that a person stops before its turn.
    shop.job(
        "report",
        &format!("since: 2025-03-03\nzone: UTC\nschedule: \"0 7 * * *\"\nwindow: yesterday\n{LIVECHAT}"),
    );
    let queued = shop.run_job("report", "2025-03-03..2025-03-03", &["--no-wait"]).await.expect(4).line();
    shop.fault("livechat.report=slow");
    let span = ["fill", "report", "--from", "2025-03-03", "--to", "2025-03-03", "--format", "json"];
    let filling = shop.start(&span);
    filling.until_says("carried on").await;
    shop.run(&["cancel", text(&queued["run_id"])]).await.expect(0);
    let ended = filling.end().await.expect(1);
    assert_eq!((text(&ended.line()["run_id"]), text(&ended.line()["state"])), (text(&queued["run_id"]), "cancelled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_under_the_key_that_the_run_had_first_is_not_asked_for_as_another() {
    let shop = Shop::open().await;
    shop.job("report", BIK);
    let id = begun(&shop, "report", "2025-03-03..2025-03-03", &[], "ticket-committed").await;
    shop.run(&["cancel", &id]).await.expect(0);
    let key = |key: &str| {
        std::fs::write(shop.folder.path().join("key"), key).unwrap();
        shop.accounts(&[("bik", "key", "file:key")]);
        shop.sandbox.set_credentials(Credentials { bik_key: key.into(), ..Credentials::default() });
    };
    for (now, words) in [("fresh", "asked for as the account"), ("sandbox-key", "asked for as the account")] {
        key(now);
        let told = shop.run(&["retry", &id]).await.expect(0).stdout;
        assert!(told.contains(words), "{told}");
        shop.run(&["cancel", &id]).await.expect(0);
    }
    let told = shop.run(&["retry", &id]).await.expect(0).stdout;
    assert!(!told.contains("asked for as"), "{told}");
    shop.run_job("report", "2025-03-03..2025-03-03", &[]).await.expect(0);
    assert_eq!(shop.sandbox.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_run_is_not_sent_when_its_window_is_held_by_then_unless_it_was_asked_for_again() {
    let shop = Shop::open().await;
    shop.clock("2025-03-04T06:00:00Z").await;
    let yaml = format!("since: 2025-03-03\n{}", twice_a_day());
    shop.job("report", &yaml);
    let window = "2025-03-03..2025-03-03";
    shop.run_job("report", window, &[]).await.expect(0);
    shop.run(&["apply"]).await.expect(0);
    // A rename, and later the former name without `was`: what its folder holds is the other's, and who is asked says so.
    shop.without_job("report");
    shop.job("renamed", &format!("was: [report]\n{yaml}"));
    shop.run(&["apply"]).await.expect(0);
    shop.without_job("renamed");
    shop.run(&["apply", "--empty"]).await.expect(0);
    // As a database does that was rebuilt: it knows no former names.
    shop.sql("DELETE FROM former_names").await;
    shop.job("report", &yaml);
    shop.run_job("report", window, &[]).await.expect(2).says("is the history of renamed by now: say `was: [renamed]`");
    let serving = shop.serve().await;
    shop.clock("2025-03-04T07:00:01Z").await;
    shop.until_count("SELECT count(*) FROM runs WHERE blocked", 1).await;
    let told = shop.run(&["status"]).await.expect(1).stdout;
    assert!(told.contains("say `was: [renamed]`"), "{told}");
    // Which makes the run needless: its worker sees that.
    shop.job("report", &format!("was: [renamed]\n{yaml}"));
    shop.until_count("SELECT count(*) FROM revisions JOIN series s ON s.id = series_id WHERE s.job = 'report'", 1)
        .await;
    shop.until_count("SELECT count(*) FROM runs WHERE finished_at IS NULL", 0).await;
    serving.stop().await;
    assert_eq!(shop.one::<String>("SELECT state FROM runs ORDER BY created_at DESC LIMIT 1").await, "cancelled");
    assert_eq!((shop.sandbox.mails().len(), shop.holds("report").await), (1, vec!["2025-03-03 r1".to_owned()]));

    // The same for a run that an operator starts again: only what was asked for again is made again.
    let id: String = shop.one("SELECT id::text FROM runs ORDER BY created_at DESC LIMIT 1").await;
    shop.run(&["retry", &id]).await.expect(2).says("run-job --again makes another report");
    let again = shop.run_job("report", window, &["--again", "--no-wait"]).await.expect(4).line();
    shop.run(&["cancel", text(&again["run_id"])]).await.expect(0);
    shop.run(&["retry", text(&again["run_id"])]).await.expect(0);
    let made = shop.run_job("report", window, &["--again"]).await.expect(0).line();
    assert_eq!((&made["run_id"], &made["revision"], shop.sandbox.mails().len()), (&again["run_id"], &2.into(), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_that_two_names_count_alike_stand_in_nobodys_way() {
    let shop = Shop::open().await;
    let yaml = format!("window: yesterday\nzone: UTC\nschedule: \"0 7 * * *\"\n{LIVECHAT}");
    shop.job("old", &yaml);
    let window = "2025-03-03..2025-03-03";
    shop.run_job("old", window, &[]).await.expect(0);
    shop.without_job("old");
    // Renamed without `was`: the window is fetched again. While that is under way the file is corrected.
    shop.job("new", &yaml);
    let killed = begun(&shop, "new", window, &[], "manifest-put").await;
    shop.job("new", &format!("was: [old]\n{yaml}"));
    shop.run(&["apply"]).await.expect(0);
    shop.advance(Duration::from_secs(120)).await;
    shop.run_job("new", window, &["--again"]).await.expect(0);
    assert_eq!(shop.store().by_prefix(&killed).await.unwrap().state, State::Archived);
    shop.run(&["apply"]).await.expect(0);
    // A copy of the database that lost the one of two that count alike has it again.
    for table in ["artifacts", "revisions"] {
        shop.sql(&format!(
            "DELETE FROM {table} WHERE (series_id, window_label, revision) IN (
                 SELECT r.series_id, r.window_label, r.revision FROM revisions r WHERE r.run_id = '{killed}')"
        ))
        .await;
    }
    shop.sql("UPDATE revisions SET series_id = (SELECT id FROM series WHERE job = 'new')").await;
    shop.run(&["coverage"]).await.expect(2).says("archive rebuild");
    shop.run(&["archive", "rebuild"]).await.expect(0);
    shop.run(&["coverage"]).await.expect(0);
    assert_eq!(shop.number("SELECT count(*) FROM revisions").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_name_that_takes_no_history_along_is_told() {
    let shop = Shop::open().await;
    let yaml = twice_a_day();
    shop.job("old", &yaml);
    shop.run(&["apply"]).await.expect(0);
    shop.without_job("old");
    shop.job("new", &yaml);
    shop.run(&["apply"]).await.expect(0).says("takes along with `was: [old]` only");
    let config = std::fs::read_to_string(shop.folder.path().join("reportd.yaml")).unwrap();
    assert!(config.contains("north:"), "{config}");
    std::fs::write(shop.folder.path().join("reportd.yaml"), config.replace("north:", "south:")).unwrap();
    shop.run(&["apply"]).await.expect(0).says("new@south begins and new@north ends");
    // What else was edited does not matter; another report is another job.
    shop.without_job("new");
    shop.job("newer", &format!("late_after: 1h\n{yaml}"));
    shop.run(&["apply"]).await.expect(0).says("newer asks for what new asked for");
    shop.without_job("newer");
    shop.job("other", &yaml.replace("Agent Engagement", "Agent Ratings"));
    let told = shop.run(&["apply"]).await.expect(0);
    assert!(!told.stderr.contains("history"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_another_account_needs_somebody_in_the_calendar_and_for_fill_too() {
    let shop = Shop::open().await;
    shop.job("report", &format!("since: 2025-03-03\n{}", twice_a_day()));
    let id = begun(&shop, "report", "2025-03-03..2025-03-03", &[], "ticket-committed").await;
    let span = ["--from", "2025-03-03", "--to", "2025-03-03"];
    let state = async || -> String {
        let cells = shop.run(&[&["coverage", "report", "--format", "json"], &span[..]].concat()).await.expect(0).json();
        text(&cells[0]["state"]).to_owned()
    };
    assert_eq!(state().await, "in_flight");
    std::fs::write(shop.folder.path().join("key"), "fresh").unwrap();
    shop.accounts(&[("bik", "key", "file:key")]);
    assert_eq!(state().await, "needs_you");
    let filled = shop.run(&[&["fill", "report"], &span[..]].concat()).await.expect(3);
    filled.says(&format!("a run waits for a person: `reportd show {}`", &id[..8]));
    // An operator's word is taken, and who gives it hears that nobody acts on it.
    shop.sql("UPDATE runs SET state = 'held', failure_class = 'unknown_create', failure = '', lease_token = NULL")
        .await;
    let resolved = shop.run(&["resolve", &id, "--not-created"]).await.expect(0);
    resolved
        .says("this reportd would not work on it: the run was made for another account than connection north has now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_and_the_end_of_a_run_do_not_wait_for_each_other() {
    let shop = Shop::open().await;
    let run = crate::store::claimed(&shop.store(), 3).await;
    crate::store::submitting(&shop.store(), &run.lease).await;
    // What a rename does: first the series, then their runs.
    let mut renaming = shop.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM series FOR UPDATE").execute(&mut *renaming).await.unwrap();
    let ending = {
        let store = shop.store().on_own_connection();
        let (row, files) = crate::store::revision(&run.run, 1);
        tokio::spawn(async move { store.archived(Some(&run.lease), run.run.id, &row, &files).await })
    };
    shop.until_count(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        1,
    )
    .await;
    sqlx::query("UPDATE runs SET series_id = series_id").execute(&mut *renaming).await.unwrap();
    renaming.commit().await.unwrap();
    assert_eq!(ending.await.unwrap().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_that_is_taken_back_takes_the_history_back_and_what_came_to_it_since() {
    let shop = Shop::open().await;
    shop.clock("2025-03-06T06:00:00Z").await;
    let yaml = format!("since: 2025-03-03\n{}", twice_a_day());
    shop.job("eng", &yaml);
    shop.run(&["apply"]).await.expect(0);
    shop.run_job("eng", "2025-03-03..2025-03-03", &[]).await.expect(0);
    shop.without_job("eng");
    shop.job("engagement", &format!("was: [eng]\n{yaml}"));
    shop.run(&["apply"]).await.expect(0);
    // One window more is held under the new name, and one is on its way.
    shop.run_job("engagement", "2025-03-04..2025-03-04", &[]).await.expect(0);
    begun(&shop, "engagement", "2025-03-05..2025-03-05", &["--mail"], "ticket-committed").await;
    shop.without_job("engagement");
    shop.job("eng", &yaml);
    shop.clock("2025-03-06T07:00:01Z").await;
    let serving = shop.serve().await;
    serving.until_says("eng was renamed to engagement and is back").await;
    shop.until_count("SELECT count(*) FROM fires WHERE fire_at = '2025-03-06T07:00:00Z'", 1).await;
    shop.until_count("SELECT count(*) FROM runs WHERE finished_at IS NULL", 0).await;
    serving.stop().await;
    assert_eq!(shop.holds("eng").await, ["2025-03-03 r1", "2025-03-04 r1", "2025-03-05 r1"]);
    assert_eq!(shop.sandbox.mails().len(), 3);
    // And forward again.
    shop.without_job("eng");
    shop.job("engagement", &format!("was: [eng]\n{yaml}"));
    shop.run(&["apply"]).await.expect(0);
    assert_eq!(shop.holds("engagement").await.len(), 3);
    shop.run(&["archive", "verify"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_weighed_by_what_it_would_send_today() {
    let shop = Shop::open().await;
    shop.without_waits().await;
    let window = "2025-03-03..2025-03-03";
    // A has a ticket; B asked for something mistyped; what B would ask for today is A's.
    shop.job("report", BIK);
    let first = begun(&shop, "report", window, &[], "ticket-committed").await;
    shop.run(&["cancel", &first]).await.expect(0);
    shop.job("report", &BIK.replace("Agent Engagement", "Agent Engagment"));
    shop.fault("bik.generateReport=400:1");
    let mistyped = shop.run_job("report", window, &[]).await.expect(1).line();
    shop.job("report", BIK);
    let refused = shop.run(&["retry", text(&mistyped["run_id"])]).await.expect(2);
    refused.says(&format!("reportd retry {} goes on with that; run-job --again makes another", &first[..8]));
    assert_eq!(shop.store().by_prefix(text(&mistyped["run_id"])).await.unwrap().state, State::Failed);
    assert_eq!(shop.sandbox.mails().len(), 1);
    // A create in doubt is held when a person asks for it, also when it was made by a job that bears a second one.
    shop.job("borne", &format!("on_unknown: resubmit\n{BIK}"));
    let lost = begun(&shop, "borne", window, &[], "call-answered").await;
    shop.run(&["cancel", &lost]).await.expect(0);
    shop.job("borne", BIK);
    assert!(shop.run(&["retry", &lost]).await.expect(0).stdout.contains("is held"));
    assert_eq!(shop.sandbox.mails().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_whose_numbers_are_not_the_databases_keeps_its_chain() {
    let shop = Shop::open().await;
    let yaml = format!("window: yesterday\nzone: UTC\n{LIVECHAT}");
    let window = "2025-03-03..2025-03-03";
    shop.job("old", &yaml);
    shop.run_job("old", window, &[]).await.expect(0);
    shop.without_job("old");
    shop.job("new", &yaml);
    shop.run_job("new", window, &[]).await.expect(0);
    // Of two that count alike the second is read into a database that has the first as its own.
    for table in ["artifacts", "revisions"] {
        shop.sql(&format!("DELETE FROM {table} WHERE series_id = (SELECT id FROM series WHERE job = 'new')")).await;
    }
    shop.job("new", &format!("was: [old]\n{yaml}"));
    shop.sql("UPDATE revisions SET series_id = (SELECT id FROM series WHERE job = 'new')").await;
    shop.run(&["archive", "rebuild"]).await.expect(0);
    assert_eq!(shop.holds("new").await, ["2025-03-03 r1", "2025-03-03 r2"]);
    shop.run_job("new", window, &["--again"]).await.expect(0);
    let folder = shop.archive().join("new/north/2025/2025-03-03");
    let newest = crate::verbs::json_file(&folder.join("r3/manifest.json"));
    assert_eq!(newest["supersedes"], 1, "{newest}");
    shop.run(&["archive", "verify"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_ends_the_run_whose_manifest_it_reads_into_a_former_name() {
    let shop = Shop::open().await;
    let yaml = format!("window: yesterday\nzone: UTC\nschedule: \"0 7 * * *\"\n{BIK}");
    shop.job("old", &yaml);
    shop.run(&["apply"]).await.expect(0);
    let killed = begun(&shop, "old", "2025-03-03..2025-03-03", &[], "manifest-put").await;
    shop.without_job("old");
    shop.job("new", &format!("was: [old]\n{yaml}"));
    shop.run(&["apply"]).await.expect(0);
    shop.run(&["archive", "rebuild"]).await.expect(0);
    assert_eq!(shop.store().by_prefix(&killed).await.unwrap().state, State::Archived);
    shop.run(&["apply"]).await.expect(0);
    assert_eq!((shop.holds("new").await, shop.sandbox.mails().len()), (vec!["2025-03-03 r1".to_owned()], 1));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for the look at secrets, which comes each minute"]
async fn a_changed_key_is_read_when_runs_are_due_that_were_made_with_it() {
    let shop = Shop::open().await;
    shop.job("report", BIK);
    let id = begun(&shop, "report", "2025-03-03..2025-03-03", &[], "ticket-committed").await;
    let key = |key: &str| std::fs::write(shop.folder.path().join("key"), key).unwrap();
    key("sandbox-key");
    shop.accounts(&[("bik", "key", "file:key")]);
    shop.sql("UPDATE runs SET next_step_at = reportd_now() + interval '1 h'").await;
    let store = shop.store();
    let serving = shop.serve().await;
    serving.until_http("/readyz", 200).await;
    // The former key goes on being accepted, so no answer says that there is another.
    key("fresh");
    shop.sandbox.set_credentials(Credentials { bik_key: "fresh".into(), ..Credentials::default() });
    shop.run(&["cancel", &id]).await.expect(0);
    shop.run(&["retry", &id]).await.expect(0);
    let changed = std::time::Instant::now();
    while store.by_prefix(&id).await.unwrap().state != State::Archived {
        assert!(changed.elapsed() < Duration::from_secs(100), "the run still waits");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    serving.until_says("a secret was changed: runs are due that were made with the new one").await;
    serving.stop().await;
    assert_eq!(shop.sandbox.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_goes_back_to_the_file_that_it_was_and_to_no_other_of_that_name() {
    let shop = Shop::open().await;
    let yaml = format!("window: yesterday\nzone: UTC\nschedule: \"0 7 * * *\"\n{LIVECHAT}");
    let other = yaml.replace("chats/ratings", "chats/tags");
    let window = "2025-03-03..2025-03-03";
    shop.job("b", &yaml);
    shop.run(&["apply"]).await.expect(0);
    shop.run_job("b", window, &[]).await.expect(0);
    shop.without_job("b");
    shop.job("c", &format!("was: [b]\n{yaml}"));
    shop.run(&["apply"]).await.expect(0);
    // `c` becomes `d`, and at once there is a `b`, which even asks the same: what a file claims is that file's.
    shop.without_job("c");
    shop.job("d", &format!("was: [c]\n{yaml}"));
    shop.job("b", &yaml);
    let told = shop.run(&["apply"]).await.expect(0);
    assert!(!told.stderr.contains("is back"), "{told:?}");
    assert_eq!((shop.holds("d").await.len(), shop.holds("b").await.len()), (1, 0));
    // `d` is gone, and a `c` comes that asks for something else: another job, which begins without history.
    shop.without_job("d");
    shop.job("c", &other);
    let told = shop.run(&["apply"]).await.expect(0);
    assert!(!told.stderr.contains("is back"), "{told:?}");
    assert_eq!((shop.holds("d").await.len(), shop.holds("c").await.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_of_two_names_that_is_taken_back_gives_its_history_to_neither_by_chance() {
    let shop = Shop::open().await;
    let yaml = format!("window: yesterday\nzone: UTC\nschedule: \"0 7 * * *\"\n{LIVECHAT}");
    shop.job("both", &format!("was: [a, b]\n{yaml}"));
    shop.run(&["apply"]).await.expect(0);
    shop.run_job("both", "2025-03-03..2025-03-03", &[]).await.expect(0);
    shop.without_job("both");
    shop.job("a", &yaml);
    shop.job("b", &yaml);
    let told = shop.run(&["apply"]).await.expect(0);
    assert!(!told.stderr.contains("is back"), "{told:?}");
    told.says("a begins anew, though both has the history").says("b begins anew, though both has the history");
    assert_eq!(shop.holds("both").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_a_run_whose_rename_was_taken_back_is_read_into_the_name_that_it_has() {
    let shop = Shop::open().await;
    let yaml = format!("window: yesterday\nzone: UTC\nschedule: \"0 7 * * *\"\n{BIK}");
    shop.job("eng", &yaml);
    shop.run(&["apply"]).await.expect(0);
    shop.without_job("eng");
    shop.job("engagement", &format!("was: [eng]\n{yaml}"));
    shop.run(&["apply"]).await.expect(0);
    begun(&shop, "engagement", "2025-03-03..2025-03-03", &[], "manifest-put").await;
    shop.without_job("engagement");
    shop.job("eng", &yaml);
    shop.run(&["apply"]).await.expect(0).says("eng was renamed to engagement and is back");
    shop.run(&["archive", "rebuild"]).await.expect(0);
    assert_eq!(shop.holds("eng").await, ["2025-03-03 r1"]);
    shop.run_job("eng", "2025-03-03..2025-03-03", &[]).await.expect(0);
    assert_eq!(shop.sandbox.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_retry_one_run_the_second_sends_nothing_when_the_first_has_sent() {
    let shop = Shop::open().await;
    shop.job("report", BIK);
    shop.fault("bik.generateReport=400:1");
    let refused = shop.run_job("report", "2025-03-03..2025-03-03", &[]).await.expect(1).line();
    let store = shop.store();
    let run = store.by_prefix(text(&refused["run_id"])).await.unwrap();
    // Both have seen that no create of it can lead to anything; then the first's is sent, and cancelled.
    shop.sql(
        "INSERT INTO remote_tasks (attempt_id, run_id, connection, vendor, base_url, account)
         SELECT gen_random_uuid(), id, connection, vendor, base_url, account FROM runs",
    )
    .await;
    let base_url: String = shop.one("SELECT base_url FROM runs").await;
    let second = store.retry_fresh(&run, &run.request, &base_url, "a", None).await.unwrap_err().to_string();
    assert!(second.contains("was sent meanwhile"), "{second}");
    assert_eq!(store.run(run.id).await.unwrap().unwrap().state, State::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_knows_a_queued_run_that_was_asked_for_again_from_one_whose_window_came_to_be_held() {
    let shop = Shop::open().await;
    let store = shop.store();
    let (again, overtaken) = (new_run(3), new_run(4));
    for (new, held_s) in [(&again, -60), (&overtaken, 60)] {
        let run = run_of(store.open(new).await.unwrap());
        let (mut row, files) = crate::store::revision(&run, 1);
        row.run_id = uuid::Uuid::new_v4();
        row.archived_at = run.created_at + chrono::TimeDelta::seconds(held_s);
        shop.sql("UPDATE runs SET state = 'submitting', attempt_id = gen_random_uuid()").await;
        store.adopt(&row, &files).await.unwrap();
        shop.sql("UPDATE runs SET state = 'queued', attempt_id = NULL").await;
    }
    let migration = std::fs::read_to_string(crate::harness::repository("migrations/0017_asked_again.sql")).unwrap();
    let update = migration.split(';').find(|statement| statement.contains("UPDATE runs SET again")).unwrap();
    shop.sql(update).await;
    let marked: Vec<String> =
        sqlx::query_scalar("SELECT window_label FROM runs WHERE again").fetch_all(&shop.pool).await.unwrap();
    assert_eq!(marked, [again.window_label]);
}

/// A BIK job for a person's hands, which a schedule names too.
fn by_hand(more: &str) -> String {
    format!("window: yesterday\nzone: UTC\nschedule: \"0 7 * * *\"\n{more}{BIK}")
}

const MARCH: &str = "2025-03-03..2025-03-03";

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_that_changed_more_than_the_name_is_taken_back_too() {
    let shop = Shop::open().await;
    shop.job("eng", &by_hand("description: old\n"));
    shop.run(&["apply"]).await.expect(0);
    shop.without_job("eng");
    let renamed = by_hand("was: [eng]\ndescription: new\ngive_up: 2h\n").replace("{var.owner}", "boss@north.example");
    shop.job("engagement", &renamed);
    shop.run(&["apply"]).await.expect(0);
    shop.run_job("engagement", MARCH, &["--mail"]).await.expect(0);
    shop.without_job("engagement");
    shop.job("eng", &by_hand("description: old\n"));
    shop.run(&["apply"]).await.expect(0).says("eng was renamed to engagement and is back");
    shop.run_job("eng", MARCH, &["--mail"]).await.expect(0);
    assert_eq!(shop.sandbox.mails().len(), 1);
    // And one that comes back with another report is told of.
    shop.without_job("eng");
    shop.job("engagement", &renamed);
    shop.run(&["apply"]).await.expect(0);
    shop.without_job("engagement");
    shop.job("eng", &by_hand("").replace("Agent Engagement", "Agent Ratings"));
    let told = shop.run(&["apply"]).await.expect(0);
    told.says("eng begins anew, though engagement has the history").says("`was: [engagement]`");
    assert_eq!((shop.holds("engagement").await.len(), shop.holds("eng").await.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_is_taken_back_beside_files_with_errors_and_waits_where_they_may_say_otherwise() {
    const BACK: &str = "eng was renamed to engagement and is back";
    const STAYS: &str = "engagement is gone and stays in force, and eng waits";
    // What else stands in the folder, what the file that comes back says at first, and whether that must wait.
    let cases = [
        ("other", "descripton: a\n", true, false),
        ("other", "window: [\n", true, false),
        ("other", "was: [engagement]\ndescripton: a\n", true, true),
        ("new", "window: [\n", true, true),
        ("eng", "descripton: a\n", false, true),
    ];
    for (broken, error, is_other, waits) in cases {
        let shop = Shop::open().await;
        shop.clock("2025-03-05T06:00:00Z").await;
        let yaml = by_hand("since: 2025-03-03\n");
        let other = yaml.replace("Agent Engagement", "Agent Ratings");
        shop.job("engagement", &format!("was: [eng]\n{yaml}"));
        shop.job("other", &other);
        shop.run(&["apply"]).await.expect(0);
        shop.run_job("engagement", MARCH, &[]).await.expect(0);
        shop.without_job("engagement");
        shop.job("eng", &yaml);
        shop.job(broken, &format!("{error}{}", if is_other { &other } else { &yaml }));
        let serving = shop.serve().await;
        serving.until_says(if waits { STAYS } else { BACK }).await;
        if waits {
            assert_eq!(shop.holds("engagement").await, ["2025-03-03 r1"], "{error}");
            let fires = "SELECT count(*) FROM job_files WHERE job IN ('eng', 'engagement')";
            assert_eq!(shop.one::<i64>(fires).await, 1, "{error}");
            shop.job(broken, if is_other { &other } else { &yaml });
            serving.until_says(BACK).await;
        }
        shop.until_count("SELECT count(*) FROM job_files WHERE job = 'engagement'", 0).await;
        assert_eq!(shop.holds("eng").await, ["2025-03-03 r1"], "{error}");
        shop.clock("2025-03-05T07:00:01Z").await;
        shop.until_count(
            "SELECT count(*) FROM fires JOIN series s ON s.id = series_id WHERE fire_at = '2025-03-05T07:00:00Z' AND s.job = 'eng'",
            1,
        )
        .await;
        shop.until_count("SELECT count(*) FROM runs WHERE finished_at IS NULL", 0).await;
        serving.stop().await;
        let asked: Vec<String> =
            sqlx::query_scalar("SELECT window_label FROM runs WHERE job LIKE 'eng%' ORDER BY window_start")
                .fetch_all(&shop.pool)
                .await
                .unwrap();
        assert_eq!(asked, ["2025-03-03", "2025-03-04"], "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_moves_while_a_run_waits_for_its_turn_is_seen_before_it_is_sent() {
    let shop = Shop::open().await;
    shop.job("old", &by_hand(""));
    shop.run(&["apply"]).await.expect(0);
    shop.run_job("old", MARCH, &[]).await.expect(0);
    shop.without_job("old");
    shop.job("new", &by_hand(""));
    shop.run(&["apply"]).await.expect(0);
    // It has looked, and stands before the account's gate.
    let mut gate = shop.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM connections WHERE vendor = 'bik' FOR UPDATE").execute(&mut *gate).await.unwrap();
    let running = tokio::spawn(crate::harness::run(shop.command(&["run-job", "new", "--window", MARCH])));
    shop.until_count(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
             AND query LIKE '%connections%'",
        1,
    )
    .await;
    shop.job("new", &format!("was: [old]\n{}", by_hand("")));
    shop.run(&["apply"]).await.expect(0);
    gate.rollback().await.unwrap();
    let ended = running.await.unwrap();
    assert_eq!(shop.sandbox.mails().len(), 1, "{ended:?}");
    assert_eq!(shop.number("SELECT count(*) FROM runs WHERE state = 'cancelled'").await, 1, "{ended:?}");
    assert_eq!(shop.holds("new").await, ["2025-03-03 r1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_database_does_not_tell_again_of_what_its_archive_has() {
    let shop = Shop::open().await;
    shop.job("eng", &by_hand("deliver:\n  - on: [manual]\n    file: { url: \"landing/{job}.csv\" }\n"));
    let id = begun(&shop, "eng", MARCH, &[], "ready-noted").await;
    let held = shop.run_job("eng", MARCH, &[]).await.expect(0).line();
    assert_eq!(text(&held["run_id"]), id);
    assert_eq!(shop.number("SELECT count(*) FROM deliveries WHERE state = 'sent'").await, 1);
    // The copy that was made between the two.
    shop.sql(
        "DELETE FROM delivery_runs; DELETE FROM deliveries; DELETE FROM artifacts; DELETE FROM revisions;
         UPDATE runs SET state = 'waiting', noticed = NULL, finished_at = NULL, next_step_at = reportd_now();
         UPDATE remote_tasks SET finished_at = NULL",
    )
    .await;
    assert_eq!(shop.number("SELECT count(*) FROM runs WHERE revision = 1").await, 1);
    let rebuilt = shop.run(&["archive", "rebuild", "--format", "json"]).await.expect(0).line();
    assert_eq!((&rebuilt["adopted"], &rebuilt["ended"]), (&1.into(), &1.into()));
    assert_eq!(shop.run_job("eng", MARCH, &[]).await.expect(0).line(), held);
    let serving = shop.serve().await;
    serving.until_http("/readyz", 200).await;
    serving.stop().await;
    assert_eq!(shop.number("SELECT count(*) FROM deliveries").await, 0);
    assert_eq!(shop.sandbox.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_report_is_wanted_after_one_that_was_asked_for_too_early() {
    let shop = Shop::open().await;
    shop.clock("2025-03-04T06:50:00Z").await;
    // Final at eight; late at ten.
    shop.job("report", &by_hand("since: 2025-03-03\ndelay: 8h\nlate_after: 3h\non_unknown: hold\n"));
    shop.run(&["apply"]).await.expect(0);
    let early = begun(&shop, "report", MARCH, &[], "intent-committed").await;
    // What a process says whose own clock is the test's.
    shop.sql("UPDATE runs SET provisional = true").await;
    let serving = shop.serve().await;
    shop.advance(crate::verbs::LEASES).await;
    shop.until_count("SELECT count(*) FROM runs WHERE state = 'held'", 1).await;
    shop.clock("2025-03-04T07:00:01Z").await;
    shop.until_count(
        "SELECT count(*) FROM fires WHERE outcome = 'covered' AND reason LIKE '%before its report is final%'",
        1,
    )
    .await;
    std::fs::write(shop.folder.path().join("early.csv"), "Agent,Chats\nAsha,1\n").unwrap();
    shop.run(&["resolve", &early, "--file", "early.csv"]).await.expect(0);
    let coverage = ["coverage", "report", "--to", "2025-03-03", "--format", "json"];
    assert_eq!(shop.run(&coverage).await.expect(0).line()["state"], "provisional");
    shop.run(&["status"]).await.expect(0);
    shop.clock("2025-03-04T10:30:00Z").await;
    let gap = shop.run(&[&coverage[..], &["--check"]].concat()).await.expect(1).line();
    assert_eq!((&gap["state"], &gap["revision"]), (&"missing".into(), &serde_json::Value::Null));
    let status = shop.run(&["status"]).await.expect(1).stdout;
    assert!(status.contains("reportd fill report"), "{status}");
    shop.run(&["fill", "report", "--to", "2025-03-03"]).await.expect(0);
    let held = shop.run(&coverage).await.expect(0).line();
    assert_eq!((&held["state"], &held["revision"]), (&"held".into(), &2.into()));
    let status = shop.run(&["status"]).await.stdout;
    assert!(!status.contains("reportd fill report"), "{status}");
    serving.stop().await;
}

/// Jobs with their texts.
type Folder = Vec<(&'static str, String)>;

/// Puts these jobs into the folder, and no others.
fn only(shop: &Shop, jobs: &[(&str, &str)]) {
    for file in std::fs::read_dir(shop.folder.path().join("jobs")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    for (name, yaml) in jobs {
        shop.job(name, yaml);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_found_under_every_name_that_it_had() {
    let plain = by_hand("");
    let was = |name: &str| by_hand(&format!("was: [{name}]\n"));
    // Each step is one change that is applied; the last one asks for the window again.
    let ways: [(&str, Vec<Folder>); 5] = [
        (
            "two renames are taken back at once",
            vec![vec![("b", was("a"))], vec![("c", was("b"))], vec![("a", plain.clone())]],
        ),
        (
            "one by one",
            vec![vec![("b", was("a"))], vec![("c", was("b"))], vec![("b", was("a"))], vec![("a", plain.clone())]],
        ),
        (
            "with a change between that has neither",
            vec![vec![("b", was("a"))], vec![("x", LIVECHAT.to_owned())], vec![("a", plain.clone())]],
        ),
        ("renamed from its first name, not its present one", vec![vec![("b", was("a"))], vec![("c", was("a"))]]),
        (
            "the same after it was gone for a while",
            vec![vec![("b", was("a"))], vec![("x", LIVECHAT.to_owned())], vec![("c", was("a"))]],
        ),
    ];
    for (way, steps) in ways {
        let shop = Shop::open().await;
        only(&shop, &[("a", &plain)]);
        shop.run(&["apply"]).await.expect(0);
        shop.run_job("a", MARCH, &["--mail"]).await.expect(0);
        for step in &steps {
            let files: Vec<(&str, &str)> = step.iter().map(|(name, yaml)| (*name, yaml.as_str())).collect();
            only(&shop, &files);
            shop.run(&["apply"]).await.expect(0);
        }
        let last = steps.last().unwrap()[0].0;
        let held = shop.run_job(last, MARCH, &["--mail"]).await.expect(0);
        assert!(held.stdout.contains("\"archived\""), "{way}: {held:?}");
        assert_eq!((shop.sandbox.mails().len(), shop.holds(last).await.len()), (1, 1), "{way}");
        shop.run(&["archive", "verify"]).await.expect(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_begins_a_life_of_its_own_is_no_former_name_any_more() {
    let shop = Shop::open().await;
    only(&shop, &[("a", &by_hand(""))]);
    shop.run(&["apply"]).await.expect(0);
    shop.run_job("a", MARCH, &["--mail"]).await.expect(0);
    only(&shop, &[("b", &by_hand("was: [a]\n"))]);
    shop.run(&["apply"]).await.expect(0);
    // Beside it a job of the old name begins, asked and gone; then the other is gone as well.
    let other = by_hand("").replace("Agent Engagement", "Agent Ratings");
    only(&shop, &[("a", &other), ("b", &by_hand(""))]);
    shop.run(&["apply"]).await.expect(0);
    only(&shop, &[("x", LIVECHAT)]);
    shop.run(&["apply"]).await.expect(0);
    only(&shop, &[("a", &other)]);
    let told = shop.run(&["apply"]).await.expect(0);
    assert!(!told.stderr.contains("history"), "{told:?}");
    assert_eq!((shop.holds("a").await.len(), shop.holds("b").await.len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_by_hand_before_a_revert_is_in_force_is_refused_or_held() {
    let shop = Shop::open().await;
    shop.clock("2025-03-05T06:00:00Z").await;
    let yaml = by_hand("since: 2025-03-03\n");
    only(&shop, &[("a", &yaml)]);
    shop.run(&["apply"]).await.expect(0);
    only(&shop, &[("b", &format!("was: [a]\n{yaml}"))]);
    shop.run(&["apply"]).await.expect(0);
    shop.run_job("b", MARCH, &["--mail"]).await.expect(0);
    only(&shop, &[("a", &yaml)]);
    let cells = shop.run(&["coverage", "a", "--to", "2025-03-03", "--format", "json"]).await.expect(0).line();
    assert_eq!(cells["state"], "held");
    // Also where it says an older name.
    only(&shop, &[("c", &format!("was: [a]\n{yaml}"))]);
    let older = "a was renamed to b, which has its history: first bring the job folder as it is now into force";
    shop.run_job("c", MARCH, &["--mail"]).await.expect(2).says(older);
    only(&shop, &[("a", &yaml)]);
    shop.run_job("a", MARCH, &["--mail"]).await.expect(2).says(older);
    shop.clock("2025-03-06T06:00:00Z").await;
    shop.run(&["fill", "a", "--mail"]).await.expect(2).says(older);
    assert_eq!(shop.sandbox.mails().len(), 1);
    shop.run(&["apply"]).await.expect(0);
    shop.run_job("a", MARCH, &["--mail"]).await.expect(0);
    assert_eq!(shop.sandbox.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_asks_for_what_a_gone_one_asked_for_is_told_of() {
    let shop = Shop::open().await;
    only(&shop, &[("a", &by_hand("description: old\n"))]);
    shop.run(&["apply"]).await.expect(0);
    // Two renames at once, of which each file names the last one only.
    only(&shop, &[("c", &by_hand("was: [b]\ndescription: new\n"))]);
    let told = shop.run(&["apply"]).await.expect(0);
    told.says("c asks for what a asked for, whose history it takes along with `was: [a]` only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_new_file_has_an_error_goes_on_under_its_name() {
    let shop = Shop::open().await;
    shop.clock("2025-03-04T06:00:00Z").await;
    let yaml = by_hand("since: 2025-03-02\n");
    only(&shop, &[("a", &yaml)]);
    let serving = shop.serve().await;
    shop.until_count("SELECT count(*) FROM revisions", 1).await;
    // Renamed, with a slip: what it was goes on, until the slip is mended.
    only(&shop, &[("b", &format!("was: [a]\ndescripton: new\n{yaml}"))]);
    serving.until_says("a is gone and stays in force: b, which has errors").await;
    shop.clock("2025-03-04T07:00:01Z").await;
    shop.until_count("SELECT count(*) FROM fires WHERE fire_at = '2025-03-04T07:00:00Z' AND outcome = 'fired'", 1)
        .await;
    only(&shop, &[("b", &format!("was: [a]\n{yaml}"))]);
    shop.until_count("SELECT count(*) FROM job_files WHERE job = 'b'", 1).await;
    shop.until_count("SELECT count(*) FROM runs WHERE finished_at IS NULL", 0).await;
    shop.until_count("SELECT count(*) FROM job_files WHERE job = 'a'", 0).await;
    serving.stop().await;
    assert_eq!(shop.holds("b").await, ["2025-03-02 r1", "2025-03-03 r1"]);
    assert_eq!(shop.sandbox.mails().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_two_files_claim_by_older_names_is_neithers_and_is_told() {
    let shop = Shop::open().await;
    only(&shop, &[("b", &by_hand("was: [a, x]\n"))]);
    shop.run(&["apply"]).await.expect(0);
    shop.run_job("b", MARCH, &[]).await.expect(0);
    only(&shop, &[("c", &by_hand("was: [x]\n")), ("d", &by_hand("was: [a]\n"))]);
    let told = shop.run(&["apply"]).await.expect(0);
    told.says("c begins anew, though b has the history").says("d begins anew, though b has the history");
    assert_eq!(shop.holds("b").await.len(), 1);
    shop.run_job("d", "2025-03-04..2025-03-04", &[]).await.expect(0);
    // One that says so has it.
    only(&shop, &[("c", &by_hand("was: [x, b]\n")), ("d", &by_hand("was: [a]\n"))]);
    shop.run(&["apply"]).await.expect(0);
    assert_eq!((shop.holds("b").await.len(), shop.holds("c").await.len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_asked_for_by_hand_while_nobody_has_its_history_in_force_is_refused_too() {
    let shop = Shop::open().await;
    only(&shop, &[("a", &by_hand(""))]);
    shop.run(&["apply"]).await.expect(0);
    only(&shop, &[("b", &by_hand("was: [a]\n"))]);
    shop.run(&["apply"]).await.expect(0);
    shop.run_job("b", MARCH, &[]).await.expect(0);
    only(&shop, &[("x", LIVECHAT)]);
    shop.run(&["apply"]).await.expect(0);
    for (job, yaml) in [("c", by_hand("was: [a]\n")), ("a", by_hand(""))] {
        only(&shop, &[("x", LIVECHAT), (job, &yaml)]);
        let refused = shop.run_job(job, MARCH, &[]).await.expect(2);
        refused.says("a was renamed to b, which has its history").says("or say `was: [b]` in the job file");
    }
    only(&shop, &[("x", LIVECHAT), ("a", &by_hand("was: [b]\n"))]);
    shop.run_job("a", MARCH, &[]).await.expect(0);
    assert_eq!(shop.sandbox.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_whose_history_another_job_has_is_claimed_in_vain_and_not_in_silence() {
    let shop = Shop::open().await;
    only(&shop, &[("b", &by_hand("was: [a]\n"))]);
    shop.run(&["apply"]).await.expect(0);
    shop.run_job("b", MARCH, &[]).await.expect(0);
    // It says no more that it was `a`, and another says so.
    only(&shop, &[("b", &by_hand("")), ("d", &by_hand("was: [a]\n"))]);
    shop.run(&["apply"]).await.expect(0).says("d begins anew, though b has the history");
    assert_eq!((shop.holds("b").await.len(), shop.holds("d").await.len()), (1, 0));
    shop.run_job("d", MARCH, &[]).await.expect(0);
    // Nor does it take the other's history when that is gone.
    only(&shop, &[("d", &by_hand("was: [a]\n"))]);
    shop.run(&["apply"]).await.expect(0);
    assert_eq!((shop.holds("b").await.len(), shop.holds("d").await.len()), (1, 1));
    // All of it taken back: what was under that name last comes back, and the other history is told of.
    only(&shop, &[("b", &by_hand("")), ("d", &by_hand("was: [a]\n"))]);
    shop.run(&["apply"]).await.expect(0);
    only(&shop, &[("a", &by_hand(""))]);
    shop.run(&["apply"])
        .await
        .expect(0)
        .says("a asks for what b asked for, whose history it takes along with `was: [b]` only");
}
