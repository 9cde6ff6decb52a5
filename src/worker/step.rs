//! One step of one run: the only file where the store, the vendors and the archive meet.
//!
//! The order is the guarantee. Permit and intent are committed before a create leaves; a ticket is committed before
//! anything else happens; the manifest is in the archive before the database says so. Whatever is found after a crash is
//! decided by the state alone: see the table in DESIGN 4, which [`Worker::step`] is.

use std::time::Duration;

use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::{Worker, jitter};
use crate::connection::Connection;
use crate::crash;
use crate::request::{OnUnknown, Request, Seen};
use crate::run::retry::{back_off, poll_interval};
use crate::run::state::{Event, State};
use crate::run::store::claim::{Admission, Claimed, Permit};
use crate::run::store::progress::{Later, Outcome};
use crate::run::store::{MAX_CLAIMS, RunStore, StoreError};
use crate::run::{FailureClass, Run};
use crate::vendor::account::{Account, Secrets};
use crate::vendor::error::VendorError;
use crate::vendor::{self, Answer, Context, Permits, Watch};
use crate::yaml::show_duration;

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

/// A run's wait for a host that no setting allows, or for a breaker: nothing changes before a person did something.
const BLOCKED: Duration = Duration::from_secs(15 * 60);

/// A slot of the account's rate that is nearer than this is waited for under the lease.
const NEAR: Duration = Duration::from_secs(5);

/// Everything one step has in hand.
pub(super) struct Hand<'a> {
    pub(super) claimed: &'a Claimed,
    pub(super) request: Request,
    pub(super) connection: &'a Connection,
    pub(super) account: &'a Account,
    pub(super) secrets: &'a Secrets,
}

impl<'a> Hand<'a> {
    pub(super) fn run(&self) -> &'a Run {
        &self.claimed.run
    }

    fn permit(&self) -> Permit<'a> {
        Permit {
            connection: &self.account.connection,
            vendor: self.account.vendor.as_str(),
            requests_per_second: self.account.limits.requests_per_second,
            max_in_flight: self.account.limits.max_in_flight,
            secret: &self.secrets.fingerprint,
        }
    }
}

