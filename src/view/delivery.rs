//! The JSON of a delivery: `deliveries`, `delivery retry|resolve` and `show`.

use chrono_tz::Tz;
use serde::Serialize;

use crate::delivery::about::About;
use crate::delivery::notice::Notice;
use crate::request::window::rfc3339_in;
use crate::run::store::delivery::DeliveryRow;

/// A delivery.
#[derive(Clone, Debug, Serialize)]
pub struct DeliveryView {
    /// Its id, which its mail's Message-ID and its webhook's id hold.
    pub delivery_id: String,
    /// How it goes out.
    pub kind: String,
    /// What it is about.
    pub cause: String,
    /// Where it goes, without secrets.
    pub target: String,
    /// Job of the first run or window it is about; null for an account.
    pub job: Option<String>,
    /// Connection of that.
    pub connection: String,
    /// The runs it is about, at most a hundred.
    pub run_ids: Vec<String>,
    /// How many runs, windows or accounts it is about.
    pub count: u64,
    /// Where it stands.
    pub state: String,
    /// When it was made.
    pub made_at: String,
    /// When it is tried next; null once it is over or held.
    pub next_try_at: Option<String>,
    /// Tries made.
    pub tries: i32,
    /// What the other side said last, or what went wrong.
    pub words: Option<String>,
    /// When it was over.
    pub settled_at: Option<String>,
    /// Who ended it.
    pub settled_by: Option<String>,
    /// The operator who had it sent again last.
    pub retried_by: Option<String>,
}

impl DeliveryView {
    /// The view of a delivery, its times in the zone of the first window it is about.
    pub fn of(row: &DeliveryRow) -> DeliveryView {
        let about = serde_json::from_value::<About>(row.about.0.clone()).ok();
        let notice = serde_json::from_value::<Notice>(row.notice.0.clone()).ok();
        let first = about.as_ref().and_then(|about| about.members.first()?.window.clone());
        let zone = first.map_or(Tz::UTC, |window| window.zone);
        let text = |t: chrono::DateTime<chrono::Utc>| rfc3339_in(t, zone);
        let runs = about.iter().flat_map(|about| &about.members).filter_map(|member| member.run_id);
        DeliveryView {
            delivery_id: row.id.to_string(),
            kind: row.kind.clone(),
            cause: row.cause.clone(),
            target: notice.map(|notice| notice.target()).unwrap_or_default(),
            job: row.job.clone(),
            connection: row.connection.clone(),
            run_ids: runs.map(|id| id.to_string()).collect(),
            count: about.as_ref().map_or(0, About::count),
            state: row.state.clone(),
            made_at: text(row.made_at),
            next_try_at: row.next_try_at.filter(|_| row.lease_token.is_none()).map(text),
            tries: row.tries,
            words: row.words.clone(),
            settled_at: row.settled_at.map(text),
            settled_by: row.settled_by.clone(),
            retried_by: row.retried_by.clone(),
        }
    }
}
