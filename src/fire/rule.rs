//! What a job file and its connection say of a series' instants, in the form in which the database keeps it, and the
//! history of its versions.
//!
//! An instant is decided by the rule that was in force at it, also when it is decided days later and the file has changed
//! since. Rules hold no `H`, no default and no reference to a file: they mean the same for ever.

use chrono::{DateTime, Utc, Weekday};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::job::schedule::{Cron, Schedule};
use crate::job::{Job, Series};
use crate::request::window::{Window, WindowRule};

/// One version, as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Stored {
    /// Five fields each, `H` replaced; none = names no instant.
    crons: Vec<String>,
    zone: Tz,
    /// A window word; none = the job runs by hand with a window given each time.
    window: Option<String>,
    week_start: Weekday,
    /// The file's `paused`.
    paused: Option<String>,
}

/// One version of what a series' file says of its instants.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// When it fires; `None` = never by itself.
    pub schedule: Option<Schedule>,
    /// The calendar.
    pub zone: Tz,
    /// What a fire covers.
    pub window: Option<WindowRule>,
    /// First day of a week.
    pub week_start: Weekday,
    /// The file's reason not to fire.
    pub paused: Option<String>,
}

impl Rule {
    /// What the file says today.
    pub fn of(job: &Job, series: &Series) -> Rule {
        Rule {
            schedule: series.schedule(),
            zone: series.zone,
            window: job.window,
            week_start: job.policy.week_start,
            paused: job.paused.clone(),
        }
    }

    /// A rule that names no instant and says nothing else.
    pub fn nothing() -> Rule {
        Rule { schedule: None, zone: Tz::UTC, window: None, week_start: Weekday::Mon, paused: None }
    }

    /// The rule of a series whose file is gone: it names no instant.
    #[must_use]
    pub fn removed(&self) -> Rule {
        Rule { schedule: None, ..self.clone() }
    }

    /// The stored form.
    pub fn to_json(&self) -> Value {
        let crons = self.schedule.iter().flat_map(Schedule::crons).map(|cron| cron.resolved().to_owned()).collect();
        let stored = Stored {
            crons,
            zone: self.zone,
            window: self.window.map(|window| window.to_string()),
            week_start: self.week_start,
            paused: self.paused.clone(),
        };
        // Strings and lists of strings, which JSON can always hold.
        serde_json::to_value(stored).unwrap_or_default()
    }

    /// Reads the stored form; the error says what this reportd does not understand of it.
    pub fn from_json(json: &Value) -> Result<Rule, String> {
        let stored: Stored = serde_json::from_value(json.clone()).map_err(|e| e.to_string())?;
        // Stored crons have no H left, so no series' name is needed.
        let crons: Result<Vec<Cron>, _> = stored.crons.iter().map(|text| Cron::parse(text, "")).collect();
        let crons = crons.map_err(|e| e.to_string())?;
        let window = stored.window.map(|text| text.parse::<WindowRule>()).transpose().map_err(|e| e.to_string())?;
        Ok(Rule {
            schedule: (!crons.is_empty()).then(|| Schedule::new(crons, stored.zone)),
            zone: stored.zone,
            window,
            week_start: stored.week_start,
            paused: stored.paused,
        })
    }

    /// What the fire at this instant covers; `None` when that is empty.
    pub fn window_at(&self, fire_at: DateTime<Utc>) -> Option<Window> {
        self.window?.at(fire_at, self.zone, self.week_start)
    }

    /// Whether its windows end at the fire itself.
    pub fn provisional(&self) -> bool {
        self.window.is_some_and(|window| window.provisional())
    }
}

/// The versions of a series' rule, in order of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    versions: Vec<(DateTime<Utc>, Rule)>,
}

impl Rules {
    /// Versions in any order, each with the instant from which it is in force; the earliest also counts before.
    pub fn new(mut versions: Vec<(DateTime<Utc>, Rule)>) -> Rules {
        versions.sort_by_key(|(from, _)| *from);
        Rules { versions }
    }

