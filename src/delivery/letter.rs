//! What a notice says in a mail: what happened, to which report of which shop, for which days, and the command that ends it.
//! Words and commands are those of `reportd status`. Pure.
//!
//! ```text
//! letter/actions.rs   the commands that end it
//! letter/words.rs     names and times; one-line texts
//! letter/paper.rs     blocks -> text and HTML
//! letter/bars.rs      a chart on paper
//! ```
//!
//! Refused: a subject with a second line, and markup. What a job file, a vendor or a system says is text, wherever it stands.

mod actions;
mod bars;
mod paper;
mod words;

use super::Cause;
use super::about::{About, Member};
use super::chart::Chart;
use super::notice::Email;
use actions::actions;
use paper::{Block, Tone};
use words::{counted, listed, one_line, range, short, subject, time, window, zone};

/// Most characters of a subject.
const SUBJECT: usize = 200;

/// Most characters of what a vendor said, where many windows are told.
const TOLD: usize = 300;

/// One archived file, as a letter tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportFile {
    /// Path relative to the archive.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Hash, 64 hexadecimal digits.
    pub sha256: String,
}

/// The report that came, for the letter about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Where the archive is, for people: folder or URL.
    pub archive: String,
    /// The revision that came, from 1.
    pub revision: i32,
    /// It may still change.
    pub provisional: bool,
    /// It was fetched from loopback.
    pub simulated: bool,
    /// Its files.
    pub files: Vec<ReportFile>,
    /// Names of attachments.
    pub attached: Vec<String>,
    /// Why nothing or not everything is attached although `attach: true`.
    pub left_out: Option<String>,
    /// A LiveChat report as a table.
    pub chart: Option<Chart>,
}

/// A mail, less its addresses and attachments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// One line of 1 to 200 characters, none of them a control character.
    pub subject: String,
    /// The text part.
    pub text: String,
    /// The HTML part; says the same.
    pub html: String,
}

/// The letter about something. `report` is for [`Cause::Archived`] and [`Cause::Empty`].
pub fn letter(email: &Email, about: &About, report: Option<&Report>) -> Letter {
    let subject = subject_line(email, about);
    let blocks = blocks(about, report);
    let tone = match about.cause {
        Cause::Archived | Cause::Recovered => Tone::Good,
        Cause::Empty | Cause::Late => Tone::Wait,
        Cause::Failed | Cause::Held | Cause::Breaker => Tone::Bad,
    };
    Letter { text: paper::text(&blocks), html: paper::html(&subject, tone, &blocks), subject }
}

/// The name of an attachment: `<job>_<connection>_<window>.<ext>` for the only file, else `<job>_<connection>_<window>_<name>`.
/// What no file system takes, or what another name could hide behind, becomes `_`.
pub fn attachment_name(job: &str, connection: &str, window_label: &str, file_name: &str, only: bool) -> String {
    let tail = match file_name.rsplit_once('.') {
        Some((_, extension)) if only => format!(".{extension}"),
        None if only => String::new(),
        _ => format!("_{file_name}"),
    };
    let safe = |c: char| if c.is_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let name: String = format!("{job}_{connection}_{window_label}{tail}").chars().map(safe).collect();
    // The end is kept, because it says what the file is.
    let over = name.chars().count().saturating_sub(SUBJECT);
    name.chars().skip(over).collect::<String>().trim_start_matches('.').to_owned()
}

fn subject_line(email: &Email, about: &About) -> String {
    let own = email.subject.as_ref().map(|text| one_line(&about.fill(text), SUBJECT)).unwrap_or_default();
    match about.cause {
        _ if own.is_empty() => one_line(&our_subject(about), SUBJECT),
        // The people who wrote it thought of a failure.
        Cause::Recovered => one_line(&format!("Works again: {own}"), SUBJECT),
        _ => own,
    }
}

fn our_subject(about: &About) -> String {
    let word = match about.cause {
        Cause::Archived => "Report",
        Cause::Empty => "No rows",
        Cause::Failed => "Failed",
        Cause::Held => "Held",
        Cause::Breaker => "Refused",
        Cause::Late => "Late",
        Cause::Recovered => "Works again",
    };
    let names = names(about);
    match about.members.as_slice() {
        _ if about.cause == Cause::Recovered && stays(about) => format!("{word}: {}", listed(&names)),
        [one] if about.more == 0 => format!("{word}: {} {}", subject(one), window(one).unwrap_or_default()),
        members => {
            let days = range(members).map_or_else(String::new, |days| format!(", {days}"));
            let (what, listed) = (counted(about.count(), noun(about)), listed(&names));
            format!("{word}: {what}{days}, {listed}")
        }
    }
}

