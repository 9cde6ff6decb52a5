//! Reading runs for people: lists, one run with its history, breakers.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, Postgres, QueryBuilder};
use uuid::Uuid;

use super::{RunStore, StoreError, doing};
use crate::run::{Run, State};

/// One line of a run's history.
#[derive(Clone, Debug, FromRow)]
pub struct EventRow {
    /// When.
    pub at: DateTime<Utc>,
    /// What kind.
    pub kind: String,
    /// By whom.
    pub who: String,
    /// What happened.
    pub detail: String,
}

/// One create at a vendor.
#[derive(Clone, Debug, FromRow)]
pub struct TaskRow {
    /// `reportHistoryId` or `taskId`.
    pub remote_id: Option<String>,
    /// What became of the call.
    pub outcome: String,
    /// The vendor's own state word.
    pub status_word: Option<String>,
    /// Rows written.
    pub rows_written: Option<i64>,
    /// Rows to write.
    pub rows_total: Option<i64>,
    /// When we committed the intent.
    pub intended_at: DateTime<Utc>,
    /// When the vendor answered.
    pub created_at: Option<DateTime<Utc>>,
    /// When it was polled last.
    pub last_polled_at: Option<DateTime<Utc>>,
    /// How often it was polled.
    pub polls: i32,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// When we deleted it at the vendor.
    pub deleted_at: Option<DateTime<Utc>>,
    /// The operator who named the id; `None` = it is the vendor's own answer.
    pub named_by: Option<String>,
}

/// One account's breaker.
#[derive(Clone, Debug, FromRow)]
pub struct BreakerRow {
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: String,
    /// Whether it is open.
    pub breaker_open: bool,
    /// What the vendor said.
    pub breaker_reason: Option<String>,
    /// Since when.
    pub breaker_opened_at: Option<DateTime<Utc>>,
    /// When one run may try again.
    pub breaker_probe_at: Option<DateTime<Utc>>,
    /// Runs under way at the vendor.
    pub in_flight: i64,
    /// Runs that wait for a permit.
    pub queued: i64,
}

/// Which runs to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this job.
    pub job: Option<String>,
    /// Of this connection.
    pub connection: Option<String>,
    /// In this state.
    pub state: Option<State>,
    /// Made at or after.
    pub since: Option<DateTime<Utc>>,
    /// At most so many.
    pub limit: i64,
}

/// The conditions on a run itself, and the newest of those that meet them.
fn newest(sql: &mut QueryBuilder<Postgres>, filter: &Filter) {
    if let Some(state) = filter.state {
        // The word itself: the index on states is for some of them only.
        sql.push(" AND state = '").push(state.as_str()).push("'");
    }
    if let Some(since) = filter.since {
        sql.push(" AND created_at >= ").push_bind(since);
    }
    sql.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(filter.limit);
}

