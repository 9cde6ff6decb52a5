//! One try of a delivery, by its kind: the only place where a notice meets its mail server, its vendor or its folder.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Worker;
use super::deliver::Hold;
use crate::delivery::about::About;
use crate::delivery::chart::Chart;
use crate::delivery::email::{Attachment, Envelope};
use crate::delivery::heartbeat::{self, Beat};
use crate::delivery::landing::{self, Source};
use crate::delivery::letter::{Report, ReportFile, attachment_name, letter};
use crate::delivery::notice::{BikNotice, Email, Landing, Notice, Webhook};
use crate::delivery::{Trouble, bik, webhook};
use crate::request::Vendor;
use crate::run::Run;
use crate::run::store::StoreError;
use crate::run::store::delivery::DeliveryRow;
use crate::run::store::permit::{Admission, Permit};
use crate::run::store::revision::ArtifactRow;
use crate::run::store::sending::LEASE;
use crate::telemetry::Chain;

/// Reports are attached up to this much in all: base64 makes a third more of it, and many servers take 25 MB.
const ATTACHED: u64 = 10 * 1024 * 1024;

/// Files that one mail carries at most.
const FILES: usize = 20;

/// A BIK create whose account's rate lets it wait longer than this is put off instead.
const PATIENCE: Duration = Duration::from_secs(5);

impl Worker {
    /// Makes one try; says what became of it.
    pub(super) async fn send(&self, hold: &Hold, notice: &Notice, about: &About) -> Result<Option<String>, Trouble> {
        let row = &hold.row;
        match notice {
            Notice::Email(email) => self.mail(row, email, about).await,
            Notice::Webhook(hook) => self.call_webhook(row, hook, about).await,
            Notice::File(landing) => self.copy(row, landing, about).await,
            Notice::BikTicket(ticket) => self.create_at_bik(hold, ticket, about, bik::ticket).await,
            Notice::BikEvent(event) => self.create_at_bik(hold, event, about, bik::event).await,
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
        {
            report.chart = match attachments.first() {
                Some(attached) => Chart::of(&attached.bytes),
                None => self.intact(file).await.and_then(|content| Chart::of(&content)),
            };
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
        let url = about.fill(&landing.url);
        if is_within(Path::new(&url), self.archive.root()) {
            return Err(Trouble::Refused(
                "the copy would land in the archive, which nobody writes but its runs".into(),
            ));
        }
        landing::copy(&url, &sources, row.id, &self.post.environment).await
    }

    async fn create_at_bik(
        &self,
        hold: &Hold,
        notice: &BikNotice,
        about: &About,
        call: fn(&crate::request::bik::BikEndpoint, &Map<String, Value>) -> crate::request::Call,
    ) -> Result<Option<String>, Trouble> {
        let row = &hold.row;
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
                Admission::Now | Admission::Full { .. } | Admission::Behind => break false,
                Admission::Rate(wait) if asked.elapsed() + wait < PATIENCE => tokio::time::sleep(wait).await,
                Admission::Rate(wait) => {
                    return Err(Trouble::Later { why: "the account's rate is used up".into(), after: Some(wait) });
                }
                Admission::BreakerOpen { reason, .. } => {
                    return Err(Trouble::Person(format!("the breaker of {name}/bik is open: {reason}")));
                }
            }
        };
        // Right before it goes out: the claim is still ours in the database, and no time has passed since that was said. A
        // process that was frozen anywhere before has lost it: somebody else may have been told to send it.
        let sure = Instant::now();
        let renewed = match row.lease_token {
            Some(token) => self.store.renew_delivery(row.id, token).await,
            None => Err(StoreError::LeaseLost),
        };
        renewed.map_err(|e| Trouble::later(Chain(&e).to_string()))?;
        if sure.elapsed() + account.limits.timeout >= LEASE || hold.asked.elapsed() >= LEASE {
            return Err(Trouble::later("the process stood still while it was about to send"));
        }
        let call = call(&bik_account.endpoint, &about.fill_all(&notice.body));
        let sent = bik::send(&self.http, &account, &call, self.clock.now()).await;
        if let Err(Trouble::Credentials(why)) = &sent {
            // As for a run: the account's runs wait as well, and one alert is told.
            drop(self.store.open_breaker(&permit, why, false).await);
        }
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

/// Whether a path that need not be there yet lies within a folder, whatever links lead there.
fn is_within(path: &Path, folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    let there = path.ancestors().find_map(|ancestor| ancestor.canonicalize().ok());
    there.is_some_and(|there| there.starts_with(&folder))
}
