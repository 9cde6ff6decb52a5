//! One file's text, able to say where a path stands.
//!
//! Good files with nothing to report never pay for positions: the marked tree is made at the first question and kept.

use std::sync::OnceLock;

use super::grow::{NOT_YAML, grow};
use super::hint;
use super::lines::Lines;
use super::problem::{Finding, Problem, Severity, is_unprintable, printed};
use super::tree::{Fault, Mark, Tree};

/// The most characters of a source line that a problem shows.
const SHOWN: usize = 200;
/// How many of them stand before the marked place when a line is cut.
const BEFORE: usize = 80;
/// The most characters of a message: serde repeats keys of any length.
const LONGEST_MESSAGE: usize = 600;

/// A file's name and text, and, once asked for, its marked tree.
#[derive(Debug)]
pub struct Source {
    file: String,
    text: String,
    lines: OnceLock<Lines>,
    tree: OnceLock<Result<Tree, Fault>>,
}

impl Source {
    /// A source from the name to show and the file's text; a byte order mark at its start is dropped.
    pub fn new(file: impl Into<String>, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        Self { file: file.into(), text, lines: OnceLock::new(), tree: OnceLock::new() }
    }

    /// The file's name as problems show it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The text that positions count in, without a byte order mark.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A finding with its place. A path that does not exist, such as a missing key, points at the deepest part of it that
    /// does; in a file that is not YAML everything points at 1:1.
    pub fn locate(&self, finding: &Finding) -> Problem {
        let mark = self.tree().as_ref().map_or(Mark::new(1, 1), |tree| tree.mark(&finding.path, finding.spot));
        let mut problem = self.problem(mark, finding.severity, &finding.message);
        if finding.secret {
            problem.source = None;
        }
        problem
    }

    pub(super) fn tree(&self) -> &Result<Tree, Fault> {
        self.tree.get_or_init(|| grow(&self.text, self.lines()))
    }

    /// A fault with its source line.
    pub(super) fn fault(&self, fault: &Fault) -> Problem {
        self.problem(fault.mark, Severity::Error, &fault.message)
    }

    /// The same, and a syntax error in words about the usual mistake behind it where the line shows one.
    pub(super) fn syntax(&self, fault: &Fault) -> Problem {
        if !fault.message.starts_with(NOT_YAML) {
            return self.fault(fault);
        }
        let mark = self.clamped(fault.mark);
        let line = self.lines().get(&self.text, mark.line).unwrap_or_default();
        match hint::hint(line, &fault.message) {
            Some((byte, message)) => {
                let column = line.get(..byte).map_or(1, |before| before.chars().count() + 1);
                self.problem(Mark { column, ..mark }, Severity::Error, &message)
            }
            None => self.problem(mark, Severity::Error, hint::plainly(&fault.message)),
        }
    }

    /// A problem with its source line, cut around the place and made safe to print.
    pub(super) fn problem(&self, mark: Mark, severity: Severity, message: &str) -> Problem {
        let mark = self.clamped(mark);
        let lines = self.lines();
        let line = lines.get(&self.text, mark.line).unwrap_or_default();
        let length = lines.length(line);
        let caret = mark.column - 1;
        let first = if length <= SHOWN { 0 } else { caret.saturating_sub(BEFORE).min(length - SHOWN) };
        let rest = &line[lines.byte(line, first)..];
        let source: String = rest.chars().take(SHOWN).map(printable).collect();
        let caret = caret - first;
        let width = mark.width.min(length.saturating_sub(first).min(SHOWN).saturating_sub(caret)).max(1);
        Problem {
            file: self.file.clone(),
            line: mark.line,
            column: mark.column,
            severity,
            message: printed(message, LONGEST_MESSAGE),
            source: Some(source),
            caret,
            width,
        }
    }

    /// A mark inside the text: parsers report an end of file on a line that does not exist.
    fn clamped(&self, mark: Mark) -> Mark {
        let lines = self.lines();
        let count = lines.count(&self.text);
        let end = |line| lines.length(lines.get(&self.text, line).unwrap_or_default()) + 1;
        if mark.line > count {
            return Mark { line: count, column: end(count), width: 1 };
        }
        let line = mark.line.max(1);
        Mark { line, column: mark.column.clamp(1, end(line)), ..mark }
    }

    fn lines(&self) -> &Lines {
        self.lines.get_or_init(|| Lines::new(&self.text))
    }
}

/// A character as a terminal may see it: one column wide where a caret counts on it, and never a control.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if is_unprintable(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{Path, Spot};

    const JOB: &str =
        "description: x\nbik:\n  filters: { channel: whatsapp, group: }\n  emails:\n    - a@b.c\n    - 5\nempty:\n";

    fn place(text: &str, path: &Path, spot: Spot) -> (usize, usize, usize) {
        let finding = Finding { spot, ..Finding::error(path.clone(), "m") };
        let problem = Source::new("x.yaml", text).locate(&finding);
        (problem.line, problem.column, problem.width)
    }

    #[test]
    fn a_path_is_found_at_its_key_and_at_its_value() {
        let channel = Path::root().key("bik").key("filters").key("channel");
        assert_eq!(place(JOB, &channel, Spot::Key), (3, 14, 7));
        assert_eq!(place(JOB, &channel, Spot::Value), (3, 23, 8));
        assert_eq!(place(JOB, &Path::root().key("bik").key("emails").index(1), Spot::Value), (6, 7, 1));
        assert_eq!(place(JOB, &Path::root(), Spot::Value), (1, 1, 1));
    }

    #[test]
    fn what_is_missing_points_at_the_deepest_part_that_is_there() {
        assert_eq!(place(JOB, &Path::root().key("bik").key("reportName"), Spot::Value), (2, 1, 3));
        assert_eq!(place(JOB, &Path::root().key("bik").key("emails").index(7).key("x"), Spot::Value), (4, 3, 6));
        assert_eq!(place(JOB, &Path::root().key("zone"), Spot::Value), (1, 1, 1));
        assert_eq!(place(JOB, &Path::root().key("empty"), Spot::Value), (7, 1, 5));
    }

    #[test]
    fn columns_count_characters() {
        let text = "título: { \"😀😀\": { x: 1 } }\n";
        assert_eq!(place(text, &Path::root().key("título").key("😀😀").key("x"), Spot::Value), (1, 22, 1));
        assert_eq!(place("\u{feff}a: b\r\nc: d\r\n", &Path::root().key("c"), Spot::Value), (2, 4, 1));
    }

    #[test]
    fn a_path_through_an_alias_points_where_the_text_stands() {
        let text = "a: &x\n  b: 1\nc: *x\n";
        assert_eq!(place(text, &Path::root().key("c").key("b"), Spot::Value), (2, 6, 1));
        assert_eq!(place(text, &Path::root().key("c"), Spot::Value), (3, 4, 2));
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("a: {}, b: [1], c: {}\n", "x".repeat(3), "y".repeat(5000));
        let text = format!("{{ {text} }}").replace('\n', "");
        let problem = Source::new("x", text).locate(&Finding::error(Path::root().key("c"), "m"));
        assert_eq!(problem.source.as_ref().unwrap().chars().count(), 200);
        assert!(problem.source.unwrap()[problem.caret..].starts_with("yyy"));
        assert!(problem.caret + problem.width <= 200);
    }

    #[test]
    fn a_file_that_is_not_yaml_is_pointed_at_as_a_whole() {
        assert_eq!(place("a: [\n", &Path::root().key("a"), Spot::Value), (1, 1, 1));
    }
}
