//! What needs a person now, grouped by cause, each with the command or the edit that ends it. Pure: facts in, items out.
//!
//! ```text
//! gather.rs   rows, files, secrets, archive -> Facts; the only part that waits for anything
//! place.rs    what is wrong with the place: archive, processes, secrets, files
//! runs.rs     what is wrong with runs: breakers, held, blocked, failed, late
//! notices.rs  what is wrong with deliveries
//! ```
//!
//! A run is told under one cause, the one whose end lets it go on: what waits for a breaker is not `blocked`, and what failed
//! or is held is not `late` as well. What a person has decided (paused, waived, given up, cancelled, a job taken out) needs nobody.

pub mod gather;
mod notices;
mod place;
mod runs;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use uuid::Uuid;

use crate::job::series_name;
use crate::request::waiver::Waiver;
use crate::request::window::Window;
use crate::run::store::attention::{FailedRow, HeldRow, LateRow, LiveRow, OpenBreakerRow, ReplicaRow, WindowOf};
use crate::run::store::delivery::DeliveryRow;
use crate::run::store::ledger::SeriesRow;

/// Why a person is needed, in the order in which it is told: what stops everything first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Archive and database are not each other's.
    ArchiveMismatch,
    /// Nothing fires.
    NotServing,
    /// The vendor refuses an account.
    Breaker,
    /// An account's secret cannot be read here.
    MissingSecret,
    /// A run's create is in doubt.
    Held,
    /// Runs wait for something else that only a person changes.
    Blocked,
    /// Windows whose runs failed.
    Failed,
    /// Windows that are not held so long after their fire.
    Late,
    /// Notices that did not go out.
    Delivery,
    /// A file has errors.
    BrokenFile,
    /// Files and the set in force differ.
    Drift,
}

impl Cause {
    /// Every cause, in order.
    pub const ALL: [Cause; 11] = [
        Cause::ArchiveMismatch,
        Cause::NotServing,
        Cause::Breaker,
        Cause::MissingSecret,
        Cause::Held,
        Cause::Blocked,
        Cause::Failed,
        Cause::Late,
        Cause::Delivery,
        Cause::BrokenFile,
        Cause::Drift,
    ];

    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::ArchiveMismatch => "archive_mismatch",
            Cause::NotServing => "not_serving",
            Cause::Breaker => "breaker",
            Cause::MissingSecret => "missing_secret",
            Cause::Held => "held",
            Cause::Blocked => "blocked",
            Cause::Failed => "failed",
            Cause::Late => "late",
            Cause::Delivery => "delivery",
            Cause::BrokenFile => "broken_file",
            Cause::Drift => "drift",
        }
    }

    /// What it means, for a heading.
    pub fn meaning(self) -> &'static str {
        match self {
            Cause::ArchiveMismatch => "the archive is not the database's",
            Cause::NotServing => "schedules do not fire, or something keeps some of them from it",
            Cause::Breaker => "accounts that are not asked; their runs wait",
            Cause::MissingSecret => "a secret cannot be read here",
            Cause::Held => "nobody knows whether the vendor made the report; look, and say",
            Cause::Blocked => "runs wait for something that only you can change",
            Cause::Failed => "reports that did not come",
            Cause::Late => "reports that are later than late_after allows",
            Cause::Delivery => "notices that did not go out",
            Cause::BrokenFile => "files with errors",
            Cause::Drift => "job files that differ from the set in force",
        }
    }
}

/// One thing that needs a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Why.
    pub cause: Cause,
    /// The job it is about.
    pub job: Option<String>,
    /// The connection it is about.
    pub connection: Option<String>,
    /// The vendor it is about.
    pub vendor: Option<String>,
    /// The run to look at.
    pub run: Option<Uuid>,
    /// How many runs, windows or problems it stands for.
    pub count: i64,
    /// Since when.
    pub since: Option<DateTime<Utc>>,
    /// The calendar in which that is told.
    pub zone: Tz,
    /// What happened.
    pub message: String,
    /// What ends it.
    pub action: String,
}

impl Item {
    fn new(cause: Cause, message: String, action: String) -> Item {
        Item {
            cause,
            job: None,
            connection: None,
            vendor: None,
            run: None,
            count: 1,
            since: None,
            zone: Tz::UTC,
            message,
            action,
        }
    }

    /// What it is about, as a person names it.
    pub fn subject(&self) -> Option<String> {
        match (&self.job, &self.connection, &self.vendor) {
            (Some(job), Some(connection), _) => Some(series_name(job, connection)),
            (Some(job), None, _) => Some(job.clone()),
            (None, Some(connection), Some(vendor)) => Some(format!("{connection} {vendor}")),
            (None, connection, _) => connection.clone(),
        }
    }
}

/// A series as its file declares it.
#[derive(Clone, Debug)]
pub struct Declared {
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: &'static str,
    /// The calendar.
    pub zone: Tz,
    /// It fires by itself.
    pub scheduled: bool,
    /// The file's `late_after`.
    pub late_after: Option<Duration>,
    /// Gaps that will stay.
    pub waivers: Vec<Waiver>,
}

/// An account as this process can use it.
#[derive(Clone, Debug)]
pub struct AccountFact {
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: &'static str,
    /// Its base URL.
    pub base_url: String,
    /// A job asks it.
    pub used: bool,
    /// Its fingerprint, or why its secret cannot be read.
    pub account: Result<String, String>,
}

/// A file with errors.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The job whose file it is; `None` for the config and the folder.
    pub job: Option<String>,
    /// Errors in it.
    pub count: i64,
    /// The first of them, with its place.
    pub first: String,
    /// Its last good version is in force.
    pub in_force: bool,
}

