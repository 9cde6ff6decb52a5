//! The database's own guarantees: constraints, fences, the append-only history, indexes that serve, migrations.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reportd::request::Seen;
use reportd::run::state::{Event, State};
use reportd::run::store::claim::{Claimed, Identity};
use reportd::run::store::make::{NewRun, Opened, Second, Wants};
use reportd::run::store::permit::{Admission, Intent, Permit};
use reportd::run::store::progress::{Later, Outcome};
use reportd::run::store::query::Filter;
use reportd::run::store::revision::{ArtifactRow, RevisionRow};
use reportd::run::store::{LEASE, RunStore, StoreError};
use reportd::run::{FailureClass, Lease, Run, Trigger, Who};
use serde_json::json;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use crate::harness::{Shop, run};
use crate::verbs::{DAY, JAICP, LEASES, LIVECHAT, until};

pub const HERE: &str = "http://127.0.0.1:1";
pub const PERMIT: Permit<'_> =
    Permit { connection: "north", vendor: "jaicp", requests_per_second: 1e6, max_in_flight: 100, secret: "s" };
pub const IDENTITY: Identity<'_> = Identity { base_url: HERE, account: "a" };

pub fn instant(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// A run of a window that starts on this day.
pub fn new_run(day: u32) -> NewRun {
    let start = instant("2025-03-01T00:00:00Z") + chrono::TimeDelta::days(day.into());
    NewRun {
        job: "report".into(),
        connection: "north".into(),
        vendor: "jaicp",
        trigger: Trigger::Manual,
        window_start: start,
        window_end: start + chrono::TimeDelta::days(1),
        window_zone: "UTC",
        window_label: start.format("%Y-%m-%d").to_string(),
        provisional: false,
        fire_at: start,
        not_before: None,
        request: json!({ "content_hash": "asked", "emails": [] }),
        quiet: true,
        second: Second::Harmless,
        wants: Wants::Report,
        base_url: HERE.into(),
        notices: None,
        account: "a".into(),
    }
}

/// The intent of a create.
fn creates(attempt: Uuid) -> Intent<'static> {
    Intent { attempt, account: "a", creates: true, yields: false }
}

pub fn seen(status: &str) -> Seen {
    Seen { status: status.into(), ..Seen::default() }
}

pub fn run_of(opened: Opened) -> Run {
    match opened {
        Opened::Made(run, _) | Opened::Attached(run) => run,
        Opened::Held(row) => panic!("{row:?} is held"),
        Opened::LeftAlone(doubt) => panic!("{doubt:?}"),
    }
}

/// A queued run, claimed.
pub async fn claimed(store: &RunStore, day: u32) -> Claimed {
    let run = run_of(store.open(&new_run(day)).await.unwrap());
    store.claim(run.id, &IDENTITY).await.unwrap().expect("a new run is due")
}

/// Brings a claimed run to `submitting`; the attempt's id.
pub async fn submitting(store: &RunStore, lease: &Lease) -> Uuid {
    let attempt = Uuid::new_v4();
    assert_eq!(store.intend(lease, &PERMIT, creates(attempt)).await.unwrap(), Admission::Now);
    attempt
}

