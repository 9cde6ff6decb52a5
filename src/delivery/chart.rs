//! A LiveChat report as a small table with bars, for the letter that brings it. Pure.
//!
//! Source of the shapes: the vendor's page "Reports API" and REFERENCE 4.4. A report is known by its `name`, never by the
//! request. A counter that is missing is 0, a missing mean is nothing; keys of `records` are opaque, as the vendor promises no
//! form for hours and months. Refused: reports without a number to draw (a list of visitors, one pair of totals), names that
//! are not known, and any known report in which a number is not one: no table is better than a wrong one.

mod layout;

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde_json::{Map, Value};

use layout::{Column, DRAWN, Layout, TIME, Unit};

/// Most rows of a table: two months of days. The others are counted.
const ROWS: usize = 62;

/// Most numbers of a row.
const COLUMNS: usize = 4;

/// What no counter of a shop reaches: beyond it a number is a mistake, and as wide as the page.
const MOST: f64 = 1e12;

/// A table whose first numbers are drawn as bars.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// What the rows are: `Day`, `Agent`.
    pub key: &'static str,
    /// Headings of the numbers; the first are those of the bars.
    pub columns: Vec<String>,
    /// The headings after the first are names of the answer: any text of any length.
    pub named: bool,
    /// The rows, in the order of the answer.
    pub rows: Vec<Row>,
    /// Rows that are in the file only.
    pub more: usize,
    /// What the table leaves out besides rows.
    pub left_out: Option<String>,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its key in the answer, anything; a date is written `Sun 1 Mar`.
    pub key: String,
    /// Its numbers as they are shown; as many as there are columns.
    pub cells: Vec<String>,
    /// Length of its bar, 0 to 100; the longest bar has 100, and only nothing has 0.
    pub bar: u8,
}

/// Numbers of rows, before they are shown.
struct Table {
    columns: Vec<(String, Unit)>,
    named: bool,
    rows: Vec<(String, Vec<Option<f64>>)>,
    left_out: Option<String>,
}

impl Chart {
    /// The table of a LiveChat report's answer. `None` for all that has no sensible bar: unknown reports, those that the
    /// module's opening refuses, and those whose every number is nothing.
    pub fn of(json: &[u8]) -> Option<Chart> {
        let report: Value = serde_json::from_slice(json).ok()?;
        let name = report.get("name")?.as_str()?;
        let (_, title, key, layout) = DRAWN.iter().find(|(drawn, ..)| *drawn == name)?;
        let records = report.get("records")?;
        let table = match layout {
            Layout::Fields(columns) => fields(records.as_object()?, columns)?,
            Layout::Each(all, prefix) => each(records.as_object()?, all, prefix)?,
            Layout::Nested(columns) => nested(records.as_object()?, columns)?,
            Layout::Flat(heading) => flat(records.as_object()?, heading)?,
            Layout::Forms => forms(records.as_array()?)?,
        };
        let days: Option<Vec<String>> = table.rows.iter().map(|(key, _)| day(key)).collect();
        match days {
            // Keys that are dates are days, whatever distribution was asked for.
            Some(days) if *key == TIME => {
                let rows = days.into_iter().zip(table.rows).map(|(day, (_, numbers))| (day, numbers)).collect();
                Table { rows, ..table }.chart(title, "Day")
            }
            _ => table.chart(title, key),
        }
    }
}

/// A date as people compare days, and as short as a phone needs it: `Sun 1 Mar`. The letter names the year.
fn day(key: &str) -> Option<String> {
    let date: NaiveDate = key.parse().ok()?;
    (date.to_string() == key).then(|| date.format("%a %-d %b").to_string())
}

impl Table {
    fn chart(self, title: &str, key: &'static str) -> Option<Chart> {
        let first = |row: &(String, Vec<Option<f64>>)| row.1.first().copied().flatten().unwrap_or(0.0);
        let longest = self.rows.iter().map(first).fold(0.0, f64::max);
        if longest <= 0.0 {
            return None;
        }
        let units: Vec<Unit> = self.columns.iter().map(|(_, unit)| *unit).collect();
        let row = |row: &(String, Vec<Option<f64>>)| {
            let show = |(number, unit): (&Option<f64>, &Unit)| number.map_or("–".to_owned(), |n| unit.show(n));
            Row {
                key: row.0.clone(),
                cells: row.1.iter().zip(&units).map(show).collect(),
                bar: share(first(row), longest),
            }
        };
        Some(Chart {
            title: title.to_owned(),
            key,
            rows: self.rows.iter().take(ROWS).map(row).collect(),
            columns: self.columns.into_iter().map(|(heading, _)| heading).collect(),
            named: self.named,
            more: self.rows.len().saturating_sub(ROWS),
            left_out: self.left_out,
        })
    }
}