/// How a job's file differs from the set in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drifted {
    /// The text is another.
    Changed,
    /// The set does not have it.
    New,
    /// The set has it, and there is no file.
    Gone,
}

/// One file that differs.
#[derive(Clone, Debug)]
pub struct DriftFact {
    /// The job.
    pub job: String,
    /// The file.
    pub file: String,
    /// How.
    pub how: Drifted,
}

/// An instant that is due, undecided, and whose window nobody has.
#[derive(Clone, Copy, Debug)]
pub struct Undecided {
    /// The instant.
    pub fire_at: DateTime<Utc>,
    /// What it covers.
    pub window: WindowOf,
}

/// Everything that is looked at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The database's present instant.
    pub now: DateTime<Utc>,
    /// Series of the files at hand; of the set in force where there is no folder.
    pub declared: Vec<Declared>,
    /// Series of the database.
    pub series: Vec<SeriesRow>,
    /// Zones of connections.
    pub zones: HashMap<String, Tz>,
    /// Accounts.
    pub accounts: Vec<AccountFact>,
    /// Files with errors.
    pub broken: Vec<Broken>,
    /// Files that differ from the set in force.
    pub drift: Vec<DriftFact>,
    /// When the set was changed last, and by whom.
    pub applied: Option<(DateTime<Utc>, String)>,
    /// What is wrong with the archive, and what ends it.
    pub archive: Option<(String, String)>,
    /// Series that an operator paused.
    pub paused: Vec<String>,
    /// Processes that serve.
    pub replicas: Vec<ReplicaRow>,
    /// Open breakers.
    pub breakers: Vec<OpenBreakerRow>,
    /// Unfinished runs.
    pub live: Vec<LiveRow>,
    /// Held runs.
    pub held: Vec<HeldRow>,
    /// Windows whose runs failed.
    pub failed: Vec<FailedRow>,
    /// Windows that are late, by the ledger.
    pub late: Vec<LateRow>,
    /// Deliveries that went wrong.
    pub deliveries: Vec<DeliveryRow>,
    /// Windows that are late, and not yet in the ledger.
    pub undecided: Vec<Undecided>,
}

impl Facts {
    fn declared(&self, job: &str, connection: &str) -> Option<&Declared> {
        self.declared.iter().find(|d| d.job == job && d.connection == connection)
    }

    /// The zone in which a connection's people live.
    fn zone(&self, connection: &str) -> Tz {
        self.zones.get(connection).copied().unwrap_or(Tz::UTC)
    }

    fn breaker_is_open(&self, connection: &str, vendor: &str) -> bool {
        self.breakers.iter().any(|b| b.connection == connection && b.vendor == vendor)
    }

    fn account(&self, connection: &str, vendor: &str) -> Option<&AccountFact> {
        self.accounts.iter().find(|a| a.connection == connection && a.vendor == vendor)
    }

    /// Unfinished runs of an account.
    fn waiting(&self, connection: &str, vendor: &str) -> i64 {
        self.live.iter().filter(|l| l.connection == connection && l.vendor == vendor).map(|l| l.runs).sum()
    }

    /// Series that somebody still wants: in a file, in one that is broken at the moment, or in the set in force.
    fn wanted(&self) -> HashSet<i64> {
        let broken: HashSet<&str> = self.broken.iter().filter_map(|b| b.job.as_deref()).collect();
        let declared: HashSet<(&str, &str)> =
            self.declared.iter().map(|d| (d.job.as_str(), d.connection.as_str())).collect();
        let wanted = |row: &&SeriesRow| {
            row.in_force
                || broken.contains(row.job.as_str())
                || declared.contains(&(row.job.as_str(), row.connection.as_str()))
        };
        self.series.iter().filter(wanted).map(|row| row.id).collect()
    }

    /// When a planner last passed.
    pub fn last_pass(&self) -> Option<DateTime<Utc>> {
        self.replicas.iter().filter_map(|replica| replica.passed_at).max()
    }

    /// Unfinished runs.
    pub fn under_way(&self) -> i64 {
        self.live.iter().map(|live| live.runs).sum()
    }
}

/// Whether a waiver says that this window will stay a gap.
fn is_waived(waivers: &[Waiver], window: Option<&Window>) -> bool {
    window.is_some_and(|window| waivers.iter().any(|waiver| waiver.covers(window)))
}

/// All that needs a person, by cause.
pub fn items(facts: &Facts) -> Vec<Item> {
    let mut items = place::items(facts);
    items.extend(runs::items(facts));
    items.extend(notices::items(facts));
    // Within a cause the order is that of the facts.
    items.sort_by_key(|item| item.cause);
    items
}

/// `1 window`, `12 windows`.
fn counted(count: i64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiver_counts_for_windows_whose_every_date_it_names() {
        let date = |text: &str| text.parse::<chrono::NaiveDate>().expect("date");
        let window = |first, last| Window::days(date(first), date(last), Tz::Asia__Kolkata);
        let waivers = [Waiver { from: date("2026-03-02"), to: date("2026-03-08"), reason: "closed".into() }];
        let waived = |first, last| is_waived(&waivers, window(first, last).as_ref());
        assert!(waived("2026-03-02", "2026-03-02") && waived("2026-03-08", "2026-03-08"));
        assert!(waived("2026-03-02", "2026-03-08"));
        assert!(!waived("2026-03-01", "2026-03-02") && !waived("2026-03-08", "2026-03-09"));
        assert!(!waived("2026-03-01", "2026-03-31") && !is_waived(&[], window("2026-03-02", "2026-03-02").as_ref()));
    }

    #[test]
    fn causes_come_in_one_order_and_each_has_a_word_of_its_own() {
        assert!(Cause::ALL.is_sorted());
        let words: HashSet<&str> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
        assert_eq!(words.len(), Cause::ALL.len());
    }
}
