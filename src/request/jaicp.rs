//! JAICP Reporter API, project-token generation: parameters to request. Pure.
//!
//! Source: the vendor's page "Reporter API" and its OpenAPI file of the token-in-path generation (REFERENCE 2). Filter
//! keys grow with the product, so an unknown one only warns.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::window::Window;
use super::{Call, FileType, Rows, json_post};

/// Filter keys of both OpenAPI generations.
pub const FILTER_KEYS: [&str; 41] = [
    "SESSION_ID",
    "SESSION_START_TIME",
    "SESSION_END_TIME",
    "SESSION_LABELS",
    "SESSION_RESULT",
    "INITIATOR",
    "CALL_TASK_ID",
    "CHANNEL_TYPE",
    "BOT_ID",
    "CLIENT_ID_OR_NAME",
    "CLIENT_JOIN_TIME",
    "CLIENT_LAST_ACTIVITY_TIME",
    "MESSAGE_TYPE",
    "MESSAGE_TIME",
    "MESSAGE_TEXT",
    "ANSWER_TEXT",
    "MESSAGE_COUNT",
    "LOG_LABELS",
    "COMMENT_TEXT",
    "NLP_CLASS",
    "NLP_STATE",
    "INTENT",
    "TRANSFER_TO_OPERATOR",
    "WITHOUT_EMPTY_SESSIONS",
    "WITHOUT_EMPTY_MESSAGES",
    "CUSTOM_FIELDS_IN_RESPONSE",
    "EXCEPTION_EXISTENCE",
    "SESSION_DATA",
    "STATE_ROUTES",
    "MESSAGE_OR_ANSWER_TEXT",
    "TEXT_CAMPAIGN_ID",
    "TEXT_CAMPAIGN_RESULT",
    "SESSION_TOPIC",
    "SCENARIO_ACTION",
    "PERIOD",
    "CHANNEL_NAME",
    "BOT_REPLIES",
    "CLIENT_TYPE",
    "AUTOMATION_STATUS",
    "NPS",
    "WITHOUT_TEST_SESSIONS",
];

/// Filter types of the OpenAPI files.
pub const FILTER_TYPES: [&str; 8] = [
    "DATE_TIME_RANGE",
    "NUMERIC_RANGE",
    "CHECKBOX",
    "TREE",
    "RADIO",
    "TEXT",
    "CUSTOM_FIELDS_IN_RESPONSE",
    "COMPOSITE_FILTER",
];

/// The six background reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportKind {
    /// `reports/messages`.
    Messages,
    /// `reports/sessions`.
    Sessions,
    /// `reports/clients`.
    Clients,
    /// `reports/telephony`; the page's prose says "calls".
    Calls,
    /// `reports/daily`, one day.
    Daily,
    /// `reports/client-list`.
    ClientList,
}

impl ReportKind {
    /// The words a job file may use, with what they mean; `telephony` is the path's own word for calls.
    pub const WORDS: [(&'static str, ReportKind); 7] = [
        ("messages", ReportKind::Messages),
        ("sessions", ReportKind::Sessions),
        ("clients", ReportKind::Clients),
        ("calls", ReportKind::Calls),
        ("telephony", ReportKind::Calls),
        ("daily", ReportKind::Daily),
        ("client-list", ReportKind::ClientList),
    ];

    /// The path segment.
    pub fn segment(self) -> &'static str {
        match self {
            ReportKind::Messages => "messages",
            ReportKind::Sessions => "sessions",
            ReportKind::Clients => "clients",
            ReportKind::Calls => "telephony",
            ReportKind::Daily => "daily",
            ReportKind::ClientList => "client-list",
        }
    }

    /// Whether the request has a `filters` array (telephony and daily carry the window in their own fields).
    pub fn takes_filters(self) -> bool {
        !matches!(self, ReportKind::Calls | ReportKind::Daily)
    }
}

/// Form of the file of a background report.
#[derive(Clone, Debug, PartialEq)]
pub struct FileSettings {
    /// `fileType`, required: what comes without it is not documented.
    pub file_type: FileType,
    /// `withHeader`; the vendor's default is true.
    pub with_header: Option<bool>,
    /// `delimiter`, one character, CSV only.
    pub delimiter: Option<char>,
    /// `dateTimeFormat`, a Java DateTimeFormatter pattern.
    pub date_time_format: Option<String>,
}

