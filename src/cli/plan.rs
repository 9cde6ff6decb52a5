//! `reportd plan`.

use clap::Args;

use super::text::{local_and_utc, request_lines};
use super::{Cx, Exit, Failure, say, say_json, text};
use crate::app::Selection;
use crate::plan::{self, Planned};
use crate::view::PlanView;

#[derive(Debug, Args)]
pub(super) struct Plan {
    /// Only this job, or this series
    #[arg(value_name = "JOB[@CONN]")]
    selection: Option<Selection>,
    /// Look from this instant on: RFC 3339, or local time in the series' zone [default: now]
    #[arg(long, value_name = "T")]
    at: Option<String>,
    /// Fires of each series
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
}

impl Plan {
    pub(super) fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let files = cx.good_files(self.selection.as_ref())?;
        let series = files.series(self.selection.as_ref()).map_err(Failure::Usage)?;
        if series.is_empty() && !cx.json() {
            say("no job files");
        }
        for (job, series, connection) in series {
            let from = text::instant(self.at.as_deref(), series.zone, &cx.clock).map_err(Failure::Usage)?;
            let fires = plan::upcoming(job, series, connection, from, usize::from(self.count));
            if fires.is_empty() && !cx.json() {
                say(&format!("{}@{}\n  never fires again", job.name, connection.name));
            }
            for planned in fires {
                if cx.json() { say_json(&PlanView::of(&planned)) } else { say(&lines(&planned)) }
            }
        }
        Ok(Exit::Done)
    }
}

/// One planned fire for people.
pub(super) fn lines(planned: &Planned) -> String {
    let mut out = format!("{}@{}  ({})\n", planned.job, planned.connection, planned.vendor);
    out.push_str(&format!("  fires    {}\n", local_and_utc(planned.fire_at, planned.zone)));
    match &planned.window {
        Some(window) => out.push_str(&format!(
            "  window   {}  [{}, {})\n",
            window.label(),
            window.start_rfc3339(),
            window.end_rfc3339()
        )),
        None => out.push_str("  window   none\n"),
    }
    if let Some(request) = &planned.request {
        out.push_str(&request_lines(&request.call, "  "));
    }
    for warning in &planned.warnings {
        out.push_str(&format!("  warning  {warning}\n"));
    }
    out
}
