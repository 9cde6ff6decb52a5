//! What a LiveChat request may say: parameters, filters, exactly one pair of times, and the query form of all that.
//!
//! Pure checks, which give the window, the zone that cuts its days, and the keys of the answer's records.

use std::collections::HashSet;

use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use chrono_tz::Tz;
use serde_json::{Value, json};

use super::call::{Fields, Object, Refusal};

/// Where the owner of the sandbox's token lives: what cuts the days of a request without `timezone`. Not UTC, so that
/// a forgotten zone shows.
const OWNERS_ZONE: Tz = Tz::America__Phoenix;

const MOST_KEYS: usize = 20_000;

/// Whose parameters and filters a report takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Chats,
    /// As `Chats`, and `page`.
    Pages,
    Agents,
    Usage,
    Visitors,
}

impl Family {
    fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Chats | Self::Agents => &["distribution", "timezone", "filters"],
            Self::Pages => &["distribution", "timezone", "filters", "page"],
            Self::Usage | Self::Visitors => &["timezone", "filters"],
        }
    }

    fn distributions(self) -> &'static [&'static str] {
        if self == Self::Agents { &["hour", "day"] } else { &["hour", "day", "day-hours", "month", "year"] }
    }

    fn filters(self) -> &'static [&'static str] {
        match self {
            Self::Chats | Self::Pages => &[
                "from",
                "to",
                "properties",
                "agents",
                "tags",
                "sales",
                "goals",
                "forms",
                "surveys",
                "event_types",
                "groups",
                "greetings",
                "agent_response",
                "customer_countries",
            ],
            Self::Agents => &["from", "to", "agents", "groups"],
            Self::Usage => &["from", "to", "groups"],
            Self::Visitors => &["from", "to"],
        }
    }
}

/// A request that passed.
pub(super) struct Asked {
    pub from: DateTime<Utc>,
    /// Included, as LiveChat's ranges are closed.
    pub to: DateTime<Utc>,
    pub zone: Tz,
    pub distribution: String,
    /// From 1.
    pub page: u64,
}

impl Asked {
    /// The keys of `records`; `None` when there are too many to answer in time.
    pub fn keys(&self) -> Option<Vec<String>> {
        let (hourly, form) = match self.distribution.as_str() {
            "hour" => (true, "%Y-%m-%d %H:00"),
            "day-hours" => (true, "%H:00"),
            "month" => (false, "%Y-%m"),
            "year" => (false, "%Y"),
            _ => (false, "%Y-%m-%d"),
        };
        let (mut keys, mut seen) = (Vec::new(), HashSet::new());
        let mut keep = |key: String| {
            if seen.insert(key.clone()) {
                keys.push(key);
            }
        };
        if hourly {
            let hours = usize::try_from((self.to - self.from).num_hours()).ok()?;
            (hours < MOST_KEYS).then_some(())?;
            let mut at = self.from;
            while at <= self.to {
                keep(at.with_timezone(&self.zone).format(form).to_string());
                at += TimeDelta::hours(1);
            }
            // A range that ends within an hour ends in that hour.
            keep(self.to.with_timezone(&self.zone).format(form).to_string());
        } else {
            let [first, last] = [self.from, self.to].map(|at| at.with_timezone(&self.zone).date_naive());
            let days = usize::try_from((last - first).num_days()).ok()?;
            (days < MOST_KEYS).then_some(())?;
            first.iter_days().take(days + 1).for_each(|day| keep(day.format(form).to_string()));
        }
        Some(keys)
    }
}

