//! Copies in an object store: S3's wire over loopback, with a small store of ours that checks what it is sent and can fail.
//!
//! `REPORTD_TEST_S3=http://127.0.0.1:5000` sends the round trip to a real implementation instead, whose bucket `landing` must
//! exist; the others need a store that fails when told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode};
use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::{Attribute, ObjectStoreExt};
use reportd::connection::environment::Environment;
use reportd::delivery::Trouble;
use reportd::delivery::landing::{Source, copy};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::landing::source;

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI-canary";

#[derive(Default)]
struct Stored {
    /// Key -> media type, bytes.
    objects: BTreeMap<String, (String, Bytes)>,
    /// Upload -> key, media type, parts.
    uploads: BTreeMap<String, (String, String, BTreeMap<u32, Bytes>)>,
    aborted: usize,
    calls: Vec<String>,
    /// Statuses that come instead of an effect, for calls that hold this text.
    fail: (String, Vec<u16>),
    begun: usize,
}

struct Store {
    url: String,
    stored: Arc<Mutex<Stored>>,
    _server: AbortOnDropHandle<()>,
}

impl Store {
    async fn start() -> Store {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stored = Arc::new(Mutex::new(Stored::default()));
        let app = axum::Router::new().fallback(answer).with_state(Arc::clone(&stored));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Store { url, stored, _server: AbortOnDropHandle::new(server) }
    }

    fn fail(&self, calls: &str, statuses: &[u16]) {
        self.stored.lock().unwrap().fail = (calls.to_owned(), statuses.to_vec());
    }

    fn environment(&self) -> Environment {
        environment(&self.url)
    }

    fn object(&self, key: &str) -> Option<(String, Bytes)> {
        self.stored.lock().unwrap().objects.get(key).cloned()
    }
}

fn environment(url: &str) -> Environment {
    Environment::of(&[
        ("AWS_ENDPOINT_URL", url),
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_PAGER", "less"),
    ])
}

fn xml(status: u16, body: &str) -> Response<Body> {
    let etag = format!("\"{}\"", &hex::encode(Sha256::digest(body))[..32]);
    let builder = Response::builder().status(status).header("content-type", "application/xml").header("etag", etag);
    builder.body(Body::from(body.to_owned())).unwrap()
}

fn error(status: u16, code: &str) -> Response<Body> {
    // As S3 does, it repeats what it was sent.
    let echo = format!("<AWSAccessKeyId>{KEY}</AWSAccessKeyId><Extra>{SECRET}</Extra>");
    xml(
        status,
        &format!(
            "<Error><Code>{code}</Code><Message>no, {SECRET}, see https://x.example/y?z=1</Message>{echo}</Error>"
        ),
    )
}

async fn answer(State(stored): State<Arc<Mutex<Stored>>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 64 << 20).await.unwrap();
    let header = |name: &str| parts.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let mut stored = stored.lock().unwrap();
    let call = format!("{} {}", parts.method, parts.uri);
    stored.calls.push(call.clone());
    let signed = header("authorization");
    if !signed.starts_with(&format!("AWS4-HMAC-SHA256 Credential={KEY}/")) || !signed.contains("us-east-1/s3") {
        return error(403, "InvalidAccessKeyId");
    }
    if header("x-amz-content-sha256") != hex::encode(Sha256::digest(&body)) {
        return error(400, "XAmzContentSHA256Mismatch");
    }
    if call.contains(&stored.fail.0) && !stored.fail.1.is_empty() {
        let status = stored.fail.1.remove(0);
        return error(status, "Scripted");
    }
    let Some(key) = parts.uri.path().strip_prefix("/landing/").map(str::to_owned) else {
        return error(404, "NoSuchBucket");
    };
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let upload = query.get("uploadId").cloned();
    match (parts.method, upload) {
        (Method::POST, None) if query.contains_key("uploads") => {
            stored.begun += 1;
            let id = format!("upload{}", stored.begun);
            stored.uploads.insert(id.clone(), (key.clone(), header("content-type"), BTreeMap::new()));
            xml(
                200,
                &format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"),
            )
        }
        (Method::PUT, Some(id)) => {
            let Some((_, _, parts)) = stored.uploads.get_mut(&id) else { return error(404, "NoSuchUpload") };
            parts.insert(query["partNumber"].parse().unwrap(), body);
            xml(200, "")
        }
        (Method::POST, Some(id)) => {
            let Some((key, media_type, parts)) = stored.uploads.remove(&id) else { return error(404, "NoSuchUpload") };
            let bytes: Vec<u8> = parts.into_values().flatten().collect();
            stored.objects.insert(key, (media_type, bytes.into()));
            xml(200, "<CompleteMultipartUploadResult><ETag>\"x\"</ETag></CompleteMultipartUploadResult>")
        }
        (Method::DELETE, Some(id)) => {
            stored.aborted += usize::from(stored.uploads.remove(&id).is_some());
            Response::builder().status(StatusCode::NO_CONTENT).body(Body::empty()).unwrap()
        }
        (Method::PUT, None) => {
            stored.objects.insert(key, (header("content-type"), body));
            xml(200, "")
        }
        (Method::GET, None) => match stored.objects.get(&key) {
            Some((media_type, bytes)) => Response::builder()
                .header("content-type", media_type)
                .header("etag", "\"x\"")
                .header("last-modified", "Tue, 03 Mar 2026 00:00:00 GMT")
                .body(Body::from(bytes.clone()))
                .unwrap(),
            None => error(404, "NoSuchKey"),
        },
        _ => error(405, "MethodNotAllowed"),
    }
}

