//! Which rule decided about an instant: for `why`. Pure: rows of the ledger and of the rules' history come in, sentences go out.
//!
//! What the ledger has of an instant is what happened, whatever the rules say today. Only without a row the rules are asked,
//! with the very functions that the planner uses, so that no second opinion on time zones can arise here.

use chrono::{DateTime, LocalResult, NaiveDate, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use super::decide::{Facts, Pause, Verdict, decide};
use super::rule::{Rule, Rules};
use super::span;
use crate::job::policy::CatchUp;
use crate::job::schedule::{Cron, Schedule};
use crate::request::window::{Window, day_start, local};

/// How far back a fire before the instant is looked for, in steps: a cron of minutes is found in the first, and of years in
/// the last.
const BACK: [TimeDelta; 5] =
    [TimeDelta::hours(1), TimeDelta::days(2), TimeDelta::days(62), TimeDelta::days(370), TimeDelta::days(3700)];

/// What is known of a series.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its rule with its history; the file's alone when it was never in force.
    pub rules: &'a Rules,
    /// It belongs to the set in force.
    pub in_force: bool,
    /// When it first did.
    pub first_seen: Option<DateTime<Utc>>,
    /// Every instant up to here is decided.
    pub cursor: Option<DateTime<Utc>>,
    /// The file's `since`.
    pub since: Option<NaiveDate>,
    /// The file's `catch_up`.
    pub catch_up: Option<CatchUp>,
    /// What operators paused.
    pub pauses: &'a [Pause],
    /// The database's present instant.
    pub now: DateTime<Utc>,
    /// When a planner last passed.
    pub last_pass: Option<DateTime<Utc>>,
}

/// What decides about an instant that the ledger does not have.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// `none`, `to_come`, `undecided`, `before_since` or `unseen`.
    pub outcome: &'static str,
    /// The instant, if the rules name it.
    pub fire_at: Option<DateTime<Utc>>,
    /// What it covers.
    pub window: Option<Window>,
    /// Why, in sentences.
    pub reason: String,
}

/// `Sun 2026-03-29 03:00 +02:00 (01:00 UTC)`.
pub fn shown(t: DateTime<Utc>, zone: Tz) -> String {
    let here = t.with_timezone(&zone);
    let form = if t.timestamp() % 60 == 0 { "%a %Y-%m-%d %H:%M %:z" } else { "%a %Y-%m-%d %H:%M:%S %:z" };
    let utc = if here.date_naive() == t.date_naive() { "%H:%M UTC" } else { "%Y-%m-%d %H:%M UTC" };
    if zone == Tz::UTC {
        format!("{}", here.format(form))
    } else {
        format!("{} ({})", here.format(form), t.format(utc))
    }
}

/// Whether the rules name this very instant.
fn named(rules: &Rules, at: DateTime<Utc>) -> Option<&Rule> {
    rules.next(at - TimeDelta::nanoseconds(1)).filter(|(fire, _)| *fire == at).map(|(_, rule)| rule)
}

/// The nearest instants before and after that the rules name.
fn neighbours(rules: &Rules, at: DateTime<Utc>) -> (Option<DateTime<Utc>>, Option<DateTime<Utc>>) {
    let last = |back: &TimeDelta| rules.between(at - *back, at - TimeDelta::nanoseconds(1)).last();
    let before = BACK.iter().find_map(last).map(|(fire, _)| fire);
    (before, rules.next(at).map(|(fire, _)| fire))
}

