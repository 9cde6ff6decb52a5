//! `reportd serve`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Cx, Exit, Failure, note};
use crate::app::{App, ArchiveUse, StartError};
use crate::db::{DbError, Migration, Revival};
use crate::service::health::Health;
use crate::service::surface;
use crate::service::{self, Options, ServeError};
use crate::settings::Settings;
use crate::telemetry::Chain;

/// Where the HTTP surface is without `--listen`.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// How long a database that cannot be reached is waited for at the start; then whoever started us may try again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks whether the embedded database is there.
const LOOK: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Where /healthz and /readyz are [default: 127.0.0.1:8080, or nowhere when that is taken]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Take the jobs from the database, as `reportd apply` put them there, and look at no job folder
    #[arg(long)]
    follow: bool,
}

impl Serve {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let stop = CancellationToken::new();
        let reload = watch_signals(&stop)?;
        let settings = cx.settings()?;
        let health = Health::new();
        // Stopped last, so that whoever watches sees a process that is stopping.
        let surface_stop = CancellationToken::new();
        let surface = self.listen(&health, &surface_stop).await?;
        let Some(app) = open(cx, &settings, &health, &stop).await? else { return Ok(Exit::Done) };
        if let Some(notice) = &app.db.notice {
            note(&format!("reportd: {notice}"));
        }
        let revival = app.db.revival().map(|revival| tokio::spawn(keep_up(revival, health.clone())));
        let options = Options { place: cx.place(), follow: self.follow, clock: cx.clock.clone() };
        let served = service::serve(app.worker.clone(), settings, options, health, reload, stop.clone()).await;
        surface_stop.cancel();
        if let Some(surface) = surface {
            drop(surface.await);
        }
        if let Some(revival) = revival {
            revival.abort();
            drop(revival.await);
        }
        app.close().await;
        match served {
            Ok(()) => Ok(Exit::Done),
            Err(ServeError::Bond(error)) => Err(error.into()),
            Err(error @ ServeError::Died(_)) => Err(Failure::Failed(error.into())),
            Err(ServeError::NoJobs(problem)) => Err(Failure::Usage(problem)),
            Err(ServeError::Store(error)) => Err(error.into()),
        }
    }

    /// Starts the HTTP surface before anything else, so that whoever watches sees a process that is not ready yet.
    async fn listen(
        &self,
        health: &Health,
        closed: &CancellationToken,
    ) -> Result<Option<tokio::task::JoinHandle<()>>, Failure> {
        let listener = match surface::listen(self.listen.unwrap_or(LISTEN)).await {
            Ok(listener) => listener,
            Err(error) if self.listen.is_some() => return Err(Failure::Usage(Chain(&error).to_string())),
            Err(error) => {
                note(&format!("reportd: no /healthz and /readyz: {}; name another place with --listen", Chain(&error)));
                return Ok(None);
            }
        };
        if let Ok(address) = listener.local_addr() {
            note(&format!("reportd: /healthz and /readyz are on http://{address}"));
        }
        Ok(Some(tokio::spawn(surface::serve(listener, health.clone(), closed.clone()))))
    }
}

/// Starts the embedded database again when it was killed: nobody else would.
async fn keep_up(revival: Revival, health: Health) {
    loop {
        tokio::time::sleep(LOOK).await;
        if health.readiness().database == "ok" {
            continue;
        }
        if let Err(error) = revival.revive().await {
            tracing::error!(error = %Chain(&error), "the embedded database does not come up; trying again");
        }
    }
}

/// Opens database and archive; a database that is not there yet is waited for. `None` = told to stop meanwhile.
async fn open(cx: &Cx, settings: &Settings, health: &Health, stop: &CancellationToken) -> Result<Option<App>, Failure> {
    let started = Instant::now();
    loop {
        health.turned();
        let who = crate::app::who(&cx.environment, false);
        let opened = App::open(settings, cx.clock.clone(), who, Migration::Always, ArchiveUse::Writes).await;
        match opened {
            Ok(app) => return Ok(Some(app)),
            Err(StartError::Db(error @ DbError::Unreachable(..))) if started.elapsed() < PATIENCE => {
                tracing::warn!("{}; trying again", Chain(&error));
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
    }
}

/// SIGTERM and SIGINT stop, a second one at once; SIGHUP asks for a reload, which the channel counts.
fn watch_signals(stop: &CancellationToken) -> Result<watch::Receiver<u64>, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let (asked, reload) = watch::channel(0);
    let stop = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = hang_up.recv() => {
                    asked.send_modify(|count| *count += 1);
                    continue;
                }
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                note("reportd: stopped at once; what was under way is found again when its lease ends");
                std::process::exit(i32::from(Exit::Interrupted.code()));
            }
            stop.cancel();
        }
    });
    Ok(reload)
}
