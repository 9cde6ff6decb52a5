//! BIK tickets and events as notices: `createAndAssignTicket` and `events/sendEvent`.
//!
//! Sources: the vendor's pages "Create and Assign Ticket" and "Send single event"; neither lists `appId`, so it is not sent.
//! Both are creates that may not be repeated: a ticket is a task for people, an event may start a journey that writes to
//! customers. So they go over a connection of their own, and whatever leaves a doubt is `Unclear`. What a body must hold was
//! checked when the job file was loaded.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::Trouble;
use crate::request::bik::BikEndpoint;
use crate::request::{Call, json_post};
use crate::vendor::account::{Account, Secrets};
use crate::vendor::bik::{Said, read};
use crate::vendor::error::{Operation, VendorError};
use crate::vendor::http::Http;

/// The request that makes a ticket; `body` in the vendor's names. Pure.
pub fn ticket(endpoint: &BikEndpoint, body: &Map<String, Value>) -> Call {
    call(endpoint, &endpoint.ticket_path, Value::Object(body.clone()))
}

/// The request that sends an event; `event` in the vendor's names. Pure.
pub fn event(endpoint: &BikEndpoint, event: &Map<String, Value>) -> Call {
    call(endpoint, &endpoint.event_path, json!({ "event": event }))
}

fn call(endpoint: &BikEndpoint, path: &str, body: Value) -> Call {
    let mut call = json_post(format!("{}{path}", endpoint.base_url), body, &endpoint.headers);
    call.authorization = Some("Basic ***".into());
    call
}

/// Sends what [`ticket`] or [`event`] made, within the account's time limit. Ok: `ticket ID`, where BIK gives one.
///
/// Errors: `Later` when it certainly was not sent or BIK asks to wait, `Refused` for a clear no, `Person` for credentials that
/// are missing or not accepted (read anew once before), else `Unclear`: nobody knows, and it may not be sent again.
pub async fn send(http: &Http, account: &Account, call: &Call, now: DateTime<Utc>) -> Result<Option<String>, Trouble> {
    let said = ask(http, account, call, Operation::Create, now).await.map_err(|e| trouble(e, account))?;
    if let Some(id) = said.data.pointer("/ticket/id").and_then(id) {
        return Ok(Some(format!("ticket {id}")));
    }
    if said.yes {
        return Ok(None);
    }
    Err(Trouble::Unclear("BIK answered neither yes nor no".into()))
}

/// A ticket's id: a number, or the same as text.
fn id(id: &Value) -> Option<u64> {
    id.as_u64().or_else(|| id.as_str()?.trim().parse().ok())
}

/// Whether BIK accepts the account's credentials, by `authPartnerViaKey` (REFERENCE 3.1), which changes nothing. Without an
/// `appId` BIK may refuse the question itself; then the answer is Ok with its words, since it did not name the credentials.
pub async fn check(
    http: &Http,
    account: &Account,
    endpoint: &BikEndpoint,
    now: DateTime<Utc>,
) -> Result<Option<String>, Trouble> {
    let mut body = Map::new();
    if let Some(app_id) = &endpoint.app_id {
        body.insert("appId".into(), app_id.clone().into());
    }
    let call = call(endpoint, &endpoint.auth_path, Value::Object(body));
    match ask(http, account, &call, Operation::Query, now).await {
        Ok(said) if said.yes => Ok(None),
        Ok(_) => Err(Trouble::Unclear("BIK answered neither yes nor no".into())),
        Err(VendorError::Refused { status: 400 | 422, message }) if endpoint.app_id.is_none() => Ok(Some(message)),
        Err(error) => Err(trouble(error, account)),
    }
}

async fn ask(
    http: &Http,
    account: &Account,
    call: &Call,
    operation: Operation,
    now: DateTime<Utc>,
) -> Result<Said, VendorError> {
    let missing = |e: crate::connection::secret::SecretError| VendorError::Auth(e.to_string());
    let secrets = account.secrets().map_err(missing)?;
    match once(http, account, &secrets, call, operation, now).await {
        // A 401 made nothing. The secret may have been rotated since it was read.
        Err(VendorError::Auth(message)) => {
            let fresh = account.reload().map_err(missing)?;
            if fresh.fingerprint == secrets.fingerprint {
                return Err(VendorError::Auth(message));
            }
            once(http, account, &fresh, call, operation, now).await
        }
        answer => answer,
    }
}

async fn once(
    http: &Http,
    account: &Account,
    secrets: &Secrets,
    call: &Call,
    operation: Operation,
    now: DateTime<Utc>,
) -> Result<Said, VendorError> {
    let answer = http.send(call, secrets, operation, account.limits.timeout).await?;
    read(secrets, now, operation, &answer)
}

/// The table of DESIGN 6, for a create that may not be repeated.
fn trouble(error: VendorError, account: &Account) -> Trouble {
    match error {
        VendorError::NotSent(why) => Trouble::later(format!("BIK could not be reached: {why}")),
        VendorError::Wait { after, message } => {
            Trouble::Later { why: format!("BIK asks to wait: {message}"), after: Some(after) }
        }
        // It never left, and will not before a setting changes.
        VendorError::Refused { status: 0, message } => Trouble::Person(message),
        VendorError::Refused { message, .. } => Trouble::Refused(message),
        VendorError::Auth(why) => {
            Trouble::Credentials(format!("credentials of connection {}: {why}", account.connection))
        }
        other => Trouble::Unclear(other.to_string()),
    }
}
