//! Placeholders in strings of job files: `{window.start}`, `{var.owner}`, `{{` for a literal brace. Pure.
//!
//! A template is parsed when its file is loaded, so an unknown name is an error with its place and never a surprise at
//! four in the morning. Which names are known depends on where the string stands: `{failure}` and `{run}` only in notices.

use std::fmt;

use serde_json::{Map, Value};

/// A string with its placeholders found.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Name(Name),
}

/// What a placeholder stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// `{window.start}`: RFC 3339 with the zone's offset.
    WindowStart,
    /// `{window.end}`: likewise, the window's open end.
    WindowEnd,
    /// `{window.label}`: the window's name in the archive.
    WindowLabel,
    /// `{job}`.
    Job,
    /// `{connection}`.
    Connection,
    /// `{failure}`: notices only.
    Failure,
    /// `{run}`: notices only.
    Run,
    /// `{var.NAME}`.
    Var(String),
}

/// Where a template stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a vendor block.
    Request,
    /// In a notice.
    Notice,
}

const NAMES: [(&str, Name); 7] = [
    ("window.start", Name::WindowStart),
    ("window.end", Name::WindowEnd),
    ("window.label", Name::WindowLabel),
    ("job", Name::Job),
    ("connection", Name::Connection),
    ("failure", Name::Failure),
    ("run", Name::Run),
];

fn is_var_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn parse_name(name: &str, place: Place) -> Result<Name, String> {
    if let Some(var) = name.strip_prefix("var.") {
        if is_var_name(var) {
            return Ok(Name::Var(var.to_owned()));
        }
        return Err(format!("'{{{name}}}' is no variable name: letters, digits, _ and - only"));
    }
    let known = |n: &Name| place == Place::Notice || !matches!(n, Name::Failure | Name::Run);
    if let Some((_, found)) = NAMES.iter().find(|(word, _)| *word == name) {
        if known(found) {
            return Ok(found.clone());
        }
        return Err(format!("'{{{name}}}' is known in notices only"));
    }
    let words: Vec<&str> = NAMES.iter().filter(|(_, n)| known(n)).map(|(word, _)| *word).collect();
    let guess =
        crate::yaml::did_you_mean(name, &words).map_or_else(String::new, |w| format!(", did you mean '{{{w}}}'?"));
    Err(format!(
        "unknown placeholder '{{{name}}}'{guess} (known: {}, var.NAME; write '{{{{' for a literal brace)",
        words.join(", ")
    ))
}

impl Template {
    /// Parses `text`; the error says which placeholder is wrong and which exist.
    pub fn parse(text: &str, place: Place) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('{') {
                literal.push('{');
                rest = after;
                continue;
            }
            let Some(end) = rest.find('}') else {
                return Err("a '{' is not closed; write '{{' for a literal brace".into());
            };
            let name = parse_name(&rest[..end], place)?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Name(name));
            rest = &rest[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() || parts.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Template { parts })
    }

    /// The variables it names.
    pub fn vars(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Name(Name::Var(name)) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The template's text with those placeholders filled that `lookup` knows, and the others as they were: a template again.
    /// A text that is only such a placeholder is the value itself, whatever its type.
    pub fn fill_some(&self, lookup: &dyn Fn(&Name) -> Option<Value>) -> Value {
        if let [Part::Name(name)] = self.parts.as_slice()
            && let Some(value) = lookup(name)
        {
            return escaped(value);
        }
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(&escape(text)),
                Part::Name(name) => match lookup(name) {
                    Some(value) => out.push_str(&escape(&in_text(&value))),
                    None => out.push_str(&name.to_string()),
                },
            }
        }
        Value::String(out)
    }

    /// The text with every placeholder filled by `lookup`; a lone `{var.NAME}` keeps the variable's own type.
    pub fn fill(&self, lookup: &dyn Fn(&Name) -> Value) -> Value {
        if let [Part::Name(name)] = self.parts.as_slice() {
            return lookup(name);
        }
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Name(name) => out.push_str(&in_text(&lookup(name))),
            }
        }
        Value::String(out)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Var(var) => write!(f, "{{var.{var}}}"),
            known => {
                let word = NAMES.iter().find(|(_, name)| name == known).map_or("", |(word, _)| word);
                write!(f, "{{{word}}}")
            }
        }
    }
}

/// A text that, read as a template, is `text`.
fn escape(text: &str) -> String {
    text.replace('{', "{{")
}

/// A value whose texts, read as templates, are what they were.
fn escaped(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(escape(&text)),
        Value::Array(list) => Value::Array(list.into_iter().map(escaped).collect()),
        other => other,
    }
}

/// A value inside a longer text.
fn in_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => join(list),
        other => other.to_string(),
    }
}

/// A list inside a longer text is written with commas.
fn join(list: &[Value]) -> String {
    let words = list.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
    words.collect::<Vec<_>>().join(", ")
}

/// A JSON tree whose string leaves are templates.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// A string.
    Text(Template),
    /// A list. A list variable that stands alone as one element is spliced in.
    List(Vec<Tree>),
    /// A map.
    Map(Vec<(String, Tree)>),
    /// Anything else.
    Other(Value),
}