impl Worker {
    /// Makes one step of a claimed run. A lost lease is an outcome, not an error; an error means that the database failed,
    /// and the run is found again when its lease ends.
    pub async fn step(&self, claimed: &Claimed, watch: Watch<'_>) -> Result<Stepped, StoreError> {
        match self.try_step(claimed, watch).await {
            Err(StoreError::LeaseLost) => Ok(Stepped::LeaseLost),
            other => other,
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
            return self.put_off(claimed, BLOCKED, "this reportd's config has no such connection").await;
        };
        let secrets = match account.secrets() {
            Ok(secrets) => secrets,
            Err(error) => return self.put_off(claimed, BLOCKED, &crate::telemetry::Chain(&error).to_string()).await,
        };
        let hand = Hand { claimed, request, connection: &connection, account: &account, secrets: &secrets };
        if run.claims >= MAX_CLAIMS {
            let message =
                format!("{MAX_CLAIMS} workers in a row died on this run, or lost it, without finishing a step");
            self.store.fail(lease, FailureClass::CrashLoop, &message, None, None).await?;
            return Ok(Stepped::Moved);
        }
        if claimed.taken_over && self.adopt(&hand).await? {
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

    /// Puts a run off for a reason that a person must end.
    async fn put_off(&self, claimed: &Claimed, after: Duration, why: &str) -> Result<Stepped, StoreError> {
        let event = match claimed.run.state {
            State::Waiting => Event::Poll,
            // An unknown outcome must not be forgotten for want of a secret: it stays as it is.
            State::Submitting => return Ok(Stepped::NeedsPerson(why.to_owned())),
            _ => Event::Requeue,
        };
        let later = Later {
            after,
            note: why,
            error: false,
            kind: (claimed.run.note.as_deref() != Some(why)).then_some("waits"),
        };
        self.store.later(&claimed.lease, event, &later, None).await?;
        Ok(Stepped::NeedsPerson(why.to_owned()))
    }

    /// Asks for a permit and makes the first call.
    async fn submit(&self, hand: &Hand<'_>, watch: Watch<'_>) -> Result<Stepped, StoreError> {
        let (lease, shape) = (&hand.claimed.lease, &hand.request.shape);
        let attempt = Uuid::new_v4();
        crash::point("before-intent");
        let mut waited = false;
        let probing = loop {
            match self.store.intend(lease, &hand.permit(), attempt, shape.creates(), !shape.creates()).await? {
                Admission::Now => break false,
                Admission::Probe => break true,
                Admission::Rate(wait) if wait <= NEAR && !waited => {
                    // Others wait for the same slot; who comes second waits in the database.
                    waited = true;
                    tokio::time::sleep(wait).await;
                }
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
                    kind: None,
                };
                self.store.later(lease, Event::Requeue, &later, Some(Outcome::NotSent)).await?;
                return Ok(Stepped::Moved);
            }
        }
        let answer = self.call(hand, watch, None).await;
        crash::point("call-answered");
        if probing && !matches!(answer, Err(VendorError::Auth(_) | VendorError::NotSent(_) | VendorError::Unclear(_))) {
            self.store.close_breaker(&hand.account.connection, hand.account.vendor.as_str()).await?;
        }
        match answer {
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
        }
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
        match self.store.ticket(attempt, id, ticket, seen, first).await {
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
        let mut waited = false;
        let probing = loop {
            match self.store.admit(&hand.permit()).await? {
                Admission::Now => break false,
                Admission::Probe => break true,
                Admission::Rate(wait) if wait <= NEAR && !waited => {
                    waited = true;
                    tokio::time::sleep(wait).await;
                }
                refused => return self.not_admitted(hand, refused, Event::Poll).await,
            }
        };
        let answer = self.call(hand, watch, Some(ticket)).await;
        crash::point("poll-answered");
        if probing && !matches!(answer, Err(VendorError::Auth(_) | VendorError::NotSent(_) | VendorError::Unclear(_))) {
            self.store.close_breaker(&hand.account.connection, hand.account.vendor.as_str()).await?;
        }
        match answer {
            Ok(Answer::Running { seen, note }) => self.still_running(hand, &seen, note).await,
            Ok(Answer::Collected(collected)) => {
                if let Some(seen) = &collected.seen {
                    self.store.saw_ready(&hand.claimed.lease, seen).await?;
                }
                self.store_report(hand, run.attempt_id.unwrap_or_default(), collected).await
            }
            Ok(Answer::Ticketed { .. }) => {
                self.fail(hand, FailureClass::Protocol, "a poll answered with a new task", None, None).await
            }
            Err(error) => self.poll_failed(hand, error).await,
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
            return self.fail(hand, FailureClass::Deadline, &message, None, None).await;
        }
        let next = poll_interval(polls + 1, age, jitter()).min(deadline - polled + Duration::from_millis(100));
        self.store.polled(&hand.claimed.lease, seen, counted, next).await?;
        crash::point("poll-committed");
        Ok(Stepped::Moved)
    }

    /// Found in `submitting` one lease time after its lease ended: nobody knows whether the call took effect.
    async fn died_in_a_call(&self, hand: &Hand<'_>) -> Result<Stepped, StoreError> {
        let why = "a worker died while its call was under way";
        self.unknown(hand, why).await
    }

    /// The outcome of the first call is unknown: DESIGN 6.3.
    async fn unknown(&self, hand: &Hand<'_>, why: &str) -> Result<Stepped, StoreError> {
        let request = &hand.request;
        if request.shape.may_repeat() || request.on_unknown == OnUnknown::Resubmit {
            let outcome = request.shape.creates().then_some(Outcome::Unknown);
            return self.later(hand, Event::Requeue, why, None, outcome).await;
        }
        let message = format!(
            "{why}; whether BIK made the report, and mailed it to {}, is not known. Look for report {} over {} in BIK's report \
             history, then run one of: reportd resolve {} --ticket REPORT_HISTORY_ID | --not-created | --file PATH | --give-up",
            addresses(request.emails.len()),
            request.call.body.as_ref().and_then(|b| b.get("reportName")).map_or_else(String::new, ToString::to_string),
            request.window.label(),
            short(hand.run().id),
        );
        self.store.hold(&hand.claimed.lease, &message).await?;
        crash::point("held-committed");
        Ok(Stepped::Moved)
    }

    async fn call_failed(&self, hand: &Hand<'_>, error: VendorError) -> Result<Stepped, StoreError> {
        let creates = hand.request.shape.creates();
        let outcome = |outcome: Outcome| creates.then_some(outcome);
        let text = crate::telemetry::Chain(&error).to_string();
        match error {
            VendorError::NotSent(_) => self.later(hand, Event::Requeue, &text, None, outcome(Outcome::NotSent)).await,
            VendorError::Refused(_) | VendorError::Ended { .. } => {
                let hint = hint(hand, &text);
                self.fail(hand, FailureClass::Refused, &hint, None, outcome(Outcome::Refused)).await
            }
            VendorError::Wait { after, .. } => {
                self.later(hand, Event::Requeue, &text, Some(after), outcome(Outcome::Waited)).await
            }
            VendorError::Auth(_) => self.unauthorised(hand, Event::Requeue, &text, outcome(Outcome::Refused)).await,
            VendorError::Unclear(_) | VendorError::Gone(_) | VendorError::DeadLink(_) => {
                self.unknown(hand, &text).await
            }
            VendorError::Spool(ref spool) if is_too_large(spool) => {
                self.fail(hand, FailureClass::Protocol, &text, None, outcome(Outcome::Unknown)).await
            }
            VendorError::Spool(_) | VendorError::Interrupted(_) => {
                self.later(hand, Event::Requeue, &text, None, None).await
            }
            VendorError::Protocol(_) | VendorError::BlockedHost { .. } => {
                self.fail(hand, FailureClass::Protocol, &text, None, outcome(Outcome::Unknown)).await
            }
        }
    }

    async fn poll_failed(&self, hand: &Hand<'_>, error: VendorError) -> Result<Stepped, StoreError> {
        let text = crate::telemetry::Chain(&error).to_string();
        match error {
            VendorError::NotSent(_)
            | VendorError::Unclear(_)
            | VendorError::DeadLink(_)
            | VendorError::Interrupted(_) => self.later(hand, Event::Poll, &text, None, None).await,
            VendorError::Spool(ref spool) if !is_too_large(spool) => {
                self.later(hand, Event::Poll, &text, None, None).await
            }
            VendorError::Wait { after, .. } => self.later(hand, Event::Poll, &text, Some(after), None).await,
            VendorError::Auth(_) => self.unauthorised(hand, Event::Poll, &text, None).await,
            VendorError::Gone(_) => {
                let run = hand.run();
                let age = run.ticketed_at.and_then(|t| (hand.claimed.at - t).to_std().ok()).unwrap_or_default();
                if age < hand.account.limits.gone_grace {
                    return self.later(hand, Event::Poll, &text, Some(Duration::from_secs(3)), None).await;
                }
                let seen = Seen { status: "gone".into(), ..Seen::default() };
                self.fail(hand, FailureClass::Gone, &text, Some(&seen), None).await
            }
            VendorError::Ended { seen } => self.fail(hand, FailureClass::VendorFailed, &text, Some(&seen), None).await,
            VendorError::Refused(_) => self.fail(hand, FailureClass::Refused, &text, None, None).await,
            VendorError::Protocol(_) | VendorError::Spool(_) => {
                self.fail(hand, FailureClass::Protocol, &text, None, None).await
            }
            VendorError::BlockedHost { .. } => self.put_off(hand.claimed, BLOCKED, &text).await,
        }
    }

    /// 401 or 403: the secret is read once more; if it is the same, the account's breaker opens and its runs wait.
    async fn unauthorised(
        &self,
        hand: &Hand<'_>,
        event: Event,
        text: &str,
        outcome: Option<Outcome>,
    ) -> Result<Stepped, StoreError> {
        let changed = hand.account.reload().is_ok_and(|now| now.fingerprint != hand.secrets.fingerprint);
        if changed {
            let later = Later {
                after: Duration::ZERO,
                note: "the secret was changed: again with the new one",
                error: false,
                kind: Some("note"),
            };
            self.store.later(&hand.claimed.lease, event, &later, outcome).await?;
            return Ok(Stepped::Moved);
        }
        let permit = hand.permit();
        if self.store.open_breaker(&permit, text).await? {
            tracing::error!(
                connection = permit.connection,
                vendor = permit.vendor,
                "the vendor does not accept our credentials; its runs wait"
            );
        }
        let note = format!("breaker open: {text}");
        let later = Later { after: BLOCKED, note: &note, error: false, kind: Some("waits") };
        self.store.later(&hand.claimed.lease, event, &later, outcome).await?;
        Ok(Stepped::NeedsPerson(breaker_text(permit.connection, permit.vendor, text)))
    }

    async fn not_admitted(&self, hand: &Hand<'_>, admission: Admission, event: Event) -> Result<Stepped, StoreError> {
        let (after, note, person) = match admission {
            Admission::Rate(wait) => (wait, "waits for the account's rate".to_owned(), None),
            Admission::Full { in_flight } => (
                Duration::from_secs(1),
                format!("waits: {in_flight} of {} runs are under way at the vendor", hand.account.limits.max_in_flight),
                None,
            ),
            Admission::BreakerOpen { reason, probe_at } => {
                let wait = (probe_at - hand.claimed.at).to_std().unwrap_or_default().max(Duration::from_secs(1));
                let person = breaker_text(&hand.account.connection, hand.account.vendor.as_str(), &reason);
                (wait, format!("breaker open: {reason}"), Some(person))
            }
            Admission::Now | Admission::Probe => (Duration::ZERO, String::new(), None),
        };
        let later = Later { after, note: &note, error: false, kind: None };
        self.store.later(&hand.claimed.lease, event, &later, None).await?;
        if person.is_some() {
            // The run that tried may have closed the breaker since we asked, and could not wake us while we had the lease.
            self.store.wake_if_breaker_lets(hand.run().id, &hand.secrets.fingerprint).await?;
        }
        Ok(person.map_or(Stepped::Moved, Stepped::NeedsPerson))
    }

    /// A transient error: again after the back-off (or after what the vendor asks), until `give_up` is over.
    async fn later(
        &self,
        hand: &Hand<'_>,
        event: Event,
        text: &str,
        after: Option<Duration>,
        outcome: Option<Outcome>,
    ) -> Result<Stepped, StoreError> {
        let run = hand.run();
        let give_up = Duration::from_secs(hand.request.give_up_s);
        let trouble = run.errors_since.and_then(|t| (hand.claimed.at - t).to_std().ok()).unwrap_or_default();
        if run.errors > 0 && trouble >= give_up {
            let message = format!("given up after {} of trouble; the last: {text}", show_duration(give_up));
            return self.fail(hand, FailureClass::GaveUp, &message, None, outcome).await;
        }
        let errors = u32::try_from(run.errors).unwrap_or(0) + 1;
        let after = after.unwrap_or_else(|| back_off(errors, jitter()));
        let later = Later { after, note: text, error: true, kind: Some("retry") };
        self.store.later(&hand.claimed.lease, event, &later, outcome).await?;
        crash::point("retry-committed");
        Ok(Stepped::Moved)
    }

    pub(super) async fn fail(
        &self,
        hand: &Hand<'_>,
        class: FailureClass,
        message: &str,
        seen: Option<&Seen>,
        outcome: Option<Outcome>,
    ) -> Result<Stepped, StoreError> {
        self.store.fail(&hand.claimed.lease, class, message, seen, outcome).await?;
        tracing::warn!(run.id = %hand.run().id, failure.class = class.as_str(), "a run failed: {message}");
        Ok(Stepped::Moved)
    }

    /// Makes the first call, or asks with the ticket.
    async fn call(
        &self,
        hand: &Hand<'_>,
        watch: Watch<'_>,
        ticket: Option<&serde_json::Value>,
    ) -> Result<Answer, VendorError> {
        let permits = FurtherCalls::new(&self.store, hand);
        let context = self.context(hand, &permits, watch);
        match ticket {
            None => vendor::submit(&context, &hand.request).await,
            Some(ticket) => vendor::poll(&context, &hand.request, ticket).await,
        }
    }

    /// What the vendor modules work with.
    pub(super) fn context<'a>(
        &'a self,
        hand: &Hand<'a>,
        permits: &'a FurtherCalls<'a>,
        watch: Watch<'a>,
    ) -> Context<'a> {
        Context {
            http: &self.http,
            connection: hand.connection,
            account: hand.account,
            secrets: hand.secrets,
            spool: self.archive.spool(),
            permits,
            watch,
            now: self.clock.now(),
        }
    }
}

