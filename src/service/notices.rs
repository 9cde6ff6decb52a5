//! The loop that tells and delivers. It has its own time: neither a mail server that hangs nor a vendor that is down keeps
//! schedules or runs waiting, and of the kinds of notices none keeps another waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::PATIENCE;
use super::in_force::InForce;
use crate::delivery::Kind;
use crate::job;
use crate::job::notice::file::TriggerWord;
use crate::run::store::delivery::DeliveryRow;
use crate::run::store::{RunStore, StoreError};
use crate::telemetry::Chain;
use crate::worker::Worker;
use crate::worker::herald::{Herald, Listener};

/// Between two looks when nobody wakes the loop: one statement when there is nothing to do.
const LOOK: Duration = Duration::from_secs(5);

/// Between two looks when there is something to do.
const BUSY: Duration = Duration::from_millis(200);

/// What a kind of notice sends at once, over one process.
const OF_KIND: i64 = 8;

/// How long what may be repeated is waited for when the service stops.
const GRACE: Duration = Duration::from_secs(10);

/// Tells and delivers until told to stop; then waits for what is under way.
pub(super) async fn run(in_force: watch::Receiver<Arc<InForce>>, wake: Arc<Notify>, stop: CancellationToken) {
    let mut herald = Herald::default();
    let desk = Desk { sending: Arc::default(), tracker: TaskTracker::new(), stop: stop.clone() };
    // A question of its own connection costs one statement; the pool's would cost two.
    let mut own: Option<RunStore> = None;
    let mut listeners: (i64, Arc<Vec<Listener>>) = (-1, Arc::default());
    while !stop.is_cancelled() {
        let present = Arc::clone(&in_force.borrow());
        if listeners.0 != present.generation {
            listeners = (present.generation, Arc::new(listeners_of(&present)));
        }
        let store = own.get_or_insert_with(|| present.worker.store.on_own_connection());
        let turn = tokio::time::timeout(PATIENCE, desk.turn(store, &present.worker, &mut herald, &listeners.1));
        let busy = tokio::select! {
            turned = turn => match turned {
                Ok(Ok(busy)) => busy,
                Ok(Err(error)) => {
                    tracing::debug!(error = %Chain(&error), "notices wait for the database");
                    own = None;
                    false
                }
                Err(_) => {
                    own = None;
                    false
                }
            },
            () = stop.cancelled() => false,
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = wake.notified() => tokio::time::sleep(BUSY).await,
            () = tokio::time::sleep(if busy { BUSY } else { LOOK }) => {}
        }
    }
    desk.tracker.close();
    desk.tracker.wait().await;
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
struct Desk {
    sending: Arc<Mutex<HashMap<&'static str, i64>>>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Desk {
    /// One look; returns whether more may be due soon: an alert gathers for seconds only.
    async fn turn(
        &self,
        store: &RunStore,
        worker: &Worker,
        herald: &mut Herald,
        listeners: &[Listener],
    ) -> Result<bool, StoreError> {
        let news = store.news().await?;
        herald.pass(&worker.store, listeners, news).await?;
        if !(news.due || news.untold || news.alerts) {
            return Ok(false);
        }
        let most: Vec<(&'static str, i64)> = {
            let sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
            let free = |kind: &Kind| (kind.as_str(), OF_KIND - sending.get(kind.as_str()).copied().unwrap_or(0));
            Kind::ALL.iter().map(free).filter(|(_, free)| *free > 0).collect()
        };
        let (claimed, held) = worker.store.claim_deliveries(&most, None).await?;
        if held > 0 {
            tracing::error!(held, "BIK creates were under way when their process died: see reportd deliveries");
        }
        let busy = !claimed.is_empty();
        for row in claimed {
            self.start(worker.clone(), row);
        }
        Ok(busy)
    }

    fn start(&self, worker: Worker, row: DeliveryRow) {
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.as_str() == row.kind) else { return };
        let place = Place::taken(&self.sending, kind);
        let span = tracing::info_span!("deliver", delivery.id = %row.id, delivery.kind = kind.as_str(), job = row.job);
        let stop = self.stop.clone();
        self.tracker.spawn(
            async move {
                let _place = place;
                let cut = async {
                    stop.cancelled().await;
                    tokio::time::sleep(GRACE).await;
                };
                match worker.deliver(&row, cut).await {
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
    sending: Arc<Mutex<HashMap<&'static str, i64>>>,
    kind: Kind,
}

impl Place {
    fn taken(sending: &Arc<Mutex<HashMap<&'static str, i64>>>, kind: Kind) -> Place {
        *sending.lock().unwrap_or_else(PoisonError::into_inner).entry(kind.as_str()).or_default() += 1;
        Place { sending: Arc::clone(sending), kind }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sending.get_mut(self.kind.as_str()) {
            *count -= 1;
        }
    }
}
