//! Two types for what the job's author is free to fill: `Free`, any tree of values, and `Named`, any names.
//!
//! `Free` carries vendor bodies through untouched: key order is kept, integers stay integers, `no` and `0123` stay text.
//! Both refuse what would change silently on the way: a key that stands twice (the last one would win), `<<` (it would be
//! sent as a key), keys that are not text, tags, and numbers that JSON does not have.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use super::problem::shown;
use super::scalar::wide;

/// Any JSON tree out of a YAML file.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Free(
    /// The tree, its keys in the file's order.
    pub Value,
);

impl<'de> Deserialize<'de> for Free {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FreeVisitor).map(Self)
    }
}

impl JsonSchema for Free {
    fn schema_name() -> Cow<'static, str> {
        "Free".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        Schema::from(true)
    }
}

struct FreeVisitor;

impl<'de> Visitor<'de> for FreeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        visit_wide(&value.to_string())
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        visit_wide(&value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| not_in_json(&value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Free(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key_seed(Key)? {
            if values.contains_key(&key) {
                return Err(twice(&key));
            }
            let Free(value) = map.next_value()?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("tags are not supported"))
    }
}

fn visit_wide<E: Error>(digits: &str) -> Result<Value, E> {
    wide(digits).map(Value::Number).ok_or_else(|| not_in_json(&digits))
}

fn not_in_json<E: Error>(number: &dyn fmt::Display) -> E {
    E::custom(format_args!("{number} is not a number in JSON, quote it if text is meant"))
}

fn twice<E: Error>(key: &str) -> E {
    E::custom(format_args!("key '{}' stands twice", shown(key)))
}

/// A key that must be text and not a merge.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        match Free::deserialize(deserializer)? {
            Free(Value::String(key)) if key == "<<" => Err(D::Error::custom(super::tree::NO_MERGE)),
            Free(Value::String(key)) => Ok(key),
            Free(other) => Err(D::Error::custom(format_args!("a key must be text, quote it: \"{other}\""))),
        }
    }
}

/// A map whose keys its author chooses, such as connections or variables, in the file's order; unlike a plain map it refuses
/// a repeated key.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<V>(
    /// The entries by name.
    pub Vec<(String, V)>,
);

impl<V> Named<V> {
    /// The entry of that name.
    pub fn get(&self, name: &str) -> Option<&V> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }
}

impl<V: Serialize> Serialize for Named<V> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(k, v)| (k, v)))
    }
}

impl<V> Default for Named<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Named<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamedVisitor(PhantomData))
    }
}

impl<V: JsonSchema> JsonSchema for Named<V> {
    fn schema_name() -> Cow<'static, str> {
        BTreeMap::<String, V>::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        BTreeMap::<String, V>::json_schema(generator)
    }
}

struct NamedVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for NamedVisitor<V> {
    type Value = Named<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries: Vec<(String, V)> = Vec::new();
        // A set beside the list, so that a hostile map of many keys is not searched once for each.
        let mut names = HashSet::new();
        while let Some(key) = map.next_key_seed(Key)? {
            if !names.insert(key.clone()) {
                return Err(twice(&key));
            }
            let value = map.next_value()?;
            entries.push((key, value));
        }
        Ok(Named(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(text: &str) -> Result<Value, String> {
        serde_yaml::from_str::<Free>(text).map(|free| free.0).map_err(|error| error.to_string())
    }

    #[test]
    fn a_body_keeps_its_order_and_its_numbers() {
        let body = free("z: 1\na: [18446744073709551615, -5, 1.5, no, 0123, ~]\nm: {y: x, b: true}\n").unwrap();
        assert_eq!(
            body.to_string(),
            r#"{"z":1,"a":[18446744073709551615,-5,1.5,"no","0123",null],"m":{"y":"x","b":true}}"#
        );
    }

    #[test]
    fn what_would_change_silently_is_refused() {
        for (text, words) in [
            ("a: 1\na: 2\n", "key 'a' stands twice"),
            ("b: &x {a: 1}\nc:\n  <<: *x\n", "merge keys are not supported"),
            ("1: x\n", "a key must be text, quote it: \"1\""),
            ("true: x\n", "a key must be text"),
            ("? [a]\n: x\n", "a key must be text"),
            ("a: .nan\n", "is not a number in JSON"),
            ("a: -.inf\n", "is not a number in JSON"),
            ("a: !secret x\n", "tags are not supported"),
        ] {
            let refusal = free(text).unwrap_err();
            assert!(refusal.contains(words), "{text}: {refusal}");
        }
    }

    #[test]
    fn an_integer_of_any_size_does_not_panic() {
        assert_eq!(free("100000000000000000000").unwrap().to_string(), "1e+20");
        assert!(free(&"9".repeat(400)).unwrap().is_string());
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_where_a_plain_map_takes_the_last() {
        let text = "north: 1\nnorth: 2\n";
        assert!(serde_yaml::from_str::<BTreeMap<String, u8>>(text).is_ok());
        let refusal = serde_yaml::from_str::<Named<u8>>(text).unwrap_err().to_string();
        assert!(refusal.contains("key 'north' stands twice"), "{refusal}");
    }

    #[test]
    fn free_is_the_same_from_json() {
        let value: Free = serde_json::from_str(r#"{"b":[1,2.5,"x",null],"a":{}}"#).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), r#"{"b":[1,2.5,"x",null],"a":{}}"#);
    }
}
