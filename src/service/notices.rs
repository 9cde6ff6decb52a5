//! The two loops of notices: one makes deliveries, one sends them. They have their own time: neither a mail server that hangs nor
//! a vendor that is down keeps schedules or runs waiting, none of the kinds of notices keeps another waiting, and what is slow
//! to tell of keeps nothing from being sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::PATIENCE;
use super::in_force::InForce;
use crate::delivery::Kind;
use crate::job;
use crate::job::notice::file::TriggerWord;
use crate::run::store::{RunStore, StoreError};
use crate::telemetry::Chain;
use crate::worker::Worker;
use crate::worker::deliver::Hold;
use crate::worker::herald::Herald;
use crate::worker::watch::Listener;

/// Between two looks when nobody wakes the loop: one statement when there is nothing to do.
const LOOK: Duration = Duration::from_secs(5);

/// Between two claims when nobody wakes the sender; whoever tells wakes it when something is due.
const CLAIM: Duration = Duration::from_secs(30);

/// Between two looks when there is something to do.
const BUSY: Duration = Duration::from_millis(200);

/// A look that takes longer is given up; the next one begins where it was.
const LONG: Duration = Duration::from_secs(60);

/// What a kind of notice sends at once, over one process.
const OF_KIND: i64 = 8;

/// How long everything under way is waited for: a BIK create and the record of it.
const LAST: Duration = Duration::from_secs(90);

/// How long what may be repeated is waited for when the service stops.
const GRACE: Duration = Duration::from_secs(10);

type InForceNow = watch::Receiver<Arc<InForce>>;

