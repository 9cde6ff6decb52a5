//! A look at everything that must be right before reports come: files, database, clock, archive, accounts, mail server, service.
//! Each check stands alone: none stops another, they run beside each other, and each has a time limit.
//!
//! ```text
//! config.rs    reportd.yaml, job files, the secrets that notices name
//! database.rs  which database, its schema, its clock
//! archive.rs   the archive's folder
//! account.rs   one account: its secret, its breaker, the cheapest question its vendor has
//! place.rs     the mail server, and who serves
//! ```
//!
//! It looks and changes nothing: no migration, no run, no report, no mail. What it cannot help is told in each file: an embedded
//! database is started, a file is written into the archive and taken away, a call is counted. Only a broken reportd.yaml keeps
//! it from the rest, since that file says where everything is.

mod account;
mod archive;
mod config;
mod database;
mod place;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use serde::Serialize;
use tokio::sync::OnceCell;

use crate::app::{Files, Place};
use crate::clock::Clock;
use crate::connection::environment::Environment;
use crate::request::Vendor;
use crate::telemetry::Chain;
use crate::vendor::http::Http;
use database::Seen;

/// Longest wait for one thing; a server that takes longer is as good as none.
const LIMIT: Duration = Duration::from_secs(10);

/// How a thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should.
    Ok,
    /// Worth a word, and no fault.
    Note,
    /// Somebody must do something.
    Bad,
}

/// What was found of one thing. Texts are redacted, and each is one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// `config`, `database`, `clock`, `archive`, `account`, `mail` or `service`.
    pub check: &'static str,
    /// Which of them: a file, a place, `connection/vendor`.
    pub subject: Option<String>,
    /// How it stands.
    pub state: State,
    /// What was seen.
    pub message: String,
    /// What to do about it; there unless all is well.
    pub action: Option<String>,
}

impl Check {
    fn ok(check: &'static str, subject: Option<String>, message: &str) -> Check {
        Check { check, subject, state: State::Ok, message: one_line(message), action: None }
    }

    fn note(check: &'static str, subject: Option<String>, message: &str, action: &str) -> Check {
        let action = Some(one_line(action));
        Check { check, subject, state: State::Note, message: one_line(message), action }
    }

    fn bad(check: &'static str, subject: Option<String>, message: &str, action: &str) -> Check {
        Check { state: State::Bad, ..Check::note(check, subject, message, action) }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What every check may look at.
struct Ground {
    files: Files,
    jobs: PathBuf,
    clock: Clock,
    environment: Environment,
    database: OnceCell<Seen>,
}

impl Ground {
    /// The database, looked at once for all checks.
    async fn database(&self) -> &Seen {
        self.database.get_or_init(|| Seen::at(self)).await
    }
}

/// `check`, or the word that it took too long.
async fn within(limit: Duration, check: impl Future<Output = Check>, late: impl FnOnce(String) -> Check) -> Check {
    let ended = tokio::time::timeout(limit, check).await;
    ended.unwrap_or_else(|_| late(format!("no answer within {} s", limit.as_secs())))
}

/// Looks at everything and tells of each thing as soon as all before it are told.
pub async fn examine(place: &Place, environment: Environment, clock: Clock, mut tell: impl FnMut(&Check)) {
    let loading = {
        let (place, environment, clock) = (place.clone(), environment.clone(), clock.clone());
        tokio::task::spawn_blocking(move || Files::load(&place, environment, &clock))
    };
    let files = match tokio::time::timeout(LIMIT, loading).await {
        Ok(Ok(files)) => files,
        Ok(Err(error)) => {
            let message = format!("read config and job files: {}", Chain(&error));
            return tell(&Check::bad("config", None, &message, "report this: it is a fault of reportd"));
        }
        Err(_) => {
            let message = format!("reading config and job files took more than {} s", LIMIT.as_secs());
            return tell(&Check::bad("config", None, &message, "look at the disk or share that they are on"));
        }
    };
    if let Some(broken) = config::broken(&files, place) {
        broken.iter().for_each(&mut tell);
        let action = "correct the config first, since it says where they are; then run `reportd doctor` again";
        for check in ["database", "clock", "archive", "account", "mail", "service"] {
            tell(&Check::note(check, None, "not looked at", action));
        }
        return;
    }
    let ground = Ground { files, jobs: place.jobs.clone(), clock, environment, database: OnceCell::new() };
    all(&ground, &mut tell).await;
    if let Some(seen) = ground.database.into_inner() {
        seen.close().await;
    }
}

async fn all(ground: &Ground, tell: &mut impl FnMut(&Check)) {
    let one = |check: Check| vec![check];
    let http = Http::new().map_err(|error| Chain(&error).to_string());
    let mut checks: FuturesOrdered<BoxFuture<'_, Vec<Check>>> = FuturesOrdered::new();
    checks.push_back(Box::pin(config::checks(ground)));
    checks.push_back(Box::pin(async move { one(database::database(ground).await) }));
    checks.push_back(Box::pin(async move { one(database::clock(ground).await) }));
    checks.push_back(Box::pin(async move { one(archive::check(ground).await) }));
    for connection in &ground.files.settings.connections {
        for vendor in Vendor::ALL.into_iter().filter(|vendor| connection.has(*vendor)) {
            let http = &http;
            checks.push_back(Box::pin(async move { one(account::check(ground, http, connection, vendor).await) }));
        }
    }
    if let Some(mail) = &ground.files.settings.mail {
        checks.push_back(Box::pin(async move { one(place::mail(ground, mail).await) }));
    }
    checks.push_back(Box::pin(async move { one(place::service(ground).await) }));
    while let Some(found) = checks.next().await {
        found.iter().for_each(&mut *tell);
    }
}
