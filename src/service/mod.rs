//! `reportd serve`: fires schedules, carries runs, survives anything. Any number of processes may serve one database.
//!
//! ```text
//! pulse.rs     a beat each second, by tokio-cron-scheduler, with a watchdog beside it
//! planner.rs   a beat -> due instants -> the ledger and runs
//! workers.rs   claim what is due -> one step each
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
pub mod planner;
pub mod pulse;
pub mod reload;
pub mod surface;
pub mod systemd;
pub mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::app::Place;
use crate::clock::Clock;
use crate::job_set::{self, ApplyError};
use crate::run::store::serving::{PulseRow, Replica};
use crate::run::store::{RunStore, StoreError};
use crate::settings::Settings;
use crate::telemetry::Chain;
use crate::worker::Worker;
use crate::worker::open::OpenError;
use crate::yaml::{Problem, Severity};
use health::{Health, Part};
use in_force::InForce;
use planner::{PassError, Planner};
use pulse::Pulse;
use reload::{Loaded, Watcher};
use workers::Workers;

/// A question that takes longer has lost its connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// The same for work of many statements.
const LONG: Duration = Duration::from_secs(60);

/// Between two renewals of this process's row.
const BEAT: Duration = Duration::from_secs(10);

/// Between two looks whether a refused secret was changed.
const SECRETS: Duration = Duration::from_secs(60);

/// Why the service did not start.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Archive and database do not know each other.
    #[error(transparent)]
    Bond(#[from] OpenError),
    /// There is no job folder, and nothing was ever applied.
    #[error("{0}")]
    NoJobs(String),
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

/// The service's loop.
struct Service {
    options: Options,
    replica: Replica,
    /// The loop's own connection: steps that fill the pool must not keep anybody from planning.
    store: RunStore,
    in_force: watch::Sender<Arc<InForce>>,
    planner: Planner,
    workers: Workers,
    health: Health,
    beaten: Option<Instant>,
    /// `None` = to be done at the next beat.
    looked_at_secrets: Option<Instant>,
    said: Option<String>,
    was_without_database: bool,
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
    worker.check_bond().await?;
    worker.check_manifests().await?;
    let mut watcher = Watcher::new(options.place.clone(), settings.clone(), options.clock.clone(), options.follow);
    let Ok((watcher, first)) = tokio::task::spawn_blocking(move || {
        let first = watcher.load();
        (watcher, first)
    })
    .await
    else {
        return Ok(());
    };
    let store = worker.store.on_own_connection();
    let nothing = InForce::nothing(settings, worker);
    let (in_force, seen) = watch::channel(Arc::new(nothing));
    let workers = Workers::new(seen, stop.clone());
    let mut service = Service {
        replica: Replica { id: Uuid::new_v4(), follows: options.follow },
        options,
        store,
        in_force,
        planner: Planner::default(),
        workers: workers.clone(),
        health,
        beaten: None,
        looked_at_secrets: None,
        said: None,
        was_without_database: false,
    };
    // `status` must not call for a service that is just starting.
    service.beat(false, None).await;
    service.beaten = None;
    let mut waiting = match service.take(&first).await {
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
    let (news, mut loads) = mpsc::channel(1);
    tokio::spawn(watcher.watch(news, reload, stop.clone()));
    tokio::spawn(workers.clone().hear(service.store.clone()));
    tokio::spawn(workers.clone().sweep());
    let steps = tokio::spawn(workers.run());
    let mut pulse = Pulse::start();
    let mut due: Option<Instant> = Some(Instant::now());
    let watchdog = systemd::watchdog_interval();
    let mut dogged = Instant::now();
    let mut ready = false;
    loop {
        service.health.turned();
        let sleep = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            Some(loaded) = loads.recv() => waiting = Some(loaded),
            _ = pulse.beat() => {}
            () = sleep => {}
        }
        if let Some(loaded) = &waiting {
            match tokio::time::timeout(LONG, service.take(loaded)).await {
                Ok(Ok(())) => waiting = None,
                Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "the changed files wait to be applied"),
                Err(_) => tracing::warn!("the changed files wait to be applied: the database does not answer"),
            }
        }
        due = service.turn().await;
        if !ready && service.health.ready() {
            ready = true;
            systemd::ready().await;
        }
        if watchdog.is_some_and(|every| dogged.elapsed() >= every) && service.health.alive() {
            dogged = Instant::now();
            systemd::watchdog().await;
        }
    }
    service.health.draining();
    systemd::stopping().await;
    tracing::info!("stopping: nothing more is claimed; calls under way are finished");
    pulse.stop();
    if steps.await.is_err() {
        tracing::error!("the workers ended badly");
    }
    // A row that stays is taken for a process that is gone after a minute.
    drop(tokio::time::timeout(Duration::from_secs(3), service.store.gone(&service.replica)).await);
    tracing::info!("stopped");
    Ok(())
}

