//! The commands that end what a letter tells of, as `reportd status` gives them. Pure.

use std::collections::BTreeSet;

use super::groups;
use super::paper::Block;
use super::words::{dates, short};
use crate::delivery::Cause;
use crate::delivery::about::{About, Member};

/// Most series that get a command of their own.
pub(super) const COMMANDS: usize = 5;

/// The commands that end it.
pub(super) fn actions(blocks: &mut Vec<Block<'_>>, about: &About) {
    let mut out = Vec::new();
    let groups = groups(about);
    for (name, members) in groups.iter().take(COMMANDS) {
        let [only] = members.as_slice() else {
            many(&mut out, about.cause, name, members);
            continue;
        };
        one(&mut out, about.cause, name, only);
    }
    if about.cause == Cause::Failed && groups.iter().any(|(_, members)| members.len() > 1) {
        out.push((
            "Others, one by one (reportd runs --state failed lists them):".to_owned(),
            "reportd retry RUN".to_owned(),
        ));
    }
    let mut given: BTreeSet<String> = BTreeSet::new();
    out.retain(|(_, command)| given.insert(command.clone()));
    if out.is_empty() {
        return;
    }
    blocks.push(Block::Heading(if about.cause == Cause::Recovered { "To be sure" } else { "What to do" }));
    blocks.extend(out.into_iter().map(|(when, command)| Block::Do(when, command)));
    if groups.len() > COMMANDS {
        blocks.push(Block::Do("For the others, the commands are in:".to_owned(), "reportd status".to_owned()));
    }
}

type Doing = Vec<(String, String)>;

/// What the vendor said no to brings the same again.
fn needs_correction(members: &[&Member]) -> bool {
    let class = |member: &&Member| member.failure.as_ref().map(|failure| failure.class.clone());
    members.iter().filter_map(class).any(|class| matches!(class.as_str(), "refused" | "protocol"))
}

fn one(out: &mut Doing, cause: Cause, name: &str, member: &Member) {
    let mut say = |when: &str, command: String| out.push((when.to_owned(), command));
    let run = member.run_id.map(short);
    match (cause, run) {
        (Cause::Failed, run) => {
            let when = if needs_correction(&[member]) {
                "Correct what it says, then start the run again:"
            } else {
                "Start the run again:"
            };
            say(when, run.map_or_else(|| format!("reportd fill {name}"), |run| format!("reportd retry {run}")));
        }
        (Cause::Held, run) => resolve(out, &run.unwrap_or_else(|| "RUN".to_owned())),
        (Cause::Breaker, _) => close(out, member),
        (Cause::Late, Some(run)) => say("What its run waits for:", format!("reportd show {run}")),
        (Cause::Late, None) => {
            say("Where the series stands:", format!("reportd coverage {name}"));
            say("No run is at it; to fetch it now:", format!("reportd fill {name}"));
        }
        (Cause::Empty, _) => {
            if let Some(dates) = dates(member) {
                say(
                    "If there should be rows, fetch it again:",
                    format!("reportd run-job {name} --window {dates} --again"),
                );
            }
        }
        (Cause::Recovered, _) if member.job.is_some() => missing(out, name),
        (Cause::Recovered | Cause::Archived, _) => {}
    }
}

fn many(out: &mut Doing, cause: Cause, name: &str, members: &[&Member]) {
    let mut say = |when: String, command: String| out.push((when, command));
    match cause {
        Cause::Failed => {
            let first = if needs_correction(members) { "Correct what it says, then fetch" } else { "Fetch" };
            say(format!("{first} what the schedule of {name} names:"), format!("reportd fill {name}"));
        }
        Cause::Held => resolve(out, "RUN"),
        Cause::Breaker => members.iter().for_each(|member| close(out, member)),
        Cause::Late => {
            say(format!("Where {name} stands:"), format!("reportd coverage {name}"));
            say(format!("To fetch the windows of {name} that no run is at:"), format!("reportd fill {name}"));
        }
        Cause::Recovered => missing(out, name),
        Cause::Archived | Cause::Empty => {}
    }
}

fn missing(out: &mut Doing, name: &str) {
    out.push((format!("Whether windows of {name} are still missing:"), format!("reportd coverage {name}")));
}

fn close(out: &mut Doing, member: &Member) {
    out.push((
        "Mend the secret, which is then tried by itself; or at once:".to_owned(),
        format!("reportd connections close {} --vendor {}", member.connection, member.vendor),
    ));
}

/// An operator's four words about a held run.
fn resolve(out: &mut Doing, run: &str) {
    for (when, word) in [
        ("The vendor made it; ID is its reportHistoryId:", "--ticket ID"),
        ("The vendor made nothing; this sends the request again:", "--not-created"),
        ("You have the report as a file:", "--file PATH"),
        ("Nobody will find out; the run fails:", "--give-up"),
    ] {
        out.push((when.to_owned(), format!("reportd resolve {run} {word}")));
    }
}
