//! Job + connection + window -> [`Request`]: the pure function the whole product rests on.
//!
//! `plan`, `run-job`, the planner and `fill` all come through [`request`], so what is shown is what is sent. It is total for
//! jobs that compile.rs let through, but for what only a window can spoil (`daily` with a longer one).

use serde_json::{Map, Value};

use super::Job;
use super::ask::{Ask, BikAsk, JaicpAsk, LivechatAsk};
use crate::connection::Connection;
use crate::request::jaicp::ReportKind;
use crate::request::window::Window;
use crate::request::{Request, Shape, bik, canonical_hash, jaicp, livechat};
use crate::template::Name;
use crate::yaml::Path;

/// Why a job cannot be resolved for one connection and window.
#[derive(Clone, Debug, PartialEq)]
pub struct Unresolved {
    /// Where in the job file.
    pub path: Path,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for Unresolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for Unresolved {}

fn unresolved<T>(path: Path, message: impl Into<String>) -> Result<T, Unresolved> {
    Err(Unresolved { path, message: message.into() })
}

/// Whom BIK mails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mailing {
    /// The job's own `emails`: runs that a schedule made, and others only with `--mail`.
    Job,
    /// The connection's `quiet_emails`, or the job's where there are none.
    Quiet,
}

/// What placeholders stand for; with `window` missing the window's names stay as they are, which is how the content hash is
/// made independent of the window.
struct Context<'a> {
    job: &'a str,
    connection: &'a Connection,
    window: Option<&'a Window>,
}

impl Context<'_> {
    fn lookup(&self, name: &Name) -> Value {
        let window = |get: fn(&Window) -> String, word: &str| match self.window {
            Some(window) => get(window).into(),
            None => format!("{{{word}}}").into(),
        };
        match name {
            Name::WindowStart => window(Window::start_rfc3339, "window.start"),
            Name::WindowEnd => window(Window::end_rfc3339, "window.end"),
            Name::WindowLabel => window(Window::label, "window.label"),
            Name::Job => self.job.into(),
            Name::Connection => self.connection.name.clone().into(),
            Name::Var(var) => self.connection.vars.get(var).cloned().unwrap_or(Value::Null),
            // Templates of requests were parsed without these two.
            Name::Failure | Name::Run => Value::Null,
        }
    }
}

/// The request of one run.
pub fn request(job: &Job, connection: &Connection, window: &Window, mailing: Mailing) -> Result<Request, Unresolved> {
    let filled = Context { job: &job.name, connection, window: Some(window) };
    let hashed = Context { window: None, ..filled };
    let vendor = job.vendor();
    let missing = || Unresolved {
        path: Path::root().key("connections"),
        message: format!("connection {} has no {vendor} account", connection.name),
    };
    let mut emails = Vec::new();
    let (call, shape, identity, base_url) = match &job.ask {
        Ask::Bik(ask) => {
            let account = connection.bik.as_ref().ok_or_else(missing)?;
            let mut params = bik_params(ask, &filled)?;
            if mailing == Mailing::Quiet
                && let Some(quiet) = &account.quiet_emails
            {
                params.emails.clone_from(quiet);
            }
            emails.clone_from(&params.emails);
            let identity = bik::identity(&bik_params(ask, &hashed)?);
            (bik::prepare(&params, &account.endpoint, window), Shape::BikReport, identity, &account.endpoint.base_url)
        }
        Ask::Livechat(ask) => {
            let account = connection.livechat.as_ref().ok_or_else(missing)?;
            let identity = livechat::identity(&livechat_params(ask, &hashed)?, window.zone().name());
            let call = livechat::prepare(&livechat_params(ask, &filled)?, &account.endpoint, window);
            let shape = Shape::LivechatReport { paged: ask.report == livechat::PAGED_REPORT };
            (call, shape, identity, &account.endpoint.base_url)
        }
        Ask::Jaicp(ask) => {
            let account = connection.jaicp.as_ref().ok_or_else(missing)?;
            let params = jaicp_params(ask, &filled)?;
            let identity = jaicp::identity(&jaicp_params(ask, &hashed)?);
            let shape = jaicp_shape(&params, window, account.endpoint.page_size)?;
            (jaicp::prepare(&params, &account.endpoint, window), shape, identity, &account.endpoint.base_url)
        }
    };
    Ok(Request {
        vendor,
        call,
        shape,
        window: *window,
        base_url: base_url.clone(),
        content_hash: canonical_hash(&identity),
        emails,
        deadline_s: job.policy.deadline.as_secs(),
        give_up_s: job.policy.give_up.as_secs(),
        on_unknown: job.policy.on_unknown,
    })
}

