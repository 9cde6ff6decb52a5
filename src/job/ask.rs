//! The vendor block of a job: what is asked, with its placeholders found. Pure.
//!
//! Loose on vendor vocabulary (a report name or filter that no page lists only warns: the vendors' lists are incomplete and
//! grow), strict on structure (what the vendor would refuse anyway, or answer with the wrong report).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::file::{BikFile, FileTypeFile, JaicpFile, JaicpSettingsFile, LivechatFile, Words};
use super::policy::{keep, one_of};
use super::template::{Place, Template, Tree};
use crate::request::bik::{CHANNELS, DateFormat, GROUP_BY, REPORT_NAMES, REPORT_TYPES};
use crate::request::jaicp::{FILTER_KEYS, FILTER_TYPES, FileSettings, ReportKind};
use crate::request::livechat::{DISTRIBUTIONS, REPORTS, TimePair};
use crate::request::{FileType, Rows, Vendor};
use crate::yaml::{Finding, Free, Named, Path, did_you_mean};

/// What one job asks of its vendor.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// BIK generateReport.
    Bik(BikAsk),
    /// LiveChat report.
    Livechat(LivechatAsk),
    /// JAICP report or query.
    Jaicp(JaicpAsk),
}

impl Ask {
    /// Whom it asks.
    pub fn vendor(&self) -> Vendor {
        match self {
            Ask::Bik(_) => Vendor::Bik,
            Ask::Livechat(_) => Vendor::Livechat,
            Ask::Jaicp(_) => Vendor::Jaicp,
        }
    }
}

/// A BIK report.
#[derive(Clone, Debug, PartialEq)]
pub struct BikAsk {
    /// `reportType`.
    pub report_type: Template,
    /// `reportName`.
    pub report_name: Template,
    /// `reportDescription`.
    pub description: Option<Template>,
    /// `emails`.
    pub emails: Tree,
    /// `filters`.
    pub filters: Option<Tree>,
    /// How the window is written.
    pub date_format: DateFormat,
}

/// A LiveChat report.
#[derive(Clone, Debug, PartialEq)]
pub struct LivechatAsk {
    /// `resource/action`.
    pub report: String,
    /// `distribution`.
    pub distribution: Option<String>,
    /// `filters` without the time pair.
    pub filters: Tree,
    /// Where the window goes.
    pub time: TimePair,
}

/// A JAICP report or query.
#[derive(Clone, Debug, PartialEq)]
pub struct JaicpAsk {
    /// Report or query.
    pub kind: JaicpKind,
    /// `filters`.
    pub filters: Tree,
    /// Request headers.
    pub headers: BTreeMap<String, String>,
}

/// Which of JAICP's two ways.
#[derive(Clone, Debug, PartialEq)]
pub enum JaicpKind {
    /// A background task.
    Report {
        /// Which one.
        kind: ReportKind,
        /// Its file.
        settings: Option<FileSettings>,
        /// `botIds` of a calls report.
        bot_ids: Vec<String>,
        /// Delete the task after archiving.
        delete_after: bool,
    },
    /// Paged rows.
    Query {
        /// Rows of what.
        rows: Rows,
        /// Also every session's messages.
        with_messages: bool,
    },
}

/// Collects the problems of one vendor block.
struct Block<'a> {
    at: Path,
    out: &'a mut Vec<Finding>,
}