/// Checks a request's body by the tables of the vendor's page.
pub(super) fn check(body: &Object, family: Family, now: DateTime<Utc>) -> Result<Asked, Refusal> {
    let fields = Fields::new(body, "").only(family.parameters())?;
    let distribution = fields.maybe_word("distribution", family.distributions())?.unwrap_or("day").to_owned();
    let zone = match fields.maybe_text("timezone")? {
        None => OWNERS_ZONE,
        Some(name) => match name.parse() {
            Ok(zone) => zone,
            Err(_) => return fields.wrong("timezone", "must be an IANA time zone"),
        },
    };
    let page = match fields.get("page") {
        None => 1,
        Some(page) => match page.as_u64() {
            Some(page) if page > 0 => page,
            _ => return fields.wrong("page", "must be a number from 1"),
        },
    };
    let (from, to) = match fields.maybe_object("filters")? {
        None => (now.checked_sub_signed(TimeDelta::days(7)).unwrap_or(now), now),
        Some(filters) => check_filters(Fields::new(filters, "filters").only(family.filters())?, family)?,
    };
    Ok(Asked { from, to, zone, distribution, page })
}

type Pair = (DateTime<Utc>, DateTime<Utc>);

fn check_filters(filters: Fields<'_>, family: Family) -> Result<Pair, Refusal> {
    let chats = matches!(family, Family::Chats | Family::Pages);
    let mut pairs: Vec<Pair> = pair(filters)?.into_iter().collect();
    for (key, kind) in [
        ("agents", Kind::Text),
        ("tags", Kind::Text),
        ("customer_countries", Kind::Country),
        ("sales", Kind::Integer),
        ("goals", Kind::Integer),
        ("groups", Kind::Integer),
    ] {
        if let Some(choice) = filters.maybe_object(key)? {
            let at = format!("filters.{key}");
            // The page gives the groups of the other families as `groups.values` only.
            let only_values = !chats && key == "groups";
            check_choice(
                Fields::new(choice, &at),
                kind,
                chats,
                if only_values { &["values"] } else { &CHOICES },
                true,
            )?;
        }
    }
    if let Some(choice) = filters.maybe_object("event_types")? {
        check_choice(Fields::new(choice, "filters.event_types"), Kind::Text, false, &CHOICES[1..], true)?;
    }
    if let Some(spaces) = filters.maybe_object("properties")? {
        for space in spaces.keys() {
            for (name, choice) in Fields::new(spaces, "filters.properties").object(space)? {
                let at = format!("filters.properties.{space}.{name}");
                let Value::Object(choice) = choice else {
                    return Err(Refusal::invalid(format!("'{at}' must be an object")));
                };
                check_choice(Fields::new(choice, &at).only(&CHOICES)?, Kind::Any, true, &CHOICES, true)?;
            }
        }
    }
    if let Some(greetings) = filters.maybe_object("greetings")? {
        let fields = Fields::new(greetings, "filters.greetings");
        pairs.extend(pair(fields)?);
        check_choice(fields, Kind::Integer, true, &[&CHOICES[..], &["from", "to", "groups"]].concat(), false)?;
        check_groups(fields, "filters.greetings.groups")?;
    }
    // The docs and their corrections do not agree which of the two names is right.
    for key in ["forms", "surveys"] {
        for (place, form) in filters.maybe_list(key)?.unwrap_or_default().iter().enumerate() {
            let at = format!("filters.{key}[{place}]");
            let Value::Object(form) = form else {
                return Err(Refusal::invalid(format!("'{at}' must be an object")));
            };
            let fields = Fields::new(form, &at);
            fields.maybe_word("type", &["pre_chat", "post_chat"])?;
            pairs.extend(pair(fields)?);
            let own = ["from", "to", "groups", "type", "survey_id", "form_id"];
            check_choice(fields, Kind::Text, true, &[&CHOICES[..], &own].concat(), false)?;
            check_groups(fields, &format!("{at}.groups"))?;
        }
    }
    if let Some(response) = filters.maybe_object("agent_response")? {
        let fields = Fields::new(response, "filters.agent_response").only(&["exists", "first", "agents", "groups"])?;
        fields.maybe_flag("exists")?;
        let first = fields.maybe_flag("first")?.unwrap_or(false);
        for (key, kind) in [("agents", Kind::Text), ("groups", Kind::Integer)] {
            match fields.maybe_object(key)? {
                Some(_) if !first => return fields.wrong(key, "works only with 'first' true"),
                Some(choice) => {
                    let at = format!("filters.agent_response.{key}");
                    check_choice(Fields::new(choice, &at), kind, true, &CHOICES, true)?;
                }
                None => {}
            }
        }
    }
    match pairs.as_slice() {
        [(from, to)] if from <= to => Ok((*from, *to)),
        [_] => filters.wrong("from", "must not be after 'filters.to'"),
        _ => Err(Refusal::invalid(
            "filters must contain exactly one pair of filters.from/to, filters.greetings.from/to or filters.surveys.from/to",
        )),
    }
}