/// A part of 8 MiB and a shorter one.
fn large() -> Vec<u8> {
    (0..2_200_000_u32).flat_map(u32::to_le_bytes).collect()
}

async fn put(url: &str, sources: &[Source], environment: &Environment) -> Result<Option<String>, Trouble> {
    drop(rustls::crypto::ring::default_provider().install_default());
    copy(url, sources, Uuid::from_u128(1), environment).await
}

#[tokio::test]
async fn what_was_copied_is_read_back_with_its_bytes_and_its_media_type() {
    let store = Store::start().await;
    let real = std::env::vars().find(|(name, _)| name == "REPORTD_TEST_S3").map(|(_, url)| url);
    let url = real.as_deref().unwrap_or(&store.url);
    let archive = tempfile::tempdir().unwrap();
    let sources = [source(archive.path(), "report.csv", b"a,b\n1,2\n"), source(archive.path(), "big.csv", &large())];
    let key = format!("{}/2026-03-03 \u{e9}.csv", Uuid::new_v4());
    let told = put(&format!("s3://landing/{key}"), &sources[..1], &environment(url)).await.unwrap();
    assert_eq!(told, Some(format!("s3://landing/{key}, 8 bytes")));
    put(&format!("s3://landing/{key}/"), &sources, &environment(url)).await.unwrap();
    let reader = AmazonS3Builder::new()
        .with_endpoint(url)
        .with_allow_http(true)
        .with_bucket_name("landing")
        .with_access_key_id(KEY)
        .with_secret_access_key(SECRET)
        .build()
        .unwrap();
    for (name, source) in [("", &sources[0]), ("/report.csv", &sources[0]), ("/big.csv", &sources[1])] {
        let path = object_store::path::Path::parse(format!("{key}{name}")).unwrap();
        let found = reader.get(&path).await.unwrap();
        assert_eq!(found.attributes.get(&Attribute::ContentType).unwrap().as_ref(), "text/csv");
        assert!(found.bytes().await.unwrap() == std::fs::read(&source.path).unwrap(), "{name}");
    }
}

#[tokio::test]
async fn a_large_file_goes_in_parts_of_eight_mebibytes_and_a_small_one_at_once() {
    let store = Store::start().await;
    let archive = tempfile::tempdir().unwrap();
    let exact = vec![7; 8 << 20];
    for (name, bytes, calls) in [("s.csv", b"x".to_vec(), 1), ("big.csv", large(), 4), ("exact.csv", exact, 3)] {
        store.stored.lock().unwrap().calls.clear();
        let sources = [source(archive.path(), name, &bytes)];
        put("s3://landing/in/", &sources, &store.environment()).await.unwrap();
        assert_eq!(store.stored.lock().unwrap().calls.len(), calls, "{name}");
        assert!(store.object(&format!("in/{name}")).unwrap().1 == bytes, "{name}");
    }
}

