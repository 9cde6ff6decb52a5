//! One account: its secret can be read, its breaker, and whether the vendor accepts the credentials, asked with the cheapest
//! question that the vendor has. Makes nothing at the vendor. The call is counted against the account's rate where a database
//! is there to count it; the breaker is neither tried nor closed, since that is a run's to do.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use tokio::time::{Instant, timeout};

use super::{Check, Ground, LIMIT, State};
use crate::connection::{BikCredentials, Connection};
use crate::delivery::{Trouble, bik};
use crate::request::Vendor;
use crate::request::window::rfc3339_in;
use crate::run::store::RunStore;
use crate::run::store::attention::OpenBreakerRow;
use crate::run::store::permit::{Admission, Permit};
use crate::telemetry::Chain;
use crate::vendor::account::{Account, Secrets};
use crate::vendor::error::VendorError;
use crate::vendor::http::Http;
use crate::vendor::{jaicp, livechat};
use crate::yaml::show_duration;

const NAME: &str = "account";

/// What to do about a secret that cannot be read.
pub(super) const READABLE: &str =
    "make it readable for this command and for `reportd serve`; both read it anew by themselves";

/// Longest wait for the database and for the account's rate.
const PERMIT: Duration = Duration::from_secs(10);

/// What a vendor's answer says of the credentials.
enum Word {
    Accepted,
    /// Not refused, and not quite asked either; the vendor's words.
    Hint(String),
    Refused(String),
    Unreachable(String),
    Later(String),
    /// Something else, in the vendor's words.
    Other(String),
}

/// Looks at one account.
pub(super) async fn check(
    ground: &Ground,
    http: &Result<Http, String>,
    connection: &Connection,
    vendor: Vendor,
) -> Check {
    let subject = || Some(format!("{}/{vendor}", connection.name));
    let seen = ground.database().await;
    let salt = seen.instance().map(|instance| instance.salt.clone()).unwrap_or_default();
    let Some(account) = Account::new(connection, vendor, &ground.environment, &salt) else {
        return Check::ok(NAME, subject(), "no account");
    };
    let secrets = match account.secrets() {
        Ok(secrets) => secrets,
        Err(error) => {
            let why = Chain(&error).to_string();
            if implied(ground, connection, vendor) {
                let message = format!("{why}; no job needs it");
                return Check::note(NAME, subject(), &message, "nothing, unless you have an account there");
            }
            return Check::bad(NAME, subject(), &why, READABLE);
        }
    };
    let http = match http {
        Ok(http) => http,
        Err(why) => {
            let message = format!("set up HTTP: {why}");
            return Check::bad(NAME, subject(), &message, "mend this machine's TLS roots (package ca-certificates)");
        }
    };
    let mut breaker = None;
    if let Some(store) = seen.store() {
        // What is wrong with the database is told by its own check.
        let rows = timeout(PERMIT, store.breakers_that_are_open()).await.ok().and_then(Result::ok).unwrap_or_default();
        breaker = rows.into_iter().find(|row| row.connection == connection.name && row.vendor == vendor.as_str());
        // Nobody calls an account whose breaker is open, and a permit would use up the one try that a run has.
        if breaker.is_none()
            && let Some(wait) = permit(store, &account, &secrets).await
        {
            let message = format!("not asked: its rate lets no call through for another {}", show_duration(wait));
            return Check::note(NAME, subject(), &message, "run `reportd doctor` again later");
        }
    }
    let asked = timeout(LIMIT, ask(http, &account, &secrets, connection, ground.clock.now())).await;
    let word = asked.unwrap_or_else(|_| Word::Unreachable(format!("no answer within {} s", LIMIT.as_secs())));
    let judged = judge(connection, vendor, &account, &word);
    match breaker {
        Some(breaker) => with_breaker(judged, &breaker, connection.zone.unwrap_or(Tz::UTC)),
        None => judged,
    }
}

/// The connection that there is without a config, at a vendor that no job asks.
fn implied(ground: &Ground, connection: &Connection, vendor: Vendor) -> bool {
    let jobs = &ground.files.jobs;
    let used = jobs.jobs.iter().any(|job| job.vendor() == vendor);
    connection.name == "default" && !used && !jobs.broken()
}

/// Waits for a permit; how long it would have to be waited for, when that is too long.
async fn permit(store: &RunStore, account: &Account, secrets: &Secrets) -> Option<Duration> {
    let permit = Permit {
        connection: &account.connection,
        vendor: account.vendor.as_str(),
        requests_per_second: account.limits.requests_per_second,
        max_in_flight: account.limits.max_in_flight,
        secret: &secrets.fingerprint,
    };
    let until = Instant::now() + PERMIT;
    let asking = async {
        loop {
            match store.admit(&permit).await {
                Ok(Admission::Rate(wait)) if Instant::now() + wait > until => return Some(wait),
                Ok(Admission::Rate(wait)) => tokio::time::sleep(wait).await,
                // A database that cannot count is told by its own check.
                _ => return None,
            }
        }
    };
    timeout(PERMIT, asking).await.unwrap_or(None)
}

