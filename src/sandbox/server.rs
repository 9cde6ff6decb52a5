//! The sandbox's wire: accepts connections, finds the operation, records, and acts out the faults of the wire.
//!
//! An accept loop of its own over hyper, because a fault must be able to end a connection without one byte of an
//! answer, which no handler of a framework can. It knows no vendor's rules; each vendor's module turns a request into
//! an answer at once and without waiting, so an effect happens whole or not at all.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, Response, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::call::{Answer, Call, Content, Refusal};
use super::data::{HUGE_PART_BYTES, HUGE_PARTS, huge_part};
use super::fault::{FaultKind, Vendor};
use super::world::{ELSEWHERE, World};
use super::{bik, jaicp, livechat, people};

/// No vendor's request is near it.
const LONGEST_BODY: usize = 1 << 20;
const HANG: Duration = Duration::from_mins(10);
const SLOW_START: Duration = Duration::from_secs(1);
const DRIBBLES: usize = 8;
const BETWEEN_DRIBBLES: Duration = Duration::from_millis(50);
const ERROR_PAGE: &str = "<!doctype html>\n<html><head><title>502 Bad Gateway</title></head>\
    <body><h1>502 Bad Gateway</h1><p>sandbox gateway</p></body></html>\n";

/// Serves until told to stop; then every connection has ended when it returns.
pub(super) async fn serve(listener: TcpListener, world: Arc<World>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&world)));
                }
                // Out of file descriptors, most likely: others must end first.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
        }
    }
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, world: Arc<World>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let reset = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| {
        let (world, reset) = (Arc::clone(&world), Arc::clone(&reset));
        async move {
            let answer = answer(&world, request).await;
            reset.store(matches!(answer, Err(Dropped::Reset)), Ordering::Relaxed);
            answer
        }
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let ended = (&mut connection).await;
    if ended.is_err() && reset.load(Ordering::Relaxed) {
        let stream = connection.into_parts().io.into_inner();
        // Closing with an RST is best effort: without it the client sees the plain end, which is as bad.
        drop(stream.set_zero_linger());
    }
}

/// The connection ends here, without an answer.
#[derive(Debug, thiserror::Error)]
enum Dropped {
    #[error("the sandbox was told to lose the answer")]
    Lost,
    #[error("the sandbox was told to reset the connection")]
    Reset,
    #[error("the request did not arrive whole")]
    Cut,
}

async fn answer(world: &World, request: axum::http::Request<Incoming>) -> Result<Response<Body>, Dropped> {
    let (parts, body) = request.into_parts();
    let announced = parts.headers.get("content-length").and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let body = if announced.is_some_and(|length| length > LONGEST_BODY) {
        None
    } else {
        match to_bytes(Body::new(body), LONGEST_BODY).await {
            Ok(body) => Some(body),
            // Without a length it was too long; with one, the client went away.
            Err(_) if announced.is_none() => None,
            Err(_) => return Err(Dropped::Cut),
        }
    };
    let too_long = body.is_none();
    let call = Call {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: body.unwrap_or_default(),
    };
    let too_long = too_long.then(|| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 1 MiB"));
    let Some(vendor) = vendor_of(&call.path) else {
        if let Some(refusal) = too_long {
            return Ok(send(Answer::new(refusal.status, "text/plain", refusal.message), None));
        }
        if let Some(answer) = people::answer(world, &call) {
            return Ok(send(answer, None));
        }
        let number = world.receive(&call, None, "unknown");
        world.answered(number, 404);
        let answer = Answer::new(StatusCode::NOT_FOUND, "text/plain", "no vendor has this path; see /\n");
        return Ok(send(answer, None));
    };
    let operation = match vendor {
        Vendor::Bik => bik::operation(&call),
        Vendor::LiveChat => livechat::operation(&call),
        Vendor::Jaicp => jaicp::operation(&call),
    };
    let number = world.receive(&call, Some(vendor), operation);
    let fault = world.take_fault(vendor, operation, FaultKind::is_of_the_wire);
    if fault == Some(FaultKind::Reset) {
        return Err(Dropped::Reset);
    }
    let answer = match (fault.and_then(|kind| instead(kind, vendor, operation, &call)), too_long) {
        (Some(answer), _) => answer,
        (None, Some(refusal)) => refused(vendor, operation, &refusal),
        (None, None) => effect(world, vendor, operation, &call),
    };
    match fault {
        Some(FaultKind::Lost) => return Err(Dropped::Lost),
        Some(FaultKind::Hang) => {
            sleep(HANG).await;
            return Err(Dropped::Lost);
        }
        Some(FaultKind::Slow) => sleep(SLOW_START).await,
        _ => {}
    }
    let answer = match fault {
        Some(FaultKind::Html) => Answer::new(StatusCode::OK, "text/html", ERROR_PAGE),
        Some(FaultKind::Empty) => Answer::new(StatusCode::OK, "application/json", ""),
        Some(FaultKind::Garbage) => Answer::new(StatusCode::OK, "application/json", "{\"status\": 200, \"da\u{1}ta"),
        _ => answer,
    };
    world.answered(number, answer.status.as_u16());
    Ok(send(answer, fault))
}

/// Whose path this is, right or wrong.
fn vendor_of(path: &str) -> Option<Vendor> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
    if starts(&["/integrations/", "/files/bik/"]) {
        Some(Vendor::Bik)
    } else if starts(&["/api/", "/reporter/", "/files/jaicp/"]) {
        Some(Vendor::Jaicp)
    } else {
        starts(&["/v1", "/v2", "/v3", "/v4"]).then_some(Vendor::LiveChat)
    }
}

