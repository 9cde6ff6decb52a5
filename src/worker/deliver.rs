//! Works deliveries off: claim, send, settle. The only place where a notice meets its mail server, its vendor or its folder.
//!
//! Mail, webhooks, copies and pings go out at least once, under the same id at every try; a BIK ticket or event at most once:
//! whoever finds one that was being sent when its worker died holds it for an operator.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Worker, jitter};
use crate::connection::environment::Environment;
use crate::connection::secret::SecretRef;
use crate::delivery::about::About;
use crate::delivery::chart::Chart;
use crate::delivery::email::{Attachment, Envelope, Mail, Mailer};
use crate::delivery::heartbeat::{self, Beat};
use crate::delivery::landing::{self, Source};
use crate::delivery::letter::{Report, ReportFile, attachment_name, letter};
use crate::delivery::notice::{BikNotice, Email, Landing, Notice, Webhook};
use crate::delivery::outside::Outside;
use crate::delivery::{Kind, Trouble, bik, webhook};
use crate::request::Vendor;
use crate::run::Run;
use crate::run::retry::back_off;
use crate::run::store::StoreError;
use crate::run::store::delivery::{DeliveryRow, LEASE, Settling};
use crate::run::store::permit::{Admission, Permit};
use crate::run::store::revision::ArtifactRow;
use crate::settings::Settings;
use crate::telemetry::Chain;

/// Reports are attached up to this much in all: base64 makes a third more of it, and many servers take 25 MB.
pub const ATTACHED: u64 = 10 * 1024 * 1024;

/// Files that one mail carries at most.
const FILES: usize = 20;

/// How long until the next try when a person must change something first.
const PERSON: Duration = Duration::from_secs(300);

/// A BIK create whose account's rate lets it wait longer than this is put off instead.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a command sends of one kind at once.
const AT_ONCE: i64 = 8;

/// Between two looks of a command that waits for its notices.
const LOOK: Duration = Duration::from_millis(200);

/// What deliveries are sent with.
#[derive(Clone, Debug)]
pub struct Post {
    mail: Option<Mail>,
    environment: Environment,
    /// The client for all but vendors.
    pub outside: Outside,
    mailer: Arc<Mutex<Option<Mailer>>>,
}

impl Post {
    /// What these settings say. Reads no secret yet.
    pub fn new(settings: &Settings, outside: Outside) -> Post {
        Post { mail: settings.mail.clone(), environment: settings.environment.clone(), outside, mailer: Arc::default() }
    }

    /// The way to the mail server; its secrets are read when it is made.
    pub fn mailer(&self) -> Result<Mailer, Trouble> {
        let mut cached = self.mailer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mailer) = &*cached {
            return Ok(mailer.clone());
        }
        let Some(mail) = &self.mail else {
            return Err(Trouble::Person("the config of this process has no `mail:`".into()));
        };
        let mailer = Mailer::new(mail, &self.environment)?;
        *cached = Some(mailer.clone());
        Ok(mailer)
    }

    /// The next mail reads the secrets anew.
    fn forget_mailer(&self) {
        *self.mailer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Reads a secret that a notice names.
    pub fn secret(&self, text: &str) -> Result<SecretString, Trouble> {
        // Frozen with an absolute path.
        let secret = SecretRef::parse(text, std::path::Path::new("/"));
        let secret = secret.map_err(|why| Trouble::Refused(why.to_owned()))?;
        secret.read(&|name| self.environment.get(name)).map_err(|e| Trouble::Person(Chain(&e).to_string()))
    }

    fn url(&self, text: &str) -> Result<SecretString, Trouble> {
        if text.starts_with("env:") || text.starts_with("file:") {
            self.secret(text)
        } else {
            Ok(text.to_owned().into())
        }
    }
}

