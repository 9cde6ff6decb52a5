//! The accounts of a connection: credentials, limits and the settings that cover what is not known of the vendors.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};
use url::Url;

use super::compile::Compiler;
use super::file::{
    BikConnectionFile, BySessionMethodFile, ConnectionFile, JaicpConnectionFile, LivechatAuthFile,
    LivechatConnectionFile, StatesFile,
};
use crate::connection::secret::SecretRef;
use crate::connection::{BikAccount, BikCredentials, Connection, JaicpAccount, Limits, LivechatAccount, States};
use crate::job::ask::header;
use crate::job::is_name;
use crate::job::policy::{keep, parse_zone};
use crate::job::resolve::is_address;
use crate::request::bik::BikEndpoint;
use crate::request::is_loopback;
use crate::request::jaicp::JaicpEndpoint;
use crate::request::livechat::LivechatEndpoint;
use crate::yaml::{DurationText, Finding, Named, Path, parse_duration};

/// One API call must end within a lease of 60 s, with room for the clock and the commit.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(50);

/// Limits of one account as the file has them; each vendor has its own defaults.
struct LimitFields<'a> {
    requests_per_second: (Option<f64>, f64),
    max_in_flight: (Option<u32>, u32),
    allowed_hosts: (Option<&'a [String]>, &'a [&'a str]),
    timeout: Option<&'a DurationText>,
    download_idle: Option<&'a DurationText>,
    gone_grace: Option<&'a DurationText>,
    max_pages: Option<u32>,
    page_size: Option<u32>,
}

impl Compiler {
    /// The one connection there is without `connections:`; its credentials come from well-known variables.
    pub(super) fn default_connection(&mut self) -> Connection {
        let env = &self.base.environment;
        let token = env.get("BIK_AUTH_TOKEN").is_some() || env.get("BIK_API_KEY").is_none();
        let bik = if token {
            BikConnectionFile { token: Some("env:BIK_AUTH_TOKEN".into()), ..BikConnectionFile::default() }
        } else {
            BikConnectionFile {
                key: Some("env:BIK_API_KEY".into()),
                secret: Some("env:BIK_API_SECRET".into()),
                ..BikConnectionFile::default()
            }
        };
        let auth = match env.get("LIVECHAT_AUTH").as_deref() {
            Some("bearer") => LivechatAuthFile::Bearer,
            _ => LivechatAuthFile::Pat,
        };
        let livechat = LivechatConnectionFile {
            token: Some("env:LIVECHAT_TOKEN".into()),
            auth: Some(auth),
            ..LivechatConnectionFile::default()
        };
        let jaicp = JaicpConnectionFile { token: Some("env:JAICP_TOKEN".into()), ..JaicpConnectionFile::default() };
        let file = ConnectionFile {
            bik: Some(bik),
            livechat: Some(livechat),
            jaicp: Some(jaicp),
            ..ConnectionFile::default()
        };
        self.connection("default", &file, &Path::root())
    }

    pub(super) fn connection(&mut self, name: &str, file: &ConnectionFile, at: &Path) -> Connection {
        if !is_name(name) {
            let message = format!("connection '{name}': a name is [a-z0-9-], 1 to 64 characters");
            self.out.push(Finding::error(at.clone(), message).at_key());
        }
        let vars: Map<String, Value> =
            file.vars.iter().flat_map(|v| &v.0).map(|(k, v)| (k.clone(), v.0.clone())).collect();
        for (key, value) in &vars {
            crate::job::lint::secrets(value, &at.key("vars").key(key), &mut self.out);
        }
        Connection {
            name: name.to_owned(),
            zone: keep(file.zone.as_deref().map(parse_zone), "zone", at, &mut self.out),
            vars,
            bik: file.bik.as_ref().map(|f| self.bik(f, &at.key("bik"))),
            livechat: file.livechat.as_ref().map(|f| self.livechat(f, &at.key("livechat"))),
            jaicp: file.jaicp.as_ref().map(|f| self.jaicp(f, &at.key("jaicp"))),
        }
    }

    fn bik(&mut self, file: &BikConnectionFile, at: &Path) -> BikAccount {
        let credentials = match (&file.key, &file.secret, &file.token) {
            (None, None, Some(token)) => BikCredentials::Token(self.required_secret(Some(token), at, "token")),
            (key, secret, None) => BikCredentials::KeySecret {
                key: self.required_secret(key.as_deref(), at, "key"),
                secret: self.required_secret(secret.as_deref(), at, "secret"),
            },
            (_, _, Some(token)) => {
                self.out.push(
                    Finding::error(at.key("token"), "bik takes key and secret, or token, not both").at_key().secret(),
                );
                BikCredentials::Token(self.required_secret(Some(token), at, "token"))
            }
        };
        for (i, address) in file.quiet_emails.iter().flatten().enumerate() {
            if !is_address(address) {
                self.error(at.key("quiet_emails").index(i), format!("'{address}' is not an e-mail address"));
            }
        }
        if file.quiet_emails.as_ref().is_some_and(Vec::is_empty) {
            self.error(
                at.key("quiet_emails"),
                "quiet_emails is empty: BIK needs an address; name a mailbox of your own",
            );
        }
        let paths = file.paths.clone().unwrap_or_default();
        let in_paths = at.key("paths");
        let limits = LimitFields {
            requests_per_second: (file.requests_per_second, 1.0),
            max_in_flight: (file.max_in_flight, 2),
            // The one host that the vendor's page shows in a sample link, and its newer name (REFERENCE 3.3).
            allowed_hosts: (
                file.allowed_hosts.as_deref(),
                &["firebasestorage.googleapis.com", "storage.googleapis.com"],
            ),
            timeout: file.timeout.as_ref(),
            download_idle: file.download_idle.as_ref(),
            gone_grace: file.gone_grace.as_ref(),
            max_pages: None,
            page_size: None,
        };
        let base_url = self.base_url(file.base_url.as_deref(), "https://bikapi.bikayi.app/integrations", at);
        let mut path = |key: &str, text: Option<&str>, function: &str| {
            self.template(text, &format!("/bikPlatformFunctions-{function}"), &in_paths, key, &[])
        };
        let status_path = path("status", paths.status.as_deref(), "getReportById");
        BikAccount {
            credentials,
            endpoint: BikEndpoint {
                base_url,
                create_path: path("create", paths.create.as_deref(), "generateReport"),
                ticket_path: path("ticket", paths.ticket.as_deref(), "createAndAssignTicket"),
                event_path: path("event", paths.event.as_deref(), "events/sendEvent"),
                auth_path: path("auth", paths.auth.as_deref(), "authPartnerViaKey"),
                app_id: file.appId.clone(),
                headers: self.headers(file.headers.as_ref(), at),
            },
            customer_id: file.bikCustomerId.clone(),
            status_path,
            states: states(file.states.as_ref(), &["QUEUE", "IN_PROGRESS"], &["COMPLETED"], &["FAILED"], &[]),
            quiet_emails: file.quiet_emails.clone(),
            limits: self.limits(&limits, at),
        }
    }

    fn livechat(&mut self, file: &LivechatConnectionFile, at: &Path) -> LivechatAccount {
        let version = file.version.clone().unwrap_or_else(|| "3.6".into());
        if !version.bytes().all(|b| b.is_ascii_digit() || b == b'.') || version.is_empty() {
            self.error(at.key("version"), format!("version '{version}' is a number such as \"3.6\""));
        }
        if let Some(Err(message)) = file.region.as_deref().map(|region| header("x-region", region)) {
            self.error(at.key("region"), message);
        }
        let limits = LimitFields {
            requests_per_second: (file.requests_per_second, 2.0),
            max_in_flight: (file.max_in_flight, 4),
            allowed_hosts: (None, &[]),
            timeout: file.timeout.as_ref(),
            download_idle: None,
            gone_grace: None,
            max_pages: file.max_pages,
            page_size: None,
        };
        LivechatAccount {
            token: self.required_secret(file.token.as_deref(), at, "token"),
            endpoint: LivechatEndpoint {
                base_url: self.base_url(file.base_url.as_deref(), "https://api.livechatinc.com", at),
                path: self.template(file.path.as_deref(), "/v{version}/reports/{report}", at, "path", &["{report}"]),
                version,
                bearer: file.auth == Some(LivechatAuthFile::Bearer),
                region: file.region.clone(),
                headers: self.headers(file.headers.as_ref(), at),
            },
            limits: self.limits(&limits, at),
        }
    }

    fn jaicp(&mut self, file: &JaicpConnectionFile, at: &Path) -> JaicpAccount {
        if let Some(generation) = file.generation.as_deref()
            && generation != "project_token"
        {
            let message = format!(
                "generation '{generation}': this version speaks project_token only (a token made under Project properties, API tokens)"
            );
            self.error(at.key("generation"), message);
        }
        let paths = file.paths.clone().unwrap_or_default();
        let in_paths = at.key("paths");
        let mut download_headers = BTreeMap::new();
        for (name, value) in file.download_headers.iter().flat_map(|n| &n.0) {
            if let Some(secret) = self.secret(value, &at.key("download_headers").key(name)) {
                download_headers.insert(name.to_ascii_lowercase(), secret);
            }
        }
        let limits = LimitFields {
            requests_per_second: (file.requests_per_second, 1.0),
            max_in_flight: (file.max_in_flight, 1),
            allowed_hosts: (file.allowed_hosts.as_deref(), &[]),
            timeout: file.timeout.as_ref(),
            download_idle: file.download_idle.as_ref(),
            gone_grace: file.gone_grace.as_ref(),
            max_pages: file.max_pages,
            page_size: file.page_size,
        };
        JaicpAccount {
            token: self.required_secret(file.token.as_deref(), at, "token"),
            endpoint: JaicpEndpoint {
                base_url: self.base_url(file.base_url.as_deref(), "https://app.jaicp.com/api", at),
                create_path: self.template(
                    paths.create.as_deref(),
                    "/reporter/p/{token}/reports/{kind}",
                    &in_paths,
                    "create",
                    &["{kind}"],
                ),
                query_path: self.template(
                    paths.query.as_deref(),
                    "/reporter/p/{token}/{rows}/filter",
                    &in_paths,
                    "query",
                    &["{rows}"],
                ),
                page_size: file.page_size.unwrap_or(100),
                headers: self.headers(file.headers.as_ref(), at),
            },
            task_path: self.template(
                paths.task.as_deref(),
                "/reporter/p/{token}/reports/tasks/{task_id}",
                &in_paths,
                "task",
                &["{task_id}"],
            ),
            by_session_path: self.template(
                paths.by_session.as_deref(),
                "/reporter/p/{token}/messages/by-session",
                &in_paths,
                "by_session",
                &[],
            ),
            filters_path: self.template(
                paths.filters.as_deref(),
                "/reporter/p/{token}/filters",
                &in_paths,
                "filters",
                &[],
            ),
            by_session_post: file.by_session_method == Some(BySessionMethodFile::Post),
            states: states(
                file.states.as_ref(),
                &["CREATED", "STARTED"],
                &["COMPLETED"],
                &["FAILED", "STOPPED"],
                &["DELETED"],
            ),
            download_headers,
            limits: self.limits(&limits, at),
        }
    }

    fn required_secret(&mut self, text: Option<&str>, at: &Path, key: &str) -> SecretRef {
        let found = match text {
            Some(text) => self.secret(text, &at.key(key)),
            None => {
                self.error(at.clone(), format!("{at} needs '{key}': env:NAME or file:PATH"));
                None
            }
        };
        found.unwrap_or(SecretRef::Env(String::new()))
    }

    fn base_url(&mut self, text: Option<&str>, default: &str, at: &Path) -> String {
        let Some(text) = text else { return default.to_owned() };
        let at = at.key("base_url");
        match Url::parse(text) {
            Ok(url) if url.host_str().is_some() && matches!(url.scheme(), "http" | "https") => {
                if url.username() != "" || url.password().is_some() || url.query().is_some() || url.fragment().is_some()
                {
                    let message = "base_url has no credentials, query or fragment".to_owned();
                    self.out.push(Finding::error(at, message).secret());
                } else if url.scheme() == "http" && !is_loopback(&url) {
                    self.error(at, "base_url must be https (http is for loopback only): it carries credentials");
                }
                text.trim_end_matches('/').to_owned()
            }
            _ => {
                self.error(at, "base_url is an absolute URL, such as https://app.jaicp.com/api");
                default.to_owned()
            }
        }
    }

    fn template(&mut self, text: Option<&str>, default: &str, at: &Path, key: &str, holes: &[&str]) -> String {
        let Some(text) = text else { return default.to_owned() };
        if !text.starts_with('/') {
            self.error(at.key(key), format!("'{text}' is a path below base_url and starts with /"));
        }
        for hole in holes {
            if !text.contains(hole) {
                self.error(at.key(key), format!("'{text}' needs {hole}"));
            }
        }
        text.to_owned()
    }

    fn headers(&mut self, named: Option<&Named<String>>, at: &Path) -> BTreeMap<String, String> {
        let mut headers = BTreeMap::new();
        for (name, value) in named.iter().flat_map(|n| &n.0) {
            match header(name, value) {
                Ok(lower) => {
                    crate::job::lint::secrets(&value.clone().into(), &at.key("headers").key(name), &mut self.out);
                    headers.insert(lower, value.clone());
                }
                Err(message) => {
                    let at = at.key("headers").key(name);
                    self.out.push(Finding::error(at, message).secret());
                }
            }
        }
        headers
    }

    fn limits(&mut self, fields: &LimitFields<'_>, at: &Path) -> Limits {
        let mut time = |key: &str, text: Option<&DurationText>, default: u64| {
            keep(text.map(|t| parse_duration(&t.0)), key, at, &mut self.out).unwrap_or(Duration::from_secs(default))
        };
        let timeout = time("timeout", fields.timeout, 30);
        let download_idle = time("download_idle", fields.download_idle, 60);
        let gone_grace = time("gone_grace", fields.gone_grace, 30);
        if timeout > LONGEST_TIMEOUT || timeout.is_zero() {
            self.error(at.key("timeout"), "timeout is between 1s and 50s: a call must end within its lease of 60 s");
        }
        if download_idle.is_zero() {
            self.error(at.key("download_idle"), "download_idle is at least 1s");
        }
        let hosts = fields.allowed_hosts.0.map(<[String]>::to_vec);
        for (i, host) in hosts.iter().flatten().enumerate() {
            if host.is_empty() || host.contains(['/', '@', ' ', '*']) {
                let message = format!("'{host}' is not a host: write files.example.com or files.example.com:8443");
                self.error(at.key("allowed_hosts").index(i), message);
            }
        }
        let rate = fields.requests_per_second.0;
        if rate.is_some_and(|rate| !(0.001..=100_000.0).contains(&rate)) {
            self.error(at.key("requests_per_second"), "requests_per_second is between 0.001 and 100000");
        }
        let counts = [
            ("max_in_flight", fields.max_in_flight.0),
            ("max_pages", fields.max_pages),
            ("page_size", fields.page_size),
        ];
        for (key, count) in counts {
            if count.is_some_and(|count| !(1..=1_000_000).contains(&count)) {
                self.error(at.key(key), format!("{key} is between 1 and 1000000"));
            }
        }
        Limits {
            requests_per_second: fields.requests_per_second.0.unwrap_or(fields.requests_per_second.1),
            max_in_flight: fields.max_in_flight.0.unwrap_or(fields.max_in_flight.1),
            timeout,
            download_idle,
            gone_grace,
            allowed_hosts: hosts.unwrap_or_else(|| fields.allowed_hosts.1.iter().map(|h| (*h).to_owned()).collect()),
            max_pages: fields.max_pages.unwrap_or(10_000),
        }
    }
}

fn states(file: Option<&StatesFile>, running: &[&str], ready: &[&str], failed: &[&str], gone: &[&str]) -> States {
    let pick = |own: Option<&Vec<String>>, default: &[&str]| {
        own.cloned().unwrap_or_else(|| default.iter().map(|w| (*w).to_owned()).collect())
    };
    States {
        running: pick(file.and_then(|f| f.running.as_ref()), running),
        ready: pick(file.and_then(|f| f.ready.as_ref()), ready),
        failed: pick(file.and_then(|f| f.failed.as_ref()), failed),
        gone: pick(file.and_then(|f| f.gone.as_ref()), gone),
    }
}
