//! The rules by which a job finds its window: the words people write under `window:`, and the window each of them
//! names for a fire.
//!
//! A rule takes the fire's instant and never the present one, so a late run asks for what it would have asked for in
//! time. It refuses, with the words that exist, every text that is not exactly one of them.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, Utc, Weekday};
use chrono_tz::Tz;

use super::civil::{day_start, hour_start, local_date, month_first, quarter_first, week_first};
use super::{SECOND, Window, YEARS};

/// Most days that `last_N_days` may ask for: ten years.
const MAX_LAST_DAYS: u16 = 3660;

/// The rule by which a job finds its window from the instant of its fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WindowRule {
    /// The whole local hour before the one of the fire.
    PreviousHour,
    /// The local day before the one of the fire; one that the zone never had is skipped.
    Yesterday,
    /// From the start of the fire's local day to the fire.
    Today,
    /// The week before the one of the fire.
    PreviousWeek,
    /// The calendar month before the one of the fire.
    PreviousMonth,
    /// The calendar quarter before the one of the fire.
    PreviousQuarter,
    /// So many whole local days (1 to 3660) that end where the fire's day starts.
    LastDays(u16),
    /// From the first of the fire's month to the fire.
    MonthToDate,
    /// The same local days whenever it fires.
    Fixed {
        /// First local date.
        from: NaiveDate,
        /// Last local date, included; not before `from`.
        to: NaiveDate,
    },
}

/// The rules that are one word; `last_N_days` and fixed dates carry values.
const WORDS: [(&str, WindowRule); 7] = [
    ("previous_hour", WindowRule::PreviousHour),
    ("yesterday", WindowRule::Yesterday),
    ("today", WindowRule::Today),
    ("previous_week", WindowRule::PreviousWeek),
    ("previous_month", WindowRule::PreviousMonth),
    ("previous_quarter", WindowRule::PreviousQuarter),
    ("month_to_date", WindowRule::MonthToDate),
];

impl WindowRule {
    /// The window of the fire at `fire_at` in `zone`; `week_start` is the first day of a week. `None` when it is empty
    /// (`today` at midnight, `month_to_date` at the month's first instant), when none of its civil dates exists in
    /// `zone`, and where [`Window::new`] refuses the years.
    pub fn at(&self, fire_at: DateTime<Utc>, zone: Tz, week_start: Weekday) -> Option<Window> {
        let today = local_date(fire_at, zone);
        let days = |first: Option<NaiveDate>, end| Window::between_dates(first?, end, zone);
        match *self {
            WindowRule::PreviousHour => {
                let end = hour_start(fire_at, zone)?;
                Window::new(hour_start(end.checked_sub_signed(SECOND)?, zone)?, end, zone)
            }
            WindowRule::Yesterday => last_days(1, today, zone),
            WindowRule::Today => Window::new(day_start(today, zone), fire_at, zone),
            WindowRule::PreviousWeek => {
                let end = week_first(today, week_start)?;
                days(end.checked_sub_days(Days::new(7)), end)
            }
            WindowRule::PreviousMonth => {
                let end = month_first(today);
                days(end.checked_sub_months(Months::new(1)), end)
            }
            WindowRule::PreviousQuarter => {
                let end = quarter_first(today);
                days(end.checked_sub_months(Months::new(3)), end)
            }
            WindowRule::LastDays(count) => last_days(count, today, zone),
            WindowRule::MonthToDate => Window::new(day_start(month_first(today), zone), fire_at, zone),
            WindowRule::Fixed { from, to } => Window::days(from, to, zone),
        }
    }

    /// Whether the window ends at the fire itself, so that the same day or month is asked for again later.
    pub fn provisional(&self) -> bool {
        matches!(self, WindowRule::Today | WindowRule::MonthToDate)
    }
}

/// Why a text names no window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowRuleError {
    /// Not a word we know; with the nearest one, if any is near.
    #[error("unknown window '{}'{}; one of {}", excerpt(.text), did_you_mean(*.nearest), words())]
    Unknown {
        /// What was written.
        text: String,
        /// The word that was perhaps meant.
        nearest: Option<&'static str>,
    },
    /// The N of `last_N_days` is no number from 1 to 3660.
    #[error("window '{}': the number of days must be 1 to {MAX_LAST_DAYS}", excerpt(.0))]
    DayCount(String),
    /// One side of `from..to` is no date.
    #[error("window date '{}' is not a date as 2026-03-01", excerpt(.0))]
    Date(String),
    /// The last date is before the first.
    #[error("window {from}..{to} ends before it starts")]
    Reversed {
        /// First date as written.
        from: NaiveDate,
        /// Last date as written.
        to: NaiveDate,
    },
}

impl FromStr for WindowRule {
    type Err = WindowRuleError;

