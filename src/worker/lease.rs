//! The leases of this process: one task renews them all, with one statement, on the monotonic clock.
//!
//! The database's clock says when a lease ends for others; for us it ends LEASE after the moment *before* we asked, which
//! is never later. So "do I still hold it" needs no query and no synchronised clocks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::run::store::{LEASE, RunStore};

/// Renewal comes three times a lease, so that two may fail.
const EVERY: Duration = Duration::from_secs(20);

/// A question that takes longer has lost its connection: the next one has another.
const PATIENCE: Duration = Duration::from_secs(10);

/// The leases that this process holds.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    until: Arc<Mutex<HashMap<Uuid, Instant>>>,
}

impl Leases {
    /// Notes a lease that was asked for at `asked`.
    pub fn hold(&self, token: Uuid, asked: Instant) {
        self.lock().insert(token, asked + LEASE);
    }

    /// Forgets a lease whose step has ended.
    pub fn drop(&self, token: Uuid) {
        self.lock().remove(&token);
    }

    /// How long the lease certainly lasts; zero when it is gone.
    pub fn remaining(&self, token: Uuid) -> Duration {
        let until = self.lock().get(&token).copied();
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews all leases now; those that the database no longer knows are forgotten. False = the database failed.
    pub async fn renew(&self, store: &RunStore) -> bool {
        let tokens: Vec<Uuid> = self.lock().keys().copied().collect();
        if tokens.is_empty() {
            return true;
        }
        let asked = Instant::now();
        let renewed = tokio::time::timeout(PATIENCE, store.renew(&tokens)).await;
        let Ok(renewed) = renewed else {
            tracing::warn!("leases could not be renewed: the database does not answer");
            return false;
        };
        match renewed {
            Ok(renewed) => {
                let mut until = self.lock();
                for token in tokens {
                    if renewed.contains(&token) {
                        until.entry(token).and_modify(|u| *u = asked + LEASE);
                    } else {
                        until.remove(&token);
                    }
                }
                true
            }
            // The leases run on; the next renewal comes before they end.
            Err(error) => {
                tracing::warn!(error = %crate::telemetry::Chain(&error), "leases could not be renewed");
                false
            }
        }
    }

    /// Keeps renewing until the handle is aborted.
    pub fn keep(&self, store: &RunStore) -> JoinHandle<()> {
        let leases = self.clone();
        // A connection of its own: steps that fill the pool must not make us look dead.
        let mut store = store.on_own_connection();
        tokio::spawn(async move {
            let mut every = tokio::time::interval(EVERY);
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                every.tick().await;
                if !leases.renew(&store).await {
                    store = store.on_own_connection();
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_before_it_was_asked_for() {
        let leases = Leases::default();
        let token = Uuid::new_v4();
        assert_eq!(leases.remaining(token), Duration::ZERO);
        leases.hold(token, Instant::now().checked_sub(Duration::from_secs(59)).unwrap());
        assert!(leases.remaining(token) <= Duration::from_secs(1));
        leases.drop(token);
        assert_eq!(leases.remaining(token), Duration::ZERO);
    }
}
