//! Whom to tell and how: a notice of a job file, checked, its variables filled, as it is frozen with a run. Its other
//! placeholders are filled when it is sent ([`super::about`]). Secrets are named, never held.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Kind;

/// Most characters of a target that are shown.
const LONGEST: usize = 80;

/// One notice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// A mail.
    Email(Email),
    /// A signed POST.
    Webhook(Webhook),
    /// A copy of the artifact.
    File(Landing),
    /// The body of BIK's `createAndAssignTicket`, the vendor's field names.
    BikTicket(BikNotice),
    /// The `event` of BIK's `events/sendEvent`, the vendor's field names.
    BikEvent(BikNotice),
    /// A ping: `env:NAME` or `file:PATH` of its URL, which is a secret.
    Heartbeat(String),
}

impl Notice {
    /// How it goes out.
    pub fn kind(&self) -> Kind {
        match self {
            Notice::Email(_) => Kind::Email,
            Notice::Webhook(_) => Kind::Webhook,
            Notice::File(_) => Kind::File,
            Notice::BikTicket(_) => Kind::BikTicket,
            Notice::BikEvent(_) => Kind::BikEvent,
            Notice::Heartbeat(_) => Kind::Heartbeat,
        }
    }

    /// Where it goes, fit to be shown: no secret, no address beyond its first letter and its host.
    pub fn target(&self) -> String {
        let full = self.whole_target();
        match full.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", &full[..end]),
            None => full,
        }
    }

    /// Whose time it takes: the host or account that a hanging answer would keep others of waiting for. All mail is one server's.
    pub fn host(&self, connection: &str) -> String {
        match self {
            Notice::Email(_) => String::new(),
            // The folder or bucket as far as it is the same for all windows: one dead mount keeps no other copy waiting.
            Notice::File(landing) => {
                let fixed = landing.url.split('{').next().unwrap_or_default();
                fixed[..fixed.rfind('/').unwrap_or(0)].to_owned()
            }
            Notice::Webhook(webhook) => crate::vendor::account::redact_urls(&webhook.url),
            Notice::BikTicket(_) | Notice::BikEvent(_) => connection.to_owned(),
            Notice::Heartbeat(url) => url.clone(),
        }
    }

    fn whole_target(&self) -> String {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        match self {
            Notice::Email(email) => email.to.iter().map(|to| masked(to)).collect::<Vec<_>>().join(", "),
            Notice::Webhook(webhook) => crate::vendor::account::redact_urls(&webhook.url),
            Notice::File(landing) => landing.url.clone(),
            Notice::BikTicket(ticket) => format!("BIK channel {}", text(ticket.body.get("channel"))),
            Notice::BikEvent(event) => format!("BIK event {}", text(event.body.get("eventName"))),
            Notice::Heartbeat(url) => url.clone(),
        }
    }
}

/// `a…@example.com` of an address, with or without a name.
fn masked(address: &str) -> String {
    let bare = address.rsplit_once('<').map_or(address, |(_, bare)| bare.trim_end_matches('>')).trim();
    match bare.rsplit_once('@') {
        Some((local, host)) => {
            let first: String = local.chars().take(1).collect();
            format!("{first}…@{host}")
        }
        None => "…".to_owned(),
    }
}

/// A text of the other side without the addresses of people.
pub fn mask_addresses(text: &str) -> String {
    let stands_apart = |c: char| c.is_whitespace() || "<>,;:()[]{}\"'".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(stands_apart).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        // A host alone, as in `user @ host`, names nobody.
        let is_address = word.split_once('@').is_some_and(|(local, host)| !local.is_empty() && !host.is_empty());
        out.push_str(&if is_address { masked(word) } else { word.to_owned() });
        let gap = after.find(|c| !stands_apart(c)).unwrap_or(after.len());
        out.push_str(&after[..gap]);
        rest = &after[gap..];
    }
    out
}

/// A mail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Email {
    /// Recipients: all in one mail.
    pub to: Vec<String>,
    /// Subject; `None` = the cause in our words.
    pub subject: Option<String>,
    /// Attach the report, up to the size limit.
    pub attach: bool,
}

/// A signed POST of the run's JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    /// `https://…`, or `env:NAME` or `file:PATH` of a URL that is a secret.
    pub url: String,
    /// `env:NAME` or `file:PATH` of each signing key; two while rotating.
    pub keys: Vec<String>,
}

/// A copy of the artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Landing {
    /// Path, `file://` or `s3://` URL of the copy; a path is absolute by now.
    pub url: String,
}

/// A create at BIK, the vendor's field names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BikNotice {
    /// Base URL it may be sent to: what a rehearsal made never reaches the real vendor.
    pub base_url: String,
    /// The body, or the event in it.
    pub body: Map<String, Value>,
}

/// What a run tells and pings: frozen with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Notices {
    /// When its report came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliver: Vec<Notice>,
    /// When it needs a person.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alert: Vec<Notice>,
    /// `env:NAME` or `file:PATH` of the URL that is pinged when it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<String>,
}

impl Notices {
    /// Nobody is told anything.
    pub fn is_empty(&self) -> bool {
        self.deliver.is_empty() && self.alert.is_empty() && self.heartbeat.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_shows_neither_who_nor_a_secret() {
        let email =
            Email { to: vec!["Ops <ops@example.com>".into(), "b@x.example".into()], subject: None, attach: false };
        assert_eq!(Notice::Email(email).target(), "o…@example.com, b…@x.example");
        let webhook = Webhook { url: "https://hooks.example.com/T0/secret?x=y".into(), keys: vec![] };
        assert_eq!(Notice::Webhook(webhook).target(), "https://hooks.example.com/***");
    }

    #[test]
    fn a_servers_words_lose_the_addresses_of_people_and_nothing_else() {
        let said = "550 5.1.1 <lead@example.com>: Recipient rejected, ask postmaster@example.com (a@b, @ or x@)";
        assert_eq!(
            mask_addresses(said),
            "550 5.1.1 <l…@example.com>: Recipient rejected, ask p…@example.com (a…@b, @ or x@)"
        );
    }

    #[test]
    fn what_is_frozen_comes_back() {
        let notices = Notices {
            deliver: vec![Notice::File(Landing { url: "/in/{window.label}".into() })],
            alert: vec![Notice::BikEvent(BikNotice { base_url: "http://x".into(), body: Map::new() })],
            heartbeat: Some("env:PING".into()),
        };
        let text = serde_json::to_string(&notices).unwrap();
        assert_eq!(serde_json::from_str::<Notices>(&text).unwrap(), notices);
        assert_eq!(serde_json::to_string(&Notices::default()).unwrap(), "{}");
    }
}
