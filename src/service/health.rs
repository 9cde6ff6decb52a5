//! How a process stands: written by its loops, read by `/healthz` and `/readyz`.
//!
//! Ages are taken on the monotonic clock: a wall clock that is set makes nobody well or ill. What is said here goes to
//! whoever can reach the port, so a reason is cleaned of whatever may be an address, a path, a name or a secret; the
//! log has it whole.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;

/// A planner whose last good pass is older than this is not on time.
const PASS_WITHIN: Duration = Duration::from_secs(30);
/// A loop that turned last before this hangs: it turns with every beat, also when the database does not answer.
const TURN_WITHIN: Duration = Duration::from_secs(60);
const LONGEST_REASON: usize = 200;
const HIDDEN: &str = "…";

/// What readiness rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The database answers.
    Database,
    /// The schema is the one that this program needs.
    Migrations,
    /// The planner's passes end well.
    Planner,
}

/// How this process stands; clones share it.
#[derive(Clone)]
pub struct Health(Arc<Mutex<Standing>>);

/// A part's trouble; `None` is well.
type Trouble = Option<String>;

struct Standing {
    turned: Instant,
    passed: Option<(Instant, DateTime<Utc>)>,
    database: Trouble,
    migrations: Trouble,
    planner: Trouble,
    draining: bool,
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Readiness {
    /// All three parts are well and the process is not draining.
    pub ready: bool,
    /// `ok`, or why not.
    pub database: String,
    /// `ok`, or why not.
    pub migrations: String,
    /// `ok`, or why not.
    pub planner: String,
    /// When the last pass that ended well was, by the clock that it was told with.
    #[serde(with = "rfc3339")]
    pub last_pass_at: Option<DateTime<Utc>>,
    /// The process was told to end.
    pub draining: bool,
}

impl Default for Health {
    fn default() -> Self {
        Health::new()
    }
}

impl Health {
    /// Alive and not ready: nothing has been looked at yet.
    pub fn new() -> Health {
        let unknown = || Some("not looked at yet".to_owned());
        Health(Arc::new(Mutex::new(Standing {
            turned: Instant::now(),
            passed: None,
            database: unknown(),
            migrations: unknown(),
            planner: None,
            draining: false,
        })))
    }

    /// The planner's loop turned, whatever came of it.
    pub fn turned(&self) {
        self.lock().turned = Instant::now();
    }

    /// A planner pass ended well at `at`. The planner's and the database's trouble is over; the schema is another matter.
    pub fn passed(&self, at: DateTime<Utc>) {
        let mut standing = self.lock();
        let now = Instant::now();
        standing.turned = now;
        standing.passed = Some((now, at));
        standing.database = None;
        standing.planner = None;
    }

    /// What is wrong with `part`, or `None` when it is well. Reasons are shown cleaned; log them where they arise.
    pub fn trouble(&self, part: Part, why: Option<String>) {
        let why = why.map(|why| cleaned(&why));
        let mut standing = self.lock();
        match part {
            Part::Database => standing.database = why,
            Part::Migrations => standing.migrations = why,
            Part::Planner => standing.planner = why,
        }
    }

    /// The process was told to end: not ready from now on.
    pub fn draining(&self) {
        self.lock().draining = true;
    }

    /// Whether everything that a fire needs is there.
    pub fn ready(&self) -> bool {
        self.readiness().ready
    }

    /// Whether the loops turn. Draining has its own time limit, and loops that ended well turn no more.
    pub fn alive(&self) -> bool {
        self.lock().alive_at(Instant::now())
    }