impl RunStore {
    /// Runs, newest first. Only the conditions that are asked for stand in the statement, so that each form has an index that
    /// serves it: a statement with `$1 IS NULL OR …` walks the whole history to find a job that ran long ago.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Run>, StoreError> {
        let mut sql = QueryBuilder::<Postgres>::new("SELECT r.* FROM ");
        if filter.job.is_none() && filter.connection.is_none() {
            sql.push("runs r WHERE true");
            newest(&mut sql, filter);
        } else {
            sql.push("series s CROSS JOIN LATERAL (SELECT * FROM runs WHERE series_id = s.id");
            newest(&mut sql, filter);
            sql.push(") r WHERE true");
            for (condition, name) in [(" AND s.job = ", &filter.job), (" AND s.connection = ", &filter.connection)] {
                if let Some(name) = name {
                    sql.push(condition).push_bind(name);
                }
            }
            sql.push(" ORDER BY r.created_at DESC, r.id DESC LIMIT ").push_bind(filter.limit);
        }
        sql.build_query_as().fetch_all(&self.pool).await.map_err(doing("list runs"))
    }

    /// One run.
    pub async fn run(&self, id: Uuid) -> Result<Option<Run>, StoreError> {
        sqlx::query_as("SELECT * FROM runs WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.pool)
            .await
            .map_err(doing("look up a run"))
    }

    /// The run whose id starts with `prefix`, dashes or not; more than one is refused.
    pub async fn by_prefix(&self, prefix: &str) -> Result<Run, StoreError> {
        let Some((first, last)) = ids_from(prefix) else {
            return Err(StoreError::Refused(format!("'{prefix}' is not the start of a run's id")));
        };
        let found: Vec<Run> = sqlx::query_as("SELECT * FROM runs WHERE id BETWEEN $1 AND $2 ORDER BY id LIMIT 2")
            .bind(first)
            .bind(last)
            .fetch_all(&self.pool)
            .await
            .map_err(doing("look up a run"))?;
        match <[Run; 1]>::try_from(found) {
            Ok([run]) => Ok(run),
            Err(found) if found.is_empty() => {
                Err(StoreError::Refused(format!("no run's id starts with '{prefix}': see `reportd runs`")))
            }
            Err(_) => Err(StoreError::Refused(format!("several runs start with '{prefix}': write more of it"))),
        }
    }

    /// A run's history, oldest first.
    pub async fn events(&self, run: Uuid) -> Result<Vec<EventRow>, StoreError> {
        sqlx::query_as("SELECT at, kind, who, detail FROM run_events WHERE run_id = $1 ORDER BY id")
            .bind(run)
            .fetch_all(&self.pool)
            .await
            .map_err(doing("read the history of a run"))
    }

    /// A run's creates, oldest first.
    pub async fn tasks(&self, run: Uuid) -> Result<Vec<TaskRow>, StoreError> {
        sqlx::query_as(
            "SELECT remote_id, outcome, status_word, rows_written, rows_total, intended_at, created_at, last_polled_at, polls,
                    finished_at, deleted_at, named_by
             FROM remote_tasks WHERE run_id = $1 ORDER BY intended_at, attempt_id",
        )
        .bind(run)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("read the tasks of a run"))
    }

    /// The task of a run's last create.
    pub async fn last_task(&self, run: &Run) -> Result<Option<TaskRow>, StoreError> {
        sqlx::query_as(
            "SELECT remote_id, outcome, status_word, rows_written, rows_total, intended_at, created_at, last_polled_at, polls,
                    finished_at, deleted_at, named_by
             FROM remote_tasks WHERE attempt_id = $1",
        )
        .bind(run.attempt_id)
        .fetch_optional(&self.pool)
        .await
        .map_err(doing("read the task of a run"))
    }

    /// Every account that was ever called.
    pub async fn breakers(&self) -> Result<Vec<BreakerRow>, StoreError> {
        sqlx::query_as(
            "SELECT connection, vendor, breaker_open, breaker_reason, breaker_opened_at, breaker_probe_at,
                    (SELECT count(*) FROM runs WHERE runs.connection = c.connection AND runs.vendor = c.vendor
                         AND state IN ('submitting', 'waiting')) AS in_flight,
                    (SELECT count(*) FROM runs WHERE runs.connection = c.connection AND runs.vendor = c.vendor
                         AND state = 'queued') AS queued
             FROM connections c ORDER BY connection, vendor",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(doing("list the breakers"))
    }
}

/// The first and the last id that begin with these hex digits, dashes aside: a range that a primary key serves.
pub(super) fn ids_from(prefix: &str) -> Option<(Uuid, Uuid)> {
    let digits: String = prefix.chars().filter(|c| *c != '-').collect::<String>().to_ascii_lowercase();
    if digits.is_empty() || digits.len() > 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let bound = |fill: char| {
        let text: String = digits.chars().chain(std::iter::repeat(fill)).take(32).collect();
        Uuid::try_parse(&text).ok()
    };
    bound('0').zip(bound('f'))
}
