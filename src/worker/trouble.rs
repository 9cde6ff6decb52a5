//! What a step does when a call did not bring what it was for: DESIGN 6's table, as database writes.
//!
//! Every way ends in one fenced statement: again later, held for an operator, or failed. Nothing here calls a vendor.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::hand::Hand;
use super::step::Stepped;
use super::{Worker, jitter};
use crate::crash;
use crate::request::{Seen, Vendor};
use crate::run::retry::back_off;
use crate::run::short;
use crate::run::state::{Event, State};
use crate::run::store::StoreError;
use crate::run::store::claim::Claimed;
use crate::run::store::permit::Admission;
use crate::run::store::progress::{Later, Outcome};
use crate::run::{FailureClass, Trigger};
use crate::vendor::error::VendorError;
use crate::yaml::show_duration;

/// A retry that comes this much later than planned means that nobody was there to make it.
const IDLE: Duration = Duration::from_secs(60);

/// A run's wait for a host that no setting allows, or for a breaker: nothing changes before a person did something.
pub(super) const BLOCKED: Duration = Duration::from_secs(15 * 60);

impl Worker {
    /// Puts a run off for a reason that a person must end.
    pub(super) async fn put_off(&self, claimed: &Claimed, after: Duration, why: &str) -> Result<Stepped, StoreError> {
        let event = match claimed.run.state {
            State::Waiting => Event::Poll,
            // An unknown outcome must not be forgotten for want of a secret: it stays as it is.
            State::Submitting => {
                self.store.park(&claimed.lease, after, why).await?;
                return Ok(Stepped::NeedsPerson(why.to_owned()));
            }
            _ => Event::Requeue,
        };
        let later = Later {
            after,
            note: why,
            error: false,
            blocked: true,
            idle: Duration::ZERO,
            kind: (claimed.run.note.as_deref() != Some(why)).then_some("waits"),
        };
        self.store.later(&claimed.lease, event, &later, None).await?;
        Ok(Stepped::NeedsPerson(why.to_owned()))
    }

    /// The outcome of the first call is unknown: DESIGN 6.3.
    pub(super) async fn unknown(&self, hand: &Hand<'_>, why: &str) -> Result<Stepped, StoreError> {
        let request = &hand.request;
        if request.may_repeat() {
            let outcome = request.shape.creates().then_some(Outcome::Unknown);
            return self.later(hand, Event::Requeue, why, None, outcome).await;
        }
        let message = in_doubt(hand, why);
        self.store.hold(&hand.claimed.lease, &message).await?;
        crash::point("held-committed");
        tracing::warn!(run.id = %hand.run().id, "a run is held: {message}");
        Ok(Stepped::Moved)
    }

    /// A task comes to no report. Of a ticket that an operator named that says nothing of the create that it was named for, which
    /// is then held again: failed, it would be sent anew.
    pub(super) async fn task_failed(
        &self,
        hand: &Hand<'_>,
        class: FailureClass,
        text: &str,
        seen: Option<&Seen>,
    ) -> Result<Stepped, StoreError> {
        let run = hand.run();
        let may_repeat = hand.request.shape.may_repeat();
        let task = if may_repeat { None } else { self.store.last_task(run).await? };
        if let Some(who) = task.and_then(|task| task.named_by) {
            let message =
                in_doubt(hand, &format!("{text}: ticket {}, as {who} named it", run.ticket_id().unwrap_or_default()));
            self.store.disown(&hand.claimed.lease, &message).await?;
            tracing::warn!(run.id = %run.id, "a run is held again: {message}");
            return Ok(Stepped::Moved);
        }
        self.fail(hand, class, text, seen, None).await
    }

