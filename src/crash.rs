//! Named points at which a test kills the process as `kill -9` would: after every committed write and every vendor call.
//!
//! `REPORTD_CRASH_AT=NAME[:N]` (read by main through settings) arms one point: the process aborts when it is passed the Nth
//! time. Debug builds only; in a release build nothing can arm it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

static ARMED: OnceLock<(String, AtomicU32)> = OnceLock::new();

/// Arms a point: `NAME` or `NAME:N`. Only the first call counts.
pub fn arm(text: &str) {
    if cfg!(debug_assertions) {
        let (name, count) = text.rsplit_once(':').unwrap_or((text, "1"));
        drop(ARMED.set((name.to_owned(), AtomicU32::new(count.parse().unwrap_or(1)))));
    }
}

/// Passes a point.
pub fn point(name: &str) {
    if let Some((armed, left)) = ARMED.get()
        && armed == name
        && left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        std::process::abort();
    }
}
