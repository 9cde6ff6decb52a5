//! Letters as their readers get them.

use chrono::{NaiveDate, TimeDelta};
use chrono_tz::Tz;
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::actions::COMMANDS;
use super::*;
use crate::delivery::about::{AboutFailure, AboutWindow, MOST};

const HELD: &str = "timeout after 20s; whether BIK made the report, and mailed it to 2 addresses, is not known. Look for report \
    \"Agent Engagement\" over 2026-03-03 in BIK's report history, then run one of: reportd resolve 00000003 --ticket \
    REPORT_HISTORY_ID | --not-created | --file PATH | --give-up";

fn member(series: &str, day: u32, failure: Option<(&str, &str)>) -> Member {
    let (job, connection) = series.split_once('@').unwrap();
    let date = NaiveDate::from_ymd_opt(2026, 3, day).unwrap();
    // 18:30 UTC of the day before.
    let start = date.and_hms_opt(0, 0, 0).unwrap().and_utc() - TimeDelta::minutes(330);
    Member {
        job: Some(job.to_owned()),
        connection: connection.to_owned(),
        vendor: "livechat".to_owned(),
        run_id: Some(Uuid::from_u128(u128::from(day) << 96)),
        window: Some(AboutWindow {
            start,
            end: start + TimeDelta::days(1),
            zone: Tz::Asia__Kolkata,
            label: date.to_string(),
        }),
        failure: failure.map(|(class, message)| AboutFailure { class: class.to_owned(), message: message.to_owned() }),
        at: start + TimeDelta::hours(31),
    }
}

fn account(connection: &str, vendor: &str, reason: Option<&str>) -> Member {
    let with_all = member(&format!("x@{connection}"), 3, reason.map(|reason| ("breaker", reason)));
    Member { job: None, run_id: None, window: None, vendor: vendor.to_owned(), ..with_all }
}

fn about(cause: Cause, members: Vec<Member>) -> About {
    About { cause, after: None, members, more: 0 }
}

fn plain() -> Email {
    Email { to: vec!["lead@north.example".into()], subject: None, attach: true }
}

fn titled(subject: &str) -> Email {
    Email { subject: Some(subject.to_owned()), ..plain() }
}

fn march() -> Chart {
    let days = (1..=31u32).map(|day| {
        let chats = [34, 0, 51, 47, 58, 12, 9][day as usize % 7] + day;
        let record = if day % 7 == 1 { json!({}) } else { json!({"chats": chats, "good": chats / 3, "bad": day % 5}) };
        (format!("2026-03-{day:02}"), record)
    });
    let records: serde_json::Map<String, serde_json::Value> = days.collect();
    Chart::of(json!({"name": "ratings-report", "records": records}).to_string().as_bytes()).unwrap()
}

fn report(chart: Option<Chart>) -> Report {
    let file = |name: &str| ReportFile {
        path: format!("ratings/north/2026/2026-03/r1/{name}"),
        bytes: 48_213,
        sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into(),
    };
    Report {
        archive: "/srv/reports/archive".into(),
        revision: 1,
        provisional: false,
        simulated: false,
        files: vec![file("report.json")],
        attached: vec!["ratings_north_2026-03-03.json".into()],
        left_out: None,
        chart,
    }
}

