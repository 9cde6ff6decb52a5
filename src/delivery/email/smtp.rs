//! The conversation with the mail server, and what its answers mean.
//!
//! `smtps://` is TLS from the first byte; `smtp://` goes on only after STARTTLS, but for a loopback host, which is spoken to in
//! plain. A mail has a time limit as a whole, because lettre has none (its own covers the connect alone). Connections are kept
//! for the next mail while all goes well; after any trouble the next one is new.
//!
//! The commands are given one by one: lettre's transport gives a whole mail up when one of its recipients is refused. Here the
//! others get it, once: who has it is remembered until the rest is settled, in this process only.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lettre::Address;
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands;
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::{Response, Severity};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::answer::{Answers, Step, code, innermost};
use super::message::{Composed, Envelope, compose};
use super::{Mail, Security, Server};
use crate::connection::environment::Environment;
use crate::connection::secret::SecretRef;
use crate::delivery::Trouble;
use crate::vendor::account::Forms;

/// Connecting to one address of the server takes no longer than this.
const CONNECT: Duration = Duration::from_secs(10);
/// A mail as a whole takes no longer than this.
const SEND: Duration = Duration::from_secs(60);
/// What is asked of a connection that is not needed: a farewell, or whether it still lives.
const COURTESY: Duration = Duration::from_secs(5);
/// A connection is kept so long for the next mail. Servers end idle ones after five minutes (RFC 5321, 4.5.3.2.7).
const IDLE: Duration = Duration::from_secs(30);
/// Connections that are kept.
const MOST_IDLE: usize = 4;
/// Deliveries of which it is remembered who has them.
const MOST_PARTIAL: usize = 1000;

/// Sends mails by one server; its clones share connections.
#[derive(Clone)]
pub struct Mailer {
    line: Arc<Line>,
    limit: Duration,
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mailer({:?})", self.line.answers.server)
    }
}

/// The way to the server.
struct Line {
    answers: Answers,
    tls: Option<TlsParameters>,
    login: Option<(SecretString, SecretString)>,
    from: Mailbox,
    idle: Mutex<Vec<(Instant, AsyncSmtpConnection)>>,
    /// Who has a mail that others of its recipients still wait for.
    partial: Mutex<HashMap<Uuid, Vec<Address>>>,
}

impl Mailer {
    /// Reads the secrets and the machine's TLS roots. What is missing is for a person ([`Trouble::Person`]); when secrets
    /// change, make a new one.
    pub fn new(mail: &Mail, environment: &Environment) -> Result<Mailer, Trouble> {
        let read = |secret: &SecretRef| {
            let read = secret.read(&|name| environment.get(name));
            read.map_err(|e| Trouble::Person(format!("mail: {e}")))
        };
        let login = match &mail.login {
            Some(login) => Some((read(&login.username)?, read(&login.password)?)),
            None => None,
        };
        let server = mail.server.clone();
        let tls = match server.security {
            Security::Plain => None,
            Security::Starttls | Security::Tls => Some(
                TlsParameters::new(server.host.clone())
                    .map_err(|e| Trouble::Person(format!("TLS cannot be used: {}", innermost(&e))))?,
            ),
        };
        let mut words = Vec::new();
        if let Some((user, password)) = &login {
            let plain = format!("\0{}\0{}", user.expose_secret(), password.expose_secret());
            words = vec![user.clone(), password.clone(), plain.into()];
        }
        let (idle, partial) = (Mutex::default(), Mutex::default());
        let (from, answers) = (mail.from.0.clone(), Answers { server, secrets: Forms::of(words) });
        Ok(Mailer { line: Arc::new(Line { answers, tls, login, from, idle, partial }), limit: SEND })
    }