impl Block<'_> {
    fn error(&mut self, path: Path, message: impl Into<String>) {
        self.out.push(Finding::error(path, message.into()));
    }

    fn required<T>(&mut self, value: Option<T>, key: &str, hint: &str) -> Option<T> {
        if value.is_none() {
            self.error(self.at.clone(), format!("{} needs '{key}'{hint}", self.at));
        }
        value
    }

    fn template(&mut self, text: &str, key: &str) -> Option<Template> {
        keep(Some(Template::parse(text, Place::Request)), key, &self.at, self.out)
    }

    fn tree(&mut self, value: &Value, key: &str) -> Tree {
        let out = &mut *self.out;
        Tree::parse(value, Place::Request, &self.at.key(key), &mut |path, message| {
            out.push(Finding::error(path.clone(), message));
        })
    }

    /// Warns when `text` (no placeholder in it) is not among `known`.
    fn vocabulary(&mut self, text: &str, path: Path, what: &str, known: &[&str]) {
        if known.contains(&text) || text.contains('{') {
            return;
        }
        let guess = did_you_mean(text, known).map_or_else(String::new, |w| format!(", did you mean '{w}'?"));
        let message = format!("{what} '{text}' is not in the vendor's list{guess}; it is sent as written");
        self.out.push(Finding::warning(path, message));
    }
}

/// `{name: value}` as a JSON map.
fn map_of(named: &Named<Free>) -> Map<String, Value> {
    named.0.iter().map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

/// Compiles `bik:`. `None` when something required is missing or wrong; `out` says what.
pub fn compile_bik(file: &BikFile, at: &Path, out: &mut Vec<Finding>) -> Option<BikAsk> {
    let mut block = Block { at: at.clone(), out };
    let report_type = block.required(file.reportType.as_deref(), "reportType", "");
    let report_name = block.required(file.reportName.as_deref(), "reportName", "");
    let emails = block.required(file.emails.as_ref(), "emails", ": BIK sends every report to at least one address");
    if let Some(text) = report_type {
        block.vocabulary(text, at.key("reportType"), "report type", &REPORT_TYPES);
    }
    if let Some(text) = report_name {
        block.vocabulary(text, at.key("reportName"), "report name", &REPORT_NAMES);
    }
    if emails.is_some_and(|Words(list)| list.is_empty()) {
        block.error(at.key("emails"), "emails is empty: BIK refuses a report without an address");
    }
    let mut filters = Map::new();
    if let Some(file) = &file.filters {
        for (key, text, known) in
            [("channel", &file.channel, CHANNELS.as_slice()), ("groupBy", &file.groupBy, GROUP_BY.as_slice())]
        {
            if let Some(text) = text {
                block.vocabulary(text, at.key("filters").key(key), key, known);
                filters.insert(key.into(), text.clone().into());
            }
        }
    }
    let formats = [("iso_millis", DateFormat::IsoMillis), ("date", DateFormat::Date)];
    let format = file.date_format.as_deref().map(|t| one_of("date_format", t, &formats));
    let report_type = report_type.and_then(|t| block.template(t, "reportType"));
    let report_name = report_name.and_then(|t| block.template(t, "reportName"));
    let description = file.reportDescription.as_deref().map(|t| block.template(t, "reportDescription"));
    let emails = emails.map(|Words(list)| block.tree(&list.clone().into(), "emails"));
    let filters = file.filters.is_some().then(|| block.tree(&Value::Object(filters), "filters"));
    let date_format = keep(format, "date_format", at, block.out).unwrap_or_default();
    Some(BikAsk {
        report_type: report_type?,
        report_name: report_name?,
        description: description.flatten(),
        emails: emails?,
        filters,
        date_format,
    })
}

/// Filters that must say exactly one of exists, values and exclude_values.
const LEAF_FILTERS: [&str; 7] = ["agents", "tags", "sales", "goals", "event_types", "groups", "customer_countries"];

/// The three ways to say which values a filter means; the vendor takes one at a time.
const CHOICES: [&str; 3] = ["exists", "values", "exclude_values"];

/// Filters of the vendor's page; `surveys` is the older name of `forms`.
const LIVECHAT_FILTERS: [&str; 12] = [
    "properties",
    "agents",
    "tags",
    "sales",
    "goals",
    "event_types",
    "groups",
    "greetings",
    "agent_response",
    "customer_countries",
    "forms",
    "surveys",
];

impl Block<'_> {
    /// In every map of the tree at most one of the three choices; in a leaf filter exactly one.
    fn livechat_filter(&mut self, name: &str, value: &Value, path: &Path) {
        match value {
            Value::Object(map) => {
                let chosen: Vec<&str> = CHOICES.into_iter().filter(|c| map.contains_key(*c)).collect();
                if chosen.len() > 1 {
                    let message = format!(
                        "{path} has {}: LiveChat takes exactly one of exists, values, exclude_values",
                        chosen.join(" and ")
                    );
                    self.error(path.key(chosen[1]), message);
                } else if chosen.is_empty() && LEAF_FILTERS.contains(&name) {
                    self.error(path.clone(), format!("{path} needs exactly one of exists, values, exclude_values"));
                }
                for (key, value) in map {
                    self.livechat_filter(key, value, &path.key(key));
                }
            }
            Value::Array(list) => {
                for (i, value) in list.iter().enumerate() {
                    self.livechat_filter("", value, &path.index(i));
                }
            }
            _ => {
                if LEAF_FILTERS.contains(&name) && !value.is_string() {
                    self.error(
                        path.clone(),
                        format!("{path} is a map with exactly one of exists, values, exclude_values"),
                    );
                }
            }
        }
    }

    /// A `from` or `to` where the window goes would make two time pairs of one.
    fn no_time(&mut self, map: &Map<String, Value>, path: &Path) {
        for key in ["from", "to"] {
            if map.contains_key(key) {
                let message = format!(
                    "{} is filled by the window: remove it, or set `window: {{ from: …, to: … }}`",
                    path.key(key)
                );
                self.out.push(Finding::error(path.key(key), message).at_key());
            }
        }
    }
}

