//! Works deliveries off: claim, try, settle. What a try is, by its kind, is in send.rs.
//!
//! Mail, webhooks, copies and pings go out at least once, under the same id at every try; a BIK ticket or event at most once:
//! whoever finds one that was being sent when its worker died holds it for an operator.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Worker, jitter};
use crate::delivery::notice::mask_addresses;
use crate::delivery::{Kind, Trouble};
use crate::run::retry::back_off;
use crate::run::store::StoreError;
use crate::run::store::delivery::DeliveryRow;
use crate::run::store::sending::{LEASE, Settling};
use crate::telemetry::Chain;

/// How long until the next try when a person must change something first.
const PERSON: Duration = Duration::from_secs(300);

/// What a command sends of one kind at once.
const AT_ONCE: i64 = 8;

/// Between two looks of a command that waits for its notices.
const LOOK: Duration = Duration::from_millis(200);

/// The database takes no longer to answer, or has lost its connection.
const ANSWER: Duration = Duration::from_secs(20);

/// Between two tries to record what became of a try.
const RECORD: Duration = Duration::from_secs(1);

/// A claimed delivery.
#[derive(Clone, Debug)]
pub struct Hold {
    /// The row as claimed.
    pub row: DeliveryRow,
    /// When the claim was asked for: it began no earlier.
    pub asked: Instant,
}

/// How a try is recorded.
enum End {
    Over(Settling, Option<String>),
    Again(Duration, String),
}

impl Worker {
    /// Makes one try of a claimed delivery and records what became of it. When `cut` ends first, one that may be repeated is
    /// left to the next worker.
    pub async fn deliver(&self, hold: &Hold, cut: impl Future<Output = ()>) -> Result<(), StoreError> {
        crate::crash::point("delivery-claimed");
        let row = &hold.row;
        let Some(token) = row.lease_token else { return Ok(()) };
        let kind = Kind::try_from(row.kind.clone());
        let (notice, about) =
            (serde_json::from_value(row.notice.0.clone()), serde_json::from_value(row.about.0.clone()));
        let (Ok(kind), Ok(notice), Ok(about)) = (kind, notice, about) else {
            let words = "what stands in the row cannot be read by this version";
            return self.store.settle_delivery(row.id, token, Settling::Failed, Some(words)).await;
        };
        let sending = self.send(hold, &notice, &about);
        let (mut sending, mut cut) = (std::pin::pin!(sending), std::pin::pin!(cut));
        let result = loop {
            tokio::select! {
                result = &mut sending => break result,
                // A create renews its own claim, right before it is sent.
                () = tokio::time::sleep(LEASE / 3), if kind.repeatable() => {
                    let renewed = tokio::time::timeout(ANSWER, self.store.renew_delivery(row.id, token)).await;
                    match renewed.unwrap_or(Err(StoreError::Silent { what: "renew the claim on a delivery" })) {
                        Err(StoreError::LeaseLost) => return Err(StoreError::LeaseLost),
                        // Whoever takes it over meanwhile sends the same under the same id.
                        Err(error) => tracing::debug!(error = %Chain(&error), "a claim could not be renewed"),
                        Ok(()) => {}
                    }
                }
                () = &mut cut, if kind.repeatable() => {
                    let words = "no answer had come when the process ended".to_owned();
                    return self.record(hold, token, kind, &End::Again(Duration::ZERO, words)).await;
                }
            }
        };
        crate::crash::point("delivery-sent");
        if let Err(trouble) = &result {
            let why = mask_addresses(&trouble.to_string());
            tracing::warn!(delivery.id = %row.id, delivery.kind = kind.as_str(), job = row.job, "a notice did not go out: {why}");
        }
        let tries = u32::try_from(row.tries).unwrap_or(1);
        self.record(hold, token, kind, &end(kind, tries, result)).await?;
        crate::crash::point("delivery-settled");
        Ok(())
    }

