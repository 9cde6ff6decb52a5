//! Instants in `(cursor, now]` -> what becomes of each. One formula for start-up, outage, suspend, clock jump and edits.
//!
//! Late instants fire as long as `catch_up` allows; older ones are `missed`, which is visible and never silent. A page holds
//! at most [`PAGE`] runs, so that a long backlog comes in pieces and nobody else waits for it; nothing is dropped for number.

use chrono::{DateTime, TimeDelta, Utc};

use super::rule::{Rule, Rules};
use super::span;
use crate::job::policy::CatchUp;
use crate::request::window::{Window, day_start};

/// Most runs that one pass makes for one series.
pub const PAGE: usize = 31;

/// Most instants that one pass decides for one series.
pub const MOST: usize = 500;

/// An instant that is decided later than this counts as caught up.
pub const IN_TIME: TimeDelta = TimeDelta::seconds(60);

/// The built-in `catch_up`, unless one period is longer.
const WEEK: TimeDelta = TimeDelta::days(7);

/// A stretch of time in which an operator paused the series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// From here.
    pub from: DateTime<Utc>,
    /// Until here; `None` = still.
    pub until: Option<DateTime<Utc>>,
    /// Why, and by whom.
    pub reason: String,
}

impl Pause {
    /// A pause as the ledger tells of it.
    pub fn new(from: DateTime<Utc>, until: Option<DateTime<Utc>>, who: &str, why: &str) -> Pause {
        Pause { from, until, reason: format!("paused by {who}: {why}") }
    }

    /// Whether it holds at an instant.
    pub fn covers(&self, instant: DateTime<Utc>) -> bool {
        self.from <= instant && self.until.is_none_or(|until| instant < until)
    }
}

/// What a pass knows of a series.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its rule, with its history.
    pub rules: &'a Rules,
    /// Every instant up to here is decided.
    pub cursor: DateTime<Utc>,
    /// The file's `catch_up`.
    pub catch_up: Option<CatchUp>,
    /// The file's `since`.
    pub since: Option<chrono::NaiveDate>,
    /// What operators paused.
    pub pauses: &'a [Pause],
}

/// What becomes of an instant.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<'a> {
    /// A run for this window, unless that is held or worked on.
    Fire(Window, &'a Rule),
    /// A newer instant stands for it.
    CoveredByNewer,
    /// Nothing to do; says why.
    Skipped(String),
    /// Too late; says by which setting.
    Missed(String),
    /// Paused; says why.
    Paused(String),
}

/// A decided instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<'a> {
    /// The instant.
    pub fire_at: DateTime<Utc>,
    /// What it covers; `None` when that is empty.
    pub window: Option<Window>,
    /// What becomes of it.
    pub verdict: Verdict<'a>,
}

/// One pass over one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass<'a> {
    /// The decisions, in order of time.
    pub decisions: Vec<Decision<'a>>,
    /// Everything up to here is decided now.
    pub cursor: DateTime<Utc>,
    /// The next instant; before `now` when the page was full.
    pub next: Option<DateTime<Utc>>,
}

/// `catch_up` with the built-in default: 7 days, or one period of the schedule where that is longer.
pub fn reach(catch_up: Option<CatchUp>, rule: &Rule, now: DateTime<Utc>) -> CatchUp {
    catch_up.unwrap_or_else(|| {
        let period = rule.schedule.as_ref().and_then(|s| s.typical_step(now - TimeDelta::days(366)));
        let longest = period.map_or(WEEK, |(_, longest)| longest.max(WEEK));
        CatchUp::Within(longest.to_std().unwrap_or_default())
    })
}

/// Where the cursor of a series starts that is seen for the first time: before the first instant that may be wanted, and
/// never in the time to come, where a corrected `since` would not find it.
pub fn first_cursor(rule: &Rule, since: Option<chrono::NaiveDate>, now: DateTime<Utc>) -> DateTime<Utc> {
    since.map_or(now, |since| now.min(day_start(since, rule.zone) - TimeDelta::seconds(1)))
}

/// Whether a window holds any of the dates that are wanted from `since` on.
pub fn is_wanted(window: &Window, since: Option<chrono::NaiveDate>) -> bool {
    since.is_none_or(|since| window.end() > day_start(since, window.zone()))
}

