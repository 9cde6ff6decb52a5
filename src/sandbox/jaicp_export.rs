//! One JAICP report task: what was asked, the vendor's task object, and the bytes of its file.
//!
//! Knows no path and no fault: `jaicp` asks it with a stage and a link that are already decided.

use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::call::{Answer, CSV};
use super::data::{Cell, Dice, Sheet, iso};
use super::fault::FaultKind;
use super::jaicp_filter::{Choice, Settings};
use super::task::{Stage, Task};
use super::xlsx::workbook;

const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";

const MESSAGES: [(&str, Cell); 7] = [
    ("Message time", Cell::Time),
    ("Session ID", Cell::Id("s")),
    ("Client ID", Cell::Id("c")),
    ("Client name", Cell::Person),
    ("Channel", Cell::Channel),
    ("Question", Cell::Text),
    ("Answer", Cell::Text),
];
const SESSIONS: [(&str, Cell); 6] = [
    ("Session start", Cell::Time),
    ("Session ID", Cell::Id("s")),
    ("Client ID", Cell::Id("c")),
    ("Channel", Cell::Channel),
    ("First question", Cell::Text),
    ("Duration (s)", Cell::Number(900)),
];
const CLIENTS: [(&str, Cell); 5] = [
    ("Join time", Cell::Time),
    ("Client ID", Cell::Id("c")),
    ("Client name", Cell::Person),
    ("Channel", Cell::Channel),
    ("Sessions", Cell::Number(20)),
];
const CALLS: [(&str, Cell); 5] = [
    ("Call time", Cell::Time),
    ("Session ID", Cell::Id("s")),
    ("Client name", Cell::Person),
    ("Result", Cell::Label),
    ("Duration (s)", Cell::Number(600)),
];

/// A kind of report.
pub(super) struct Kind {
    /// The last part of the create's path.
    pub path: &'static str,
    /// The task's `reportType`.
    word: &'static str,
    columns: &'static [(&'static str, Cell)],
}

/// The six kinds.
pub(super) const KINDS: [Kind; 6] = [
    Kind { path: "sessions", word: "SESSIONS", columns: &SESSIONS },
    Kind { path: "messages", word: "MESSAGES", columns: &MESSAGES },
    Kind { path: "clients", word: "CLIENTS", columns: &CLIENTS },
    Kind { path: "telephony", word: "TELEPHONY", columns: &CALLS },
    Kind { path: "daily", word: "DAILY", columns: &MESSAGES },
    Kind { path: "client-list", word: "CLIENTS_LIST", columns: &CLIENTS },
];

/// One report task.
pub(super) struct Export {
    pub task: Task,
    pub created: DateTime<Utc>,
    pub deleted: bool,
    pub plan: Plan,
}

/// What a task's file depends on.
#[derive(Clone)]
pub(super) struct Plan {
    pub kind: &'static Kind,
    pub choice: Choice,
    pub settings: Settings,
    /// The settings as sent, which the task repeats.
    pub sent: Option<Value>,
    pub seed: String,
}

impl Export {
    /// Rows of the file.
    pub fn rows(&self) -> usize {
        if self.task.has(FaultKind::NoRows) { 0 } else { self.plan.choice.span.row_count(&self.plan.seed) }
    }

    /// The vendor's `ReportGenerationTaskDto`.
    pub fn show(&self, id: u64, stage: Stage, link: Option<String>) -> Value {
        let status = match stage {
            _ if self.deleted => "DELETED",
            Stage::Waiting => "CREATED",
            Stage::Running(_) => "STARTED",
            Stage::Odd => "POSTPONED",
            Stage::Done => "COMPLETED",
            Stage::Failed => "FAILED",
            Stage::Stopped => "STOPPED",
        };
        let mut shown = json!({
            "taskId": format!("t-{id}"),
            "accountId": 1001,
            "creationTime": iso(self.created),
            "status": status,
            "reportType": self.plan.kind.word,
            "projectShortName": "sandbox-1-abc",
        });
        if let Some(sent) = &self.plan.sent {
            shown["settings"] = sent.clone();
        }
        let (rows, written) = match stage {
            Stage::Running(percent) => (self.rows(), self.rows() * usize::from(percent) / 100),
            Stage::Done => (self.rows(), self.rows()),
            _ => return shown,
        };
        shown["writeCount"] = json!(written);
        shown["totalCount"] = json!(rows);
        if let Some(link) = link {
            shown["fileUrl"] = json!(link);
            shown["fileName"] = json!(format!("{}-{id}.{}", self.plan.kind.path, self.plan.extension()));
        }
        shown
    }
}

impl Plan {
    fn extension(&self) -> &'static str {
        if self.settings.xlsx { "xlsx" } else { "csv" }
    }

    /// The last part of a link to the file, which is its secret; a dead one opens nothing.
    pub fn file_name(&self, id: u64, dead: bool) -> String {
        let mut dice = Dice::new(&["jaicp", if dead { "dead" } else { "" }, &id.to_string()]);
        format!("{:016x}{:016x}.{}", dice.roll(), dice.roll(), self.extension())
    }

    /// The file with this many rows, as it is downloaded.
    pub fn file(&self, rows: usize) -> Answer {
        let Settings { xlsx, with_header, delimiter, ref time_pattern } = self.settings;
        let Choice { span, ref channels } = self.choice;
        let sheet = Sheet { columns: self.kind.columns, span, seed: &self.seed, rows, channels, time_pattern };
        if xlsx {
            let header = with_header.then(|| sheet.header());
            return Answer::new(StatusCode::OK, XLSX, workbook(header.into_iter().chain(sheet.lines())));
        }
        Answer::new(StatusCode::OK, CSV, sheet.csv(delimiter, with_header))
    }
}
