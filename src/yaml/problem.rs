//! What is wrong and where: a finding knows a path in the document, a problem knows file, line and column.
//!
//! Findings are made by code that has only values in hand (the schema, the compile steps); `Source::locate` turns them into
//! problems. Text that came out of a file is shown through `shown`, so that neither a very long key nor an escape sequence in
//! one reaches a terminal. Nothing here reads a file or decides whether a problem is grave.

use std::fmt;

use serde::Serialize;

/// How grave a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used as it is.
    Error,
    /// The file can be used, and is probably not what its author meant.
    Warning,
}

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// The value of this key of a map.
    Key(String),
    /// The entry of a list with this index, from 0.
    Index(usize),
}

/// A place inside one document, as compile steps know it: the way from the top, without lines.
///
/// Shown as `bik.filters.channel` or `connections[0]`; the top itself as `the top level`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Path(Vec<Segment>);

impl Path {
    /// The document itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// The value of `key` in the map at this path.
    #[must_use]
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.with(Segment::Key(key.into()))
    }

    /// The entry `index` (from 0) of the list at this path.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// The steps from the top to this place.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Whether this is the document itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this place is `other` or lies inside it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// The place around this one, and the key of this one in it; at the top or in a list the key is empty.
    pub(super) fn split_last(&self) -> (Self, String) {
        match self.0.split_last() {
            Some((Segment::Key(key), parent)) => (Self(parent.to_vec()), key.clone()),
            Some((Segment::Index(_), parent)) => (Self(parent.to_vec()), String::new()),
            None => (Self::root(), String::new()),
        }
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }

    /// ` in bik.filters`, or nothing at the top: the tail of "unknown key 'x'".
    pub(super) fn inside(&self) -> String {
        if self.is_root() { String::new() } else { format!(" in {self}") }
    }

    /// `bik.filters: `, or nothing at the top: the head of "expected a map".
    pub(super) fn lead(&self) -> String {
        if self.is_root() { String::new() } else { format!("{self}: ") }
    }
}

impl From<Vec<Segment>> for Path {
    fn from(segments: Vec<Segment>) -> Self {
        Self(segments)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str("the top level");
        }
        for (depth, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if depth == 0 => f.write_str(&shown(key))?,
                Segment::Key(key) => write!(f, ".{}", shown(key))?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Which part of a `key: value` a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// The key, as for an unknown one.
    Key,
    /// The value.
    Value,
}

/// Something wrong at a path of one document, not yet located.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The place it is about; a path that does not exist stands for a missing key.
    pub path: Path,
    /// Which part of that place to point at.
    pub spot: Spot,
    /// How grave it is.
    pub severity: Severity,
    /// What is wrong, in words for the file's author, lowercase, without a final dot.
    pub message: String,
    /// Whether the source line may hold a secret and so must not be shown.
    pub secret: bool,
}

impl Finding {
    /// An error about the value at `path`.
    pub fn error(path: Path, message: impl Into<String>) -> Self {
        Self { path, spot: Spot::Value, severity: Severity::Error, message: message.into(), secret: false }
    }

    /// A warning about the value at `path`.
    pub fn warning(path: Path, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(path, message) }
    }

    /// The same, without showing the source line.
    #[must_use]
    pub fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// The same, pointing at the key.
    #[must_use]
    pub fn at_key(self) -> Self {
        Self { spot: Spot::Key, ..self }
    }
}

/// A located problem, as people see it. In JSON: `file, line, column, severity, message`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file as its reader knows it, usually relative.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in Unicode characters, from 1.
    pub column: usize,
    /// How grave it is.
    pub severity: Severity,
    /// What is wrong, lowercase, without a final dot.
    pub message: String,
    /// The source line, at most 200 characters around the column, safe to print; `None` when the file has no such line.
    #[serde(skip)]
    pub source: Option<String>,
    /// How many characters of `source` stand before the marked ones.
    #[serde(skip)]
    pub caret: usize,
    /// How many characters of `source` are marked, at least 1.
    #[serde(skip)]
    pub width: usize,
}