    /// One rule for all time.
    pub fn only(rule: Rule) -> Rules {
        Rules { versions: vec![(DateTime::<Utc>::MIN_UTC, rule)] }
    }

    /// Reads stored versions.
    pub fn from_rows(rows: &[(DateTime<Utc>, Value)]) -> Result<Rules, String> {
        let versions: Result<Vec<_>, String> =
            rows.iter().map(|(from, json)| Ok((*from, Rule::from_json(json)?))).collect();
        Ok(Rules::new(versions?))
    }

    /// Adds a version that is in force from `from` on, in place of any later one.
    pub fn then(&mut self, from: DateTime<Utc>, rule: Rule) {
        self.versions.retain(|(at, _)| *at < from);
        self.versions.push((from, rule));
    }

    /// The newest version.
    pub fn newest(&self) -> Option<&Rule> {
        self.versions.last().map(|(_, rule)| rule)
    }

    /// The versions, each with the instants `[from, until)` in which it is in force; the first one also counts before.
    pub fn stretches(&self) -> impl Iterator<Item = (DateTime<Utc>, Option<DateTime<Utc>>, &Rule)> {
        self.versions.iter().enumerate().map(|(index, (from, rule))| {
            let from = if index == 0 { DateTime::<Utc>::MIN_UTC } else { *from };
            (from, self.versions.get(index + 1).map(|(until, _)| *until), rule)
        })
    }

    /// The version in force at an instant.
    pub fn at(&self, instant: DateTime<Utc>) -> Option<&Rule> {
        let index = self.versions.partition_point(|(from, _)| *from <= instant);
        self.versions.get(index.saturating_sub(1)).map(|(_, rule)| rule)
    }

    /// The first instant strictly after `after` that the version in force at it names.
    pub fn next(&self, after: DateTime<Utc>) -> Option<(DateTime<Utc>, &Rule)> {
        let first = self.versions.partition_point(|(from, _)| *from <= after).saturating_sub(1);
        let mut after = after;
        for (index, (_, rule)) in self.versions.iter().enumerate().skip(first) {
            let until = self.versions.get(index + 1).map(|(from, _)| *from);
            let fire = rule.schedule.as_ref().and_then(|schedule| schedule.next(after));
            if let Some(fire) = fire.filter(|fire| until.is_none_or(|until| *fire < until)) {
                return Some((fire, rule));
            }
            // The next version may name the very instant at which it comes into force.
            after = until? - chrono::TimeDelta::nanoseconds(1);
        }
        None
    }