/// Every named constraint, with a statement that only it can refuse. `q` is a queued run, `f` a failed one that has a task,
/// a revision and an artifact.
const ILLEGAL: &[(&str, &str)] = &[
    ("instance_pkey", "INSERT INTO instance DEFAULT VALUES"),
    ("instance_has_one_row", "INSERT INTO instance (only_row) VALUES (false)"),
    (
        "series_pkey",
        "INSERT INTO series (id, job, connection, vendor) OVERRIDING SYSTEM VALUE SELECT id, 'x', 'x', 'bik' FROM series",
    ),
    ("series_name_once", "INSERT INTO series (job, connection, vendor) SELECT job, connection, vendor FROM series"),
    ("series_job_is_a_name", "UPDATE series SET job = '../etc'"),
    ("series_connection_is_a_name", "UPDATE series SET connection = 'North'"),
    ("series_vendor_known", "UPDATE series SET vendor = 'zendesk'"),
    ("series_cursor_iff_seen", "UPDATE series SET cursor_at = now() WHERE job = 'f'"),
    (
        "series_cursor_iff_seen",
        "UPDATE series SET first_seen_at = NULL, in_force = false, next_at = NULL WHERE job = 'q'",
    ),
    ("series_in_force_was_seen", "UPDATE series SET in_force = true WHERE job = 'f'"),
    ("series_next_after_cursor", "UPDATE series SET next_at = now() WHERE job = 'f'"),
    ("series_next_after_cursor", "UPDATE series SET next_at = cursor_at WHERE job = 'q'"),
    ("series_next_after_cursor", "UPDATE series SET in_force = false WHERE job = 'q'"),
    ("job_set_pkey", "INSERT INTO job_set DEFAULT VALUES"),
    ("job_set_has_one_row", "INSERT INTO job_set (only_row) VALUES (false)"),
    ("job_files_pkey", "INSERT INTO job_files SELECT * FROM job_files"),
    ("job_files_job_is_a_name", "UPDATE job_files SET job = '../etc'"),
    ("job_files_sha256_is_hex", "UPDATE job_files SET sha256 = 'none'"),
    ("gone_files_pkey", "INSERT INTO gone_files SELECT * FROM gone_files"),
    ("former_names_pkey", "INSERT INTO former_names SELECT * FROM former_names"),
    ("former_names_differ", "UPDATE former_names SET job = former"),
    ("series_rules_pkey", "INSERT INTO series_rules SELECT * FROM series_rules"),
    ("series_rules_series_fkey", "UPDATE series_rules SET series_id = 0"),
    ("series_pauses_pkey", "INSERT INTO series_pauses SELECT * FROM series_pauses WHERE resumed_at IS NOT NULL"),
    ("series_pauses_series_fkey", "UPDATE series_pauses SET series_id = 0 WHERE resumed_at IS NOT NULL"),
    ("series_pauses_resumed_iff_by", "UPDATE series_pauses SET resumed_by = 'x' WHERE resumed_at IS NULL"),
    ("series_pauses_resumed_iff_by", "UPDATE series_pauses SET resumed_by = NULL WHERE resumed_at IS NOT NULL"),
    (
        "series_pauses_resumed_after",
        "UPDATE series_pauses SET resumed_at = paused_at - interval '1 s' WHERE resumed_at IS NOT NULL",
    ),
    ("fires_pkey", "INSERT INTO fires SELECT * FROM fires"),
    ("fires_series_fkey", "UPDATE fires SET series_id = 0"),
    ("fires_outcome_known", "UPDATE fires SET outcome = 'forgotten'"),
    ("fires_fired_has_a_run", "UPDATE fires SET run_id = NULL"),
    ("fires_window_whole", "UPDATE fires SET window_end = NULL"),
    ("fires_window_not_empty", "UPDATE fires SET window_end = window_start"),
    ("replicas_pkey", "INSERT INTO replicas SELECT * FROM replicas"),
    ("connections_pkey", "INSERT INTO connections (connection, vendor) SELECT connection, vendor FROM connections"),
    ("connections_vendor_known", "UPDATE connections SET vendor = 'zendesk'"),
    ("connections_breaker_open_iff_reason", "UPDATE connections SET breaker_open = true"),
    ("connections_breaker_open_iff_reason", "UPDATE connections SET breaker_reason = 'left over'"),
    (
        "connections_breaker_open_iff_reason",
        "UPDATE connections SET breaker_open = true, breaker_reason = 'x', breaker_opened_at = now()",
    ),
    ("runs_pkey", "INSERT INTO runs SELECT * FROM runs WHERE job = 'f'"),
    ("runs_series_fkey", "UPDATE runs SET series_id = 0 WHERE job = 'q'"),
    ("runs_vendor_known", "UPDATE runs SET vendor = 'zendesk' WHERE job = 'q'"),
    ("runs_trigger_known", "UPDATE runs SET trigger = 'whim' WHERE job = 'q'"),
    ("runs_state_known", "UPDATE runs SET state = 'lost' WHERE job = 'q'"),
    ("runs_window_not_empty", "UPDATE runs SET window_end = window_start WHERE job = 'q'"),
    ("runs_finished_iff_terminal", "UPDATE runs SET finished_at = now() WHERE job = 'q'"),
    ("runs_finished_iff_terminal", "UPDATE runs SET finished_at = NULL WHERE job = 'f'"),
    ("runs_finished_iff_terminal", "UPDATE runs SET state = 'cancelled' WHERE job = 'q'"),
    ("runs_failure_iff_failed_or_held", "UPDATE runs SET failure_class = 'x', failure = 'x' WHERE job = 'q'"),
    ("runs_failure_iff_failed_or_held", "UPDATE runs SET failure = NULL WHERE job = 'f'"),
    ("runs_failure_iff_failed_or_held", "UPDATE runs SET state = 'held' WHERE job = 'q'"),
    ("runs_submitting_has_an_attempt", "UPDATE runs SET state = 'submitting' WHERE job = 'q'"),
    ("runs_waiting_has_a_ticket", "UPDATE runs SET state = 'waiting' WHERE job = 'q'"),
    ("runs_archived_has_a_revision", "UPDATE runs SET state = 'archived', finished_at = now() WHERE job = 'q'"),
    ("runs_archived_has_a_revision", "UPDATE runs SET state = 'empty', finished_at = now() WHERE job = 'q'"),
    ("runs_lease_whole", "UPDATE runs SET lease_token = gen_random_uuid() WHERE job = 'q'"),
    ("runs_lease_whole", "UPDATE runs SET lease_until = now() WHERE job = 'q'"),
    (
        "runs_only_workable_states_are_leased",
        "UPDATE runs SET lease_token = gen_random_uuid(), lease_until = now() WHERE job = 'f'",
    ),
    ("runs_only_workable_states_are_blocked", "UPDATE runs SET blocked = true WHERE job = 'f'"),
    ("runs_errors_since_iff_errors", "UPDATE runs SET errors = 1 WHERE job = 'q'"),
    ("runs_errors_since_iff_errors", "UPDATE runs SET errors_since = now() WHERE job = 'q'"),
    ("runs_counts_not_negative", "UPDATE runs SET claims = -1 WHERE job = 'q'"),
    ("runs_counts_not_negative", "UPDATE runs SET polls = -1 WHERE job = 'q'"),
    ("runs_counts_not_negative", "UPDATE runs SET polled_s = -1 WHERE job = 'q'"),
    (
        "remote_tasks_pkey",
        "INSERT INTO remote_tasks SELECT (jsonb_populate_record(t, '{\"remote_id\": \"other\"}')).* FROM remote_tasks t",
    ),
    ("remote_tasks_run_fkey", "UPDATE remote_tasks SET run_id = gen_random_uuid()"),
    ("remote_tasks_vendor_makes_tasks", "UPDATE remote_tasks SET vendor = 'livechat'"),
    (
        "remote_tasks_outcome_known",
        "UPDATE remote_tasks SET outcome = 'odd', remote_id = NULL, created_at = NULL, ticket = NULL",
    ),
    ("remote_tasks_created_iff_remote_id", "UPDATE remote_tasks SET remote_id = NULL"),
    ("remote_tasks_created_iff_remote_id", "UPDATE remote_tasks SET outcome = 'unknown'"),
    ("remote_tasks_created_iff_remote_id", "UPDATE remote_tasks SET created_at = NULL"),
    ("remote_tasks_created_iff_remote_id", "UPDATE remote_tasks SET ticket = NULL"),
    (
        "remote_tasks_named_has_an_id",
        "UPDATE remote_tasks SET outcome = 'unknown', remote_id = NULL, created_at = NULL, ticket = NULL, named_by = 'asha'",
    ),
    (
        "remote_tasks_remote_id_once",
        "INSERT INTO remote_tasks SELECT (jsonb_populate_record(t, '{\"attempt_id\": \"00000000-0000-0000-0000-000000000001\"}')).* FROM remote_tasks t",
    ),
    (
        "run_events_pkey",
        "INSERT INTO run_events (id, run_id, kind, who, detail) OVERRIDING SYSTEM VALUE SELECT id, run_id, kind, who, detail FROM run_events",
    ),
    (
        "run_events_run_fkey",
        "INSERT INTO run_events (run_id, kind, who, detail) VALUES (gen_random_uuid(), 'note', 'x', 'x')",
    ),
    (
        "run_events_detail_short",
        "INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'note', 'x', repeat('x', 4001) FROM runs",
    ),
    (
        "revisions_pkey",
        "INSERT INTO revisions SELECT (jsonb_populate_record(r, jsonb_build_object('run_id', gen_random_uuid(), 'manifest_path', 'other'))).* FROM revisions r",
    ),
    (
        "revisions_series_fkey",
        "INSERT INTO revisions SELECT (jsonb_populate_record(r, jsonb_build_object('series_id', 0, 'run_id', gen_random_uuid(), 'manifest_path', 'other'))).* FROM revisions r",
    ),
    (
        "revisions_run_once",
        "INSERT INTO revisions SELECT (jsonb_populate_record(r, '{\"revision\": 2, \"manifest_path\": \"other\"}')).* FROM revisions r",
    ),
    (
        "revisions_manifest_once",
        "INSERT INTO revisions SELECT (jsonb_populate_record(r, jsonb_build_object('revision', 2, 'run_id', gen_random_uuid()))).* FROM revisions r",
    ),
    ("revisions_count_from_one", "UPDATE revisions SET revision = 0"),
    ("revisions_state_known", "UPDATE revisions SET state = 'failed'"),
    ("revisions_window_not_empty", "UPDATE revisions SET window_end = window_start"),
    ("revisions_trigger_known", "UPDATE revisions SET trigger = 'whim'"),
    (
        "artifacts_pkey",
        "INSERT INTO artifacts SELECT (jsonb_populate_record(a, '{\"path\": \"other\"}')).* FROM artifacts a",
    ),
    ("artifacts_revision_fkey", "UPDATE artifacts SET revision = 7"),
    (
        "artifacts_path_once",
        "INSERT INTO artifacts SELECT (jsonb_populate_record(a, '{\"position\": 1}')).* FROM artifacts a",
    ),
    ("artifacts_bytes_not_negative", "UPDATE artifacts SET bytes = -1"),
    ("artifacts_sha256_is_hex", "UPDATE artifacts SET sha256 = upper(sha256)"),
    ("runs_noticed_is_the_state", "UPDATE runs SET noticed = 'archived' WHERE job = 'f'"),
    ("deliveries_pkey", "INSERT INTO deliveries SELECT * FROM deliveries"),
    ("deliveries_kind_known", "UPDATE deliveries SET kind = 'fax'"),
    ("deliveries_cause_known", "UPDATE deliveries SET cause = 'whim'"),
    ("deliveries_state_known", "UPDATE deliveries SET state = 'lost', next_try_at = NULL"),
    ("deliveries_leased_iff_sending", "UPDATE deliveries SET lease_token = gen_random_uuid()"),
    ("deliveries_leased_iff_sending", "UPDATE deliveries SET state = 'sending'"),
    ("deliveries_due_iff_open", "UPDATE deliveries SET next_try_at = NULL"),
    ("deliveries_due_iff_open", "UPDATE deliveries SET state = 'held'"),
    ("deliveries_settled_iff_over", "UPDATE deliveries SET state = 'sent', next_try_at = NULL"),
    ("deliveries_settled_iff_over", "UPDATE deliveries SET settled_at = now(), settled_by = 'x'"),
    ("deliveries_settled_iff_over", "UPDATE deliveries SET state = 'failed', next_try_at = NULL, settled_at = now()"),
    ("deliveries_tries_not_negative", "UPDATE deliveries SET tries = -1"),
    ("delivery_runs_pkey", "INSERT INTO delivery_runs SELECT * FROM delivery_runs"),
    ("delivery_runs_delivery_fkey", "UPDATE delivery_runs SET delivery_id = gen_random_uuid()"),
    ("alerts_pkey", "INSERT INTO alerts SELECT (jsonb_populate_record(a, '{\"key\": \"other\"}')).* FROM alerts a"),
    ("alerts_cause_known", "UPDATE alerts SET cause = 'archived'"),
    ("alerts_closed_after", "UPDATE alerts SET closed_at = opened_at - interval '1 s'"),
    ("alert_members_pkey", "INSERT INTO alert_members SELECT * FROM alert_members"),
    ("alert_members_alert_fkey", "UPDATE alert_members SET alert_id = gen_random_uuid()"),
    ("alert_members_told_fkey", "UPDATE alert_members SET told_by = gen_random_uuid()"),
    ("alert_members_window_whole", "UPDATE alert_members SET window_start = now()"),
    ("alert_members_recovered_was_told", "UPDATE alert_members SET recovered_at = now()"),
    ("alert_members_works_iff_settled", "UPDATE alert_members SET works = true"),
    ("alert_members_works_iff_settled", "UPDATE alert_members SET settled_at = now()"),
    // No constraints but unique indexes, since they hold for some rows only.
    (
        "alerts_one_open",
        "INSERT INTO alerts SELECT (jsonb_populate_record(a, jsonb_build_object('id', gen_random_uuid()))).* FROM alerts a",
    ),
    (
        "series_pauses_one_open",
        "INSERT INTO series_pauses SELECT series_id, now(), paused_by, reason FROM series_pauses WHERE resumed_at IS NULL",
    ),
    (
        "runs_one_live_per_window",
        "INSERT INTO runs SELECT (jsonb_populate_record(r, jsonb_build_object('id', gen_random_uuid()))).* FROM runs r WHERE job = 'q'",
    ),
];

