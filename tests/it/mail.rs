//! Mail: what arrives at a real server is what was sent, to whom it was sent, once; and what a misbehaving server does to it.

use std::process::Command;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use reportd::connection::environment::Environment;
use reportd::connection::secret::SecretRef;
use reportd::delivery::Trouble;
use reportd::delivery::email::{Attachment, Envelope, Login, Mail, Mailer, Security, Sender, Server};
use uuid::Uuid;

use crate::harness::{Ran, offline, run};
use crate::smtp::{Act, Mode, PASSWORD, Rough, Smtp, Step, USER};

const ID: Uuid = Uuid::from_u128(0x0192_a7c0_0000_7000_8000_0000_0000_0042);

fn mailer(url: &str, login: bool) -> Mailer {
    let server = Server::parse(url).unwrap();
    mailer_of(server, login.then_some((USER, PASSWORD))).with_limit(Duration::from_secs(20))
}

fn mailer_of(server: Server, login: Option<(&str, &str)>) -> Mailer {
    let secret = |name: &str| SecretRef::Env(name.to_owned());
    let from = Sender::parse("Отчёты, ежедневно <reports@shop.example>").unwrap();
    let named = login.map(|_| Login { username: secret("U"), password: secret("P") });
    let (user, password) = login.unwrap_or_default();
    let environment = Environment::of(&[("U", user), ("P", password)]);
    Mailer::new(&Mail { server, login: named, from }, &environment).unwrap()
}

fn to(addresses: &[&str]) -> Vec<String> {
    addresses.iter().map(|a| (*a).to_owned()).collect()
}

fn made_at() -> DateTime<Utc> {
    "2026-03-03T06:30:00Z".parse().unwrap()
}

fn letter<'a>(to: &'a [String], subject: &'a str) -> Envelope<'a> {
    let attachments = Vec::new();
    Envelope { id: ID, made_at: made_at(), to, subject, text: "text", html: "<p>html</p>", attachments }
}

