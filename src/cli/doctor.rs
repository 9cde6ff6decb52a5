//! `reportd doctor`.

use clap::Args;

use super::{Cx, Exit, Failure, say, say_json};
use crate::doctor::{Check, State, examine};

#[derive(Debug, Args)]
pub(super) struct Doctor {}

/// Columns of what a line is about.
const LABEL: usize = 16;

impl Doctor {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let (mut checks, mut bad) = (0_usize, 0_usize);
        let tell = |check: &Check| {
            checks += 1;
            bad += usize::from(check.state == State::Bad);
            if cx.json() {
                say_json(check);
            } else {
                for line in lines(check) {
                    say(&line);
                }
            }
        };
        examine(&cx.place(), cx.environment.clone(), cx.clock.clone(), tell).await;
        if !cx.json() {
            say(&sum(checks, bad));
        }
        Ok(if bad == 0 { Exit::Done } else { Exit::Failed })
    }
}

fn sum(checks: usize, bad: usize) -> String {
    let checks = if checks == 1 { "1 check".to_owned() } else { format!("{checks} checks") };
    match bad {
        0 => format!("{checks}, nothing needs you"),
        1 => format!("{checks}, 1 needs you"),
        n => format!("{checks}, {n} need you"),
    }
}

fn lines(check: &Check) -> Vec<String> {
    let word = match check.state {
        State::Ok => "ok",
        State::Note => "note",
        State::Bad => "BAD",
    };
    // Of the others there is one each, and where it is stands in the message.
    let about = check.subject.as_deref().filter(|_| check.check == "account").unwrap_or(check.check);
    let line = format!("{word:<5} {about:<LABEL$} {}", check.message);
    let action = check.action.iter().map(|action| format!("      -> {action}"));
    [line].into_iter().chain(action).collect()
}
