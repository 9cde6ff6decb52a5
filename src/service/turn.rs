//! One turn of the service's loop: ask what is due, plan it, take over changed files, keep this process's row.
//!
//! Nothing here waits for the database without an end: a question that is not answered in time is given up, its connection
//! is left alone, and the next turn asks on a new one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::health::{Health, Part};
use super::in_force::InForce;
use super::planner::{self, PassError, Planner};
use super::pulse::Pulse;
use super::reload::Loaded;
use super::workers::Workers;
use super::{Options, PATIENCE, Watchdog, systemd};
use crate::delivery::heartbeat::{Beat, Heart};
use crate::job_set::{self, ApplyError};
use crate::run::store::serving::{PulseRow, Replica};
use crate::run::store::{RunStore, StoreError};
use crate::settings::Settings;
use crate::telemetry::Chain;
use crate::worker::Worker;
use crate::yaml::{Problem, Severity};

/// A question takes at most PATIENCE; work of many statements this long.
const LONG: Duration = Duration::from_secs(30);

/// Between two renewals of this process's row.
const BEAT: Duration = Duration::from_secs(10);

/// Between two pings of an outside watcher: healthchecks.io takes five a minute (its page on rate limiting).
const PING: Duration = Duration::from_secs(20);

/// Between two looks whether a refused secret was changed.
const SECRETS: Duration = Duration::from_secs(60);

/// The service's loop.
pub(super) struct Service {
    options: Options,
    replica: Replica,
    /// The loop's own connection: steps that fill the pool must not keep anybody from planning.
    pub(super) store: RunStore,
    pub(super) in_force: watch::Sender<Arc<InForce>>,
    planner: Planner,
    pub(super) workers: Workers,
    pub(super) health: Health,
    beaten: Option<Instant>,
    /// Tells an outside watcher that schedules are fired.
    heart: Heart,
    pinged: Option<Instant>,
    /// `None` = to be done at the next beat.
    looked_at_secrets: Option<Instant>,
    said: Option<String>,
    /// What keeps the archive from being written; looked at now and then.
    archive: Option<String>,
    looked_at_archive: Option<Instant>,
    /// What is wrong with the job folder.
    folder: Option<String>,
    was_without_database: bool,
}

impl Service {
    /// A service that has loaded nothing yet.
    pub(super) fn new(
        worker: Worker,
        settings: Settings,
        options: Options,
        health: Health,
        stop: CancellationToken,
    ) -> Service {
        let store = worker.store.on_own_connection();
        // Two, since each sends one ping after the other: a job's watcher that hangs must not silence the service.
        let heart = Heart::start(worker.post.outside.clone());
        let jobs_heart = Heart::start(worker.post.outside.clone());
        let (in_force, seen) = watch::channel(Arc::new(InForce::nothing(settings, worker)));
        Service {
            replica: Replica { id: Uuid::new_v4(), follows: options.follow },
            options,
            store,
            in_force,
            planner: Planner::default(),
            workers: Workers::new(seen, stop, jobs_heart),
            heart,
            pinged: None,
            health,
            beaten: None,
            looked_at_secrets: None,
            said: None,
            archive: None,
            looked_at_archive: None,
            folder: None,
            was_without_database: false,
        }
    }