/// Compiles `livechat:`. `None` when something required is missing or wrong; `out` says what.
pub fn compile_livechat(file: &LivechatFile, at: &Path, out: &mut Vec<Finding>) -> Option<LivechatAsk> {
    let mut block = Block { at: at.clone(), out };
    let report = block.required(file.report.as_deref(), "report", ", such as chats/ratings").and_then(|text| {
        let segment = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if text.split('/').count() == 2 && text.split('/').all(segment) {
            block.vocabulary(text, at.key("report"), "report", &REPORTS);
            return Some(text.to_owned());
        }
        block.error(at.key("report"), format!("report '{text}' is not resource/action, such as chats/ratings"));
        None
    });
    if let Some(text) = &file.distribution {
        let agents = report.as_deref().is_some_and(|r| r.starts_with("agents/"));
        let known = if agents { &DISTRIBUTIONS[..2] } else { &DISTRIBUTIONS[..] };
        block.vocabulary(text, at.key("distribution"), "distribution", known);
    }
    let times = [("chats", TimePair::Chats), ("greetings", TimePair::Greetings), ("forms", TimePair::Forms)];
    let words: Vec<(&str, usize)> = times.iter().enumerate().map(|(i, (word, _))| (*word, i)).collect();
    let time = keep(file.time.as_deref().map(|t| one_of("time", t, &words)), "time", at, block.out);
    let filters = file.filters.as_ref().map(map_of).unwrap_or_default();
    let path = at.key("filters");
    block.no_time(&filters, &path);
    for (key, value) in &filters {
        if !LIVECHAT_FILTERS.contains(&key.as_str()) && !["from", "to"].contains(&key.as_str()) {
            let guess =
                did_you_mean(key, &LIVECHAT_FILTERS).map_or_else(String::new, |w| format!(", did you mean '{w}'?"));
            let message = format!("filter '{key}' is not in the vendor's list{guess}; it is sent as written");
            block.out.push(Finding::warning(path.key(key), message).at_key());
        }
        if ["greetings", "properties", "agent_response"].contains(&key.as_str()) && !value.is_object() {
            block.error(path.key(key), format!("filters.{key} is a map"));
        }
        if ["forms", "surveys"].contains(&key.as_str()) && !value.is_array() {
            block.error(path.key(key), format!("filters.{key} is a list"));
        }
        block.livechat_filter(key, value, &path.key(key));
        // Any time pair below is either the one the window fills or a second one, which the vendor refuses.
        if let Value::Object(map) = value {
            block.no_time(map, &path.key(key));
        }
        for (i, form) in value.as_array().into_iter().flatten().enumerate() {
            if let Value::Object(map) = form {
                block.no_time(map, &path.key(key).index(i));
            }
        }
    }
    let filters = block.tree(&Value::Object(filters), "filters");
    let time = time.map_or(TimePair::Chats, |i| times[i].1.clone());
    Some(LivechatAsk { report: report?, distribution: file.distribution.clone(), filters, time })
}

