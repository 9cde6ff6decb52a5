//! What an operator's word needs besides its SQL: resolving a request anew, the vendor's form of a ticket, a file to archive.

use std::path::Path;

use bytes::Bytes;
use thiserror::Error;

use crate::artifact::sniff::Expect;
use crate::artifact::{Finish, Label, SpoolError, Spooled};
use crate::connection::Connection;
use crate::job::notice::file::TriggerWord;
use crate::job::resolve::{self, Mailing};
use crate::job::{Job, Series};
use crate::request::{FileType, Request, Shape, Vendor};
use crate::run::store::StoreError;
use crate::run::store::operator::PastCreates;
use crate::run::{Run, State, Trigger};
use crate::vendor;
use crate::worker::Worker;
use crate::worker::commit::{Facts, NotStored};
use crate::worker::open::OpenError;

/// Why an operator's word could not be carried out.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// It makes no sense for this run.
    #[error("{0}")]
    Refused(String),
    /// The file cannot be read.
    #[error("read {0}")]
    File(std::path::PathBuf, #[source] std::io::Error),
    /// The file is no report, or the disk failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The run cannot be made anew.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl From<StoreError> for OperatorError {
    fn from(error: StoreError) -> OperatorError {
        OperatorError::Open(OpenError::Store(error))
    }
}

/// Starts an ended run again: with the ticket it has, if the vendor may still make that report; held, if an earlier create
/// may have taken effect and may not be repeated; else with the request that the job file gives today (`fresh`).
pub async fn retry<F>(worker: &Worker, run: &Run, fresh: F) -> Result<&'static str, OperatorError>
where
    F: AsyncFnOnce() -> Result<(), OperatorError>,
{
    worker.check_bond().await?;
    let old: Option<Request> = serde_json::from_value(run.request.clone()).ok();
    // Also with `on_unknown: resubmit`, which speaks of what happens while nobody looks.
    let repeatable = old.is_some_and(|r| r.shape.may_repeat());
    match worker.store.past_creates(run).await? {
        PastCreates::Alive(attempt, asked) => {
            // A person says so: the same shop may have another key by now.
            let account = run.vendor.parse().ok().and_then(|vendor| worker.accounts.get(&run.connection, vendor));
            let account = account.filter(|(_, account)| account.base_url == run.base_url);
            let secrets = account.and_then(|(_, account)| account.secrets().ok());
            let account = secrets.as_ref().map(|secrets| secrets.account.as_str());
            worker.store.retry_ticket(run, attempt, account).await?;
            Ok(if account.is_some_and(|account| account != asked && !asked.is_empty()) {
                "goes on with its ticket, asked for as the account that the config has now"
            } else {
                "goes on with its ticket"
            })
        }
        PastCreates::Doubtful if !repeatable => {
            let id = crate::run::short(run.id);
            let message = format!(
                "an earlier create of this run may have taken effect, and people may have been mailed: look in the vendor's \
                 report history, then reportd resolve {id} --ticket ID | --not-created | --file PATH | --give-up"
            );
            worker.store.retry_doubt(run, &message).await?;
            Ok("is held: an earlier create of it may have taken effect (see reportd show)")
        }
        PastCreates::Doubtful | PastCreates::None => {
            fresh().await?;
            Ok("starts again with the request as the job file has it now")
        }
    }
}

/// Starts an ended run again with the request that the job file gives today, over the run's own window.
pub async fn retry_fresh(
    worker: &Worker,
    run: &Run,
    found: &[(&Job, &Series, &Connection)],
) -> Result<(), OperatorError> {
    let Some((job, _, connection)) = found.first() else {
        return Err(OperatorError::Refused(format!("no job file says {}@{} any more", run.job, run.connection)));
    };
    let old: Request = serde_json::from_value(run.request.clone())
        .map_err(|e| OperatorError::Refused(format!("the run's stored request cannot be read: {e}")))?;
    let mailing = if run.trigger == Trigger::Schedule { Mailing::Job } else { Mailing::Quiet };
    let request = resolve::request(job, connection, &old.window, mailing)
        .map_err(|problem| OperatorError::Refused(problem.to_string()))?;
    let vendor = request.vendor;
    let quiet = connection.bik.as_ref().is_some_and(|bik| bik.quiet_emails.is_some());
    if run.trigger != Trigger::Schedule && !quiet && request.emails != old.emails {
        return Err(OperatorError::Refused(format!(
            "a retry by hand would mail {}, whom the run did not ask for before: set quiet_emails on connection {}, or start \
             it anew with run-job --mail",
            request.emails.join(", "),
            connection.name
        )));
    }
    let (_, account) = worker
        .accounts
        .get(&run.connection, vendor)
        .ok_or_else(|| OperatorError::Refused(format!("connection {} has no {vendor} account", run.connection)))?;
    let secrets = account.secrets().map_err(|source| OpenError::Secret {
        connection: run.connection.clone(),
        vendor: vendor.as_str(),
        source,
    })?;
    let frozen = serde_json::to_value(&request)
        .map_err(|e| OperatorError::Refused(format!("the request cannot be frozen: {e}")))?;
    let word: TriggerWord = run.trigger.as_str().parse().map_err(OperatorError::Refused)?;
    let telling = job.telling(connection).of(word);
    let notices = crate::worker::open::frozen(&telling).map_err(OperatorError::Refused)?;
    let store = &worker.store;
    Ok(store.retry_fresh(run, &frozen, &request.base_url, &secrets.account, notices.as_ref()).await?)
}

