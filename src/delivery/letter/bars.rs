//! A chart in a letter: a table with bars, as text and as HTML. Pure.

use super::paper::{TABLE, clean, escape, safe};
use super::words::one_line;
use crate::delivery::chart::Chart;

/// Characters of the longest bar in the text part.
const BAR: usize = 20;

/// Most characters of a row's name.
const KEY: usize = 40;

/// Most characters of a heading.
const HEADING: usize = 24;

/// Writes it with columns that are aligned in a font of one width.
pub(super) fn text(out: &mut String, chart: &Chart) {
    out.push_str(&format!("{}\n\n", clean(&chart.title)));
    let key = |text: &str| one_line(text, KEY);
    let keys = chart.rows.iter().map(|row| key(&row.key));
    let wide = keys.chain([chart.key.to_owned()]).map(|key| key.chars().count()).max().unwrap_or(0);
    let columns: Vec<String> = chart.columns.iter().map(|heading| one_line(heading, HEADING)).collect();
    let wides: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(i, heading)| {
            let cells = chart.rows.iter().filter_map(|row| row.cells.get(i)).map(|cell| cell.chars().count());
            cells.chain([heading.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let mut line = |first: &str, cells: &[String], bar: &str| {
        let mut line = format!("{first:<wide$}");
        for (cell, wide) in cells.iter().zip(&wides) {
            line.push_str(&format!("  {:>wide$}", clean(cell)));
        }
        out.push_str(format!("{line}  {bar}").trim_end());
        out.push('\n');
    };
    line(chart.key, &columns, "");
    for row in &chart.rows {
        line(&key(&row.key), &row.cells, &"█".repeat((usize::from(row.bar) * BAR).div_ceil(100)));
    }
    for note in notes(chart) {
        out.push_str(&format!("{note}\n"));
    }
}

/// What is in the file and not in the table.
fn notes(chart: &Chart) -> Vec<String> {
    let more = match chart.more {
        0 => None,
        1 => Some("and 1 more row in the file".to_owned()),
        more => Some(format!("and {more} more rows in the file")),
    };
    more.into_iter().chain(chart.left_out.as_deref().map(clean)).collect()
}

/// The same for a browser: as wide as a phone, if need be.
pub(super) fn html(chart: &Chart) -> String {
    let heading = "valign=\"bottom\" style=\"font-size:12px;line-height:1.2";
    // Days are short, names want room; our own headings break between words only.
    let room = if chart.key == "Day" { "min-width:64px" } else { "min-width:96px" };
    let breaks = if chart.named { "min-width:46px;overflow-wrap:anywhere" } else { "" };
    let mut out = format!("<div style=\"font-weight:bold\">{}</div>", safe(&chart.title));
    out.push_str("<table width=\"100%\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\" style=\"font-size:13px\">");
    out.push_str(&format!(
        "<tr style=\"color:#52606d\"><td {heading};padding:0 0 2px 0;{room}\">{}</td>",
        safe(chart.key)
    ));
    for (i, text) in chart.columns.iter().enumerate() {
        let text = escape(&one_line(text, HEADING));
        out.push_str(&format!("<td align=\"right\" {heading};padding:0 0 2px 8px;{breaks}\">{text}</td>"));
        if i == 0 {
            out.push_str("<td width=\"28%\">&nbsp;</td>");
        }
    }
    out.push_str("</tr>\n");
    for row in &chart.rows {
        let key = escape(&one_line(&row.key, KEY));
        out.push_str(&format!("<tr><td valign=\"top\" style=\"padding:1px 0;overflow-wrap:anywhere\">{key}</td>"));
        for (i, number) in row.cells.iter().enumerate() {
            let pad = "padding:1px 0 1px 8px;white-space:nowrap";
            out.push_str(&format!("<td align=\"right\" valign=\"top\" style=\"{pad}\">{}</td>", safe(number)));
            if i == 0 {
                out.push_str(&format!("<td valign=\"top\" style=\"padding:4px 0 0 8px\">{}</td>", bar(row.bar)));
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>");
    for note in notes(chart) {
        out.push_str(&format!("<div style=\"font-size:12px;color:#52606d\">{}</div>", safe(&note)));
    }
    out
}

/// A bar is a coloured cell, which every client draws.
fn bar(share: u8) -> String {
    if share == 0 {
        return "&nbsp;".to_owned();
    }
    let rest = match 100 - share {
        0 => String::new(),
        rest => format!("<td width=\"{rest}%\"></td>"),
    };
    format!(
        "{TABLE}><tr><td width=\"{share}%\" height=\"12\" bgcolor=\"#4a86c5\" style=\"background:#4a86c5;font-size:1px;\
         line-height:12px\">&nbsp;</td>{rest}</tr></table>"
    )
}
