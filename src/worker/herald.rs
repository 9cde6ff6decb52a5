//! Makes deliveries: of runs that ended or wait for a person, of what watch.rs finds, and of all of these when they work again.
//! Sends nothing.
//!
//! What a run tells was frozen with it. Trouble is gathered: an alert is what one target is told of one cause at one vendor.
//! It is told once nothing has joined it for a few seconds, so fifty windows of one outage make one notice; what joins later is
//! told with the next one: an hour after the last when it is of a series that is in no other trouble, else a day. A series
//! that works again is told so together with the others, or after five minutes without them. An alert of which nothing is
//! left is closed; trouble that nobody mends for a hundred days is dropped from it.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::watch::{self, Listener};
use crate::delivery::about::{About, AboutFailure, AboutWindow, MOST, Member};
use crate::delivery::notice::{Notice, Notices};
use crate::delivery::{Cause, Kind};
use crate::run::store::alert::{AlertFacts, Joining, OpenAlert};
use crate::run::store::delivery::NewDelivery;
use crate::run::store::untold::{News, Told, Untold};
use crate::run::store::{RunStore, StoreError};
use crate::run::{FailureClass, Run, State};

/// Runs that one transaction tells of.
const PAGE: i64 = 100;

/// An alert is told when nothing has joined it for so long, or at the latest so long after it was opened.
const QUIET: TimeDelta = TimeDelta::seconds(5);
const GATHERED: TimeDelta = TimeDelta::seconds(60);

/// When an alert that was told is told again: another series joined it, or only more windows of the same.
const ANOTHER_SERIES: TimeDelta = TimeDelta::hours(1);
const MORE_WINDOWS: TimeDelta = TimeDelta::hours(24);

/// How long the recovery of one series waits for that of others which are still in trouble.
const OTHERS: TimeDelta = TimeDelta::minutes(5);

/// Between two looks for late windows, and how far each looks back: far at the start and now and then, since an instant may be
/// decided long after it was due.
const LATE: Duration = Duration::from_secs(10);
const LATE_FAR: Duration = Duration::from_secs(600);
const BACK: Duration = Duration::from_secs(3600);
const FAR_BACK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Makes deliveries; one for each process that serves.
#[derive(Debug, Default)]
pub struct Herald {
    late: Option<Instant>,
    late_far: Option<Instant>,
}

impl Herald {
    /// One look at everything there is to tell. `news` says what that may be.
    pub async fn pass(&mut self, store: &RunStore, listeners: &[Listener], news: News) -> Result<(), StoreError> {
        if news.untold {
            tell_of_runs(store, None).await?;
        }
        if news.breakers {
            watch::breakers(store, listeners).await?;
        }
        let late = self.late(store, listeners).await?;
        if news.alerts || news.untold || news.breakers || late {
            alerts(store, &[]).await?;
        }
        Ok(())
    }

    /// Looks for late windows now and then; returns whether there were any.
    async fn late(&mut self, store: &RunStore, listeners: &[Listener]) -> Result<bool, StoreError> {
        let over = |at: Option<Instant>, every: Duration| at.is_none_or(|at| at.elapsed() >= every);
        if !over(self.late, LATE) {
            return Ok(false);
        }
        let far = over(self.late_far, LATE_FAR);
        // Noted before it is done: a look that takes too long must not be the only thing that is ever tried.
        self.late = Some(Instant::now());
        if far {
            self.late_far = self.late;
        }
        watch::end_waived(store, listeners).await?;
        watch::late(store, listeners, if far { FAR_BACK } else { BACK }).await
    }
}

/// Tells of these runs, and of alerts that they joined without waiting for more: whoever made them waits for it. Returns the
/// deliveries that alerts made, which may be about other runs.
pub async fn tell_now(store: &RunStore, runs: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
    tell_of_runs(store, Some(runs)).await?;
    alerts(store, runs).await
}

async fn tell_of_runs(store: &RunStore, only: Option<&[Uuid]>) -> Result<(), StoreError> {
    loop {
        match store.tell_of_runs(only, PAGE, telling).await {
            Ok(told) if told < usize::try_from(PAGE).unwrap_or(0) => return Ok(()),
            Ok(_) => {}
            // One run whose notices the database refuses must not keep all others silent.
            Err(error) if error.is_refusal() => one_by_one(store, only).await?,
            Err(error) => return Err(error),
        }
    }
}

