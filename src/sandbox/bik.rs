//! BIK's platform functions, as its pages describe them: HTTP Basic, JSON by POST, `{status, success, data}` back.
//!
//! Stricter than the real vendor may be: unknown keys, names that no page lists and addresses that are none are refused.
//! A report's `dateRange` takes ISO timestamps or plain dates, since both were seen to be accepted; a plain `endDate`
//! names the last day, which is included. "Mails" are only written down, never sent.

use std::collections::BTreeMap;
use std::time::Instant;

use axum::http::{Method, StatusCode};
use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use serde_json::{Value, json};

use super::call::{Answer, CSV, Call, Fields, Object, Refusal, instant};
use super::data::{CHANNELS, Cell, Dice, Sheet, Span};
use super::fault::{FaultKind, Vendor};
use super::task::{Stage, Task};
use super::ticket;
use super::world::{Mail, World};

const FUNCTIONS: &str = "/integrations/bikPlatformFunctions-";
const FILES: &str = "/files/bik/";

const TYPES: [&str; 5] = ["Overall", "Campaigns", "Helpdesk", "Journeys", "Widgets"];

/// The page's names, curly apostrophe included, and the one that a public client is known to use besides.
const NAMES: [&str; 24] = [
    "Popup Conversions",
    "Campaign(s) Message Failure Overview",
    "Whatsapp Payment Report",
    "Agent Engagement",
    "Overall CSAT/NPS",
    "Channel Engagement",
    "Label Engagement",
    "Customer Conversations",
    "Events conversion report",
    "Ticket’s Overview",
    "Journey overall report",
    "Campaign Summary Report",
    "Campaign(s) Opt-Out and Bounce",
    "Campaign(s) Conversion Events Report",
    "Ledger report",
    "Agent SLA report",
    "Price please automation report",
    "Customer Delivery Failure Report",
    "Overall customers report",
    "Popup Insights",
    "Customer Conversion Summary report",
    "Customer ticket report",
    "Journey keywords report",
    "Customer ticket report (with forms)",
];

const FILTER_CHANNELS: [&str; 5] = ["whatsapp", "email", "instagram", "messenger", "livechat"];

const COLUMNS: [(&str, Cell); 7] = [
    ("Date", Cell::Time),
    ("Agent", Cell::Agent),
    ("Channel", Cell::Channel),
    ("Label", Cell::Label),
    ("Customer note", Cell::Text),
    ("Conversations", Cell::Number(40)),
    ("First response (s)", Cell::Number(900)),
];

/// The account's reports; the first id is the one after the page's sample.
#[derive(Default)]
pub(super) struct Store {
    reports: BTreeMap<u64, Report>,
    pub tickets: usize,
    pub events: usize,
}

struct Report {
    task: Task,
    span: Span,
    /// What the rows depend on: the request without addresses and description.
    seed: String,
    channel: Option<&'static str>,
}

impl Store {
    pub fn reports(&self) -> usize {
        self.reports.len()
    }
}

/// The operation that a path names, if it is one of BIK's.
pub(super) fn operation(call: &Call) -> &'static str {
    if call.path.starts_with(FILES) && call.method == Method::GET {
        return "download";
    }
    match call.path.strip_prefix(FUNCTIONS) {
        _ if call.method != Method::POST => "unknown",
        Some("generateReport") => "generateReport",
        Some("getReportById") => "getReportById",
        Some("authPartnerViaKey") => "authPartnerViaKey",
        Some("createAndAssignTicket") => "createAndAssignTicket",
        Some("events/sendEvent") => "sendEvent",
        _ => "unknown",
    }
}

