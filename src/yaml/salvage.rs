//! What is left of a document once its wrong parts are cut out, as a typed value.
//!
//! The caller gets it to look for mistakes of meaning in the same pass. Cutting goes key by key and never inside a list:
//! the entries behind would move up, and every later message would name the wrong line. What serde refuses although the
//! schema allows it (a number too large for its field, a text that a type parses itself) is found here, one after the other.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::collect::at_mut;
use super::problem::{Finding, Path, Segment};

/// How often serde may refuse for reasons that the schema does not know before the rest is given up.
const ROUNDS: usize = 8;

/// The outcome.
#[derive(Debug)]
pub(super) struct Salvaged<T> {
    pub(super) value: Option<T>,
    /// What was cut out.
    pub(super) removed: Vec<Path>,
    /// What only serde knew.
    pub(super) findings: Vec<Finding>,
}

/// Cuts `wrong` out of `document` and decodes the rest. The maps in `incomplete` lack a key, which has been told: they are
/// cut out only if serde cannot do without it.
pub(super) fn salvage<T: DeserializeOwned>(mut document: Value, wrong: Vec<Path>, incomplete: &[Path]) -> Salvaged<T> {
    let mut salvaged = Salvaged { value: None, removed: Vec::new(), findings: Vec::new() };
    let mut useful = wrong.into_iter().all(|path| cut(&mut document, &path, &mut salvaged.removed));
    for _ in 0..ROUNDS {
        if !useful {
            break;
        }
        // One value on each line, so that the line of serde's error tells the path.
        let Ok(text) = serde_json::to_string_pretty(&document) else {
            break;
        };
        let error = match serde_json::from_str(&text) {
            Ok(value) => {
                salvaged.value = Some(value);
                break;
            }
            Err(error) => error,
        };
        let path = path_of_line(&document, error.line()).unwrap_or_default();
        let follows_from_a_cut =
            salvaged.removed.iter().any(|removed| removed.is_within(&path)) || incomplete.contains(&path);
        if !follows_from_a_cut {
            let message = error.to_string();
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
            salvaged.findings.push(Finding::error(path.clone(), format!("{}{message}", path.lead())));
        }
        useful = cut(&mut document, &path, &mut salvaged.removed);
    }
    salvaged
}

/// Removes the innermost map entry that holds `path`; `false` if that is the document itself.
fn cut(document: &mut Value, path: &Path, removed: &mut Vec<Path>) -> bool {
    let mut segments = path.segments().to_vec();
    while matches!(segments.last(), Some(Segment::Index(_))) {
        segments.pop();
    }
    let path = Path::from(segments);
    let (parent, key) = path.split_last();
    if path.is_root() {
        return false;
    }
    if let Some(Value::Object(map)) = at_mut(document, &parent) {
        map.remove(&key);
    }
    removed.push(path);
    true
}

/// The path of the value on a line (from 1) of a document that serde_json printed prettily.
fn path_of_line(document: &Value, line: usize) -> Option<Path> {
    fn walk(value: &Value, path: &Path, left: &mut usize) -> Option<Path> {
        *left = left.saturating_sub(1);
        if *left == 0 {
            return Some(path.clone());
        }
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    if let Some(found) = walk(value, &path.key(key), left) {
                        return Some(found);
                    }
                }
            }
            Value::Array(list) if !list.is_empty() => {
                for (index, value) in list.iter().enumerate() {
                    if let Some(found) = walk(value, &path.index(index), left) {
                        return Some(found);
                    }
                }
            }
            _ => return None,
        }
        // The closing bracket.
        *left = left.saturating_sub(1);
        (*left == 0).then(|| path.clone())
    }
    walk(document, &Path::root(), &mut line.max(1))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Small {
        a: Option<u8>,
        b: Option<Inner>,
        list: Option<Vec<Inner>>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Inner {
        must: u8,
    }

    fn shown<T>(salvaged: &Salvaged<T>) -> Vec<String> {
        salvaged.findings.iter().map(|finding| format!("{} | {}", finding.path, finding.message)).collect()
    }

    #[test]
    fn every_refusal_of_serde_is_found_at_its_path() {
        let document = json!({"list": [{"must": 1}, {"must": 300}], "a": 256, "b": {"must": 7}});
        let salvaged = salvage::<Small>(document, Vec::new(), &[]);
        assert_eq!(
            shown(&salvaged),
            [
                "list[1].must | list[1].must: invalid value: integer `300`, expected u8",
                "a | a: invalid value: integer `256`, expected u8"
            ]
        );
        assert_eq!(salvaged.value, Some(Small { b: Some(Inner { must: 7 }), ..Small::default() }));
    }

    #[test]
    fn what_follows_from_a_cut_is_not_told_again() {
        let wrong = vec![Path::root().key("b").key("must")];
        let salvaged = salvage::<Small>(json!({"a": 1, "b": {"must": "x"}}), wrong, &[]);
        assert_eq!(shown(&salvaged), [""; 0]);
        assert_eq!(salvaged.value, Some(Small { a: Some(1), ..Small::default() }));
    }

    #[test]
    fn a_list_loses_no_single_entry() {
        let wrong = vec![Path::root().key("list").index(0)];
        let salvaged = salvage::<Small>(json!({"list": [5, {"must": 1}], "a": 2}), wrong, &[]);
        assert_eq!(salvaged.value, Some(Small { a: Some(2), ..Small::default() }));
        assert_eq!(salvaged.removed, [Path::root().key("list")]);
    }

    #[test]
    fn every_line_of_a_printed_document_has_its_path() {
        let document = json!({"a": {"b": [], "c": [1, {}]}, "d": 1});
        let paths: Vec<_> = (1..=9).map(|line| path_of_line(&document, line).unwrap().to_string()).collect();
        assert_eq!(paths, ["the top level", "a", "a.b", "a.c", "a.c[0]", "a.c[1]", "a.c", "a", "d"]);
        assert_eq!(serde_json::to_string_pretty(&document).unwrap().lines().count(), 10);
    }
}
