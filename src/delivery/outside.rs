//! HTTP to addresses that people gave us: webhooks and heartbeats. Redirects are off, nothing retries by itself, every exchange
//! has a time limit.
//!
//! Such a URL is a secret, since whoever knows it may post there: errors name its scheme and host at most, and what the other
//! side wrote is given only without the parts of the URL. Plain `http://` goes to this machine and to nowhere else. Nothing
//! here knows what is sent, or reads a clock.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Method;
use reqwest::header::RETRY_AFTER;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::Trouble;
use crate::run::retry::retry_after;
use crate::vendor::account::Forms;
use crate::vendor::http::{builder, innermost};

/// Bytes of an answer that are looked at: more than is ever kept, so that it is cut after secrets were blacked out.
const MOST_WORDS: usize = 8 * 1024;

/// What an answer says besides its status is worth no longer wait than this.
const WORDS_WITHIN: Duration = Duration::from_secs(2);

/// Segments of a path that are shorter are words of an API, and stay readable.
const SECRET_SEGMENT: usize = 8;

/// The clients of a process.
#[derive(Clone, Debug)]
pub struct Outside {
    world: reqwest::Client,
    direct: reqwest::Client,
}

/// What the other side answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Scheme and host of who said it.
    pub by: String,
    /// HTTP status.
    pub status: u16,
    /// `Retry-After` as it was written.
    pub retry_after: Option<String>,
    /// The first 1 KiB of the body, redacted.
    pub words: String,
}

impl Said {
    /// What that means for something that may be sent again: 2xx is a yes, 410 a no for good (both Standard Webhooks,
    /// "Response status codes"), a redirect is not followed. Everything else, 4xx too, may be better tomorrow: receivers are
    /// often wrong for a while. A `Retry-After` is kept between 1 s and 1 h; without `now` nobody looks at it.
    pub fn verdict(&self, now: Option<DateTime<Utc>>) -> Result<(), Trouble> {
        let Said { by, status, words, .. } = self;
        let said = match words.as_str() {
            "" => format!("{by} answered HTTP {status}"),
            words => format!("{by} answered HTTP {status}: {words}"),
        };
        match status {
            200..=299 => Ok(()),
            300..=399 => Err(Trouble::Refused(format!("{by} answered HTTP {status}, and redirects are not followed"))),
            410 => Err(Trouble::Refused(format!("the receiver says it is gone: {said}"))),
            _ => {
                let after = now.zip(self.retry_after.as_deref()).map(|(now, text)| retry_after(Some(text), now));
                Err(Trouble::Later { why: said, after })
            }
        }
    }
}

impl Outside {
    /// Builds the clients. Fails only when the machine's TLS roots cannot be used.
    pub fn new() -> Result<Outside, reqwest::Error> {
        // A proxy of the environment is for the world outside; this machine is reached directly.
        Ok(Outside { world: builder().build()?, direct: builder().no_proxy().build()? })
    }

    /// POSTs a body and gives the answer, whatever its status, within `timeout`. `secrets` are blacked out in what is said back.
    ///
    /// Errors: `Person` when the URL is none, `Refused` when it is `http://` and not on this machine, `Later` when nothing was
    /// sent for certain, else `Unclear`.
    pub async fn post(
        &self,
        url: &SecretString,
        headers: &[(&'static str, String)],
        body: String,
        timeout: Duration,
        secrets: &[SecretString],
    ) -> Result<Said, Trouble> {
        self.exchange(Method::POST, url, headers, Some(body), timeout, secrets).await
    }

    /// GETs the URL, or POSTs these words to it; else as [`Outside::post`].
    pub async fn ping(&self, url: &SecretString, words: Option<String>, timeout: Duration) -> Result<Said, Trouble> {
        let method = if words.is_some() { Method::POST } else { Method::GET };
        let headers = [("content-type", "text/plain; charset=utf-8".to_owned())];
        self.exchange(method, url, if words.is_some() { &headers } else { &[] }, words, timeout, &[]).await
    }

    async fn exchange(
        &self,
        method: Method,
        url: &SecretString,
        headers: &[(&'static str, String)],
        body: Option<String>,
        timeout: Duration,
        secrets: &[SecretString],
    ) -> Result<Said, Trouble> {
        let parsed = Url::parse(url.expose_secret().trim())
            .map_err(|_| Trouble::Person("the secret that should be a URL is none".into()))?;
        let by = place(&parsed);
        let loopback = crate::request::is_loopback(&parsed);
        match parsed.scheme() {
            "https" => {}
            "http" if loopback => {}
            "http" => {
                let message =
                    format!("{by}: plain http goes to this machine only; what is sent and the URL are secrets");
                return Err(Trouble::Refused(message));
            }
            _ => return Err(Trouble::Person("the secret that should be an https:// URL has another scheme".into())),
        }
        let forms = forms(&parsed, secrets);
        let client = if loopback { &self.direct } else { &self.world };
        let mut request = client.request(method, parsed).timeout(timeout);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.map_err(|e| failure(e, &by, &forms))?;
        let status = response.status().as_u16();
        let header = response.headers().get(RETRY_AFTER);
        let retry_after = header.map(|value| value.to_str().unwrap_or_default().to_owned());
        Ok(Said { by, status, retry_after, words: words(response, &forms).await })
    }
}

/// Scheme and host: all of a URL that may be shown.
pub fn place(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default())
}

/// What of a URL the other side could repeat and must not be shown.
fn forms(url: &Url, others: &[SecretString]) -> Forms {
    let mut secrets = vec![url.as_str().to_owned(), url.path().trim_matches('/').to_owned()];
    secrets.extend(url.path_segments().into_iter().flatten().filter(|s| s.len() >= SECRET_SEGMENT).map(str::to_owned));
    secrets.extend(url.query().map(str::to_owned));
    // The target as it stands in the request: what is encoded with its slash looks like nothing else here.
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    secrets.extend([url.path().to_owned(), target].into_iter().filter(|s| s.len() >= SECRET_SEGMENT));
    secrets.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
    // A value as it stands in the URL: half of it may be encoded, and half not.
    let raw = url.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    secrets.extend(raw.map(|(_, value)| value.to_owned()));
    secrets.push(url.username().to_owned());
    secrets.extend(url.password().map(str::to_owned));
    Forms::of(secrets.into_iter().map(SecretString::from).chain(others.iter().cloned()).collect())
}

/// The beginning of a body. That it breaks off changes nothing: the status has said what counts.
async fn words(mut response: reqwest::Response, forms: &Forms) -> String {
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(MOST_WORDS - body.len())]);
            if body.len() == MOST_WORDS {
                break;
            }
        }
    };
    // What came until then is words enough.
    drop(tokio::time::timeout(WORDS_WITHIN, reading).await);
    forms.redact(&String::from_utf8_lossy(&body))
}

/// What a failed exchange means. `is_connect` is asked before `is_timeout`, because a timeout of the connection is both.
fn failure(error: reqwest::Error, by: &str, forms: &Forms) -> Trouble {
    let (connect, builder, timeout) = (error.is_connect(), error.is_builder(), error.is_timeout());
    let text = forms.redact(&innermost(error));
    match (connect, builder) {
        (true, _) => Trouble::later(format!("{by} could not be reached: {text}")),
        (_, true) => Trouble::Refused(format!("{by}: the request cannot be sent: {text}")),
        _ if timeout => Trouble::Unclear(format!("{by} did not answer in time")),
        _ => Trouble::Unclear(format!("{by}: the connection broke: {text}")),
    }
}
