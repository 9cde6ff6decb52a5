//! Files that attack or break a parser: each gets a plain problem or is harmless, within a second in a debug build.

use std::time::Duration;

use proptest::prelude::*;

use super::fixture::{GOOD, Job, decode, decode_bytes};
use super::{Decoded, MAX_BYTES};

/// What a hostile file may cost in a debug build.
const LIMIT: Duration = Duration::from_secs(1);
/// What a file of the largest size may cost that is all tokens: the parsers are linear, but unoptimised here.
const LIMIT_WHEN_FULL: Duration = Duration::from_secs(4);

fn bounded(bytes: &[u8]) -> Decoded<Job> {
    bounded_by(LIMIT, bytes)
}

/// The time that this thread has worked, which other work on the machine does not lengthen.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).expect("nanoseconds"))
}

/// Decodes within a time limit, and checks what every outcome promises.
fn bounded_by(limit: Duration, bytes: &[u8]) -> Decoded<Job> {
    let timed = || {
        let start = cpu();
        let decoded = decode_bytes(bytes);
        let texts: String = decoded.problems.iter().map(super::Problem::text).collect();
        (cpu().saturating_sub(start), decoded, texts)
    };
    // Caches may be cold, but not each time.
    let (took, decoded, texts) = (0..3).map(|_| timed()).find(|(took, ..)| *took < limit).unwrap_or_else(timed);
    assert!(took < limit, "took {took:?}");
    assert!(texts.len() < 100_000, "{} bytes of problems", texts.len());
    assert!(decoded.value.is_some() || !decoded.problems.is_empty());
    let lines = decoded.source.text().split(['\n', '\r']).count();
    for problem in &decoded.problems {
        assert!((1..=lines).contains(&problem.line), "{problem:?}");
        assert!(problem.column >= 1 && problem.width >= 1);
        let shown = problem.source.as_deref().unwrap_or_default();
        assert!(shown.chars().count() <= 200 && !shown.contains(char::is_control));
        assert!(!problem.message.contains(char::is_control), "{problem:?}");
    }
    decoded
}

fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect::<Vec<_>>().concat()
}

/// The first problem of a hostile text.
fn refusal(text: &str) -> String {
    let problem = bounded(text.as_bytes()).problems.into_iter().next().expect("a problem");
    format!("{}:{} {}", problem.line, problem.column, problem.message)
}

#[test]
fn alias_bombs_are_refused_before_they_grow() {
    let laughs = lines(12, |level| {
        let below = if level == 0 { "x".to_owned() } else { format!("*a{}", level - 1) };
        format!("  a{level}: &a{level} [{}]\n", vec![below; 10].join(", "))
    });
    let laughs = format!("vars:\n{laughs}");
    assert!(refusal(&laughs).ends_with("too many nodes once aliases are expanded"));

    let quadratic =
        format!("vars:\n  a: &a [{}]\n  b: [{}]\n", vec!["x"; 40_000].join(","), vec!["*a"; 40_000].join(","));
    assert!(refusal(&quadratic).ends_with("too many nodes once aliases are expanded"));

    let long = format!("vars:\n  a: &a {}\n  b: [{}]\n", "x".repeat(500_000), vec!["*a"; 90_000].join(","));
    assert!(refusal(&long).contains("aliases are expanded"));

    let chain = lines(199, |level| format!("  a{}: &a{} [*a{level}]\n", level + 1, level + 1));
    let chain = format!("vars:\n  a0: &a0 [x]\n{chain}");
    assert!(refusal(&chain).ends_with("nested deeper than 64 levels once aliases are expanded"));
}

#[test]
fn an_alias_of_what_holds_it_is_refused() {
    assert_eq!(refusal("vars: &a\n  b: *a\n"), "2:6 an alias inside of what it stands for");
    assert_eq!(refusal("vars:\n  b: &a [1, [*a]]\n"), "2:14 an alias inside of what it stands for");
    assert!(refusal("&a *a : x\n").starts_with("1:"));
}

