//! Grows the marked tree out of the events of `saphyr-parser`, without recursion and under budgets for nodes and depth.
//!
//! Repeated keys, merge keys, keys that are not text, tags and numbers that JSON lacks are faults of the document whatever
//! its type. Such an entry is left out and the rest is kept, so that one fault does not hide the next; what leaves no tree
//! to speak of (syntax, depth, a second document, an alias inside of itself) ends the growth.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::Value;

use super::lines::Lines;
use super::problem::shown;
use super::scalar;
use super::tree::{Fault, Id, Kind, MAX_DEPTH, MAX_NODES, Mark, NO_MERGE, Node, Tree, behind, key_text};

/// How the message of a syntax error starts, whichever parser found it.
pub(super) const NOT_YAML: &str = "not YAML: ";

/// The document in `text`, or the fault after which nothing more can be said about it.
pub(super) fn grow(text: &str, lines: &Lines) -> Result<Tree, Fault> {
    let mut builder = Builder::new(text, lines);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let mark = Mark::new(error.marker().line(), error.marker().col() + 1);
            Fault::new(mark, format!("{NOT_YAML}{}", error.info()))
        })?;
        builder.take(event, mark_of(span))?;
    }
    let empty = || Fault::new(Mark::new(1, 1), "the file is empty");
    Ok(Tree { root: builder.root.ok_or_else(empty)?, nodes: builder.nodes, faults: builder.faults })
}

fn mark_of(span: Span) -> Mark {
    let (start, end) = (span.start, span.end);
    let width = if start.line() == end.line() { end.col().saturating_sub(start.col()) } else { usize::MAX };
    Mark { line: start.line(), column: start.col() + 1, width: width.max(1) }
}

/// A list or map whose end has not come yet.
struct Open {
    id: Id,
    /// The key that waits for its value.
    key: Option<Id>,
    /// The keys so far, with their lines.
    keys: HashMap<String, usize>,
}

struct Builder<'t> {
    text: &'t str,
    lines: &'t Lines,
    nodes: Vec<Node>,
    open: Vec<Open>,
    root: Option<Id>,
    documents: usize,
    /// By the parser's number of the anchor.
    anchors: HashMap<usize, Id>,
    /// The line of each anchor's name.
    anchor_names: HashMap<&'t str, usize>,
    /// Line, column and byte in the line of the last anchored node.
    last_anchor: (usize, usize, usize),
    faults: Vec<Fault>,
}

impl<'t> Builder<'t> {
    fn new(text: &'t str, lines: &'t Lines) -> Self {
        Self {
            text,
            lines,
            nodes: Vec::new(),
            open: Vec::new(),
            root: None,
            documents: 0,
            anchors: HashMap::new(),
            anchor_names: HashMap::new(),
            last_anchor: (0, 1, 0),
            faults: Vec::new(),
        }
    }

