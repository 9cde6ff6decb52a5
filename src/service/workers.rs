//! The workers: claim what is due, make a step of each, at most so many at once. Knows neither vendors nor the archive.
//!
//! A claim asks for as many runs of each account as that account's limits let it use, so one slow or broken vendor keeps its
//! own runs waiting and nobody else's. Accounts take turns at being first. The permits themselves are given under a lock in
//! the database, so limits hold over all processes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

use super::PATIENCE;
use super::in_force::InForce;
use crate::delivery::heartbeat::{Beat, Heart};
use crate::request::Vendor;
use crate::run::store::claim::Claimed;
use crate::run::store::serving::Claimant;
use crate::run::store::{RunStore, StoreError};
use crate::run::{Run, State, Trigger};
use crate::telemetry::Chain;
use crate::worker::Worker;
use crate::worker::lease::Leases;
use crate::worker::step::{INTERRUPTED, Stepped};

/// Steps at once. Most of a step is waiting for a vendor; memory for one is some tens of KiB.
const STEPS: u32 = 128;

/// Most steps of one vendor, and of one account: a vendor that hangs keeps its own steps and not everybody's.
const OF_VENDOR: u32 = STEPS / 2;
const OF_ACCOUNT: u32 = STEPS / 4;

/// Calls of an account that a claim may take ahead, in seconds of its rate.
const AHEAD_S: f64 = 2.0;

/// How long a worker sleeps at most; the pulse wakes it when something is due.
const SLEEP: Duration = Duration::from_secs(5);

/// Between two looks for deletions at the vendors that were left over.
const SWEEP: Duration = Duration::from_secs(60);

/// Between two looks for what a former name still has. The next instant of a window must not come first.
const FORMER: Duration = Duration::from_secs(5);

/// Between two claims, so that steps that end together are followed by one claim.
const BREATH: Duration = Duration::from_millis(5);

/// How long steps go on after the process was told to stop; a create under way is waited for in any case.
const GRACE: Duration = Duration::from_secs(10);

/// A step whose lease has been gone for so long hangs (a network that swallows packets); its run is another's by now.
const LOST: Duration = Duration::from_secs(240);

/// When a step is made again in which the database failed.
const AGAIN: Duration = Duration::from_secs(5);

type Account = (String, Vendor);

/// The claim loop and its steps.
#[derive(Clone, Debug)]
pub struct Workers {
    in_force: watch::Receiver<Arc<InForce>>,
    wake: Arc<Notify>,
    stop: CancellationToken,
    steps: Arc<Semaphore>,
    running: Arc<Mutex<HashMap<Account, u32>>>,
    tracker: TaskTracker,
    /// Nothing is claimed: what came could not be kept.
    held: Arc<AtomicBool>,
    /// Tells a job's outside watcher that its run began.
    heart: Heart,
    /// Wakes who tells of runs: a step has ended.
    ended: Arc<Notify>,
}

/// One step's place and its lease: given back when the step ends, however it does. A lease that outlived a step that panicked
/// would be renewed for ever.
struct Place {
    workers: Workers,
    account: Account,
    leases: Leases,
    token: Uuid,
    _step: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leases.drop(self.token);
        let mut running = self.workers.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(&self.account) {
            *count = count.saturating_sub(1);
        }
        drop(running);
        self.workers.wake.notify_one();
        self.workers.ended.notify_one();
    }
}

impl Workers {
    /// Workers that take their accounts from `in_force`.
    pub fn new(in_force: watch::Receiver<Arc<InForce>>, stop: CancellationToken, heart: Heart) -> Workers {
        Workers {
            in_force,
            wake: Arc::new(Notify::new()),
            stop,
            steps: Arc::new(Semaphore::new(STEPS as usize)),
            running: Arc::default(),
            tracker: TaskTracker::new(),
            held: Arc::default(),
            heart,
            ended: Arc::default(),
        }
    }

