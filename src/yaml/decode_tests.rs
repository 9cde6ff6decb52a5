//! What people are told: one test per kind of mistake, each with its exact place and words.

use super::fixture::{Filters, GOOD, Job, Notice, Window, decode, said};
use super::{Decoder, Finding, Path};

fn only(text: &str) -> String {
    let said = said(text);
    assert_eq!(said.len(), 1, "{said:?}");
    said.into_iter().next().unwrap()
}

#[test]
fn a_good_file_has_a_value_and_no_problem() {
    let decoded = decode(GOOD);
    assert_eq!(decoded.problems, []);
    let job = decoded.value.unwrap();
    assert_eq!(job.bik.as_ref().unwrap().app_id.as_deref(), Some("0123"));
    let body = serde_json::to_string(&job.bik.unwrap().body).unwrap();
    assert_eq!(body, r#"{"list":[1,2.5,"no",null,{"x":"y"}],"again":["a@b.example"]}"#);
}

#[test]
fn an_unknown_key_is_shown_with_its_line_and_what_was_meant() {
    let decoded = decode("bik:\n  reportName: x\n  filters:\n    chanel: whatsapp\n");
    assert_eq!(
        decoded.problems[0].text(),
        "jobs/x.yaml:4:5: unknown key 'chanel' in bik.filters, did you mean 'channel'?\n  |\n4 |     chanel: whatsapp\n  |     ^^^^^^\n"
    );
    assert_eq!(decoded.problems.len(), 1);
}

#[test]
fn every_unknown_key_is_told_once_at_its_key() {
    assert_eq!(
        said("a1: 1\nschedul: x\nbik: { reportName: x, app_id: x, colour: red }\n"),
        [
            "1:1 unknown key 'a1'",
            "2:1 unknown key 'schedul', did you mean 'schedule'?",
            "3:23 unknown key 'app_id' in bik, did you mean 'appId'?",
            "3:34 unknown key 'colour' in bik, allowed: reportName, appId, emails, filters, body",
        ]
    );
    assert_eq!(
        only("deliver:\n- email: {to: x}\n- mail: x\n"),
        "3:3 unknown key 'mail' in deliver[1], did you mean 'email'?"
    );
}

#[test]
fn a_wrong_type_says_what_was_expected_and_what_is_there() {
    for (text, expected) in [
        ("window: [1]", "1:9 window: expected a string or a map, found a list"),
        ("zone: {a: 1}", "1:7 zone: expected a string, found a map"),
        ("refetch: yes", "1:10 refetch: expected true or false, found a string"),
        ("retries: 1.5", "1:10 retries: expected a whole number, found 1.5"),
        ("rate: fast", "1:7 rate: expected a number, found a string"),
        ("connections: north", "1:14 connections: expected a list, found a string"),
        ("connections:\n- [north]", "2:3 connections[0]: expected a string, found a list"),
        ("bik: true", "1:6 bik: expected a map, found true"),
        ("vars: [a]", "1:7 vars: expected a map, found a list"),
        ("- a\n- b", "1:1 expected a map of keys, found a list"),
        ("hello", "1:1 expected a map of keys, found a string"),
        ("~", "1:1 expected a map of keys, found nothing"),
        ("overlap: 5", "1:10 overlap: unknown value '5', expected one of: queue, skip"),
        ("overlap: [queue]", "1:10 overlap: expected a string, found a list"),
    ] {
        assert_eq!(only(text), expected, "{text}");
    }
}

#[test]
fn a_word_of_no_list_is_guessed_or_the_list_is_told() {
    assert_eq!(only("overlap: que"), "1:10 overlap: unknown value 'que', expected one of: queue, skip");
    assert_eq!(only("overlap: queu"), "1:10 overlap: unknown value 'queu', did you mean 'queue'?");
    assert_eq!(only("level: Hihg"), "1:8 level: unknown value 'Hihg', did you mean 'high'?");
    assert_eq!(only("level: medium"), "1:8 level: unknown value 'medium', expected one of: low, high");
}

#[test]
fn a_missing_key_is_told_at_the_key_around_it() {
    assert_eq!(only("zone: UTC\nbik:\n  appId: x\n"), "2:1 key 'reportName' is missing in bik");
    assert_eq!(only("deliver:\n  - email:\n      subject: x\n"), "2:5 key 'to' is missing in deliver[0].email");
    assert_eq!(only("window: { from: 2026-01-01 }"), "1:1 key 'to' is missing in window");
}

#[test]
fn the_branch_that_was_meant_is_told() {
    assert_eq!(
        said("window:\n  from: [1]\n  too: x\n"),
        [
            "1:1 key 'to' is missing in window",
            "2:9 window.from: expected a string, found a list",
            "3:3 unknown key 'too' in window, did you mean 'to'?"
        ]
    );
}

/// A file that serde accepts is not held against the schema: what only the schema says shows up beside other problems.
#[test]
fn ranges_lengths_and_patterns_are_told() {
    for (text, expected) in [
        ("pages: 0", "1:8 pages: must be at least 1"),
        ("pages: 11", "1:8 pages: must be at most 10"),
        ("retries: 300", "1:10 retries: must be at most 255"),
        ("retries: -1", "1:10 retries: must be at least 0"),
        ("bik: { reportName: x, emails: [] }", "1:31 bik.emails: must not be empty"),
        (
            "deliver: [email: {to: x, subject: A}]",
            "1:35 deliver[0].email.subject: does not match the pattern ^[a-z ]*$",
        ),
        (
            "deliver:\n- email: {to: x, subject: aaaaaaaaaaaaaaaaaaaaaaaa}",
            "2:27 deliver[0].email.subject: must have at most 20 characters",
        ),
    ] {
        let said = said(&format!("{text}\nx: 1\n"));
        assert_eq!(said[0], expected, "{text}");
        assert_eq!(said.len(), 2);
    }
}

#[test]
fn a_key_without_a_value_is_told_at_the_key() {
    let told = said("zon: x\nbik:\n  reportName:\nconnections: [a, ~]\n");
    assert_eq!(told[1..], ["3:3 bik.reportName has no value", "4:18 connections[1] has no value"]);
}

#[test]
fn what_only_serde_knows_is_told_too() {
    assert_eq!(only("retries: 1.0"), "1:10 retries: invalid type: floating point `1.0`, expected u8");
    assert_eq!(only("window: a!"), "1:9 window: a window has no '!'");
    assert_eq!(only("window: 5"), "1:9 window: expected a string or a map, found a whole number");
    assert_eq!(
        said("window: a!\nretries: 2.0\nzon: x\npages: 99999999999\n"),
        [
            "1:9 window: a window has no '!'",
            "2:10 retries: invalid type: floating point `2.0`, expected u8",
            "3:1 unknown key 'zon', did you mean 'zone'?",
            "4:8 pages: must be at most 10",
        ]
    );
}

#[test]
fn a_plain_number_is_text_where_text_is_expected() {
    let decoded =
        decode("zone: 5\ndescription: true\nconnections: [1, 0x2]\nbik: { reportName: 1.50, appId: 007 }\nx: 1\n");
    let said: Vec<_> = decoded.problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(said, ["unknown key 'x'"]);
    let job = decoded.value.unwrap();
    assert_eq!(job.zone.as_deref(), Some("5"));
    assert_eq!(job.description.as_deref(), Some("true"));
    assert_eq!(job.connections.unwrap(), ["1", "0x2"]);
    assert_eq!(job.bik.unwrap().report_name, "1.50");
}

#[test]
fn repeated_keys_merge_keys_and_keys_that_are_not_text_are_told_at_the_key() {
    assert_eq!(
        said("zone: a\nvars: &v\n  1: x\n  true: x\n  ? [a]\n  : x\nzone: b\nbik:\n  <<: *v\n  reportName: x\n"),
        [
            "3:3 a key must be text, quote it: \"1\"",
            "4:3 a key must be text, quote it: \"true\"",
            "5:5 a key must be text, not a list or a map",
            "7:1 key 'zone' stands twice, first at line 1",
            "9:3 merge keys are not supported, use 'defaults' in reportd.yaml",
        ]
    );
    assert_eq!(only("vars:\n  a: 1\n  a: 2\n"), "3:3 key 'a' stands twice, first at line 2");
    assert_eq!(only("bik: {reportName: x, body: {a: {b: 1, \"b\": 2}}}"), "1:39 key 'b' stands twice, first at line 1");
}

#[test]
fn an_anchor_name_may_not_be_used_again() {
    // serde_yaml resolves *a to 3 here.
    let text = "vars:\n  x: &a 1\n  y: &a 2\n  z: &b 3\n  w: *a\n";
    assert_eq!(only(text), "3:6 anchor 'a' stands twice, first at line 2");
}

#[test]
fn tags_and_numbers_that_json_lacks_are_told() {
    assert_eq!(only("vars: { a: !foo 1 }"), "1:12 tag !foo is not supported");
    // serde_yaml takes it as the text that it is written as, which harms nobody.
    assert_eq!(decode("vars: { a: !!binary aGk= }").value.unwrap().vars.unwrap().get("a").unwrap().0, "aGk=");
    assert_eq!(only("vars: { a: .nan }"), "1:12 .nan is not a number in JSON, quote it if text is meant");
    assert_eq!(decode("vars: { a: !!str 5, b: !!int 6 }").problems, []);
}

#[test]
fn usual_syntax_mistakes_are_named() {
    for (text, expected) in [
        ("zone: x\nschedule: * * * * *\n", "2:11 quote the cron: schedule: \"* * * * *\""),
        ("schedule: */5 * * * *", "1:11 quote the cron: schedule: \"*/5 * * * *\""),
        ("connections:\n  - * 6 * * *\n", "2:5 quote the cron: - \"* 6 * * *\""),
        ("bik:\n\treportName: x\n", "2:1 a tab is used for indentation, use spaces"),
        ("bik:\n  filters:\n  \tchannel: x\n", "3:3 a tab is used for indentation, use spaces"),
        ("zone: x\n---\nzone: y\n", "2:1 one document per file, here starts a second one"),
        ("zone: a: b\n", "1:7 a value with a colon must be quoted: zone: \"a: b\""),
        ("", "1:1 the file is empty"),
        ("# nothing\n---\n", "1:1 the file is empty"),
        ("zone: @x\n", "1:7 a value that starts with @ must be quoted"),
    ] {
        assert_eq!(only(text), expected, "{text}");
    }
}

#[test]
fn other_syntax_errors_are_told_plainly() {
    for (text, expected) in [
        ("zone: \"abc\n", "1:7 the quote that opens here is never closed"),
        ("a: [1, 2\nb: 3\n", "2:2 a key is not allowed here, is a bracket or a quote above still open?"),
        ("zone: *nobody\n", "1:7 no anchor of this name stands above, quote the value if the * is meant"),
        (" a: 1\nb: 2\n", "2:1 text outside of the document, is the indentation right?"),
        ("zone: 'a' b\n", "1:11 text after the closing quote"),
        ("zone: [a b: }\n", "1:14 expected ',' or ']'"),
        ("connections:\n  - a\n  zone: b\n", "3:3 expected an entry of the list, is the indentation right?"),
        ("bik:\n    appId: x\n  reportName: y\n", "3:3 expected a key, is the indentation right?"),
        ("zone: a\n  schedule: b\n", "2:11 a key is not allowed here, is the indentation right?"),
        ("zone\nschedule: b\n", "2:9 a key is not allowed here, is the indentation right?"),
        ("zone: a\nschedule\n", "2:9 expected ':' after the key"),
        ("bik: {a: b\n", "1:11 expected ',' or '}'"),
        ("vars: {a: [b, c}\n", "1:16 expected ',' or ']'"),
        ("zone: *a b\n", "1:7 no anchor of this name stands above, quote the value if the * is meant"),
        ("title: 100%\nzone: %x\n", "2:7 a value that starts with % must be quoted"),
        ("zone: - a\n", "1:7 not YAML: block sequence entries are not allowed in this context"),
    ] {
        assert_eq!(only(text), expected, "{text}");
    }
}

#[test]
fn brackets_over_several_lines_keep_their_problems() {
    assert_eq!(only("vars: {\n  a: [\n    1,\n  ],\n}\nzon: x\n"), "6:1 unknown key 'zon', did you mean 'zone'?");
    // Less indented than its key: the marked parser refuses it, serde_yaml does not, and both are heard.
    let told = said("zon: x\nbik:\n  body: {\n}\n");
    assert!(told[0].starts_with("1:1 unknown field `zon`, expected one of"), "{told:?}");
    assert_eq!(told[1..], ["4:1 wrong indentation, is a bracket or a quote above still open?"]);
}

#[test]
fn directives_and_odd_but_valid_yaml_are_harmless() {
    for text in [
        "%YAML 1.2\n---\nzone: a\n",
        "bik: {\n\treportName: x }\n",
        "? zone\n: a\n",
        "!!map {zone: !!str a}\n",
        "\u{feff}zone: a\r\nschedule: b\r\n",
    ] {
        let decoded = decode(text);
        assert_eq!(decoded.problems, [], "{text}");
        assert!(decoded.value.is_some());
    }
}

#[test]
fn the_rest_of_a_wrong_file_is_still_a_value() {
    let decoded = decode(
        "zone: UTC\nwindow: [x]\nbik: { reportNam: x }\nconnections: [a, [b]]\ndeliver:\n- { webhook: u, x: 1 }\n",
    );
    let job = decoded.value.unwrap();
    assert_eq!(
        job,
        Job {
            zone: Some("UTC".into()),
            deliver: Some(vec![Notice { webhook: Some("u".into()), email: None }]),
            ..Job::default()
        }
    );
    let removed: Vec<_> = decoded.removed.iter().map(ToString::to_string).collect();
    assert!(
        ["window", "bik", "connections", "deliver[0].x"].iter().all(|path| removed.contains(&(*path).to_owned())),
        "{removed:?}"
    );
    let later = Finding::error(Path::root().key("deliver").index(0).key("webhook"), "no https");
    assert_eq!(decoded.source.locate(&later).line, 6);
}

#[test]
fn problems_come_in_the_order_of_the_file_and_end_somewhere() {
    let mut text = (0..500).map(|n| format!("unknown{n}: 1\n")).collect::<Vec<_>>().concat();
    text.push_str("zone: []\n");
    let decoded = decode(&text);
    assert_eq!(decoded.problems.len(), 101);
    assert!(decoded.problems.is_sorted_by_key(|problem| problem.line));
    assert_eq!(decoded.problems[100].message, "more problems follow, the first 100 are shown");
}

#[test]
fn benign_aliases_work_on_both_paths() {
    let text = "bik: &b\n  reportName: x\n  filters: &f { channel: web }\n  body: *f\nvars:\n  copy: *b\n";
    assert!(decode(text).problems.is_empty() || decode(text).value.is_none());
    let wrong = decode("bik:\n  reportName: x\n  filters: &f { channel: web }\n  body: *f\nzon: x\n");
    let job = wrong.value.unwrap();
    assert_eq!(wrong.problems.len(), 1);
    assert_eq!(job.bik.as_ref().unwrap().filters, Some(Filters { channel: Some("web".into()), group: None }));
    assert_eq!(job.bik.unwrap().body.unwrap().0.to_string(), r#"{"channel":"web"}"#);
}

#[test]
fn windows_and_dates_are_what_the_file_says() {
    assert_eq!(decode("window: yesterday").value.unwrap().window, Some(Window::Word("yesterday".into())));
    assert!(matches!(
        decode("window: {from: 2026-03-01, to: 2026-03-31}").value.unwrap().window,
        Some(Window::Fixed(_))
    ));
}

#[test]
fn the_schema_is_of_the_draft_that_editors_know() {
    let schema = Decoder::<Job>::schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn one_decoder_serves_many_threads() {
    let decoder = Decoder::<Job>::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert!(decoder.decode("g", GOOD.as_bytes()).problems.is_empty());
                    assert_eq!(decoder.decode("b", b"zon: x").problems.len(), 1);
                }
            });
        }
    });
}