/// Permits for the further calls of one step: waits for the account's rate.
pub(super) struct FurtherCalls<'a> {
    store: &'a RunStore,
    permit: Permit<'a>,
}

impl<'a> FurtherCalls<'a> {
    pub(super) fn new(store: &'a RunStore, hand: &Hand<'a>) -> FurtherCalls<'a> {
        FurtherCalls { store, permit: hand.permit() }
    }
}

impl Permits for FurtherCalls<'_> {
    fn next(&self) -> BoxFuture<'_, Result<(), VendorError>> {
        Box::pin(further_call(self.store, self.permit))
    }
}

async fn further_call(store: &RunStore, permit: Permit<'_>) -> Result<(), VendorError> {
    loop {
        match store.admit(&permit).await {
            Ok(Admission::Now | Admission::Probe) => return Ok(()),
            Ok(Admission::Rate(wait)) => tokio::time::sleep(wait).await,
            Ok(Admission::Full { .. }) => return Ok(()),
            Ok(Admission::BreakerOpen { reason, .. }) => {
                return Err(VendorError::Interrupted(format!("breaker open: {reason}")));
            }
            Err(error) => return Err(VendorError::Interrupted(crate::telemetry::Chain(&error).to_string())),
        }
    }
}

fn is_too_large(error: &crate::artifact::SpoolError) -> bool {
    matches!(error, crate::artifact::SpoolError::TooLarge)
}

fn addresses(count: usize) -> String {
    if count == 1 { "1 address".into() } else { format!("{count} addresses") }
}

/// The first eight digits of a run's id, which name it on the command line.
pub fn short(id: Uuid) -> String {
    id.simple().to_string()[..8].to_owned()
}

fn breaker_text(connection: &str, vendor: &str, reason: &str) -> String {
    format!(
        "{vendor} does not accept the credentials of connection {connection} ({reason}): correct the secret, then run \
         `reportd connections close {connection}`; its runs then go on"
    )
}

/// A refusal of BIK that dates may have caused: the vendor's page and what clients saw disagree on their form.
fn hint(hand: &Hand<'_>, text: &str) -> String {
    if hand.request.vendor == crate::request::Vendor::Bik && text.contains("400") {
        return format!("{text} (some BIK reports want plain dates: try date_format: date; names are case-sensitive)");
    }
    text.to_owned()
}
