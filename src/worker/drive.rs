//! Carries one run to its end, for `run-job`: claim, step, wait. Knows neither vendors nor the archive.
//!
//! It drives its own runs only. Another process may work on the same run; then this one watches. When it is interrupted
//! the run stays, and goes on with `serve` or the next `run-job`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Worker;
use super::step::Stepped;
use crate::request::Vendor;
use crate::run::Run;
use crate::run::state::State;
use crate::run::store::StoreError;
use crate::run::store::claim::{Claimed, Identity};
use crate::run::store::query::TaskRow;
use crate::vendor::Progress;

/// How a drive ended.
#[derive(Clone, Debug)]
pub enum Driven {
    /// The run is in a terminal state, or held.
    Ended(Run),
    /// It goes on by itself only after a person did something; says what.
    NeedsPerson(Run, String),
    /// The time to wait was over.
    TimedOut(Run),
    /// The process was asked to stop.
    Interrupted(Run),
}

/// What watchers hear.
#[derive(Clone, Debug)]
pub enum Update {
    /// The run as it stands now, with the vendor's task where there is one.
    Run(Box<Run>, Option<TaskRow>),
    /// How far the step has come.
    Step(Progress),
}

/// Seconds for which a database that does not answer is waited for.
const DATABASE_TRIES: u32 = 60;

/// Longest sleep between two looks at a run that another process may work on.
const LOOK: Duration = Duration::from_millis(500);

impl Worker {
    /// Carries the run on until it ends, `until` is over, or `stop` is cancelled.
    pub async fn drive(
        &self,
        id: Uuid,
        until: Option<Instant>,
        stop: &CancellationToken,
        watch: &(dyn Fn(Update) + Send + Sync),
    ) -> Result<Driven, StoreError> {
        let mut patience = DATABASE_TRIES;
        loop {
            match self.drive_on(id, until, stop, watch).await {
                Err(error @ (StoreError::Database { .. } | StoreError::Silent { .. }))
                    if patience > 0 && !stop.is_cancelled() =>
                {
                    // The database was restarted, or is out of reach for a moment: the run's lease tells the rest.
                    tracing::warn!(run.id = %id, error = %crate::telemetry::Chain(&error), "the database does not answer");
                    patience -= 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                other => return other,
            }
        }
    }

    async fn drive_on(
        &self,
        id: Uuid,
        until: Option<Instant>,
        stop: &CancellationToken,
        watch: &(dyn Fn(Update) + Send + Sync),
    ) -> Result<Driven, StoreError> {
        self.store.nudge(id).await?;
        loop {
            let run = self.look(id).await?;
            if run.state.is_terminal() || run.state == State::Held {
                self.tell(&run, watch).await?;
                return Ok(Driven::Ended(run));
            }
            if stop.is_cancelled() {
                return Ok(Driven::Interrupted(run));
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(Driven::TimedOut(run));
            }
            let (base_url, account) = match self.identity(&run) {
                Ok(identity) => identity,
                Err(why) => return Ok(Driven::NeedsPerson(run, why)),
            };
            let asked = Instant::now();
            match self.store.claim(id, &Identity { base_url: &base_url, account: &account }).await? {
                Some(claimed) => {
                    self.leases.hold(claimed.lease.token, asked);
                    let stepped = self.step_or_stop(&claimed, until, stop, watch).await;
                    self.leases.drop(claimed.lease.token);
                    if let Stepped::NeedsPerson(why) = stepped? {
                        let run = self.look(id).await?;
                        self.tell(&run, watch).await?;
                        return Ok(Driven::NeedsPerson(run, why));
                    }
                    self.tell(&self.look(id).await?, watch).await?;
                }
                None => {
                    self.tell(&run, watch).await?;
                    self.pause(&run, until, stop).await?;
                }
            }
        }
    }

    async fn look(&self, id: Uuid) -> Result<Run, StoreError> {
        self.store.run(id).await?.ok_or_else(|| StoreError::Refused(format!("run {id} is not in the database")))
    }

    async fn tell(&self, run: &Run, watch: &(dyn Fn(Update) + Send + Sync)) -> Result<(), StoreError> {
        let task = if run.attempt_id.is_some() { self.store.last_task(run).await? } else { None };
        watch(Update::Run(Box::new(run.clone()), task));
        Ok(())
    }

    /// Why this process may not work on a run: it was made for another account, or another place.
    pub fn refuses(&self, run: &Run) -> Option<String> {
        self.identity(run).err()
    }

    /// Base URL and account of this process for the run's connection; the error says why the run is not ours to work on.
    fn identity(&self, run: &Run) -> Result<(String, String), String> {
        let vendor: Vendor = run.vendor.parse()?;
        let Some((_, account)) = self.accounts.get(&run.connection, vendor) else {
            return Err(format!("the config has no connection {} with a {vendor} account", run.connection));
        };
        let secrets = account.secrets().map_err(|e| crate::telemetry::Chain(&e).to_string())?;
        if run.base_url != account.base_url {
            return Err(format!(
                "the run was made for {}, and connection {} now points at {}: `reportd cancel {}`, then start it anew",
                run.base_url,
                run.connection,
                account.base_url,
                crate::run::short(run.id)
            ));
        }
        if run.account != secrets.account && !run.account.is_empty() {
            return Err(format!(
                "the run was made for another account than connection {} has now: bring that back, or, if it is the same \
                 shop's, `reportd cancel {run}`, and then `reportd retry {run}`",
                run.connection,
                run = crate::run::short(run.id)
            ));
        }
        Ok((account.base_url.clone(), secrets.account.clone()))
    }

    /// Makes the step, until the time to wait is over or the process is asked to stop.
    async fn step_or_stop(
        &self,
        claimed: &Claimed,
        until: Option<Instant>,
        stop: &CancellationToken,
        watch: &(dyn Fn(Update) + Send + Sync),
    ) -> Result<Stepped, StoreError> {
        // A paged answer tells of every page; watchers want a few a second.
        let told = Mutex::new(Instant::now());
        let step_watch = |progress: Progress| {
            let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if told.elapsed() > Duration::from_millis(100) {
                *told = Instant::now();
                watch(Update::Step(progress));
            }
        };
        let timed_out = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        let cut = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = timed_out => {}
            }
        };
        self.step_until(claimed, cut, &step_watch).await
    }

    /// Waits until the run is due, or for a moment where another process has it.
    async fn pause(&self, run: &Run, until: Option<Instant>, stop: &CancellationToken) -> Result<(), StoreError> {
        let due = (run.next_step_at - self.store.now().await?).to_std().unwrap_or(Duration::from_millis(100));
        let left = until.map_or(LOOK, |until| until.saturating_duration_since(Instant::now()));
        let wait = due.min(LOOK).min(left).max(Duration::from_millis(5));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => {}
        }
        Ok(())
    }
}
