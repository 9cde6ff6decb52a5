//! What people usually did when a parser stumbles: the words of a YAML parser seldom say it.
//!
//! Looks at the one line of a syntax error. Without a known mistake on it the parser's own words stand.

use super::problem::shown;

/// What the parser says, by the words that tell its messages apart, and what it comes to for the author of a file.
const PLAINLY: [(&str, &str); 15] = [
    ("quoted scalar, found unexpected end of stream", "the quote that opens here is never closed"),
    ("trailing content after double-quoted", "text after the closing quote"),
    ("unknown anchor", "no anchor of this name stands above, quote the value if the * is meant"),
    ("alias, did not find expected alphabetic", "a value that starts with * or & must be quoted"),
    ("expected <document start>", "text outside of the document, is the indentation right?"),
    ("block mapping, did not find expected key", "expected a key, is the indentation right?"),
    ("did not find expected '-' indicator", "expected an entry of the list, is the indentation right?"),
    ("mapping values are not allowed", "a key is not allowed here, is the indentation right?"),
    ("illegal placement of ':'", "a key is not allowed here, is a bracket or a quote above still open?"),
    ("simple key expect", "expected ':' after the key"),
    ("flow sequence, expected", "expected ',' or ']'"),
    ("did not find expected ',' or '}'", "expected ',' or '}'"),
    ("invalid indentation in quoted scalar", "a quoted text must be indented further than its key"),
    ("invalid indentation", "wrong indentation, is a bracket or a quote above still open?"),
    ("recursion limit exceeded", "brackets are nested too deeply"),
];

/// The parser's message in plainer words, where there are any.
pub(super) fn plainly(message: &str) -> &str {
    PLAINLY.iter().find(|(theirs, _)| message.contains(theirs)).map_or(message, |(_, plain)| plain)
}

/// The usual mistake on a line with a syntax error, with the byte of the line where it is.
pub(super) fn hint(line: &str, message: &str) -> Option<(usize, String)> {
    tab(line).or_else(|| star(line)).or_else(|| colon(line, message)).or_else(|| indicator(line, message))
}

fn tab(line: &str) -> Option<(usize, String)> {
    let indent = &line[..line.len() - line.trim_start_matches([' ', '\t']).len()];
    indent.find('\t').map(|at| (at, "a tab is used for indentation, use spaces".to_owned()))
}

/// `schedule: * * * * *`: an unquoted `*` names an alias.
fn star(line: &str) -> Option<(usize, String)> {
    let at = line.find('*')?;
    let lead = line[..at].trim();
    let value = without_comment(&line[at..]);
    // An alias has a name; a lone star, or one with a step, is the first field of a cron.
    if value != "*" && !value.starts_with("* ") && !value.starts_with("*/") {
        return None;
    }
    if lead.ends_with(['[', ',']) {
        let value = value.split([',', ']']).next().unwrap_or(value);
        return Some((at, format!("quote the cron: \"{}\"", shown(value))));
    }
    let space = if lead.is_empty() { "" } else { " " };
    let is_value = lead.is_empty() || lead.ends_with([':', '-']);
    is_value.then(|| (at, format!("quote the cron: {}{space}\"{}\"", shown(lead), shown(value))))
}

/// `title: Report: weekly`.
fn colon(line: &str, message: &str) -> Option<(usize, String)> {
    if !message.contains("mapping values are not allowed") {
        return None;
    }
    let (key, value) = line.split_once(": ")?;
    let at = line.len() - value.trim_start().len();
    let value = without_comment(value.trim_start());
    if !value.contains(": ") && !value.ends_with(':') {
        return None;
    }
    let (key, value) = (shown(key.trim_start()), shown(&value.replace('\\', "\\\\").replace('"', "\\\"")));
    Some((at, format!("a value with a colon must be quoted: {key}: \"{value}\"")))
}

/// `to: @ops`, `title: %s`.
fn indicator(line: &str, message: &str) -> Option<(usize, String)> {
    if !(message.contains("unexpected character") || message.contains("cannot start any token")) {
        return None;
    }
    let at = line.find(['@', '`', '%'])?;
    let sign = line[at..].chars().next()?;
    Some((at, format!("a value that starts with {sign} must be quoted")))
}

fn without_comment(value: &str) -> &str {
    value.split(" #").next().unwrap_or(value).trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(line: &str, message: &str) -> Option<String> {
        hint(line, message).map(|(_, hint)| hint)
    }

    #[test]
    fn an_unquoted_cron_is_shown_quoted() {
        for (line, quoted) in [
            ("schedule: * * * * *", "schedule: \"* * * * *\""),
            ("  schedule: */5 * * * *  # often", "schedule: \"*/5 * * * *\""),
            ("  - * 6 * * MON-FRI", "- \"* 6 * * MON-FRI\""),
            ("schedule: [* * * * *, \"0 6 * * *\"]", "\"* * * * *\""),
            ("schedule: *", "schedule: \"*\""),
            ("* * * * *", "\"* * * * *\""),
        ] {
            assert_eq!(says(line, "x").unwrap(), format!("quote the cron: {quoted}"), "{line}");
        }
    }

    #[test]
    fn other_stars_are_left_to_the_parser() {
        for line in ["a: *defaults", "a: b * c", "title: \"*\" x", "a: *x b"] {
            assert_eq!(says(line, "not YAML: x"), None, "{line}");
        }
    }

    #[test]
    fn tabs_colons_and_reserved_signs_are_named() {
        assert_eq!(hint("  \tb: 1", "x").unwrap(), (2, "a tab is used for indentation, use spaces".into()));
        assert_eq!(
            hint("  title: Report: \"weekly\" # x", "not YAML: mapping values are not allowed in this context")
                .unwrap(),
            (9, "a value with a colon must be quoted: title: \"Report: \\\"weekly\\\"\"".into())
        );
        assert_eq!(
            says("to: @ops", "not YAML: unexpected character: `@'").unwrap(),
            "a value that starts with @ must be quoted"
        );
    }
}
