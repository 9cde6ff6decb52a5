//! Schedules: crons and a zone, turned into the instants at which a series fires.
//!
//! A fixed-time cron (`30 2 * * *`) fires when the local clock first reaches the time it names: once, at the first
//! instant after a gap that swallowed it, and in the first pass where the clock shows it twice. A periodic one (the
//! minute or hour field starts with `*`) fires whenever the clock shows a matching time. A civil date that the zone
//! never had has no fires.
//!
//! Pure: it enumerates instants between two that it is given, strictly ascending and each once. What is due, missed or
//! caught up is the planner's business. Nothing here searches without bound: schedules end with the year 9998.

mod cron;

use chrono::{DateTime, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

pub use cron::{Cron, CronError};

use crate::request::window::{day_start, high_water, local, offset_at, offset_change, resolve_local};

const SECOND: TimeDelta = TimeDelta::seconds(1);
/// Looked ahead for daylight-saving changes: a year and the days by which their dates wander.
const DST_HORIZON: TimeDelta = TimeDelta::days(400);
/// Stride of that look: no zone has changed its offset twice within 6 days since 1970.
const DST_STRIDE: TimeDelta = TimeDelta::days(4);
/// Fires looked at for the schedule's step: two months of a daily one, each month of a monthly one five times.
const STEP_SAMPLE: usize = 60;

/// One or more crons in one zone; the series fires when any of them does.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    crons: Vec<Cron>,
    zone: Tz,
}

/// A fixed-time cron that names a time which a daylight-saving change skips or repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DstHit {
    /// Which of [`Schedule::crons`].
    pub cron: usize,
    /// The local date of the time that is hit.
    pub date: NaiveDate,
    /// The time of day it names.
    pub time: NaiveTime,
    /// What happens to that time.
    pub kind: DstKind,
}

/// What a daylight-saving change does to a local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DstKind {
    /// It does not exist: the fire moves to the first instant after.
    Gap,
    /// It happens twice: the fire is at the first.
    Overlap,
}

impl Schedule {
    /// A schedule that fires when any of `crons` does, read in `zone`. Without crons it never fires.
    pub fn new(crons: Vec<Cron>, zone: Tz) -> Schedule {
        Schedule { crons, zone }
    }

    /// The zone in which the crons are read.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The crons, in the order given.
    pub fn crons(&self) -> &[Cron] {
        &self.crons
    }

    /// The first fire strictly after `after`. `None`: it never fires again.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.crons.iter().filter_map(|cron| next_of(cron, after, self.zone)).min()
    }

    /// All fires strictly after `after`, ascending, each once; without an end, unless it never fires again.
    pub fn after(&self, after: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
        std::iter::successors(self.next(after), |fire| self.next(*fire))
    }

    /// The first `limit` fires in `(after, until]`, ascending, each once.
    pub fn between(&self, after: DateTime<Utc>, until: DateTime<Utc>, limit: usize) -> Vec<DateTime<Utc>> {
        self.after(after).take_while(|fire| *fire <= until).take(limit).collect()
    }

    /// The first cron that never fires, as `0 0 30 2 *`.
    pub fn never_fires(&self) -> Option<&Cron> {
        self.crons.iter().find(|cron| cron.never_fires())
    }

    /// Fixed-time crons that name a time skipped or repeated by an offset change in the 400 days after `from`: for each
    /// cron and change the first such time.
    pub fn dst_hits(&self, from: DateTime<Utc>) -> Vec<DstHit> {
        let mut hits = Vec::new();
        let mut start = from;
        while let Some(next) = start.checked_add_signed(DST_STRIDE).filter(|next| *next - from <= DST_HORIZON) {
            let (before, after) = (offset_at(start, self.zone), offset_at(next, self.zone));
            if before != after {
                let change = offset_change(start, next, self.zone);
                let (left, taken) = (local(change - SECOND, self.zone) + SECOND, local(change, self.zone));
                let kind = if left < taken { DstKind::Gap } else { DstKind::Overlap };
                for (index, cron) in self.crons.iter().enumerate().filter(|(_, cron)| !cron.periodic()) {
                    if let Some(hit) = cron.after(left.min(taken) - SECOND).filter(|hit| *hit < left.max(taken)) {
                        hits.push(DstHit { cron: index, date: hit.date(), time: hit.time(), kind });
                    }
                }
            }
            start = next;
        }
        hits
    }

    /// Smallest and largest distance between neighbours among the next 60 fires after `from`. `None` with fewer than
    /// two fires.
    pub fn typical_step(&self, from: DateTime<Utc>) -> Option<(TimeDelta, TimeDelta)> {
        let fires = self.between(from, DateTime::<Utc>::MAX_UTC, STEP_SAMPLE);
        let steps = || fires.windows(2).map(|pair| pair[1] - pair[0]);
        Some((steps().min()?, steps().max()?))
    }
}