/// Legal rows for every table.
async fn legal_rows(shop: &Shop) {
    let store = shop.store();
    store.open(&NewRun { job: "q".into(), ..new_run(1) }).await.unwrap();
    let run = run_of(store.open(&NewRun { job: "f".into(), ..new_run(2) }).await.unwrap());
    let mut claimed = store.claim(run.id, &IDENTITY).await.unwrap().unwrap();
    let attempt = submitting(&store, &claimed.lease).await;
    store.ticket(attempt, "t-1", &json!({"task_id": "t-1"}), &seen("NEW"), Duration::ZERO).await.unwrap();
    claimed = store.claim(run.id, &IDENTITY).await.unwrap().unwrap();
    store.fail(&claimed.lease, FailureClass::Gone, "gone", None, None).await.unwrap();
    let (mut row, files) = revision(&run, 1);
    // Another run's: this one stays failed.
    row.run_id = Uuid::new_v4();
    assert!(store.adopt(&row, &files).await.unwrap().is_some());
    sqlx::raw_sql(
        "UPDATE series SET in_force = true, first_seen_at = now(), cursor_at = now(), next_at = now() + interval '1 h'
             WHERE job = 'q';
         INSERT INTO job_files (job, file, text, sha256, applied_by) VALUES ('q', 'jobs/q.yaml', '', repeat('a', 64), 'x');
         INSERT INTO gone_files (job, text) VALUES ('g', '');
         INSERT INTO former_names (former, connection, job) VALUES ('g', 'north', 'q');
         INSERT INTO series_rules SELECT id, now(), '{}', 'x' FROM series WHERE job = 'q';
         INSERT INTO series_pauses SELECT id, now() - interval '1 h', 'x', 'x', now(), 'x' FROM series WHERE job = 'q';
         INSERT INTO series_pauses SELECT id, now(), 'x', 'x' FROM series WHERE job = 'q';
         INSERT INTO fires SELECT series_id, fire_at, 'fired', id, window_start, window_end FROM runs WHERE job = 'q';
         INSERT INTO replicas (id, who, version, follows) VALUES (gen_random_uuid(), 'x', '1', false);
         INSERT INTO deliveries (id, kind, cause, connection, notice, about)
             VALUES (gen_random_uuid(), 'email', 'failed', 'north', '{}', '{}');
         INSERT INTO delivery_runs SELECT runs.id, deliveries.id FROM runs, deliveries WHERE runs.job = 'f';
         INSERT INTO alerts (id, key, cause, notice) VALUES (gen_random_uuid(), 'k', 'failed', '{}');
         INSERT INTO alert_members (key, subject, alert_id, happened_at, about) SELECT 'k', 's', id, now(), '{}' FROM alerts",
    )
    .execute(&shop.pool)
    .await
    .unwrap();
}

