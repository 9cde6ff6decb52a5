//! Small forms that letters use: names of runs and windows, texts made fit for one line. Pure.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use uuid::Uuid;

use crate::delivery::about::Member;
use crate::request::window::Window;

/// A text as one line of at most `most` characters: control characters and line breaks are spaces, runs of spaces one. Marks
/// that turn the direction of the text around them, or that nobody sees, go; what Arabic or Hindi words are written with stays.
pub(super) fn one_line(text: &str, most: usize) -> String {
    let unseen = |c: &char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}' | '\u{2060}' | '\u{feff}' | '\u{ad}');
    let text: String = text.chars().filter(|c| !unseen(c)).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if line.chars().count() > most {
        line = line.chars().take(most.saturating_sub(1)).collect();
        line.truncate(line.trim_end().len());
        line.push('…');
    }
    line
}

/// The first eight digits, which name a run.
pub(super) fn short(run: Uuid) -> String {
    run.simple().to_string()[..8].to_owned()
}

/// `1 window`, `12 windows`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// What a member is about, as a person names it: `ratings@north`, or `north bik` for an account.
pub(super) fn subject(member: &Member) -> String {
    match &member.job {
        Some(job) => format!("{job}@{}", member.connection),
        None => format!("{} {}", member.connection, member.vendor),
    }
}

/// The zone in which a member's times are told.
pub(super) fn zone(member: &Member) -> Tz {
    member.window.as_ref().map_or(Tz::UTC, |window| window.zone)
}

fn window_of(member: &Member) -> Option<Window> {
    member.window.as_ref().and_then(|window| Window::new(window.start, window.end, window.zone))
}

/// A member's window in words.
pub(super) fn window(member: &Member) -> Option<String> {
    let label = member.window.as_ref()?.label.clone();
    Some(window_of(member).map_or(label, |window| window.in_words()))
}

/// The whole local days of a member's window, as `--window` takes them: `2026-03-01..2026-03-07`.
pub(super) fn dates(member: &Member) -> Option<String> {
    let (first, last) = window_of(member)?.whole_days()?;
    Some(format!("{first}..{last}"))
}

/// The dates of several windows together: `2026-03-01 to 2026-03-17`.
pub(super) fn range(members: &[Member]) -> Option<String> {
    let dates = || members.iter().filter_map(window_of).map(|window| window.local_dates());
    let (first, last) = (dates().map(|d| d.0).min()?, dates().map(|d| d.1).max()?);
    Some(if first == last { first.to_string() } else { format!("{first} to {last}") })
}

/// `2026-03-04 06:31`, local in `zone`.
pub(super) fn time(at: DateTime<Utc>, zone: Tz) -> String {
    at.with_timezone(&zone).format("%Y-%m-%d %H:%M").to_string()
}

/// The first three of some names, and how many there are besides.
pub(super) fn listed(names: &[String]) -> String {
    let first = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(3) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
