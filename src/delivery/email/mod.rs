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
    let domain = if domain.is_ascii() { domain.to_owned() } else { url::Host::parse(domain).ok()?.to_string() };
    let name = name.trim();
    let name = match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => name.to_owned(),
    };
    let name = name.trim();
    Some(Mailbox::new((!name.is_empty()).then(|| name.to_owned()), Address::new(local, domain).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> (String, u16, Security) {
        let Server { host, port, security } = Server::parse(text).unwrap();
        (host, port, security)
    }

    #[test]
    fn a_url_says_how_the_server_is_spoken_to() {
        assert_eq!(server("smtps://mail.example.com"), ("mail.example.com".into(), 465, Security::Tls));
        assert_eq!(server("smtp://Mail.Example.com/"), ("mail.example.com".into(), 587, Security::Starttls));
        assert_eq!(server("smtp://bücher.example:25"), ("xn--bcher-kva.example".into(), 25, Security::Starttls));
        assert_eq!(server("smtp://10.0.0.1"), ("10.0.0.1".into(), 587, Security::Starttls));
        assert_eq!(server("smtp://[2001:db8::1]:25"), ("2001:db8::1".into(), 25, Security::Starttls));
        // On this machine nothing is to be kept from anybody, unless it is asked for.
        assert_eq!(server("smtp://localhost:2525"), ("localhost".into(), 2525, Security::Plain));
        assert_eq!(server("smtp://127.0.0.2"), ("127.0.0.2".into(), 587, Security::Plain));
        assert_eq!(server("smtp://[::1]"), ("::1".into(), 587, Security::Plain));
        assert_eq!(server("smtps://localhost"), ("localhost".into(), 465, Security::Tls));
        assert_eq!(server("smtp://localhost.example.com").2, Security::Starttls);
    }

    #[test]
    fn a_url_that_is_more_or_less_than_a_server_is_refused_without_being_repeated() {
        let urls = [
            "mail.example.com:465",
            "https://mail.example.com",
            "smtp://",
            "smtp:mail.example.com",
            "smtps://hunter2@mail.example.com",
            "smtps://bob:hunter2@mail.example.com",
            "smtps://mail.example.com/hunter2",
            "smtps://mail.example.com?tls=hunter2",
            "smtps://mail.example.com#hunter2",
            "smtps://mail example.com",
        ];
        for url in urls {
            assert!(!Server::parse(url).expect_err(url).contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn an_address_is_one_mailbox_on_one_line() {
        let good = [
            ("ops@example.com", None, "ops@example.com"),
            (" Ops <o+ps.x@example.com> ", Some("Ops"), "o+ps.x@example.com"),
            ("Лид, Анна (north) <a@bücher.example>", Some("Лид, Анна (north)"), "a@xn--bcher-kva.example"),
            (r#""Q \"x\", jr" <q@example.com>"#, Some(r#"Q "x", jr"#), "q@example.com"),
            ("<root@localhost>", None, "root@localhost"),
            ("ops@[192.0.2.1]", None, "ops@[192.0.2.1]"),
        ];
        for (text, name, address) in good {
            let mailbox = mailbox(text).expect(text);
            assert_eq!((mailbox.name.as_deref(), mailbox.email.as_ref() as &str), (name, address));
        }
        let bad = [
            "",
            "ops",
            "@example.com",
            "ops@",
            "a@b@example.com",
            "a b@example.com",
            "a@example.com, b@example.com",
            "a@example.com>",
            "Ops a@example.com",
            "<a@example.com> Ops",
            "a@exam ple.com",
            "a@example..com",
            "a\r\nBcc: b@example.com",
            "a\n <a@example.com>",
            "a\u{0}@example.com",
            "\u{202e}moc <a@example.com>",
            "\"a b\"@example.com",
            "имя@example.com",
            "a@example.com> SIZE=1",
        ];
        for text in bad {
            assert!(!is_recipient(text), "{text:?}");
        }
    }
}
