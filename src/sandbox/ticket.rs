//! The field rules of BIK's `createAndAssignTicket` and `sendEvent`, from their two pages.
//!
//! Pure checks. Channel words are taken in the upper case of the vendor's table and in the lower case of its sample.

use serde_json::{Value, json};

use super::call::{Fields, Object, Refusal, instant};

const TEXTS: [&str; 7] =
    ["brandEmail", "customerEmail", "brandPhoneNumber", "customerPhoneNumber", "taskTitle", "agentMail", "context"];

/// Whether a ticket can be made of this body.
pub(super) fn check(body: &Object) -> Result<(), Refusal> {
    let mut allowed = vec!["channel", "bikCustomerId", "labelIds", "assignmentType", "teamId"];
    allowed.extend(TEXTS);
    let fields = Fields::new(body, "").only(&allowed)?;
    let channel = fields.word("channel", &["whatsapp", "email", "tasks", "WHATSAPP", "EMAIL", "TASKS"])?;
    fields.text("bikCustomerId")?;
    for key in TEXTS {
        fields.maybe_text(key)?;
    }
    if fields.get("labelIds").is_some() {
        fields.list_of("labelIds", "numbers", Value::is_number)?;
    }
    if fields.get("teamId").is_some_and(|team| !team.is_number()) {
        return fields.wrong("teamId", "must be a number");
    }
    let required: &[&str] = match channel.to_ascii_lowercase().as_str() {
        "email" => &["brandEmail", "customerEmail"],
        "whatsapp" => &["brandPhoneNumber", "customerPhoneNumber"],
        _ => &["taskTitle"],
    };
    for key in required {
        fields.text(key)?;
    }
    match fields.maybe_word("assignmentType", &["ALL_AGENTS", "SPECIFIC_AGENT", "SPECIFIC_TEAM"])? {
        Some("SPECIFIC_AGENT") => fields.text("agentMail").map(|_| ()),
        Some("SPECIFIC_TEAM") => fields.need("teamId").map(|_| ()),
        _ => Ok(()),
    }
}

/// The `data` of the answer to a ticket that was made.
pub(super) fn created(body: &Object, id: usize) -> Value {
    json!({"ticket": {
        "id": id,
        "customerId": body.get("bikCustomerId"),
        "storeId": "sandboxStore",
        "agentId": 17_643,
        "teamId": body.get("teamId"),
        "channelName": body.get("channel"),
    }})
}

/// Whether this body holds one event.
pub(super) fn check_event(body: &Object) -> Result<(), Refusal> {
    let event = Fields::new(body, "").only(&["event"])?.object("event")?;
    let allowed = ["name", "phoneNumber", "email", "eventName", "eventProperties", "createdAt", "isMigration"];
    let event = Fields::new(event, "event").only(&allowed)?;
    event.text("eventName")?;
    event.maybe_text("name")?;
    let reachable = |key| event.maybe_text(key).map(|text| text.is_some_and(|text| !text.trim().is_empty()));
    if !(reachable("email")? | reachable("phoneNumber")?) {
        return Err(Refusal::invalid("either 'event.email' or 'event.phoneNumber' is required"));
    }
    let properties = event.object("eventProperties")?;
    if let Some((key, _)) = properties.iter().find(|(_, value)| value.is_null() || value.is_array()) {
        let properties = Fields::new(properties, "eventProperties");
        return properties.wrong(key, "must be a string, number, boolean or object");
    }
    let migration = event.maybe_flag("isMigration")?.unwrap_or(false);
    match event.maybe_text("createdAt")? {
        Some(at) if instant(at).is_none() => event.wrong("createdAt", "must be an ISO 8601 timestamp"),
        // The page: without the flag the event is rejected later, by the data stream, where nobody sees it.
        Some(_) if !migration => event.wrong("createdAt", "needs 'isMigration' true"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(body: &Value) -> Result<(), String> {
        check(body.as_object().unwrap()).map_err(|refusal| refusal.message)
    }

    fn event(event: &Value) -> Result<(), String> {
        check_event(json!({"event": event}).as_object().unwrap()).map_err(|refusal| refusal.message)
    }

    #[test]
    fn a_ticket_needs_what_its_channel_and_its_assignment_need() {
        let whatsapp = json!({"channel": "whatsapp", "bikCustomerId": "5233549", "assignmentType": "ALL_AGENTS",
            "brandPhoneNumber": "+917827486670", "customerPhoneNumber": "+918095495490"});
        assert_eq!(ticket(&whatsapp), Ok(()));
        assert_eq!(ticket(&json!({"channel": "TASKS", "bikCustomerId": "1", "taskTitle": "look"})), Ok(()));
        for (body, missing) in [
            (json!({"bikCustomerId": "1"}), "channel"),
            (json!({"channel": "Tasks", "bikCustomerId": "1", "taskTitle": "x"}), "channel"),
            (json!({"channel": "tasks", "taskTitle": "x"}), "bikCustomerId"),
            (json!({"channel": "tasks", "bikCustomerId": 1, "taskTitle": "x"}), "bikCustomerId"),
            (json!({"channel": "tasks", "bikCustomerId": "1"}), "taskTitle"),
            (json!({"channel": "email", "bikCustomerId": "1", "brandEmail": "a@b.example"}), "customerEmail"),
            (
                json!({"channel": "tasks", "bikCustomerId": "1", "taskTitle": "x", "assignmentType": "SPECIFIC_AGENT"}),
                "agentMail",
            ),
            (
                json!({"channel": "tasks", "bikCustomerId": "1", "taskTitle": "x", "assignmentType": "SPECIFIC_TEAM"}),
                "teamId",
            ),
            (json!({"channel": "tasks", "bikCustomerId": "1", "taskTitle": "x", "labelIds": ["1"]}), "labelIds"),
            (json!({"channel": "tasks", "bikCustomerId": "1", "taskTitle": "x", "title": "y"}), "title"),
        ] {
            let message = ticket(&body).unwrap_err();
            assert!(message.contains(&format!("'{missing}'")), "{body}: {message}");
        }
    }

    #[test]
    fn an_event_needs_a_name_properties_and_somebody() {
        let sample =
            json!({"email": "test@bik.ai", "eventName": "x", "eventProperties": {"itemPrice": 500, "deep": {}}});
        assert_eq!(event(&sample), Ok(()));
        for (wrong, missing) in [
            (json!({"eventName": "x", "eventProperties": {}}), "event.email"),
            (json!({"email": " ", "phoneNumber": "", "eventName": "x", "eventProperties": {}}), "event.email"),
            (json!({"email": "a@b.example", "eventProperties": {}}), "event.eventName"),
            (json!({"email": "a@b.example", "eventName": "x"}), "event.eventProperties"),
            (json!({"email": "a@b.example", "eventName": "x", "eventProperties": {"a": null}}), "eventProperties.a"),
            (
                json!({"email": "a@b.example", "eventName": "x", "eventProperties": {}, "createdAt": "2026-03-01T00:00:00Z"}),
                "event.createdAt",
            ),
            (
                json!({"email": "a@b.example", "eventName": "x", "eventProperties": {}, "createdAt": "soon", "isMigration": true}),
                "event.createdAt",
            ),
        ] {
            let message = event(&wrong).unwrap_err();
            assert!(message.contains(&format!("'{missing}'")), "{wrong}: {message}");
        }
    }
}
