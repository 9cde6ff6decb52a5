//! What a plain scalar means: the YAML 1.2 core schema exactly as `serde_yaml` reads it.
//!
//! The marked tree must see the values that the fast path sees, or the two would disagree about the same file: `no` is
//! text, `0123` is text, `0x1F` and `0b11` are numbers, an integer that fits neither i64 nor u64 becomes a float.

use serde_json::{Number, Value};

/// The JSON value of an untagged plain scalar; `None` for infinities and not-a-number, which JSON cannot hold.
pub(super) fn plain(text: &str) -> Option<Value> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Value::Null),
        "true" | "True" | "TRUE" => return Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Value::Bool(false)),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF" | ".nan" | ".NaN"
        | ".NAN" => return None,
        _ => {}
    }
    Some(number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number))
}

fn number(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.starts_with(['+', '-']) || is_zero_padded(digits) {
        return None;
    }
    integer(negative, digits).or_else(|| {
        let float: f64 = text.strip_prefix('+').unwrap_or(text).parse().ok()?;
        Number::from_f64(float)
    })
}

fn integer(negative: bool, digits: &str) -> Option<Number> {
    let (radix, digits) = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find_map(|(prefix, radix)| Some((radix, digits.strip_prefix(prefix)?)))
        .unwrap_or((10, digits));
    if digits.starts_with(['+', '-']) {
        return None;
    }
    if !negative && let Ok(whole) = u64::from_str_radix(digits, radix) {
        return Some(whole.into());
    }
    let signed = if negative { format!("-{digits}") } else { digits.to_owned() };
    if let Ok(whole) = i64::from_str_radix(&signed, radix) {
        return Some(whole.into());
    }
    // Larger than 64 bits: serde_yaml hands out 128 bits, which become a float in JSON.
    if !negative && let Ok(whole) = u128::from_str_radix(digits, radix) {
        return wide(&whole.to_string());
    }
    i128::from_str_radix(&signed, radix).ok().and_then(|whole| wide(&whole.to_string()))
}

/// The float nearest to an integer that is too large for 64 bits.
pub(super) fn wide(digits: &str) -> Option<Number> {
    digits.parse().ok().and_then(Number::from_f64)
}

/// `007` is text in YAML 1.2, and so are account numbers that start with a zero.
fn is_zero_padded(digits: &str) -> bool {
    digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::Free;

    #[test]
    fn plain_scalars_mean_here_what_they_mean_to_serde_yaml() {
        let samples = [
            "~",
            "null",
            "nil",
            "yes",
            "no",
            "on",
            "true",
            "True",
            "tRUE",
            "FALSE",
            "0",
            "-0",
            "+0",
            "00",
            "007",
            "-007",
            "+12",
            "--1",
            "+-1",
            "-+1",
            "12:30",
            "1_000",
            "0x1F",
            "-0x1F",
            "+0x1f",
            "0x",
            "0x-1",
            "0o17",
            "0b101",
            "-0b11",
            "1.10",
            "1e3",
            "-1.5e-3",
            ".5",
            "5.",
            "+.5",
            "1e999",
            "-1e999",
            "inf",
            "NaN",
            "infinity",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775808",
            "-9223372036854775809",
            "999999999999999999999999999999",
            "99999999999999999999999999999999999999999999999999",
            "2026-01-01",
            "0xFFFFFFFFFFFFFFFFFF",
            "0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF",
            "-0xFFFFFFFFFFFFFFFFFF",
            "1e",
            "e1",
            "0.0",
            "a b",
            "-a",
            "1 2",
            "0e0",
            "00.5",
            "+",
            "+a",
        ];
        for sample in samples {
            let theirs: Result<Free, _> = serde_yaml::from_str(sample);
            let Ok(theirs) = theirs else { panic!("serde_yaml refused {sample}") };
            assert_eq!(plain(sample), Some(theirs.0), "{sample}");
        }
        for sample in [".inf", "-.Inf", "+.INF", ".nan"] {
            assert_eq!(plain(sample), None);
            assert!(serde_yaml::from_str::<Free>(sample).is_err());
        }
    }
}
