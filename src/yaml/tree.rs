//! The marked tree: a document as nodes that know their line and column.
//!
//! `grow` builds it. An alias stays a reference to its node, so a bomb costs nothing until somebody expands it, and `json`
//! does so under budgets for nodes, depth and text. Everything else answers where a path stands. It knows no type and no
//! schema.

use serde_json::{Map, Value};

use super::problem::{Path, Segment, Spot};

/// Far above any file of 1 MiB that a person wrote, and small enough to be parsed in a moment.
pub(super) const MAX_NODES: usize = 100_000;
/// The text of a file with its aliases expanded: four times the largest file.
const MAX_EXPANDED_BYTES: usize = 4 * 1024 * 1024;
/// Vendor filters are four deep; serde's own limits, at 128, are reached later.
pub(super) const MAX_DEPTH: usize = 64;
/// What is said of `<<`, here and where the fast path meets it.
pub(super) const NO_MERGE: &str = "merge keys are not supported, use 'defaults' in reportd.yaml";

/// A run of characters on one line; line and column from 1, the width at least 1 and not yet cut at the line's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) width: usize,
}

impl Mark {
    pub(super) fn new(line: usize, column: usize) -> Self {
        Self { line, column, width: 1 }
    }
}

/// Something wrong with the document whatever its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) mark: Mark,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(mark: Mark, message: impl Into<String>) -> Self {
        Self { mark, message: message.into() }
    }
}

/// The index of a node in its tree.
pub(super) type Id = usize;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// The value, and the text as written when only that text decides what the value is.
    Scalar {
        value: Value,
        plain: Option<String>,
    },
    List(Vec<Id>),
    Map(Vec<(Id, Id)>),
    Alias(Id),
}

/// One document.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) root: Id,
    /// What was wrong and left out.
    pub(super) faults: Vec<Fault>,
}

impl Tree {
    /// The document with aliases expanded, or the fault that there would be too much of it.
    pub(super) fn json(&self) -> Result<Value, Fault> {
        self.expanded(self.root, 0, &mut Budget { nodes: MAX_NODES, bytes: MAX_EXPANDED_BYTES })
    }

    fn expanded(&self, id: Id, depth: usize, budget: &mut Budget) -> Result<Value, Fault> {
        let node = &self.nodes[id];
        if depth > MAX_DEPTH {
            let message = format!("nested deeper than {MAX_DEPTH} levels once aliases are expanded");
            return Err(Fault::new(node.mark, message));
        }
        let text = if let Kind::Scalar { value, .. } = &node.kind { value.as_str().unwrap_or_default() } else { "" };
        budget.spend(node, text.len())?;
        Ok(match &node.kind {
            Kind::Scalar { value, .. } => value.clone(),
            // An alias is a level of its own, so that a chain of aliases cannot go deeper than anything else.
            Kind::Alias(target) => {
                self.expanded(*target, depth + 1, budget).map_err(|fault| Fault { mark: node.mark, ..fault })?
            }
            Kind::List(items) => {
                items.iter().map(|item| self.expanded(*item, depth + 1, budget)).collect::<Result<_, _>>()?
            }
            Kind::Map(entries) => {
                let mut map = Map::new();
                for (key, value) in entries {
                    let key = key_text(&self.nodes, *key).unwrap_or_default();
                    budget.spend(node, key.len())?;
                    map.insert(key.to_owned(), self.expanded(*value, depth + 1, budget)?);
                }
                Value::Object(map)
            }
        })
    }

    /// Where to point for a path; for one that does not exist, at the deepest part of it that does.
    pub(super) fn mark(&self, path: &Path, spot: Spot) -> Mark {
        let place = self.place(path);
        let value = self.nodes[place.value].mark;
        let key = place.key.map_or(value, |key| self.nodes[key].mark);
        let nothing_there = matches!(&self.nodes[place.value].kind,
            Kind::Scalar { value: Value::Null, plain: Some(text) } if text.is_empty());
        // Past a scalar lies what a short form leaves out, such as a list of one: the scalar is what is meant.
        let short = matches!(self.nodes[self.behind(place.value)].kind, Kind::Scalar { .. });
        if spot == Spot::Key || !(place.exists || short) || nothing_there { key } else { value }
    }

    /// The text of the plain scalar at a path, if it could have been meant as text: a number or a truth value.
    pub(super) fn plain_text(&self, path: &Path) -> Option<&str> {
        let place = self.place(path);
        match &self.nodes[self.behind(place.value)].kind {
            Kind::Scalar { value: Value::Number(_) | Value::Bool(_), plain: Some(text) } if place.exists => Some(text),
            _ => None,
        }
    }

    fn place(&self, path: &Path) -> Place {
        let mut place = Place { key: None, value: self.root, exists: true };
        for segment in path.segments() {
            let next = match (&self.nodes[self.behind(place.value)].kind, segment) {
                (Kind::Map(entries), Segment::Key(wanted)) => entries
                    .iter()
                    .find(|(key, _)| key_text(&self.nodes, *key) == Some(wanted))
                    .map(|(key, value)| (Some(*key), *value)),
                (Kind::List(items), Segment::Index(index)) => items.get(*index).map(|item| (None, *item)),
                _ => None,
            };
            match next {
                Some((key, value)) => place = Place { key, value, exists: true },
                None => return Place { exists: false, ..place },
            }
        }
        place
    }

    fn behind(&self, id: Id) -> Id {
        behind(&self.nodes, id)
    }
}

/// What is left for the expansion of aliases.
struct Budget {
    nodes: usize,
    bytes: usize,
}

impl Budget {
    /// Takes one node with `bytes` of text out of the budget; `at` is where it would run out.
    fn spend(&mut self, at: &Node, bytes: usize) -> Result<(), Fault> {
        let left = self.nodes.checked_sub(1).zip(self.bytes.checked_sub(bytes));
        let too_many = || Fault::new(at.mark, "too many nodes once aliases are expanded");
        (self.nodes, self.bytes) = left.ok_or_else(too_many)?;
        Ok(())
    }
}

struct Place {
    key: Option<Id>,
    value: Id,
    /// Whether the whole path was there; else this is the deepest part of it.
    exists: bool,
}

/// The node that an alias stands for. Aliases point backwards, so this ends.
pub(super) fn behind(nodes: &[Node], mut id: Id) -> Id {
    while let Kind::Alias(target) = nodes[id].kind {
        id = target;
    }
    id
}

/// The text of a key that is text.
pub(super) fn key_text(nodes: &[Node], id: Id) -> Option<&str> {
    match &nodes[behind(nodes, id)].kind {
        Kind::Scalar { value: Value::String(text), .. } => Some(text),
        _ => None,
    }
}
