//! Job files: from YAML to a [`Job`], and from a job, a connection and a window to the [`crate::request::Request`] of one run.
//!
//! ```text
//! jobs/x.yaml --file.rs--> JobFile --compile.rs, ask.rs--> Job --lint.rs--> warnings
//!                                    Job + Connection + Window --resolve.rs--> Request
//! ```
//!
//! Everything here but load.rs is pure. Past compile.rs nothing is left to check: a `Job` that exists can be resolved for
//! each of its connections, because compile.rs has tried.

pub mod ask;
pub mod compile;
pub mod file;
pub mod lint;
pub mod load;
pub mod notice;
pub mod policy;
pub mod resolve;
pub mod schedule;

use std::path::PathBuf;
use std::time::Duration;

use chrono::NaiveDate;
use chrono_tz::Tz;

use crate::connection::Connection;
use crate::request::Vendor;
use crate::request::waiver::Waiver;
use crate::request::window::WindowRule;
use ask::Ask;
use notice::{NoticeRule, Telling};
use policy::{PartialPolicy, Policy};
use schedule::{Cron, Schedule};

/// What `defaults:` of the config gives every job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Defaults {
    /// Folder of the config, which relative paths are relative to.
    pub root: PathBuf,
    /// Zone of jobs whose file and connection name none.
    pub zone: Option<Tz>,
    /// Shared keys.
    pub policy: PartialPolicy,
    /// Notices on success.
    pub deliver: Vec<NoticeRule>,
    /// Notices when something needs a person.
    pub alert: Vec<NoticeRule>,
    /// What is kept how long.
    pub retain: Retain,
}

/// What is kept how long; `None` = for ever.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retain {
    /// Age at which archived bytes may be pruned.
    pub artifacts: Option<Duration>,
    /// Newest revisions of a window that stay.
    pub revisions: Option<u32>,
    /// Age at which run events may be pruned.
    pub events: Option<Duration>,
}

/// What one job file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The file's stem.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Its series, one a connection, in the file's order.
    pub series: Vec<Series>,
    /// What a report covers; `None` only without a schedule.
    pub window: Option<WindowRule>,
    /// First date wanted.
    pub since: Option<NaiveDate>,
    /// What is asked of the vendor.
    pub ask: Ask,
    /// Shared keys, with defaults.
    pub policy: Policy,
    /// Notices on success.
    pub deliver: Vec<NoticeRule>,
    /// Notices when something needs a person.
    pub alert: Vec<NoticeRule>,
    /// `env:NAME` or `file:PATH` of the URL that is pinged when a scheduled run ends.
    pub heartbeat: Option<String>,
    /// Fetch a window again although it is held.
    pub refetch: bool,
    /// Why the job does not fire.
    pub paused: Option<String>,
    /// Gaps that will stay.
    pub waivers: Vec<Waiver>,
    /// Former names.
    pub was: Vec<String>,
    /// What is kept how long.
    pub retain: Retain,
}

impl Job {
    /// Whom it asks.
    pub fn vendor(&self) -> Vendor {
        self.ask.vendor()
    }

    /// What its runs for one of its connections tell.
    pub fn telling(&self, connection: &Connection) -> Telling {
        let of = |rules: &[NoticeRule]| {
            // compile.rs has tried each for each connection.
            let freeze = |rule: &NoticeRule| Some((rule.on.clone(), rule.freeze(connection).ok()?));
            rules.iter().filter_map(freeze).collect()
        };
        Telling { deliver: of(&self.deliver), alert: of(&self.alert), heartbeat: self.heartbeat.clone() }
    }
}

/// (job, connection): the unit of schedule, window, coverage, pause and archive folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The connection's name.
    pub connection: String,
    /// The calendar's zone.
    pub zone: Tz,
    /// Its crons, with `H` spread for this series; empty = by hand only.
    pub crons: Vec<Cron>,
}

impl Series {
    /// Its schedule; `None` = by hand only.
    pub fn schedule(&self) -> Option<Schedule> {
        (!self.crons.is_empty()).then(|| Schedule::new(self.crons.clone(), self.zone))
    }
}

/// `job@connection`.
pub fn series_name(job: &str, connection: &str) -> String {
    format!("{job}@{connection}")
}

/// Whether `name` may name a job or a connection: `[a-z0-9-]{1,64}`.
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Finds a connection by name.
pub fn connection<'a>(connections: &'a [Connection], name: &str) -> Option<&'a Connection> {
    connections.iter().find(|c| c.name == name)
}
