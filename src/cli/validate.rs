//! `reportd validate`.

use clap::Args;

use super::{Cx, Exit, Format, note, say, say_json};
use crate::yaml::Severity;

#[derive(Debug, Args)]
pub(super) struct Validate {
    /// Warnings count as errors
    #[arg(long)]
    strict: bool,
}

impl Validate {
    pub(super) fn run(&self, cx: &Cx) -> Exit {
        let files = cx.files();
        let (mut errors, mut warnings) = (0, 0);
        for problem in files.problems() {
            let mut problem = problem.clone();
            if self.strict {
                problem.severity = Severity::Error;
            }
            match problem.severity {
                Severity::Error => errors += 1,
                Severity::Warning => warnings += 1,
            }
            match cx.format() {
                Format::Text => say(problem.text().trim_end()),
                Format::Json => say_json(&problem),
                Format::Github => say(&problem.github()),
            }
        }
        let series: usize = files.jobs.jobs.iter().map(|job| job.series.len()).sum();
        let summary = format!("{} job files, {series} series: {errors} errors, {warnings} warnings", files.jobs.files);
        if cx.format() == Format::Text {
            say(&summary);
        } else {
            note(&summary);
        }
        if errors > 0 { Exit::Usage } else { Exit::Done }
    }
}
