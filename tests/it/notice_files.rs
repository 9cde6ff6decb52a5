//! Notices in job files and in the config's defaults: what is refused when the file is loaded, and where the finger points.

use serde_json::Value;

use crate::harness::offline;

const CONFIG: &str = "connections:\n  north:\n    zone: UTC\n    vars: { lead: lead@example.com, leads: [a@example.com, b@example.com], limit: 7 }\n    \
    bik: { key: env:K, secret: env:S, bikCustomerId: \"77\" }\n    livechat: { token: env:L }\n  \
    east:\n    zone: UTC\n    vars: { lead: east@example.com }\n    livechat: { token: env:L }\n";

/// What `validate` says of one job with these lines under `deliver:` (or another list), for `north` alone.
fn problems(config: &str, job: &str) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("reportd.yaml"), config).unwrap();
    std::fs::create_dir(folder.path().join("jobs")).unwrap();
    std::fs::write(folder.path().join("jobs/x.yaml"), job).unwrap();
    offline(folder.path(), &["validate", "--format", "json"]).json()
}

fn job(lines: &str) -> String {
    format!("connections: [north]\nwindow: yesterday\nlivechat: {{ report: chats/ratings }}\n{lines}")
}

#[track_caller]
fn refused(lines: &str, line: u64, column: u64, message: &str) {
    let found = problems(CONFIG, &job(lines));
    let hit = found.iter().any(|p| {
        p["severity"] == "error"
            && (p["line"].as_u64(), p["column"].as_u64()) == (Some(line), Some(column))
            && p["message"].as_str().unwrap().contains(message)
    });
    assert!(hit, "{lines}\nno '{message}' at {line}:{column} in {found:#?}");
}

#[track_caller]
fn taken(lines: &str) {
    let found = problems(CONFIG, &job(lines));
    assert!(found.iter().all(|p| p["severity"] != "error"), "{lines}\n{found:#?}");
}

#[test]
fn every_kind_of_notice_is_taken_as_the_readme_writes_it() {
    taken(
        "deliver:\n  - email: lead@example.com\n  - email: { to: \"{var.leads}\", subject: \"{job} {window.label} {run}\", attach: true }\n",
    );
    taken("deliver:\n  - email: { to: [\"Lead <lead@example.com>\", \"{var.leads}\"] }\n");
    taken(
        "alert:\n  - webhook: { url: \"https://h.example.com/a\", keys: [env:A, file:b] }\n  - webhook: { url: env:URL, keys: [env:A] }\n",
    );
    taken("deliver:\n  - on: [schedule, manual, fill]\n    file: { url: \"s3://bucket/{job}/{window.label}.json\" }\n");
    taken(
        "alert:\n  - bik_ticket: { channel: tasks, taskTitle: \"{failure}\" }\n  - bik_event: { email: a@example.com, eventName: x, eventProperties: { job: \"{job}\", n: 1 } }\n",
    );
    taken("deliver: []\nalert: []\nheartbeat: env:PING\n");
}

#[test]
fn an_entry_has_one_kind_and_its_own_keys() {
    refused(
        "deliver:\n  - { email: a@example.com, webhook: { url: \"https://x.example\", keys: [env:K] } }\n",
        5,
        5,
        "exactly one of",
    );
    refused("deliver:\n  - on: [schedule]\n", 5, 5, "exactly one of");
    refused("deliver:\n  - { on: [], email: a@example.com }\n", 5, 11, "on is empty");
    refused("deliver:\n  - emial: a@example.com\n", 5, 5, "did you mean 'email'?");
    refused("alert:\n  - file: { url: out/x.csv }\n", 5, 5, "there is none to an alert");
    refused("heartbeat: https://hc-ping.com/uuid\n", 4, 12, "env:NAME or file:PATH");
}

#[test]
fn placeholders_variables_and_addresses_are_checked_with_their_place() {
    refused(
        "deliver:\n  - email: { to: a@example.com, subject: \"{windw.label}\" }\n",
        5,
        42,
        "did you mean '{window.label}'?",
    );
    refused("deliver:\n  - email: \"{var.laed}\"\n", 5, 12, "did you mean '{var.lead}'?");
    refused("deliver:\n  - email: { to: [not-an-address] }\n", 5, 18, "is not an e-mail address");
    refused("deliver:\n  - email: { to: \"{var.limit}\" }\n", 5, 5, "does not fit");
    refused("deliver:\n  - email: { to: \"{job}\" }\n", 5, 18, "is not an e-mail address");
    refused("deliver:\n  - email: { to: a@example.com, subject: \"x\\0y\" }\n", 5, 5, "control character");
    refused("deliver:\n  - email: { subject: x }\n", 5, 12, "at least one address");
    // Both connections are checked, each with its own variables.
    let both = "connections: [north, east]\nwindow: yesterday\nlivechat: { report: chats/ratings }\ndeliver:\n  - email: { to: \"{var.leads}\" }\n";
    let found = problems(CONFIG, both);
    assert!(
        found.iter().any(|p| p["message"].as_str().unwrap().contains("connection east has no such var")),
        "{found:?}"
    );
}