/// Every byte, the ends of lines of every system, and what would end a mail.
fn awkward() -> Vec<u8> {
    let every = (0..=u8::MAX).cycle().take(20_000);
    every.chain(b"a\r\n.\r\nb\n.\nc\r.\r\r\n..\r\n".iter().copied()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_arrives_whole_at_each_recipient_in_one_mail() {
    let smtp = Smtp::start(Mode::Login);
    let recipients = to(&["Лид, Анна <anna@shop.example>", "ops@shop.example", "\"Q. \\\"x\\\"\" <q@shop.example>"]);
    let subject = "Отчёт за 2026-03-03 — “ratings” × 日本語, done  twice";
    let text = format!("Привет,\n.\n..\nFrom x\n{}\nend", "long ".repeat(400));
    let html = "<p>Привет ✓</p>\n<table><tr><td>1</td></tr></table>";
    let attachments = vec![
        Attachment {
            name: "отчёт ratings_north_2026-03-03.csv".into(),
            media_type: "text/csv".into(),
            bytes: awkward(),
        },
        Attachment {
            name: "a\"b;c.json".into(),
            media_type: "application/json".into(),
            bytes: b"{\"a\": 1}\n".to_vec(),
        },
        Attachment { name: "plain.csv".into(), media_type: "text/csv".into(), bytes: b"a,b\n1,2\n".to_vec() },
    ];
    let envelope = Envelope {
        id: ID,
        made_at: made_at(),
        to: &recipients,
        subject,
        text: &text,
        html,
        attachments: attachments.clone(),
    };
    let mailer = mailer(&smtp.url(), true);
    let answer = mailer.send(envelope.clone()).await.unwrap();
    assert_eq!(answer, "250 2.0.0 Ok: queued as 0001");
    let mails = smtp.mails();
    assert_eq!(mails.len(), 1, "one mail for all");
    let mail = &mails[0];
    assert_eq!(mail.from, "reports@shop.example");
    assert_eq!(mail.to, ["anna@shop.example", "ops@shop.example", "q@shop.example"]);
    assert_eq!(mail.header("Subject"), subject);
    assert_eq!(mail.mailboxes("From"), [(Some("Отчёты, ежедневно".to_owned()), "reports@shop.example".to_owned())]);
    let named = |name: &str, address: &str| (Some(name.to_owned()), address.to_owned());
    assert_eq!(
        mail.mailboxes("To"),
        [
            named("Лид, Анна", "anna@shop.example"),
            (None, "ops@shop.example".to_owned()),
            named("Q. \"x\"", "q@shop.example")
        ]
    );
    assert_eq!(mail.header("Message-ID").trim_matches(['<', '>']), format!("{ID}@shop.example"));
    assert_eq!(mail.header("Date"), "Tue, 03 Mar 2026 06:30:00 +0000");
    assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
    assert_eq!(mail.header("X-Reportd-Delivery"), ID.to_string());
    assert_eq!(mail.text().trim_end(), text);
    assert_eq!(mail.html().trim_end(), html);
    let got = mail.attachments();
    let sent: Vec<_> = attachments.into_iter().map(|a| (a.name, a.media_type, a.bytes)).collect();
    assert_eq!(got.len(), sent.len());
    for (got, sent) in got.iter().zip(&sent) {
        assert_eq!((&got.0, &got.1), (&sent.0, &sent.1));
        assert!(got.2 == sent.2, "the bytes of {} differ", sent.0);
    }
    let line = mail.raw.split(|b| *b == b'\n').map(<[u8]>::len).max();
    assert!(mail.raw.is_ascii() && line < Some(999), "fit for every server: lines of {line:?}");
    // Sent again, it is the same mail to whoever compares.
    mailer.send(envelope).await.unwrap();
    let mails = smtp.mails();
    assert_eq!(mails.len(), 2);
    for header in ["Message-ID", "Date", "Subject", "To", "From"] {
        assert_eq!(mails[0].header(header), mails[1].header(header));
    }
}

#[tokio::test]
async fn nothing_that_others_wrote_becomes_a_header_or_a_command() {
    let smtp = Smtp::start(Mode::Plain);
    let mailer = mailer(&smtp.url(), false);
    let evil =
        "x\r\nBcc: evil@evil.example\r\nX-Evil: 1\r\n\r\nbody\0\n.\r\nMAIL FROM:<evil@evil.example>\r\n\u{2028}y";
    let injected = "ops@shop.example\r\nRCPT TO:<evil@evil.example>".to_owned();
    let named = format!("{evil} <ops@shop.example>");
    let in_brackets = format!("Ops <ops@shop.example>{evil}>");
    let recipients = [injected, named, in_brackets, "ok@shop.example".to_owned()];
    let attachments =
        vec![Attachment { name: evil.to_owned(), media_type: format!("text/csv{evil}"), bytes: vec![1, 2, 3] }];
    let envelope =
        Envelope { id: ID, made_at: made_at(), to: &recipients, subject: evil, text: evil, html: evil, attachments };
    let answer = mailer.send(envelope).await.unwrap();
    assert!(
        answer.contains("is not an e-mail address") && !answer.contains('\r') && !answer.contains('\n'),
        "{answer}"
    );
    let mails = smtp.mails();
    assert_eq!(mails.len(), 1);
    let mail = &mails[0];
    assert_eq!(mail.to, ["ok@shop.example"]);
    let names: Vec<&str> = mail.headers.iter().map(|(name, _)| name.as_str()).collect();
    let ours = [
        "Message-ID",
        "Date",
        "From",
        "To",
        "Subject",
        "Auto-Submitted",
        "X-Reportd-Delivery",
        "MIME-Version",
        "Content-Type",
    ];
    assert!(names.iter().all(|name| ours.contains(name)), "{names:?}");
    assert_eq!(names.len(), ours.len(), "{names:?}");
    assert_eq!(
        mail.header("Subject"),
        "x  Bcc: evil@evil.example  X-Evil: 1    body  .  MAIL FROM:<evil@evil.example>   y"
    );
    let attachments = mail.attachments();
    assert_eq!(attachments.len(), 1);
    let (name, media_type, bytes) = &attachments[0];
    assert!(name.starts_with("x  Bcc: evil") && !name.contains(['\r', '\n', '\0']), "{name}");
    assert_eq!((media_type.as_str(), bytes.as_slice()), ("application/octet-stream", &[1, 2, 3][..]));
    let mut heads = Vec::new();
    for part in String::from_utf8(mail.raw.clone()).unwrap().split("\r\n--") {
        heads.push(part.split("\r\n\r\n").next().unwrap_or_default().to_lowercase());
    }
    assert!(heads.iter().all(|head| !head.contains("\nbcc:") && !head.contains("\nx-evil:")), "{heads:#?}");
}

#[tokio::test]
async fn with_nobody_to_send_to_nothing_is_sent() {
    let rough = Rough::start().await;
    let none = to(&["ops", "a@b@c", "x y@shop.example", "Имя@shop.example"]);
    let trouble = mailer(&rough.url(), false).send(letter(&none, "s")).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Refused(why) if why.contains("a@b@c is not an e-mail address")), "{trouble:?}");
    assert_eq!(rough.connections(), 0);
}

