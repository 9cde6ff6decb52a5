//! `reportd migrate`.

use clap::Args;

use super::{Cx, Exit, Failure, say, say_json};
use crate::app::StartError;
use crate::db::{self, Db, Migration};

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Change nothing; exit 1 when the schema is not this version's
    #[arg(long)]
    check: bool,
}

fn show(cx: &Cx, have: i64, need: i64) {
    if cx.json() {
        say_json(&serde_json::json!({ "schema_version": have, "needed": need }));
    } else {
        say(&format!("schema version {have}, this reportd needs {need}"));
    }
}

impl Migrate {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let settings = cx.settings()?;
        let failed = |error| Failure::from(StartError::Db(error));
        if self.check {
            let (have, need) = db::check(&settings).await.map_err(failed)?;
            show(cx, have, need);
            return Ok(if have == need { Exit::Done } else { Exit::Failed });
        }
        let db = Db::open(&settings, Migration::Always).await.map_err(failed)?;
        db.close().await;
        show(cx, db::needed_version(), db::needed_version());
        Ok(Exit::Done)
    }
}
