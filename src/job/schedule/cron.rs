//! One cron expression of five fields, with `H` replaced by a stable spread.
//!
//! croner parses it and says which days match. It is never shown a zone, because in a daylight-saving gap it fires jobs
//! that name no time there; and its own search is not used, because a pattern that can search carries 5 KB of years.
//!
//! Refused, though croner would take them or guess: seconds and years, `@daily` words, `+` (both day fields must
//! match), empty list items, and names outside the month and weekday fields.

use chrono::{Datelike, Months, NaiveDate, NaiveDateTime, Timelike};
use croner::parser::{CronParser, Seconds, Year};
use croner::{CronComponent, CronPattern};
use sha2::{Digest, Sha256};

/// What one field may hold.
struct Field {
    name: &'static str,
    low: u64,
    high: u64,
    /// Highest value that a bare `H` picks: every month has it, and no weekday counts twice.
    spread: u64,
    names: &'static [&'static str],
    letters: &'static str,
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", low: 0, high: 59, spread: 59, names: &[], letters: "" },
    Field { name: "hour", low: 0, high: 23, spread: 23, names: &[], letters: "" },
    Field { name: "day-of-month", low: 1, high: 31, spread: 28, names: &[], letters: "LW?" },
    Field { name: "month", low: 1, high: 12, spread: 12, names: &MONTHS, letters: "" },
    Field { name: "day-of-week", low: 0, high: 7, spread: 6, names: &WEEKDAYS, letters: "L#?" },
];
const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
/// Stands for any name while a field is checked: no letter of its own.
const NAME: &str = "\u{1}";
/// Where schedules end, as windows do: later years do not print with four digits.
const LAST_YEAR: i32 = 9998;
/// Dates and weekdays repeat after so many years; what matches none of them matches never.
const CALENDAR_CYCLE: i32 = 400;
/// Every value of every field written out is about 400 characters; what is longer is a mistake.
const MAX_LENGTH: usize = 1000;

/// A cron expression of five fields (minute, hour, day of month, month, day of week), not yet in any zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Cron {
    text: String,
    resolved: String,
    /// Days and months only.
    pattern: CronPattern,
    /// Bit n: minute n of an hour, hour n of a day.
    minutes: u64,
    hours: u64,
    never: bool,
}

/// Why a text is no cron expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Not five fields; holds how many there are.
    #[error("{}five fields expected (minute hour day-of-month month day-of-week), found {}", no_seconds(*.0), .0)]
    FieldCount(usize),
    /// A word as `@daily`.
    #[error("'{}' is not supported: write {}", excerpt(.word), .instead.unwrap_or("five fields"))]
    Nickname {
        /// What was written.
        word: String,
        /// The five fields that mean the same, in quotes, if any do.
        instead: Option<&'static str>,
    },
    /// Longer than 1000 bytes; holds the length.
    #[error("cron expression of {0} bytes is longer than {MAX_LENGTH}")]
    TooLong(usize),
    /// One field is wrong.
    #[error("{} field '{}': {reason}", name(*.index), excerpt(.field))]
    Field {
        /// Which field, 0 (minute) to 4 (day of week).
        index: usize,
        /// The field as written.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl CronError {
    /// The wrong field, 0 (minute) to 4 (day of week), when it is one field that is wrong.
    pub fn field(&self) -> Option<usize> {
        if let CronError::Field { index, .. } = self { Some(*index) } else { None }
    }
}

