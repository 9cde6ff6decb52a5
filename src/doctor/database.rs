//! The database, and this machine's clock against its own. Migrates nothing; an embedded cluster is started as any command
//! would start it, and stopped again by its last user.

use std::time::Duration;

use chrono::TimeDelta;

use super::{Check, Ground, LIMIT};
use crate::app;
use crate::db::embedded::Arrival;
use crate::db::look::Look;
use crate::db::{DbError, needed_version};
use crate::fire::span;
use crate::run::store::{Instance, RunStore};
use crate::settings::Database;
use crate::telemetry::Chain;

const NAME: &str = "database";

/// `serve` plans nothing when its clock is further off than this.
const FAR: TimeDelta = TimeDelta::minutes(5);

/// A clock that a time service sets is never so far off.
const NEAR: TimeDelta = TimeDelta::seconds(5);

/// Making and starting an embedded cluster takes no longer on a machine that is fit for one.
const STARTING: Duration = Duration::from_secs(20);

/// Stopping an embedded cluster takes no longer.
const CLOSING: Duration = Duration::from_secs(20);

/// What there is of the database.
pub(super) struct Seen {
    look: Result<Look, Check>,
    store: Option<(RunStore, Instance)>,
}

impl Seen {
    pub(super) async fn at(ground: &Ground) -> Seen {
        let settings = &ground.files.settings;
        let limit = if matches!(settings.database, Database::Embedded(_)) { STARTING } else { LIMIT };
        let look = match tokio::time::timeout(limit, Look::at(settings, &ground.clock)).await {
            Ok(Ok(look)) => Ok(look),
            Ok(Err(error)) => Err(trouble(&error)),
            Err(_) => {
                let message = format!("no answer within {} s", limit.as_secs());
                Err(Check::bad(NAME, None, &message, "look whether it runs, and whether the way to it is open"))
            }
        };
        let mut store = None;
        if let Some(look) = look.as_ref().ok().filter(|look| look.have == needed_version()) {
            let ready = RunStore::new(look.db.pool.clone(), app::who(&ground.environment, true));
            let instance = tokio::time::timeout(LIMIT, ready.instance()).await;
            store = instance.ok().and_then(Result::ok).map(|instance| (ready, instance));
        }
        Seen { look, store }
    }

    /// Its rows, when it is there and its schema is the one we know.
    pub(super) fn store(&self) -> Option<&RunStore> {
        self.store.as_ref().map(|(store, _)| store)
    }

    /// What it knows of itself.
    pub(super) fn instance(&self) -> Option<&Instance> {
        self.store.as_ref().map(|(_, instance)| instance)
    }

    pub(super) async fn close(self) {
        if let Ok(look) = self.look {
            // What does not stop now runs on, and the next command attaches to it.
            drop(tokio::time::timeout(CLOSING, look.db.close()).await);
        }
    }
}

fn trouble(error: &DbError) -> Check {
    let action = match error {
        DbError::Unset(name) => format!("set {name}, or correct `database` in the config"),
        DbError::Url => "correct it where it is set: `database` in the config, or DATABASE_URL".to_owned(),
        DbError::Embedded(_) => {
            "mend what it says, or point DATABASE_URL at a PostgreSQL server of your own".to_owned()
        }
        _ => "start the server, or correct host, port, user, password or name in the URL (`database`, DATABASE_URL)"
            .to_owned(),
    };
    Check::bad(NAME, None, &Chain(error).to_string(), &action)
}

pub(super) async fn database(ground: &Ground) -> Check {
    let seen = ground.database().await;
    let look = match &seen.look {
        Ok(look) => look,
        Err(trouble) => return trouble.clone(),
    };
    let subject = Some(look.place.clone());
    let (have, need) = (look.have, needed_version());
    let place = match look.arrival {
        None => look.place.clone(),
        Some(arrival) => {
            let how = match arrival {
                Arrival::Initialised => "was made now",
                Arrival::Started => "starts and stops with the commands",
                Arrival::Attached => "runs",
            };
            format!("embedded PostgreSQL in {}, which {how}", look.place)
        }
    };
    if have > need {
        let version = env!("CARGO_PKG_VERSION");
        let message =
            format!("{place}: its schema is version {have}, and this reportd ({version}) knows {need} at most");
        return Check::bad(NAME, subject, &message, "use the newer reportd that has migrated it");
    }
    if have < need && look.arrival.is_some() {
        let message = format!("{place}: its schema is version {have}, and this reportd needs {need}");
        return Check::note(NAME, subject, &message, "nothing: the first command that needs it migrates it");
    }
    if have < need {
        let message = format!("{place}: its schema is version {have}, and this reportd needs {need}");
        return Check::bad(NAME, subject, &message, "reportd migrate");
    }
    if !look.writable {
        let message = format!("{place}: it answers and takes no writes, as a replica does");
        let action = "point the URL at the primary, or end its read-only mode (default_transaction_read_only)";
        return Check::bad(NAME, subject, &message, action);
    }
    if seen.store.is_none() {
        let message = format!("{place}: its schema is version {have}, and its first row cannot be read");
        return Check::bad(
            NAME,
            subject,
            &message,
            "let its user read and write the tables that `reportd migrate` made",
        );
    }
    Check::ok(NAME, subject, &format!("{place}: schema version {have}, takes writes"))
}

pub(super) async fn clock(ground: &Ground) -> Check {
    match &ground.database().await.look {
        Ok(look) => judge_clock(look.ahead),
        Err(_) => Check::note("clock", None, "not compared: no database answers", "mend the database first"),
    }
}

fn judge_clock(ahead: TimeDelta) -> Check {
    let off = ahead.abs();
    let which = if ahead > TimeDelta::zero() { "ahead of" } else { "behind" };
    let message = format!("this machine's clock is {} {which} the database's", span(off));
    if off > FAR {
        let action =
            "set the clock that is wrong (a time service keeps it right); until then `serve` here plans nothing";
        return Check::bad("clock", None, &message, action);
    }
    if off > NEAR {
        return Check::note("clock", None, &message, "let a time service set both clocks; up to 5 min harms nothing");
    }
    Check::ok("clock", None, "this machine's and the database's agree")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn a_clock_may_be_seconds_off_and_not_minutes() {
        let state = |seconds| judge_clock(TimeDelta::seconds(seconds)).state;
        assert_eq!([0, 5, -5].map(state), [State::Ok; 3]);
        assert_eq!([6, -6, 300, -300].map(state), [State::Note; 4]);
        assert_eq!([301, -301, 1 << 40].map(state), [State::Bad; 3]);
        assert!(judge_clock(TimeDelta::minutes(-7)).message.contains("is 7 min behind the"));
    }
}