async fn one_by_one(store: &RunStore, only: Option<&[Uuid]>) -> Result<(), StoreError> {
    for run in store.untold_runs(only, PAGE).await? {
        match store.tell_of_runs(Some(&[run]), 1, telling).await {
            Ok(_) => {}
            Err(error) if error.is_refusal() => {
                let why = format!("nobody is told of it: {}", crate::telemetry::Chain(&error));
                tracing::error!(run.id = %run, "{why}");
                store.give_up_telling(run, &why).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What a run that ended, or is held, tells whom.
fn telling(untold: &Untold) -> Told {
    let run = &untold.run;
    let notices: Notices = match serde_json::from_value(untold.notices.0.clone()) {
        Ok(notices) => notices,
        Err(error) => {
            tracing::error!(run.id = %run.id, "the run's notices cannot be read, and nobody is told of it: {error}");
            return Told::default();
        }
    };
    let cause = match run.state {
        State::Archived => Cause::Archived,
        State::Empty => Cause::Empty,
        State::Held => Cause::Held,
        _ => Cause::Failed,
    };
    let member = member(run, untold.now);
    let one = |notice: &Notice| delivery(notice, &About { cause, after: None, members: vec![member.clone()], more: 0 });
    let mut told = Told::default();
    if cause.is_success() {
        told.deliveries.extend(notices.deliver.iter().map(one));
    } else if run.failure_class.as_deref() != Some(FailureClass::GivenUp.as_str()) {
        // What a person has given up needs nobody.
        told.joining.extend(notices.alert.iter().map(|notice| joining(cause, notice, run, &member, untold.now)));
    }
    if let Some(url) = notices.heartbeat.filter(|_| cause != Cause::Held) {
        told.deliveries.push(one(&Notice::Heartbeat(url)));
    }
    told
}

fn member(run: &Run, now: DateTime<Utc>) -> Member {
    let failure =
        run.failure_class.clone().map(|class| AboutFailure { class, message: run.failure.clone().unwrap_or_default() });
    Member {
        job: Some(run.job.clone()),
        connection: run.connection.clone(),
        vendor: run.vendor.clone(),
        run_id: Some(run.id),
        window: Some(AboutWindow {
            start: run.window_start,
            end: run.window_end,
            zone: run.window_zone.parse().unwrap_or(Tz::UTC),
            label: run.window_label.clone(),
        }),
        failure,
        at: run.finished_at.unwrap_or(now),
    }
}

fn joining(cause: Cause, notice: &Notice, run: &Run, member: &Member, now: DateTime<Utc>) -> Joining {
    // A run that an operator restarts may fail or be held again, and that is news. It is noted once for each time.
    let time = run.finished_at.unwrap_or(now).timestamp_micros();
    Joining {
        key: key(cause, notice, &run.vendor, &run.connection),
        cause: cause.as_str(),
        notice: json(notice),
        subject: format!("{} {} {time}", run.id, cause.as_str()),
        series: Some(run.series_id),
        window: Some((run.window_start, run.window_end)),
        at: member.at,
        about: json(member),
    }
}

/// What belongs together: one target, one cause, one vendor. A BIK create goes through one connection's account.
pub(super) fn key(cause: Cause, notice: &Notice, vendor: &str, connection: &str) -> String {
    let account = matches!(notice.kind(), Kind::BikTicket | Kind::BikEvent).then_some(connection);
    let parts = json!([cause.as_str(), vendor, account, notice]);
    hex::encode(Sha256::digest(parts.to_string().as_bytes()))
}

pub(super) fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn delivery(notice: &Notice, about: &About) -> NewDelivery {
    let first = about.members.first();
    NewDelivery {
        id: Uuid::new_v4(),
        kind: notice.kind().as_str(),
        cause: about.cause.as_str(),
        job: first.and_then(|member| member.job.clone()),
        connection: first.map(|member| member.connection.clone()).unwrap_or_default(),
        runs: about.members.iter().filter_map(|member| member.run_id).collect(),
        target: notice.host(first.map_or("", |member| &member.connection)),
        follows: None,
        notice: json(notice),
        about: json(about),
    }
}

/// Looks at the open alerts: who is out of trouble, what is to be told, what is over.
async fn alerts(store: &RunStore, hurry: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
    store.settle_members().await?;
    let most = i64::try_from(MOST).unwrap_or(i64::MAX);
    let mut made = Vec::new();
    for mut alert in store.open_alerts(hurry).await? {
        let mut step = next(&alert);
        if step == Next::Tell {
            made.extend(store.tell_alert(alert.id, most, |facts| alert_delivery(facts, false)).await?);
            if alert.unsettled > 0 {
                continue;
            }
            // It was over before it was told: its end is told at once.
            alert.untold = 0;
            step = Next::Recover;
        }
        if step == Next::Recover {
            made.extend(store.recover_alert(alert.id, most, |facts| alert_delivery(facts, true)).await?);
            step = if alert.unsettled == 0 { Next::Close } else { Next::Wait };
        }
        if step == Next::Close {
            store.close_alert(alert.id).await?;
        }
    }
    Ok(made)
}

/// What is to be done with an open alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Wait,
    Tell,
    Recover,
    Close,
}

fn next(alert: &OpenAlert) -> Next {
    let for_long = |since: Option<DateTime<Utc>>, long: TimeDelta| since.is_none_or(|at| alert.now - at >= long);
    if alert.untold > 0 {
        let gathered = alert.hurried || for_long(alert.joined_at, QUIET) || for_long(alert.untold_since, GATHERED);
        let spaced = for_long(alert.told_at, if alert.new_series { ANOTHER_SERIES } else { MORE_WINDOWS });
        // What is over already is told, too, before its recovery is: and gathered first, since more of it may be on its way.
        if gathered && (spaced || alert.unsettled == 0) {
            return Next::Tell;
        }
    }
    let all_over = alert.unsettled == 0 && alert.untold == 0;
    if alert.back > 0 && (all_over || for_long(alert.back_since, OTHERS)) {
        return Next::Recover;
    }
    if all_over { Next::Close } else { Next::Wait }
}

/// The delivery that tells of an alert's members, or that they are out of trouble.
fn alert_delivery(facts: &AlertFacts, over: bool) -> Option<NewDelivery> {
    let notice: Notice = serde_json::from_value(facts.notice.clone()).ok()?;
    let cause = Cause::try_from(facts.cause.clone()).ok()?;
    let mut members: Vec<Member> =
        facts.members.iter().filter_map(|about| serde_json::from_value(about.0.clone()).ok()).collect();
    if over {
        // What was wrong is over: a receiver must not take it for what is.
        for member in &mut members {
            member.failure = None;
        }
    }
    if members.is_empty() || (over && !notice.kind().repeatable()) {
        // A ticket is ended by whoever works on it, and an event that says "failed" is not taken back by another.
        return None;
    }
    let more = u64::try_from(facts.count).unwrap_or(0).saturating_sub(facts.members.len() as u64);
    let (cause, after) = if over { (Cause::Recovered, Some(cause)) } else { (cause, None) };
    Some(delivery(&notice, &About { cause, after, members, more }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::notice::Email;

    fn email(to: &str) -> Notice {
        Notice::Email(Email { to: vec![to.into()], subject: None, attach: false })
    }

    /// An alert with one untold member of a series in no other trouble, which joined so long ago; told last so long ago.
    fn alert(joined_s: i64, told_s: Option<i64>) -> OpenAlert {
        let now: DateTime<Utc> = "2026-03-01T12:00:00Z".parse().unwrap();
        let ago = |seconds| now - TimeDelta::seconds(seconds);
        OpenAlert {
            id: Uuid::nil(),
            told_at: told_s.map(ago),
            now,
            untold: 1,
            untold_since: Some(ago(joined_s)),
            joined_at: Some(ago(joined_s)),
            new_series: true,
            hurried: false,
            unsettled: 2,
            back: 0,
            back_since: None,
        }
    }

    #[test]
    fn an_alert_is_told_when_it_has_been_quiet() {
        assert_eq!(next(&alert(4, None)), Next::Wait);
        assert_eq!(next(&alert(5, None)), Next::Tell);
        let busy = |since_s| OpenAlert { joined_at: Some(alert(1, None).now), ..alert(since_s, None) };
        assert_eq!(next(&busy(59)), Next::Wait);
        assert_eq!(next(&busy(60)), Next::Tell);
        assert_eq!(next(&OpenAlert { hurried: true, ..alert(0, None) }), Next::Tell);
    }

    #[test]
    fn a_series_in_new_trouble_is_told_an_hour_after_the_last_notice_and_more_windows_a_day_after() {
        assert_eq!(next(&alert(60, Some(3599))), Next::Wait);
        assert_eq!(next(&OpenAlert { hurried: true, ..alert(60, Some(3599)) }), Next::Wait);
        assert_eq!(next(&alert(60, Some(3600))), Next::Tell);
        // However long the alert is open, what joins it is gathered first.
        assert_eq!(next(&alert(1, Some(1_000_000))), Next::Wait);
        let more = |told_s| OpenAlert { new_series: false, ..alert(60, Some(told_s)) };
        assert_eq!(next(&more(86_399)), Next::Wait);
        assert_eq!(next(&more(86_400)), Next::Tell);
    }

    #[test]
    fn a_recovery_waits_for_others_five_minutes_and_for_nobody_when_all_is_over() {
        let back = |since_s, unsettled| {
            let since = Some(alert(since_s, None).joined_at.unwrap());
            OpenAlert { untold: 0, back: 1, back_since: since, unsettled, ..alert(0, Some(10)) }
        };
        assert_eq!(next(&back(299, 1)), Next::Wait);
        assert_eq!(next(&back(300, 1)), Next::Recover);
        assert_eq!(next(&back(0, 0)), Next::Recover);
        // What is over before it was told is gathered and told first.
        assert_eq!(next(&OpenAlert { untold: 1, ..back(0, 0) }), Next::Wait);
        let quiet = alert(5, None);
        assert_eq!(next(&OpenAlert { back: 1, unsettled: 0, ..quiet }), Next::Tell);
        assert_eq!(next(&OpenAlert { back: 0, ..back(0, 0) }), Next::Close);
        assert_eq!(next(&OpenAlert { back: 0, ..back(0, 1) }), Next::Wait);
    }

    #[test]
    fn one_target_one_cause_and_one_vendor_belong_together() {
        let of = |cause, to, vendor, connection| key(cause, &email(to), vendor, connection);
        let one = of(Cause::Failed, "a@x.example", "bik", "north");
        assert_eq!(one, of(Cause::Failed, "a@x.example", "bik", "south"));
        assert_ne!(one, of(Cause::Held, "a@x.example", "bik", "north"));
        assert_ne!(one, of(Cause::Failed, "b@x.example", "bik", "north"));
        assert_ne!(one, of(Cause::Failed, "a@x.example", "jaicp", "north"));
    }
}
