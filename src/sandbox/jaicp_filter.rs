//! What a JAICP request may say: `CreateReportDto`, its filters and its settings, by the rules of the OpenAPI file.
//!
//! Keys of filters are free strings, as the vendor's list grows; types, their fields and the form of times are not.
//! Pure checks, which give the window and the choices that the rows depend on.

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde_json::Value;

use super::call::{Fields, Object, Refusal};
use super::data::{CHANNELS, Span};

const PRESENCE: [&str; 5] = ["NOT_IMPORTANT", "NOT_EXISTS", "EXISTS", "CONTAINS", "NOT_CONTAINS"];
const COMPARISON: [&str; 4] = ["NOT_IMPORTANT", "CONTAINS", "NOT_CONTAINS", "EQUALS"];
const COMPOSITE: [&str; 9] = [
    "NOT_IMPORTANT",
    "NOT_EXISTS",
    "EXISTS",
    "CONTAINS",
    "NOT_CONTAINS",
    "EQUALS",
    "NOT_EQUALS",
    "STARTS_WITH",
    "ENDS_WITH",
];
const TYPES: [&str; 8] = [
    "DATE_TIME_RANGE",
    "NUMERIC_RANGE",
    "CHECKBOX",
    "TREE",
    "RADIO",
    "TEXT",
    "CUSTOM_FIELDS_IN_RESPONSE",
    "COMPOSITE_FILTER",
];

/// What filters choose.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    pub span: Span,
    pub channels: Vec<&'static str>,
}

/// Checks `filters`. Without a time range the window is the day before `now`, which is what the vendor's screen does.
pub(super) fn choice(body: &Object, now: DateTime<Utc>) -> Result<Choice, Refusal> {
    let filters = Fields::new(body, "").maybe_list("filters")?.unwrap_or_default();
    let (mut range, mut channels) = (None, CHANNELS.to_vec());
    for (place, filter) in filters.iter().enumerate() {
        let at = format!("filters[{place}]");
        let Value::Object(filter) = filter else {
            return Err(Refusal::invalid(format!("'{at}' must be an object")));
        };
        let fields = Fields::new(filter, &at);
        let key = fields.text("key")?;
        check_filter(fields)?;
        if range.is_none() && fields.get("type") == Some(&"DATE_TIME_RANGE".into()) {
            range = Some((maybe_time(fields, "from")?, maybe_time(fields, "to")?));
        }
        if key == "CHANNEL_TYPE" {
            let wanted = fields.maybe_list("options")?.unwrap_or_default();
            channels.retain(|channel| wanted.contains(&(*channel).into()));
        }
    }
    // A channel that we do not know is one of the vendor's others: its rows look like anyone's.
    if channels.is_empty() {
        channels = CHANNELS.to_vec();
    }
    let (from, to) = range.unwrap_or_default();
    let end = to.unwrap_or(now);
    let start = from.unwrap_or_else(|| end.checked_sub_signed(TimeDelta::days(1)).unwrap_or(end));
    Ok(Choice { span: Span { start, end }, channels })
}

