//! Notices as they are written under `deliver:` and `alert:`: mirrors the YAML and nothing else.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::yaml::{Free, Named};

/// One entry of `deliver:` or `alert:`; exactly one of its kinds is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoticeFile {
    /// Which runs it is for: `schedule`, `manual`, `fill`. Default: under `deliver` those of a schedule, under `alert` all.
    pub on: Option<Vec<TriggerWord>>,
    /// A mail.
    pub email: Option<EmailFile>,
    /// A signed POST of the run's JSON.
    pub webhook: Option<WebhookFile>,
    /// A copy of the artifact.
    pub file: Option<FileCopyFile>,
    /// BIK `createAndAssignTicket`, the vendor's field names.
    pub bik_ticket: Option<BikTicketFile>,
    /// BIK `events/sendEvent`, the vendor's field names.
    pub bik_event: Option<BikEventFile>,
}

/// Why a run was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TriggerWord {
    /// A schedule's fire.
    Schedule,
    /// `run-job`.
    Manual,
    /// `fill`.
    Fill,
}

impl FromStr for TriggerWord {
    type Err = String;

    fn from_str(text: &str) -> Result<TriggerWord, String> {
        [TriggerWord::Schedule, TriggerWord::Manual, TriggerWord::Fill]
            .into_iter()
            .find(|word| word.as_str() == text)
            .ok_or_else(|| format!("unknown trigger '{text}'"))
    }
}

impl TriggerWord {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            TriggerWord::Schedule => "schedule",
            TriggerWord::Manual => "manual",
            TriggerWord::Fill => "fill",
        }
    }
}

/// One or several addresses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Addresses(#[serde(deserialize_with = "one_or_many")] pub Vec<String>);

impl JsonSchema for Addresses {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Addresses".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }] })
    }
}

/// Accepts a string where a list of one is meant.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Strings;
    impl<'de> Visitor<'de> for Strings {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or a list of strings")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<String>, A::Error> {
            let mut list = Vec::new();
            while let Some(text) = seq.next_element()? {
                list.push(text);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_any(Strings)
}

/// A mail: an address alone, or a map.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EmailFile {
    /// Recipients.
    pub to: Option<Addresses>,
    /// Subject.
    pub subject: Option<String>,
    /// Attach the report, up to the size limit.
    pub attach: Option<bool>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Email")]
struct EmailMap {
    #[schemars(required)]
    to: Option<Addresses>,
    subject: Option<String>,
    attach: Option<bool>,
}

impl<'de> Deserialize<'de> for EmailFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EmailFile, D::Error> {
        struct Email;
        impl<'de> Visitor<'de> for Email {
            type Value = EmailFile;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or a map with to, subject, attach")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<EmailFile, E> {
                Ok(EmailFile { to: Some(Addresses(vec![text.to_owned()])), ..EmailFile::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EmailFile, A::Error> {
                let EmailMap { to, subject, attach } = EmailMap::deserialize(MapAccessDeserializer::new(map))?;
                Ok(EmailFile { to, subject, attach })
            }
        }
        deserializer.deserialize_any(Email)
    }
}

impl JsonSchema for EmailFile {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "EmailNotice".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, generator.subschema_for::<EmailMap>()] })
    }
}

/// A signed POST of the run's JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookFile {
    /// Where to: `https://…`, or `env:NAME` or `file:PATH` when the URL is itself a secret.
    #[schemars(required)]
    pub url: Option<String>,
    /// Signing keys, `env:NAME` or `file:PATH`; two while rotating.
    pub keys: Option<Vec<String>>,
}

/// A copy of the artifact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileCopyFile {
    /// Where the copy goes, with placeholders: a path, or `s3://bucket/key`.
    #[schemars(required)]
    pub url: Option<String>,
}

/// BIK `createAndAssignTicket`; names and rules from the vendor's page.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, reason = "the vendor's own spelling")]
pub struct BikTicketFile {
    /// `whatsapp`, `email` or `tasks`.
    #[schemars(required)]
    pub channel: Option<String>,
    /// The customer the ticket is for; default: `bikCustomerId` of the connection's BIK account.
    pub bikCustomerId: Option<String>,
    /// Labels.
    pub labelIds: Option<Vec<i64>>,
    /// Required for e-mail.
    pub brandEmail: Option<String>,
    /// Required for e-mail.
    pub customerEmail: Option<String>,
    /// Required for WhatsApp.
    pub brandPhoneNumber: Option<String>,
    /// Required for WhatsApp.
    pub customerPhoneNumber: Option<String>,
    /// Required for tasks.
    pub taskTitle: Option<String>,
    /// `ALL_AGENTS`, `SPECIFIC_AGENT` or `SPECIFIC_TEAM`.
    pub assignmentType: Option<String>,
    /// Required for `SPECIFIC_AGENT`.
    pub agentMail: Option<String>,
    /// Required for `SPECIFIC_TEAM`.
    pub teamId: Option<i64>,
    /// Free text.
    pub context: Option<String>,
}

/// BIK `events/sendEvent`; names and rules from the vendor's page.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(non_snake_case, reason = "the vendor's own spelling")]
pub struct BikEventFile {
    /// Customer name.
    pub name: Option<String>,
    /// This or `phoneNumber`.
    pub email: Option<String>,
    /// This or `email`.
    pub phoneNumber: Option<String>,
    /// Event name.
    #[schemars(required)]
    pub eventName: Option<String>,
    /// Properties: texts, numbers, booleans or maps.
    #[schemars(required)]
    pub eventProperties: Option<Named<Free>>,
    /// ISO 8601; only with `isMigration`.
    pub createdAt: Option<String>,
    /// Route through the historical pipeline.
    pub isMigration: Option<bool>,
}
