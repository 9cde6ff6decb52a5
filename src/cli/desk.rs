//! What commands are given to work with: the files as far as they are good, the settings, the database alone, or with the
//! archive and the accounts. It says on stderr where an embedded database is; it decides nothing.

use super::{Cx, Failure, note, refuse_errors};
use crate::app::{self, App, ArchiveUse, Files, Selection};
use crate::db::{Db, Migration};
use crate::run::store::RunStore;
use crate::settings::Settings;
use crate::yaml::Severity;

impl Cx {
    /// The files, refused when the config has errors or the files that are asked for do.
    pub(crate) fn good_files(&self, selection: Option<&Selection>) -> Result<Files, Failure> {
        let files = self.files();
        refuse_errors(&files, selection)?;
        Ok(files)
    }

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

    /// Opens database and archive as an operator of this machine, and says where an embedded database is.
    pub(crate) async fn app(&self, settings: &Settings, archive: ArchiveUse) -> Result<App, Failure> {
        let who = app::who(&self.environment, true);
        let app = App::open(settings, self.clock.clone(), who, Migration::EmbeddedOnly, archive).await?;
        if let Some(notice) = &app.db.notice {
            note(&format!("reportd: {notice}"));
        }
        Ok(app)
    }

    /// The settings alone, for commands that need no job.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        let place = self.place();
        let loaded = crate::settings::load(&place.config, place.config_named, self.environment.clone(), app::as_root());
        if loaded.broken() {
            return Err(Failure::Problems(loaded.problems));
        }
        Ok(loaded.settings)
    }
}