    /// Records how a try ended, and tries that again while the database is out of reach: what is forgotten would be sent again,
    /// or be held.
    async fn record(&self, hold: &Hold, token: Uuid, kind: Kind, end: &End) -> Result<(), StoreError> {
        let id = hold.row.id;
        // That BIK made it is recorded even after the claim was lost, so it is worth trying for longer.
        let patience = if kind.repeatable() { LEASE } else { LEASE * 5 };
        loop {
            let recording = async {
                match end {
                    End::Over(how, words) => self.store.settle_delivery(id, token, *how, words.as_deref()).await,
                    End::Again(after, words) => {
                        self.store.put_off_delivery(id, token, *after, kind.give_up(), words).await
                    }
                }
            };
            let recorded = tokio::time::timeout(ANSWER, recording).await;
            match recorded.unwrap_or(Err(StoreError::Silent { what: "record what became of a delivery" })) {
                Err(StoreError::Database { .. } | StoreError::Silent { .. }) if hold.asked.elapsed() < patience => {
                    tokio::time::sleep(RECORD).await;
                }
                other => return other,
            }
        }
    }

    /// Sends what is due about these runs, and these deliveries, and again what is soon due again, until all is over, `until`, or
    /// `stop`. Of the kinds of notices none keeps another waiting. Returns how many are left.
    pub async fn deliver_of(
        &self,
        runs: &[Uuid],
        also: &[Uuid],
        until: Instant,
        stop: &CancellationToken,
    ) -> Result<i64, StoreError> {
        let open = self.store.deliveries_open(runs, also).await?;
        let kinds = Kind::ALL.into_iter().filter(|kind| open.iter().any(|(open, _)| open == kind.as_str()));
        let sent = kinds.map(|kind| self.deliver_kind(kind, runs, also, until, stop));
        // Each to its end, whatever becomes of the others: dropping one could drop a create under way.
        let left = futures_util::future::join_all(sent).await;
        left.into_iter().sum()
    }

    async fn deliver_kind(
        &self,
        kind: Kind,
        runs: &[Uuid],
        also: &[Uuid],
        until: Instant,
        stop: &CancellationToken,
    ) -> Result<i64, StoreError> {
        loop {
            let asked = Instant::now();
            let most = [(kind.as_str(), AT_ONCE)];
            let (claimed, _) = self.store.claim_deliveries(&most, Some((runs, also))).await?;
            let idle = claimed.is_empty();
            let sent = claimed.into_iter().map(|row| async move {
                // Then a send that may be repeated is given back; a BIK create is finished.
                let over = async {
                    tokio::select! {
                        () = tokio::time::sleep_until(until.into()) => {}
                        () = stop.cancelled() => {}
                    }
                };
                self.deliver(&Hold { row, asked }, over).await
            });
            for result in futures_util::future::join_all(sent).await {
                match result {
                    Ok(()) | Err(StoreError::LeaseLost) => {}
                    Err(error) => return Err(error),
                }
            }
            let open = self.store.deliveries_open(runs, also).await?;
            let left = open.into_iter().find(|(open, _)| open == kind.as_str()).map_or(0, |(_, left)| left);
            if left == 0 || Instant::now() >= until || stop.is_cancelled() {
                return Ok(left);
            }
            if idle {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Sends this delivery once it is due, unless another process does.
    pub async fn deliver_one(&self, id: Uuid, until: Instant) -> Result<(), StoreError> {
        let asked = Instant::now();
        if let Some(row) = self.store.claim_delivery(id).await? {
            let over = tokio::time::sleep_until(until.into());
            match self.deliver(&Hold { row, asked }, over).await {
                Ok(()) | Err(StoreError::LeaseLost) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What the outcome of a try means for its delivery. Words are kept without addresses of people.
fn end(kind: Kind, tries: u32, result: Result<Option<String>, Trouble>) -> End {
    let again = |after: Option<Duration>, why: String| {
        End::Again(after.unwrap_or_else(|| back_off(tries, jitter())), mask_addresses(&why))
    };
    match result {
        Ok(words) => End::Over(Settling::Sent, words.as_deref().map(mask_addresses)),
        Err(Trouble::Refused(why)) => End::Over(Settling::Failed, Some(mask_addresses(&why))),
        Err(Trouble::Unclear(why)) if !kind.repeatable() => End::Over(Settling::Held, Some(mask_addresses(&why))),
        Err(Trouble::Unclear(why)) => again(None, why),
        Err(Trouble::Later { why, after }) => again(after, why),
        Err(Trouble::Person(why) | Trouble::Credentials(why)) => again(Some(PERSON), why),
    }
}
