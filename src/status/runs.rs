//! What is wrong with runs: open breakers, held, blocked, failed and late ones. Pure.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::place::waits;
use super::{Cause, Facts, Item, counted, is_waived};
use crate::job::series_name;
use crate::request::window::Window;
use crate::run::store::attention::{FailedRow, LiveRow};
use crate::run::store::ledger::SeriesRow;
use crate::run::{FailureClass, State, short};
use crate::yaml::show_duration;

pub(super) fn items(facts: &Facts) -> Vec<Item> {
    let mut items = breakers(facts);
    items.extend(held(facts));
    items.extend(blocked(facts));
    items.extend(failed(facts));
    items.extend(late(facts));
    items
}

fn breakers(facts: &Facts) -> Vec<Item> {
    let item = |row: &crate::run::store::attention::OpenBreakerRow| {
        // One of an account that the config no longer has lets nobody wait who is not told otherwise.
        facts.account(&row.connection, &row.vendor)?;
        let waiting = facts.waiting(&row.connection, &row.vendor);
        let close = format!("reportd connections close {} --vendor {}", row.connection, row.vendor);
        let action = match waiting {
            _ if row.by_hand => close,
            0 => {
                format!("mend the secret, and `reportd serve` closes the breaker within a minute; or at once: {close}")
            }
            _ => format!("mend the secret, which is then tried by itself; or at once: {close}"),
        };
        Some(Item {
            connection: Some(row.connection.clone()),
            vendor: Some(row.vendor.clone()),
            count: waiting,
            since: Some(row.since),
            zone: facts.zone(&row.connection),
            ..Item::new(Cause::Breaker, format!("{}; {}", row.reason, waits(waiting)), action)
        })
    };
    facts.breakers.iter().filter_map(item).collect()
}

fn held(facts: &Facts) -> Vec<Item> {
    let item = |row: &crate::run::store::attention::HeldRow| {
        let run = short(row.run_id);
        // The message ends with the commands, which are the action here.
        let essence = row.failure.split(", then run one of").next().unwrap_or(&row.failure);
        Item {
            job: Some(row.job.clone()),
            connection: Some(row.connection.clone()),
            vendor: Some(row.vendor.clone()),
            run: Some(row.run_id),
            since: Some(row.since),
            zone: row.window_zone.parse().unwrap_or(chrono_tz::UTC),
            ..Item::new(
                Cause::Held,
                format!("run {run}, window {}: {essence}", row.window_label),
                format!("reportd resolve {run} --ticket ID | --file PATH | --not-created | --give-up"),
            )
        }
    };
    facts.held.iter().map(item).collect()
}

fn blocked(facts: &Facts) -> Vec<Item> {
    facts.live.iter().filter_map(|row| blocked_item(facts, row)).collect()
}

fn blocked_item(facts: &Facts, row: &LiveRow) -> Option<Item> {
    let name = series_name(&row.job, &row.connection);
    let (run, runs) = (short(row.run_id), counted(row.runs, "run"));
    let account = facts.account(&row.connection, &row.vendor);
    let (message, action) = match account.map(|a| (a, a.account.as_ref())) {
        None => (
            format!(
                "{runs} made for connection {}, whose {} account this config does not have",
                row.connection, row.vendor
            ),
            format!("bring the account back, or: reportd cancel {run}"),
        ),
        Some((account, Ok(fingerprint)))
            if row.base_url != account.base_url || (row.account != *fingerprint && !row.account.is_empty()) =>
        {
            let (other, action) = if row.base_url == account.base_url {
                (
                    "another account than the config has now".to_owned(),
                    format!(
                        "if it is the same shop's under a new key: reportd cancel {run}, and then reportd retry {run}{}",
                        if row.runs > 1 {
                            format!(" (and so with each of reportd runs {name})")
                        } else {
                            String::new()
                        }
                    ),
                )
            } else {
                (
                    format!("{}, and the config has {} now", row.base_url, account.base_url),
                    format!("reportd cancel {run}, and then reportd fill {name}, which asks, and at BIK mails, anew"),
                )
            };
            (
                format!("{runs} made for {other}: no process of this config may work on such a run"),
                format!("bring the former one back; or, {action}"),
            )
        }
        // Told under the secret and the breaker, whose end lets them go on.
        Some((_, Err(_))) => return None,
        Some(_) if !row.stuck || facts.breaker_is_open(&row.connection, &row.vendor) || waits_for_breaker(row) => {
            return None;
        }
        Some(_) => (
            format!("{runs}, the first {run}: {}", row.note.as_deref().unwrap_or("it does not say for what")),
            format!("mend that, and it goes on within 15 minutes (reportd show {run})"),
        ),
    };
    Some(Item {
        job: Some(row.job.clone()),
        connection: Some(row.connection.clone()),
        vendor: Some(row.vendor.clone()),
        run: Some(row.run_id),
        count: row.runs,
        since: Some(row.since),
        zone: facts.zone(&row.connection),
        ..Item::new(Cause::Blocked, message, action)
    })
}

