//! What is wrong with the place: the archive, the processes that serve, secrets, files. Pure.

use std::collections::HashSet;

use super::{Cause, Drifted, Facts, Item};
use crate::fire::span;

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
    let there: Vec<_> = facts.replicas.iter().filter(|replica| replica.serves(facts.now)).collect();
    let mut items: Vec<Item> = there
        .iter()
        .filter_map(|replica| {
            let trouble = replica.trouble.as_ref()?;
            let word = if replica.plans(facts.now) { "plans, but" } else { "does not plan" };
            let message = format!("{} {word}: {trouble}", replica.who);
            let action = "mend what it says; it then goes on by itself".to_owned();
            Some(Item { since: replica.passed_at, ..Item::new(Cause::NotServing, message, action) })
        })
        .collect();
    // Who is in trouble is there, and needs no start.
    if there.is_empty() {
        let in_force = i64::try_from(in_force).unwrap_or(i64::MAX);
        let message =
            format!("{} in force and no process serves them; {}", counted_series(in_force), last_served(facts));
        let item = Item::new(Cause::NotServing, message, "reportd serve".to_owned());
        items.push(Item { count: in_force, since: facts.last_pass(), ..item });
    }
    items
}

/// Who served last, and how that ended.
fn last_served(facts: &Facts) -> String {
    let ago = |at| span(facts.now - at);
    let Some(last) = facts.replicas.first() else { return "none ever did".to_owned() };
    match last.stopped_at {
        Some(at) => format!("{} was told to stop {} ago", last.who, ago(at)),
        None => format!("{} was seen last {} ago, and was not told to stop", last.who, ago(last.seen_at)),
    }
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
    // A set that an emptied folder would take out of force stays until somebody says so.
    let all_gone = facts.declared.is_empty() && facts.broken.is_empty();
    let action = if all_gone {
        "put the files back; or reportd apply --empty, which takes every job out of force"
    } else {
        "reportd apply (a `reportd serve` of this folder takes it when a file changes, on SIGHUP, and when it starts)"
    };
    let item = |drift: &super::DriftFact| {
        let message = match drift.how {
            Drifted::Changed => format!("{} is not what is in {set}", drift.file),
            Drifted::New => format!("{} is not in {set}", drift.file),
            Drifted::Gone => format!("{} is gone, and the job stands in {set}", drift.file),
        };
        Item {
            job: Some(drift.job.clone()),
            since: facts.applied.as_ref().map(|(at, _)| *at),
            ..Item::new(Cause::Drift, message, action.to_owned())
        }
    };
    facts.drift.iter().map(item).chain(series_drift(facts)).collect()
}

/// Series that are in force without a connection in this config, or are not in force although this config has one: the set was
/// applied with another config. Whole files that differ, or have errors, are told as such.
fn series_drift(facts: &Facts) -> Vec<Item> {
    // A folder that cannot be read declares nothing.
    if facts.applied.is_none() || facts.broken.iter().any(|broken| broken.job.is_none()) {
        return Vec::new();
    }
    let elsewhere: HashSet<&str> = facts.drift.iter().map(|drift| drift.job.as_str()).collect();
    let broken: HashSet<&str> = facts.broken.iter().filter_map(|broken| broken.job.as_deref()).collect();
    let told = |job: &str| elsewhere.contains(job) || broken.contains(job);
    let declared: HashSet<(&str, &str)> =
        facts.declared.iter().map(|d| (d.job.as_str(), d.connection.as_str())).collect();
    let in_force: HashSet<(&str, &str)> =
        facts.series.iter().filter(|row| row.in_force).map(|row| (row.job.as_str(), row.connection.as_str())).collect();
    let item = |(job, connection): &(&str, &str), message: &str, action: &str| Item {
        job: Some((*job).to_owned()),
        connection: Some((*connection).to_owned()),
        since: facts.applied.as_ref().map(|(at, _)| *at),
        ..Item::new(Cause::Drift, message.to_owned(), action.to_owned())
    };
    let mut items: Vec<Item> = Vec::new();
    let mut sorted: Vec<_> = declared.symmetric_difference(&in_force).filter(|(job, _)| !told(job)).collect();
    sorted.sort_unstable();
    for series in sorted {
        items.push(if declared.contains(series) {
            let message =
                "it does not fire: the set in force was applied with a config that has no such connection for it";
            item(series, message, "reportd apply, with this config")
        } else {
            let message = "it is in force, and the config here has no such connection for it";
            item(series, message, "correct the config; or reportd apply, which takes it out of force")
        });
    }
    items
}