async fn ask(http: &Http, account: &Account, secrets: &Secrets, connection: &Connection, now: DateTime<Utc>) -> Word {
    let missing = || Word::Other("the connection has no such account".to_owned());
    let answer = match account.vendor {
        Vendor::Bik => {
            let Some(bik) = &connection.bik else { return missing() };
            return of_bik(bik::check(http, account, &bik.endpoint, now).await, account);
        }
        Vendor::Livechat => {
            let Some(livechat) = &connection.livechat else { return missing() };
            livechat::check(http, account, secrets, &livechat.endpoint, now).await
        }
        Vendor::Jaicp => {
            let Some(jaicp) = &connection.jaicp else { return missing() };
            jaicp::check(http, account, secrets, jaicp, now).await
        }
    };
    match answer {
        Ok(()) => Word::Accepted,
        Err(VendorError::Auth(why)) => Word::Refused(why),
        Err(VendorError::NotSent(why)) => Word::Unreachable(why),
        Err(VendorError::Wait { message, .. }) => Word::Later(message),
        Err(error) => Word::Other(Chain(&error).to_string()),
    }
}

fn of_bik(answer: Result<Option<String>, Trouble>, account: &Account) -> Word {
    match answer {
        Ok(None) => Word::Accepted,
        Ok(Some(words)) => Word::Hint(words),
        Err(Trouble::Later { why, after: Some(_) }) => Word::Later(why),
        Err(Trouble::Later { why, after: None }) => Word::Unreachable(why),
        Err(Trouble::Person(why) | Trouble::Credentials(why)) => {
            match why.strip_prefix(&format!("credentials of connection {}: ", account.connection)) {
                Some(words) => Word::Refused(words.to_owned()),
                None => Word::Other(why),
            }
        }
        Err(other) => Word::Other(other.to_string()),
    }
}

fn judge(connection: &Connection, vendor: Vendor, account: &Account, word: &Word) -> Check {
    let subject = Some(format!("{}/{vendor}", connection.name));
    let url = url::Url::parse(&account.base_url).ok();
    let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or("the vendor");
    match word {
        Word::Accepted => Check::ok(NAME, subject, &format!("{host} accepts the credentials")),
        Word::Hint(words) => {
            let message = format!("{host} answers and says nothing against the credentials: {words}");
            let action = "to have them looked at whole, set `appId` in this account; otherwise nothing";
            Check::note(NAME, subject, &message, action)
        }
        Word::Refused(words) => {
            let message = format!("{host} does not accept the credentials: {words}");
            Check::bad(NAME, subject, &message, &mend(connection, vendor))
        }
        Word::Unreachable(why) => {
            let action = format!("look whether this machine reaches {host} (DNS, firewall, proxy), and at `base_url`");
            Check::bad(NAME, subject, &format!("{host}: {why}"), &action)
        }
        Word::Later(why) => {
            let message = format!("{host} asks to wait, and has not looked at the credentials: {why}");
            Check::note(NAME, subject, &message, "run `reportd doctor` again later; runs wait by themselves")
        }
        Word::Other(why) => {
            let action =
                "an answer of 5xx passes; else mend what it says (`base_url`, version, paths, the plan you have there)";
            Check::bad(NAME, subject, &format!("{host}: {why}"), action)
        }
    }
}

/// What to do about credentials that are refused, with where they are.
fn mend(connection: &Connection, vendor: Vendor) -> String {
    let (place, what) = match vendor {
        Vendor::Bik => match connection.bik.as_ref().map(|bik| &bik.credentials) {
            Some(BikCredentials::KeySecret { key, secret }) => {
                (format!("{key} and {secret}"), "key and secret of the application in the BIK dashboard")
            }
            Some(BikCredentials::Token(token)) => (token.to_string(), "the base64 of `key:secret`, as BIK's page says"),
            None => return String::new(),
        },
        Vendor::Livechat => (
            connection.livechat.as_ref().map(|account| account.token.to_string()).unwrap_or_default(),
            "a token with the scope reports_read: `account_id:token`, or with `auth: bearer` an OAuth token",
        ),
        Vendor::Jaicp => (
            connection.jaicp.as_ref().map(|account| account.token.to_string()).unwrap_or_default(),
            "a token of this project (Project properties, API tokens)",
        ),
    };
    format!("put the right one into {place}: {what}")
}

/// An open breaker is worth a word whatever the vendor says now.
fn with_breaker(check: Check, breaker: &OpenBreakerRow, zone: Tz) -> Check {
    let since = rfc3339_in(breaker.since, zone);
    let message =
        format!("{}; its runs wait, since the breaker is open from {since}: {}", check.message, breaker.reason);
    let close = format!("reportd connections close {} --vendor {}", breaker.connection, breaker.vendor);
    let (state, action) = match check.state {
        State::Ok | State::Note if breaker.by_hand => (State::Note, format!("when its runs may go on: `{close}`")),
        State::Ok | State::Note => {
            (State::Note, format!("`{close}` lets its runs go on at once; else one tries within 15 min"))
        }
        State::Bad => (State::Bad, check.action.unwrap_or_default()),
    };
    Check { state, message: super::one_line(&message), action: Some(action), ..check }
}
