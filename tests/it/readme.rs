//! The README is held to what the program does: its YAML compiles, and it names every key, command, option, state and
//! failure class that there is.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::harness::{offline, repository};

fn text() -> String {
    std::fs::read_to_string(repository("README.md")).unwrap()
}

/// The YAML blocks, by their first line: `# reportd.yaml` or `# jobs/NAME.yaml`.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("```yaml\n") {
        let (block, after) = after.split_once("```").unwrap();
        let name = block.lines().next().unwrap().strip_prefix("# ").expect("a block opens with the name of its file");
        blocks.push((name.to_owned(), block.to_owned()));
        rest = after;
    }
    blocks
}

/// Everything that stands as code: fenced blocks and `spans`.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            out += line;
        } else {
            line.split('`').skip(1).step_by(2).for_each(|span| {
                out += span;
                out.push(' ');
            });
        }
        out.push('\n');
    }
    out
}

fn words(code: &str) -> BTreeSet<&str> {
    code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').collect()
}

#[test]
fn every_yaml_block_of_the_readme_compiles_without_a_warning() {
    let text = text();
    let blocks = blocks(&text);
    let configs: Vec<&str> = blocks.iter().filter(|(n, _)| n == "reportd.yaml").map(|(_, b)| b.as_str()).collect();
    let jobs: Vec<&(String, String)> = blocks.iter().filter(|(n, _)| n != "reportd.yaml").collect();
    assert!(configs.len() >= 2 && jobs.len() >= 2, "{blocks:?}");
    for (i, config) in configs.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("reportd.yaml"), config).unwrap();
        std::fs::create_dir(folder.path().join("jobs")).unwrap();
        // The first config is the one that the jobs are written for.
        for (name, job) in jobs.iter().filter(|_| i == 0) {
            assert_eq!(Path::new(name).parent(), Some(Path::new("jobs")), "{name}");
            std::fs::write(folder.path().join(name), job).unwrap();
        }
        let ran = offline(folder.path(), &["validate", "--strict"]).expect(0);
        let files = if i == 0 { jobs.len() } else { 0 };
        assert!(ran.stdout.starts_with(&format!("{files} job files, ")), "{}", ran.stdout);
        if i == 0 {
            let planned = offline(folder.path(), &["plan", "--format", "json"]).expect(0).json();
            assert!(
                planned.len() > jobs.len() && planned.iter().all(|line| line["request"].is_object()),
                "{planned:?}"
            );
        }
    }
}

fn keys(schema: &Value, into: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            for (name, value) in map {
                if name == "properties" {
                    into.extend(value.as_object().unwrap().keys().cloned());
                }
                keys(value, into);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| keys(value, into)),
        _ => {}
    }
}

#[test]
fn every_key_of_both_schemas_stands_in_the_readme() {
    let (text, folder) = (text(), tempfile::tempdir().unwrap());
    let code = code(&text);
    let words = words(&code);
    for of in ["job", "config"] {
        let schema: Value = serde_json::from_str(&offline(folder.path(), &["schema", of]).expect(0).stdout).unwrap();
        let mut all = BTreeSet::new();
        keys(&schema, &mut all);
        assert!(all.len() > 40, "{all:?}");
        let missing: Vec<&String> = all.iter().filter(|key| !words.contains(key.as_str())).collect();
        assert!(missing.is_empty(), "{of}: the README does not name {missing:?}");
    }
}

/// The commands of a help text.
fn commands(help: &str) -> Vec<String> {
    let section = help.split("\nCommands:\n").nth(1).unwrap_or("").lines().take_while(|line| !line.is_empty());
    let first = section.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|word| !word.is_empty());
    first.map(str::to_owned).collect()
}

/// The long options of a help text, with their dashes.
fn options(help: &str) -> Vec<String> {
    let section = help.split("\nOptions:\n").nth(1).unwrap_or("").lines().map(str::trim_start);
    let first = section.filter(|line| line.starts_with("--")).filter_map(|line| line.split([' ', '=']).next());
    first.map(str::to_owned).collect()
}

#[test]
fn every_command_and_option_stands_in_the_readme_and_no_other() {
    let (text, folder) = (text(), tempfile::tempdir().unwrap());
    let code = code(&text);
    let words = words(&code);
    let help = |args: &[&str]| offline(folder.path(), &[args, &["--help"]].concat()).expect(0).stdout;
    let all = commands(&help(&[]));
    assert!(all.len() >= 15, "{all:?}");
    assert!(options(&help(&["run-job"])).len() >= 14);
    let section = text.split("\n## 4. Commands").nth(1).unwrap().split("\n## ").next().unwrap();
    let table: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("| `")).collect();
    let documented: BTreeSet<&str> =
        table.iter().filter_map(|row| row.split([' ', '`']).next()).filter(|word| !word.is_empty()).collect();
    assert_eq!(documented, all.iter().map(String::as_str).collect(), "the table of section 4");
    for command in &all {
        let own = help(&[command]);
        for option in options(&own) {
            assert!(words.contains(option.as_str()), "{command} {option}");
        }
        for verb in commands(&own) {
            assert!(code.contains(&format!("{command} {verb}")), "{command} {verb}");
            for option in options(&help(&[command, &verb])) {
                assert!(words.contains(option.as_str()), "{command} {verb} {option}");
            }
        }
    }
}

#[test]
fn every_state_failure_class_and_window_word_stands_in_the_readme() {
    use reportd::run::{FailureClass as F, State};
    let text = text();
    for state in State::ALL {
        assert!(text.contains(&format!("\n| `{state}` |")), "{state}");
    }
    for state in reportd::coverage::cell::State::ALL {
        let row =
            text.lines().find(|line| line.contains(&format!(" | `{state}` | "))).unwrap_or_else(|| panic!("{state}"));
        assert_eq!(row.contains("| fine |"), state.is_held(), "{row}");
        assert_eq!(row.ends_with("| fetches it |"), state.is_gap(), "{row}");
    }
    let classes = [
        F::Refused,
        F::VendorFailed,
        F::Gone,
        F::Deadline,
        F::GaveUp,
        F::Protocol,
        F::UnknownCreate,
        F::CrashLoop,
        F::GivenUp,
    ];
    for class in classes {
        assert!(text.contains(&format!("\n| `{}` |", class.as_str())), "{class:?}");
    }
    // The program's own list, from the error for a word that is none.
    let folder = tempfile::tempdir().unwrap();
    let error = offline(folder.path(), &["run-job", "x", "--window", "never"]).expect(2).stderr;
    let list = error.split("one of ").nth(1).unwrap().lines().next().unwrap();
    let found: Vec<&str> = list.split([',', ' ']).filter(|word| word.contains('_') || *word == "today").collect();
    assert!(found.len() >= 7, "{error}");
    for word in found.iter().filter(|word| **word != "last_N_days") {
        assert!(text.contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn every_place_that_the_readme_names_exists() {
    let (text, mut count) = (text(), 0);
    let code = code(&text);
    for word in code.split_whitespace().filter(|w| w.starts_with("src/") || w.starts_with("tests/")) {
        assert!(repository(word).exists(), "{word}");
        count += 1;
    }
    assert!(count > 10, "{count}");
    let number = text.split("`jobs/` has ").nth(1).unwrap().split(' ').next().unwrap();
    let files = std::fs::read_dir(repository("jobs")).unwrap().count();
    assert_eq!((number, files), ("sixteen", 16), "the README counts the examples");
}
