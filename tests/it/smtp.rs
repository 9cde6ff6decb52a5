//! Mail servers for the tests: [`Smtp`], a real one (aiosmtpd in a process of its own), and [`Rough`], ours, which misbehaves on
//! demand.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_parser::{Address, MessageParser, MimeHeaders as _};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Who may log in at a [`Smtp`] that wants a login.
pub const USER: &str = "robot-7Qx";
/// And with which password.
pub const PASSWORD: &str = "pa55/w0rd+of=mail";

/// A mail that a server took.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Sender on the envelope.
    pub from: String,
    /// Recipients on the envelope.
    pub to: Vec<String>,
    /// Headers, decoded, in order.
    pub headers: Vec<(String, String)>,
    /// As it came.
    pub raw: Vec<u8>,
}

impl Mail {
    fn new(from: String, to: Vec<String>, raw: Vec<u8>) -> Mail {
        let message = MessageParser::default().parse(&raw).expect("a mail");
        let headers = message
            .headers_raw()
            .map(|(name, value)| {
                let decoded = match message.header(name) {
                    Some(mail_parser::HeaderValue::Text(text)) => text.to_string(),
                    _ => value.trim().replace("\r\n", ""),
                };
                (name.to_owned(), decoded)
            })
            .collect();
        drop(message);
        Mail { from, to, headers, raw }
    }

    /// The value of a header that must be there once.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let values: Vec<&str> =
            self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect();
        assert_eq!(values.len(), 1, "{name} in {:?}", self.headers);
        values[0]
    }

    /// Name and address of each mailbox of a header.
    pub fn mailboxes(&self, name: &str) -> Vec<(Option<String>, String)> {
        let message = MessageParser::default().parse(&self.raw).unwrap();
        let list = match message.header(name).and_then(|value| value.as_address()) {
            Some(Address::List(list)) => list.clone(),
            other => panic!("{name} is {other:?}"),
        };
        list.into_iter().map(|a| (a.name.map(|n| n.to_string()), a.address.unwrap_or_default().to_string())).collect()
    }

    /// The letter as text.
    pub fn text(&self) -> String {
        MessageParser::default().parse(&self.raw).unwrap().body_text(0).unwrap().replace("\r\n", "\n")
    }

    /// The letter as HTML.
    pub fn html(&self) -> String {
        MessageParser::default().parse(&self.raw).unwrap().body_html(0).unwrap().replace("\r\n", "\n")
    }

    /// Attachments: file name, media type, bytes.
    pub fn attachments(&self) -> Vec<(String, String, Vec<u8>)> {
        let message = MessageParser::default().parse(&self.raw).unwrap();
        let one = |part: &mail_parser::MessagePart<'_>| {
            let kind = part.content_type().unwrap();
            let media_type = format!("{}/{}", kind.ctype(), kind.subtype().unwrap());
            // The parser makes text of what says that it is; here are the bytes.
            let body = &self.raw[part.raw_body_offset() as usize..part.raw_end_offset() as usize];
            let encoded: Vec<u8> = body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
            let bytes = STANDARD.decode(encoded).expect("base64");
            (part.attachment_name().unwrap().to_owned(), media_type, bytes)
        };
        message.attachments().map(one).collect()
    }
}

/// How a [`Smtp`] is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In plain, by anybody.
    Plain,
    /// In plain, after a login.
    Login,
    /// After STARTTLS and a login.
    Starttls,
    /// Under TLS from the first byte, after a login.
    Tls,
}

/// A real mail server. It ends with the test.
pub struct Smtp {
    pub port: u16,
    mode: Mode,
    folder: TempDir,
    child: Child,
}

impl Smtp {
    /// Starts it.
    pub fn start(mode: Mode) -> Smtp {
        let folder = tempfile::tempdir().unwrap();
        let word = match mode {
            Mode::Plain | Mode::Login => "plain",
            Mode::Starttls => "starttls",
            Mode::Tls => "tls",
        };
        let mut command = Command::new(python());
        command.arg(crate::harness::repository("tests/it/smtp_server.py")).arg(folder.path()).arg(word);
        if mode != Mode::Plain {
            command.arg("--login").arg(format!("{USER}:{PASSWORD}"));
        }
        if matches!(mode, Mode::Starttls | Mode::Tls) {
            let (cert, key) = certify(folder.path());
            command.arg("--cert").arg(cert).arg("--key").arg(key);
        }
        let mut child = command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let port = port.trim().parse().expect("it says its port");
        Smtp { port, mode, folder, child }
    }

