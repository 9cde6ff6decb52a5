//! The mail server, asked for nothing but a greeting, a login and a NOOP; and the processes that serve.

use super::{Check, Ground, LIMIT, within};
use crate::delivery::email::{Mail, Mailer};
use crate::fire::span;
use crate::run::store::{RunStore, StoreError};
use crate::telemetry::Chain;

pub(super) async fn mail(ground: &Ground, mail: &Mail) -> Check {
    let place = format!("{}:{}", mail.server.host, mail.server.port);
    let checked = match Mailer::new(mail, &ground.environment) {
        Ok(mailer) => mailer.with_limit(LIMIT).check().await,
        Err(trouble) => Err(trouble),
    };
    match checked {
        Ok(()) => {
            let login = if mail.login.is_some() { "accepts the login" } else { "answers; no login is set" };
            Check::ok("mail", Some(place.clone()), &format!("{place} {login}"))
        }
        Err(trouble) => {
            let action = "mend what it says: the server, or `mail` in the config (url, username, password); mails wait for a day";
            Check::bad("mail", Some(place), &trouble.to_string(), action)
        }
    }
}

pub(super) async fn service(ground: &Ground) -> Check {
    let Some(store) = ground.database().await.store() else {
        return Check::note("service", None, "not looked at: no database that could tell", "mend the database first");
    };
    let late = |message: String| Check::bad("service", None, &message, "look at the database");
    let look = async { look(store).await.unwrap_or_else(|error| late(Chain(&error).to_string())) };
    within(LIMIT, look, late).await
}

async fn look(store: &RunStore) -> Result<Check, StoreError> {
    let (now, replicas) = (store.now().await?, store.replicas().await?);
    let in_force = store.all_series().await?.iter().filter(|row| row.in_force).count();
    let there: Vec<_> = replicas.iter().filter(|replica| replica.serves(now)).collect();
    let passed = there.iter().filter_map(|replica| replica.passed_at).max();
    if let Some((replica, trouble)) = there.iter().find_map(|replica| Some((replica, replica.trouble.as_ref()?))) {
        let message = format!("{} says: {trouble}", replica.who);
        return Ok(Check::bad(
            "service",
            Some(replica.who.clone()),
            &message,
            "mend what it says; it goes on by itself",
        ));
    }
    Ok(match (there.as_slice(), in_force) {
        ([], 0) => {
            let message = "no process serves, and no job is in force";
            Check::note("service", None, message, "schedules fire under `reportd serve`; without one, nothing")
        }
        ([], n) => {
            let message = format!("no process serves, and {} in force: schedules do not fire", series(n));
            // `status` calls for a service; this is also asked before one is started.
            Check::note("service", None, &message, "reportd serve")
        }
        (there, n) => {
            let who: Vec<&str> = there.iter().map(|replica| replica.who.as_str()).collect();
            let pass = passed.map_or_else(
                || "no planner pass yet".to_owned(),
                |pass| format!("last planner pass {} ago", span(now - pass)),
            );
            let message = format!("{} in force, {pass}; served by {}", series(n), who.join("; "));
            Check::ok("service", None, &message)
        }
    })
}

fn series(count: usize) -> String {
    if count == 1 { "1 series is".to_owned() } else { format!("{count} series are") }
}
