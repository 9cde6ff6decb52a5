//! Fetching a report's file from the link a vendor gave.
//!
//! Only from allowed hosts, https (loopback excepted), without credentials, redirects followed by hand and only within the
//! same rules. The link is a bearer secret: it reaches no error, log or row. Nothing is decompressed; the body goes chunk by
//! chunk to a temporary file.

use reqwest::header::LOCATION;
use secrecy::SecretString;
use url::Url;

use super::error::{Operation, VendorError, classify};
use super::http::failure;
use super::{Context, Progress};
use crate::artifact::sniff::Expect;
use crate::artifact::{Finish, Label, Spooled};
use crate::request::is_loopback;
use crate::run::retry::retry_after;

/// Hops that a download may be redirected over.
const HOPS: usize = 5;

/// Progress is told each time so many bytes have come.
const TELL_EVERY: u64 = 256 * 1024;

/// One file to fetch.
pub struct Fetch<'a> {
    /// The vendor's link, absolute or relative to the base URL.
    pub link: &'a str,
    /// The account's base URL, whose host is always allowed.
    pub base_url: &'a str,
    /// Name in the archive.
    pub name: String,
    /// What it must be.
    pub expect: Expect,
    /// The vendor says that there are no rows.
    pub no_rows: bool,
    /// Headers for the base URL's own host, and no other.
    pub own_host_headers: &'a [(String, SecretString)],
}

/// Whether a file may come from `url`; the error names the host to add, never the link.
fn allowed(url: &Url, base: &Url, hosts: &[String]) -> Result<(), VendorError> {
    let host = url.host_str().unwrap_or_default();
    let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
    let named = hosts.iter().any(|h| h.eq_ignore_ascii_case(host) || Some(h) == with_port.as_ref());
    if Some(host) != base.host_str() && !named {
        return Err(VendorError::BlockedHost { host: host.to_owned() });
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(url) => Ok(()),
        _ => Err(VendorError::Protocol(format!("the link to the file on {host} is not https"))),
    }
}

/// The absolute form of a link.
fn resolve(link: &str, base_url: &str) -> Result<(Url, Url), VendorError> {
    let bad = || VendorError::DeadLink("the vendor's link is not a URL".into());
    // With a slash at its end the base is a folder, so a relative link lies below it.
    let base = Url::parse(&format!("{}/", base_url.trim_end_matches('/'))).map_err(|_| bad())?;
    let url = base.join(link).map_err(|_| bad())?;
    if url.host_str().is_none() {
        return Err(bad());
    }
    Ok((url, base))
}

/// Fetches the file. A dead link is [`VendorError::DeadLink`]: the caller polls for a fresh one.
pub async fn fetch(context: &Context<'_>, fetch: &Fetch<'_>) -> Result<Spooled, VendorError> {
    let limits = &context.account.limits;
    let (mut url, base) = resolve(fetch.link, fetch.base_url)?;
    let mut response = None;
    for _ in 0..=HOPS {
        allowed(&url, &base, &limits.allowed_hosts)?;
        let own_host = url.origin() == base.origin();
        let extra = if own_host { fetch.own_host_headers } else { &[] };
        let answer = context.http.open(&url, extra, context.secrets, limits.timeout).await?;
        if answer.status().is_redirection()
            && let Some(target) = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok())
        {
            url = url.join(target).map_err(|_| VendorError::DeadLink("it redirects to no URL".into()))?;
            continue;
        }
        response = Some(answer);
        break;
    }
    let Some(mut response) = response else {
        return Err(VendorError::DeadLink(format!("it redirects more than {HOPS} times")));
    };
    let status = response.status().as_u16();
    let wait = response.headers().get(reqwest::header::RETRY_AFTER).map(|v| retry_after(v.to_str().ok(), context.now));
    let host = url.host_str().unwrap_or_default();
    if let Some(error) = classify(Operation::Download, status, wait, format!("HTTP {status} from {host}")) {
        return Err(error);
    }
    if response.status() == reqwest::StatusCode::PARTIAL_CONTENT {
        return Err(VendorError::Unclear(format!(
            "HTTP 206 from {host}: a part of the file, and the whole was asked for"
        )));
    }
    let label = Label { name: fetch.name.clone(), expect: fetch.expect, derived: false, simulated: is_loopback(&url) };
    let mut writer = context.spool.file(label);
    let mut told = 0;
    loop {
        let chunk = tokio::time::timeout(limits.download_idle, response.chunk()).await;
        let stalled = |_| VendorError::Unclear(format!("no byte of the file for {} s", limits.download_idle.as_secs()));
        match chunk.map_err(stalled)?.map_err(|e| failure(e, context.secrets))? {
            Some(chunk) => writer.write(chunk).await?,
            None => break,
        }
        if writer.size() >= told + TELL_EVERY {
            told = writer.size();
            (context.watch)(Progress::Bytes(told));
        }
    }
    (context.watch)(Progress::Bytes(writer.size()));
    Ok(writer.finish(&Finish { no_rows: fetch.no_rows }).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(link: &str, hosts: &[&str]) -> Result<(), VendorError> {
        let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
        let (url, base) = resolve(link, "https://app.jaicp.com/api")?;
        allowed(&url, &base, &hosts)
    }

    #[test]
    fn files_come_from_the_base_urls_host_and_named_hosts_only() {
        assert!(check("https://app.jaicp.com/x", &[]).is_ok());
        assert!(check("/x", &[]).is_ok() && check("x?y=z", &[]).is_ok());
        assert!(check("https://files.example/x", &["files.example"]).is_ok());
        assert!(check("https://files.example:8443/x", &["files.example:8443"]).is_ok());
        for link in
            ["https://files.example/x", "https://app.jaicp.com.evil/x", "https://app.jaicp.com@evil/x", "//evil/x"]
        {
            assert!(matches!(check(link, &[]), Err(VendorError::BlockedHost { .. })), "{link}");
        }
        for link in ["http://app.jaicp.com/x", "ftp://app.jaicp.com/x"] {
            assert!(matches!(check(link, &[]), Err(VendorError::Protocol(_))), "{link}");
        }
        for link in ["data:text/csv,a", "file:///etc/passwd", "https://"] {
            assert!(check(link, &[]).is_err(), "{link}");
        }
    }

    #[test]
    fn a_relative_link_lies_below_the_base_url() {
        assert_eq!(
            resolve("files/1", "https://app.jaicp.com/api").unwrap().0.as_str(),
            "https://app.jaicp.com/api/files/1"
        );
        assert_eq!(
            resolve("/files/1", "https://app.jaicp.com/api").unwrap().0.as_str(),
            "https://app.jaicp.com/files/1"
        );
    }
}