fn next_of(cron: &Cron, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
    if cron.periodic() { next_periodic(cron, after, zone) } else { next_fixed(cron, after, zone) }
}

/// The clock has reached every time up to its high-water mark, so the next fire is the next time above the mark. No
/// look-back is needed, whatever the length of a gap or an overlap.
fn next_fixed(cron: &Cron, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
    let mut civil = high_water(after, zone);
    loop {
        civil = cron.after(civil)?;
        let tomorrow = civil.date().succ_opt()?;
        if day_start(civil.date(), zone) < day_start(tomorrow, zone) {
            return Some(resolve_local(civil, zone));
        }
        civil = NaiveDateTime::from(tomorrow) - SECOND;
    }
}

fn next_periodic(cron: &Cron, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
    let shown = local(after, zone);
    let ahead = first_shown(cron, shown, after, zone);
    // In the first pass of an overlap the clock will show again times that are behind it now.
    let LocalResult::Ambiguous(_, second) = zone.from_local_datetime(&shown) else {
        return ahead;
    };
    if second.to_utc() <= after {
        return ahead;
    }
    let change = offset_change(after, second.to_utc(), zone);
    let again = first_shown(cron, local(change, zone) - SECOND, change - SECOND, zone);
    ahead.into_iter().chain(again).min()
}

