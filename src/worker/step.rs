//! One step of one run: the only file where the store, the vendors and the archive meet.
//!
//! The order is the guarantee. Permit and intent are committed before a create leaves; a ticket is committed before
//! anything else happens; the manifest is in the archive before the database says so. Whatever is found after a crash is
//! decided by the state alone: see the table in DESIGN 4, which [`Worker::step`] is.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::hand::Hand;
use super::open::OpenError;
use super::{Worker, jitter};
use crate::archive::window_folder;
use crate::crash;
use crate::request::{Request, Seen};
use crate::run::retry::poll_interval;
use crate::run::state::{Event, State};
use crate::run::store::claim::Claimed;
use crate::run::store::permit::{Admission, Intent};
use crate::run::store::progress::{Later, Outcome};
use crate::run::store::{MAX_CLAIMS, RunStore, StoreError};
use crate::run::{FailureClass, Trigger};
use crate::vendor::error::VendorError;
use crate::vendor::{Answer, Watch};
use crate::yaml::show_duration;

/// How long a ticket is tried to be recorded while the database is away.
const TICKET_PATIENCE: Duration = Duration::from_secs(120);

/// One try of it.
const ATTEMPT: Duration = Duration::from_secs(10);

/// The note of a run whose worker was told to stop in the middle of a step.
pub const INTERRUPTED: &str = "interrupted";

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// The run moved on, or will be looked at again by itself.
    Moved,
    /// It waits for something that only a person can change; says what.
    NeedsPerson(String),
    /// Somebody else has the run now.
    LeaseLost,
}

/// A slot of the account's rate that is nearer than this is waited for under the lease.
const NEAR: Duration = Duration::from_secs(5);

impl Worker {
    /// Makes one step of a claimed run. A lost lease is an outcome, not an error; an error means that the database failed,
    /// and the run is found again when its lease ends.
    pub async fn step(&self, claimed: &Claimed, watch: Watch<'_>) -> Result<Stepped, StoreError> {
        match self.try_step(claimed, watch).await {
            Err(StoreError::LeaseLost) => Ok(Stepped::LeaseLost),
            other => other,
        }
    }

    /// Makes the step until `cut` says to stop. A create under way is then waited for all the same (it ends within its time
    /// limit), because cutting it would make its outcome unknown; anything else is cut and the run released.
    pub async fn step_until(
        &self,
        claimed: &Claimed,
        cut: impl Future<Output = ()>,
        watch: Watch<'_>,
    ) -> Result<Stepped, StoreError> {
        let mut step = Box::pin(self.step(claimed, watch));
        tokio::select! {
            stepped = &mut step => return stepped,
            () = cut => {}
        }
        let creates = serde_json::from_value::<Request>(claimed.run.request.clone()).is_ok_and(|r| r.shape.creates());
        if claimed.run.state == State::Queued && creates {
            return step.await;
        }
        // Dropped, not only left: it may hold a connection and a transaction with locks.
        drop(step);
        self.interrupt(claimed).await?;
        Ok(Stepped::Moved)
    }

