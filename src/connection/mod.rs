//! A connection past compile.rs: one shop's accounts, limits and variables, with nothing left to check.
//!
//! It holds where secrets are, never the secrets: `vendor::account` reads those when it needs them.

pub mod environment;
pub mod secret;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono_tz::Tz;
use serde_json::{Map, Value};

use crate::request::Vendor;
use crate::request::bik::BikEndpoint;
use crate::request::jaicp::JaicpEndpoint;
use crate::request::livechat::LivechatEndpoint;
use secret::SecretRef;

/// One shop.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// Its name, `[a-z0-9-]{1,64}`.
    pub name: String,
    /// Its zone, where one is set.
    pub zone: Option<Tz>,
    /// Variables for `{var.NAME}`.
    pub vars: Map<String, Value>,
    /// Its BIK account.
    pub bik: Option<BikAccount>,
    /// Its LiveChat account.
    pub livechat: Option<LivechatAccount>,
    /// Its JAICP project.
    pub jaicp: Option<JaicpAccount>,
}

impl Connection {
    /// Whether this shop has an account at `vendor`.
    pub fn has(&self, vendor: Vendor) -> bool {
        self.limits(vendor).is_some()
    }

    /// The limits of its account at `vendor`.
    pub fn limits(&self, vendor: Vendor) -> Option<&Limits> {
        match vendor {
            Vendor::Bik => self.bik.as_ref().map(|a| &a.limits),
            Vendor::Livechat => self.livechat.as_ref().map(|a| &a.limits),
            Vendor::Jaicp => self.jaicp.as_ref().map(|a| &a.limits),
        }
    }

    /// The base URL of its account at `vendor`.
    pub fn base_url(&self, vendor: Vendor) -> Option<&str> {
        match vendor {
            Vendor::Bik => self.bik.as_ref().map(|a| a.endpoint.base_url.as_str()),
            Vendor::Livechat => self.livechat.as_ref().map(|a| a.endpoint.base_url.as_str()),
            Vendor::Jaicp => self.jaicp.as_ref().map(|a| a.endpoint.base_url.as_str()),
        }
    }
}

/// What holds for every call to one account.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Calls a second over all processes.
    pub requests_per_second: f64,
    /// Runs under way at the vendor at once, over all processes.
    pub max_in_flight: u32,
    /// Time limit of one API call; shorter than a lease.
    pub timeout: Duration,
    /// A download that brings no byte for this long is cut.
    pub download_idle: Duration,
    /// A 404 on a poll this soon after a create is not believed.
    pub gone_grace: Duration,
    /// Hosts (or `host:port`) that files may come from.
    pub allowed_hosts: Vec<String>,
    /// Pages of one answer that are fetched at most.
    pub max_pages: u32,
}

/// What a vendor's state words mean; a word in no list counts as running.
#[derive(Clone, Debug, PartialEq)]
pub struct States {
    /// Being made.
    pub running: Vec<String>,
    /// To be fetched.
    pub ready: Vec<String>,
    /// Will never come.
    pub failed: Vec<String>,
    /// No longer known.
    pub gone: Vec<String>,
}

/// How a BIK account is authorised.
#[derive(Clone, Debug, PartialEq)]
pub enum BikCredentials {
    /// API key and secret.
    KeySecret {
        /// The key, user of HTTP Basic.
        key: SecretRef,
        /// The secret, its password.
        secret: SecretRef,
    },
    /// The ready base64 value.
    Token(SecretRef),
}

/// A BIK account.
#[derive(Clone, Debug, PartialEq)]
pub struct BikAccount {
    /// How it is authorised.
    pub credentials: BikCredentials,
    /// What shapes its requests.
    pub endpoint: BikEndpoint,
    /// Path of `getReportById`.
    pub status_path: String,
    /// Its state words.
    pub states: States,
    /// Who is mailed by runs that no schedule made; `None`: such runs need `--mail`.
    pub quiet_emails: Option<Vec<String>>,
    /// The customer of tickets whose notice names none.
    pub customer_id: Option<String>,
    /// Its limits.
    pub limits: Limits,
}

/// A LiveChat account.
#[derive(Clone, Debug, PartialEq)]
pub struct LivechatAccount {
    /// The token.
    pub token: SecretRef,
    /// What shapes its requests.
    pub endpoint: LivechatEndpoint,
    /// Its limits.
    pub limits: Limits,
}

/// A JAICP project.
#[derive(Clone, Debug, PartialEq)]
pub struct JaicpAccount {
    /// The project token.
    pub token: SecretRef,
    /// What shapes its requests.
    pub endpoint: JaicpEndpoint,
    /// Path template of one task.
    pub task_path: String,
    /// Path template of a session's messages.
    pub by_session_path: String,
    /// Path template of the list of filters, which tells whether the token is accepted.
    pub filters_path: String,
    /// Whether `messages/by-session` is called with POST.
    pub by_session_post: bool,
    /// Its state words.
    pub states: States,
    /// Headers of a download from the base URL's own host.
    pub download_headers: BTreeMap<String, SecretRef>,
    /// Its limits.
    pub limits: Limits,
}