impl Cron {
    /// Parses five fields of numbers, names (`MON`, `JAN`), lists, ranges and steps, `L`, `W`, `#`, and `H`, `H(a-b)`,
    /// `H/n`, `H(a-b)/n`: a value picked from the sha256 of `series` and the field, the same at every parse.
    pub fn parse(text: &str, series: &str) -> Result<Cron, CronError> {
        if text.len() > MAX_LENGTH {
            return Err(CronError::TooLong(text.len()));
        }
        if text.trim_start().starts_with('@') {
            return Err(nickname(text.trim()));
        }
        let written: Vec<&str> = text.split_whitespace().collect();
        if written.len() != FIELDS.len() {
            return Err(CronError::FieldCount(written.len()));
        }
        let mut fields = Vec::with_capacity(FIELDS.len());
        for (index, field) in written.iter().enumerate() {
            let wrong = |reason| CronError::Field { index, field: (*field).to_owned(), reason };
            fields.push(resolve(field, index, series).map_err(wrong)?);
        }
        let resolved = fields.join(" ");
        let mut pattern = croner(&resolved).map_err(|cause| blame(&written, &fields, &cause))?.pattern;
        let bits = |component: &CronComponent| component.values().into_iter().fold(0, |bits, value| bits | 1 << value);
        let (minutes, hours) = (bits(&pattern.minutes), bits(&pattern.hours));
        (pattern.seconds, pattern.minutes) = Default::default();
        (pattern.hours, pattern.years) = Default::default();
        let mut cron = Cron { text: text.to_owned(), resolved, pattern, minutes, hours, never: false };
        // Searched in vain only here, once; the planner never repeats it.
        cron.never = cron.after(NaiveDateTime::default()).is_none();
        Ok(cron)
    }

    /// The expression as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The five fields with `H` replaced.
    pub fn resolved(&self) -> &str {
        &self.resolved
    }

    /// Whether it follows real time through daylight-saving changes (the minute or hour field starts with `*`) instead
    /// of naming times of day.
    pub fn periodic(&self) -> bool {
        self.resolved.split(' ').take(2).any(|field| field.starts_with('*'))
    }

    /// Whether both day fields are set, so that a day matches when either does.
    pub fn both_day_fields(&self) -> bool {
        !self.pattern.is_dom_wildcard() && !self.pattern.is_dow_wildcard()
    }

    /// The latest of days 29, 30, 31 that the day-of-month field names (alone, or as a range of such days) and that one
    /// of its months lacks, so that this month is skipped.
    pub fn late_month_day(&self) -> Option<u32> {
        let months = self.pattern.months.values();
        let lacking = |day: u32| {
            months.iter().any(|month| match month {
                2 => day > 28,
                4 | 6 | 9 | 11 => day > 30,
                _ => false,
            })
        };
        let days = self.resolved.split(' ').nth(2).unwrap_or_default();
        let bounds = days.split(',').filter_map(|item| {
            let item = item.split('/').next()?.trim_end_matches('W');
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            Some((first.parse().ok()?, last.parse().ok()?))
        });
        bounds
            .filter(|(first, _)| *first >= 29)
            .flat_map(|(first, last): (u32, u32)| first..=last)
            .filter(|d| lacking(*d))
            .max()
    }

    /// Whether no date matches, as in `0 0 30 2 *`.
    pub fn never_fires(&self) -> bool {
        self.never
    }

    /// The first matching civil minute after `civil`, from the year 1 on. `None` when there is none up to 9998.
    pub(super) fn after(&self, civil: NaiveDateTime) -> Option<NaiveDateTime> {
        if self.never {
            return None;
        }
        let civil = civil.max(NaiveDate::from_ymd_opt(1, 1, 1)?.into());
        let (mut date, mut from) = (civil.date(), civil.hour() * 60 + civil.minute() + 1);
        let last_year = LAST_YEAR.min(date.year().saturating_add(CALENDAR_CYCLE));
        while date.year() <= last_year {
            if !self.pattern.month_match(date.month()).ok()? {
                date = date.with_day(1)?.checked_add_months(Months::new(1))?;
            } else if let Some(minute) = self.minute_from(from).filter(|_| self.matches_day(date)) {
                return date.and_hms_opt(minute / 60, minute % 60, 0);
            } else {
                date = date.succ_opt()?;
            }
            from = 0;
        }
        None
    }

    fn matches_day(&self, date: NaiveDate) -> bool {
        let weekday = croner::Weekday::from_days_from_sunday(date.weekday().num_days_from_sunday());
        self.pattern.day_match(date.year(), date.month(), date.day(), weekday).unwrap_or(false)
    }