    pub(super) async fn call_failed(&self, hand: &Hand<'_>, error: VendorError) -> Result<Stepped, StoreError> {
        let creates = hand.request.shape.creates();
        let outcome = |outcome: Outcome| creates.then_some(outcome);
        let text = crate::telemetry::Chain(&error).to_string();
        match error {
            VendorError::NotSent(_) => self.later(hand, Event::Requeue, &text, None, outcome(Outcome::NotSent)).await,
            // BIK's page and what its clients saw disagree on the form of dates (REFERENCE 3.2).
            VendorError::Refused { status: 400, .. } if hand.request.vendor == Vendor::Bik => {
                let text =
                    format!("{text} (some reports want plain dates: try date_format: date; names are case-sensitive)");
                self.fail(hand, FailureClass::Refused, &text, None, outcome(Outcome::Refused)).await
            }
            VendorError::Refused { .. } | VendorError::Ended { .. } => {
                self.fail(hand, FailureClass::Refused, &text, None, outcome(Outcome::Refused)).await
            }
            VendorError::Wait { after, .. } => {
                self.later(hand, Event::Requeue, &text, Some(after), outcome(Outcome::Waited)).await
            }
            VendorError::Auth(said) => self.unauthorised(hand, Event::Requeue, &said, outcome(Outcome::Refused)).await,
            VendorError::Unclear(_) | VendorError::Gone(_) | VendorError::DeadLink(_) => {
                self.unknown(hand, &text).await
            }
            // Whatever came back, the create left: it may have taken effect.
            _ if creates => self.unknown(hand, &text).await,
            VendorError::Spool(ref spool) if is_too_large(spool) => {
                self.fail(hand, FailureClass::Protocol, &text, None, None).await
            }
            VendorError::Spool(_) | VendorError::Interrupted(_) => {
                self.later(hand, Event::Requeue, &text, None, None).await
            }
            VendorError::Protocol(_) | VendorError::BlockedHost { .. } => {
                self.fail(hand, FailureClass::Protocol, &text, None, None).await
            }
        }
    }

    pub(super) async fn poll_failed(&self, hand: &Hand<'_>, error: VendorError) -> Result<Stepped, StoreError> {
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
            VendorError::Auth(said) => self.unauthorised(hand, Event::Poll, &said, None).await,
            VendorError::Gone(_) => {
                let run = hand.run();
                let age = run.ticketed_at.and_then(|t| (hand.claimed.at - t).to_std().ok()).unwrap_or_default();
                if age < hand.account.limits.gone_grace {
                    return self.later(hand, Event::Poll, &text, Some(Duration::from_secs(3)), None).await;
                }
                let seen = Seen { status: "gone".into(), ..Seen::default() };
                self.task_failed(hand, FailureClass::Gone, &text, Some(&seen)).await
            }
            VendorError::Ended { seen } => self.task_failed(hand, FailureClass::VendorFailed, &text, Some(&seen)).await,
            VendorError::Refused { .. } => self.task_failed(hand, FailureClass::Refused, &text, None).await,
            VendorError::Protocol(_) => self.task_failed(hand, FailureClass::Protocol, &text, None).await,
            // The ticket was good: there is a report, and it is too large.
            VendorError::Spool(_) => self.fail(hand, FailureClass::Protocol, &text, None, None).await,
            VendorError::BlockedHost { ref host } => {
                let (connection, vendor) = (&hand.account.connection, hand.account.vendor);
                let why = format!(
                    "the file is on host {host}: if it is the vendor's, add it to connections.{connection}.{vendor}.allowed_hosts \
                     in reportd.yaml, then run-job the same window"
                );
                self.put_off(hand.claimed, BLOCKED, &why).await
            }
        }
    }

    /// 401 or 403: the secret is read once more; if it is the same, the account's breaker opens and its runs wait.
    pub(super) async fn unauthorised(
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
                blocked: false,
                idle: Duration::ZERO,
                kind: Some("note"),
            };
            self.store.later(&hand.claimed.lease, event, &later, outcome).await?;
            return Ok(Stepped::Moved);
        }
        let permit = hand.permit();
        if self.store.open_breaker(&permit, text, false).await? {
            tracing::warn!(
                connection = permit.connection,
                vendor = permit.vendor,
                "the vendor does not accept our credentials; its runs wait"
            );
        }
        crash::point("breaker-opened");
        let note = format!("breaker open: {text}");
        let later = Later {
            after: BLOCKED,
            note: &note,
            error: false,
            blocked: true,
            idle: Duration::ZERO,
            kind: Some("waits"),
        };
        self.store.later(&hand.claimed.lease, event, &later, outcome).await?;
        Ok(Stepped::NeedsPerson(breaker_text(permit.connection, permit.vendor, text)))
    }

    pub(super) async fn not_admitted(
        &self,
        hand: &Hand<'_>,
        admission: Admission,
        event: Event,
    ) -> Result<Stepped, StoreError> {
        let (after, note, person) = match admission {
            Admission::Rate(wait) => (wait, "waits for the account's rate".to_owned(), None),
            Admission::Full { in_flight } => (
                in_a_while(hand.run().trigger),
                format!("waits: {in_flight} of {} runs are under way at the vendor", hand.account.limits.max_in_flight),
                None,
            ),
            Admission::Behind => {
                (in_a_while(Trigger::Fill), "waits: the account's other runs go first".to_owned(), None)
            }
            Admission::BreakerOpen { reason, probe_at, by_hand } => {
                let wait = (probe_at - hand.claimed.at).to_std().unwrap_or_default().max(Duration::from_secs(1));
                let (connection, vendor) = (&hand.account.connection, hand.account.vendor.as_str());
                let person = if by_hand {
                    format!(
                        "the breaker of {connection} at {vendor} is open ({reason}): `reportd connections close {connection}`"
                    )
                } else {
                    breaker_text(connection, vendor, &reason)
                };
                (wait, format!("breaker open: {reason}"), Some(person))
            }
            Admission::Now | Admission::Probe => (Duration::ZERO, String::new(), None),
        };
        let later =
            Later { after, note: &note, error: false, blocked: person.is_some(), idle: Duration::ZERO, kind: None };
        self.store.later(&hand.claimed.lease, event, &later, None).await?;
        if person.is_some() {
            // The run that tried may have closed the breaker since we asked, and could not wake us while we had the lease.
            self.store.wake_if_breaker_closed(hand.run().id).await?;
        }
        Ok(person.map_or(Stepped::Moved, Stepped::NeedsPerson))
    }

    /// A transient error: again after the back-off (or after what the vendor asks), until `give_up` is over.
    pub(super) async fn later(
        &self,
        hand: &Hand<'_>,
        event: Event,
        text: &str,
        after: Option<Duration>,
        outcome: Option<Outcome>,
    ) -> Result<Stepped, StoreError> {
        let run = hand.run();
        let give_up = Duration::from_secs(hand.request.give_up_s);
        let since = |t: DateTime<Utc>| (hand.claimed.at - t).to_std().unwrap_or_default();
        // Where nobody tried (we were switched off, the run was cut short) no trouble is known of.
        let late = since(run.next_step_at);
        let idle = if late > IDLE { late } else { Duration::ZERO };
        let trouble = run.errors_since.map(since).unwrap_or_default().saturating_sub(idle);
        if run.errors > 0 && trouble >= give_up {
            let message = format!("given up after {} of trouble; the last: {text}", show_duration(give_up));
            if event == Event::Poll {
                return self.task_failed(hand, FailureClass::GaveUp, &message, None).await;
            }
            return self.fail(hand, FailureClass::GaveUp, &message, None, outcome).await;
        }
        let errors = u32::try_from(run.errors).unwrap_or(0) + 1;
        let after = after.unwrap_or_else(|| back_off(errors, jitter()));
        let later = Later { after, note: text, error: true, blocked: false, idle, kind: Some("retry") };
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
        crash::point("failed-committed");
        tracing::warn!(run.id = %hand.run().id, failure.class = class.as_str(), "a run failed: {message}");
        Ok(Stepped::Moved)
    }
}

