//! Notices of a job file: from what is written to what is frozen with a run, with every problem of it.
//!
//! A rule keeps its text as templates. Variables are filled when the connection is known; the other placeholders when the
//! notice is sent. A rule that was compiled for a connection can be frozen for it: compile.rs has tried.

mod bik;
pub mod file;

use std::path::Path as FilePath;

use serde_json::{Map, Value};

use crate::connection::Connection;
use crate::connection::secret::SecretRef;
use crate::delivery::email::is_recipient;
use crate::delivery::notice::{BikNotice, Email, Landing, Notice, Notices, Webhook};
use crate::template::{Name, Place, Template, Tree};
use crate::yaml::{Finding, Path, Severity, did_you_mean};
use file::{BikTicketFile, NoticeFile, TriggerWord};

const UNPRINTABLE: &str = "a notice holds a control character, which no mail, row or address can carry";

/// Whether a text in it has a control character; line breaks and tabs may stand in texts.
fn has_control(value: &Value) -> bool {
    match value {
        Value::String(text) => text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')),
        Value::Array(list) => list.iter().any(has_control),
        Value::Object(map) => map.values().any(has_control),
        _ => false,
    }
}

/// Which list a notice stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// A report came.
    Deliver,
    /// Something needs a person.
    Alert,
}

impl List {
    /// Its key.
    pub fn key(self) -> &'static str {
        match self {
            List::Deliver => "deliver",
            List::Alert => "alert",
        }
    }

    fn on(self) -> Vec<TriggerWord> {
        match self {
            List::Deliver => vec![TriggerWord::Schedule],
            List::Alert => vec![TriggerWord::Schedule, TriggerWord::Manual, TriggerWord::Fill],
        }
    }
}

/// One notice of a job: for which runs, and what, with variables still to fill.
#[derive(Clone, Debug, PartialEq)]
pub struct NoticeRule {
    /// The runs it is for.
    pub on: Vec<TriggerWord>,
    tree: Tree,
}

/// What the runs of one series tell, each notice with the runs it is for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Telling {
    /// When a report came.
    pub deliver: Vec<(Vec<TriggerWord>, Notice)>,
    /// When something needs a person.
    pub alert: Vec<(Vec<TriggerWord>, Notice)>,
    /// `env:NAME` or `file:PATH` of the URL that is pinged.
    pub heartbeat: Option<String>,
}

impl Telling {
    /// What a run tells that was made by this trigger. Only a schedule's runs are pinged: a run by hand says nothing about
    /// whether the schedule lives.
    pub fn of(&self, trigger: TriggerWord) -> Notices {
        let of = |list: &[(Vec<TriggerWord>, Notice)]| {
            list.iter().filter(|(on, _)| on.contains(&trigger)).map(|(_, notice)| notice.clone()).collect()
        };
        Notices {
            deliver: of(&self.deliver),
            alert: of(&self.alert),
            heartbeat: self.heartbeat.clone().filter(|_| trigger == TriggerWord::Schedule),
        }
    }
}

/// Compiles a list. Its variables are not looked at: see [`check_for_all`].
pub fn compile(
    list: &[NoticeFile],
    which: List,
    at: &Path,
    root: &FilePath,
    out: &mut Vec<Finding>,
) -> Vec<NoticeRule> {
    let mut rules = Vec::new();
    for (i, notice) in list.iter().enumerate() {
        let at = at.index(i);
        let before = out.len();
        check_kinds(notice, which, &at, out);
        let mut notice = notice.clone();
        make_absolute(&mut notice, root, &at, out);
        let Ok(value) = serde_json::to_value(&notice) else { continue };
        let mut problems = Vec::new();
        let tree = Tree::parse(&value, Place::Notice, &at, &mut |path, message| {
            problems.push(Finding::error(path.clone(), message));
        });
        out.append(&mut problems);
        if has_control(&value) {
            out.push(Finding::error(at.clone(), UNPRINTABLE));
        }
        if !out[before..].iter().any(|f| f.severity == Severity::Error) {
            rules.push(NoticeRule { on: notice.on.unwrap_or_else(|| which.on()), tree });
        }
    }
    rules
}

/// Tells what keeps a rule from being frozen for this connection: unknown variables, values of a wrong kind, an account that
/// is missing.
fn check_for(rule: &NoticeRule, connection: &Connection, at: &Path, out: &mut Vec<Finding>) {
    let mut unknown = Vec::new();
    rule.tree.each_template(at, &mut |path, template: &Template| {
        for var in template.vars().filter(|var| !connection.vars.contains_key(*var)) {
            let known: Vec<&str> = connection.vars.keys().map(String::as_str).collect();
            let guess =
                did_you_mean(var, &known).map_or_else(String::new, |w| format!(", did you mean '{{var.{w}}}'?"));
            let name = &connection.name;
            let message = format!("unknown variable '{{var.{var}}}': connection {name} has no such var{guess}");
            unknown.push(Finding::error(path.clone(), message));
        }
    });
    if !unknown.is_empty() {
        out.append(&mut unknown);
        return;
    }
    match rule.filled(connection) {
        Err(message) => out.push(Finding::error(at.clone(), message)),
        Ok(file) if serde_json::to_value(&file).is_ok_and(|value| has_control(&value)) => {
            out.push(Finding::error(at.clone(), format!("{UNPRINTABLE} (in a variable's value)")));
        }
        Ok(file) => {
            let mut filled = Vec::new();
            // The literal parts were found good; what is wrong now is a variable's value.
            check_bik(&file, at, &mut filled);
            out.extend(filled.into_iter().filter(|finding| finding.severity == Severity::Error));
            check_notice(&frozen(file, connection), connection, at, out);
        }
    }
}