/// Once the breaker is closed such a run is due, and only keeps its note until somebody looks at it.
fn waits_for_breaker(row: &LiveRow) -> bool {
    row.note.as_deref().is_some_and(|note| note.starts_with("breaker open: "))
}

fn failed(facts: &Facts) -> Vec<Item> {
    let wanted = facts.wanted();
    let mut groups: BTreeMap<(&str, &str, &str), Vec<&FailedRow>> = BTreeMap::new();
    // What an operator gave up was decided by a person.
    let given_up = FailureClass::GivenUp.as_str();
    let wanted = |row: &&FailedRow| wanted.contains(&row.series_id) && row.failure_class != given_up;
    for row in facts.failed.iter().filter(wanted) {
        let zone = row.window_zone.parse().unwrap_or(chrono_tz::UTC);
        let window = Window::new(row.window_start, row.window_end, zone);
        let waivers = facts.declared(&row.job, &row.connection).map_or(&[][..], |declared| &declared.waivers);
        if !is_waived(waivers, window.as_ref()) {
            groups.entry((&row.job, &row.connection, &row.failure_class)).or_default().push(row);
        }
    }
    groups.values().filter_map(|rows| failed_item(facts, rows)).collect()
}

/// One item for all windows of a series that failed in the same way. The rows are the newest first.
fn failed_item(facts: &Facts, rows: &[&FailedRow]) -> Option<Item> {
    let newest = rows.first()?;
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let (name, class) = (series_name(&newest.job, &newest.connection), &newest.failure_class);
    let first = rows.iter().min_by_key(|row| row.window_start)?;
    let last = rows.iter().max_by_key(|row| row.window_start)?;
    let scheduled = facts.declared(&newest.job, &newest.connection).is_none_or(|declared| declared.scheduled);
    let message = if count == 1 {
        format!("window {}, {class}: {}", newest.window_label, newest.failure)
    } else {
        let windows = counted(count, "window");
        format!("{windows}, {} to {}, {class}; the last: {}", first.window_label, last.window_label, newest.failure)
    };
    // The vendor said no to what was asked: the same again brings the same.
    let correct = if matches!(class.as_str(), "refused" | "protocol") { "correct what it says, then: " } else { "" };
    let each = format!("each of: reportd runs {name} --state failed");
    let command = match count {
        1 => format!("reportd retry {}", short(newest.run_id)),
        _ if scheduled && rows.iter().all(|row| row.trigger != "manual") => format!("reportd fill {name}"),
        // What was asked for by hand may be no window that `fill` looks at.
        _ if scheduled => format!("reportd fill {name}, and what that leaves: reportd retry RUN ({each})"),
        _ => format!("reportd retry RUN ({each})"),
    };
    Some(Item {
        job: Some(newest.job.clone()),
        connection: Some(newest.connection.clone()),
        vendor: Some(newest.vendor.clone()),
        run: Some(newest.run_id),
        count,
        since: rows.iter().map(|row| row.finished_at).min(),
        zone: newest.window_zone.parse().unwrap_or(chrono_tz::UTC),
        ..Item::new(Cause::Failed, message, format!("{correct}{command}"))
    })
}

