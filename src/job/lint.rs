//! Warnings about jobs that are valid and yet will surprise: holes between windows, double fetches, daylight-saving hours.
//!
//! `validate --strict` turns them into errors. Pure: the instant from which schedules are looked at is passed in.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::resolve::{self, Mailing};
use super::schedule::DstKind;
use super::{Job, Series, connection, series_name};
use crate::connection::Connection;
use crate::request::Vendor;
use crate::request::window::{Window, WindowRule};
use crate::yaml::{Finding, Path};

/// Fires that are looked at to compare windows: two weeks of a daily job, a year of a monthly one.
const FIRES: usize = 14;

fn warn(path: Path, message: String) -> Finding {
    Finding::warning(path, message)
}

/// Warnings about one job.
pub fn job(job: &Job, now: DateTime<Utc>) -> Vec<Finding> {
    let mut out = Vec::new();
    let at = |i: usize, n: usize| {
        let key = Path::root().key("schedule");
        if n == 1 { key } else { key.index(i) }
    };
    for series in &job.series {
        let Some(schedule) = series.schedule() else { continue };
        let n = series.crons.len();
        for (i, cron) in series.crons.iter().enumerate() {
            if cron.both_day_fields() {
                let message = "day of month and day of week are both set: the job fires when either matches".to_owned();
                out.push(warn(at(i, n), message));
            }
            if let Some(day) = cron.late_month_day() {
                out.push(warn(at(i, n), format!("day {day} does not exist in every month, and is skipped there")));
            }
        }
        if let Some(never) = schedule.never_fires() {
            let i = series.crons.iter().position(|c| c == never).unwrap_or(0);
            out.push(warn(at(i, n), format!("'{}' never fires", never.text())));
            continue;
        }
        for hit in schedule.dst_hits(now) {
            let fate = match hit.kind {
                DstKind::Gap => "does not exist; it fires at the first instant after",
                DstKind::Overlap => "happens twice; it fires at the first",
            };
            let message =
                format!("the clock change in {}: on {} {} {fate}", series.zone, hit.date, hit.time.format("%H:%M"));
            out.push(warn(at(hit.cron, n), message));
        }
        out.extend(windows(job, series, now));
    }
    // Series of one job differ by zone and `H` only; what holds for all of them is said once.
    out.dedup();
    let mut seen = Vec::new();
    out.retain(|finding| {
        let new = !seen.contains(finding);
        if new {
            seen.push(finding.clone());
        }
        new
    });
    out
}

/// Compares the windows of successive fires.
fn windows(job: &Job, series: &Series, now: DateTime<Utc>) -> Option<Finding> {
    let (rule, schedule) = (job.window?, series.schedule()?);
    let path = Path::root().key("window");
    if let WindowRule::Fixed { .. } = rule {
        return Some(warn(path, "a fixed window with a schedule: every fire after the first finds it held".into()));
    }
    let fires = schedule.between(now, now + chrono::TimeDelta::days(4000), FIRES);
    let windows: Vec<Window> =
        fires.iter().filter_map(|fire| rule.at(*fire, series.zone, job.policy.week_start)).collect();
    if windows.len() < fires.len() {
        return Some(warn(
            path,
            format!("{rule} is empty at some of this schedule's fires (the clock stands at the window's start)"),
        ));
    }
    if rule.provisional() {
        return None;
    }
    for pair in windows.windows(2) {
        let (one, two) = (pair[0], pair[1]);
        if one.end() < two.start() {
            let message = format!(
                "the window is shorter than the schedule's step, which leaves holes: {} is followed by {}",
                one.label(),
                two.label()
            );
            return Some(warn(path, message));
        }
        if one.end() > two.start() {
            let message = format!(
                "the window is longer than the schedule's step, which fetches time twice: {} is followed by {}",
                one.label(),
                two.label()
            );
            return Some(warn(path, message));
        }
    }
    None
}

/// What one series asks for, as a key: equal keys are the same report over the same window for the same people.
#[derive(Clone, Debug)]
pub struct Asked {
    series: String,
    vendor: Vendor,
    mails: bool,
    key: String,
}

/// What each series of a job asks for; made for each file by itself, so that many files are done side by side.
pub fn asked(job: &Job, connections: &[Connection], now: DateTime<Utc>) -> Vec<Asked> {
    let one = |series: &Series| {
        let (rule, c) = (job.window?, connection(connections, &series.connection)?);
        let window = rule.at(now, series.zone, job.policy.week_start)?;
        let request = resolve::request(job, c, &window, Mailing::Job).ok()?;
        let mut emails = request.emails.clone();
        emails.sort();
        let (vendor, zone) = (request.vendor, series.zone);
        let key = format!("{vendor} {} {} {rule} {zone} {emails:?} {}", c.name, request.base_url, request.content_hash);
        Some(Asked { series: series_name(&job.name, &c.name), vendor, mails: !emails.is_empty(), key })
    };
    job.series.iter().filter_map(one).collect()
}

/// Warnings across jobs: two series that send the same request mail people twice and pay twice. `asked` has one entry a job;
/// the answer is (job's index, finding).
pub fn across(asked: &[Vec<Asked>]) -> Vec<(usize, Finding)> {
    let mut first: HashMap<&str, &str> = HashMap::new();
    let mut out = Vec::new();
    for (index, asked) in asked.iter().enumerate().flat_map(|(index, list)| list.iter().map(move |a| (index, a))) {
        match first.get(asked.key.as_str()) {
            Some(other) => {
                let twice = if asked.mails { "mails people twice" } else { "is fetched twice" };
                let message = format!("asks for the same report over the same window as {other}, which {twice}");
                out.push((index, Finding::warning(Path::root().key(asked.vendor.as_str()), message).at_key()));
            }
            None => drop(first.insert(&asked.key, &asked.series)),
        }
    }
    out
}

/// Warns about strings that look like credentials: a JAICP path token, or an Authorization value.
pub fn secrets(value: &serde_json::Value, at: &Path, out: &mut Vec<Finding>) {
    match value {
        serde_json::Value::String(text) if looks_secret(text) => {
            let message = "this looks like a secret in clear: put it where env:NAME or file:PATH can point".to_owned();
            out.push(Finding::warning(at.clone(), message).secret());
        }
        serde_json::Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| secrets(v, &at.index(i), out)),
        serde_json::Value::Object(map) => map.iter().for_each(|(k, v)| secrets(v, &at.key(k), out)),
        _ => {}
    }
}

/// A JAICP token is 8 letters, a colon and 40 hex digits; Basic and Bearer values carry long words without spaces.
fn looks_secret(text: &str) -> bool {
    let jaicp = text.split(|c: char| c.is_whitespace() || c == '/').any(|word| {
        word.split_once(':').is_some_and(|(head, tail)| {
            head.len() == 8
                && head.bytes().all(|b| b.is_ascii_alphabetic())
                && tail.len() == 40
                && tail.bytes().all(|b| b.is_ascii_hexdigit())
        })
    });
    let scheme =
        ["Basic ", "Bearer "].iter().any(|s| text.strip_prefix(s).is_some_and(|v| v.len() >= 16 && !v.contains(' ')));
    let in_url = url::Url::parse(text).is_ok_and(|url| url.password().is_some());
    jaicp || scheme || in_url
}
