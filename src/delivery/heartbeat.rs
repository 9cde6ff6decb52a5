//! The dead-man switch: pings that tell an outside watcher that we live, by the convention of healthchecks.io (its page
//! "Pinging API"): the URL itself means success, `/start` and `/fail` below it the others, `?rid=` names the run.
//!
//! A watcher that hangs, errs or vanishes never holds up work: [`Heart`] takes a beat and returns, and drops what it cannot
//! send soon, since an old ping says nothing. Its URL is a secret and in no log line.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::mpsc;
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use super::Trouble;
use super::outside::Outside;

/// Longest wait for one ping.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Most of the words of a failure that are sent, in bytes; the page's own limit is higher.
const MOST_WORDS: usize = 10_000;

/// Beats that wait while the watcher is slow.
const WAITING: usize = 16;

/// Shortest time between two warnings.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(3600);

/// What a ping says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Work began.
    Start,
    /// Work ended well, or we live.
    Success,
    /// Work failed.
    Fail,
}

impl Beat {
    /// What is added to the path.
    fn suffix(self) -> &'static str {
        match self {
            Beat::Start => "/start",
            Beat::Success => "",
            Beat::Fail => "/fail",
        }
    }
}

/// The URL of a beat. `None` when `url` is none that has a path.
fn beat_url(url: &str, beat: Beat, rid: Option<Uuid>) -> Option<String> {
    let mut url = Url::parse(url.trim()).ok().filter(|url| !url.cannot_be_a_base())?;
    if beat != Beat::Success {
        let path = format!("{}{}", url.path().trim_end_matches('/'), beat.suffix());
        url.set_path(&path);
    }
    if let Some(rid) = rid {
        url.query_pairs_mut().append_pair("rid", &rid.to_string());
    }
    url.set_fragment(None);
    Some(url.into())
}

/// Sends one ping, within 10 s: a GET, or for a failure a POST of `words`, of which at most 10 kB go out. The caller has
/// redacted them.
///
/// Errors: `Person` when the URL is none, `Refused` for 410, 3xx and `http://` to another machine, else `Later` or `Unclear`;
/// it may be sent again.
pub async fn ping(
    outside: &Outside,
    url: &SecretString,
    beat: Beat,
    rid: Option<Uuid>,
    words: &str,
) -> Result<(), Trouble> {
    let url = beat_url(url.expose_secret(), beat, rid)
        .ok_or_else(|| Trouble::Person("the secret that should be the heartbeat's URL is none".into()))?;
    let words =
        (beat == Beat::Fail && !words.is_empty()).then(|| words[..words.floor_char_boundary(MOST_WORDS)].to_owned());
    // A ping is soon worth nothing, so it waits for no Retry-After.
    outside.ping(&url.into(), words, TIMEOUT).await?.verdict(None)
}

/// A beat on its way.
#[derive(Debug)]
struct Waiting {
    url: SecretString,
    beat: Beat,
    rid: Option<Uuid>,
    words: String,
}

/// Sends pings beside the work, one after the other. Clones share one task, which ends when the last is dropped.
#[derive(Clone, Debug)]
pub struct Heart {
    waiting: mpsc::Sender<Waiting>,
}

impl Heart {
    /// Starts the task that sends. Must be called within a Tokio runtime.
    pub fn start(outside: Outside) -> Heart {
        let (waiting, beats) = mpsc::channel(WAITING);
        tokio::spawn(carry(outside, beats));
        Heart { waiting }
    }

    /// Has a ping sent soon. Never waits and never fails: when sixteen wait already, this one is dropped.
    pub fn beat(&self, url: SecretString, beat: Beat, rid: Option<Uuid>, words: impl Into<String>) {
        if self.waiting.try_send(Waiting { url, beat, rid, words: words.into() }).is_err() {
            tracing::debug!(?beat, "heartbeat dropped: earlier ones still wait for the watcher");
        }
    }
}

async fn carry(outside: Outside, mut beats: mpsc::Receiver<Waiting>) {
    let mut warned: Option<Instant> = None;
    while let Some(Waiting { url, beat, rid, words }) = beats.recv().await {
        let Err(error) = ping(&outside, &url, beat, rid, &words).await else { continue };
        if warned.is_none_or(|at| at.elapsed() >= BETWEEN_WARNINGS) {
            warned = Some(Instant::now());
            tracing::warn!(?beat, %error, "heartbeat failed; further failures within an hour are logged at debug");
        } else {
            tracing::debug!(?beat, %error, "heartbeat failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_keeps_the_urls_query_and_puts_its_suffix_onto_the_path() {
        let rid = Some(Uuid::from_u128(7));
        let rows = [
            ("https://hc-ping.com/abc", Beat::Success, None, "https://hc-ping.com/abc"),
            ("https://hc-ping.com/abc/", Beat::Success, None, "https://hc-ping.com/abc/"),
            (
                "https://hc-ping.com/abc",
                Beat::Start,
                rid,
                "https://hc-ping.com/abc/start?rid=00000000-0000-0000-0000-000000000007",
            ),
            ("https://hc-ping.com/key/slug/?create=1", Beat::Fail, None, "https://hc-ping.com/key/slug/fail?create=1"),
            (
                "https://hc-ping.com/key/slug?create=1#x",
                Beat::Success,
                rid,
                "https://hc-ping.com/key/slug?create=1&rid=00000000-0000-0000-0000-000000000007",
            ),
        ];
        for (url, beat, rid, expected) in rows {
            assert_eq!(beat_url(url, beat, rid).as_deref(), Some(expected), "{url} {beat:?}");
        }
        assert_eq!(beat_url("hc-ping.com/abc", Beat::Start, None), None);
        assert_eq!(beat_url("mailto:a@b.example", Beat::Start, None), None);
    }
}
