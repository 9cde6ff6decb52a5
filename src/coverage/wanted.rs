//! Rules x time -> the windows that are wanted. Pure.
//!
//! A window is wanted when an instant that has come names it, or when none does only because the rule was changed between two.
//! Each counts once, for the first instant that names it. How many instants are looked at is bounded: a schedule of every minute
//! since 2000 is refused, not computed.

use std::collections::HashSet;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;

use super::Span;
use crate::fire::decide::is_wanted;
use crate::fire::rule::{Rule, Rules};
use crate::job::schedule::Schedule;
use crate::request::window::{Window, WindowRule, day_start};

/// Most instants that are looked at for one series: every hour for 28 years.
pub const MOST: usize = 250_000;

/// What decides which windows of a series are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// Its rules, with their history.
    pub rules: &'a Rules,
    /// The zone in which dates are read.
    pub zone: Tz,
    /// The file's `since`.
    pub since: Option<NaiveDate>,
    /// When it first belonged to the set in force.
    pub first_seen: Option<DateTime<Utc>>,
    /// End of the earliest window that is held: windows of a month so far all start with it.
    pub earliest_held: Option<DateTime<Utc>>,
    /// The dates that are asked about.
    pub span: Span,
    /// How long after a window's end its report is final.
    pub delay: TimeDelta,
    /// The present instant.
    pub now: DateTime<Utc>,
}

/// A window that is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// The window.
    pub window: Window,
    /// The first instant that names it.
    pub fire_at: DateTime<Utc>,
    /// Its report may still change, by the rule.
    pub provisional: bool,
    /// The file said `paused` at that instant.
    pub paused: bool,
    /// Its end, and the delay after it, have come: it may be asked for.
    pub ripe: bool,
}

/// More instants than are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its schedule names more than {MOST} instants since {0}: say with --from where to begin")]
pub struct TooMany(pub NaiveDate);

