//! `reportd connections`.

use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

use super::{Cx, Exit, Failure, say, say_json};
use crate::app::{App, ArchiveUse};
use crate::request::Vendor;
use crate::request::window::rfc3339_in;
use crate::run::store::permit::Permit;
use crate::settings::Settings;

#[derive(Debug, Args)]
pub(super) struct Connections {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Close the breakers of a connection: its runs go on at once
    Close(Name),
    /// Open the breakers of a connection: its runs wait
    Open(Name),
}

#[derive(Debug, Args)]
struct Name {
    /// The connection
    name: String,
    /// Only its account at this vendor
    #[arg(long)]
    vendor: Option<Vendor>,
}

#[derive(Debug, Serialize)]
struct Line {
    connection: String,
    vendor: &'static str,
    base_url: String,
    secret: &'static str,
    breaker: &'static str,
    reason: Option<String>,
    opened_at: Option<String>,
    probe_at: Option<String>,
    in_flight: i64,
    queued: i64,
}

impl Connections {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let settings = cx.settings()?;
        if let Some(Verb::Close(named) | Verb::Open(named)) = &self.verb {
            let known: Vec<&str> = settings.connections.iter().map(|c| c.name.as_str()).collect();
            if !known.contains(&named.name.as_str()) {
                return Err(Failure::Usage(format!("no connection '{}' (known: {})", named.name, known.join(", "))));
            }
        }
        let app = cx.app(&settings, ArchiveUse::Reads).await?;
        let result = match &self.verb {
            None => list(cx, &app, &settings).await,
            Some(Verb::Close(named)) => set(cx, &app, &settings, named, false).await,
            Some(Verb::Open(named)) => set(cx, &app, &settings, named, true).await,
        };
        app.close().await;
        result
    }
}

async fn set(cx: &Cx, app: &App, settings: &Settings, named: &Name, open: bool) -> Result<Exit, Failure> {
    let store = &app.worker.store;
    let mut told = Vec::new();
    let Some(connection) = crate::job::connection(&settings.connections, &named.name) else { return Ok(Exit::Usage) };
    for vendor in Vendor::ALL {
        let Some(limits) = connection.limits(vendor).filter(|_| named.vendor.is_none_or(|v| v == vendor)) else {
            continue;
        };
        let name = &connection.name;
        if open {
            let reason = format!("opened by {}", store.signed());
            let secret = app.worker.accounts.get(name, vendor).and_then(|(_, a)| a.secrets().ok());
            let permit = Permit {
                connection: name,
                vendor: vendor.as_str(),
                requests_per_second: limits.requests_per_second,
                max_in_flight: limits.max_in_flight,
                secret: secret.as_ref().map_or("", |s| &s.fingerprint),
            };
            store.open_breaker(&permit, &reason, true).await?;
            told.push(format!("{name} {vendor}: open; its runs wait"));
        } else {
            let was = store.close_breaker(name, vendor.as_str()).await?;
            let word = if was { "closed; its runs go on" } else { "was closed already" };
            told.push(format!("{name} {vendor}: {word}"));
        }
    }
    if cx.json() {
        return list(cx, app, settings).await;
    }
    for line in told {
        say(&line);
    }
    Ok(Exit::Done)
}

async fn list(cx: &Cx, app: &App, settings: &Settings) -> Result<Exit, Failure> {
    let rows = app.worker.store.breakers().await?;
    let mut table = Table::new();
    table.load_style(NOTHING).set_header([
        "CONNECTION",
        "VENDOR",
        "BREAKER",
        "IN FLIGHT",
        "QUEUED",
        "SECRET",
        "BASE URL",
    ]);
    for connection in &settings.connections {
        for vendor in Vendor::ALL {
            let Some((_, account)) = app.worker.accounts.get(&connection.name, vendor) else { continue };
            let row = rows.iter().find(|r| r.connection == connection.name && r.vendor == vendor.as_str());
            let zone = connection.zone.unwrap_or(chrono_tz::UTC);
            let line = Line {
                connection: connection.name.clone(),
                vendor: vendor.as_str(),
                base_url: account.base_url.clone(),
                secret: if account.secrets().is_ok() { "set" } else { "missing" },
                breaker: if row.is_some_and(|r| r.breaker_open) { "open" } else { "closed" },
                reason: row.and_then(|r| r.breaker_reason.clone()),
                opened_at: row.and_then(|r| r.breaker_opened_at).map(|t| rfc3339_in(t, zone)),
                probe_at: row.and_then(|r| r.breaker_probe_at).map(|t| rfc3339_in(t, zone)),
                in_flight: row.map_or(0, |r| r.in_flight),
                queued: row.map_or(0, |r| r.queued),
            };
            if cx.json() {
                say_json(&line);
                continue;
            }
            let breaker = line.reason.as_ref().map_or("closed".to_owned(), |reason| format!("open: {reason}"));
            table.add_row([
                line.connection,
                line.vendor.to_owned(),
                breaker,
                line.in_flight.to_string(),
                line.queued.to_string(),
                line.secret.to_owned(),
                line.base_url,
            ]);
        }
    }
    if !cx.json() {
        say(&table.trim_fmt());
    }
    Ok(Exit::Done)
}
