//! The look at a file's bytes before any parser sees them.
//!
//! It refuses what is not text for people (another encoding, control characters, too large, nothing at all) with the exact
//! place, and says which files could make the fast path slow: anchors, whose aliases can multiply, and many brackets, on
//! which the parser behind `serde_yaml` is quadratic. Those go through the marked tree, which has budgets, first.

use super::lines::position;
use super::read::{MAX_BYTES, too_large};
use super::tree::{Fault, Mark};

/// More opening brackets than this, nested or not, send a file through the marked tree first. A job has a handful.
const MANY_BRACKETS: usize = 64;

/// A file's text, fit for a parser.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Screened<'b> {
    /// The text without a byte order mark.
    pub(super) text: &'b str,
    /// Whether the fast path must wait for the budgets of the marked tree.
    pub(super) careful: bool,
}

/// The text in `bytes`, or the fault that keeps any parser away from it.
pub(super) fn screen(bytes: &[u8]) -> Result<Screened<'_>, Fault> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(located("", 0, too_large(bytes.len() as u64)));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(located("", 0, "the file is UTF-16, save it as UTF-8".to_owned()));
    }
    let text = str::from_utf8(bytes).map_err(|error| not_utf8(bytes, error.valid_up_to()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let seen = Seen::new(text);
    if seen.suspect
        && let Some((at, c)) = text.char_indices().find(|(_, c)| is_refused(*c))
    {
        return Err(control(text, at, c));
    }
    if is_blank(text) {
        return Err(located("", 0, "the file is empty".to_owned()));
    }
    Ok(Screened { text, careful: seen.anchor || seen.brackets > MANY_BRACKETS })
}

/// What one pass over the bytes saw; every good file pays for it, so it is a pass over bytes and not over characters.
struct Seen {
    /// A byte that may belong to a refused character: a control, or the first byte of U+0080..U+009F or U+FEFF.
    suspect: bool,
    anchor: bool,
    brackets: usize,
}

impl Seen {
    fn new(text: &str) -> Self {
        let mut seen = Self { suspect: false, anchor: false, brackets: 0 };
        let mut before = b'\n';
        for &byte in text.as_bytes() {
            match byte {
                b'\t' | b'\n' | b'\r' => {}
                ..0x20 | 0x7f | 0xc2 | 0xef => seen.suspect = true,
                b'[' | b'{' => seen.brackets += 1,
                b'&' => seen.anchor |= matches!(before, 0..=b' ' | b'[' | b'{' | b',' | b':'),
                _ => {}
            }
            before = byte;
        }
        seen
    }
}

/// Characters that YAML calls not printable, and a byte order mark that is not at the start.
fn is_refused(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' | '\u{85}' => false,
        '\u{feff}' | '\u{fffe}' | '\u{ffff}' => true,
        _ => c.is_control(),
    }
}

/// Whether nothing but comments, blank lines and document marks is there, which `serde_yaml` takes for an empty map.
fn is_blank(text: &str) -> bool {
    text.split(['\n', '\r']).all(|line| {
        let line = line.trim();
        let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("...")).unwrap_or(line).trim_start();
        rest.is_empty() || rest.starts_with(['#', '%'])
    })
}

fn located(text: &str, at: usize, message: String) -> Fault {
    let (line, column) = position(text, at);
    Fault { mark: Mark::new(line, column), message }
}

fn not_utf8(bytes: &[u8], at: usize) -> Fault {
    let valid = String::from_utf8_lossy(bytes.get(..at).unwrap_or(bytes));
    let byte = bytes.get(at).copied().unwrap_or_default();
    located(&valid, at, format!("not UTF-8: byte 0x{byte:02X} at offset {at}, save the file as UTF-8"))
}

fn control(text: &str, at: usize, c: char) -> Fault {
    let code = u32::from(c);
    let message = match c {
        '\0' if at < 2 => "a NUL byte is not allowed, is the file UTF-16? save it as UTF-8".to_owned(),
        '\0' => "a NUL byte is not allowed".to_owned(),
        '\u{feff}' => "a byte order mark is allowed only at the start of the file".to_owned(),
        _ => format!("control character U+{code:04X} is not allowed"),
    };
    located(text, at, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> (usize, usize, String) {
        let fault = screen(bytes).unwrap_err();
        (fault.mark.line, fault.mark.column, fault.message)
    }

    #[test]
    fn another_encoding_is_named_with_its_place() {
        assert_eq!(
            refusal(b"a: 1\nname: caf\xe9\n"),
            (2, 10, "not UTF-8: byte 0xE9 at offset 14, save the file as UTF-8".into())
        );
        assert_eq!(refusal(b"\xff\xfea\0:\0").2, "the file is UTF-16, save it as UTF-8");
        assert_eq!(refusal(b"\xfe\xff\0a\0:").2, "the file is UTF-16, save it as UTF-8");
        assert_eq!(refusal(b"a\0:\0 \0").2, "a NUL byte is not allowed, is the file UTF-16? save it as UTF-8");
        assert_eq!(refusal(b"a: \xe2\x82").1, 4);
    }

    #[test]
    fn control_characters_are_refused_at_their_place() {
        assert_eq!(refusal("ab: é\0".as_bytes()), (1, 6, "a NUL byte is not allowed".into()));
        assert_eq!(refusal("a: 1\nb: \u{7}".as_bytes()), (2, 4, "control character U+0007 is not allowed".into()));
        assert_eq!(refusal("a: \u{9b}31m".as_bytes()).2, "control character U+009B is not allowed");
        assert_eq!(refusal("a: \u{feff}".as_bytes()).2, "a byte order mark is allowed only at the start of the file");
    }

    #[test]
    fn a_byte_order_mark_at_the_start_is_dropped() {
        assert_eq!(screen("\u{feff}a: 1".as_bytes()).unwrap(), Screened { text: "a: 1", careful: false });
    }

    #[test]
    fn a_file_without_content_is_empty() {
        for text in
            ["", "\n\n", "# only a comment\n", "---\n", "--- # x\n...\n", "%YAML 1.2\n---\n", "\u{feff}", "\r\n \r\n"]
        {
            assert_eq!(refusal(text.as_bytes()), (1, 1, "the file is empty".into()), "{text:?}");
        }
    }

    #[test]
    fn only_anchors_and_many_brackets_ask_for_care() {
        let careful = |text: &str| screen(text.as_bytes()).unwrap().careful;
        assert!(!careful("schedule: \"30 6 * * *\"\ntitle: Q&A\nurl: http://x/?a=1&b=2\nf: {a: [1]}\n"));
        for text in ["a: &x 1", "- &x 1", "[&x 1]", "a:\n  &x b: 1", "&x a: 1", "{\"a\":&x 1}"] {
            assert!(careful(text), "{text}");
        }
        assert!(careful(&"[".repeat(65)));
    }
}
