//! Small forms that several commands print or read.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, SubsecRound, Utc};
use chrono_tz::Tz;

pub(super) use crate::artifact::size;
use crate::clock::Clock;
use crate::request::Call;
use crate::request::window::{resolve_local, rfc3339_in};

/// Reads `--at`: RFC 3339, or a local date and time in `zone` (`2026-03-29 02:30`, `2026-03-29T02:30`, `2026-03-29`). Whole seconds.
pub(super) fn instant(text: Option<&str>, zone: Tz, clock: &Clock) -> Result<DateTime<Utc>, String> {
    let Some(text) = text else { return Ok(clock.now().trunc_subsecs(0)) };
    let at = any_instant(text, zone)?;
    if !(1970..=9998).contains(&at.year()) {
        return Err(format!("'{text}' is out of reach: years 1970 to 9998"));
    }
    Ok(at)
}

fn any_instant(text: &str, zone: Tz) -> Result<DateTime<Utc>, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.to_utc().trunc_subsecs(0));
    }
    match written_local(text) {
        Some(local) => Ok(resolve_local(local, zone)),
        None => Err(format!(
            "'{text}' is not an instant: write 2026-03-29T06:30:00+02:00, or local time as 2026-03-29T06:30"
        )),
    }
}

/// Reads a date: `2026-11-20` and no other form.
pub(super) fn date(text: &str) -> Result<NaiveDate, String> {
    let date = text.parse::<NaiveDate>().ok().filter(|date| date.to_string() == text && date.year() <= 9998);
    date.ok_or_else(|| format!("'{text}' is not a date: write 2026-11-20"))
}

/// A time to come, in the unit that a person thinks in: `40 s`, `12 min`, `5 h`, `3 days`.
pub(super) fn roughly(duration: std::time::Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..90 => format!("{} s", seconds.max(1)),
        seconds @ 90..5400 => format!("{} min", seconds.div_ceil(60)),
        seconds @ 5400..172_800 => format!("{} h", seconds.div_ceil(3600)),
        seconds => format!("{} days", seconds.div_ceil(86_400)),
    }
}

/// The local date and time of a text that is not RFC 3339, as it is written: it need not exist in a zone.
pub(super) fn written_local(text: &str) -> Option<NaiveDateTime> {
    let forms = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    forms
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
        .or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|d| d.and_hms_opt(0, 0, 0)))
}

/// `2026-11-20 06:30 +05:30 (Asia/Kolkata), 01:00 UTC`.
pub(super) fn local_and_utc(at: DateTime<Utc>, zone: Tz) -> String {
    let local = at.with_timezone(&zone);
    format!("{} ({}) = {} UTC", local.format("%a %Y-%m-%d %H:%M:%S %:z"), zone.name(), at.format("%Y-%m-%d %H:%M:%S"))
}

/// A short local time for lists.
pub(super) fn local(at: DateTime<Utc>, zone: Tz) -> String {
    let text = rfc3339_in(at, zone);
    text.get(..19).map_or(text.clone(), |head| head.replace('T', " "))
}

/// A request as it goes out, less its credentials.
pub(super) fn request_lines(call: &Call, indent: &str) -> String {
    let shown = call.redacted();
    let mut out = format!("{indent}request  {} {}\n", call.method, shown["url"].as_str().unwrap_or_default());
    for (name, value) in shown["headers"].as_object().into_iter().flatten() {
        out.push_str(&format!("{indent}         {name}: {}\n", value.as_str().unwrap_or_default()));
    }
    if let Some(body) = &call.body {
        let pretty = serde_json::to_string_pretty(body).unwrap_or_default();
        for line in pretty.lines() {
            out.push_str(&format!("{indent}         {line}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_in_both_forms_and_local_ones_follow_the_zone() {
        let berlin: Tz = "Europe/Berlin".parse().unwrap();
        let read = |text| instant(Some(text), berlin, &Clock::System).map(|t| t.to_rfc3339()).unwrap();
        assert_eq!(read("2026-03-29T06:30:00+02:00"), "2026-03-29T04:30:00+00:00");
        assert_eq!(read("2026-03-29T06:30"), "2026-03-29T04:30:00+00:00");
        assert_eq!(read("2026-03-29 02:30"), "2026-03-29T01:00:00+00:00");
        assert_eq!(read("2026-03-29"), "2026-03-28T23:00:00+00:00");
        assert!(instant(Some("yesterday"), berlin, &Clock::System).is_err());
    }
}
