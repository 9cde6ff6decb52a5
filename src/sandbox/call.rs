//! One request as it came, one answer as it goes, and the checks that every vendor makes of a JSON object.
//!
//! Plain data between `server`, which knows sockets, and the vendors' modules, which know rules. A rule that is broken
//! is a [`Refusal`]; the vendor's module puts it into the vendor's own error shape.

use axum::http::{HeaderMap, Method, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

/// The media type of both vendors' CSV files.
pub(super) const CSV: &str = "text/csv; charset=utf-8";

pub(super) type Object = Map<String, Value>;

/// A request, read whole.
pub(super) struct Call {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Call {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The decoded query parameters in the order sent.
    pub fn params(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(self.query.as_bytes()).into_owned().collect()
    }

    /// User and password of HTTP Basic.
    pub fn basic(&self) -> Option<(String, String)> {
        let encoded = self.header("authorization")?.strip_prefix("Basic ")?;
        let plain = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (user, password) = plain.split_once(':')?;
        Some((user.to_owned(), password.to_owned()))
    }

    /// The body as a JSON object, which must be declared as JSON.
    pub fn object(&self) -> Result<Object, Refusal> {
        let media_type = self.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
        if !media_type.trim().eq_ignore_ascii_case("application/json") {
            return Err(Refusal::invalid("the Content-Type header must be application/json"));
        }
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) => Err(Refusal::invalid("the body must be a JSON object")),
            Err(_) => Err(Refusal::invalid("the body is not valid JSON")),
        }
    }
}

/// An answer before it meets the wire.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: Vec<(&'static str, String)>,
    pub content: Content,
}

/// The bytes of an answer.
pub(super) enum Content {
    Whole(Bytes),
    /// The 32 MiB CSV, which is made while it is sent.
    Huge,
}

impl Answer {
    pub fn new(status: StatusCode, media_type: &str, body: impl Into<Bytes>) -> Self {
        let headers = vec![("content-type", media_type.to_owned())];
        Self { status, headers, content: Content::Whole(body.into()) }
    }

    pub fn json(status: StatusCode, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    pub fn ok(body: &Value) -> Self {
        Self::json(StatusCode::OK, body)
    }

    pub fn text(body: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, "text/plain; charset=utf-8", body)
    }

    /// The 32 MiB CSV.
    pub fn huge() -> Self {
        Self { content: Content::Huge, ..Self::new(StatusCode::OK, CSV, "") }
    }

    pub fn with(mut self, header: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((header, value.into()));
        self
    }
}

/// A request that the vendor does not take.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    /// The vendor's machine word, where the status alone does not say it.
    pub word: Option<&'static str>,
    pub message: String,
}

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, word: None, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }
}

/// A JSON object under examination. Names in messages are dotted from the body's root.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    map: &'a Object,
    at: &'a str,
}

impl<'a> Fields<'a> {
    /// `at` is the object's own dotted name, empty for the body.
    pub fn new(map: &'a Object, at: &'a str) -> Self {
        Self { map, at }
    }

    fn name(self, key: &str) -> String {
        if self.at.is_empty() { format!("'{key}'") } else { format!("'{}.{key}'", self.at) }
    }

    pub fn wrong<T>(self, key: &str, what: &str) -> Result<T, Refusal> {
        Err(Refusal::invalid(format!("{} {what}", self.name(key))))
    }

    pub fn only(self, allowed: &[&str]) -> Result<Self, Refusal> {
        match self.map.keys().find(|key| !allowed.contains(&key.as_str())) {
            Some(key) => self.wrong(key, "is not allowed"),
            None => Ok(self),
        }
    }

    pub fn get(self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }

    pub fn need(self, key: &str) -> Result<&'a Value, Refusal> {
        self.get(key).map_or_else(|| self.wrong(key, "is required"), Ok)
    }

    pub fn maybe_text(self, key: &str) -> Result<Option<&'a str>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => self.wrong(key, "must be a string"),
        }
    }

    /// A string that is there and not empty.
    pub fn text(self, key: &str) -> Result<&'a str, Refusal> {
        self.need(key)?;
        match self.maybe_text(key)? {
            Some(text) if !text.trim().is_empty() => Ok(text),
            _ => self.wrong(key, "must not be empty"),
        }
    }

    pub fn maybe_flag(self, key: &str) -> Result<Option<bool>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => self.wrong(key, "must be true or false"),
        }
    }

    pub fn maybe_word(self, key: &str, words: &[&str]) -> Result<Option<&'a str>, Refusal> {
        match self.maybe_text(key)? {
            Some(text) if !words.contains(&text) => self.wrong(key, &format!("must be one of {}", words.join(", "))),
            text => Ok(text),
        }
    }

    pub fn word(self, key: &str, words: &[&str]) -> Result<&'a str, Refusal> {
        self.need(key)?;
        self.maybe_word(key, words)?.map_or_else(|| self.wrong(key, "is required"), Ok)
    }

    pub fn maybe_object(self, key: &str) -> Result<Option<&'a Object>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => self.wrong(key, "must be an object"),
        }
    }

    pub fn object(self, key: &str) -> Result<&'a Object, Refusal> {
        self.need(key)?;
        self.maybe_object(key)?.map_or_else(|| self.wrong(key, "is required"), Ok)
    }

    pub fn maybe_list(self, key: &str) -> Result<Option<&'a [Value]>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => self.wrong(key, "must be an array"),
        }
    }

    /// An array that is there and whose members pass.
    pub fn list_of(self, key: &str, what: &str, passes: impl Fn(&Value) -> bool) -> Result<&'a [Value], Refusal> {
        self.need(key)?;
        match self.maybe_list(key)? {
            Some(list) if list.iter().all(passes) => Ok(list),
            _ => self.wrong(key, &format!("must be an array of {what}")),
        }
    }
}

/// A point in time with its offset, as RFC 3339 writes it.
pub(super) fn instant(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc())
}
