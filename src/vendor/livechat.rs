//! LiveChat Reports API: the answer is the report. Asking twice costs a billed call and harms nobody.
//!
//! Source: the vendor's page "Reports API"; errors, pages and lifecycle headers from REFERENCE 4. Errors are decided by
//! `error.type` before the HTTP status, which the vendor does not document. `records` is a map, a list or missing: the bytes are
//! kept as they came, and only looked at to see that they are a report and whether it has rows.

use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use chrono_tz::Tz;
use serde_json::{Map, Value};

use super::account::{Account, Secrets};
use super::error::{Operation, VendorError, classify};
use super::http::{Answered, Http};
use super::{Answer, Collected, Context, Progress, http_error};
use crate::artifact::sniff::Expect;
use crate::artifact::{Label, Spooled};
use crate::request::livechat::{LivechatEndpoint, LivechatParams, TimePair, prepare};
use crate::request::window::Window;
use crate::request::{Call, Request, Shape};

/// What an error type means, as the HTTP status that stands for it in the common table (types: the vendor's error list).
fn status_of(error_type: &str) -> Option<u16> {
    Some(match error_type {
        "authentication" => 401,
        "authorization" => 403,
        "validation"
        | "unsupported_version"
        | "license_expired"
        | "license_not_found"
        | "wrong_product_version"
        | "limit_reached"
        | "misdirected_request"
        | "not_found" => 400,
        "too_many_requests" => 429,
        "request_timeout" => 504,
        // 503, so that a Retry-After is kept; without one it is unclear like any 5xx.
        "service_unavailable" => 503,
        "internal" => 500,
        _ => return None,
    })
}

/// The error that an answer is, if it is one: by `error.type`, then by its HTTP status.
fn refusal(secrets: &Secrets, now: DateTime<Utc>, answer: &Answered, body: Option<&Value>) -> Option<VendorError> {
    if let Some(error) = body.and_then(|b| b.get("error")).filter(|e| e.is_object()) {
        let kind = error.get("type").and_then(Value::as_str).unwrap_or("");
        let words = error.get("message").and_then(Value::as_str).unwrap_or("");
        let hint = match (kind, error.pointer("/data/region").and_then(Value::as_str)) {
            ("misdirected_request", Some(region)) => format!(" (set region: {region} on this connection)"),
            ("request_timeout", _) => " (a shorter window helps: run-job --each day)".to_owned(),
            _ => String::new(),
        };
        let message = secrets.redact(&format!("{kind}: {words}{hint}"));
        // A 2xx that carries an error is no success, whatever its type.
        let status = status_of(kind).unwrap_or(if answer.status < 300 { 400 } else { answer.status });
        let wait = answer.retry_after(now).or((status == 429).then_some(Duration::from_secs(10)));
        if let Some(error) = classify(Operation::Query, status, wait, message) {
            return Some(error);
        }
    }
    http_error(secrets, now, Operation::Query, answer, None)
}

/// The report of one page, or the error it is.
fn report(context: &Context<'_>, answer: &Answered) -> Result<Value, VendorError> {
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    if let Some(error) = refusal(context.secrets, context.now, answer, body.as_ref()) {
        return Err(error);
    }
    if body.as_ref().and_then(|b| b.get("error")).is_some_and(|error| !error.is_null()) {
        return Err(context.unreadable("the answer carries an error beside whatever else is in it"));
    }
    match body {
        Some(body) if body.get("records").is_some() || body.get("summary").is_some() => Ok(body),
        Some(_) => Err(context.unreadable("the answer has neither records nor summary: no report")),
        None => Err(context.unreadable(&format!("HTTP {} with a body that is not JSON", answer.status))),
    }
}

/// Whether a report has rows: `records` that are there and hold nothing (a day without data may be `{}`) are none.
fn has_rows(report: &Value) -> bool {
    let holds = |value: &Value| match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Null => false,
        _ => true,
    };
    match report.get("records") {
        Some(Value::Object(days)) => days.values().any(holds),
        Some(records) => holds(records),
        None => true,
    }
}

