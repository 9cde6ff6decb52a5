//! The keys that a job and `defaults:` share, and the words and values of both, parsed into types. Pure.

use std::time::Duration;

use chrono::{NaiveDate, Weekday};
use chrono_tz::Tz;

use super::Retain;
use super::file::RetainFile;

use crate::request::{OnUnknown, Vendor};
use crate::yaml::{DurationText, Finding, Path, did_you_mean, parse_duration};

/// How far back missed instants are fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// All instants within this time.
    Within(Duration),
    /// The newest only.
    Latest,
    /// None: what was missed stays missed until `fill`.
    None,
}

/// What a fire does while the previous run of its series is not finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// A run is made all the same, and goes when the account's limits let it.
    #[default]
    Queue,
    /// The fire is recorded as skipped.
    Skip,
}

/// The shared keys as written.
#[derive(Clone, Copy, Debug, Default)]
pub struct PolicyFields<'a> {
    /// `catch_up`.
    pub catch_up: Option<&'a str>,
    /// `overlap`.
    pub overlap: Option<&'a str>,
    /// `delay`.
    pub delay: Option<&'a DurationText>,
    /// `deadline`.
    pub deadline: Option<&'a DurationText>,
    /// `give_up`.
    pub give_up: Option<&'a DurationText>,
    /// `on_unknown`.
    pub on_unknown: Option<&'a str>,
    /// `week_start`.
    pub week_start: Option<&'a str>,
    /// `late_after`.
    pub late_after: Option<&'a DurationText>,
}

/// The shared keys, parsed; what is not set here is inherited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartialPolicy {
    /// `catch_up`.
    pub catch_up: Option<CatchUp>,
    /// `overlap`.
    pub overlap: Option<Overlap>,
    /// `delay`.
    pub delay: Option<Duration>,
    /// `deadline`.
    pub deadline: Option<Duration>,
    /// `give_up`.
    pub give_up: Option<Duration>,
    /// `on_unknown`.
    pub on_unknown: Option<OnUnknown>,
    /// `week_start`.
    pub week_start: Option<Weekday>,
    /// `late_after`.
    pub late_after: Option<Duration>,
}

/// The shared keys with nothing left open but what stays open on purpose.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// `catch_up`; `None` = 7 days or one period, the longer.
    pub catch_up: Option<CatchUp>,
    /// `overlap`.
    pub overlap: Overlap,
    /// `delay`: the run waits until window end + delay.
    pub delay: Duration,
    /// `deadline`: polling time.
    pub deadline: Duration,
    /// `give_up`: how long transient errors are retried.
    pub give_up: Duration,
    /// `on_unknown`.
    pub on_unknown: OnUnknown,
    /// `week_start`.
    pub week_start: Weekday,
    /// `late_after`; `None` = no lateness notice.
    pub late_after: Option<Duration>,
}

const WEEKDAYS: [(&str, Weekday); 7] = [
    ("monday", Weekday::Mon),
    ("tuesday", Weekday::Tue),
    ("wednesday", Weekday::Wed),
    ("thursday", Weekday::Thu),
    ("friday", Weekday::Fri),
    ("saturday", Weekday::Sat),
    ("sunday", Weekday::Sun),
];

/// Looks `text` up among `words`; the error lists them, with a guess.
pub fn one_of<T: Copy>(what: &str, text: &str, words: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let guess = did_you_mean(text, &list).map_or_else(String::new, |w| format!(", did you mean '{w}'?"));
    Err(format!("unknown {what} '{text}'{guess} (expected {})", list.join(", ")))
}

fn catch_up(text: &str) -> Result<CatchUp, String> {
    match text {
        "latest" => Ok(CatchUp::Latest),
        "none" => Ok(CatchUp::None),
        other => match parse_duration(other) {
            Ok(duration) => Ok(CatchUp::Within(duration)),
            Err(_) => Err(format!("catch_up '{other}' is neither a duration such as 7d nor latest nor none")),
        },
    }
}

