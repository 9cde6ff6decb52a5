//! A letter and a colour for each state: the letter says it all, so that nothing is lost without colour.
//!
//! A window that is held is a filled square, so that a gap is seen as a gap. Capitals want something of somebody.

use crate::coverage::cell::State;

/// How letters are painted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    /// The terminal shows colours, and nobody said that they are not wanted.
    pub(super) colour: bool,
}

/// The letter of a state.
pub(super) fn letter(state: State) -> char {
    match state {
        State::Held => '■',
        State::Empty => 'e',
        State::Provisional => 'p',
        State::Stale => 's',
        State::Waived => 'w',
        State::InFlight => 'i',
        State::Missing => 'M',
        State::Missed => 'L',
        State::Paused => 'P',
        State::Failed => 'F',
        State::NeedsYou => 'N',
        State::Damaged => 'D',
    }
}

/// What the letter stands for.
fn meaning(state: State) -> &'static str {
    match state {
        State::Held => "held",
        State::Empty => "empty (a report without rows)",
        State::Provisional => "provisional (may still change)",
        State::Stale => "stale (the job asks for something else now)",
        State::Waived => "waived",
        State::InFlight => "in flight",
        State::Missing => "missing",
        State::Missed => "missed (too late)",
        State::Paused => "paused",
        State::Failed => "failed",
        State::NeedsYou => "needs you",
        State::Damaged => "damaged",
    }
}

/// The terminal's colour of a state.
fn colour(state: State) -> &'static str {
    match state {
        State::Held | State::Empty => "32",
        State::Provisional | State::InFlight => "36",
        State::Waived => "90",
        State::Stale => "33",
        State::Missing | State::Missed | State::Paused => "1;97;41",
        State::Failed | State::NeedsYou | State::Damaged => "1;97;45",
    }
}

impl Paint {
    /// Text in the colour of a state.
    pub(super) fn text(self, state: State, text: &str) -> String {
        if self.colour { format!("\x1b[{}m{text}\x1b[0m", colour(state)) } else { text.to_owned() }
    }

    /// The letters of some states, side by side.
    pub(super) fn letters(self, states: impl Iterator<Item = State>) -> String {
        states.map(|state| self.text(state, letter(state).encode_utf8(&mut [0; 4]))).collect()
    }

    /// What the letters mean that occur, what is well first.
    pub(super) fn legend(self, states: impl Iterator<Item = State>) -> String {
        let seen: std::collections::BTreeSet<State> = states.collect();
        let one = |state: &State| format!("{} {}", self.letters(std::iter::once(*state)), meaning(*state));
        seen.iter().rev().map(one).collect::<Vec<_>>().join("   ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_letter_of_its_own_and_colour_changes_none() {
        let letters: std::collections::BTreeSet<char> = State::ALL.into_iter().map(letter).collect();
        assert_eq!(letters.len(), State::ALL.len());
        assert_eq!(Paint { colour: false }.letters([State::Held, State::Missing].into_iter()), "■M");
        let painted = Paint { colour: true }.letters([State::Missing].into_iter());
        assert_eq!(painted, "\x1b[1;97;41mM\x1b[0m");
    }

    #[test]
    fn the_legend_names_only_what_occurs() {
        let states = [State::Missing, State::Held, State::Missing].into_iter();
        assert_eq!(Paint { colour: false }.legend(states), "■ held   M missing");
    }
}
