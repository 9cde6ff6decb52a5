//! The shape of every LiveChat report: names, fields and nesting as the vendor's samples have them.
//!
//! Uneven on purpose, as real answers are: some days are `{}`, a counter that is zero is left out, an average without
//! chats is missing, `records` is a map, an array or absent. A `total` is the sum of what the records say.

use axum::http::StatusCode;
use chrono::{SecondsFormat, TimeDelta};
use serde_json::{Value, json};

use super::call::{Object, Refusal};
use super::data::Dice;
use super::livechat_filter::Asked;

/// Pages of `queued_visitors_left`, and the visitors on each.
const PAGES: u64 = 3;
const VISITORS: u64 = 25;

const AGENTS: [&str; 3] = ["ann@shop.example", "bo@shop.example", "zoë@shop.example"];
const TAGS: [&str; 4] = ["refund", "shipping/returns", "naïve question", "VIP: Ann Smith"];

/// What the figures depend on.
pub(super) struct Wanted<'a> {
    pub asked: &'a Asked,
    /// The keys of `records` in reports by time.
    pub keys: &'a [String],
    pub seed: &'a str,
    pub no_rows: bool,
}

impl Wanted<'_> {
    fn dice(&self, what: &str) -> Dice {
        Dice::new(&["livechat", self.seed, what])
    }

    /// A report by time: `fill` gives a day and adds to the total.
    fn by_time(&self, name: &str, fill: impl Fn(&mut Day)) -> Object {
        let mut records = Object::new();
        let mut total = 0;
        for key in self.keys.iter().filter(|_| !self.no_rows) {
            let mut day = Day { dice: self.dice(key), fields: Object::new(), total: 0 };
            if day.dice.below(7) > 0 {
                fill(&mut day);
            }
            total += day.total;
            records.insert(key.clone(), Value::Object(day.fields));
        }
        object(json!({"name": name, "total": total, "records": records}))
    }

    /// A report by agent or tag, of the whole range.
    fn by_name(&self, names: &[&str], fill: impl Fn(&mut Dice) -> Value) -> Object {
        let names = names.iter().filter(|_| !self.no_rows);
        names.map(|name| ((*name).to_owned(), fill(&mut self.dice(name)))).collect()
    }
}

/// One entry of a report by time.
struct Day {
    dice: Dice,
    fields: Object,
    total: u64,
}

impl Day {
    /// Rolls a counter; zero is left out.
    fn count(&mut self, name: &str, bound: u16) -> u16 {
        let count = self.dice.below(bound);
        if count > 0 {
            self.fields.insert(name.to_owned(), json!(count));
        }
        count
    }

    /// A counter that adds to the total.
    fn summed(&mut self, name: &str, bound: u16) -> u16 {
        let count = self.count(name, bound);
        self.total += u64::from(count);
        count
    }

