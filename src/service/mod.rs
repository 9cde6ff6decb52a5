//! `reportd serve`: fires schedules, carries runs, survives anything. Any number of processes may serve one database.
//!
//! ```text
//! pulse.rs     a beat each second, by tokio-cron-scheduler, with a watchdog beside it
//! planner.rs   a beat -> due instants -> the ledger and runs
//! workers.rs   claim what is due -> one step each
//! notices.rs   deliveries: made, and sent
//! turn.rs      one turn of the loop between them
//! reload.rs    config and job files -> what is new
//! in_force.rs  the set in force, compiled against this process's settings
//! health.rs    how the process stands; surface.rs  /healthz and /readyz
//! systemd.rs   READY, STOPPING, WATCHDOG
//! ```
//!
//! This file is the loop between them. It trusts no timer, no hint and no file event alone: whatever is lost is found again
//! at the next beat, because everything that is to be done is a row with a time.

pub mod health;
pub mod in_force;
mod notices;
pub mod planner;
pub mod pulse;
pub mod reload;
pub mod surface;
pub mod systemd;
mod turn;
pub mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::Place;
use crate::clock::Clock;
use crate::run::store::{RunStore, StoreError};
use crate::settings::Settings;
use crate::telemetry::Chain;
use crate::worker::Worker;
use crate::worker::open::OpenError;
use health::{Health, Part};
use pulse::Pulse;
use reload::{Loaded, Watcher};
use turn::Service;

/// A question that takes longer has lost its connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why the service did not start.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Archive and database do not know each other.
    #[error(transparent)]
    Bond(#[from] OpenError),
    /// There is no job folder, and nothing was ever applied.
    #[error("{0}")]
    NoJobs(String),
    /// A part of it ended by itself, which none does unless the program is wrong.
    #[error("{0} ended by itself (see the log): start reportd serve anew")]
    Died(&'static str),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What `serve` was told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where config and jobs are.
    pub place: Place,
    /// Jobs come from the database alone.
    pub follow: bool,
    /// The process's clock.
    pub clock: Clock,
}

/// What was made ready at the start.
struct Started {
    service: Service,
    watcher: Watcher,
    /// Files that are still to be applied.
    waiting: Option<Loaded>,
}

/// Serves until `stop` is cancelled. `reload` changes when somebody asks for a reload.
pub async fn serve(
    worker: Worker,
    settings: Settings,
    options: Options,
    health: Health,
    reload: watch::Receiver<u64>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    // Whoever opened the database has made sure of its schema.
    health.trouble(Part::Migrations, None);
    let Started { mut service, watcher, mut waiting } = tokio::select! {
        started = start(worker, settings, options, health.clone(), stop.clone()) => started?,
        () = stop.cancelled() => return Ok(()),
        never = keep_turning(&health) => match never {},
    };
    let workers = service.workers.clone();
    let (news, mut loads) = mpsc::channel(1);
    // None of these ends before it is told to; one that does must not go unnoticed.
    let mut beside = JoinSet::new();
    let due = Arc::new(Notify::new());
    let telling = notices::tell(service.in_force.subscribe(), workers.ended(), Arc::clone(&due), stop.clone());
    let sending = notices::send(service.in_force.subscribe(), due, stop.clone());
    let (files, hints, left_over) = (
        watcher.watch(news, reload, stop.clone()),
        workers.clone().hear(service.store.clone()),
        workers.clone().sweep(),
    );
    beside.spawn(async move {
        files.await;
        "the watch over config and job files"
    });
    beside.spawn(async move {
        hints.await;
        "the ear for new runs"
    });
    beside.spawn(async move {
        left_over.await;
        "the sweep of what was left over"
    });
    // These are waited for when the service stops.
    let mut working = JoinSet::new();
    working.spawn(async move {
        workers.run().await;
        "the workers' loop"
    });
    working.spawn(async move {
        telling.await;
        "the loop that makes deliveries"
    });
    working.spawn(async move {
        sending.await;
        "the loop that sends them"
    });
    let mut pulse = Pulse::start();
    let mut due: Option<Instant> = Some(Instant::now());
    let mut ready = false;
    let mut watchdog = Watchdog::default();
    let died = loop {
        service.health.turned();
        let sleep = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break None,
            Some(ended) = working.join_next() => break Some(ended.unwrap_or("a loop that works")),
            Some(ended) = beside.join_next() => break Some(ended.unwrap_or("a loop beside the planner")),
            Some(loaded) = loads.recv() => waiting = Some(loaded),
            _ = pulse.beat() => {}
            () = sleep => {}
        }
        if let Some(loaded) = &waiting
            && service.take_in_time(loaded).await
        {
            waiting = None;
        }
        due = service.turn().await;
        if !ready && service.health.ready() {
            ready = true;
            systemd::ready().await;
        }
        watchdog.say(&service.health).await;
    };
    if let Some(died) = died.filter(|_| !stop.is_cancelled()) {
        stop.cancel();
        tracing::error!("{died} ended by itself; the service stops");
        service.end(&mut working, pulse).await;
        return Err(ServeError::Died(died));
    }
    service.end(&mut working, pulse).await;
    tracing::info!("stopped");
    Ok(())
}

