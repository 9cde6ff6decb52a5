//! A rehearsal: the same jobs against the sandbox, with a database and an archive of their own, so that nothing of it can
//! reach a real vendor, the real archive or the real database. `demo` and `run-job --sandbox` are rehearsals.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::connection::secret::SecretRef;
use crate::connection::{BikCredentials, Connection, Limits};
use crate::sandbox::{Options, Sandbox, credentials};
use crate::settings::{Database, Settings};

/// A running rehearsal.
pub struct Rehearsal {
    /// The settings, pointed at the sandbox.
    pub settings: Settings,
    /// The vendors.
    pub sandbox: Sandbox,
    /// Where its archive is.
    pub folder: PathBuf,
    /// Held as long as the rehearsal lasts.
    _only: std::fs::File,
}

/// Time between two states of a simulated task.
const PACE: Duration = Duration::from_millis(400);

/// Variables that hold the sandbox's well-known credentials; they are no secrets.
const VARIABLES: [(&str, &str); 4] = [
    ("REPORTD_SANDBOX_BIK_KEY", credentials::BIK_KEY),
    ("REPORTD_SANDBOX_BIK_SECRET", credentials::BIK_SECRET),
    ("REPORTD_SANDBOX_LIVECHAT", ""),
    ("REPORTD_SANDBOX_JAICP", credentials::JAICP_TOKEN),
];

impl Rehearsal {
    /// Starts the sandbox and points a copy of `settings` at it; what it writes lies in `.reportd/<name>`, and starts clean each
    /// time: a run of an earlier rehearsal was made for vendors that are gone. One at a time in a folder.
    pub async fn start(settings: &Settings, name: &str, clock: Clock) -> std::io::Result<Rehearsal> {
        let folder = settings.root.join(".reportd").join(name);
        std::fs::create_dir_all(&folder)?;
        let only = std::fs::File::options().create(true).truncate(false).write(true).open(folder.join("lock"))?;
        if rustix::fs::flock(&only, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(std::io::Error::other(format!("another rehearsal is running in {}", folder.display())));
        }
        match std::fs::remove_dir_all(folder.join("archive")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let options = Options {
            listen: ([127, 0, 0, 1], 0).into(),
            faults: Vec::new(),
            pace: PACE,
            clock: Arc::new(move || clock.now()),
            // Its database starts clean with it.
            ids_from: 0,
        };
        let sandbox = Sandbox::start(options).await?;
        let mut settings = settings.clone();
        settings.archive = folder.join("archive");
        settings.database =
            Database::Embedded(crate::settings::compile::embedded_folder(&folder, crate::app::as_root(), "pg"));
        let pat = format!("{}:{}", credentials::LIVECHAT_ACCOUNT, credentials::LIVECHAT_TOKEN);
        let mut variables = VARIABLES;
        variables[2].1 = &pat;
        settings.environment = settings.environment.with(&variables);
        for connection in &mut settings.connections {
            point_at(connection, &sandbox);
        }
        Ok(Rehearsal { settings, sandbox, folder, _only: only })
    }

    /// Stops the sandbox.
    pub async fn stop(self) {
        self.sandbox.stop().await;
    }
}

/// The simulated vendors have no rates to respect.
fn unlimited(limits: &mut Limits) {
    limits.requests_per_second = 1000.0;
    limits.max_in_flight = 8;
}

fn point_at(connection: &mut Connection, sandbox: &Sandbox) {
    let variable = |n: usize| SecretRef::Env(VARIABLES[n].0.to_owned());
    if let Some(bik) = &mut connection.bik {
        bik.credentials = BikCredentials::KeySecret { key: variable(0), secret: variable(1) };
        bik.endpoint.base_url = sandbox.bik_base_url();
        unlimited(&mut bik.limits);
    }
    if let Some(livechat) = &mut connection.livechat {
        livechat.token = variable(2);
        livechat.endpoint.bearer = false;
        livechat.endpoint.base_url = sandbox.livechat_base_url();
        unlimited(&mut livechat.limits);
    }
    if let Some(jaicp) = &mut connection.jaicp {
        jaicp.token = variable(3);
        jaicp.endpoint.base_url = sandbox.jaicp_base_url();
        jaicp.download_headers.clear();
        unlimited(&mut jaicp.limits);
    }
}
