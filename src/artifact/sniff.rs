//! Is this the report, and not an error page? Looks at bytes as they pass; keeps the first and last few of them.
//!
//! It refuses what cannot be the expected kind of file: 0 bytes, an HTML or XML page, JSON in place of a table, a workbook
//! without its directory, a CSV cut inside a quoted field. It does not judge the content.

use thiserror::Error;

/// What a file must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Text with separated fields.
    Csv {
        /// Whether its first record is a header.
        with_header: bool,
    },
    /// An Office workbook.
    Xlsx,
    /// A table whose form the vendor chooses: CSV or workbook; the name gets its ending here.
    AnyTable,
    /// JSON, checked by whoever parsed it.
    Json,
    /// One JSON value a line, made by us.
    Ndjson,
}

/// Media types.
const CSV: &str = "text/csv";
const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";

impl Expect {
    /// The media type a file of this kind has.
    pub fn media_type(self) -> &'static str {
        match self {
            Expect::Csv { .. } | Expect::AnyTable => CSV,
            Expect::Xlsx => XLSX,
            Expect::Json => "application/json",
            Expect::Ndjson => "application/x-ndjson",
        }
    }
}

/// Why bytes are not a report.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("what came is not a report: {0}")]
pub struct NotAReport(pub String);

/// What the bytes turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Media type.
    pub media_type: &'static str,
    /// File name ending that goes with it.
    pub extension: &'static str,
    /// Whether there are rows below the header; `None` = not to be told from here.
    pub has_rows: Option<bool>,
}

/// Bytes kept from the start; enough for any magic number or doctype.
const HEAD: usize = 512;

/// Bytes kept from the end: a zip's end-of-directory record with the longest comment.
const TAIL: usize = 22 + 65_535;

/// Looks at a file as its chunks pass.
pub struct Sniffer {
    expect: Expect,
    head: Vec<u8>,
    tail: Vec<u8>,
    csv: Option<CsvRows>,
}

/// Counts records by CSV's rules of quoting, whatever the delimiter: a quote opens a field only at its start, and line ends
/// inside quotes end nothing. (csv-core wants to know the delimiter, and closes an open quote at the end without a word.)
struct CsvRows {
    records: u32,
    at: At,
    /// The current line has something in it.
    filled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote inside a quoted field: its end, or the first of a doubled quote.
    Quote,
}

impl Sniffer {
    /// A sniffer for one file.
    pub fn new(expect: Expect) -> Sniffer {
        let csv = matches!(expect, Expect::Csv { .. } | Expect::AnyTable).then_some(CsvRows {
            records: 0,
            at: At::FieldStart,
            filled: false,
        });
        Sniffer { expect, head: Vec::new(), tail: Vec::new(), csv }
    }

    /// Looks at the next chunk.
    pub fn look(&mut self, chunk: &[u8]) {
        let room = HEAD.saturating_sub(self.head.len()).min(chunk.len());
        self.head.extend_from_slice(&chunk[..room]);
        if matches!(self.expect, Expect::Xlsx | Expect::AnyTable) {
            let keep = chunk.len().min(TAIL);
            self.tail.extend_from_slice(&chunk[chunk.len() - keep..]);
            let excess = self.tail.len().saturating_sub(TAIL);
            self.tail.drain(..excess);
        }
        if let Some(csv) = &mut self.csv {
            csv.feed(chunk);
        }
    }

    /// What the file is, now that all of it has passed. `no_rows` = the vendor says that the report is empty.
    pub fn verdict(mut self, size: u64, no_rows: bool) -> Result<Seen, NotAReport> {
        let not = |why: &str| Err(NotAReport(why.to_owned()));
        let text = String::from_utf8_lossy(&self.head);
        let start = text.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
        let zip = self.head.starts_with(b"PK\x03\x04");
        match self.expect {
            _ if size == 0 => match self.expect {
                Expect::Ndjson => {}
                Expect::Csv { with_header: false } if no_rows => {}
                _ => return not("0 bytes"),
            },
            _ if start.starts_with("<?xml") || start.starts_with("<error") => return not("an XML document"),
            // No table, workbook or JSON starts so; every error page does.
            _ if start.starts_with('<') => return not("an HTML page"),
            _ => {}
        }
        let looks_json = serde_json_like(&start);
        match self.expect {
            Expect::Csv { .. } if zip => not("a zip file or workbook where CSV was asked for"),
            Expect::AnyTable if zip => self.xlsx(),
            Expect::Csv { with_header } => self.table(with_header, no_rows, looks_json),
            Expect::AnyTable => self.table(true, no_rows, looks_json),
            Expect::Xlsx if !zip => not("no workbook (its first bytes are not a zip file's)"),
            Expect::Xlsx => self.xlsx(),
            Expect::Json => Ok(Seen { media_type: "application/json", extension: "json", has_rows: None }),
            Expect::Ndjson => {
                Ok(Seen { media_type: "application/x-ndjson", extension: "ndjson", has_rows: Some(size > 0) })
            }
        }
    }

    fn table(&mut self, with_header: bool, no_rows: bool, looks_json: bool) -> Result<Seen, NotAReport> {
        if looks_json {
            return Err(NotAReport("a JSON document where a table was asked for".into()));
        }
        let utf16 = self.head.starts_with(&[0xff, 0xfe]) || self.head.starts_with(&[0xfe, 0xff]);
        if !utf16 && self.head.contains(&0) {
            return Err(NotAReport("binary data where a table was asked for".into()));
        }
        let records = match &mut self.csv {
            Some(csv) if csv.cut_in_quotes() => {
                return Err(NotAReport("a CSV that is cut inside a quoted field".into()));
            }
            Some(csv) => csv.records(),
            None => 0,
        };
        let rows = records.saturating_sub(u32::from(with_header));
        // "AccessDenied: link expired" is no header: one line of words without columns, and nothing below it.
        let text = String::from_utf8_lossy(&self.head);
        let sentence = text.trim().contains(' ') && !text.contains([',', ';', '\t', '|']);
        if with_header && rows == 0 && !utf16 && sentence {
            return Err(NotAReport("one line of text where a table was asked for".into()));
        }
        // In UTF-16 line ends look different; what cannot be told is not told.
        let has_rows = (!utf16).then_some(rows > 0 && !no_rows);
        Ok(Seen { media_type: CSV, extension: "csv", has_rows })
    }

