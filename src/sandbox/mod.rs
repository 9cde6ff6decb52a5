//! The three vendors on loopback, strict as their docs: for the demo, for rehearsals and for nearly every test.
//!
//! One server plays BIK, LiveChat and JAICP at their documented paths, checks what it is sent harder than the vendors
//! are known to, gives the same rows for the same window on every machine, and misbehaves on request ([`Fault`]). It
//! writes down every request and every mail that would have been sent, so a test can count what a vendor saw.
//!
//! It serves loopback only, sends nothing anywhere, keeps everything in memory, and imports nothing of the rest of
//! reportd: what it knows of the vendors it has from their pages, not from our clients.
//!
//! `server` wire, faults of the wire · `bik` `ticket` · `livechat` `livechat_filter` `livechat_shape` · `jaicp`
//! `jaicp_filter` `jaicp_export` `jaicp_query` · `task` a task's life · `data` `xlsx` rows and files · `world` memory · `people` pages

mod bik;
mod call;
mod data;
mod fault;
mod jaicp;
mod jaicp_export;
mod jaicp_filter;
mod jaicp_query;
mod livechat;
mod livechat_filter;
mod livechat_shape;
mod people;
mod server;
mod task;
mod ticket;
mod world;
mod xlsx;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use fault::{Fault, FaultError, FaultKind, Vendor};
pub use world::{Mail, Received};
use world::{State, World};

/// What every new sandbox accepts.
pub mod credentials {
    /// The user of BIK's HTTP Basic.
    pub const BIK_KEY: &str = "sandbox-key";
    /// The password of BIK's HTTP Basic.
    pub const BIK_SECRET: &str = "sandbox-secret";
    /// The user of LiveChat's HTTP Basic.
    pub const LIVECHAT_ACCOUNT: &str = "sandbox-account";
    /// LiveChat's personal access token, the password of its HTTP Basic; refused as Bearer.
    pub const LIVECHAT_TOKEN: &str = "sandbox-pat";
    /// LiveChat's OAuth token, taken as Bearer.
    pub const LIVECHAT_BEARER: &str = "sandbox-bearer";
    /// JAICP's project token, which stands in the path.
    pub const JAICP_TOKEN: &str = "sandboxx:0123456789abcdef0123456789abcdef01234567";
}

/// The credentials that a sandbox accepts now; by default those of [`credentials`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user of BIK's HTTP Basic.
    pub bik_key: String,
    /// The password of BIK's HTTP Basic.
    pub bik_secret: String,
    /// The user of LiveChat's HTTP Basic.
    pub livechat_account: String,
    /// LiveChat's personal access token.
    pub livechat_token: String,
    /// LiveChat's OAuth token.
    pub livechat_bearer: String,
    /// JAICP's project token.
    pub jaicp_token: String,
}

impl Default for Credentials {
    fn default() -> Self {
        Self {
            bik_key: credentials::BIK_KEY.to_owned(),
            bik_secret: credentials::BIK_SECRET.to_owned(),
            livechat_account: credentials::LIVECHAT_ACCOUNT.to_owned(),
            livechat_token: credentials::LIVECHAT_TOKEN.to_owned(),
            livechat_bearer: credentials::LIVECHAT_BEARER.to_owned(),
            jaicp_token: credentials::JAICP_TOKEN.to_owned(),
        }
    }
}

/// Gives the sandbox's calendar time: creation times, mails, and windows that a request leaves open.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// How a sandbox is to run.
pub struct Options {
    /// Where to listen; loopback only, port 0 takes any free one.
    pub listen: SocketAddr,
    /// The faults to begin with.
    pub faults: Vec<Fault>,
    /// Real time between two states of a task: a task has its file after twice this.
    pub pace: Duration,
    /// The calendar.
    pub clock: Clock,
    /// Added to every id that a vendor gives out; see [`ids_of_this_start`].
    pub ids_from: u64,
}

/// A start for ids that no earlier start of a sandbox has used: real vendors never begin to count again either.
pub fn ids_of_this_start(now: DateTime<Utc>) -> u64 {
    u64::try_from(now.timestamp_millis()).unwrap_or(0)
}

impl Options {
    /// For tests: any free port, no faults, 10 ms between two states.
    pub fn quick(clock: Clock) -> Self {
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        Self { listen, faults: Vec::new(), pace: Duration::from_millis(10), clock, ids_from: 0 }
    }
}

/// The running server. It ends when this is dropped; [`Sandbox::stop`] also waits for it.
pub struct Sandbox {
    addr: SocketAddr,
    world: Arc<World>,
    stop: CancellationToken,
    server: AbortOnDropHandle<()>,
}

impl Sandbox {
    /// Listens and serves. Must be called within a Tokio runtime.
    ///
    /// Fails when the address is not a loopback one (`InvalidInput`) or cannot be bound.
    pub async fn start(options: Options) -> io::Result<Self> {
        if !options.listen.ip().is_loopback() {
            let message = format!("the sandbox listens on loopback only, not on {}", options.listen);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let listener = TcpListener::bind(options.listen).await?;
        let addr = listener.local_addr()?;
        let world = Arc::new(World::new(options.clock, options.pace, format!("http://{addr}"), options.ids_from));
        world.lock().faults.replace(options.faults);
        let stop = CancellationToken::new();
        let server = tokio::spawn(server::serve(listener, Arc::clone(&world), stop.clone()));
        Ok(Self { addr, world, stop, server: AbortOnDropHandle::new(server) })
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// BIK's base URL, to which `/bikPlatformFunctions-…` is added.
    pub fn bik_base_url(&self) -> String {
        format!("http://{}/integrations", self.addr)
    }

    /// LiveChat's base URL, to which `/v3.6/reports/…` is added.
    pub fn livechat_base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// JAICP's base URL, to which `/reporter/p/{token}/…` is added.
    pub fn jaicp_base_url(&self) -> String {
        format!("http://{}/api", self.addr)
    }

    /// The vendors' requests in the order they arrived, the latest 100,000; its own pages are not among them.
    pub fn received(&self) -> Vec<Received> {
        self.world.lock().received().cloned().collect()
    }

    /// The mails that BIK would have sent, in order.
    pub fn mails(&self) -> Vec<Mail> {
        self.world.lock().mails.clone()
    }

    /// Creates that took effect at the vendor, whether or not the answer arrived; for LiveChat, reports answered.
    pub fn creates(&self, vendor: Vendor) -> usize {
        self.world.lock().creates(vendor)
    }

    /// BIK tickets that were made.
    pub fn tickets(&self) -> usize {
        self.world.lock().bik.tickets
    }

    /// BIK events that were taken.
    pub fn events(&self) -> usize {
        self.world.lock().bik.events
    }

    /// JAICP tasks that were deleted.
    pub fn deleted(&self) -> usize {
        self.world.lock().jaicp.deleted()
    }

    /// Calls of JAICP's two deletes that act on the whole account, which nobody should make.
    pub fn account_wide_deletes(&self) -> usize {
        self.world.lock().jaicp.account_wide_deletes
    }

    /// Adds a fault behind those that wait.
    pub fn add_fault(&self, fault: Fault) {
        self.change(|state| state.faults.add(fault));
    }

    /// Accepts these credentials from now on and no others; links that were handed out stay valid.
    pub fn set_credentials(&self, credentials: Credentials) {
        self.change(|state| state.credentials = credentials);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.world.lock());
    }

    /// Ends the server and every connection, answered or not, and waits until the port is free.
    pub async fn stop(self) {
        self.stop.cancel();
        // It can only fail by a panic in the accept loop, and then it has ended as well.
        drop(self.server.await);
    }
}
