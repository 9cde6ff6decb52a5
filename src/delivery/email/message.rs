//! What a mail says -> its bytes: multipart/mixed of the letter (text and HTML) and the attachments. Pure.
//!
//! Date and Message-ID are the delivery's, the same at every try, so that a second copy can be known for one.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use lettre::Address;
use lettre::address::Envelope as Route;
use lettre::message::header::{self, ContentTransferEncoding, ContentType, Header as _, HeaderName, HeaderValue};
use lettre::message::{self, Body, Mailbox, Mailboxes, Message, MultiPart, SinglePart};
use uuid::Uuid;

use super::mailbox;
use crate::delivery::Trouble;
use crate::yaml::is_unprintable;

/// A file in a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// File name.
    pub name: String,
    /// Media type, such as `text/csv`; one that cannot be parsed counts as `application/octet-stream`.
    pub media_type: String,
    /// Content: arrives byte by byte.
    pub bytes: Vec<u8>,
}

/// A mail to send.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    /// The delivery: the Message-ID comes of it.
    pub id: Uuid,
    /// When the delivery was made: the mail's date, at every try.
    pub made_at: DateTime<Utc>,
    /// Recipients, as [`super::is_recipient`] takes them; all in one mail.
    pub to: &'a [String],
    /// Subject.
    pub subject: &'a str,
    /// The letter as text.
    pub text: &'a str,
    /// The letter as HTML.
    pub html: &'a str,
    /// What comes with it.
    pub attachments: Vec<Attachment>,
}

/// A mail in the form in which it goes over the wire.
#[derive(Debug)]
pub(super) struct Composed {
    pub(super) id: Uuid,
    /// Whom it goes to, each once.
    pub(super) to: Vec<Address>,
    /// What is no address, each with why.
    pub(super) refused: Vec<String>,
    pub(super) bytes: Vec<u8>,
}

/// `Auto-Submitted` (RFC 3834): no holiday answer comes back.
const AUTO_SUBMITTED: HeaderName = HeaderName::new_from_ascii_str("Auto-Submitted");
const DELIVERY: HeaderName = HeaderName::new_from_ascii_str("X-Reportd-Delivery");