impl Problem {
    /// An error about a file as a whole, at 1:1 and without a source line: it could not be read.
    pub fn whole_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 1,
            column: 1,
            severity: Severity::Error,
            message: message.into(),
            source: None,
            caret: 0,
            width: 1,
        }
    }

    /// For a terminal: `jobs/x.yaml:12:9: unknown key 'chanel'`, then the source line with the place marked; ends with a newline.
    pub fn text(&self) -> String {
        let severity = match self.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        let Self { file, line, column, message, .. } = self;
        let head = format!("{file}:{line}:{column}: {severity}{message}\n");
        let Some(source) = &self.source else { return head };
        let gutter = " ".repeat(line.to_string().len());
        let indent = " ".repeat(self.caret);
        let carets = "^".repeat(self.width.max(1));
        format!("{head}{gutter} |\n{line} | {source}\n{gutter} | {indent}{carets}\n")
    }

    /// For a GitHub workflow's log: `::error file=jobs/x.yaml,line=12,col=9::unknown key 'chanel'`.
    pub fn github(&self) -> String {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let message = github_escaped(&self.message);
        let file = github_escaped(&self.file).replace(':', "%3A").replace(',', "%2C");
        format!("::{severity} file={file},line={},col={}::{message}", self.line, self.column)
    }
}

fn github_escaped(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A key or a value out of a file, fit for a message.
pub(super) fn shown(text: &str) -> String {
    printed(text, 60)
}

/// A text with escape sequences made visible, cut after `longest` of its characters.
pub(super) fn printed(text: &str, longest: usize) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == longest {
            out.push('…');
            break;
        }
        if is_unprintable(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Control characters, and those that change the direction of what follows them on a screen.
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            line: 12,
            column: 5,
            source: Some("    chanel: whatsapp".into()),
            caret: 4,
            width: 6,
            ..Problem::whole_file("jobs/x.yaml", "unknown key 'chanel' in bik.filters, did you mean 'channel'?")
        }
    }

    #[test]
    fn a_problem_shows_its_line_and_marks_the_place() {
        assert_eq!(
            problem().text(),
            "jobs/x.yaml:12:5: unknown key 'chanel' in bik.filters, did you mean 'channel'?\n   |\n12 |     chanel: whatsapp\n   |     ^^^^^^\n"
        );
    }

    #[test]
    fn a_warning_says_that_it_is_one() {
        let warning = Problem { severity: Severity::Warning, source: None, ..problem() };
        assert!(warning.text().starts_with("jobs/x.yaml:12:5: warning: unknown key"));
        assert!(warning.github().starts_with("::warning file=jobs/x.yaml,line=12,col=5::"));
    }

    #[test]
    fn a_github_annotation_cannot_be_broken_out_of() {
        let hostile = Problem::whole_file("a,line=9:b%.yaml", "100 %\n::error::x");
        assert_eq!(hostile.github(), "::error file=a%2Cline=9%3Ab%25.yaml,line=1,col=1::100 %25%0A::error::x");
    }

    #[test]
    fn json_holds_the_five_fields_of_the_contract() {
        let json = serde_json::to_string(&problem()).unwrap();
        assert_eq!(
            json,
            r#"{"file":"jobs/x.yaml","line":12,"column":5,"severity":"error","message":"unknown key 'chanel' in bik.filters, did you mean 'channel'?"}"#
        );
    }

    #[test]
    fn a_path_reads_as_people_write_it() {
        assert_eq!(Path::root().key("bik").key("filters").key("channel").to_string(), "bik.filters.channel");
        assert_eq!(Path::root().key("connections").index(0).key("to").to_string(), "connections[0].to");
        assert_eq!(Path::root().to_string(), "the top level");
    }

    #[test]
    fn escape_sequences_and_long_keys_do_not_reach_a_message() {
        assert_eq!(shown("a\u{1b}[31m\u{202e}b"), "a\\u{1b}[31m\\u{202e}b");
        assert_eq!(shown(&"k".repeat(5000)).chars().count(), 61);
    }
}
