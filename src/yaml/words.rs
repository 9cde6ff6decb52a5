//! Violations in words for the people who write job files.
//!
//! A message names the place by its path, says what is expected in plain words and, where a slip of the finger is likely,
//! what was probably meant. Values are repeated only where they are words of a list; what else stands in a file may be
//! secret.

use jsonschema::error::ValidationErrorKind;
use jsonschema::{JsonType, JsonTypeSet};
use serde_json::Value;

use super::collect::{Fact, What};
use super::problem::{Finding, Path, shown};

/// The allowed words are listed when there are at most this many.
const LISTED: usize = 12;
/// A longer word is no slip of the finger, and comparing costs its length squared.
const GUESSABLE: usize = 40;

/// A violation in words, with the part of the document that is useless because of it.
#[derive(Debug)]
pub(super) struct Violation {
    pub(super) finding: Finding,
    pub(super) wrong: Path,
    /// Only a key is missing: a type that can do without it still takes the rest.
    pub(super) missing: bool,
}

impl Fact {
    /// This fact in words; `value` is what stands at its path.
    pub(super) fn tell(self, value: Option<&Value>) -> Violation {
        let Self { path, what } = self;
        let missing = matches!(what, What::Missing(_));
        let lead = path.lead();
        let finding = match what {
            What::Unknown { allowed } => {
                let (parent, key) = path.split_last();
                let suggestion = suggestion(&key, &allowed, "allowed");
                Finding::error(path.clone(), format!("unknown key '{}'{}{suggestion}", shown(&key), parent.inside()))
                    .at_key()
            }
            What::Missing(key) => {
                let message = format!("key '{}' is missing{}", shown(&key), path.inside());
                Finding::error(path.key(key), message)
            }
            What::Type(_) if value.is_none_or(Value::is_null) && !path.is_root() => {
                Finding::error(path.clone(), format!("{path} has no value"))
            }
            What::Type(types) => {
                let expected = expected(types, path.is_root());
                Finding::error(path.clone(), format!("{lead}expected {expected}, found {}", found(value)))
            }
            What::Choice(options) => {
                let options: Vec<_> = options.iter().filter(|option| !option.is_null()).map(word).collect();
                let value = value.map(word).unwrap_or_default();
                let suggestion = suggestion(&value, &options, "expected one of");
                Finding::error(path.clone(), format!("{lead}unknown value '{}'{suggestion}", shown(&value)))
            }
            What::Other(clause) => Finding::error(path.clone(), format!("{lead}{clause}")),
        };
        Violation { finding, wrong: path, missing }
    }
}

/// `, did you mean 'x'?`, else the whole list if it is short, else nothing.
fn suggestion(word: &str, known: &[String], listed: &str) -> String {
    if let Some(guess) = did_you_mean(word, known) {
        return format!(", did you mean '{guess}'?");
    }
    if known.is_empty() || known.len() > LISTED {
        return String::new();
    }
    format!(", {listed}: {}", known.join(", "))
}

/// The known word that was probably meant: the same but for case and separators, or one slip in three letters away.
pub fn did_you_mean<'k>(word: &str, known: &'k [impl AsRef<str>]) -> Option<&'k str> {
    if word.len() > GUESSABLE {
        return None;
    }
    let plain = |word: &str| word.replace(['_', '-', ' '], "").to_lowercase();
    let word = plain(word);
    let allowance = (word.chars().count() / 3).max(1);
    known
        .iter()
        .map(AsRef::as_ref)
        .map(|known| (strsim::osa_distance(&word, &plain(known)), known))
        .filter(|(distance, known)| *distance <= allowance && *distance < known.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// `a string or a list`; null is never said, as leaving the key out is the way to say it.
fn expected(types: JsonTypeSet, at_root: bool) -> String {
    let name = |kind| match kind {
        JsonType::Null => None,
        JsonType::Boolean => Some("true or false"),
        JsonType::Integer => Some("a whole number"),
        JsonType::Number => Some("a number"),
        JsonType::String => Some("a string"),
        JsonType::Array => Some("a list"),
        JsonType::Object if at_root => Some("a map of keys"),
        JsonType::Object => Some("a map"),
    };
    let names: Vec<_> =
        [JsonType::String, JsonType::Integer, JsonType::Number, JsonType::Boolean, JsonType::Array, JsonType::Object]
            .into_iter()
            .filter(|kind| types.contains(*kind))
            .filter_map(name)
            .collect();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        [one] => (*one).to_owned(),
        [several @ .., last] => format!("{} or {last}", several.join(", ")),
    }
}

fn found(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "nothing".to_owned(),
        Some(Value::Bool(value)) => value.to_string(),
        Some(Value::Number(number)) if number.is_f64() => number.to_string(),
        Some(Value::Number(_)) => "a whole number".to_owned(),
        Some(Value::String(_)) => "a string".to_owned(),
        Some(Value::Array(_)) => "a list".to_owned(),
        Some(Value::Object(_)) => "a map".to_owned(),
    }
}

/// A word of a list as its author writes it.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What is wrong with a value of the right type.
pub(super) fn sentence(kind: &ValidationErrorKind) -> Option<String> {
    let counted = |count: &u64, what: &str| {
        if *count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
    };
    Some(match kind {
        ValidationErrorKind::MinLength { limit: 1 } | ValidationErrorKind::MinItems { limit: 1 } => {
            "must not be empty".to_owned()
        }
        ValidationErrorKind::MinLength { limit } => format!("must have at least {}", counted(limit, "character")),
        ValidationErrorKind::MaxLength { limit } => format!("must have at most {}", counted(limit, "character")),
        ValidationErrorKind::MinItems { limit } => format!("must have at least {limit} entries"),
        ValidationErrorKind::MaxItems { limit } => format!("must have at most {limit} entries"),
        ValidationErrorKind::AdditionalItems { limit } => format!("must have at most {limit} entries"),
        ValidationErrorKind::MinProperties { limit } => format!("must have at least {}", counted(limit, "key")),
        ValidationErrorKind::MaxProperties { limit } => format!("must have at most {}", counted(limit, "key")),
        ValidationErrorKind::Minimum { limit } => format!("must be at least {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("must be at most {limit}"),
        ValidationErrorKind::ExclusiveMinimum { limit } => format!("must be more than {limit}"),
        ValidationErrorKind::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        ValidationErrorKind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        ValidationErrorKind::Pattern { pattern } => format!("does not match the pattern {pattern}"),
        ValidationErrorKind::Format { format } => format!("is not a valid {format}"),
        ValidationErrorKind::UniqueItems => "has an entry twice".to_owned(),
        ValidationErrorKind::OneOfMultipleValid { .. } => {
            "fits more than one of the forms that are allowed here".to_owned()
        }
        _ => return None,
    })
}