/// The same for each connection of a job. Rules that the job `inherited` stand in no line of its file: what is wrong with them
/// is told at its top, with where they are from.
pub fn check_for_all(
    rules: &[NoticeRule],
    which: List,
    inherited: bool,
    connections: &[Connection],
    out: &mut Vec<Finding>,
) {
    let at = Path::root().key(which.key());
    for (i, rule) in rules.iter().enumerate() {
        let mut found = Vec::new();
        for connection in connections {
            check_for(rule, connection, &at.index(i), &mut found);
        }
        if inherited {
            for finding in &mut found {
                finding.path = Path::root();
                finding.message = format!("defaults.{} of the config: {}", which.key(), finding.message);
            }
        }
        found.dedup();
        out.append(&mut found);
    }
}

/// The URL that is pinged when a scheduled run ends: named, not held.
pub fn heartbeat(text: Option<&str>, root: &FilePath, out: &mut Vec<Finding>) -> Option<String> {
    let mut text = text?.to_owned();
    let before = out.len();
    secret(&mut text, root, &Path::root().key("heartbeat"), out);
    (out.len() == before).then_some(text)
}

impl NoticeRule {
    /// The notice for a connection: its variables filled. The error says what a variable's value spoils.
    pub fn freeze(&self, connection: &Connection) -> Result<Notice, String> {
        self.filled(connection).map(|file| frozen(file, connection))
    }

    /// The notice as it would stand in the file without variables.
    fn filled(&self, connection: &Connection) -> Result<NoticeFile, String> {
        let value = self.tree.fill_some(&|name| match name {
            Name::Var(var) => Some(connection.vars.get(var).cloned().unwrap_or(Value::Null)),
            _ => None,
        });
        serde_json::from_value(value).map_err(|e| format!("a variable's value does not fit here: {e}"))
    }
}

fn frozen(file: NoticeFile, connection: &Connection) -> Notice {
    if let Some(email) = file.email {
        let to = email.to.map(|to| to.0).unwrap_or_default();
        Notice::Email(Email { to, subject: email.subject, attach: email.attach.unwrap_or(false) })
    } else if let Some(webhook) = file.webhook {
        Notice::Webhook(Webhook { url: webhook.url.unwrap_or_default(), keys: webhook.keys.unwrap_or_default() })
    } else if let Some(copy) = file.file {
        Notice::File(Landing { url: copy.url.unwrap_or_default() })
    } else if let Some(ticket) = file.bik_ticket {
        Notice::BikTicket(bik(connection, ticket_body(&ticket, connection)))
    } else {
        Notice::BikEvent(bik(connection, object(&file.bik_event.unwrap_or_default())))
    }
}

