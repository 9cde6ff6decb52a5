//! What the sandbox remembers: its accounts, what it was sent, what took effect, and the faults that wait.
//!
//! One lock around everything, held for look-ups and never while bytes are made or sent.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::call::Call;
use super::fault::{FaultBook, FaultKind, Vendor};
use super::task::Age;
use super::{Clock, Credentials, bik, jaicp};

/// Older requests are forgotten, so that a sandbox that runs for days stays small.
const MOST_RECEIVED: usize = 100_000;

/// The host that nobody allowed: in foreign links and in the `Location` of a 3xx. It cannot exist.
pub(super) const ELSEWHERE: &str = "files.elsewhere.example";

/// A request that the sandbox was sent.
#[derive(Debug, Clone)]
pub struct Received {
    /// Whose request it was, by its path; `None` when the path is no vendor's.
    pub vendor: Option<Vendor>,
    /// The operation as in a fault (`generateReport`, `create`, …), `list`, `delete-completed` or `delete-all` for
    /// JAICP's account-wide calls, or `unknown`.
    pub operation: &'static str,
    /// The HTTP method.
    pub method: String,
    /// Path and query as they came, secrets included.
    pub path: String,
    /// Header names (lower case) and values in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body, at most 1 MiB; empty when it was longer.
    pub body: Bytes,
    /// The status that was answered; `None` while there is no answer, and for ever when the connection ended without.
    pub status: Option<u16>,
}

impl Received {
    /// The first header of this name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON, or `Null` when it is not.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A mail that BIK would have sent: one for each address of each accepted `generateReport`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Mail {
    /// The address.
    pub to: String,
    /// The report's name as it was asked for.
    pub report_name: String,
    /// The id that `getReportById` knows the report by.
    pub report_history_id: u64,
    /// When the report was accepted, by the sandbox's clock.
    pub at: DateTime<Utc>,
}

pub(super) struct World {
    pub clock: Clock,
    /// Added to every id.
    pub ids_from: u64,
    pub pace: Duration,
    /// `http://127.0.0.1:PORT`, where links point.
    pub origin: String,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub credentials: Credentials,
    pub faults: FaultBook,
    pub mails: Vec<Mail>,
    pub bik: bik::Store,
    pub jaicp: jaicp::Store,
    /// LiveChat reports that were answered.
    pub livechat_reports: usize,
    received: VecDeque<Received>,
    /// How many requests were received and forgotten.
    forgotten: usize,
}

impl World {
    pub fn new(clock: Clock, pace: Duration, origin: String, ids_from: u64) -> Self {
        Self { clock, pace, origin, ids_from, state: Mutex::default() }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        // No state is left half written by a panic: each change is one push or insert.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> DateTime<Utc> {
        (self.clock)()
    }

    /// Where a file is said to be: here, unless a fault says otherwise.
    pub fn link(&self, path: &str, fault: Option<FaultKind>) -> String {
        match fault {
            Some(FaultKind::ForeignLink) => format!("https://{ELSEWHERE}{path}"),
            Some(FaultKind::RelativeLink) => path.to_owned(),
            _ => format!("{}{path}", self.origin),
        }
    }

    pub fn age(&self) -> Age {
        Age { now: Instant::now(), pace: self.pace }
    }

    /// Records a request and gives its number, with which its answer is recorded.
    pub fn receive(&self, call: &Call, vendor: Option<Vendor>, operation: &'static str) -> usize {
        let path = if call.query.is_empty() { call.path.clone() } else { format!("{}?{}", call.path, call.query) };
        let header = |(name, value): (&axum::http::HeaderName, &axum::http::HeaderValue)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let received = Received {
            vendor,
            operation,
            method: call.method.to_string(),
            path,
            headers: call.headers.iter().map(header).collect(),
            body: call.body.clone(),
            status: None,
        };
        let mut state = self.lock();
        if state.received.len() == MOST_RECEIVED {
            state.received.pop_front();
            state.forgotten += 1;
        }
        state.received.push_back(received);
        state.forgotten + state.received.len() - 1
    }

    pub fn answered(&self, number: usize, status: u16) {
        let mut state = self.lock();
        let place = number.checked_sub(state.forgotten);
        if let Some(received) = place.and_then(|place| state.received.get_mut(place)) {
            received.status = Some(status);
        }
    }

    pub fn take_fault(&self, vendor: Vendor, operation: &str, wanted: impl Fn(FaultKind) -> bool) -> Option<FaultKind> {
        self.lock().faults.take(vendor, operation, wanted)
    }
}

impl State {
    pub fn received(&self) -> impl DoubleEndedIterator<Item = &Received> {
        self.received.iter()
    }

    /// Creates that took effect; for LiveChat, reports that were answered.
    pub fn creates(&self, vendor: Vendor) -> usize {
        match vendor {
            Vendor::Bik => self.bik.reports(),
            Vendor::LiveChat => self.livechat_reports,
            Vendor::Jaicp => self.jaicp.created(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderMap, Method};
    use std::sync::Arc;

    #[test]
    fn the_newest_requests_are_kept_and_late_answers_find_their_request() {
        let clock: Clock = Arc::new(|| DateTime::UNIX_EPOCH);
        let world = World::new(clock, Duration::ZERO, String::new(), 0);
        let mut call = Call {
            method: Method::GET,
            path: String::new(),
            query: String::new(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        let first = world.receive(&call, None, "unknown");
        call.path = "/second".into();
        let second = world.receive(&call, None, "unknown");
        call.path = "/more".into();
        for _ in 1..MOST_RECEIVED {
            world.receive(&call, None, "unknown");
        }
        world.answered(first, 500);
        world.answered(second, 200);
        let state = world.lock();
        assert_eq!(state.received().count(), MOST_RECEIVED);
        let oldest = state.received().next().unwrap();
        assert_eq!((oldest.path.as_str(), oldest.status), ("/second", Some(200)));
    }
}