#[tokio::test]
async fn a_damaged_archive_file_changes_nothing_in_the_store() {
    let store = Store::start().await;
    let archive = tempfile::tempdir().unwrap();
    for (bytes, aborted) in [(b"good".to_vec(), 0), (large(), 1)] {
        let right = source(archive.path(), "r.csv", &bytes);
        put("s3://landing/r.csv", std::slice::from_ref(&right), &store.environment()).await.unwrap();
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(&right.path, &damaged).unwrap();
        let refused = put("s3://landing/r.csv", &[right], &store.environment()).await;
        assert!(matches!(refused, Err(Trouble::Refused(_))), "{refused:?}");
        assert!(store.object("r.csv").unwrap().1 == bytes);
        let stored = store.stored.lock().unwrap();
        assert_eq!((stored.aborted, stored.uploads.len()), (aborted, 0), "no part stays behind");
    }
}

#[tokio::test]
async fn a_missing_bucket_and_wrong_keys_need_a_person_and_are_told_without_secrets() {
    let store = Store::start().await;
    let archive = tempfile::tempdir().unwrap();
    let report = [source(archive.path(), "r.csv", b"x")];
    let big = [source(archive.path(), "big.csv", &large())];
    let wrong = store.environment().with(&[("AWS_ACCESS_KEY_ID", "AKIDOTHER")]);
    for (url, sources, environment, code) in [
        ("s3://nowhere/r.csv", &report, store.environment(), "NoSuchBucket"),
        ("s3://nowhere/r.csv", &big, store.environment(), "NoSuchBucket"),
        ("s3://landing/r.csv", &report, wrong, "InvalidAccessKeyId"),
    ] {
        match put(url, sources, &environment).await {
            Err(Trouble::Person(why)) => {
                assert!(why.contains(code) && why.contains(url), "{why}");
                assert!(!why.contains("canary") && !why.contains("z=1"), "{why}");
            }
            other => panic!("{url}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn what_passes_is_overcome_within_the_try_and_what_lasts_is_tried_later() {
    let store = Store::start().await;
    let archive = tempfile::tempdir().unwrap();
    let big = [source(archive.path(), "big.csv", &large())];
    store.fail("partNumber=2", &[503]);
    put("s3://landing/once.csv", &big, &store.environment()).await.unwrap();
    assert!(store.object("once.csv").unwrap().1 == large());
    for calls in ["uploads", "partNumber=2", "POST /landing/r.csv?uploadId"] {
        store.fail(calls, &[500; 9]);
        let later = put("s3://landing/r.csv", &big, &store.environment()).await;
        assert!(matches!(&later, Err(Trouble::Later { why, .. }) if why.contains("Scripted")), "{calls}: {later:?}");
        assert!(store.object("r.csv").is_none() && store.stored.lock().unwrap().uploads.is_empty(), "{calls}");
    }
    let url = store.url.clone();
    drop(store);
    let report = [source(archive.path(), "r.csv", b"x")];
    let later = put("s3://landing/r.csv", &report, &environment(&url)).await;
    assert!(matches!(later, Err(Trouble::Later { .. })), "{later:?}");
}

#[tokio::test]
async fn settings_that_cannot_work_are_told_before_anything_is_sent() {
    let archive = tempfile::tempdir().unwrap();
    let report = [source(archive.path(), "r.csv", b"x")];
    let keys = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let plain = Environment::of(&[("AWS_ENDPOINT_URL", "http://s3.example")]).with(&keys);
    let half = Environment::of(&[("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ("AWS_ACCESS_KEY_ID", KEY)]);
    // The machine is asked for a role, and nobody answers.
    let none =
        Environment::of(&[("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")]);
    for (environment, says) in [(plain, "AWS_ALLOW_HTTP"), (half, "SecretAccessKey"), (none, "no AWS credentials")] {
        match put("s3://landing/r.csv", &report, &environment).await {
            Err(Trouble::Person(why)) => assert!(why.contains(says), "{why}"),
            other => panic!("{says}: {other:?}"),
        }
    }
    for url in ["s3://landing/", "s3:///r.csv", "s3://landing/a/../r.csv", "s3://landing/a//r.csv"] {
        let sources: &[Source] = if url == "s3://landing/" { &[] } else { &report };
        let refused = put(url, sources, &environment("http://127.0.0.1:9")).await;
        assert!(matches!(refused, Err(Trouble::Refused(_))), "{url}: {refused:?}");
    }
}