/// What a daylight-saving change does to the time that was asked about. `asked` is the local time as it was written.
pub fn clock_change(rule: &Rule, at: DateTime<Utc>, asked: Option<NaiveDateTime>) -> Option<String> {
    let zone = rule.zone;
    let here = local(at, zone);
    let time = |t: NaiveDateTime| t.format("%H:%M").to_string();
    let crons = || rule.schedule.iter().flat_map(Schedule::crons);
    let (fixed, periodic) = (crons().any(|cron| !cron.periodic()), crons().any(Cron::periodic));
    if let Some(asked) = asked.filter(|asked| *asked != here) {
        let mut text = format!(
            "{} does not exist on {} in {zone}: the clock goes on to {}",
            time(asked),
            asked.date(),
            time(here)
        );
        if fixed {
            text += "; a cron that names a time in such a gap fires once, at the first instant after it";
        }
        if periodic {
            text += "; a cron whose minute or hour starts with * follows real time and has no fire in the gap";
        }
        return Some(text);
    }
    let LocalResult::Ambiguous(first, _) = zone.from_local_datetime(&here) else { return None };
    let pass = if first.to_utc() == at { "first" } else { "second" };
    let mut text = format!("{} happens twice on {} in {zone}, and this is the {pass}", time(here), here.date());
    if fixed {
        text += "; a cron that names a time fires at the first only";
    }
    if periodic {
        text += "; a cron whose minute or hour starts with * follows real time and fires at both";
    }
    Some(text)
}

/// What decides about an instant that the ledger does not have.
pub fn explain(known: &Known<'_>, at: DateTime<Utc>) -> Answer {
    let none = |reason| Answer { outcome: "none", fire_at: None, window: None, reason };
    let Some(rule) = known.rules.at(at) else { return none("nothing is known of its schedule".to_owned()) };
    let zone = rule.zone;
    if named(known.rules, at).is_none() {
        let (before, after) = neighbours(known.rules, at);
        let text = |t: Option<DateTime<Utc>>| t.map_or_else(|| "none".to_owned(), |t| shown(t, zone));
        if rule.schedule.is_none() && !known.in_force && known.first_seen.is_some() {
            return none(format!(
                "the job was not in the set in force then; its nearest instants: before, {}; after, {}",
                text(before),
                text(after)
            ));
        }
        if rule.schedule.is_none() && before.is_none() && after.is_none() {
            return none("the job has no schedule: it runs by hand only".to_owned());
        }
        return none(format!(
            "the schedule names no instant at that time; the nearest: before, {}; after, {}",
            text(before),
            text(after)
        ));
    }
    let window = rule.window_at(at);
    let answer = |outcome, reason| Answer { outcome, fire_at: Some(at), window, reason };
    if at > known.now {
        return answer("to_come", to_come(known, rule, at, window));
    }
    let (Some(first_seen), Some(cursor)) = (known.first_seen, known.cursor) else {
        return answer(
            "unseen",
            "no `reportd serve` and no `reportd apply` has seen this series, so nobody decides about its instants"
                .to_owned(),
        );
    };
    if at <= cursor {
        return match known.since {
            Some(since) if at < day_start(since, zone) => {
                answer("before_since", format!("the job is wanted since {since}, and this instant is before that"))
            }
            None if at <= first_seen => answer(
                "unseen",
                format!(
                    "the series was first seen on {}, and without `since` it is not wanted before; `reportd run-job` or an earlier `since` fetches it",
                    shown(first_seen, zone)
                ),
            ),
            _ => answer(
                "undecided",
                format!(
                    "everything up to {} is decided, and the ledger has no row for this instant: the rule that names it was recorded later",
                    shown(cursor, zone)
                ),
            ),
        };
    }
    let pass = known.last_pass.map_or_else(
        || "no planner has passed yet".to_owned(),
        |pass| format!("the last planner pass was {} ago", span(known.now - pass)),
    );
    let then = would(known, at);
    answer(
        "undecided",
        format!(
            "no `reportd serve` has decided it yet: decided up to {}, and {pass}; a pass now {then}",
            shown(cursor, zone)
        ),
    )
}

fn to_come(known: &Known<'_>, rule: &Rule, at: DateTime<Utc>, window: Option<Window>) -> String {
    let due = format!("due in {}", span(at - known.now));
    let paused = rule.paused.as_ref().map(|reason| format!("the job file says paused: {reason}"));
    let paused =
        paused.or_else(|| known.pauses.iter().find(|pause| pause.covers(at)).map(|pause| pause.reason.clone()));
    match (paused, window) {
        (Some(reason), _) => format!("{due}; it would be recorded as paused, as things stand: {reason}"),
        (None, None) => format!("{due}; the window is empty at this instant, so nothing would be asked"),
        (None, Some(window)) if !known.in_force => {
            format!(
                "{due}, for window {}; the series is not in force, so it fires only once `reportd serve` or `reportd apply` has taken it",
                window.label()
            )
        }
        (None, Some(window)) => format!("{due}, for window {}", window.label()),
    }
}

