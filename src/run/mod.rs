//! The run: the work for one window of one series, its states, and its rows in Postgres.
//!
//! It knows no vendor and no archive: a request and a ticket are JSON to it, an artifact is a line of a table. What a state
//! means for a worker is decided in `worker/step.rs`; which state may follow which is decided in state.rs and nowhere else.

pub mod retry;
pub mod state;
pub mod store;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::FromRow;
use uuid::Uuid;

pub use state::State;

/// The first eight digits of a run's id, which name it on the command line.
pub fn short(id: Uuid) -> String {
    id.simple().to_string()[..8].to_owned()
}

/// Why a run was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// A schedule's fire.
    Schedule,
    /// `run-job`.
    Manual,
    /// `fill`.
    Fill,
}

impl Trigger {
    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Trigger::Schedule => "schedule",
            Trigger::Manual => "manual",
            Trigger::Fill => "fill",
        }
    }
}

impl FromStr for Trigger {
    type Err = String;

    fn from_str(text: &str) -> Result<Trigger, String> {
        [Trigger::Schedule, Trigger::Manual, Trigger::Fill]
            .into_iter()
            .find(|t| t.as_str() == text)
            .ok_or_else(|| format!("unknown trigger '{text}'"))
    }
}

/// Why a run failed or is held: the class decides what a person does, the message says what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The vendor said a clear no.
    Refused,
    /// The vendor accepted the report and then failed to make it.
    VendorFailed,
    /// The vendor no longer knows the task.
    Gone,
    /// The report was not ready in time.
    Deadline,
    /// Transient errors for longer than `give_up`.
    GaveUp,
    /// The vendor's answer cannot be right: a redirect, a file over the limit, an id that another run has.
    Protocol,
    /// Nobody knows whether the create took effect.
    UnknownCreate,
    /// Workers died on it again and again.
    CrashLoop,
    /// An operator gave it up.
    GivenUp,
}

impl FailureClass {
    /// The stored word, which is also the contract's `failure.class`.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureClass::Refused => "refused",
            FailureClass::VendorFailed => "vendor_failed",
            FailureClass::Gone => "gone",
            FailureClass::Deadline => "deadline",
            FailureClass::GaveUp => "gave_up",
            FailureClass::Protocol => "protocol",
            FailureClass::UnknownCreate => "unknown_create",
            FailureClass::CrashLoop => "crash_loop",
            FailureClass::GivenUp => "given_up",
        }
    }
}

/// One row of `runs`.
#[derive(Clone, Debug, FromRow)]
pub struct Run {
    /// Id; random, so that the first eight digits name it.
    pub id: Uuid,
    /// Its series.
    pub series_id: i64,
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: String,
    /// Why it was made.
    #[sqlx(try_from = "String")]
    pub trigger: Trigger,
    /// Where it stands.
    #[sqlx(try_from = "String")]
    pub state: State,
    /// Start of the window.
    pub window_start: DateTime<Utc>,
    /// Open end of the window.
    pub window_end: DateTime<Utc>,
    /// Zone of the window.
    pub window_zone: String,
    /// Name of the window.
    pub window_label: String,
    /// The report may still change.
    pub provisional: bool,
    /// The instant it was made for.
    pub fire_at: DateTime<Utc>,
    /// The frozen request.
    pub request: Value,
    /// Base URL it may be worked with.
    pub base_url: String,
    /// Account fingerprint it may be worked with.
    pub account: String,
    /// The revision it writes.
    pub revision: Option<i32>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When a worker should look next.
    pub next_step_at: DateTime<Utc>,
    /// Who works on it until when.
    pub lease_until: Option<DateTime<Utc>>,
    /// The create in flight or the last one.
    pub attempt_id: Option<Uuid>,
    /// What the vendor gave us to ask again with.
    pub ticket: Option<Value>,
    /// When the ticket came.
    pub ticketed_at: Option<DateTime<Utc>>,
    /// When the vendor last answered a poll.
    pub last_poll_at: Option<DateTime<Utc>>,
    /// Claims since the last finished step.
    pub claims: i32,
    /// Polls made.
    pub polls: i32,
    /// Seconds in which we could poll.
    pub polled_s: f64,
    /// Transient errors in a row.
    pub errors: i32,
    /// Since when.
    pub errors_since: Option<DateTime<Utc>>,
    /// What it waits for.
    pub note: Option<String>,
    /// It goes on only after a person did something.
    pub blocked: bool,
    /// Why it failed or is held.
    pub failure_class: Option<String>,
    /// The same in words.
    pub failure: Option<String>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

impl Run {
    /// The vendor's id of the report: a ticket's one value, whatever the vendor calls it.
    pub fn ticket_id(&self) -> Option<String> {
        match self.ticket.as_ref()?.as_object()?.values().next()? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

impl TryFrom<String> for Trigger {
    type Error = String;

    fn try_from(text: String) -> Result<Trigger, String> {
        text.parse()
    }
}

/// A claim on a run: every write through it names the token, so a worker that lost it changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The run.
    pub run: Uuid,
    /// The token in the row.
    pub token: Uuid,
}

/// Who did something to a run: a worker, or an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who(pub String);

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
