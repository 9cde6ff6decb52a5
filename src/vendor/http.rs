//! HTTP to the vendors: the only file that builds clients and sends. Redirects are off, nothing retries by itself, every call
//! has a time limit, and no error text carries a URL.
//!
//! A create goes over a connection of its own (HTTP/1, no pool): on a pooled one that the server has just closed, a client
//! cannot tell "never sent" from "sent and lost".

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;

use super::account::Secrets;
use super::error::{Operation, VendorError};
use crate::request::Call;
use crate::run::retry::retry_after;

/// Connecting takes no longer than this.
const CONNECT: Duration = Duration::from_secs(10);

/// Largest JSON answer that is read into memory.
pub const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// The clients of a process.
#[derive(Clone, Debug)]
pub struct Http {
    creates: reqwest::Client,
    calls: reqwest::Client,
    direct_creates: reqwest::Client,
    direct_calls: reqwest::Client,
}

/// A complete answer.
#[derive(Debug)]
pub struct Answered {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answered {
    /// How long `Retry-After` asks to wait, if it is there.
    pub fn retry_after(&self, now: DateTime<Utc>) -> Option<Duration> {
        let value = self.headers.get(reqwest::header::RETRY_AFTER)?;
        Some(retry_after(value.to_str().ok(), now))
    }
}

/// How every client of this program starts.
pub fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("reportd/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
}

/// A process that was frozen finds its time over and the answer in its socket: so long it is read for all the same. Less than
/// the room that a call leaves before its lease ends.
const WAKING: Duration = Duration::from_secs(1);

impl Http {
    /// Builds the clients. Fails only when the machine's TLS roots cannot be used.
    pub fn new() -> Result<Http, reqwest::Error> {
        let one_shot = || builder().http1_only().pool_max_idle_per_host(0);
        Ok(Http {
            creates: one_shot().build()?,
            calls: builder().build()?,
            // A proxy of the environment is for the world outside; this machine is reached directly.
            direct_creates: one_shot().no_proxy().build()?,
            direct_calls: builder().no_proxy().build()?,
        })
    }

    fn client(&self, operation: Operation, loopback: bool) -> &reqwest::Client {
        match (operation == Operation::Create, loopback) {
            (true, true) => &self.direct_creates,
            (true, false) => &self.creates,
            (false, true) => &self.direct_calls,
            (false, false) => &self.calls,
        }
    }

    /// Sends a call and reads its whole answer, within `timeout`.
    pub async fn send(
        &self,
        call: &Call,
        secrets: &Secrets,
        operation: Operation,
        timeout: Duration,
    ) -> Result<Answered, VendorError> {
        let url = secrets.url(&call.url);
        let url = url::Url::parse(&url).map_err(|_| unsendable("its URL cannot be parsed"))?;
        let method = reqwest::Method::from_bytes(call.method.as_bytes())
            .map_err(|_| unsendable(&format!("'{}' is no HTTP method", call.method)))?;
        let loopback = crate::request::is_loopback(&url);
        let mut request = self.client(operation, loopback).request(method, url).headers(headers(call, secrets)?);
        if let Some(body) = &call.body {
            request = request.body(body.to_string());
        }
        let exchange = async {
            let response = request.send().await.map_err(|e| failure(e, secrets))?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = read_limited(response, secrets, operation).await?;
            Ok(Answered { status, headers, body })
        };
        let mut exchange = std::pin::pin!(exchange);
        for limit in [timeout, WAKING] {
            if let Ok(answered) = tokio::time::timeout(limit, &mut exchange).await {
                return answered;
            }
        }
        Err(VendorError::Unclear(format!("time limit reached: no whole answer within {} s", timeout.as_secs())))
    }

    /// Starts a download: the response's head, its body still to come. Sends no credentials but `extra` headers.
    pub async fn open(
        &self,
        url: &url::Url,
        extra: &[(String, secrecy::SecretString)],
        secrets: &Secrets,
        head_timeout: Duration,
    ) -> Result<reqwest::Response, VendorError> {
        let loopback = crate::request::is_loopback(url);
        let mut request = self
            .client(Operation::Download, loopback)
            .get(url.clone())
            // What is stored is what was sent: no compression to undo.
            .header(reqwest::header::ACCEPT_ENCODING, "identity");
        for (name, value) in extra {
            request = request.header(name, secret_header(value)?);
        }
        match tokio::time::timeout(head_timeout, request.send()).await {
            Ok(answer) => answer.map_err(|e| failure(e, secrets)),
            Err(_) => Err(VendorError::Unclear("the file's host did not answer in time".into())),
        }
    }
}

/// A request that never left, and never will as it is.
fn unsendable(why: &str) -> VendorError {
    VendorError::Refused { status: 0, message: format!("the request cannot be sent: {why}") }
}

fn secret_header(value: &secrecy::SecretString) -> Result<HeaderValue, VendorError> {
    let mut header = HeaderValue::from_str(value.expose_secret())
        .map_err(|_| VendorError::Auth("the secret has characters that an HTTP header cannot carry".into()))?;
    header.set_sensitive(true);
    Ok(header)
}

fn headers(call: &Call, secrets: &Secrets) -> Result<HeaderMap, VendorError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &call.headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) else {
            return Err(unsendable("one of its headers has characters that HTTP cannot carry"));
        };
        headers.insert(name, value);
    }
    if call.authorization.is_some()
        && let Some(value) = secrets.authorization()
    {
        headers.insert(reqwest::header::AUTHORIZATION, secret_header(value)?);
    }
    Ok(headers)
}

/// Reads a body of at most [`MAX_ANSWER`] bytes.
async fn read_limited(
    mut response: reqwest::Response,
    secrets: &Secrets,
    operation: Operation,
) -> Result<Bytes, VendorError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| failure(e, secrets))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            let message = "the vendor's answer is larger than 64 MiB".to_owned();
            // A create has taken effect by now, for all we know.
            let create = operation == Operation::Create;
            return Err(if create { VendorError::Unclear(message) } else { VendorError::Protocol(message) });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// What a failed exchange means: not sent for certain, or unclear. `is_connect` is asked before `is_timeout`, because a
/// timeout of the connection is both.
pub fn failure(error: reqwest::Error, secrets: &Secrets) -> VendorError {
    let (connect, builder) = (error.is_connect(), error.is_builder());
    let what = if error.is_timeout() { "time limit reached" } else { "connection broke" };
    let text = secrets.redact(&innermost(error));
    match (connect, builder) {
        (true, _) => VendorError::NotSent(text),
        (_, true) => unsendable(&text),
        _ => VendorError::Unclear(if text.is_empty() { what.to_owned() } else { format!("{what}: {text}") }),
    }
}

/// The cause of a failed exchange, without its URL; may be empty. Not redacted otherwise.
pub fn innermost(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut last = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(next) = cause {
        // Each level of hyper's errors repeats the one below; the last says it best.
        last = next.to_string();
        cause = next.source();
    }
    last
}
