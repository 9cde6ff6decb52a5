//! JAICP's Reporter API of the token-in-path generation: report tasks, their files, and the data endpoints.
//!
//! Served at `/api/reporter/p/{token}/…` and, as the help page writes it, without `/api`. Strict as the OpenAPI file;
//! where that is silent (errors, a deleted task, the place of a file) the answers are our guess: the platform's
//! `{error, message}`, status `DELETED`, and a link that needs no header. The two deletes that act on the whole account
//! exist, so that a test can prove that nobody calls them.

use std::collections::BTreeMap;
use std::time::Instant;

use axum::http::StatusCode;
use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::call::{Answer, Call, Fields, Object, Refusal};
use super::data::{CHANNELS, Span};
use super::fault::{FaultKind, Vendor};
use super::jaicp_export::{Export, KINDS, Plan};
use super::jaicp_filter::{Choice, choice, settings, time};
use super::jaicp_query::{Rows, by_session, known_filters, page, parameters};
use super::task::{Stage, Task};
use super::world::{State, World};

const FILES: &str = "/files/jaicp/";
/// The account's tasks.
#[derive(Default)]
pub(super) struct Store {
    tasks: BTreeMap<u64, Export>,
    pub account_wide_deletes: usize,
}

impl Store {
    pub fn created(&self) -> usize {
        self.tasks.len()
    }

    pub fn deleted(&self) -> usize {
        self.tasks.values().filter(|export| export.deleted).count()
    }
}

/// The token of a path of the Reporter and what follows it.
fn token_and_rest(path: &str) -> Option<(String, &str)> {
    let (token, rest) = path.strip_prefix("/api").unwrap_or(path).strip_prefix("/reporter/p/")?.split_once('/')?;
    // Some clients escape the token's colon; a server sees through that.
    Some((token.replace("%3A", ":").replace("%3a", ":"), rest))
}

/// The operation that a path names, if it is one of JAICP's.
pub(super) fn operation(call: &Call) -> &'static str {
    let rest = token_and_rest(&call.path).map(|(_, rest)| rest);
    match (call.method.as_str(), rest) {
        ("GET", None) if call.path.starts_with(FILES) => "download",
        ("POST", Some("sessions/filter" | "messages/filter" | "clients/filter")) => "query",
        ("GET" | "POST", Some("messages/by-session")) => "by-session",
        ("GET", Some("filters")) => "filters",
        ("GET", Some("reports")) => "list",
        ("DELETE", Some("reports")) => "delete-completed",
        ("DELETE", Some("reports/all")) => "delete-all",
        (method, Some(rest)) => match (method, rest.strip_prefix("reports/")) {
            ("GET", Some(task)) if task.starts_with("tasks/") => "task",
            ("DELETE", Some(task)) if task.starts_with("tasks/") => "delete",
            ("POST", Some(kind)) if KINDS.iter().any(|known| known.path == kind) => "create",
            _ => "unknown",
        },
        _ => "unknown",
    }
}

pub(super) fn answer(world: &World, operation: &str, call: &Call) -> Result<Answer, Refusal> {
    if operation == "download" {
        return download(world, call);
    }
    let (token, rest) = token_and_rest(&call.path).ok_or_else(|| Refusal::not_found("no such path"))?;
    if token != world.lock().credentials.jaicp_token {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "token is not valid"));
    }
    let no_rows = || world.take_fault(Vendor::Jaicp, operation, |kind| kind == FaultKind::NoRows).is_some();
    match operation {
        "create" => create(world, call, rest.strip_prefix("reports/").unwrap_or_default()),
        "task" => task(world, rest),
        "delete" => delete(world, rest),
        "list" => Ok(Answer::ok(&list(world))),
        "delete-completed" | "delete-all" => {
            let mut state = world.lock();
            state.jaicp.account_wide_deletes += 1;
            for export in state.jaicp.tasks.values_mut() {
                export.deleted |= operation == "delete-all" || export.task.stage(world.age()) == Stage::Done;
            }
            Ok(Answer::text(""))
        }
        "query" => {
            let what = match rest.split('/').next() {
                Some("sessions") => Rows::Sessions,
                Some("messages") => Rows::Messages,
                _ => Rows::Clients,
            };
            Ok(Answer::ok(&page(what, call, world.now(), no_rows())?))
        }
        "by-session" => Ok(Answer::ok(&by_session(call, no_rows())?)),
        "filters" => Ok(Answer::ok(&known_filters(call)?)),
        _ => Err(Refusal::not_found("no such path")),
    }
}

/// The platform's error shape.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    let word = match refusal.status.as_u16() {
        400 => "reporter.validation.wrong_request",
        401 => "reporter.auth.wrong_token",
        403 => "reporter.auth.forbidden",
        404 => "reporter.common.not_found",
        429 => "reporter.common.too_many_requests",
        _ => "reporter.common.internal_error",
    };
    Answer::json(refusal.status, &json!({"error": word, "message": refusal.message}))
}