pub(super) fn answer(world: &World, operation: &str, call: &Call) -> Result<Answer, Refusal> {
    if operation == "download" {
        return download(world, call);
    }
    let credentials = world.lock().credentials.clone();
    if call.basic() != Some((credentials.bik_key, credentials.bik_secret)) {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized"));
    }
    match operation {
        "generateReport" => generate_report(world, &call.object()?),
        "getReportById" => get_report(world, &call.object()?),
        "authPartnerViaKey" => {
            Fields::new(&call.object()?, "").only(&["appId"])?.text("appId")?;
            // A string, as in the vendor's sample; its table says number.
            Ok(Answer::ok(&json!({"status": "200"})))
        }
        "createAndAssignTicket" => {
            let body = call.object()?;
            ticket::check(&body)?;
            let mut state = world.lock();
            state.bik.tickets += 1;
            Ok(success(&ticket::created(&body, 303_454 + state.bik.tickets)))
        }
        "sendEvent" => {
            ticket::check_event(&call.object()?)?;
            world.lock().bik.events += 1;
            Ok(Answer::ok(&json!({"status": 200, "success": true})))
        }
        _ => Err(Refusal::not_found("Not Found")),
    }
}

/// BIK's error shape; downloads are served by a storage service with its own.
pub(super) fn refused(operation: &str, refusal: &Refusal) -> Answer {
    let (status, message) = (refusal.status, &refusal.message);
    if operation == "download" {
        return Answer::json(status, &json!({"error": {"code": status.as_u16(), "message": message}}));
    }
    Answer::json(status, &errors(status.as_u16(), message))
}

/// BIK's error body, which may also come inside HTTP 200.
pub(super) fn errors(status: u16, message: &str) -> Value {
    json!({"status": status, "errors": [{"message": message}]})
}

fn success(data: &Value) -> Answer {
    Answer::ok(&json!({"status": 200, "success": true, "data": data}))
}

fn generate_report(world: &World, body: &Object) -> Result<Answer, Refusal> {
    let allowed = ["reportType", "reportName", "dateRange", "emails", "reportDescription", "filters", "appId"];
    let fields = Fields::new(body, "").only(&allowed)?;
    fields.word("reportType", &TYPES)?;
    let name = fields.text("reportName")?;
    if !NAMES.contains(&name) {
        return fields.wrong("reportName", "is not the name of a report; names are case-sensitive");
    }
    fields.maybe_text("reportDescription")?;
    fields.maybe_text("appId")?;

    let range = Fields::new(fields.object("dateRange")?, "dateRange").only(&["startDate", "endDate"])?;
    let (Some(start), Some(end)) = (moment(range.text("startDate")?, 0), moment(range.text("endDate")?, 1)) else {
        return Err(Refusal::invalid("'dateRange' must hold ISO timestamps"));
    };
    if start >= end {
        return range.wrong("startDate", "must be before 'dateRange.endDate'");
    }

    let emails = fields.list_of("emails", "e-mail addresses", |email| email.as_str().is_some_and(is_email))?;
    if emails.is_empty() {
        return fields.wrong("emails", "must hold at least one address");
    }

    let mut channel = None;
    if let Some(filters) = fields.maybe_object("filters")? {
        let filters = Fields::new(filters, "filters").only(&["channel", "groupBy"])?;
        let wanted = filters.maybe_word("channel", &FILTER_CHANNELS)?;
        channel = FILTER_CHANNELS.into_iter().find(|known| Some(*known) == wanted);
        filters.maybe_word("groupBy", &["day", "week", "month"])?;
    }

    let seed =
        ["reportType", "reportName", "dateRange", "filters"].map(|key| json!(fields.get(key)).to_string()).concat();
    let mut state = world.lock();
    let id = 44_590 + world.ids_from + state.bik.reports.len() as u64;
    let task = Task::begin(&mut state.faults, Vendor::Bik, "generateReport", Instant::now());
    state.bik.reports.insert(id, Report { task, span: Span { start, end }, seed, channel });
    let at = world.now();
    state.mails.extend(emails.iter().filter_map(Value::as_str).map(|to| Mail {
        to: to.to_owned(),
        report_name: name.to_owned(),
        report_history_id: id,
        at,
    }));
    Ok(success(&json!({"reportHistoryId": id})))
}