/// The held run polls with the vendor's id that the operator found.
pub async fn resolve_ticket(worker: &Worker, run: &Run, id: &str) -> Result<(), OperatorError> {
    let vendor: Vendor = run.vendor.parse().map_err(OperatorError::Refused)?;
    let ticket = vendor::ticket_of(vendor, id).map_err(OperatorError::Refused)?;
    Ok(worker.store.resolve_ticket(run, id.trim(), &ticket).await?)
}

/// The held run's report is the file that the operator hands in: it is checked and archived like one that was fetched.
pub async fn resolve_file(worker: &Worker, run: &Run, path: &Path) -> Result<(), OperatorError> {
    worker.check_bond().await?;
    if run.state != State::Held {
        return Err(OperatorError::Refused(format!("run {} is {}, and resolve is for held runs", run.id, run.state)));
    }
    let request: Request = serde_json::from_value(run.request.clone())
        .map_err(|e| OperatorError::Refused(format!("the run's stored request cannot be read: {e}")))?;
    let (name, expect) = match request.shape {
        Shape::BikReport => ("report.csv", Expect::Csv { with_header: true }),
        Shape::JaicpReport { file_type: Some(FileType::Csv), with_header, .. } => {
            ("report.csv", Expect::Csv { with_header })
        }
        Shape::JaicpReport { file_type: Some(FileType::Xlsx), .. } => ("report.xlsx", Expect::Xlsx),
        Shape::JaicpReport { file_type: None, .. } => ("report", Expect::AnyTable),
        Shape::LivechatReport { .. } | Shape::JaicpQuery { .. } => ("report.json", Expect::Json),
    };
    let file = spool_file(worker, path, name, expect).await?;
    let empty = file.has_rows == Some(false);
    let now = worker.store.now().await?;
    let facts = Facts {
        run,
        request: &request,
        lease: None,
        attempt: uuid::Uuid::new_v4(),
        empty,
        vendor_status: None,
        requested_at: run.created_at,
        received_at: now,
        handed_in_by: Some(worker.store.signed().to_owned()),
    };
    match worker.archive_report(&facts, vec![file]).await {
        Ok(_) => Ok(worker.store.event(run.id, "resolved", "an operator handed the report's file in").await?),
        Err(NotStored::Store(StoreError::LeaseLost)) => {
            Err(OperatorError::Refused(format!("run {} is not held any more", run.id)))
        }
        Err(NotStored::Store(error)) => Err(error.into()),
        Err(NotStored::Archive(error)) => Err(OperatorError::Open(error.into())),
    }
}

async fn spool_file(worker: &Worker, path: &Path, name: &str, expect: Expect) -> Result<Spooled, OperatorError> {
    use tokio::io::AsyncReadExt;
    let fail = |e| OperatorError::File(path.to_owned(), e);
    let mut source = tokio::fs::File::open(path).await.map_err(fail)?;
    if !source.metadata().await.map_err(fail)?.is_file() {
        return Err(OperatorError::Refused(format!("{} is not a file", path.display())));
    }
    let label = Label { name: name.into(), expect, derived: false, simulated: false };
    let mut writer = worker.archive.spool().file(label);
    loop {
        let mut chunk = vec![0; 64 * 1024];
        let read = source.read(&mut chunk).await.map_err(fail)?;
        if read == 0 {
            break;
        }
        chunk.truncate(read);
        writer.write(Bytes::from(chunk)).await?;
    }
    Ok(writer.finish(&Finish::default()).await?)
}
