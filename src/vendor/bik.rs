//! BIK: `generateReport` makes a report and mails it, `getReportById` tells of it, its link gives the CSV.
//!
//! Sources: the vendor's page "Generate Report"; `getReportById` from the vendor's docs site (REFERENCE 3.3). BIK may answer
//! HTTP 200 with an inner `status` of 400 or more, as a number or a string: the inner one then decides. The mail is a side
//! effect that we never read; because of it a create is never repeated unless the job says so.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::account::Secrets;
use super::error::{Operation, VendorError, classify};
use super::http::Answered;
use super::{Answer, Collected, Context, download, http_error};
use crate::artifact::sniff::Expect;
use crate::request::{Request, Seen, json_post};

/// All that must survive a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ticket {
    report_history_id: u64,
}

/// BIK's answer to anything. Unknown keys are ignored.
#[derive(Debug, Deserialize)]
struct Wire {
    status: Option<Value>,
    success: Option<Value>,
    data: Option<Value>,
    errors: Option<Value>,
}

/// The inner status, number or numeric string.
fn inner_status(status: Option<&Value>) -> Option<u16> {
    match status? {
        Value::Number(n) => n.as_u64().and_then(|n| u16::try_from(n).ok()),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn words(wire: &Wire) -> Option<String> {
    let list = wire.errors.as_ref()?.as_array()?;
    let messages: Vec<&str> =
        list.iter().filter_map(|e| e.get("message").and_then(Value::as_str).or(e.as_str())).collect();
    (!messages.is_empty()).then(|| messages.join("; "))
}

/// What BIK answered when it did not say no.
#[derive(Debug)]
pub struct Said {
    /// `data`, or null.
    pub data: Value,
    /// It says yes in so many words: `success`, or an inner status of 2xx.
    pub yes: bool,
}

/// What an answer says, or the error that HTTP status and inner status together mean.
pub fn read(
    secrets: &Secrets,
    now: DateTime<Utc>,
    operation: Operation,
    answer: &Answered,
) -> Result<Said, VendorError> {
    let wire: Option<Wire> = serde_json::from_slice(&answer.body).ok();
    let said = wire.as_ref().and_then(words);
    if let Some(error) = http_error(secrets, now, operation, answer, said.clone()) {
        return Err(error);
    }
    let Some(wire) = wire else {
        return Err(VendorError::Unclear(format!("HTTP {} with a body that is not BIK's JSON", answer.status)));
    };
    let said = said.unwrap_or_default();
    let inner = inner_status(wire.status.as_ref());
    if let Some(inner) = inner.filter(|inner| *inner >= 300) {
        let message = secrets.redact(&format!("status {inner}: {said}"));
        if let Some(error) = classify(operation, inner, answer.retry_after(now), message) {
            return Err(error);
        }
    }
    if wire.success == Some(Value::Bool(false)) {
        let message = secrets.redact(&format!("success is false: {said}"));
        return Err(VendorError::Refused { status: answer.status, message });
    }
    let yes = wire.success == Some(Value::Bool(true)) || inner.is_some_and(|inner| (200..300).contains(&inner));
    Ok(Said { data: wire.data.unwrap_or(Value::Null), yes })
}

fn data(context: &Context<'_>, operation: Operation, answer: &Answered) -> Result<Value, VendorError> {
    read(context.secrets, context.now, operation, answer).map(|said| said.data)
}

/// A `reportHistoryId`: a number, or the same as text.
fn history_id(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::Number(n) => n.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Calls `generateReport`.
pub async fn submit(context: &Context<'_>, request: &Request) -> Result<Answer, VendorError> {
    let answer = context.http.send(&request.call, context.secrets, Operation::Create, context.timeout()).await?;
    let data = data(context, Operation::Create, &answer)?;
    let Some(id) = history_id(data.get("reportHistoryId")) else {
        return Err(context.unreadable("BIK accepted the report and gave no reportHistoryId"));
    };
    let ticket = serde_json::to_value(Ticket { report_history_id: id })
        .map_err(|_| VendorError::Protocol("the ticket cannot be kept".into()))?;
    let seen = Seen { status: "QUEUE".into(), ..Seen::default() };
    Ok(Answer::Ticketed { id: id.to_string(), ticket, seen })
}

/// Calls `getReportById`, and downloads when the report is complete.
pub async fn poll(context: &Context<'_>, request: &Request, ticket: &Value) -> Result<Answer, VendorError> {
    let ticket: Ticket = serde_json::from_value(ticket.clone())
        .map_err(|_| VendorError::Protocol("the stored ticket is not one of BIK's".into()))?;
    let account = context.connection.bik.as_ref().ok_or_else(no_account)?;
    let mut body = json!({ "reportHistoryId": ticket.report_history_id });
    if let Some(app_id) = &account.endpoint.app_id {
        body["appId"] = app_id.clone().into();
    }
    let mut call = json_post(format!("{}{}", request.base_url, account.status_path), body, &account.endpoint.headers);
    call.authorization.clone_from(&request.call.authorization);
    let answer = context.http.send(&call, context.secrets, Operation::Poll, context.timeout()).await?;
    let data = data(context, Operation::Poll, &answer)?;
    let Some(word) = data.get("reportStatus").and_then(Value::as_str) else {
        return Err(context.unreadable("getReportById answered no reportStatus"));
    };
    let seen = Seen { status: context.word(word), ..Seen::default() };
    let is = |list: &[String]| list.iter().any(|w| w == word);
    if is(&account.states.failed) {
        return Err(VendorError::Ended { seen });
    }
    if is(&account.states.gone) {
        return Err(VendorError::Gone(format!("its status is {}", seen.status)));
    }
    if !is(&account.states.ready) {
        let note = (!is(&account.states.running))
            .then(|| format!("status {} is in no list of the settings; it counts as running", seen.status));
        return Ok(Answer::Running { seen, note });
    }
    let Some(link) = data.get("downloadLink").and_then(Value::as_str).filter(|l| !l.is_empty()) else {
        let note = Some(format!("status {} without a downloadLink; polling on", seen.status));
        return Ok(Answer::Running { seen, note });
    };
    let fetch = download::Fetch {
        link,
        base_url: &request.base_url,
        name: "report.csv".into(),
        expect: Expect::Csv { with_header: true },
        no_rows: false,
        own_host_headers: &[],
    };
    let file = download::fetch(context, &fetch).await?;
    let empty = file.has_rows == Some(false);
    Ok(Answer::Collected(Collected { files: vec![file], empty, seen: Some(seen), notes: Vec::new() }))
}

fn no_account() -> VendorError {
    VendorError::Protocol("the connection has no BIK account any more".into())
}

/// The ticket of a `reportHistoryId` that an operator found.
pub fn ticket_of(id: &str) -> Result<Value, String> {
    match id.trim().parse::<u64>() {
        Ok(id) => Ok(json!({ "report_history_id": id })),
        Err(_) => Err(format!("'{id}' is no reportHistoryId: BIK's are whole numbers")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_statuses_and_ids_are_read_as_numbers_and_as_texts() {
        assert_eq!(inner_status(Some(&json!("400"))), Some(400));
        assert_eq!(inner_status(Some(&json!(200))), Some(200));
        assert_eq!(inner_status(Some(&json!(true))), None);
        assert_eq!(history_id(Some(&json!("44589"))), Some(44589));
        assert_eq!(history_id(Some(&json!(1.5))), None);
        assert_eq!(ticket_of("44589").unwrap()["report_history_id"], 44589);
        assert!(ticket_of("x").is_err());
    }
}