    /// The first matching minute of a day at or after its minute `from` (0 to 1440).
    fn minute_from(&self, from: u32) -> Option<u32> {
        let at_or_after =
            |bits: u64, low: u32| Some(bits >> low).filter(|rest| *rest != 0).map(|rest| low + rest.trailing_zeros());
        let hour = at_or_after(self.hours, from / 60)?;
        let low = if hour == from / 60 { from % 60 } else { 0 };
        if let Some(minute) = at_or_after(self.minutes, low) {
            return Some(hour * 60 + minute);
        }
        Some(at_or_after(self.hours, hour + 1)? * 60 + self.minutes.trailing_zeros())
    }
}

fn croner(fields: &str) -> Result<croner::Cron, croner::errors::CronError> {
    CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build().parse(fields)
}

/// Finds the field that croner refuses by giving it each one alone.
fn blame(written: &[&str], fields: &[String], cause: &croner::errors::CronError) -> CronError {
    let refused = |index: &usize| {
        let alone: Vec<&str> = (0..FIELDS.len()).map(|i| if i == *index { fields[i].as_str() } else { "*" }).collect();
        croner(&alone.join(" ")).is_err()
    };
    let index = (0..FIELDS.len()).find(refused).unwrap_or_default();
    let Field { low, high, .. } = &FIELDS[index];
    let cause = match cause {
        croner::errors::CronError::ComponentError(cause) => cause.trim_end_matches('.').to_lowercase(),
        _ => "not understood".to_owned(),
    };
    CronError::Field { index, field: written[index].to_owned(), reason: format!("{cause} (values {low}-{high})") }
}

/// Checks what croner is too lenient about, and replaces `H`.
fn resolve(field: &str, index: usize, series: &str) -> Result<String, String> {
    let rules = &FIELDS[index];
    let mut items = Vec::new();
    for item in field.split(',') {
        let item = item.to_ascii_uppercase();
        if item.is_empty() {
            return Err("an item of the list is empty".to_owned());
        }
        if let Some(spread) = item.strip_prefix('H') {
            items.push(pick(spread, index, series)?);
            continue;
        }
        let bare = rules.names.iter().fold(item.clone(), |rest, name| rest.replace(name, NAME));
        let legal = |c: char| c.is_ascii_digit() || "*/-".contains(c) || NAME.contains(c) || rules.letters.contains(c);
        if let Some(odd) = bare.chars().find(|c| !legal(*c)) {
            return Err(format!("'{}' does not belong here", odd.escape_debug()));
        }
        // croner puts a number for each name wherever it stands, and takes JANFEB for 12.
        if bare
            .split(['-', '/', '#'])
            .any(|part| part.contains(NAME) && part != NAME && part.strip_suffix('L') != Some(NAME))
        {
            return Err("a name stands alone in its place".to_owned());
        }
        if bare.contains('W') && !bare.ends_with('W') || index == 4 && bare == "L" {
            return Err("W follows a day and L a weekday, as in 15W and FRIL".to_owned());
        }
        items.push(item);
    }
    Ok(items.join(","))
}

/// What `H` followed by `rest` (empty, `(a-b)`, `/n` or `(a-b)/n`) stands for in this series.
fn pick(rest: &str, index: usize, series: &str) -> Result<String, String> {
    const FORMS: &str = "H is written H, H(a-b), H/n or H(a-b)/n";
    let Field { low, high, spread, .. } = FIELDS[index];
    let number = |text: &str| text.parse::<u64>().map_err(|_| FORMS.to_owned());
    let (range, step) = match rest.split_once('/') {
        Some((range, step)) => (range, Some(number(step)?)),
        None => (rest, None),
    };
    let (first, last) = if range.is_empty() {
        // Steps run through the whole field; days 29 to 31 are then just more of them.
        (low, if step.is_some() && index == 2 { high } else { spread })
    } else {
        let inner = range.strip_prefix('(').and_then(|range| range.strip_suffix(')'));
        let (first, last) = inner.and_then(|inner| inner.split_once('-')).ok_or(FORMS)?;
        (number(first)?, number(last)?)
    };
    if first < low || last > high || first > last {
        return Err(format!("H({first}-{last}) is no range within {low}-{high}"));
    }
    let width = last - first + 1;
    let digest = Sha256::digest(format!("{series}/{index}"));
    let hash = digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
    match step {
        None => Ok((first + hash % width).to_string()),
        Some(step) if (1..=width).contains(&step) => Ok(format!("{}-{last}/{step}", first + hash % step)),
        Some(step) => Err(format!("step {step} is not within 1-{width}")),
    }
}

