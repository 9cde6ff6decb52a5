//! How far a vendor's background task has come. Both vendors with tasks share it and only differ in their words.
//!
//! Progress follows the monotonic clock and never the sandbox's calendar clock, so a test that stops its calendar does
//! not stop its tasks.

use std::time::{Duration, Instant};

use super::fault::{FaultBook, FaultKind, Vendor};

/// What a poll sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Waiting,
    /// Percent done, 0 to 99.
    Running(u8),
    Done,
    Failed,
    Stopped,
    /// A status word that no page knows.
    Odd,
}

/// What makes a task older: the moment it is looked at, and the time between two of its states.
#[derive(Debug, Clone, Copy)]
pub(super) struct Age {
    pub now: Instant,
    pub pace: Duration,
}

/// A task since its creation.
pub(super) struct Task {
    since: Instant,
    faults: Vec<FaultKind>,
    odd_polls: u8,
}

impl Task {
    /// A task that begins now and carries every fault that waits for the create of one.
    pub fn begin(book: &mut FaultBook, vendor: Vendor, create: &str, now: Instant) -> Self {
        let mut task = Self { since: now, faults: Vec::new(), odd_polls: 0 };
        for kind in FaultKind::OF_TASKS {
            if book.take(vendor, create, |next| next == kind).is_some() {
                task.attach(kind);
            }
        }
        task
    }

    fn attach(&mut self, kind: FaultKind) {
        self.faults.push(kind);
        if kind == FaultKind::OddStatus {
            self.odd_polls = 2;
        }
    }

    pub fn has(&self, kind: FaultKind) -> bool {
        self.faults.contains(&kind)
    }

    /// One poll. `None`: this answer is a 404.
    pub fn poll(&mut self, book: &mut FaultBook, (vendor, poll): (Vendor, &str), age: Age) -> Option<Stage> {
        if self.has(FaultKind::Gone) || book.take(vendor, poll, |kind| kind == FaultKind::Gone).is_some() {
            return None;
        }
        let sticks = |kind: FaultKind| !kind.is_of_the_wire() && !FaultKind::OF_LINKS.contains(&kind);
        while let Some(kind) = book.take(vendor, poll, |kind| sticks(kind) && !self.faults.contains(&kind)) {
            self.attach(kind);
        }
        if self.odd_polls > 0 {
            self.odd_polls -= 1;
            return Some(Stage::Odd);
        }
        Some(self.stage(age))
    }

    /// The stage as a list shows it, without the effects of a poll.
    pub fn stage(&self, Age { now, pace }: Age) -> Stage {
        let passed = now.saturating_duration_since(self.since);
        if passed < pace {
            return Stage::Waiting;
        }
        let percent = passed.saturating_sub(pace).as_millis().saturating_mul(100) / pace.as_millis().max(1);
        if self.has(FaultKind::Stuck) {
            Stage::Running(99)
        } else if passed < pace * 2 {
            Stage::Running(u8::try_from(percent.min(99)).unwrap_or(99))
        } else if self.has(FaultKind::Failed) {
            Stage::Failed
        } else if self.has(FaultKind::Stopped) {
            Stage::Stopped
        } else {
            Stage::Done
        }
    }

    /// The fault of the link that is handed out now: the task's own, or one that waits for a poll.
    pub fn link_fault(&self, book: &mut FaultBook, vendor: Vendor, poll: &str) -> Option<FaultKind> {
        let own = FaultKind::OF_LINKS.into_iter().find(|kind| self.has(*kind));
        own.or_else(|| book.take(vendor, poll, |kind| FaultKind::OF_LINKS.contains(&kind)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Duration = Duration::from_secs(10);

    fn book(lines: &[&str]) -> FaultBook {
        let mut book = FaultBook::default();
        book.replace(lines.iter().map(|line| line.parse().unwrap()).collect());
        book
    }

    #[test]
    fn a_task_takes_one_step_in_each_pace() {
        let (mut book, start) = (book(&[]), Instant::now());
        let mut task = Task::begin(&mut book, Vendor::Jaicp, "create", start);
        let mut poll = |halves: u32| {
            let age = Age { now: start + PACE / 2 * halves, pace: PACE };
            task.poll(&mut book, (Vendor::Jaicp, "task"), age).unwrap()
        };
        let seen = [0, 1, 2, 3, 4].map(&mut poll);
        assert_eq!(seen, [Stage::Waiting, Stage::Waiting, Stage::Running(0), Stage::Running(50), Stage::Done]);
    }

    #[test]
    fn a_fault_of_a_poll_sticks_to_one_task_and_counts_tasks() {
        let start = Instant::now();
        let mut book = book(&["jaicp.task=failed:1", "jaicp.task=odd-status:1", "jaicp.task=gone:1"]);
        let mut first = Task::begin(&mut book, Vendor::Jaicp, "create", start);
        let mut second = Task::begin(&mut book, Vendor::Jaicp, "create", start);
        let age = Age { now: start + PACE * 2, pace: PACE };
        let mut poll = |task: &mut Task| task.poll(&mut book, (Vendor::Jaicp, "task"), age);
        assert_eq!(poll(&mut first), None);
        let seen = [(); 4].map(|()| poll(&mut first).unwrap());
        assert_eq!(seen, [Stage::Odd, Stage::Odd, Stage::Failed, Stage::Failed]);
        assert_eq!(poll(&mut second), Some(Stage::Done));
    }

    #[test]
    fn a_fault_of_a_create_stays_with_its_task() {
        let start = Instant::now();
        let mut book = book(&["jaicp.create=gone:1", "jaicp.create=dead-link:1"]);
        let mut task = Task::begin(&mut book, Vendor::Jaicp, "create", start);
        for _ in 0..3 {
            let age = Age { now: start + PACE * 2, pace: PACE };
            assert_eq!(task.poll(&mut book, (Vendor::Jaicp, "task"), age), None);
            assert_eq!(task.link_fault(&mut book, Vendor::Jaicp, "task"), Some(FaultKind::DeadLink));
        }
        assert!(book.lines().is_empty());
    }
}
