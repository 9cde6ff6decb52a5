//! `reportd.yaml` as it is written: mirrors the file and nothing else. compile.rs turns it into types that cannot be wrong.
//!
//! Every field is an `Option`, so that a file with one bad key still yields the rest and all its problems come in one pass.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::job::file::RetainFile;
use crate::job::notice::file::NoticeFile;
use crate::yaml::{DurationText, Free, Named};

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "reportd.yaml")]
pub struct ConfigFile {
    /// Where Postgres is: `env:NAME` or a URL. Missing, and DATABASE_URL unset: the embedded default.
    pub database: Option<String>,
    /// Where the archive is: a folder, relative to this file. Default `./archive`.
    pub archive: Option<String>,
    /// Keys that every job inherits: maps merge, lists replace, `[]` silences.
    pub defaults: Option<DefaultsFile>,
    /// The shops, by name.
    pub connections: Option<Named<ConnectionFile>>,
    /// How mail goes out.
    pub mail: Option<MailFile>,
    /// URL pinged after each planner pass: `env:NAME` or `file:PATH`, since such URLs are secrets.
    pub heartbeat: Option<String>,
    /// What is kept how long.
    pub retain: Option<RetainFile>,
}

/// Keys of a job that may stand in `defaults:`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DefaultsFile {
    /// IANA zone of jobs and connections that name none.
    pub zone: Option<String>,
    /// How far back missed instants are fired: a duration, `latest` or `none`.
    pub catch_up: Option<String>,
    /// What happens when the previous run of the series is not finished: `queue` or `skip`.
    pub overlap: Option<String>,
    /// How long after the window's end a run waits.
    pub delay: Option<DurationText>,
    /// How long a report is polled, in time in which we could poll.
    pub deadline: Option<DurationText>,
    /// How long transient errors are retried.
    pub give_up: Option<DurationText>,
    /// What happens when the outcome of a BIK create is unknown: `hold` or `resubmit`.
    pub on_unknown: Option<String>,
    /// First day of the week.
    pub week_start: Option<String>,
    /// Notices on success.
    pub deliver: Option<Vec<NoticeFile>>,
    /// Notices when something needs a person.
    pub alert: Option<Vec<NoticeFile>>,
    /// A window not held this long after its fire is late.
    pub late_after: Option<DurationText>,
    /// What is kept how long.
    pub retain: Option<RetainFile>,
}

/// How mail goes out.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MailFile {
    /// `smtps://host:465`, or `smtp://host:587` (STARTTLS is required, except on loopback).
    #[schemars(required)]
    pub url: Option<String>,
    /// `env:NAME` or `file:PATH`.
    pub username: Option<String>,
    /// `env:NAME` or `file:PATH`.
    pub password: Option<String>,
    /// Sender, such as `Reports <reports@example.com>`.
    #[schemars(required)]
    pub from: Option<String>,
}

/// One shop.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionFile {
    /// IANA zone of the shop.
    pub zone: Option<String>,
    /// Variables for `{var.NAME}`; any type.
    pub vars: Option<Named<Free>>,
    /// Its BIK account.
    pub bik: Option<BikConnectionFile>,
    /// Its LiveChat account.
    pub livechat: Option<LivechatConnectionFile>,
    /// Its JAICP project.
    pub jaicp: Option<JaicpConnectionFile>,
}

/// A BIK account.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, reason = "the vendor's own spelling")]
pub struct BikConnectionFile {
    /// API key: `env:NAME` or `file:PATH`.
    pub key: Option<String>,
    /// API secret: `env:NAME` or `file:PATH`.
    pub secret: Option<String>,
    /// In place of key and secret: the ready base64 value that BIK's page calls AUTH_TOKEN.
    pub token: Option<String>,
    /// Addresses that replace a job's `emails` in every run that no schedule made.
    pub quiet_emails: Option<Vec<String>>,
    /// Sent as `appId` in both report calls when set.
    pub appId: Option<String>,
    /// The customer of `bik_ticket` notices that name none.
    pub bikCustomerId: Option<String>,
    /// Default `https://bikapi.bikayi.app/integrations`.
    pub base_url: Option<String>,
    /// Paths below the base URL.
    pub paths: Option<BikPathsFile>,
    /// What the vendor's state words mean.
    pub states: Option<StatesFile>,
    /// Calls a second over all processes; default 1.
    #[schemars(range(min = 0.001, max = 100_000.0))]
    pub requests_per_second: Option<f64>,
    /// Reports under way at once over all processes; default 2.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_in_flight: Option<u32>,
    /// Hosts that files may come from, besides the base URL's.
    pub allowed_hosts: Option<Vec<String>>,
    /// Extra request headers.
    pub headers: Option<Named<String>>,
    /// Time limit of one API call, at most 50s; default 30s.
    pub timeout: Option<DurationText>,
    /// A download that brings no byte for this long is cut; default 60s.
    pub download_idle: Option<DurationText>,
    /// A 404 on a poll this soon after a create is not believed; default 30s.
    pub gone_grace: Option<DurationText>,
}