    /// Its URL for `mail.url`.
    pub fn url(&self) -> String {
        let scheme = if self.mode == Mode::Tls { "smtps" } else { "smtp" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The certificate of the authority that vouches for it, for `SSL_CERT_FILE`.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// Whether each mail came under TLS.
    pub fn secured(&self) -> Vec<bool> {
        let about = |path: &PathBuf| crate::verbs::json_file(&path.with_extension("json"));
        self.kept().iter().map(|path| about(path)["tls"].as_bool().unwrap()).collect()
    }

    /// The mails that it took, the oldest first.
    pub fn mails(&self) -> Vec<Mail> {
        let read = |path: PathBuf| {
            let about = crate::verbs::json_file(&path.with_extension("json"));
            let to = about["to"].as_array().unwrap().iter().map(|to| crate::verbs::text(to).to_owned()).collect();
            Mail::new(crate::verbs::text(&about["from"]).to_owned(), to, std::fs::read(path).unwrap())
        };
        self.kept().into_iter().map(read).collect()
    }

    fn kept(&self) -> Vec<PathBuf> {
        let mut names: Vec<PathBuf> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "eml"))
            .collect();
        names.sort();
        names
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The Python that has aiosmtpd: in the target folder this test was built into.
fn python() -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_reportd"));
    let found = built.ancestors().map(|folder| folder.join("smtp/bin/python")).find(|python| python.exists());
    found.expect("the tests' mail server is not installed: run `./x tools`")
}

/// Makes an authority and a certificate of it for 127.0.0.1 and localhost; where certificate and key are.
fn certify(folder: &Path) -> (PathBuf, PathBuf) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let signed = authority.self_signed(&authority_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name)
    };
    write("authority.pem", &signed.pem());
    (write("cert.pem", &certificate.pem()), write("key.pem", &key.serialize_pem()))
}

/// Where a [`Rough`] misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Instead of its greeting.
    Greeting,
    /// EHLO.
    Ehlo,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    From,
    /// RCPT TO.
    Rcpt,
    /// The command DATA.
    Data,
    /// The end of the mail, its final dot.
    End,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
}

impl Step {
    /// Every step of a mail's way in.
    pub const WAY: [Step; 7] = [Step::Greeting, Step::Ehlo, Step::Auth, Step::From, Step::Rcpt, Step::Data, Step::End];
}

/// What a [`Rough`] does instead of what it should.
#[derive(Clone, Debug)]
pub enum Act {
    /// Answers so.
    Answer(&'static str),
    /// Says nothing more.
    Silence,
    /// Says nothing until it behaves again.
    Hold,
    /// Ends the connection.
    HangUp,
    /// Says one letter in a while and never ends.
    Drip,
}

#[derive(Debug, Default)]
struct State {
    faults: Vec<(Step, Option<String>, Act)>,
    mails: Vec<Mail>,
    said: Vec<String>,
    connections: usize,
}

/// A mail server that misbehaves: on 127.0.0.1, in plain, with a login that takes everybody.
pub struct Rough {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

impl Rough {
    /// Starts it, as yet well behaved.
    pub async fn start() -> Rough {
        Rough::at(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// The same at a place of one's own.
    pub fn at(listener: TcpListener) -> Rough {
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.lock().unwrap().connections += 1;
                tokio::spawn(Session { state: Arc::clone(&shared) }.serve(stream));
            }
        });
        Rough { port, state }
    }

    /// Its URL for `mail.url`.
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    /// Misbehaves at a step from now on.
    pub fn fault(&self, step: Step, act: Act) {
        self.state.lock().unwrap().faults.push((step, None, act));
    }

    /// Misbehaves at a step when the command holds this text.
    pub fn fault_for(&self, step: Step, text: &str, act: Act) {
        self.state.lock().unwrap().faults.push((step, Some(text.to_owned()), act));
    }