    fn from_str(text: &str) -> Result<WindowRule, WindowRuleError> {
        if let Some((_, rule)) = WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*rule);
        }
        if let Some((from, to)) = text.split_once("..") {
            let (from, to) = (date(from)?, date(to)?);
            return if from <= to {
                Ok(WindowRule::Fixed { from, to })
            } else {
                Err(WindowRuleError::Reversed { from, to })
            };
        }
        let count = text.strip_prefix("last_").and_then(|rest| rest.strip_suffix("_days"));
        if let Some(count) = count.filter(|count| !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit())) {
            let count = count.parse().ok().filter(|count| (1..=MAX_LAST_DAYS).contains(count));
            return count.map(WindowRule::LastDays).ok_or_else(|| WindowRuleError::DayCount(text.to_owned()));
        }
        // A text much longer than any word is like none of them, and comparing it would take long.
        let candidates = WORDS.iter().map(|(word, _)| *word).chain(["last_7_days"]).filter(|_| text.len() <= 40);
        let scored = candidates.map(|word| (strsim::damerau_levenshtein(word, &text.to_lowercase()), word));
        let nearest = scored.min().filter(|(distance, _)| *distance <= 3).map(|(_, word)| word);
        Err(WindowRuleError::Unknown { text: text.to_owned(), nearest })
    }
}

impl fmt::Display for WindowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WindowRule::LastDays(count) => write!(f, "last_{count}_days"),
            WindowRule::Fixed { from, to } => write!(f, "{from}..{to}"),
            plain => f.write_str(WORDS.iter().find(|(_, rule)| rule == plain).map_or("", |(word, _)| word)),
        }
    }
}

/// A date in the one form `2026-03-01`; chrono alone would also take `2026-3-1` and `+2026-03-01`.
fn date(text: &str) -> Result<NaiveDate, WindowRuleError> {
    let date = NaiveDate::from_str(text).ok().filter(|date| date.to_string() == text && YEARS.contains(&date.year()));
    date.ok_or_else(|| WindowRuleError::Date(text.to_owned()))
}

fn words() -> String {
    let words = WORDS.map(|(word, _)| word).join(", ");
    format!("{words}, last_N_days, or dates as 2026-03-01..2026-03-07")
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or(String::new(), |word| format!(", did you mean '{word}'?"))
}

/// The head of what somebody wrote, fit for one line of a message.
fn excerpt(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

/// `count` days that exist in `zone`, up to the start of `end`.
fn last_days(count: u16, end: NaiveDate, zone: Tz) -> Option<Window> {
    let end = day_start(end, zone);
    let mut start = end;
    for _ in 0..count {
        start = day_start(local_date(start.checked_sub_signed(SECOND)?, zone), zone);
    }
    Window::new(start, end, zone)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_rule_is_written_as_it_is_read() {
        for (text, provisional) in [
            ("previous_hour", false),
            ("yesterday", false),
            ("today", true),
            ("previous_week", false),
            ("previous_month", false),
            ("previous_quarter", false),
            ("month_to_date", true),
            ("last_1_days", false),
            ("last_3660_days", false),
            ("2026-03-01..2026-03-07", false),
            ("2026-03-01..2026-03-01", false),
        ] {
            let rule: WindowRule = text.parse().expect("rule");
            assert_eq!((rule.to_string().as_str(), rule.provisional()), (text, provisional));
        }
    }

    #[test]
    fn a_mistyped_rule_is_told_what_exists() {
        let error = |text: &str| text.parse::<WindowRule>().expect_err("refused").to_string();
        assert_eq!(
            error("yestarday"),
            "unknown window 'yestarday', did you mean 'yesterday'?; one of previous_hour, yesterday, today, \
             previous_week, previous_month, previous_quarter, month_to_date, last_N_days, or dates as 2026-03-01..2026-03-07"
        );
        assert!(error("last_7_day").contains("did you mean 'last_7_days'?"));
        assert!(error("fortnight").starts_with("unknown window 'fortnight'; one of"));
        assert_eq!(error("last_0_days"), "window 'last_0_days': the number of days must be 1 to 3660");
        assert_eq!(
            error("last_99999999999_days"),
            "window 'last_99999999999_days': the number of days must be 1 to 3660"
        );
        assert_eq!(error("2026-3-1..2026-03-07"), "window date '2026-3-1' is not a date as 2026-03-01");
        assert_eq!(error("2026-02-30..2026-03-07"), "window date '2026-02-30' is not a date as 2026-03-01");
        assert_eq!(error("2026-03-07..2026-03-01"), "window 2026-03-07..2026-03-01 ends before it starts");
        assert!(error(&"x".repeat(10_000_000)).len() < 300);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*|last_[0-9]{0,9}_days|[0-9+.-]{0,30}") {
            if let Ok(rule) = text.parse::<WindowRule>() {
                prop_assert!(rule == rule.to_string().parse().expect("its own text"));
            }
        }
    }
}