/// A part of the longest bar; a little is never nothing.
fn share(number: f64, longest: f64) -> u8 {
    let share = (number / longest * 100.0).round();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "number is at most longest")]
    let share = share as u8;
    if number > 0.0 { share.clamp(1, 100) } else { 0 }
}

/// A value that has to be a number of something.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| (0.0..=MOST).contains(number))
}

/// Something stands where a number should.
struct NoNumber;

/// The number that a path leads to in a record, or what it is when it is missing.
fn at(record: &Map<String, Value>, path: &[&str], missing: Option<f64>) -> Result<Option<f64>, NoNumber> {
    let Some((last, outer)) = path.split_last() else { return Ok(missing) };
    let mut map = record;
    for step in outer {
        match map.get(*step) {
            None | Some(Value::Null) => return Ok(missing),
            Some(inner) => map = inner.as_object().ok_or(NoNumber)?,
        }
    }
    match map.get(*last) {
        None | Some(Value::Null) => Ok(missing),
        Some(value) => number(value).map(Some).ok_or(NoNumber),
    }
}

/// Each record as an object.
fn objects(records: &Map<String, Value>) -> Option<Vec<(&String, &Map<String, Value>)>> {
    records.iter().map(|(key, record)| Some((key, record.as_object()?))).collect()
}

fn fields(records: &Map<String, Value>, columns: &[Column]) -> Option<Table> {
    let records = objects(records)?;
    let mut table = Table {
        columns: columns.iter().map(|Column(heading, _, unit)| ((*heading).to_owned(), *unit)).collect(),
        named: false,
        rows: Vec::new(),
        left_out: None,
    };
    // Availability by hour counts minutes.
    let minutes = records.iter().any(|(_, record)| record.contains_key("minutes"));
    for (key, record) in records {
        let mut cells = Vec::new();
        for Column(_, path, unit) in columns {
            cells.push(match (path, unit) {
                (["+"], _) => Some(0.0),
                (_, Unit::Hours) if minutes => at(record, &["minutes"], unit.missing()).ok()?,
                _ => at(record, path, unit.missing()).ok()?,
            });
        }
        if let [Column(_, ["+"], _), ..] = columns {
            let sum = cells.iter().skip(1).flatten().sum();
            cells[0] = at(record, &["total"], Some(sum)).ok()?;
        }
        table.rows.push((key.clone(), cells));
    }
    if let [(_, unit @ Unit::Hours)] = table.columns.as_mut_slice()
        && minutes
    {
        *unit = Unit::Minutes;
    }
    Some(table)
}

/// The sum of what a record counts, and the counters that are highest over all records.
fn each(records: &Map<String, Value>, all: &str, prefix: &str) -> Option<Table> {
    let records = objects(records)?;
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for (name, value) in records.iter().flat_map(|(_, record)| record.iter()) {
        *sums.entry(name).or_default() += number(value)?;
    }
    let mut names: Vec<(&str, f64)> = sums.into_iter().collect();
    // Stable, so that equals keep the order of their names.
    names.sort_by(|a, b| b.1.total_cmp(&a.1));
    let known = names.len();
    names.truncate(COLUMNS - 1);
    let row = |(key, record): &(&String, &Map<String, Value>)| {
        let mut cells = vec![Some(record.values().filter_map(number).sum())];
        cells.extend(names.iter().map(|(name, _)| Some(record.get(*name).and_then(number).unwrap_or(0.0))));
        ((*key).clone(), cells)
    };
    let rows = records.iter().map(row).collect();
    let mut columns = vec![(all.to_owned(), Unit::Count)];
    columns.extend(names.iter().map(|(name, _)| (format!("{prefix}{name}"), Unit::Count)));
    let left_out = (known > names.len())
        .then(|| format!("The columns are the {} most frequent of {known}; the file has all.", names.len()));
    Some(Table { columns, named: true, rows, left_out })
}

