//! One type's decoder: the fast path for good files, and for the others every problem in one pass.

use std::marker::PhantomData;
use std::sync::OnceLock;

use schemars::JsonSchema;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use super::collect::{MOST, Schema};
use super::grow::NOT_YAML;
use super::problem::{Path, Problem, Severity};
use super::salvage::salvage;
use super::screen::screen;
use super::source::Source;
use super::tree::{Fault, Mark, Tree};
use super::words::Violation;

/// How much of a file that is no text is kept to show the line of its problem, in bytes.
const SHOWN_OF_UNFIT: usize = 1024 * 1024;

/// What became of one file.
#[derive(Debug)]
pub struct Decoded<T> {
    /// The value; of a file with problems what remains of it without the wrong parts, or nothing.
    pub value: Option<T>,
    /// The file, for locating what the caller finds in the value.
    pub source: Source,
    /// All that is wrong, in the order of the file; empty if and only if the value is what the file says.
    pub problems: Vec<Problem>,
    /// What stands in the file and was left out of the value because of its problems: do not report it as missing.
    pub removed: Vec<Path>,
}

/// The decoder of one type, to be made once and shared by all files and threads.
///
/// The type's structs should be `deny_unknown_fields`, its free parts `Free` and `Named`. Enums with data do not work
/// in YAML maps (`serde_yaml` wants tags for them): use a struct of options. A file that serde accepts is not held against
/// the schema: what only the schema says (a range, a pattern, a length) must be checked by the type or by its user.
#[derive(Debug)]
pub struct Decoder<T> {
    /// Made for the first file that fails; the inner `None` is a schema that cannot be used.
    schema: OnceLock<Option<Schema>>,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned + JsonSchema> Default for Decoder<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: DeserializeOwned + JsonSchema> Decoder<T> {
    /// A decoder; cheap, as nothing is generated yet.
    pub fn new() -> Self {
        Self { schema: OnceLock::new(), of: PhantomData }
    }

    /// The JSON Schema (draft 2020-12) of what files of this type may hold.
    pub fn schema() -> Value {
        schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value()
    }

    /// Decodes the bytes of a file that problems are to call `file`.
    pub fn decode(&self, file: &str, bytes: &[u8]) -> Decoded<T> {
        let screened = match screen(bytes) {
            Ok(screened) => screened,
            Err(fault) => {
                let source = Source::new(file, String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_OF_UNFIT)]));
                let problems = vec![source.fault(&fault)];
                return Decoded { value: None, source, problems, removed: Vec::new() };
            }
        };
        let source = Source::new(file, screened.text);
        if screened.careful && !is_tame(&source) {
            return self.explain(source, None);
        }
        match serde_yaml::from_str(source.text()) {
            Ok(value) => Decoded { value: Some(value), source, problems: Vec::new(), removed: Vec::new() },
            Err(refusal) => self.explain(source, Some(&refusal)),
        }
    }

    /// The slow path: `refusal` is what `serde_yaml` said, unless the file was too wild to be shown to it.
    fn explain(&self, source: Source, refusal: Option<&serde_yaml::Error>) -> Decoded<T> {
        let mut problems = Vec::new();
        let mut value = None;
        let mut removed = Vec::new();
        match source.tree() {
            Err(fault) => {
                problems.push(source.syntax(fault));
                // The marked parser is the stricter one: of a file that only it refuses, serde knows something else.
                let told = refusal.map(fault_of).filter(|_| is_yaml(&source));
                problems.extend(told.map(|fault| source.fault(&fault)));
            }
            Ok(tree) => {
                problems.extend(tree.faults.iter().take(MOST + 1).map(|fault| source.fault(fault)));
                match tree.json() {
                    Err(fault) => problems.push(source.fault(&fault)),
                    Ok(document) => (value, removed) = self.check(&source, tree, document, refusal, &mut problems),
                }
            }
        }
        if problems.is_empty() {
            problems.extend(refusal.map(fault_of).map(|fault| {
                let lead = if is_yaml(&source) { "" } else { NOT_YAML };
                source.syntax(&Fault { message: format!("{lead}{}", fault.message), ..fault })
            }));
        }
        tidy(&mut problems);
        Decoded { value, source, problems, removed }
    }

    /// Holds a document against the schema and decodes what is right of it.
    fn check(
        &self,
        source: &Source,
        tree: &Tree,
        mut document: Value,
        refusal: Option<&serde_yaml::Error>,
        problems: &mut Vec<Problem>,
    ) -> (Option<T>, Vec<Path>) {
        let schema = self.schema.get_or_init(|| Schema::new(Self::schema()));
        let violations = schema.as_ref().map(|schema| schema.check(&mut document, tree)).unwrap_or_default();
        problems.extend(violations.list.iter().map(|violation| source.locate(&violation.finding)));
        // A type that takes numbers and texts apart does not take a plain number for a text: serde says so at its place.
        if let Some(place) = refusal.and_then(serde_yaml::Error::location) {
            let is_there = |problem: &Problem| (problem.line, problem.column) == (place.line(), place.column());
            if !problems.iter().any(is_there) {
                let taken = violations.taken_for_text.iter();
                problems.extend(taken.map(|violation| source.locate(&violation.finding)).find(is_there));
            }
        }
        if violations.list.len() > MOST {
            return (None, Vec::new());
        }
        let (missing, wrong): (Vec<_>, Vec<_>) = violations.list.into_iter().partition(|violation| violation.missing);
        let paths = |list: Vec<Violation>| list.into_iter().map(|violation| violation.wrong).collect::<Vec<_>>();
        let salvaged = salvage(document, paths(wrong), &paths(missing));
        problems.extend(salvaged.findings.iter().map(|finding| source.locate(finding)));
        (salvaged.value, salvaged.removed)
    }
}