    /// Takes over changed files, if the database lets us; says so otherwise.
    pub(super) async fn take_in_time(&mut self, loaded: &Loaded) -> bool {
        let taken = tokio::time::timeout(LONG, self.take(loaded)).await;
        self.health.turned();
        match taken {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "the changed files wait to be applied"),
            Err(_) => {
                self.renew_connection();
                tracing::warn!("the changed files wait to be applied: the database does not answer");
            }
        }
        false
    }

    /// Stops claiming, waits for the steps under way, and signs off.
    pub(super) async fn end(&mut self, working: &mut JoinSet<&'static str>, pulse: Pulse) {
        self.health.draining();
        systemd::stopping().await;
        tracing::info!("stopping: nothing more is claimed; calls under way are finished");
        pulse.stop();
        let mut watchdog = Watchdog::default();
        while !working.is_empty() {
            self.health.turned();
            watchdog.say(&self.health).await;
            tokio::select! {
                Some(ended) = working.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a loop ended badly");
                    }
                }
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
        // A row that does not say so is taken for a process that is gone after a minute.
        drop(tokio::time::timeout(Duration::from_secs(3), self.store.sign_off(&self.replica)).await);
    }

    /// One beat: ask what is due, and do it. Returns when the next instant is due, if that is before the next beat.
    pub(super) async fn turn(&mut self) -> Option<Instant> {
        let asked = Instant::now();
        let row = match tokio::time::timeout(PATIENCE, self.store.pulse()).await {
            Ok(Ok(row)) => row,
            Ok(Err(error)) => return self.without_database(&Chain(&error).to_string()).await,
            Err(_) => return self.without_database("no answer within 20 s").await,
        };
        self.health.turned();
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
        self.look_at_archive().await;
        let trouble = planner::trouble(&row, self.options.clock.now(), self.in_force.borrow().worker.archive.id());
        let trouble = trouble.or_else(|| self.archive.clone());
        let planned = match trouble {
            Some(trouble) => Err(trouble),
            None => self.plan(&row).await,
        };
        let (more, trouble) = match planned {
            Ok(more) => (more, None),
            Err(trouble) => (false, Some(trouble)),
        };
        self.health.turned();
        self.tell(trouble.as_deref()).await;
        self.health.trouble(Part::Planner, trouble.clone());
        let complaint = trouble.clone().or_else(|| self.folder.clone()).or_else(|| self.planner.complaint());
        if trouble.is_none() {
            self.health.passed(row.now);
        }
        self.ping(trouble.as_deref());
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
                Err(_) => {
                    self.renew_connection();
                    return Err(NO_ANSWER.to_owned());
                }
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
    async fn without_database(&mut self, why: &str) -> Option<Instant> {
        // What a probe may know; the log has the cause.
        self.health.trouble(Part::Database, Some("it does not answer".to_owned()));
        self.tell(Some(&format!("the database does not answer: {why}"))).await;
        self.was_without_database = true;
        self.renew_connection();
        None
    }

    fn renew_connection(&mut self) {
        self.store = self.in_force.borrow().worker.store.on_own_connection();
    }

    /// Logs what keeps this process from planning, once.
    async fn tell(&mut self, trouble: Option<&str>) {
        if self.said.as_deref() == trouble {
            return;
        }
        systemd::status(trouble.unwrap_or("schedules are fired")).await;
        match trouble {
            Some(trouble) => tracing::error!("schedules are not fired by this process: {trouble}"),
            None => tracing::info!("schedules are fired again"),
        }
        self.said = trouble.map(str::to_owned);
    }

    /// Makes this process's row, which says that nothing was planned yet; the first turn renews it.
    pub(super) async fn sign_on(&mut self) {
        self.beat(false, None).await;
        self.beaten = None;
    }

    /// Pings the watcher now and then: this pass reached the database. One that does not is told by its silence.
    fn ping(&mut self, trouble: Option<&str>) {
        if self.pinged.is_some_and(|at| at.elapsed() < PING) {
            return;
        }
        let in_force = self.in_force.borrow();
        let Some(url) = &in_force.settings.heartbeat else { return };
        let url = url.read(&|name| in_force.settings.environment.get(name));
        let (beat, words) = match trouble {
            Some(trouble) => (Beat::Fail, trouble),
            None => (Beat::Success, ""),
        };
        match url {
            Ok(url) => {
                if self.pinged.is_none() {
                    self.heart.beat(url.clone(), Beat::Start, Some(self.replica.id), "");
                }
                self.heart.beat(url, beat, Some(self.replica.id), words);
            }
            Err(error) => tracing::warn!(error = %Chain(&error), "the heartbeat's URL cannot be read"),
        }
        self.pinged = Some(Instant::now());
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

    /// Looks now and then whether the archive can be written: without it nothing is planned and no vendor is asked.
    async fn look_at_archive(&mut self) {
        if self.looked_at_archive.is_some_and(|at| at.elapsed() < BEAT) {
            return;
        }
        self.looked_at_archive = Some(Instant::now());
        let archive = self.in_force.borrow().worker.archive.clone();
        self.archive = match tokio::time::timeout(PATIENCE, archive.check_usable()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => {
                tracing::debug!(error = %Chain(&error), "the archive cannot be used");
                Some(format!("the archive cannot be used: {}", Chain(&error)))
            }
            Err(_) => Some("the archive's file system does not answer".to_owned()),
        };
        self.workers.hold(self.archive.is_some());
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
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "changed secrets could not be looked for");
            }
            Err(_) => self.renew_connection(),
        }
    }

    /// Takes over what stands in the files.
    pub(super) async fn take(&mut self, loaded: &Loaded) -> Result<(), StoreError> {
        for problem in loaded.config_problems.iter().chain(&loaded.jobs.problems) {
            tell_of(problem);
        }
        let unreadable = || loaded.jobs.problems.first().map(|problem| problem.text().trim_end().to_owned());
        self.folder = if loaded.texts.is_none() { unreadable() } else { None };
        if let Some(texts) = &loaded.texts {
            match job_set::apply(&self.store, texts, &loaded.jobs, false).await {
                Ok(applied) => {
                    if !applied.is_unchanged() {
                        tracing::info!(
                            version = applied.version,
                            added = applied.added.len(),
                            changed = applied.changed.len(),
                            removed = applied.removed.len(),
                            "the job folder is in force"
                        );
                    }
                    if let [first, ..] = applied.left_out.as_slice() {
                        let (count, first) = (applied.left_out.len(), first.as_str());
                        tracing::warn!(count, first, "series fire no more: their job has no such connection any more");
                    }
                    for history in &applied.histories {
                        tracing::warn!("{history}");
                    }
                }
                Err(ApplyError::Store(error)) => return Err(error),
                Err(error @ ApplyError::Emptied(_)) => {
                    tracing::error!("{error}");
                    self.folder = Some(error.to_string());
                }
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
