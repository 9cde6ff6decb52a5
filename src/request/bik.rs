//! BIK `generateReport`: parameters to request. Pure.
//!
//! Source: the vendor's page "Generate Report". The list of names there is known to be incomplete, so names only warn.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::window::Window;
use super::{Call, json_post};

/// `reportType` values of the vendor's page.
pub const REPORT_TYPES: [&str; 5] = ["Overall", "Campaigns", "Helpdesk", "Journeys", "Widgets"];

/// `reportName` values of the vendor's page (one has a curly apostrophe), and one that a public client uses besides.
pub const REPORT_NAMES: [&str; 24] = [
    "Popup Conversions",
    "Campaign(s) Message Failure Overview",
    "Whatsapp Payment Report",
    "Agent Engagement",
    "Overall CSAT/NPS",
    "Channel Engagement",
    "Label Engagement",
    "Customer Conversations",
    "Events conversion report",
    "Ticket\u{2019}s Overview",
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
    "Customer ticket report (with forms)",
    "Journey keywords report",
];

/// `filters.channel` values of the vendor's page.
pub const CHANNELS: [&str; 5] = ["whatsapp", "email", "instagram", "messenger", "livechat"];

/// `filters.groupBy` values of the vendor's page.
pub const GROUP_BY: [&str; 3] = ["day", "week", "month"];

/// How `dateRange` is written: the page says ISO time stamps, a client's author found reports that want dates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DateFormat {
    /// `2026-11-18T18:30:00.000Z`, UTC with milliseconds, the end one millisecond before the window's.
    #[default]
    IsoMillis,
    /// `2026-11-19`, the local dates of the window, both included.
    Date,
}

/// Parameters of one report, placeholders filled.
#[derive(Clone, Debug, PartialEq)]
pub struct BikParams {
    /// `reportType`.
    pub report_type: String,
    /// `reportName`.
    pub report_name: String,
    /// `reportDescription`.
    pub description: Option<String>,
    /// `emails`: whom BIK mails. At least one.
    pub emails: Vec<String>,
    /// `filters`, if any.
    pub filters: Option<Map<String, Value>>,
    /// How the window is written.
    pub date_format: DateFormat,
}

/// What of the connection shapes the request.
#[derive(Clone, Debug, PartialEq)]
pub struct BikEndpoint {
    /// Base URL without a trailing slash.
    pub base_url: String,
    /// Path of `generateReport`.
    pub create_path: String,
    /// Path of `createAndAssignTicket`.
    pub ticket_path: String,
    /// Path of `events/sendEvent`.
    pub event_path: String,
    /// Path of `authPartnerViaKey`.
    pub auth_path: String,
    /// `appId`, sent with reports only when set (no vendor page lists it for reports).
    pub app_id: Option<String>,
    /// Header overrides.
    pub headers: BTreeMap<String, String>,
}

/// The request that creates the report.
pub fn prepare(params: &BikParams, endpoint: &BikEndpoint, window: &Window) -> Call {
    let (start, end) = match params.date_format {
        DateFormat::IsoMillis => window.utc_millis(),
        DateFormat::Date => {
            let (first, last) = window.local_dates();
            (first.to_string(), last.to_string())
        }
    };
    let mut body = Map::new();
    body.insert("reportType".into(), params.report_type.clone().into());
    body.insert("reportName".into(), params.report_name.clone().into());
    if let Some(description) = &params.description {
        body.insert("reportDescription".into(), description.clone().into());
    }
    body.insert("dateRange".into(), json!({ "startDate": start, "endDate": end }));
    if let Some(filters) = &params.filters {
        body.insert("filters".into(), Value::Object(filters.clone()));
    }
    body.insert("emails".into(), params.emails.clone().into());
    if let Some(app_id) = &endpoint.app_id {
        body.insert("appId".into(), app_id.clone().into());
    }
    let url = format!("{}{}", endpoint.base_url, endpoint.create_path);
    let mut call = json_post(url, Value::Object(body), &endpoint.headers);
    call.authorization = Some("Basic ***".into());
    call
}

/// What two runs must have in common to be comparable.
pub fn identity(params: &BikParams) -> Value {
    json!({
        "vendor": "bik",
        "reportType": params.report_type,
        "reportName": params.report_name,
        "filters": params.filters,
    })
}
