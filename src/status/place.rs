//! What is wrong with the place: the archive, the processes that serve, secrets, files. Pure.

use chrono::TimeDelta;

use super::{Cause, Drifted, Facts, Item};
use crate::fire::span;

/// A process that was not seen for longer is gone.
const SEEN: TimeDelta = TimeDelta::seconds(60);

pub(super) fn items(facts: &Facts) -> Vec<Item> {
    let archive = facts
        .archive
        .iter()
        .map(|(message, action)| Item::new(Cause::ArchiveMismatch, message.clone(), action.clone()));
    archive.chain(serving(facts)).chain(secrets(facts)).chain(broken(facts)).chain(drift(facts)).collect()
}

fn serving(facts: &Facts) -> Vec<Item> {
    let in_force = facts.series.iter().filter(|row| row.in_force).count();
    if in_force == 0 {
        return Vec::new();
    }
    let age = |at| facts.now - at;
    let there: Vec<_> = facts.replicas.iter().filter(|replica| age(replica.seen_at) <= SEEN).collect();
    let mut items: Vec<Item> = there
        .iter()
        .filter_map(|replica| {
            let trouble = replica.trouble.as_ref()?;
            let plans = replica.passed_at.is_some_and(|at| age(at) <= SEEN);
            let word = if plans { "plans, but" } else { "does not plan" };
            let message = format!("{} {word}: {trouble}", replica.who);
            let action = "mend what it says; it then plans by itself".to_owned();
            Some(Item { since: replica.passed_at, ..Item::new(Cause::NotServing, message, action) })
        })
        .collect();
    // Who is in trouble is there, and needs no start.
    if there.is_empty() {
        let in_force = i64::try_from(in_force).unwrap_or(i64::MAX);
        let last = facts.last_pass().map_or_else(
            || "no planner has passed yet".to_owned(),
            |pass| format!("the last planner pass was {} ago", span(age(pass))),
        );
        let message = format!("{} in force and no process serves them; {last}", counted_series(in_force));
        let item = Item::new(Cause::NotServing, message, "reportd serve".to_owned());
        items.push(Item { count: in_force, since: facts.last_pass(), ..item });
    }
    items
}

fn counted_series(count: i64) -> String {
    if count == 1 { "1 series is".to_owned() } else { format!("{count} series are") }
}

fn secrets(facts: &Facts) -> Vec<Item> {
    let missing = |account: &super::AccountFact| {
        let why = account.account.as_ref().err().filter(|_| account.used)?;
        let waiting = facts.waiting(&account.connection, account.vendor);
        let wait = if waiting > 0 { format!("; {} for it", waits(waiting)) } else { String::new() };
        let action = "make it readable for this command and for `reportd serve`; both read it anew by themselves";
        Some(Item {
            connection: Some(account.connection.clone()),
            vendor: Some(account.vendor.to_owned()),
            count: waiting.max(1),
            ..Item::new(Cause::MissingSecret, format!("{why}{wait}"), action.to_owned())
        })
    };
    facts.accounts.iter().filter_map(missing).collect()
}

/// `no run waits`, `1 run waits`, `2 runs wait`.
pub(super) fn waits(count: i64) -> String {
    match count {
        0 => "no run waits".to_owned(),
        1 => "1 run waits".to_owned(),
        n => format!("{n} runs wait"),
    }
}

fn broken(facts: &Facts) -> Vec<Item> {
    let item = |broken: &super::Broken| {
        let more = if broken.count > 1 { format!(" (and {} more)", broken.count - 1) } else { String::new() };
        let stays = if broken.in_force { "; its last good version stays in force" } else { "" };
        Item {
            job: broken.job.clone(),
            count: broken.count,
            ..Item::new(
                Cause::BrokenFile,
                format!("{}{more}{stays}", broken.first),
                "correct it; `reportd validate` shows every error with its line".to_owned(),
            )
        }
    };
    facts.broken.iter().map(item).collect()
}

fn drift(facts: &Facts) -> Vec<Item> {
    let set = facts
        .applied
        .as_ref()
        .map_or_else(|| "the set in force".to_owned(), |(_, who)| format!("the set in force, which {who} applied"));
    let item = |drift: &super::DriftFact| {
        let message = match drift.how {
            Drifted::Changed => format!("{} is not what is in {set}", drift.file),
            Drifted::New => format!("{} is not in {set}", drift.file),
            Drifted::Gone => format!("{} is gone, and the job stands in {set}", drift.file),
        };
        Item {
            job: Some(drift.job.clone()),
            since: facts.applied.as_ref().map(|(at, _)| *at),
            ..Item::new(
                Cause::Drift,
                message,
                "reportd apply (a `reportd serve` of this folder takes it by itself within a minute)".to_owned(),
            )
        }
    };
    facts.drift.iter().map(item).collect()
}