/// What a planner pass would do with an instant that is due.
fn would(known: &Known<'_>, at: DateTime<Utc>) -> String {
    let facts = Facts {
        rules: known.rules,
        cursor: at - TimeDelta::nanoseconds(1),
        catch_up: known.catch_up,
        since: known.since,
        pauses: known.pauses,
    };
    match decide(&facts, known.now).decisions.into_iter().next().map(|decision| decision.verdict) {
        Some(Verdict::Fire(window, _)) => format!("would fire it, for window {}", window.label()),
        Some(Verdict::CoveredByNewer) => "would let a newer instant stand for it (catch_up: latest)".to_owned(),
        Some(Verdict::Skipped(why)) => format!("would skip it: {why}"),
        Some(Verdict::Missed(why)) => format!("would record it as missed: {why}"),
        Some(Verdict::Paused(why)) => format!("would record it as paused: {why}"),
        None => "would leave it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::Weekday;

    use super::*;
    use crate::request::window::{WindowRule, resolve_local};

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("instant")
    }

    fn rule(cron: &str) -> Rule {
        let zone = Tz::Europe__Berlin;
        let schedule = Some(Schedule::new(vec![Cron::parse(cron, "job@shop").expect("cron")], zone));
        Rule { schedule, zone, window: Some(WindowRule::Yesterday), week_start: Weekday::Mon, paused: None }
    }

    fn known<'a>(rules: &'a Rules, now: &str) -> Known<'a> {
        Known {
            rules,
            in_force: true,
            first_seen: Some(utc("2026-01-01T00:00:00Z")),
            cursor: Some(utc("2026-01-01T00:00:00Z")),
            since: None,
            catch_up: None,
            pauses: &[],
            now: utc(now),
            last_pass: None,
        }
    }

    /// What is said of a local time in Berlin: the fire's instant, and the sentence on the clock's change.
    fn asked(cron: &str, local: &str) -> (Option<String>, String) {
        let naive: NaiveDateTime = local.parse().expect("local time");
        let rules = Rules::only(rule(cron));
        let at = resolve_local(naive, Tz::Europe__Berlin);
        let answer = explain(&known(&rules, "2026-12-31T00:00:00Z"), at);
        let change = clock_change(&rule(cron), at, Some(naive)).unwrap_or_default();
        (answer.fire_at.map(|t| t.to_rfc3339()), change)
    }

    #[test]
    fn a_time_in_the_gap_leads_to_the_first_instant_after_it_for_fixed_crons_only() {
        let (fire, change) = asked("30 2 * * *", "2026-03-29T02:30:00");
        assert_eq!(fire.as_deref(), Some("2026-03-29T01:00:00+00:00"));
        assert!(
            change.starts_with("02:30 does not exist on 2026-03-29 in Europe/Berlin: the clock goes on to 03:00; "),
            "{change}"
        );
        assert!(change.contains("fires once, at the first instant after"), "{change}");
        let (fire, change) = asked("*/20 2 * * *", "2026-03-29T02:20:00");
        assert_eq!(fire, None);
        assert!(change.contains("has no fire in the gap") && !change.contains("names a time"), "{change}");
    }

    #[test]
    fn a_time_that_happens_twice_says_which_one_it_is() {
        let (fire, change) = asked("30 2 * * *", "2026-10-25T02:30:00");
        assert_eq!(fire.as_deref(), Some("2026-10-25T00:30:00+00:00"));
        assert!(change.contains("this is the first; a cron that names a time fires at the first only"), "{change}");
        let rules = Rules::only(rule("30 2 * * *"));
        let second = explain(&known(&rules, "2026-12-31T00:00:00Z"), utc("2026-10-25T01:30:00Z"));
        assert_eq!((second.outcome, second.fire_at), ("none", None));
        assert!(second.reason.contains("before, Sun 2026-10-25 02:30 +02:00 (00:30 UTC)"), "{}", second.reason);
        assert!(second.reason.contains("after, Mon 2026-10-26 02:30 +01:00 (01:30 UTC)"), "{}", second.reason);
        let change = clock_change(&rule("30 2 * * *"), utc("2026-10-25T01:30:00Z"), None).expect("a change");
        assert!(change.contains("this is the second"), "{change}");
        assert!(asked("0 * * * *", "2026-10-25T02:00:00").1.contains("fires at both"));
        assert_eq!(clock_change(&rule("30 2 * * *"), utc("2026-10-25T05:00:00Z"), None), None);
    }

    #[test]
    fn the_nearest_instants_are_found_however_rare_they_are() {
        for (cron, before, after) in [
            ("* * * * *", "2026-05-05T10:59:00+00:00", "2026-05-05T11:01:00+00:00"),
            ("0 6 * * *", "2026-05-05T04:00:00+00:00", "2026-05-06T04:00:00+00:00"),
            ("0 6 29 2 *", "2024-02-29T05:00:00+00:00", "2028-02-29T05:00:00+00:00"),
        ] {
            let rules = Rules::only(rule(cron));
            let found = neighbours(&rules, utc("2026-05-05T11:00:00Z"));
            assert_eq!(found.0.map(|t| t.to_rfc3339()).as_deref(), Some(before), "{cron}");
            assert_eq!(found.1.map(|t| t.to_rfc3339()).as_deref(), Some(after), "{cron}");
        }
    }

    #[test]
    fn an_instant_without_a_row_is_told_by_where_it_lies() {
        let rules = Rules::only(rule("0 6 * * *"));
        let at = utc("2026-05-05T04:00:00Z");
        let said = |known: &Known<'_>| {
            let answer = explain(known, at);
            assert_eq!(answer.fire_at, Some(at));
            (answer.outcome, answer.reason)
        };
        let base = known(&rules, "2026-05-05T08:00:00Z");
        let (outcome, reason) = said(&base);
        assert_eq!(outcome, "undecided");
        assert!(
            reason.ends_with("no planner has passed yet; a pass now would fire it, for window 2026-05-04"),
            "{reason}"
        );
        let passed = Known { last_pass: Some(utc("2026-05-05T03:00:00Z")), ..base };
        assert!(said(&passed).1.contains("the last planner pass was 5 h ago"));
        let short = Known { catch_up: Some(CatchUp::Within(Duration::from_secs(3600))), ..base };
        assert!(said(&short).1.contains("would record it as missed: decided 4 h late, and catch_up is 1h"));
        let pauses =
            [Pause { from: utc("2026-05-01T00:00:00Z"), until: None, reason: "paused by asha: closed".into() }];
        let paused = Known { pauses: &pauses, ..base };
        assert!(said(&paused).1.contains("as paused: paused by asha: closed"));
        let (outcome, reason) = said(&Known { now: utc("2026-05-05T03:00:00Z"), ..paused });
        assert_eq!(
            (outcome, reason.as_str()),
            ("to_come", "due in 60 min; it would be recorded as paused, as things stand: paused by asha: closed")
        );
        let since =
            Known { since: NaiveDate::from_ymd_opt(2026, 6, 1), cursor: Some(utc("2026-05-31T00:00:00Z")), ..base };
        assert_eq!(said(&since).0, "before_since");
        let seen = utc("2026-05-05T07:00:00Z");
        let late = Known { first_seen: Some(seen), cursor: Some(seen), ..base };
        assert_eq!(said(&late).0, "unseen");
        assert_eq!(said(&Known { first_seen: None, cursor: None, ..base }).0, "unseen");
        assert_eq!(said(&Known { cursor: Some(seen), ..base }).0, "undecided");
    }
}
