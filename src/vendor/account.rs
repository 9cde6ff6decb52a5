//! One account with its secrets in hand: authorises calls, redacts texts, notices that a secret changed.
//!
//! Secrets are read when first needed, again on reload, and once after the vendor said 401. Everything that a vendor wrote
//! goes through [`Secrets::redact`] before it is logged, stored or shown.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

use crate::connection::environment::Environment;
use crate::connection::secret::{SecretError, SecretRef, fingerprint};
use crate::connection::{BikCredentials, Connection, Limits};
use crate::request::{REDACTED, TOKEN_IN_PATH, Vendor};

/// Longest text of a vendor that is kept.
const LONGEST: usize = 1024;

/// The secrets of one account as read at one time.
#[derive(Debug)]
pub struct Secrets {
    authorization: Option<SecretString>,
    path_token: Option<SecretString>,
    /// Headers of a download from the account's own host.
    pub download_headers: Vec<(String, SecretString)>,
    forms: Forms,
    /// Salted fingerprint of the secret: tells that it changed.
    pub fingerprint: String,
    /// Salted fingerprint of whose account it is: the BIK key, LiveChat's account id. JAICP tokens and OAuth tokens say
    /// nothing of their owner, so there it depends on the vendor alone; a rotated secret must not orphan runs.
    pub account: String,
}

/// One account of one connection.
#[derive(Debug)]
pub struct Account {
    /// Connection name.
    pub connection: String,
    /// Which vendor.
    pub vendor: Vendor,
    /// Its limits.
    pub limits: Limits,
    /// Its base URL.
    pub base_url: String,
    spec: Spec,
    environment: Environment,
    salt: Vec<u8>,
    cached: Mutex<Option<Arc<Secrets>>>,
}

#[derive(Debug)]
enum Spec {
    Bik(BikCredentials),
    Livechat { token: SecretRef, bearer: bool },
    Jaicp { token: SecretRef, download_headers: Vec<(String, SecretRef)> },
}

impl Account {
    /// The account of `connection` at `vendor`, if it has one. Reads no secret yet.
    pub fn new(connection: &Connection, vendor: Vendor, environment: &Environment, salt: &[u8]) -> Option<Account> {
        let spec = match vendor {
            Vendor::Bik => Spec::Bik(connection.bik.as_ref()?.credentials.clone()),
            Vendor::Livechat => {
                let account = connection.livechat.as_ref()?;
                Spec::Livechat { token: account.token.clone(), bearer: account.endpoint.bearer }
            }
            Vendor::Jaicp => {
                let account = connection.jaicp.as_ref()?;
                let headers = account.download_headers.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                Spec::Jaicp { token: account.token.clone(), download_headers: headers }
            }
        };
        Some(Account {
            connection: connection.name.clone(),
            vendor,
            limits: connection.limits(vendor)?.clone(),
            base_url: connection.base_url(vendor)?.to_owned(),
            spec,
            environment: environment.clone(),
            salt: salt.to_vec(),
            cached: Mutex::new(None),
        })
    }

