//! Making runs: from a resolved fire to a row, or to what the archive holds already.
//!
//! Also guards the bond between archive and database: one that lost the other (a restored backup, a forgotten variable)
//! would fetch again what is held, and mail people again.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::Value;
use thiserror::Error;

use super::Worker;
use crate::archive::{Archive, ArchiveError, window_folder};
use crate::connection::secret::SecretError;
use crate::delivery::notice::Notices;
use crate::plan::Planned;
use crate::request::Request;
use crate::run::store::doubt::Doubtful;
use crate::run::store::make::{NewRun, Opened, Second, Wants};
use crate::run::store::revision::{ArtifactRow, RevisionRow};
use crate::run::store::{RunStore, StoreError};
use crate::run::{Run, State, Trigger};

/// Why no run could be made.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The database belongs to another archive.
    #[error(
        "the database belongs to another archive than the one in {0}: correct `archive` in the config; only if this is the \
         restored copy of it, run `reportd archive rebuild`"
    )]
    OtherArchive(String),
    /// Archive and database do not know each other.
    #[error(
        "{0}: run `reportd archive rebuild`, which reads the archive's manifests into the database and fetches nothing"
    )]
    Strangers(String),
    /// What the archive holds of the window is another job's history: this job had the name before.
    #[error("the archive holds {folder}, which is the history of {job} by now: {remedy}")]
    Renamed {
        /// What.
        folder: String,
        /// Whose.
        job: String,
        /// What to do.
        remedy: String,
    },
    /// The archive that the database belongs to is not there.
    #[error(
        "the database belongs to an archive, and there is none in {0}: mount or restore it, or correct `archive` in the config"
    )]
    NoArchive(String),
    /// The database says that the archive holds it, and it does not.
    #[error(
        "the database says that the archive holds {0}, which is not there: restore it, or fetch it anew with --again"
    )]
    Lost(String),
    /// The account's secret cannot be read.
    #[error("read the credentials of connection {connection} at {vendor}")]
    Secret {
        /// Whose.
        connection: String,
        /// Where.
        vendor: &'static str,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// There is nothing to ask.
    #[error("{0}")]
    Nothing(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// What is there for a window.
#[derive(Debug)]
pub enum Opening {
    /// The archive holds it.
    Held(Box<RevisionRow>, Vec<ArtifactRow>),
    /// A run for it was made now, although an earlier report of it may be made and mailed as well.
    Made(Box<Run>, Option<Doubtful>),
    /// A run works on it already, or did when it was to go on.
    Attached(Box<Run>),
    /// `fill` makes none: an earlier report of it may be made and mailed.
    LeftAlone(Doubtful),
}

/// Notices as they are kept with a run; `None` = it tells nobody.
pub fn frozen(notices: &Notices) -> Result<Option<Value>, String> {
    if notices.is_empty() {
        return Ok(None);
    }
    serde_json::to_value(notices).map(Some).map_err(|e| format!("the notices cannot be frozen: {e}"))
}

/// The run that a planned fire makes of an account; the error says why it makes none.
pub fn new_run(planned: &Planned, trigger: Trigger, account: &str) -> Result<NewRun, String> {
    let (Some(window), Some(request)) = (&planned.window, &planned.request) else {
        return Err(planned.warnings.join("; "));
    };
    Ok(NewRun {
        job: planned.job.clone(),
        connection: planned.connection.clone(),
        vendor: planned.vendor.as_str(),
        trigger,
        window_start: window.start(),
        window_end: window.end(),
        window_zone: window.zone().name(),
        window_label: window.label(),
        provisional: planned.provisional,
        fire_at: planned.fire_at,
        not_before: None,
        request: serde_json::to_value(request).map_err(|e| format!("the request cannot be frozen: {e}"))?,
        base_url: request.base_url.clone(),
        account: account.to_owned(),
        notices: frozen(&planned.notices(trigger.as_str()))?,
        quiet: planned.quiet,
        second: match (request.shape.may_repeat(), request.may_repeat()) {
            (true, _) => Second::Harmless,
            (false, true) => Second::Borne,
            (false, false) => Second::Mailed,
        },
        wants: if planned.goes_on { Wants::GoingOn } else { Wants::Report },
    })
}

impl Worker {
    /// Marks those of a series' windows for which `fill` sends nothing, because their last run goes on with its ticket, and returns
    /// those that it leaves to a person. Only windows that were `asked` for before can be either.
    pub async fn weigh(
        &self,
        fires: &mut [Planned],
        series: &[i64],
        asked: &HashSet<(DateTime<Utc>, DateTime<Utc>)>,
    ) -> Result<Vec<Doubtful>, OpenError> {
        let new = |fire: &Planned| {
            fire.window.filter(|window| asked.contains(&(window.start(), window.end())))?;
            // What has no task has no ticket.
            fire.request.as_ref().filter(|request| request.shape.creates())?;
            let secrets =
                self.accounts.get(&fire.connection, fire.vendor).and_then(|(_, account)| account.secrets().ok());
            // Whoever has the secret is asked when the run is made.
            new_run(fire, Trigger::Fill, secrets.as_ref().map_or("", |secrets| &secrets.account)).ok()
        };
        let runs: Vec<NewRun> = fires.iter().filter_map(new).collect();
        let wanted: Vec<(i64, &NewRun)> = series.iter().flat_map(|id| runs.iter().map(move |run| (*id, run))).collect();
        // First: a ticket that comes in between is gone on with.
        let mut doubtful = self.store.doubtful(&wanted).await?;
        let windows = self.store.going_on(&wanted).await?;
        for fire in fires {
            fire.goes_on = fire.window.is_some_and(|window| windows.contains(&(window.start(), window.end())));
        }
        doubtful.retain(|one| !windows.contains(&(one.window_start, one.window_end)));
        Ok(doubtful)
    }

    /// Makes sure that archive and database know each other; bonds them when both are new.
    pub async fn check_bond(&self) -> Result<(), OpenError> {
        if self.store.instance().await?.archive_id.is_none() {
            if self.archive.manifest_keys(None).await?.is_empty() {
                self.store.bond(self.archive.id(), false).await?;
            } else if self.store.instance().await?.archive_id.is_none() {
                return Err(OpenError::Strangers(format!(
                    "the archive in {} holds revisions, and the database knows none",
                    self.archive.root().display()
                )));
            }
        }
        // Asked again, because another process may have bonded the database meanwhile.
        match self.store.instance().await?.archive_id {
            Some(id) if id == self.archive.id() => Ok(()),
            _ => Err(OpenError::OtherArchive(self.archive.root().display().to_string())),
        }
    }

    /// The same for one who only reads: nothing is bonded, and while neither is there yet that is no trouble.
    pub async fn check_bond_to_read(&self) -> Result<(), OpenError> {
        let root = || self.archive.root().display().to_string();
        match self.store.instance().await?.archive_id {
            Some(id) if id == self.archive.id() => Ok(()),
            Some(_) if !self.archive.is_there() => Err(OpenError::NoArchive(root())),
            Some(_) => Err(OpenError::OtherArchive(root())),
            None if self.archive.is_there() && !self.archive.manifest_keys(None).await?.is_empty() => Err(
                OpenError::Strangers(format!("the archive in {} holds revisions, and the database knows none", root())),
            ),
            None => Ok(()),
        }
    }

    /// A run for the planned fire, or what is held. With `again` a held window gets a new run, and so a new revision.
    pub async fn open(&self, planned: &Planned, trigger: Trigger, again: bool) -> Result<Opening, OpenError> {
        let Some(window) = planned.window.filter(|_| planned.request.is_some()) else {
            return Err(OpenError::Nothing(planned.warnings.join("; ")));
        };
        let vendor = planned.vendor.as_str();
        let series = self.store.series_of(&planned.job, &planned.connection, vendor, &planned.was).await?;
        self.check_folder(planned, series).await?;
        // A schedule's run waits until the report is final; one by hand goes now and says that it may change.
        let provisional = planned.provisional || (trigger == Trigger::Manual && planned.early);
        // Asked before the secret is: what is held can be shown without one.
        if !again
            && let Some(row) = self.store.held(series, window.start(), window.end()).await?
            && (provisional || !row.provisional)
        {
            return self.held(series, row).await;
        }
        let (_, account) = self
            .accounts
            .get(&planned.connection, planned.vendor)
            .ok_or_else(|| OpenError::Nothing(format!("connection {} has no {vendor} account", planned.connection)))?;
        let secrets = account.secrets().map_err(|source| OpenError::Secret {
            connection: planned.connection.clone(),
            vendor,
            source,
        })?;
        let new = new_run(planned, trigger, &secrets.account).map_err(OpenError::Nothing)?;
        let wants = if again { Wants::Another } else { new.wants };
        let new = NewRun { provisional, wants, ..new };
        Ok(match self.store.open(&new).await? {
            Opened::Held(row) => return self.held(series, row).await,
            Opened::Made(run, doubt) => Opening::Made(Box::new(run), doubt),
            Opened::Attached(run) => Opening::Attached(Box::new(run)),
            Opened::LeftAlone(doubt) => Opening::LeftAlone(doubt),
        })
    }

    /// What the database says is held, if the archive has it, or had it and let it go on purpose.
    async fn held(&self, series: i64, row: RevisionRow) -> Result<Opening, OpenError> {
        if !self.archive.path(&row.manifest_path).is_file() {
            return Err(OpenError::Lost(row.manifest_path));
        }
        let files = self.store.artifacts(series, &row.window_label, row.revision).await?;
        match files.iter().find(|file| !self.archive.path(&file.path).is_file()) {
            Some(file) if !self.archive.is_pruned(&row.manifest_path, &row.manifest_sha256) => {
                Err(OpenError::Lost(file.path.clone()))
            }
            _ => Ok(Opening::Held(Box::new(row), files)),
        }
    }

    /// The archive holds no revision that the database does not know: a restored backup of the database would fetch again
    /// what is held. Walks the archive.
    pub async fn check_manifests(&self) -> Result<(), OpenError> {
        match stranger(&self.archive, &self.store, None).await? {
            None => Ok(()),
            Some(what) => Err(OpenError::Strangers(what)),
        }
    }

    /// The window's folder holds no revision that the database does not know.
    async fn check_folder(&self, planned: &Planned, series: i64) -> Result<(), OpenError> {
        let Some(window) = &planned.window else { return Ok(()) };
        let folder = window_folder(&planned.job, &planned.connection, window);
        self.no_stranger_in(&folder, series, &window.label()).await
    }

    /// Fails when the database does not know the newest revision in a window's folder as this series', and no live run will adopt
    /// it.
    pub(crate) async fn no_stranger_in(&self, folder: &str, series: i64, label: &str) -> Result<(), OpenError> {
        let Some(newest) = self.archive.newest_revision(folder).await? else { return Ok(()) };
        let known = self.store.newest_manifest(series, label, folder).await?.map(|newest| newest.revision);
        let folder = format!("{folder}/r{newest}");
        if known.is_some_and(|known| known >= newest)
            || will_be_adopted(&self.archive, &self.store, &folder, Some(series)).await?
        {
            return Ok(());
        }
        match self.store.job_of_manifest(&format!("{folder}/manifest.json")).await? {
            Some((job, in_force)) => {
                let remedy = if in_force {
                    "the folder is taken, and this job needs another name".to_owned()
                } else {
                    format!("say `was: [{job}]` in the job file")
                };
                Err(OpenError::Renamed { folder, job, remedy })
            }
            None => Err(OpenError::Strangers(format!("the archive holds {folder}, which the database does not know"))),
        }
    }
}

/// The first revision of the archive that the database does not know, and that no live run will adopt; what is wrong, in words.
pub async fn stranger(
    archive: &Archive,
    store: &RunStore,
    within: Option<Duration>,
) -> Result<Option<String>, OpenError> {
    if !archive.is_there() {
        return Ok(None);
    }
    let until = within.map(|limit| Instant::now() + limit);
    // In pieces, since an archive of years has more than one statement may take.
    for keys in archive.manifest_keys(within).await?.chunks(5000) {
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(ArchiveError::TooLarge.into());
        }
        for key in store.unknown_manifests(keys).await? {
            let folder = key.strip_suffix("/manifest.json").unwrap_or(&key);
            if !will_be_adopted(archive, store, folder, None).await? {
                return Ok(Some(format!("the archive holds {folder}, which the database does not know")));
            }
        }
    }
    Ok(None)
}

/// Whether a run that has not ended wrote this manifest: it died after that, and will adopt it. One with another revision's number,
/// or none, has not written it: the database is older than the manifest. So it is with one that is to create something first.
/// Or the run has ended well since the database was asked: another process archives while this one looks. What another series
/// than `of` knows is no answer: that is a renamed job's history.
async fn will_be_adopted(
    archive: &Archive,
    store: &RunStore,
    folder: &str,
    of: Option<i64>,
) -> Result<bool, OpenError> {
    let Some(stored) = archive.manifest(folder).await? else { return Ok(true) };
    let id = stored.manifest.run_id;
    let creates = |run: &Run| {
        let request = serde_json::from_value::<Request>(run.request.clone());
        request.map_or(true, |request| request.shape.creates())
    };
    let may_adopt = |run: Run| {
        !run.state.is_terminal()
            && run.revision == Some(stored.manifest.revision)
            && (run.state != State::Queued || !creates(&run))
    };
    if store.run(id).await?.is_some_and(may_adopt) {
        return Ok(true);
    }
    let known = store.revision_of(id).await?;
    Ok(known.is_some_and(|row| {
        row.manifest_path.strip_suffix("/manifest.json") == Some(folder)
            && of.is_none_or(|series| series == row.series_id)
    }))
}