fn create(world: &World, call: &Call, kind: &str) -> Result<Answer, Refusal> {
    let kind = KINDS.iter().find(|known| known.path == kind);
    let kind = kind.ok_or_else(|| Refusal::not_found("no such path"))?;
    if call.header("timezone").is_some_and(|offset| offset.parse::<i32>().is_err()) {
        return Err(Refusal::invalid("the Timezone header must be a whole number"));
    }
    let empty = call.body.is_empty() && !matches!(kind.path, "client-list" | "daily");
    let body = if empty { Object::new() } else { call.object()? };
    let fields = Fields::new(&body, "");
    let now = world.now();
    let (allowed, choice): (&[&str], _) = match kind.path {
        "telephony" => (&[], calls_choice(call, now)?),
        "daily" => (&["date", "settings"], day_choice(fields)?),
        _ => (&["filters", "settings"], choice(&body, now)?),
    };
    fields.only(allowed)?;
    if kind.path != "telephony" {
        parameters(call, &[])?;
    }
    let settings = settings(&body)?;
    let seed = format!("{}{}{:?}", kind.path, json!(body.get("filters")), choice.span);

    let mut state = world.lock();
    let id = 1 + world.ids_from + state.jaicp.tasks.len() as u64;
    let task = Task::begin(&mut state.faults, Vendor::Jaicp, "create", Instant::now());
    let plan = Plan { kind, choice, settings, sent: body.get("settings").cloned(), seed };
    let export = Export { task, created: now, deleted: false, plan };
    let answer = Answer::ok(&export.show(id, Stage::Waiting, None));
    state.jaicp.tasks.insert(id, export);
    Ok(answer)
}

/// `telephony` takes its window from the query.
fn calls_choice(call: &Call, now: DateTime<Utc>) -> Result<Choice, Refusal> {
    let params = parameters(call, &["startTime", "endTime", "botIds", "botIds[]"])?;
    let at = |name: &str| match params.iter().find(|(key, _)| key == name) {
        None => Ok(None),
        Some((_, text)) => time(text)
            .map(Some)
            .ok_or_else(|| Refusal::invalid(format!("'{name}' must be a time such as 2026-03-01T00:00:00.000Z"))),
    };
    let end = at("endTime")?.unwrap_or(now);
    let start = at("startTime")?.or_else(|| end.checked_sub_signed(TimeDelta::days(1))).unwrap_or(end);
    if start > end {
        return Err(Refusal::invalid("'startTime' must not be after 'endTime'"));
    }
    Ok(Choice { span: Span { start, end }, channels: Vec::new() })
}

/// `daily` names one date.
fn day_choice(fields: Fields<'_>) -> Result<Choice, Refusal> {
    let text = fields.text("date")?;
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().filter(|_| text.len() == 10);
    let Some((start, end)) = date.and_then(|date| Some((date, date.succ_opt()?))) else {
        return fields.wrong("date", "must be a date such as 2026-03-01");
    };
    let [start, end] = [start, end].map(|date| date.and_time(NaiveTime::MIN).and_utc());
    Ok(Choice { span: Span { start, end }, channels: CHANNELS.to_vec() })
}

fn export<'a>(state: &'a mut State, rest: &str) -> Result<(u64, &'a mut Export), Refusal> {
    let id = rest.strip_prefix("reports/tasks/t-").and_then(|id| id.parse::<u64>().ok());
    id.and_then(|id| Some((id, state.jaicp.tasks.get_mut(&id)?))).ok_or_else(not_found)
}

fn not_found() -> Refusal {
    Refusal::not_found("report task is not found")
}

fn task(world: &World, rest: &str) -> Result<Answer, Refusal> {
    let mut state = world.lock();
    let mut faults = std::mem::take(&mut state.faults);
    let answer = export(&mut state, rest).and_then(|(id, export)| {
        let seen = export.task.poll(&mut faults, (Vendor::Jaicp, "task"), world.age()).ok_or_else(not_found)?;
        let link = (seen == Stage::Done && !export.deleted).then(|| {
            let fault = export.task.link_fault(&mut faults, Vendor::Jaicp, "task");
            let name = export.plan.file_name(id, fault == Some(FaultKind::DeadLink));
            world.link(&format!("{FILES}{id}/{name}"), fault)
        });
        Ok(Answer::ok(&export.show(id, seen, link)))
    });
    state.faults = faults;
    answer
}

fn delete(world: &World, rest: &str) -> Result<Answer, Refusal> {
    let mut state = world.lock();
    let (_, export) = export(&mut state, rest)?;
    export.deleted = true;
    Ok(Answer::text(""))
}

fn list(world: &World) -> Value {
    let state = world.lock();
    let tasks = state.jaicp.tasks.iter().filter(|(_, export)| !export.deleted);
    let tasks: Vec<_> = tasks
        .map(|(id, export)| {
            let seen = export.task.stage(world.age());
            let path = format!("{FILES}{id}/{}", export.plan.file_name(*id, false));
            export.show(*id, seen, (seen == Stage::Done).then(|| world.link(&path, None)))
        })
        .collect();
    json!({"tasks": tasks})
}

fn download(world: &World, call: &Call) -> Result<Answer, Refusal> {
    let gone = || Refusal::not_found("file is not found");
    let (id, file) = call.path.strip_prefix(FILES).and_then(|rest| rest.split_once('/')).ok_or_else(gone)?;
    let id: u64 = id.parse().map_err(|_| gone())?;
    let mut state = world.lock();
    let fault = state.faults.take(Vendor::Jaicp, "download", |kind| !kind.is_of_the_wire());
    let export = state.jaicp.tasks.get(&id).filter(|export| !export.deleted).ok_or_else(gone)?;
    if export.task.stage(world.age()) != Stage::Done {
        return Err(gone());
    }
    if file != export.plan.file_name(id, false) || fault == Some(FaultKind::DeadLink) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "link is not valid"));
    }
    if export.task.has(FaultKind::Huge) || fault == Some(FaultKind::Huge) {
        return Ok(Answer::huge());
    }
    let rows = if fault == Some(FaultKind::NoRows) { 0 } else { export.rows() };
    let plan = export.plan.clone();
    drop(state);
    Ok(plan.file(rows))
}