/// Whether it works again while the windows that were told of may still be missing: one run that works ends the trouble of its
/// whole series.
fn stays(about: &About) -> bool {
    matches!(about.after, Some(Cause::Failed | Cause::Held))
}

/// What the members are.
fn noun(about: &About) -> &'static str {
    if about.members.iter().all(|member| member.job.is_none()) { "account" } else { "window" }
}

/// The subjects of all members, each once, in their order.
fn names(about: &About) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in about.members.iter().map(subject) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Members of one series or account, in the order of the first of each.
fn groups(about: &About) -> Vec<(String, Vec<&Member>)> {
    let of = |name: String| {
        let members = about.members.iter().filter(|member| subject(member) == name).collect();
        (name, members)
    };
    names(about).into_iter().map(of).collect()
}

fn blocks<'a>(about: &About, report: Option<&'a Report>) -> Vec<Block<'a>> {
    let mut blocks = vec![Block::Lead(lead(about))];
    if let Some(report) = report {
        marks(&mut blocks, report);
    }
    blocks.extend(explained(about).map(|text| Block::Say(text.to_owned())));
    if let ([one], 0) = (about.members.as_slice(), about.more) {
        blocks.extend(told(about, one, usize::MAX).map(Block::Quote));
        actions(&mut blocks, about);
        if let Some(chart) = report.and_then(|report| report.chart.as_ref()) {
            blocks.push(Block::Chart(chart));
        }
        blocks.push(Block::Facts(facts(about, one, report)));
    } else {
        commonest(&mut blocks, about);
        actions(&mut blocks, about);
        lists(&mut blocks, about);
    }
    if let Some(report) = report.filter(|report| !report.files.is_empty()) {
        blocks.push(Block::Heading("Files in the archive"));
        blocks.push(Block::Files(&report.files));
    }
    let list = if about.cause.is_success() { "deliver" } else { "alert" };
    let status = if about.cause.is_success() { "" } else { "Everything that needs a person now: reportd status. " };
    blocks.push(Block::Foot(format!(
        "{status}Sent by reportd, because {list} of the job file, or of defaults in reportd.yaml, names this address."
    )));
    blocks
}

/// What happened, in one sentence.
fn lead(about: &About) -> String {
    let accounts = noun(about) == "account";
    if let ([one], 0) = (about.members.as_slice(), about.more) {
        let name = subject(one);
        let report = window(one).map_or(name.clone(), |window| format!("{name} for {window} ({})", zone(one).name()));
        return match about.cause {
            Cause::Archived => format!("{report} is in the archive."),
            Cause::Empty => format!("{report} has no rows."),
            Cause::Failed => format!("{report} failed."),
            Cause::Held => format!("{report} is held and waits for your word."),
            Cause::Breaker => format!("{} refuses the account of {}; its runs wait.", one.vendor, one.connection),
            Cause::Late => format!("{report} is late: it is not in the archive."),
            Cause::Recovered if accounts => {
                format!("{} takes the account of {} again; its runs go on.", one.vendor, one.connection)
            }
            Cause::Recovered => match window(one).filter(|_| about.after == Some(Cause::Late)) {
                Some(window) => format!("{name} works again: the report for {window} ({}) came.", zone(one).name()),
                None => format!("{name} works again."),
            },
        };
    }
    let days = range(&about.members).map_or_else(String::new, |days| format!(", {days}"));
    let what = format!("{}{days}", counted(about.count(), noun(about)));
    let did = match about.cause {
        Cause::Archived => "are in the archive",
        Cause::Empty => "have no rows",
        Cause::Failed => "failed",
        Cause::Held => "are held and wait for your word",
        Cause::Breaker => "are refused by their vendors; their runs wait",
        Cause::Late => "are late: they are not in the archive",
        Cause::Recovered if accounts => "are taken again; their runs go on",
        Cause::Recovered if about.after == Some(Cause::Late) => "came, and all works again",
        Cause::Recovered => "were in trouble, and all works again",
    };
    let besides = if about.more > 0 { " and others" } else { "" };
    format!("{}{besides}: {what}, {did}.", listed(&names(about)))
}

/// What that means, where it is not plain.
fn explained(about: &About) -> Option<&'static str> {
    match (about.cause, about.after) {
        (Cause::Empty, _) => Some("The vendor's answer is well-formed, only empty; it is kept in the archive."),
        (Cause::Held, _) => Some("Nobody knows whether the vendor made the report. Look, and say."),
        (Cause::Recovered, Some(Cause::Failed)) => Some(
            "An earlier notice told of a failure; a later run went well. What failed stays a gap until it is fetched.",
        ),
        (Cause::Recovered, Some(Cause::Held)) => {
            Some("An earlier notice told of a held run; a later run of the same series went well.")
        }
        (Cause::Recovered, Some(Cause::Late)) => Some("An earlier notice told that it was late."),
        (Cause::Recovered, Some(Cause::Breaker)) => Some("An earlier notice told that the vendor refused it."),
        _ => None,
    }
}