/// `from` and `to` of one object: both or none.
fn pair(fields: Fields<'_>) -> Result<Option<Pair>, Refusal> {
    let at = |key| match fields.maybe_text(key)? {
        None => Ok(None),
        Some(text) => match DateTime::<FixedOffset>::parse_from_rfc3339(text) {
            Ok(at) => Ok(Some(at.to_utc())),
            Err(_) => fields.wrong(key, "must be a date and time compatible with RFC3339"),
        },
    };
    match (at("from")?, at("to")?) {
        (Some(from), Some(to)) => Ok(Some((from, to))),
        (None, None) => Ok(None),
        (Some(_), None) => fields.wrong("to", "is required beside 'from'"),
        (None, Some(_)) => fields.wrong("from", "is required beside 'to'"),
    }
}

fn check_groups(fields: Fields<'_>, at: &str) -> Result<(), Refusal> {
    match fields.maybe_object("groups")? {
        Some(groups) => check_choice(Fields::new(groups, at), Kind::Integer, true, &CHOICES, true),
        None => Ok(()),
    }
}

const CHOICES: [&str; 4] = ["exists", "values", "exclude_values", "require_every_value"];

/// What the values of a filter are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Country,
    Any,
}

/// Exactly one (or, unless `needed`, at most one) of `exists`, `values` and `exclude_values`.
fn check_choice(fields: Fields<'_>, kind: Kind, exists: bool, allowed: &[&str], needed: bool) -> Result<(), Refusal> {
    fields.only(allowed)?;
    let given: Vec<_> = CHOICES[..3].iter().filter(|key| fields.get(key).is_some()).collect();
    if given.len() > 1 || (needed && given.is_empty()) {
        return fields.wrong(
            given.first().map_or("values", |key| key),
            "must be the only one of exists, values, exclude_values",
        );
    }
    if fields.maybe_flag("exists")?.is_some() && !exists {
        return fields.wrong("exists", "is available only for the Chats reports");
    }
    fields.maybe_flag("require_every_value")?;
    for key in ["values", "exclude_values"] {
        if fields.get(key).is_some() {
            let (what, passes): (_, fn(&Value) -> bool) = match kind {
                Kind::Text => ("strings", Value::is_string),
                Kind::Integer => ("integers", |value| value.is_i64() || value.is_u64()),
                Kind::Country => ("two-letter country codes", |value| {
                    value.as_str().is_some_and(|code| code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase()))
                }),
                Kind::Any => ("strings, integers or booleans", |value| {
                    value.is_string() || value.is_i64() || value.is_u64() || value.is_boolean()
                }),
            };
            fields.list_of(key, what, passes)?;
        }
    }
    Ok(())
}

/// Deeper names than the page has are refused before they become a deep tree.
const DEEPEST: usize = 8;

/// The body that a query string means: dotted names, brackets for properties, repeated keys for arrays.
pub(super) fn from_query(params: &[(String, String)]) -> Result<Object, Refusal> {
    let mut body = Object::new();
    for (name, text) in params {
        let wrong = || Refusal::invalid(format!("query parameter '{name}' is not valid"));
        let path: Vec<&str> = name.split(['.', '[', ']']).filter(|part| !part.is_empty()).collect();
        let (name_of_leaf, parents) = path.split_last().filter(|_| path.len() <= DEEPEST).ok_or_else(wrong)?;
        let mut place = &mut body;
        for part in parents {
            let next = place.entry(*part).or_insert_with(|| json!({}));
            place = next.as_object_mut().ok_or_else(wrong)?;
        }
        let value = leaf(parents, name_of_leaf, text);
        if matches!(*name_of_leaf, "values" | "exclude_values") {
            let list = place.entry(*name_of_leaf).or_insert_with(|| json!([]));
            list.as_array_mut().ok_or_else(wrong)?.push(value);
        } else if place.insert((*name_of_leaf).to_owned(), value).is_some() {
            return Err(wrong());
        }
    }
    Ok(body)
}

