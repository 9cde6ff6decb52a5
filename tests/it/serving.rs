//! What the database guarantees to processes that serve: claims of many runs, the planner's transaction, renames, the set of
//! jobs in force; and how many rows each of their statements reads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use reportd::run::store::adopt::Adopted;
use reportd::run::store::claim::Claimed;
use reportd::run::store::firing::{Decided, Made, Settled};
use reportd::run::store::make::{NewRun, Second, Wants};
use reportd::run::store::permit::{Admission, Intent, Permit};
use reportd::run::store::revision::RevisionRow;
use reportd::run::store::serving::{Claimant, Replica};
use reportd::run::store::{LEASE, RunStore};
use reportd::run::{Trigger, Who};
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use uuid::Uuid;

use crate::harness::Shop;
use crate::store::{HERE, IDENTITY, PERMIT, claimed, new_run, revision, run_of, seen, submitting};
use crate::verbs::{LIVECHAT, until};

/// The account of a connection at JAICP.
fn claimant(connection: &str, most: u32) -> Claimant {
    Claimant {
        connection: connection.into(),
        vendor: "jaicp",
        base_url: HERE.into(),
        account: "a".into(),
        max_in_flight: 100,
        most,
    }
}

/// Makes `count` queued runs of a connection, due since so many seconds, a second apart.
async fn queue(shop: &Shop, connection: &str, count: i32, trigger: &str, since_s: f64) {
    sqlx::query(
        "WITH s AS (INSERT INTO series (job, connection, vendor) VALUES ('bulk', $1, 'jaicp')
                    ON CONFLICT (job, connection) DO UPDATE SET vendor = EXCLUDED.vendor RETURNING id)
         INSERT INTO runs (id, series_id, job, connection, vendor, trigger, state, window_start, window_end, window_zone,
                           window_label, provisional, fire_at, request, base_url, account, next_step_at)
         SELECT gen_random_uuid(), s.id, 'bulk', $1, 'jaicp', $3, 'queued', start, start + interval '1 hour', 'UTC',
                to_char(start, 'YYYYMMDDHH24'), false, start, '{}', $5, 'a', reportd_now() - make_interval(secs => $4 - n * 0.001)
         FROM s, generate_series(1, $2) n,
              LATERAL (SELECT '2000-01-01Z'::timestamptz + n * interval '1 hour'
                              + CASE $3 WHEN 'fill' THEN interval '3 years' ELSE interval '0' END AS start) AS w",
    )
    .bind(connection)
    .bind(count)
    .bind(trigger)
    .bind(since_s)
    .bind(HERE)
    .execute(&shop.pool)
    .await
    .unwrap();
}

