//! A webhook: the run's JSON, POSTed and signed as Standard Webhooks says (the specification's "Webhook metadata" and
//! "Signature scheme"), so that receivers can check it with a library they have.
//!
//! It goes out at least once: the `webhook-id` is the same at every try, so the receiver can drop what it has; the timestamp is
//! the try's own, since receivers refuse old ones. It decides nothing about when to try again, and signs with secret keys only
//! (`v1`, HMAC-SHA256).

use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use uuid::Uuid;

use super::Trouble;
use super::outside::Outside;

/// The specification recommends 15 to 30 s.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What marks a key that is written in Base64.
const PREFIX: &str = "whsec_";

/// With or without padding: the reference libraries do not agree.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Sends `body` (JSON) to `url`, signed with each key: two while rotating. `id` is the delivery's, the same at every try; `now`
/// is this try's time. Ok: the status in words.
///
/// A key is `whsec_` and Base64, as the specification writes it; without that prefix its text is the key, as the reference
/// libraries take it in their raw form. (Their other form, Base64 without the prefix, cannot be told from text.)
///
/// Errors: `Person` for a key or URL that is none, `Refused` for 410, 3xx and `http://` to another machine, `Later` when it did
/// not arrive, `Unclear` when nobody knows; it may be sent again.
pub async fn send(
    outside: &Outside,
    url: &SecretString,
    keys: &[SecretString],
    id: Uuid,
    body: &str,
    now: DateTime<Utc>,
) -> Result<Option<String>, Trouble> {
    let id = format!("msg_{}", id.simple());
    let at = now.timestamp();
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("webhook-id", id.clone()),
        ("webhook-timestamp", at.to_string()),
        ("webhook-signature", signatures(keys, &id, at, body)?),
    ];
    // What a receiver says back is kept: neither a key, with its prefix or without, nor what was signed with it.
    let bare = keys.iter().map(|key| key.expose_secret().trim().trim_start_matches(PREFIX).to_owned().into());
    let signed = headers[3].1.split([' ', ',']).map(|part| part.to_owned().into());
    let secrets: Vec<SecretString> = keys.iter().cloned().chain(bare).chain(signed).collect();
    let said = outside.post(url, &headers, body.to_owned(), TIMEOUT, &secrets).await?;
    said.verdict(Some(now))?;
    Ok(Some(format!("HTTP {}", said.status)))
}

/// One signature a key, separated by spaces. `at` in Unix seconds.
fn signatures(keys: &[SecretString], id: &str, at: i64, body: &str) -> Result<String, Trouble> {
    if keys.is_empty() {
        return Err(Trouble::Person("the webhook has no signing key".into()));
    }
    let sign = |(i, key): (usize, &SecretString)| {
        let wrong = |what: &str| Trouble::Person(format!("signing key {} of the webhook {what}", i + 1));
        let key = key_bytes(key.expose_secret().trim()).ok_or_else(|| wrong("is not Base64 after whsec_"))?;
        if key.is_empty() {
            return Err(wrong("is empty"));
        }
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&key).map_err(|_| wrong("has a length that HMAC does not take"))?;
        mac.update(format!("{id}.{at}.{body}").as_bytes());
        Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    };
    Ok(keys.iter().enumerate().map(sign).collect::<Result<Vec<_>, _>>()?.join(" "))
}

fn key_bytes(text: &str) -> Option<Vec<u8>> {
    match text.strip_prefix(PREFIX) {
        Some(encoded) => LENIENT.decode(encoded).ok(),
        None => Some(text.as_bytes().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const BODY: &str = r#"{"email":"test@example.com","username":"test_user"}"#;

    fn sign(keys: &[&str]) -> Result<String, Trouble> {
        let keys: Vec<SecretString> = keys.iter().map(|key| SecretString::from(*key)).collect();
        signatures(&keys, ID, 1_649_367_553, BODY)
    }

    #[test]
    fn a_signature_is_that_of_the_reference_libraries() {
        // test_sign of the reference library for Rust.
        let expected = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
        assert_eq!(sign(&["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]).unwrap(), expected);
        assert_ne!(sign(&["C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]).unwrap(), expected, "without the prefix it is text");
    }

    #[test]
    fn a_key_in_base64_needs_no_padding_and_is_the_same_key_as_its_text() {
        let text = sign(&["a key of ours"]).unwrap();
        assert_eq!(sign(&["whsec_YSBrZXkgb2Ygb3Vycw=="]).unwrap(), text);
        assert_eq!(sign(&["whsec_YSBrZXkgb2Ygb3Vycw"]).unwrap(), text);
    }

    #[test]
    fn while_rotating_there_is_a_signature_for_each_key_in_their_order() {
        let (one, two) = (sign(&["one"]).unwrap(), sign(&["two"]).unwrap());
        assert_eq!(sign(&["one", "two"]).unwrap(), format!("{one} {two}"));
    }

    #[test]
    fn a_key_that_is_none_needs_a_person_and_is_not_repeated() {
        for keys in [&["whsec_hunter2!"][..], &["fine", "whsec_"], &[" "], &[]] {
            match sign(keys) {
                Err(Trouble::Person(why)) => assert!(!why.contains("hunter2"), "{why}"),
                other => panic!("{keys:?}: {other:?}"),
            }
        }
    }
}
