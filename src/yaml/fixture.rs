//! A type like a job's, with everything that decoding meets: nesting, lists, words, ranges, free parts, a hand-written visitor.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor, value::MapAccessDeserializer};

use super::{Decoded, Decoder, Free, Named};

#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Job {
    pub(super) description: Option<String>,
    pub(super) connections: Option<Vec<String>>,
    pub(super) zone: Option<String>,
    pub(super) schedule: Option<String>,
    pub(super) window: Option<Window>,
    pub(super) overlap: Option<Overlap>,
    pub(super) level: Option<Level>,
    pub(super) refetch: Option<bool>,
    pub(super) retries: Option<u8>,
    #[schemars(range(min = 1, max = 10))]
    pub(super) pages: Option<i32>,
    pub(super) rate: Option<f64>,
    pub(super) bik: Option<Bik>,
    pub(super) deliver: Option<Vec<Notice>>,
    pub(super) vars: Option<Named<Free>>,
}

#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Bik {
    pub(super) report_name: String,
    pub(super) app_id: Option<String>,
    #[schemars(length(min = 1))]
    pub(super) emails: Option<Vec<String>>,
    pub(super) filters: Option<Filters>,
    pub(super) body: Option<Free>,
}

#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Filters {
    pub(super) channel: Option<String>,
    pub(super) group: Option<String>,
}

#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Notice {
    pub(super) email: Option<Email>,
    pub(super) webhook: Option<String>,
}

#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Email {
    pub(super) to: String,
    #[schemars(length(max = 20), regex(pattern = "^[a-z ]*$"))]
    pub(super) subject: Option<String>,
}

/// Words with doc comments become a `oneOf` in the schema.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Overlap {
    /// Wait.
    Queue,
    /// Drop.
    Skip,
}

#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Low,
    High,
}

/// A word, or a map with fixed dates.
#[derive(Debug, PartialEq)]
pub(super) enum Window {
    Word(String),
    Fixed(Fixed),
}

#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Fixed {
    pub(super) from: String,
    pub(super) to: String,
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WindowVisitor;
        impl<'de> Visitor<'de> for WindowVisitor {
            type Value = Window;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a map")
            }
            fn visit_str<E: Error>(self, word: &str) -> Result<Window, E> {
                if word.contains('!') {
                    return Err(E::custom("a window has no '!'"));
                }
                Ok(Window::Word(word.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Window, A::Error> {
                Fixed::deserialize(MapAccessDeserializer::new(map)).map(Window::Fixed)
            }
        }
        deserializer.deserialize_any(WindowVisitor)
    }
}

impl JsonSchema for Window {
    fn schema_name() -> Cow<'static, str> {
        "Window".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let fixed = generator.subschema_for::<Fixed>();
        json_schema!({ "anyOf": [{ "type": "string" }, fixed] })
    }
}

/// A file that uses all of it and is right.
pub(super) const GOOD: &str = r#"# every key once
description: "All: of it"
connections: [north, south]
zone: Asia/Kolkata
schedule: "30 6 * * *"
window: { from: 2026-03-01, to: 2026-03-31 }
overlap: queue
level: high
refetch: true
retries: 3
pages: 5
rate: 1.5
bik:
  reportName: Agent Engagement
  appId: 0123
  emails: &mails ["a@b.example"]
  filters:
    channel: whatsapp
  body: { list: [1, 2.5, no, ~, {x: "y"}], again: *mails }
deliver:
  - email: { to: lead@b.example, subject: weekly }
  - webhook: |
      https://x.example/hook
vars: { owner: asha, support: [1, 4] }
"#;

pub(super) fn decode(text: &str) -> Decoded<Job> {
    decode_bytes(text.as_bytes())
}

pub(super) fn decode_bytes(bytes: &[u8]) -> Decoded<Job> {
    static JOBS: std::sync::LazyLock<Decoder<Job>> = std::sync::LazyLock::new(Decoder::new);
    JOBS.decode("jobs/x.yaml", bytes)
}

/// The problems of a text as `line:column message`.
pub(super) fn said(text: &str) -> Vec<String> {
    decode(text)
        .problems
        .iter()
        .map(|problem| format!("{}:{} {}", problem.line, problem.column, problem.message))
        .collect()
}
