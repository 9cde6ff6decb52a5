//! The vendor block of a job: what is asked, with its placeholders found. Pure.
//!
//! Loose on vendor vocabulary (a report name or filter that no page lists only warns: the vendors' lists are incomplete and
//! grow), strict on structure (what the vendor would refuse anyway, or answer with the wrong report).

mod bik;
mod jaicp;
mod livechat;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub use bik::compile_bik;
pub use jaicp::compile_jaicp;
pub use livechat::compile_livechat;

use super::policy::keep;
use crate::request::bik::DateFormat;
use crate::request::livechat::TimePair;
use crate::request::{self, Vendor};
use crate::template::{Place, Template, Tree};
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
    pub kind: request::jaicp::JaicpAsk,
    /// `filters`.
    pub filters: Tree,
    /// Request headers.
    pub headers: BTreeMap<String, String>,
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