impl Worker {
    /// Sends a claimed delivery and settles it. When `cut` ends first, one that may be repeated is left to the next worker.
    pub async fn deliver(&self, row: &DeliveryRow, cut: impl Future<Output = ()>) -> Result<(), StoreError> {
        crate::crash::point("delivery-claimed");
        let Some(token) = row.lease_token else { return Ok(()) };
        let kind = Kind::try_from(row.kind.clone());
        let (notice, about) =
            (serde_json::from_value(row.notice.0.clone()), serde_json::from_value(row.about.0.clone()));
        let (Ok(kind), Ok(notice), Ok(about)) = (kind, notice, about) else {
            let words = "what stands in the row cannot be read by this version";
            return self.store.settle_delivery(row.id, token, Settling::Failed, Some(words)).await;
        };
        let sending = self.send(row, &notice, &about);
        let (mut sending, mut cut) = (std::pin::pin!(sending), std::pin::pin!(cut));
        let result = loop {
            tokio::select! {
                result = &mut sending => break result,
                // A create's time is shorter than its claim, and a claim that is renewed by a process which was frozen would
                // let it out twice.
                () = tokio::time::sleep(LEASE / 3), if kind.repeatable() => self.store.renew_delivery(row.id, token).await?,
                () = &mut cut, if kind.repeatable() => {
                    let words = "no answer had come when the process ended";
                    return self.store.put_off_delivery(row.id, token, Duration::ZERO, kind.give_up(), words).await;
                }
            }
        };
        crate::crash::point("delivery-sent");
        self.settle(row, token, kind, result).await?;
        crate::crash::point("delivery-settled");
        Ok(())
    }

    async fn settle(
        &self,
        row: &DeliveryRow,
        token: Uuid,
        kind: Kind,
        result: Result<Option<String>, Trouble>,
    ) -> Result<(), StoreError> {
        if let Err(trouble) = &result {
            tracing::warn!(delivery.id = %row.id, delivery.kind = kind.as_str(), job = row.job, "a notice did not go out: {trouble}");
        }
        let tries = u32::try_from(row.tries).unwrap_or(1);
        let (after, why) = match result {
            Ok(words) => {
                return self.store.settle_delivery(row.id, token, Settling::Sent, words.as_deref()).await;
            }
            Err(Trouble::Refused(why)) => {
                return self.store.settle_delivery(row.id, token, Settling::Failed, Some(&why)).await;
            }
            Err(Trouble::Unclear(why)) if !kind.repeatable() => {
                return self.store.settle_delivery(row.id, token, Settling::Held, Some(&why)).await;
            }
            Err(Trouble::Unclear(why)) => (back_off(tries, jitter()), why),
            Err(Trouble::Later { why, after }) => (after.unwrap_or_else(|| back_off(tries, jitter())), why),
            Err(Trouble::Person(why)) => (PERSON, why),
        };
        self.store.put_off_delivery(row.id, token, after, kind.give_up(), &why).await
    }

    /// Sends what is due about these runs, and these deliveries, and again what is soon due again, until all is over or `until`.
    /// Of the kinds of notices none keeps another waiting. Returns how many are left.
    pub async fn deliver_of(&self, runs: &[Uuid], also: &[Uuid], until: Instant) -> Result<i64, StoreError> {
        let open = self.store.deliveries_open(runs, also).await?;
        let kinds = Kind::ALL.into_iter().filter(|kind| open.iter().any(|(open, _)| open == kind.as_str()));
        let sent = kinds.map(|kind| self.deliver_kind(kind, runs, also, until));
        Ok(futures_util::future::try_join_all(sent).await?.into_iter().sum())
    }