    /// A mean, in quarters of a second, of as many chats; none has none.
    fn mean(&mut self, name: &str, chats: u16) {
        let mean = f64::from(self.dice.below(4_000)) / 4.0;
        if chats > 0 {
            self.fields.insert(name.to_owned(), json!(mean));
        }
    }
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

pub(super) fn report(action: &str, wanted: &Wanted<'_>) -> Result<Object, Refusal> {
    let report = match action {
        "total_chats" => wanted.by_time("total-chats-report", |day| {
            let total = day.summed("total", 60);
            day.count("continuous", total / 2 + 1);
        }),
        "duration" => wanted.by_time("duration-report", |day| {
            let count = day.summed("count", 40);
            for name in ["agents_chatting_duration", "duration"] {
                let seconds = 60 + day.dice.below(900);
                if count > 0 {
                    day.fields.insert(name.to_owned(), json!(seconds));
                }
            }
        }),
        "tags" => wanted.by_time("tags-report", |day| {
            for tag in TAGS {
                day.summed(tag, 6);
            }
        }),
        "ratings" => wanted.by_time("ratings-report", |day| {
            let chats = day.summed("chats", 60);
            let good = day.count("good", chats + 1);
            day.count("bad", chats - good + 1);
        }),
        "engagement" => wanted.by_time("engagement-report", |day| {
            for name in
                ["started_by_customer_from_greeting", "started_by_customer_without_greeting", "started_by_agent"]
            {
                day.summed(name, 12);
            }
        }),
        "greetings_conversion" => wanted.by_time("greetings-conversion-report", greetings),
        "response_time" => wanted.by_time("response-time-report", |day| {
            let count = day.summed("count", 40);
            day.mean("response_time", count);
        }),
        "first_response_time" => wanted.by_time("first-response-time-report", |day| {
            let count = day.summed("count", 40);
            day.mean("first_response_time", count);
        }),
        "groups" => wanted.by_time("groups-report", |day| {
            for group in ["0", "14", "42"] {
                day.summed(group, 9);
            }
        }),
        "queued_visitors" => wanted.by_time("queued-visitors-report", |day| {
            for name in ["left_queue", "queued"] {
                let (count, min, more) = (day.dice.below(9), day.dice.below(30), day.dice.below(300));
                if count > 0 {
                    day.total += u64::from(count);
                    let times = json!({"count": count, "min": min, "max": min + more, "avg": min + more / 2});
                    day.fields.insert(name.to_owned(), times);
                }
            }
        }),
        "queued_visitors_left" => return left_queue(wanted),
        "ranking" => {
            let records = wanted.by_name(&AGENTS, |dice| {
                let (good, bad, unrated) = (dice.below(20), dice.below(5), dice.below(30));
                let score = f64::from(good) / f64::from((good + bad).max(1));
                json!({"total": good + bad + unrated, "good": good, "bad": bad, "score": score})
            });
            object(json!({"name": "ranking-report", "records": records}))
        }
        "forms" => forms(wanted),
        "availability" => availability(wanted),
        "performance" => performance(wanted),
        "chat_usage" => {
            let records = wanted.by_name(&TAGS, |dice| json!(1 + dice.below(40)));
            object(json!({"name": "tags-chat-usage-report", "records": records}))
        }
        _ => {
            let mut dice = wanted.dice("visitors");
            let visitors = if wanted.no_rows { 0 } else { 20 + dice.below(400) };
            let views = visitors * (2 + dice.below(5));
            object(json!({"name": "visitors-report", "summary": {"unique_visitors": visitors, "page_views": views}}))
        }
    };
    Ok(report)
}

fn greetings(day: &mut Day) {
    for greeting in ["7", "19"] {
        let displayed = day.dice.below(30);
        if displayed > 0 {
            let accepted = day.dice.below(displayed);
            let (canceled, goals) = (day.dice.below(displayed - accepted), day.dice.below(accepted + 1));
            day.total += u64::from(accepted);
            let figures = json!({"displayed": displayed, "accepted": accepted, "canceled": canceled, "goals": goals});
            day.fields.insert(greeting.to_owned(), figures);
        }
    }
}

fn forms(wanted: &Wanted<'_>) -> Object {
    let form = |(group, id): (u8, &str)| {
        let mut dice = wanted.dice(id);
        let (price, other) = (dice.below(20), dice.below(20));
        let answers = json!([{"answer_id": 0, "label": "Price", "count": price}, {"answer_id": 1, "label": "Другое", "count": other}]);
        let field = json!({"field_id": format!("{id}-1"), "label": "Why do you leave?", "answers": answers});
        json!({"form_id": id, "count": price + other, "group_id": group, "fields": [field]})
    };
    let records: Vec<_> = [(0, "f1"), (14, "f2")].into_iter().filter(|_| !wanted.no_rows).map(form).collect();
    object(json!({"name": "form-report", "records": records}))
}

/// Hours of a day, or minutes of an hour.
fn availability(wanted: &Wanted<'_>) -> Object {
    let (unit, bound) = if wanted.asked.distribution == "hour" { ("minutes", 240) } else { ("hours", 96) };
    let (mut records, mut total) = (Object::new(), 0.0);
    for key in wanted.keys.iter().filter(|_| !wanted.no_rows) {
        let mut dice = wanted.dice(key);
        let quarters = if dice.below(7) > 0 { dice.below(bound) } else { 0 };
        let amount = f64::from(quarters) / 4.0;
        total += amount;
        let day = if quarters == 0 { json!({}) } else { json!({unit: amount}) };
        records.insert(key.clone(), day);
    }
    object(json!({"name": "availability-report", "total": total, "records": records}))
}

fn performance(wanted: &Wanted<'_>) -> Object {
    let sums = ["chats_count", "chats_rated_good", "chats_rated_bad", "first_response_chats_count"];
    let records = wanted.by_name(&AGENTS, |dice| {
        let logged_in = 3_600 + dice.below(20_000);
        let chatting = dice.below(logged_in / 2);
        // Only these two were always there in real answers.
        let mut agent = object(json!({"logged_in_time": logged_in, "not_accepting_chats_time": logged_in / 9}));
        let chats = dice.below(30);
        if chats > 0 {
            let good = dice.below(chats);
            let figures = [chats, good, dice.below(chats - good), dice.below(chats) + 1];
            agent.extend(
                sums.iter().zip(figures).filter(|(_, n)| *n > 0).map(|(name, n)| ((*name).to_owned(), json!(n))),
            );
            agent.insert("first_response_time".to_owned(), json!(f64::from(dice.below(400)) / 4.0));
            agent.insert("chatting_time".to_owned(), json!(chatting));
            agent.insert("accepting_chats_time".to_owned(), json!(logged_in - logged_in / 9));
        }
        Value::Object(agent)
    });
    let field = |name: &str| records.values().map(|agent| agent[name].as_u64().unwrap_or(0)).sum::<u64>();
    let mut summary: Object = sums.iter().map(|name| ((*name).to_owned(), json!(field(name)))).collect();
    let times: Vec<_> = records.values().filter_map(|agent| agent["first_response_time"].as_f64()).collect();
    let mean = times.iter().sum::<f64>() / f64::from(u8::try_from(times.len()).unwrap_or(u8::MAX).max(1));
    summary.insert("first_response_time".to_owned(), json!(mean));
    object(json!({"name": "performance-report", "records": records, "summary": summary}))
}

fn left_queue(wanted: &Wanted<'_>) -> Result<Object, Refusal> {
    let pages = if wanted.no_rows { 0 } else { PAGES };
    let page = wanted.asked.page;
    if page > pages.max(1) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("'page' must not be above {}", pages.max(1))));
    }
    let mut records = Object::new();
    let length = (wanted.asked.to - wanted.asked.from).num_milliseconds();
    for place in 0..if pages == 0 { 0 } else { VISITORS } {
        let number = (page - 1) * VISITORS + place;
        let mut dice = wanted.dice(&format!("visitor {number}"));
        let into = TimeDelta::milliseconds(length / 10_000 * i64::from(dice.below(10_000)));
        let start = wanted.asked.from.checked_add_signed(into).unwrap_or(wanted.asked.from);
        let mut visitor = json!({"id": format!("v{number}"), "ip": format!("192.0.2.{}", dice.below(254) + 1)});
        if dice.below(2) == 0 {
            visitor["name"] = json!(dice.person());
            visitor["email"] = json!(format!("visitor{number}@shop.example"));
        }
        let queue = json!({
            "duration": 1 + dice.below(600),
            "group": dice.pick(&[0, 14, 42]),
            "start_date": start.to_rfc3339_opts(SecondsFormat::Secs, true),
        });
        let chat = format!("CH{:08X}{number:03}", dice.roll() >> 32);
        records.insert(chat, json!({"visitor": visitor, "queue": queue}));
    }
    let summary = json!({"left_without_details": u8::from(pages > 0), "total_pages": pages});
    Ok(object(json!({
        "name": "queued-visitors-left-report", "total": pages * VISITORS, "summary": summary, "records": records,
    })))
}
