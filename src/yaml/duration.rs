//! Durations as people write them: `90s`, `15m`, `2h`, `7d`, `0`. One unit, whole numbers, at most ten years.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Visitor};

/// Longest duration that is accepted, so that sums with instants cannot overflow.
const MAX: Duration = Duration::from_secs(3660 * 86_400);

/// A duration as it stands in a file, not yet checked: compile.rs parses it, so that all problems come in one pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurationText(pub String);

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DurationText, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = DurationText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 90s, 15m, 2h or 7d")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<DurationText, E> {
                Ok(DurationText(text.to_owned()))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<DurationText, E> {
                Ok(DurationText(number.to_string()))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<DurationText, E> {
                Ok(DurationText(number.to_string()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for DurationText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "description": "a duration: 90s, 15m, 2h, 7d, or 0" })
    }
}

/// Parses `90s`, `15m`, `2h`, `7d` or `0`; the error says what is expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is not a duration: write 90s, 15m, 2h, 7d or 0");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let unit = text.chars().last().ok_or_else(bad)?;
    let scale = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        '0'..='9' => return Err(format!("'{text}' has no unit: write {text}s, {text}m, {text}h or {text}d")),
        _ => return Err(bad()),
    };
    let number = &text[..text.len() - unit.len_utf8()];
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(scale));
    match seconds.map(Duration::from_secs) {
        Some(duration) if duration <= MAX => Ok(duration),
        _ => Err(format!("'{text}' is too long: ten years at most")),
    }
}

/// The shortest text that [`parse_duration`] reads back: `2h`, `90s`, `7d`.
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => "0".into(),
        s if s % 86_400 == 0 => format!("{}d", s / 86_400),
        s if s % 3600 == 0 => format!("{}h", s / 3600),
        s if s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_back() {
        for text in ["0", "1s", "90s", "15m", "2h", "7d", "400d"] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(parse_duration(&show_duration(duration)).unwrap(), duration, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_form_that_works() {
        for text in ["", "m", "1.5h", "-1s", "1w", "99999999999999999999d", "4000d", "1 h", "1ч", "١s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration("15").unwrap_err().contains("15m"));
    }
}
