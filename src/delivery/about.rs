//! What a delivery tells of: its cause and the windows it is about, frozen when it is made, so that every try says the same.
//! Fills the placeholders of a notice. Pure.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Cause;
use crate::request::window::rfc3339_in;
use crate::template::{Name, Place, Template, Tree};
use crate::yaml::Path;

/// Most windows that one notice names; of the others it gives the number.
pub const MOST: usize = 100;

/// The window a notice is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AboutWindow {
    /// Start.
    pub start: DateTime<Utc>,
    /// Open end.
    pub end: DateTime<Utc>,
    /// Zone.
    pub zone: Tz,
    /// Name in the archive.
    pub label: String,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AboutFailure {
    /// The contract's class of a run's failure; `breaker` and `late` besides.
    pub class: String,
    /// In words, redacted.
    pub message: String,
}

/// One run or window that a notice is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Job name; `None` = an account, whatever the job.
    pub job: Option<String>,
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: String,
    /// The run, where there is one.
    pub run_id: Option<Uuid>,
    /// Its window.
    pub window: Option<AboutWindow>,
    /// What happened, unless all is well.
    pub failure: Option<AboutFailure>,
    /// When that was.
    pub at: DateTime<Utc>,
}

/// What a delivery tells of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Why it was made.
    pub cause: Cause,
    /// For a recovery: what had been told before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Cause>,
    /// The windows, the oldest first; at least one, at most [`MOST`].
    pub members: Vec<Member>,
    /// How many more there are.
    pub more: u64,
}

impl About {
    /// How many windows or accounts it is about.
    pub fn count(&self) -> u64 {
        self.members.len() as u64 + self.more
    }

    /// A notice's text with its placeholders filled.
    pub fn fill(&self, text: &str) -> String {
        match Template::parse(text, Place::Notice) {
            Ok(template) => match template.fill(&|name| self.lookup(name)) {
                Value::String(text) => text,
                other => other.to_string(),
            },
            // Job files with such a text are not taken, so this one was not written by us: it is sent as it is.
            Err(_) => text.to_owned(),
        }
    }

    /// A notice's JSON with the placeholders in its texts filled.
    pub fn fill_all(&self, body: &Map<String, Value>) -> Map<String, Value> {
        let body = Value::Object(body.clone());
        match Tree::parse(&body, Place::Notice, &Path::root(), &mut |_, _| {}).fill(&|name| self.lookup(name)) {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    fn lookup(&self, name: &Name) -> Value {
        let windows = || self.members.iter().filter_map(|member| member.window.as_ref());
        let text = match name {
            Name::Job => self.several(|member| member.job.clone()),
            Name::Connection => self.several(|member| Some(member.connection.clone())),
            Name::WindowLabel => self.several(|member| member.window.as_ref().map(|window| window.label.clone())),
            Name::WindowStart => {
                windows().min_by_key(|w| w.start).map(|w| rfc3339_in(w.start, w.zone)).unwrap_or_default()
            }
            Name::WindowEnd => windows().max_by_key(|w| w.end).map(|w| rfc3339_in(w.end, w.zone)).unwrap_or_default(),
            Name::Failure => self.several(|member| member.failure.as_ref().map(|failure| failure.message.clone())),
            Name::Run => self.several(|member| member.run_id.map(|id| id.to_string())),
            // Filled when the notice was frozen.
            Name::Var(_) => String::new(),
        };
        Value::String(text)
    }

    /// The one value that all members have, or the first with the number of the others.
    fn several(&self, of: impl Fn(&Member) -> Option<String>) -> String {
        let mut values: Vec<String> = Vec::new();
        for value in self.members.iter().filter_map(of) {
            if !values.contains(&value) {
                values.push(value);
            }
        }
        let Some(first) = values.first() else { return String::new() };
        // Of those that are not named nobody knows whether they have another value; windows and runs always do.
        match values.len() as u64 - 1 + if values.len() == self.members.len() { self.more } else { 0 } {
            0 => first.clone(),
            others => format!("{first} and {others} more"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A member for tests: one failed run of a day.
    pub(crate) fn failed(job: &str, day: u32, message: &str) -> Member {
        let start = chrono::NaiveDate::from_ymd_opt(2026, 3, day).unwrap().and_hms_opt(0, 0, 0).unwrap().and_utc();
        Member {
            job: Some(job.to_owned()),
            connection: "north".into(),
            vendor: "livechat".into(),
            run_id: Some(Uuid::from_u128(u128::from(day))),
            window: Some(AboutWindow {
                start,
                end: start + chrono::TimeDelta::days(1),
                zone: Tz::UTC,
                label: format!("2026-03-{day:02}"),
            }),
            failure: Some(AboutFailure { class: "gave_up".into(), message: message.into() }),
            at: start,
        }
    }

    fn about(members: Vec<Member>, more: u64) -> About {
        About { cause: Cause::Failed, after: None, members, more }
    }

    #[test]
    fn one_run_fills_every_placeholder_with_its_own() {
        let one = about(vec![failed("ratings", 3, "no {job} answer")], 0);
        assert_eq!(
            one.fill("{job}@{connection} {window.label} {window.start} {failure} {run} {{x"),
            "ratings@north 2026-03-03 2026-03-03T00:00:00+00:00 no {job} answer 00000000-0000-0000-0000-000000000003 {x"
        );
    }

    #[test]
    fn many_runs_are_named_by_the_first_and_their_number() {
        let many = about(vec![failed("ratings", 3, "x"), failed("ratings", 4, "x"), failed("ratings", 5, "y")], 7);
        assert_eq!(many.fill("{job}: {failure}; {window.label}"), "ratings: x and 1 more; 2026-03-03 and 9 more");
        assert_eq!(many.fill("{window.start}/{window.end}"), "2026-03-03T00:00:00+00:00/2026-03-06T00:00:00+00:00");
    }
}