/// Decides the instants of a series that are due at `now`.
pub fn decide<'a>(facts: &Facts<'a>, now: DateTime<Utc>) -> Pass<'a> {
    let mut pass = Pass { decisions: Vec::new(), cursor: facts.cursor, next: None };
    let mut reaches = Reaches { catch_up: facts.catch_up, now, known: None };
    let mut runs = 0;
    let mut full = None;
    for (fire_at, rule) in facts.rules.between(facts.cursor, now) {
        // Of `latest` at most one run is made, however many instants it stands for.
        if (runs == PAGE && facts.catch_up != Some(CatchUp::Latest)) || pass.decisions.len() == MOST {
            full = Some(fire_at);
            break;
        }
        let window = rule.window_at(fire_at);
        let verdict = verdict(facts, rule, fire_at, window, &mut reaches);
        runs += usize::from(matches!(verdict, Verdict::Fire(..)));
        pass.decisions.push(Decision { fire_at, window, verdict });
        pass.cursor = fire_at;
    }
    if facts.catch_up == Some(CatchUp::Latest) {
        let newer = full.is_some() && fires_later(facts, pass.cursor, &mut reaches);
        keep_newest(&mut pass.decisions, newer, now);
    }
    if full.is_some() {
        pass.next = full;
        return pass;
    }
    pass.cursor = pass.cursor.max(now);
    pass.next = facts.rules.next(pass.cursor).map(|(fire_at, _)| fire_at);
    pass
}

/// Whether an instant after this page, which ends at `cursor`, would fire. All that is left may be paused.
fn fires_later<'a>(facts: &Facts<'a>, cursor: DateTime<Utc>, reaches: &mut Reaches<'a>) -> bool {
    let now = reaches.now;
    facts.rules.between(cursor, now).any(|(fire_at, rule)| {
        matches!(verdict(facts, rule, fire_at, rule.window_at(fire_at), reaches), Verdict::Fire(..))
    })
}

