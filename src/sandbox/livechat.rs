//! LiveChat's Reports API 3.4 to 3.6: one request, one JSON report.
//!
//! A personal access token is only taken as Basic, an OAuth token only as Bearer, as the vendor's list of common
//! mistakes says. Errors have the platform's `{"error": {"type", "message"}}`. A report that would have more than
//! 20,000 keys meets the server's time limit, as a very long hourly report does at the vendor.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::call::{Answer, Call, Object, Refusal};
use super::fault::{FaultKind, Vendor};
use super::livechat_filter::{self as filter, Family};
use super::livechat_shape as shape;
use super::world::World;

/// Resource, action, the first minor version that has it, and whose filters it takes.
const REPORTS: [(&str, &str, u8, Family); 19] = [
    ("chats", "tags", 4, Family::Chats),
    ("chats", "total_chats", 4, Family::Chats),
    ("chats", "duration", 4, Family::Chats),
    ("chats", "ratings", 4, Family::Chats),
    ("chats", "ranking", 4, Family::Chats),
    ("chats", "engagement", 4, Family::Chats),
    ("chats", "greetings_conversion", 4, Family::Chats),
    ("chats", "response_time", 4, Family::Chats),
    ("chats", "first_response_time", 4, Family::Chats),
    ("chats", "forms", 5, Family::Chats),
    ("chats", "groups", 6, Family::Chats),
    ("chats", "queued_visitors", 6, Family::Chats),
    ("chats", "queued_visitors_left", 6, Family::Pages),
    ("agents", "availability", 4, Family::Agents),
    ("agents", "performance", 4, Family::Agents),
    ("tags", "chat_usage", 5, Family::Usage),
    ("customers", "unique_visitors", 6, Family::Visitors),
    // Two older addresses of the same report, which the vendor's own pages still show.
    ("stats", "unique_visitors", 6, Family::Visitors),
    ("stats", "visitors", 6, Family::Visitors),
];

/// `/v3.x/reports/{resource}/{action}` taken apart.
fn parts(path: &str) -> Option<(&str, &str, &str)> {
    let (version, rest) = path.strip_prefix("/v")?.split_once("/reports/")?;
    let (resource, action) = rest.split_once('/')?;
    Some((version, resource, action))
}

/// The operation that a path names, if it is one of LiveChat's.
pub(super) fn operation(call: &Call) -> &'static str {
    let known = parts(&call.path).is_some() && matches!(call.method, Method::POST | Method::GET);
    if known { "report" } else { "unknown" }
}

pub(super) fn answer(world: &World, call: &Call) -> Result<Answer, Refusal> {
    let (version, resource, action) = parts(&call.path).ok_or_else(|| Refusal::not_found("no such path"))?;
    let minor = match version {
        "3.4" => 4,
        "3.5" => 5,
        "3.6" => 6,
        _ => {
            let mut refusal = Refusal::invalid(format!("API version {version} is not supported"));
            refusal.word = Some("unsupported_version");
            return Err(refusal);
        }
    };
    authenticate(world, call)?;
    let report = REPORTS.into_iter().find(|known| (known.0, known.1) == (resource, action) && known.2 <= minor);
    let (_, action, _, family) = report.ok_or_else(|| Refusal::not_found("no such report"))?;

    let body = match call.method {
        Method::POST => call.object()?,
        Method::GET => filter::from_query(&call.params())?,
        _ => return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "use POST or GET")),
    };
    let asked = filter::check(&body, family, world.now())?;
    let no_rows = world.take_fault(Vendor::LiveChat, "report", |kind| kind == FaultKind::NoRows).is_some();

    let keys = asked.keys().ok_or_else(|| Refusal::new(StatusCode::GATEWAY_TIMEOUT, "request timed out"))?;
    let seed = Value::Object(body.clone()).to_string();
    let mut report = shape::report(action, &shape::Wanted { asked: &asked, keys: &keys, seed: &seed, no_rows })?;
    if !body.is_empty() {
        report.insert("request".to_owned(), echo(&body));
    }
    world.lock().livechat_reports += 1;
    let answer = Answer::ok(&Value::Object(report));
    Ok(match minor {
        4 => answer.with("deprecation", "2026-12-31"),
        5 => answer.with("legacy", "2026-12-31"),
        _ => answer,
    })
}

/// What real answers repeat of the request, though no page says so.
fn echo(body: &Object) -> Value {
    body.iter().filter(|(key, _)| *key != "page").map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn authenticate(world: &World, call: &Call) -> Result<(), Refusal> {
    let credentials = world.lock().credentials.clone();
    let bearer = call.header("authorization").and_then(|header| header.strip_prefix("Bearer "));
    if bearer == Some(&credentials.livechat_bearer)
        || call.basic() == Some((credentials.livechat_account, credentials.livechat_token))
    {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "Invalid access token"))
}

/// The platform's error shape; the type follows from the status, except where a refusal names it.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    let kind = refusal.word.unwrap_or(match refusal.status.as_u16() {
        401 => "authentication",
        403 => "authorization",
        404 => "not_found",
        421 => "misdirected_request",
        429 => "too_many_requests",
        503 => "service_unavailable",
        504 => "request_timeout",
        500..=599 => "internal",
        _ => "validation",
    });
    Answer::json(refusal.status, &json!({"error": {"type": kind, "message": refusal.message}}))
}
