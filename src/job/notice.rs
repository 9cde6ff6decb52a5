//! Notices of a job file (`deliver:` and `alert:`): what is written, and the checks a file must pass before it is accepted.
//!
//! The parsed notices are kept on the job as they are; `delivery` will turn them into messages.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::template::{Place, Template, Tree};
use crate::yaml::{Finding, Free, Named, Path};

/// One entry of `deliver:` or `alert:`; exactly one of its kinds is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoticeFile {
    /// Which runs it is for: `schedule` (default), `manual`, `fill`.
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
    /// Where to.
    #[schemars(required)]
    pub url: Option<String>,
    /// Signing keys, `env:NAME` or `file:PATH`; two while rotating.
    pub keys: Option<Vec<String>>,
}

/// A copy of the artifact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileCopyFile {
    /// A folder or object-store URL with placeholders.
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
    /// The customer the ticket is for.
    #[schemars(required)]
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
    /// Properties.
    pub eventProperties: Option<Named<Free>>,
    /// ISO 8601; only with `isMigration`.
    pub createdAt: Option<String>,
    /// Route through the historical pipeline.
    pub isMigration: Option<bool>,
}

/// Checks one list of notices: exactly one kind an entry, placeholders known, variables among `vars` of every connection.
pub fn check(list: &[NoticeFile], at: &Path, missing_var: &dyn Fn(&str) -> Option<String>, out: &mut Vec<Finding>) {
    for (i, notice) in list.iter().enumerate() {
        let at = at.index(i);
        let kinds = [
            ("email", notice.email.is_some()),
            ("webhook", notice.webhook.is_some()),
            ("file", notice.file.is_some()),
            ("bik_ticket", notice.bik_ticket.is_some()),
            ("bik_event", notice.bik_event.is_some()),
        ];
        if kinds.iter().filter(|(_, set)| *set).count() != 1 {
            let words = kinds.map(|(word, _)| word).join(", ");
            out.push(Finding::error(at.clone(), format!("a notice needs exactly one of {words}")));
        }
        if notice.email.as_ref().is_some_and(|mail| mail.to.as_ref().is_none_or(|to| to.0.is_empty())) {
            out.push(Finding::error(at.key("email"), "email needs at least one address in 'to'"));
        }
        if let Some(event) = &notice.bik_event
            && event.email.is_none()
            && event.phoneNumber.is_none()
        {
            out.push(Finding::error(at.key("bik_event"), "bik_event needs email or phoneNumber"));
        }
        let Ok(value) = serde_json::to_value(notice) else { continue };
        check_templates(&value, &at, missing_var, out);
    }
}

/// Reports unknown placeholders and variables in every string of `value`. An address written alone (`email: x@y`) stands at
/// the key itself, so its path is cut there by the locator.
fn check_templates(value: &Value, at: &Path, missing_var: &dyn Fn(&str) -> Option<String>, out: &mut Vec<Finding>) {
    let mut problems = Vec::new();
    let tree = Tree::parse(value, Place::Notice, at, &mut |path, message| problems.push((path.clone(), message)));
    tree.each_template(at, &mut |path, template: &Template| {
        problems.extend(template.vars().filter_map(missing_var).map(|message| (path.clone(), message)));
    });
    out.extend(problems.into_iter().map(|(path, message)| Finding::error(path, message)));
}
