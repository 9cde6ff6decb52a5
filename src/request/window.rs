//! Windows: the half-open stretch of time `[start, end)` that one report covers, cut by a shop's own calendar.
//!
//! Days, weeks, months and quarters are cut where the local clock first reached their midnight (`civil` says how), so
//! they tile time without gap or overlap, daylight-saving days and missing civil dates included. `rule` finds the
//! window of a fire.
//!
//! Pure: no clock, no environment. It knows neither vendors nor schedules; it refuses empty windows, and years that do
//! not print with four digits. Instants are whole seconds.

mod civil;
mod rule;

use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, TimeDelta, Utc, Weekday};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

pub use civil::{day_start, local_date, resolve_local, rfc3339_in};
pub(crate) use civil::{high_water, local, offset_at, offset_change};
pub use rule::{WindowRule, WindowRuleError};

use civil::{local_text, month_first, quarter_first, week_first};

const SECOND: TimeDelta = TimeDelta::seconds(1);
/// Years (UTC) a window may touch: in every zone they print with exactly four digits, as RFC 3339 wants.
const YEARS: RangeInclusive<i32> = 1..=9998;

/// The half-open range of time `[start, end)` a report covers, with the zone whose calendar cut it.
///
/// Its identity is the two instants: equality and hash leave the zone out, because `Asia/Calcutta` and `Asia/Kolkata`
/// name the same day.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(into = "Wire", try_from = "Wire")]
pub struct Window {
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    zone: Tz,
}

impl Window {
    /// The window `[start, end)`, both cut down to whole seconds. `None` unless `start < end`, and for years (UTC)
    /// outside 1 to 9998.
    pub fn new(start: DateTime<Utc>, end: DateTime<Utc>, zone: Tz) -> Option<Window> {
        let (start, end) =
            (DateTime::from_timestamp(start.timestamp(), 0)?, DateTime::from_timestamp(end.timestamp(), 0)?);
        let legible = YEARS.contains(&start.year()) && YEARS.contains(&end.year());
        (legible && start < end).then_some(Window { start, end, zone })
    }

    /// The local days `first` to `last`, both included. `None` when `last` is before `first`, or no day of them exists
    /// in `zone`.
    pub fn days(first: NaiveDate, last: NaiveDate, zone: Tz) -> Option<Window> {
        Window::between_dates(first, last.succ_opt()?, zone)
    }

    /// From the start of local day `first` to the start of `end`, which is not included.
    fn between_dates(first: NaiveDate, end: NaiveDate, zone: Tz) -> Option<Window> {
        Window::new(day_start(first, zone), day_start(end, zone), zone)
    }

    /// First instant of the window.
    pub fn start(&self) -> DateTime<Utc> {
        self.start
    }

    /// First instant after the window.
    pub fn end(&self) -> DateTime<Utc> {
        self.end
    }

    /// The zone whose calendar cut the window.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// Year of the local date on which the window starts.
    pub fn year(&self) -> i32 {
        local_date(self.start, self.zone).year()
    }

    /// The window's name in archive paths and messages: `2026-11-19`, `2026-11-16--2026-11-22`, `2026-11` or `2026-Q4`
    /// for whole local days, months and quarters, else the two instants, `20261119T063000Z--20261119T101500Z`. ASCII
    /// without path separators, and no two windows of one zone share it.
    pub fn label(&self) -> String {
        let Some((first, last)) = self.whole_days() else {
            let basic = |t: DateTime<Utc>| t.format("%Y%m%dT%H%M%SZ").to_string();
            return format!("{}--{}", basic(self.start), basic(self.end));
        };
        // Compared as instants, not dates: the last day of a month may be one that the zone never had.
        let spans_months = |from: NaiveDate, months| {
            from.checked_add_months(Months::new(months))
                .is_some_and(|end| Window::between_dates(from, end, self.zone) == Some(*self))
        };
        if first == last {
            first.to_string()
        } else if spans_months(month_first(first), 1) {
            first.format("%Y-%m").to_string()
        } else if spans_months(quarter_first(first), 3) {
            format!("{}-Q{}", first.format("%Y"), first.quarter())
        } else {
            format!("{first}--{last}")
        }
    }

