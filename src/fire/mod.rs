//! Fires: the recorded decision about each instant that a schedule names. Pure.
//!
//! ```text
//! rule.rs     what a job file says of a series' instants, as stored; its version history
//! decide.rs   instants in (cursor, now] -> what becomes of each
//! explain.rs  one instant, and all that is known of it -> what decided about it, in sentences
//! ```
//!
//! It knows no database and no run: `service/planner.rs` brings rows in and decisions out.

pub mod decide;
pub mod explain;
pub mod rule;

use std::str::FromStr;

use chrono::TimeDelta;

/// What was decided about an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A run was made.
    Fired,
    /// The window is held, or a live run works on it, or a newer instant stands for it.
    Covered,
    /// There was nothing to ask, or the previous run had not ended and the job says `overlap: skip`.
    Skipped,
    /// It was later than `catch_up` allows when somebody could decide.
    Missed,
    /// The series was paused.
    Paused,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 5] =
        [Outcome::Fired, Outcome::Covered, Outcome::Skipped, Outcome::Missed, Outcome::Paused];

    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Fired => "fired",
            Outcome::Covered => "covered",
            Outcome::Skipped => "skipped",
            Outcome::Missed => "missed",
            Outcome::Paused => "paused",
        }
    }
}

impl FromStr for Outcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Outcome, String> {
        Outcome::ALL.into_iter().find(|o| o.as_str() == text).ok_or_else(|| format!("unknown outcome '{text}'"))
    }
}

/// `3 s`, `12 min`, `5 h`, `9 days`.
pub fn span(time: TimeDelta) -> String {
    match time.num_seconds() {
        seconds @ ..120 => format!("{} s", seconds.max(0)),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}