fn check_filter(fields: Fields<'_>) -> Result<(), Refusal> {
    let allow = |own: &[&'static str]| fields.only(&[&["key", "type"], own].concat());
    match fields.word("type", &TYPES)? {
        "DATE_TIME_RANGE" => {
            allow(&["from", "to"])?;
            match (maybe_time(fields, "from")?, maybe_time(fields, "to")?) {
                (None, None) => fields.wrong("from", "or 'to' is required"),
                (Some(from), Some(to)) if from > to => fields.wrong("from", "must not be after 'to'"),
                _ => Ok(()),
            }
        }
        "NUMERIC_RANGE" => {
            allow(&["from", "to"])?;
            // Numbers in the OpenAPI file, quoted ones in the help page.
            let is_number =
                |value: &Value| value.as_str().map_or(value.is_number(), |text| text.parse::<f64>().is_ok());
            match [fields.get("from"), fields.get("to")] {
                [None, None] => fields.wrong("from", "or 'to' is required"),
                ends if ends.into_iter().flatten().all(is_number) => Ok(()),
                _ => fields.wrong("from", "and 'to' must be numbers"),
            }
        }
        "CHECKBOX" | "TREE" => {
            allow(&["options", "comparisonType"])?;
            fields.list_of("options", "strings", Value::is_string)?;
            fields.maybe_word("comparisonType", &PRESENCE).map(|_| ())
        }
        "RADIO" => allow(&["option"])?.text("option").map(|_| ()),
        "TEXT" => {
            allow(&["values", "comparisonType", "isCaseSensitive"])?;
            fields.list_of("values", "strings", Value::is_string)?;
            fields.word("comparisonType", &COMPARISON)?;
            fields.need("isCaseSensitive")?;
            fields.maybe_flag("isCaseSensitive").map(|_| ())
        }
        "CUSTOM_FIELDS_IN_RESPONSE" => {
            allow(&["responseDataJsonPaths"])?.list_of("responseDataJsonPaths", "strings", Value::is_string).map(|_| ())
        }
        _ => {
            let options = allow(&["options"])?.list_of("options", "objects", Value::is_object)?;
            options.iter().filter_map(Value::as_object).try_for_each(|option| {
                let option =
                    Fields::new(option, "options").only(&["key", "comparisonOption", "value", "caseSensitive"])?;
                option.text("key")?;
                option.word("comparisonOption", &COMPOSITE)?;
                option.maybe_text("value")?;
                option.maybe_flag("caseSensitive").map(|_| ())
            })
        }
    }
}

fn maybe_time(fields: Fields<'_>, key: &str) -> Result<Option<DateTime<Utc>>, Refusal> {
    match fields.maybe_text(key)? {
        None => Ok(None),
        Some(text) => time(text)
            .map_or_else(|| fields.wrong(key, "must be a time such as 2026-03-01T00:00:00.000Z"), |at| Ok(Some(at))),
    }
}

/// A time in the form of the OpenAPI file: UTC with `Z` and three digits of milliseconds.
pub(super) fn time(text: &str) -> Option<DateTime<Utc>> {
    let at = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.3fZ").ok()?;
    (text.len() == "2026-03-01T00:00:00.000Z".len()).then(|| at.and_utc())
}

/// How the file is to be written.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub xlsx: bool,
    pub with_header: bool,
    pub delimiter: char,
    pub time_pattern: String,
}

