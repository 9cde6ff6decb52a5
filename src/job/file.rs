//! A job file as it is written: mirrors the YAML and nothing else. compile.rs turns it into a [`super::Job`].
//!
//! Every field is an `Option`, so that a file with one bad key still yields the rest and all its problems come in one pass.
//! Inside a vendor block the names are spelled as the vendor's docs spell them.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::notice::file::{NoticeFile, one_or_many};
use crate::yaml::{DurationText, Free, Named};

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "reportd job", extend("oneOf" = [{"required": ["bik"]}, {"required": ["livechat"]}, {"required": ["jaicp"]}]))]
pub struct JobFile {
    /// What it is for, for people.
    pub description: Option<String>,
    /// Shops it runs for, one series each, or `all`; may be missing when only one connection has this vendor.
    pub connections: Option<Words>,
    /// IANA zone of the calendar; here or on the connection.
    pub zone: Option<String>,
    /// Five-field cron, or a list of them; `H` is a stable spread. Missing: runs only by hand.
    pub schedule: Option<Words>,
    /// What a report covers: a window word, or fixed local dates, both included.
    pub window: Option<WindowFile>,
    /// First date wanted: where coverage starts.
    pub since: Option<String>,
    /// BIK generateReport.
    pub bik: Option<BikFile>,
    /// LiveChat Reports API.
    pub livechat: Option<LivechatFile>,
    /// JAICP Reporter API.
    pub jaicp: Option<JaicpFile>,
    /// Notices on success.
    pub deliver: Option<Vec<NoticeFile>>,
    /// Notices when something needs a person.
    pub alert: Option<Vec<NoticeFile>>,
    /// URL pinged when a scheduled run starts, succeeds or fails (healthchecks.io convention): `env:NAME` or `file:PATH`.
    pub heartbeat: Option<String>,
    /// How far back missed instants are fired: a duration, `latest` or `none`.
    pub catch_up: Option<String>,
    /// What happens while the previous run is not finished: `queue` or `skip`.
    pub overlap: Option<String>,
    /// How long after the window's end a run waits.
    pub delay: Option<DurationText>,
    /// How long a report is polled.
    pub deadline: Option<DurationText>,
    /// How long transient errors are retried.
    pub give_up: Option<DurationText>,
    /// What happens when the outcome of a BIK create is unknown: `hold` or `resubmit`.
    pub on_unknown: Option<String>,
    /// First day of the week.
    pub week_start: Option<String>,
    /// Fetch a window again although it is held.
    pub refetch: Option<bool>,
    /// Reason why the job does not fire.
    pub paused: Option<String>,
    /// Gaps that will stay.
    pub waive: Option<Vec<WaiveFile>>,
    /// Former names of this file, whose history it keeps.
    pub was: Option<Words>,
    /// A window not held this long after its fire is late.
    pub late_after: Option<DurationText>,
    /// What is kept how long.
    pub retain: Option<RetainFile>,
}

/// What is kept how long.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetainFile {
    /// Age at which archived bytes may be pruned.
    pub artifacts: Option<DurationText>,
    /// Newest revisions of a window that stay.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub revisions: Option<u32>,
    /// Age at which run events may be pruned.
    pub events: Option<DurationText>,
}

/// A gap that will stay.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaiveFile {
    /// First local date.
    #[schemars(required)]
    pub from: Option<String>,
    /// Last local date, included.
    #[schemars(required)]
    pub to: Option<String>,
    /// Why.
    #[schemars(required)]
    pub reason: Option<String>,
}

/// One string or a list of strings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Words(#[serde(deserialize_with = "one_or_many")] pub Vec<String>);

impl JsonSchema for Words {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Words".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
    }
}

