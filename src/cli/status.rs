//! `reportd status`.

use clap::Args;
use serde::Serialize;

use super::{Cx, Exit, Failure, note, say, say_json};
use crate::fire::span;
use crate::request::window::rfc3339_in;
use crate::run::store::job_set::JobSet;
use crate::status::gather::{broken_files, gather};
use crate::status::{Broken, Cause, Facts, Item, items};
use crate::yaml::Severity;

#[derive(Debug, Args)]
pub(super) struct Status {}

/// Lines of one cause, so that none pushes the others off the screen.
const LINES: usize = 11;

/// Characters of one line.
const WIDTH: usize = 110;

/// Lines of one item, besides what ends it.
const WRAPPED: usize = 4;

/// One line of JSON.
#[derive(Debug, Serialize)]
struct Line<'a> {
    cause: &'static str,
    job: Option<&'a str>,
    connection: Option<&'a str>,
    vendor: Option<&'a str>,
    run_id: Option<String>,
    count: i64,
    since: Option<String>,
    message: &'a str,
    action: &'a str,
}

impl Status {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let files = cx.files();
        if files.config_problems.iter().any(|problem| problem.severity == Severity::Error) {
            // Which database and which archive it means is not known.
            let broken = broken_files(&files.config_problems, &cx.place().jobs, &JobSet::default());
            print(cx, &broken.iter().map(of_config).collect::<Vec<_>>());
            note("reportd: nothing else was looked at, because the config says where");
            return Ok(Exit::Failed);
        }
        let (db, store) = cx.database(&files.settings).await?;
        let facts = gather(&files, &cx.place().jobs, &store).await;
        db.close().await;
        let facts = facts?;
        let items = items(&facts);
        print(cx, &items);
        if !cx.json() {
            say(&summary(&facts, &items));
        }
        Ok(if items.is_empty() { Exit::Done } else { Exit::Failed })
    }
}

fn of_config(broken: &Broken) -> Item {
    let more = if broken.count > 1 { format!(" (and {} more)", broken.count - 1) } else { String::new() };
    Item {
        cause: Cause::BrokenFile,
        job: None,
        connection: None,
        vendor: None,
        run: None,
        count: broken.count,
        since: None,
        zone: chrono_tz::UTC,
        message: format!("{}{more}", broken.first),
        action: "correct it; `reportd validate` shows every error with its line".to_owned(),
    }
}

/// The one line that is always there.
fn summary(facts: &Facts, items: &[Item]) -> String {
    let need = match items.len() {
        0 => "nothing needs you".to_owned(),
        1 => "1 thing needs you".to_owned(),
        n => format!("{n} things need you"),
    };
    let pass = facts.last_pass().map_or_else(
        || "no planner has passed yet (schedules fire under `reportd serve`)".to_owned(),
        |pass| format!("last planner pass {} ago", span(facts.now - pass)),
    );
    let runs = match facts.under_way() {
        0 => "no run under way".to_owned(),
        1 => "1 run under way".to_owned(),
        n => format!("{n} runs under way"),
    };
    // Not a thing to do, and not to be forgotten either.
    let paused = match facts.paused.as_slice() {
        [] => String::new(),
        [first] => format!(" ({first} is paused)"),
        [first, more @ ..] => format!(" ({first} and {} more are paused)", more.len()),
    };
    format!("{need}: {} series{paused}, {runs}, {pass}", facts.declared.len())
}

fn print(cx: &Cx, items: &[Item]) {
    if cx.json() {
        for item in items {
            say_json(&line(item));
        }
        return;
    }
    for of_cause in items.chunk_by(|a, b| a.cause == b.cause) {
        let Some(cause) = of_cause.first().map(|item| item.cause) else { continue };
        say(&format!("{}: {}", cause.as_str(), cause.meaning()));
        for line in lines(of_cause) {
            say(&line);
        }
        say("");
    }
}

/// The lines of one cause: each item's own, and what ends it after the last of a row of items that it ends.
fn lines(items: &[Item]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (told, item) in items.iter().enumerate() {
        let own = own_lines(item);
        if told > 0 && lines.len() + own.len() >= LINES {
            // What ends those that are left out as well stands with the last one that is told.
            if let Some(before) = items.get(told - 1).filter(|before| before.action == item.action) {
                lines.push(action_line(before));
            }
            lines.push(format!("  and {} more: reportd status --format json", items.len() - told));
            return lines;
        }
        lines.extend(own);
        if items.get(told + 1).is_none_or(|next| next.action != item.action) {
            lines.push(action_line(item));
        }
    }
    lines
}

fn action_line(item: &Item) -> String {
    format!("      -> {}", item.action)
}

fn own_lines(item: &Item) -> Vec<String> {
    let subject = item.subject().map_or_else(String::new, |subject| format!("{subject}  "));
    let since = item.since.map_or_else(String::new, |since| {
        format!("since {}  ", since.with_timezone(&item.zone).format("%Y-%m-%d %H:%M %Z"))
    });
    wrap(&format!("  {subject}{since}"), &item.message)
}

/// Breaks a text at its spaces, after a head; what is longer than a few lines is cut, since `show RUN` and JSON have it all.
fn wrap(head: &str, text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = head.to_owned();
    let mut is_empty = true;
    for word in text.split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            if lines.len() + 1 == WRAPPED {
                line.push('…');
                break;
            }
            lines.push(std::mem::replace(&mut line, "      ".to_owned()));
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines.push(line);
    lines
}

fn line(item: &Item) -> Line<'_> {
    Line {
        cause: item.cause.as_str(),
        job: item.job.as_deref(),
        connection: item.connection.as_deref(),
        vendor: item.vendor.as_deref(),
        run_id: item.run.map(|run| run.to_string()),
        count: item.count,
        since: item.since.map(|since| rfc3339_in(since, item.zone)),
        message: &item.message,
        action: &item.action,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(n: usize, action: &str) -> Item {
        let broken = Broken { job: None, count: 1, first: format!("item {n}"), in_force: false };
        Item { action: action.to_owned(), ..of_config(&broken) }
    }

    #[test]
    fn long_messages_are_broken_at_spaces_and_cut_at_last() {
        assert_eq!(wrap("  a@b  ", "short"), ["  a@b  short"]);
        let lines = wrap("  a@b  ", &"word ".repeat(300));
        assert_eq!(lines.len(), WRAPPED);
        assert!(lines[0].starts_with("  a@b  word word") && lines[1].starts_with("      word"));
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH + 1));
        assert!(lines[WRAPPED - 1].ends_with("word…"));
        // What has no space is not broken, so that it can be copied.
        assert_eq!(wrap("  ", &"x".repeat(500)).len(), 1);
    }

    #[test]
    fn a_long_list_ends_with_the_number_of_the_others_and_names_no_action_twice() {
        let same: Vec<Item> = (0..50).map(|n| item(n, "mend it")).collect();
        let told = lines(&same);
        assert_eq!(told.iter().filter(|line| line.contains("mend it")).count(), 1);
        let items = told.iter().filter(|line| line.starts_with("  item")).count();
        assert_eq!(
            told.last().map(String::as_str),
            Some(&*format!("  and {} more: reportd status --format json", 50 - items))
        );
        let each: Vec<Item> = (0..50).map(|n| item(n, &format!("mend {n}"))).collect();
        let told = lines(&each);
        assert!(told.len() <= LINES + 2, "{told:#?}");
        // Every item that is told has what ends it under it.
        for (n, line) in told.iter().enumerate().filter(|(_, line)| line.starts_with("  item ")) {
            assert_eq!(told[n + 1], format!("      -> mend {}", &line[7..]));
        }
    }
}