/// Paths of BIK below its base URL.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BikPathsFile {
    /// Default `/bikPlatformFunctions-generateReport`.
    pub create: Option<String>,
    /// Default `/bikPlatformFunctions-getReportById`.
    pub status: Option<String>,
    /// Default `/bikPlatformFunctions-createAndAssignTicket`.
    pub ticket: Option<String>,
    /// Default `/bikPlatformFunctions-events/sendEvent`.
    pub event: Option<String>,
    /// Default `/bikPlatformFunctions-authPartnerViaKey`.
    pub auth: Option<String>,
}

/// Which of a vendor's state words mean what; a word in no list counts as running.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatesFile {
    /// The report is being made.
    pub running: Option<Vec<String>>,
    /// The file can be fetched.
    pub ready: Option<Vec<String>>,
    /// The report will never come.
    pub failed: Option<Vec<String>>,
    /// The task is no longer known to the vendor.
    pub gone: Option<Vec<String>>,
}

/// A LiveChat account.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LivechatConnectionFile {
    /// `env:NAME` or `file:PATH`; for a personal access token the value is `account_id:token`.
    #[schemars(required)]
    pub token: Option<String>,
    /// `pat` (default, Basic) or `bearer` (OAuth).
    pub auth: Option<LivechatAuthFile>,
    /// API version; default `"3.6"`.
    pub version: Option<String>,
    /// Sent as `X-Region` when set.
    pub region: Option<String>,
    /// Default `https://api.livechatinc.com`.
    pub base_url: Option<String>,
    /// Path template; default `/v{version}/reports/{report}`.
    pub path: Option<String>,
    /// Calls a second over all processes; default 2.
    #[schemars(range(min = 0.001, max = 100_000.0))]
    pub requests_per_second: Option<f64>,
    /// Reports under way at once over all processes; default 4.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_in_flight: Option<u32>,
    /// Extra request headers.
    pub headers: Option<Named<String>>,
    /// Time limit of one API call, at most 50s; default 30s.
    pub timeout: Option<DurationText>,
    /// Pages of one report that are fetched at most; default 10000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_pages: Option<u32>,
}

/// How a LiveChat token is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LivechatAuthFile {
    /// Personal access token, Basic.
    Pat,
    /// OAuth access token, Bearer.
    Bearer,
}

/// A JAICP project.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JaicpConnectionFile {
    /// The project's API token: `env:NAME` or `file:PATH`.
    #[schemars(required)]
    pub token: Option<String>,
    /// `project_token`: the only generation that reportd speaks so far.
    pub generation: Option<String>,
    /// Default `https://app.jaicp.com/api`.
    pub base_url: Option<String>,
    /// Paths below the base URL.
    pub paths: Option<JaicpPathsFile>,
    /// Method of `messages/by-session`: `GET` (default, the vendor's OpenAPI file) or `POST` (the vendor's page).
    pub by_session_method: Option<BySessionMethodFile>,
    /// What the vendor's state words mean.
    pub states: Option<StatesFile>,
    /// Rows a page of a query; default 100.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub page_size: Option<u32>,
    /// Pages of one query that are fetched at most; default 10000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_pages: Option<u32>,
    /// Calls a second over all processes; default 1.
    #[schemars(range(min = 0.001, max = 100_000.0))]
    pub requests_per_second: Option<f64>,
    /// Tasks under way at once over all processes; default 1.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_in_flight: Option<u32>,
    /// Hosts that files may come from, besides the base URL's.
    pub allowed_hosts: Option<Vec<String>>,
    /// Extra request headers, such as `Timezone` or `language`.
    pub headers: Option<Named<String>>,
    /// Headers of a download from the base URL's own host, values `env:NAME` or `file:PATH`; none by default.
    pub download_headers: Option<Named<String>>,
    /// Time limit of one API call, at most 50s; default 30s.
    pub timeout: Option<DurationText>,
    /// A download that brings no byte for this long is cut; default 60s.
    pub download_idle: Option<DurationText>,
    /// A 404 on a poll this soon after a create is not believed; default 30s.
    pub gone_grace: Option<DurationText>,
}

/// Method of JAICP's `messages/by-session`, on which the vendor's page and its OpenAPI file disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum BySessionMethodFile {
    /// As the OpenAPI file says.
    Get,
    /// As the vendor's page says.
    Post,
}

/// Paths of JAICP below its base URL; `{token}` stands for the project token.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JaicpPathsFile {
    /// Default `/reporter/p/{token}/reports/{kind}`.
    pub create: Option<String>,
    /// Default `/reporter/p/{token}/reports/tasks/{task_id}`.
    pub task: Option<String>,
    /// Default `/reporter/p/{token}/{rows}/filter`.
    pub query: Option<String>,
    /// Default `/reporter/p/{token}/messages/by-session`.
    pub by_session: Option<String>,
    /// Default `/reporter/p/{token}/filters`; asked by `doctor` alone.
    pub filters: Option<String>,
}
