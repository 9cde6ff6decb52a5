//! The house rules that a machine can hold: which way a `use` points, who owns what, how long a file is.

use std::path::{Path, PathBuf};

fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    let is_test = |(name, _): &(String, String)| {
        name.contains("tests/") || name.ends_with("_tests.rs") || name.ends_with("fixture.rs")
    };
    files.into_iter().map(read).filter(|file| !is_test(file)).collect()
}

/// The text before the unit tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

fn module(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or(file)
}

#[test]
fn uses_point_one_way() {
    // module -> what it must not know.
    let forbidden: [(&str, &[&str]); 17] = [
        (
            "yaml",
            &["job", "settings", "request", "run", "vendor", "archive", "worker", "cli", "app", "db", "connection"],
        ),
        ("request", &["job", "settings", "run", "vendor", "archive", "worker", "cli", "app", "db", "artifact"]),
        ("job", &["settings", "run", "vendor", "archive", "worker", "cli", "app", "db", "artifact", "sandbox"]),
        ("connection", &["job", "settings", "run", "vendor", "archive", "worker", "cli", "app", "db", "artifact"]),
        ("artifact", &["job", "settings", "run", "vendor", "archive", "worker", "cli", "app", "db", "request"]),
        ("archive", &["job", "settings", "run", "vendor", "worker", "cli", "app", "db"]),
        ("run", &["job", "settings", "vendor", "archive", "worker", "cli", "app", "db", "artifact", "sandbox"]),
        ("vendor", &["job", "run::store", "archive", "worker", "cli", "app", "db", "sandbox"]),
        ("delivery", &["job", "settings", "run::store", "archive", "worker", "cli", "app", "db", "service", "sandbox"]),
        ("plan", &["settings", "run", "vendor", "archive", "worker", "cli", "app", "db"]),
        ("fire", &["settings", "run", "vendor", "archive", "worker", "cli", "app", "db", "service"]),
        ("job_set", &["settings", "vendor", "archive", "worker", "cli", "app", "db", "service"]),
        ("worker", &["cli", "app", "job", "sandbox", "service"]),
        ("coverage", &["settings", "vendor", "cli", "app", "db", "sandbox", "service"]),
        ("service", &["cli", "doctor", "sandbox"]),
        ("doctor", &["cli", "service", "sandbox"]),
        ("sandbox", &["job", "settings", "run", "vendor", "archive", "worker", "cli", "app", "db", "request"]),
    ];
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (_, banned) in forbidden.iter().filter(|(m, _)| *m == module(&file)) {
            for name in *banned {
                let path = format!("crate::{name}::");
                if code(&text).lines().any(|line| !line.trim_start().starts_with("//") && line.contains(&path)) {
                    wrong.push(format!("{file} knows {name}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_thing_outside_has_one_owner() {
    let owners: [(&str, &[&str]); 7] = [
        ("reqwest::", &["vendor/", "delivery/", "app.rs"]),
        ("lettre::", &["delivery/email/"]),
        ("sqlx::", &["run/", "db/", "worker/rebuild.rs"]),
        ("object_store::", &["archive/", "delivery/landing"]),
        ("std::env::var", &["settings/mod.rs"]),
        ("Utc::now()", &["clock.rs"]),
        ("saphyr_parser::", &["yaml/"]),
    ];
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (thing, allowed) in owners {
            let uses = code(&text).lines().any(|line| !line.trim_start().starts_with("//") && line.contains(thing));
            if uses && !allowed.iter().any(|owner| file.starts_with(owner)) {
                wrong.push(format!("{file} uses {thing}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let lines = code(&text).lines().count();
        if lines > 400 {
            wrong.push(format!("{file} has {lines} lines before its tests"));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{file} does not open with what it is for"));
        }
        if code(&text).contains(".unwrap()") || code(&text).contains("TODO") || code(&text).contains("panic!(") {
            wrong.push(format!("{file} has an unwrap, a panic or a TODO outside its tests"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