fn bik_params(ask: &BikAsk, context: &Context<'_>) -> Result<bik::BikParams, Unresolved> {
    let lookup = |name: &Name| context.lookup(name);
    let at = Path::root().key("bik");
    let text = |template: &crate::template::Template, key: &str| match template.fill(&lookup) {
        Value::String(text) if !text.trim().is_empty() => Ok(text),
        other => unresolved(at.key(key), format!("{key} must be a text, and is {}", kind_of(&other))),
    };
    let Value::Array(list) = ask.emails.fill(&lookup) else {
        return unresolved(at.key("emails"), "emails must be a list of addresses");
    };
    let mut emails = Vec::new();
    for (i, value) in list.iter().enumerate() {
        match value.as_str() {
            Some(address) if is_address(address) => emails.push(address.to_owned()),
            _ => return unresolved(at.key("emails").index(i), format!("{value} is not an e-mail address")),
        }
    }
    if emails.is_empty() {
        return unresolved(at.key("emails"), "emails is empty: BIK refuses a report without an address");
    }
    let filters = match ask.filters.as_ref().map(|f| f.fill(&lookup)) {
        Some(Value::Object(map)) => Some(map),
        _ => None,
    };
    Ok(bik::BikParams {
        report_type: text(&ask.report_type, "reportType")?,
        report_name: text(&ask.report_name, "reportName")?,
        description: ask.description.as_ref().map(|t| text(t, "reportDescription")).transpose()?,
        emails,
        filters,
        date_format: ask.date_format,
    })
}

fn livechat_params(ask: &LivechatAsk, context: &Context<'_>) -> Result<livechat::LivechatParams, Unresolved> {
    let Value::Object(filters) = ask.filters.fill(&|name| context.lookup(name)) else {
        return unresolved(Path::root().key("livechat").key("filters"), "filters must be a map");
    };
    Ok(livechat::LivechatParams {
        report: ask.report.clone(),
        distribution: ask.distribution.clone(),
        filters,
        time: ask.time.clone(),
    })
}

fn jaicp_params(ask: &JaicpAsk, context: &Context<'_>) -> Result<jaicp::JaicpParams, Unresolved> {
    let at = Path::root().key("jaicp").key("filters");
    let Value::Array(list) = ask.filters.fill(&|name| context.lookup(name)) else {
        return unresolved(at, "filters must be a list");
    };
    let mut filters: Vec<Map<String, Value>> = Vec::new();
    for (i, filter) in list.into_iter().enumerate() {
        match filter {
            Value::Object(map) => filters.push(map),
            other => return unresolved(at.index(i), format!("a filter is a map, and this is {}", kind_of(&other))),
        }
    }
    Ok(jaicp::JaicpParams { ask: ask.kind.clone(), filters, headers: ask.headers.clone() })
}

fn jaicp_shape(params: &jaicp::JaicpParams, window: &Window, page_size: u32) -> Result<Shape, Unresolved> {
    match &params.ask {
        jaicp::JaicpAsk::Report { kind, settings, delete_after, .. } => {
            let (first, last) = window.local_dates();
            if *kind == ReportKind::Daily && first != last {
                let message = format!("the daily report takes one day, and the window is {}", window.label());
                return unresolved(Path::root().key("window"), message);
            }
            Ok(Shape::JaicpReport {
                file_type: settings.as_ref().map(|s| s.file_type),
                with_header: settings.as_ref().and_then(|s| s.with_header).unwrap_or(true),
                delete_after: *delete_after,
            })
        }
        jaicp::JaicpAsk::Query { rows, with_messages } => {
            Ok(Shape::JaicpQuery { rows: *rows, with_messages: *with_messages, page_size })
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "an empty text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// Whether `text` has the form of an e-mail address; the mail server has the last word.
pub fn is_address(text: &str) -> bool {
    let plain =
        |s: &str| !s.is_empty() && !s.chars().any(|c| c.is_whitespace() || c.is_control() || "<>,;\"@".contains(c));
    match text.rsplit_once('@') {
        Some((local, domain)) => plain(local) && plain(domain) && !domain.starts_with('.') && !domain.ends_with('.'),
        None => false,
    }
}