impl Service {
    /// One beat: ask what is due, and do it. Returns when the next instant is due, if that is before the next beat.
    async fn turn(&mut self) -> Option<Instant> {
        let asked = Instant::now();
        let row = match tokio::time::timeout(PATIENCE, self.store.pulse()).await {
            Ok(Ok(row)) => row,
            Ok(Err(error)) => return self.without_database(&Chain(&error).to_string()),
            Err(_) => return self.without_database("no answer within 20 s"),
        };
        self.health.trouble(Part::Database, None);
        if std::mem::take(&mut self.was_without_database) {
            self.in_force.send_modify(|now| *now = Arc::new(now.on_new_connections()));
        }
        if let Some(wait) = row.next_step_at.map(|at| (at - row.now).to_std().unwrap_or_default()) {
            match wait {
                Duration::ZERO => self.workers.wake(),
                wait if wait < Duration::from_secs(1) => self.workers.wake_in(wait),
                _ => {}
            }
        }
        let trouble = planner::trouble(&row, self.options.clock.now(), self.in_force.borrow().worker.archive.id());
        let planned = match trouble {
            Some(trouble) => Err(trouble),
            None => self.plan(&row).await,
        };
        let (more, trouble) = match planned {
            Ok(more) => (more, None),
            Err(trouble) => (false, Some(trouble)),
        };
        self.tell(trouble.as_deref());
        self.health.trouble(Part::Planner, trouble.clone());
        let complaint = trouble.clone().or_else(|| self.planner.complaint());
        if trouble.is_none() {
            self.health.passed(row.now);
        }
        self.beat(trouble.is_none(), complaint.as_deref()).await;
        self.look_at_secrets().await;
        if more {
            return Some(Instant::now());
        }
        let until = (row.next_fire_at? - row.now).to_std().unwrap_or_default();
        // What is overdue and stays so is another replica's, or one that cannot be planned here: the next beat looks again.
        (until > Duration::ZERO && until < Duration::from_secs(1) && trouble.is_none()).then(|| asked + until)
    }

    /// Decides what is due; returns whether more is, or what keeps it from deciding.
    async fn plan(&mut self, row: &PulseRow) -> Result<bool, String> {
        if row.version != self.in_force.borrow().version {
            let loaded = tokio::time::timeout(LONG, self.load_set(None)).await;
            match loaded {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(unread(&error)),
                Err(_) => return Err(NO_ANSWER.to_owned()),
            }
        }
        if row.next_fire_at.is_none_or(|at| at > row.now) {
            return Ok(false);
        }
        let in_force = Arc::clone(&self.in_force.borrow());
        let store = self.store.clone();
        match tokio::time::timeout(LONG, self.planner.pass(&store, &in_force)).await {
            Ok(Ok(passed)) => {
                if passed.made.runs > 0 {
                    self.workers.wake();
                }
                Ok(passed.more)
            }
            // Loaded at the next turn, which comes at once.
            Ok(Err(PassError::Changed)) => Ok(true),
            Ok(Err(PassError::Store(error))) => {
                self.renew_connection();
                tracing::warn!(error = %Chain(&error), "a planner pass failed");
                Err("a statement of the planner failed (see the log)".to_owned())
            }
            Err(_) => {
                self.renew_connection();
                Err(NO_ANSWER.to_owned())
            }
        }
    }