#[test]
fn many_anchors_on_one_long_line_stay_quick() {
    let anchors: Vec<_> = (0..40_000).map(|n| format!("&é{n} ü")).collect();
    bounded(format!("vars: {{a: [{}]}}", anchors.join(", ")).as_bytes());
    let same: Vec<_> = (0..60_000).map(|_| "&a x").collect();
    assert!(refusal(&format!("vars: {{a: [{}]}}", same.join(", "))).contains("anchor 'a' stands twice"));
}

#[test]
fn depth_is_refused_without_recursion() {
    for text in [
        "[".repeat(20_000),
        "[".repeat(1_000_000),
        "{a: ".repeat(100_000),
        "[ \"]\" ,".repeat(100_000),
        "- ".repeat(500_000),
        "? ".repeat(500_000),
        "a: ".repeat(100_000),
        format!("vars: {}{}", "[".repeat(100), "]".repeat(100)),
        format!("vars: {}", "{a: ".repeat(70) + &"}".repeat(70)),
        lines(1_000, |depth| format!("{}a:\n", " ".repeat(depth))),
        lines(1_400, |depth| format!("{}- \n", " ".repeat(depth))),
    ] {
        refusal(&text);
    }
    assert_eq!(refusal(&format!("vars: {{a: {}", "[".repeat(300))), "1:265 brackets are nested too deeply");
}

#[test]
fn large_files_end_in_time() {
    let limit = usize::try_from(MAX_BYTES).unwrap();
    assert_eq!(refusal(&"x".repeat(10 * limit)), "1:1 larger than 1 MiB (10485760 bytes)");
    let entries = |entry: &str| entry.repeat((limit - 100) / entry.len());
    for text in [
        entries("x"),
        entries("x "),
        entries("x: "),
        format!("zone: \"{}\"\nx: 1\n", entries("é")),
        format!("{{ {} }}", entries("a, ")),
        format!("connections: [{}]", entries("1,")),
        format!("connections: [{}]", entries("[],")),
        format!("deliver: [{}]", entries("{x: 1}, ")),
        format!("vars: {{a: [{}]}}\nx: 1", entries("1,")),
        format!("vars: {{a: \"{}\"}}\nx: 1", entries("\\x41")),
        entries("é: 1\n"),
        entries("\n"),
        entries("#\n"),
        entries("- x\n"),
        entries("? \n"),
        entries("*a "),
        entries("&a "),
        entries("!a "),
        entries("'"),
        entries("\""),
        entries("|\n"),
        entries("a: |\n"),
        entries("\t"),
        entries("\r"),
        entries("%YAML 1.2\n"),
        entries("---\n"),
        entries("...\n"),
        entries("&"),
        entries("\u{85}"),
        entries("}"),
        entries(","),
        entries(": "),
    ] {
        bounded_by(LIMIT_WHEN_FULL, text.as_bytes());
    }
    let unique = lines(80_000, |n| format!("k{n}: 1\n"));
    bounded_by(LIMIT_WHEN_FULL, unique.as_bytes());
    let faults = lines(80_000, |n| format!(" k{n}: .nan\n"));
    bounded_by(LIMIT_WHEN_FULL, format!("vars:\n{faults}").as_bytes());
}

#[test]
fn a_long_line_is_shown_around_the_place() {
    let text = format!("vars: {{ a: \"{}\", a: 1, b: \"{}\" }}", "é".repeat(200_000), "x".repeat(500_000));
    let decoded = bounded(text.as_bytes());
    let problem = &decoded.problems[0];
    let source: Vec<_> = problem.source.as_deref().unwrap().chars().collect();
    assert_eq!((problem.line, problem.column, source.len()), (1, 200_016, 200));
    assert_eq!(source[problem.caret..problem.caret + 4].iter().collect::<String>(), "a: 1");
}

#[test]
fn a_very_long_key_is_cut_in_the_message() {
    for length in [1_000, 100_000] {
        let said = refusal(&format!("{}: 1\n", "k".repeat(length)));
        assert!(said.len() < 200, "{said}");
        let said = refusal(&format!("? \"{}\"\n: 1\n", "k".repeat(length)));
        assert!(said.contains("unknown key 'kkkk") && said.len() < 200, "{said}");
    }
}