/// A query has only text: the name says what it stands for.
fn leaf(parents: &[&str], last: &str, text: &str) -> Value {
    let strings = ["agents", "tags", "event_types", "customer_countries"];
    let is_text = matches!(last, "from" | "to" | "timezone" | "distribution")
        || parents.last().is_some_and(|parent| strings.contains(parent));
    match text.parse::<Value>() {
        Ok(value @ Value::Bool(_)) if !is_text || matches!(last, "exists" | "require_every_value") => value,
        Ok(value @ Value::Number(_)) if !is_text => value,
        _ => json!(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: (&str, &str) = ("2026-03-01T00:00:00-07:00", "2026-03-02T23:59:59.999999-07:00");

    fn checked(body: &Value, family: Family) -> Result<Asked, String> {
        check(body.as_object().unwrap(), family, DateTime::UNIX_EPOCH).map_err(|refusal| refusal.message)
    }

    fn with_times(mut filters: Value) -> Value {
        filters["from"] = json!(TIMES.0);
        filters["to"] = json!(TIMES.1);
        json!({"filters": filters})
    }

    #[test]
    fn days_are_cut_in_the_zone_asked_for_and_else_in_the_owners() {
        let mut body = with_times(json!({}));
        assert_eq!(checked(&body, Family::Chats).unwrap().keys().unwrap(), ["2026-03-01", "2026-03-02"]);
        body["timezone"] = json!("Asia/Kolkata");
        assert_eq!(checked(&body, Family::Chats).unwrap().keys().unwrap(), ["2026-03-01", "2026-03-02", "2026-03-03"]);
    }

    #[test]
    fn every_distribution_has_its_own_keys_and_an_endless_one_times_out() {
        let keys = |distribution: &str, from: &str, to: &str| {
            let body =
                json!({"distribution": distribution, "timezone": "Europe/Berlin", "filters": {"from": from, "to": to}});
            checked(&body, Family::Chats).unwrap().keys().map(|keys| (keys.len(), keys.first().cloned().unwrap()))
        };
        let (from, to) = ("2026-03-28T23:00:00Z", "2026-03-29T21:59:59Z");
        assert_eq!(keys("hour", from, to), Some((23, "2026-03-29 00:00".into())), "the day on which clocks go forward");
        assert_eq!(keys("day-hours", from, to), Some((23, "00:00".into())));
        assert_eq!(keys("day", from, to), Some((1, "2026-03-29".into())));
        assert_eq!(keys("month", from, "2026-05-01T00:00:00Z"), Some((3, "2026-03".into())));
        assert_eq!(keys("year", from, to), Some((1, "2026".into())));
        assert_eq!(keys("hour", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z"), None);
        assert_eq!(keys("year", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z"), None);
    }

    #[test]
    fn exactly_one_pair_of_times_is_taken() {
        let pair = || json!({"from": TIMES.0, "to": TIMES.1});
        for body in [
            json!({}),
            with_times(json!({"greetings": {"groups": {"values": [1]}}})),
            json!({"filters": {"greetings": {"from": TIMES.0, "to": TIMES.1, "groups": {"values": [1]}}}}),
            json!({"filters": {"surveys": [{"type": "pre_chat", "from": TIMES.0, "to": TIMES.1, "values": ["a1"]}]}}),
            json!({"filters": {"forms": [{"from": TIMES.0, "to": TIMES.1}]}}),
        ] {
            assert!(checked(&body, Family::Chats).is_ok(), "{body}");
        }
        for body in [
            json!({"filters": {}}),
            json!({"filters": {"from": TIMES.0}}),
            json!({"filters": {"from": TIMES.1, "to": TIMES.0}}),
            json!({"filters": {"from": "2026-03-01T00:00:00", "to": TIMES.1}}),
            json!({"filters": {"from": "2026-03-01", "to": "2026-03-02"}}),
            with_times(json!({"greetings": pair()})),
            with_times(json!({"forms": [pair()]})),
            json!({"filters": {"forms": [pair(), pair()]}}),
        ] {
            assert!(checked(&body, Family::Chats).is_err(), "{body}");
        }
    }

    #[test]
    fn filters_are_held_to_their_types_and_families() {
        for filters in [
            json!({"agents": {"values": ["joe@acme.com"], "require_every_value": true}, "tags": {"exists": false}}),
            json!({"properties": {"routing": {"continuous": {"values": [true]}}}, "event_types": {"exclude_values": ["file"]}}),
            json!({"agent_response": {"first": true, "groups": {"values": [1]}}, "customer_countries": {"values": ["PL"]}}),
        ] {
            assert!(checked(&with_times(filters.clone()), Family::Chats).is_ok(), "{filters}");
        }
        for filters in [
            json!({"agents": {"values": ["a"], "exclude_values": ["b"]}}),
            json!({"agents": {}}),
            json!({"agents": {"values": [1]}}),
            json!({"agents": {"value": ["a"]}}),
            json!({"groups": {"values": ["1"]}}),
            json!({"event_types": {"exists": true}}),
            json!({"properties": {"routing": {"continuous": true}}}),
            json!({"properties": {"routing": 1}}),
            json!({"agent_response": {"agents": {"values": ["a"]}}}),
            json!({"customer_countries": {"values": ["pl"]}}),
            json!({"channel": "x"}),
        ] {
            assert!(checked(&with_times(filters.clone()), Family::Chats).is_err(), "{filters}");
        }
        let exists = with_times(json!({"agents": {"exists": true}}));
        assert!(checked(&exists, Family::Chats).is_ok() && checked(&exists, Family::Agents).is_err());
        assert!(checked(&with_times(json!({"tags": {"exists": true}})), Family::Agents).is_err());
        for (family, body) in [
            (Family::Chats, json!({"page": 2})),
            (Family::Chats, json!({"timezone": "Mars/Olympus"})),
            (Family::Chats, json!({"distribution": "week"})),
            (Family::Agents, json!({"distribution": "month"})),
            (Family::Pages, json!({"page": 0})),
            (Family::Usage, json!({"distribution": "day"})),
        ] {
            assert!(checked(&body, family).is_err(), "{body}");
        }
    }

    #[test]
    fn the_pages_query_string_means_the_pages_body() {
        let query = "distribution=day&filters.from=2021-03-01T23:59:59-00:00&filters.to=2021-04-13T23:59:59-00:00\
            &filters.properties[routing][continuous].values=true&filters.agents.values=joe@acme.com\
            &filters.agents.values=alice@acme.com&filters.tags.exclude_values=7&filters.groups.values=42";
        let params: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let body = Value::Object(from_query(&params).unwrap());
        assert_eq!(
            body,
            json!({"distribution": "day", "filters": {
                "from": "2021-03-01T23:59:59-00:00",
                "to": "2021-04-13T23:59:59-00:00",
                "properties": {"routing": {"continuous": {"values": [true]}}},
                "agents": {"values": ["joe@acme.com", "alice@acme.com"]},
                "tags": {"exclude_values": ["7"]},
                "groups": {"values": [42]},
            }})
        );
        assert!(checked(&body, Family::Chats).is_ok());
        let refused = |name: &str| from_query(&[(name.to_owned(), "x".to_owned())]).is_err();
        assert!(refused("") && refused("...") && refused(&"a.".repeat(100_000)));
    }
}