    /// All instants in `(after, until]`, in order.
    pub fn between(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> impl Iterator<Item = (DateTime<Utc>, &Rule)> {
        std::iter::successors(self.next(after), |(fire, _)| self.next(*fire))
            .take_while(move |(fire, _)| *fire <= until)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use chrono_tz::TZ_VARIANTS;

    use super::*;
    use crate::request::window::{offset_at, offset_change};

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("instant")
    }

    fn rule(cron: &str) -> Rule {
        let zone = Tz::Europe__Berlin;
        Rule {
            schedule: Some(Schedule::new(vec![Cron::parse(cron, "job@shop").expect("cron")], zone)),
            zone,
            window: Some(WindowRule::Yesterday),
            week_start: Weekday::Mon,
            paused: None,
        }
    }

    #[test]
    fn a_rule_means_the_same_after_it_was_stored() {
        let spread = rule("H 6 * * *");
        let back = Rule::from_json(&spread.to_json()).expect("rule");
        assert_eq!(back.to_json(), spread.to_json());
        let from = utc("2026-11-01T00:00:00Z");
        let next = |rule: &Rule| rule.schedule.as_ref().and_then(|s| s.next(from));
        assert_eq!(next(&back), next(&spread));
        assert_eq!(Rule::from_json(&spread.removed().to_json()).expect("rule").schedule, None);
        assert!(Rule::from_json(&serde_json::json!({ "crons": ["0 6 * * *"] })).is_err());
    }

    #[test]
    fn each_instant_belongs_to_the_version_in_force_at_it() {
        let change = utc("2026-11-10T05:00:00Z");
        let rules = Rules::new(vec![(change, rule("0 7 * * *")), (utc("2026-11-05T00:00:00Z"), rule("0 6 * * *"))]);
        let fires: Vec<_> =
            rules.between(utc("2026-11-08T00:00:00Z"), utc("2026-11-11T23:00:00Z")).map(|(fire, _)| fire).collect();
        // 06:00 of the 10th is the very instant of the change: the new version is in force at it and does not name it.
        let expected = ["2026-11-08T05:00:00Z", "2026-11-09T05:00:00Z", "2026-11-10T06:00:00Z", "2026-11-11T06:00:00Z"];
        assert_eq!(fires, expected.map(utc));
        // The first version also counts before it was seen.
        assert_eq!(rules.next(utc("2026-01-01T00:00:00Z")).map(|(fire, _)| fire), Some(utc("2026-01-01T05:00:00Z")));
        let same = Rules::new(vec![
            (utc("2026-11-05T00:00:00Z"), rule("0 6 * * *")),
            (utc("2026-11-10T06:00:00Z"), rule("0 7 * * *")),
        ]);
        let on_the_10th: Vec<_> = same.between(utc("2026-11-09T12:00:00Z"), utc("2026-11-10T12:00:00Z")).collect();
        assert_eq!(on_the_10th.len(), 2, "both 06:00 of the old and 07:00 of the new version");
    }

    #[test]
    fn a_schedule_of_every_hour_names_every_hour_around_every_change_of_the_clock() {
        let day = TimeDelta::days(1);
        let mut changes = 0;
        for zone in TZ_VARIANTS {
            let mut from = utc("2005-01-01T00:00:00Z");
            while from < utc("2028-01-01T00:00:00Z") {
                let until = from + day * 4;
                if offset_at(from, zone) != offset_at(until, zone) {
                    let change = offset_change(from, until, zone);
                    changes += 1;
                    // One zone of many with the same change is enough for the odd minute.
                    let crons: &[&str] =
                        if changes % 20 == 0 { &["0 * * * *", "5 * * * *", "59 * * * *"] } else { &["0 * * * *"] };
                    for cron in crons {
                        let schedule = Schedule::new(vec![Cron::parse(cron, "job@shop").expect("cron")], zone);
                        let fires = schedule.between(change - day / 4, change + day / 4, 99);
                        let windows: Vec<_> = fires
                            .iter()
                            .filter_map(|fire| WindowRule::PreviousHour.at(*fire, zone, Weekday::Mon))
                            .collect();
                        assert!(windows.len() > 8, "{zone} {change}");
                        for pair in windows.windows(2) {
                            assert!(pair[1].start() <= pair[0].end(), "{zone} {cron}: a hole after {:?}", pair[0]);
                        }
                    }
                }
                from = until;
            }
        }
        assert!(changes > 10_000, "{changes}");
    }

    #[test]
    fn a_removed_file_names_nothing_until_it_is_back() {
        let daily = rule("0 6 * * *");
        let rules = Rules::new(vec![
            (utc("2026-11-01T00:00:00Z"), daily.clone()),
            (utc("2026-11-03T00:00:00Z"), daily.removed()),
            (utc("2026-11-06T00:00:00Z"), daily),
        ]);
        let days: Vec<String> = rules
            .between(utc("2026-11-01T00:00:00Z"), utc("2026-11-07T23:00:00Z"))
            .map(|(fire, _)| fire.format("%d").to_string())
            .collect();
        assert_eq!(days, ["01", "02", "06", "07"]);
        assert_eq!(Rules::new(Vec::new()).next(utc("2026-11-01T00:00:00Z")), None);
    }
}