    fn take(&mut self, event: Event<'_>, mark: Mark) -> Result<(), Fault> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Fault::new(mark, "one document per file, here starts a second one"));
                }
            }
            Event::Alias(anchor) => {
                let target = self.anchors.get(&anchor).copied();
                let Some(target) = target.filter(|target| self.open.iter().all(|open| open.id != *target)) else {
                    return Err(Fault::new(mark, "an alias inside of what it stands for"));
                };
                let id = self.add(mark, Kind::Alias(target))?;
                self.attach(id);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let kind = self.scalar(&text, style, tag.as_deref(), mark);
                let id = self.add(mark, kind)?;
                self.anchor(anchor, id);
                self.attach(id);
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "seq", mark);
                self.start(Kind::List(Vec::new()), anchor, mark)?;
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "map", mark);
                self.start(Kind::Map(Vec::new()), anchor, mark)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.attach(open.id);
                }
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn add(&mut self, mark: Mark, kind: Kind) -> Result<Id, Fault> {
        if self.nodes.len() >= MAX_NODES {
            return Err(Fault::new(mark, format!("more than {MAX_NODES} nodes")));
        }
        self.nodes.push(Node { mark, kind });
        Ok(self.nodes.len() - 1)
    }

    fn start(&mut self, kind: Kind, anchor: usize, mark: Mark) -> Result<(), Fault> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Fault::new(mark, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        // The span of a collection is that of its first sign.
        let id = self.add(Mark { width: 1, ..mark }, kind)?;
        self.anchor(anchor, id);
        self.open.push(Open { id, key: None, keys: HashMap::new() });
        Ok(())
    }

    /// Remembers an anchor; one name for two nodes is refused, as `serde_yaml` mixes up the aliases of such a file.
    fn anchor(&mut self, anchor: usize, id: Id) {
        if anchor == 0 {
            return;
        }
        self.anchors.insert(anchor, id);
        let mark = self.nodes[id].mark;
        let Some(name) = self.anchor_name(mark) else { return };
        if let Some(first) = self.anchor_names.insert(name, mark.line) {
            self.faults.push(Fault::new(mark, format!("anchor '{}' stands twice, first at line {first}", shown(name))));
        }
    }

    /// The name after `&` in front of a node, which the parser keeps to itself.
    fn anchor_name(&mut self, mark: Mark) -> Option<&'t str> {
        let line = self.lines.get(self.text, mark.line)?;
        // Nodes come in the order of the text: going on from the last one keeps a single long line linear.
        let (last_line, last_column, last_byte) = self.last_anchor;
        let (column, byte) =
            if last_line == mark.line && last_column <= mark.column { (last_column, last_byte) } else { (1, 0) };
        let rest = line.get(byte..)?;
        let byte = byte + self.lines.byte(rest, mark.column - column);
        self.last_anchor = (mark.line, mark.column, byte);
        let (before, named) = line.get(byte..)?.split_once('&')?;
        if !(before.is_empty() || before.starts_with('!')) {
            return None;
        }
        named.split(|c: char| c.is_whitespace() || ",[]{}".contains(c)).next()
    }

    /// Puts a finished node where it belongs: into the list or map around it, or at the top.
    fn attach(&mut self, id: Id) {
        let Some(open) = self.open.last_mut() else {
            self.root.get_or_insert(id);
            return;
        };
        let parent = open.id;
        match &mut self.nodes[parent].kind {
            Kind::List(items) => items.push(id),
            Kind::Map(_) => match open.key.take() {
                None => open.key = Some(id),
                Some(key) => self.entry(parent, key, id),
            },
            Kind::Scalar { .. } | Kind::Alias(_) => {}
        }
    }

    /// Adds `key: value` to a map unless the key is one that is refused.
    fn entry(&mut self, map: Id, key: Id, value: Id) {
        let mark = self.nodes[key].mark;
        match self.why_no_key(key) {
            Some(message) => self.faults.push(Fault::new(mark, message)),
            None => {
                if let Kind::Map(entries) = &mut self.nodes[map].kind {
                    entries.push((key, value));
                }
            }
        }
    }

    /// Why a node cannot be the next key of the innermost map; remembers it if it can.
    fn why_no_key(&mut self, key: Id) -> Option<String> {
        let mark = self.nodes[key].mark;
        let Some(text) = key_text(&self.nodes, key) else {
            return Some(match &self.nodes[behind(&self.nodes, key)].kind {
                Kind::Scalar { plain: Some(text), .. } if text.is_empty() => "a key has no name".to_owned(),
                Kind::Scalar { plain: Some(text), .. } => format!("a key must be text, quote it: \"{}\"", shown(text)),
                _ => "a key must be text, not a list or a map".to_owned(),
            });
        };
        if text == "<<" {
            return Some(NO_MERGE.to_owned());
        }
        let keys = &mut self.open.last_mut()?.keys;
        if let Some(first) = keys.get(text) {
            return Some(format!("key '{}' stands twice, first at line {first}", shown(text)));
        }
        keys.insert(text.to_owned(), mark.line);
        None
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, mark: Mark) -> Kind {
        let as_text = || Kind::Scalar { value: Value::String(text.to_owned()), plain: None };
        let plain = match tag {
            None => style == ScalarStyle::Plain,
            Some(tag) if is_core(tag, "str") => false,
            Some(tag) if ["int", "float", "bool", "null"].iter().any(|name| is_core(tag, name)) => true,
            Some(tag) => {
                self.refuse_tag(tag, mark);
                style == ScalarStyle::Plain
            }
        };
        if !plain {
            return as_text();
        }
        let Some(value) = scalar::plain(text) else {
            let message = format!("{text} is not a number in JSON, quote it if text is meant");
            self.faults.push(Fault::new(mark, message));
            return as_text();
        };
        Kind::Scalar { value, plain: Some(text.to_owned()) }
    }

    fn check_tag(&mut self, tag: Option<&Tag>, expected: &str, mark: Mark) {
        if let Some(tag) = tag.filter(|tag| !is_core(tag, expected)) {
            self.refuse_tag(tag, mark);
        }
    }

    fn refuse_tag(&mut self, tag: &Tag, mark: Mark) {
        let name = if tag.is_yaml_core_schema() {
            format!("!!{}", tag.suffix)
        } else {
            format!("{}{}", tag.handle, tag.suffix)
        };
        self.faults.push(Fault::new(mark, format!("tag {} is not supported", shown(&name))));
    }
}

fn is_core(tag: &Tag, name: &str) -> bool {
    tag.is_yaml_core_schema() && tag.suffix == name
}
