//! What BIK's pages "Create and Assign Ticket" and "Send single event" ask of a ticket and of an event, checked when the job
//! file is loaded. Words that BIK does not list are errors here: a notice that is refused at night helps nobody.

use super::file::{BikEventFile, BikTicketFile};
use super::object;
use crate::yaml::{Finding, Path, did_you_mean};

/// `channel` of a BIK ticket, and what each needs (vendor's page "Create and Assign Ticket"). The page's table has the words in
/// upper case, its sample in lower case: either is taken, and sent as it is written.
const CHANNELS: [(&str, &[&str]); 3] = [
    ("WHATSAPP", &["brandPhoneNumber", "customerPhoneNumber"]),
    ("EMAIL", &["brandEmail", "customerEmail"]),
    ("TASKS", &["taskTitle"]),
];

/// `assignmentType` of a BIK ticket, and what each needs (same page).
const ASSIGNMENTS: [(&str, &[&str]); 3] =
    [("ALL_AGENTS", &[]), ("SPECIFIC_AGENT", &["agentMail"]), ("SPECIFIC_TEAM", &["teamId"])];

/// The fields of a ticket, by its channel and its assignment.
pub(super) fn check_ticket(ticket: &BikTicketFile, at: &Path, out: &mut Vec<Finding>) {
    let fields = object(ticket);
    let words = [
        ("channel", ticket.channel.as_ref().map(|word| word.to_ascii_uppercase()), &CHANNELS),
        ("assignmentType", ticket.assignmentType.clone(), &ASSIGNMENTS),
    ];
    for (key, word, table) in words {
        let Some(word) = word else { continue };
        let Some((_, needed)) = table.iter().find(|(known, _)| *known == word) else {
            let known = table.map(|(known, _)| known);
            let guess = did_you_mean(&word, &known).map_or_else(String::new, |w| format!(", did you mean '{w}'?"));
            let message = format!("unknown {key} '{word}'{guess} (BIK's page has {})", known.join(", "));
            out.push(Finding::error(at.key(key), message));
            continue;
        };
        for field in needed.iter().filter(|field| !fields.contains_key(**field)) {
            out.push(Finding::error(at.clone(), format!("{key} {word} needs '{field}'")));
        }
    }
    if ticket.channel.is_none() {
        out.push(Finding::error(at.clone(), "bik_ticket needs 'channel'"));
    }
    for (key, value) in fields.iter().filter(|(_, value)| value.as_str().is_some_and(|text| text.trim().is_empty())) {
        out.push(Finding::error(at.key(key), format!("{key} is empty ({value})")));
    }
}

/// The fields of an event; its page says that a back-dated event without the flag is rejected later, where nobody sees it.
pub(super) fn check_event(event: &BikEventFile, at: &Path, out: &mut Vec<Finding>) {
    let blank = |text: &Option<String>| text.as_ref().is_none_or(|text| text.trim().is_empty());
    if blank(&event.email) && blank(&event.phoneNumber) {
        out.push(Finding::error(at.clone(), "bik_event needs email or phoneNumber"));
    }
    if blank(&event.eventName) {
        out.push(Finding::error(at.clone(), "bik_event needs 'eventName'"));
    }
    match &event.eventProperties {
        None => out.push(Finding::error(at.clone(), "bik_event needs 'eventProperties' ({} for none)")),
        Some(properties) => {
            for (key, value) in &properties.0 {
                if value.0.is_null() || value.0.is_array() {
                    let message =
                        format!("'{key}' is text, a number, true or false, or a map (BIK's page takes no list)");
                    out.push(Finding::error(at.key("eventProperties").key(key), message));
                }
            }
        }
    }
    match (&event.createdAt, event.isMigration) {
        (Some(_), None | Some(false)) => out.push(Finding::error(
            at.key("createdAt"),
            "createdAt without isMigration: true is rejected later by BIK's data stream (its page): set both, or neither",
        )),
        (None, Some(true)) => out.push(Finding::warning(
            at.key("isMigration"),
            "isMigration without createdAt takes the time of ingestion; BIK's page says to set both together",
        )),
        _ => {}
    }
    if let Some(text) = &event.createdAt
        && !text.contains('{')
        && chrono::DateTime::parse_from_rfc3339(text).is_err()
    {
        out.push(Finding::error(at.key("createdAt"), "createdAt is an ISO 8601 instant, as 2026-11-15T00:00:00Z"));
    }
}