#[test]
fn escape_sequences_in_keys_and_values_reach_no_terminal() {
    assert_eq!(refusal("\"a\\e[31m\\n\": 1\n"), "1:1 unknown key 'a\\u{1b}[31m\\n'");
    assert_eq!(
        refusal("level: \"\\0\\u202e\"\n"),
        "1:8 level: unknown value '\\u{0}\\u{202e}', expected one of: low, high"
    );
}

#[test]
fn other_encodings_are_refused_with_their_place() {
    let first = |bytes: &[u8]| {
        let problem = bounded(bytes).problems.remove(0);
        (problem.line, problem.column, problem.message, problem.source)
    };
    assert_eq!(
        first(b"zone: x\ndescription: caf\xe9 noir\n"),
        (
            2,
            17,
            "not UTF-8: byte 0xE9 at offset 24, save the file as UTF-8".into(),
            Some("description: caf\u{fffd} noir".into())
        )
    );
    assert_eq!(first(b"zone: \0\n"), (1, 7, "a NUL byte is not allowed".into(), Some("zone: \u{fffd}".into())));
    let utf16: Vec<u8> = "\u{feff}zone: x\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(first(&utf16).2, "the file is UTF-16, save it as UTF-8");
    assert_eq!(first(&utf16[2..]).2, "a NUL byte is not allowed, is the file UTF-16? save it as UTF-8");
}

#[test]
fn line_breaks_and_wide_characters_keep_positions_right() {
    assert_eq!(
        refusal("zone: x\r\nbik: { reportName: x, 'größe😀': 1, zon: 2 }\r\n"),
        "2:23 unknown key 'größe😀' in bik, allowed: reportName, appId, emails, filters, body"
    );
    assert_eq!(decode("zone: x\r\nbik: { reportName: \"😀é\", zon: 2 }\r\n").problems[0].column, 26);
    assert_eq!(refusal("zone: x\rzon: y\r"), "2:1 unknown key 'zon', did you mean 'zone'?");
    assert_eq!(refusal("# é😀\nzone: x # ü\n# ö\n'zon': y\n"), "4:1 unknown key 'zon', did you mean 'zone'?");
}

/// A valid file with pieces cut out, doubled and replaced by characters that mean something in YAML.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(
            b"&*!|>%@`'\"[]{},:?-#<\t\n\r \0~.\\\xc2\x85\xff".iter().map(|byte| vec![*byte]).collect::<Vec<_>>()
        ),
        prop::sample::select(
            [
                "&a ",
                "*a",
                "<<: ",
                "--- ",
                "...\n",
                "? ",
                "- ",
                ": ",
                "!!str ",
                "!x ",
                "%YAML 1.1\n",
                "|\n",
                ">-\n",
                "\u{feff}",
                "😀",
                "\r\n",
                "\u{2028}"
            ]
            .map(|text| text.as_bytes().to_vec())
            .to_vec()
        ),
        prop::collection::vec(any::<u8>(), 0..3),
    ];
    let cuts = prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, piece), 1..6);
    (any::<bool>(), cuts).prop_map(|(anchors, cuts)| {
        // Files with anchors go through the marked tree first, the others straight to serde.
        let text = if anchors { GOOD.to_owned() } else { GOOD.replace("&mails ", "").replace("*mails", "x") };
        let mut bytes = text.into_bytes();
        for (at, length, piece) in cuts {
            let at = at.index(bytes.len() + 1);
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, piece);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mutation_of_a_file_panics_or_fails_without_a_place(bytes in mutated()) {
        bounded(&bytes);
    }

    #[test]
    fn no_heap_of_yaml_signs_panics(text in "[-&*!|>%'\"\\[\\]{},:?#<a1 \\n\\t\\r~]{0,60}") {
        bounded(text.as_bytes());
    }
}