    /// All that `/readyz` says.
    pub fn readiness(&self) -> Readiness {
        self.lock().readiness_at(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    fn alive_at(&self, now: Instant) -> bool {
        self.draining || now.saturating_duration_since(self.turned) <= TURN_WITHIN
    }

    fn readiness_at(&self, now: Instant) -> Readiness {
        let planner = self.planner.clone().or_else(|| self.lateness_at(now));
        let ready = self.database.is_none() && self.migrations.is_none() && planner.is_none() && !self.draining;
        let shown = |trouble: Trouble| trouble.unwrap_or_else(|| "ok".to_owned());
        Readiness {
            ready,
            database: shown(self.database.clone()),
            migrations: shown(self.migrations.clone()),
            planner: shown(planner),
            last_pass_at: self.passed.map(|(_, at)| at),
            draining: self.draining,
        }
    }

    fn lateness_at(&self, now: Instant) -> Trouble {
        let Some((passed, _)) = self.passed else { return Some("no pass has ended well yet".to_owned()) };
        let age = now.saturating_duration_since(passed);
        (age > PASS_WITHIN).then(|| format!("the last pass that ended well was {} s ago", age.as_secs()))
    }
}

/// One short line without quoted names and without words that look like an address, a path, a URL or a setting.
fn cleaned(why: &str) -> String {
    let mut line = String::new();
    // What stands between double quotes is a name of the other side: a user, a database, a host.
    for (i, part) in why.split('"').enumerate() {
        if i % 2 == 1 {
            line.push_str(HIDDEN);
        } else {
            line.push_str(part);
        }
    }
    let words: Vec<&str> =
        line.split_whitespace().map(|word| if tells_too_much(word) { HIDDEN } else { word }).collect();
    let line = words.join(" ");
    if line.is_empty() { "unknown".to_owned() } else { line.chars().take(LONGEST_REASON).collect() }
}

fn tells_too_much(word: &str) -> bool {
    let bare = word.trim_matches(|c: char| ",;.!?()'`".contains(c)).trim_end_matches(':');
    bare.contains(['/', '\\', '@', '=', ':']) || (bare.contains('.') && bare.parse::<f64>().is_err())
}

mod rfc3339 {
    use chrono::{DateTime, Utc};
    use serde::Serializer;

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => serializer.serialize_str(&crate::request::window::rfc3339_in(*at, chrono_tz::UTC)),
            None => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Health {
        let health = Health::new();
        health.trouble(Part::Migrations, None);
        health.passed("2026-11-20T06:30:00Z".parse().unwrap());
        health
    }

    fn after(health: &Health, seconds: u64) -> (bool, Readiness) {
        let later = Instant::now() + Duration::from_secs(seconds);
        let standing = health.lock();
        (standing.alive_at(later), standing.readiness_at(later))
    }

    #[test]
    fn nothing_looked_at_is_alive_for_a_minute_and_not_ready() {
        let health = Health::new();
        assert!(health.alive() && !health.ready());
        let (alive, readiness) = after(&health, 61);
        assert!(!alive && !readiness.ready);
        assert_eq!(
            [&readiness.database, &readiness.migrations, &readiness.planner],
            ["not looked at yet", "not looked at yet", "no pass has ended well yet"]
        );
    }

    #[test]
    fn a_good_pass_makes_ready_for_thirty_seconds() {
        let health = well();
        assert!(health.ready());
        assert!(after(&health, 29).1.ready);
        let (alive, readiness) = after(&health, 31);
        assert!(alive && !readiness.ready);
        assert_eq!(readiness.planner, "the last pass that ended well was 31 s ago");
        assert_eq!(readiness.database, "ok");
    }

    #[test]
    fn a_loop_that_turns_without_a_database_is_alive_and_not_ready() {
        let health = well();
        {
            let mut standing = health.lock();
            let long_ago = Instant::now().checked_sub(Duration::from_secs(90)).unwrap();
            standing.turned = long_ago;
            standing.passed = standing.passed.map(|(_, at)| (long_ago, at));
        }
        assert!(!health.alive());
        health.turned();
        assert!(health.alive() && !health.ready());
    }

    #[test]
    fn each_part_alone_makes_not_ready_and_only_a_good_pass_or_its_own_word_ends_that() {
        for part in [Part::Database, Part::Migrations, Part::Planner] {
            let health = well();
            health.trouble(part, Some("it is gone".to_owned()));
            let readiness = health.readiness();
            let said = [&readiness.database, &readiness.migrations, &readiness.planner];
            assert!(!readiness.ready && said.iter().filter(|why| **why == "it is gone").count() == 1, "{readiness:?}");
            health.passed("2026-11-20T06:31:00Z".parse().unwrap());
            assert_eq!(health.ready(), part != Part::Migrations, "{part:?}");
            health.trouble(part, None);
            assert!(health.ready(), "{part:?}");
        }
    }

    #[test]
    fn a_process_that_drains_is_not_ready_and_is_not_restarted_for_it() {
        let health = well();
        health.clone().draining();
        let (alive, readiness) = after(&health, 300);
        assert!(alive && !health.ready() && readiness.draining);
    }

    #[test]
    fn a_reason_shows_no_address_path_name_or_secret() {
        for (why, shown) in [
            ("connect to postgres://me:pw@db.shop.example/x: refused", "connect to … refused"),
            ("socket /var/run/.s.PGSQL.5432 is missing", "socket … is missing"),
            ("failed to look up db.shop.example: no such name", "failed to look up … no such name"),
            ("connect to 10.0.0.7:5432, ::1 and [::1]:5432", "connect to … … and …"),
            ("password authentication failed for user \"asha\"", "password authentication failed for user …"),
            ("host=db password=pw", "… …"),
            ("C:\\data\\pg is full", "… is full"),
            ("the schema is version 7, this program needs 9: run `reportd migrate`.", ""),
            ("no answer within 2.5 s (3 tries).", ""),
        ] {
            assert_eq!(cleaned(why), if shown.is_empty() { why } else { shown });
        }
        assert_eq!(cleaned("two\nlines\there"), "two lines here");
        assert_eq!(cleaned(" \n"), "unknown");
        assert_eq!(cleaned(&"é".repeat(500)).chars().count(), LONGEST_REASON);
    }
}
