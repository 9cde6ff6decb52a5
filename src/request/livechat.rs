//! LiveChat Reports API: parameters to request. Pure.
//!
//! Source: the vendor's page "Reports API" (v3.6) and REFERENCE 4. `resource/action` is a free string; the list here only
//! feeds a warning, because the vendor moved reports between versions more than once.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::window::Window;
use super::{Call, json_post};

/// Reports of version 3.6, and `stats/visitors` as the vendor's preview page spelled it.
pub const REPORTS: [&str; 19] = [
    "chats/duration",
    "chats/tags",
    "chats/total_chats",
    "chats/ratings",
    "chats/ranking",
    "chats/engagement",
    "chats/greetings_conversion",
    "chats/forms",
    "chats/response_time",
    "chats/first_response_time",
    "chats/groups",
    "chats/queued_visitors",
    "chats/queued_visitors_left",
    "agents/availability",
    "agents/performance",
    "tags/chat_usage",
    "customers/unique_visitors",
    "stats/unique_visitors",
    "stats/visitors",
];

/// `distribution` values for Chats; Agents take the first two.
pub const DISTRIBUTIONS: [&str; 5] = ["hour", "day", "day-hours", "month", "year"];

/// The report that comes in pages.
pub const PAGED_REPORT: &str = "chats/queued_visitors_left";

/// Which of the vendor's time pairs the window fills; exactly one may be in a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TimePair {
    /// `filters.from` and `filters.to`.
    #[default]
    Chats,
    /// `filters.greetings.from` and `.to`.
    Greetings,
    /// `from` and `to` of the first element of `filters.forms` (spelled `surveys` before 3.5).
    Forms,
}

/// Parameters of one report, placeholders filled.
#[derive(Clone, Debug, PartialEq)]
pub struct LivechatParams {
    /// `resource/action`.
    pub report: String,
    /// `distribution`.
    pub distribution: Option<String>,
    /// `filters`, the vendor's own tree, without the time pair that the window fills.
    pub filters: Map<String, Value>,
    /// Where the window goes.
    pub time: TimePair,
}

/// What of the connection shapes the request.
#[derive(Clone, Debug, PartialEq)]
pub struct LivechatEndpoint {
    /// Base URL without a trailing slash.
    pub base_url: String,
    /// API version, for example `3.6`.
    pub version: String,
    /// Path template with `{version}` and `{report}`.
    pub path: String,
    /// Whether the token goes as `Bearer` (OAuth) rather than `Basic` (personal access token).
    pub bearer: bool,
    /// `X-Region`, sent only when set.
    pub region: Option<String>,
    /// Header overrides.
    pub headers: BTreeMap<String, String>,
}

/// Filters with the window put into the chosen time pair. A filter of an unexpected shape in its way is replaced, which
/// compile.rs has refused before.
fn filters_with(params: &LivechatParams, from: &str, to: &str) -> Map<String, Value> {
    fn put(map: &mut Map<String, Value>, from: &str, to: &str) {
        map.insert("from".into(), from.into());
        map.insert("to".into(), to.into());
    }
    let mut filters = params.filters.clone();
    match params.time {
        TimePair::Chats => put(&mut filters, from, to),
        TimePair::Greetings => match filters.get_mut("greetings") {
            Some(Value::Object(greetings)) => put(greetings, from, to),
            _ => {
                filters.insert("greetings".into(), json!({ "from": from, "to": to }));
            }
        },
        TimePair::Forms => {
            let key = if filters.contains_key("surveys") { "surveys" } else { "forms" };
            match filters.get_mut(key).and_then(|list| list.get_mut(0)) {
                Some(Value::Object(form)) => put(form, from, to),
                _ => {
                    filters.insert(key.into(), json!([{ "from": from, "to": to }]));
                }
            }
        }
    }
    filters
}

/// The request that answers the report (its first page, if it comes in pages).
pub fn prepare(params: &LivechatParams, endpoint: &LivechatEndpoint, window: &Window) -> Call {
    let (from, to) = window.local_micros();
    let mut body = Map::new();
    if let Some(distribution) = &params.distribution {
        body.insert("distribution".into(), distribution.clone().into());
    }
    // Without it the days are cut in the profile zone of whoever made the token, so two tokens give two answers.
    body.insert("timezone".into(), window.zone().name().into());
    body.insert("filters".into(), Value::Object(filters_with(params, &from, &to)));
    let path = endpoint.path.replace("{version}", &endpoint.version).replace("{report}", &params.report);
    let mut call = json_post(format!("{}{path}", endpoint.base_url), Value::Object(body), &endpoint.headers);
    if let Some(region) = &endpoint.region {
        call.headers.insert("x-region".into(), region.clone());
    }
    call.authorization = Some(if endpoint.bearer { "Bearer ***" } else { "Basic ***" }.into());
    call
}

/// What two runs must have in common to be comparable.
pub fn identity(params: &LivechatParams, zone: &str) -> Value {
    json!({
        "vendor": "livechat",
        "report": params.report,
        "distribution": params.distribution,
        "timezone": zone,
        "time": format!("{:?}", params.time),
        "filters": params.filters,
    })
}
