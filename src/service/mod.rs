//! `reportd serve`: fires schedules, carries runs, survives anything. Any number of processes may serve one database.
//!
//! ```text
//! pulse.rs     a beat each second, by tokio-cron-scheduler, with a watchdog beside it
//! planner.rs   a beat -> due instants -> the ledger and runs
//! workers.rs   claim what is due -> one step each
//! reload.rs    config and job files -> what is new
//! health.rs    how the process stands; surface.rs  /healthz and /readyz
//! systemd.rs   READY, STOPPING, WATCHDOG
//! ```
//!
//! This file is the loop between them. It trusts no timer, no hint and no file event alone: whatever is lost is found again
//! at the next beat, because everything that is to be done is a row with a time.

pub mod health;
pub mod planner;
pub mod pulse;
pub mod reload;
pub mod surface;
pub mod systemd;
pub mod workers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::app::Place;
use crate::clock::Clock;
use crate::connection::Connection;
use crate::job::{self, Job, Series};
use crate::job_set::{self, ApplyError};
use crate::request::Vendor;
use crate::run::store::claim::Permit;
use crate::run::store::serving::{PulseRow, Replica};
use crate::run::store::{RunStore, StoreError};
use crate::settings::Settings;
use crate::telemetry::Chain;
use crate::worker::open::OpenError;
use crate::worker::{Accounts, Worker};
use crate::yaml::{Problem, Severity};
use health::{Health, Part};
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
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What this process works with at the moment; replaced as a whole.
#[derive(Debug)]
pub struct InForce {
    /// The version of the set that the jobs were compiled from.
    pub version: i64,
    /// Raised by every load here.
    pub generation: i64,
    /// The settings.
    pub settings: Settings,
    /// The jobs, by name.
    pub jobs: HashMap<String, Job>,
    /// What makes steps, with the accounts of these settings.
    pub worker: Worker,
}

impl InForce {
    /// A series of the set with its connection; the error says why it cannot be had here.
    pub fn series(&self, job: &str, connection: &str) -> Result<(&Job, &Series, &Connection), String> {
        let job = self.jobs.get(job).ok_or("its job file does not go with this config (see reportd validate)")?;
        let series = job.series.iter().find(|series| series.connection == connection);
        let found = series.zip(job::connection(&self.settings.connections, connection));
        let (series, connection) = found.ok_or_else(|| format!("this config has no connection {connection} for it"))?;
        Ok((job, series, connection))
    }
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
    let nothing = InForce { version: -1, generation: 0, settings, jobs: HashMap::new(), worker };
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
    };
    service.take(&first).await?;
    let (news, mut loads) = mpsc::channel(1);
    tokio::spawn(watcher.watch(news, reload, stop.clone()));
    tokio::spawn(hear(service.store.clone(), workers.clone(), stop.clone()));
    let steps = tokio::spawn(workers.run());
    let mut pulse = Pulse::start();
    let mut due: Option<Instant> = Some(Instant::now());
    let watchdog = systemd::watchdog_interval();
    let mut dogged = Instant::now();
    let mut ready = false;
    let mut waiting: Option<Loaded> = None;
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

