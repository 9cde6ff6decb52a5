//! Where the numbers of each LiveChat report are, and how they are shown. Pure.

use Unit::{Count, Hours, Score, Seconds};

/// How a number is shown, and what it is when it is missing.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Count,
    Seconds,
    Hours,
    Minutes,
    Score,
}

impl Unit {
    pub(super) fn missing(self) -> Option<f64> {
        match self {
            Unit::Count | Unit::Hours | Unit::Minutes => Some(0.0),
            // A mean of nothing.
            Unit::Seconds | Unit::Score => None,
        }
    }

    pub(super) fn show(self, number: f64) -> String {
        match self {
            Unit::Count => plain(number, 2),
            Unit::Seconds => seconds(number),
            Unit::Hours => format!("{} h", plain(number, 2)),
            Unit::Minutes => format!("{} min", plain(number, 1)),
            Unit::Score => plain(number, 2),
        }
    }
}

/// A number without needless decimals.
fn plain(number: f64, decimals: usize) -> String {
    let text = format!("{number:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// `8.3 s`, `5m 10s`, `1h 03m`.
fn seconds(number: f64) -> String {
    if number < 59.95 {
        return format!("{} s", plain(number, 1));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers are 0 to MOST here")]
    let whole = number.round() as u64;
    match whole {
        0..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ => format!("{}h {:02}m", whole / 3600, whole % 3600 / 60),
    }
}

/// A column: heading, path in a record, unit. The first of a report is drawn.
pub(super) struct Column(pub &'static str, pub &'static [&'static str], pub Unit);

/// Where the numbers of a report are.
pub(super) enum Layout {
    /// Each record has these fields.
    Fields(&'static [Column]),
    /// Each record has a counter per thing, whose names only the answer knows: this is their heading, and what each is called.
    Each(&'static str, &'static str),
    /// Each record has objects with these counters, which are summed.
    Nested(&'static [Column]),
    /// Each record is the counter.
    Flat(&'static str),
    /// Records are a list of forms.
    Forms,
}

pub(super) const TIME: &str = "Time";
const AGENT: &str = "Agent";

/// A report that can be drawn: `name` of its answer, title, what its rows are, layout.
pub(super) type Drawn = (&'static str, &'static str, &'static str, Layout);

/// The reports of `REPORTS` in request/livechat.rs that have something to draw (REFERENCE 4.4). Not here:
/// `queued-visitors-left-report`, which lists people, and `visitors-report`, which is two numbers.
pub(super) const DRAWN: [Drawn; 16] = [
    (
        "total-chats-report",
        "Chats",
        TIME,
        Layout::Fields(&[Column("Chats", &["total"], Count), Column("Continuous", &["continuous"], Count)]),
    ),
    (
        "duration-report",
        "Duration of chats (mean)",
        TIME,
        Layout::Fields(&[
            Column("Duration", &["duration"], Seconds),
            Column("Agents chatting", &["agents_chatting_duration"], Seconds),
            Column("Chats", &["count"], Count),
        ]),
    ),
    // The name of the same report before version 3.4.
    (
        "agents-chatting-duration-report",
        "Duration of chats (mean)",
        TIME,
        Layout::Fields(&[Column("Duration", &["seconds"], Seconds), Column("Chats", &["count"], Count)]),
    ),
    ("tags-report", "Tags of chats", TIME, Layout::Each("All tags", "")),
    ("groups-report", "Chats of groups", TIME, Layout::Each("All groups", "Group ")),
    (
        "ratings-report",
        "Chats and ratings",
        TIME,
        Layout::Fields(&[
            Column("Chats", &["chats"], Count),
            Column("Good", &["good"], Count),
            Column("Bad", &["bad"], Count),
        ]),
    ),
    (
        "ranking-report",
        "Ratings of agents",
        AGENT,
        Layout::Fields(&[
            Column("Chats", &["total"], Count),
            Column("Good", &["good"], Count),
            Column("Bad", &["bad"], Count),
            Column("Score", &["score"], Score),
        ]),
    ),
    (
        "engagement-report",
        "Who started the chats",
        TIME,
        Layout::Fields(&[
            // A day's `total` is described by the page and missing in its sample: it is the sum of the others.
            Column("Chats", &["+"], Count),
            Column("From greeting", &["started_by_customer_from_greeting"], Count),
            Column("No greeting", &["started_by_customer_without_greeting"], Count),
            Column("By agent", &["started_by_agent"], Count),
        ]),
    ),
    (
        "greetings-conversion-report",
        "Greetings",
        TIME,
        Layout::Nested(&[
            Column("Accepted", &["accepted"], Count),
            Column("Displayed", &["displayed"], Count),
            Column("Canceled", &["canceled"], Count),
            Column("Goals", &["goals"], Count),
        ]),
    ),
    ("form-report", "Filled forms", "Form", Layout::Forms),
    (
        "response-time-report",
        "Response time (mean)",
        TIME,
        Layout::Fields(&[Column("Reply time", &["response_time"], Seconds), Column("Chats", &["count"], Count)]),
    ),
    (
        "first-response-time-report",
        "First response time (mean)",
        TIME,
        Layout::Fields(&[Column("First reply", &["first_response_time"], Seconds), Column("Chats", &["count"], Count)]),
    ),
    (
        "queued-visitors-report",
        "Visitors in the queue",
        TIME,
        Layout::Fields(&[
            Column("Queued", &["queued", "count"], Count),
            Column("Mean wait", &["queued", "avg"], Seconds),
            Column("Left", &["left_queue", "count"], Count),
            Column("Left after", &["left_queue", "avg"], Seconds),
        ]),
    ),
    // By hour the unit is minutes: see `fields`.
    ("availability-report", "Available for chats", TIME, Layout::Fields(&[Column("Available", &["hours"], Hours)])),
    (
        "performance-report",
        "Work of agents",
        AGENT,
        Layout::Fields(&[
            Column("Chats", &["chats_count"], Count),
            Column("Good", &["chats_rated_good"], Count),
            Column("Bad", &["chats_rated_bad"], Count),
            Column("First reply", &["first_response_time"], Seconds),
        ]),
    ),
    ("tags-chat-usage-report", "Chats of tags", "Tag", Layout::Flat("Chats")),
];
