//! The sample requests on the vendors' pages are the contract: `tests/samples/NAME.yaml` asks for what the page's sample
//! asks for, `NAME.json` is that sample word for word (`page` says which), and here the two are held against each other.
//!
//! Exactly three things differ, and each is checked rather than left out:
//! - *The ends of the range.* The pages write them loosely: to the second (`23:59:59`), or with the milliseconds of the
//!   moment somebody pressed a key (BIK `.540`, JAICP `.234`). Ours are exact: the window's first instant, and its last one,
//!   1 ms (BIK, JAICP) or 1 µs (LiveChat) before the open end. So both must be the same second.
//! - *`timezone`*, which we always send to LiveChat and no sample has.
//! - *JAICP's URL*: the page leaves out the host and its `/api`, and our queries name page and size.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use reportd::connection::environment::Environment;
use reportd::job::load;
use reportd::job::resolve::{self, Mailing};
use reportd::job::{Defaults, Job};
use reportd::request::window::Window;
use reportd::request::{Request, TOKEN_IN_PATH, Vendor};
use reportd::sandbox::{self, credentials};
use reportd::settings::Settings;
use serde_json::{Map, Value};

use crate::harness::{Shop, offline, repository};

/// A sample of a vendor's page.
struct Sample {
    name: String,
    method: String,
    /// Whole, or where the page gives a path only, the path.
    url: String,
    body: Value,
}

fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(repository("tests/samples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") {
            let json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let text = |key: &str| json[key].as_str().map(str::to_owned);
            all.push(Sample {
                name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
                method: text("method").unwrap(),
                url: text("url").or_else(|| text("path")).unwrap(),
                body: json["body"].clone(),
            });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The settings of a folder without reportd.yaml.
fn settings() -> Settings {
    let nowhere = tempfile::tempdir().unwrap();
    let loaded = reportd::settings::load(&nowhere.path().join("reportd.yaml"), false, Environment::default(), false);
    assert!(!loaded.broken());
    loaded.settings
}

fn jobs(settings: &Settings) -> Vec<Job> {
    let now = "2026-11-20T12:00:00Z".parse().unwrap();
    let loaded = load::load(&repository("tests/samples"), &settings.connections, &Defaults::default(), now);
    let problems: Vec<String> = loaded.problems.iter().map(reportd::yaml::Problem::text).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    loaded.jobs
}

fn instant(value: &Value) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc3339(value.as_str()?).ok()?.to_utc())
}

/// The one time pair of a body, by the names that the three vendors give its ends.
fn time_pair(body: &mut Value) -> Option<(&mut Value, &mut Value)> {
    let children: Vec<&mut Value> = match body {
        Value::Object(map) => {
            for (from, to) in [("from", "to"), ("startDate", "endDate")] {
                if map.get(from).and_then(instant).is_some() {
                    return pair_of(map, from, to);
                }
            }
            map.values_mut().collect()
        }
        Value::Array(list) => list.iter_mut().collect(),
        _ => return None,
    };
    children.into_iter().find_map(time_pair)
}

fn pair_of<'a>(map: &'a mut Map<String, Value>, from: &str, to: &str) -> Option<(&'a mut Value, &'a mut Value)> {
    let (mut start, mut end) = (None, None);
    for (key, value) in map {
        if key == from {
            start = Some(value);
        } else if key == to {
            end = Some(value);
        }
    }
    Some((start?, end?))
}

fn second(instant: DateTime<Utc>) -> DateTime<Utc> {
    instant.duration_trunc(TimeDelta::seconds(1)).unwrap()
}

/// The window of the page's range: the pages name the last second that counts. A day for a sample that bounds no time.
fn window_of(sample: &Sample, job: &Job) -> Window {
    let zone = job.series[0].zone;
    let fire_at = "2026-11-20T12:00:00Z".parse().unwrap();
    let by_rule = job.window.and_then(|rule| rule.at(fire_at, zone, job.policy.week_start));
    let mut body = sample.body.clone();
    let Some((start, end)) = time_pair(&mut body) else {
        return Window::days("2021-02-14".parse().unwrap(), "2021-02-14".parse().unwrap(), zone).unwrap();
    };
    let (start, end) = (second(instant(start).unwrap()), second(instant(end).unwrap()) + TimeDelta::seconds(1));
    let window = Window::new(start, end, zone).unwrap();
    // A range of whole days is also what people write as dates.
    assert_eq!(by_rule, window.whole_days().map(|_| window), "{}: window", sample.name);
    window
}