    /// The same with another limit for one mail or check; 60 s otherwise.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Mailer {
        self.limit = limit;
        self
    }

    /// Sends a mail to all its recipients. The server's answer in one line, with those that it refuses for good; when
    /// others are to wait, the mail has gone out to the rest, and a later try is for them alone.
    ///
    /// [`Trouble::Unclear`] when the mail was handed over and no answer came, [`Trouble::Refused`] when nobody will get it.
    pub async fn send(&self, envelope: Envelope<'_>) -> Result<String, Trouble> {
        let mail = compose(&self.line.from, envelope)?;
        let handed = AtomicBool::new(false);
        match timeout(self.limit, self.line.deliver(&mail, &handed)).await {
            Ok(result) => result,
            Err(_) => Err(self.silence(handed.into_inner())),
        }
    }

    /// Connects, secures the connection, logs in, and says good-bye. Sends nothing.
    pub async fn check(&self) -> Result<(), Trouble> {
        let check = async {
            let mut connection = self.line.connect().await?;
            let alive = connection.command(commands::Noop).await;
            alive.map_err(|e| self.line.answers.trouble(Step::Noop, &e))?;
            // Whatever it answers to the farewell, all is well.
            let _answer = timeout(COURTESY, connection.quit()).await;
            Ok(())
        };
        timeout(self.limit, check).await.unwrap_or_else(|_| Err(self.silence(false)))
    }

    fn silence(&self, handed: bool) -> Trouble {
        let why = format!("{} did not answer within {} s", self.line.answers.server.host, self.limit.as_secs_f64());
        if handed { Trouble::Unclear(format!("{why}: it may have taken the mail")) } else { Trouble::later(why) }
    }
}

impl Line {
    async fn deliver(self: &Arc<Line>, mail: &Composed, handed: &AtomicBool) -> Result<String, Trouble> {
        let mut connection = self.connection().await?;
        let from = commands::Mail::new(Some(self.from.email.clone()), Vec::new());
        if let Err(error) = connection.command(from).await {
            farewell(connection);
            return Err(self.answers.trouble(Step::From, &error));
        }
        let before = self.partial().get(&mail.id).cloned().unwrap_or_default();
        let (mut taken, mut waiting, mut refused) = (before.clone(), Vec::new(), mail.refused.clone());
        for to in mail.to.iter().filter(|to| !before.contains(to)) {
            let Err(error) = connection.command(commands::Rcpt::new(to.clone(), Vec::new())).await else {
                taken.push(to.clone());
                continue;
            };
            let trouble = self.answers.trouble(Step::Recipient, &error);
            let named = || format!("{to}: {}", self.answers.words(&error));
            match trouble {
                Trouble::Refused(_) => refused.push(named()),
                // 421 is said of the connection, whatever was asked.
                Trouble::Later { .. } if code(&error).is_some_and(|code| code != 421) => waiting.push(named()),
                _ => {
                    farewell(connection);
                    return Err(trouble);
                }
            }
        }
        let answer = if taken.len() > before.len() {
            self.hand_over(&mut connection, mail, handed).await.map(Some)
        } else {
            Ok(None)
        };
        // With nobody to send to, the server still waits for recipients.
        match &answer {
            Ok(Some(_)) => self.rest(connection),
            _ => farewell(connection),
        }
        self.settle(mail, answer?, taken, &waiting, &refused)
    }

    /// Sends the mail itself, to the recipients that the server has taken.
    async fn hand_over(
        &self,
        connection: &mut AsyncSmtpConnection,
        mail: &Composed,
        handed: &AtomicBool,
    ) -> Result<Response, Trouble> {
        connection.command(commands::Data).await.map_err(|e| self.answers.trouble(Step::Data, &e))?;
        handed.store(true, Ordering::Relaxed);
        let answer = connection.message(&mail.bytes).await.map_err(|e| self.answers.trouble(Step::Content, &e))?;
        // lettre takes 3xx for a yes as well; after the mail's end it is none.
        if answer.code().severity != Severity::PositiveCompletion {
            let said = self.answers.praise(&answer);
            return Err(Trouble::Unclear(format!("the mail server answered the mail's end with {said}")));
        }
        Ok(answer)
    }

