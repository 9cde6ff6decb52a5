//! What an answer means for the run: the table of DESIGN 6, in one pure function. Decided where the answer is read, never
//! by looking at a text later.

use std::time::Duration;

use thiserror::Error;

use crate::artifact::SpoolError;
use crate::request::Seen;

/// What kind of call was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Makes something at the vendor.
    Create,
    /// Asks for the report itself; asking again costs nothing but a call.
    Query,
    /// Asks for the state of a task.
    Poll,
    /// Fetches a file.
    Download,
    /// Deletes a task that is archived.
    Delete,
}

/// Why a call did not bring what it was for. Messages are redacted.
#[derive(Debug, Error)]
pub enum VendorError {
    /// It certainly never left: refused connection, DNS, TLS.
    #[error("the vendor could not be reached: {0}")]
    NotSent(String),
    /// A clear no; the vendor's own words.
    #[error("the vendor refused: {message}")]
    Refused {
        /// HTTP's or BIK's inner status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// Come back later, says the vendor.
    #[error("the vendor asks to wait {}: {message}", crate::yaml::show_duration(*after))]
    Wait {
        /// How long.
        after: Duration,
        /// Its words.
        message: String,
    },
    /// It does not accept our credentials.
    #[error("the vendor does not accept the credentials: {0}")]
    Auth(String),
    /// Nobody knows what became of it.
    #[error("no clear answer: {0}")]
    Unclear(String),
    /// The vendor does not know the task.
    #[error("the vendor does not know the task: {0}")]
    Gone(String),
    /// The link to the file is dead; a poll gives a fresh one.
    #[error("the link to the file is dead: {0}")]
    DeadLink(String),
    /// The vendor says that the report will never come.
    #[error("the vendor ended the report with status {}", seen.status)]
    Ended {
        /// Its word.
        seen: Seen,
    },
    /// An answer that cannot be right and will not change by asking again.
    #[error("{0}")]
    Protocol(String),
    /// The file is on a host that no setting allows.
    #[error("the file is on host {host}, which allowed_hosts of this connection does not name")]
    BlockedHost {
        /// The host to add.
        host: String,
    },
    /// What came is no report, or the disk failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The account's breaker opened, or our lease ended, while a paged answer was being fetched.
    #[error("{0}")]
    Interrupted(String),
}

/// What an HTTP status (or BIK's inner one) means for this operation. `retry_after` = the header's wait, if it was there.
/// `None` = success.
pub fn classify(
    operation: Operation,
    status: u16,
    retry_after: Option<Duration>,
    message: String,
) -> Option<VendorError> {
    use Operation as O;
    let create = operation == O::Create;
    let error = match (status, operation) {
        (200..=299, _) => return None,
        (401 | 403 | 404 | 410, O::Download) => VendorError::DeadLink(message),
        (401 | 403, _) => VendorError::Auth(message),
        (404 | 410, O::Poll | O::Delete) => VendorError::Gone(message),
        (429, _) => VendorError::Wait { after: retry_after.unwrap_or(Duration::from_secs(10)), message },
        (503, _) if retry_after.is_some() => VendorError::Wait { after: retry_after.unwrap_or_default(), message },
        (408 | 425 | 500..=599, _) => VendorError::Unclear(message),
        (300..=399, _) if create => VendorError::Unclear(message),
        (300..=399, _) => VendorError::Protocol(format!("the vendor redirects, which no API call follows: {message}")),
        (400..=499, _) => VendorError::Refused { status, message },
        // 1xx never gets here, and what is beyond 599 is nobody's code.
        _ => VendorError::Unclear(message),
    };
    Some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(operation: Operation, status: u16, retry_after: Option<u64>) -> &'static str {
        match classify(operation, status, retry_after.map(Duration::from_secs), String::new()) {
            None => "ok",
            Some(VendorError::Refused { .. }) => "fail",
            Some(VendorError::Wait { .. }) => "wait",
            Some(VendorError::Auth(_)) => "breaker",
            Some(VendorError::Unclear(_)) => "unclear",
            Some(VendorError::Gone(_)) => "gone",
            Some(VendorError::DeadLink(_)) => "dead link",
            Some(VendorError::Protocol(_)) => "protocol",
            Some(other) => panic!("{other}"),
        }
    }

    #[test]
    fn every_status_means_what_the_table_of_the_design_says() {
        use Operation::{Create, Download, Poll, Query};
        let rows: [(&[u16], Option<u64>, [&str; 4]); 9] = [
            (&[200, 201, 204], None, ["ok", "ok", "ok", "ok"]),
            (&[301, 302, 307], None, ["unclear", "protocol", "protocol", "protocol"]),
            (&[400, 405, 413, 422], None, ["fail", "fail", "fail", "fail"]),
            (&[401, 403], None, ["breaker", "breaker", "breaker", "dead link"]),
            (&[404, 410], None, ["fail", "fail", "gone", "dead link"]),
            (&[408, 425], None, ["unclear", "unclear", "unclear", "unclear"]),
            (&[429], None, ["wait", "wait", "wait", "wait"]),
            (&[500, 502, 503, 504, 599, 999], None, ["unclear", "unclear", "unclear", "unclear"]),
            (&[429, 503], Some(3), ["wait", "wait", "wait", "wait"]),
        ];
        for (statuses, retry_after, expected) in rows {
            for status in statuses {
                let words = [Create, Query, Poll, Download].map(|operation| word(operation, *status, retry_after));
                assert_eq!(words, expected, "{status}");
            }
        }
    }
}