    /// The secrets, read now if they were not before.
    pub fn secrets(&self) -> Result<Arc<Secrets>, SecretError> {
        if let Some(secrets) = self.cached.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(secrets);
        }
        self.reload()
    }

    /// Reads the secrets anew, and keeps them if they are this account's; returns whether they are.
    pub fn reload_as(&self, account: &str) -> bool {
        let Ok(secrets) = self.read() else { return false };
        let is_theirs = secrets.account == account;
        if is_theirs {
            *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(secrets));
        }
        is_theirs
    }

    /// Reads the secrets anew.
    pub fn reload(&self) -> Result<Arc<Secrets>, SecretError> {
        let secrets = Arc::new(self.read()?);
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&secrets));
        Ok(secrets)
    }

    fn read(&self) -> Result<Secrets, SecretError> {
        let read = |secret: &SecretRef| secret.read(&|name| self.environment.get(name));
        let vendor = SecretString::from(self.vendor.as_str());
        let mut forms = Vec::new();
        let mut secrets = Secrets {
            authorization: None,
            path_token: None,
            download_headers: Vec::new(),
            forms: Forms::default(),
            fingerprint: String::new(),
            account: fingerprint(&self.salt, &[&vendor]),
        };
        match &self.spec {
            Spec::Bik(BikCredentials::KeySecret { key, secret }) => {
                let (key, secret) = (read(key)?, read(secret)?);
                let pair = format!("{}:{}", key.expose_secret(), secret.expose_secret());
                let basic = STANDARD.encode(&pair);
                secrets.fingerprint = fingerprint(&self.salt, &[&key, &secret]);
                secrets.account = fingerprint(&self.salt, &[&vendor, &key]);
                secrets.authorization = Some(format!("Basic {basic}").into());
                forms = vec![key, secret, basic.into(), pair.into()];
            }
            Spec::Bik(BikCredentials::Token(token)) => {
                let token = read(token)?;
                // Pasted from BIK's page it may still say "Basic ".
                let basic = token.expose_secret().trim_start_matches("Basic ").trim().to_owned();
                let decoded = STANDARD.decode(&basic).ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default();
                let (key, secret) = decoded.split_once(':').unwrap_or((&decoded, ""));
                secrets.fingerprint = fingerprint(&self.salt, &[&token]);
                secrets.account = fingerprint(&self.salt, &[&vendor, &key.into()]);
                secrets.authorization = Some(format!("Basic {basic}").into());
                forms = vec![key.into(), secret.into(), basic.into(), decoded.clone().into()];
            }
            Spec::Livechat { token, bearer } => {
                let token = read(token)?;
                // A token copied from an address bar has its colon encoded (vendor's troubleshooting page).
                let text = token.expose_secret().replace("%3A", ":").replace("%3a", ":");
                secrets.fingerprint = fingerprint(&self.salt, &[&token]);
                if *bearer {
                    secrets.authorization = Some(format!("Bearer {text}").into());
                    forms = vec![text.into()];
                } else {
                    // The console also shows the encoded value; that one has no colon.
                    let encoded = if text.contains(':') { STANDARD.encode(&text) } else { text.clone() };
                    let plain = if text.contains(':') { text } else { decode(&text) };
                    let (account, pat) = plain.split_once(':').unwrap_or(("", &plain));
                    secrets.account = fingerprint(&self.salt, &[&vendor, &account.into()]);
                    secrets.authorization = Some(format!("Basic {encoded}").into());
                    forms = vec![pat.into(), encoded.into(), plain.into()];
                }
            }
            Spec::Jaicp { token, download_headers } => {
                let token = read(token)?;
                for (name, secret) in download_headers {
                    let value = read(secret)?;
                    forms.push(value.clone());
                    secrets.download_headers.push((name.clone(), value));
                }
                secrets.fingerprint = fingerprint(&self.salt, &[&token]);
                forms.push(token.clone());
                if let Some((_, tail)) = token.expose_secret().split_once(':') {
                    forms.push(tail.into());
                }
                secrets.path_token = Some(token);
            }
        }
        secrets.forms = Forms::of(forms);
        Ok(secrets)
    }
}

fn decode(basic: &str) -> String {
    STANDARD.decode(basic).ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
}

/// A percent-encoded text with its hex digits in lower case.
fn lower_hex(percent: &str) -> String {
    let mut hex = 0;
    let lower = |c: char| {
        let digit = hex > 0;
        hex = if c == '%' { 2_u8 } else { hex.saturating_sub(1) };
        if digit { c.to_ascii_lowercase() } else { c }
    };
    percent.chars().map(lower).collect()
}

/// Every form in which secrets could come back in a text of the other side.
#[derive(Debug, Default)]
pub struct Forms(Vec<SecretString>);

impl Forms {
    /// Of these secrets: as they are, and as URLs, Base64 and JSON write them.
    pub fn of(secrets: Vec<SecretString>) -> Forms {
        let mut forms = secrets;
        let encoded: Vec<SecretString> = forms
            .iter()
            .flat_map(|form| {
                let text = form.expose_secret();
                let query: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
                let percent = query.replace('+', "%20");
                // Without the padding, so that a value that lost it is found too.
                let base64 = STANDARD_NO_PAD.encode(text);
                let url_safe = URL_SAFE_NO_PAD.encode(text);
                let lower = [lower_hex(&query), lower_hex(&percent)];
                [query, percent, base64, url_safe, text.replace('/', "\\/")].into_iter().chain(lower)
            })
            .map(SecretString::from)
            .collect();
        forms.extend(encoded);
        // Very short secrets would black out ordinary words; longer forms first, since one may contain another.
        forms.retain(|form| form.expose_secret().len() >= 4);
        forms.sort_by_key(|form| std::cmp::Reverse(form.expose_secret().len()));
        Forms(forms)
    }