/// One letter of each kind, with a name; what strings are given stand wherever somebody else's words may.
fn all_kinds(job: &str, words: &str) -> Vec<(&'static str, Letter)> {
    let series = format!("{job}@north");
    let one = |cause, failure| about(cause, vec![member(&series, 3, failure)]);
    let mut archived = report(Some(march()));
    archived.archive = words.to_owned();
    archived.attached = vec![words.to_owned()];
    archived.files[0].path = words.to_owned();
    archived.files[0].sha256 = words.to_owned();
    archived.left_out = Some(words.to_owned());
    (archived.provisional, archived.simulated) = (true, true);
    if let Some(chart) = &mut archived.chart {
        chart.rows[0].key = words.to_owned();
        chart.columns[1] = words.to_owned();
        chart.left_out = Some(words.to_owned());
    }
    let group = about(
        Cause::Failed,
        vec![member(&series, 1, Some(("gave_up", words))), member(&series, 2, Some((words, "x")))],
    );
    let mut odd = member(&series, 3, Some(("breaker", words)));
    odd.connection = words.to_owned();
    odd.vendor = words.to_owned();
    let recovered = About { after: Some(Cause::Failed), ..one(Cause::Recovered, None) };
    let failed = one(Cause::Failed, Some(("refused", words)));
    vec![
        ("archived", letter(&titled(words), &one(Cause::Archived, None), Some(&archived))),
        ("empty", letter(&plain(), &one(Cause::Empty, None), Some(&report(None)))),
        ("failed", letter(&titled("{failure}"), &failed, None)),
        ("group", letter(&plain(), &group, None)),
        ("held", letter(&plain(), &one(Cause::Held, Some(("unknown_create", words))), None)),
        ("late", letter(&plain(), &one(Cause::Late, Some(("late", words))), None)),
        ("breaker", letter(&plain(), &about(Cause::Breaker, vec![odd.clone()]), None)),
        ("account", letter(&plain(), &about(Cause::Breaker, vec![Member { job: None, ..odd }]), None)),
        ("recovered", letter(&plain(), &recovered, None)),
    ]
}

/// The tags of a page, in order.
fn tags(html: &str) -> Vec<&str> {
    html.split('<').skip(1).map(|rest| rest.split_inclusive('>').next().unwrap()).collect()
}

