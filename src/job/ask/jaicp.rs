//! `jaicp:`: a background report or a paged query.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Block, JaicpAsk, header, map_of};
use crate::job::file::{FileTypeFile, JaicpFile, JaicpSettingsFile};
use crate::job::policy::{keep, one_of};
use crate::request::jaicp::{self, FILTER_KEYS, FILTER_TYPES, FileSettings, ReportKind};
use crate::request::{FileType, Rows};
use crate::yaml::{Finding, Free, Named, Path};

impl Block<'_> {
    fn needs_bound(&mut self, bounded: bool, unbounded: bool) {
        if !bounded && !unbounded {
            let message = "no DATE_TIME_RANGE filter: the window would bound nothing (what JAICP sends then is not documented); \
                           add `- { key: MESSAGE_TIME, type: DATE_TIME_RANGE }`, or say `unbounded: true`";
            self.error(self.at.key("filters"), message);
        }
    }
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
            // The vendor's API gives this report query parameters only: a file form could neither be asked for nor relied on.
            let settings = if kind == ReportKind::Calls { None } else { settings };
            if kind == ReportKind::Calls && file.settings.is_some() {
                let message =
                    "settings are not sent for calls: JAICP takes none, and the file is kept in the form it comes";
                block.out.push(Finding::warning(at.key("settings"), message).at_key());
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
            jaicp::JaicpAsk::Report {
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
            jaicp::JaicpAsk::Query { rows, with_messages }
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
