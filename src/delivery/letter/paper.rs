//! What a letter is made of, and how that looks as text and as HTML: both are written from the same blocks, so they say the
//! same. Pure.
//!
//! Every string is taken for somebody else's: it becomes one line, and in HTML it is escaped, here and nowhere else. HTML is
//! tables with inline styles and the old attributes beside them, because mail clients drop the rest; nothing is loaded from
//! anywhere. It stays readable without styles, and below the 102 kB at which some clients cut a mail.

use super::words::one_line;
use super::{ReportFile, bars};
use crate::delivery::chart::Chart;

/// Width of the text part, in characters.
const WIDTH: usize = 76;

/// Most characters of a block's text: a vendor's page of HTML in a failure is no letter.
const LONG: usize = 1200;

/// Most characters of a cell.
const CELL: usize = 80;

/// The colour of a letter.
#[derive(Clone, Copy)]
pub(super) enum Tone {
    Good,
    Wait,
    Bad,
}

/// A part of a letter.
pub(super) enum Block<'a> {
    /// What happened; the first.
    Lead(String),
    /// A sentence.
    Say(String),
    /// A sentence that must be seen.
    Mark(String),
    /// Words of a vendor or a system.
    Quote(String),
    /// Names and values.
    Facts(Vec<(&'static str, String)>),
    /// A heading.
    Heading(&'static str),
    /// When to give a command, and the command.
    Do(String, String),
    /// Windows of one series: its heading; what happened to them and which they are.
    List(String, Vec<(Option<String>, Vec<[String; 3]>)>),
    /// Files of the archive.
    Files(&'a [ReportFile]),
    /// A table with bars.
    Chart(&'a Chart),
    /// Small print.
    Foot(String),
}

pub(super) fn clean(text: &str) -> String {
    one_line(text, LONG)
}

fn cell(text: &str) -> String {
    one_line(text, CELL)
}

/// The text part: lines of at most [`WIDTH`] characters, but for words and tables that are longer.
pub(super) fn text(blocks: &[Block<'_>]) -> String {
    let mut out = String::new();
    for block in blocks {
        match block {
            Block::Lead(text) | Block::Say(text) => wrap(&mut out, "", &clean(text)),
            Block::Mark(text) => wrap(&mut out, "! ", &clean(text)),
            Block::Quote(text) => wrap(&mut out, "> ", &clean(text)),
            Block::Heading(text) => out.push_str(&format!("{text}\n{}\n", "-".repeat(text.chars().count()))),
            Block::Facts(facts) => {
                let wide = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
                for (name, value) in facts {
                    out.push_str(&format!("{name:<wide$}  {}\n", clean(value)));
                }
            }
            Block::Do(when, command) => {
                wrap(&mut out, "", &clean(when));
                out.push_str(&format!("    {}\n", clean(command)));
            }
            Block::List(heading, parts) => text_list(&mut out, heading, parts),
            Block::Files(files) => {
                for file in *files {
                    let size = crate::artifact::size(file.bytes);
                    out.push_str(&format!("{}\n  {size}, sha256 {}\n", clean(&file.path), clean(&file.sha256)));
                }
            }
            Block::Chart(chart) => bars::text(&mut out, chart),
            Block::Foot(text) => {
                out.push_str("--\n");
                wrap(&mut out, "", &clean(text));
            }
        }
        if !matches!(block, Block::Heading(_)) {
            out.push('\n');
        }
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// Breaks a text at its spaces; a longer word stays whole, so that it can be copied.
fn wrap(out: &mut String, indent: &str, text: &str) {
    let mut line = indent.to_owned();
    for word in text.split(' ') {
        if line.len() > indent.len() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                out.push_str(&line);
                out.push('\n');
                indent.clone_into(&mut line);
            } else {
                line.push(' ');
            }
        }
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

fn text_list(out: &mut String, heading: &str, parts: &[(Option<String>, Vec<[String; 3]>)]) {
    wrap(out, "", &clean(heading));
    let rows = || parts.iter().flat_map(|(_, rows)| rows);
    let wide = [0, 1].map(|column| rows().map(|row| cell(&row[column]).chars().count()).max().unwrap_or(0));
    for (told, rows) in parts {
        if let Some(told) = told {
            wrap(out, "  > ", &clean(told));
        }
        for row in rows {
            let [first, second, third] = row.each_ref().map(|text| cell(text));
            let line = format!("    {first:<0$}  {second:<1$}  {third}", wide[0], wide[1]);
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
}

/// A string of anybody's as HTML text or attribute.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

pub(super) fn safe(text: &str) -> String {
    escape(&clean(text))
}

const FONT: &str = "font-family:-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif";
const MONO: &str = "font-family:Menlo,Consolas,'DejaVu Sans Mono',monospace";
pub(super) const TABLE: &str =
    "<table role=\"presentation\" width=\"100%\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\"";

/// The HTML part.
pub(super) fn html(subject: &str, tone: Tone, blocks: &[Block<'_>]) -> String {
    let colour = match tone {
        Tone::Good => "#2e7d32",
        Tone::Wait => "#b26a00",
        Tone::Bad => "#c62828",
    };
    let mut rows = String::new();
    for block in blocks {
        let (space, inner) = html_block(block);
        rows.push_str(&format!("<tr><td style=\"padding:{space} 20px 0 20px\">{inner}</td></tr>\n"));
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light\">\n<meta name=\"supported-color-schemes\" content=\"light\">\n\
         <title>{}</title>\n</head>\n\
         <body bgcolor=\"#eef0f3\" style=\"margin:0;padding:0;background:#eef0f3;-webkit-text-size-adjust:100%\">\n\
         {TABLE} bgcolor=\"#eef0f3\"><tr><td align=\"center\" style=\"padding:12px 6px\">\n\
         <table role=\"presentation\" width=\"600\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\" bgcolor=\"#ffffff\" \
         style=\"width:100%;max-width:600px;background:#ffffff;border-top:4px solid {colour};{FONT};font-size:15px;\
         line-height:1.45;color:#1f2933;text-align:left\">\n\
         {rows}<tr><td style=\"padding:0 0 20px 0;font-size:1px;line-height:1px\">&nbsp;</td></tr>\n\
         </table>\n</td></tr></table>\n</body>\n</html>\n",
        safe(subject)
    )
}

/// The space above a block, and the block.
fn html_block(block: &Block<'_>) -> (&'static str, String) {
    match block {
        Block::Lead(text) => (
            "18px",
            format!(
                "<div dir=\"auto\" style=\"font-size:18px;font-weight:bold;overflow-wrap:anywhere\">{}</div>",
                safe(text)
            ),
        ),
        Block::Say(text) => ("10px", format!("<div style=\"overflow-wrap:anywhere\">{}</div>", safe(text))),
        Block::Mark(text) => (
            "12px",
            format!(
                "{TABLE}><tr><td bgcolor=\"#fff4d6\" style=\"background:#fff4d6;padding:8px 12px\">{}</td></tr></table>",
                safe(text)
            ),
        ),
        Block::Quote(text) => (
            "12px",
            format!(
                "{TABLE}><tr><td bgcolor=\"#f5f6f8\" dir=\"auto\" style=\"background:#f5f6f8;border-left:3px solid #9aa5b1;\
                 padding:8px 12px;overflow-wrap:anywhere;word-break:break-word\">{}</td></tr></table>",
                safe(text)
            ),
        ),
        Block::Heading(text) => ("20px", format!("<div style=\"font-weight:bold\">{}</div>", safe(text))),
        Block::Do(when, command) => (
            "8px",
            format!(
                "<div>{}</div>{TABLE}><tr><td bgcolor=\"#f0f4f8\" style=\"background:#f0f4f8;padding:6px 10px;{MONO};\
                 font-size:13px;overflow-wrap:anywhere;word-break:break-word\"><code style=\"{MONO}\">{}</code></td></tr></table>",
                safe(when),
                safe(command)
            ),
        ),
        Block::Facts(facts) => {
            let row = |(name, value): &(&str, String)| {
                format!(
                    "<tr><td valign=\"top\" style=\"padding:2px 12px 2px 0;color:#52606d;white-space:nowrap\">{}</td>\
                     <td valign=\"top\" width=\"100%\" style=\"padding:2px 0;overflow-wrap:anywhere;word-break:break-word\">{}</td></tr>\n",
                    safe(name),
                    safe(value)
                )
            };
            let rows: String = facts.iter().map(row).collect();
            ("14px", format!("{TABLE} style=\"font-size:14px\">{rows}</table>"))
        }
        Block::List(heading, parts) => ("14px", html_list(heading, parts)),
        Block::Files(files) => {
            let row = |file: &ReportFile| {
                let sum: String = file.sha256.chars().take(12).collect();
                format!(
                    "<tr><td style=\"padding:2px 0 8px 0;overflow-wrap:anywhere;word-break:break-all\">{}<br>\
                     <span style=\"color:#52606d\">{}, sha256 {}…</span></td></tr>\n",
                    safe(&file.path),
                    safe(&crate::artifact::size(file.bytes)),
                    safe(&sum)
                )
            };
            let rows: String = files.iter().map(row).collect();
            ("4px", format!("{TABLE} style=\"font-size:13px\">{rows}</table>"))
        }
        Block::Chart(chart) => ("18px", bars::html(chart)),
        Block::Foot(text) => (
            "20px",
            format!(
                "<div style=\"border-top:1px solid #d9dee4;padding-top:8px;font-size:12px;color:#52606d\">{}</div>",
                safe(text)
            ),
        ),
    }
}

fn html_list(heading: &str, parts: &[(Option<String>, Vec<[String; 3]>)]) -> String {
    let mut out = format!("<div style=\"font-weight:bold;overflow-wrap:anywhere\">{}</div>", safe(heading));
    out.push_str(&format!("{TABLE} style=\"font-size:13px\">"));
    for (told, rows) in parts {
        if let Some(told) = told {
            out.push_str(&format!(
                "<tr><td colspan=\"3\" dir=\"auto\" style=\"padding:6px 0 2px 0;color:#52606d;overflow-wrap:anywhere;\
                 word-break:break-word\">{}</td></tr>\n",
                safe(told)
            ));
        }
        for row in rows {
            let [first, second, third] = row.each_ref().map(|text| escape(&cell(text)));
            let pad = "valign=\"top\" style=\"padding:1px 10px 1px 0";
            out.push_str(&format!(
                "<tr><td {pad};min-width:72px\">{first}</td><td {pad};white-space:nowrap\">{second}</td>\
                 <td {pad};white-space:nowrap\">{third}</td></tr>\n"
            ));
        }
    }
    out.push_str("</table>");
    out
}