/// Checks both ends of our range against the window and the page, then writes them as the page does.
fn take_the_pages_times(sample: &Sample, request: &Request, ours: &mut Value) {
    let mut page = sample.body.clone();
    let (Some(ours), Some(page)) = (time_pair(ours), time_pair(&mut page)) else {
        assert!(!sample.body.to_string().contains("from"), "{}: the sample has a range and we have none", sample.name);
        return;
    };
    let last = match request.vendor {
        Vendor::Livechat => TimeDelta::microseconds(1),
        Vendor::Bik | Vendor::Jaicp => TimeDelta::milliseconds(1),
    };
    let (start, end) = (instant(ours.0).unwrap(), instant(ours.1).unwrap());
    assert_eq!(start, request.window.start(), "{}", sample.name);
    assert_eq!(end, request.window.end() - last, "{}", sample.name);
    assert_eq!(start, second(instant(page.0).unwrap()), "{}", sample.name);
    assert_eq!(second(end), second(instant(page.1).unwrap()), "{}", sample.name);
    *ours.0 = page.0.clone();
    *ours.1 = page.1.clone();
}

#[test]
fn every_sample_request_of_the_vendors_pages_is_what_a_job_file_sends() {
    let settings = settings();
    let jobs = jobs(&settings);
    let samples = samples();
    let names = |list: Vec<&str>| list.join(" ");
    let (of_jobs, of_samples) = (jobs.iter().map(|j| j.name.as_str()), samples.iter().map(|s| s.name.as_str()));
    assert_eq!(names(of_jobs.collect()), names(of_samples.collect()), "a sample is a .yaml and a .json");
    assert_eq!(samples.len(), 18, "BIK 1, LiveChat 14 and its filters, JAICP 2");
    for (sample, job) in samples.iter().zip(&jobs) {
        let name = &sample.name;
        let window = window_of(sample, job);
        let request = resolve::request(job, &settings.connections[0], &window, Mailing::Job).unwrap();
        assert_eq!(request.call.method, sample.method, "{name}");
        if request.vendor == Vendor::Jaicp {
            let whole = format!("https://app.jaicp.com/api{}", sample.url);
            assert!(sample.url.contains(TOKEN_IN_PATH), "{name}");
            let paging = if sample.url.ends_with("/filter") { "?page=0&size=100" } else { "" };
            assert_eq!(request.call.url, format!("{whole}{paging}"), "{name}");
        } else {
            assert_eq!(request.call.url, sample.url, "{name}");
        }
        assert_eq!(request.call.headers["content-type"], "application/json", "{name}");
        let mut body = request.call.body.clone().unwrap();
        if request.vendor == Vendor::Livechat {
            let timezone = body.as_object_mut().unwrap().remove("timezone");
            assert_eq!(timezone, Some("UTC".into()), "{name}");
        }
        take_the_pages_times(sample, &request, &mut body);
        assert_eq!(body, sample.body, "{name}");
    }
}

/// One job of each way of asking a vendor.
const ASKS: [(&str, &str); 8] = [
    (
        "bik",
        "bik: { reportType: Helpdesk, reportName: Agent Engagement, emails: [\"{var.owner}\"], filters: { groupBy: week } }",
    ),
    (
        "bik-dates",
        "bik: { reportType: Helpdesk, reportName: Agent SLA report, emails: [a@b.example], date_format: date }",
    ),
    (
        "livechat",
        "livechat: { report: chats/ratings, distribution: day, filters: { groups: { values: \"{var.support}\" } } }",
    ),
    ("livechat-greetings", "livechat: { report: chats/greetings_conversion, time: greetings }"),
    ("livechat-paged", "livechat: { report: chats/queued_visitors_left }"),
    (
        "jaicp",
        "jaicp: { report: messages, filters: [{ key: MESSAGE_TIME, type: DATE_TIME_RANGE }], settings: { fileType: CSV }, headers: { Timezone: 330, language: en } }",
    ),
    ("jaicp-calls", "jaicp: { report: calls, botIds: [\"bot 1\"] }"),
    ("jaicp-query", "jaicp: { query: sessions, filters: [{ key: SESSION_START_TIME, type: DATE_TIME_RANGE }] }"),
];

/// Headers that the HTTP client adds and a plan does not show.
const OF_THE_WIRE: [&str; 5] = ["host", "content-length", "user-agent", "connection", "accept-encoding"];