    /// Claims nothing as long as `held`.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// Notified whenever a step has ended: its run may have something to tell.
    pub fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.ended)
    }

    /// Something may be due now.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Something is due in so much time.
    pub fn wake_in(&self, wait: Duration) {
        let wake = Arc::clone(&self.wake);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            wake.notify_one();
        });
    }

    /// Claims and steps until told to stop; then waits for the steps under way.
    pub async fn run(self) {
        let mut turn = 0;
        while !self.stop.is_cancelled() {
            // What a claim took that was given up here is found again when its leases end.
            let claimed = match tokio::time::timeout(PATIENCE, self.claim(turn)).await {
                Ok(Ok(claimed)) => claimed,
                Ok(Err(error)) => {
                    tracing::warn!(error = %Chain(&error), "runs could not be claimed");
                    0
                }
                Err(_) => {
                    tracing::warn!("runs could not be claimed: the database does not answer");
                    0
                }
            };
            turn += 1;
            let rest = if claimed > 0 { BREATH } else { SLEEP };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.wake.notified(), if claimed == 0 => tokio::time::sleep(BREATH).await,
                () = tokio::time::sleep(rest) => {}
            }
        }
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Wakes the workers when somebody makes runs. Only hints: when one is lost, the timers go on.
    pub async fn hear(self, store: RunStore) {
        while !self.stop.is_cancelled() {
            let listening = async {
                let mut hints = store.listen().await?;
                loop {
                    hints.next().await?;
                    self.wake();
                }
            };
            let ended: Result<(), StoreError> = tokio::select! {
                ended = listening => ended,
                () = self.stop.cancelled() => return,
            };
            if let Err(error) = ended {
                tracing::debug!(error = %Chain(&error), "no hints of new runs");
            }
            tokio::select! {
                () = tokio::time::sleep(SLEEP) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Makes up for what was left over: deletions at the vendors, and runs of former names.
    pub async fn sweep(mut self) {
        let mut swept_at: Option<Instant> = None;
        while !self.stop.is_cancelled() {
            let in_force = Arc::clone(&self.in_force.borrow_and_update());
            let sweeping = async {
                if swept_at.is_none_or(|at| at.elapsed() >= SWEEP) {
                    swept_at = Some(Instant::now());
                    let swept = tokio::time::timeout(LOST, in_force.worker.sweep()).await;
                    if let Ok(Err(error)) = swept {
                        tracing::debug!(error = %Chain(&error), "deletions at the vendors could not be looked for");
                    }
                }
                let taken = tokio::time::timeout(LOST, in_force.take_over_the_rest(&in_force.worker.store)).await;
                if let Ok(Err(error)) = taken {
                    tracing::debug!(error = %Chain(&error), "runs of former names could not be looked for");
                }
            };
            tokio::select! {
                () = sweeping => {}
                () = self.stop.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(FORMER) => {}
                // A change of jobs may have renamed some.
                changed = self.in_force.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// One claim; returns how many runs it took.
    async fn claim(&self, turn: usize) -> Result<usize, StoreError> {
        let free = u32::try_from(self.steps.available_permits()).unwrap_or(STEPS);
        let worker = self.in_force.borrow().worker.clone();
        let claimants = self.claimants(&worker, turn);
        if free == 0 || claimants.is_empty() || self.held.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let asked = Instant::now();
        let claimed = worker.store.claim_due(&claimants, free).await?;
        crate::crash::point("claims-committed");
        let count = claimed.len();
        for one in claimed {
            worker.leases.hold(one.lease.token, asked);
            self.start(&worker, one);
        }
        Ok(count)
    }

    /// The accounts that can be worked for, and how many runs of each; they take turns at being first.
    fn claimants(&self, worker: &Worker, turn: usize) -> Vec<Claimant> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut left: HashMap<Vendor, u32> = Vendor::ALL.into_iter().map(|vendor| (vendor, OF_VENDOR)).collect();
        for ((_, vendor), busy) in &running {
            left.entry(*vendor).and_modify(|left| *left = left.saturating_sub(*busy));
        }
        let claimant = |account: Arc<crate::vendor::account::Account>| {
            // An account whose secret cannot be read calls nobody.
            let secrets = account.secrets().ok()?;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
            let ahead = (account.limits.requests_per_second * AHEAD_S).clamp(1.0, f64::from(STEPS)) as u32;
            let busy = running.get(&(account.connection.clone(), account.vendor)).copied().unwrap_or(0);
            let most = account.limits.max_in_flight.saturating_add(ahead).min(OF_ACCOUNT).saturating_sub(busy);
            let left = left.get_mut(&account.vendor)?;
            let most = most.min(*left);
            *left -= most;
            (most > 0).then(|| Claimant {
                connection: account.connection.clone(),
                vendor: account.vendor.as_str(),
                base_url: account.base_url.clone(),
                account: secrets.account.clone(),
                max_in_flight: account.limits.max_in_flight,
                most,
            })
        };
        let mut accounts = worker.accounts.all();
        let first = turn % accounts.len().max(1);
        accounts.rotate_left(first);
        accounts.into_iter().filter_map(claimant).collect()
    }

    /// The first claim of a schedule's run tells its job's watcher that it began; its end is told by a delivery.
    fn tell_of_start(&self, worker: &Worker, run: &Run) {
        if run.trigger != Trigger::Schedule || run.state != State::Queued || run.attempt_id.is_some() {
            return;
        }
        let in_force = self.in_force.borrow();
        let Some(url) = in_force.jobs.get(&run.job).and_then(|job| job.heartbeat.as_ref()) else { return };
        if let Ok(url) = worker.post.secret(url) {
            self.heart.beat(url, Beat::Start, Some(run.id), "");
        }
    }

    fn start(&self, worker: &Worker, claimed: Claimed) {
        let Ok(step) = Arc::clone(&self.steps).try_acquire_owned() else {
            // Only this loop takes permits, and it asked for no more than there were.
            worker.leases.drop(claimed.lease.token);
            return;
        };
        self.tell_of_start(worker, &claimed.run);
        let vendor = claimed.run.vendor.parse().unwrap_or(Vendor::Bik);
        let account = (claimed.run.connection.clone(), vendor);
        *self.running.lock().unwrap_or_else(PoisonError::into_inner).entry(account.clone()).or_default() += 1;
        let token = claimed.lease.token;
        let place = Place { workers: self.clone(), account, leases: worker.leases.clone(), token, _step: step };
        let span = tracing::info_span!(
            "step",
            run.id = %claimed.run.id,
            job = %claimed.run.job,
            connection = %claimed.run.connection,
            vendor = %claimed.run.vendor
        );
        let (worker, stop) = (worker.clone(), self.stop.clone());
        self.tracker.spawn(
            async move {
                let _place = place;
                step_of(&worker, &claimed, &stop).await;
            }
            .instrument(span),
        );
    }
}

/// Makes the step; what becomes of it is in the database by then.
async fn step_of(worker: &Worker, claimed: &Claimed, stop: &CancellationToken) {
    let cut = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let stepped = tokio::select! {
        stepped = worker.step_until(claimed, cut, &|_| {}) => stepped,
        () = long_lost(worker, claimed) => {
            tracing::warn!("a step hung after its lease was lost, and was cut");
            return;
        }
    };
    match stepped {
        Ok(Stepped::Moved) => {}
        Ok(Stepped::LeaseLost) => tracing::info!("the run is another worker's now, or an operator's"),
        Ok(Stepped::NeedsPerson(why)) => tracing::warn!("the run waits for a person: {why}"),
        // Asking again at once changes nothing: the run is found again when its lease ends, and the 20th claim fails it.
        Err(error) if error.is_refusal() => {
            tracing::error!(error = %Chain(&error), "the database refuses what a step writes");
        }
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "a step stopped; it is made again");
            // If this fails too, the run is found again when its lease ends.
            if let Err(error) = worker.store.release_later(&claimed.lease, AGAIN, INTERRUPTED).await {
                tracing::debug!(error = %Chain(&error), "the run could not be given back");
            }
        }
    }
}

/// Ends when the lease has been gone for long.
async fn long_lost(worker: &Worker, claimed: &Claimed) {
    let mut gone_since: Option<Instant> = None;
    loop {
        tokio::time::sleep(Duration::from_secs(15)).await;
        if worker.leases.remaining(claimed.lease.token) > Duration::ZERO {
            gone_since = None;
        } else if gone_since.get_or_insert_with(Instant::now).elapsed() > LOST {
            return;
        }
    }
}
