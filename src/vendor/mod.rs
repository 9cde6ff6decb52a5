//! Talking to the three vendors. One file a vendor: its wire types, what it sends after the first call, what its answers mean.
//!
//! ```text
//! Request --submit--> Ticketed (a task was made) | Collected (the answer is the report)
//! ticket  --poll----> Running | Collected (polled, downloaded)
//! ```
//!
//! The shape belongs to the answer, not to the vendor: a JAICP report is a task, a JAICP query is not. Downloading is part of
//! `poll`: after a crash we poll again and get a fresh link, so no link is ever stored and no "downloading" state exists. A
//! later vendor is a file here, a variant of [`Vendor`] and whatever the compiler then names. This module knows no run and
//! no database.

pub mod account;
pub mod bik;
pub mod download;
pub mod error;
pub mod http;
pub mod jaicp;
pub mod livechat;

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::artifact::{Spool, Spooled};
use crate::connection::Connection;
use crate::request::{Request, Seen, Vendor};
use account::{Account, Secrets};
use error::{Operation, VendorError, classify};
use http::{Answered, Http};

/// Bytes of an error's body that are looked at: more than is ever kept, so that it is cut after secrets were blacked out.
const MOST_WORDS: usize = 32 * 1024;

/// What a call brought.
#[derive(Debug)]
pub enum Answer {
    /// The vendor made a task.
    Ticketed {
        /// `reportHistoryId` or `taskId`.
        id: String,
        /// All that must survive a restart to ask again.
        ticket: Value,
        /// Its first word on the task.
        seen: Seen,
    },
    /// The task is not ready.
    Running {
        /// The vendor's word on it.
        seen: Seen,
        /// A thing worth a line in the run's history, such as a word that no list knows.
        note: Option<String>,
    },
    /// The report, in files that wait to be archived.
    Collected(Collected),
}

/// A report that was fetched.
#[derive(Debug)]
pub struct Collected {
    /// As received, in order; derived files last.
    pub files: Vec<Spooled>,
    /// A well-formed answer with no rows.
    pub empty: bool,
    /// The vendor's last word on the task, where there is one.
    pub seen: Option<Seen>,
    /// Warnings for the run's history: a version about to end, an answer that does not echo what was asked.
    pub notes: Vec<String>,
}

/// How far a step has come, for people who watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Bytes of a download so far.
    Bytes(u64),
    /// Pages fetched so far, and how many there are, where the vendor says.
    Pages(u64, Option<u64>),
}

/// Gives a permit before each further call of a paged answer: the account's rate holds over all processes.
pub trait Permits: Send + Sync {
    /// Waits until one more call may start.
    fn next(&self) -> BoxFuture<'_, Result<(), VendorError>>;
}

/// Hears how far a step has come.
pub type Watch<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// Everything a vendor module works with during one step.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The clients.
    pub http: &'a Http,
    /// The connection as configured now.
    pub connection: &'a Connection,
    /// Its account at this vendor.
    pub account: &'a Account,
    /// The account's secrets.
    pub secrets: &'a Secrets,
    /// Where files go.
    pub spool: &'a Spool,
    /// Permits for further calls.
    pub permits: &'a dyn Permits,
    /// Who watches.
    pub watch: Watch<'a>,
    /// The present instant, for `Retry-After` dates.
    pub now: DateTime<Utc>,
}

impl Context<'_> {
    fn timeout(&self) -> Duration {
        self.account.limits.timeout
    }

    /// A vendor's state word, fit for rows and terminals: a vendor may repeat anything anywhere.
    fn word(&self, word: &str) -> String {
        clean_word(&self.secrets.redact(word))
    }

    /// An error for a 2xx that cannot be read.
    fn unreadable(&self, why: &str) -> VendorError {
        VendorError::Unclear(self.secrets.redact(why))
    }
}

/// The error that an answer's HTTP status means, if it means one; in `words`, else in the body's.
fn http_error(
    secrets: &Secrets,
    now: DateTime<Utc>,
    operation: Operation,
    answer: &Answered,
    words: Option<String>,
) -> Option<VendorError> {
    let words = words
        .unwrap_or_else(|| String::from_utf8_lossy(&answer.body[..answer.body.len().min(MOST_WORDS)]).into_owned());
    let message = match secrets.redact(&words) {
        words if words.is_empty() => format!("HTTP {}", answer.status),
        words => format!("HTTP {}: {words}", answer.status),
    };
    classify(operation, answer.status, answer.retry_after(now), message)
}

/// Whether a conversation with `base_url` is with loopback, and its bytes so are a rehearsal.
fn simulated(base_url: &str) -> bool {
    url::Url::parse(base_url).is_ok_and(|url| crate::request::is_loopback(&url))
}

/// Makes the first call of a request.
pub async fn submit(context: &Context<'_>, request: &Request) -> Result<Answer, VendorError> {
    match request.vendor {
        Vendor::Bik => bik::submit(context, request).await,
        Vendor::Livechat => livechat::submit(context, request).await,
        Vendor::Jaicp => jaicp::submit(context, request).await,
    }
}

/// Asks for a task again, and downloads when it is ready.
pub async fn poll(context: &Context<'_>, request: &Request, ticket: &Value) -> Result<Answer, VendorError> {
    match request.vendor {
        Vendor::Bik => bik::poll(context, request, ticket).await,
        Vendor::Jaicp => jaicp::poll(context, request, ticket).await,
        Vendor::Livechat => Err(VendorError::Protocol("LiveChat answers at once and gives no ticket".into())),
    }
}

/// The ticket that an operator names by the vendor's id; the error says what an id looks like.
pub fn ticket_of(vendor: Vendor, id: &str) -> Result<Value, String> {
    match vendor {
        Vendor::Bik => bik::ticket_of(id),
        Vendor::Jaicp => jaicp::ticket_of(id),
        Vendor::Livechat => Err("LiveChat answers at once and gives no ticket".into()),
    }
}

/// A vendor's id of a task: text that may stand in a row, a path and a log line.
fn clean_id(id: &str) -> Option<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.:~".contains(c);
    // Dots alone would climb in a path.
    let climbs = id.chars().all(|c| c == '.');
    (!climbs && id.len() <= 200 && id.chars().all(fine)).then(|| id.to_owned())
}

/// A vendor's state word, short enough and harmless for rows and terminals.
fn clean_word(word: &str) -> String {
    word.chars().filter(|c| !crate::yaml::is_unprintable(*c)).take(60).collect()
}
