//! The series that a person names: of the job files at hand, and of the database, which also knows jobs whose file is broken
//! at the moment, is on another machine, or is gone.

use thiserror::Error;

use crate::app::{Files, Selection};
use crate::job::{Job, Series, series_name};
use crate::run::store::ledger::SeriesRow;
use crate::run::store::{RunStore, StoreError};
use crate::yaml::Problem;

/// One series, as far as it is known.
#[derive(Clone, Debug)]
pub struct Selected<'a> {
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: String,
    /// What its file says; `None` without a file that compiles.
    pub file: Option<(&'a Job, &'a Series)>,
    /// What the database knows; `None` when nothing ever asked for it.
    pub row: Option<SeriesRow>,
}

impl Selected<'_> {
    /// `job@connection`.
    pub fn name(&self) -> String {
        series_name(&self.job, &self.connection)
    }
}

/// Why nothing was selected.
#[derive(Debug, Error)]
pub enum SelectError {
    /// Neither files nor database know it.
    #[error("{0}")]
    Unknown(String),
    /// Its file has errors, and the database does not know it.
    #[error("its job file has errors")]
    Broken(Vec<Problem>),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The series that `selection` names. Those that only the database has count when they were in force, and with `past` also
/// when they no longer are.
pub async fn select<'a>(
    files: &'a Files,
    store: &RunStore,
    selection: &Selection,
    past: bool,
) -> Result<Vec<Selected<'a>>, SelectError> {
    let mut rows = store.series_of_job(&selection.job).await?;
    let in_files = files.series(Some(selection));
    let mut selected: Vec<Selected<'a>> = Vec::new();
    for (job, series, _) in in_files.iter().flatten() {
        let row = rows.iter().position(|row| row.connection == series.connection).map(|found| rows.swap_remove(found));
        selected.push(Selected {
            job: job.name.clone(),
            connection: series.connection.clone(),
            vendor: job.vendor().as_str().to_owned(),
            file: Some((job, series)),
            row,
        });
    }
    let named = |row: &SeriesRow| selection.connection.as_ref().is_none_or(|name| *name == row.connection);
    rows.retain(|row| named(row) && (row.in_force || past && row.first_seen_at.is_some()));
    rows.sort_by(|a, b| a.connection.cmp(&b.connection));
    selected.extend(rows.into_iter().map(|row| Selected {
        job: row.job.clone(),
        connection: row.connection.clone(),
        vendor: row.vendor.clone(),
        file: None,
        row: Some(row),
    }));
    match in_files {
        _ if !selected.is_empty() => Ok(selected),
        Err(message) => {
            let problems = files.errors_of(Some(&selection.job));
            Err(if problems.is_empty() { SelectError::Unknown(message) } else { SelectError::Broken(problems) })
        }
        Ok(_) => Ok(selected),
    }
}
