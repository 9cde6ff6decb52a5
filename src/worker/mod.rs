//! The work: claim a run, make one step, release it. Imports everything above it; nothing but `app` and `cli` imports it.
//!
//! ```text
//! drive.rs    one run to its end, for run-job: claim -> step -> wait, knows neither vendors nor the archive
//! open.rs     a resolved fire -> a run, or what is held already
//! step.rs     one step: the only file where store, vendor and archive meet
//! trouble.rs  what a step does with an error
//! hand.rs     what a step has in hand
//! commit.rs   answer -> archive -> database commit, and adopting what a crash left in the archive
//! lease.rs    renews every lease of this process, on a monotonic clock
//! herald.rs   runs that ended, breakers, lateness -> deliveries; watch.rs  the latter two
//! deliver.rs  deliveries: claim, try, record; send.rs  a try by its kind: mail servers, vendors, folders
//! post.rs     what deliveries are sent with
//! payload.rs  what a webhook carries
//! sweep.rs    deletions at the vendor that were left over
//! rebuild.rs  manifests -> rows, for `archive rebuild`
//! ```

pub mod commit;
pub mod deliver;
pub mod drive;
mod hand;
pub mod herald;
pub mod lease;
pub mod open;
mod payload;
pub mod post;
pub mod rebuild;
mod send;
pub mod step;
mod sweep;
mod trouble;
pub mod watch;

use std::collections::HashMap;
use std::sync::Arc;

use crate::archive::Archive;
use crate::clock::Clock;
use crate::connection::Connection;
use crate::request::Vendor;
use crate::run::store::RunStore;
use crate::settings::Settings;
use crate::vendor::account::Account;
use crate::vendor::http::Http;
use lease::Leases;
use post::Post;

/// The accounts of all connections.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    by_name: HashMap<(String, Vendor), (Arc<Connection>, Arc<Account>)>,
}

impl Accounts {
    /// Accounts of the settings' connections; `salt` is the database's.
    pub fn new(settings: &Settings, salt: &[u8]) -> Accounts {
        let mut by_name = HashMap::new();
        for connection in &settings.connections {
            let shared = Arc::new(connection.clone());
            for vendor in Vendor::ALL {
                if let Some(account) = Account::new(connection, vendor, &settings.environment, salt) {
                    by_name.insert((connection.name.clone(), vendor), (Arc::clone(&shared), Arc::new(account)));
                }
            }
        }
        Accounts { by_name }
    }

    /// All accounts, in the order of connections and vendors.
    pub fn all(&self) -> Vec<Arc<Account>> {
        let mut all: Vec<_> = self.by_name.iter().collect();
        all.sort_by_key(|((connection, vendor), _)| (connection.clone(), vendor.as_str()));
        all.into_iter().map(|(_, (_, account))| Arc::clone(account)).collect()
    }

    /// One connection with its account at a vendor.
    pub fn get(&self, connection: &str, vendor: Vendor) -> Option<(Arc<Connection>, Arc<Account>)> {
        self.by_name.get(&(connection.to_owned(), vendor)).cloned()
    }
}

/// Everything a step works with; cheap to clone.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Runs.
    pub store: RunStore,
    /// Where reports go.
    pub archive: Archive,
    /// HTTP.
    pub http: Http,
    /// Accounts.
    pub accounts: Accounts,
    /// What deliveries are sent with.
    pub post: Post,
    /// The process's clock.
    pub clock: Clock,
    /// The leases of this process.
    pub leases: Leases,
}

/// A random number in `[0, 1)`, for jitter.
pub(crate) fn jitter() -> f64 {
    let [a, b, c, d, ..] = uuid::Uuid::new_v4().into_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
}
