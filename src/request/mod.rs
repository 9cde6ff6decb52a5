//! What one run asks for: pure data, and the pure functions that turn it into HTTP.
//!
//! A [`Request`] is resolved once, when a run is made, and frozen as JSON in the run's row: later edits of the job file
//! never change a run in flight. Its [`Call`] is the very first HTTP request, complete but for the credentials; `plan`
//! prints it and the vendor module sends it, so what a person sees before is what goes out. Nothing here does I/O,
//! reads a clock or holds a secret.

pub mod bik;
pub mod jaicp;
pub mod livechat;
pub mod waiver;
pub mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use window::Window;

/// One of the three vendors; the word is the same in files, rows, messages and folder names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// BIK, `generateReport`.
    Bik,
    /// LiveChat Reports API.
    Livechat,
    /// JAICP Reporter API, project-token generation.
    Jaicp,
}

impl Vendor {
    /// All three, in the order they are listed to people.
    pub const ALL: [Vendor; 3] = [Vendor::Bik, Vendor::Livechat, Vendor::Jaicp];

    /// The word used everywhere outside Rust.
    pub fn as_str(self) -> &'static str {
        match self {
            Vendor::Bik => "bik",
            Vendor::Livechat => "livechat",
            Vendor::Jaicp => "jaicp",
        }
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Vendor {
    type Err = String;

    fn from_str(text: &str) -> Result<Vendor, String> {
        Vendor::ALL
            .into_iter()
            .find(|v| v.as_str() == text)
            .ok_or_else(|| format!("unknown vendor '{text}': expected bik, livechat or jaicp"))
    }
}

/// The placeholder that stands in a [`Call::url`] where JAICP's path token goes; the token itself is never stored.
pub const TOKEN_IN_PATH: &str = "{token}";

/// What people see in place of a credential.
pub const REDACTED: &str = "***";

/// One HTTP request, complete but for its credentials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// `GET`, `POST` or `DELETE`.
    pub method: String,
    /// Absolute URL; holds [`TOKEN_IN_PATH`] where a path token goes.
    pub url: String,
    /// Headers as sent, lower-case names, without `authorization`.
    pub headers: BTreeMap<String, String>,
    /// How the request is authorised, as a person may see it: `Basic ***`, `Bearer ***`, or nothing in a header.
    pub authorization: Option<String>,
    /// JSON body, if any.
    pub body: Option<Value>,
}

impl Call {
    /// The request as `plan`, manifests and events show it: `method`, redacted `url`, all `headers`, `body`.
    pub fn redacted(&self) -> Value {
        let mut headers = self.headers.clone();
        for (name, value) in &mut headers {
            if ["token", "key", "secret", "auth", "pass", "cookie"].iter().any(|word| name.contains(word)) {
                REDACTED.clone_into(value);
            }
        }
        if let Some(authorization) = &self.authorization {
            headers.insert("authorization".into(), authorization.clone());
        }
        serde_json::json!({
            "method": self.method,
            "url": self.url.replace(TOKEN_IN_PATH, REDACTED),
            "headers": headers,
            "body": self.body,
        })
    }

    /// The same call with `name=value` appended to its query, both percent-encoded.
    #[must_use]
    pub fn with_query(mut self, name: &str, value: &str) -> Call {
        let pair: String = url::form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
        self.url.push(if self.url.contains('?') { '&' } else { '?' });
        self.url.push_str(&pair);
        self
    }
}

/// A JSON POST to `url` with the connection's header overrides on top.
pub(crate) fn json_post(url: String, body: Value, overrides: &BTreeMap<String, String>) -> Call {
    let mut headers = BTreeMap::from([
        ("accept".to_owned(), "application/json".to_owned()),
        ("content-type".to_owned(), "application/json".to_owned()),
    ]);
    for (name, value) in overrides {
        headers.insert(name.to_ascii_lowercase(), value.clone());
    }
    Call { method: "POST".into(), url, headers, authorization: None, body: Some(body) }
}

/// File form of a JAICP report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileType {
    /// Comma- (or other) separated text.
    Csv,
    /// An Office workbook.
    Xlsx,
}

/// What a paged JAICP query returns rows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rows {
    /// `sessions/filter`.
    Sessions,
    /// `messages/filter`.
    Messages,
    /// `clients/filter`.
    Clients,
}

impl Rows {
    /// The key of the rows in the answer, which is also the path segment.
    pub fn as_str(self) -> &'static str {
        match self {
            Rows::Sessions => "sessions",
            Rows::Messages => "messages",
            Rows::Clients => "clients",
        }
    }
}

