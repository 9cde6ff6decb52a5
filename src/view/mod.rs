//! The JSON of the contract (DESIGN 3): one object a line, all keys always present, null where nothing. Pure.
//!
//! Scripts rely on these shapes: a key may be added, none may change or go.

pub mod delivery;

use chrono_tz::Tz;
use serde::Serialize;
use serde_json::Value;

use self::delivery::DeliveryView;
use crate::coverage::cell::Cell;
use crate::plan::Planned;
use crate::request::Call;
use crate::request::window::{Window, rfc3339_in};
use crate::run::Run;
use crate::run::store::delivery::DeliveryRow;
use crate::run::store::query::{EventRow, TaskRow};
use crate::run::store::revision::{ArtifactRow, RevisionRow};

/// A window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WindowView {
    /// First instant, RFC 3339 with the zone's offset.
    pub start: String,
    /// First instant after it.
    pub end: String,
    /// IANA zone.
    pub zone: String,
    /// Its name in the archive.
    pub label: String,
}

impl WindowView {
    /// The view of a window.
    pub fn of(window: &Window) -> WindowView {
        WindowView {
            start: window.start_rfc3339(),
            end: window.end_rfc3339(),
            zone: window.zone().name().to_owned(),
            label: window.label(),
        }
    }

    fn from_row(
        start: chrono::DateTime<chrono::Utc>,
        end: chrono::DateTime<chrono::Utc>,
        zone: &str,
        label: &str,
    ) -> WindowView {
        let tz = zone.parse().unwrap_or(Tz::UTC);
        WindowView {
            start: rfc3339_in(start, tz),
            end: rfc3339_in(end, tz),
            zone: zone.to_owned(),
            label: label.to_owned(),
        }
    }
}

/// One file in the archive.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArtifactView {
    /// Relative to the archive.
    pub path: String,
    /// 64 hex digits.
    pub sha256: String,
    /// Size.
    pub bytes: i64,
    /// Media type.
    pub media_type: String,
}

/// Why a run failed or is held.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailureView {
    /// Decides what to do.
    pub class: String,
    /// Says what happened.
    pub message: String,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunView {
    /// Its id.
    pub run_id: String,
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: String,
    /// Why it was made.
    pub trigger: String,
    /// Where it stands.
    pub state: String,
    /// What it covers.
    pub window: WindowView,
    /// The vendor's id of the report.
    pub ticket: Option<String>,
    /// The revision it made.
    pub revision: Option<i32>,
    /// Its files.
    pub artifacts: Vec<ArtifactView>,
    /// Why it failed or is held.
    pub failure: Option<FailureView>,
}

fn artifacts(rows: &[ArtifactRow]) -> Vec<ArtifactView> {
    let view = |row: &ArtifactRow| ArtifactView {
        path: row.path.clone(),
        sha256: row.sha256.clone(),
        bytes: row.bytes,
        media_type: row.media_type.clone(),
    };
    rows.iter().map(view).collect()
}

impl RunView {
    /// The view of a run with the files of its revision.
    pub fn of(run: &Run, files: &[ArtifactRow]) -> RunView {
        let failure = run
            .failure_class
            .clone()
            .map(|class| FailureView { class, message: run.failure.clone().unwrap_or_default() });
        RunView {
            run_id: run.id.to_string(),
            job: run.job.clone(),
            connection: run.connection.clone(),
            vendor: run.vendor.clone(),
            trigger: run.trigger.as_str().to_owned(),
            state: run.state.as_str().to_owned(),
            window: WindowView::from_row(run.window_start, run.window_end, &run.window_zone, &run.window_label),
            ticket: run.ticket_id(),
            revision: run.revision.filter(|_| run.state.is_held_in_archive()),
            artifacts: artifacts(files),
            failure,
        }
    }

    /// The view of the run that made a revision, whether or not the database still has its row.
    pub fn of_revision(job: &str, connection: &str, vendor: &str, row: &RevisionRow, files: &[ArtifactRow]) -> RunView {
        RunView {
            run_id: row.run_id.to_string(),
            job: job.to_owned(),
            connection: connection.to_owned(),
            vendor: vendor.to_owned(),
            trigger: row.trigger.as_str().to_owned(),
            state: row.state.as_str().to_owned(),
            window: WindowView::from_row(row.window_start, row.window_end, &row.window_zone, &row.window_label),
            ticket: row.ticket.clone(),
            revision: Some(row.revision),
            artifacts: artifacts(files),
            failure: None,
        }
    }
}

/// A run with its history, for `show`: the run's keys, and these.
#[derive(Clone, Debug, Serialize)]
pub struct ShowView {
    /// The run.
    #[serde(flatten)]
    pub run: RunView,
    /// When it was made.
    pub created_at: String,
    /// When it ended.
    pub finished_at: Option<String>,
    /// When a worker looks at it next; null once it ended.
    pub next_step_at: Option<String>,
    /// What it waits for.
    pub note: Option<String>,
    /// What was or will be sent first, redacted.
    pub request: Value,
    /// What was made at the vendor.
    pub remote_tasks: Vec<TaskView>,
    /// Its history.
    pub events: Vec<EventView>,
    /// What it told whom.
    pub deliveries: Vec<DeliveryView>,
}