fn effect(world: &World, vendor: Vendor, operation: &str, call: &Call) -> Answer {
    let answer = match vendor {
        Vendor::Bik => bik::answer(world, operation, call),
        Vendor::LiveChat => livechat::answer(world, call),
        Vendor::Jaicp => jaicp::answer(world, operation, call),
    };
    answer.unwrap_or_else(|refusal| refused(vendor, operation, &refusal))
}

fn refused(vendor: Vendor, operation: &str, refusal: &Refusal) -> Answer {
    match vendor {
        Vendor::Bik => bik::refused(operation, refusal),
        Vendor::LiveChat => livechat::refused(refusal),
        Vendor::Jaicp => jaicp::refused(refusal),
    }
}

/// The answers that come instead of any effect.
fn instead(kind: FaultKind, vendor: Vendor, operation: &str, call: &Call) -> Option<Answer> {
    match kind {
        FaultKind::Status { code, retry_after } => {
            let status = StatusCode::from_u16(code).ok()?;
            let reason = status.canonical_reason().unwrap_or("fault");
            let mut answer = refused(vendor, operation, &Refusal::new(status, reason));
            if let Some(seconds) = retry_after {
                answer = answer.with("retry-after", seconds.to_string());
            }
            if status.is_redirection() {
                answer = answer.with("location", format!("https://{ELSEWHERE}{}", call.path));
            }
            Some(answer)
        }
        FaultKind::Inner(status) => {
            let reason = StatusCode::from_u16(status).ok()?.canonical_reason()?;
            Some(Answer::ok(&bik::errors(status, reason)))
        }
        FaultKind::EchoSecret => {
            let header = call.header("authorization").unwrap_or_default();
            let plain = header.strip_prefix("Basic ").and_then(|encoded| STANDARD.decode(encoded).ok());
            let plain = String::from_utf8_lossy(&plain.unwrap_or_default()).into_owned();
            let message = format!("cannot serve {}?{} with '{header}' ({plain})", call.path, call.query);
            Some(refused(vendor, operation, &Refusal::invalid(message)))
        }
        _ => None,
    }
}

fn send(answer: Answer, fault: Option<FaultKind>) -> Response<Body> {
    let parts: Box<dyn Iterator<Item = Bytes> + Send> = match answer.content {
        Content::Huge => Box::new((0..HUGE_PARTS).map(huge_part)),
        Content::Whole(ref whole) => {
            let step = if fault == Some(FaultKind::Slow) { whole.len().div_ceil(DRIBBLES) } else { whole.len() };
            let (whole, step) = (whole.clone(), step.max(1));
            Box::new((0..whole.len()).step_by(step).map(move |at| whole.slice(at..whole.len().min(at + step))))
        }
    };
    let whole_length = match &answer.content {
        Content::Huge => u64::from(HUGE_PARTS * HUGE_PART_BYTES),
        Content::Whole(whole) => whole.len() as u64,
    };
    let (length, body) = match fault {
        Some(FaultKind::Truncated) => (whole_length + 64, cut(parts, whole_length)),
        Some(FaultKind::Slow) => {
            let parts = stream::iter(parts).then(|part| async {
                sleep(BETWEEN_DRIBBLES).await;
                Ok::<_, Infallible>(part)
            });
            (whole_length, Body::from_stream(parts))
        }
        _ => (
            whole_length,
            match answer.content {
                Content::Whole(whole) => Body::from(whole),
                Content::Huge => Body::from_stream(stream::iter(parts.map(Ok::<_, Infallible>))),
            },
        ),
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    if answer.status != StatusCode::NOT_MODIFIED {
        response.headers_mut().insert("content-length", HeaderValue::from(length));
    }
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// The first half of a body, then an end that is none.
fn cut(parts: impl Iterator<Item = Bytes> + Send + 'static, whole_length: u64) -> Body {
    let mut left = usize::try_from(whole_length / 2).unwrap_or(0);
    let half = parts.map_while(move |part| {
        let keep = part.len().min(left);
        left -= keep;
        (keep > 0).then(|| Ok(part.slice(..keep)))
    });
    let end = stream::once(async {
        // Lets what was sent leave before the connection goes.
        sleep(Duration::from_millis(20)).await;
        Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))
    });
    Body::from_stream(stream::iter(half).chain(end))
}