impl Expectation<'_> {
    /// Whether any version of the rules ever named an instant.
    pub fn is_scheduled(&self) -> bool {
        self.rules.stretches().any(|(_, _, rule)| rule.schedule.is_some())
    }

    /// The wanted windows, in the order of the instants that name them.
    pub fn windows(&self) -> Result<Vec<Wanted>, TooMany> {
        let end = self.span.end(self.zone);
        let mut seen = HashSet::new();
        let mut wanted = Vec::new();
        let mut looked_at = 0;
        let mut past = Past::default();
        for (from, until, rule) in self.rules.stretches() {
            let Some(schedule) = &rule.schedule else { continue };
            let Some(floor) = self.floor(rule) else { continue };
            if from > DateTime::<Utc>::MIN_UTC {
                let forgotten = self.forgotten(rule, &past, floor, from)?;
                wanted.extend(forgotten.into_iter().filter(|one| seen.insert((one.window.start(), one.window.end()))));
            }
            past.add(rule, from, until);
            // The version is in force at the very instant at which it begins.
            let begin = floor.max(from.checked_sub_signed(TimeDelta::nanoseconds(1)).unwrap_or(from));
            let in_force = |fire: &DateTime<Utc>| *fire <= self.now && until.is_none_or(|until| *fire < until);
            for fire_at in schedule.after(begin).take_while(in_force) {
                looked_at += 1;
                if looked_at > MOST {
                    return Err(TooMany((begin + TimeDelta::seconds(1)).with_timezone(&rule.zone).date_naive()));
                }
                let Some(window) = rule.window_at(fire_at) else { continue };
                // Windows of one rule never go back in time, so the first one past the end is the last to look at.
                if end.is_some_and(|end| window.start() >= end) {
                    break;
                }
                if self.is_asked_for(&window, fire_at) && seen.insert((window.start(), window.end())) {
                    wanted.push(self.wanted(window, fire_at, rule));
                }
                if is_fixed(rule) {
                    break;
                }
            }
        }
        wanted.sort_by_key(|one| one.fire_at);
        Ok(wanted)
    }

    fn wanted(&self, window: Window, fire_at: DateTime<Utc>, rule: &Rule) -> Wanted {
        Wanted {
            window,
            fire_at,
            provisional: rule.provisional(),
            paused: rule.paused.is_some(),
            ripe: window.end().checked_add_signed(self.delay).is_some_and(|ripe| ripe <= self.now),
        }
    }

    /// Windows that no instant names because the rule was changed, or its file was away: a cron that is moved from 08:30 to
    /// 06:30 at 07:00 names yesterday neither way. This version would have named them, had it been in force earlier; they lie
    /// between what was named before and the first that it names; and the version before it, had it gone on, would have
    /// covered them. Days that no version meant to cover are none.
    fn forgotten(
        &self,
        rule: &Rule,
        past: &Past<'_>,
        floor: DateTime<Utc>,
        from: DateTime<Utc>,
    ) -> Result<Vec<Wanted>, TooMany> {
        let Some(schedule) = rule.schedule.as_ref().filter(|_| !is_fixed(rule) && !rule.provisional()) else {
            return Ok(Vec::new());
        };
        let first = schedule.next(from - TimeDelta::nanoseconds(1)).and_then(|fire| rule.window_at(fire));
        let until = first.map_or(from, |window| window.start());
        let begin = past.named_to.map_or(floor, |named_to| named_to.max(floor));
        let too_many = || TooMany(begin.with_timezone(&rule.zone).date_naive());
        let Some(last) = past.last else {
            // The first version with a schedule. What lies before it is wanted where somebody says so.
            if self.since.is_none() && self.span.from.is_none() {
                return Ok(Vec::new());
            }
            return self.named_before(rule, schedule, begin, from, |window| window.end() <= until).ok_or_else(too_many);
        };
        let would_have = last.would_have_covered(begin, until).ok_or_else(too_many)?;
        // After a change of zone only a part of a day may be in the hole: the whole of it is fetched then.
        let in_a_hole = |window: &Window| {
            let new = past.named_to.map_or(window.start(), |named_to| window.start().max(named_to)).max(begin);
            new < window.end() && window.end() <= until && would_have.covers(new, window.end())
        };
        self.named_before(rule, schedule, begin, from, in_a_hole).ok_or_else(too_many)
    }

    /// What the rule's instants in `(begin, from)` name and `is_wanted` takes; `None` = more than can be looked at.
    fn named_before(
        &self,
        rule: &Rule,
        schedule: &Schedule,
        begin: DateTime<Utc>,
        from: DateTime<Utc>,
        is_wanted: impl Fn(&Window) -> bool,
    ) -> Option<Vec<Wanted>> {
        let mut windows = Vec::new();
        let before = |fire: &DateTime<Utc>| *fire < from && *fire <= self.now;
        for (looked_at, fire_at) in schedule.after(begin).take_while(before).enumerate() {
            if looked_at == MOST {
                return None;
            }
            let Some(window) = rule.window_at(fire_at) else { continue };
            if is_wanted(&window) && self.is_asked_for(&window, fire_at) {
                windows.push(self.wanted(window, fire_at, rule));
            }
        }
        Some(windows)
    }

    /// Instants up to here need not be looked at under this rule; `None` = nothing says where wanting begins.
    fn floor(&self, rule: &Rule) -> Option<DateTime<Utc>> {
        // Windows end at the latest when they are named, so what overlaps the span was named after the span began. Fixed
        // dates may be named long before.
        let start = self.span.start(self.zone);
        let begin = match self.since {
            Some(since) => Some(day_start(since, rule.zone) - TimeDelta::seconds(1)),
            // The very instant at which the earliest one ended may have named it.
            None => {
                let held = self.earliest_held.map(|held| held - TimeDelta::seconds(1));
                [self.first_seen, held, start].into_iter().flatten().min()
            }
        };
        match (begin, start) {
            (Some(begin), Some(start)) if !is_fixed(rule) => Some(begin.max(start)),
            (begin, _) => begin,
        }
    }

    fn is_asked_for(&self, window: &Window, fire_at: DateTime<Utc>) -> bool {
        let known = self.since.is_some()
            || self.span.from.is_some()
            || self.first_seen.is_some_and(|seen| fire_at > seen)
            || self.earliest_held.is_some_and(|held| window.end() >= held);
        known && is_wanted(window, self.since) && self.span.overlaps(window, self.zone)
    }
}