/// A member's failure in words.
fn told(about: &About, member: &Member, most: usize) -> Option<String> {
    let failure = member.failure.as_ref()?;
    // The message of a held run ends with the commands, which stand in the letter anyway.
    let essence = failure.message.split(", then run one of").next().unwrap_or(&failure.message);
    let text = if about.cause == Cause::Failed { format!("{}: {essence}", failure.class) } else { essence.to_owned() };
    Some(one_line(&text, most))
}

/// What most members were told: a phone shows no list.
fn commonest(blocks: &mut Vec<Block<'_>>, about: &About) {
    let mut said: Vec<(String, u64)> = Vec::new();
    for text in about.members.iter().filter_map(|member| told(about, member, TOLD)) {
        match said.iter_mut().find(|(other, _)| *other == text) {
            Some((_, times)) => *times += 1,
            None => said.push((text, 1)),
        }
    }
    // The first of those that were said as often.
    let most = said.iter().rev().max_by_key(|(_, times)| *times).filter(|(_, times)| *times > 1);
    if let Some((text, times)) = most {
        let of = if *times == about.count() { "All of them".to_owned() } else { format!("{times} of them") };
        blocks.push(Block::Say(format!("{of}:")));
        blocks.push(Block::Quote(text.clone()));
    }
}

/// What marks a report, and what is attached.
fn marks(blocks: &mut Vec<Block<'_>>, report: &Report) {
    if report.simulated {
        blocks.push(Block::Mark("Simulated: this came from a sandbox, not from the vendor.".to_owned()));
    }
    if report.provisional {
        let text = "Provisional: the window was not over when this was fetched, so the figures may still change.";
        blocks.push(Block::Mark(text.to_owned()));
    }
    match &report.left_out {
        Some(why) if report.attached.is_empty() => blocks.push(Block::Mark(format!("Nothing is attached: {why}"))),
        Some(why) => blocks.push(Block::Mark(format!("Not all of it is attached: {why}"))),
        None => {}
    }
}

fn facts(about: &About, member: &Member, report: Option<&Report>) -> Vec<(&'static str, String)> {
    let zone = zone(member);
    let mut facts = Vec::new();
    if member.job.is_some() {
        facts.push(("Report", format!("{} ({})", subject(member), member.vendor)));
    } else {
        facts.push(("Account", subject(member)));
    }
    facts.extend(window(member).map(|window| ("Window", format!("{window} ({})", zone.name()))));
    let when = match about.cause {
        Cause::Archived | Cause::Empty => "Archived",
        Cause::Failed => "Failed",
        Cause::Held | Cause::Breaker | Cause::Late => "Since",
        Cause::Recovered => "Trouble since",
    };
    facts.push((when, format!("{} ({})", time(member.at, zone), zone.name())));
    facts.extend(member.run_id.map(|run| ("Run", format!("reportd show {}", short(run)))));
    if let Some(report) = report {
        facts.push(("Archive", report.archive.clone()));
        facts.push(("Revision", format!("r{}", report.revision)));
        if !report.attached.is_empty() {
            facts.push(("Attached", report.attached.join(", ")));
        }
    }
    facts
}

/// All members in a compact list, by series, and in it by what happened.
fn lists(blocks: &mut Vec<Block<'_>>, about: &About) {
    for (name, members) in groups(about) {
        let Some(first) = members.first() else { continue };
        let zone = zone(first);
        let count = counted(members.len() as u64, "window");
        let heading = match &first.job {
            Some(_) => format!("{name} ({}), {count}, times in {}", first.vendor, zone.name()),
            None => format!("{name}, times in {}", zone.name()),
        };
        let mut parts: Vec<(Option<String>, Vec<[String; 3]>)> = Vec::new();
        for member in &members {
            let row = [
                window(member).unwrap_or_default(),
                member.run_id.map(|run| format!("run {}", short(run))).unwrap_or_default(),
                time(member.at, zone),
            ];
            let told = told(about, member, TOLD);
            match parts.iter_mut().find(|(other, _)| *other == told) {
                Some((_, rows)) => rows.push(row),
                None => parts.push((told, vec![row])),
            }
        }
        blocks.push(Block::List(heading, parts));
    }
    if about.more > 0 {
        blocks.push(Block::Say(format!("and {} more", about.more)));
    }
}

#[cfg(test)]
mod letter_tests;
