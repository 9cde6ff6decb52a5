//! Rules x time -> the windows that are wanted. Pure.
//!
//! A window is wanted when an instant that has come names it, or when none does only because the rule was changed at a moment
//! between two. Each counts once, for the first instant that names it. How many instants are looked at is bounded: a schedule of
//! every minute since 2000 is refused, not computed.

use std::collections::HashSet;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;

use super::Span;
use crate::fire::decide::is_wanted;
use crate::fire::rule::{Rule, Rules};
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
        // The end of the latest window that a schedule has named so far.
        let mut named_to: Option<DateTime<Utc>> = None;
        for (from, until, rule) in self.rules.stretches() {
            let Some(floor) = self.floor(rule) else { continue };
            let Some(schedule) = &rule.schedule else { continue };
            if from > DateTime::<Utc>::MIN_UTC {
                let forgotten = self.forgotten(rule, named_to.unwrap_or(floor).max(floor), from)?;
                wanted.extend(forgotten.into_iter().filter(|one| seen.insert((one.window.start(), one.window.end()))));
            }
            // The version is in force at the very instant at which it begins.
            let begin = floor.max(from.checked_sub_signed(TimeDelta::nanoseconds(1)).unwrap_or(from));
            let fires = std::iter::successors(schedule.next(begin), |fire| schedule.next(*fire));
            for fire_at in fires.take_while(|fire| *fire <= self.now && until.is_none_or(|until| *fire < until)) {
                looked_at += 1;
                if looked_at > MOST {
                    return Err(TooMany((begin + TimeDelta::seconds(1)).with_timezone(&rule.zone).date_naive()));
                }
                let Some(window) = rule.window_at(fire_at) else { continue };
                named_to = named_to.max(Some(window.end()));
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

    /// Windows that no instant names because the rule was changed, or its file was away: a cron that is moved from 08:30 to 06:30
    /// at 07:00 names that day neither way. They lie between the last window that was named before, which ended at `named_to`,
    /// and the first one that this version names; it names them by the instants that it would have had.
    fn forgotten(&self, rule: &Rule, named_to: DateTime<Utc>, from: DateTime<Utc>) -> Result<Vec<Wanted>, TooMany> {
        let Some(schedule) = rule.schedule.as_ref().filter(|_| !is_fixed(rule) && !rule.provisional()) else {
            return Ok(Vec::new());
        };
        let first = schedule.next(from - TimeDelta::nanoseconds(1)).and_then(|fire| rule.window_at(fire));
        let until = first.map_or(from, |window| window.start());
        let mut windows = Vec::new();
        let fires = std::iter::successors(schedule.next(named_to), |fire| schedule.next(*fire));
        for (looked_at, fire_at) in fires.take_while(|fire| *fire < from && *fire <= self.now).enumerate() {
            if looked_at == MOST {
                return Err(TooMany(named_to.with_timezone(&rule.zone).date_naive()));
            }
            let Some(window) = rule.window_at(fire_at) else { continue };
            let between = window.start() >= named_to && window.end() <= until;
            if between && self.is_asked_for(&window, fire_at) {
                windows.push(self.wanted(window, fire_at, rule));
            }
        }
        Ok(windows)
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
        let weekdays =
            [("2026-10-01T00:00:00Z", daily("30 6 * * MON-FRI")), ("2026-11-05T12:00:00Z", daily("30 6 * * *"))];
        let named = at(&change(weekdays.to_vec()), "2026-10-30");
        assert_eq!(
            named,
            [
                "2026-11-01",
                "2026-11-02",
                "2026-11-03",
                "2026-11-04",
                "2026-11-05",
                "2026-11-06",
                "2026-11-07",
                "2026-11-08",
                "2026-11-09"
            ]
        );
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