/// A window word, or fixed dates.
#[derive(Clone, Debug, PartialEq)]
pub enum WindowFile {
    /// `yesterday`, `last_7_days`, ….
    Word(String),
    /// `{ from: 2026-03-01, to: 2026-03-31 }`.
    Dates {
        /// First local date.
        from: Option<String>,
        /// Last local date, included.
        to: Option<String>,
    },
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WindowDates")]
struct WindowDates {
    /// First local date.
    #[schemars(required)]
    from: Option<String>,
    /// Last local date, included.
    #[schemars(required)]
    to: Option<String>,
}

impl<'de> Deserialize<'de> for WindowFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WindowFile, D::Error> {
        struct Window;
        impl<'de> Visitor<'de> for Window {
            type Value = WindowFile;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a window word or a map with from and to")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<WindowFile, E> {
                Ok(WindowFile::Word(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<WindowFile, A::Error> {
                let WindowDates { from, to } = WindowDates::deserialize(MapAccessDeserializer::new(map))?;
                Ok(WindowFile::Dates { from, to })
            }
        }
        deserializer.deserialize_any(Window)
    }
}

impl JsonSchema for WindowFile {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Window".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, generator.subschema_for::<WindowDates>()] })
    }
}

/// `bik:` the body of generateReport less `dateRange`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, reason = "the vendor's own spelling")]
pub struct BikFile {
    /// Overall, Campaigns, Helpdesk, Journeys or Widgets.
    #[schemars(required)]
    pub reportType: Option<String>,
    /// The name as BIK shows it, case-sensitive.
    #[schemars(required)]
    pub reportName: Option<String>,
    /// Free text.
    pub reportDescription: Option<String>,
    /// Whom BIK mails; at least one address.
    #[schemars(required)]
    pub emails: Option<Words>,
    /// Filters, for reports that take them.
    pub filters: Option<BikFiltersFile>,
    /// `iso_millis` (default, as the vendor's page says) or `date`.
    pub date_format: Option<String>,
}

/// BIK's filters.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, reason = "the vendor's own spelling")]
pub struct BikFiltersFile {
    /// whatsapp, email, instagram, messenger or livechat.
    pub channel: Option<String>,
    /// day, week or month.
    pub groupBy: Option<String>,
}

/// `livechat:` one report.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LivechatFile {
    /// `resource/action`, such as `chats/ratings`.
    #[schemars(required)]
    pub report: Option<String>,
    /// hour, day, day-hours, month or year.
    pub distribution: Option<String>,
    /// The vendor's own filter tree, less the time pair.
    pub filters: Option<Named<Free>>,
    /// Which time pair the window fills: `chats` (default), `greetings` or `forms`.
    pub time: Option<String>,
}

/// `jaicp:` a background report or a paged query.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, reason = "the vendor's own spelling")]
pub struct JaicpFile {
    /// messages, sessions, clients, calls, daily or client-list: a background task.
    pub report: Option<String>,
    /// sessions, messages or clients: paged, answers at once.
    pub query: Option<String>,
    /// For `query: sessions`: also every session's messages, for their statuses.
    pub with_messages: Option<bool>,
    /// The vendor's filters; a DATE_TIME_RANGE without from and to is filled by the window.
    pub filters: Option<Vec<Named<Free>>>,
    /// The file of a report.
    pub settings: Option<JaicpSettingsFile>,
    /// Only for `calls`: the bots asked about.
    pub botIds: Option<Vec<String>>,
    /// Request headers such as `Timezone` (an integer, unit not documented) or `language`.
    pub headers: Option<Named<Free>>,
    /// Delete the task at the vendor once its file is archived.
    pub delete_after: Option<bool>,
    /// Say so when no filter is to be bounded by the window.
    pub unbounded: Option<bool>,
}

/// The file of a JAICP report.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, reason = "the vendor's own spelling")]
pub struct JaicpSettingsFile {
    /// CSV or XLSX.
    #[schemars(required)]
    pub fileType: Option<FileTypeFile>,
    /// First row holds titles; the vendor's default is true.
    pub withHeader: Option<bool>,
    /// One character, CSV only; the vendor's default is a comma.
    pub delimiter: Option<String>,
    /// Java DateTimeFormatter pattern.
    pub dateTimeFormat: Option<String>,
}

/// Form of a JAICP file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum FileTypeFile {
    /// Text.
    Csv,
    /// Workbook.
    Xlsx,
}