/// Lifecycle headers of versions that end: `Legacy: YYYY-MM-DD`, `Deprecation: YYYY-MM-DD`.
fn lifecycle(context: &Context<'_>, answer: &Answered, notes: &mut Vec<String>) {
    for name in ["legacy", "deprecation"] {
        if let Some(value) = answer.headers.get(name).and_then(|v| v.to_str().ok()) {
            let note = format!("LiveChat marks this API version: {name} {}", context.secrets.redact(value));
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
}

/// Some answers repeat the request; a zone that is not ours means that the days were cut elsewhere.
fn compare_echo(context: &Context<'_>, report: &Value, call: &Call, notes: &mut Vec<String>) {
    let asked = call.body.as_ref().and_then(|b| b.get("timezone"));
    if let (Some(echo), Some(asked)) = (report.pointer("/request/timezone"), asked)
        && echo != asked
    {
        let echo = context.secrets.redact(&echo.to_string());
        notes.push(format!("LiveChat answered for zone {echo}, and {asked} was asked"));
    }
}

async fn store(
    context: &Context<'_>,
    request: &Request,
    name: String,
    answer: &Answered,
) -> Result<Spooled, VendorError> {
    let simulated = super::simulated(&request.base_url);
    let label = Label { name, expect: Expect::Json, derived: false, simulated };
    Ok(context.spool.bytes(label, answer.body.clone()).await?)
}

/// Asks for the report, and for its further pages.
pub async fn submit(context: &Context<'_>, request: &Request) -> Result<Answer, VendorError> {
    let paged = matches!(request.shape, Shape::LivechatReport { paged: true });
    let mut notes = Vec::new();
    let mut files = Vec::new();
    let (mut page, mut pages, mut rows) = (1_u64, 1_u64, false);
    let mut call = request.call.clone();
    while page <= pages {
        if page > 1 {
            context.permits.next().await?;
            if let Some(Value::Object(body)) = &mut call.body {
                body.insert("page".into(), page.into());
            }
        }
        let answer = context.http.send(&call, context.secrets, Operation::Query, context.timeout()).await?;
        let report = report(context, &answer)?;
        lifecycle(context, &answer, &mut notes);
        if page == 1 {
            compare_echo(context, &report, &call, &mut notes);
        }
        rows |= has_rows(&report);
        if paged {
            pages = match report.pointer("/summary/total_pages") {
                None => 1,
                Some(total) => {
                    total.as_u64().ok_or_else(|| context.unreadable("total_pages is no count of pages"))?.max(1)
                }
            };
            if pages > u64::from(context.account.limits.max_pages) {
                let limit = context.account.limits.max_pages;
                return Err(VendorError::Protocol(format!("the report has {pages} pages, and max_pages is {limit}")));
            }
            (context.watch)(Progress::Pages(page, Some(pages)));
        }
        let name = if paged { format!("page-{page:04}.json") } else { "report.json".to_owned() };
        files.push(store(context, request, name, &answer).await?);
        page += 1;
    }
    Ok(Answer::Collected(Collected { files, empty: !rows, seen: None, notes }))
}

/// The call that tells most cheaply whether a token is accepted: `chats/total_chats` of one past hour, the smallest report that
/// every version since 3.3 has (the page's "Total Chats"; REFERENCE 4.1). It reads, and is billed like any call with a personal
/// token (REFERENCE 1.7); the pages give none that is not. Pure.
/// `None` in years that have no windows.
pub fn probe(endpoint: &LivechatEndpoint, now: DateTime<Utc>) -> Option<Call> {
    let end = now.duration_trunc(TimeDelta::hours(1)).unwrap_or(now) - TimeDelta::days(1);
    let params = LivechatParams {
        report: "chats/total_chats".to_owned(),
        distribution: Some("hour".to_owned()),
        filters: Map::new(),
        time: TimePair::Chats,
    };
    let hour = Window::new(end - TimeDelta::hours(1), end, Tz::UTC)?;
    Some(prepare(&params, endpoint, &hour))
}

/// Whether LiveChat accepts the account's credentials, asked with [`probe`].
pub async fn check(
    http: &Http,
    account: &Account,
    secrets: &Secrets,
    endpoint: &LivechatEndpoint,
    now: DateTime<Utc>,
) -> Result<(), VendorError> {
    let Some(call) = probe(endpoint, now) else {
        return Err(VendorError::Protocol("this machine's clock shows a year that no report has".into()));
    };
    let answer = http.send(&call, secrets, Operation::Query, account.limits.timeout).await?;
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    match refusal(secrets, now, &answer, body.as_ref()) {
        Some(error) => Err(error),
        None if body.as_ref().is_some_and(|body| body.get("records").is_some() || body.get("total").is_some()) => {
            Ok(())
        }
        None => Err(VendorError::Unclear(format!("HTTP {} with a body that is no report", answer.status))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn days_that_hold_nothing_are_no_rows_and_a_report_without_records_has_some() {
        assert!(!has_rows(&json!({"records": {"2026-03-01": {}, "2026-03-02": {}}, "total": 0})));
        assert!(!has_rows(&json!({"records": []})));
        assert!(!has_rows(&json!({"records": {}})));
        assert!(has_rows(&json!({"records": {"refund": 2}})));
        assert!(has_rows(&json!({"records": {"2026-03-01": {"total": 0}}})));
        assert!(has_rows(&json!({"summary": {"unique_visitors": 0}})));
    }

    #[test]
    fn the_cheapest_question_is_about_one_full_hour_of_yesterday() {
        let endpoint = LivechatEndpoint {
            base_url: "https://api.livechatinc.com".into(),
            version: "3.6".into(),
            path: "/v{version}/reports/{report}".into(),
            bearer: false,
            region: None,
            headers: std::collections::BTreeMap::new(),
        };
        let call = probe(&endpoint, "2026-03-02T06:30:15Z".parse().unwrap()).unwrap();
        assert_eq!((&*call.method, &*call.url), ("POST", "https://api.livechatinc.com/v3.6/reports/chats/total_chats"));
        let filters = json!({"from": "2026-03-01T05:00:00.000000+00:00", "to": "2026-03-01T05:59:59.999999+00:00"});
        assert_eq!(call.body, Some(json!({"distribution": "hour", "timezone": "UTC", "filters": filters})));
    }
}
