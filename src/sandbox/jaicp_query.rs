//! JAICP's data endpoints, which answer at once: pages of sessions, messages and clients, and one session's messages.
//!
//! A session's id carries all that its row says, so `by-session` knows every session that a page has shown without
//! anything being remembered, and refuses the others.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::call::{Call, Object, Refusal};
use super::data::{CHANNELS, Dice, Span, iso};
use super::jaicp_filter::{Choice, choice};

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    Sessions,
    Messages,
    Clients,
}

/// One page of `POST {sessions,messages,clients}/filter`.
pub(super) fn page(what: Rows, call: &Call, now: DateTime<Utc>, no_rows: bool) -> Result<Value, Refusal> {
    let body = if call.body.is_empty() { Object::new() } else { call.object()? };
    super::call::Fields::new(&body, "").only(&["filters"])?;
    let chosen = choice(&body, now)?;
    let known = ["page", "size", "needToReturnSessionLabels"];
    let params = parameters(call, &known)?;
    let (page, size) = page_and_size(&params)?;
    let labels = params.iter().any(|(key, value)| key == "needToReturnSessionLabels" && value == "true");

    let seed = format!("{what:?}{}", json!(body.get("filters")));
    let total = if no_rows { 0 } else { chosen.span.row_count(&seed) };
    let from = page.saturating_mul(size).min(total);
    let rows: Vec<Value> = (from..total.min(from.saturating_add(size)))
        .filter_map(|row| {
            let session = session_of_row(&chosen, &seed, row, total);
            match what {
                Rows::Sessions => session.row(labels),
                Rows::Messages => Some(session.message(0)),
                Rows::Clients => Some(session.client()),
            }
        })
        .collect();
    let name = format!("{what:?}").to_lowercase();
    Ok(json!({"paging": paging(page, size, total), name: rows, "filterSetId": Dice::new(&[&seed]).roll() >> 12}))
}

/// `messages/by-session`, by GET and by POST: the vendor's pages do not agree which.
pub(super) fn by_session(call: &Call, no_rows: bool) -> Result<Value, Refusal> {
    let known = ["sessionId", "page", "size", "botId", "startTime", "responseDataJsonPath", "hideEmptyMessage"];
    let params = parameters(call, &known)?;
    let (page, size) = page_and_size(&params)?;
    let id = params.iter().find(|(key, _)| key == "sessionId").map(|(_, id)| id.as_str());
    let id = id.ok_or_else(|| Refusal::invalid("'sessionId' is required"))?;
    let session = Session::read(id).ok_or_else(|| Refusal::not_found("session is not found"))?;
    let row = session.row(false).ok_or_else(|| Refusal::not_found("session is not found"))?;
    let total = if no_rows { 0 } else { session.messages() };
    let from = page.saturating_mul(size).min(total);
    let messages: Vec<_> =
        (from..total.min(from.saturating_add(size))).map(|message| session.message(message)).collect();
    Ok(json!({"paging": paging(page, size, total), "session": row, "messages": messages}))
}

/// The filters that a section has, for `GET filters`.
pub(super) fn known_filters(call: &Call) -> Result<Value, Refusal> {
    let params = parameters(call, &["analyticsSection"])?;
    let filter = |key: &str, kind: &str, default: bool| json!({"key": key, "type": kind, "label": key.to_lowercase(), "isDefault": default, "isRequired": false, "settings": {}});
    match params.first().map(|(_, section)| section.as_str()) {
        Some("SESSIONS") => Ok(json!([
            filter("SESSION_START_TIME", "DATE_TIME_RANGE", true),
            filter("MESSAGE_TIME", "DATE_TIME_RANGE", false),
            filter("CHANNEL_TYPE", "CHECKBOX", false),
            filter("MESSAGE_COUNT", "NUMERIC_RANGE", false),
            filter("WITHOUT_EMPTY_SESSIONS", "RADIO", false),
        ])),
        Some("CLIENTS") => Ok(json!([
            filter("CLIENT_JOIN_TIME", "DATE_TIME_RANGE", true),
            filter("CLIENT_LAST_ACTIVITY_TIME", "DATE_TIME_RANGE", false),
            filter("CHANNEL_TYPE", "CHECKBOX", false),
        ])),
        _ => Err(Refusal::invalid("'analyticsSection' must be one of SESSIONS, CLIENTS")),
    }
}

/// The query parameters; one that the page does not know would be a filter that does nothing.
pub(super) fn parameters(call: &Call, known: &[&str]) -> Result<Vec<(String, String)>, Refusal> {
    let params = call.params();
    match params.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        Some((key, _)) => Err(Refusal::invalid(format!("query parameter '{key}' is not known"))),
        None => Ok(params),
    }
}