    fn xlsx(&self) -> Result<Seen, NotAReport> {
        let end = self.tail.windows(4).rposition(|w| w == b"PK\x05\x06");
        match end {
            Some(at) if self.tail.len() - at >= 22 => Ok(Seen { media_type: XLSX, extension: "xlsx", has_rows: None }),
            _ => Err(NotAReport("a workbook that is cut (its directory is missing)".into())),
        }
    }
}

/// Whether text starts as a JSON object or array does: a brace or bracket, then a quote, a brace or its end. No table's
/// header does.
fn serde_json_like(start: &str) -> bool {
    let mut chars = start.chars().filter(|c| !c.is_whitespace());
    matches!((chars.next(), chars.next()), (Some('{'), Some('"' | '}')) | (Some('['), Some('{' | ']' | '"')))
}

impl CsvRows {
    fn feed(&mut self, chunk: &[u8]) {
        for byte in chunk {
            self.at = match (self.at, byte) {
                (At::Quoted, b'"') => At::Quote,
                (At::Quoted, _) | (At::Quote, b'"') => At::Quoted,
                (_, b'\r' | b'\n') => {
                    self.end_line();
                    At::FieldStart
                }
                (At::FieldStart, b'"') => At::Quoted,
                // A byte order mark stands before the first field.
                (At::FieldStart, 0xef | 0xbb | 0xbf) if self.records == 0 => At::FieldStart,
                (_, b',' | b';' | b'\t' | b'|') => At::FieldStart,
                _ => At::Plain,
            };
            self.filled |= !matches!(byte, b'\r' | b'\n');
        }
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.filled) {
            self.records = self.records.saturating_add(1);
        }
    }

    fn cut_in_quotes(&self) -> bool {
        self.at == At::Quoted
    }

    fn records(&mut self) -> u32 {
        self.end_line();
        self.records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sniff(expect: Expect, bytes: &[u8]) -> Result<Seen, NotAReport> {
        let whole = {
            let mut sniffer = Sniffer::new(expect);
            sniffer.look(bytes);
            sniffer.verdict(bytes.len() as u64, false)
        };
        let mut sniffer = Sniffer::new(expect);
        bytes.chunks(1).for_each(|byte| sniffer.look(byte));
        assert_eq!(whole, sniffer.verdict(bytes.len() as u64, false), "chunks must not matter");
        whole
    }

    fn rows(bytes: &str) -> Option<bool> {
        sniff(Expect::Csv { with_header: true }, bytes.as_bytes()).unwrap().has_rows
    }

    #[test]
    fn rows_are_told_from_a_header_alone() {
        assert_eq!(rows("a,b\r\n"), Some(false));
        assert_eq!(rows("a,b"), Some(false));
        assert_eq!(rows("a,\"b\r\nc\"\r\n"), Some(false));
        assert_eq!(rows("a,b\r\n1,2"), Some(true));
        assert_eq!(rows("\u{feff}a;b\n1;2\n"), Some(true));
        assert_eq!(rows("a\n\n\n"), Some(false));
        let bare = sniff(Expect::Csv { with_header: false }, b"1,2\r\n").unwrap();
        assert_eq!(bare.has_rows, Some(true));
    }

    #[test]
    fn error_pages_and_wrong_kinds_are_not_reports() {
        let csv = Expect::Csv { with_header: true };
        for bytes in [
            "",
            "<!DOCTYPE html><html></html>",
            "\u{feff}  <html>",
            "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>",
            "{\"error\": {\"code\": 403}}",
            "[{\"a\": 1}]",
            "PK\u{3}\u{4}xxxx",
            "a,b\r\n1,\"cut",
            "AccessDenied: link expired",
            "<!-- x --><html>login</html>",
        ] {
            assert!(sniff(csv, bytes.as_bytes()).is_err(), "{bytes}");
        }
        assert!(sniff(csv, b"a\0b").is_err());
        assert!(sniff(Expect::Xlsx, b"a,b\r\n").is_err());
        assert!(sniff(Expect::Xlsx, b"PK\x03\x04 and then it is cut").is_err());
    }

    #[test]
    fn a_table_of_free_choice_is_named_by_what_it_is() {
        let mut workbook = b"PK\x03\x04....".to_vec();
        workbook.extend_from_slice(b"PK\x05\x06");
        workbook.extend_from_slice(&[0; 18]);
        assert_eq!(sniff(Expect::AnyTable, &workbook).unwrap().extension, "xlsx");
        assert_eq!(sniff(Expect::Xlsx, &workbook).unwrap().has_rows, None);
        assert_eq!(sniff(Expect::AnyTable, b"a,b\n1,2\n").unwrap().extension, "csv");
    }

    #[test]
    fn zero_bytes_are_a_report_only_without_a_header_and_when_the_vendor_says_that_there_are_no_rows() {
        let verdict = |with_header, no_rows| Sniffer::new(Expect::Csv { with_header }).verdict(0, no_rows);
        assert_eq!(verdict(false, true).unwrap().has_rows, Some(false));
        assert!(verdict(false, false).is_err() && verdict(true, true).is_err());
    }
}
