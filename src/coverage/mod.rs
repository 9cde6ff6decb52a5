//! Coverage: the windows that are wanted of a series, and what is there of each.
//!
//! ```text
//! wanted.rs   rules x time -> the windows that are wanted, also those that a change of rules left out. Pure
//! cell.rs     a window x what is known of it -> its state. Pure
//! pace.rs     what is left to fetch x the accounts' limits -> how long it takes. Pure
//! look.rs     reads rows and the archive's folders, and puts the others together
//! verify.rs   hashes the bytes again
//! ```
//!
//! It reads, and changes nothing: `fill` makes the runs. Its unit is the window, not the execution: a run that was made twice
//! or never matters only by what the archive holds afterwards.

pub mod cell;
pub mod look;
pub mod pace;
pub mod verify;
pub mod wanted;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;

use crate::request::window::{Window, day_start};

/// The local dates that are looked at, both included; an open side is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First date.
    pub from: Option<NaiveDate>,
    /// Last date.
    pub to: Option<NaiveDate>,
}

impl Span {
    /// Its first instant in a zone.
    pub fn start(&self, zone: Tz) -> Option<DateTime<Utc>> {
        self.from.map(|date| day_start(date, zone))
    }

    /// The first instant after it in a zone.
    pub fn end(&self, zone: Tz) -> Option<DateTime<Utc>> {
        self.to.and_then(|date| date.succ_opt()).map(|date| day_start(date, zone))
    }

    /// Whether the window has any of its dates in `zone`.
    pub fn overlaps(&self, window: &Window, zone: Tz) -> bool {
        self.start(zone).is_none_or(|start| window.end() > start)
            && self.end(zone).is_none_or(|end| window.start() < end)
    }
}
