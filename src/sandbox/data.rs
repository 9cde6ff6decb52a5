//! What the reports hold: rows that depend on nothing but the request.
//!
//! The same report for the same window and filters has the same bytes on every machine and day; another window has
//! others. Rows lie inside the window in order of time, and every report has what breaks naive readers: quotes,
//! separators and line breaks inside fields, and text beyond ASCII. No clock, no randomness.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

/// No report has more rows than this, however long its window.
pub(super) const MOST_ROWS: usize = 500;

/// Channel names as both CSV vendors write them.
pub(super) const CHANNELS: [&str; 5] = ["whatsapp", "telegram", "viber", "vk", "livechat"];

const AGENTS: [&str; 4] = ["asha@north.example", "ben@north.example", "zoë@south.example", "noor@south.example"];
const PEOPLE: [&str; 5] = ["Anna Müller", "Иван Петров", "O'Brien, Sean", "आशा राव", "Li \"Leo\" Wei"];
const LABELS: [&str; 4] = ["refund", "delivery", "sizes; colours", "praise"];
const TEXTS: [&str; 5] = [
    "first line\r\nsecond line",
    "Где мой заказ? Жду, жду",
    "she said \"thanks\", twice",
    "मेरा ऑर्डर कब आएगा?",
    "size 42; colour: grün 🌿",
];

/// A small hash that is thrown like dice: FNV-1a over the parts, then splitmix64.
pub(super) struct Dice(u64);

impl Dice {
    pub fn new(parts: &[&str]) -> Self {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for part in parts {
            for byte in part.bytes().chain([0xff]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        Self(hash)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `bound - 1`.
    pub fn below(&mut self, bound: u16) -> u16 {
        u16::try_from(self.roll() % u64::from(bound.max(1))).unwrap_or(0)
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        let place = self.roll() % u64::try_from(choices.len()).unwrap_or(1).max(1);
        choices.get(usize::try_from(place).unwrap_or(0)).copied()
    }

    pub fn word(&mut self, choices: &[&'static str]) -> &'static str {
        self.pick(choices).unwrap_or("")
    }

    pub fn person(&mut self) -> &'static str {
        self.word(&PEOPLE)
    }

    pub fn text(&mut self) -> &'static str {
        self.word(&TEXTS)
    }
}

/// The window that a request asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub start: DateTime<Utc>,
    /// Rows lie before it.
    pub end: DateTime<Utc>,
}

impl Span {
    /// 5 to 40 rows a day.
    pub fn row_count(self, seed: &str) -> usize {
        let days = (self.end - self.start).num_seconds().max(1).saturating_add(86_399) / 86_400;
        let mut dice = Dice::new(&["rows", seed]);
        let mut rows = 0;
        for _ in 0..days {
            rows += 5 + usize::from(dice.below(36));
            if rows >= MOST_ROWS {
                return MOST_ROWS;
            }
        }
        rows
    }

    /// When row number `row` of `rows` happened: somewhere in its share of the window.
    pub fn moment(self, row: usize, rows: usize, dice: &mut Dice) -> DateTime<Utc> {
        let length = (self.end - self.start).num_milliseconds().max(0);
        let count = i64::try_from(rows).unwrap_or(i64::MAX).max(1);
        let edge = |row: usize| length.saturating_mul(i64::try_from(row).unwrap_or(count)) / count;
        let (from, to) = (edge(row), edge(row + 1));
        let into = i64::from(dice.below(10_000)) * ((to - from) / 10_000);
        self.start.checked_add_signed(TimeDelta::milliseconds(from + into)).unwrap_or(self.start)
    }
}

/// What a column holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell {
    Time,
    Id(&'static str),
    Agent,
    Person,
    Channel,
    Label,
    Text,
    Number(u16),
}

/// A report as a table.
pub(super) struct Sheet<'a> {
    pub columns: &'a [(&'static str, Cell)],
    pub span: Span,
    pub seed: &'a str,
    pub rows: usize,
    /// The channels that the request's filter lets through.
    pub channels: &'a [&'static str],
    /// A Java date pattern; empty is ISO with milliseconds and `Z`.
    pub time_pattern: &'a str,
}

impl Sheet<'_> {
    pub fn header(&self) -> Vec<String> {
        self.columns.iter().map(|(title, _)| (*title).to_owned()).collect()
    }

    pub fn lines(&self) -> impl Iterator<Item = Vec<String>> + '_ {
        (0..self.rows).map(|row| {
            let mut dice = Dice::new(&["row", self.seed, &row.to_string()]);
            let moment = self.span.moment(row, self.rows, &mut dice);
            let mut texts = TEXTS.iter().cycle().skip(row);
            let cell = |(_, cell): &(&str, Cell)| match *cell {
                Cell::Time if self.time_pattern.is_empty() => iso(moment),
                Cell::Time => java_time(self.time_pattern, moment),
                Cell::Id(prefix) => format!("{prefix}{:06}", dice.roll() % 1_000_000),
                Cell::Agent => dice.word(&AGENTS).to_owned(),
                Cell::Person => dice.person().to_owned(),
                Cell::Channel => dice.word(self.channels).to_owned(),
                Cell::Label => dice.word(&LABELS).to_owned(),
                Cell::Text => (*texts.next().unwrap_or(&"")).to_owned(),
                Cell::Number(bound) => dice.below(bound).to_string(),
            };
            self.columns.iter().map(cell).collect()
        })
    }

    pub fn csv(&self, delimiter: char, with_header: bool) -> String {
        let mut csv = String::new();
        for line in with_header.then(|| self.header()).into_iter().chain(self.lines()) {
            for (place, field) in line.iter().enumerate() {
                if place > 0 {
                    csv.push(delimiter);
                }
                if !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_digit()) && delimiter != '"' {
                    csv.push_str(field);
                } else {
                    csv.push('"');
                    csv.push_str(&field.replace('"', "\"\""));
                    csv.push('"');
                }
            }
            csv.push_str("\r\n");
        }
        csv
    }
}