/// What the versions before one named, and the last of them would have gone on to name.
#[derive(Default)]
struct Past<'a> {
    /// The end of the last window that one of them named.
    named_to: Option<DateTime<Utc>>,
    last: Option<Last<'a>>,
}

/// The last version with a schedule.
#[derive(Clone, Copy)]
struct Last<'a> {
    rule: &'a Rule,
    schedule: &'a Schedule,
    ended: DateTime<Utc>,
}

impl<'a> Past<'a> {
    /// Adds the next version, in force in `[from, until)`. Fixed dates are the same for every instant: nothing follows from them.
    fn add(&mut self, rule: &'a Rule, from: DateTime<Utc>, until: Option<DateTime<Utc>>) {
        let (Some(schedule), Some(until)) = (&rule.schedule, until) else { return };
        if is_fixed(rule) {
            return;
        }
        let this = Last { rule, schedule, ended: until };
        // One that named nothing, as a mistake that was corrected at once, takes nothing of what was meant before.
        self.last = self.last.or(Some(this));
        // Its last instant is looked for from the end, because a version may have been in force for years.
        for hours in [1, 24, 8 * 24, 32 * 24, 367 * 24, 9 * 366 * 24] {
            let begin = until - TimeDelta::hours(hours);
            let begin = begin.max(from.checked_sub_signed(TimeDelta::nanoseconds(1)).unwrap_or(from));
            let named =
                schedule.after(begin).take_while(|fire| *fire < until).filter_map(|fire| rule.window_at(fire)).last();
            if let Some(window) = named {
                self.named_to = self.named_to.max(Some(window.end()));
                self.last = Some(this);
                return;
            }
        }
    }
}

impl Last<'_> {
    /// What it would have covered of the time from `begin` to `until`, had it gone on; `None` = more than can be looked at.
    fn would_have_covered(&self, begin: DateTime<Utc>, until: DateTime<Utc>) -> Option<Covered> {
        let mut covered: Vec<(DateTime<Utc>, DateTime<Utc>)> = Vec::new();
        let begin = begin.max(self.ended - TimeDelta::nanoseconds(1));
        for (looked_at, fire_at) in self.schedule.after(begin).enumerate() {
            if looked_at == MOST {
                return None;
            }
            let Some(window) = self.rule.window_at(fire_at) else { continue };
            if window.start() >= until {
                break;
            }
            match covered.last_mut().filter(|last| window.start() <= last.1) {
                Some(last) => last.1 = last.1.max(window.end()),
                None => covered.push((window.start(), window.end())),
            }
        }
        Some(Covered(covered))
    }
}

/// Spans of time, in order, that do not touch.
struct Covered(Vec<(DateTime<Utc>, DateTime<Utc>)>);

impl Covered {
    /// Whether one of them holds all of `[start, end)`.
    fn covers(&self, start: DateTime<Utc>, end: DateTime<Utc>) -> bool {
        let after = self.0.partition_point(|(begin, _)| *begin <= start);
        after.checked_sub(1).is_some_and(|at| self.0[at].1 >= end)
    }
}

fn is_fixed(rule: &Rule) -> bool {
    matches!(rule.window, Some(WindowRule::Fixed { .. }))
}

#[cfg(test)]
mod tests {
    use chrono::Weekday;