/// Whether a file with anchors or many brackets keeps to the budgets, and may be shown to `serde_yaml`.
fn is_tame(source: &Source) -> bool {
    source.tree().as_ref().is_ok_and(|tree| tree.faults.is_empty() && tree.json().is_ok())
}

/// Whether `serde_yaml` takes the text for YAML, whatever is in it.
fn is_yaml(source: &Source) -> bool {
    serde_yaml::from_str::<IgnoredAny>(source.text()).is_ok()
}

/// The words and the place of a `serde_yaml` error; the place is in its words too and is cut out of them.
fn fault_of(refusal: &serde_yaml::Error) -> Fault {
    let words = refusal.to_string();
    let Some(place) = refusal.location() else {
        return Fault { mark: Mark::new(1, 1), message: words };
    };
    let (line, column) = (place.line(), place.column());
    let message = words.replace(&format!(" at line {line} column {column}"), "");
    Fault { mark: Mark::new(line, column), message }
}

/// Puts problems into the order of the file, each once and not more than anybody reads.
fn tidy(problems: &mut Vec<Problem>) {
    problems.sort_by(|a, b| (a.line, a.column, &a.message).cmp(&(b.line, b.column, &b.message)));
    problems.dedup_by(|a, b| (a.line, a.column, &a.message) == (b.line, b.column, &b.message));
    if problems.len() > MOST {
        problems.truncate(MOST);
        if let Some(last) = problems.last().cloned() {
            let message = format!("more problems follow, the first {MOST} are shown");
            problems.push(Problem { severity: Severity::Error, message, ..last });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::fixture::{GOOD, Job};

    #[test]
    fn both_paths_read_the_same_from_a_good_file() {
        let decoder = Decoder::<Job>::new();
        let fast = decoder.decode("x.yaml", GOOD.as_bytes()).value;
        let slow = decoder.explain(Source::new("x.yaml", GOOD), None);
        assert_eq!(slow.problems, []);
        assert!(fast.is_some() && fast == slow.value);
    }

    #[test]
    fn a_schema_that_cannot_be_used_leaves_serde_its_say() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Broken {
            name: u8,
        }
        impl JsonSchema for Broken {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                "Broken".into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": 5 })
            }
        }
        let decoded = Decoder::<Broken>::new().decode("x.yaml", b"name: 1\nnam: 2\n");
        assert_eq!(decoded.problems.len(), 1);
        assert_eq!(decoded.problems[0].message, "nam: unknown field `nam`, expected `name`");
        assert_eq!(decoded.problems[0].line, 2);
        assert_eq!(Decoder::<Broken>::new().decode("x.yaml", b"name: 1\n").value.unwrap().name, 1);
    }
}
