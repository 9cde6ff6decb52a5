//! Where the lines of a text start, and which character of a line is which byte.
//!
//! A line ends at LF, CR or CRLF, as YAML says; marks count lines from 1 and characters, not bytes.

/// The starts of a text's lines.
#[derive(Debug)]
pub(super) struct Lines {
    starts: Vec<usize>,
    ascii: bool,
}

impl Lines {
    /// Looks at the whole text once.
    pub(super) fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut starts = vec![0];
        for (at, byte) in bytes.iter().enumerate() {
            if *byte == b'\n' || (*byte == b'\r' && bytes.get(at + 1) != Some(&b'\n')) {
                starts.push(at + 1);
            }
        }
        Self { starts, ascii: text.is_ascii() }
    }

    /// The number of lines; a final line break starts no further line.
    pub(super) fn count(&self, text: &str) -> usize {
        let empty_last = self.starts.len() > 1 && self.starts.last() == Some(&text.len());
        self.starts.len() - usize::from(empty_last)
    }

    /// The line with this number (from 1) without its line break; `None` past the end.
    pub(super) fn get<'t>(&self, text: &'t str, number: usize) -> Option<&'t str> {
        let start = *self.starts.get(number.checked_sub(1)?)?;
        let end = self.starts.get(number).copied().unwrap_or(text.len());
        text.get(start..end).map(|line| line.trim_end_matches(['\n', '\r']))
    }

    /// The byte of `line` at which its character `column` (from 0) starts, or its end.
    pub(super) fn byte(&self, line: &str, column: usize) -> usize {
        if self.ascii {
            column.min(line.len())
        } else {
            line.char_indices().nth(column).map_or(line.len(), |(byte, _)| byte)
        }
    }

    /// The number of characters in `line`.
    pub(super) fn length(&self, line: &str) -> usize {
        if self.ascii { line.len() } else { line.chars().count() }
    }
}

/// Line and column (both from 1) of the byte `at` in a text.
pub(super) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let lines = Lines::new(before);
    let last = lines.starts.last().copied().unwrap_or(0);
    (lines.starts.len(), before[last..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_break_ends_a_line() {
        let text = "a\nb\r\nc\rd";
        let lines = Lines::new(text);
        let all: Vec<_> = (1..=lines.count(text)).map(|number| lines.get(text, number).unwrap()).collect();
        assert_eq!(all, ["a", "b", "c", "d"]);
        assert_eq!(lines.get(text, 0), None);
        assert_eq!(lines.get(text, 5), None);
    }

    #[test]
    fn a_final_line_break_starts_no_line() {
        assert_eq!(Lines::new("a\nb\n").count("a\nb\n"), 2);
        assert_eq!(Lines::new("").count(""), 1);
    }

    #[test]
    fn positions_count_characters() {
        assert_eq!(position("é: ü\nö: x", "é: ü\nö: ".len()), (2, 4));
        assert_eq!(position("", 0), (1, 1));
    }
}