impl Block<'_> {
    fn jaicp_settings(&mut self, file: &JaicpSettingsFile) -> Option<FileSettings> {
        let path = self.at.key("settings");
        if file.fileType.is_none() {
            let message = "settings needs 'fileType': CSV or XLSX (what JAICP makes without it is not documented)";
            self.error(path.clone(), message);
        }
        let csv = file.fileType == Some(FileTypeFile::Csv);
        let mut delimiter = None;
        if let Some(text) = &file.delimiter {
            let mut chars = text.chars();
            match (chars.next(), chars.next()) {
                (Some(char), None) if csv => delimiter = Some(char),
                (Some(_), None) => self.error(path.key("delimiter"), "delimiter goes with fileType CSV only"),
                _ => self.error(path.key("delimiter"), "delimiter is exactly one character"),
            }
        }
        Some(FileSettings {
            file_type: if csv { FileType::Csv } else { FileType::Xlsx },
            with_header: file.withHeader,
            delimiter,
            date_time_format: file.dateTimeFormat.clone(),
        })
        .filter(|_| file.fileType.is_some())
    }

    /// Checks each filter's structure; returns whether one bounds the time.
    fn jaicp_filters(&mut self, filters: &[Named<Free>]) -> bool {
        let mut bounded = false;
        for (i, filter) in filters.iter().enumerate() {
            let path = self.at.key("filters").index(i);
            let text = |key: &str| filter.get(key).and_then(|v| v.0.as_str());
            match text("key") {
                Some(key) => self.vocabulary(key, path.key("key"), "filter key", &FILTER_KEYS),
                None => self.error(path.clone(), "a filter needs 'key', such as MESSAGE_TIME"),
            }
            let Some(kind) = text("type") else {
                self.error(path.clone(), "a filter needs 'type', such as DATE_TIME_RANGE");
                continue;
            };
            self.vocabulary(kind, path.key("type"), "filter type", &FILTER_TYPES);
            bounded |= kind == "DATE_TIME_RANGE";
            let needs: &[&str] = match kind {
                "CHECKBOX" | "TREE" | "COMPOSITE_FILTER" => &["options"],
                "RADIO" => &["option"],
                "TEXT" => &["values", "comparisonType", "isCaseSensitive"],
                _ => &[],
            };
            for key in needs.iter().filter(|key| filter.get(key).is_none()) {
                self.error(path.clone(), format!("a {kind} filter needs '{key}'"));
            }
            if filter.get("option").is_some_and(|v| v.0.is_boolean()) {
                self.error(path.key("option"), "option is YES or NO, in quotes");
            }
        }
        bounded
    }
}