fn name(index: usize) -> &'static str {
    FIELDS.get(index).map_or("unknown", |field| field.name)
}

fn no_seconds(found: usize) -> &'static str {
    if found > FIELDS.len() { "seconds field is not supported: " } else { "" }
}

fn nickname(word: &str) -> CronError {
    let instead = match word.to_ascii_lowercase().as_str() {
        "@yearly" | "@annually" => Some("'0 0 1 1 *'"),
        "@monthly" => Some("'0 0 1 * *'"),
        "@weekly" => Some("'0 0 * * 0'"),
        "@daily" | "@midnight" => Some("'0 0 * * *'"),
        "@hourly" => Some("'0 * * * *'"),
        _ => None,
    };
    CronError::Nickname { word: word.to_owned(), instead }
}

/// The head of what somebody wrote, fit for one line of a message.
fn excerpt(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Cron {
        Cron::parse(text, "agent-engagement@north").expect("cron")
    }

    fn error(text: &str) -> String {
        Cron::parse(text, "agent-engagement@north").expect_err("refused").to_string()
    }

    #[test]
    fn a_spread_is_stable_and_stays_in_its_range() {
        // These may never change: a changed spread moves every schedule in production.
        assert_eq!(parse("H H H H H").resolved(), "6 19 28 3 1");
        assert_eq!(parse("H/15 H(1-5) * * *").resolved(), "6-59/15 5 * * *");
        assert_eq!(parse("H(10-40)/10,h 6 H/7 * MON").resolved(), "16-40/10,6 6 7-31/7 * MON");
        assert_eq!(parse("H 6 * * *").text(), "H 6 * * *");
        assert_ne!(Cron::parse("H H * * *", "a@x").expect("cron"), Cron::parse("H H * * *", "b@x").expect("cron"));
        for n in 0..500 {
            let cron = Cron::parse("H(3-5) H(0-23) H * H", &format!("job{n}@shop")).expect("cron");
            let fields: Vec<u32> = cron.resolved().split(' ').filter_map(|field| field.parse().ok()).collect();
            assert!((3..=5).contains(&fields[0]) && fields[1] < 24 && (1..=28).contains(&fields[2]) && fields[3] < 7);
        }
    }

    #[test]
    fn names_lists_ranges_steps_and_modifiers_are_read() {
        for text in [
            "*/15 9-17 * * MON-FRI",
            "0 6 1,15 jan,Jul *",
            "0 6 L * *",
            "0 6 15W,LW * ?",
            "0 6 ? * FRIL,MON#2",
            "5-59/20 * * * SUN",
        ] {
            assert!(!parse(text).never_fires(), "{text}");
        }
    }

    #[test]
    fn a_wrong_cron_says_which_field_and_why() {
        assert_eq!(
            error("0 30 6 * * *"),
            "seconds field is not supported: five fields expected (minute hour day-of-month month day-of-week), found 6"
        );
        assert_eq!(error("* * *"), "five fields expected (minute hour day-of-month month day-of-week), found 3");
        assert_eq!(error(" "), "five fields expected (minute hour day-of-month month day-of-week), found 0");
        assert_eq!(error("@daily"), "'@daily' is not supported: write '0 0 * * *'");
        assert_eq!(error("@reboot"), "'@reboot' is not supported: write five fields");
        assert_eq!(
            error("0 25 * * *"),
            "hour field '25': number out of bounds. (values 0-23)".replace("bounds.", "bounds")
        );
        assert_eq!(error("0 6 * * H(5-9)"), "day-of-week field 'H(5-9)': H(5-9) is no range within 0-7");
        assert_eq!(error("H/90 6 * * *"), "minute field 'H/90': step 90 is not within 1-60");
        assert_eq!(error("Hx 6 * * *"), "minute field 'Hx': H is written H, H(a-b), H/n or H(a-b)/n");
        assert_eq!(error("0 MON * * *"), "hour field 'MON': 'M' does not belong here");
        assert_eq!(error("0 6 * JANFEB *"), "month field 'JANFEB': a name stands alone in its place");
        assert_eq!(error("0 6 * JAN2 *"), "month field 'JAN2': a name stands alone in its place");
        assert_eq!(error("0 6 13 * +FRI"), "day-of-week field '+FRI': '+' does not belong here");
        assert_eq!(error("0,,5 6 * * *"), "minute field '0,,5': an item of the list is empty");
        assert!(error("0 6 * * L").contains("L a weekday"));
        assert!(error("5/10 6 * * *").starts_with("minute field '5/10': invalid step syntax"));
        assert_eq!(Cron::parse("0 6 32 * *", "a@b").expect_err("refused").field(), Some(2));
        assert_eq!(Cron::parse("0 6", "a@b").expect_err("refused").field(), None);
        assert_eq!(error(&"1,".repeat(5_000_000)), "cron expression of 10000000 bytes is longer than 1000");
    }

    #[test]
    fn periodic_means_that_the_minute_or_hour_starts_with_a_star() {
        for (text, periodic) in [
            ("* * * * *", true),
            ("*/15 3 * * *", true),
            ("30 * * * *", true),
            ("H/15 * * * *", true),
            ("H/15 3 * * *", false),
            ("0-59 0-23 * * *", false),
            ("30 2 * * *", false),
        ] {
            assert_eq!(parse(text).periodic(), periodic, "{text}");
        }
    }

    #[test]
    fn day_fields_are_told_apart_for_the_lints() {
        let facts = |text| (parse(text).both_day_fields(), parse(text).late_month_day(), parse(text).never_fires());
        assert_eq!(facts("0 6 * * *"), (false, None, false));
        assert_eq!(facts("0 6 13 * FRI"), (true, None, false));
        assert_eq!(facts("0 6 13 * ?"), (false, None, false));
        assert_eq!(facts("0 6 31 * *"), (false, Some(31), false));
        assert_eq!(facts("0 6 1,29W * *"), (false, Some(29), false));
        assert_eq!(facts("0 6 29-31 * *"), (false, Some(31), false));
        assert_eq!(facts("0 6 31 1,3,5 *"), (false, None, false));
        assert_eq!(facts("0 6 29 2 *"), (false, Some(29), false));
        assert_eq!(facts("0 6 1-31 * *"), (false, None, false));
        assert_eq!(facts("0 6 L * *"), (false, None, false));
        assert_eq!(facts("0 0 30 2 *"), (false, Some(30), true));
        assert_eq!(facts("0 0 30 2 MON"), (true, Some(30), false));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*|([0-9*/,LWH#?A-Za-z()-]{1,8} ){4}[0-9*/,LWH#?A-Za-z()-]{1,8}") {
            match Cron::parse(&text, "job@shop") {
                Ok(cron) => {
                    let again = Cron::parse(cron.resolved(), "other@shop").expect("resolved");
                    prop_assert_eq!(again.resolved(), cron.resolved());
                }
                Err(cause) => prop_assert!(!cause.to_string().is_empty()),
            }
        }

        #[test]
        fn our_search_agrees_with_croners_own(
            time in "([0-9]|[1-5][0-9]|\\*|\\*/7|10-50/9) ([0-9]|2[0-3]|\\*|\\*/5|1,13)",
            days in "(\\*|29|31|L|LW|15W|\\*/9|1-7) (\\*|2|JAN,JUN|\\*/5) (\\*|MON|FRIL|SUN#5|1-5|\\*/2)",
            after in 0i64..4_000_000_000,
        ) {
            let text = format!("{time} {days}");
            let after = chrono::DateTime::from_timestamp(after, 0).expect("instant").naive_utc();
            let theirs = croner(&text).expect("pattern").find_next_occurrence(&after, false).ok();
            prop_assert_eq!(parse(&text).after(after), theirs, "{}", text);
        }
    }
}
