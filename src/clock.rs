//! The process's clock, handed down as a value so that tests can move it.
//!
//! Two clocks exist in reportd and they never mix: this one cuts windows and names "now" on the command line; the
//! database's (`reportd_now()`, migration 0001) decides everything that several processes must agree on: leases,
//! due times, rates. Pure functions take an instant, not a clock.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, Duration, Utc};

/// Where "now" comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's own clock.
    System,
    /// The machine's clock, set wrong by so much: how tests play a machine whose clock is off.
    Wrong(Duration),
    /// A clock that only moves when it is told to; tests share it by cloning.
    Manual(Arc<Mutex<DateTime<Utc>>>),
}

impl Clock {
    /// A clock that stands at `at` until [`Clock::advance`] moves it.
    pub fn manual(at: DateTime<Utc>) -> Clock {
        Clock::Manual(Arc::new(Mutex::new(at)))
    }

    /// The machine's clock, or with `REPORTD_CLOCK_OFFSET` (read by main through settings) one that is so many seconds off it.
    /// Debug builds only; in a release build nothing can set it.
    pub fn system(offset_s: Option<&str>) -> Clock {
        match offset_s.and_then(|text| text.parse().ok()) {
            Some(seconds) if cfg!(debug_assertions) => Clock::Wrong(Duration::seconds(seconds)),
            _ => Clock::System,
        }
    }

    /// The present instant.
    pub fn now(&self) -> DateTime<Utc> {
        match self {
            #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
            Clock::System => Utc::now(),
            Clock::Wrong(by) => Clock::System.now() + *by,
            Clock::Manual(at) => *at.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        }
    }

    /// Moves a manual clock on by `by`; the system's clock is not ours to move and stays.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(at) = self {
            let mut at = at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *at += by;
        }
    }
}
