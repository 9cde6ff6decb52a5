//! The sandbox's own pages, for people and for other processes: what it is, what it received, and its faults.
//!
//! Not recorded, not subject to faults. Secrets are cut to what tells one account from another.

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::call::{Answer, Call};
use super::fault::{Fault, Vendor};
use super::world::{Received, World};

/// How many requests a page shows unless `last` says otherwise.
const SHOWN: usize = 1_000;
/// How much of a body a page shows, in characters.
const SHOWN_BODY: usize = 4_096;

const ABOUT: &str = "\
This is the sandbox of reportd: BIK, LiveChat and JAICP on loopback, strict as their docs. Nothing leaves this machine.

  BIK       /integrations/bikPlatformFunctions-{generateReport,getReportById,...}   Basic sandbox-key:sandbox-secret
  LiveChat  /v3.6/reports/{resource}/{action}   Basic sandbox-account:sandbox-pat, or Bearer sandbox-bearer
  JAICP     /api/reporter/p/{token}/...

  GET /sandbox/mails            mails that BIK would have sent, one JSON object a line
  GET /sandbox/received?last=N  requests as they came, without their secrets, one JSON object a line
  GET /sandbox/counts           what took effect
  GET, PUT /sandbox/faults      faults that wait, one VENDOR.OPERATION=FAULT[:N] a line; PUT replaces them
";

/// The answer, if the path is one of these pages.
pub(super) fn answer(world: &World, call: &Call) -> Option<Answer> {
    Some(match (call.path.as_str(), call.method.as_str()) {
        ("/", "GET") => Answer::text(ABOUT),
        ("/sandbox/mails", "GET") => lines(world.lock().mails.iter().map(|mail| json!(mail))),
        ("/sandbox/received", "GET") => {
            let last = call.params().into_iter().find(|(key, _)| key == "last");
            let last = last.and_then(|(_, last)| last.parse().ok()).unwrap_or(SHOWN);
            let mut newest: Vec<_> = world.lock().received().rev().take(last).cloned().collect();
            newest.reverse();
            lines(newest.iter().map(shown))
        }
        ("/sandbox/counts", "GET") => {
            let state = world.lock();
            let creates = |vendor| state.creates(vendor);
            Answer::ok(&json!({
                "creates": {"bik": creates(Vendor::Bik), "livechat": creates(Vendor::LiveChat), "jaicp": creates(Vendor::Jaicp)},
                "mails": state.mails.len(),
                "tickets": state.bik.tickets,
                "events": state.bik.events,
                "deleted": state.jaicp.deleted(),
                "account_wide_deletes": state.jaicp.account_wide_deletes,
            }))
        }
        ("/sandbox/faults", "GET") => Answer::text(world.lock().faults.lines()),
        ("/sandbox/faults", "PUT") => {
            let text = String::from_utf8_lossy(&call.body);
            let words = text.lines().map(str::trim).filter(|line| !line.is_empty());
            match words.map(str::parse).collect::<Result<Vec<Fault>, _>>() {
                Ok(faults) => {
                    let mut state = world.lock();
                    state.faults.replace(faults);
                    Answer::text(state.faults.lines())
                }
                Err(error) => {
                    let mut answer = Answer::text(format!("{error}\n"));
                    answer.status = StatusCode::BAD_REQUEST;
                    answer
                }
            }
        }
        _ => return None,
    })
}

fn lines(values: impl Iterator<Item = Value>) -> Answer {
    let body: String = values.flat_map(|value| [value.to_string(), "\n".to_owned()]).collect();
    Answer::new(StatusCode::OK, "application/x-ndjson", body)
}

fn shown(received: &Received) -> Value {
    let headers = received.headers.iter();
    let headers: serde_json::Map<_, _> = headers
        .map(|(name, value)| {
            (name.clone(), if name == "authorization" { account(value) } else { value.clone() }.into())
        })
        .collect();
    let body: String = String::from_utf8_lossy(&received.body).chars().take(SHOWN_BODY).collect();
    json!({
        "vendor": received.vendor.map(Vendor::word),
        "operation": received.operation,
        "method": received.method,
        "path": without_secrets(&received.path),
        "headers": headers,
        "body": body,
        "status": received.status,
    })
}

/// The scheme and, where there is one, the user.
fn account(header: &str) -> String {
    let (scheme, value) = header.split_once(' ').unwrap_or((header, ""));
    let user = STANDARD.decode(value).ok().and_then(|plain| String::from_utf8(plain).ok());
    match user.as_deref().and_then(|user| user.split_once(':')) {
        Some((user, _)) if scheme == "Basic" => format!("Basic {user}:***"),
        _ => format!("{} ***", if matches!(scheme, "Basic" | "Bearer") { scheme } else { "" }).trim_start().to_owned(),
    }
}

/// A path without the JAICP token and without the secrets of links.
fn without_secrets(path: &str) -> String {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let mut shown = Vec::new();
    for part in path.split('/') {
        let token = shown.ends_with(&["reporter".to_owned(), "p".to_owned()]);
        let secret = shown.len() == 4 && shown.ends_with(&["files".to_owned(), "jaicp".to_owned(), shown[3].clone()]);
        shown.push(match part.split_once([':', '.']) {
            Some((project, _)) if token => format!("{project}:***"),
            Some((_, extension)) if secret => format!("***.{extension}"),
            _ if token || secret => "***".to_owned(),
            _ => part.to_owned(),
        });
    }
    let query = query.map(|query| {
        let pairs = query.split('&');
        let cut = |pair: &str| {
            if pair.starts_with("token=") { "token=***".to_owned() } else { pair.to_owned() }
        };
        format!("?{}", pairs.map(cut).collect::<Vec<_>>().join("&"))
    });
    format!("{}{}", shown.join("/"), query.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_whose_request_it_was_and_no_secret() {
        assert_eq!(account("Basic c2FuZGJveC1rZXk6c2FuZGJveC1zZWNyZXQ="), "Basic sandbox-key:***");
        assert_eq!(account("Bearer sandbox-bearer"), "Bearer ***");
        assert_eq!(account("sandbox-secret"), "***");
        for (path, wanted) in [
            ("/api/reporter/p/abcdefgh:0123/reports/tasks/t-1", "/api/reporter/p/abcdefgh:***/reports/tasks/t-1"),
            ("/reporter/p/abcdefgh%3A0123/filters?a=b", "/reporter/p/***/filters?a=b"),
            ("/files/jaicp/7/0123.xlsx", "/files/jaicp/7/***.xlsx"),
            ("/files/bik/7.csv?alt=media&token=0123", "/files/bik/7.csv?alt=media&token=***"),
            ("/", "/"),
        ] {
            assert_eq!(without_secrets(path), wanted);
        }
    }
}
