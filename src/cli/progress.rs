//! Progress of runs on stderr: a live line a run on a terminal, a line a change elsewhere, nothing but results with JSON.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::note;
use super::text::size;
use crate::run::store::query::TaskRow;
use crate::run::{Run, State};
use crate::vendor::Progress;
use crate::worker::drive::Update;

/// Shows how runs go on.
pub(super) struct Board {
    bars: Option<MultiProgress>,
    lines: Mutex<HashMap<String, Line>>,
}

struct Line {
    bar: Option<ProgressBar>,
    said: String,
    said_at: Instant,
}

/// How far a long step has come is told in a log this often.
const TELL_EVERY: Duration = Duration::from_secs(5);

impl Board {
    /// A board on stderr; `live` lines only where that is a terminal.
    pub(super) fn new() -> Board {
        let live = std::io::stderr().is_terminal();
        Board { bars: live.then(MultiProgress::new), lines: Mutex::new(HashMap::new()) }
    }

    /// Shows an update of the run named `name`.
    pub(super) fn show(&self, name: &str, update: &Update) {
        let text = match update {
            Update::Run(run, task) => state_text(run, task.as_ref()),
            Update::Step(Progress::Bytes(bytes)) => format!("downloading, {}", size(*bytes)),
            Update::Step(Progress::Pages(done, Some(all))) => format!("page {done} of {all}"),
            Update::Step(Progress::Pages(done, None)) => format!("page {done}"),
        };
        let ended = matches!(update, Update::Run(run, _) if run.state.is_terminal() || run.state == State::Held);
        self.put(name, text, matches!(update, Update::Run(..)), ended);
    }

    /// Shows a line of its own for `name`.
    pub(super) fn say(&self, name: &str, text: &str) {
        self.put(name, text.to_owned(), true, false);
    }

    fn put(&self, name: &str, text: String, state: bool, ended: bool) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.entry(name.to_owned()).or_insert_with(|| Line {
            bar: self.bars.as_ref().map(|bars| {
                let bar = bars.add(ProgressBar::new_spinner());
                // The template is a constant that indicatif knows how to read.
                if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {msg}") {
                    bar.set_style(style);
                }
                bar.set_prefix(name.to_owned());
                bar.enable_steady_tick(Duration::from_millis(120));
                bar
            }),
            said: String::new(),
            said_at: Instant::now(),
        });
        match &line.bar {
            Some(bar) if ended => bar.finish_with_message(text),
            Some(bar) => bar.set_message(text),
            // Lines in a log say each change once; bytes of a download would drown it.
            None if line.said != text && (state || line.said_at.elapsed() >= TELL_EVERY) => {
                note(&format!("{name}  {text}"));
                line.said = text;
                line.said_at = Instant::now();
            }
            None => {}
        }
    }

    /// Ends the live lines.
    pub(super) fn end(&self) {
        for line in self.lines.lock().unwrap_or_else(PoisonError::into_inner).values() {
            if let Some(bar) = &line.bar
                && !bar.is_finished()
            {
                bar.abandon();
            }
        }
    }
}

/// Where a run stands, in a few words: our state, the vendor's word, rows, and what it waits for.
pub(super) fn state_text(run: &Run, task: Option<&TaskRow>) -> String {
    let mut text = run.state.to_string();
    if run.state == State::Waiting
        && let Some(task) = task
    {
        text.push_str(&format!(" on {}", task.remote_id.as_deref().unwrap_or("?")));
        if let Some(word) = &task.status_word {
            text.push_str(&format!(": {word}"));
        }
        match (task.rows_written, task.rows_total) {
            (Some(done), Some(all)) => text.push_str(&format!(", {done}/{all} rows")),
            (Some(done), None) => text.push_str(&format!(", {done} rows")),
            _ => {}
        }
    }
    let trouble = run.errors > 0 || matches!(run.state, State::Queued | State::Submitting);
    if let Some(note) = run.note.as_deref().filter(|_| trouble) {
        text.push_str(&format!(" ({note})"));
    }
    text
}
