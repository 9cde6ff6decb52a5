//! What is wrong with deliveries: those that failed, those in doubt, those that are tried in vain. Pure.

use std::collections::BTreeMap;

use super::{Cause, Facts, Item, counted};
use crate::delivery::State;
use crate::delivery::notice::Notice;
use crate::run::store::delivery::DeliveryRow;

pub(super) fn items(facts: &Facts) -> Vec<Item> {
    // One server that refuses a hundred mails is one trouble.
    let mut groups: BTreeMap<(&str, String, &str), Vec<&DeliveryRow>> = BTreeMap::new();
    for row in &facts.deliveries {
        let target = serde_json::from_value::<Notice>(row.notice.0.clone()).map(|notice| notice.target());
        groups.entry((&row.kind, target.unwrap_or_default(), &row.state)).or_default().push(row);
    }
    let item = |((kind, target, state), rows): (&(&str, String, &str), &Vec<&DeliveryRow>)| {
        let oldest = rows.first()?;
        let id = &oldest.id.simple().to_string()[..8];
        let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let words = oldest.words.as_deref().unwrap_or("no words");
        let which =
            if count == 1 { format!("{kind} to {target}") } else { format!("{} to {target}", counted(count, kind)) };
        let all =
            if count == 1 { String::new() } else { format!(" (all of them: reportd deliveries --state {state})") };
        let (message, action) = match state.parse::<State>() {
            Ok(State::Held) => (
                format!("{which}: nobody knows whether it was made: {words}"),
                format!(
                    "look at BIK; reportd delivery resolve {id}, or reportd delivery retry {id} if it is not there{all}"
                ),
            ),
            Ok(State::Pending) => (
                format!("{which} is tried in vain: {words}"),
                format!("mend what it says; reportd delivery retry {id} sends it at once{all}"),
            ),
            _ => (
                format!("{which} did not go out: {words}"),
                format!("reportd delivery retry {id}, or reportd delivery resolve {id} if nobody needs it{all}"),
            ),
        };
        let zone = facts.zones.get(&oldest.connection).copied().unwrap_or(chrono_tz::UTC);
        Some(Item {
            job: oldest.job.clone().filter(|_| count == 1),
            connection: Some(oldest.connection.clone()).filter(|_| count == 1),
            count,
            since: Some(oldest.made_at),
            zone,
            ..Item::new(Cause::Delivery, message, action)
        })
    };
    groups.iter().filter_map(item).collect()
}