fn of(claims: &[Claimed], connection: &str) -> usize {
    claims.iter().filter(|claim| claim.run.connection == connection).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_due_runs_of_one_account_do_not_keep_another_accounts_run_waiting() {
    let shop = Shop::open().await;
    let store = shop.store();
    queue(&shop, "north", 10_000, "schedule", 36_000.0).await;
    queue(&shop, "south", 1, "fill", 1.0).await;
    let asked = Instant::now();
    let both = store.claim_due(&[claimant("north", 12), claimant("south", 12)], 128).await.unwrap();
    println!("claimed {} of 10,001 in {:?}", both.len(), asked.elapsed());
    assert_eq!((of(&both, "north"), of(&both, "south")), (12, 1));
    let times: Vec<_> = both.iter().filter(|c| c.run.connection == "north").map(|c| c.run.next_step_at).collect();
    let oldest = shop.number("SELECT count(*) FROM runs WHERE lease_token IS NULL AND connection = 'north'
                              AND next_step_at < (SELECT max(next_step_at) FROM runs WHERE lease_token IS NOT NULL AND connection = 'north')").await;
    assert_eq!((times.len(), oldest), (12, 0), "the longest due come first");
    // When there is room for few, whoever is asked for first is first: the workers let the accounts take turns.
    queue(&shop, "west", 1, "schedule", 1.0).await;
    let short = store.claim_due(&[claimant("west", 5), claimant("north", 5)], 1).await.unwrap();
    assert_eq!((short.len(), of(&short, "west")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_at_the_vendor_comes_first_then_schedules_then_fill() {
    let shop = Shop::open().await;
    let store = shop.store();
    queue(&shop, "north", 2, "fill", 500.0).await;
    queue(&shop, "north", 2, "schedule", 100.0).await;
    let run = claimed(&store, 1).await;
    let attempt = submitting(&store, &run.lease).await;
    store.ticket(attempt, "t", &json!({ "task_id": "t" }), &seen("NEW"), Duration::ZERO).await.unwrap();
    let mut order = Vec::new();
    for _ in 0..5 {
        let one = store.claim_due(&[claimant("north", 1)], 10).await.unwrap();
        assert_eq!(one.len(), 1);
        order.push((one[0].run.state.as_str(), one[0].run.trigger.as_str()));
    }
    let expected =
        [("waiting", "manual"), ("queued", "schedule"), ("queued", "schedule"), ("queued", "fill"), ("queued", "fill")];
    assert_eq!(order, expected);
    assert!(store.claim_due(&[claimant("north", 1)], 10).await.unwrap().is_empty(), "all are leased");
    // Also when there is room for some of each.
    shop.sql("UPDATE runs SET lease_token = NULL, lease_until = NULL").await;
    let two = store.claim_due(&[claimant("north", 2)], 10).await.unwrap();
    let mut order: Vec<_> = two.iter().map(|one| (one.run.state.as_str(), one.run.trigger.as_str())).collect();
    order.sort_unstable();
    assert_eq!(order, [("queued", "schedule"), ("waiting", "manual")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_that_is_due_at_one_moment_is_claimed_oldest_first() {
    let shop = Shop::open().await;
    let store = shop.store();
    queue(&shop, "north", 30, "schedule", 100.0).await;
    shop.sql("UPDATE runs SET next_step_at = (SELECT min(next_step_at) FROM runs)").await;
    let mut labels = Vec::new();
    for _ in 0..30 {
        let one = store.claim_due(&[claimant("north", 1)], 10).await.unwrap();
        labels.extend(one.into_iter().map(|claim| claim.run.window_label));
    }
    assert!(labels.is_sorted() && labels.len() == 30, "{labels:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_runs_are_claimed_only_for_the_room_that_is_left_at_the_vendor() {
    let shop = Shop::open().await;
    let store = shop.store();
    queue(&shop, "north", 9, "schedule", 100.0).await;
    let two = Claimant { max_in_flight: 2, ..claimant("north", 9) };
    for n in 1..=2 {
        let run = claimed(&store, n).await;
        let attempt = submitting(&store, &run.lease).await;
        let id = format!("t-{n}");
        store.ticket(attempt, &id, &json!({ "task_id": id }), &seen("NEW"), Duration::from_secs(300)).await.unwrap();
    }
    assert!(store.claim_due(std::slice::from_ref(&two), 99).await.unwrap().is_empty(), "two tasks are under way");
    // A task that meets error after error, or waits for a person, keeps nobody out; one that is due is polled all the same.
    let trouble = "UPDATE runs SET errors = 3, errors_since = reportd_now() WHERE window_label = '2025-03-02'";
    sqlx::query(trouble).execute(&shop.pool).await.unwrap();
    assert_eq!(store.claim_due(std::slice::from_ref(&two), 99).await.unwrap().len(), 1);
    shop.advance(Duration::from_secs(301)).await;
    let later = store.claim_due(&[two], 99).await.unwrap();
    let waiting = later.iter().filter(|claim| claim.run.state.as_str() == "waiting").count();
    assert_eq!((waiting, later.len()), (2, 3), "both polls, and room for one more");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_another_base_url_or_account_are_never_claimed_and_those_of_an_unknown_account_are() {
    let shop = Shop::open().await;
    let store = shop.store();
    queue(&shop, "north", 3, "schedule", 100.0).await;
    for stranger in [
        Claimant { base_url: "https://jaicp.example".into(), ..claimant("north", 9) },
        Claimant { account: "b".into(), ..claimant("north", 9) },
        Claimant { account: String::new(), ..claimant("north", 9) },
        Claimant { vendor: "bik", ..claimant("north", 9) },
        claimant("south", 9),
    ] {
        assert!(store.claim_due(std::slice::from_ref(&stranger), 99).await.unwrap().is_empty(), "{stranger:?}");
    }
    // Made while the secret was missing: nobody knew whose account it is.
    sqlx::query("UPDATE runs SET account = ''").execute(&shop.pool).await.unwrap();
    assert_eq!(store.claim_due(&[claimant("north", 9)], 99).await.unwrap().len(), 3);
    assert!(store.claim_due(&[], 99).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn claimers_at_once_share_the_runs_without_overlap_and_leave_none() {
    let shop = Shop::open().await;
    queue(&shop, "north", 400, "schedule", 100.0).await;
    let mut claimers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (store, pool) = (shop.store().on_own_connection(), shop.pool.clone());
        claimers.spawn(async move {
            let all_of_it = [Claimant { max_in_flight: 1000, ..claimant("north", 20) }];
            let mut mine = Vec::new();
            loop {
                let claims = store.claim_due(&all_of_it, 20).await.unwrap();
                mine.extend(claims.iter().map(|claim| claim.run.id));
                // Who meets only rows that others are taking asks again.
                let free = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM runs WHERE lease_token IS NULL");
                if claims.is_empty() && free.fetch_one(&pool).await.unwrap() == 0 {
                    return mine;
                }
            }
        });
    }
    let shares: Vec<Vec<Uuid>> = claimers.join_all().await;
    let all: BTreeSet<Uuid> = shares.iter().flatten().copied().collect();
    let sum: usize = shares.iter().map(Vec::len).sum();
    println!("shares: {:?}", shares.iter().map(Vec::len).collect::<Vec<_>>());
    assert_eq!((all.len(), sum), (400, 400), "a run was claimed twice, or never");
    assert_eq!(shop.number("SELECT count(*) FROM runs WHERE claims = 1").await, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_claims_at_once_give_a_call_under_way_its_further_lease_time_too() {
    let shop = Shop::open().await;
    let store = shop.store();
    let (queued, calling) = (claimed(&store, 1).await, claimed(&store, 2).await);
    submitting(&store, &calling.lease).await;
    shop.advance(LEASE + Duration::from_secs(1)).await;
    let first = store.claim_due(&[claimant("north", 9)], 9).await.unwrap();
    assert_eq!(first.iter().map(|c| (c.run.id, c.taken_over)).collect::<Vec<_>>(), [(queued.run.id, true)]);
    shop.advance(LEASE).await;
    let second = store.claim_due(&[claimant("north", 9)], 9).await.unwrap();
    assert!(second.iter().any(|c| c.run.id == calling.run.id && c.taken_over));
}

/// Makes the series of `report@north` due, with a rule.
pub async fn make_due(shop: &Shop, job: &str) -> i64 {
    let id = shop.store().series(job, "north", "jaicp").await.unwrap();
    sqlx::raw_sql(
        "UPDATE series SET in_force = true, first_seen_at = '2025-01-01Z', cursor_at = '2025-01-01Z', next_at = '2025-01-02Z';
         INSERT INTO series_rules (series_id, from_at, rule, applied_by) SELECT id, '2025-01-01Z', '{}', 'tests' FROM series
         ON CONFLICT DO NOTHING",
    )
    .execute(&shop.pool)
    .await
    .unwrap();
    id
}

/// One decision that asks for this run.
fn decided(run: NewRun) -> Decided {
    Decided {
        fire_at: run.fire_at,
        outcome: "fired",
        reason: None,
        window: Some((run.window_start, run.window_end)),
        run: Some(Box::new(run)),
        alone: false,
    }
}

/// A run of a schedule.
fn scheduled(day: u32) -> NewRun {
    NewRun { trigger: Trigger::Schedule, second: Second::Mailed, ..new_run(day) }
}

async fn settle(store: &RunStore, id: i64, decided: Vec<Decided>) -> Made {
    let firing = store.due(&[], 10).await.unwrap();
    assert!(firing.due.iter().any(|due| due.id == id), "the series is due");
    // Due again at once, so that a test can decide more.
    let cursor_at = firing.due[0].cursor_at + TimeDelta::seconds(1);
    let next_at = Some(cursor_at + TimeDelta::hours(1));
    firing.settle(vec![Settled { id, cursor_at, next_at, decided }]).await.unwrap()
}

/// Decides one instant that asks for this run.
pub async fn settle_one(store: &RunStore, series: i64, run: NewRun) {
    settle(store, series, vec![decided(run)]).await;
}

/// The ledger of all series: day of March, outcome, reason.
async fn ledger(shop: &Shop) -> Vec<(String, String, String)> {
    sqlx::query_as(
        "SELECT to_char(fire_at AT TIME ZONE 'UTC', 'DD'), outcome, COALESCE(reason, '') FROM fires ORDER BY fire_at",
    )
    .fetch_all(&shop.pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decided_instant_makes_one_run_or_says_what_covers_its_window() {
    let shop = Shop::open().await;
    let store = shop.store();
    let id = make_due(&shop, "report").await;
    // 02 is held, 03 is held provisionally, 04 is worked on, 05 is nobody's, 06 twice in one decision.
    let mut held = Vec::new();
    for (day, provisional) in [(1, false), (2, true)] {
        let run = run_of(store.open(&new_run(day)).await.unwrap());
        store.cancel(&run).await.unwrap();
        let (mut row, files) = revision(&run, 1);
        row.provisional = provisional;
        store.adopt(&row, &files).await.unwrap();
        held.push(run.id);
    }
    let live = run_of(store.open(&new_run(3)).await.unwrap());
    let twice = NewRun { fire_at: scheduled(5).fire_at + TimeDelta::hours(1), ..scheduled(5) };
    let mut all: Vec<Decided> = (1..=5).map(|day| decided(scheduled(day))).collect();
    all.push(decided(twice));
    let made = settle(&store, id, all).await;
    assert_eq!(made, Made { instants: 6, runs: 3 });
    let expect = |day: &str, outcome: &str, reason: &str| (day.to_owned(), outcome.to_owned(), reason.to_owned());
    let live_reason = "a live run works on this window";
    assert_eq!(
        ledger(&shop).await,
        [
            expect("02", "covered", "the archive holds this window"),
            expect("03", "fired", ""),
            expect("04", "covered", live_reason),
            expect("05", "fired", ""),
            expect("06", "fired", ""),
            expect("06", "covered", live_reason),
        ]
    );
    let runs: Vec<Uuid> =
        sqlx::query_scalar("SELECT run_id FROM fires ORDER BY fire_at").fetch_all(&shop.pool).await.unwrap();
    assert_eq!((runs[0], runs[2], runs[5]), (held[0], live.id, runs[4]));
    assert_ne!(runs[1], held[1], "a provisional report does not stand for a final one");
    assert_eq!(
        shop.number("SELECT count(*) FROM run_events WHERE kind = 'made' AND detail LIKE '%schedule%'").await,
        3
    );

    // The same instants once more, as of a cursor that was set back: the ledger's key keeps the first decision.
    let before = ledger(&shop).await;
    let refetched = NewRun { wants: Wants::Another, ..scheduled(1) };
    assert_eq!(settle(&store, id, vec![decided(refetched), decided(scheduled(3))]).await, Made::default());
    assert_eq!(ledger(&shop).await, before);
    // A provisional one is enough for a provisional one, and refetch asks whatever is held, but not twice at once.
    let so_far = NewRun { provisional: true, fire_at: scheduled(8).fire_at, ..scheduled(1) };
    let again = NewRun { wants: Wants::Another, fire_at: scheduled(9).fire_at, ..scheduled(1) };
    let again_too = NewRun { wants: Wants::Another, fire_at: scheduled(10).fire_at, ..scheduled(1) };
    let made = settle(&store, id, vec![decided(so_far), decided(again), decided(again_too)]).await;
    assert_eq!(made.runs, 1);
    let last: Vec<String> = ledger(&shop).await[6..].iter().map(|(_, outcome, _)| outcome.clone()).collect();
    assert_eq!(last, ["covered", "fired", "covered"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_archived_while_a_planner_decides_covers_the_window() {
    let shop = Shop::open().await;
    let store = shop.store();
    let id = make_due(&shop, "report").await;
    let live = run_of(store.open(&new_run(1)).await.unwrap());
    let (row, _) = revision(&live, 1);
    // What a worker commits, held open between its statements and its commit.
    let mut tx = shop.pool.begin().await.unwrap();
    sqlx::query("UPDATE runs SET state = 'archived', revision = 1, finished_at = reportd_now() WHERE id = $1")
        .bind(live.id)
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO revisions SELECT series_id, window_label, 1, window_start, window_end, window_zone, false, 'archived', id,
             trigger, fire_at, NULL, 'c', $2, repeat('a', 64), reportd_now() FROM runs WHERE id = $1",
    )
    .bind(live.id)
    .bind(&row.manifest_path)
    .execute(&mut *tx)
    .await
    .unwrap();
    let planner = shop.store().on_own_connection();
    let deciding = tokio::spawn(async move { settle(&planner, id, vec![decided(scheduled(1))]).await });
    shop.until_count(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        1,
    )
    .await;
    tx.commit().await.unwrap();
    assert_eq!(deciding.await.unwrap(), Made { instants: 1, runs: 0 });
    assert_eq!(ledger(&shop).await[0].2, "the archive holds this window");
    assert_eq!(shop.one::<Uuid>("SELECT run_id FROM fires").await, live.id);
    assert_eq!(shop.number("SELECT count(*) FROM runs").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn planners_at_once_take_different_series_and_one_that_gives_up_leaves_everything_as_it_was() {
    let shop = Shop::open().await;
    let ids = [make_due(&shop, "one").await, make_due(&shop, "two").await, make_due(&shop, "three").await];
    let (first, second) = (shop.store().on_own_connection(), shop.store().on_own_connection());
    let one = first.due(&[], 2).await.unwrap();
    let other = second.due(&[], 10).await.unwrap();
    let taken =
        |firing: &reportd::run::store::firing::Firing<'_>| firing.due.iter().map(|due| due.id).collect::<Vec<_>>();
    assert_eq!(taken(&one), ids[..2]);
    assert_eq!(taken(&other), ids[2..]);
    assert!(shop.store().due(&[], 10).await.unwrap().due.is_empty());
    drop(one);
    let asked = shop.store().on_own_connection();
    // The dropped transaction is rolled back when its connection is used or closed next.
    until("the series that were given up", || async {
        asked.due(&[ids[0]], 10).await.unwrap().due.iter().map(|due| due.id).collect::<Vec<_>>() == [ids[1]]
    })
    .await;
    drop(other);
    assert_eq!(shop.number("SELECT count(*) FROM fires").await, 0);
    assert_eq!(shop.number("SELECT count(*) FROM series WHERE next_at = '2025-01-02Z'").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_wants_to_be_alone_waits_for_no_held_one_and_is_not_skipped_for_a_window_that_is_held() {
    let shop = Shop::open().await;
    let store = shop.store();
    let id = make_due(&shop, "report").await;
    let alone = |day: u32| Decided { alone: true, ..decided(scheduled(day)) };
    // The first window is held already: it is covered, and keeps none of the next from firing.
    let run = run_of(store.open(&new_run(1)).await.unwrap());
    store.cancel(&run).await.unwrap();
    let (row, files) = revision(&run, 1);
    store.adopt(&row, &files).await.unwrap();
    assert_eq!(settle(&store, id, vec![alone(1), alone(2), alone(3)]).await, Made { instants: 3, runs: 1 });
    let said: Vec<String> =
        ledger(&shop).await.into_iter().map(|(day, outcome, _)| format!("{day} {outcome}")).collect();
    assert_eq!(said, ["02 covered", "03 fired", "04 skipped"]);
    // Held for an operator, the run keeps nobody waiting.
    let run: Uuid = shop.one("SELECT id FROM runs WHERE finished_at IS NULL").await;
    let claimed = store.claim(run, &IDENTITY).await.unwrap().unwrap();
    submitting(&store, &claimed.lease).await;
    store.hold(&claimed.lease, "unknown").await.unwrap();
    assert_eq!(settle(&store, id, vec![alone(4)]).await.runs, 1);
}

/// An archived run of a job: its revision with an artifact, and its fire.
async fn history(shop: &Shop, job: &str, day: u32) -> Uuid {
    let store = shop.store();
    let run = run_of(store.open(&NewRun { job: job.into(), ..new_run(day) }).await.unwrap());
    let claimed = store.claim(run.id, &IDENTITY).await.unwrap().unwrap();
    let attempt = submitting(&store, &claimed.lease).await;
    let id = run.id.to_string();
    store.ticket(attempt, &id, &json!({ "task_id": id }), &seen("NEW"), Duration::ZERO).await.unwrap();
    let claimed = store.claim(run.id, &IDENTITY).await.unwrap().unwrap();
    let (row, files) = revision(&run, 1);
    store.archived(Some(&claimed.lease), run.id, &row, &files).await.unwrap();
    sqlx::query(
        "INSERT INTO fires SELECT series_id, fire_at, 'fired', id, window_start, window_end FROM runs WHERE id = $1",
    )
    .bind(run.id)
    .execute(&shop.pool)
    .await
    .unwrap();
    run.id
}

/// What belongs to each job by its series: revisions, artifacts, runs, fires.
async fn belongings(shop: &Shop) -> BTreeMap<String, [i64; 4]> {
    let rows: Vec<(String, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT job, (SELECT count(*) FROM revisions WHERE series_id = s.id), (SELECT count(*) FROM artifacts WHERE series_id = s.id),
                (SELECT count(*) FROM runs WHERE series_id = s.id), (SELECT count(*) FROM fires WHERE series_id = s.id) FROM series s",
    )
    .fetch_all(&shop.pool)
    .await
    .unwrap();
    rows.into_iter().map(|(job, a, b, c, d)| (job, [a, b, c, d])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_job_keeps_its_series_or_takes_the_history_over_and_leaves_a_live_run_until_it_ends() {
    let shop = Shop::open().await;
    let store = shop.store();
    history(&shop, "older", 1).await;
    let id = store.series("older", "north", "jaicp").await.unwrap();
    assert_eq!(store.series_of("old", "north", "jaicp", &["older".into()]).await.unwrap(), id, "a change of name");
    assert_eq!(belongings(&shop).await, BTreeMap::from([("old".to_owned(), [1, 1, 1, 1])]));

    // Both exist: 2 is live and 3 is held under both names, so the old one's stay where they are.
    history(&shop, "old", 3).await;
    history(&shop, "new", 3).await;
    let live = run_of(store.open(&NewRun { job: "old".into(), ..new_run(2) }).await.unwrap());
    run_of(store.open(&NewRun { job: "new".into(), ..new_run(2) }).await.unwrap());
    // One that nothing stands in the way of moves while it is live.
    run_of(store.open(&NewRun { job: "old".into(), ..new_run(4) }).await.unwrap());
    let was = ["old".to_owned(), "older".to_owned(), "never".to_owned(), "new".to_owned()];
    let new = store.series_of("new", "north", "jaicp", &was).await.unwrap();
    assert_ne!(new, id);
    let belong = belongings(&shop).await;
    assert_eq!(belong["new"], [2, 2, 5, 2], "{belong:?}");
    assert_eq!(belong["old"], [1, 1, 1, 1], "{belong:?}");
    let window = new_run(1);
    let held = store.held(new, window.window_start, window.window_end).await.unwrap().unwrap();
    assert_eq!(
        store.artifacts(new, &held.window_label, 1).await.unwrap().len(),
        1,
        "artifacts move with their revision"
    );
    // Nothing changes a second time; when the live run has ended it moves too.
    store.series_of("new", "north", "jaicp", &was).await.unwrap();
    assert_eq!(belongings(&shop).await, belong);
    store.cancel(&live).await.unwrap();
    store.series_of("new", "north", "jaicp", &was).await.unwrap();
    assert_eq!(belongings(&shop).await["new"], [2, 2, 6, 2]);
    // One that somebody works on moves too, and is archived where it belongs by then.
    let worked_on = run_of(store.open(&NewRun { job: "old".into(), ..new_run(5) }).await.unwrap());
    let mut claimed = store.claim(worked_on.id, &IDENTITY).await.unwrap().unwrap();
    submitting(&store, &claimed.lease).await;
    store.series_of("new", "north", "jaicp", &was).await.unwrap();
    assert_eq!(belongings(&shop).await["new"], [2, 2, 7, 2]);
    claimed.run.revision = Some(store.take_revision(Some(&claimed.lease), worked_on.id, false).await.unwrap());
    let (row, files) = revision(&claimed.run, 1);
    assert_ne!(row.series_id, new, "as its worker knows it");
    store.archived(Some(&claimed.lease), worked_on.id, &row, &files).await.unwrap();
    assert_eq!(belongings(&shop).await["new"], [3, 3, 7, 2]);
    // What a former name held is sent by no run that the new one had queued already.
    let queued = run_of(store.open(&NewRun { job: "new".into(), ..new_run(6) }).await.unwrap());
    let (mut row, files) = revision(&queued, 1);
    (row.series_id, row.run_id) = (id, Uuid::new_v4());
    row.manifest_path = format!("old/{}/r1/manifest.json", row.window_label);
    assert_eq!(store.adopt(&row, &files).await.unwrap(), Some(Adopted::default()));
    store.series_of("new", "north", "jaicp", &was).await.unwrap();
    assert_eq!(store.standing(queued.id).await.unwrap(), (new, true), "its worker ends it");
    let held = store.held(new, row.window_start, row.window_end).await.unwrap();
    assert_eq!(held.map(|held| held.run_id), Some(row.run_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_lets_the_accounts_other_runs_go_first_where_somebody_serves_them() {
    let shop = Shop::open().await;
    let store = shop.store();
    queue(&shop, "north", 3, "fill", 500.0).await;
    queue(&shop, "north", 2, "schedule", 1.0).await;
    let behind: Uuid = shop.one("SELECT id FROM runs WHERE trigger = 'fill' LIMIT 1").await;
    let claimed = store.claim(behind, &IDENTITY).await.unwrap().unwrap();
    let asks = async |yields: bool| {
        let intent = Intent { attempt: Uuid::new_v4(), account: "a", creates: true, yields };
        let said = store.intend(&claimed.lease, &PERMIT, intent).await.unwrap();
        shop.sql("UPDATE runs SET state = 'queued' WHERE state = 'submitting'").await;
        said
    };
    let replica = Replica { id: Uuid::new_v4(), follows: false };
    assert_eq!(asks(true).await, Admission::Now, "nobody serves");
    store.beat(&replica, true, None).await.unwrap();
    assert_eq!(asks(true).await, Admission::Behind);
    assert_eq!(asks(false).await, Admission::Now);
    // Refused for the account's rate: it asks again when the next slot comes.
    shop.sql("UPDATE runs SET next_step_at = reportd_now() + interval '1.2 s' WHERE trigger = 'schedule'").await;
    assert_eq!(asks(true).await, Admission::Behind);
    shop.sql("UPDATE runs SET next_step_at = reportd_now() + interval '1 h' WHERE trigger = 'schedule'").await;
    assert_eq!(asks(true).await, Admission::Now, "it is not due");
    shop.sql("UPDATE runs SET next_step_at = reportd_now() WHERE trigger = 'schedule'").await;
    store.beat(&replica, true, Some("a file is broken")).await.unwrap();
    assert_eq!(asks(true).await, Admission::Behind, "its other series are served");
    shop.advance(Duration::from_secs(31)).await;
    store.beat(&replica, false, Some("the archive is away")).await.unwrap();
    assert_eq!(asks(true).await, Admission::Now, "who serves claims nothing");
    shop.advance(Duration::from_secs(16 * 60)).await;
    store.beat(&replica, true, None).await.unwrap();
    assert_eq!(asks(true).await, Admission::Now, "who serves cannot take it, or would have");
    shop.sql(
        "UPDATE runs SET state = 'waiting', ticket = '{}', revision = 9, ticketed_at = reportd_now() WHERE id = (SELECT id FROM runs WHERE trigger = 'schedule'
         AND state = 'queued' ORDER BY next_step_at DESC LIMIT 1)",
    )
    .await;
    assert_eq!(asks(true).await, Admission::Behind, "a long backlog is worked on");
    // Under way means worked on, by somebody who has the account.
    for (change, back) in
        [("account = 'b'", "account = 'a'"), ("ticketed_at = reportd_now() - interval '1 h'", "blocked = false")]
    {
        shop.sql(&format!("UPDATE runs SET {change} WHERE state = 'waiting'")).await;
        assert_eq!(asks(true).await, Admission::Now, "{change}");
        shop.sql(&format!("UPDATE runs SET {back} WHERE state = 'waiting'")).await;
    }
    shop.sql("DELETE FROM runs WHERE state = 'waiting'").await;
    // Another account's runs are in nobody's way.
    shop.sql("UPDATE runs SET next_step_at = reportd_now() - interval '1 s', account = 'b' WHERE trigger = 'schedule'")
        .await;
    assert_eq!(asks(true).await, Admission::Now);
    shop.sql("UPDATE runs SET account = 'a' WHERE trigger = 'schedule'").await;
    assert_eq!(asks(true).await, Admission::Behind);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_a_clock_wrote_that_was_ahead_keep_no_account_waiting() {
    let shop = Shop::open().await;
    let store = shop.store();
    assert_eq!(store.admit(&PERMIT).await.unwrap(), Admission::Now);
    shop.sql("UPDATE connections SET next_free_at = reportd_now() + interval '10 s'").await;
    let slow = Permit { requests_per_second: 0.1, ..PERMIT };
    assert!(matches!(store.admit(&slow).await.unwrap(), Admission::Rate(_)));
    shop.sql("UPDATE connections SET next_free_at = reportd_now() + interval '1 day'").await;
    assert_eq!(store.admit(&slow).await.unwrap(), Admission::Now);
    store.open_breaker(&PERMIT, "no", false).await.unwrap();
    assert!(matches!(store.admit(&PERMIT).await.unwrap(), Admission::BreakerOpen { .. }));
    shop.sql(
        "UPDATE connections SET breaker_probe_at = reportd_now() + interval '1 day', next_free_at = reportd_now()",
    )
    .await;
    assert_eq!(store.admit(&PERMIT).await.unwrap(), Admission::Probe);
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_says_what_changed_and_the_version_rises_with_changes_only() {
    let shop = Shop::open().await;
    let daily = |hour: u32| format!("zone: UTC\nschedule: \"0 {hour} * * *\"\nwindow: yesterday\n{LIVECHAT}");
    let apply = async |shop: &Shop| {
        let line = shop.run(&["apply", "--format", "json"]).await.expect(0).line();
        let version = line["version"].as_i64().unwrap();
        (version, line["added"].to_string(), line["changed"].to_string(), line["removed"].to_string())
    };
    let says = |version: i64, added: &str, changed: &str, removed: &str| {
        (version, added.to_owned(), changed.to_owned(), removed.to_owned())
    };
    shop.run(&["apply"]).await.expect(0);
    shop.job("a", &daily(6));
    shop.job("b", &daily(6));
    assert_eq!(apply(&shop).await, says(1, "[\"a\",\"b\"]", "[]", "[]"));
    assert_eq!(apply(&shop).await, says(1, "[]", "[]", "[]"));
    shop.job("a", &daily(7));
    shop.job("c", &daily(7));
    shop.without_job("b");
    assert_eq!(apply(&shop).await, says(2, "[\"c\"]", "[\"a\"]", "[\"b\"]"));
    assert_eq!(shop.number("SELECT count(*) FROM series_rules").await, 5, "each change is a version of a rule");
    let gone =
        "SELECT count(*) FROM series WHERE job = 'b' AND NOT in_force AND next_at IS NULL AND cursor_at IS NOT NULL";
    assert_eq!(shop.number(gone).await, 1);

    // A comment changes the file and no rule; a connection's zone changes a rule and no file.
    let rules = shop.number("SELECT count(*) FROM series_rules").await;
    shop.job("a", &format!("# seven\n{}", daily(7)));
    assert_eq!(apply(&shop).await, says(3, "[]", "[\"a\"]", "[]"));
    assert_eq!(shop.number("SELECT count(*) FROM series_rules").await, rules);
    shop.job("zoned", &daily(6).replace("zone: UTC\n", ""));
    apply(&shop).await;
    let config = shop.folder.path().join("reportd.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("Asia/Kolkata", "Europe/Berlin")).unwrap();
    assert_eq!(apply(&shop).await, says(5, "[]", "[\"zoned\"]", "[]"));

    shop.job("b", &daily(6));
    assert_eq!(apply(&shop).await, says(6, "[\"b\"]", "[]", "[]"));
    assert_eq!(
        shop.number("SELECT count(*) FROM series WHERE job = 'b' AND in_force AND next_at > reportd_now()").await,
        1
    );
    shop.job("broken", "schedule: daily");
    shop.run(&["apply"]).await.expect(2).says("broken.yaml:1");
    shop.without_job("broken");
    for job in ["a", "b", "c", "zoned"] {
        shop.without_job(job);
    }
    shop.run(&["apply"]).await.expect(2).says("4 jobs are in force: nothing is changed").says("apply --empty");
    assert_eq!(shop.number("SELECT version FROM job_set").await, 6);
    assert_eq!(shop.number("SELECT count(*) FROM series WHERE in_force").await, 4);
    let stored: BTreeSet<String> =
        sqlx::query_scalar("SELECT job FROM job_files").fetch_all(&shop.pool).await.unwrap().into_iter().collect();
    assert_eq!(stored, ["a", "b", "c", "zoned"].map(str::to_owned).into());
    let emptied = shop.run(&["apply", "--empty"]).await.expect(0).stdout;
    assert_eq!(emptied, "removed: a, b, c, zoned\nversion 7 of the jobs is in force\n");
    assert_eq!(shop.number("SELECT count(*) FROM series WHERE in_force").await, 0);
    shop.run(&["status"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_live_run_left_under_a_former_name_is_taken_over_by_the_next_apply_even_without_a_change() {
    let shop = Shop::open().await;
    let yaml = format!("zone: UTC\nschedule: \"0 6 * * *\"\nwindow: yesterday\n{LIVECHAT}");
    shop.job("old", &yaml);
    shop.job("new", &yaml);
    shop.run(&["apply"]).await.expect(0);
    let window = ["--window", "2025-03-03..2025-03-03"];
    shop.run(&[&["run-job", "old", "--no-wait"][..], &window].concat()).await.expect(4);
    let texts =
        (std::fs::read_to_string(shop.folder.path().join("jobs/old.yaml")).unwrap(), format!("was: [old]\n{yaml}"));
    shop.without_job("old");
    shop.job("new", &texts.1);
    shop.run(&["apply"]).await.expect(0);
    // The run ends under its old name, as a worker that had it would end it.
    let store = shop.store();
    let id: Uuid = shop.one("SELECT id FROM runs").await;
    let run = store.run(id).await.unwrap().unwrap();
    store.cancel(&run).await.unwrap();
    let (row, files) = revision(&run, 1);
    store.adopt(&row, &files).await.unwrap();
    shop.run(&["apply"]).await.expect(0);
    assert_eq!(shop.holds("new").await, ["2025-03-03 r1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_worked_on_while_its_job_was_renamed_is_taken_over_by_whoever_serves() {
    let shop = Shop::open().await;
    shop.job("new", &format!("was: [bulk]\nzone: UTC\nschedule: \"0 6 * * *\"\nwindow: yesterday\n{LIVECHAT}"));
    shop.run(&["apply"]).await.expect(0);
    // With a base URL that is not this process's, so that the run stays as it is.
    queue(&shop, "north", 1, "schedule", 1.0).await;
    shop.sql("UPDATE runs SET lease_token = gen_random_uuid(), lease_until = reportd_now() + interval '1 h'").await;
    let serving = shop.serve_with(&["--follow"], &[]).await;
    serving.until_http("/readyz", 200).await;
    let of = "SELECT count(*) FROM runs JOIN series ON series.id = runs.series_id WHERE series.job = 'new'";
    assert_eq!(shop.number(of).await, 1, "before the first instant is decided");
    // And what comes under the former name later, ended or not.
    shop.sql("UPDATE runs SET lease_token = NULL, lease_until = NULL, state = 'cancelled', finished_at = now()").await;
    queue(&shop, "north", 1, "schedule", 1.0).await;
    shop.until_count(of, 2).await;
    shop.sql("UPDATE runs SET state = 'cancelled', finished_at = now() WHERE finished_at IS NULL").await;
    queue(&shop, "north", 2, "schedule", 1.0).await;
    shop.sql("UPDATE runs SET state = 'cancelled', finished_at = now() WHERE finished_at IS NULL").await;
    shop.until_count(of, 4).await;
    serving.stop().await;
}

/// How much is in the tables of [`fill`].
struct Past {
    shop: Shop,
    pool: PgPool,
}

/// `runs` past runs of 200 series with a fire and a revision each, and 20,000 runs that wait, half of them due.
async fn fill(runs: i64) -> Past {
    let shop = Shop::open().await;
    let pool = PgPoolOptions::new().max_connections(1).connect(&shop.database_url).await.unwrap();
    let each = runs / 200;
    for sql in [
        "INSERT INTO series (job, connection, vendor, in_force, first_seen_at, cursor_at, next_at)
         SELECT 'job-' || n, CASE WHEN n % 2 = 0 THEN 'north' ELSE 'south' END, 'jaicp', true, '1900-01-01Z',
                reportd_now() + n * interval '1 s', reportd_now() + interval '1 day' FROM generate_series(1, 200) n",
        "INSERT INTO series_rules SELECT id, '1900-01-01Z', '{}', 'tests' FROM series",
        "INSERT INTO runs (id, series_id, job, connection, vendor, trigger, state, window_start, window_end, window_zone,
                           window_label, provisional, fire_at, request, base_url, account, revision, created_at, next_step_at,
                           finished_at)
         SELECT gen_random_uuid(), s.id, s.job, s.connection, 'jaicp', 'schedule', CASE WHEN n > $1 THEN 'queued' ELSE 'archived' END,
                start, start + interval '1 hour', 'UTC', to_char(start, 'YYYYMMDDHH24'), false, start + interval '1 hour', '{}',
                'http://127.0.0.1:1', 'a', 1, start + interval '1 hour',
                CASE WHEN n > $1 + 50 THEN reportd_now() + interval '1 day' ELSE start END, CASE WHEN n <= $1 THEN start END
         FROM series s, generate_series(1, $1 + 100) n, LATERAL (SELECT '2000-01-01Z'::timestamptz + n * interval '1 hour' AS start) w",
        "INSERT INTO revisions (series_id, window_label, revision, window_start, window_end, window_zone, provisional, state, run_id,
                                trigger, fire_at, content_hash, manifest_path, manifest_sha256, archived_at)
         SELECT series_id, window_label, 1, window_start, window_end, 'UTC', false, 'archived', id, 'schedule', fire_at, 'c',
                job || '/' || window_label || '/manifest.json', repeat('a', 64), created_at FROM runs WHERE state = 'archived' AND $1 > 0",
        "INSERT INTO fires (series_id, fire_at, outcome, run_id, window_start, window_end)
         SELECT series_id, fire_at, 'fired', id, window_start, window_end FROM runs WHERE $1 > 0",
        "INSERT INTO remote_tasks (attempt_id, run_id, base_url, account, connection, vendor, outcome, remote_id, ticket, created_at,
                                   finished_at)
         SELECT gen_random_uuid(), id, base_url, account, connection, vendor, 'created', id::text, '{}', now(), now()
         FROM runs WHERE state = 'archived' AND $1 > 0",
        "INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'made', 'x', 'x' FROM runs WHERE $1 > 0",
        "INSERT INTO series (job, connection, vendor) VALUES ('job-9', 'west', 'jaicp')",
        "INSERT INTO replicas (id, who, version, follows, passed_at) VALUES (gen_random_uuid(), 'x', 'x', false, reportd_now() + interval '1 day')",
        // A fill of years, whose runs nobody's others are in the way of.
        "INSERT INTO runs (id, series_id, job, connection, vendor, trigger, state, window_start, window_end, window_zone, window_label,
                           provisional, fire_at, request, base_url, account, next_step_at)
         SELECT gen_random_uuid(), id, job, connection, vendor, 'fill', 'queued', start, start + interval '1 hour', 'UTC', 'x', false,
                start, '{}', 'http://127.0.0.1:1', 'a', start
         FROM series, generate_series(1, 5000) n, LATERAL (SELECT '2000-01-01Z'::timestamptz + n * interval '1 hour' AS start) w
         WHERE connection = 'west'",
    ] {
        let wants = sql.contains("$1");
        let query = sqlx::query(sql);
        let query = if wants { query.bind(each) } else { query };
        query.execute(&pool).await.unwrap();
    }
    sqlx::query("VACUUM ANALYZE").execute(&pool).await.unwrap();
    Past { shop, pool }
}

/// The statements of every pulse, pass and claim, and of every step of a run.
const STATEMENTS: [&str; 10] = [
    "a run from its making to the archive",
    "pulse",
    "beat",
    "due, settle: ten new windows",
    "due, settle: ten held ones",
    "claim_due",
    "renew",
    "unknown_manifests",
    "close_breaker",
    "wake_blocked",
];

impl Past {
    /// What a statement reads: rows, and whole tables, of runs, revisions and fires.
    async fn read(&self) -> (i64, i64) {
        sqlx::query_as(
            "SELECT COALESCE(sum(seq_tup_read + COALESCE(idx_tup_fetch, 0)), 0)::bigint, sum(seq_scan)::bigint
             FROM pg_stat_user_tables
             WHERE relname IN ('runs', 'revisions', 'fires', 'remote_tasks', 'run_events', 'artifacts')",
        )
        .fetch_one(&self.shop.pool)
        .await
        .unwrap()
    }

    async fn call(&self, store: &RunStore, what: &str, n: i64) {
        match what {
            "pulse" => assert!(store.pulse().await.unwrap().next_step_at.is_some()),
            "beat" => store.beat(&Replica { id: Uuid::new_v4(), follows: false }, true, None).await.unwrap(),
            "a run from its making to the archive" => self.live(store, n).await,
            "claim_due" => {
                let claims = store.claim_due(&[claimant("north", 5), claimant("south", 5)], 10).await.unwrap();
                assert_eq!((of(&claims, "north"), of(&claims, "south")), (5, 5));
            }
            "renew" => {
                let tokens: Vec<Uuid> =
                    sqlx::query_scalar("SELECT lease_token FROM runs WHERE lease_token IS NOT NULL LIMIT 10")
                        .fetch_all(&self.shop.pool)
                        .await
                        .unwrap();
                assert_eq!(store.renew(&tokens).await.unwrap().len(), 10);
            }
            "unknown_manifests" => {
                let keys: Vec<String> = (1..=10)
                    .map(|day| format!("job-7/200001{day:02}05/manifest.json"))
                    .chain(["other".into()])
                    .collect();
                assert_eq!(store.unknown_manifests(&keys).await.unwrap(), ["other"]);
            }
            "close_breaker" => {
                let permit = Permit { connection: "west", ..PERMIT };
                store.open_breaker(&permit, "no", false).await.unwrap();
                assert!(store.close_breaker("west", "jaicp").await.unwrap());
            }
            "wake_blocked" => assert_eq!(store.wake_blocked("west", "jaicp", &IDENTITY).await.unwrap(), 0),
            _ => {
                let held = what.contains("held");
                let firing = store.due(&[], 10).await.unwrap();
                assert_eq!(firing.due.len(), 10);
                let settled: Vec<Settled> = firing
                    .due
                    .iter()
                    .map(|due| {
                        let start: DateTime<Utc> =
                            if held { "2000-01-02T00:00:00Z" } else { "2030-01-02T00:00:00Z" }.parse().unwrap();
                        let start = start + TimeDelta::hours(n);
                        let run = NewRun {
                            job: due.job.clone(),
                            connection: due.connection.clone(),
                            trigger: Trigger::Schedule,
                            window_start: start,
                            window_end: start + TimeDelta::hours(1),
                            window_label: start.format("%Y%m%d%H").to_string(),
                            // Instants of their own, so that the ledger takes them.
                            fire_at: start + TimeDelta::minutes(61),
                            not_before: Some("2100-01-01T00:00:00Z".parse().unwrap()),
                            ..new_run(1)
                        };
                        let next_at = Some(firing.now + TimeDelta::days(2));
                        Settled {
                            id: due.id,
                            cursor_at: due.cursor_at + TimeDelta::seconds(1),
                            next_at,
                            decided: vec![decided(run)],
                        }
                    })
                    .collect();
                let made = firing.settle(settled).await.unwrap();
                assert_eq!(made, Made { instants: 10, runs: if held { 0 } else { 10 } });
            }
        }
    }

    /// Every statement of a run that is polled once.
    async fn live(&self, store: &RunStore, n: i64) {
        let start: DateTime<Utc> = "2031-01-02T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::days(n);
        let new = NewRun {
            job: "job-9".into(),
            connection: "west".into(),
            trigger: Trigger::Fill,
            window_start: start,
            window_end: start + TimeDelta::days(1),
            window_label: start.format("%Y-%m-%d").to_string(),
            fire_at: start,
            ..new_run(1)
        };
        let permit = Permit { connection: "west", max_in_flight: 1000, ..PERMIT };
        let run = run_of(store.open(&new).await.unwrap());
        let claim = async || store.claim(run.id, &IDENTITY).await.unwrap().unwrap().lease;
        let lease = claim().await;
        let attempt = Uuid::new_v4();
        let intent = Intent { attempt, account: "a", creates: true, yields: true };
        assert_eq!(store.intend(&lease, &permit, intent).await.unwrap(), Admission::Now);
        let id = run.id.to_string();
        assert!(store.ticket(attempt, &id, &json!({ "task_id": id }), &seen("NEW"), Duration::ZERO).await.unwrap());
        let lease = claim().await;
        assert_eq!(store.admit(&permit).await.unwrap(), Admission::Now);
        store.polled(&lease, &seen("STARTED"), Duration::from_secs(1), Duration::ZERO).await.unwrap();
        let lease = claim().await;
        store.saw_ready(&lease, &seen("COMPLETED")).await.unwrap();
        let run = store.run(run.id).await.unwrap().unwrap();
        assert!(store.newest_manifest(run.series_id, &run.window_label, "none").await.unwrap().is_none());
        let (row, files) = revision(&run, 1);
        let row = RevisionRow { window_start: new.window_start, window_end: new.window_end, ..row };
        store.archived(Some(&lease), run.id, &row, &files).await.unwrap();
    }

    /// Calls each statement ten times and says what that read. What an analysis of the tables at the wrong moment brings about is
    /// none of the statement's: then it is called ten times more.
    async fn measure(&self) {
        for what in STATEMENTS {
            let few = |(rows, scans)| rows <= 450 && scans < 10;
            let mut read = self.measured(what, 0).await;
            if !few(read) {
                read = self.measured(what, 10).await;
            }
            assert!(few(read), "{what} read {} rows a call, and {} whole tables", read.0, read.1);
        }
    }

    /// Rows that a statement reads, and whole tables in ten calls, on a connection of its own.
    async fn measured(&self, what: &str, first: i64) -> (i64, i64) {
        let options: PgConnectOptions = self.shop.database_url.parse().unwrap();
        let options = options.application_name("measured");
        let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
        let store = RunStore::new(pool.clone(), Who("tests".into()));
        let before = self.read().await;
        let mut took = Duration::ZERO;
        for n in first..first + 10 {
            if what.starts_with("due") {
                let due = "UPDATE series SET cursor_at = '1950-01-01Z', next_at = '1950-01-02Z' WHERE id <= 10";
                sqlx::query(due).execute(&self.pool).await.unwrap();
            }
            let asked = Instant::now();
            self.call(&store, what, n).await;
            took += asked.elapsed();
        }
        drop(store);
        pool.close().await;
        // A server process tells its statistics when it ends.
        let gone = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'measured'";
        self.shop.until_count(gone, 0).await;
        let after = self.read().await;
        let (rows, scans) = ((after.0 - before.0) / 10, after.1 - before.1);
        println!("{what}: {rows} rows and {:?} a call, {scans} whole tables", took / 10);
        (rows, scans)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_fifty_thousand_past_runs_no_statement_of_a_pulse_pass_or_claim_reads_the_past() {
    fill(50_000).await.measure().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: a million past runs, a million fires"]
async fn with_a_million_past_runs_no_statement_of_a_pulse_pass_or_claim_reads_the_past() {
    let start = Instant::now();
    let past = fill(1_000_000).await;
    println!("filled in {:?}", start.elapsed());
    past.measure().await;
}

/// Rows, and whole tables, that were read of what the notices' statements go through.
async fn read_for_notices(shop: &Shop) -> (i64, i64) {
    sqlx::query_as(
        "SELECT COALESCE(sum(seq_tup_read + COALESCE(idx_tup_fetch, 0)), 0)::bigint, sum(seq_scan)::bigint
         FROM pg_stat_user_tables WHERE relname IN ('runs', 'revisions', 'deliveries', 'delivery_runs', 'alert_members')",
    )
    .fetch_one(&shop.pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_fifty_thousand_past_deliveries_and_a_thousand_closed_alerts_notices_read_only_what_is_open() {
    let past = fill(0).await;
    let shop = &past.shop;
    shop.sql(
        "INSERT INTO deliveries (id, kind, cause, job, connection, notice, about, state, next_try_at, tries, settled_at, settled_by)
         SELECT gen_random_uuid(), (ARRAY['email', 'webhook', 'heartbeat'])[1 + n % 3], 'archived', 'job-1', 'north', '{}', '{}',
                'sent', NULL, 1, now(), 'x' FROM generate_series(1, 50000) n;
         INSERT INTO deliveries (id, kind, cause, job, connection, notice, about, target, next_try_at)
         SELECT gen_random_uuid(), (ARRAY['email', 'webhook'])[1 + n % 2], 'archived', 'job-1', 'north', '{}', '{}', 't' || n % 60,
                CASE WHEN n > 100 THEN reportd_now() + interval '1 day' ELSE reportd_now() END FROM generate_series(1, 200) n;
         INSERT INTO delivery_runs SELECT gen_random_uuid(), id FROM deliveries;
         INSERT INTO alerts (id, key, cause, notice, told_at, closed_at)
         SELECT gen_random_uuid(), 'k' || n, 'failed', '{}', now(), CASE WHEN n > 5 THEN reportd_now() + interval '1 h' END
         FROM generate_series(1, 1005) n;
         INSERT INTO alert_members (key, subject, alert_id, series_id, window_start, window_end, happened_at, about, settled_at, works)
         SELECT key, 's' || n, a.id, 1, '2000-01-01Z'::timestamptz + n * interval '1 h', '2000-01-01Z'::timestamptz + (n + 1) * interval '1 h',
                now(), jsonb_build_object('run_id', gen_random_uuid())::json, CASE WHEN closed_at IS NOT NULL THEN now() END,
                CASE WHEN closed_at IS NOT NULL THEN true END
         FROM alerts a, generate_series(1, 50) n",
    )
    .await;
    sqlx::query("VACUUM ANALYZE").execute(&past.pool).await.unwrap();
    // A claim takes a step of the index for each target that something waits for, here 60.
    // An outage has many windows: its 250 members are read once, and the newest runs of their one series once.
    for (what, most) in [("news", 10), ("claim", 300), ("settle_members", 600), ("open_alerts", 300)] {
        let options: PgConnectOptions = shop.database_url.parse().unwrap();
        let pool =
            PgPoolOptions::new().max_connections(1).connect_with(options.application_name("measured")).await.unwrap();
        let store = RunStore::new(pool.clone(), Who("tests".into()));
        let before = read_for_notices(shop).await;
        for _ in 0..5 {
            match what {
                "news" => assert!(store.news().await.unwrap().due),
                "claim" => {
                    let (claimed, held) = store.claim_deliveries(&[("email", 8), ("webhook", 2)], None).await.unwrap();
                    assert_eq!((claimed.len(), held), (10, 0));
                }
                "settle_members" => assert_eq!(store.settle_members().await.unwrap(), 0),
                _ => assert_eq!(store.open_alerts(&[]).await.unwrap().len(), 5),
            }
        }
        drop(store);
        pool.close().await;
        // A server process tells its statistics when it ends.
        let gone = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'measured'";
        shop.until_count(gone, 0).await;
        let after = read_for_notices(shop).await;
        let (rows, scans) = ((after.0 - before.0) / 5, after.1 - before.1);
        println!("{what}: {rows} rows a call, {scans} whole tables");
        assert!(scans < 5, "{what} reads a whole table at each call");
        assert!(rows <= most, "{what} read {rows} rows a call");
    }
}