/// What a late window waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wait {
    /// A run is at it.
    Run,
    /// Nothing is: only a fill brings it.
    Fill,
    /// Nothing is, and its report may be made already: `fill` leaves it alone.
    Person,
    /// A process that decides about its instant.
    Serve,
}

/// One late window.
struct LateWindow {
    fire_at: DateTime<Utc>,
    window: Window,
    run: Option<(Uuid, String)>,
}

fn late(facts: &Facts) -> Vec<Item> {
    let series: HashMap<i64, &SeriesRow> = facts.series.iter().map(|row| (row.id, row)).collect();
    let mut groups: BTreeMap<(&str, &str, Wait), Vec<LateWindow>> = BTreeMap::new();
    let mut add = |id: i64, fire_at, start, end, wait: Wait, run| {
        let Some(row) = series.get(&id) else { return };
        let Some(declared) = facts.declared(&row.job, &row.connection) else { return };
        let Some(window) = Window::new(start, end, declared.zone) else { return };
        if is_waived(&declared.waivers, Some(&window)) {
            return;
        }
        let group = groups.entry((&row.job, &row.connection, wait)).or_default();
        // Two instants may name one window.
        if group.iter().all(|late| late.window != window) {
            group.push(LateWindow { fire_at, window, run });
        }
    };
    for row in &facts.late {
        let state = row.run_state.as_deref().and_then(|state| state.parse::<State>().ok());
        let (wait, run) = match state {
            // Told under their own cause.
            Some(State::Failed | State::Held) => continue,
            Some(_) if row.run_stuck == Some(true) => continue,
            Some(state) if !state.is_terminal() => (Wait::Run, row.run_id.map(|id| (id, state.to_string()))),
            _ => match row.doubtful_run {
                Some(run) => (Wait::Person, Some((run, String::new()))),
                None => (Wait::Fill, None),
            },
        };
        add(row.series_id, row.fire_at, row.window_start, row.window_end, wait, run);
    }
    for due in &facts.undecided {
        add(due.window.series, due.fire_at, due.window.start, due.window.end, Wait::Serve, None);
    }
    let item = |((job, connection, wait), windows): (&(&str, &str, Wait), &Vec<LateWindow>)| {
        late_item(facts, job, connection, *wait, windows)
    };
    groups.iter().filter_map(item).collect()
}

fn late_item(facts: &Facts, job: &str, connection: &str, wait: Wait, windows: &[LateWindow]) -> Option<Item> {
    let declared = facts.declared(job, connection)?;
    if wait == Wait::Run && facts.breaker_is_open(connection, declared.vendor) {
        return None;
    }
    let oldest = windows.iter().min_by_key(|late| late.fire_at)?;
    let after = show_duration(declared.late_after?);
    let count = i64::try_from(windows.len()).unwrap_or(i64::MAX);
    let which = if count == 1 {
        format!("window {} is", oldest.window.label())
    } else {
        format!("{}, the oldest {}, are", counted(count, "window"), oldest.window.label())
    };
    let name = series_name(job, connection);
    let (state, action) = match (wait, &oldest.run) {
        (Wait::Run, Some((run, state))) => {
            (format!("run {} is {state}", short(*run)), format!("reportd show {} says what it waits for", short(*run)))
        }
        (Wait::Person, Some((run, _))) => {
            let (run, each) = (short(*run), if count > 1 { ", and so with the others that fill names" } else { "" });
            (format!("run {run} may have been made and mailed"), format!("reportd retry {run}{each}"))
        }
        (Wait::Serve, _) => ("nobody has decided about the instant".to_owned(), "reportd serve".to_owned()),
        _ => ("no run is at it".to_owned(), format!("reportd fill {name}")),
    };
    Some(Item {
        job: Some(job.to_owned()),
        connection: Some(connection.to_owned()),
        vendor: Some(declared.vendor.to_owned()),
        run: oldest.run.as_ref().map(|(run, _)| *run),
        count,
        since: Some(oldest.fire_at),
        zone: declared.zone,
        ..Item::new(Cause::Late, format!("{which} not here {after} after the fire; {state}"), action)
    })
}
