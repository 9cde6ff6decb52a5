//! Gaps that will stay. Pure.

use chrono::NaiveDate;

use super::window::Window;

/// A gap that will stay.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiver {
    /// First local date.
    pub from: NaiveDate,
    /// Last local date, included.
    pub to: NaiveDate,
    /// Why.
    pub reason: String,
}

impl Waiver {
    /// Whether the window will stay a gap: all its local dates lie within.
    pub fn covers(&self, window: &Window) -> bool {
        let (first, last) = window.local_dates();
        self.from <= first && last <= self.to
    }
}
