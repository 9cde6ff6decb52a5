//! What commands are given that work on rows alone: the files as far as they are good, and the database without an archive.

use super::{Cx, Failure, note};
use crate::app::{self, Files};
use crate::db::Db;
use crate::run::store::RunStore;
use crate::settings::Settings;
use crate::yaml::Severity;

impl Cx {
    /// The files, refused when the config has errors. Broken job files are not: the set in force may know their jobs.
    pub(crate) fn files_whose_config_is_good(&self) -> Result<Files, Failure> {
        let files = self.files();
        if files.config_problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(Failure::Problems(files.config_problems));
        }
        Ok(files)
    }

    /// Opens the database alone, as an operator of this machine: for what needs neither archive nor vendors.
    pub(crate) async fn database(&self, settings: &Settings) -> Result<(Db, RunStore), Failure> {
        let (db, store) = app::open_database(settings, app::who(&self.environment, true)).await?;
        if let Some(notice) = &db.notice {
            note(&format!("reportd: {notice}"));
        }
        Ok((db, store))
    }
}
