//! What a mail server's answers mean, and what of its words is shown: one line, without our secrets.
//!
//! | answer | to what | means |
//! |---|---|---|
//! | 4xx, no connection, no TLS, silence | anything before the mail's own bytes | later |
//! | 4xx | the mail | later |
//! | 530, 534, 535, 538 | anything | a person: the login |
//! | 5xx | greeting, STARTTLS, login | a person: nothing about this mail |
//! | 5xx | a recipient | refused for that one |
//! | 5xx | sender, mail | refused |
//! | silence, a broken connection | the mail | nobody knows |

use std::error::Error as _;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::response::Response;

use super::Server;
use crate::delivery::Trouble;
use crate::vendor::account::Forms;

/// Longest answer of a server that is kept, in characters.
const LONGEST: usize = 300;

/// Where in the conversation something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Connect,
    Starttls,
    Login,
    Noop,
    From,
    Recipient,
    Data,
    Content,
}

/// Reads the answers of one server.
pub(super) struct Answers {
    pub(super) server: Server,
    /// What must not be shown.
    pub(super) secrets: Forms,
}

impl Answers {
    /// What a failure at a step means.
    pub(super) fn trouble(&self, step: Step, error: &Error) -> Trouble {
        let host = &self.server.host;
        let words = self.words(error);
        let Some(code) = code(error) else {
            return match step {
                Step::Content => Trouble::Unclear(format!("{host} may have taken the mail: connection broke: {words}")),
                Step::Connect | Step::Starttls if is_tls(error) => Trouble::later(format!(
                    "no TLS with {host}: {words} (a certificate of your own authority is taken when SSL_CERT_FILE names the authority's)"
                )),
                Step::Connect => Trouble::later(format!("no connection to {host}:{}: {words}", self.server.port)),
                _ => Trouble::later(format!("connection to {host} broke: {words}")),
            };
        };
        let said = format!("{host} answered {words}");
        match (code, step) {
            (530 | 534 | 535 | 538, _) | (500.., Step::Login) => {
                Trouble::Person(format!("{said} (check username and password of mail in reportd.yaml)"))
            }
            (500.., Step::Connect | Step::Starttls | Step::Noop) => {
                Trouble::Person(format!("{said} (it does not speak with us: ask who runs it)"))
            }
            (552, Step::Content) => {
                Trouble::Refused(format!("{said} (if the mail is too large for it: attach: false)"))
            }
            (500.., Step::From) => Trouble::Refused(format!("{said} to the sender (check mail.from in reportd.yaml)")),
            (500.., _) => Trouble::Refused(format!("{said} (ask who runs it)")),
            _ => Trouble::later(said),
        }
    }

    /// What the server said, or what broke, fit to be shown.
    pub(super) fn words(&self, error: &Error) -> String {
        match code(error) {
            Some(code) => {
                self.shown(&format!("{code} {}", error.source().map(ToString::to_string).unwrap_or_default()))
            }
            None => self.shown(&innermost(error)),
        }
    }

    /// What the server said when all was well, fit to be shown.
    pub(super) fn praise(&self, answer: &Response) -> String {
        self.shown(&format!("{} {}", answer.code(), answer.message().collect::<Vec<_>>().join(" ")))
    }

    /// A server's words on one line, without our secrets, of bearable length.
    fn shown(&self, text: &str) -> String {
        let text = self.secrets.redact(text);
        match text.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

/// The code that the server answered, if it was an answer.
pub(super) fn code(error: &Error) -> Option<u16> {
    error.status().map(u16::from)
}

/// The text of the first cause: each level of lettre's errors repeats the one below.
pub(super) fn innermost(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn is_tls(error: &Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(next) = cause {
        // What an I/O error wraps is not among its sources.
        let io = next.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(inner) = io
            && inner.is::<rustls::Error>()
        {
            return true;
        }
        cause = next.source();
    }
    false
}
