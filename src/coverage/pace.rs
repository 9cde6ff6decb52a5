//! What is left to fetch x the accounts' limits -> how long it takes. Pure.
//!
//! An account is the bottleneck, not the machine: calls are let through at its rate, and so many reports are under way at
//! once. Accounts go on beside each other. Where no earlier run tells how long a report takes, an assumption stands in, and is
//! told as one.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::connection::Limits;
use crate::request::{Shape, Vendor};
use crate::run::store::calendar::PaceRow;

/// How long one report takes, and how many calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Seconds.
    pub seconds: f64,
    /// Calls under the account's rate.
    pub calls: f64,
    /// Runs it was measured on; none = assumed.
    pub measured_on: i64,
}

impl Pace {
    /// What earlier runs took.
    pub fn measured(row: &PaceRow) -> Pace {
        Pace { seconds: row.seconds, calls: row.calls.max(1.0), measured_on: row.runs }
    }

    /// What is assumed of a report that was never fetched: a minute of polling where the vendor makes a task, some pages of a
    /// query, else one answer.
    pub fn assumed(shape: &Shape) -> Pace {
        let (seconds, calls) = match shape {
            Shape::BikReport | Shape::JaicpReport { .. } => (60.0, 8.0),
            Shape::JaicpQuery { .. } => (10.0, 5.0),
            Shape::LivechatReport { .. } => (2.0, 1.0),
        };
        Pace { seconds, calls, measured_on: 0 }
    }
}

/// The runs of one series.
#[derive(Clone, Debug)]
pub struct Work<'a> {
    /// Its connection.
    pub connection: &'a str,
    /// Its vendor.
    pub vendor: Vendor,
    /// The account's limits.
    pub limits: &'a Limits,
    /// Runs.
    pub runs: usize,
    /// How long each takes.
    pub pace: Pace,
}

/// How long it all takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// Until the last account is done.
    pub after: Duration,
    /// The account that takes longest.
    pub slowest: (String, Vendor),
    /// Some of it rests on assumptions.
    pub assumed: bool,
}

/// How long the work takes; `None` when there is none.
pub fn finish(work: &[Work<'_>]) -> Option<Finish> {
    let mut accounts: BTreeMap<(&str, Vendor), f64> = BTreeMap::new();
    for one in work.iter().filter(|one| one.runs > 0) {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let runs = one.runs as f64;
        let by_rate = one.pace.calls / one.limits.requests_per_second.max(0.001);
        let by_slots = one.pace.seconds / f64::from(one.limits.max_in_flight.max(1));
        // Even with slots to spare one report takes its time.
        let seconds = (runs * by_rate.max(by_slots)).max(one.pace.seconds);
        *accounts.entry((one.connection, one.vendor)).or_default() += seconds;
    }
    let ((connection, vendor), seconds) = accounts.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(Finish {
        after: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
        slowest: (connection.to_owned(), vendor),
        assumed: work.iter().any(|one| one.runs > 0 && one.pace.measured_on == 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(requests_per_second: f64, max_in_flight: u32) -> Limits {
        Limits {
            requests_per_second,
            max_in_flight,
            timeout: Duration::from_secs(30),
            download_idle: Duration::from_secs(60),
            gone_grace: Duration::from_secs(30),
            allowed_hosts: Vec::new(),
            max_pages: 10,
        }
    }

    fn pace(seconds: f64, calls: f64) -> Pace {
        Pace { seconds, calls, measured_on: 20 }
    }

    #[test]
    fn rate_or_slots_decide_whichever_is_slower_and_accounts_go_on_side_by_side() {
        let (slow, fast) = (limits(1.0, 2), limits(2.0, 4));
        let bik = Work { connection: "north", vendor: Vendor::Bik, limits: &slow, runs: 10, pace: pace(60.0, 8.0) };
        // 60 s with two at once is 30 s a report; 8 calls at one a second would be 8 s.
        assert_eq!(finish(std::slice::from_ref(&bik)).map(|f| f.after.as_secs()), Some(300));
        let quick = Work { pace: pace(1.0, 8.0), ..bik.clone() };
        assert_eq!(finish(&[quick]).map(|f| f.after.as_secs()), Some(80));
        let chat =
            Work { connection: "north", vendor: Vendor::Livechat, limits: &fast, runs: 100, pace: pace(1.0, 1.0) };
        let both = finish(&[bik.clone(), chat.clone()]).expect("work");
        assert_eq!((both.after.as_secs(), both.slowest), (300, ("north".to_owned(), Vendor::Bik)));
        let second = Work { runs: 1, ..bik.clone() };
        assert_eq!(finish(&[bik, second, chat]).map(|f| f.after.as_secs()), Some(360), "series share their account");
        assert_eq!(finish(&[]), None);
    }

    #[test]
    fn what_was_never_fetched_is_assumed_and_told() {
        let limits = limits(1.0, 2);
        let pace = Pace::assumed(&Shape::BikReport);
        let work = Work { connection: "north", vendor: Vendor::Bik, limits: &limits, runs: 1, pace };
        let finish = finish(&[work]).expect("work");
        assert!(finish.assumed && finish.after.as_secs() == 60);
    }
}