    /// The window as people say it: its label, or local times where that is two UTC instants.
    pub fn in_words(&self) -> String {
        if self.whole_days().is_some() {
            return self.label().replace("--", " to ");
        }
        let local = |text: String| text.get(..16).map(|head| head.replace('T', " ")).unwrap_or(text);
        let (start, end) = (local(self.start_rfc3339()), local(self.end_rfc3339()));
        match (start.split_once(' '), end.split_once(' ')) {
            (Some((day, _)), Some((other, time))) if day == other => format!("{start}-{time}"),
            _ => format!("{start} - {end}"),
        }
    }

    /// First and last local date (both included) when the window is made of whole local days.
    pub fn whole_days(&self) -> Option<(NaiveDate, NaiveDate)> {
        let starts_a_day = |t| day_start(local_date(t, self.zone), self.zone) == t;
        (starts_a_day(self.start) && starts_a_day(self.end)).then(|| self.local_dates())
    }

    /// Local dates of the window's first and last instant.
    pub fn local_dates(&self) -> (NaiveDate, NaiveDate) {
        (local_date(self.start, self.zone), local_date(self.end - SECOND, self.zone))
    }

    /// First and last millisecond in UTC, as BIK and JAICP want them: `2026-11-18T18:30:00.000Z`.
    pub fn utc_millis(&self) -> (String, String) {
        let text = |t: DateTime<Utc>| t.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
        (text(self.start), text(self.end - TimeDelta::milliseconds(1)))
    }

    /// First and last microsecond in local time, as LiveChat wants them: `2026-11-19T00:00:00.000000+05:30`, each with
    /// the offset of that very instant. An offset that is no whole minute falls back to UTC, `+00:00`.
    pub fn local_micros(&self) -> (String, String) {
        let text = |t| local_text(t, self.zone, "%Y-%m-%dT%H:%M:%S%.6f");
        (text(self.start), text(self.end - TimeDelta::microseconds(1)))
    }

    /// The start as [`rfc3339_in`] writes it in the window's zone.
    pub fn start_rfc3339(&self) -> String {
        rfc3339_in(self.start, self.zone)
    }

    /// The end (first instant after the window) as [`rfc3339_in`] writes it in the window's zone.
    pub fn end_rfc3339(&self) -> String {
        rfc3339_in(self.end, self.zone)
    }

    /// The window cut at the starts of local days, weeks or months, in order and without gap; the first and the last
    /// part may be short. `week_start` matters to weeks only.
    pub fn parts(&self, each: Each, week_start: Weekday) -> Vec<Window> {
        let mut parts = Vec::new();
        let mut start = self.start;
        while start < self.end {
            let date = local_date(start, self.zone);
            let next = match each {
                Each::Day => date.succ_opt(),
                Each::Week => week_first(date, week_start).and_then(|first| first.checked_add_days(Days::new(7))),
                Each::Month => month_first(date).checked_add_months(Months::new(1)),
            };
            // `next` is a later date than the one `start` lies in, so its day starts after `start`.
            let end = next.map_or(self.end, |date| day_start(date, self.zone).min(self.end));
            parts.push(Window { start, end, zone: self.zone });
            start = end;
        }
        parts
    }
}

impl PartialEq for Window {
    fn eq(&self, other: &Window) -> bool {
        (self.start, self.end) == (other.start, other.end)
    }
}

impl Eq for Window {}

impl Hash for Window {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.start, self.end).hash(state);
    }
}

/// A window as JSON.
#[derive(Serialize, Deserialize)]
struct Wire {
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    zone: Tz,
}

impl From<Window> for Wire {
    fn from(Window { start, end, zone }: Window) -> Wire {
        Wire { start, end, zone }
    }
}

