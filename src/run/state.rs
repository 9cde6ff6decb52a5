//! The whole transition table of a run: one exhaustive match, no I/O. Migration 0003 mirrors it in constraints, and every
//! UPDATE of the store asks [`sources`] which states it may start from.

use std::fmt;
use std::str::FromStr;

/// A state exists only if a worker that finds it after a crash must act differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for a permit; nothing was sent.
    Queued,
    /// A call is under way, or was when its worker died: its outcome is unknown.
    Submitting,
    /// The vendor gave a ticket; poll with it.
    Waiting,
    /// Only an operator can say what happened.
    Held,
    /// In the archive.
    Archived,
    /// In the archive, and the report has no rows.
    Empty,
    /// Over, without a report.
    Failed,
    /// Over, because an operator said so.
    Cancelled,
}

impl State {
    /// Every state, in the order of a run's life.
    pub const ALL: [State; 8] = [
        State::Queued,
        State::Submitting,
        State::Waiting,
        State::Held,
        State::Archived,
        State::Empty,
        State::Failed,
        State::Cancelled,
    ];

    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Submitting => "submitting",
            State::Waiting => "waiting",
            State::Held => "held",
            State::Archived => "archived",
            State::Empty => "empty",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens by itself or by a worker.
    pub fn is_terminal(self) -> bool {
        matches!(self, State::Archived | State::Empty | State::Failed | State::Cancelled)
    }

    /// Whether the window is held in the archive.
    pub fn is_held_in_archive(self) -> bool {
        matches!(self, State::Archived | State::Empty)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<State, String> {
        State::ALL
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| format!("unknown state '{text}': expected {}", State::ALL.map(State::as_str).join(", ")))
    }
}

impl TryFrom<String> for State {
    type Error = String;

    fn try_from(text: String) -> Result<State, String> {
        text.parse()
    }
}

/// What can happen to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The intent to call is committed.
    Intend,
    /// The vendor gave a ticket, perhaps after the worker had lost its lease.
    Ticketed,
    /// Nothing took effect, or it may be asked again: later.
    Requeue,
    /// The call may have taken effect and may not be repeated.
    Doubt,
    /// The ticket that an operator named comes to no report: the create is as unknown as before.
    Disown,
    /// The vendor was asked and is not ready, or could not be asked.
    Poll,
    /// The manifest is in the archive.
    Store,
    /// The manifest is in the archive, and the report has no rows.
    StoreEmpty,
    /// A rebuild found its manifest in the archive: an older database did not know that it ended.
    Adopt,
    /// The same, and the report has no rows.
    AdoptEmpty,
    /// It will never come.
    Fail,
    /// An operator stops it.
    Cancel,
    /// An operator starts it again from the job file.
    RetryFresh,
    /// An operator starts it again with the ticket it has.
    RetryTicket,
    /// An operator starts it again, and an earlier create of it may have taken effect.
    RetryDoubt,
    /// An operator names the ticket of a held run.
    ResolveTicket,
    /// An operator hands in the report of a held run.
    ResolveFile,
    /// An operator says that the vendor made nothing.
    ResolveNotCreated,
    /// An operator gives a held run up.
    ResolveGiveUp,
}

impl Event {
    /// Every event.
    pub const ALL: [Event; 19] = [
        Event::Intend,
        Event::Ticketed,
        Event::Requeue,
        Event::Doubt,
        Event::Disown,
        Event::Poll,
        Event::Store,
        Event::StoreEmpty,
        Event::Adopt,
        Event::AdoptEmpty,
        Event::Fail,
        Event::Cancel,
        Event::RetryFresh,
        Event::RetryTicket,
        Event::RetryDoubt,
        Event::ResolveTicket,
        Event::ResolveFile,
        Event::ResolveNotCreated,
        Event::ResolveGiveUp,
    ];
}