    /// The other side's text fit to be logged, stored and shown: secrets and URLs (beyond their host) blacked out, control
    /// characters gone, at most 1 KiB.
    pub fn redact(&self, text: &str) -> String {
        let cut = text.chars().nth(LONGEST * 4).is_some();
        let mut text: String =
            text.chars().take(LONGEST * 4).map(|c| if crate::yaml::is_unprintable(c) { ' ' } else { c }).collect();
        for form in &self.0 {
            text = without(&text, form.expose_secret());
        }
        if cut {
            // A secret that lay across the cut is no longer whole, so its first part was not found.
            let longest = self.0.first().map_or(0, |form| form.expose_secret().chars().count());
            let keep = text.chars().count().saturating_sub(longest);
            text = text.chars().take(keep).collect();
        }
        // JSON may write a slash as \/, and a link then hides from who looks for ://.
        let mut text = redact_urls(&text.replace("\\/", "/"));
        if text.chars().count() > LONGEST {
            text = text.chars().take(LONGEST).chain(['…']).collect();
        }
        text.trim().to_owned()
    }
}

impl Secrets {
    /// The `Authorization` header, if this vendor takes one.
    pub fn authorization(&self) -> Option<&SecretString> {
        self.authorization.as_ref()
    }

    /// A call's URL with the path token in it. To be handed to the HTTP client and nowhere else.
    pub fn url(&self, url: &str) -> String {
        match &self.path_token {
            // The colon of the token stays as it is: the vendor's clients send it so. What could end the segment does not.
            Some(token) => {
                let mut segment = String::new();
                for c in token.expose_secret().chars() {
                    match c {
                        'A'..='Z' | 'a'..='z' | '0'..='9' | ':' | '-' | '_' | '.' | '~' => segment.push(c),
                        other => segment.extend(url::form_urlencoded::byte_serialize(other.to_string().as_bytes())),
                    }
                }
                url.replace(TOKEN_IN_PATH, &segment)
            }
            None => url.to_owned(),
        }
    }

    /// A vendor's text fit to be logged, stored and shown: see [`Forms::redact`].
    pub fn redact(&self, text: &str) -> String {
        self.forms.redact(text)
    }
}

/// `text` without `secret`, in whatever letter case a vendor repeats it.
fn without(text: &str, secret: &str) -> String {
    // ASCII case changes no length, so places in the lowered text are places in the text.
    let (lowered, secret) = (text.to_ascii_lowercase(), secret.to_ascii_lowercase());
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    while let Some(at) = lowered[from..].find(&secret).filter(|_| !secret.is_empty()) {
        out.push_str(&text[from..from + at]);
        out.push_str(REDACTED);
        from += at + secret.len();
    }
    out.push_str(&text[from..]);
    out
}