/// Makes deliveries until told to stop. Everything it does is one transaction or another, so it may be cut anywhere.
pub(super) async fn tell(in_force: InForceNow, wake: Arc<Notify>, due: Arc<Notify>, stop: CancellationToken) {
    let mut herald = Herald::default();
    // A question of its own connection costs one statement; the pool's would cost two.
    let mut own: Option<RunStore> = None;
    let mut listeners: (i64, Arc<Vec<Listener>>) = (-1, Arc::default());
    while !stop.is_cancelled() {
        let present = Arc::clone(&in_force.borrow());
        if listeners.0 != present.generation {
            let first = listeners.0 < 0;
            listeners = (present.generation, Arc::new(listeners_of(&present)));
            // What waits for a person may have been waiting for this very change.
            if !first && let Ok(Ok(1..)) = tokio::time::timeout(PATIENCE, present.worker.store.hurry_deliveries()).await
            {
                due.notify_one();
            }
        }
        let store = own.get_or_insert_with(|| present.worker.store.on_own_connection()).clone();
        let look = async {
            let news = tokio::time::timeout(PATIENCE, store.news()).await;
            let news = news.map_err(|_| StoreError::Silent { what: "look for what is to be told" })??;
            if news.due {
                due.notify_one();
            }
            let told = tokio::time::timeout(LONG, herald.pass(&present.worker.store, &listeners.1, news)).await;
            told.map_err(|_| StoreError::Silent { what: "make deliveries" })??;
            if news.untold || news.alerts {
                due.notify_one();
            }
            Ok::<(), StoreError>(())
        };
        tokio::select! {
            looked = look => if let Err(error) = looked {
                tracing::warn!(error = %Chain(&error), "notices wait to be made");
                own = None;
            },
            () = stop.cancelled() => {}
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = wake.notified() => tokio::time::sleep(BUSY).await,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Sends what is due until told to stop; then waits for what is under way.
pub(super) async fn send(in_force: InForceNow, due: Arc<Notify>, stop: CancellationToken) {
    let desk = Desk { sending: Arc::default(), due: Arc::clone(&due), tracker: TaskTracker::new(), stop: stop.clone() };
    while !stop.is_cancelled() {
        let worker = in_force.borrow().worker.clone();
        // A claim is never cut: its rows would be nobody's until their leases end, and a BIK create would be held unsent.
        // But for one that the database never answers: what it took, if anything, is found again in any case.
        let mut claim = desk.tracker.spawn(desk.clone().claim(worker));
        let claimed = tokio::select! {
            claimed = tokio::time::timeout(LONG, &mut claim) => match claimed {
                Ok(claimed) => claimed.unwrap_or(0),
                Err(_) => {
                    claim.abort();
                    tracing::warn!("deliveries could not be claimed: the database does not answer");
                    0
                }
            },
            () = stop.cancelled() => 0,
        };
        let rest = if claimed > 0 { BUSY } else { CLAIM };
        tokio::select! {
            () = stop.cancelled() => {}
            () = due.notified() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
    desk.tracker.close();
    if tokio::time::timeout(LAST, desk.tracker.wait()).await.is_err() {
        tracing::warn!("deliveries under way are left to the next worker");
    }
}

/// What each series tells of beside its runs; those that tell nobody are left out.
fn listeners_of(in_force: &InForce) -> Vec<Listener> {
    let mut listeners = Vec::new();
    for job in in_force.jobs.values() {
        for series in &job.series {
            let Some(connection) = job::connection(&in_force.settings.connections, &series.connection) else {
                continue;
            };
            let alert = job.telling(connection).of(TriggerWord::Schedule).alert;
            if alert.is_empty() {
                continue;
            }
            listeners.push(Listener {
                job: job.name.clone(),
                connection: series.connection.clone(),
                vendor: job.vendor().as_str(),
                zone: series.zone,
                alert,
                late_after: job.policy.late_after,
                waivers: job.waivers.clone(),
            });
        }
    }
    listeners
}

/// Sends, each delivery beside the others.
#[derive(Clone)]
struct Desk {
    sending: Arc<Mutex<HashMap<&'static str, i64>>>,
    due: Arc<Notify>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Desk {
    /// Claims what is due, as far as there is room, and starts to send it. Returns how much that is.
    async fn claim(self, worker: Worker) -> usize {
        let most: Vec<(&'static str, i64)> = {
            let sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
            let free = |kind: &Kind| (kind.as_str(), OF_KIND - sending.get(kind.as_str()).copied().unwrap_or(0));
            Kind::ALL.iter().map(free).filter(|(_, free)| *free > 0).collect()
        };
        let asked = Instant::now();
        let (claimed, held) = match worker.store.claim_deliveries(&most, None).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "deliveries could not be claimed");
                return 0;
            }
        };
        if held > 0 {
            tracing::error!(held, "BIK creates were under way when their process died: see reportd deliveries");
        }
        let count = claimed.len();
        for row in claimed {
            self.start(worker.clone(), Hold { row, asked });
        }
        count
    }

    fn start(&self, worker: Worker, hold: Hold) {
        let row = &hold.row;
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.as_str() == row.kind) else { return };
        let place = Place::taken(self, kind);
        let span = tracing::info_span!("deliver", delivery.id = %row.id, delivery.kind = kind.as_str(), job = row.job);
        let stop = self.stop.clone();
        self.tracker.spawn(
            async move {
                let _place = place;
                let cut = async {
                    stop.cancelled().await;
                    tokio::time::sleep(GRACE).await;
                };
                match worker.deliver(&hold, cut).await {
                    Ok(()) => {}
                    Err(StoreError::LeaseLost) => tracing::info!("the delivery is another worker's by now"),
                    // Its claim ends, and then it is found again.
                    Err(error) => tracing::warn!(error = %Chain(&error), "a delivery could not be settled"),
                }
            }
            .instrument(span),
        );
    }
}

/// One delivery's place among those of its kind; given back however it ends.
struct Place {
    desk: Desk,
    kind: Kind,
}

impl Place {
    fn taken(desk: &Desk, kind: Kind) -> Place {
        *desk.sending.lock().unwrap_or_else(PoisonError::into_inner).entry(kind.as_str()).or_default() += 1;
        Place { desk: desk.clone(), kind }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sending = self.desk.sending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sending.get_mut(self.kind.as_str()) {
            *count -= 1;
        }
        drop(sending);
        // There is room for another.
        self.desk.due.notify_one();
    }
}
