//! The local clock of a zone: between instants, and the civil dates and times that people write.
//!
//! Everything rests on one idea, the *high-water mark* of a local clock: the latest civil time it has shown so far. It
//! never runs backwards, so "the first instant at which the clock had reached X" has one answer for every X: the first
//! pass where a civil time happens twice, the first valid instant after it where it does not exist, the next day's
//! start where a whole date does not exist.
//!
//! Total: every date and instant that chrono can hold has an answer; at the limits it is clamped.

use chrono::{DateTime, Datelike, Days, FixedOffset, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, Offset};
use chrono::{TimeDelta, TimeZone, Timelike, Utc, Weekday};
use chrono_tz::{GapInfo, Tz};

/// An instant as RFC 3339 in `zone`, whole seconds, with the offset of that instant (`2026-11-19T00:00:00+05:30`). An
/// offset that is no whole minute cannot be written so and falls back to UTC, `+00:00`.
pub fn rfc3339_in(t: DateTime<Utc>, zone: Tz) -> String {
    local_text(t, zone, "%Y-%m-%dT%H:%M:%S")
}

/// [`rfc3339_in`] with a format of choice for all but the offset.
pub(super) fn local_text(t: DateTime<Utc>, zone: Tz, format: &str) -> String {
    let offset = Some(offset_at(t, zone)).filter(|offset| offset.local_minus_utc() % 60 == 0);
    let shown = offset.and_then(|offset| Some((t.naive_utc().checked_add_offset(offset)?, offset)));
    let (naive, offset) = shown.unwrap_or((t.naive_utc(), Utc.fix()));
    format!("{}{offset}", naive.format(format))
}

/// First instant of the local day `date`: the first valid one where midnight does not exist, the first pass where it
/// happens twice, the start of the next day that exists where the zone never had this date. Clamped to what chrono
/// holds.
pub fn day_start(date: NaiveDate, zone: Tz) -> DateTime<Utc> {
    resolve_local(date.and_time(NaiveTime::MIN), zone)
}

/// The local date `d` with `day_start(d) <= t < day_start(d + 1)`. Where a clock is set back over midnight this is the
/// later date for the rest of the hour, though the clock shows the earlier one again.
pub fn local_date(t: DateTime<Utc>, zone: Tz) -> NaiveDate {
    high_water(t, zone).date()
}

/// The first instant at which the clock of `zone` had reached `naive`: in a gap the first valid instant after it, where
/// the time happens twice the first pass. Clamped to what chrono holds.
pub fn resolve_local(naive: NaiveDateTime, zone: Tz) -> DateTime<Utc> {
    match zone.from_local_datetime(&naive) {
        LocalResult::Single(t) | LocalResult::Ambiguous(t, _) => t.to_utc(),
        LocalResult::None => GapInfo::new(&naive, &zone)
            .and_then(|gap| gap.begin)
            .and_then(|(begin, offset)| begin.checked_sub_offset(offset.fix()))
            .map_or_else(|| limit(naive), |at| at.and_utc()),
    }
}

/// The end of time on the side of `naive`, for what chrono cannot hold.
fn limit(naive: NaiveDateTime) -> DateTime<Utc> {
    if naive.year() > 0 { DateTime::<Utc>::MAX_UTC } else { DateTime::<Utc>::MIN_UTC }
}

/// What the clock of `zone` shows at `t`, clamped to what chrono holds.
pub(crate) fn local(t: DateTime<Utc>, zone: Tz) -> NaiveDateTime {
    let naive = t.naive_utc();
    naive.checked_add_offset(offset_at(t, zone)).unwrap_or_else(|| limit(naive).naive_utc())
}

/// The latest civil time that the clock of `zone` has shown up to and including `t`. It differs from [`local`] only
/// in the second pass of an overlap, where it stays at the last nanosecond before the clock was set back.
pub(crate) fn high_water(t: DateTime<Utc>, zone: Tz) -> NaiveDateTime {
    let shown = local(t, zone);
    match zone.from_local_datetime(&shown) {
        LocalResult::Ambiguous(first, _) if first < t => {
            let first = first.to_utc();
            local(offset_change(first, t, zone) - TimeDelta::nanoseconds(1), zone)
        }
        _ => shown,
    }
}

/// The offset of `zone` from UTC at `t`.
pub(crate) fn offset_at(t: DateTime<Utc>, zone: Tz) -> FixedOffset {
    zone.offset_from_utc_datetime(&t.naive_utc()).fix()
}

/// The instant in `(before, after]` at which `zone` took up the offset that it has at `after`, found by bisection to
/// the second. The offsets at the two instants must differ.
pub(crate) fn offset_change(before: DateTime<Utc>, after: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
    let wanted = offset_at(after, zone);
    // The offset changes at whole seconds, so both ends can be cut down to them.
    let (mut low, mut high) = (before.timestamp(), after.timestamp());
    let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or(after);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if offset_at(at(middle), zone) == wanted {
            high = middle;
        } else {
            low = middle;
        }
    }
    at(high)
}

/// Start of the local hour of `t`: the last instant at or before it at which the clock shows a full hour. Where a change of
/// half an hour swallows a full hour or sets the clock back from it, the hour before goes on: it then has 90 minutes, and a
/// schedule of every hour names it. `None` only at the limits of what chrono holds.
pub(super) fn hour_start(t: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
    let t = DateTime::from_timestamp(t.timestamp(), 0)?;
    let full = t.checked_sub_signed(past_the_hour(t, zone))?;
    if offset_at(full, zone) == offset_at(t, zone) {
        return Some(full);
    }
    let change = offset_change(full, t, zone);
    if past_the_hour(change, zone).is_zero() {
        return Some(change);
    }
    hour_start(change.checked_sub_signed(TimeDelta::seconds(1))?, zone)
}

/// How long after a full hour the clock is.
fn past_the_hour(t: DateTime<Utc>, zone: Tz) -> TimeDelta {
    let shown = local(t, zone);
    TimeDelta::seconds(i64::from(shown.minute() * 60 + shown.second()))
}

/// First day of the week of `date`. `None` only before the dates that chrono holds.
pub(super) fn week_first(date: NaiveDate, week_start: Weekday) -> Option<NaiveDate> {
    date.checked_sub_days(Days::new(date.weekday().days_since(week_start).into()))
}

/// First day of the month of `date`, whether or not a zone has it.
pub(super) fn month_first(date: NaiveDate) -> NaiveDate {
    date.with_day(1).unwrap_or(date)
}

/// First day of the calendar quarter of `date`, whether or not a zone has it.
pub(super) fn quarter_first(date: NaiveDate) -> NaiveDate {
    let first = month_first(date);
    first.with_month0(first.month0() / 3 * 3).unwrap_or(first)
}
