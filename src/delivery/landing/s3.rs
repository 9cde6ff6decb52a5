//! A copy in an object store that speaks S3. Each file is one object, uploaded in parts of 8 MiB and completed only when its
//! sha256 is the archive's; else the upload is aborted, and what stood there stays.
//!
//! The account is in the `AWS_*` variables that AWS's own tools read, handed in; of their client options only
//! `AWS_ALLOW_HTTP`, `AWS_CONNECT_TIMEOUT` and an `AWS_TIMEOUT` of over five minutes count here. Redirects are not followed. What a store says goes
//! into errors without keys and URLs.

use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey as Key};
use object_store::client::{HttpClient, HttpConnector};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ClientConfigKey, ClientOptions, Error, ObjectStore, PutMultipartOptions, PutOptions,
    RetryConfig, WriteMultipart,
};
use secrecy::SecretString;
use url::Url;

use super::{Checked, Source, targets, told};
use crate::connection::environment::Environment;
use crate::delivery::Trouble;
use crate::delivery::outside::place;
use crate::vendor::account::Forms;
use crate::vendor::http::builder;

/// Bytes of a part: 10,000 of them, the most there may be, are more than the largest report.
const PART: usize = 8 * 1024 * 1024;

/// Parts under way at once, so memory stays flat.
const AT_ONCE: usize = 2;

/// Longest time for one part.
const TIMEOUT: Duration = Duration::from_secs(300);

/// A passing fault is overcome within a try; what lasts longer is the next try's.
const RETRIES: usize = 2;

/// Longest time in which a try begins a call again.
const RETRY_WITHIN: Duration = Duration::from_secs(20);

/// Copies the files to `bucket/key`. Ok: where, and how many bytes.
pub(super) async fn copy(rest: &str, sources: &[Source], environment: &Environment) -> Result<String, Trouble> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let keys = targets(key, sources)?;
    if bucket.is_empty() || keys.iter().any(String::is_empty) {
        return Err(Trouble::Refused(format!("'s3://{rest}' is not s3://bucket/key")));
    }
    let bucket = Bucket::open(bucket, environment)?;
    bucket.credentials().await?;
    for (source, key) in sources.iter().zip(&keys) {
        bucket.upload(source, key).await?;
    }
    let urls: Vec<String> = keys.iter().map(|key| format!("s3://{}/{key}", bucket.name)).collect();
    Ok(told(&urls, sources))
}

struct Bucket {
    name: String,
    store: AmazonS3,
    /// Where it is, as it may be shown.
    host: String,
    /// The keys are named in the environment or its files, not asked of the machine.
    named: bool,
    forms: Forms,
}