/// Cuts every URL in `text` down to its scheme and host: links to files are bearer secrets.
pub fn redact_urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let scheme = rest[..at]
            .rfind(|c: char| !c.is_ascii_alphanumeric())
            .map_or(0, |i| i + rest[i..].chars().next().map_or(1, char::len_utf8));
        out.push_str(&rest[..scheme]);
        let url = &rest[scheme..];
        let end = url.find(|c: char| c.is_whitespace() || "\"'<>)]}".contains(c)).unwrap_or(url.len());
        match url::Url::parse(&url[..end]) {
            Ok(parsed) if parsed.path().len() > 1 || parsed.query().is_some() || !parsed.username().is_empty() => {
                out.push_str(parsed.scheme());
                out.push_str("://");
                out.push_str(parsed.host_str().unwrap_or(REDACTED));
                out.push('/');
                out.push_str(REDACTED);
            }
            Ok(_) => out.push_str(&url[..end]),
            Err(_) => out.push_str(REDACTED),
        }
        rest = &url[end..];
    }
    out.push_str(rest);
    // A relative link's query is as much of a secret.
    let word = |word: &str| match word.split_once('?') {
        Some((head, query)) if query.contains('=') => format!("{head}?{REDACTED}"),
        _ => word.to_owned(),
    };
    out.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(yaml: &str, env: &[(&str, &str)], vendor: Vendor) -> Account {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reportd.yaml");
        std::fs::write(&path, yaml).unwrap();
        let loaded = crate::settings::load(&path, true, Environment::of(env), false);
        assert!(!loaded.broken(), "{:?}", loaded.problems);
        Account::new(&loaded.settings.connections[0], vendor, &loaded.settings.environment, b"salt").unwrap()
    }

    const JAICP: &str = "abcdefgh:0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn the_jaicp_token_goes_into_the_path_with_its_colon_and_into_no_text() {
        let account = account("connections: { a: { jaicp: { token: env:T } } }", &[("T", JAICP)], Vendor::Jaicp);
        let secrets = account.secrets().unwrap();
        assert_eq!(secrets.url("https://x/p/{token}/a"), format!("https://x/p/{JAICP}/a"));
        assert!(secrets.authorization().is_none());
        for text in
            [JAICP.to_owned(), JAICP.replace(':', "%3A"), STANDARD.encode(JAICP), format!("GET https://x/p/{JAICP}/a")]
        {
            let redacted = secrets.redact(&format!("error for {text}, sorry"));
            assert!(!redacted.contains("0123456789abcdef") && redacted.ends_with("sorry"), "{redacted}");
        }
    }

    #[test]
    fn basic_values_are_redacted_whole_and_in_parts() {
        let yaml = "connections: { a: { bik: { key: env:K, secret: env:S }, livechat: { token: env:L } } }";
        let env = [("K", "the-key-1"), ("S", "the-secret-2"), ("L", "acc:pat-token-3")];
        let bik = account(yaml, &env, Vendor::Bik).secrets().unwrap();
        assert_eq!(bik.authorization().unwrap().expose_secret(), "Basic dGhlLWtleS0xOnRoZS1zZWNyZXQtMg==");
        assert_eq!(bik.redact("Basic dGhlLWtleS0xOnRoZS1zZWNyZXQtMg== the-secret-2"), "Basic *** ***");
        let livechat = account(yaml, &env, Vendor::Livechat).secrets().unwrap();
        assert_eq!(livechat.redact("bad token pat-token-3, PAT-Token-3"), "bad token ***, ***");
    }

    #[test]
    fn a_secret_across_the_end_of_a_long_text_leaves_no_part_of_it() {
        let yaml = "connections: { a: { livechat: { token: env:L, auth: bearer } } }";
        let secrets = account(yaml, &[("L", "canary0123456789")], Vendor::Livechat).secrets().unwrap();
        for shift in 0..32 {
            let text = format!("{}{}", "-".repeat(shift), "canary0123456789".repeat(300));
            assert!(!secrets.redact(&text).contains("can"), "{shift}");
        }
        assert!(secrets.redact(&"word ".repeat(2000)).starts_with("word word"));
    }

    #[test]
    fn hex_digits_and_nothing_else_become_lower_case() {
        assert_eq!(lower_hex("A%2FB%C3%BCD"), "A%2fB%c3%bcD");
    }

    #[test]
    fn a_rotated_secret_changes_the_fingerprint_and_not_the_account() {
        let yaml = "connections: { a: { bik: { key: env:K, secret: env:S } } }";
        let one = account(yaml, &[("K", "key1"), ("S", "old")], Vendor::Bik).secrets().unwrap();
        let two = account(yaml, &[("K", "key1"), ("S", "new")], Vendor::Bik).secrets().unwrap();
        assert_ne!(one.fingerprint, two.fingerprint);
        assert_eq!(one.account, two.account);
    }

    #[test]
    fn a_secret_of_another_account_than_the_one_asked_for_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, "first").unwrap();
        let yaml = format!("connections: {{ a: {{ bik: {{ key: \"file:{}\", secret: env:S }} }} }}", file.display());
        let one = account(&yaml, &[("S", "s")], Vendor::Bik);
        let first = one.secrets().unwrap().account.clone();
        std::fs::write(&file, "second").unwrap();
        let second = account(&yaml, &[("S", "s")], Vendor::Bik).secrets().unwrap().account.clone();
        assert!(!one.reload_as("a third one's"));
        assert_eq!(one.secrets().unwrap().account, first);
        assert!(one.reload_as(&second));
        assert_eq!(one.secrets().unwrap().account, second);
    }

    #[test]
    fn urls_lose_all_but_scheme_and_host() {
        let text =
            "see https://files.example.com/v0/o/r.csv?alt=media&token=abc, or (http://x.example) and ftp://u:p@h/f";
        assert_eq!(redact_urls(text), "see https://files.example.com/*** or (http://x.example) and ftp://h/***");
        assert_eq!(redact_urls("a://b c://"), "a://b c://");
        assert_eq!(redact_urls("é://x/y"), "é***");
    }
}
