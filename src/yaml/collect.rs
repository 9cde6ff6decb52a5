//! Every violation of a type's JSON Schema, by path.
//!
//! The validator finds all of them; this module chooses which to tell (`words` says how). Of the branches of a choice it
//! tells the one that the author meant or, if none has the right shape, the shapes that are expected. It also reads plain
//! scalars as serde does: a plain `5233549` is text where text is expected. It knows schemas and no particular type.

use std::collections::HashSet;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::Location;
use jsonschema::{JsonType, JsonTypeSet, ValidationError, Validator};
use serde_json::Value;

use super::problem::{Path, Segment};
use super::tree::Tree;
use super::words::{Violation, sentence};

/// How often plain scalars are turned into text and the rest is checked again: text inside of a choice shows only when
/// the choice around it has been made.
const ROUNDS: usize = 4;
/// The most violations of one file: more than anybody fixes in one go, and a bound on the work for a hostile file.
pub(super) const MOST: usize = 100;

/// A type's schema, ready to check documents.
#[derive(Debug)]
pub(super) struct Schema {
    document: Value,
    validator: Validator,
}

/// What a check found.
#[derive(Debug, Default)]
pub(super) struct Violations {
    /// At most `MOST` + 1.
    pub(super) list: Vec<Violation>,
    /// Plain scalars that were taken for text, each with what there would be to say if it may not be.
    pub(super) taken_for_text: Vec<Violation>,
}

/// A violation before it is put into words.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    pub(super) path: Path,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// The last segment of the path is a key that is none of `allowed`.
    Unknown { allowed: Vec<String> },
    /// The map at the path lacks this key.
    Missing(String),
    /// The value is of none of these types.
    Type(JsonTypeSet),
    /// The value is none of these.
    Choice(Vec<Value>),
    /// Anything else, as a clause about the value.
    Other(String),
}

impl Schema {
    /// A checker for `document`; `None` if that is no valid schema, as a type with a broken pattern would make.
    pub(super) fn new(document: Value) -> Option<Self> {
        let validator = jsonschema::validator_for(&document).ok()?;
        Some(Self { document, validator })
    }

    /// All violations; plain scalars where text is expected become text in `instance`.
    pub(super) fn check(&self, instance: &mut Value, tree: &Tree) -> Violations {
        let mut taken_for_text = Vec::new();
        let mut round = 1;
        loop {
            let mut list = Vec::new();
            let mut again = false;
            for fact in self.facts(instance) {
                let path = fact.path.clone();
                let expects_text = matches!(&fact.what, What::Type(types) if types.contains(JsonType::String));
                let text = if expects_text && round < ROUNDS { tree.plain_text(&path) } else { None };
                if let Some(text) = text {
                    taken_for_text.push(fact.tell(at(instance, &path)));
                    if let Some(value) = at_mut(instance, &path) {
                        *value = Value::String(text.to_owned());
                        again = true;
                    }
                } else if list.len() <= MOST {
                    list.push(fact.tell(at(instance, &path)));
                }
            }
            if !again {
                return Violations { list, taken_for_text };
            }
            round += 1;
        }
    }

    fn facts(&self, instance: &Value) -> Vec<Fact> {
        let mut facts: Vec<_> =
            self.validator.iter_errors(instance).flat_map(|error| self.explain(&error, instance)).collect();
        // A value of another type is none of the allowed words either: its type is enough to say.
        let is_type = |fact: &&Fact| matches!(fact.what, What::Type(_));
        let typed: HashSet<Path> = facts.iter().filter(is_type).map(|fact| fact.path.clone()).collect();
        facts.retain(|fact| !matches!(fact.what, What::Choice(_)) || !typed.contains(&fact.path));
        facts
    }

