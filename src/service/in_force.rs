//! What a serving process works with at the moment: the set in force, compiled against its own settings, and the accounts of
//! those. It is replaced as a whole, so that nobody sees half a change; steps under way keep the one they began with.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};

use crate::connection::Connection;
use crate::job::{self, Job, Series};
use crate::job_set;
use crate::request::Vendor;
use crate::run::store::claim::Identity;
use crate::run::store::permit::Permit;
use crate::run::store::{RunStore, StoreError};
use crate::settings::Settings;
use crate::telemetry::Chain;
use crate::worker::post::Post;
use crate::worker::{Accounts, Worker};
use crate::yaml::Severity;

/// What this process works with at the moment; replaced as a whole.
#[derive(Clone, Debug)]
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
    /// Before the set was loaded for the first time.
    pub fn nothing(settings: Settings, worker: Worker) -> InForce {
        InForce { version: -1, generation: 0, settings, jobs: HashMap::new(), worker }
    }

    /// The set as it is now, compiled against new settings or the present ones.
    pub async fn next(
        &self,
        store: &RunStore,
        settings: Option<Settings>,
        now: DateTime<Utc>,
    ) -> Result<InForce, StoreError> {
        let set = store.job_set().await?;
        let mut worker = self.worker.clone();
        let settings = match settings {
            Some(settings) => {
                if settings.archive != self.settings.archive {
                    tracing::warn!("`archive` was changed in the config: that takes effect when serve is started anew");
                }
                // New accounts read their secrets anew.
                worker.accounts = Accounts::new(&settings, &store.instance().await?.salt);
                worker.post = Post::new(&settings, worker.post.outside.clone());
                settings
            }
            None => self.settings.clone(),
        };
        let jobs = job_set::compile(&set, &settings.connections, &settings.defaults, now);
        for problem in jobs.problems.iter().filter(|p| p.severity == Severity::Error) {
            tracing::error!("a job of the set in force does not go with this config: {}", problem.text().trim_end());
        }
        let jobs = jobs.jobs.into_iter().map(|job| (job.name.clone(), job)).collect();
        let next = InForce { version: set.version, generation: self.generation + 1, settings, jobs, worker };
        next.open_breakers_of_missing_secrets(store).await?;
        // Before anything is decided: an instant must see what stands under a former name.
        next.take_over_the_rest(store).await?;
        Ok(next)
    }

    /// The same over new connections to the database: a network that swallowed packets leaves some that neither answer nor
    /// end. Steps under way keep theirs.
    #[must_use]
    pub fn on_new_connections(&self) -> InForce {
        let mut next = self.clone();
        next.worker.store = self.worker.store.on_new_connections();
        next
    }

    /// A series of the set with its connection; the error says why it cannot be had here.
    pub fn series(&self, job: &str, connection: &str) -> Result<(&Job, &Series, &Connection), String> {
        let job = self.jobs.get(job).ok_or("its job file does not go with this config (see reportd validate)")?;
        let series = job.series.iter().find(|series| series.connection == connection);
        let found = series.zip(job::connection(&self.settings.connections, connection));
        let (series, connection) = found.ok_or_else(|| format!("this config has no connection {connection} for it"))?;
        Ok((job, series, connection))
    }

    /// A secret that is missing is a vendor that would refuse us: the runs wait, and `status` says so.
    async fn open_breakers_of_missing_secrets(&self, store: &RunStore) -> Result<(), StoreError> {
        let mut seen = HashSet::new();
        for job in self.jobs.values() {
            for series in &job.series {
                if !seen.insert((&series.connection, job.vendor())) {
                    continue;
                }
                let Some((_, account)) = self.worker.accounts.get(&series.connection, job.vendor()) else { continue };
                let Err(error) = account.secrets() else { continue };
                let reason = format!("the secret cannot be read: {}", Chain(&error));
                let permit = Permit {
                    connection: &account.connection,
                    vendor: account.vendor.as_str(),
                    requests_per_second: account.limits.requests_per_second,
                    max_in_flight: account.limits.max_in_flight,
                    secret: "",
                };
                if store.open_breaker(&permit, &reason, false).await? {
                    tracing::warn!(connection = permit.connection, vendor = permit.vendor, "{reason}; its runs wait");
                }
            }
        }
        Ok(())
    }

    /// Takes over what a former name still has: runs that stayed there, and revisions that a rebuild brought, where the next
    /// instant of their windows would not see them.
    pub async fn take_over_the_rest(&self, store: &RunStore) -> Result<(), StoreError> {
        let mut renamed = store.former_names().await?;
        renamed.retain(|(_, _, job)| self.jobs.contains_key(job));
        for job in self.jobs.values() {
            for (was, series) in job.was.iter().flat_map(|was| job.series.iter().map(move |series| (was, series))) {
                renamed.push((was.clone(), series.connection.clone(), job.name.clone()));
            }
        }
        if renamed.is_empty() {
            return Ok(());
        }
        for (former, connection, job) in store.left_behind(&renamed).await? {
            let Some(job) = self.jobs.get(&job) else { continue };
            match store.series_of(&job.name, &connection, job.vendor().as_str(), &[former]).await {
                // A former name that is in force again is another job's, and keeps what it has.
                Ok(_) | Err(StoreError::Refused(_)) => {}
                // Another job's history is not kept waiting by this one's.
                Err(error) => {
                    tracing::warn!(job = job.name, error = %Chain(&error), "runs of its former name stay there");
                }
            }
        }
        Ok(())
    }

    /// A secret that a vendor refused, or that was missing, may have been changed: then its runs go on at once. So may one that the
    /// vendor still accepts, when runs are due that were made with another.
    pub async fn look_at_secrets(&self, store: &RunStore) -> Result<(), StoreError> {
        for (connection, vendor, account) in store.accounts_of_due_runs().await? {
            let mine = vendor.parse::<Vendor>().ok().and_then(|v| self.worker.accounts.get(&connection, v));
            let Some((_, mine)) = mine else { continue };
            if mine.secrets().is_ok_and(|secrets| secrets.account != account) && mine.reload_as(&account) {
                tracing::info!(
                    connection,
                    vendor,
                    "a secret was changed: runs are due that were made with the new one"
                );
            }
        }
        for (connection, vendor, refused) in store.open_breakers().await? {
            let account = vendor.parse::<Vendor>().ok().and_then(|v| self.worker.accounts.get(&connection, v));
            let Some((_, account)) = account else { continue };
            let Ok(secrets) = account.reload() else { continue };
            // Compared with the refused one, not with the one read before: a reload of the files has read it anew already.
            if refused.as_deref() == Some("") {
                // It was missing, and no vendor has refused it: there is nothing to try out.
                store.close_breaker(&connection, &vendor).await?;
            } else if refused.as_ref() != Some(&secrets.fingerprint) {
                let identity = Identity { base_url: &account.base_url, account: &secrets.account };
                if store.wake_blocked(&connection, &vendor, &identity).await? == 0 {
                    // Nobody waits who could try it: the next run does.
                    store.close_breaker(&connection, &vendor).await?;
                }
            }
        }
        Ok(())
    }
}