/// Of the late instants that would fire only the newest does; when a `newer` one is on a page to come, none of these.
fn keep_newest(decisions: &mut [Decision<'_>], newer: bool, now: DateTime<Utc>) {
    let fires = |d: &Decision<'_>| matches!(d.verdict, Verdict::Fire(..));
    let newest = decisions.iter().rposition(fires).filter(|_| !newer);
    for (index, decision) in decisions.iter_mut().enumerate() {
        if fires(decision) && Some(index) != newest && now - decision.fire_at > IN_TIME {
            decision.verdict = Verdict::CoveredByNewer;
        }
    }
}

/// `catch_up` by rule, looked up once: a schedule's period takes a search.
struct Reaches<'a> {
    catch_up: Option<CatchUp>,
    now: DateTime<Utc>,
    known: Option<(&'a Rule, CatchUp)>,
}

impl<'a> Reaches<'a> {
    fn of(&mut self, rule: &'a Rule) -> CatchUp {
        if let Some((of, reach)) = self.known
            && std::ptr::eq(of, rule)
        {
            return reach;
        }
        let found = reach(self.catch_up, rule, self.now);
        self.known = Some((rule, found));
        found
    }
}

fn verdict<'a>(
    facts: &Facts<'a>,
    rule: &'a Rule,
    fire_at: DateTime<Utc>,
    window: Option<Window>,
    reaches: &mut Reaches<'a>,
) -> Verdict<'a> {
    let Some(window) = window else {
        return Verdict::Skipped("the window is empty at this instant".to_owned());
    };
    if !is_wanted(&window, facts.since) {
        return Verdict::Skipped("the window ends before the job's `since`".to_owned());
    }
    if let Some(reason) = &rule.paused {
        return Verdict::Paused(format!("the job file says paused: {reason}"));
    }
    if let Some(pause) = facts.pauses.iter().find(|pause| pause.covers(fire_at)) {
        return Verdict::Paused(pause.reason.clone());
    }
    let late = reaches.now - fire_at;
    // The built-in catch_up is never shorter than a week, so the schedule's period need not be looked for.
    if late > IN_TIME && (facts.catch_up.is_some() || late > WEEK) {
        match reaches.of(rule) {
            CatchUp::None => return Verdict::Missed(format!("decided {} late, and catch_up is none", span(late))),
            CatchUp::Within(reach) if late > TimeDelta::from_std(reach).unwrap_or(TimeDelta::MAX) => {
                let reach = crate::yaml::show_duration(reach);
                return Verdict::Missed(format!("decided {} late, and catch_up is {reach}", span(late)));
            }
            CatchUp::Latest | CatchUp::Within(_) => {}
        }
    }
    Verdict::Fire(window, rule)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::{NaiveDate, Weekday};
    use chrono_tz::Tz;

    use super::*;
    use crate::fire::rule::Rule;
    use crate::job::schedule::{Cron, Schedule};
    use crate::request::window::WindowRule;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("instant")
    }

    fn rule(cron: &str, window: WindowRule) -> Rule {
        let zone = Tz::UTC;
        let crons = vec![Cron::parse(cron, "job@shop").expect("cron")];
        let schedule = Some(Schedule::new(crons, zone));
        Rule { schedule, zone, window: Some(window), week_start: Weekday::Mon, paused: None }
    }

    fn daily() -> Rules {
        Rules::only(rule("30 6 * * *", WindowRule::Yesterday))
    }

    fn facts<'a>(rules: &'a Rules, cursor: &str, catch_up: Option<CatchUp>) -> Facts<'a> {
        Facts { rules, cursor: utc(cursor), catch_up, since: None, pauses: &[] }
    }

    /// `20 fire`, `19 missed`, … by day of the month.
    fn said(pass: &Pass<'_>) -> Vec<String> {
        let word = |verdict: &Verdict<'_>| match verdict {
            Verdict::Fire(..) => "fire",
            Verdict::CoveredByNewer => "covered",
            Verdict::Skipped(_) => "skipped",
            Verdict::Missed(_) => "missed",
            Verdict::Paused(_) => "paused",
        };
        pass.decisions.iter().map(|d| format!("{} {}", d.fire_at.format("%d"), word(&d.verdict))).collect()
    }

    #[test]
    fn an_instant_in_time_fires_and_the_cursor_moves_to_now() {
        let rules = daily();
        let now = utc("2026-11-20T06:30:01Z");
        let pass = decide(&facts(&rules, "2026-11-19T06:30:00Z", None), now);
        assert_eq!(said(&pass), ["20 fire"]);
        assert_eq!((pass.cursor, pass.next), (now, Some(utc("2026-11-21T06:30:00Z"))));
        let again = decide(&facts(&rules, "2026-11-20T06:30:01Z", None), now);
        assert!(again.decisions.is_empty());
    }

    #[test]
    fn what_is_older_than_catch_up_is_missed_and_told() {
        let rules = daily();
        let now = utc("2026-11-20T12:00:00Z");
        let pass =
            decide(&facts(&rules, "2026-11-16T12:00:00Z", Some(CatchUp::Within(Duration::from_secs(2 * 86400)))), now);
        assert_eq!(said(&pass), ["17 missed", "18 missed", "19 fire", "20 fire"]);
        let none = decide(&facts(&rules, "2026-11-18T12:00:00Z", Some(CatchUp::None)), now);
        assert_eq!(said(&none), ["19 missed", "20 missed"]);
        // 60 s late is in time, whatever catch_up says.
        let in_time = utc("2026-11-20T06:31:00Z");
        assert_eq!(said(&decide(&facts(&rules, "2026-11-19T12:00:00Z", Some(CatchUp::None)), in_time)), ["20 fire"]);
        let latest = decide(&facts(&rules, "2026-11-16T12:00:00Z", Some(CatchUp::Latest)), now);
        assert_eq!(said(&latest), ["17 covered", "18 covered", "19 covered", "20 fire"]);
    }

    #[test]
    fn latest_is_the_newest_that_would_fire() {
        let rules = daily();
        let pauses = [Pause { from: utc("2026-11-20T00:00:00Z"), until: None, reason: "paused by asha".into() }];
        let facts = Facts { pauses: &pauses, ..facts(&rules, "2026-11-16T12:00:00Z", Some(CatchUp::Latest)) };
        let pass = decide(&facts, utc("2026-11-20T12:00:00Z"));
        assert_eq!(said(&pass), ["17 covered", "18 covered", "19 fire", "20 paused"]);
        // However many there are, one page tells which is the newest.
        let hourly = Rules::only(rule("0 * * * *", WindowRule::PreviousHour));
        let facts = Facts { rules: &hourly, pauses: &[], ..facts };
        let pass = decide(&facts, utc("2026-11-20T12:30:00Z"));
        assert_eq!((pass.decisions.len(), said(&pass).iter().filter(|s| s.ends_with("fire")).count()), (96, 1));
    }

    #[test]
    fn latest_finds_its_one_instant_over_many_pages_also_when_the_last_ones_are_paused() {
        let rules = Rules::only(rule("*/10 * * * *", WindowRule::PreviousHour));
        let now = utc("2026-11-20T12:05:00Z");
        for (paused_from, newest) in
            [(None, "2026-11-20T12:00:00Z"), (Some("2026-11-18T00:00:00Z"), "2026-11-17T23:50:00Z")]
        {
            let pauses: Vec<Pause> = paused_from
                .map(|from| Pause { from: utc(from), until: None, reason: "paused by asha".into() })
                .into_iter()
                .collect();
            let (mut cursor, mut fired, mut pages) = (utc("2026-11-13T12:05:00Z"), Vec::new(), 0);
            loop {
                let facts =
                    Facts { pauses: &pauses, cursor, ..facts(&rules, "2026-11-13T12:05:00Z", Some(CatchUp::Latest)) };
                let pass = decide(&facts, now);
                let fires = pass.decisions.iter().filter(|d| matches!(d.verdict, Verdict::Fire(..)));
                fired.extend(fires.map(|d| d.fire_at));
                (cursor, pages) = (pass.cursor, pages + 1);
                if pass.next.is_none_or(|next| next > now) {
                    break;
                }
            }
            assert_eq!((fired, pages), (vec![utc(newest)], 3));
        }
    }

    #[test]
    fn the_default_reaches_a_week_or_one_period_back() {
        let now = utc("2026-11-20T12:00:00Z");
        let pass = decide(&facts(&daily(), "2026-11-01T12:00:00Z", None), now).decisions.len();
        assert_eq!(pass, 19);
        let rules = daily();
        let weekly = decide(&facts(&rules, "2026-11-11T12:00:00Z", None), now);
        assert_eq!(said(&weekly)[..2], ["12 missed", "13 missed"]);
        assert_eq!(said(&weekly)[2], "14 fire");
        let monthly = Rules::only(rule("0 6 1 * *", WindowRule::PreviousMonth));
        let pass = decide(&facts(&monthly, "2026-09-15T00:00:00Z", None), now);
        assert_eq!(said(&pass), ["01 missed", "01 fire"]);
    }

    #[test]
    fn a_long_backlog_comes_in_pages_and_nothing_is_dropped() {
        let rules = Rules::only(rule("0 * * * *", WindowRule::PreviousHour));
        let now = utc("2026-11-20T12:00:30Z");
        let mut cursor = utc("2026-11-16T12:00:00Z");
        let (mut fires, mut pages) = (Vec::new(), 0);
        loop {
            let facts = Facts { cursor, ..facts(&rules, "2026-11-16T12:00:00Z", None) };
            let pass = decide(&facts, now);
            fires.extend(pass.decisions.iter().map(|d| d.fire_at));
            pages += 1;
            cursor = pass.cursor;
            if pass.next.is_none_or(|next| next > now) {
                break;
            }
            assert_eq!(pass.decisions.len(), PAGE);
        }
        assert_eq!((fires.len(), pages), (96, 4));
        fires.dedup();
        assert_eq!(fires.len(), 96);
    }

    #[test]
    fn pauses_and_since_decide_by_the_instant() {
        let mut paused = rule("30 6 * * *", WindowRule::Yesterday);
        paused.paused = Some("shop closed".into());
        let rules = Rules::new(vec![
            (utc("2026-11-01T00:00:00Z"), rule("30 6 * * *", WindowRule::Yesterday)),
            (utc("2026-11-19T00:00:00Z"), paused),
        ]);
        let pauses = [Pause {
            from: utc("2026-11-17T00:00:00Z"),
            until: Some(utc("2026-11-18T00:00:00Z")),
            reason: "paused by asha".into(),
        }];
        let since = NaiveDate::from_ymd_opt(2026, 11, 15);
        let facts = Facts { since, pauses: &pauses, ..facts(&rules, "2026-11-14T12:00:00Z", None) };
        let pass = decide(&facts, utc("2026-11-20T12:00:00Z"));
        assert_eq!(said(&pass), ["15 skipped", "16 fire", "17 paused", "18 fire", "19 paused", "20 paused"]);
        let Verdict::Paused(reason) = &pass.decisions[4].verdict else { panic!() };
        assert_eq!(reason, "the job file says paused: shop closed");
    }

    #[test]
    fn the_first_cursor_is_before_the_first_wanted_instant() {
        let rule = rule("30 6 * * *", WindowRule::Yesterday);
        let now = utc("2026-11-20T12:00:00Z");
        assert_eq!(first_cursor(&rule, None, now), now);
        let since = NaiveDate::from_ymd_opt(2026, 11, 1);
        assert_eq!(first_cursor(&rule, since, now), utc("2026-10-31T23:59:59Z"));
        // One that is still to come keeps nothing back when it is corrected.
        assert_eq!(first_cursor(&rule, NaiveDate::from_ymd_opt(2027, 1, 1), now), now);
    }
}
