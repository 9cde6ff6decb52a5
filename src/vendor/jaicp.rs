//! JAICP Reporter API, project-token generation: background reports are tasks, queries are pages.
//!
//! Sources: the vendor's page "Reporter API" and its OpenAPI file (REFERENCE 2). The account-wide deletes of that file are
//! not in this one on purpose: they would remove other people's exports.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::account::{Account, Secrets};
use super::error::{Operation, VendorError};
use super::http::{Answered, Http};
use super::{Answer, Collected, Context, Progress, clean_id, download, http_error};
use crate::artifact::sniff::Expect;
use crate::artifact::{Finish, Label, Spooled, Writer};
use crate::connection::JaicpAccount;
use crate::request::{Call, FileType, Request, Rows, Seen, Shape};

/// All that must survive a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ticket {
    #[serde(rename = "task_id")]
    id: String,
}

/// The task object; a lean answer may hold `taskId` alone. Unknown keys are ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Task {
    #[serde(rename = "taskId")]
    id: Option<Value>,
    status: Option<String>,
    write_count: Option<i64>,
    total_count: Option<i64>,
    file_url: Option<String>,
}

impl Task {
    fn id(&self) -> Option<String> {
        match self.id.as_ref()? {
            Value::String(id) => clean_id(id),
            Value::Number(id) => clean_id(&id.to_string()),
            _ => None,
        }
    }

    fn seen(&self, clean: impl Fn(&str) -> String) -> Seen {
        Seen {
            status: clean(self.status.as_deref().unwrap_or("CREATED")),
            written: self.write_count,
            total: self.total_count,
        }
    }
}

/// The platform's usual error shape is `{error, message, args}`; the Reporter's own is not documented.
fn checked(context: &Context<'_>, operation: Operation, answer: &Answered) -> Result<(), VendorError> {
    refusal(context.secrets, context.now, operation, answer).map_or(Ok(()), Err)
}

fn refusal(secrets: &Secrets, now: DateTime<Utc>, operation: Operation, answer: &Answered) -> Option<VendorError> {
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let text = |key: &str| body.as_ref().and_then(|b| b.get(key)).and_then(Value::as_str);
    let words = match (text("error"), text("message")) {
        (Some(error), Some(message)) => Some(format!("{error}: {message}")),
        (Some(one), None) | (None, Some(one)) => Some(one.to_owned()),
        (None, None) => None,
    };
    http_error(secrets, now, operation, answer, words)
}

fn account<'a>(context: &Context<'a>) -> Result<&'a JaicpAccount, VendorError> {
    let missing = || VendorError::Protocol("the connection has no JAICP account any more".into());
    context.connection.jaicp.as_ref().ok_or_else(missing)
}

/// Creates the task, or asks for the pages of a query.
pub async fn submit(context: &Context<'_>, request: &Request) -> Result<Answer, VendorError> {
    if let Shape::JaicpQuery { rows, with_messages, page_size } = request.shape {
        return query(context, request, rows, with_messages, page_size).await;
    }
    let answer = context.http.send(&request.call, context.secrets, Operation::Create, context.timeout()).await?;
    checked(context, Operation::Create, &answer)?;
    let task: Option<Task> = serde_json::from_slice(&answer.body).ok();
    let id = task.as_ref().and_then(Task::id).filter(|id| context.secrets.redact(id) == *id);
    let Some((task, id)) = task.zip(id) else {
        return Err(context.unreadable("JAICP accepted the report and gave no taskId"));
    };
    let ticket = json!({ "task_id": id });
    Ok(Answer::Ticketed { id, ticket, seen: task.seen(|word| context.word(word)) })
}

fn task_call(request: &Request, account: &JaicpAccount, task_id: &str, method: &str) -> Call {
    let id: String = url::form_urlencoded::byte_serialize(task_id.as_bytes()).collect();
    let url = format!("{}{}", request.base_url, account.task_path.replace("{task_id}", &id));
    Call { method: method.into(), url, headers: account.endpoint.headers.clone(), authorization: None, body: None }
}

fn ticket(stored: &Value) -> Result<Ticket, VendorError> {
    serde_json::from_value(stored.clone())
        .map_err(|_| VendorError::Protocol("the stored ticket is not one of JAICP's".into()))
}

