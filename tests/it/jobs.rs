//! The example jobs of `jobs/`: what a newcomer reads first must be right, explained, and must run.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Shop, offline, repository};

fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(repository("jobs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_example_job_validates_strictly_without_a_config_file() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = repository("jobs");
    let ran = offline(folder.path(), &["validate", "--strict", "--jobs", jobs.to_str().unwrap()]).expect(0);
    let count = files().len();
    assert_eq!(ran.stdout, format!("{count} job files, {count} series: 0 errors, 0 warnings\n"), "{}", ran.stderr);
}

#[test]
fn every_example_job_agrees_with_the_json_schema_that_the_program_prints() {
    let folder = tempfile::tempdir().unwrap();
    let schema: Value = serde_json::from_str(&offline(folder.path(), &["schema", "job"]).expect(0).stdout).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    for path in files() {
        let mut job: Value = serde_yaml::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let problems: Vec<String> =
            validator.iter_errors(&job).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(problems.is_empty(), "{}: {problems:?}", path.display());
        job["chanel"] = "whatsapp".into();
        assert!(!validator.is_valid(&job), "{}: an unknown key is let through", path.display());
    }
}

#[test]
fn every_example_job_opens_with_what_it_is_for_and_says_whose_calendar_counts() {
    for path in files() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.lines().next().is_some_and(|line| line.starts_with("# ") && line.len() > 20),
            "{}",
            path.display()
        );
        for key in ["description:", "connections:", "zone:", "window:"] {
            assert!(text.lines().any(|line| line.starts_with(key)), "{}: {key}", path.display());
        }
    }
}

/// The accounts of the demo, at this test's vendors.
fn two_shops(shop: &Shop) -> String {
    let mut config = String::from("connections:\n");
    for name in ["default", "second-shop"] {
        config += &format!(
            "  {name}:\n    bik: {{ base_url: \"{}\", key: env:BIK_KEY, secret: env:BIK_SECRET, requests_per_second: 1000 }}\n    \
             livechat: {{ base_url: \"{}\", token: env:LIVECHAT, requests_per_second: 1000 }}\n    \
             jaicp: {{ base_url: \"{}\", token: env:JAICP, requests_per_second: 1000, max_in_flight: 8 }}\n",
            shop.sandbox.bik_base_url(),
            shop.sandbox.livechat_base_url(),
            shop.sandbox.jaicp_base_url(),
        );
    }
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_job_ends_in_the_archive_at_every_shop() {
    let shop = Shop::open().await;
    std::fs::write(shop.folder.path().join("reportd.yaml"), two_shops(&shop)).unwrap();
    let jobs = repository("jobs");
    let mut series = BTreeSet::new();
    for path in files() {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let at = "2025-11-10T09:10:00+05:30";
        let mut args = vec!["run-job", name, "--at", at, "--mail", "--format", "json"];
        args.extend(["--jobs", jobs.to_str().unwrap()]);
        let ran = shop.run(&args).await;
        assert!(!ran.stderr.contains("on two pages"), "{}", ran.stderr);
        for run in ran.expect(0).json() {
            assert!(run["state"] == "archived" || run["state"] == "empty", "{run}");
            assert!(run["artifacts"].as_array().is_some_and(|files| !files.is_empty()), "{run}");
            series.insert(format!("{}@{}", run["job"].as_str().unwrap(), run["connection"].as_str().unwrap()));
        }
    }
    assert_eq!(series.len(), files().len() + 1, "one job runs for both shops: {series:?}");
    assert!(series.contains("livechat-ratings@second-shop"));
    shop.run(&["archive", "verify"]).await.expect(0);
}