/// The first instant after `after` at which the clock shows the first matching time above `civil` that exists.
fn first_shown(cron: &Cron, mut civil: NaiveDateTime, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
    loop {
        civil = cron.after(civil)?;
        let shown = zone.from_local_datetime(&civil);
        let passes = [shown.earliest(), shown.latest()].into_iter().flatten();
        if let Some(fire) = passes.map(|t| t.to_utc()).find(|t| *t > after) {
            return Some(fire);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use chrono::{Datelike, Timelike};
    use chrono_tz::TZ_VARIANTS;
    use proptest::prelude::*;

    use super::*;
    use crate::request::window::rfc3339_in;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("instant")
    }

    fn schedule(crons: &[&str], zone: &str) -> Schedule {
        let crons = crons.iter().map(|text| Cron::parse(text, "job@shop").expect("cron")).collect();
        Schedule::new(crons, zone.parse().expect("zone"))
    }

    /// The fires of one local day, written in local time.
    fn fires(crons: &[&str], zone: &str, date: &str) -> Vec<String> {
        let schedule = schedule(crons, zone);
        let date: NaiveDate = date.parse().expect("date");
        let start = day_start(date, schedule.zone()) - SECOND;
        let end = day_start(date.succ_opt().expect("date"), schedule.zone()) - SECOND;
        schedule
            .between(start, end, 10_000)
            .into_iter()
            .map(|fire| rfc3339_in(fire, schedule.zone())[11..].to_owned())
            .collect()
    }

    #[test]
    fn daylight_saving_vectors() {
        let berlin = |cron, date| fires(&[cron], "Europe/Berlin", date);
        assert_eq!(berlin("30 2 * * *", "2026-03-29"), ["03:00:00+02:00"]);
        assert_eq!(berlin("0,30 2 * * *", "2026-03-29"), ["03:00:00+02:00"]);
        assert_eq!(berlin("30 1 * * *", "2026-03-29"), ["01:30:00+01:00"]);
        assert_eq!(berlin("0 2,3 * * *", "2026-03-29"), ["03:00:00+02:00"]);
        assert_eq!(berlin("0 * * * *", "2026-03-29").len(), 23);
        assert_eq!(berlin("0 * * * *", "2026-10-25").len(), 25);
        assert_eq!(berlin("30 2 * * *", "2026-10-25"), ["02:30:00+02:00"]);
        assert_eq!(berlin("15 2,3 * * *", "2026-10-25"), ["02:15:00+02:00", "03:15:00+01:00"]);
        assert_eq!(berlin("*/30 2 * * *", "2026-03-29"), Vec::<String>::new());
        assert_eq!(berlin("*/30 2 * * *", "2026-10-25").len(), 4);
        assert_eq!(fires(&["0 0 * * *"], "Africa/Cairo", "2026-04-24"), ["01:00:00+03:00"]);
        assert_eq!(fires(&["0 0 * * *"], "America/Santiago", "2026-09-06"), ["01:00:00-03:00"]);
        assert_eq!(fires(&["15 2 * * *"], "Australia/Lord_Howe", "2026-10-04"), ["02:30:00+11:00"]);
        // Two crons of one schedule that meet at the end of a gap are one fire.
        assert_eq!(fires(&["30 2 * * *", "0 3 * * *"], "Europe/Berlin", "2026-03-29"), ["03:00:00+02:00"]);
    }

    #[test]
    fn a_civil_date_that_does_not_exist_has_no_fire() {
        let apia = schedule(&["30 6 * * *"], "Pacific/Apia");
        let around = apia.between(utc("2011-12-29T00:00:00Z"), utc("2012-01-01T00:00:00Z"), 10);
        let expected = ["2011-12-29T16:30:00Z", "2011-12-30T16:30:00Z", "2011-12-31T16:30:00Z"];
        assert_eq!(around, expected.map(utc));
        let midnight = schedule(&["0 0 * * *"], "Pacific/Apia");
        let around = midnight.between(utc("2011-12-29T00:00:00Z"), utc("2011-12-31T00:00:00Z"), 10);
        assert_eq!(around, [utc("2011-12-29T10:00:00Z"), utc("2011-12-30T10:00:00Z")]);
        let only = schedule(&["0 0 30 12 *", "* * 30 12 *"], "Pacific/Apia");
        let in_2011 = only.between(utc("2011-12-01T00:00:00Z"), utc("2012-01-31T00:00:00Z"), 10);
        assert!(in_2011.is_empty());
    }

    #[test]
    fn either_day_field_matches() {
        let either = schedule(&["0 0 13 * FRI"], "UTC");
        let days: Vec<u32> = either
            .between(utc("2026-11-01T00:00:00Z"), utc("2026-12-14T00:00:00Z"), 99)
            .iter()
            .map(Datelike::day)
            .collect();
        assert_eq!(days, [6, 13, 20, 27, 4, 11, 13]);
    }

    #[test]
    fn next_is_strictly_after_and_limits_hold() {
        let daily = schedule(&["30 6 * * *"], "Asia/Kolkata");
        let fire = utc("2026-11-20T01:00:00Z");
        assert_eq!(daily.next(fire - SECOND), Some(fire));
        assert_eq!(daily.next(fire), Some(utc("2026-11-21T01:00:00Z")));
        assert_eq!(daily.between(fire - SECOND, fire, 9), [fire]);
        assert!(daily.between(fire, fire, 9).is_empty());
        assert_eq!(daily.between(fire, fire + TimeDelta::days(90), 31).len(), 31);
        assert!(daily.between(fire, fire + TimeDelta::days(90), 0).is_empty());
        assert_eq!(schedule(&[], "UTC").next(fire), None);
    }

    #[test]
    fn a_cron_without_any_date_never_fires() {
        let never = schedule(&["0 6 * * *", "0 0 30 2 *"], "Europe/Berlin");
        assert_eq!(never.never_fires().map(Cron::text), Some("0 0 30 2 *"));
        assert!(never.next(utc("2026-01-01T00:00:00Z")).is_some());
        assert_eq!(schedule(&["0 0 31 4,6,9,11 *"], "UTC").next(utc("2026-01-01T00:00:00Z")), None);
        assert_eq!(schedule(&["0 0 29 2 *"], "UTC").never_fires(), None);
    }

    #[test]
    fn daylight_saving_hits_name_the_time_and_what_happens() {
        let schedule = schedule(&["30 2 * * *", "*/30 2 * * *", "0 3 * * *", "0 2 * * SUN"], "Europe/Berlin");
        let hits = schedule.dst_hits(utc("2026-01-01T00:00:00Z"));
        let hit = |cron, date: &str, time: &str, kind| DstHit {
            cron,
            date: date.parse().expect("date"),
            time: time.parse().expect("time"),
            kind,
        };
        assert_eq!(
            hits,
            [
                hit(0, "2026-03-29", "02:30:00", DstKind::Gap),
                hit(3, "2026-03-29", "02:00:00", DstKind::Gap),
                hit(0, "2026-10-25", "02:30:00", DstKind::Overlap),
                hit(3, "2026-10-25", "02:00:00", DstKind::Overlap),
            ]
        );
    }

    #[test]
    fn the_typical_step_is_the_smallest_and_largest_distance() {
        let step = |crons: &[&str], zone| schedule(crons, zone).typical_step(utc("2026-11-01T00:00:00Z"));
        let hours = |min, max| Some((TimeDelta::hours(min), TimeDelta::hours(max)));
        assert_eq!(step(&["30 6 * * *"], "Asia/Kolkata"), hours(24, 24));
        assert_eq!(step(&["0 6 * * MON-FRI"], "UTC"), hours(24, 72));
        assert_eq!(step(&["0 6 * * *", "0 18 * * *"], "UTC"), hours(12, 12));
        assert_eq!(step(&["0 0 1 * *"], "UTC"), hours(28 * 24, 31 * 24));
        assert_eq!(step(&["0 0 30 2 *"], "UTC"), None);
    }

    #[test]
    fn the_limits_of_time_end_a_schedule() {
        for zone in ["Asia/Kolkata", "America/Santiago"] {
            let schedule = schedule(&["0 6 * * *", "*/5 * * * *", "0 0 29 2 *"], zone);
            assert_eq!(schedule.next(DateTime::<Utc>::MAX_UTC), None);
            assert_eq!(schedule.next(utc("9999-01-02T00:00:00Z")), None);
            assert!(schedule.next(DateTime::<Utc>::MIN_UTC).is_some());
            assert_eq!(schedule.dst_hits(DateTime::<Utc>::MAX_UTC), []);
            assert!(schedule.dst_hits(DateTime::<Utc>::MIN_UTC).is_empty());
        }
    }

    /// One field as a bit mask, read by the test's own rules.
    fn mask(field: &str, low: u32, high: u32) -> u64 {
        let mut bits = 0;
        for item in field.split(',') {
            let (range, step) = item.split_once('/').unwrap_or((item, "1"));
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (low, high),
                Some((first, last)) => (first.parse().expect("first"), last.parse().expect("last")),
                None => (range.parse().expect("value"), range.parse().expect("value")),
            };
            for value in (first..=last).step_by(step.parse().expect("step")) {
                bits |= 1 << (value % if high == 7 { 7 } else { 64 });
            }
        }
        bits
    }

    /// Steps over every minute of `(start, end]`, applies the definition to what the local clock shows, and compares.
    fn compare(zone: Tz, start: DateTime<Utc>, end: DateTime<Utc>, crons: &[&str]) {
        let minutes = (end - start).num_minutes();
        let shown: Vec<NaiveDateTime> =
            (-2880..=minutes).map(|n| (start + TimeDelta::minutes(n)).with_timezone(&zone).naive_local()).collect();
        let dates: HashSet<NaiveDate> = shown.iter().map(NaiveDateTime::date).collect();
        for text in crons {
            let fields: Vec<&str> = text.split(' ').collect();
            let masks: Vec<u64> = fields
                .iter()
                .zip([(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)])
                .map(|(f, (l, h))| mask(f, l, h))
                .collect();
            let matches = |t: NaiveDateTime| {
                let has = |i: usize, value: u32| masks[i] >> value & 1 == 1;
                let (dom, dow) = (has(2, t.day()), has(4, t.weekday().num_days_from_sunday()));
                let day = if fields[2] == "*" || fields[4] == "*" { dom && dow } else { dom || dow };
                has(0, t.minute()) && has(1, t.hour()) && day && has(3, t.month())
            };
            let periodic = fields[0].starts_with('*') || fields[1].starts_with('*');
            let mut expected = Vec::new();
            let mut mark = shown[0];
            for (n, t) in (-2880..).zip(&shown).skip(1) {
                let mut fires = periodic && matches(*t);
                while mark < *t {
                    mark += TimeDelta::minutes(1);
                    fires |= !periodic && matches(mark) && dates.contains(&mark.date());
                }
                if fires && n > 0 {
                    expected.push(start + TimeDelta::minutes(n));
                }
            }
            let found = schedule(&[text], zone.name()).between(start, end, usize::MAX);
            assert_eq!(found.len(), expected.len(), "{zone} {text}");
            assert_eq!(found, expected, "{zone} {text}");
        }
    }

    /// Fixed-time and periodic ones, around the hours in which clocks change.
    const CRONS: [&str; 12] = [
        "30 2 * * *",
        "0,30 0-3 * * *",
        "0 0 * * *",
        "15 2,3 1-7 * *",
        "59 23 * * 1-5",
        "0 0 13 * 5",
        "30 1 * 3,10 0",
        "0 * * * *",
        "*/30 * * * *",
        "*/10 1-3 * * *",
        "45 */6 * * *",
        "*/7 */5 * 3-4,10-12 *",
    ];

    #[test]
    fn stepping_over_every_minute_of_two_years_agrees() {
        for (zone, start, end) in [
            (Tz::Europe__Berlin, "2026-01-01T00:00:00Z", "2028-01-01T00:00:00Z"),
            (Tz::Australia__Lord_Howe, "2026-01-01T00:00:00Z", "2028-01-01T00:00:00Z"),
            (Tz::Pacific__Apia, "2011-01-01T00:00:00Z", "2013-01-01T00:00:00Z"),
        ] {
            compare(zone, utc(start), utc(end), &CRONS);
        }
    }

    #[test]
    #[ignore = "takes minutes: every zone there is"]
    fn stepping_over_every_minute_of_three_years_in_every_zone_agrees() {
        let began = std::time::Instant::now();
        let (start, end) = (utc("2025-01-01T00:00:00Z"), utc("2028-01-01T00:00:00Z"));
        // Zones whose clocks show the same at every instant of the comparison, and so are stepped over once.
        let mut alike: HashMap<Vec<(DateTime<Utc>, chrono::FixedOffset)>, Vec<Tz>> = HashMap::new();
        for zone in TZ_VARIANTS {
            let (mut day, mut shows) = (start - TimeDelta::days(4), Vec::new());
            shows.push((day, offset_at(day, zone)));
            while day < end {
                let next = day + TimeDelta::days(4);
                if offset_at(day, zone) != offset_at(next, zone) {
                    shows.push((offset_change(day, next, zone), offset_at(next, zone)));
                }
                day = next;
            }
            alike.entry(shows).or_default().push(zone);
        }
        let groups: Vec<Vec<Tz>> = alike.into_values().collect();
        let compare_group = |group: &Vec<Tz>| {
            compare(group[0], start, end, &CRONS);
            let fires = |zone: Tz, cron| schedule(&[cron], zone.name()).between(start, end, usize::MAX);
            let mut count = 0;
            for cron in CRONS {
                let first = fires(group[0], cron);
                count += first.len() * group.len();
                group[1..].iter().for_each(|zone| assert_eq!(fires(*zone, cron), first, "{zone} {cron}"));
            }
            count
        };
        let count: usize = std::thread::scope(|scope| {
            let halves = groups.chunks(groups.len().div_ceil(2));
            let halves: Vec<_> =
                halves.map(|half| scope.spawn(move || half.iter().map(compare_group).sum::<usize>())).collect();
            halves.into_iter().map(|half| half.join().expect("a comparison")).sum()
        });
        println!(
            "{} zones of {} shapes, {} crons, {count} fires, {:?}",
            TZ_VARIANTS.len(),
            groups.len(),
            CRONS.len(),
            began.elapsed()
        );
    }

    #[test]
    fn stepping_over_each_shape_of_change_agrees() {
        let mut seen = HashSet::new();
        for zone in TZ_VARIANTS {
            let mut day = utc("2005-01-01T00:00:00Z");
            while day < utc("2028-01-01T00:00:00Z") {
                let next = day + TimeDelta::days(4);
                if offset_at(day, zone) != offset_at(next, zone) {
                    let change = offset_change(day, next, zone);
                    let (left, taken) = (local(change - SECOND, zone), local(change, zone));
                    if seen.insert((left.time(), taken - left)) {
                        compare(zone, change - TimeDelta::days(3), change + TimeDelta::days(3), &CRONS);
                    }
                }
                day = next;
            }
        }
        assert!(seen.len() > 40, "{}", seen.len());
    }

    fn any_cron() -> impl Strategy<Value = String> {
        let field = |low: u32, high: u32| {
            prop_oneof![
                Just("*".to_owned()),
                (low..=high).prop_map(|a| a.to_string()),
                (low..=high, low..=high).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
                (low..=high, low..=high).prop_map(|(a, b)| format!("{a},{b}")),
                (1..=high).prop_map(|n| format!("*/{n}")),
                (1..=5u32).prop_map(|n| format!("H/{n}")),
            ]
        };
        (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7))
            .prop_map(|(a, b, c, d, e)| format!("{a} {b} {c} {d} {e}"))
    }

    proptest! {
        #[test]
        fn fires_ascend_and_are_found_from_any_instant(
            text in any_cron(),
            other in any_cron(),
            zone in prop::sample::select(&TZ_VARIANTS[..]),
            after in 0i64..2_145_916_800,
        ) {
            let schedule = schedule(&[&text, &other], zone.name());
            let after = DateTime::from_timestamp(after, 0).expect("instant");
            let fires = schedule.between(after, after + TimeDelta::days(3), 40);
            prop_assert!(fires.iter().all(|fire| *fire > after));
            prop_assert!(fires.windows(2).all(|pair| pair[0] < pair[1]));
            for pair in fires.windows(2) {
                prop_assert_eq!(schedule.next(pair[0] + (pair[1] - pair[0]) / 2), Some(pair[1]));
            }
        }
    }
}