impl PartialPolicy {
    /// Parses the keys that are set; each problem carries its path below `at`.
    pub fn compile(fields: PolicyFields<'_>, at: &Path, out: &mut Vec<Finding>) -> PartialPolicy {
        let overlaps = [("queue", Overlap::Queue), ("skip", Overlap::Skip)];
        let choices = [("hold", OnUnknown::Hold), ("resubmit", OnUnknown::Resubmit)];
        let time = |text: Option<&DurationText>| text.map(|t| parse_duration(&t.0));
        PartialPolicy {
            catch_up: keep(fields.catch_up.map(catch_up), "catch_up", at, out),
            overlap: keep(fields.overlap.map(|t| one_of("overlap", t, &overlaps)), "overlap", at, out),
            on_unknown: keep(fields.on_unknown.map(|t| one_of("on_unknown", t, &choices)), "on_unknown", at, out),
            week_start: keep(fields.week_start.map(|t| one_of("week_start", t, &WEEKDAYS)), "week_start", at, out),
            delay: keep(time(fields.delay), "delay", at, out),
            deadline: keep(time(fields.deadline), "deadline", at, out),
            give_up: keep(time(fields.give_up), "give_up", at, out),
            late_after: keep(time(fields.late_after), "late_after", at, out),
        }
    }

    /// This policy over `defaults` over the built-in values for `vendor` (DESIGN 2: deadline BIK 30 m, JAICP 60 m;
    /// LiveChat answers at once, so its deadline is never reached).
    pub fn over(&self, defaults: &PartialPolicy, vendor: Vendor) -> Policy {
        let built_in = Duration::from_secs(if vendor == Vendor::Bik { 30 * 60 } else { 60 * 60 });
        Policy {
            catch_up: self.catch_up.or(defaults.catch_up),
            overlap: self.overlap.or(defaults.overlap).unwrap_or_default(),
            delay: self.delay.or(defaults.delay).unwrap_or_default(),
            deadline: self.deadline.or(defaults.deadline).unwrap_or(built_in),
            give_up: self.give_up.or(defaults.give_up).unwrap_or(Duration::from_secs(24 * 3600)),
            on_unknown: self.on_unknown.or(defaults.on_unknown).unwrap_or(OnUnknown::Hold),
            week_start: self.week_start.or(defaults.week_start).unwrap_or(Weekday::Mon),
            late_after: self.late_after.or(defaults.late_after),
        }
    }
}

/// The value of a key that parsed; a key that did not is reported at its place and counts as not set.
pub fn keep<T>(parsed: Option<Result<T, String>>, key: &str, at: &Path, out: &mut Vec<Finding>) -> Option<T> {
    match parsed? {
        Ok(value) => Some(value),
        Err(message) => {
            out.push(Finding::error(at.key(key), message));
            None
        }
    }
}

/// Parses an IANA zone name; the error has a guess.
pub fn parse_zone(text: &str) -> Result<Tz, String> {
    text.parse::<Tz>().map_err(|_| {
        let names: Vec<&str> = chrono_tz::TZ_VARIANTS.iter().map(|tz| tz.name()).collect();
        let guess = did_you_mean(text, &names).map_or_else(String::new, |w| format!(", did you mean '{w}'?"));
        format!("unknown zone '{text}'{guess} (an IANA name such as Asia/Kolkata)")
    })
}

pub(super) fn parse_date(text: &str) -> Result<NaiveDate, String> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .ok()
        .filter(|_| text.len() == 10)
        .ok_or_else(|| format!("'{text}' is not a date: write 2026-01-31"))
}

/// Compiles `retain:`.
pub fn compile_retain(file: Option<&RetainFile>, at: &Path, out: &mut Vec<Finding>) -> Retain {
    let Some(file) = file else { return Retain::default() };
    let time = |text: Option<&DurationText>| text.map(|t| parse_duration(&t.0));
    if file.revisions == Some(0) {
        out.push(Finding::error(at.key("revisions"), "revisions is at least 1: the newest always stays"));
    }
    Retain {
        artifacts: keep(time(file.artifacts.as_ref()), "artifacts", at, out),
        revisions: file.revisions,
        events: keep(time(file.events.as_ref()), "events", at, out),
    }
}