/// The shape of the conversation that follows the first call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// `generateReport` answers a `reportHistoryId`; polled; a CSV is downloaded.
    BikReport,
    /// The answer is the report.
    LivechatReport {
        /// The answer has `summary.total_pages` and later pages are asked for with `page`.
        paged: bool,
    },
    /// A background task is created, polled and its file downloaded.
    JaicpReport {
        /// What the file must be; `None` where the vendor's API does not let us choose (calls).
        file_type: Option<FileType>,
        /// Whether its first row is a header.
        with_header: bool,
        /// Delete the task at the vendor once its file is archived.
        delete_after: bool,
    },
    /// Paged rows, at once.
    JaicpQuery {
        /// Rows of what.
        rows: Rows,
        /// Also fetch every session's messages, for their statuses.
        with_messages: bool,
        /// Rows a page.
        page_size: u32,
    },
}

impl Shape {
    /// Whether the first call creates something at the vendor (and so answers a ticket), rather than answering the report.
    pub fn creates(&self) -> bool {
        matches!(self, Shape::BikReport | Shape::JaicpReport { .. })
    }

    /// Whether the first call may be sent again when its outcome is unknown. BIK mails people for each one (vendor page:
    /// "List of email IDs to send the report to"), so it may not; a second JAICP export harms nobody; queries are pure.
    pub fn may_repeat(&self) -> bool {
        !matches!(self, Shape::BikReport)
    }
}

/// A vendor's word on a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its own state word.
    pub status: String,
    /// Rows written so far.
    pub written: Option<i64>,
    /// Rows to write.
    pub total: Option<i64>,
}

/// What to do when the outcome of a BIK create is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    /// Hold the run until an operator says what happened.
    Hold,
    /// Send again; people may be mailed twice.
    Resubmit,
}

/// All that one run asks for, frozen when the run is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Whom we ask.
    pub vendor: Vendor,
    /// The first HTTP request.
    pub call: Call,
    /// How the conversation goes on.
    pub shape: Shape,
    /// What the report covers.
    pub window: Window,
    /// The connection's base URL when the run was made; a worker with another one does not touch the run.
    pub base_url: String,
    /// sha256 (hex) of what is asked for, without window, e-mail addresses and description: equal hashes mean
    /// comparable reports.
    pub content_hash: String,
    /// Addresses that BIK will mail; empty for the other vendors.
    pub emails: Vec<String>,
    /// How long we poll before the run fails, in seconds of time in which we could poll.
    pub deadline_s: u64,
    /// How long transient errors are retried, in seconds.
    pub give_up_s: u64,
    /// What happens to a BIK create of unknown outcome.
    pub on_unknown: OnUnknown,
}

impl Request {
    /// Whether its first call may be sent again when nobody knows what became of it: by its nature, or because the job says so.
    pub fn may_repeat(&self) -> bool {
        self.shape.may_repeat() || self.on_unknown == OnUnknown::Resubmit
    }
}

/// sha256 (hex) of a JSON value in canonical form: keys sorted, no white space.
pub fn canonical_hash(value: &Value) -> String {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort();
                out.push('{');
                for (i, key) in keys.into_iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    out.push_str(&Value::from(key.as_str()).to_string());
                    out.push(':');
                    write(&map[key], out);
                }
                out.push('}');
            }
            Value::Array(list) => {
                out.push('[');
                for (i, value) in list.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write(value, out);
                }
                out.push(']');
            }
            other => out.push_str(&other.to_string()),
        }
    }
    let mut text = String::new();
    write(value, &mut text);
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// Whether the URL's host is this machine itself.
pub fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_content_hash_does_not_depend_on_the_order_of_keys() {
        assert_eq!(
            canonical_hash(&json!({"a": 1, "b": [{"c": "x", "d": null}]})),
            canonical_hash(&json!({"b": [{"d": null, "c": "x"}], "a": 1}))
        );
        assert_ne!(canonical_hash(&json!({"a": 1})), canonical_hash(&json!({"a": "1"})));
    }

    #[test]
    fn a_redacted_call_shows_neither_path_token_nor_credentials() {
        let mut call =
            json_post(format!("https://x.example/reporter/p/{TOKEN_IN_PATH}/a"), json!({}), &BTreeMap::new());
        call.authorization = Some("Basic ***".into());
        let shown = call.redacted();
        assert_eq!(shown["url"], "https://x.example/reporter/p/***/a");
        assert_eq!(shown["headers"]["authorization"], "Basic ***");
    }

    #[test]
    fn query_values_are_percent_encoded() {
        let call = json_post("https://x.example/a".into(), json!({}), &BTreeMap::new());
        let url = call.with_query("startTime", "2026-01-01T00:00:00+01:00").with_query("b", "x y").url;
        assert_eq!(url, "https://x.example/a?startTime=2026-01-01T00%3A00%3A00%2B01%3A00&b=x+y");
    }
}