/// When a run that found no room asks again. A `fill` may have hundreds that ask.
fn in_a_while(trigger: Trigger) -> Duration {
    if trigger == Trigger::Fill { Duration::from_secs_f64(1.0 + 3.0 * jitter()) } else { Duration::from_secs(1) }
}

fn is_too_large(error: &crate::artifact::SpoolError) -> bool {
    matches!(error, crate::artifact::SpoolError::TooLarge)
}

/// What an operator must find out of a create that may have taken effect, and with which words it is told.
fn in_doubt(hand: &Hand<'_>, why: &str) -> String {
    let request = &hand.request;
    format!(
        "{why}; whether BIK made the report, and mailed it to {}, is not known. Look for report {} over {} in BIK's report \
         history, then run one of: reportd resolve {} --ticket REPORT_HISTORY_ID | --not-created | --file PATH | --give-up",
        addresses(request.emails.len()),
        request.call.body.as_ref().and_then(|b| b.get("reportName")).map_or_else(String::new, ToString::to_string),
        request.window.label(),
        short(hand.run().id),
    )
}

fn addresses(count: usize) -> String {
    if count == 1 { "1 address".into() } else { format!("{count} addresses") }
}

fn breaker_text(connection: &str, vendor: &str, reason: &str) -> String {
    format!(
        "{vendor} does not accept the credentials of connection {connection} ({reason}): correct the secret, then run \
         `reportd connections close {connection}`; its runs then go on"
    )
}