    /// What it comes to, when some have it, some are to wait, and some are refused.
    fn settle(
        &self,
        mail: &Composed,
        answer: Option<Response>,
        taken: Vec<Address>,
        waiting: &[String],
        refused: &[String],
    ) -> Result<String, Trouble> {
        let host = &self.answers.server.host;
        let not = if refused.is_empty() { String::new() } else { format!("; refused: {}", refused.join("; ")) };
        if !waiting.is_empty() {
            let have = match taken.len() {
                0 => String::new(),
                have => format!(", {have} of {} have it", mail.to.len()),
            };
            if !taken.is_empty() {
                let mut partial = self.partial();
                // Each costs a few addresses; to forget one is to send it twice, under the same Message-ID.
                if partial.len() >= MOST_PARTIAL {
                    partial.clear();
                }
                partial.insert(mail.id, taken);
            }
            return Err(Trouble::later(format!("{host} lets wait: {}{have}{not}", waiting.join("; "))));
        }
        self.partial().remove(&mail.id);
        match answer {
            Some(answer) => Ok(format!("{}{not}", self.answers.praise(&answer))),
            None if !taken.is_empty() => Ok(format!("{host} took it before{not}")),
            None => Err(Trouble::Refused(format!("{host} takes no recipient: {}; correct 'to'", refused.join("; ")))),
        }
    }

    /// A connection that is logged in: one that was kept, if it still lives.
    async fn connection(&self) -> Result<AsyncSmtpConnection, Trouble> {
        while let Some(mut kept) = self.kept() {
            if timeout(COURTESY, kept.test_connected()).await.unwrap_or(false) {
                return Ok(kept);
            }
        }
        self.connect().await
    }

    fn kept(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| since.elapsed() < IDLE);
        idle.pop().map(|(_, connection)| connection)
    }

    /// Keeps a connection for the next mail, for a while.
    fn rest(self: &Arc<Line>, connection: AsyncSmtpConnection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= MOST_IDLE {
            farewell(connection);
            return;
        }
        idle.push((Instant::now(), connection));
        let line = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(IDLE).await;
            if let Some(line) = line.upgrade() {
                let mut idle = line.idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.extract_if(.., |(since, _)| since.elapsed() >= IDLE).for_each(|(_, old)| farewell(old));
            }
        });
    }

    fn partial(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Vec<Address>>> {
        self.partial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects, secures the connection and logs in.
    async fn connect(&self) -> Result<AsyncSmtpConnection, Trouble> {
        let Server { host, port, security } = &self.answers.server;
        let hello = ClientId::default();
        let implicit = self.tls.clone().filter(|_| *security == Security::Tls);
        let server = (host.as_str(), *port);
        let mut connection = AsyncSmtpConnection::connect_tokio1(server, Some(CONNECT), &hello, implicit, None)
            .await
            .map_err(|e| self.answers.trouble(Step::Connect, &e))?;
        if let Some(tls) = self.tls.clone().filter(|_| *security == Security::Starttls) {
            if !connection.can_starttls() {
                farewell(connection);
                let why = format!("{host} offers no STARTTLS, and nothing is sent in plain: try smtps:// in mail.url");
                return Err(Trouble::Person(why));
            }
            connection.starttls(tls, &hello).await.map_err(|e| self.answers.trouble(Step::Starttls, &e))?;
        }
        if let Some((user, password)) = &self.login {
            if connection.server_info().get_auth_mechanism(DEFAULT_MECHANISMS).is_none() {
                farewell(connection);
                let why = format!(
                    "{host} offers no login that we know (PLAIN, LOGIN); if it needs none, take username and password out of mail"
                );
                return Err(Trouble::Person(why));
            }
            let login = Credentials::new(user.expose_secret().to_owned(), password.expose_secret().to_owned());
            if let Err(error) = connection.auth(DEFAULT_MECHANISMS, &login).await {
                farewell(connection);
                return Err(self.answers.trouble(Step::Login, &error));
            }
        }
        Ok(connection)
    }
}

/// Takes leave of a connection, in the background: a server that is silent now would cost the mail's time.
fn farewell(mut connection: AsyncSmtpConnection) {
    tokio::spawn(async move {
        // Whatever it answers, the connection is closed.
        let _answer = timeout(COURTESY, connection.quit()).await;
    });
}
