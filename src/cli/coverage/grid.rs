//! Cells -> rows and columns of a calendar: days of a month, hours of a day, or months of a year, whatever is dense enough to
//! be read at a glance.
//!
//! A window stands where its last instant is. Where several stand in one place (25-hour days, weeks of a month) their
//! letters stand side by side.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveDateTime, TimeDelta, Timelike};
use chrono_tz::Tz;

use super::paint::Paint;
use crate::coverage::cell::{Cell, State};

/// Rows that are shown; older ones are counted in one line.
const ROWS: usize = 40;

/// Letters that stand side by side in one place at most; more are counted.
const BESIDE: usize = 6;

/// What a row and a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// A row a day, a column an hour.
    Hours,
    /// A row a month, a column a day.
    Days,
    /// A row a year, a column a month.
    Months,
}

impl Layout {
    /// By how far windows are from each other; a single one by its length.
    fn of(cells: &[Cell]) -> Layout {
        let mut steps: Vec<TimeDelta> =
            cells.windows(2).map(|pair| pair[1].window.end() - pair[0].window.end()).collect();
        steps.sort();
        let alone = || cells.first().map(|cell| cell.window.end() - cell.window.start());
        match steps.get(steps.len() / 2).copied().or_else(alone) {
            Some(step) if step <= TimeDelta::hours(12) => Layout::Hours,
            Some(step) if step <= TimeDelta::days(4) => Layout::Days,
            _ => Layout::Months,
        }
    }

    fn row(self, at: NaiveDateTime) -> NaiveDate {
        let date = at.date();
        match self {
            Layout::Hours => date,
            Layout::Days => date.with_day(1).unwrap_or(date),
            Layout::Months => NaiveDate::from_ymd_opt(date.year(), 1, 1).unwrap_or(date),
        }
    }

    fn column(self, at: NaiveDateTime) -> u32 {
        match self {
            Layout::Hours => at.hour(),
            Layout::Days => at.day0(),
            Layout::Months => at.month0(),
        }
    }

    fn columns(self) -> u32 {
        match self {
            Layout::Hours => 24,
            Layout::Days => 31,
            Layout::Months => 12,
        }
    }

    fn head(self, column: u32) -> String {
        match self {
            Layout::Hours => format!("{column:02}"),
            Layout::Days => (column + 1).to_string(),
            Layout::Months => {
                let january = NaiveDate::from_ymd_opt(2000, 1, 1).unwrap_or_default();
                (january + Months::new(column)).format("%b").to_string()
            }
        }
    }

    fn title(self, row: NaiveDate) -> String {
        row.format(match self {
            Layout::Hours => "%a %Y-%m-%d",
            Layout::Days => "%Y-%m",
            Layout::Months => "%Y",
        })
        .to_string()
    }

    fn rows_are(self) -> &'static str {
        match self {
            Layout::Hours => "days",
            Layout::Days => "months",
            Layout::Months => "years",
        }
    }
}

/// The last instant of a window on the local clock.
fn place(cell: &Cell, zone: Tz) -> NaiveDateTime {
    let last: DateTime<chrono::Utc> = cell.window.end() - TimeDelta::seconds(1);
    last.with_timezone(&zone).naive_local()
}

/// What stands in one place: its letters, and how many columns of text they take.
fn letters(states: &[State], paint: Paint) -> (String, usize) {
    if states.len() <= BESIDE {
        return (paint.letters(states.iter().copied()), states.len());
    }
    // States are ordered by how much they need a person.
    let worst = states.iter().min().copied().unwrap_or(State::Held);
    let count = states.iter().filter(|state| **state == worst).count().to_string();
    (paint.letters(std::iter::once(worst)) + &count, 1 + count.len())
}