impl FileSettings {
    fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("fileType".into(), if self.file_type == FileType::Csv { "CSV" } else { "XLSX" }.into());
        if let Some(with_header) = self.with_header {
            map.insert("withHeader".into(), with_header.into());
        }
        if let Some(delimiter) = self.delimiter {
            map.insert("delimiter".into(), delimiter.to_string().into());
        }
        if let Some(format) = &self.date_time_format {
            map.insert("dateTimeFormat".into(), format.clone().into());
        }
        Value::Object(map)
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum JaicpAsk {
    /// A background task.
    Report {
        /// Which one.
        kind: ReportKind,
        /// Its file; only a calls report may come without, because the vendor's API takes no settings for it.
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

/// Parameters of one run, placeholders filled.
#[derive(Clone, Debug, PartialEq)]
pub struct JaicpParams {
    /// What is asked for.
    pub ask: JaicpAsk,
    /// The vendor's filters; a `DATE_TIME_RANGE` without `from` and `to` is filled by the window.
    pub filters: Vec<Map<String, Value>>,
    /// Request headers of the job, such as `Timezone` (an integer whose unit the vendor does not state).
    pub headers: BTreeMap<String, String>,
}

/// What of the connection shapes the request.
#[derive(Clone, Debug, PartialEq)]
pub struct JaicpEndpoint {
    /// Base URL without a trailing slash.
    pub base_url: String,
    /// Path template of a create, with `{token}` and `{kind}`.
    pub create_path: String,
    /// Path template of a query, with `{token}` and `{rows}`.
    pub query_path: String,
    /// Rows a page of a query.
    pub page_size: u32,
    /// Header overrides.
    pub headers: BTreeMap<String, String>,
}

/// Whether the window is to fill this filter.
pub fn is_open_range(filter: &Map<String, Value>) -> bool {
    filter.get("type").and_then(Value::as_str) == Some("DATE_TIME_RANGE")
        && !filter.contains_key("from")
        && !filter.contains_key("to")
}

fn filled(filters: &[Map<String, Value>], window: &Window) -> Value {
    let (from, to) = window.utc_millis();
    let fill = |filter: &Map<String, Value>| {
        let mut filter = filter.clone();
        if is_open_range(&filter) {
            filter.insert("from".into(), from.clone().into());
            filter.insert("to".into(), to.clone().into());
        }
        Value::Object(filter)
    };
    filters.iter().map(fill).collect()
}

/// The request that creates the task, or asks for the first page.
pub fn prepare(params: &JaicpParams, endpoint: &JaicpEndpoint, window: &Window) -> Call {
    let mut headers = endpoint.headers.clone();
    headers.extend(params.headers.clone());
    match &params.ask {
        JaicpAsk::Report { kind, settings, bot_ids, .. } => {
            let url = format!("{}{}", endpoint.base_url, endpoint.create_path.replace("{kind}", kind.segment()));
            match kind {
                ReportKind::Calls => {
                    // No body: the OpenAPI file gives this report query parameters only.
                    let (from, to) = window.utc_millis();
                    let mut call = json_post(url, Value::Null, &headers);
                    call.body = None;
                    call.headers.remove("content-type");
                    call = call.with_query("startTime", &from).with_query("endTime", &to);
                    bot_ids.iter().fold(call, |call, id| call.with_query("botIds", id))
                }
                ReportKind::Daily => {
                    let settings = settings.as_ref().map(FileSettings::to_json);
                    let body = json!({ "date": window.local_dates().0.to_string(), "settings": settings });
                    json_post(url, body, &headers)
                }
                _ => {
                    let settings = settings.as_ref().map(FileSettings::to_json);
                    let body = json!({ "filters": filled(&params.filters, window), "settings": settings });
                    json_post(url, body, &headers)
                }
            }
        }
        JaicpAsk::Query { rows, .. } => {
            let url = format!("{}{}", endpoint.base_url, endpoint.query_path.replace("{rows}", rows.as_str()));
            json_post(url, json!({ "filters": filled(&params.filters, window) }), &headers)
                .with_query("page", "0")
                .with_query("size", &endpoint.page_size.to_string())
        }
    }
}

/// What two runs must have in common to be comparable.
pub fn identity(params: &JaicpParams) -> Value {
    let ask = match &params.ask {
        JaicpAsk::Report { kind, settings, bot_ids, .. } => {
            json!({ "report": kind.segment(), "settings": settings.as_ref().map(FileSettings::to_json), "botIds": bot_ids })
        }
        JaicpAsk::Query { rows, with_messages } => json!({ "query": rows.as_str(), "with_messages": with_messages }),
    };
    json!({ "vendor": "jaicp", "ask": ask, "filters": params.filters, "headers": params.headers })
}