fn nested(records: &Map<String, Value>, columns: &[Column]) -> Option<Table> {
    let mut rows = Vec::new();
    for (key, record) in objects(records)? {
        let mut sums = vec![0.0; columns.len()];
        for (_, inner) in objects(record)? {
            for (sum, Column(_, path, unit)) in sums.iter_mut().zip(columns) {
                *sum += at(inner, path, unit.missing()).ok()?.unwrap_or(0.0);
            }
        }
        rows.push((key.clone(), sums.into_iter().map(Some).collect()));
    }
    let columns = columns.iter().map(|Column(heading, _, unit)| ((*heading).to_owned(), *unit)).collect();
    Some(Table { columns, named: false, rows, left_out: None })
}

fn flat(records: &Map<String, Value>, heading: &str) -> Option<Table> {
    let row = |(key, value): (&String, &Value)| Some((key.clone(), vec![Some(number(value)?)]));
    let rows = records.iter().map(row).collect::<Option<Vec<_>>>()?;
    Some(Table { columns: vec![(heading.to_owned(), Unit::Count)], named: false, rows, left_out: None })
}

fn forms(records: &[Value]) -> Option<Table> {
    let row = |form: &Value| {
        let form = form.as_object()?;
        let group = form.get("group_id").map_or_else(String::new, |group| format!(", group {group}"));
        let key = format!("{}{group}", form.get("form_id")?.as_str()?);
        Some((key, vec![at(form, &["count"], Unit::Count.missing()).ok()?]))
    };
    let rows = records.iter().map(row).collect::<Option<Vec<_>>>()?;
    let left_out = Some("The answers to the forms are in the file.".to_owned());
    Some(Table { columns: vec![("Filled".to_owned(), Unit::Count)], named: false, rows, left_out })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::request::livechat::{PAGED_REPORT, REPORTS};
    use crate::sandbox::{Options, Sandbox, credentials};

    fn chart(report: &Value) -> Option<Chart> {
        Chart::of(report.to_string().as_bytes())
    }

    /// The keys, bars and numbers of a chart, a row a line.
    fn rows(chart: &Chart) -> Vec<String> {
        chart.rows.iter().map(|row| format!("{} {} {}", row.key, row.bar, row.cells.join(" | "))).collect()
    }

    #[tokio::test]
    async fn every_known_report_of_the_vendor_is_drawn_but_the_list_of_visitors_and_the_pair_of_totals() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let options = Options::quick(Arc::new(|| chrono::DateTime::UNIX_EPOCH));
        let sandbox = Sandbox::start(options).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        for report in REPORTS {
            let asked = json!({"timezone": "Asia/Kolkata", "filters":
                {"from": "2026-03-01T00:00:00+05:30", "to": "2026-03-31T23:59:59+05:30"}});
            let url = format!("{}/v3.6/reports/{report}", sandbox.livechat_base_url());
            let login = (credentials::LIVECHAT_ACCOUNT, Some(credentials::LIVECHAT_TOKEN));
            let answer = http.post(url).basic_auth(login.0, login.1).json(&asked).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{report}");
            let chart = Chart::of(&answer.bytes().await.unwrap());
            if report == PAGED_REPORT || report.ends_with("visitors") && !report.contains("queued") {
                assert_eq!(chart, None, "{report}");
                continue;
            }
            let chart = chart.unwrap_or_else(|| panic!("{report} is not drawn"));
            assert!(chart.rows.iter().any(|row| row.bar == 100), "{report}");
            assert!(chart.rows.iter().all(|row| row.cells.len() == chart.columns.len()), "{report}");
            assert!((1..=COLUMNS).contains(&chart.columns.len()), "{report}");
            if chart.key == "Day" {
                assert_eq!((chart.rows.len(), chart.rows[0].key.as_str()), (31, "Sun 1 Mar"), "{report}");
            }
        }
    }

    #[test]
    fn missing_counters_are_nothing_and_missing_means_are_not_zero() {
        let ratings = chart(&json!({"name": "ratings-report", "total": 50, "records":
            {"2026-03-01": {"chats": 40, "good": 2}, "2026-03-02": {}, "2026-03-03": {"chats": 10, "good": null}}}));
        let ratings = ratings.unwrap();
        assert_eq!(ratings.columns, ["Chats", "Good", "Bad"]);
        assert_eq!(rows(&ratings), ["Sun 1 Mar 100 40 | 2 | 0", "Mon 2 Mar 0 0 | 0 | 0", "Tue 3 Mar 25 10 | 0 | 0"]);
        let times = chart(&json!({"name": "response-time-report", "records":
            {"09:00": {"count": 3, "response_time": 9.54}, "10:00": {}, "11:00": {"count": 1, "response_time": 3725}}}));
        let times = times.unwrap();
        assert_eq!(times.key, "Time");
        assert_eq!(rows(&times), ["09:00 1 9.5 s | 3", "10:00 0 – | 0", "11:00 100 1h 02m | 1"]);
    }

    #[test]
    fn nested_and_named_counters_are_summed() {
        let greetings = chart(&json!({"name": "greetings-conversion-report", "records": {"2026-03-01": {
            "7": {"displayed": 9, "accepted": 2, "canceled": 1}, "19": {"displayed": 1, "accepted": 1, "goals": 1}}}}));
        assert_eq!(rows(&greetings.unwrap()), ["Sun 1 Mar 100 3 | 10 | 1 | 1"]);
        let tags = json!({"name": "tags-report", "records": {
            "2026-03-01": {"a": 1, "b": 5, "c": 2}, "2026-03-02": {"d": 3, "a": 1}}});
        let tags = chart(&tags).unwrap();
        assert_eq!(tags.columns, ["All tags", "b", "d", "a"]);
        assert_eq!(rows(&tags), ["Sun 1 Mar 100 8 | 5 | 0 | 1", "Mon 2 Mar 50 4 | 0 | 3 | 1"]);
        assert!(tags.left_out.unwrap().contains("3 most frequent of 4"));
        let started = |record: Value| chart(&json!({"name": "engagement-report", "records": {"x": record}})).unwrap();
        let parts = json!({"started_by_agent": 2, "started_by_customer_from_greeting": 3});
        assert_eq!(rows(&started(parts)), ["x 100 5 | 3 | 0 | 2"]);
        assert_eq!(rows(&started(json!({"started_by_agent": 2, "total": 7}))), ["x 100 7 | 0 | 0 | 2"]);
    }

    #[test]
    fn availability_is_in_hours_of_days_and_minutes_of_hours() {
        let available = |records: Value| chart(&json!({"name": "availability-report", "records": records})).unwrap();
        assert_eq!(rows(&available(json!({"2026-03-01": {"hours": 7.25}}))), ["Sun 1 Mar 100 7.25 h"]);
        assert_eq!(rows(&available(json!({"09": {"minutes": 30}, "10": {}}))), ["09 100 30 min", "10 0 0 min"]);
    }

    #[test]
    fn more_than_two_months_of_rows_are_counted() {
        let records: Map<String, Value> = (0..100).map(|n| (format!("tag {n}"), json!(n))).collect();
        let chart = chart(&json!({"name": "tags-chat-usage-report", "records": records})).unwrap();
        assert_eq!((chart.rows.len(), chart.more), (62, 38));
        // The longest bar is among those that are not shown, and all are drawn to one scale.
        assert_eq!(chart.rows[61].bar, 62);
        assert_eq!((chart.rows[0].bar, chart.rows[1].bar), (0, 1));
    }

    #[test]
    fn what_is_not_recognised_is_not_drawn() {
        let day = |record: Value| json!({"name": "ratings-report", "records": {"2026-03-01": record}});
        assert!(chart(&day(json!({"chats": 1, "new": {"field": "ignored"}}))).is_some());
        for wrong in [
            day(json!({"chats": "1"})),
            day(json!({"chats": -1})),
            day(json!({"chats": 1e15})),
            day(json!({"chats": 1, "good": [1]})),
            day(json!([1])),
            day(json!({"chats": 0})),
            day(json!({})),
            json!({"name": "ratings-report", "records": []}),
            json!({"name": "ratings-report", "records": {}}),
            json!({"name": "ratings-report"}),
            json!({"name": "sales-report", "records": {"2026-03-01": {"chats": 1}}}),
            json!({"name": 7, "records": {"2026-03-01": {"chats": 1}}}),
            json!({"records": {"2026-03-01": {"chats": 1}}}),
            json!({"name": "form-report", "records": [{"form_id": 1, "count": 1}]}),
            json!({"name": "queued-visitors-report", "records": {"x": {"queued": 3}}}),
            json!({"name": "visitors-report", "summary": {"unique_visitors": 4, "page_views": 23}}),
            json!([]),
        ] {
            assert_eq!(chart(&wrong), None, "{wrong}");
        }
        for bytes in [&b""[..], b"PK\x03\x04", b"{\"name\": \"ratings-report\"", b"\xff\xfe"] {
            assert_eq!(Chart::of(bytes), None);
        }
    }
}
