//! A real workbook of one sheet, made by hand: a zip without compression around five small XML parts.
//!
//! Just enough for every reader to open it, and for a client's sniffing to meet a true XLSX. Cells are inline strings.

use std::fmt::Write as _;

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n";
const TYPES: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml";
const RELATIONS: &str = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
const PACKAGE: &str = "http://schemas.openxmlformats.org/package/2006";
const MAIN: &str = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";

/// The bytes of a workbook that holds these lines.
pub(super) fn workbook(lines: impl Iterator<Item = Vec<String>>) -> Vec<u8> {
    let mut sheet = format!("{HEAD}<worksheet xmlns=\"{MAIN}\"><sheetData>");
    for line in lines {
        sheet.push_str("<row>");
        for field in line {
            sheet.push_str("<c t=\"inlineStr\"><is><t xml:space=\"preserve\">");
            sheet.extend(field.chars().map(Escaped).map(|c| c.to_string()));
            sheet.push_str("</t></is></c>");
        }
        sheet.push_str("</row>");
    }
    sheet.push_str("</sheetData></worksheet>");

    let types = format!(
        "{HEAD}<Types xmlns=\"{PACKAGE}/content-types\"><Default Extension=\"rels\" ContentType=\"application/vnd.openxmlformats-package.relationships+xml\"/>\
         <Default Extension=\"xml\" ContentType=\"application/xml\"/><Override PartName=\"/xl/workbook.xml\" ContentType=\"{TYPES}.sheet.main+xml\"/>\
         <Override PartName=\"/xl/worksheets/sheet1.xml\" ContentType=\"{TYPES}.worksheet+xml\"/></Types>"
    );
    let relation = |kind: &str, target: &str| {
        format!(
            "{HEAD}<Relationships xmlns=\"{PACKAGE}/relationships\"><Relationship Id=\"rId1\" Type=\"{RELATIONS}/{kind}\" Target=\"{target}\"/></Relationships>"
        )
    };
    let book = format!(
        "{HEAD}<workbook xmlns=\"{MAIN}\" xmlns:r=\"{RELATIONS}\"><sheets><sheet name=\"Отчёт\" sheetId=\"1\" r:id=\"rId1\"/></sheets></workbook>"
    );
    zip(&[
        ("[Content_Types].xml", &types),
        ("_rels/.rels", &relation("officeDocument", "xl/workbook.xml")),
        ("xl/workbook.xml", &book),
        ("xl/_rels/workbook.xml.rels", &relation("worksheet", "worksheets/sheet1.xml")),
        ("xl/worksheets/sheet1.xml", &sheet),
    ])
}

/// A character as XML text; the ones that XML 1.0 cannot hold become U+FFFD.
struct Escaped(char);

impl std::fmt::Display for Escaped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            // A bare carriage return would be normalised away by the reader.
            '\r' => f.write_str("&#13;"),
            '\t' | '\n' => f.write_char(self.0),
            c if c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}') => f.write_char('\u{fffd}'),
            c => f.write_char(c),
        }
    }
}

/// Stores the files one after another. They are far below the 4 GiB where the format needs its larger form.
fn zip(files: &[(&str, &str)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let offset = length(bytes.len());
        let mut common = Vec::with_capacity(26);
        // Needs version 2.0; bit 11 says names are UTF-8; stored; 1980-01-01 00:00, the format's zero.
        for half in [20_u16, 0x0800, 0, 0, 0x0021] {
            common.extend(half.to_le_bytes());
        }
        for word in [crc32(content.as_bytes()), length(content.len()), length(content.len())] {
            common.extend(word.to_le_bytes());
        }
        common.extend(short(name.len()).to_le_bytes());
        common.extend([0, 0]);

        bytes.extend(b"PK\x03\x04");
        bytes.extend(&common);
        bytes.extend(name.as_bytes());
        bytes.extend(content.as_bytes());

        directory.extend(b"PK\x01\x02");
        directory.extend(20_u16.to_le_bytes());
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, count) = (length(bytes.len()), short(files.len()));
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    bytes.extend(length(directory.len()).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("500 rows of short texts are far below 4 GiB")
}

fn short(len: usize) -> u16 {
    u16::try_from(len).expect("five files with short names")
}

/// The checksum of zip, bit by bit: a sheet is some 100 KiB, so a table would not be felt.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::Command;

    fn sample() -> Vec<u8> {
        let line = |fields: &[&str]| fields.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>();
        workbook([line(&["Клиент", "Note"]), line(&["a<b>&\"c\"", "one\r\ntwo\u{1}"])].into_iter())
    }

    fn word(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    fn half(bytes: &[u8], at: usize) -> usize {
        usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()))
    }

    #[test]
    fn the_checksum_is_the_one_of_the_format() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn every_entry_of_the_central_directory_points_at_its_file() {
        let bytes = sample();
        let end = bytes.len() - 22;
        assert_eq!(&bytes[end..end + 4], b"PK\x05\x06");
        let mut at = word(&bytes, end + 16);
        assert_eq!(at + word(&bytes, end + 12), end);
        let mut names = Vec::new();
        for _ in 0..half(&bytes, end + 10) {
            assert_eq!(&bytes[at..at + 4], b"PK\x01\x02");
            let (crc, size, name) = (word(&bytes, at + 16), word(&bytes, at + 24), half(&bytes, at + 28));
            let (title, local) = (&bytes[at + 46..at + 46 + name], word(&bytes, at + 42));
            assert_eq!(&bytes[local..local + 4], b"PK\x03\x04");
            assert_eq!(&bytes[local + 30..local + 30 + name], title);
            let content = &bytes[local + 30 + name..local + 30 + name + size];
            assert_eq!(crc32(content) as usize, crc);
            names.push(String::from_utf8(title.to_vec()).unwrap());
            at += 46 + name;
        }
        assert_eq!(at, end);
        assert_eq!(names.len(), 5);
        assert!(names.iter().any(|name| name == "xl/worksheets/sheet1.xml"));
    }

    #[test]
    fn another_program_opens_it_and_reads_the_cells() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&sample()).unwrap();
        let script = "import sys, zipfile, xml.etree.ElementTree as tree\n\
                      book = zipfile.ZipFile(sys.argv[1])\n\
                      assert book.testzip() is None\n\
                      parts = {n: tree.fromstring(book.read(n)) for n in book.namelist()}\n\
                      cells = [t.text for t in parts['xl/worksheets/sheet1.xml'].iter() if t.tag.endswith('}t')]\n\
                      assert cells == ['Клиент', 'Note', 'a<b>&\"c\"', 'one\\r\\ntwo\\ufffd'], cells\n";
        let output = match Command::new("python3").args(["-X", "utf8", "-c", script]).arg(file.path()).output() {
            Ok(output) => output,
            // The test above reads the file with our own eyes, so a machine without Python still checks it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => panic!("{error}"),
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