/// Asks for the task, and downloads its file when it is complete.
pub async fn poll(context: &Context<'_>, request: &Request, stored: &Value) -> Result<Answer, VendorError> {
    let ticket = ticket(stored)?;
    let account = account(context)?;
    let call = task_call(request, account, &ticket.id, "GET");
    let answer = context.http.send(&call, context.secrets, Operation::Poll, context.timeout()).await?;
    checked(context, Operation::Poll, &answer)?;
    let Ok(task) = serde_json::from_slice::<Task>(&answer.body) else {
        return Err(context.unreadable("the answer is not a task"));
    };
    let Some(word) = task.status.as_deref() else {
        return Err(context.unreadable("the task has no status"));
    };
    let seen = task.seen(|word| context.word(word));
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
    let Some(link) = task.file_url.as_deref().filter(|l| !l.is_empty()) else {
        let note = Some(format!("status {} without a fileUrl; polling on", seen.status));
        return Ok(Answer::Running { seen, note });
    };
    let Shape::JaicpReport { file_type, with_header, .. } = request.shape else {
        return Err(VendorError::Protocol("a query has no task".into()));
    };
    let (name, expect) = match file_type {
        Some(FileType::Csv) => ("report.csv", Expect::Csv { with_header }),
        Some(FileType::Xlsx) => ("report.xlsx", Expect::Xlsx),
        None => ("report", Expect::AnyTable),
    };
    let no_rows = task.total_count == Some(0);
    let fetch = download::Fetch {
        link,
        base_url: &request.base_url,
        name: name.into(),
        expect,
        no_rows,
        own_host_headers: &context.secrets.download_headers,
    };
    let file = download::fetch(context, &fetch).await?;
    // A workbook does not tell its rows from outside; JAICP's count does.
    let empty = file.has_rows.map_or(no_rows, |rows| !rows);
    Ok(Answer::Collected(Collected { files: vec![file], empty, seen: Some(seen), notes: Vec::new() }))
}