#[tokio::test(flavor = "multi_thread")]
async fn the_request_that_a_vendor_receives_is_the_one_that_plan_prints() {
    let shop = Shop::open().await;
    for (name, ask) in ASKS {
        shop.job(name, &format!("schedule: \"30 6 * * *\"\nwindow: yesterday\n{ask}\n"));
    }
    for (name, _) in ASKS {
        let plan = offline(shop.folder.path(), &["plan", name, "--at", "2025-03-10 00:00", "--format", "json"]);
        let plan = plan.expect(0).json().remove(0);
        assert_eq!(plan["fire_at"], "2025-03-10T06:30:00+05:30", "{name}");
        assert_eq!(plan["window"]["label"], "2025-03-09", "{name}");
        // By hand at that instant, and with the mails of a scheduled run.
        let at = plan["fire_at"].as_str().unwrap().to_owned();
        let by_hand = ["run-job", name, "--at", &at, "--mail", "--format", "json"];
        let dry = offline(shop.folder.path(), &[&by_hand[..], &["--dry-run"]].concat()).expect(0).json().remove(0);
        assert_eq!(dry, plan, "{name}: run-job --dry-run");
        let before = shop.sandbox.received().len();
        let run = shop.run(&by_hand).await.expect(0).json().remove(0);
        assert!(run["state"] == "archived" || run["state"] == "empty", "{run}");
        let received = shop.sandbox.received().split_off(before);
        same_request(name, &plan["request"], &received[0]);
        let shown = &shop.run(&["show", run["run_id"].as_str().unwrap(), "--format", "json"]).await.expect(0).json()[0];
        assert_eq!(shown["request"], plan["request"], "{name}: show");
    }
    assert!(shop.sandbox.mails().iter().any(|mail| mail.to == "asha@north.example"), "{:?}", shop.sandbox.mails());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_schedule_sends_is_what_plan_prints_to_the_byte() {
    let shop = Shop::open().await;
    shop.clock("2025-03-10T00:59:30Z").await;
    for (name, ask) in ASKS {
        shop.job(name, &format!("schedule: \"30 6 * * *\"\nwindow: yesterday\n{ask}\n"));
    }
    let serving = shop.serve().await;
    shop.advance(std::time::Duration::from_secs(60)).await;
    shop.until_done().await;
    serving.stop().await;
    let received = shop.sandbox.received();
    for (name, _) in ASKS {
        let plan = offline(shop.folder.path(), &["plan", name, "--at", "2025-03-10 00:00", "--format", "json"]);
        let request = plan.expect(0).json().remove(0)["request"].take();
        let url = request["url"].as_str().unwrap().replace("***", credentials::JAICP_TOKEN);
        let path = url.split_once("://").unwrap().1.split_once('/').unwrap().1.to_owned();
        let sent = received.iter().find(|r| {
            r.path.strip_prefix('/') == Some(&path) && (request["body"].is_null() || r.json() == request["body"])
        });
        same_request(name, &request, sent.unwrap_or_else(|| panic!("{name} was not asked for: {request}")));
    }
}

#[track_caller]
fn same_request(name: &str, planned: &Value, received: &sandbox::Received) {
    assert_eq!(received.method, planned["method"], "{name}");
    let url = planned["url"].as_str().unwrap().replace("***", credentials::JAICP_TOKEN);
    let path = url.split_once("://").unwrap().1.split_once('/').unwrap().1;
    assert_eq!(received.path, format!("/{path}"), "{name}");
    // To the byte: the order of keys, too.
    let body = if planned["body"].is_null() { String::new() } else { planned["body"].to_string() };
    assert_eq!(std::str::from_utf8(&received.body).unwrap(), body, "{name}");
    assert_eq!(received.body.is_empty(), planned["body"].is_null(), "{name}");
    let mut headers = planned["headers"].as_object().unwrap().clone();
    let authorization = headers.remove("authorization");
    let authorization = authorization.as_ref().and_then(Value::as_str);
    let scheme = received.header("authorization").map(|sent| sent.split(' ').next().unwrap());
    assert_eq!(scheme, authorization.map(|shown| shown.split(' ').next().unwrap()), "{name}");
    let sent = received.headers.iter().filter(|(k, _)| k != "authorization" && !OF_THE_WIRE.contains(&k.as_str()));
    let sent: Map<String, Value> = sent.map(|(k, v)| (k.clone(), v.as_str().into())).collect();
    assert_eq!(sent, headers, "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_vendor_is_asked_for_days_to_come_whatever_instant_is_named() {
    let shop = Shop::open().await;
    shop.job("ratings", "window: yesterday\nlivechat: { report: chats/ratings }\n");
    let ahead = ["run-job", "ratings", "--at", "9000-01-02 06:30"];
    let ran = shop.run(&ahead).await.expect(2);
    assert!(ran.stderr.contains("9000-01-01 is not over yet"), "{}", ran.stderr);
    assert_eq!(shop.sandbox.received().len(), 0);
    shop.run(&[&ahead[..], &["--dry-run"]].concat()).await.expect(0);
}