    /// The database does not answer: the loop's connection is made anew, and the next beat asks again.
    fn without_database(&mut self, why: &str) -> Option<Instant> {
        // What a probe may know; the log has the cause.
        self.health.trouble(Part::Database, Some("it does not answer".to_owned()));
        self.tell(Some(&format!("the database does not answer: {why}")));
        self.was_without_database = true;
        self.renew_connection();
        None
    }

    fn renew_connection(&mut self) {
        self.store = self.in_force.borrow().worker.store.on_own_connection();
    }

    /// Logs what keeps this process from planning, once.
    fn tell(&mut self, trouble: Option<&str>) {
        if self.said.as_deref() == trouble {
            return;
        }
        match trouble {
            Some(trouble) => tracing::error!("schedules are not fired by this process: {trouble}"),
            None => tracing::info!("schedules are fired again"),
        }
        self.said = trouble.map(str::to_owned);
    }

    /// Renews this process's row now and then.
    async fn beat(&mut self, passed: bool, trouble: Option<&str>) {
        if self.beaten.is_some_and(|at| at.elapsed() < BEAT) {
            return;
        }
        match tokio::time::timeout(PATIENCE, self.store.beat(&self.replica, passed, trouble)).await {
            Ok(Ok(())) => self.beaten = Some(Instant::now()),
            Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "this process's row could not be renewed"),
            Err(_) => self.renew_connection(),
        }
    }

    /// Looks now and then whether a refused or missing secret was changed.
    async fn look_at_secrets(&mut self) {
        if self.looked_at_secrets.is_some_and(|at| at.elapsed() < SECRETS) {
            return;
        }
        self.looked_at_secrets = Some(Instant::now());
        let in_force = Arc::clone(&self.in_force.borrow());
        match tokio::time::timeout(PATIENCE, in_force.look_at_secrets(&self.store)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "changed secrets could not be looked for"),
            Err(_) => self.renew_connection(),
        }
    }

    /// Takes over what stands in the files.
    async fn take(&mut self, loaded: &Loaded) -> Result<(), StoreError> {
        for problem in loaded.config_problems.iter().chain(&loaded.jobs.problems) {
            tell_of(problem);
        }
        if let Some(texts) = &loaded.texts {
            match job_set::apply(&self.store, texts, &loaded.jobs).await {
                Ok(applied) if applied.is_unchanged() => {}
                Ok(applied) => tracing::info!(
                    version = applied.version,
                    added = applied.added.len(),
                    changed = applied.changed.len(),
                    removed = applied.removed.len(),
                    "the job folder is in force"
                ),
                Err(ApplyError::Store(error)) => return Err(error),
                Err(error @ ApplyError::Emptied(_)) => tracing::error!("{error}"),
            }
        }
        self.load_set(Some(loaded.settings.clone())).await
    }

    /// Loads the set in force, with new settings or the present ones.
    async fn load_set(&mut self, settings: Option<Settings>) -> Result<(), StoreError> {
        let present = Arc::clone(&self.in_force.borrow());
        let fresh = settings.is_some();
        let next = present.next(&self.store, settings, self.options.clock.now()).await?;
        tracing::info!(version = next.version, jobs = next.jobs.len(), "jobs are loaded");
        self.in_force.send_replace(Arc::new(next));
        if fresh {
            self.looked_at_secrets = None;
        }
        self.workers.wake();
        Ok(())
    }
}

const NO_ANSWER: &str = "the database does not answer";

fn unread(error: &StoreError) -> String {
    tracing::warn!(error = %Chain(error), "the set of jobs in force could not be read");
    "the set of jobs in force could not be read (see the log)".to_owned()
}

fn tell_of(problem: &Problem) {
    let text = problem.text();
    let text = text.trim_end();
    match problem.severity {
        Severity::Error => tracing::error!("{text}"),
        Severity::Warning => tracing::debug!("{text}"),
    }
}