/// A revision as a run would make it.
pub fn revision(run: &Run, revision: i32) -> (RevisionRow, Vec<ArtifactRow>) {
    let folder = format!("{}/{}/r{revision}", run.job, run.window_label);
    let row = RevisionRow {
        series_id: run.series_id,
        window_label: run.window_label.clone(),
        revision,
        window_start: run.window_start,
        window_end: run.window_end,
        window_zone: run.window_zone.clone(),
        provisional: false,
        state: State::Archived,
        run_id: run.id,
        trigger: run.trigger,
        fire_at: run.fire_at,
        ticket: None,
        content_hash: "c".into(),
        manifest_path: format!("{folder}/manifest.json"),
        manifest_sha256: "a".repeat(64),
        archived_at: run.created_at,
    };
    let file = ArtifactRow {
        path: format!("{folder}/report.csv"),
        media_type: "text/csv".into(),
        bytes: 7,
        sha256: "a".repeat(64),
        derived: false,
        simulated: true,
    };
    (row, vec![file])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_constraint_refuses_the_row_it_is_there_for() {
    let shop = Shop::open().await;
    legal_rows(&shop).await;
    let named: Vec<String> = sqlx::query_scalar(
        "SELECT conname::text FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
         WHERE t.relnamespace = 'public'::regnamespace AND t.relname <> '_sqlx_migrations' AND contype IN ('c', 'f', 'p', 'u', 'x')
         UNION SELECT i.relname::text FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
         JOIN pg_class t ON t.oid = x.indrelid
         WHERE t.relnamespace = 'public'::regnamespace AND t.relname <> '_sqlx_migrations' AND x.indisunique",
    )
    .fetch_all(&shop.pool)
    .await
    .unwrap();
    let tried: BTreeSet<&str> = ILLEGAL.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        named.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        tried,
        "constraints that exist, and cases here"
    );
    for (name, sql) in ILLEGAL {
        // A statement that fails changes nothing, so the next one finds the same legal rows.
        match sqlx::query(AssertSqlSafe(*sql)).execute(&shop.pool).await {
            Err(sqlx::Error::Database(e)) if e.constraint() == Some(name) => {}
            Err(other) => panic!("{name}: {sql}: {other}"),
            Ok(done) => panic!("{name} let {} rows pass: {sql}", done.rows_affected()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_run_cannot_be_rewritten() {
    let shop = Shop::open().await;
    legal_rows(&shop).await;
    let rewritten = sqlx::query("UPDATE run_events SET detail = 'nothing happened'").execute(&shop.pool).await;
    assert!(rewritten.unwrap_err().to_string().contains("append-only"));
}

/// What a write is going to say.
type Written<'a> = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>>;

/// What a worker writes under its lease.
type Write = for<'a> fn(&'a RunStore, &'a Claimed) -> Written<'a>;

fn later<'a>(store: &'a RunStore, claimed: &'a Claimed, event: Event) -> Written<'a> {
    Box::pin(async move {
        let later = Later {
            after: Duration::ZERO,
            note: "later",
            error: true,
            blocked: false,
            idle: Duration::ZERO,
            kind: Some("retry"),
        };
        store.later(&claimed.lease, event, &later, Some(Outcome::Unknown)).await
    })
}

/// Every fenced write of the store, with the state it starts from.
const WRITES: &[(&str, State, Write)] = &[
    ("later", State::Queued, |store, claimed| later(store, claimed, Event::Requeue)),
    ("later", State::Submitting, |store, claimed| later(store, claimed, Event::Requeue)),
    ("later", State::Waiting, |store, claimed| later(store, claimed, Event::Poll)),
    ("polled", State::Waiting, |store, claimed| {
        Box::pin(async { store.polled(&claimed.lease, &seen("RUNNING"), Duration::ZERO, Duration::ZERO).await })
    }),
    ("saw_ready", State::Waiting, |store, claimed| {
        Box::pin(async { store.saw_ready(&claimed.lease, &seen("DONE")).await })
    }),
    ("fail", State::Queued, |store, claimed| {
        Box::pin(store.fail(&claimed.lease, FailureClass::Refused, "no", None, Some(Outcome::Refused)))
    }),
    ("fail", State::Submitting, |store, claimed| {
        Box::pin(store.fail(&claimed.lease, FailureClass::Refused, "no", None, Some(Outcome::Refused)))
    }),
    ("fail", State::Waiting, |store, claimed| {
        Box::pin(async {
            store.fail(&claimed.lease, FailureClass::VendorFailed, "no", Some(&seen("FAILED")), None).await
        })
    }),
    ("park", State::Submitting, |store, claimed| Box::pin(store.park(&claimed.lease, Duration::ZERO, "no secret"))),
    ("disown", State::Waiting, |store, claimed| Box::pin(store.disown(&claimed.lease, "no such ticket"))),
    ("hold", State::Submitting, |store, claimed| Box::pin(store.hold(&claimed.lease, "unknown"))),
    ("intend", State::Queued, |store, claimed| {
        Box::pin(async {
            store.intend(&claimed.lease, &PERMIT, creates(Uuid::new_v4())).await.map(|a| assert_eq!(a, Admission::Now))
        })
    }),
    ("take_revision", State::Waiting, |store, claimed| {
        Box::pin(async { store.take_revision(Some(&claimed.lease), claimed.run.id, true).await.map(drop) })
    }),
    ("archived", State::Waiting, |store, claimed| {
        Box::pin(async {
            let (row, files) = revision(&claimed.run, 1);
            store.archived(Some(&claimed.lease), claimed.run.id, &row, &files).await.map(drop)
        })
    }),
    ("needless", State::Queued, |store, claimed| Box::pin(store.needless(&claimed.lease))),
];

#[test]
fn every_fenced_write_of_the_store_is_in_the_list() {
    let mut fenced = BTreeSet::new();
    let sources = [
        include_str!("../../src/run/store/progress.rs"),
        include_str!("../../src/run/store/claim.rs"),
        include_str!("../../src/run/store/permit.rs"),
        include_str!("../../src/run/store/revision.rs"),
    ];
    for source in sources {
        for function in source.split("pub async fn ").skip(1) {
            let head = function.split_once('{').unwrap().0;
            if head.contains("&Lease") {
                fenced.insert(head.split_once('(').unwrap().0);
            }
        }
    }
    // A lease that is gone cannot be given back: nothing is written and nothing is wrong.
    assert!(fenced.remove("release"));
    assert!(fenced.remove("release_later"));
    assert_eq!(fenced, WRITES.iter().map(|(name, ..)| *name).collect());
}

/// Everything that is stored of a run.
async fn all_of(shop: &Shop, run: Uuid) -> serde_json::Value {
    sqlx::query_scalar(
        "SELECT jsonb_build_object('run', (SELECT to_jsonb(r) FROM runs r WHERE id = $1),
                'tasks', (SELECT jsonb_agg(t ORDER BY attempt_id) FROM remote_tasks t WHERE run_id = $1),
                'events', (SELECT jsonb_agg(e ORDER BY id) FROM run_events e WHERE run_id = $1),
                'revisions', (SELECT jsonb_agg(v) FROM revisions v WHERE run_id = $1))",
    )
    .bind(run)
    .fetch_one(&shop.pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_its_lease_writes_nothing_and_the_one_that_has_it_does() {
    let shop = Shop::open().await;
    let store = shop.store();
    for (n, (name, from, write)) in WRITES.iter().enumerate() {
        let stale = claimed(&store, u32::try_from(n).unwrap()).await;
        let stale = match from {
            State::Queued => stale,
            _ => {
                let attempt = submitting(&store, &stale.lease).await;
                if *from == State::Waiting {
                    let id = format!("t-{n}");
                    store.ticket(attempt, &id, &json!({ "task_id": id }), &seen("NEW"), Duration::ZERO).await.unwrap();
                    store.claim(stale.run.id, &IDENTITY).await.unwrap().unwrap()
                } else {
                    stale
                }
            }
        };
        shop.advance(LEASES).await;
        let fresh = store.claim(stale.run.id, &IDENTITY).await.unwrap().expect("the lease is over");
        assert!(fresh.taken_over);
        assert_eq!(fresh.run.state, *from, "{name}");
        let before = all_of(&shop, stale.run.id).await;
        let refused = write(&store, &stale).await;
        assert!(matches!(refused, Err(StoreError::LeaseLost)), "{name} from {from}: {refused:?}");
        assert_eq!(all_of(&shop, stale.run.id).await, before, "{name} from {from} left something");
        store.release(&stale.lease, "interrupted").await.unwrap();
        assert_eq!(all_of(&shop, stale.run.id).await, before, "a stale lease gave a living one back");
        write(&store, &fresh).await.unwrap_or_else(|e| panic!("{name} from {from}: {e}"));
        assert_ne!(all_of(&shop, stale.run.id).await, before, "{name} from {from} wrote nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_an_operator_cancelled_meanwhile_is_not_written_by_its_worker() {
    let shop = Shop::open().await;
    let store = shop.store();
    let claimed = claimed(&store, 1).await;
    submitting(&store, &claimed.lease).await;
    store.cancel(&claimed.run).await.unwrap();
    let late = store.hold(&claimed.lease, "unknown").await;
    assert!(matches!(late, Err(StoreError::LeaseLost)), "{late:?}");
    assert_eq!(shop.one::<String>("SELECT state FROM runs").await, "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_recorded_by_its_attempt_whatever_became_of_the_lease() {
    let shop = Shop::open().await;
    let store = shop.store();
    let later =
        Later { after: Duration::ZERO, note: "unknown", error: true, blocked: false, idle: Duration::ZERO, kind: None };
    for (n, became) in ["taken over", "held", "queued again", "cancelled", "created again"].into_iter().enumerate() {
        let first = claimed(&store, u32::try_from(n).unwrap()).await;
        let attempt = submitting(&store, &first.lease).await;
        shop.advance(LEASES).await;
        let second = store.claim(first.run.id, &IDENTITY).await.unwrap().unwrap();
        let mut waits = true;
        match became {
            "taken over" => {}
            "held" => store.hold(&second.lease, "unknown").await.unwrap(),
            "queued again" | "created again" => {
                store.later(&second.lease, Event::Requeue, &later, Some(Outcome::Unknown)).await.unwrap();
            }
            _ => {
                store.cancel(&second.run).await.unwrap();
                waits = false;
            }
        }
        if became == "created again" {
            let third = store.claim(first.run.id, &IDENTITY).await.unwrap().unwrap();
            submitting(&store, &third.lease).await;
            waits = false;
        }
        let id = format!("t-{n}");
        let moved = store.ticket(attempt, &id, &json!({ "task_id": id }), &seen("NEW"), Duration::ZERO).await.unwrap();
        assert_eq!(moved, waits, "{became}");
        let run = store.run(first.run.id).await.unwrap().unwrap();
        assert_eq!(run.state == State::Waiting, waits, "{became}: {run:?}");
        assert_eq!(run.ticket.is_some(), waits, "{became}");
        assert_eq!(run.failure_class, None, "{became}");
        let tasks = store.tasks(run.id).await.unwrap();
        assert_eq!(
            (tasks[0].outcome.as_str(), tasks[0].remote_id.as_deref()),
            ("created", Some(id.as_str())),
            "{became}"
        );
        // The account's limit must not be what the next one meets.
        if !run.state.is_terminal() {
            store.cancel(&run).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_another_run_has_is_refused() {
    let shop = Shop::open().await;
    let store = shop.store();
    let ticket = json!({ "task_id": "t" });
    let (one, two) = (claimed(&store, 1).await, claimed(&store, 2).await);
    let (first, second) = (submitting(&store, &one.lease).await, submitting(&store, &two.lease).await);
    assert!(store.ticket(first, "t", &ticket, &seen("NEW"), Duration::ZERO).await.unwrap());
    let refused = store.ticket(second, "t", &ticket, &seen("NEW"), Duration::ZERO).await;
    assert!(matches!(&refused, Err(StoreError::Refused(m)) if m.contains('t')), "{refused:?}");
    assert_eq!(store.run(two.run.id).await.unwrap().unwrap().state, State::Submitting);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_twenty_workers_died_on_fails_and_is_not_sent() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    shop.run_job("report", DAY, &["--no-wait"]).await.expect(4);
    for claims in 1..reportd::run::store::MAX_CLAIMS {
        let claim = "UPDATE runs SET claims = claims + 1, lease_token = gen_random_uuid(), lease_until = reportd_now()";
        sqlx::query(claim).execute(&shop.pool).await.unwrap();
        assert_eq!(shop.one::<i32>("SELECT claims FROM runs").await, claims);
    }
    let failed = shop.run_job("report", DAY, &[]).await.expect(1).line();
    assert_eq!(failed["failure"]["class"], "crash_loop");
    assert_eq!(shop.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_workers_with_the_runs_own_base_url_and_account_claim_it() {
    let shop = Shop::open().await;
    let store = shop.store();
    let run = run_of(store.open(&new_run(1)).await.unwrap());
    for stranger in [
        Identity { base_url: "https://jaicp.example", account: "a" },
        Identity { base_url: HERE, account: "b" },
        Identity { base_url: HERE, account: "" },
    ] {
        assert!(store.claim(run.id, &stranger).await.unwrap().is_none(), "{stranger:?}");
    }
    assert!(store.claim(run.id, &IDENTITY).await.unwrap().is_some());
    assert!(store.claim(run.id, &IDENTITY).await.unwrap().is_none(), "it is leased");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_under_way_is_given_a_further_lease_time_before_its_run_is_taken_over() {
    let shop = Shop::open().await;
    let store = shop.store();
    let (queued, calling) = (claimed(&store, 1).await, claimed(&store, 2).await);
    submitting(&store, &calling.lease).await;
    shop.advance(LEASE + Duration::from_secs(1)).await;
    assert!(store.claim(queued.run.id, &IDENTITY).await.unwrap().is_some_and(|claimed| claimed.taken_over));
    assert!(store.claim(calling.run.id, &IDENTITY).await.unwrap().is_none());
    shop.advance(LEASE).await;
    assert!(store.claim(calling.run.id, &IDENTITY).await.unwrap().is_some_and(|claimed| claimed.taken_over));
}

/// 50,000 runs and revisions of 100 series, one of which ran thrice and long ago.
async fn fill_tables(shop: &Shop) {
    let pool = PgPoolOptions::new().max_connections(1).connect(&shop.database_url).await.unwrap();
    for sql in [
        "INSERT INTO series (job, connection, vendor) SELECT 'job-' || n, 'north', 'jaicp' FROM generate_series(1, 102) n",
        "INSERT INTO runs (id, series_id, job, connection, vendor, trigger, state, window_start, window_end, window_zone,
                           window_label, provisional, fire_at, request, base_url, account, revision, created_at, next_step_at,
                           finished_at, failure_class, failure)
         SELECT gen_random_uuid(), s.id, s.job, 'north', 'jaicp', 'schedule',
                CASE WHEN n = 500 THEN 'queued' WHEN n % 50 = 0 THEN 'failed' ELSE 'archived' END,
                '2020-01-01Z'::timestamptz + n * interval '1 day', '2020-01-02Z'::timestamptz + n * interval '1 day', 'UTC',
                to_char('2020-01-01'::date + n, 'YYYY-MM-DD'), false, '2020-01-02Z'::timestamptz + n * interval '1 day',
                '{}', 'http://127.0.0.1:1', 'a', 1, '2020-01-02Z'::timestamptz + n * interval '1 day' + s.id * interval '1 s',
                '2020-01-02Z', CASE WHEN n <> 500 THEN now() END, CASE WHEN n % 50 = 0 AND n <> 500 THEN 'gone' END,
                CASE WHEN n % 50 = 0 AND n <> 500 THEN 'gone' END
         FROM series s, generate_series(1, 500) n WHERE s.job <> 'job-100' OR n < 4",
        "INSERT INTO revisions (series_id, window_label, revision, window_start, window_end, window_zone, provisional, state, run_id,
                                trigger, fire_at, content_hash, manifest_path, manifest_sha256, archived_at)
         SELECT series_id, window_label, 1, window_start, window_end, 'UTC', false, 'archived', id, 'schedule', fire_at, 'c',
                job || '/' || window_label || '/r1/manifest.json', repeat('a', 64), created_at FROM runs WHERE state <> 'queued'",
        "INSERT INTO artifacts SELECT series_id, window_label, 1, 0, manifest_path || '/f', 'text/csv', 1, repeat('a', 64), false, false
         FROM revisions",
        "INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'made', 'x', 'x' FROM runs",
        "INSERT INTO remote_tasks (attempt_id, run_id, base_url, account, connection, vendor) SELECT gen_random_uuid(), id, base_url, account, 'north', 'jaicp' FROM runs",
        "ANALYZE",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_fifty_thousand_runs_no_statement_reads_more_than_it_needs() {
    const READ: &str =
        "SELECT COALESCE(sum(seq_tup_read + COALESCE(idx_tup_fetch, 0)), 0)::bigint FROM pg_stat_user_tables
                        WHERE relname IN ('runs', 'revisions', 'artifacts', 'run_events', 'remote_tasks')";
    const USED: &str = "SELECT COALESCE(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes
                        WHERE relname IN ('runs', 'revisions', 'artifacts', 'run_events', 'remote_tasks')";
    let shop = Shop::open().await;
    fill_tables(&shop).await;
    // The four tables that were filled from others: their rows are told late, and must not count for what follows.
    until("the statistics of filling", || async { shop.number(READ).await > 190_000 }).await;
    let series = shop.number("SELECT id FROM series WHERE job = 'job-7'").await;
    let id: Uuid = shop.one("SELECT id FROM runs WHERE job = 'job-7' AND state = 'queued'").await;
    let of_series =
        Filter { job: Some("job-7".into()), connection: Some("north".into()), limit: 20, ..Filter::default() };
    let of_old_series = Filter { job: Some("job-100".into()), ..of_series.clone() };
    let of_job = Filter { connection: None, ..of_old_series.clone() };
    let held = Filter { state: Some(State::Held), limit: 20, ..Filter::default() };
    let newest = Filter { limit: 20, ..Filter::default() };
    let failed = Filter { state: Some(State::Failed), limit: 20, ..Filter::default() };
    let since = Filter { since: Some(instant("2021-05-01T00:00:00Z")), limit: 20, ..Filter::default() };
    let start = instant("2020-04-01T00:00:00Z");
    let end = instant("2020-04-02T00:00:00Z");
    for what in [
        "claim",
        "by prefix",
        "list of a series",
        "list of a series that ran long ago",
        "list of a job that ran long ago",
        "newest",
        "failed",
        "held runs",
        "since",
        "held window",
        "revision number",
        "events",
        "breakers",
    ] {
        // A pool of its own, because a server process tells its statistics when it ends.
        let pool = PgPoolOptions::new().max_connections(1).connect(&shop.database_url).await.unwrap();
        let store = RunStore::new(pool, Who("tests".into()));
        let (read, used) = (shop.number(READ).await, shop.number(USED).await);
        // From the sixth time on PostgreSQL may use one plan for all parameters.
        for _ in 0..8 {
            match what {
                "claim" => {
                    let claimed = store.claim(id, &IDENTITY).await.unwrap().unwrap();
                    store.renew(&[claimed.lease.token]).await.unwrap();
                    assert_eq!(
                        store.intend(&claimed.lease, &PERMIT, creates(Uuid::new_v4())).await.unwrap(),
                        Admission::Now
                    );
                    let later = Later {
                        after: Duration::ZERO,
                        note: "later",
                        error: false,
                        blocked: false,
                        idle: Duration::ZERO,
                        kind: None,
                    };
                    store.later(&claimed.lease, Event::Requeue, &later, None).await.unwrap();
                }
                "by prefix" => assert_eq!(store.by_prefix(&id.to_string()[..13]).await.unwrap().id, id),
                "list of a series" => assert_eq!(store.list(&of_series).await.unwrap().len(), 20),
                "list of a series that ran long ago" => assert_eq!(store.list(&of_old_series).await.unwrap().len(), 3),
                "list of a job that ran long ago" => assert_eq!(store.list(&of_job).await.unwrap().len(), 3),
                "held runs" => assert_eq!(store.list(&held).await.unwrap().len(), 0),
                "newest" => assert_eq!(store.list(&newest).await.unwrap().len(), 20),
                "failed" => assert_eq!(store.list(&failed).await.unwrap().len(), 20),
                "since" => assert_eq!(store.list(&since).await.unwrap().len(), 20),
                "held window" => {
                    let held = store.held(series, start, end).await.unwrap().unwrap();
                    assert_eq!(store.artifacts(series, &held.window_label, held.revision).await.unwrap().len(), 1);
                    assert!(store.revision_of(held.run_id).await.unwrap().is_some());
                    let folder = held.manifest_path.rsplitn(3, '/').last().unwrap();
                    assert!(store.newest_manifest(series, &held.window_label, folder).await.unwrap().is_some());
                }
                "revision number" => {
                    let next: i32 = sqlx::query_scalar("SELECT next_revision($1, '2020-04-01')")
                        .bind(series)
                        .fetch_one(&shop.pool)
                        .await
                        .unwrap();
                    assert_eq!(next, 2);
                    store.take_revision(None, id, true).await.unwrap();
                }
                "events" => {
                    assert!(!store.events(id).await.unwrap().is_empty());
                    assert!(!store.tasks(id).await.unwrap().is_empty());
                }
                _ => drop(store.breakers().await.unwrap()),
            }
        }
        drop(store);
        until(what, || async { shop.number(USED).await > used }).await;
        let read = shop.number(READ).await - read;
        assert!(read < 5000, "{what} read {read} rows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmigrated_database_is_refused_and_the_message_names_the_command() {
    let shop = Shop::unmigrated("").await;
    shop.job("report", LIVECHAT);
    let refused = shop.run_job("report", DAY, &[]).await.expect(2);
    assert!(refused.says("reportd migrate").stdout.is_empty());
    shop.run(&["migrate", "--check"]).await.expect(1);
    assert_eq!(
        shop.number("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await,
        0,
        "nothing was changed"
    );
    shop.run(&["migrate"]).await.expect(0);
    shop.run(&["migrate", "--check"]).await.expect(0);
    shop.run_job("report", DAY, &[]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_a_newer_reportd_is_refused_by_every_command() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'later', true, '\\x00', 1)",
    )
    .execute(&shop.pool)
    .await
    .unwrap();
    for args in [&["run-job", "report", "--window", DAY][..], &["migrate"], &["runs"]] {
        shop.run(args).await.expect(2).says("9999").says("newer");
    }
    shop.run(&["migrate", "--check"]).await.expect(1);
    assert_eq!(shop.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_migrate_at_once_all_succeed() {
    let shop = Shop::unmigrated("").await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..4 {
        all.spawn(run(shop.command(&["migrate"])));
    }
    while let Some(ran) = all.join_next().await {
        ran.unwrap().expect(0);
    }
    let needed = reportd::db::needed_version();
    assert_eq!(shop.number("SELECT max(version) FROM _sqlx_migrations").await, needed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_own_runs_keep_the_rules_that_these_tests_made_by_hand() {
    let shop = Shop::open().await;
    shop.job("report", JAICP);
    shop.without_waits().await;
    shop.run_job("report", DAY, &[]).await.expect(0);
    let kinds: Vec<String> =
        sqlx::query_scalar("SELECT kind FROM run_events ORDER BY id").fetch_all(&shop.pool).await.unwrap();
    assert_eq!(kinds, ["made", "submitting", "ticket", "archived"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_forgets_every_table_but_what_the_database_itself_is() {
    let shop = Shop::open().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'
             AND tablename NOT IN ('instance', 'job_set', '_sqlx_migrations')",
    )
    .fetch_all(&shop.pool)
    .await
    .unwrap();
    let source = std::fs::read_to_string(crate::harness::repository("src/db/mod.rs")).unwrap();
    let wiped = source.split("TRUNCATE").nth(1).unwrap().split("RESTART").next().unwrap();
    let wiped: Vec<&str> = wiped.split(',').map(str::trim).collect();
    for table in &tables {
        assert!(wiped.contains(&table.as_str()), "{table} is not emptied");
    }
    assert_eq!(wiped.len(), tables.len());
}