/// Checks `settings`. Nobody documents what comes without them; here it is a CSV with every default.
pub(super) fn settings(body: &Object) -> Result<Settings, Refusal> {
    let mut chosen =
        Settings { xlsx: false, with_header: true, delimiter: ',', time_pattern: "yyyy-MM-dd HH:mm:ss.SSS".to_owned() };
    let Some(settings) = Fields::new(body, "").maybe_object("settings")? else {
        return Ok(chosen);
    };
    let fields = Fields::new(settings, "settings").only(&["fileType", "withHeader", "delimiter", "dateTimeFormat"])?;
    chosen.xlsx = fields.word("fileType", &["XLSX", "CSV"])? == "XLSX";
    chosen.with_header = fields.maybe_flag("withHeader")?.unwrap_or(true);
    if let Some(delimiter) = fields.maybe_text("delimiter")? {
        let mut characters = delimiter.chars();
        match (characters.next(), characters.next()) {
            (Some(_), None) if chosen.xlsx => return fields.wrong("delimiter", "is only for CSV"),
            (Some(one), None) => chosen.delimiter = one,
            _ => return fields.wrong("delimiter", "must be one character"),
        }
    }
    match fields.maybe_text("dateTimeFormat")? {
        // The page gives no limit; this one keeps 500 rows small.
        Some(pattern) if pattern.trim().is_empty() || pattern.len() > 64 => {
            fields.wrong("dateTimeFormat", "is not a date pattern")
        }
        pattern => {
            if let Some(pattern) = pattern {
                pattern.clone_into(&mut chosen.time_pattern);
            }
            Ok(chosen)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(filter: &Value) -> Result<Choice, String> {
        let body = json!({"filters": [filter]});
        choice(body.as_object().unwrap(), DateTime::UNIX_EPOCH).map_err(|refusal| refusal.message)
    }

    #[test]
    fn every_sample_of_the_vendors_page_is_taken() {
        for filter in [
            json!({"key": "MESSAGE_TIME", "type": "DATE_TIME_RANGE", "from": "2021-02-14T21:00:00.234Z", "to": "2021-02-21T20:59:59.000Z"}),
            json!({"key": "WITHOUT_EMPTY_SESSIONS", "type": "RADIO", "option": "YES"}),
            json!({"key": "MESSAGE_COUNT", "type": "NUMERIC_RANGE", "from": "20", "to": "50"}),
            json!({"key": "MESSAGE_COUNT", "type": "NUMERIC_RANGE", "to": 50.5}),
            json!({"key": "CHANNEL_TYPE", "type": "CHECKBOX", "options": ["telegram"]}),
            json!({"key": "ANSWER_TEXT", "type": "TEXT", "values": ["x"], "comparisonType": "EQUALS", "isCaseSensitive": false}),
            json!({"key": "SESSION_DATA", "type": "COMPOSITE_FILTER", "options": [{"key": "a", "comparisonOption": "STARTS_WITH"}]}),
        ] {
            assert!(checked(&filter).is_ok(), "{filter}");
        }
    }

    #[test]
    fn a_filter_without_what_its_type_needs_is_refused_by_name() {
        for (filter, name) in [
            (json!({"type": "RADIO", "option": "YES"}), "filters[0].key"),
            (json!({"key": "X", "type": "RADIO"}), "filters[0].option"),
            (json!({"key": "X", "type": "RADIO", "option": true}), "filters[0].option"),
            (json!({"key": "X", "type": "CHECKBOX"}), "filters[0].options"),
            (json!({"key": "X", "type": "CHECKBOX", "options": [1]}), "filters[0].options"),
            (json!({"key": "X", "type": "RANGE"}), "filters[0].type"),
            (json!({"key": "X", "type": "DATE_TIME_RANGE"}), "filters[0].from"),
            (json!({"key": "X", "type": "DATE_TIME_RANGE", "from": "2026-03-01T00:00:00Z"}), "filters[0].from"),
            (
                json!({"key": "X", "type": "DATE_TIME_RANGE", "from": "2026-03-01T00:00:00.000+00:00"}),
                "filters[0].from",
            ),
            (
                json!({"key": "X", "type": "DATE_TIME_RANGE", "from": "2026-03-02T00:00:00.000Z", "to": "2026-03-01T00:00:00.000Z"}),
                "filters[0].from",
            ),
            (json!({"key": "X", "type": "NUMERIC_RANGE", "from": "many"}), "filters[0].from"),
            (
                json!({"key": "X", "type": "TEXT", "values": [], "comparisonType": "EQUALS"}),
                "filters[0].isCaseSensitive",
            ),
            (json!({"key": "X", "type": "COMPOSITE_FILTER", "options": [{"key": "a"}]}), "options.comparisonOption"),
            (json!({"key": "X", "type": "RADIO", "option": "YES", "options": []}), "filters[0].options"),
        ] {
            let message = checked(&filter).unwrap_err();
            assert!(message.contains(&format!("'{name}'")), "{filter}: {message}");
        }
    }

    #[test]
    fn settings_name_a_file_type_and_a_delimiter_only_for_csv() {
        let read = |value: Value| settings(json!({"settings": value}).as_object().unwrap());
        let csv = read(json!({"fileType": "CSV", "withHeader": false, "delimiter": ";"})).unwrap();
        assert_eq!((csv.xlsx, csv.with_header, csv.delimiter), (false, false, ';'));
        for wrong in [
            json!({"withHeader": true}),
            json!({"fileType": "csv"}),
            json!({"fileType": "XLSX", "delimiter": ";"}),
            json!({"fileType": "CSV", "delimiter": ";;"}),
            json!({"fileType": "CSV", "delimiter": ""}),
            json!({"fileType": "CSV", "header": true}),
            json!({"fileType": "CSV", "dateTimeFormat": "x".repeat(65)}),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
