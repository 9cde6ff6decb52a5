//! What will be sent: the next fires of a series with their windows and requests. Pure; needs no database, secret or network.
//!
//! `run-job` makes its requests with the same [`planned`], so what `plan` prints is what goes out.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::connection::Connection;
use crate::delivery::notice::Notices;
use crate::job::notice::Telling;
use crate::job::notice::file::TriggerWord;
use crate::job::resolve::{self, Mailing};
use crate::job::{Job, Series};
use crate::request::window::{Window, WindowRule};
use crate::request::{Request, Vendor};

/// One fire, with what it would send.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// Former names of the job.
    pub was: Vec<String>,
    /// Whom it asks.
    pub vendor: Vendor,
    /// The instant.
    pub fire_at: DateTime<Utc>,
    /// The calendar's zone.
    pub zone: Tz,
    /// What it covers; `None` when that is empty.
    pub window: Option<Window>,
    /// The window ends at the fire's instant: its report may still change.
    pub provisional: bool,
    /// The instant is before the window's end and the delay that the job asks for after it.
    pub early: bool,
    /// What it sends; `None` when it cannot be resolved.
    pub request: Option<Request>,
    /// BIK's mail is for no reader of it: a report that was mailed to others serves it as well.
    pub quiet: bool,
    /// Nothing is sent: the window's last run goes on with the ticket that it has.
    pub goes_on: bool,
    /// What its run tells whom.
    pub telling: Telling,
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl Planned {
    /// What is frozen with its run when that is made by this trigger (`schedule`, `manual`, `fill`).
    pub fn notices(&self, trigger: &str) -> Notices {
        trigger.parse::<TriggerWord>().map(|word| self.telling.of(word)).unwrap_or_default()
    }
}

/// Which window a run is for.
#[derive(Clone, Copy, Debug)]
pub enum Covering {
    /// The rule's, at the fire.
    Rule(WindowRule),
    /// This one.
    Window(Window),
}

/// Resolves one fire of one series.
pub fn planned(
    job: &Job,
    series: &Series,
    connection: &Connection,
    fire_at: DateTime<Utc>,
    covering: Option<Covering>,
    mailing: Mailing,
) -> Planned {
    let mut warnings = Vec::new();
    let rule = job.window.map(Covering::Rule);
    let (window, by_rule) = match covering.or(rule) {
        Some(Covering::Rule(rule)) => (rule.at(fire_at, series.zone, job.policy.week_start), rule.provisional()),
        Some(Covering::Window(window)) => (Some(window), false),
        None => (None, false),
    };
    // Before the window's end, and before the delay after it that the job asks for, a report may still change.
    let delay = TimeDelta::from_std(job.policy.delay).unwrap_or(TimeDelta::MAX);
    let early = window.is_some_and(|w| w.end().checked_add_signed(delay).is_none_or(|ready| fire_at < ready));
    let request = match &window {
        None if covering.or(rule).is_none() => {
            warnings.push("the job has no window: give one with --window".to_owned());
            None
        }
        None => {
            warnings.push("the window is empty at this instant: nothing would be sent".to_owned());
            None
        }
        Some(window) => match resolve::request(job, connection, window, mailing) {
            Ok(request) => Some(request),
            Err(problem) => {
                warnings.push(problem.to_string());
                None
            }
        },
    };
    if by_rule {
        warnings.push("provisional: the window ends at the fire's instant, and its report may still change".to_owned());
    }
    if let Some(reason) = &job.paused {
        warnings.push(format!("the job is paused: {reason}"));
    }
    Planned {
        job: job.name.clone(),
        connection: connection.name.clone(),
        was: job.was.clone(),
        vendor: job.vendor(),
        fire_at,
        zone: series.zone,
        window,
        provisional: by_rule,
        early,
        request,
        quiet: mailing == Mailing::Quiet,
        goes_on: false,
        telling: job.telling(connection),
        warnings,
    }
}

/// The next `count` fires of a series at or after `from`; a job without a schedule is planned once, at `from`.
pub fn upcoming(
    job: &Job,
    series: &Series,
    connection: &Connection,
    from: DateTime<Utc>,
    count: usize,
) -> Vec<Planned> {
    let Some(schedule) = series.schedule() else {
        let mut one = planned(job, series, connection, from, None, Mailing::Job);
        one.warnings.insert(0, "the job has no schedule: it runs by hand only".to_owned());
        return vec![one];
    };
    let mut fires = Vec::new();
    let mut after = from - TimeDelta::nanoseconds(1);
    while fires.len() < count {
        let Some(fire) = schedule.next(after) else { break };
        fires.push(planned(job, series, connection, fire, None, Mailing::Job));
        after = fire;
    }
    fires
}