#[tokio::test]
async fn a_wrong_password_is_for_a_person_and_is_never_shown() {
    let smtp = Smtp::start(Mode::Login);
    let server = Server::parse(&smtp.url()).unwrap();
    let wrong = mailer_of(server.clone(), Some((USER, "not-the-password")));
    for trouble in [wrong.check().await, wrong.send(letter(&to(&["a@b.example"]), "s")).await.map(drop)] {
        let Err(Trouble::Person(why)) = trouble else { panic!("{trouble:?}") };
        assert!(why.contains("535") && why.contains("check username and password"), "{why}");
    }
    // Whoever asks for no login where one is required is told so.
    let trouble = mailer_of(server.clone(), None).send(letter(&to(&["a@b.example"]), "s")).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Person(why) if why.contains("530")), "{trouble:?}");
    mailer_of(server, Some((USER, PASSWORD))).check().await.unwrap();
    assert!(smtp.mails().is_empty(), "a check sends nothing");
    assert!(!format!("{wrong:?}").contains("not-the"));
}

#[tokio::test]
async fn what_the_server_repeats_of_our_secrets_is_blacked_out_and_cut() {
    let rough = Rough::start().await;
    // base64 of NUL user NUL password, as AUTH PLAIN sends it, and of the password alone.
    rough.fault(
        Step::Auth,
        Act::Answer(
            "535-5.7.8 robot-7Qx / pa55/w0rd+of=mail \x1b[31m\r\n535-AHJvYm90LTdReABwYTU1L3cwcmQrb2Y9bWFpbA== cGE1NS93MHJkK29mPW1haWw=\r\n535 see https://help.example/a?token=abcdef",
        ),
    );
    let trouble = mailer(&rough.url(), true).check().await.unwrap_err();
    let Trouble::Person(why) = &trouble else { panic!("{trouble:?}") };
    for secret in [USER, PASSWORD, "AHJv", "cGE1", "abcdef", "token", "\u{1b}", "\n"] {
        assert!(!why.contains(secret), "{secret:?} in {why}");
    }
    assert!(why.contains("535 5.7.8") && why.contains("https://help.example"), "{why}");
    rough.behave();
    rough.fault(Step::End, Act::Answer(LONG));
    let trouble = mailer(&rough.url(), true).send(letter(&to(&["a@b.example"]), "s")).await.unwrap_err();
    let Trouble::Refused(why) = &trouble else { panic!("{trouble:?}") };
    assert!(why.contains("554 nnnn") && why.chars().count() < 400, "{why}");
}

const LONG: &str = concat!(
    "554-nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\r\n",
    "554-nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\r\n",
    "554-nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\r\n",
    "554 nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
);