/// One create at a vendor.
#[derive(Clone, Debug, Serialize)]
pub struct TaskView {
    /// `reportHistoryId` or `taskId`.
    pub remote_id: Option<String>,
    /// What became of the call.
    pub outcome: String,
    /// The vendor's own state word.
    pub status: Option<String>,
    /// Rows written.
    pub rows_written: Option<i64>,
    /// Rows to write.
    pub rows_total: Option<i64>,
    /// When we were about to call.
    pub intended_at: String,
    /// When the vendor answered.
    pub created_at: Option<String>,
    /// When it was polled last.
    pub last_polled_at: Option<String>,
    /// How often it was polled.
    pub polls: i32,
    /// When it ended.
    pub finished_at: Option<String>,
    /// When we deleted it.
    pub deleted_at: Option<String>,
}

/// One line of a run's history.
#[derive(Clone, Debug, Serialize)]
pub struct EventView {
    /// When.
    pub at: String,
    /// What kind.
    pub kind: String,
    /// By whom.
    pub who: String,
    /// What happened.
    pub detail: String,
}

impl ShowView {
    /// The view of a run with everything that is known of it.
    pub fn of(
        run: &Run,
        files: &[ArtifactRow],
        tasks: &[TaskRow],
        events: &[EventRow],
        deliveries: &[DeliveryRow],
    ) -> ShowView {
        let zone: Tz = run.window_zone.parse().unwrap_or(Tz::UTC);
        let text = |t: chrono::DateTime<chrono::Utc>| rfc3339_in(t, zone);
        let call = run.request.get("call").cloned().and_then(|call| serde_json::from_value::<Call>(call).ok());
        ShowView {
            run: RunView::of(run, files),
            created_at: text(run.created_at),
            finished_at: run.finished_at.map(text),
            next_step_at: run.finished_at.is_none().then(|| text(run.next_step_at)),
            note: run.note.clone(),
            request: call.map_or(Value::Null, |call| call.redacted()),
            remote_tasks: tasks
                .iter()
                .map(|task| TaskView {
                    remote_id: task.remote_id.clone(),
                    outcome: task.outcome.clone(),
                    status: task.status_word.clone(),
                    rows_written: task.rows_written,
                    rows_total: task.rows_total,
                    intended_at: text(task.intended_at),
                    created_at: task.created_at.map(text),
                    last_polled_at: task.last_polled_at.map(text),
                    polls: task.polls,
                    finished_at: task.finished_at.map(text),
                    deleted_at: task.deleted_at.map(text),
                })
                .collect(),
            events: events
                .iter()
                .map(|event| EventView {
                    at: text(event.at),
                    kind: event.kind.clone(),
                    who: event.who.clone(),
                    detail: event.detail.clone(),
                })
                .collect(),
            deliveries: deliveries.iter().map(DeliveryView::of).collect(),
        }
    }
}

/// One window of `coverage`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CoverageView {
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// The window.
    pub window: WindowView,
    /// What is there of it.
    pub state: String,
    /// The newest revision.
    pub revision: Option<i32>,
    /// The run that made it, or that the state speaks of.
    pub run_id: Option<String>,
    /// Hash of the newest revision's first file.
    pub sha256: Option<String>,
}

impl CoverageView {
    /// The view of one cell of a series' calendar.
    pub fn of(job: &str, connection: &str, cell: &Cell) -> CoverageView {
        CoverageView {
            job: job.to_owned(),
            connection: connection.to_owned(),
            window: WindowView::of(&cell.window),
            state: cell.state.as_str().to_owned(),
            revision: cell.held.as_ref().map(|held| held.revision),
            run_id: cell.run_id().map(|id| id.to_string()),
            sha256: cell.held.as_ref().and_then(|held| held.sha256.clone()),
        }
    }
}

/// One line of `plan` and `run-job --dry-run`.
#[derive(Clone, Debug, Serialize)]
pub struct PlanView {
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: String,
    /// When it fires, RFC 3339 with the zone's offset.
    pub fire_at: String,
    /// What it covers; null when the window is empty at that fire.
    pub window: Option<WindowView>,
    /// What is sent first, redacted: method, url, headers, body; null when nothing would be sent.
    pub request: Option<Value>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl PlanView {
    /// The view of one planned fire.
    pub fn of(planned: &Planned) -> PlanView {
        PlanView {
            job: planned.job.clone(),
            connection: planned.connection.clone(),
            vendor: planned.vendor.as_str().to_owned(),
            fire_at: rfc3339_in(planned.fire_at, planned.zone),
            window: planned.window.as_ref().map(WindowView::of),
            request: planned.request.as_ref().map(|request| request.call.redacted()),
            warnings: planned.warnings.clone(),
        }
    }
}