#[test]
fn a_ticket_has_what_its_channel_and_assignment_need_and_an_account_to_go_through() {
    let ticket = |fields: &str| format!("alert:\n  - bik_ticket: {{ {fields} }}\n");
    refused(&ticket("bikCustomerId: \"1\""), 5, 17, "bik_ticket needs 'channel'");
    refused(&ticket("channel: sms"), 5, 28, "unknown channel 'SMS'");
    refused(&ticket("channel: tasks"), 5, 17, "channel TASKS needs 'taskTitle'");
    refused(&ticket("channel: EMAIL, brandEmail: a@example.com"), 5, 17, "needs 'customerEmail'");
    refused(&ticket("channel: whatsapp, brandPhoneNumber: \"+1\""), 5, 17, "needs 'customerPhoneNumber'");
    refused(&ticket("channel: tasks, taskTitle: x, assignmentType: SPECIFIC_TEAM"), 5, 17, "needs 'teamId'");
    refused(
        &ticket("channel: tasks, taskTitle: x, assignmentType: SPECIFIC_AGNT"),
        5,
        65,
        "did you mean 'SPECIFIC_AGENT'?",
    );
    refused(&ticket("channel: tasks, taskTitle: \" \""), 5, 46, "taskTitle is empty");
    let east = "connections: [east]\nwindow: yesterday\nlivechat: { report: chats/ratings }\nalert:\n  - bik_ticket: { channel: tasks, taskTitle: x, bikCustomerId: \"1\" }\n";
    let found = problems(CONFIG, east);
    assert!(found.iter().any(|p| p["message"] == "bik_ticket: connection east has no bik account"), "{found:?}");
}

#[test]
fn an_event_has_somebody_properties_and_a_date_only_with_its_flag() {
    let event = |fields: &str| format!("alert:\n  - bik_event: {{ {fields} }}\n");
    refused(&event("eventName: x, eventProperties: {}"), 5, 16, "needs email or phoneNumber");
    refused(&event("email: a@example.com, eventProperties: {}"), 5, 16, "needs 'eventName'");
    refused(&event("email: a@example.com, eventName: x"), 5, 16, "needs 'eventProperties'");
    refused(&event("email: a@example.com, eventName: x, eventProperties: { a: [1] }"), 5, 76, "takes no list");
    refused(
        &event("email: a@example.com, eventName: x, eventProperties: {}, createdAt: \"2026-03-01T00:00:00Z\""),
        5,
        86,
        "set both, or neither",
    );
    taken(&event(
        "email: a@example.com, eventName: x, eventProperties: {}, createdAt: \"{window.end}\", isMigration: true",
    ));
}

#[test]
fn webhooks_and_copies_name_secrets_and_places_that_this_version_knows() {
    let hook = |fields: &str| format!("deliver:\n  - webhook: {{ {fields} }}\n");
    refused(&hook("url: \"https://x.example\""), 5, 14, "needs 'keys'");
    refused(&hook("keys: [env:K]"), 5, 14, "needs 'url'");
    refused(&hook("url: ftp://x, keys: [env:K]"), 5, 21, "https://");
    refused(&hook("url: \"https://x.example\", keys: [whsec_abc]"), 5, 49, "a secret in clear");
    refused("deliver:\n  - file: { url: \"gs://bucket/x\" }\n", 5, 18, "copies to a path or to s3://");
    refused("deliver:\n  - file: { url: \"s3://{job}/x\" }\n", 5, 18, "placeholders in the key only");
    refused("deliver:\n  - file: { url: \"s3://KEY:SECRET@bucket/x\" }\n", 5, 18, "a secret in clear");
    refused(&hook("url: \"https://user:hunter2@x.example/\", keys: [env:K]"), 5, 21, "a secret in clear");
    refused("deliver:\n  - file: {}\n", 5, 11, "needs 'url'");
}

#[test]
fn a_signing_key_in_clear_is_shown_by_no_problem_whatever_is_wrong_with_it() {
    for keys in [
        "keys: hunter2x",
        "keys: { a: hunter2x }",
        "keys: [[hunter2x]]",
        "key: hunter2x",
        "secret: hunter2x",
        "token: hunter2x",
    ] {
        for form in [
            format!("deliver:\n  - webhook: {{ url: \"https://x.example\", {keys} }}\n"),
            format!("deliver:\n  - webhook:\n      url: https://x.example\n      {keys}\n"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("reportd.yaml"), CONFIG).unwrap();
            std::fs::create_dir(folder.path().join("jobs")).unwrap();
            std::fs::write(folder.path().join("jobs/x.yaml"), job(&form)).unwrap();
            let ran = offline(folder.path(), &["validate"]).expect(2);
            assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("hunter2x"), "{form}\n{}", ran.stdout);
        }
    }
}

#[test]
fn what_a_job_inherits_from_defaults_is_checked_for_its_connections_too() {
    let config = format!("{CONFIG}defaults:\n  alert: [{{ email: \"{{var.ops}}\" }}]\n");
    let found = problems(&config, &job(""));
    let text = found[0]["message"].as_str().unwrap();
    assert!(text.starts_with("defaults.alert of the config: unknown variable '{var.ops}'"), "{found:?}");
    assert!(problems(&config, &job("alert: []\n")).is_empty());
    let wrong =
        format!("{CONFIG}defaults:\n  deliver: [{{ email: {{ to: a@example.com, subject: \"{{nope}}\" }} }}]\n");
    let found = problems(&wrong, &job(""));
    assert!(found.iter().any(|p| p["file"] == "reportd.yaml" && p["line"] == 12), "{found:?}");
}