impl Tree {
    /// Parses all strings of `value`; `report` is told each problem with its path below the value.
    pub fn parse(
        value: &Value,
        place: Place,
        path: &crate::yaml::Path,
        report: &mut dyn FnMut(&crate::yaml::Path, String),
    ) -> Tree {
        match value {
            Value::String(text) => match Template::parse(text, place) {
                Ok(template) => Tree::Text(template),
                Err(message) => {
                    report(path, message);
                    Tree::Other(Value::String(text.clone()))
                }
            },
            Value::Array(list) => Tree::List(
                list.iter().enumerate().map(|(i, v)| Tree::parse(v, place, &path.index(i), report)).collect(),
            ),
            Value::Object(map) => {
                Tree::Map(map.iter().map(|(k, v)| (k.clone(), Tree::parse(v, place, &path.key(k), report))).collect())
            }
            other => Tree::Other(other.clone()),
        }
    }

    /// Calls `visit` with each template and its path.
    pub fn each_template(&self, path: &crate::yaml::Path, visit: &mut dyn FnMut(&crate::yaml::Path, &Template)) {
        match self {
            Tree::Text(template) => visit(path, template),
            Tree::List(list) => {
                for (i, tree) in list.iter().enumerate() {
                    tree.each_template(&path.index(i), visit);
                }
            }
            Tree::Map(map) => {
                for (key, tree) in map {
                    tree.each_template(&path.key(key), visit);
                }
            }
            Tree::Other(_) => {}
        }
    }

    /// The tree with those placeholders filled that `lookup` knows: templates again, see [`Template::fill_some`].
    pub fn fill_some(&self, lookup: &dyn Fn(&Name) -> Option<Value>) -> Value {
        self.filled(&|template| template.fill_some(lookup))
    }

    /// The tree with every placeholder filled.
    pub fn fill(&self, lookup: &dyn Fn(&Name) -> Value) -> Value {
        self.filled(&|template| template.fill(lookup))
    }

    fn filled(&self, fill: &dyn Fn(&Template) -> Value) -> Value {
        match self {
            Tree::Text(template) => fill(template),
            Tree::List(list) => {
                let mut out = Vec::with_capacity(list.len());
                for tree in list {
                    match (tree, tree.filled(fill)) {
                        (Tree::Text(_), Value::Array(items)) => out.extend(items),
                        (_, value) => out.push(value),
                    }
                }
                Value::Array(out)
            }
            Tree::Map(map) => {
                Value::Object(map.iter().map(|(k, v)| (k.clone(), v.filled(fill))).collect::<Map<_, _>>())
            }
            Tree::Other(value) => value.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lookup(name: &Name) -> Value {
        match name {
            Name::Job => json!("ratings"),
            Name::Var(v) if v == "support" => json!([1, 4]),
            Name::Var(v) if v == "limit" => json!(7),
            _ => json!("?"),
        }
    }

    fn fill(text: &str) -> Value {
        Template::parse(text, Place::Request).unwrap().fill(&lookup)
    }

    #[test]
    fn a_lone_variable_keeps_its_type_and_one_inside_a_text_becomes_text() {
        assert_eq!(fill("{var.limit}"), json!(7));
        assert_eq!(fill("{var.support}"), json!([1, 4]));
        assert_eq!(fill("{job}: {var.limit} of {var.support}"), json!("ratings: 7 of 1, 4"));
    }

    #[test]
    fn what_is_filled_in_part_is_a_template_again() {
        let some = |name: &Name| match name {
            Name::Var(v) if v == "odd" => Some(json!("a {job} of braces")),
            Name::Var(v) if v == "list" => Some(json!(["{x", "y"])),
            _ => None,
        };
        let part = Template::parse("{{ {var.odd} {job} {window.label}", Place::Notice).unwrap().fill_some(&some);
        assert_eq!(part, json!("{{ a {{job} of braces {job} {window.label}"));
        let whole = Template::parse(part.as_str().unwrap(), Place::Notice).unwrap().fill(&lookup);
        assert_eq!(whole, json!("{ a {job} of braces ratings ?"));
        assert_eq!(Template::parse("{var.list}", Place::Notice).unwrap().fill_some(&some), json!(["{{x", "y"]));
    }

    #[test]
    fn doubled_braces_are_literal_and_a_lone_closing_one_is_too() {
        assert_eq!(fill("{{job}"), json!("{job}"));
        assert_eq!(fill("a } b"), json!("a } b"));
        assert_eq!(fill(""), json!(""));
    }

    #[test]
    fn an_unknown_name_is_refused_with_a_guess() {
        let message = Template::parse("{windw.start}", Place::Request).unwrap_err();
        assert!(message.contains("did you mean '{window.start}'?"), "{message}");
        assert!(Template::parse("{failure}", Place::Request).unwrap_err().contains("notices only"));
        assert!(Template::parse("{failure}", Place::Notice).is_ok());
        assert!(Template::parse("{job", Place::Request).unwrap_err().contains("not closed"));
        assert!(Template::parse("{var.}", Place::Request).is_err());
    }

    #[test]
    fn a_list_variable_alone_in_a_list_is_spliced() {
        let tree = Tree::parse(
            &json!({"values": ["{var.support}", 9]}),
            Place::Request,
            &crate::yaml::Path::root(),
            &mut |_, m| panic!("{m}"),
        );
        assert_eq!(tree.fill(&lookup), json!({"values": [1, 4, 9]}));
    }
}