/// Writes the mail. What is no address is left out and named.
pub(super) fn compose(from: &Mailbox, envelope: Envelope<'_>) -> Result<Composed, Trouble> {
    let (mut mailboxes, mut to, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for text in envelope.to {
        match mailbox(text) {
            Some(mailbox) if to.contains(&mailbox.email) => {}
            Some(mailbox) => {
                to.push(mailbox.email.clone());
                mailboxes.push(mailbox);
            }
            None => refused.push(format!("{} is not an e-mail address", line(text))),
        }
    }
    let unsendable = |why: &dyn fmt::Display| Trouble::Refused(format!("the mail cannot be written: {why}"));
    if to.is_empty() {
        return Err(Trouble::Refused(format!("no recipient: {}; correct 'to' in the job file", refused.join("; "))));
    }
    let route = Route::new(Some(from.email.clone()), to.clone()).map_err(|e| unsendable(&e))?;
    let letter = MultiPart::alternative()
        .singlepart(SinglePart::builder().header(ContentType::TEXT_PLAIN).body(lines(envelope.text)))
        .singlepart(SinglePart::builder().header(ContentType::TEXT_HTML).body(lines(envelope.html)));
    let mut parts = MultiPart::mixed().multipart(letter);
    for file in envelope.attachments {
        let media_type =
            ContentType::parse(&file.media_type).or_else(|_| ContentType::parse("application/octet-stream"));
        // Base64 whatever the bytes are: every other encoding may change the ends of lines.
        let body = Body::new_with_encoding(file.bytes, ContentTransferEncoding::Base64)
            .map_err(|_| unsendable(&"an attachment cannot be encoded"))?;
        let name = line(&file.name).replace(['/', '\\'], "_");
        parts = parts.singlepart(message::Attachment::new(name).body(body, media_type.map_err(|e| unsendable(&e))?));
    }
    let id = envelope.id;
    let message = Message::builder()
        .envelope(route)
        .date(envelope.made_at.into())
        .message_id(Some(format!("<{id}@{}>", from.email.domain())))
        .header(header::From::from(Mailboxes::from(from.clone())))
        .header(header::To::from(Mailboxes::from(mailboxes)))
        .raw_header(subject(&line(envelope.subject)))
        .raw_header(HeaderValue::new(AUTO_SUBMITTED, "auto-generated".into()))
        .raw_header(HeaderValue::new(DELIVERY, id.to_string()))
        .multipart(parts)
        .map_err(|e| unsendable(&e))?;
    Ok(Composed { id, to, refused, bytes: message.formatted() })
}

/// A text on one line.
fn line(text: &str) -> String {
    text.chars().map(|c| if is_unprintable(c) { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// A text of lines, without what no mail may hold.
fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// The subject. lettre leaves an ASCII word as it is, however long, and even when it looks like an encoded one.
fn subject(text: &str) -> HeaderValue {
    let words = text.split(' ').all(|word| word.len() <= 60 && word.is_ascii() && !word.contains("=?"));
    if words && !text.contains("  ") {
        return HeaderValue::new(header::Subject::name(), text.to_owned());
    }
    // RFC 2047: at most 75 characters an encoded word, whole characters in each.
    let mut encoded: Vec<String> = Vec::new();
    let mut chunk = String::new();
    let word = |chunk: &str| format!("=?utf-8?b?{}?=", STANDARD.encode(chunk));
    for c in text.chars() {
        if chunk.len() + c.len_utf8() > 39 {
            encoded.push(word(&chunk));
            chunk.clear();
        }
        chunk.push(c);
    }
    encoded.push(word(&chunk));
    HeaderValue::dangerous_new_pre_encoded(header::Subject::name(), text.to_owned(), encoded.join("\r\n "))
}

#[cfg(test)]
mod tests {
    use mail_parser::MimeHeaders as _;
    use proptest::prelude::*;

    use super::*;

    fn mail(subject: &str, name: &str, file: &str, bytes: Vec<u8>) -> Vec<u8> {
        let to = [format!("\"{}\" <a@example.com>", name.replace('\\', "\\\\").replace('"', "\\\""))];
        let file = Attachment { name: file.to_owned(), media_type: "text/csv".into(), bytes };
        let envelope = Envelope {
            id: Uuid::nil(),
            made_at: DateTime::UNIX_EPOCH,
            to: &to,
            subject,
            text: "text",
            html: "html",
            attachments: vec![file],
        };
        compose(&mailbox("reports@example.com").unwrap(), envelope).unwrap().bytes
    }

    proptest! {
        #[test]
        fn whatever_is_written_comes_back_and_no_line_is_too_long(
            subject in "\\PC{0,120}",
            name in "[a-zé-и0-9 .,:;<()\"\\\\=?_-]{0,60}",
            file in "[^/\\\\\\p{C}\\p{Z}]{1,80}",
            bytes: Vec<u8>,
        ) {
            let raw = mail(&subject, &name, &file, bytes);
            prop_assert!(raw.is_ascii());
            let text = String::from_utf8(raw.clone()).unwrap();
            prop_assert!(text.split("\r\n").all(|line| line.len() < 200 && !line.contains(['\r', '\n'])), "{}", text);
            let parsed = mail_parser::MessageParser::default().parse(&raw).unwrap();
            prop_assert_eq!(parsed.headers().len(), 9);
            prop_assert_eq!(parsed.subject().unwrap_or_default(), line(&subject));
            let to = parsed.to().and_then(|to| to.first()).unwrap();
            prop_assert_eq!(to.name().unwrap_or_default(), name.trim());
            prop_assert_eq!(to.address().unwrap(), "a@example.com");
            prop_assert_eq!(parsed.attachments().next().unwrap().attachment_name().unwrap(), file);
        }
    }

    #[test]
    fn a_subject_that_looks_encoded_or_is_one_long_word_comes_back() {
        for subject in ["=?utf-8?b?eA==?=", "a =?utf-8?q?x?= b", &"x".repeat(3000), &"é".repeat(500), "a  b   c", ""] {
            let raw = mail(subject, "Ops", "f", vec![]);
            let parsed = mail_parser::MessageParser::default().parse(&raw).unwrap();
            assert_eq!(parsed.subject().unwrap_or_default(), subject);
        }
    }

    #[test]
    fn a_recipient_that_is_named_twice_is_one() {
        let to = ["a@example.com".to_owned(), "A <a@example.com>".to_owned(), "nobody".to_owned()];
        let made_at = DateTime::UNIX_EPOCH;
        let envelope =
            Envelope { id: Uuid::nil(), made_at, to: &to, subject: "", text: "", html: "", attachments: vec![] };
        let composed = compose(&mailbox("reports@example.com").unwrap(), envelope).unwrap();
        assert_eq!((composed.to.len(), composed.refused), (1, vec!["nobody is not an e-mail address".to_owned()]));
    }
}