    /// The facts in one error of the validator: it tells all unknown keys of a map together, and all branches of a choice.
    fn explain(&self, error: &ValidationError<'_>, instance: &Value) -> Vec<Fact> {
        let path = path_of(error.instance_path(), instance);
        let what = match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                let allowed = self.allowed_beside(error.schema_path());
                let fact =
                    |key: &String| Fact { path: path.key(key), what: What::Unknown { allowed: allowed.clone() } };
                return unexpected.iter().take(MOST + 1).map(fact).collect();
            }
            ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
                let facts = |branch: &Vec<_>| branch.iter().flat_map(|error| self.explain(error, instance)).collect();
                return best_branch(path.clone(), at(instance, &path), context.iter().map(facts).collect());
            }
            ValidationErrorKind::Enum { options } => What::Choice(options.as_array().cloned().unwrap_or_default()),
            ValidationErrorKind::Constant { expected_value } => What::Choice(vec![(**expected_value).clone()]),
            ValidationErrorKind::Required { property } => {
                What::Missing(property.as_str().unwrap_or_default().to_owned())
            }
            ValidationErrorKind::Type { kind: TypeKind::Single(kind) } => What::Type((*kind).into()),
            ValidationErrorKind::Type { kind: TypeKind::Multiple(kinds) } => What::Type(*kinds),
            kind => What::Other(sentence(kind).unwrap_or_else(|| error.masked().to_string())),
        };
        vec![Fact { path, what }]
    }

    /// The properties that stand beside a keyword such as `additionalProperties` in the schema.
    fn allowed_beside(&self, keyword: &Location) -> Vec<String> {
        let parent = keyword.as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
        let properties = self.document.pointer(parent).and_then(|schema| schema.get("properties"));
        properties.and_then(Value::as_object).map(|map| map.keys().cloned().collect()).unwrap_or_default()
    }
}

/// What to tell of a value that fits no branch of a choice.
fn best_branch(here: Path, value: Option<&Value>, branches: Vec<Vec<Fact>>) -> Vec<Fact> {
    let mut expected = JsonTypeSet::empty();
    let mut options = Vec::new();
    let mut best: Option<Vec<Fact>> = None;
    for branch in branches {
        let misfit = branch.iter().filter(|fact| fact.path == here).find_map(|fact| fact.what.other_types(value));
        match (misfit, branch.as_slice()) {
            (Some(types), _) => expected = types.iter().fold(expected, JsonTypeSet::insert),
            // Words of a list, each a branch of its own, as the doc comments of an enum's variants make them.
            (None, [Fact { path, what: What::Choice(some) }]) if *path == here => options.extend(some.iter().cloned()),
            (None, _) if best.as_ref().is_none_or(|best| branch.len() < best.len()) => best = Some(branch),
            (None, _) => {}
        }
    }
    match best {
        Some(best) => best,
        None if options.is_empty() => vec![Fact { path: here, what: What::Type(expected) }],
        None => vec![Fact { path: here, what: What::Choice(options) }],
    }
}

impl What {
    /// The types that this expects, if it is the type of the value that is wrong.
    fn other_types(&self, value: Option<&Value>) -> Option<JsonTypeSet> {
        match self {
            Self::Type(types) => Some(*types),
            Self::Choice(options) => {
                let types = options.iter().map(JsonType::from).fold(JsonTypeSet::empty(), JsonTypeSet::insert);
                (!value.is_some_and(|value| types.contains(JsonType::from(value)))).then_some(types)
            }
            _ => None,
        }
    }
}

/// A JSON pointer as a path; only the instance tells an index from a key that is a number.
fn path_of(location: &Location, instance: &Value) -> Path {
    let mut value = Some(instance);
    let mut segments = Vec::new();
    for token in location.as_str().split('/').skip(1) {
        let key = token.replace("~1", "/").replace("~0", "~");
        match (value, key.parse()) {
            (Some(Value::Array(list)), Ok(index)) => {
                value = list.get(index);
                segments.push(Segment::Index(index));
            }
            (other, _) => {
                value = other.and_then(|map| map.get(&key));
                segments.push(Segment::Key(key));
            }
        }
    }
    segments.into()
}

/// The value at a path.
pub(super) fn at<'v>(value: &'v Value, path: &Path) -> Option<&'v Value> {
    path.segments().iter().try_fold(value, |value, segment| match segment {
        Segment::Key(key) => value.get(key),
        Segment::Index(index) => value.get(index),
    })
}

/// The value at a path, to be changed.
pub(super) fn at_mut<'v>(value: &'v mut Value, path: &Path) -> Option<&'v mut Value> {
    path.segments().iter().try_fold(value, |value, segment| match segment {
        Segment::Key(key) => value.get_mut(key),
        Segment::Index(index) => value.get_mut(index),
    })
}