impl Bucket {
    fn open(name: &str, environment: &Environment) -> Result<Bucket, Trouble> {
        let mut settings = AmazonS3Builder::new();
        for (variable, value) in environment.starting_with("AWS_") {
            // Variables of AWS's tools that mean nothing here are many.
            if let Ok(key) = variable.to_ascii_lowercase().parse() {
                settings = settings.with_config(key, value);
            }
        }
        let get = |key: Key| settings.get_config_value(&key);
        let endpoint = get(Key::S3Endpoint).or_else(|| get(Key::Endpoint));
        let url = endpoint.as_deref().map(Url::parse).transpose();
        let url = url.map_err(|_| Trouble::Person("AWS_ENDPOINT_URL is no URL".into()))?;
        let loopback = url.as_ref().is_some_and(crate::request::is_loopback);
        let plain = url.as_ref().is_some_and(|url| url.scheme() == "http");
        let allowed = get(Key::Client(ClientConfigKey::AllowHttp)).is_some_and(|word| word == "true");
        if plain && !loopback && !allowed {
            let message =
                "AWS_ENDPOINT_URL is plain http and not on this machine: use https, or set AWS_ALLOW_HTTP=true";
            return Err(Trouble::Person(message.into()));
        }
        let named =
            [Key::AccessKeyId, Key::SecretAccessKey, Key::WebIdentityTokenFile].map(get).iter().any(Option::is_some)
                || [Key::ContainerCredentialsRelativeUri, Key::ContainerCredentialsFullUri]
                    .map(get)
                    .iter()
                    .any(Option::is_some)
                || get(Key::SkipSignature).is_some_and(|word| word == "true");
        let keys = [Key::AccessKeyId, Key::SecretAccessKey, Key::Token];
        let forms = Forms::of(keys.into_iter().filter_map(get).map(SecretString::from).collect());
        let host = url.as_ref().map_or_else(|| "S3".to_owned(), place);
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_WITHIN, ..RetryConfig::default() };
        let plain_word = if plain { "true" } else { "false" };
        let store = settings
            .with_config(Key::Client(ClientConfigKey::AllowHttp), plain_word)
            .with_bucket_name(name)
            .with_retry(retry)
            .with_http_connector(Connector { direct: loopback })
            .build()
            .map_err(|e| Trouble::Person(format!("the AWS_* settings: {}", forms.redact(&e.to_string()))))?;
        Ok(Bucket { name: name.to_owned(), store, host, named, forms })
    }

    /// Asks for the keys first: without any the machine itself is asked, and most have none to give.
    async fn credentials(&self) -> Result<(), Trouble> {
        if self.named {
            return Ok(());
        }
        let message = "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (this machine has no role)";
        self.store.credentials().get_credential().await.map(|_| ()).map_err(|_| Trouble::Person(message.into()))
    }

    async fn upload(&self, source: &Source, key: &str) -> Result<(), Trouble> {
        let path = Path::parse(key)
            .map_err(|_| Trouble::Refused(format!("'{key}' is no key: it has empty parts or control characters")))?;
        let fail = |error| self.trouble(key, &error);
        let attributes = Attributes::from_iter([(Attribute::ContentType, source.media_type.clone())]);
        let source = source.clone();
        let (mut reader, first) = part(move || Checked::open(&source)).await?;
        if first.len() < PART {
            reader.finish()?;
            let options = PutOptions { attributes, ..PutOptions::default() };
            self.store.put_opts(&path, first.into(), options).await.map_err(fail)?;
            return Ok(());
        }
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let upload = self.store.put_multipart_opts(&path, options).await.map_err(fail)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
        let mut bytes = first;
        let sent: Result<(), Trouble> = async {
            while !bytes.is_empty() {
                upload.wait_for_capacity(AT_ONCE).await.map_err(fail)?;
                upload.put(std::mem::take(&mut bytes));
                (reader, bytes) = part(move || Ok(reader)).await?;
            }
            reader.finish()
        }
        .await;
        match sent {
            Ok(()) => upload.finish().await.map(|_| ()).map_err(fail),
            Err(trouble) => {
                // Parts that stay behind cost money until the bucket's own rule takes them; the trouble is what counts.
                if let Err(error) = upload.abort().await {
                    tracing::debug!(trouble = %self.trouble(key, &error), "abort of an upload failed");
                }
                Err(trouble)
            }
        }
    }

    /// What a failed call means. Decided by the kind of the error; the store's words are for people.
    fn trouble(&self, key: &str, error: &Error) -> Trouble {
        let mut last: &dyn std::error::Error = error;
        while let Some(next) = last.source() {
            last = next;
        }
        let words = self.forms.redact(&words(&last.to_string()));
        let why = format!("s3://{}/{key} at {}: {words}", self.name, self.host);
        match error {
            // A missing bucket; keys that are unknown, or may not write here.
            Error::NotFound { .. } | Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Trouble::Person(why)
            }
            Error::InvalidPath { .. } => Trouble::Refused(why),
            _ => Trouble::later(why),
        }
    }
}

/// `Code: Message` of S3's XML where there is one.
fn words(text: &str) -> String {
    let tag = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(inner, _)| inner)
    };
    match (tag("Code"), tag("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => text.to_owned(),
    }
}

/// Reads one part on a blocking thread; an empty one is the end.
async fn part(reader: impl FnOnce() -> Result<Checked, Trouble> + Send + 'static) -> Result<(Checked, Bytes), Trouble> {
    tokio::task::spawn_blocking(move || {
        let mut reader = reader()?;
        let mut part = vec![0; PART];
        let filled = reader.read(&mut part)?;
        part.truncate(filled);
        Ok((reader, part.into()))
    })
    .await
    .map_err(|_| Trouble::later("the copy was cut short"))?
}

/// Makes the clients: as all of this program, and past any proxy where the store is on this machine.
#[derive(Debug)]
struct Connector {
    direct: bool,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let time = |key: ClientConfigKey| {
            options.get_config_value(&key).and_then(|text| crate::yaml::parse_duration(&text).ok())
        };
        let mut client = builder()
            .timeout(time(ClientConfigKey::Timeout).map_or(TIMEOUT, |asked| asked.max(TIMEOUT)))
            .https_only(options.get_config_value(&ClientConfigKey::AllowHttp).as_deref() != Some("true"));
        if let Some(connect) = time(ClientConfigKey::ConnectTimeout) {
            client = client.connect_timeout(connect);
        }
        if self.direct {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|e| Error::Generic { store: "S3", source: Box::new(e) })?;
        Ok(HttpClient::new(client))
    }
}