/// The calendar of some cells, which are in order of time.
pub(super) fn grid(cells: &[Cell], zone: Tz, paint: Paint) -> String {
    let layout = Layout::of(cells);
    let mut rows: BTreeMap<NaiveDate, BTreeMap<u32, Vec<State>>> = BTreeMap::new();
    for cell in cells {
        let at = place(cell, zone);
        rows.entry(layout.row(at)).or_default().entry(layout.column(at)).or_default().push(cell.state);
    }
    let left_out = rows.len().saturating_sub(ROWS);
    let shown: Vec<_> = rows.iter().skip(left_out).collect();
    let in_place = |states: &Vec<State>| letters(states, paint).1;
    let widest = shown.iter().flat_map(|(_, row)| row.values()).map(in_place).max().unwrap_or(1);
    let wide = widest.max(layout.head(0).len()).max(2);
    let margin = shown.first().map_or(0, |(row, _)| layout.title(**row).len());
    let mut out = String::new();
    if left_out > 0 {
        let older: Vec<State> = rows.values().take(left_out).flat_map(|row| row.values().flatten().copied()).collect();
        let lacking = older.iter().filter(|state| !state.is_held()).count();
        out.push_str(&format!(
            "… {left_out} {} before with {} windows, {lacking} of them not held (--from and --to show them)\n",
            layout.rows_are(),
            older.len()
        ));
    }
    let heads = (0..layout.columns()).map(|column| {
        let head = layout.head(column);
        if layout == Layout::Months { format!(" {head:<wide$}") } else { format!(" {head:>wide$}") }
    });
    out.push_str(format!("{:margin$} {}", "", heads.collect::<String>()).trim_end());
    out.push('\n');
    for (row, places) in shown {
        let mut line = format!("{:margin$} ", layout.title(*row));
        for column in 0..layout.columns() {
            let (text, width) = places.get(&column).map(|states| letters(states, paint)).unwrap_or_default();
            let space = " ".repeat(wide.saturating_sub(width));
            line.push(' ');
            line.push_str(&if layout == Layout::Months { text + &space } else { space + &text });
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use chrono::Weekday;

    use super::*;
    use crate::request::window::{Each, Window};

    fn cells(from: &str, to: &str, zone: Tz, each: Each) -> Vec<Cell> {
        let date = |text: &str| text.parse::<NaiveDate>().expect("date");
        let window = Window::days(date(from), date(to), zone).expect("window");
        let cell = |window| Cell {
            window,
            fire_at: None,
            provisional: false,
            state: State::Held,
            held: None,
            run: None,
            asked: false,
        };
        window.parts(each, Weekday::Mon).into_iter().map(cell).collect()
    }

    fn hours(date: &str, zone: Tz) -> Vec<Cell> {
        let day = cells(date, date, zone, Each::Day).remove(0);
        let mut hours = Vec::new();
        let mut start = day.window.start();
        while start < day.window.end() {
            let end = start + TimeDelta::hours(1);
            hours.push(Cell { window: Window::new(start, end, zone).expect("hour"), ..day.clone() });
            start = end;
        }
        hours
    }

    const PLAIN: Paint = Paint { colour: false };

    #[test]
    fn days_stand_in_rows_of_months() {
        let mut days = cells("2026-10-30", "2026-11-03", Tz::UTC, Each::Day);
        days[1].state = State::Missing;
        days[4].state = State::Failed;
        assert_eq!(
            grid(&days, Tz::UTC, PLAIN),
            "          1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31\n\
             2026-10                                                                                          ■  M\n\
             2026-11   ■  ■  F\n"
        );
    }

    #[test]
    fn weeks_and_months_stand_in_rows_of_years() {
        let mut weeks = cells("2026-01-05", "2026-03-15", Tz::UTC, Each::Week);
        weeks[1].state = State::Missing;
        assert_eq!(
            grid(&weeks, Tz::UTC, PLAIN),
            "      Jan  Feb  Mar  Apr  May  Jun  Jul  Aug  Sep  Oct  Nov  Dec\n2026  ■M■  ■■■■ ■■■\n"
        );
        let mut months = cells("2025-11-01", "2026-02-28", Tz::UTC, Each::Month);
        months[2].state = State::NeedsYou;
        assert_eq!(
            grid(&months, Tz::UTC, PLAIN),
            "      Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec\n\
             2025                                          ■   ■\n\
             2026  N   ■\n"
        );
    }

    #[test]
    fn hours_of_a_day_on_which_clocks_change_stand_where_the_clock_showed_them() {
        let berlin = Tz::Europe__Berlin;
        let mut both = hours("2026-03-29", berlin);
        both.extend(hours("2026-10-25", berlin));
        assert_eq!(both.len(), 48);
        both[47].state = State::Missing;
        assert_eq!(
            grid(&both, berlin, PLAIN),
            "                00 01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 16 17 18 19 20 21 22 23\n\
             Sun 2026-03-29   ■  ■     ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■\n\
             Sun 2026-10-25   ■  ■ ■■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  ■  M\n"
        );
    }

    #[test]
    fn many_windows_in_one_place_are_counted_and_old_rows_are_told_in_one_line() {
        assert_eq!(letters(&[State::Held; 7], PLAIN), ("■7".to_owned(), 2));
        let mut states = [State::Held; 12];
        states[3] = State::Missing;
        assert_eq!(letters(&states, PLAIN), ("M1".to_owned(), 2));
        let mut years = cells("2020-01-01", "2026-12-31", Tz::UTC, Each::Day);
        years[0].state = State::Missing;
        let text = grid(&years, Tz::UTC, PLAIN);
        assert!(text.starts_with("… 44 months before with 1339 windows, 1 of them not held"), "{text}");
        assert_eq!(text.lines().count(), 2 + ROWS);
    }
}