fn get_report(world: &World, body: &Object) -> Result<Answer, Refusal> {
    let fields = Fields::new(body, "").only(&["reportHistoryId", "appId"])?;
    fields.maybe_text("appId")?;
    let Some(id) = fields.need("reportHistoryId")?.as_u64() else {
        return fields.wrong("reportHistoryId", "must be a number");
    };
    let unknown = || Refusal::not_found("Report not found");
    let mut state = world.lock();
    let state = &mut *state;
    let report = state.bik.reports.get_mut(&id).ok_or_else(unknown)?;
    let seen = report.task.poll(&mut state.faults, (Vendor::Bik, "getReportById"), world.age()).ok_or_else(unknown)?;
    // Before the end the link is missing or null: nobody documents which.
    Ok(success(&match seen {
        Stage::Waiting => json!({"reportStatus": "QUEUE"}),
        Stage::Running(_) => json!({"reportStatus": "IN_PROGRESS", "downloadLink": null}),
        Stage::Odd => json!({"reportStatus": "RE_QUEUED"}),
        Stage::Failed | Stage::Stopped => json!({"reportStatus": "FAILED", "downloadLink": null}),
        Stage::Done => {
            let fault = report.task.link_fault(&mut state.faults, Vendor::Bik, "getReportById");
            let token = if fault == Some(FaultKind::DeadLink) { "revoked".to_owned() } else { token_of(id) };
            let path = format!("{FILES}{id}.csv?alt=media&token={token}");
            json!({"reportStatus": "COMPLETED", "downloadLink": world.link(&path, fault)})
        }
    }))
}

fn download(world: &World, call: &Call) -> Result<Answer, Refusal> {
    let id = call.path.strip_prefix(FILES).and_then(|name| name.strip_suffix(".csv")?.parse::<u64>().ok());
    let mut state = world.lock();
    let fault = state.faults.take(Vendor::Bik, "download", |kind| !kind.is_of_the_wire());
    let report = id.and_then(|id| state.bik.reports.get(&id));
    let (Some(id), Some(report)) = (id, report.filter(|report| report.task.stage(world.age()) == Stage::Done)) else {
        return Err(Refusal::not_found("Not Found."));
    };
    let token = call.params().into_iter().find(|(key, _)| key == "token");
    if token.is_none_or(|(_, token)| token != token_of(id)) || fault == Some(FaultKind::DeadLink) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "Permission denied."));
    }
    let has = |kind| report.task.has(kind) || fault == Some(kind);
    if has(FaultKind::Huge) {
        return Ok(Answer::huge());
    }
    let no_rows = has(FaultKind::NoRows);
    let (span, seed, channel) = (report.span, report.seed.clone(), report.channel);
    drop(state);

    let rows = if no_rows { 0 } else { span.row_count(&seed) };
    let channels = channel.map_or(CHANNELS.to_vec(), |channel| vec![channel]);
    let sheet = Sheet { columns: &COLUMNS, span, seed: &seed, rows, channels: &channels, time_pattern: "" };
    Ok(Answer::new(StatusCode::OK, CSV, sheet.csv(',', true)))
}

fn token_of(id: u64) -> String {
    let mut dice = Dice::new(&["bik", &id.to_string()]);
    format!("{:016x}{:016x}", dice.roll(), dice.roll())
}

/// A timestamp, or the midnight that is `days` after a plain date's.
fn moment(text: &str, days: u64) -> Option<DateTime<Utc>> {
    instant(text).or_else(|| {
        let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().filter(|_| text.len() == 10)?;
        Some(date.checked_add_days(Days::new(days))?.and_time(NaiveTime::MIN).and_utc())
    })
}

fn is_email(text: &str) -> bool {
    text.split_once('@').is_some_and(|(name, domain)| {
        let plain = |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || "@,;<>".contains(c));
        plain(name)
            && plain(domain)
            && domain.split('.').count() > 1
            && domain.split('.').all(|label| !label.is_empty())
    })
}