/// Wakes the workers when somebody makes runs.
async fn hear(store: RunStore, workers: Workers, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let listening = async {
            let mut hints = store.listen().await?;
            loop {
                hints.next().await?;
                workers.wake();
            }
        };
        let ended: Result<(), StoreError> = tokio::select! {
            ended = listening => ended,
            () = stop.cancelled() => return,
        };
        if let Err(error) = ended {
            // Only a hint is lost: the timers go on.
            tracing::debug!(error = %Chain(&error), "no hints of new runs");
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Service {
    /// One beat: ask what is due, and do it. Returns when the next instant is due, if that is before the next beat.
    async fn turn(&mut self) -> Option<Instant> {
        let asked = Instant::now();
        let row = match tokio::time::timeout(PATIENCE, self.store.pulse()).await {
            Ok(Ok(row)) => row,
            Ok(Err(error)) => return self.without_database(&Chain(&error).to_string()),
            Err(_) => return self.without_database("it does not answer"),
        };
        self.health.trouble(Part::Database, None);
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
        self.beat(complaint.as_deref()).await;
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
            let why = match loaded {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(Chain(&error).to_string()),
                Err(_) => Some("the database does not answer".to_owned()),
            };
            if let Some(why) = why {
                return Err(format!("the set of jobs in force could not be read: {why}"));
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
                Err(Chain(&error).to_string())
            }
            Err(_) => {
                self.renew_connection();
                Err("the database does not answer".to_owned())
            }
        }
    }

    /// The database does not answer: the loop's connection is made anew, and the next beat asks again.
    fn without_database(&mut self, why: &str) -> Option<Instant> {
        self.health.trouble(Part::Database, Some(why.to_owned()));
        self.tell(Some(&format!("the database does not answer: {why}")));
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
    async fn beat(&mut self, trouble: Option<&str>) {
        if self.beaten.is_some_and(|at| at.elapsed() < BEAT) {
            return;
        }
        match tokio::time::timeout(PATIENCE, self.store.beat(&self.replica, trouble)).await {
            Ok(Ok(())) => self.beaten = Some(Instant::now()),
            Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "this process's row could not be renewed"),
            Err(_) => self.renew_connection(),
        }
    }

    /// A secret that a vendor refused, or that was missing, may have been changed: then its runs go on at once.
    async fn look_at_secrets(&mut self) {
        if self.looked_at_secrets.is_some_and(|at| at.elapsed() < SECRETS) {
            return;
        }
        self.looked_at_secrets = Some(Instant::now());
        let Ok(Ok(open)) = tokio::time::timeout(PATIENCE, self.store.open_breakers()).await else { return };
        let accounts = self.in_force.borrow().worker.accounts.clone();
        for (connection, vendor, refused) in open {
            let Ok(vendor_word) = vendor.parse::<Vendor>() else { continue };
            let Some((_, account)) = accounts.get(&connection, vendor_word) else { continue };
            let Ok(secrets) = account.reload() else { continue };
            // Compared with the refused one, not with the one read before: a reload of the files has read it anew already.
            if refused.as_ref() != Some(&secrets.fingerprint)
                && let Err(error) = self.store.wake_blocked(&connection, &vendor).await
            {
                tracing::warn!(error = %Chain(&error), "runs could not be woken after their secret was changed");
            }
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

    /// Compiles the set in force against new settings, or the present ones.
    async fn load_set(&mut self, settings: Option<Settings>) -> Result<(), StoreError> {
        let set = self.store.job_set().await?;
        let now = Arc::clone(&self.in_force.borrow());
        let fresh = settings.is_some();
        let settings = settings.unwrap_or_else(|| now.settings.clone());
        if fresh && settings.archive != now.settings.archive {
            tracing::warn!("`archive` was changed in the config: that takes effect when reportd serve is started anew");
        }
        let jobs = job_set::compile(&set, &settings.connections, &settings.defaults, self.options.clock.now());
        for problem in jobs.problems.iter().filter(|p| p.severity == Severity::Error) {
            tracing::error!("a job of the set in force does not go with this config: {}", problem.text().trim_end());
        }
        let mut worker = now.worker.clone();
        if fresh {
            worker.accounts = Accounts::new(&settings, &worker.store.instance().await?.salt);
        }
        let jobs: HashMap<String, Job> = jobs.jobs.into_iter().map(|job| (job.name.clone(), job)).collect();
        let next = InForce { version: set.version, generation: now.generation + 1, settings, jobs, worker };
        self.open_breakers_of_missing_secrets(&next).await?;
        tracing::info!(version = next.version, jobs = next.jobs.len(), "jobs are loaded");
        self.in_force.send_replace(Arc::new(next));
        if fresh {
            self.looked_at_secrets = None;
        }
        self.workers.wake();
        Ok(())
    }

    /// A secret that is missing is a vendor that would refuse us: the runs wait, and `status` says so.
    async fn open_breakers_of_missing_secrets(&self, next: &InForce) -> Result<(), StoreError> {
        let mut seen = std::collections::HashSet::new();
        for job in next.jobs.values() {
            for series in &job.series {
                if !seen.insert((&series.connection, job.vendor())) {
                    continue;
                }
                let Some((_, account)) = next.worker.accounts.get(&series.connection, job.vendor()) else { continue };
                let Err(error) = account.secrets() else { continue };
                let reason = format!("the secret cannot be read: {}", Chain(&error));
                let permit = Permit {
                    connection: &account.connection,
                    vendor: account.vendor.as_str(),
                    requests_per_second: account.limits.requests_per_second,
                    max_in_flight: account.limits.max_in_flight,
                    secret: "",
                };
                if self.store.open_breaker(&permit, &reason, false).await? {
                    tracing::warn!(connection = permit.connection, vendor = permit.vendor, "{reason}; its runs wait");
                }
            }
        }
        Ok(())
    }
}

fn tell_of(problem: &Problem) {
    let text = problem.text();
    let text = text.trim_end();
    match problem.severity {
        Severity::Error => tracing::error!("{text}"),
        Severity::Warning => tracing::debug!("{text}"),
    }
}