/// Deletes one task, which is archived by now. A task that is gone already is as good.
pub async fn delete(context: &Context<'_>, request: &Request, stored: &Value) -> Result<(), VendorError> {
    let call = task_call(request, account(context)?, &ticket(stored)?.id, "DELETE");
    let answer = context.http.send(&call, context.secrets, Operation::Delete, context.timeout()).await?;
    match checked(context, Operation::Delete, &answer) {
        Ok(()) | Err(VendorError::Gone(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The ticket of a task that an operator found.
pub fn ticket_of(id: &str) -> Result<Value, String> {
    match clean_id(id.trim()) {
        Some(id) => Ok(json!({ "task_id": id })),
        None => Err(format!("'{id}' is no taskId: letters, digits and -_.:~ only")),
    }
}

/// A derived file of rows, one JSON value a line.
struct RowFile {
    writer: Writer,
    rows: u64,
}

impl RowFile {
    fn new(context: &Context<'_>, request: &Request, name: &str) -> RowFile {
        let simulated = super::simulated(&request.base_url);
        let label = Label { name: name.into(), expect: Expect::Ndjson, derived: true, simulated };
        RowFile { writer: context.spool.file(label), rows: 0 }
    }

    /// Each row verbatim, on a line of its own: line ends in JSON stand between tokens, where a space does as well.
    async fn add(&mut self, rows: &[Box<RawValue>]) -> Result<(), VendorError> {
        let mut text = String::new();
        for row in rows {
            text.extend(row.get().chars().map(|c| if matches!(c, '\r' | '\n') { ' ' } else { c }));
            text.push('\n');
        }
        self.rows += rows.len() as u64;
        Ok(self.writer.write(Bytes::from(text)).await?)
    }

    async fn finish(self) -> Result<Spooled, VendorError> {
        Ok(self.writer.finish(&Finish::default()).await?)
    }
}

/// One conversation over pages: counts calls, asks for permits, keeps every page as received.
struct Pages<'p, 'c> {
    context: &'p Context<'c>,
    request: &'p Request,
    files: Vec<Spooled>,
    calls: u64,
}

impl Pages<'_, '_> {
    /// Fetches one page of `rows_key` and keeps it as `name`. Returns its rows and the vendor's total, where it says one.
    async fn fetch(
        &mut self,
        call: &Call,
        rows_key: &str,
        name: String,
    ) -> Result<(Vec<Box<RawValue>>, Option<u64>), VendorError> {
        let context = self.context;
        // The first call has its permit already: it came with the intent.
        if self.calls > 0 {
            context.permits.next().await?;
        }
        if self.files.len() as u64 >= u64::from(context.account.limits.max_pages) {
            let limit = context.account.limits.max_pages;
            return Err(VendorError::Protocol(format!("the query has more pages than max_pages, which is {limit}")));
        }
        self.calls += 1;
        let answer = context.http.send(call, context.secrets, Operation::Query, context.timeout()).await?;
        checked(context, Operation::Query, &answer)?;
        let Ok(body) = serde_json::from_slice::<HashMap<String, Box<RawValue>>>(&answer.body) else {
            return Err(context.unreadable(&format!("HTTP {} with a body that is not a JSON map", answer.status)));
        };
        let paging = body.get("paging").and_then(|paging| serde_json::from_str::<Value>(paging.get()).ok());
        let total = paging.as_ref().and_then(|paging| paging.get("totalCount")).and_then(Value::as_u64);
        let rows = body.get(rows_key).and_then(|rows| serde_json::from_str::<Vec<Box<RawValue>>>(rows.get()).ok());
        let Some(rows) = rows else {
            return Err(context.unreadable(&format!("the answer has no list of {rows_key}")));
        };
        let simulated = super::simulated(&self.request.base_url);
        let label = Label { name, expect: Expect::Json, derived: false, simulated };
        self.files.push(context.spool.bytes(label, answer.body).await?);
        Ok((rows, total))
    }
}

/// Whether a page was the last one: the total is reached, or, where the vendor says none, the page is not full.
fn is_last(rows: usize, collected: u64, total: Option<u64>, page_size: u32) -> bool {
    rows == 0 || total.map_or(rows < page_size as usize, |total| collected >= total)
}

async fn query(
    context: &Context<'_>,
    request: &Request,
    rows: Rows,
    with_messages: bool,
    page_size: u32,
) -> Result<Answer, VendorError> {
    let mut pages = Pages { context, request, files: Vec::new(), calls: 0 };
    let mut derived = RowFile::new(context, request, "rows.ndjson");
    let mut notes = Vec::new();
    let (mut ids, mut seen): (Vec<String>, HashSet<String>) = (Vec::new(), HashSet::new());
    let mut page = 0_u64;
    loop {
        let call = with_page(&request.call, page);
        let (list, total) = pages.fetch(&call, rows.as_str(), format!("page-{:04}.json", page + 1)).await?;
        derived.add(&list).await?;
        for row in &list {
            let Some(id) = row_id(row, rows) else {
                if with_messages {
                    return Err(context.unreadable("a session has no sessionId that can be read"));
                }
                continue;
            };
            if seen.insert(id.clone()) {
                ids.push(id);
            } else if notes.is_empty() {
                notes.push("the same row came on two pages: rows moved while they were fetched".to_owned());
            }
        }
        page += 1;
        (context.watch)(Progress::Pages(page, total.map(|t| t.div_ceil(u64::from(page_size)).max(1))));
        if is_last(list.len(), derived.rows, total, page_size) {
            if total.is_some_and(|total| derived.rows != total) {
                notes.push(format!("{} rows came, and JAICP counts {}", derived.rows, total.unwrap_or_default()));
            }
            break;
        }
    }
    let empty = derived.rows == 0;
    let mut extra = None;
    if with_messages {
        let mut messages = RowFile::new(context, request, "messages.ndjson");
        let count = ids.len() as u64;
        for (n, session) in ids.iter().enumerate() {
            let mut page = 0_u64;
            let before = messages.rows;
            loop {
                let call = session_call(request, account(context)?, session, page, page_size);
                let name = format!("session-{:06}-page-{:04}.json", n + 1, page + 1);
                let (list, total) = pages.fetch(&call, "messages", name).await?;
                messages.add(&list).await?;
                page += 1;
                if is_last(list.len(), messages.rows - before, total, page_size) {
                    break;
                }
            }
            (context.watch)(Progress::Pages(n as u64 + 1, Some(count)));
        }
        extra = Some(messages.finish().await?);
    }
    let mut files = pages.files;
    files.push(derived.finish().await?);
    files.extend(extra);
    Ok(Answer::Collected(Collected { files, empty, seen: None, notes }))
}

/// What tells one row from another: the session, message or client id, where the vendor gives one.
fn row_id(row: &RawValue, rows: Rows) -> Option<String> {
    let row: Value = serde_json::from_str(row.get()).ok()?;
    let keys: &[&str] = match rows {
        Rows::Sessions => &["sessionId"],
        Rows::Messages => &["messageId", "id"],
        Rows::Clients => &["clientId", "id"],
    };
    match keys.iter().find_map(|key| row.get(*key))? {
        Value::String(id) => Some(id.clone()),
        other => Some(other.to_string()),
    }
}

/// The first call with another page number.
fn with_page(call: &Call, page: u64) -> Call {
    let mut call = call.clone();
    // `page` is the first of the two parameters that `request::jaicp` appends.
    if let Some((head, tail)) = call.url.rsplit_once("page=0&") {
        call.url = format!("{head}page={page}&{tail}");
    }
    call
}

fn session_call(request: &Request, account: &JaicpAccount, session: &str, page: u64, page_size: u32) -> Call {
    let url = format!("{}{}", request.base_url, account.by_session_path);
    let mut call = Call {
        method: if account.by_session_post { "POST" } else { "GET" }.into(),
        url,
        headers: account.endpoint.headers.clone(),
        authorization: None,
        body: None,
    };
    call.headers.insert("accept".into(), "application/json".into());
    call.with_query("sessionId", session)
        .with_query("page", &page.to_string())
        .with_query("size", &page_size.to_string())
}

/// The call that tells most cheaply whether a token is accepted: the filters there are for sessions, `GET /filters` (the
/// vendor's OpenAPI file, REFERENCE 2.4). It makes nothing, and its answer holds neither people nor links. A task that does not
/// exist would be as cheap and say less: what a bad token gets is not documented, and may be a 404 as well. Pure.
pub fn probe(account: &JaicpAccount) -> Call {
    let url = format!("{}{}", account.endpoint.base_url, account.filters_path);
    let mut headers = account.endpoint.headers.clone();
    headers.insert("accept".into(), "application/json".into());
    Call { method: "GET".into(), url, headers, authorization: None, body: None }
        .with_query("analyticsSection", "SESSIONS")
}

/// Whether JAICP accepts the account's token, asked with [`probe`].
pub async fn check(
    http: &Http,
    account: &Account,
    secrets: &Secrets,
    spec: &JaicpAccount,
    now: DateTime<Utc>,
) -> Result<(), VendorError> {
    let answer = http.send(&probe(spec), secrets, Operation::Query, account.limits.timeout).await?;
    match refusal(secrets, now, Operation::Query, &answer) {
        Some(error) => Err(error),
        // A portal in between answers 200 to anything, with a page.
        None if serde_json::from_slice::<Value>(&answer.body).is_ok() => Ok(()),
        None => Err(VendorError::Unclear(format!("HTTP {} with a body that is not JSON", answer.status))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lean_answer_is_a_created_task_and_ids_may_be_numbers() {
        let task: Task = serde_json::from_str(r#"{"taskId": 77}"#).unwrap();
        assert_eq!((task.id(), task.seen(str::to_owned).status), (Some("77".into()), "CREATED".into()));
        let task: Task = serde_json::from_str(r#"{"taskId": "a/../b"}"#).unwrap();
        assert_eq!(task.id(), None);
    }

    #[test]
    fn pages_end_at_the_total_or_where_one_is_not_full() {
        assert!(is_last(100, 200, Some(200), 100));
        assert!(!is_last(100, 100, Some(200), 100));
        assert!(is_last(0, 100, Some(200), 100));
        assert!(is_last(99, 99, None, 100));
        assert!(!is_last(100, 100, None, 100));
    }
}