/// Compiles `jaicp:`. `None` when something required is missing or wrong; `out` says what.
pub fn compile_jaicp(file: &JaicpFile, at: &Path, out: &mut Vec<Finding>) -> Option<JaicpAsk> {
    let mut block = Block { at: at.clone(), out };
    let settings = file.settings.as_ref().and_then(|s| block.jaicp_settings(s));
    let filters = file.filters.as_deref().unwrap_or_default();
    let bounded = block.jaicp_filters(filters);
    let mut only = |set: bool, key: &str, with: &str| {
        if set {
            block.out.push(Finding::error(at.key(key), format!("'{key}' goes with {with} only")).at_key());
        }
    };
    let kind = match (&file.report, &file.query) {
        (Some(word), None) => {
            only(file.with_messages.is_some(), "with_messages", "query: sessions");
            let kind = keep(Some(one_of("report", word, &ReportKind::WORDS)), "report", at, block.out)?;
            if kind != ReportKind::Calls && file.settings.is_none() {
                block.required(None::<()>, "settings", " with fileType: CSV or XLSX");
            }
            if kind != ReportKind::Calls && file.botIds.is_some() {
                block.out.push(Finding::error(at.key("botIds"), "'botIds' goes with report: calls only").at_key());
            }
            if !kind.takes_filters() && file.filters.is_some() {
                let message = format!("report {word} takes no filters: the window is all it is asked with");
                block.out.push(Finding::error(at.key("filters"), message).at_key());
            }
            if kind.takes_filters() {
                block.needs_bound(bounded, file.unbounded == Some(true));
            }
            JaicpKind::Report {
                kind,
                settings,
                bot_ids: file.botIds.clone().unwrap_or_default(),
                delete_after: file.delete_after == Some(true),
            }
        }
        (None, Some(word)) => {
            only(file.settings.is_some(), "settings", "report");
            only(file.botIds.is_some(), "botIds", "report: calls");
            only(file.delete_after.is_some(), "delete_after", "report");
            let words = [("sessions", Rows::Sessions), ("messages", Rows::Messages), ("clients", Rows::Clients)];
            let rows = keep(Some(one_of("query", word, &words)), "query", at, block.out)?;
            let with_messages = file.with_messages == Some(true);
            if with_messages && rows != Rows::Sessions {
                block.error(at.key("with_messages"), "with_messages goes with query: sessions only");
            }
            block.needs_bound(bounded, file.unbounded == Some(true));
            JaicpKind::Query { rows, with_messages }
        }
        _ => {
            block.error(at.clone(), "jaicp needs exactly one of report and query");
            return None;
        }
    };
    let mut headers = BTreeMap::new();
    for (name, value) in file.headers.iter().flat_map(|h| &h.0) {
        let text = value.0.as_str().map_or_else(|| value.0.to_string(), str::to_owned);
        match header(name, &text) {
            Ok(name) => drop(headers.insert(name, text)),
            Err(message) => block.error(at.key("headers").key(name), message),
        }
    }
    let list = Value::Array(filters.iter().map(|f| Value::Object(map_of(f))).collect());
    Some(JaicpAsk { kind, filters: block.tree(&list, "filters"), headers })
}

impl Block<'_> {
    fn needs_bound(&mut self, bounded: bool, unbounded: bool) {
        if !bounded && !unbounded {
            let message = "no DATE_TIME_RANGE filter: the window would bound nothing (what JAICP sends then is not documented); \
                           add `- { key: MESSAGE_TIME, type: DATE_TIME_RANGE }`, or say `unbounded: true`";
            self.error(self.at.key("filters"), message);
        }
    }
}

/// Checks a header of a file: names and values that HTTP can carry, and none that reportd itself decides.
pub fn header(name: &str, value: &str) -> Result<String, String> {
    let lower = name.to_ascii_lowercase();
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if lower.is_empty() || !lower.bytes().all(token) {
        return Err(format!("'{name}' is not an HTTP header name"));
    }
    if ["authorization", "host", "content-length", "transfer-encoding", "connection", "cookie"]
        .contains(&lower.as_str())
    {
        return Err(format!("header '{name}' is not for a file to set"));
    }
    if !value.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return Err(format!("the value of header '{name}' has characters that HTTP cannot carry"));
    }
    Ok(lower)
}