    use super::*;
    use crate::job::schedule::{Cron, Schedule};

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("instant")
    }

    fn date(text: &str) -> Option<NaiveDate> {
        text.parse().ok()
    }

    fn rule(cron: &str, window: &str, zone: Tz) -> Rule {
        Rule {
            schedule: Some(Schedule::new(vec![Cron::parse(cron, "job@shop").expect("cron")], zone)),
            zone,
            window: Some(window.parse().expect("window")),
            week_start: Weekday::Mon,
            paused: None,
        }
    }

    fn expectation(rules: &Rules) -> Expectation<'_> {
        Expectation {
            rules,
            zone: Tz::UTC,
            since: None,
            first_seen: None,
            earliest_held: None,
            span: Span::default(),
            delay: TimeDelta::zero(),
            now: utc("2026-11-10T12:00:00Z"),
        }
    }

    fn labels(expectation: &Expectation<'_>) -> Vec<String> {
        expectation.windows().expect("windows").iter().map(|w| w.window.label()).collect()
    }

    fn daily() -> Rules {
        Rules::only(rule("30 6 * * *", "yesterday", Tz::UTC))
    }

    #[test]
    fn wanting_begins_with_since_else_with_the_first_sight_else_with_what_is_held() {
        let rules = daily();
        let nothing = expectation(&rules);
        assert_eq!(labels(&nothing), Vec::<String>::new(), "nobody has said that anything is wanted");
        let since = Expectation { since: date("2026-11-08"), ..nothing };
        assert_eq!(labels(&since), ["2026-11-08", "2026-11-09"]);
        // The fire of the first day wanted covers the day before it, which is not.
        let seen = Expectation { first_seen: Some(utc("2026-11-09T06:00:00Z")), ..nothing };
        assert_eq!(labels(&seen), ["2026-11-08", "2026-11-09"]);
        let held = Expectation { earliest_held: Some(utc("2026-11-08T00:00:00Z")), ..seen };
        assert_eq!(labels(&held), ["2026-11-07", "2026-11-08", "2026-11-09"]);
        let later_held = Expectation { earliest_held: Some(utc("2026-11-10T00:00:00Z")), ..seen };
        assert_eq!(labels(&later_held), ["2026-11-08", "2026-11-09"]);
        let both = Expectation { since: date("2026-11-09"), ..held };
        assert_eq!(labels(&both), ["2026-11-09"], "since decides");
        // What is held of a month so far does not make its first days wanted.
        let month = Rules::only(rule("30 4 * * *", "month_to_date", Tz::UTC));
        let first = Expectation {
            first_seen: Some(utc("2026-11-08T12:00:00Z")),
            earliest_held: Some(utc("2026-11-09T04:30:00Z")),
            ..expectation(&month)
        };
        assert_eq!(first.windows().expect("windows").len(), 2, "{:?}", labels(&first));
    }

    #[test]
    fn dates_select_what_overlaps_them_and_widen_but_never_before_since() {
        let rules = daily();
        let nothing = expectation(&rules);
        let span = |from: &str, to: &str| Span { from: date(from), to: date(to) };
        let widened = Expectation {
            span: span("2026-11-02", "2026-11-03"),
            first_seen: Some(utc("2026-11-09T06:00:00Z")),
            ..nothing
        };
        assert_eq!(labels(&widened), ["2026-11-02", "2026-11-03"]);
        let since = Expectation { since: date("2026-11-03"), ..widened };
        assert_eq!(labels(&since), ["2026-11-03"]);
        let weekly = Rules::only(rule("0 6 * * MON", "previous_week", Tz::UTC));
        let weeks = Expectation { span: span("2026-11-01", "2026-11-02"), ..expectation(&weekly) };
        assert_eq!(labels(&weeks), ["2026-10-26--2026-11-01", "2026-11-02--2026-11-08"]);
    }

    #[test]
    fn a_window_counts_once_for_the_first_instant_that_names_it() {
        let hourly = Rules::only(rule("0 * * * *", "yesterday", Tz::UTC));
        let one = Expectation { since: date("2026-11-09"), ..expectation(&hourly) };
        let windows = one.windows().expect("windows");
        assert_eq!(windows.len(), 1);
        assert_eq!(windows[0].fire_at, utc("2026-11-10T00:00:00Z"));
        let fixed = Rules::only(rule("0 * * * *", "2026-03-01..2026-03-31", Tz::UTC));
        let seen = Expectation { first_seen: Some(utc("2026-05-01T00:30:00Z")), ..expectation(&fixed) };
        assert_eq!(seen.windows().expect("windows")[0].fire_at, utc("2026-05-01T01:00:00Z"));
        let asked = Expectation { span: Span { from: date("2026-03-05"), to: date("2026-03-06") }, ..seen };
        assert_eq!(labels(&asked), ["2026-03"], "fixed dates are found by the dates they cover");
    }

    #[test]
    fn a_report_that_is_not_final_yet_is_not_ripe() {
        let rules = daily();
        let delayed = Expectation { since: date("2026-11-08"), delay: TimeDelta::hours(13), ..expectation(&rules) };
        let ripe: Vec<bool> = delayed.windows().expect("windows").iter().map(|w| w.ripe).collect();
        assert_eq!(ripe, [true, false]);
    }

    #[test]
    fn every_instant_belongs_to_the_rule_that_was_in_force() {
        let mut rules = Rules::new(vec![
            (utc("2026-10-01T00:00:00Z"), rule("30 6 * * *", "yesterday", Tz::UTC)),
            (utc("2026-11-03T00:00:00Z"), rule("0 6 * * MON", "previous_week", Tz::UTC)),
        ]);
        let since = date("2026-10-31");
        let before = Expectation { since, ..expectation(&rules) };
        assert_eq!(labels(&before), ["2026-10-31", "2026-11-01", "2026-11-02--2026-11-08"]);
        rules.then(utc("2026-11-10T12:00:00Z"), rule("0 12 * * *", "yesterday", Tz::UTC));
        let today = Expectation { since, ..expectation(&rules) };
        assert_eq!(
            labels(&today).last().map(String::as_str),
            Some("2026-11-09"),
            "the new version names this very noon"
        );
    }

    #[test]
    fn a_day_that_a_change_left_without_an_instant_is_wanted_all_the_same() {
        let daily = |cron| rule(cron, "yesterday", Tz::UTC);
        let change =
            |versions: Vec<(&str, Rule)>| Rules::new(versions.into_iter().map(|(at, r)| (utc(at), r)).collect());
        let at = |rules: &Rules, since: &str| labels(&Expectation { since: date(since), ..expectation(rules) });
        // Moved from 08:30 to 06:30 at 07:00 of the 10th: the 9th has neither instant.
        let earlier = [("2026-10-01T00:00:00Z", daily("30 8 * * *")), ("2026-11-10T07:00:00Z", daily("30 6 * * *"))];
        assert_eq!(at(&change(earlier.to_vec()), "2026-11-07"), ["2026-11-07", "2026-11-08", "2026-11-09"]);
        let later = [("2026-10-01T00:00:00Z", daily("30 6 * * *")), ("2026-11-10T07:00:00Z", daily("30 8 * * *"))];
        assert_eq!(at(&change(later.to_vec()), "2026-11-08"), ["2026-11-08", "2026-11-09"]);
        // The file was away from the 3rd to the 6th.
        let away = [
            ("2026-10-01T00:00:00Z", daily("30 6 * * *")),
            ("2026-11-03T12:00:00Z", daily("30 6 * * *").removed()),
            ("2026-11-06T12:00:00Z", daily("30 6 * * *")),
        ];
        let rules = change(away.to_vec());
        assert_eq!(at(&rules, "2026-11-01").len(), 9, "{:?}", at(&rules, "2026-11-01"));
        let asked = Span { from: date("2026-11-04"), to: date("2026-11-04") };
        assert_eq!(labels(&Expectation { span: asked, ..expectation(&rules) }), ["2026-11-04"]);
        // It had no schedule at first, and `since` reaches back behind that.
        let late =
            [("2026-11-08T00:00:00Z", daily("30 6 * * *").removed()), ("2026-11-09T12:00:00Z", daily("30 6 * * *"))];
        assert_eq!(at(&change(late.to_vec()), "2026-11-05").len(), 5);
        // What was named by weeks, or was never to be named, is no hole.
        let weekly = rule("0 6 * * MON", "previous_week", Tz::UTC);
        let weeks = [("2026-10-01T00:00:00Z", weekly), ("2026-11-09T12:00:00Z", daily("30 6 * * *"))];
        assert_eq!(at(&change(weeks.to_vec()), "2026-11-02"), ["2026-11-02--2026-11-08", "2026-11-09"]);
        let weekdays = |at| {
            let first = ("2026-10-01T00:00:00Z", daily("30 6 * * MON-FRI"));
            change(vec![first, (at, daily("30 6 * * *"))])
        };
        let since = at(&weekdays("2026-11-05T12:00:00Z"), "2026-10-30");
        let days = |days: std::ops::RangeInclusive<u32>| days.map(|d| format!("2026-11-{d:02}")).collect::<Vec<_>>();
        assert_eq!(since, days(1..=9), "the last Friday and Saturday of October had no instant, and were to have none");
        // On a Sunday: neither version ever meant to cover that Friday and Saturday.
        let sunday = at(&weekdays("2026-11-08T12:00:00Z"), "2026-11-04");
        assert_eq!(sunday, ["2026-11-04", "2026-11-05", "2026-11-08", "2026-11-09"]);
    }

    #[test]
    fn what_the_older_version_would_have_covered_is_wanted_by_the_newer_ones_windows() {
        let change =
            |first: Rule, at: &str, then: Rule| Rules::new(vec![(utc("2026-09-01T00:00:00Z"), first), (utc(at), then)]);
        let daily = rule("30 6 * * *", "yesterday", Tz::UTC);
        let weekly = rule("0 6 * * MON,TUE", "previous_week", Tz::UTC);
        // Changed on a Thursday: the week that was to be fetched on Monday is fetched by days now.
        let thursday = change(weekly.clone(), "2026-11-05T05:00:00Z", daily.clone());
        let since = Expectation { since: date("2026-10-26"), ..expectation(&thursday) };
        let days = ["2026-11-02", "2026-11-03", "2026-11-04", "2026-11-05", "2026-11-06", "2026-11-07", "2026-11-08"];
        assert_eq!(labels(&since)[0], "2026-10-26--2026-11-01");
        assert_eq!(labels(&since)[1..8], days);
        // Changed after the week was fetched, before the instant that would have named it again: nothing is wanted twice, wherever
        // one begins to look.
        let fetched = change(weekly, "2026-11-09T12:00:00Z", daily.clone());
        for from in ["2026-11-01", "2026-11-04", "2026-11-08"] {
            let asked = Expectation { span: Span { from: date(from), to: None }, ..expectation(&fetched) };
            let named = labels(&asked);
            assert_eq!(named.last().map(String::as_str), Some("2026-11-09"), "{from}");
            assert!(!named.iter().any(|label| label == "2026-11-04"), "{from}: {named:?}");
        }
        // Hours that only the new version names are none of the old one's.
        let hours = |cron| rule(cron, "previous_hour", Tz::UTC);
        let longer = change(hours("0 9-17 * * *"), "2026-11-09T20:00:00Z", hours("0 9-18 * * *"));
        let ninth =
            Expectation { span: Span { from: date("2026-11-09"), to: date("2026-11-09") }, ..expectation(&longer) };
        assert_eq!(labels(&ninth).len(), 9, "{:?}", labels(&ninth));
        // Moved from the 5th to the 2nd on the 3rd: October has no instant. Who asks from the middle of it on is told too.
        let month = |cron| rule(cron, "previous_month", Tz::UTC);
        let moved = change(month("0 6 5 * *"), "2026-11-03T12:00:00Z", month("0 6 2 * *"));
        let middle = Expectation { span: Span { from: date("2026-10-15"), to: None }, ..expectation(&moved) };
        assert_eq!(labels(&middle), ["2026-10"]);
        // A change of zone in the afternoon of the 9th: its first eight hours in UTC are those of the 8th in Los Angeles.
        let there = rule("0 6 * * *", "yesterday", Tz::America__Los_Angeles);
        let zone = change(rule("0 6 * * *", "yesterday", Tz::UTC), "2026-11-09T15:00:00Z", there);
        let last = Expectation { since: date("2026-11-07"), now: utc("2026-11-10T15:00:00Z"), ..expectation(&zone) };
        let named: Vec<String> =
            last.windows().expect("windows").iter().map(|w| w.window.start().to_string()).collect();
        let starts = ["2026-11-07 00", "2026-11-08 00", "2026-11-08 08", "2026-11-09 08"];
        assert_eq!(named, starts.map(|hour| format!("{hour}:00:00 UTC")));
        // A mistake that was corrected ten minutes later, and named nothing in between.
        let early = rule("30 6 * * *", "yesterday", Tz::UTC);
        let mut corrected = change(
            rule("30 8 * * *", "yesterday", Tz::UTC),
            "2026-11-09T07:00:00Z",
            rule("30 6 * 1 *", "yesterday", Tz::UTC),
        );
        corrected.then(utc("2026-11-09T07:10:00Z"), early);
        let since = Expectation { since: date("2026-11-06"), ..expectation(&corrected) };
        assert_eq!(labels(&since), ["2026-11-06", "2026-11-07", "2026-11-08", "2026-11-09"]);
        // Where an older version would have named more than can be looked at, what is asked about can be all the same.
        let minutes = rule("* * * * *", "previous_hour", Tz::UTC);
        let mut away = change(minutes.clone(), "2025-12-01T12:00:00Z", minutes.removed());
        away.then(utc("2026-11-09T12:00:00Z"), minutes);
        let all = Expectation { since: date("2025-11-30"), ..expectation(&away) };
        assert!(all.windows().is_err());
        let day = Expectation { span: Span { from: date("2026-11-08"), to: date("2026-11-08") }, ..all };
        assert_eq!(day.windows().expect("windows").len(), 24);
        // A job that ran by hand until it had a schedule, and has no `since`, owes nothing of before.
        let by_hand = change(daily.removed(), "2026-11-09T12:00:00Z", daily);
        let seen = Expectation { first_seen: Some(utc("2026-11-01T00:00:00Z")), ..expectation(&by_hand) };
        assert_eq!(labels(&seen), ["2026-11-09"]);
    }

    #[test]
    fn a_schedule_of_every_minute_for_decades_is_refused_and_a_piece_of_it_is_not() {
        let rules = Rules::only(rule("* * * * *", "previous_hour", Tz::UTC));
        let all = Expectation { since: date("2000-01-01"), ..expectation(&rules) };
        let start = std::time::Instant::now();
        assert_eq!(all.windows(), Err(TooMany("2000-01-01".parse().expect("date"))));
        assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
        let piece = Expectation { span: Span { from: date("2010-05-01"), to: date("2010-05-01") }, ..all };
        assert_eq!(piece.windows().expect("windows").len(), 24);
    }

    #[test]
    fn days_on_which_clocks_change_are_there_once() {
        let rules = Rules::only(rule("0 * * * *", "previous_hour", Tz::Europe__Berlin));
        let day = |from: &str| Expectation {
            zone: Tz::Europe__Berlin,
            span: Span { from: date(from), to: date(from) },
            ..expectation(&rules)
        };
        assert_eq!(labels(&day("2026-03-29")).len(), 23);
        assert_eq!(labels(&day("2026-10-25")).len(), 25);
    }
}
