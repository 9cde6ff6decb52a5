//! `livechat:`: one report with the vendor's own filter tree, less the time pair that the window fills.

use serde_json::{Map, Value};

use super::{Block, LivechatAsk, map_of};
use crate::job::file::LivechatFile;
use crate::job::policy::{keep, one_of};
use crate::request::livechat::{DISTRIBUTIONS, REPORTS, TimePair};
use crate::yaml::{Finding, Path, did_you_mean};

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