/// The set fields of a file's struct, by their names.
fn object(file: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(file) {
        Ok(Value::Object(map)) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

fn bik(connection: &Connection, body: Map<String, Value>) -> BikNotice {
    // A connection without an account is told by check_notice.
    let base_url = connection.bik.as_ref().map(|bik| bik.endpoint.base_url.clone()).unwrap_or_default();
    BikNotice { base_url, body }
}

fn ticket_body(ticket: &BikTicketFile, connection: &Connection) -> Map<String, Value> {
    let mut ticket = ticket.clone();
    if ticket.bikCustomerId.is_none() {
        ticket.bikCustomerId = connection.bik.as_ref().and_then(|bik| bik.customer_id.clone());
    }
    object(&ticket)
}

/// What does not depend on a connection.
fn check_kinds(notice: &NoticeFile, which: List, at: &Path, out: &mut Vec<Finding>) {
    let kinds = [
        ("email", notice.email.is_some()),
        ("webhook", notice.webhook.is_some()),
        ("file", notice.file.is_some()),
        ("bik_ticket", notice.bik_ticket.is_some()),
        ("bik_event", notice.bik_event.is_some()),
    ];
    if kinds.iter().filter(|(_, set)| *set).count() != 1 {
        let words = kinds.map(|(word, _)| word).join(", ");
        out.push(Finding::error(at.clone(), format!("a notice needs exactly one of {words}")));
    }
    if notice.on.as_ref().is_some_and(Vec::is_empty) {
        out.push(Finding::error(at.key("on"), "on is empty: name schedule, manual or fill, or leave the key out"));
    }
    if notice.email.as_ref().is_some_and(|mail| mail.to.as_ref().is_none_or(|to| to.0.is_empty())) {
        out.push(Finding::error(at.key("email"), "email needs at least one address in 'to'"));
    }
    if notice.file.is_some() && which == List::Alert {
        let message = "file copies a report, and there is none to an alert: put it under deliver";
        out.push(Finding::error(at.key("file"), message).at_key());
    }
    check_bik(notice, at, out);
}

fn check_bik(notice: &NoticeFile, at: &Path, out: &mut Vec<Finding>) {
    if let Some(event) = &notice.bik_event {
        bik::check_event(event, &at.key("bik_event"), out);
    }
    if let Some(ticket) = &notice.bik_ticket {
        bik::check_ticket(ticket, &at.key("bik_ticket"), out);
    }
}

/// Paths and secret files of a notice are relative to the config; past here they are absolute.
fn make_absolute(notice: &mut NoticeFile, root: &FilePath, at: &Path, out: &mut Vec<Finding>) {
    if let Some(webhook) = &mut notice.webhook {
        let at = at.key("webhook");
        match &mut webhook.url {
            None => out.push(Finding::error(at.clone(), "webhook needs 'url'")),
            Some(url) if url.starts_with("env:") || url.starts_with("file:") => {
                secret(url, root, &at.key("url"), out);
            }
            Some(url) => {
                if url.split('/').nth(2).is_some_and(|authority| authority.contains('@')) {
                    let message = "a secret in clear: a URL with credentials is env:NAME or file:PATH";
                    out.push(Finding::error(at.key("url"), message).secret());
                }
                let scheme = url.starts_with("https://") || url.starts_with("http://");
                if !scheme || (!url.contains('{') && url::Url::parse(url).is_err()) {
                    let message = "webhook.url is https://…, or env:NAME or file:PATH of such a URL";
                    out.push(Finding::error(at.key("url"), message).secret());
                }
            }
        }
        match &mut webhook.keys {
            Some(keys) if !keys.is_empty() => {
                for (i, key) in keys.iter_mut().enumerate() {
                    secret(key, root, &at.key("keys").index(i), out);
                }
            }
            _ => out.push(Finding::error(at, "webhook needs 'keys': env:NAME or file:PATH of what signs it")),
        }
    }
    if let Some(copy) = &mut notice.file {
        let at = at.key("file");
        match &mut copy.url {
            Some(url) if !url.trim().is_empty() => {
                if let Err(message) = landing(url, root) {
                    out.push(Finding::error(at.key("url"), message).secret());
                }
            }
            _ => out.push(Finding::error(at, "file needs 'url': a path, or s3://bucket/key")),
        }
    }
}

/// Checks and completes the place of a copy.
fn landing(url: &mut String, root: &FilePath) -> Result<(), String> {
    if let Some(path) = url.strip_prefix("file://") {
        *url = path.to_owned();
    }
    if let Some(rest) = url.strip_prefix("s3://") {
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') {
            return Err(
                "a secret in clear: the keys of an object store are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".into(),
            );
        }
        if bucket.is_empty() || bucket.contains('{') || key.is_empty() {
            return Err("an object store's URL is s3://bucket/key, placeholders in the key only".into());
        }
        return Ok(());
    }
    if url.contains("://") {
        return Err(format!("'{url}': this version copies to a path or to s3://bucket/key"));
    }
    *url = root.join(&*url).to_string_lossy().into_owned();
    Ok(())
}

fn secret(text: &mut String, root: &FilePath, at: &Path, out: &mut Vec<Finding>) {
    match SecretRef::parse(text, root) {
        Ok(secret) => *text = secret.to_string(),
        // The line itself may hold the secret, so it is not shown.
        Err(message) => out.push(Finding::error(at.clone(), message.to_owned()).secret()),
    }
}

/// What a notice for a connection must be, once its variables are filled.
fn check_notice(notice: &Notice, connection: &Connection, at: &Path, out: &mut Vec<Finding>) {
    match notice {
        Notice::Email(email) => {
            // Placeholders name jobs, windows and runs: without an @ beside them there is no address.
            let wrong = |to: &&String| if to.contains('{') { !to.contains('@') } else { !is_recipient(to) };
            for address in email.to.iter().filter(wrong) {
                let message = format!("'{address}' is not an e-mail address");
                out.push(Finding::error(at.key("email").key("to"), message));
            }
        }
        Notice::BikTicket(ticket) => {
            if connection.bik.is_none() {
                let message = format!("bik_ticket: connection {} has no bik account", connection.name);
                out.push(Finding::error(at.key("bik_ticket"), message).at_key());
            } else if !ticket.body.contains_key("bikCustomerId") {
                let name = &connection.name;
                let message =
                    format!("bik_ticket needs 'bikCustomerId', here or in the bik account of connection {name}");
                out.push(Finding::error(at.key("bik_ticket"), message));
            }
        }
        Notice::BikEvent(_) if connection.bik.is_none() => {
            let message = format!("bik_event: connection {} has no bik account", connection.name);
            out.push(Finding::error(at.key("bik_event"), message).at_key());
        }
        Notice::BikEvent(_) | Notice::Webhook(_) | Notice::File(_) | Notice::Heartbeat(_) => {}
    }
}