    async fn deliver_kind(&self, kind: Kind, runs: &[Uuid], also: &[Uuid], until: Instant) -> Result<i64, StoreError> {
        loop {
            let (claimed, _) = self.store.claim_deliveries(&[(kind.as_str(), AT_ONCE)], Some((runs, also))).await?;
            // At `until` a send that may be repeated is given back; a BIK create is finished.
            let sent = claimed.iter().map(|row| self.deliver(row, tokio::time::sleep_until(until.into())));
            for result in futures_util::future::join_all(sent).await {
                match result {
                    Ok(()) | Err(StoreError::LeaseLost) => {}
                    Err(error) => return Err(error),
                }
            }
            let open = self.store.deliveries_open(runs, also).await?;
            let left = open.into_iter().find(|(open, _)| open == kind.as_str()).map_or(0, |(_, left)| left);
            if left == 0 || Instant::now() >= until {
                return Ok(left);
            }
            if claimed.is_empty() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Sends this delivery once it is due, unless another process does.
    pub async fn deliver_one(&self, id: Uuid, until: Instant) -> Result<(), StoreError> {
        if let Some(row) = self.store.claim_delivery(id).await? {
            let over = tokio::time::sleep_until(until.into());
            match self.deliver(&row, over).await {
                Ok(()) | Err(StoreError::LeaseLost) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn send(&self, row: &DeliveryRow, notice: &Notice, about: &About) -> Result<Option<String>, Trouble> {
        match notice {
            Notice::Email(email) => self.mail(row, email, about).await,
            Notice::Webhook(hook) => self.call_webhook(row, hook, about).await,
            Notice::File(landing) => self.copy(row, landing, about).await,
            Notice::BikTicket(ticket) => self.create_at_bik(row, ticket, about, bik::ticket).await,
            Notice::BikEvent(event) => self.create_at_bik(row, event, about, bik::event).await,
            Notice::Heartbeat(url) => {
                let beat = if about.cause.is_success() { Beat::Success } else { Beat::Fail };
                let member = about.members.first();
                let words = member.and_then(|m| m.failure.as_ref()).map(|f| f.message.as_str()).unwrap_or_default();
                let url = self.post.secret(url)?;
                let rid = member.and_then(|member| member.run_id);
                heartbeat::ping(&self.post.outside, &url, beat, rid, words).await.map(|()| None)
            }
        }
    }

    async fn mail(&self, row: &DeliveryRow, email: &Email, about: &About) -> Result<Option<String>, Trouble> {
        let mailer = self.post.mailer()?;
        let (report, attachments) = match self.run_of(about).await? {
            Some(run) if about.cause.is_success() => {
                let (report, attachments) = self.report(&run, email.attach).await?;
                (Some(report), attachments)
            }
            _ => (None, Vec::new()),
        };
        let letter = letter(email, about, report.as_ref());
        let to: Vec<String> = email.to.iter().map(|to| about.fill(to)).collect();
        let envelope = Envelope {
            id: row.id,
            made_at: row.made_at,
            to: &to,
            subject: &letter.subject,
            text: &letter.text,
            html: &letter.html,
            attachments,
        };
        let sent = mailer.send(envelope).await;
        if matches!(sent, Err(Trouble::Person(_))) {
            self.post.forget_mailer();
        }
        sent.map(Some)
    }

    /// The run that a notice about one run is about.
    async fn run_of(&self, about: &About) -> Result<Option<Run>, Trouble> {
        match about.members.first().and_then(|member| member.run_id) {
            Some(id) => self.store.run(id).await.map_err(|e| Trouble::later(Chain(&e).to_string())),
            None => Ok(None),
        }
    }

    pub(super) async fn files_of(&self, run: &Run) -> Result<Vec<ArtifactRow>, Trouble> {
        let files = self.store.artifacts_of(&[run.id]).await.map_err(|e| Trouble::later(Chain(&e).to_string()))?;
        Ok(files.into_iter().map(|(_, file)| file).collect())
    }

    /// What a letter tells of a report, and its files to attach.
    async fn report(&self, run: &Run, attach: bool) -> Result<(Report, Vec<Attachment>), Trouble> {
        let files = self.files_of(run).await?;
        let bytes: u64 = files.iter().map(size).sum();
        let mut report = Report {
            archive: self.archive.root().display().to_string(),
            revision: run.revision.unwrap_or(0),
            provisional: run.provisional,
            simulated: files.iter().any(|file| file.simulated),
            files: files
                .iter()
                .map(|file| ReportFile { path: file.path.clone(), bytes: size(file), sha256: file.sha256.clone() })
                .collect(),
            attached: Vec::new(),
            left_out: None,
            chart: None,
        };
        let mut attachments = Vec::new();
        if attach && (bytes > ATTACHED || files.len() > FILES) {
            let mib = ATTACHED / (1024 * 1024);
            report.left_out = Some(format!("the limit is {mib} MiB and {FILES} files"));
        } else if attach {
            for file in &files {
                let Some(content) = self.intact(file).await else {
                    report.left_out = Some(format!("{} is damaged or gone: reportd archive verify", file.path));
                    continue;
                };
                let name = file.path.rsplit('/').next().unwrap_or(&file.path);
                let name = attachment_name(&run.job, &run.connection, &run.window_label, name, files.len() == 1);
                report.attached.push(name.clone());
                attachments.push(Attachment { name, media_type: file.media_type.clone(), bytes: content });
            }
        }
        if let Some(file) =
            files.first().filter(|file| run.vendor == Vendor::Livechat.as_str() && size(file) < ATTACHED)
            && let Some(content) = self.intact(file).await
        {
            report.chart = Chart::of(&content);
        }
        Ok((report, attachments))
    }

    /// A file's bytes, if they are what the archive should hold.
    async fn intact(&self, file: &ArtifactRow) -> Option<Vec<u8>> {
        let content = tokio::fs::read(self.archive.path(&file.path)).await.ok()?;
        let sha256 = hex::encode(Sha256::digest(&content));
        (sha256 == file.sha256).then_some(content)
    }

    async fn call_webhook(&self, row: &DeliveryRow, hook: &Webhook, about: &About) -> Result<Option<String>, Trouble> {
        let url = self.post.url(&about.fill(&hook.url))?;
        let keys = hook.keys.iter().map(|key| self.post.secret(key)).collect::<Result<Vec<_>, _>>()?;
        let body = self.payload(row, about).await?.to_string();
        webhook::send(&self.post.outside, &url, &keys, row.id, &body, self.clock.now()).await
    }

    async fn copy(&self, row: &DeliveryRow, landing: &Landing, about: &About) -> Result<Option<String>, Trouble> {
        let Some(run) = self.run_of(about).await? else {
            return Err(Trouble::Refused("there is no report to copy".into()));
        };
        let source = |file: &ArtifactRow| Source {
            path: self.archive.path(&file.path),
            name: file.path.rsplit('/').next().unwrap_or(&file.path).to_owned(),
            media_type: file.media_type.clone(),
            sha256: file.sha256.clone(),
            bytes: size(file),
        };
        let sources: Vec<Source> = self.files_of(&run).await?.iter().map(source).collect();
        landing::copy(&about.fill(&landing.url), &sources, row.id, &self.post.environment).await
    }

    async fn create_at_bik(
        &self,
        row: &DeliveryRow,
        notice: &BikNotice,
        about: &About,
        call: fn(&crate::request::bik::BikEndpoint, &Map<String, Value>) -> crate::request::Call,
    ) -> Result<Option<String>, Trouble> {
        let asked = Instant::now();
        let name = &row.connection;
        let Some((connection, account)) = self.accounts.get(name, Vendor::Bik) else {
            return Err(Trouble::Person(format!("the config has no connection {name} with a bik account")));
        };
        let Some(bik_account) = &connection.bik else {
            return Err(Trouble::Person(format!("connection {name} has no bik account")));
        };
        if account.base_url != notice.base_url {
            let (made, now) = (&notice.base_url, &account.base_url);
            return Err(Trouble::Person(format!("it was made for {made}, and connection {name} now points at {now}")));
        }
        let secrets = account.secrets().map_err(|e| Trouble::Person(Chain(&e).to_string()))?;
        let permit = Permit {
            connection: name,
            vendor: Vendor::Bik.as_str(),
            requests_per_second: account.limits.requests_per_second,
            max_in_flight: account.limits.max_in_flight,
            secret: &secrets.fingerprint,
        };
        let probes = loop {
            match self.store.admit(&permit).await.map_err(|e| Trouble::later(Chain(&e).to_string()))? {
                Admission::Probe => break true,
                Admission::Now | Admission::Full { .. } => break false,
                Admission::Rate(wait) if asked.elapsed() + wait < PATIENCE => tokio::time::sleep(wait).await,
                Admission::Rate(wait) => {
                    return Err(Trouble::Later { why: "the account's rate is used up".into(), after: Some(wait) });
                }
                Admission::BreakerOpen { reason, .. } => {
                    return Err(Trouble::Person(format!("the breaker of {name}/bik is open: {reason}")));
                }
            }
        };
        // A process that was frozen since it claimed has lost its claim: somebody else may have been told to send it.
        if asked.elapsed() + account.limits.timeout >= LEASE / 2 {
            return Err(Trouble::later("the process stood still while it was about to send"));
        }
        let call = call(&bik_account.endpoint, &about.fill_all(&notice.body));
        let sent = bik::send(&self.http, &account, &call, self.clock.now()).await;
        if probes && sent.is_ok() {
            // It was the one call that tries whether the vendor takes the credentials again.
            drop(self.store.close_breaker(name, Vendor::Bik.as_str()).await);
        }
        sent
    }
}

fn size(file: &ArtifactRow) -> u64 {
    u64::try_from(file.bytes).unwrap_or(0)
}