/// `2026-03-01T18:30:00.540Z`, the form that both vendors' pages use.
pub(super) fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The letters of Java's `DateTimeFormatter` that people use; other text stays, quotes go.
fn java_time(pattern: &str, at: DateTime<Utc>) -> String {
    let letters = [
        ("yyyy", "%Y"),
        ("MM", "%m"),
        ("dd", "%d"),
        ("HH", "%H"),
        ("mm", "%M"),
        ("ss", "%S"),
        ("SSS", "%3f"),
        ("'", ""),
    ];
    letters.iter().fold(pattern.to_owned(), |text, (java, ours)| text.replace(java, &at.format(ours).to_string()))
}

/// Parts of the huge report; all have the same length.
pub(super) const HUGE_PARTS: u32 = 512;
/// Bytes of one part: 1,024 rows of 64 bytes.
pub(super) const HUGE_PART_BYTES: u32 = 64 * 1024;

/// One part of the 32 MiB CSV; its rows are numbered through.
pub(super) fn huge_part(part: u32) -> Bytes {
    let rows = (0..1024).map(|row| format!("{:>10},{:<51}\r\n", part * 1024 + row, "\"a long report, row by row\""));
    rows.collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: &str, end: &str) -> Span {
        Span { start: start.parse().unwrap(), end: end.parse().unwrap() }
    }

    fn sheet(seed: &str, span: Span) -> Sheet<'_> {
        let columns = &[("When", Cell::Time), ("Note", Cell::Text), ("Count", Cell::Number(9))];
        Sheet { columns, span, seed, rows: span.row_count(seed), channels: &CHANNELS, time_pattern: "" }
    }

    #[test]
    fn rows_lie_inside_the_window_in_order_whatever_its_length() {
        for (start, end) in [
            ("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"),
            ("2026-03-01T00:00:00.000Z", "2026-03-01T00:00:00.001Z"),
            ("0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
        ] {
            let span = span(start, end);
            let times: Vec<_> = sheet("a", span).lines().map(|row| row[0].clone()).collect();
            assert!((5..=MOST_ROWS).contains(&times.len()));
            assert!(times.is_sorted());
            assert!(times[0].as_str() >= &*iso(span.start) && times[times.len() - 1].as_str() < &*iso(span.end));
        }
    }

    #[test]
    fn a_window_has_its_own_bytes_and_always_the_same() {
        let day = span("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z");
        assert_eq!(sheet("a", day).csv(',', true), sheet("a", day).csv(',', true));
        assert_ne!(sheet("a", day).csv(',', true), sheet("b", day).csv(',', true));
    }

    #[test]
    fn the_csv_has_what_breaks_naive_readers_and_reads_back_whole() {
        let sheet = sheet("a", span("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"));
        let csv = sheet.csv(',', true);
        assert!(csv.contains("\"first line\r\nsecond line\"") && csv.contains("\"\"thanks\"\"") && !csv.is_ascii());

        let mut reader = csv_core::Reader::new();
        let (mut rest, mut rows, mut fields) = (csv.as_bytes(), 0, 0);
        loop {
            let mut out = [0; 256];
            let (result, read, _) = reader.read_field(rest, &mut out);
            rest = &rest[read..];
            match result {
                csv_core::ReadFieldResult::Field { record_end } => {
                    fields += 1;
                    rows += usize::from(record_end);
                }
                csv_core::ReadFieldResult::End => break,
                csv_core::ReadFieldResult::InputEmpty => {}
                csv_core::ReadFieldResult::OutputFull => panic!("a field is longer than any that we made"),
            }
        }
        assert_eq!((rows, fields), (sheet.rows + 1, 3 * (sheet.rows + 1)));
    }

    #[test]
    fn every_part_of_the_huge_report_has_the_length_that_is_promised() {
        for part in [0, 1, HUGE_PARTS - 1] {
            assert_eq!(huge_part(part).len(), HUGE_PART_BYTES as usize);
        }
        assert_eq!(HUGE_PARTS * HUGE_PART_BYTES, 32 << 20);
    }

    #[test]
    fn a_java_pattern_is_followed() {
        let at = "2026-03-01T04:05:06.789Z".parse().unwrap();
        assert_eq!(java_time("yyyy-MM-dd HH:mm:ss.SSS", at), "2026-03-01 04:05:06.789");
        assert_eq!(java_time("dd.MM.yyyy'T'HH%S", at), "01.03.2026T04%S");
    }
}
