//! `status`: each cause appears, says what ends it, and is ended by that and nothing else.

use reportd::app::{Files, Place};
use reportd::clock::Clock;
use reportd::connection::environment::Environment;
use reportd::job::load::read;
use reportd::job_set;
use reportd::status::Cause;
use serde_json::Value;
use sqlx::postgres::PgPoolOptions;

use crate::harness::{Ran, Shop, repository};
use crate::verbs::{BIK, DAY, JAICP, LIVECHAT, NEXT_DAY, keys, text, until};

/// A LiveChat job that fires each day at 06:30 of Asia/Kolkata.
pub const DAILY: &str =
    "schedule: \"30 6 * * *\"\nwindow: yesterday\nlivechat: { report: chats/ratings, distribution: day }\n";

const KEYS: [&str; 9] = ["cause", "job", "connection", "vendor", "run_id", "count", "since", "message", "action"];

impl Shop {
    /// Brings the job folder into force, as `reportd apply` does.
    pub async fn in_force(&self) {
        let root = self.folder.path();
        let place = Place { config: root.join("reportd.yaml"), config_named: true, jobs: root.join("jobs") };
        let files = Files::load(&place, Environment::default(), &Clock::System);
        let texts = read(&place.jobs).unwrap();
        job_set::apply(&self.store(), &texts, &files.jobs, false).await.unwrap();
    }

    /// A process that serves, whose last pass was so many seconds ago.
    pub async fn serving(&self, ago: f64, trouble: Option<&str>) {
        self.sql("DELETE FROM replicas").await;
        sqlx::query(
            "INSERT INTO replicas (id, who, version, follows, seen_at, passed_at, trouble)
             VALUES (gen_random_uuid(), 'reportd asha@ops pid 7', '0.1.0', false, reportd_now() - make_interval(secs => $1),
                     reportd_now() - make_interval(secs => $1), $2)",
        )
        .bind(ago)
        .bind(trouble)
        .execute(&self.pool)
        .await
        .unwrap();
    }

    /// What `status` has to say; its exit code agrees.
    async fn needs(&self) -> Vec<Value> {
        let ran = self.run(&["status", "--format", "json"]).await;
        let items = ran.json();
        let ran = ran.expect(i32::from(!items.is_empty()));
        assert_eq!(ran.stderr, "");
        for item in &items {
            assert_eq!(keys(item), KEYS);
        }
        items
    }

    /// The only thing that needs a person.
    #[track_caller]
    fn only(items: Vec<Value>, cause: &str) -> Value {
        assert!(items.len() == 1 && items[0]["cause"] == cause, "{cause}: {items:#?}");
        items.into_iter().next().unwrap()
    }

    async fn need(&self, cause: &str) -> Value {
        Shop::only(self.needs().await, cause)
    }

    async fn nothing(&self) {
        let needs = self.needs().await;
        assert!(needs.is_empty(), "{needs:#?}");
    }
}