/// One word for each kind of trouble.
fn kind(result: &Result<String, Trouble>) -> &'static str {
    match result {
        Ok(_) => "sent",
        Err(Trouble::Later { .. }) => "later",
        Err(Trouble::Unclear(_)) => "unclear",
        Err(Trouble::Refused(_)) => "refused",
        Err(Trouble::Person(_) | Trouble::Credentials(_)) => "person",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_at_each_step_is_told_apart_and_the_next_mail_goes_out() {
    let acts: [(Act, [&str; 7]); 7] = [
        //                                greeting  EHLO      AUTH      FROM       RCPT       DATA       end
        (Act::Answer("421 4.3.2 busy"), ["later", "later", "later", "later", "later", "later", "later"]),
        (Act::Answer("451 4.3.0 later"), ["later", "later", "later", "later", "later", "later", "later"]),
        (Act::Answer("550 5.7.1 no"), ["person", "person", "person", "refused", "refused", "refused", "refused"]),
        (Act::Answer("535 5.7.8 who?"), ["person", "person", "person", "person", "person", "person", "person"]),
        (Act::Silence, ["later", "later", "later", "later", "later", "later", "unclear"]),
        (Act::HangUp, ["later", "later", "later", "later", "later", "later", "unclear"]),
        (Act::Drip, ["later", "later", "later", "later", "later", "later", "unclear"]),
    ];
    let recipients = to(&["a@shop.example", "b@shop.example"]);
    for (act, expected) in acts {
        let mut tries = Vec::new();
        for (step, expected) in Step::WAY.into_iter().zip(expected) {
            let (act, recipients) = (act.clone(), recipients.clone());
            tries.push(tokio::spawn(async move {
                let rough = Rough::start().await;
                let mailer = mailer(&rough.url(), true).with_limit(Duration::from_millis(1500));
                rough.fault(step, act.clone());
                let start = Instant::now();
                let result = mailer.send(letter(&recipients, "first")).await;
                assert_eq!(kind(&result), expected, "{act:?} at {step:?}: {result:?}");
                assert!(start.elapsed() < Duration::from_secs(4), "{act:?} at {step:?} held the mail up");
                let why = result.unwrap_err().to_string();
                assert!(why.contains("127.0.0.1") && !why.contains("://"), "{why}");
                if let Act::Answer(words) = &act {
                    assert!(why.contains(words), "its own words: {why}");
                }
                rough.behave();
                let before = rough.mails().len();
                mailer.send(letter(&recipients, "second")).await.unwrap();
                let mails = rough.mails();
                assert_eq!(mails.len(), before + 1, "{act:?} at {step:?}");
                assert_eq!(mails.last().unwrap().to, recipients);
                assert_eq!(before, usize::from(expected == "unclear"), "{act:?} at {step:?}");
            }));
        }
        for each in tries {
            each.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_mail_that_is_too_large_says_what_to_do() {
    let rough = Rough::start().await;
    rough.fault(Step::End, Act::Answer("552 5.3.4 message size exceeds fixed limit"));
    let trouble = mailer(&rough.url(), false).send(letter(&to(&["a@b.example"]), "s")).await.unwrap_err();
    assert!(
        matches!(&trouble, Trouble::Refused(why) if why.contains("552 5.3.4 message size exceeds fixed limit (if the mail is too large for it: attach: false)")),
        "{trouble:?}"
    );
}

#[tokio::test]
async fn a_refused_recipient_keeps_the_mail_from_nobody_else() {
    let rough = Rough::start().await;
    rough.fault_for(Step::Rcpt, "gone@", Act::Answer("550 5.1.1 no such user"));
    let mailer = mailer(&rough.url(), true);
    let answer = mailer.send(letter(&to(&["a@shop.example", "gone@shop.example", "b@shop.example"]), "s")).await;
    assert_eq!(answer.unwrap(), "250 2.0.0 Ok: queued; refused: gone@shop.example: 550 5.1.1 no such user");
    assert_eq!(rough.mails().len(), 1);
    assert_eq!(rough.mails()[0].to, ["a@shop.example", "b@shop.example"]);
    let alone = mailer.send(letter(&to(&["gone@shop.example"]), "s")).await.unwrap_err();
    assert!(
        matches!(&alone, Trouble::Refused(why) if why.contains("gone@shop.example: 550 5.1.1 no such user")),
        "{alone:?}"
    );
    assert_eq!(rough.mails().len(), 1);
}

#[tokio::test]
async fn who_has_the_mail_does_not_get_it_again_while_another_is_to_wait() {
    let rough = Rough::start().await;
    rough.fault_for(Step::Rcpt, "gray@", Act::Answer("450 4.2.0 greylisted"));
    rough.fault_for(Step::Rcpt, "gone@", Act::Answer("550 5.1.1 no such user"));
    let mailer = mailer(&rough.url(), true);
    let recipients = to(&["a@shop.example", "gray@shop.example", "gone@shop.example"]);
    for _ in 0..2 {
        let trouble = mailer.send(letter(&recipients, "s")).await.unwrap_err();
        let Trouble::Later { why, .. } = &trouble else { panic!("{trouble:?}") };
        assert!(why.contains("gray@shop.example: 450 4.2.0 greylisted, 1 of 3 have it"), "{why}");
    }
    rough.behave();
    rough.fault_for(Step::Rcpt, "gone@", Act::Answer("550 5.1.1 no such user"));
    let answer = mailer.send(letter(&recipients, "s")).await.unwrap();
    assert!(answer.ends_with("refused: gone@shop.example: 550 5.1.1 no such user"), "{answer}");
    let to: Vec<Vec<String>> = rough.mails().into_iter().map(|mail| mail.to).collect();
    assert_eq!(to, [["a@shop.example"], ["gray@shop.example"]]);
    // Settled: the same delivery, sent again by an operator, goes to all.
    rough.behave();
    mailer.send(letter(&recipients, "s")).await.unwrap();
    assert_eq!(rough.mails().last().unwrap().to, recipients);
}

#[tokio::test]
async fn mails_share_a_connection_while_all_goes_well() {
    let rough = Rough::start().await;
    let mailer = mailer(&rough.url(), true);
    for _ in 0..5 {
        mailer.clone().send(letter(&to(&["a@shop.example"]), "s")).await.unwrap();
    }
    assert_eq!((rough.connections(), rough.mails().len()), (1, 5));
    assert_eq!(rough.said().iter().filter(|command| command.starts_with("AUTH")).count(), 1);
    // A kept connection that is dead or silent meanwhile is not used.
    for act in [Act::HangUp, Act::Answer("421 4.4.2 idle too long")] {
        rough.fault(Step::Noop, act);
        mailer.send(letter(&to(&["a@shop.example"]), "s")).await.unwrap();
        rough.behave();
    }
    assert_eq!((rough.connections(), rough.mails().len()), (3, 7));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_again_later() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for url in [format!("smtp://127.0.0.1:{free}"), "smtps://no-such-host.invalid".to_owned()] {
        let result = mailer(&url, false).send(letter(&to(&["a@b.example"]), "s")).await;
        let Err(Trouble::Later { why, after: None }) = &result else { panic!("{result:?}") };
        assert!(why.starts_with("no connection to "), "{why}");
    }
}

#[tokio::test]
async fn nothing_is_said_without_tls_where_tls_is_due() {
    let rough = Rough::start().await;
    let starttls = Server { host: "localhost".into(), port: rough.port, security: Security::Starttls };
    let trouble = mailer_of(starttls, Some((USER, PASSWORD))).check().await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Person(why) if why.contains("offers no STARTTLS")), "{trouble:?}");
    let said = rough.said();
    assert!(said.iter().all(|command| command.starts_with("EHLO") || command == "QUIT"), "{said:?}");
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_not_taken() {
    for (mode, security) in [(Mode::Tls, Security::Tls), (Mode::Starttls, Security::Starttls)] {
        let smtp = Smtp::start(mode);
        let server = Server { host: "localhost".into(), port: smtp.port, security };
        let result = mailer_of(server, Some((USER, PASSWORD))).send(letter(&to(&["a@b.example"]), "s")).await;
        let Err(Trouble::Later { why, .. }) = &result else { panic!("{mode:?}: {result:?}") };
        assert!(why.contains("no TLS with localhost") && why.contains("SSL_CERT_FILE"), "{why}");
        assert!(smtp.mails().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_out_over_tls_from_the_first_byte_and_over_starttls() {
    for (mode, word) in [(Mode::Tls, "tls"), (Mode::Starttls, "starttls")] {
        let smtp = Smtp::start(mode);
        for host in ["localhost", "127.0.0.1"] {
            let mut helper = Command::new(std::env::current_exe().unwrap());
            helper
                .args(["--ignored", "--exact", "mail::a_process_that_trusts_another_authority", "--nocapture"])
                .env("SSL_CERT_FILE", smtp.authority())
                .env("MAIL_SERVER", format!("{host} {} {word}", smtp.port));
            let ran: Ran = run(helper).await;
            assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
            assert!(ran.stdout.contains("1 passed"), "{}", ran.stdout);
        }
        let mails = smtp.mails();
        assert_eq!(mails.len(), 2);
        assert!(smtp.secured().into_iter().all(|tls| tls), "{mode:?}");
        assert_eq!(mails[0].header("Subject"), "over TLS");
    }
}

#[test]
fn what_is_wrong_with_the_mail_section_is_told_at_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let mail = |url: &str, rest: &str| format!("mail:\n  url: {url}\n{rest}");
    let cases = [
        (mail("smtps://mail.example/inbox", "  from: a@b.example\n"), "2:8: mail.url has more than a host and a port"),
        (mail("smtps://bob@mail.example", "  from: a@b.example\n"), "2:8: mail.url is smtp://host[:port]"),
        (mail("imap://mail.example", "  from: a@b.example\n"), "2:8: mail.url is smtp://host[:port]"),
        (mail("smtps://mail.example", "  from: Reports\n"), "3:9: mail.from is reports@example.com or"),
        (mail("smtps://mail.example", "  from: \"a@b.example\\r\\nBcc: c@b.example\"\n"), "3:9: mail.from is"),
        (
            mail("smtps://mail.example", "  from: a@b.example\n  username: env:U\n"),
            "4:3: mail has a username and no password",
        ),
        (
            mail("smtps://mail.example", "  from: a@b.example\n  password: env:P\n"),
            "4:3: mail has a password and no username",
        ),
        (mail("smtps://mail.example", "  username: env:U\n  password: env:P\n"), "2:3: mail needs 'from'"),
    ];
    for (yaml, expected) in cases {
        std::fs::write(folder.path().join("reportd.yaml"), &yaml).unwrap();
        let ran = offline(folder.path(), &["validate"]);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == Some(2) && said.contains(&format!("reportd.yaml:{expected}")), "{yaml}{said}");
    }
    let good = "  from: Отчёты <a@b.example>\n  username: env:U\n  password: file:p\n";
    std::fs::write(folder.path().join("reportd.yaml"), mail("smtp://mail.example", good)).unwrap();
    let ran = offline(folder.path(), &["validate"]);
    assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("mail"), "{ran:?}");
}

/// The TLS roots of a process are read from its environment, so the test above needs a process of its own.
#[tokio::test]
#[ignore = "a part of another test, which starts it"]
async fn a_process_that_trusts_another_authority() {
    let Some((_, server)) = std::env::vars().find(|(name, _)| name == "MAIL_SERVER") else { return };
    let [host, port, word] = server.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let security = if word == "tls" { Security::Tls } else { Security::Starttls };
    let mailer = mailer_of(Server { host: host.into(), port: port.parse().unwrap(), security }, Some((USER, PASSWORD)));
    mailer.check().await.unwrap();
    mailer.send(letter(&to(&["a@shop.example"]), "over TLS")).await.unwrap();
}