fn page_and_size(params: &[(String, String)]) -> Result<(usize, usize), Refusal> {
    let number = |name: &str, default| match params.iter().find(|(key, _)| key == name) {
        None => Ok(default),
        Some((_, text)) => text.parse().map_err(|_| Refusal::invalid(format!("'{name}' must be a number from 0"))),
    };
    match (number("page", 0)?, number("size", 20)?) {
        (page, size @ 1..=1000) => Ok((page, size)),
        _ => Err(Refusal::invalid("'size' must be from 1 to 1000")),
    }
}

fn paging(page: usize, size: usize, total: usize) -> Value {
    json!({"pageNum": page, "pageSize": size, "totalCount": total})
}

fn session_of_row(chosen: &Choice, seed: &str, row: usize, rows: usize) -> Session {
    let mut dice = Dice::new(&["session", seed, &row.to_string()]);
    let Choice { span, channels } = chosen;
    let start = Span::moment(*span, row, rows, &mut dice).timestamp_millis();
    Session { start, channel: dice.word(channels), mark: dice.roll() >> 32 }
}

/// A session, as its id tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    /// Unix milliseconds.
    start: i64,
    channel: &'static str,
    mark: u64,
}

impl Session {
    fn id(self) -> String {
        format!("s-{:016x}-{}-{:08x}", self.start.cast_unsigned(), self.channel, self.mark)
    }

    fn read(id: &str) -> Option<Self> {
        let (start, rest) = id.strip_prefix("s-")?.split_once('-')?;
        let (channel, mark) = rest.split_once('-')?;
        let session = Self {
            start: u64::from_str_radix(start, 16).ok()?.cast_signed(),
            channel: CHANNELS.into_iter().find(|known| *known == channel)?,
            mark: u64::from_str_radix(mark, 16).ok()?,
        };
        (session.id() == id).then_some(session)
    }

    fn dice(self, what: &str) -> Dice {
        Dice::new(&[what, &self.id()])
    }

    fn messages(self) -> usize {
        2 + usize::from(self.dice("count").below(5))
    }

    /// `None` when the id names a time that no calendar has.
    fn row(self, labels: bool) -> Option<Value> {
        let mut dice = self.dice("row");
        let mut row = json!({
            "sessionId": self.id(),
            "projectShortName": "sandbox-1-abc",
            "channelType": self.channel,
            "botId": "sandbox-1-abc-bot",
            "client": self.client(),
            "startTime": iso(DateTime::from_timestamp_millis(self.start)?),
            "isLivechat": self.channel == "livechat",
            "firstQuestion": dice.text(),
            "lastQuestion": dice.text(),
            "questionCount": self.messages(),
            "duration": 10 + dice.below(900),
        });
        if labels {
            row["labels"] = json!([dice.word(&["refund", "delivery", "praise"])]);
        }
        Some(row)
    }

    fn client(self) -> Value {
        let mut dice = self.dice("client");
        let id = dice.roll();
        json!({"id": format!("c{id:016x}"), "name": dice.person(), "channelType": self.channel})
    }

    fn message(self, number: usize) -> Value {
        let mut dice = self.dice(&format!("message {number}"));
        // SENT exists only in Telegram and VK, READ only in Viber and VK, and elsewhere there is no status.
        let statuses: &[&str] = match self.channel {
            "telegram" => &["SENT", "DELIVERED", "NOT_SENT"],
            "vk" => &["SENT", "READ", "NOT_DELIVERED"],
            "viber" => &["DELIVERED", "READ", "NOT_DELIVERED"],
            _ => &[],
        };
        let later = TimeDelta::seconds(i64::try_from(number).unwrap_or(0) * 20);
        let at = DateTime::from_timestamp_millis(self.start).and_then(|start| start.checked_add_signed(later));
        let mut message = json!({
            "questionId": format!("{}-{number}", self.id()),
            "sessionId": self.id(),
            "channelType": self.channel,
            "client": self.client(),
            "time": at.map(iso),
            "question": dice.text(),
            "answer": dice.text(),
        });
        if let Some(status) = dice.pick(statuses) {
            message["status"] = json!(status);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_by_its_id_alone_and_no_other_id_is() {
        for start in [0, -1, i64::MAX, 1_772_323_200_000] {
            let session = Session { start, channel: "vk", mark: 7 };
            assert_eq!(Session::read(&session.id()), Some(session));
            assert!(session.row(true).is_some() || start == i64::MAX);
            assert!(session.message(3).is_object());
        }
        for id in [
            "",
            "s-",
            "s-1-vk-7",
            "s-0000000000000000-mail-00000007",
            "s-0000000000000000-vk-00000007 ",
            "s-+000000000000000-vk-00000007",
        ] {
            assert_eq!(Session::read(id), None, "{id}");
        }
    }
}
