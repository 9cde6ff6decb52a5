//! Trouble that is no run's: breakers that opened, windows that are late. Each joins the alerts of those who want to hear of it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono_tz::Tz;

use super::herald::{json, key};
use crate::delivery::Cause;
use crate::delivery::about::{AboutFailure, AboutWindow, Member};
use crate::delivery::notice::Notice;
use crate::request::waiver::Waiver;
use crate::request::window::Window;
use crate::run::store::alert::{Joining, LateMember};
use crate::run::store::attention::{LateRow, OpenBreakerRow};
use crate::run::store::{RunStore, StoreError};
use crate::yaml::show_duration;

/// One series, as far as others than its runs tell of it.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: &'static str,
    /// Zone of its windows.
    pub zone: Tz,
    /// Whom its trouble is told.
    pub alert: Vec<Notice>,
    /// A window not held so long after its fire is late.
    pub late_after: Option<Duration>,
    /// Its gaps that will stay.
    pub waivers: Vec<Waiver>,
}

fn by_name(listeners: &[Listener]) -> HashMap<(&str, &str), &Listener> {
    listeners.iter().map(|listener| ((listener.job.as_str(), listener.connection.as_str()), listener)).collect()
}

/// Breakers that opened by themselves, told to all whose runs now wait.
pub(super) async fn breakers(store: &RunStore, listeners: &[Listener]) -> Result<(), StoreError> {
    let open = store.breakers_that_are_open().await?;
    let mut found = Vec::new();
    for breaker in open.iter().filter(|breaker| !breaker.by_hand) {
        let affected = listeners.iter().filter(|l| l.connection == breaker.connection && l.vendor == breaker.vendor);
        for notice in affected.flat_map(|listener| &listener.alert) {
            let joining = breaker_joining(breaker, notice);
            if !found.iter().any(|other: &Joining| other.key == joining.key && other.subject == joining.subject) {
                found.push(joining);
            }
        }
    }
    join_new(store, found).await.map(|_| ())
}

fn breaker_joining(breaker: &OpenBreakerRow, notice: &Notice) -> Joining {
    let member = Member {
        job: None,
        connection: breaker.connection.clone(),
        vendor: breaker.vendor.clone(),
        run_id: None,
        window: None,
        failure: Some(AboutFailure { class: "breaker".into(), message: breaker.reason.clone() }),
        at: breaker.since,
    };
    Joining {
        key: key(Cause::Breaker, notice, &breaker.vendor, &breaker.connection),
        cause: Cause::Breaker.as_str(),
        notice: json(notice),
        subject: format!("{} {} {}", breaker.connection, breaker.vendor, breaker.since.timestamp_micros()),
        series: None,
        window: None,
        at: breaker.since,
        about: json(&member),
    }
}

/// Late windows that were waived since they were told are nobody's trouble any more.
pub(super) async fn end_waived(store: &RunStore, listeners: &[Listener]) -> Result<(), StoreError> {
    if listeners.iter().all(|listener| listener.waivers.is_empty()) {
        return Ok(());
    }
    let by_name = by_name(listeners);
    let waived = |member: &LateMember| {
        let name = (member.job.as_deref().unwrap_or_default(), member.connection.as_str());
        by_name.get(&name).is_some_and(|listener| {
            let window = Window::new(member.window_start, member.window_end, listener.zone);
            window.is_some_and(|window| listener.waivers.iter().any(|waiver| waiver.covers(&window)))
        })
    };
    let ended: Vec<LateMember> = store.late_members().await?.into_iter().filter(waived).collect();
    if ended.is_empty() { Ok(()) } else { store.end_members(&ended).await }
}

/// Windows that became late; returns whether there were any.
pub(super) async fn late(store: &RunStore, listeners: &[Listener], back: Duration) -> Result<bool, StoreError> {
    let asked: Vec<(&str, &str, f64)> = listeners
        .iter()
        .filter_map(|l| Some((l.job.as_str(), l.connection.as_str(), l.late_after?.as_secs_f64())))
        .collect();
    if asked.is_empty() {
        return Ok(false);
    }
    let mut found = Vec::new();
    let late = store.late_windows(&asked, back, true).await?;
    let by_name = by_name(if late.is_empty() { &[] } else { listeners });
    for fire in late {
        let Some(listener) = by_name.get(&(fire.job.as_str(), fire.connection.as_str())) else { continue };
        let Some(window) = Window::new(fire.window_start, fire.window_end, listener.zone) else { continue };
        if !listener.waivers.iter().any(|waiver| waiver.covers(&window)) {
            found.extend(listener.alert.iter().map(|notice| late_joining(&fire, &window, listener, notice)));
        }
    }
    join_new(store, found).await
}

fn late_joining(fire: &LateRow, window: &Window, listener: &Listener, notice: &Notice) -> Joining {
    let after = show_duration(listener.late_after.unwrap_or_default());
    let state = match (&fire.run_id, &fire.run_state) {
        (Some(run), Some(state)) => format!("run {} is {state}", crate::run::short(*run)),
        _ => "no run is at it".to_owned(),
    };
    let fire_at = crate::request::window::rfc3339_in(fire.fire_at, listener.zone);
    let member = Member {
        job: Some(fire.job.clone()),
        connection: fire.connection.clone(),
        vendor: listener.vendor.to_owned(),
        run_id: fire.run_id,
        window: Some(AboutWindow {
            start: fire.window_start,
            end: fire.window_end,
            zone: listener.zone,
            label: window.label(),
        }),
        failure: Some(AboutFailure {
            class: "late".into(),
            message: format!("not here {after} after the fire of {fire_at}; {state}"),
        }),
        at: fire.fire_at,
    };
    Joining {
        key: key(Cause::Late, notice, listener.vendor, &fire.connection),
        cause: Cause::Late.as_str(),
        notice: json(notice),
        subject: format!("{} {} {}", fire.series_id, fire.window_start.timestamp(), fire.window_end.timestamp()),
        series: Some(fire.series_id),
        window: Some((fire.window_start, fire.window_end)),
        at: fire.fire_at,
        about: json(&member),
    }
}

/// Those that have not joined yet do; returns whether there were any.
async fn join_new(store: &RunStore, found: Vec<Joining>) -> Result<bool, StoreError> {
    if found.is_empty() {
        return Ok(false);
    }
    let pairs: Vec<(String, String)> = found.iter().map(|j| (j.key.clone(), j.subject.clone())).collect();
    let joined: HashSet<(String, String)> = store.joined(&pairs).await?.into_iter().collect();
    let new = found.into_iter().zip(pairs).filter(|(_, pair)| !joined.contains(pair));
    let new: Vec<Joining> = new.map(|(joining, _)| joining).collect();
    store.join_alerts(&new).await?;
    Ok(!new.is_empty())
}