/// The words of a page, without tags; cells and lines are apart.
fn said(html: &str) -> String {
    let body = html.split_once("<body").unwrap().1;
    let apart = body.split('<').filter_map(|rest| rest.split_once('>')).map(|(_, text)| text);
    let text = apart.collect::<Vec<_>>().join(" ");
    let entities = [("&nbsp;", " "), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    entities.iter().fold(text, |text, (entity, c)| text.replace(entity, c))
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

const HOSTILE: &str = "</td></table><script>alert(1)</script>\r\nBcc: all@x.example\r\n\r\n\" onload='x' &amp; \u{202e}gpj.exe\u{0}\u{2028}<img src=x>";

#[test]
fn nothing_that_is_said_makes_a_header_or_markup() {
    for (name, letter) in all_kinds("ratings", HOSTILE) {
        for bad in ["<script", "<img", "' onload", "\" onload", "\r", "\u{0}", "\u{202e}", "\u{2028}"] {
            assert!(!letter.html.contains(bad), "{name} has {bad:?}");
        }
        let body = letter.text.replace('\n', "");
        assert!(!body.contains(char::is_control) && !letter.text.contains("\nBcc"), "{name}: {}", letter.text);
        assert!(!letter.subject.contains(char::is_control), "{name}: {}", letter.subject);
        let harmless = all_kinds("ratings", "words").into_iter().find(|(other, _)| *other == name).unwrap().1;
        assert_eq!(tags(&letter.html).len(), tags(&harmless.html).len(), "{name}");
    }
    assert!(all_kinds("ratings", HOSTILE)[0].1.text.contains("<script>alert(1)</script>"), "nothing is hidden either");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_said_the_page_has_the_same_tags_and_the_subject_is_one_line(
        job in "[ -~]{1,20}|\\PC{1,20}",
        words in "(?s).{1,300}|[<>&\"'a-z \r\n]{1,300}",
    ) {
        prop_assume!(!job.contains('@') && !words.trim().is_empty());
        for ((name, letter), (_, harmless)) in all_kinds(&job, &words).into_iter().zip(all_kinds("job", "words")) {
            prop_assert_eq!(tags(&letter.html), tags(&harmless.html), "{}", name);
            prop_assert!((1..=200).contains(&letter.subject.chars().count()), "{}", letter.subject);
            prop_assert!(!letter.subject.contains(char::is_control));
        }
    }
}

#[test]
fn a_subject_is_the_job_files_own_or_says_what_happened_to_which_report_for_which_days() {
    let failed = about(Cause::Failed, vec![member("ratings@north", 3, Some(("gave_up", "no")))]);
    let subject = |email: &Email, about: &About| letter(email, about, None).subject;
    assert_eq!(subject(&titled("{job} {window.label}: {failure}"), &failed), "ratings 2026-03-03: no");
    assert_eq!(subject(&plain(), &failed), "Failed: ratings@north 2026-03-03");
    let recovered = About { cause: Cause::Recovered, after: Some(Cause::Failed), ..failed.clone() };
    assert_eq!(subject(&titled("ratings FAILED: {failure}"), &recovered), "Works again: ratings FAILED: no");
    assert_eq!(subject(&titled(" "), &recovered), "Works again: ratings@north");
    let long = subject(&titled(&"ж ".repeat(300)), &failed);
    assert!(long.chars().count() <= 200 && long.ends_with("ж…"), "{long}");
    for blank in ["", " \t", "\r\n\u{0}", "\u{202e}\u{feff}"] {
        assert_eq!(subject(&titled(blank), &failed), "Failed: ratings@north 2026-03-03");
    }
    let series = ["ratings@north", "ratings@south", "chats@north", "tags@north"];
    let many = series.iter().zip(1..).map(|(name, day)| member(name, day, None)).collect();
    let many = About { more: 6, ..about(Cause::Failed, many) };
    assert_eq!(
        subject(&plain(), &many),
        "Failed: 10 windows, 2026-03-01 to 2026-03-04, ratings@north, ratings@south, chats@north and 1 more"
    );
    let accounts = about(Cause::Breaker, vec![account("north", "bik", None), account("south", "jaicp", None)]);
    assert_eq!(subject(&plain(), &accounts), "Refused: 2 accounts, north bik, south jaicp");
}

#[test]
fn the_first_line_says_what_happened_to_which_report_and_for_which_days() {
    let first = |about: &About| {
        let letter = letter(&plain(), about, None);
        let head = letter.text.split("\n\n").next().unwrap().replace('\n', " ");
        assert!(said(&letter.html).trim_start().starts_with(&head), "{}", letter.html);
        head
    };
    let one = |cause| about(cause, vec![member("ratings@north", 3, None)]);
    for (cause, line) in [
        (Cause::Archived, "ratings@north for 2026-03-03 (Asia/Kolkata) is in the archive."),
        (Cause::Empty, "ratings@north for 2026-03-03 (Asia/Kolkata) has no rows."),
        (Cause::Failed, "ratings@north for 2026-03-03 (Asia/Kolkata) failed."),
        (Cause::Held, "ratings@north for 2026-03-03 (Asia/Kolkata) is held and waits for your word."),
        (Cause::Late, "ratings@north for 2026-03-03 (Asia/Kolkata) is late: it is not in the archive."),
        (Cause::Recovered, "ratings@north works again."),
    ] {
        assert_eq!(first(&one(cause)), line);
    }
    let came = About { after: Some(Cause::Late), ..one(Cause::Recovered) };
    assert_eq!(first(&came), "ratings@north works again: the report for 2026-03-03 (Asia/Kolkata) came.");
    let refused = about(Cause::Breaker, vec![account("north", "bik", Some("401"))]);
    assert_eq!(first(&refused), "bik refuses the account of north; its runs wait.");
    let group = about(Cause::Failed, (1..=17).map(|day| member("ratings@north", day, None)).collect());
    assert_eq!(first(&group), "ratings@north: 17 windows, 2026-03-01 to 2026-03-17, failed.");
    let more = About { more: 50, ..group };
    assert_eq!(first(&more), "ratings@north and others: 67 windows, 2026-03-01 to 2026-03-17, failed.");
}

#[test]
fn a_letter_gives_the_command_that_ends_it() {
    let commands = |about: &About| -> Vec<String> {
        let letter = letter(&plain(), about, None);
        let lines = letter.text.lines().filter_map(|line| line.strip_prefix("    reportd ")).map(str::to_owned);
        let commands: Vec<String> = lines.collect();
        for command in &commands {
            assert!(said(&letter.html).contains(&format!("reportd {command}")), "{command}");
        }
        commands
    };
    let one = |cause, failure| about(cause, vec![member("ratings@north", 3, Some(failure))]);
    assert_eq!(commands(&one(Cause::Failed, ("gave_up", "x"))), ["retry 00000003"]);
    assert_eq!(
        commands(&one(Cause::Held, ("unknown_create", HELD))),
        [
            "resolve 00000003 --ticket ID",
            "resolve 00000003 --not-created",
            "resolve 00000003 --file PATH",
            "resolve 00000003 --give-up"
        ]
    );
    assert_eq!(commands(&one(Cause::Late, ("late", "x"))), ["show 00000003"]);
    assert_eq!(
        commands(&one(Cause::Empty, ("", ""))),
        ["run-job ratings@north --window 2026-03-03..2026-03-03 --again"]
    );
    let mut unmade = one(Cause::Late, ("late", "x"));
    unmade.members[0].run_id = None;
    assert_eq!(commands(&unmade), ["coverage ratings@north", "fill ratings@north"]);
    let refused = about(Cause::Breaker, vec![account("north", "bik", Some("401"))]);
    assert_eq!(commands(&refused), ["connections close north --vendor bik"]);
    let two = ["ratings@north", "ratings@north", "chats@south"];
    let group = about(Cause::Failed, two.iter().zip(1..).map(|(name, day)| member(name, day, None)).collect());
    assert_eq!(commands(&group), ["fill ratings@north", "retry 00000003", "retry RUN"]);
    let names: Vec<String> = (1..=9).map(|n| format!("job-{n}@north")).collect();
    let wide = about(Cause::Failed, names.iter().zip(1..).map(|(name, day)| member(name, day, None)).collect());
    assert_eq!(commands(&wide).last().map(String::as_str), Some("status"));
    assert_eq!(commands(&wide).len(), COMMANDS + 1);
}

#[test]
fn what_the_vendor_refused_is_to_be_corrected_first() {
    let text = |class| {
        let about = about(Cause::Failed, vec![member("ratings@north", 3, Some((class, "no such report")))]);
        letter(&plain(), &about, None).text
    };
    assert!(text("refused").contains("Correct what it says, then start the run again:"));
    assert!(text("gave_up").contains("\nStart the run again:"));
    assert!(text("refused").contains("> refused: no such report\n"));
}

#[test]
fn commands_in_a_held_runs_message_are_not_said_twice() {
    let held = about(Cause::Held, vec![member("engagement@north", 3, Some(("unknown_create", HELD)))]);
    let letter = letter(&plain(), &held, None);
    assert!(letter.text.contains("BIK's report history\n\n"), "{}", letter.text);
    assert!(!letter.text.contains("run one of") && !letter.html.contains("run one of"));
}

#[test]
fn both_parts_say_the_same() {
    for (name, letter) in all_kinds("ratings", "their words") {
        let page = squeezed(&said(&letter.html));
        for line in letter.text.lines() {
            // The marks of the text part, and what the page shows by colour or shortens.
            let line = line.trim_start_matches(['>', '!', ' ']).trim_end_matches(['█', ' ']);
            if line.starts_with("--") || line.contains("sha256") {
                continue;
            }
            assert!(page.contains(&squeezed(line)), "{name}: {line}\n{page}");
        }
    }
}

#[test]
fn a_group_names_every_window_it_was_given_and_counts_the_others() {
    let series = ["ratings@north", "ratings@south", "chats@north"];
    let members = (0..MOST).map(|n| {
        let day = u32::try_from(n % 31).unwrap() + 1;
        member(series[n % 3], day, Some(("gave_up", if n < 51 { "HTTP 503" } else { "HTTP 502" })))
    });
    let group = About { more: 12, ..about(Cause::Failed, members.collect()) };
    let letter = letter(&plain(), &group, None);
    for text in [&letter.text, &said(&letter.html)] {
        assert_eq!(text.matches("run 0000").count(), MOST);
        assert!(
            text.contains("and 12 more")
                && text.contains("ratings@south (livechat), 33 windows, times in Asia/Kolkata")
        );
        // Once a series, not once a window.
        assert_eq!(text.matches("gave_up: HTTP 502").count(), 3);
        let text = squeezed(&text.replace('>', ""));
        assert!(text.contains("51 of them: gave_up: HTTP 503 What to do"), "{}", &text[..300]);
    }
    // Gmail cuts what is longer.
    assert!(letter.html.len() < 102_000, "{}", letter.html.len());
}

#[test]
fn a_report_is_told_with_its_files_marks_and_attachments() {
    let archived = about(Cause::Archived, vec![member("ratings@north", 3, None)]);
    let mut report = report(None);
    let told = |report: &Report| letter(&plain(), &archived, Some(report));
    let all = told(&report);
    for part in
        ["/srv/reports/archive", "r1", "ratings/north/2026/2026-03/r1/report.json", "48.2 kB", "sha256 9f86d081884c"]
    {
        assert!(all.text.contains(part) && said(&all.html).contains(part), "{part}");
    }
    assert!(all.text.contains(&report.files[0].sha256) && !all.html.contains(&report.files[0].sha256));
    assert!(all.text.contains("ratings_north_2026-03-03.json") && !all.text.contains("Simulated"));
    (report.simulated, report.provisional) = (true, true);
    report.left_out = Some("page-0002.json is over the limit".into());
    let marked = told(&report).text;
    for part in ["! Simulated: ", "! Provisional: ", "! Not all of it is attached: page-0002.json is over the limit"] {
        assert!(marked.contains(part), "{part}");
    }
    report.attached.clear();
    assert!(told(&report).text.contains("! Nothing is attached: page-0002.json"));
}

#[test]
fn a_months_chart_is_a_table_with_bars_in_both_parts_and_not_too_long_for_a_mail() {
    let archived = about(Cause::Archived, vec![member("ratings@north", 3, None)]);
    let with = letter(&plain(), &archived, Some(&report(Some(march()))));
    assert!(with.text.contains("\nDay         Chats  Good  Bad\n"), "{}", with.text);
    assert!(with.text.contains("\nMon 2 Mar      53    17    2  █████████████\n"), "{}", with.text);
    assert!(with.html.contains("<td width=\"64%\" height=\"12\" bgcolor=\"#4a86c5\""), "{}", with.html);
    let mut longest = march();
    longest.rows = longest.rows.iter().chain(&longest.rows).cloned().collect();
    longest.more = 7;
    let longest = letter(&plain(), &archived, Some(&report(Some(longest))));
    assert!(longest.html.len() < 102_000, "{}", longest.html.len());
    assert!(
        longest.text.contains("and 7 more rows in the file") && longest.html.contains("and 7 more rows in the file")
    );
}

#[test]
fn a_page_loads_nothing_and_runs_nothing() {
    for (name, letter) in all_kinds("ratings", "words") {
        for bad in ["http", "src=", "href", "url(", "<script", "<link", "<style", "@import"] {
            assert!(!letter.html.contains(bad), "{name} has {bad}");
        }
        assert!(letter.html.contains("<html lang=\"en\">") && letter.html.contains("name=\"color-scheme\""));
    }
}

#[test]
fn an_attachment_is_named_after_its_window_and_by_its_page_among_several() {
    let name = |file: &str, only| attachment_name("ratings", "north", "2026-03-03", file, only);
    assert_eq!(name("report.json", true), "ratings_north_2026-03-03.json");
    assert_eq!(name("report", true), "ratings_north_2026-03-03");
    assert_eq!(name("page-0002.json", false), "ratings_north_2026-03-03_page-0002.json");
    assert_eq!(name("../a/\r\n\"b\u{202e}.csv", false), "ratings_north_2026-03-03_.._a____b_.csv");
    assert_eq!(name("Отчёт.xlsx", false), "ratings_north_2026-03-03_Отчёт.xlsx");
    let long = name(&format!("{}.csv", "x".repeat(900)), false);
    assert!(long.chars().count() <= 200 && long.ends_with("x.csv"));
}

/// Writes letters to look at in a browser: `cargo test letters_to_look_at -- --ignored`, then target/letters.
#[test]
#[ignore = "for people"]
fn letters_to_look_at() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/target/letters");
    std::fs::create_dir_all(folder).unwrap();
    let write = |name: &str, letter: &Letter| {
        std::fs::write(format!("{folder}/{name}.html"), &letter.html).unwrap();
        std::fs::write(format!("{folder}/{name}.txt"), format!("Subject: {}\n\n{}", letter.subject, letter.text))
            .unwrap();
    };
    let one = |cause, failure| about(cause, vec![member("ratings@north", 3, failure)]);
    let mut month = one(Cause::Archived, None);
    if let Some(window) = &mut month.members[0].window {
        window.start -= TimeDelta::days(2);
        window.end = window.start + TimeDelta::days(31);
    }
    write("archived-chart", &letter(&plain(), &month, Some(&report(Some(march())))));
    let mut marked = report(None);
    (marked.provisional, marked.simulated) = (true, true);
    marked.attached.clear();
    marked.left_out = Some("48.2 MB is over the limit of 10 MB".into());
    marked.files.push(marked.files[0].clone());
    write("archived-plain", &letter(&plain(), &one(Cause::Archived, None), Some(&marked)));
    write("empty", &letter(&plain(), &one(Cause::Empty, None), Some(&report(None))));
    write("held", &letter(&plain(), &one(Cause::Held, Some(("unknown_create", HELD))), None));
    let long = "the vendor answered 400: поле «отчёт» неизвестно ".repeat(17);
    write("failed-long", &letter(&plain(), &one(Cause::Failed, Some(("refused", &long))), None));
    let series = ["ratings@north", "ratings@south", "chats@north"];
    let members = (0..50u32).map(|n| {
        let message = "given up after 24h of trouble; the last: HTTP 503 Service Unavailable";
        member(series[n as usize / 17], n % 17 + 1, Some(("gave_up", if n == 20 { &long } else { message })))
    });
    write("failed-group", &letter(&plain(), &About { more: 12, ..about(Cause::Failed, members.collect()) }, None));
    write("late", &letter(&plain(), &one(Cause::Late, Some(("late", "not here 2h after the fire"))), None));
    let reason = "authentication: Invalid access token";
    write("breaker", &letter(&plain(), &about(Cause::Breaker, vec![account("north", "livechat", Some(reason))]), None));
    let recovered = About { after: Some(Cause::Failed), ..one(Cause::Recovered, None) };
    write("recovered", &letter(&plain(), &recovered, None));
    for (name, letter) in all_kinds("отчёт-أسبوعي", HOSTILE) {
        write(&format!("hostile-{name}"), &letter);
    }
    let hebrew = "הדוח לא נוצר: שגיאה 503 (report \"דירוגים\")";
    write("failed-rtl", &letter(&plain(), &one(Cause::Failed, Some(("vendor_failed", hebrew))), None));
    let tags = json!({"name": "tags-report", "records": {
        "2026-03-01": {"shipping/returns of a very long tag name": 11, "возврат": 8, "VIP: Ann Smith": 3, "x": 1}, "2026-03-02": {"возврат": 2}}});
    let performance = json!({"name": "performance-report", "records": {
        "ann.of-a-long-address@shop-with-a-long-name.example": {"chats_count": 21, "chats_rated_good": 9, "first_response_time": 71.5},
        "zoë@shop.example": {"logged_in_time": 3600}}});
    let greetings = json!({"name": "greetings-conversion-report", "records": {
        "2026-03-01": {"7": {"displayed": 1204, "accepted": 31, "canceled": 8, "goals": 2}}, "2026-03-02": {}}});
    let started = json!({"name": "engagement-report", "records": {"2026-03-01": {"started_by_agent": 4,
        "started_by_customer_from_greeting": 12, "started_by_customer_without_greeting": 130}, "2026-03-02": {"started_by_agent": 1}}});
    for (name, answer) in [
        ("chart-tags", tags),
        ("chart-agents", performance),
        ("chart-greetings", greetings),
        ("chart-started", started),
    ] {
        let chart = Chart::of(answer.to_string().as_bytes());
        write(name, &letter(&plain(), &one(Cause::Archived, None), Some(&report(chart))));
    }
}