impl TryFrom<Wire> for Window {
    type Error = &'static str;

    fn try_from(Wire { start, end, zone }: Wire) -> Result<Window, &'static str> {
        Window::new(start, end, zone).ok_or("a window starts before it ends, in the years 1 to 9998")
    }
}

/// What a window may be cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Each {
    /// Local days.
    Day,
    /// Weeks, from the week's first day.
    Week,
    /// Calendar months.
    Month,
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use chrono::NaiveDateTime;
    use chrono_tz::TZ_VARIANTS;
    use proptest::prelude::*;

    use super::*;

    const DAY: TimeDelta = TimeDelta::days(1);
    const HOUR: TimeDelta = TimeDelta::hours(1);

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("instant")
    }

    fn date(text: &str) -> NaiveDate {
        text.parse().expect("date")
    }

    fn zone(text: &str) -> Tz {
        text.parse().expect("zone")
    }

    fn days(first: &str, last: &str, name: &str) -> Window {
        Window::days(date(first), date(last), zone(name)).expect("window")
    }

    fn at(rule: &str, fire_at: &str, name: &str) -> Option<Window> {
        rule.parse::<WindowRule>().expect("rule").at(utc(fire_at), zone(name), Weekday::Mon)
    }

    /// Every offset change of 1970 to 2037, once per zone.
    fn changes() -> Vec<(Tz, DateTime<Utc>)> {
        let (from, until) = (utc("1970-01-01T00:00:00Z"), utc("2037-12-31T00:00:00Z"));
        let mut found = Vec::new();
        for zone in TZ_VARIANTS {
            let mut t = from;
            while t < until {
                let next = t + TimeDelta::days(4);
                if offset_at(t, zone) != offset_at(next, zone) {
                    found.push((zone, offset_change(t, next, zone)));
                }
                t = next;
            }
        }
        found
    }

    /// One change of each shape: the same local times and offsets need not be tried for every zone that shares them.
    fn distinct_changes() -> Vec<(Tz, DateTime<Utc>)> {
        let mut seen = HashSet::new();
        let mut found = changes();
        found.retain(|(zone, change)| {
            let (before, after) = (local(*change - SECOND, *zone), local(*change, *zone));
            seen.insert((before.format("%u%T").to_string(), after - before, change.timestamp() / 86_400 / 1000))
        });
        found
    }

    #[test]
    fn days_follow_the_local_calendar_through_daylight_saving() {
        let hours = |day, zone| {
            let window = days(day, day, zone);
            (window.end() - window.start()).num_hours()
        };
        assert_eq!(hours("2026-03-29", "Europe/Berlin"), 23);
        assert_eq!(hours("2026-10-25", "Europe/Berlin"), 25);
        assert_eq!(hours("2026-10-26", "Europe/Berlin"), 24);
        // Midnight does not exist; midnight happens twice (00:01 back to 23:01).
        assert_eq!(day_start(date("2026-04-24"), zone("Africa/Cairo")), utc("2026-04-23T22:00:00Z"));
        assert_eq!(day_start(date("2006-10-29"), zone("America/St_Johns")), utc("2006-10-29T02:30:00Z"));
        assert_eq!(local_date(utc("2006-10-29T03:00:00Z"), zone("America/St_Johns")), date("2006-10-29"));
        assert_eq!(local(utc("2006-10-29T03:00:00Z"), zone("America/St_Johns")).date(), date("2006-10-28"));
    }

    #[test]
    fn a_civil_date_that_does_not_exist_is_skipped() {
        let apia = zone("Pacific/Apia");
        assert_eq!(day_start(date("2011-12-30"), apia), day_start(date("2011-12-31"), apia));
        assert_eq!(Window::days(date("2011-12-30"), date("2011-12-30"), apia), None);
        let yesterday = at("yesterday", "2011-12-30T17:00:00Z", "Pacific/Apia").expect("window");
        assert_eq!(yesterday.label(), "2011-12-29");
        assert_eq!(yesterday.whole_days(), Some((date("2011-12-29"), date("2011-12-29"))));
        let last = at("last_3_days", "2012-01-01T17:00:00Z", "Pacific/Apia").expect("window");
        assert_eq!(last.label(), "2011-12-29--2012-01-01");
        // The Line Islands never had the last day of 1994, and still had a December.
        let december = at("previous_month", "1995-01-05T00:00:00Z", "Pacific/Kiritimati").expect("window");
        assert_eq!((december.label().as_str(), december.local_dates().1), ("1994-12", date("1994-12-30")));
    }

    #[test]
    fn labels_name_days_weeks_months_quarters_and_instants() {
        let kolkata = "Asia/Kolkata";
        assert_eq!(days("2026-11-19", "2026-11-19", kolkata).label(), "2026-11-19");
        assert_eq!(days("2026-11-16", "2026-11-22", kolkata).label(), "2026-11-16--2026-11-22");
        assert_eq!(days("2026-11-01", "2026-11-30", kolkata).label(), "2026-11");
        assert_eq!(days("2026-10-01", "2026-12-31", kolkata).label(), "2026-Q4");
        assert_eq!(days("2026-10-01", "2026-11-30", kolkata).label(), "2026-10-01--2026-11-30");
        let part =
            Window::new(utc("2026-11-19T06:30:00Z"), utc("2026-11-19T10:15:00Z"), zone(kolkata)).expect("window");
        assert_eq!(part.label(), "20261119T063000Z--20261119T101500Z");
        assert_eq!(part.whole_days(), None);
        assert_eq!(days("2027-01-01", "2027-01-01", kolkata).year(), 2027);
    }

    #[test]
    fn no_two_windows_of_a_zone_share_a_label() {
        for name in ["Europe/Berlin", "Pacific/Apia", "America/St_Johns", "America/Santiago", "Australia/Lord_Howe"] {
            let whole = days("2010-10-01", "2012-03-31", name);
            let mut windows = Vec::new();
            for each in [Each::Day, Each::Week, Each::Month] {
                windows.extend(whole.parts(each, Weekday::Mon));
            }
            windows.extend(windows.clone().iter().flat_map(|w| w.parts(Each::Day, Weekday::Mon).into_iter().take(2)));
            windows.extend((0..3000).filter_map(|hour| {
                WindowRule::PreviousHour.at(whole.start() + HOUR * hour, whole.zone(), Weekday::Mon)
            }));
            windows.extend((0..800).filter_map(|day| {
                WindowRule::PreviousQuarter.at(whole.start() + DAY * day, whole.zone(), Weekday::Mon)
            }));
            windows.extend((0..800).flat_map(|day| {
                let start = date("2010-10-01") + Days::new(day);
                (0..40).filter_map(move |count| Window::days(start, start + Days::new(count), zone(name)))
            }));
            let mut labels = HashMap::new();
            for window in windows {
                let label = window.label();
                assert!(label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{label}");
                assert_eq!(*labels.entry(label.clone()).or_insert(window), window, "{name} {label}");
            }
        }
    }

    #[test]
    fn vendors_get_the_last_instant_inside_the_window() {
        let window = days("2026-11-19", "2026-11-19", "Asia/Kolkata");
        assert_eq!(window.utc_millis(), ("2026-11-18T18:30:00.000Z".into(), "2026-11-19T18:29:59.999Z".into()));
        let micros = ("2026-11-19T00:00:00.000000+05:30".into(), "2026-11-19T23:59:59.999999+05:30".into());
        assert_eq!(window.local_micros(), micros);
        assert_eq!(window.start_rfc3339(), "2026-11-19T00:00:00+05:30");
        assert_eq!(window.end_rfc3339(), "2026-11-20T00:00:00+05:30");
        // Each edge has its own offset; one with seconds cannot be written and falls back to UTC.
        let spring = days("2026-03-29", "2026-03-29", "Europe/Berlin").local_micros();
        assert_eq!(spring.0, "2026-03-29T00:00:00.000000+01:00");
        assert_eq!(spring.1, "2026-03-29T23:59:59.999999+02:00");
        assert_eq!(rfc3339_in(utc("1970-01-01T00:00:00Z"), zone("Africa/Monrovia")), "1970-01-01T00:00:00+00:00");
        assert_eq!(rfc3339_in(utc("2026-01-01T00:00:00Z"), zone("UTC")), "2026-01-01T00:00:00+00:00");
        assert_eq!(rfc3339_in(utc("2026-01-01T00:00:00Z"), zone("America/St_Johns")), "2025-12-31T20:30:00-03:30");
    }

    #[test]
    fn a_window_survives_json_and_a_wrong_one_does_not_load() {
        let window = days("2026-11-19", "2026-11-19", "Asia/Kolkata");
        let json = serde_json::to_string(&window).expect("json");
        assert_eq!(json, r#"{"start":"2026-11-18T18:30:00Z","end":"2026-11-19T18:30:00Z","zone":"Asia/Kolkata"}"#);
        let back: Window = serde_json::from_str(&json).expect("window");
        assert_eq!((back, back.zone()), (window, window.zone()));
        let swapped = r#"{"start":"2026-11-19T18:30:00Z","end":"2026-11-18T18:30:00Z","zone":"Asia/Kolkata"}"#;
        assert!(serde_json::from_str::<Window>(swapped).is_err());
    }

    #[test]
    fn rules_take_the_calendar_of_the_fire() {
        let label = |rule, fire_at, zone| at(rule, fire_at, zone).map(|window| window.label());
        let fire = "2026-11-20T01:00:00Z"; // 06:30 in Kolkata, a Friday
        for (rule, expected) in [
            ("previous_hour", "20261119T233000Z--20261120T003000Z"),
            ("yesterday", "2026-11-19"),
            ("today", "20261119T183000Z--20261120T010000Z"),
            ("previous_week", "2026-11-09--2026-11-15"),
            ("previous_month", "2026-10"),
            ("previous_quarter", "2026-Q3"),
            ("last_7_days", "2026-11-13--2026-11-19"),
            ("month_to_date", "20261031T183000Z--20261120T010000Z"),
            ("2026-03-01..2026-03-31", "2026-03"),
        ] {
            assert_eq!(label(rule, fire, "Asia/Kolkata").as_deref(), Some(expected), "{rule}");
        }
        let sunday = WindowRule::PreviousWeek.at(utc(fire), zone("Asia/Kolkata"), Weekday::Sun).expect("window");
        assert_eq!(sunday.label(), "2026-11-08--2026-11-14");
        assert_eq!(label("today", "2026-11-19T18:30:00Z", "Asia/Kolkata"), None);
        assert_eq!(label("month_to_date", "2026-10-31T18:30:00Z", "Asia/Kolkata"), None);
        assert_eq!(
            label("month_to_date", "2026-11-19T18:30:00Z", "Asia/Kolkata").as_deref(),
            Some("2026-11-01--2026-11-19")
        );
    }

    #[test]
    fn a_half_hour_change_leaves_an_hour_of_ninety_minutes_and_every_hour_has_an_instant() {
        let hour = |fire_at| at("previous_hour", fire_at, "Australia/Lord_Howe").expect("window").label();
        // 02:00+11 back to 01:30+10:30 on 2026-04-05: the next full hour is 02:00+10:30.
        assert_eq!(hour("2026-04-04T15:29:00Z"), "20260404T130000Z--20260404T140000Z");
        assert_eq!(hour("2026-04-04T15:30:00Z"), "20260404T140000Z--20260404T153000Z");
        // 02:00+10:30 on to 02:30+11 on 2026-10-04: the next full hour is 03:00+11.
        assert_eq!(hour("2026-10-03T15:59:00Z"), "20261003T133000Z--20261003T143000Z");
        assert_eq!(hour("2026-10-03T16:00:00Z"), "20261003T143000Z--20261003T160000Z");
        // Hours that a change of a whole hour leaves have sixty minutes.
        let berlin = |fire_at| at("previous_hour", fire_at, "Europe/Berlin").expect("window").label();
        assert_eq!(berlin("2026-03-29T01:00:00Z"), "20260329T000000Z--20260329T010000Z");
        assert_eq!(berlin("2026-10-25T01:00:00Z"), "20261025T000000Z--20261025T010000Z");
    }

    #[test]
    fn days_and_hours_tile_around_every_change_of_every_zone() {
        let changes = changes();
        assert!(changes.len() > 10_000);
        for (zone, change) in changes {
            let mut first = local_date(change - TimeDelta::days(2), zone);
            let mut edge = day_start(first, zone);
            while edge < change + DAY * 2 {
                let next = first.succ_opt().expect("date");
                if let Some(window) = Window::days(first, first, zone) {
                    assert_eq!(window.start(), edge, "{zone} {first}");
                    assert_eq!(window.local_dates(), (first, first), "{zone} {first}");
                    edge = window.end();
                } else {
                    assert_eq!(day_start(next, zone), edge, "{zone} {first}");
                }
                first = next;
            }
        }
        for (zone, change) in distinct_changes() {
            let mut fire_at = change + HOUR * 4;
            while fire_at > change - HOUR * 4 {
                let window = WindowRule::PreviousHour.at(fire_at, zone, Weekday::Mon).expect("window");
                assert!(window.end() <= fire_at && window.end() - window.start() < HOUR * 2, "{zone} {fire_at}");
                let inside = WindowRule::PreviousHour.at(window.end() - SECOND, zone, Weekday::Mon).expect("window");
                assert_eq!(inside.end(), window.start(), "{zone} {fire_at}");
                fire_at = window.end() - SECOND;
            }
        }
    }

    #[test]
    fn stepping_through_every_change_by_the_minute_agrees() {
        for (zone, change) in distinct_changes() {
            let whole = |t| offset_at(t, zone).local_minus_utc() % 60 == 0;
            if !whole(change - SECOND) || !whole(change) {
                continue;
            }
            let mut mark = local(change - HOUR * 3, zone).date();
            for minute in -179..180 {
                let t = change + TimeDelta::minutes(minute);
                let shown = local(t, zone).date();
                while mark < shown {
                    mark = mark.succ_opt().expect("date");
                    assert_eq!(day_start(mark, zone), t, "{zone} {mark}");
                }
                assert_eq!(local_date(t, zone), mark, "{zone} {t}");
            }
        }
    }

    #[test]
    fn a_local_time_is_reached_once() {
        let resolve = |naive: &str, name| resolve_local(naive.parse::<NaiveDateTime>().expect("naive"), zone(name));
        assert_eq!(resolve("2026-03-29T02:30:00", "Europe/Berlin"), utc("2026-03-29T01:00:00Z"));
        assert_eq!(resolve("2026-10-25T02:30:00", "Europe/Berlin"), utc("2026-10-25T00:30:00Z"));
        assert_eq!(resolve("2026-11-19T06:30:00", "Asia/Kolkata"), utc("2026-11-19T01:00:00Z"));
    }

    #[test]
    fn weeks_months_and_quarters_tile_in_every_zone() {
        for zone in TZ_VARIANTS {
            for rule in [WindowRule::PreviousWeek, WindowRule::PreviousMonth, WindowRule::PreviousQuarter] {
                let mut window = rule.at(utc("2012-02-01T12:00:00Z"), zone, Weekday::Sun).expect("window");
                for _ in 0..6 {
                    let earlier = rule.at(window.start(), zone, Weekday::Sun).expect("window");
                    assert_eq!(earlier.end(), window.start(), "{zone} {rule}");
                    window = earlier;
                }
            }
        }
    }

    #[test]
    fn the_limits_of_time_do_not_panic() {
        for zone in TZ_VARIANTS {
            for t in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
                let (date, shown) = (local_date(t, zone), rfc3339_in(t, zone));
                assert!((day_start(date, zone) - t).abs() <= DAY * 2 && !shown.is_empty());
                for rule in
                    ["previous_hour", "yesterday", "today", "previous_week", "previous_month", "previous_quarter"]
                {
                    let rule: WindowRule = rule.parse().expect("rule");
                    assert_eq!(rule.at(t, zone, Weekday::Mon), None);
                }
                assert_eq!(WindowRule::LastDays(3660).at(t, zone, Weekday::Mon), None);
            }
            assert_eq!(Window::days(NaiveDate::MIN, NaiveDate::MAX, zone), None);
            assert!(day_start(NaiveDate::MIN, zone) < day_start(NaiveDate::MAX, zone));
        }
        let ages = Window::days(date("0002-01-01"), date("9997-12-31"), zone("Asia/Kolkata")).expect("window");
        assert_eq!(ages.parts(Each::Month, Weekday::Mon).len(), 9996 * 12);
    }

    prop_compose! {
        fn any_window()(zone in prop::sample::select(&TZ_VARIANTS[..]), start in 0i64..2_145_916_800, length in 1i64..20_000_000)
            -> Window {
            let instant = |seconds| DateTime::from_timestamp(seconds, 0).expect("instant");
            Window::new(instant(start), instant(start + length), zone).expect("window")
        }
    }

    proptest! {
        #[test]
        fn parts_tile_their_window(
            window in any_window(),
            each in prop::sample::select(vec![Each::Day, Each::Week, Each::Month]),
            offset in 0u8..7,
        ) {
            let week_start = Weekday::try_from(offset).expect("weekday");
            let parts = window.parts(each, week_start);
            prop_assert_eq!(parts[0].start(), window.start());
            prop_assert_eq!(parts[parts.len() - 1].end(), window.end());
            for pair in parts.windows(2) {
                prop_assert_eq!(pair[0].end(), pair[1].start());
                let edge = local_date(pair[1].start(), window.zone());
                prop_assert_eq!(day_start(edge, window.zone()), pair[1].start());
            }
        }

        #[test]
        fn a_local_date_holds_its_instants(window in any_window()) {
            for t in [window.start(), window.end()] {
                let date = local_date(t, window.zone());
                prop_assert!(day_start(date, window.zone()) <= t);
                prop_assert!(day_start(date.succ_opt().expect("date"), window.zone()) > t);
                prop_assert!(local_date(resolve_local(local(t, window.zone()), window.zone()), window.zone()) == date
                    || high_water(t, window.zone()) > local(t, window.zone()));
            }
        }

        #[test]
        fn windows_end_by_their_fire_and_print_without_panic(
            seconds in -8_334_601_228_800i64..8_210_266_876_799,
            near in any::<bool>(),
            zone in prop::sample::select(&TZ_VARIANTS[..]),
            count in 0u16..400,
        ) {
            let seconds = if near { seconds % 2_145_916_800 } else { seconds };
            let fire_at = DateTime::from_timestamp(seconds, 5).expect("instant");
            for rule in [
                WindowRule::PreviousHour, WindowRule::Yesterday, WindowRule::Today, WindowRule::PreviousWeek,
                WindowRule::PreviousMonth, WindowRule::PreviousQuarter, WindowRule::LastDays(count), WindowRule::MonthToDate,
            ] {
                if let Some(window) = rule.at(fire_at, zone, Weekday::Sat) {
                    prop_assert!(window.start() < window.end() && window.end() <= fire_at);
                    prop_assert!(!window.label().is_empty() && window.year() <= 9998);
                    prop_assert!(window.utc_millis().0.len() == 24 && window.local_micros().1.len() == 32);
                }
            }
        }
    }
}