    /// Behaves well from now on.
    pub fn behave(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    /// The mails that it took; one at whose end it misbehaved by silence or hanging up counts as taken.
    pub fn mails(&self) -> Vec<Mail> {
        self.state.lock().unwrap().mails.clone()
    }

    /// How often it was connected to.
    pub fn connections(&self) -> usize {
        self.state.lock().unwrap().connections
    }

    /// The commands that it was given.
    pub fn said(&self) -> Vec<String> {
        self.state.lock().unwrap().said.clone()
    }
}

struct Session {
    state: Arc<Mutex<State>>,
}

impl Session {
    async fn serve(self, stream: TcpStream) {
        let (read, mut write) = stream.into_split();
        let mut read = tokio::io::BufReader::new(read);
        let (mut from, mut to) = (String::new(), Vec::new());
        if !self.answer(&mut write, Step::Greeting, "", "220 rough.test ESMTP").await {
            return;
        }
        loop {
            let mut command = String::new();
            if !matches!(read.read_line(&mut command).await, Ok(1..)) {
                return;
            }
            let command = command.trim_end().to_owned();
            self.state.lock().unwrap().said.push(command.clone());
            let word = command.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            let (step, good) = match word.as_str() {
                "EHLO" => (Step::Ehlo, "250-rough.test\r\n250 AUTH PLAIN"),
                "AUTH" => (Step::Auth, "235 2.7.0 welcome"),
                "MAIL" => (Step::From, "250 2.1.0 Ok"),
                "RCPT" => (Step::Rcpt, "250 2.1.5 Ok"),
                "DATA" => (Step::Data, "354 go on"),
                "NOOP" => (Step::Noop, "250 Ok"),
                "QUIT" => (Step::Quit, "221 bye"),
                other => panic!("what is {other}?"),
            };
            let taken = matches!(self.fault_at(step, &command), None | Some(Act::Hold));
            if !self.answer(&mut write, step, &command, good).await || step == Step::Quit {
                return;
            }
            let address = || command.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
            match step {
                Step::From => (from, to) = (address(), Vec::new()),
                Step::Rcpt if taken => to.push(address()),
                Step::Data if taken => {
                    let mut raw = Vec::new();
                    while !raw.ends_with(b"\r\n.\r\n") {
                        if !matches!(read.read_until(b'\n', &mut raw).await, Ok(1..)) {
                            return;
                        }
                    }
                    raw.truncate(raw.len() - 3);
                    let mail = Mail::new(from.clone(), std::mem::take(&mut to), undotted(&raw));
                    let fault = self.fault_at(Step::End, "");
                    if !matches!(fault, Some(Act::Answer(_))) {
                        self.state.lock().unwrap().mails.push(mail);
                    }
                    if !self.answer(&mut write, Step::End, "", "250 2.0.0 Ok: queued").await {
                        return;
                    }
                }
                _ => {}
            }
        }
    }

    fn fault_at(&self, step: Step, command: &str) -> Option<Act> {
        let state = self.state.lock().unwrap();
        let is = |text: &Option<String>| text.as_ref().is_none_or(|text| command.contains(text));
        state.faults.iter().find(|(at, text, _)| *at == step && is(text)).map(|(_, _, act)| act.clone())
    }

    /// Answers well or badly; whether the conversation goes on.
    async fn answer(
        &self,
        write: &mut tokio::net::tcp::OwnedWriteHalf,
        step: Step,
        command: &str,
        good: &'static str,
    ) -> bool {
        let text = match self.fault_at(step, command) {
            None => good,
            Some(Act::Answer(text)) => text,
            Some(Act::HangUp) => return false,
            Some(Act::Hold) => {
                while self.fault_at(step, command).is_some() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                good
            }
            Some(Act::Silence) => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                return false;
            }
            Some(Act::Drip) => {
                while write.write_all(b"2").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                return false;
            }
        };
        let mut line = String::new();
        write!(line, "{text}\r\n").unwrap();
        write.write_all(line.as_bytes()).await.is_ok()
    }
}

/// A mail's lines without the dots that SMTP doubles.
fn undotted(raw: &[u8]) -> Vec<u8> {
    let lines = raw.split_inclusive(|b| *b == b'\n');
    lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect()
}
