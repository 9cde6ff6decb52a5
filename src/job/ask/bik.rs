//! `bik:`: the body of generateReport less `dateRange`.

use serde_json::{Map, Value};

use super::{BikAsk, Block};
use crate::job::file::{BikFile, Words};
use crate::job::policy::{keep, one_of};
use crate::request::bik::{CHANNELS, DateFormat, GROUP_BY, REPORT_NAMES, REPORT_TYPES};
use crate::yaml::{Finding, Path};

/// Compiles `bik:`. `None` when something required is missing or wrong; `out` says what.
pub fn compile_bik(file: &BikFile, at: &Path, out: &mut Vec<Finding>) -> Option<BikAsk> {
    let mut block = Block { at: at.clone(), out };
    let report_type = block.required(file.reportType.as_deref(), "reportType", "");
    let report_name = block.required(file.reportName.as_deref(), "reportName", "");
    let emails = block.required(file.emails.as_ref(), "emails", ": BIK sends every report to at least one address");
    if let Some(text) = report_type {
        block.vocabulary(text, at.key("reportType"), "report type", &REPORT_TYPES);
    }
    if let Some(text) = report_name {
        block.vocabulary(text, at.key("reportName"), "report name", &REPORT_NAMES);
    }
    if emails.is_some_and(|Words(list)| list.is_empty()) {
        block.error(at.key("emails"), "emails is empty: BIK refuses a report without an address");
    }
    let mut filters = Map::new();
    if let Some(file) = &file.filters {
        for (key, text, known) in
            [("channel", &file.channel, CHANNELS.as_slice()), ("groupBy", &file.groupBy, GROUP_BY.as_slice())]
        {
            if let Some(text) = text {
                block.vocabulary(text, at.key("filters").key(key), key, known);
                filters.insert(key.into(), text.clone().into());
            }
        }
    }
    let formats = [("iso_millis", DateFormat::IsoMillis), ("date", DateFormat::Date)];
    let format = file.date_format.as_deref().map(|t| one_of("date_format", t, &formats));
    let report_type = report_type.and_then(|t| block.template(t, "reportType"));
    let report_name = report_name.and_then(|t| block.template(t, "reportName"));
    let description = file.reportDescription.as_deref().map(|t| block.template(t, "reportDescription"));
    let emails = emails.map(|Words(list)| block.tree(&list.clone().into(), "emails"));
    let filters = file.filters.is_some().then(|| block.tree(&Value::Object(filters), "filters"));
    let date_format = keep(format, "date_format", at, block.out).unwrap_or_default();
    Some(BikAsk {
        report_type: report_type?,
        report_name: report_name?,
        description: description.flatten(),
        emails: emails?,
        filters,
        date_format,
    })
}