    /// Gives a run back whose step was cut: interrupted work uses no attempt.
    async fn interrupt(&self, claimed: &Claimed) -> Result<(), StoreError> {
        if claimed.run.state != State::Queued {
            return self.store.release(&claimed.lease, INTERRUPTED).await;
        }
        let later = Later {
            after: Duration::ZERO,
            note: INTERRUPTED,
            error: false,
            blocked: false,
            idle: Duration::ZERO,
            kind: None,
        };
        // A query asks for nothing that would happen twice.
        match self.store.later(&claimed.lease, Event::Requeue, &later, None).await {
            Ok(()) | Err(StoreError::LeaseLost) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn try_step(&self, claimed: &Claimed, watch: Watch<'_>) -> Result<Stepped, StoreError> {
        let (run, lease) = (&claimed.run, &claimed.lease);
        let request: Request = match serde_json::from_value(run.request.clone()) {
            Ok(request) => request,
            Err(error) => {
                let message = format!("the stored request cannot be read by this reportd: {error}");
                self.store.fail(lease, FailureClass::Protocol, &message, None, None).await?;
                return Ok(Stepped::Moved);
            }
        };
        let Some((connection, account)) = self.accounts.get(&run.connection, request.vendor) else {
            return self
                .put_off(claimed, super::trouble::BLOCKED, "this reportd's config has no such connection")
                .await;
        };
        let secrets = match account.secrets() {
            Ok(secrets) => secrets,
            Err(error) => {
                let why = crate::telemetry::Chain(&error).to_string();
                return self.put_off(claimed, super::trouble::BLOCKED, &why).await;
            }
        };
        let hand = Hand { claimed, request, connection: &connection, account: &account, secrets: &secrets };
        // A worker that died, or was interrupted, may have left this run's manifest in the archive.
        let cut_short = claimed.taken_over || run.note.as_deref() == Some(INTERRUPTED);
        if cut_short || run.state == State::Submitting {
            match self.adopt(&hand).await {
                Ok(true) => return Ok(Stepped::Moved),
                Ok(false) => {}
                Err(StoreError::LeaseLost) => return Err(StoreError::LeaseLost),
                // What the database refuses each time must come to an end too.
                Err(error) if run.claims >= MAX_CLAIMS => {
                    let message = format!("its manifest is in the archive, and {}", crate::telemetry::Chain(&error));
                    self.store.fail(lease, FailureClass::CrashLoop, &message, None, None).await?;
                    return Ok(Stepped::Moved);
                }
                Err(error) => return Err(error),
            }
        }
        if run.claims >= MAX_CLAIMS && run.state != State::Submitting {
            let message =
                format!("{MAX_CLAIMS} workers in a row died on this run, or lost it, without finishing a step");
            self.store.fail(lease, FailureClass::CrashLoop, &message, None, None).await?;
            return Ok(Stepped::Moved);
        }
        match run.state {
            State::Queued => self.submit(&hand, watch).await,
            State::Submitting => self.died_in_a_call(&hand).await,
            State::Waiting => self.poll(&hand, watch).await,
            // The claim takes none of these.
            State::Held | State::Archived | State::Empty | State::Failed | State::Cancelled => Ok(Stepped::Moved),
        }
    }

    /// Asks for a permit and makes the first call.
    async fn submit(&self, hand: &Hand<'_>, watch: Watch<'_>) -> Result<Stepped, StoreError> {
        let (lease, shape) = (&hand.claimed.lease, &hand.request.shape);
        let attempt = Uuid::new_v4();
        let run = hand.run();
        let folder = window_folder(&run.job, &run.connection, &hand.request.window);
        let (series, needless) = self.store.standing(run.id).await?;
        if needless {
            // A rename, a rebuild or another run brought it since this one was made; the intent asks once more.
            self.store.needless(lease).await?;
            return Ok(Stepped::Moved);
        }
        match self.no_stranger_in(&folder, series, &run.window_label).await {
            Ok(()) => {}
            Err(OpenError::Store(error)) => return Err(error),
            Err(error) => {
                let why = crate::telemetry::Chain(&error).to_string();
                return self.put_off(hand.claimed, super::trouble::BLOCKED, &why).await;
            }
        }
        if shape.creates()
            && let Err(error) = self.archive.check_usable().await
        {
            // Somebody would be mailed a report that cannot be kept.
            let why = crate::telemetry::Chain(&error).to_string();
            return self.later(hand, Event::Requeue, &why, None, None).await;
        }
        crash::point("before-intent");
        let patience = Instant::now() + NEAR;
        let (account, yields) = (hand.secrets.account.as_str(), run.trigger == Trigger::Fill);
        let intent = Intent { attempt, account, creates: shape.creates(), yields };
        let probing = loop {
            match self.store.intend(lease, &hand.permit(), intent).await? {
                Admission::Now => break false,
                Admission::Probe => break true,
                // Others wait for the same slot; who comes second too often waits in the database.
                Admission::Rate(wait) if Instant::now() + wait <= patience => tokio::time::sleep(wait).await,
                refused => return self.not_admitted(hand, refused, Event::Requeue).await,
            }
        };
        crash::point("intent-committed");
        // The call ends before the lease does, or it is not made: afterwards nobody else may think that we are dead.
        if self.leases.remaining(lease.token) <= hand.account.limits.timeout + Duration::from_secs(2) {
            self.leases.renew(&self.store).await;
            if self.leases.remaining(lease.token) <= hand.account.limits.timeout + Duration::from_secs(2) {
                let later = Later {
                    after: Duration::ZERO,
                    note: "the lease was too short for a call",
                    error: false,
                    blocked: false,
                    idle: Duration::ZERO,
                    kind: None,
                };
                self.store.later(lease, Event::Requeue, &later, Some(Outcome::NotSent)).await?;
                return Ok(Stepped::Moved);
            }
        }
        let answer = self.call(hand, watch, None).await;
        crash::point("call-answered");
        let let_through = probing && is_let_through(&answer);
        // The answer first: a ticket must be committed before anything else can fail.
        let stepped = match answer {
            Ok(Answer::Ticketed { id, ticket, seen }) => self.ticketed(hand, attempt, &id, &ticket, &seen).await,
            Ok(Answer::Collected(collected)) => self.store_report(hand, attempt, collected).await,
            Ok(Answer::Running { .. }) => {
                self.fail(
                    hand,
                    FailureClass::Protocol,
                    "a create answered that it is running",
                    None,
                    Some(Outcome::Unknown),
                )
                .await
            }
            Err(error) => self.call_failed(hand, error).await,
        };
        if let_through {
            self.let_others_through(hand).await;
        }
        stepped
    }

    async fn ticketed(
        &self,
        hand: &Hand<'_>,
        attempt: Uuid,
        id: &str,
        ticket: &serde_json::Value,
        seen: &Seen,
    ) -> Result<Stepped, StoreError> {
        let first = poll_interval(0, Duration::ZERO, jitter());
        // Repeating it changes nothing, so a question that a dead connection swallowed may be asked again.
        let record = async |store: RunStore| {
            let what = "record a ticket";
            let recorded = tokio::time::timeout(ATTEMPT, store.ticket(attempt, id, ticket, seen, first)).await;
            recorded.unwrap_or(Err(StoreError::Silent { what }))
        };
        let mut recorded = record(self.store.clone()).await;
        // A ticket in hand outlives a database that is away for a moment: without it nobody could ask for the report.
        let patience = Instant::now() + TICKET_PATIENCE;
        while let Err(error @ (StoreError::Database { .. } | StoreError::Silent { .. })) = &recorded {
            let (run, error) = (crate::run::short(hand.run().id), crate::telemetry::Chain(error).to_string());
            if Instant::now() > patience {
                tracing::error!(
                    "ticket {id} of run {run} could not be recorded ({error}); when the database is back: \
                     reportd resolve {run} --ticket {id}"
                );
                break;
            }
            tracing::error!("the database does not take ticket {id} of run {run} ({error}); trying again");
            tokio::time::sleep(Duration::from_secs(1)).await;
            recorded = record(self.store.on_own_connection()).await;
        }
        match recorded {
            Ok(_) => {
                crash::point("ticket-committed");
                Ok(Stepped::Moved)
            }
            Err(StoreError::Refused(message)) => {
                self.fail(hand, FailureClass::Protocol, &message, None, Some(Outcome::Unknown)).await
            }
            Err(other) => Err(other),
        }
    }

    /// Polls, and fetches the report when it is ready.
    async fn poll(&self, hand: &Hand<'_>, watch: Watch<'_>) -> Result<Stepped, StoreError> {
        let run = hand.run();
        let Some(ticket) = &run.ticket else { return Ok(Stepped::Moved) };
        let patience = Instant::now() + NEAR;
        let probing = loop {
            match self.store.admit(&hand.permit()).await? {
                Admission::Now => break false,
                Admission::Probe => break true,
                Admission::Rate(wait) if Instant::now() + wait <= patience => tokio::time::sleep(wait).await,
                refused => return self.not_admitted(hand, refused, Event::Poll).await,
            }
        };
        let answer = self.call(hand, watch, Some(ticket)).await;
        crash::point("poll-answered");
        let let_through = probing && is_let_through(&answer);
        let stepped = match answer {
            Ok(Answer::Running { seen, note }) => self.still_running(hand, &seen, note).await,
            Ok(Answer::Collected(collected)) => {
                if let Some(seen) = &collected.seen {
                    self.store.saw_ready(&hand.claimed.lease, seen).await?;
                    crash::point("ready-noted");
                }
                self.store_report(hand, run.attempt_id.unwrap_or_default(), collected).await
            }
            Ok(Answer::Ticketed { .. }) => {
                self.fail(hand, FailureClass::Protocol, "a poll answered with a new task", None, None).await
            }
            Err(error) => self.poll_failed(hand, error).await,
        };
        if let_through {
            self.let_others_through(hand).await;
        }
        stepped
    }

    /// The vendor let our one probe through: the account's breaker closes. If that fails, the next probe closes it.
    async fn let_others_through(&self, hand: &Hand<'_>) {
        let account = hand.account;
        if let Err(error) = self.store.close_breaker(&account.connection, account.vendor.as_str()).await {
            tracing::warn!(error = %crate::telemetry::Chain(&error), "a breaker could not be closed");
        }
    }

    /// "Not yet": counts only time in which we could poll, so a night that we were switched off brings no deadline.
    async fn still_running(&self, hand: &Hand<'_>, seen: &Seen, note: Option<String>) -> Result<Stepped, StoreError> {
        let (run, at) = (hand.run(), hand.claimed.at);
        let polls = u32::try_from(run.polls).unwrap_or(0);
        let since =
            |t: Option<chrono::DateTime<chrono::Utc>>| t.and_then(|t| (at - t).to_std().ok()).unwrap_or_default();
        let age = since(run.ticketed_at);
        let planned = poll_interval(polls, age, 1.0);
        let counted = since(run.last_poll_at.or(run.ticketed_at)).min(planned * 2);
        let polled = Duration::from_secs_f64(run.polled_s.max(0.0)) + counted;
        if let Some(note) = note
            && run.note.as_deref() != Some(seen.status.as_str())
        {
            tracing::warn!(run.id = %run.id, vendor.status = %seen.status, "{note}");
            self.store.event(run.id, "note", &note).await?;
        }
        let deadline = Duration::from_secs(hand.request.deadline_s);
        if polled >= deadline {
            let message = format!(
                "not ready after {} of polling; the vendor's last word is {}",
                show_duration(deadline),
                seen.status
            );
            return self.task_failed(hand, FailureClass::Deadline, &message, None).await;
        }
        let next =
            poll_interval(polls + 1, age, jitter()).min(deadline.saturating_sub(polled) + Duration::from_millis(100));
        self.store.polled(&hand.claimed.lease, seen, counted, next).await?;
        crash::point("poll-committed");
        Ok(Stepped::Moved)
    }

    /// Found in `submitting` one lease time after its lease ended: nobody knows whether the call took effect.
    async fn died_in_a_call(&self, hand: &Hand<'_>) -> Result<Stepped, StoreError> {
        let why = "a worker died while its call was under way";
        self.unknown(hand, why).await
    }
}

/// Whether an answer shows that the vendor accepts our credentials.
fn is_let_through(answer: &Result<Answer, VendorError>) -> bool {
    !matches!(answer, Err(VendorError::Auth(_) | VendorError::NotSent(_) | VendorError::Unclear(_)))
}
