//! A letter over SMTP: the only module that uses lettre.
//!
//! ```text
//! mod.rs      the settings: server, login, sender; what an address is
//! message.rs  subject, text, HTML, attachments -> the bytes of a mail. Pure
//! smtp.rs     the conversation with the server
//! answer.rs   what its answers mean
//! ```
//!
//! Nothing that others wrote becomes a header or a command: control characters are taken out of texts and names, and an address
//! that holds one is no address.

mod answer;
mod message;
mod smtp;

use lettre::Address;
use lettre::message::Mailbox;

use crate::connection::secret::SecretRef;
use crate::yaml::is_unprintable;

pub use message::{Attachment, Envelope};
pub use smtp::Mailer;

/// How mail goes out, as reportd.yaml says it. Names secrets, holds none.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The mail server.
    pub server: Server,
    /// User and password, unless the server asks for none.
    pub login: Option<Login>,
    /// Sender.
    pub from: Sender,
}

/// Where a mail server's user and password are.
#[derive(Clone, Debug)]
pub struct Login {
    /// User.
    pub username: SecretRef,
    /// Password.
    pub password: SecretRef,
}

/// A mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Host name in ASCII, or an IP address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// How what is said there is kept secret.
    pub security: Security,
}

/// How a connection is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Not at all: the server is on this machine.
    Plain,
    /// By STARTTLS, without which nothing is said.
    Starttls,
    /// From the first byte.
    Tls,
}

impl Server {
    /// Parses `smtps://host[:465]` or `smtp://host[:587]`. The error never repeats the text, which may hold a password.
    pub fn parse(text: &str) -> Result<Server, &'static str> {
        const FORM: &str = "mail.url is smtp://host[:port] or smtps://host[:port], without credentials";
        let url = url::Url::parse(text).map_err(|_| FORM)?;
        let (security, port) = match url.scheme() {
            "smtps" => (Security::Tls, 465),
            "smtp" => (Security::Starttls, 587),
            _ => return Err(FORM),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(FORM);
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err("mail.url has more than a host and a port: write smtp://host[:port] or smtps://host[:port]");
        }
        // To the URL parser smtp:// is a scheme like any other, and the host of such a one any text.
        let host = url::Host::parse(url.host_str().unwrap_or_default()).map_err(|_| FORM)?;
        let (host, loopback) = match host {
            url::Host::Domain(name) => (name.clone(), name == "localhost"),
            url::Host::Ipv4(ip) => (ip.to_string(), ip.is_loopback()),
            url::Host::Ipv6(ip) => (ip.to_string(), ip.is_loopback()),
        };
        let security = if loopback && security == Security::Starttls { Security::Plain } else { security };
        Ok(Server { host, port: url.port().unwrap_or(port), security })
    }
}

/// Who mails are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender(Mailbox);

impl Sender {
    /// Parses `reports@example.com` or `Reports <reports@example.com>`.
    pub fn parse(text: &str) -> Option<Sender> {
        mailbox(text).map(Sender)
    }
}

/// Whether a mail can be sent to this: `ops@example.com` or `Ops <ops@example.com>`, on one line. Before the @ only ASCII: few
/// servers take more.
pub fn is_recipient(text: &str) -> bool {
    mailbox(text).is_some()
}

fn mailbox(text: &str) -> Option<Mailbox> {
    if text.chars().any(is_unprintable) {
        return None;
    }
    let (name, bare) = match text.trim().strip_suffix('>') {
        Some(text) => text.rsplit_once('<')?,
        None => ("", text),
    };
    let (local, domain) = bare.trim().rsplit_once('@')?;
    // What a quoted part could hold ends a command or a list elsewhere.
    if !local.is_ascii() || local.contains(|c: char| c.is_whitespace() || "<>,;:\"\\@()[]".contains(c)) {
        return None;
    }
    let domain = match domain.is_ascii() {
        true => domain.to_owned(),
        false => url::Host::parse(domain).ok()?.to_string(),
    };
    let name = name.trim();
    let name = match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => name.to_owned(),
    };
    Some(Mailbox::new((!name.is_empty()).then_some(name), Address::new(local, domain).ok()?))
}