/// The state after `event`, or `None` where the event cannot happen.
pub fn next(state: State, event: Event) -> Option<State> {
    use Event as E;
    use State as S;
    match (state, event) {
        (S::Queued, E::Intend) => Some(S::Submitting),
        // A late ticket still saves a second create: the run may already be queued again or held.
        (S::Submitting | S::Queued | S::Held, E::Ticketed) => Some(S::Waiting),
        (S::Submitting | S::Queued, E::Requeue) => Some(S::Queued),
        (S::Submitting, E::Doubt) | (S::Waiting, E::Disown) => Some(S::Held),
        (S::Waiting, E::Poll) => Some(S::Waiting),
        (S::Submitting | S::Waiting, E::Store) => Some(S::Archived),
        (S::Submitting | S::Waiting, E::StoreEmpty) => Some(S::Empty),
        (S::Queued | S::Submitting | S::Waiting | S::Held | S::Failed | S::Cancelled, E::Adopt) => Some(S::Archived),
        (S::Queued | S::Submitting | S::Waiting | S::Held | S::Failed | S::Cancelled, E::AdoptEmpty) => Some(S::Empty),
        (S::Queued | S::Submitting | S::Waiting, E::Fail) => Some(S::Failed),
        (S::Queued | S::Submitting | S::Waiting | S::Held, E::Cancel) => Some(S::Cancelled),
        (S::Failed | S::Cancelled, E::RetryFresh) => Some(S::Queued),
        (S::Failed | S::Cancelled, E::RetryTicket) => Some(S::Waiting),
        (S::Failed | S::Cancelled, E::RetryDoubt) => Some(S::Held),
        (S::Held, E::ResolveTicket) => Some(S::Waiting),
        (S::Held, E::ResolveFile) => Some(S::Archived),
        (S::Held, E::ResolveNotCreated) => Some(S::Queued),
        (S::Held, E::ResolveGiveUp) => Some(S::Failed),
        (
            S::Queued | S::Submitting | S::Waiting | S::Held | S::Archived | S::Empty | S::Failed | S::Cancelled,
            E::Intend
            | E::Ticketed
            | E::Requeue
            | E::Doubt
            | E::Disown
            | E::Poll
            | E::Store
            | E::StoreEmpty
            | E::Adopt
            | E::AdoptEmpty
            | E::Fail
            | E::Cancel
            | E::RetryFresh
            | E::RetryTicket
            | E::RetryDoubt
            | E::ResolveTicket
            | E::ResolveFile
            | E::ResolveNotCreated
            | E::ResolveGiveUp,
        ) => None,
    }
}

/// The states in which `event` can happen, as stored words: the guard of its UPDATE.
pub fn sources(event: Event) -> Vec<&'static str> {
    State::ALL.into_iter().filter(|s| next(*s, event).is_some()).map(State::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_decided_as_the_table_of_the_readme_says() {
        let mut lines = Vec::new();
        for event in Event::ALL {
            for state in State::ALL {
                if let Some(after) = next(state, event) {
                    lines.push(format!("{event:?}: {state} -> {after}"));
                }
            }
        }
        let expected = "\
Intend: queued -> submitting
Ticketed: queued -> waiting
Ticketed: submitting -> waiting
Ticketed: held -> waiting
Requeue: queued -> queued
Requeue: submitting -> queued
Doubt: submitting -> held
Disown: waiting -> held
Poll: waiting -> waiting
Store: submitting -> archived
Store: waiting -> archived
StoreEmpty: submitting -> empty
StoreEmpty: waiting -> empty
Adopt: queued -> archived
Adopt: submitting -> archived
Adopt: waiting -> archived
Adopt: held -> archived
Adopt: failed -> archived
Adopt: cancelled -> archived
AdoptEmpty: queued -> empty
AdoptEmpty: submitting -> empty
AdoptEmpty: waiting -> empty
AdoptEmpty: held -> empty
AdoptEmpty: failed -> empty
AdoptEmpty: cancelled -> empty
Fail: queued -> failed
Fail: submitting -> failed
Fail: waiting -> failed
Cancel: queued -> cancelled
Cancel: submitting -> cancelled
Cancel: waiting -> cancelled
Cancel: held -> cancelled
RetryFresh: failed -> queued
RetryFresh: cancelled -> queued
RetryTicket: failed -> waiting
RetryTicket: cancelled -> waiting
RetryDoubt: failed -> held
RetryDoubt: cancelled -> held
ResolveTicket: held -> waiting
ResolveFile: held -> archived
ResolveNotCreated: held -> queued
ResolveGiveUp: held -> failed";
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn nothing_leaves_the_archive_and_every_state_has_a_writer() {
        for event in Event::ALL {
            assert_eq!(next(State::Archived, event), None);
            assert_eq!(next(State::Empty, event), None);
        }
        for state in State::ALL {
            let made = state == State::Queued
                || State::ALL.iter().any(|s| Event::ALL.iter().any(|e| next(*s, *e) == Some(state)));
            assert!(made, "{state}");
        }
    }
}
