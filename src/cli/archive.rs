//! `reportd archive`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::prune::Prune;
use super::text::size;
use super::{Cx, Exit, Failure, note, say, say_json};
use crate::app::ArchiveUse;
use crate::archive::Archive;
use crate::worker::rebuild::{RebuildError, rebuild};

#[derive(Debug, Args)]
pub(super) struct ArchiveCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check every byte against its manifest; needs no database
    Verify {
        /// The archive's folder [default: the config's]
        folder: Option<PathBuf>,
    },
    /// Read every manifest into the database; fetches nothing and changes nothing in the archive
    Rebuild,
    /// Remove the files and events that `retain` lets go; manifests stay, and windows stay held
    Prune(Prune),
}

#[derive(Debug, Serialize)]
struct Rebuilt {
    adopted: usize,
    ended: u64,
    cancelled: u64,
    known: usize,
    missing: Vec<String>,
    unusable: Vec<(String, String)>,
}

impl ArchiveCommand {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        match &self.verb {
            Verb::Prune(prune) => prune.run(cx).await,
            Verb::Verify { folder } => {
                let settings = cx.settings()?;
                let folder = folder.as_ref().unwrap_or(&settings.archive);
                verify(cx, &Archive::open(folder, false).await?).await
            }
            Verb::Rebuild => {
                let settings = cx.settings()?;
                // Before the database: a folder that is no archive must not be made one here.
                Archive::open(&settings.archive, false).await?;
                let app = cx.app(&settings, ArchiveUse::Writes).await?;
                let result = rebuild(&app.worker.archive, &app.worker.store).await;
                app.close().await;
                let rebuilt = result.map_err(|error: RebuildError| Failure::Failed(error.into()))?;
                if cx.json() {
                    say_json(&Rebuilt {
                        adopted: rebuilt.adopted,
                        known: rebuilt.known,
                        ended: rebuilt.ended,
                        cancelled: rebuilt.cancelled,
                        missing: rebuilt.missing.clone(),
                        unusable: rebuilt.unusable.clone(),
                    });
                } else {
                    say(&format!("{} revisions adopted, {} known already", rebuilt.adopted, rebuilt.known));
                    if rebuilt.ended > 0 {
                        say(&format!("{} runs ended, because they had made what was adopted", rebuilt.ended));
                    }
                    if rebuilt.cancelled > 0 {
                        say(&format!("{} queued runs cancelled, because their windows are held", rebuilt.cancelled));
                    }
                }
                for (key, why) in &rebuilt.unusable {
                    note(&format!("reportd: {key}: {why}"));
                }
                for key in &rebuilt.missing {
                    note(&format!("reportd: the database knows {key}, and this archive does not have it"));
                }
                if !rebuilt.missing.is_empty() {
                    note(
                        "reportd: this is not the archive that the database belongs to, or it was damaged: restore it",
                    );
                }
                let fine = rebuilt.unusable.is_empty() && rebuilt.missing.is_empty();
                Ok(if fine { Exit::Done } else { Exit::Failed })
            }
        }
    }
}

async fn verify(cx: &Cx, archive: &Archive) -> Result<Exit, Failure> {
    let report = archive.verify().await?;
    let damaged = report.faults.iter().filter(|f| f.is_damage()).count();
    for fault in &report.faults {
        if cx.json() { say_json(fault) } else { say(&format!("{:<12} {}: {}", fault.kind, fault.path, fault.message)) }
    }
    let pruned = if report.pruned > 0 { format!(", {} files pruned", report.pruned) } else { String::new() };
    let summary = format!(
        "{} revisions, {} files, {}: {damaged} faults, {} orphans{pruned}",
        report.revisions,
        report.files,
        size(report.bytes),
        report.faults.len() - damaged
    );
    if cx.json() {
        note(&summary);
    } else {
        say(&summary);
    }
    Ok(if damaged > 0 { Exit::Failed } else { Exit::Done })
}