/// The command in backquotes or after a colon that an action names, as arguments.
fn command(action: &str) -> Vec<&str> {
    let (_, command) = action.split_once("reportd ").unwrap_or_else(|| panic!("no command in: {action}"));
    command.split([',', '`', '(']).next().unwrap().split_whitespace().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nothing_needs_a_person_status_says_so_in_one_line_and_needs_no_archive() {
    let shop = Shop::open().await;
    shop.job("ratings", DAILY);
    let ran = shop.run(&["status"]).await.expect(0);
    assert_eq!(
        ran.stdout,
        "nothing needs you: 1 series, no run under way, no planner has passed yet (schedules fire under `reportd serve`)\n"
    );
    shop.in_force().await;
    shop.serving(3.0, None).await;
    let ran = shop.run(&["status"]).await.expect(0);
    assert_eq!(ran.stdout.lines().count(), 1);
    assert!(
        ran.stdout.starts_with("nothing needs you: 1 series, no run under way, last planner pass "),
        "{}",
        ran.stdout
    );
    assert_eq!(shop.run(&["status", "--format", "json"]).await.expect(0).stdout, "");
    assert!(!shop.archive().exists(), "nothing is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_is_told_with_its_waiting_runs_until_it_is_closed() {
    let shop = Shop::open().await;
    shop.job("ratings", LIVECHAT);
    shop.fault("livechat.report=403:2");
    for window in [DAY, NEXT_DAY] {
        shop.run_job("ratings", window, &[]).await.expect(4);
    }
    let item = shop.need("breaker").await;
    assert_eq!(
        (&item["connection"], &item["vendor"], &item["count"]),
        (&"north".into(), &"livechat".into(), &2.into())
    );
    assert!(text(&item["message"]).ends_with("; 2 runs wait"), "{item}");
    assert!(text(&item["since"]).ends_with("+05:30"), "{item}");
    shop.run(&command(text(&item["action"]))).await.expect(0);
    shop.nothing().await;
    shop.run(&["connections", "open", "north", "--vendor", "livechat"]).await.expect(0);
    let item = shop.need("breaker").await;
    assert!(text(&item["message"]).contains("opened by "), "{item}");
    assert_eq!(item["action"], "reportd connections close north --vendor livechat");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_run_is_told_with_the_words_that_resolve_it() {
    let shop = Shop::open().await;
    shop.job("engagement", BIK);
    shop.fault("bik.generateReport=lost:2");
    for window in [DAY, NEXT_DAY] {
        shop.run_job("engagement", window, &[]).await.expect(3);
    }
    let items = shop.needs().await;
    assert_eq!(items.len(), 2, "{items:#?}");
    for (item, label) in items.iter().zip(["2025-03-03", "2025-03-04"]) {
        let run = &text(&item["run_id"])[..8];
        assert_eq!(
            (&item["cause"], &item["job"], &item["connection"]),
            (&"held".into(), &"engagement".into(), &"north".into())
        );
        let message = text(&item["message"]);
        assert!(message.starts_with(&format!("run {run}, window {label}: ")), "{message}");
        assert!(message.ends_with(&format!("over {label} in BIK's report history")), "{message}");
        assert_eq!(
            item["action"],
            format!("reportd resolve {run} --ticket ID | --file PATH | --not-created | --give-up")
        );
    }
    let run = |n: usize| text(&items[n]["run_id"])[..8].to_owned();
    shop.run(&["resolve", &run(0), "--give-up"]).await.expect(0);
    assert_eq!(shop.need("held").await["run_id"], items[1]["run_id"], "what was given up needs nobody");
    shop.run(&["resolve", &run(1), "--not-created"]).await.expect(0);
    shop.nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_windows_are_told_by_series_and_class_until_they_are_held_waived_or_no_longer_wanted() {
    let shop = Shop::open().await;
    shop.job("ratings", DAILY);
    shop.job("tags", LIVECHAT);
    shop.fault("livechat.report=400:4");
    let fetch = async |job: &'static str, window: &'static str, code| {
        shop.run_job(job, window, &["--again"]).await.expect(code).line()
    };
    let tags = fetch("tags", DAY, 1).await;
    for window in ["2025-03-03..2025-03-03", "2025-03-04..2025-03-04", "2025-03-05..2025-03-05"] {
        fetch("ratings", window, 1).await;
    }
    let items = shop.needs().await;
    assert_eq!(items.len(), 2, "{items:#?}");
    let (many, one) = (&items[0], &items[1]);
    assert_eq!(
        (&many["job"], &many["count"], &one["job"], &one["count"]),
        (&"ratings".into(), &3.into(), &"tags".into(), &1.into())
    );
    assert!(text(&many["message"]).starts_with("3 windows, 2025-03-03 to 2025-03-05, refused; the last: "), "{many}");
    let action = "correct what it says, then: reportd fill ratings@north, and what that leaves: reportd retry RUN";
    assert!(text(&many["action"]).starts_with(action), "{many}");
    assert!(text(&one["message"]).starts_with("window 2025-03-03, refused: "), "{one}");
    assert_eq!(one["run_id"], tags["run_id"]);
    // Its command brings it to life, and a run that is not over needs nobody.
    shop.run(&command(text(&one["action"]))).await.expect(0);
    assert_eq!(shop.need("failed").await["job"], "ratings");
    fetch("tags", DAY, 0).await;
    // A window of three is fetched, by whichever run; another is waived; then the job is gone.
    fetch("ratings", "2025-03-04..2025-03-04", 0).await;
    assert_eq!(shop.need("failed").await["count"], 2);
    shop.job("ratings", &format!("waive: [{{ from: 2025-03-01, to: 2025-03-03, reason: closed }}]\n{DAILY}"));
    let item = shop.need("failed").await;
    assert!(text(&item["message"]).starts_with("window 2025-03-05, "), "{item}");
    std::fs::remove_file(shop.folder.path().join("jobs/ratings.yaml")).unwrap();
    shop.nothing().await;
    shop.job("ratings", DAILY);
    // An operator's `cancel` is a decision; what is held stays held, whatever a later run does.
    let live = shop.run_job("ratings", "2025-03-05..2025-03-05", &["--no-wait"]).await.expect(4).line();
    shop.run(&["cancel", text(&live["run_id"])]).await.expect(0);
    shop.fault("livechat.report=400:1");
    fetch("ratings", "2025-03-04..2025-03-04", 1).await;
    let item = shop.need("failed").await;
    assert!(text(&item["message"]).starts_with("window 2025-03-03, "), "{item}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_wait_for_a_person_are_told_with_what_they_wait_for() {
    let shop = Shop::open().await;
    shop.job("messages", JAICP);
    shop.without_waits().await;
    shop.fault("jaicp.task=foreign-link:1");
    let run = shop.run_job("messages", DAY, &[]).await.expect(4).line();
    let item = shop.need("blocked").await;
    assert_eq!((&item["run_id"], &item["job"], &item["count"]), (&run["run_id"], &"messages".into(), &1.into()));
    assert!(text(&item["message"]).contains("allowed_hosts"), "{item}");
    // The vendor gives a good link now: whoever polls gets it.
    shop.run_job("messages", DAY, &[]).await.expect(0);
    shop.nothing().await;
    shop.run_job("messages", NEXT_DAY, &["--no-wait"]).await.expect(4);
    shop.nothing().await;
    shop.sql("UPDATE runs SET base_url = 'https://old.example' WHERE state = 'queued'").await;
    let item = shop.need("blocked").await;
    assert!(
        text(&item["message"]).starts_with("1 run made for https://old.example, and the config has http"),
        "{item}"
    );
    assert!(text(&item["action"]).contains("and then reportd fill messages@north, which asks"), "{item}");
    shop.sql("UPDATE runs SET base_url = 'x', connection = 'gone' WHERE state = 'queued'").await;
    let item = shop.need("blocked").await;
    assert!(
        text(&item["message"]).contains("connection gone, whose jaicp account this config does not have"),
        "{item}"
    );
    shop.run(&command(text(&item["action"]))).await.expect(0);
    shop.nothing().await;
}

/// `status` without the JAICP token.
async fn without_token(shop: &Shop) -> Ran {
    let mut command = shop.command(&["status", "--format", "json"]);
    command.env_remove("JAICP");
    crate::harness::run(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_cannot_be_read_is_told_for_accounts_that_a_job_uses() {
    let shop = Shop::open().await;
    shop.job("ratings", LIVECHAT);
    assert!(without_token(&shop).await.expect(0).json().is_empty(), "no job uses it");
    shop.job("messages", JAICP);
    shop.run_job("messages", DAY, &["--no-wait"]).await.expect(4);
    let item = Shop::only(without_token(&shop).await.expect(1).json(), "missing_secret");
    assert_eq!((&item["connection"], &item["vendor"]), (&"north".into(), &"jaicp".into()));
    assert_eq!(item["message"], "environment variable JAICP is not set; 1 run waits for it");
    shop.nothing().await;
    // A process that had no secret put a run off in the middle of a call: no flag says so, but nobody has it.
    shop.sql("UPDATE runs SET state = 'submitting', attempt_id = gen_random_uuid(), note = 'environment variable JAICP is not set'").await;
    let item = shop.need("blocked").await;
    assert!(text(&item["message"]).ends_with("environment variable JAICP is not set"), "{item}");
    assert!(without_token(&shop).await.json().iter().all(|item| item["cause"] == "missing_secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_files_are_told_with_their_place_and_a_broken_config_hides_everything_else() {
    let shop = Shop::open().await;
    shop.job("ratings", DAILY);
    shop.in_force().await;
    shop.serving(1.0, None).await;
    shop.job(
        "ratings",
        "schedule: \"30 6 * * *\"\nwindow: yesterdy\nlivechat: { report: chats/ratings, distribtion: day }\n",
    );
    let item = shop.need("broken_file").await;
    assert_eq!((&item["job"], &item["count"]), (&"ratings".into(), &2.into()));
    let message = text(&item["message"]);
    assert!(message.starts_with("jobs/ratings.yaml:2:9: ") && message.contains("(and 1 more)"), "{message}");
    assert!(message.ends_with("; its last good version stays in force"), "{message}");
    shop.run(&["validate"]).await.expect(2);
    shop.job("ratings", DAILY);
    shop.nothing().await;
    shop.config("archve: x\n");
    let ran = shop.run(&["status", "--format", "json"]).await.expect(1);
    let item = Shop::only(ran.json(), "broken_file");
    assert!(text(&item["message"]).starts_with("reportd.yaml:") && item["job"].is_null(), "{item}");
    assert!(ran.stderr.contains("nothing else was looked at"), "{}", ran.stderr);
    shop.config("");
    // A job folder that is not there is told too, until the set in force is what this machine follows.
    std::fs::rename(shop.folder.path().join("jobs"), shop.folder.path().join("away")).unwrap();
    shop.nothing().await;
    shop.sql("UPDATE job_set SET version = 0").await;
    assert!(text(&shop.need("broken_file").await["message"]).contains("does not exist"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_differ_from_the_set_in_force_are_told_until_they_are_applied() {
    let shop = Shop::open().await;
    for name in ["ratings", "same", "gone", "broken"] {
        shop.job(name, DAILY);
    }
    shop.nothing().await;
    shop.in_force().await;
    shop.serving(1.0, None).await;
    shop.nothing().await;
    shop.job("ratings", &format!("description: other\n{DAILY}"));
    shop.job("new", DAILY);
    shop.job("broken", "window: 1\n");
    std::fs::remove_file(shop.folder.path().join("jobs/gone.yaml")).unwrap();
    let items = shop.needs().await;
    let told: Vec<(&str, &str)> = items.iter().map(|i| (text(&i["cause"]), text(&i["job"]))).collect();
    assert_eq!(told, [("broken_file", "broken"), ("drift", "new"), ("drift", "ratings"), ("drift", "gone")]);
    let message = |n: usize| text(&items[n]["message"]).to_owned();
    assert!(message(1).starts_with("jobs/new.yaml is not in the set in force, which tests applied"), "{}", message(1));
    assert!(message(2).starts_with("jobs/ratings.yaml is not what is in the set in force"), "{}", message(2));
    assert!(message(3).contains("gone.yaml is gone, and the job stands in the set in force"), "{}", message(3));
    assert!(items[1..].iter().all(|item| text(&item["action"]).starts_with("reportd apply ")));
    shop.in_force().await;
    shop.need("broken_file").await;
    shop.job("broken", DAILY);
    shop.nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_that_the_config_lost_is_told_before_and_after_it_is_taken_out_of_force() {
    let shop = Shop::open().await;
    let south = format!(
        "  south:\n    zone: Asia/Kolkata\n    livechat: {{ base_url: \"{}\", token: env:LIVECHAT }}\n",
        shop.sandbox.livechat_base_url()
    );
    shop.config(&south);
    shop.job("ratings", &format!("connections: all\n{DAILY}"));
    shop.in_force().await;
    shop.serving(1.0, None).await;
    shop.nothing().await;
    shop.config("");
    let lost = shop.need("drift").await;
    assert_eq!((text(&lost["job"]), text(&lost["connection"])), ("ratings", "south"));
    assert_eq!(lost["message"], "it is in force, and the config here has no such connection for it");
    let applied = shop.run(&["apply"]).await.expect(0).stdout;
    let said = "out of force, because their job has no such connection any more: ratings@south\n\
                version 2 of the jobs is in force\n";
    assert_eq!(applied, said);
    shop.nothing().await;
    shop.config(&south);
    let idle = shop.need("drift").await;
    assert!(text(&idle["message"]).starts_with("it does not fire: "), "{idle}");
    shop.run(&["apply"]).await.expect(0);
    shop.nothing().await;
}

/// A fire of `ratings` whose window is the day before it, so many hours ago.
async fn fire(shop: &Shop, hours: i32, outcome: &str, run: &str) {
    shop.sql(&format!(
        "INSERT INTO fires (series_id, fire_at, outcome, run_id, window_start, window_end)
         SELECT id, t, '{outcome}', {run}, date_trunc('day', t) - interval '1 day', date_trunc('day', t)
         FROM series, (SELECT date_trunc('second', reportd_now() - interval '{hours} hours') AS t) t WHERE job = 'ratings'"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_later_than_late_after_are_told_with_what_they_wait_for() {
    let shop = Shop::open().await;
    let daily = DAILY.replace("yesterday\n", "yesterday\nzone: UTC\n");
    shop.job("ratings", &format!("late_after: 3h\n{daily}"));
    shop.in_force().await;
    // All up to now is decided.
    shop.sql("UPDATE series SET cursor_at = reportd_now(), next_at = reportd_now() + interval '1 day'").await;
    shop.serving(1.0, None).await;
    fire(&shop, 2, "missed", "NULL").await;
    fire(&shop, 24 * 31, "missed", "NULL").await;
    for (n, outcome) in ["paused", "skipped", "covered"].into_iter().enumerate() {
        fire(&shop, 24 * (20 + i32::try_from(n).unwrap()), outcome, "NULL").await;
    }
    shop.nothing().await;
    fire(&shop, 50, "missed", "NULL").await;
    fire(&shop, 74, "missed", "NULL").await;
    let item = shop.need("late").await;
    assert_eq!((&item["count"], &item["action"]), (&2.into(), &"reportd fill ratings@north".into()));
    assert!(text(&item["message"]).ends_with("are not here 3h after the fire; no run is at it"), "{item}");
    // The oldest is fetched; of the other a run is under way, then held by a fault of the vendor.
    let day = async |hours: i32| -> String {
        sqlx::query_scalar("SELECT to_char(window_start AT TIME ZONE 'UTC', 'YYYY-MM-DD') FROM fires WHERE fire_at < reportd_now() - make_interval(hours => $1) ORDER BY fire_at DESC LIMIT 1")
            .bind(hours)
            .fetch_one(&shop.pool)
            .await
            .unwrap()
    };
    let (oldest, other) = (day(73).await, day(49).await);
    shop.run_job("ratings", &format!("{oldest}..{oldest}"), &[]).await.expect(0);
    let item = shop.need("late").await;
    assert!(text(&item["message"]).starts_with(&format!("window {other} is not here")), "{item}");
    let window = format!("{other}..{other}");
    let run = shop.run_job("ratings", &window, &["--no-wait"]).await.expect(4).line();
    let item = shop.need("late").await;
    let short = &text(&run["run_id"])[..8];
    assert!(text(&item["message"]).ends_with(&format!("run {short} is queued")), "{item}");
    assert_eq!(item["run_id"], run["run_id"]);
    shop.run(&command(text(&item["action"]))[..2]).await.expect(0);
    shop.fault("livechat.report=400:1");
    shop.run_job("ratings", &window, &[]).await.expect(1);
    let item = shop.need("failed").await;
    shop.run(&command(text(&item["action"]))).await.expect(0);
    shop.run_job("ratings", &window, &[]).await.expect(0);
    shop.nothing().await;
    // Days in which nobody decided.
    shop.sql("UPDATE series SET cursor_at = reportd_now() - interval '49 hours', next_at = NULL").await;
    let item = shop.need("late").await;
    assert!(text(&item["message"]).ends_with("nobody has decided about the instant"), "{item}");
    assert_eq!(item["action"], "reportd serve");
    shop.run(&["pause", "ratings"]).await.expect(0);
    shop.sql("UPDATE series_pauses SET paused_at = reportd_now() - interval '3 days'").await;
    shop.nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_not_the_databases_is_told() {
    let mut shop = Shop::open().await;
    shop.job("ratings", LIVECHAT);
    shop.run_job("ratings", DAY, &[]).await.expect(0);
    shop.nothing().await;
    let (here, away) = (shop.archive(), shop.folder.path().join("away"));
    std::fs::rename(&here, &away).unwrap();
    let item = shop.need("archive_mismatch").await;
    assert!(text(&item["message"]).starts_with("the database belongs to an archive, and there is none in "), "{item}");
    std::fs::create_dir(&here).unwrap();
    std::fs::write(here.join("reportd.json"), "{").unwrap();
    assert!(text(&shop.need("archive_mismatch").await["message"]).starts_with("the archive cannot be opened: "));
    let other = std::fs::read_to_string(away.join("reportd.json")).unwrap();
    let (head, tail) = other.split_once("archive_id\": \"").unwrap();
    std::fs::write(here.join("reportd.json"), format!("{head}archive_id\": \"00000000{}", &tail[8..])).unwrap();
    assert!(
        text(&shop.need("archive_mismatch").await["message"]).contains("is not the one that the database belongs to")
    );
    std::fs::remove_dir_all(&here).unwrap();
    std::fs::rename(&away, &here).unwrap();
    shop.nothing().await;
    shop.lose_database().await;
    let item = shop.need("archive_mismatch").await;
    assert!(text(&item["message"]).ends_with("and the database knows none"), "{item}");
    shop.run(&command(text(&item["action"]))).await.expect(0);
    shop.nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn series_in_force_that_no_process_serves_are_told() {
    let shop = Shop::open().await;
    shop.job("ratings", DAILY);
    shop.in_force().await;
    let item = shop.need("not_serving").await;
    assert_eq!(item["message"], "1 series is in force and no process serves them; none ever did");
    assert_eq!(item["action"], "reportd serve");
    shop.serving(59.0, None).await;
    shop.nothing().await;
    shop.serving(300.0, None).await;
    let item = shop.need("not_serving").await;
    let gone = "no process serves them; reportd asha@ops pid 7 was seen last 5 min ago, and was not told to stop";
    assert!(text(&item["message"]).ends_with(gone), "{item}");
    shop.serving(1.0, None).await;
    shop.sql("UPDATE replicas SET stopped_at = reportd_now()").await;
    let item = shop.need("not_serving").await;
    let seconds = text(&item["message"]).split_once("reportd asha@ops pid 7 was told to stop ").expect("who was").1;
    assert!(seconds.strip_suffix(" s ago").is_some_and(|s| s.parse::<u64>().is_ok()), "{item}");
    shop.serving(5.0, Some("its clock is 7 min fast")).await;
    let item = shop.need("not_serving").await;
    assert_eq!(item["message"], "reportd asha@ops pid 7 plans, but: its clock is 7 min fast");
    shop.serving(7200.0, Some("its clock is 7 min fast")).await;
    assert_eq!(shop.need("not_serving").await["action"], "reportd serve", "it is gone, and its trouble with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cause_does_not_push_the_others_off_the_screen() {
    let shop = Shop::open().await;
    for n in 10..25 {
        shop.job(&format!("job-{n}"), "window: 1\n");
    }
    shop.run(&["connections", "open", "north", "--vendor", "bik"]).await.expect(0);
    shop.job("engagement", BIK);
    let out = shop.run(&["status"]).await.expect(1).stdout;
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("breaker: "), "{out}");
    assert!(
        lines[1].starts_with("  north bik  since ") && lines[2].starts_with("      -> reportd connections close"),
        "{out}"
    );
    assert_eq!((lines[3], lines[4]), ("", "broken_file: files with errors"));
    let told = lines.iter().filter(|line| line.starts_with("  job-")).count();
    assert!((8..=10).contains(&told), "{out}");
    assert_eq!(out.matches("-> correct it").count(), 1, "what ends them all is said once: {out}");
    assert!(out.contains(&format!("  and {} more: reportd status --format json", 15 - told)), "{out}");
    assert!(lines.last().unwrap().starts_with("16 things need you: 1 series, "), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_long_history_status_reads_what_is_unfinished_or_wrong_and_walks_through_nothing() {
    const WALKED: &str = "SELECT COALESCE(sum(seq_scan), 0)::bigint FROM pg_stat_user_tables
                          WHERE relname IN ('runs', 'revisions', 'fires', 'run_events')";
    const FETCHED: &str = "SELECT COALESCE(sum(idx_tup_fetch), 0)::bigint FROM pg_stat_user_tables
                           WHERE relname IN ('runs', 'revisions', 'fires', 'run_events')";
    const SERVERS: &str = "SELECT count(*) FROM pg_stat_activity
                           WHERE datname = current_database() AND backend_type = 'client backend'";
    let shop = Shop::open().await;
    for sql in [
        "INSERT INTO series (job, connection, vendor) SELECT 'job-' || n, 'north', 'jaicp' FROM generate_series(1, 100) n",
        // Of 500 windows of each series one in 50 failed at first, and one of 100 series has one that is not held.
        "INSERT INTO runs (id, series_id, job, connection, vendor, trigger, state, window_start, window_end, window_zone,
                           window_label, provisional, fire_at, request, base_url, account, revision, created_at, next_step_at,
                           finished_at, failure_class, failure)
         SELECT gen_random_uuid(), s.id, s.job, 'north', 'jaicp', 'schedule', CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'archived' END,
                t - n * interval '1 day', t - (n - 1) * interval '1 day', 'UTC', to_char(t - n * interval '1 day', 'YYYY-MM-DD'), false,
                t, '{}', 'http://127.0.0.1:1', 'a', 1, t, t, t, CASE WHEN n % 50 = 0 THEN 'gone' END, CASE WHEN n % 50 = 0 THEN 'gone' END
         FROM series s, generate_series(1, 500) n, (SELECT date_trunc('day', reportd_now()) AS t) t",
        "INSERT INTO revisions (series_id, window_label, revision, window_start, window_end, window_zone, provisional, state, run_id,
                                trigger, fire_at, content_hash, manifest_path, manifest_sha256, archived_at)
         SELECT series_id, window_label, 1, window_start, window_end, 'UTC', false, 'archived', id, 'schedule', fire_at, 'c',
                job || '/' || window_label, repeat('a', 64), created_at FROM runs
         WHERE NOT (job = 'job-7' AND window_start = (SELECT date_trunc('day', reportd_now())) - interval '50 days')",
        "INSERT INTO fires (series_id, fire_at, outcome, run_id, window_start, window_end)
         SELECT series_id, window_end + interval '1 hour', 'fired', id, window_start, window_end FROM runs",
        "INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'made', 'x', 'x' FROM runs",
        "ANALYZE",
    ] {
        let pool = PgPoolOptions::new().max_connections(1).connect(&shop.database_url).await.unwrap();
        sqlx::query(sql).execute(&pool).await.unwrap();
        pool.close().await;
    }
    for n in 1..=10 {
        shop.job(
            &format!("job-{n}"),
            &format!("window: yesterday\nlate_after: 1h\nzone: UTC\nschedule: \"0 1 * * *\"\n{JAICP}"),
        );
    }
    // A server process has told its statistics when it is gone; then only this test's own are left.
    let others_gone = async || shop.number(SERVERS).await == i64::from(shop.pool.size());
    until("the statistics of filling", others_gone).await;
    let (walked, fetched) = (shop.number(WALKED).await, shop.number(FETCHED).await);
    let item = shop.need("failed").await;
    assert_eq!((&item["job"], &item["count"]), (&"job-7".into(), &1.into()));
    until("the statistics of status", others_gone).await;
    assert!(shop.number(FETCHED).await > fetched);
    assert_eq!(shop.number(WALKED).await, walked, "a table was read from end to end");
    let read = shop.number(FETCHED).await - fetched;
    // 1,000 failures each with their newest run and revision, and 30 days of 10 series.
    assert!(read < 8000, "status read {read} rows");
}

#[test]
fn every_cause_stands_in_the_readme_in_its_order() {
    let readme = std::fs::read_to_string(repository("README.md")).unwrap();
    let section =
        readme.split("\n`status` tells what needs you").nth(1).unwrap().split("The states of a run").next().unwrap();
    let told: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(told, Cause::ALL.map(Cause::as_str));
}