/// Makes everything ready: the bond between archive and database, the files, the set in force.
async fn start(
    worker: Worker,
    settings: Settings,
    options: Options,
    health: Health,
    stop: CancellationToken,
) -> Result<Started, ServeError> {
    worker.check_bond().await?;
    worker.check_manifests().await?;
    let watcher = Watcher::new(options.place.clone(), settings.clone(), options.clock.clone(), options.follow);
    let (mut watcher, mut first) = load(watcher).await?;
    if lacks_files(&worker.store, &first).await {
        // A checkout takes files away and puts them back: a removal counts when a second look finds it too.
        tracing::info!("job files are missing; the folder is looked at once more");
        tokio::time::sleep(CHECKOUT).await;
        (watcher, first) = load(watcher).await?;
    }
    let mut service = Service::new(worker, settings, options, health, stop);
    // `status` must not call for a service that is just starting.
    service.sign_on().await;
    let waiting = match service.take(&first).await {
        Ok(()) => {
            if let (None, Some(problem)) = (&first.texts, first.jobs.problems.first())
                && service.in_force.borrow().version == 0
            {
                return Err(ServeError::NoJobs(problem.text().trim_end().to_owned()));
            }
            None
        }
        Err(error) if error.is_refusal() => return Err(error.into()),
        // A replica that froze in its transaction may hold the set for longer than we wait for a lock: the loop tries again.
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "the files wait to be applied");
            Some(first)
        }
    };
    Ok(Started { service, watcher, waiting })
}

async fn load(mut watcher: Watcher) -> Result<(Watcher, Loaded), ServeError> {
    let loaded = tokio::task::spawn_blocking(move || {
        let loaded = watcher.load();
        (watcher, loaded)
    });
    loaded.await.map_err(|_| ServeError::Died("the first look at config and job files"))
}

/// How long a checkout may take between taking a file away and putting it back.
const CHECKOUT: Duration = Duration::from_secs(5);

/// Whether jobs may be in force whose files the folder does not have: a database that does not tell is asked once more, when the
/// files are applied.
async fn lacks_files(store: &RunStore, loaded: &Loaded) -> bool {
    let Some(texts) = &loaded.texts else { return false };
    let names: Vec<&str> = texts.iter().map(|text| text.name.as_str()).collect();
    store.jobs_besides(&names).await.map_or(true, |lacking| !lacking.is_empty())
}

/// Says that the process lives while something takes long.
async fn keep_turning(health: &Health) -> std::convert::Infallible {
    loop {
        health.turned();
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// systemd's watchdog, fed as often as it asks for.
#[derive(Default)]
struct Watchdog {
    said: Option<Instant>,
}

impl Watchdog {
    async fn say(&mut self, health: &Health) {
        let Some(every) = systemd::watchdog_interval() else { return };
        if self.said.is_none_or(|at| at.elapsed() >= every) && health.alive() {
            self.said = Some(Instant::now());
            systemd::watchdog().await;
        }
    }
}
