//! Notices about runs: what they say, and how each kind goes out. A failed notice never re-runs a vendor: a delivery is a row
//! with a small state machine of its own, made and worked off in `worker/herald.rs` and `worker/deliver.rs`.
//!
//! ```text
//! notice.rs     whom to tell and how, as frozen with a run
//! about.rs      what a delivery tells of: cause and windows, frozen when it is made; fills placeholders
//! letter.rs     about -> subject, text, HTML; chart.rs: a LiveChat report as a table with bars. Pure
//! email/        a letter over SMTP
//! outside.rs    HTTP to addresses that people gave us
//! webhook.rs    the run's JSON, signed
//! landing.rs    a copy of the artifact in a folder; landing/s3.rs: in an object store
//! bik.rs        BIK tickets and events
//! heartbeat.rs  pings that tell an outside watcher that we live
//! ```
//!
//! | state | what a worker that finds it (lease over) does |
//! |---|---|
//! | `pending` | send it when it is due |
//! | `sending` | mail, webhook, file, ping: send it again, under the same id. A BIK create: nobody knows, so `held` |
//! | `held` | nothing, until an operator resolves it or has it sent again |
//! | `sent`, `failed`, `resolved` | nothing: over |
//!
//! So mail, webhooks, copies and pings go out at least once, BIK tickets and events at most once.

pub mod about;
pub mod bik;
pub mod chart;
pub mod email;
pub mod heartbeat;
pub mod landing;
pub mod letter;
pub mod notice;
pub mod outside;
pub mod webhook;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How a notice goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A mail.
    Email,
    /// A signed POST of the run's JSON.
    Webhook,
    /// A copy of the artifact.
    File,
    /// BIK `createAndAssignTicket`.
    BikTicket,
    /// BIK `events/sendEvent`.
    BikEvent,
    /// A ping of a job's own heartbeat URL.
    Heartbeat,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 6] =
        [Kind::Email, Kind::Webhook, Kind::File, Kind::BikTicket, Kind::BikEvent, Kind::Heartbeat];

    /// The stored word, which is also the key in job files.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Email => "email",
            Kind::Webhook => "webhook",
            Kind::File => "file",
            Kind::BikTicket => "bik_ticket",
            Kind::BikEvent => "bik_event",
            Kind::Heartbeat => "heartbeat",
        }
    }

    /// Whether it may be sent again when nobody knows whether it arrived. A BIK ticket is a task for people, and a BIK event may
    /// start a journey that writes to customers.
    pub fn repeatable(self) -> bool {
        !matches!(self, Kind::BikTicket | Kind::BikEvent)
    }

    /// How long it is tried. An old ping says nothing.
    pub fn give_up(self) -> Duration {
        match self {
            Kind::Heartbeat => Duration::from_secs(3600),
            _ => Duration::from_secs(24 * 3600),
        }
    }
}

impl TryFrom<String> for Kind {
    type Error = String;

    fn try_from(text: String) -> Result<Kind, String> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| format!("unknown kind '{text}'"))
    }
}

/// What a delivery is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The report is in the archive.
    Archived,
    /// The report is in the archive, and has no rows.
    Empty,
    /// Runs failed.
    Failed,
    /// Runs wait for an operator.
    Held,
    /// A vendor refuses an account.
    Breaker,
    /// Windows are not held so long after their fire.
    Late,
    /// What an earlier notice told of works again.
    Recovered,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Cause; 7] =
        [Cause::Archived, Cause::Empty, Cause::Failed, Cause::Held, Cause::Breaker, Cause::Late, Cause::Recovered];

    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Archived => "archived",
            Cause::Empty => "empty",
            Cause::Failed => "failed",
            Cause::Held => "held",
            Cause::Breaker => "breaker",
            Cause::Late => "late",
            Cause::Recovered => "recovered",
        }
    }

    /// Whether it is about a report that came.
    pub fn is_success(self) -> bool {
        matches!(self, Cause::Archived | Cause::Empty)
    }
}

impl TryFrom<String> for Cause {
    type Error = String;

    fn try_from(text: String) -> Result<Cause, String> {
        Cause::ALL.into_iter().find(|cause| cause.as_str() == text).ok_or_else(|| format!("unknown cause '{text}'"))
    }
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for its next try.
    Pending,
    /// A try is under way, or was when its worker died.
    Sending,
    /// It arrived, as far as the other side says.
    Sent,
    /// It will not arrive.
    Failed,
    /// Nobody knows whether it arrived, and it may not be repeated.
    Held,
    /// An operator ended it.
    Resolved,
}

impl State {
    /// Every state, in the order of a delivery's life.
    pub const ALL: [State; 6] =
        [State::Pending, State::Sending, State::Sent, State::Failed, State::Held, State::Resolved];

    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Sending => "sending",
            State::Sent => "sent",
            State::Failed => "failed",
            State::Held => "held",
            State::Resolved => "resolved",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<State, String> {
        let words = || State::ALL.map(State::as_str).join(", ");
        State::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| format!("unknown state '{text}': expected {}", words()))
    }
}

impl TryFrom<String> for State {
    type Error = String;

    fn try_from(text: String) -> Result<State, String> {
        text.parse()
    }
}

/// Why a try did not end well; says what may be done next. Texts are redacted: no secret, no URL beyond its host.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Trouble {
    /// It did not arrive; try again, at the earliest after so long where the other side says so.
    #[error("{why}")]
    Later {
        /// What happened.
        why: String,
        /// What the other side asks for.
        after: Option<Duration>,
    },
    /// Nobody knows whether it arrived.
    #[error("{0}")]
    Unclear(String),
    /// It will never be taken as it is; the other side's own words.
    #[error("{0}")]
    Refused(String),
    /// Nothing was sent, and nothing can be before a person changed something: a missing secret, no `mail:`.
    #[error("{0}")]
    Person(String),
    /// A vendor does not accept the account's credentials; nothing was made.
    #[error("{0}")]
    Credentials(String),
}

impl Trouble {
    /// It did not arrive; try again by our own back-off.
    pub fn later(why: impl Into<String>) -> Trouble {
        Trouble::Later { why: why.into(), after: None }
    }
}
