//! The HTTP surface of `serve`: `/healthz` for whoever restarts a process, `/readyz` for whoever sends people to one.
//!
//! An accept loop of its own over hyper, because a check must be answered whatever others do: one request a connection,
//! each connection a few seconds at most, the oldest ended when there are too many. No answer holds a secret, the name of
//! a host or a path of the machine; see [`health`](super::health), which keeps what is said here.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::health::Health;

/// From the accept to the last byte of the answer. A check takes a millisecond.
const CONNECTION_LASTS: Duration = Duration::from_secs(5);
/// Far more than there are checkers, far fewer than there are file descriptors.
const CONNECTIONS: usize = 64;
/// The request's line and headers; hyper's least.
const LONGEST_HEAD: usize = 8 * 1024;
/// For answers in progress when the surface is told to stop.
const FINISH_WITHIN: Duration = Duration::from_secs(1);
/// Out of file descriptors, most likely: others must end first.
const AFTER_A_FAILED_ACCEPT: Duration = Duration::from_millis(100);

/// The surface cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for health checks (--listen names another address)")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Takes the address; port 0 takes any free one.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, source })
}

/// Serves until told to stop; then every connection has ended when it returns. It should be told last: while the
/// process drains, `/readyz` is what says so.
pub async fn serve(listener: TcpListener, health: Health, stop: CancellationToken) {
    serve_each_for(CONNECTION_LASTS, listener, health, stop).await;
}

async fn serve_each_for(lasts: Duration, listener: TcpListener, health: Health, stop: CancellationToken) {
    let service = TowerToHyperService::new(routes(health));
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                failing = false;
                make_room(&mut oldest_first);
                oldest_first.push_back(connections.spawn(connection(stream, service.clone(), lasts)));
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot accept a connection for health checks; trying on");
                }
                sleep(AFTER_A_FAILED_ACCEPT).await;
            }
        }
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    if timeout(FINISH_WITHIN, finish).await.is_err() {
        connections.shutdown().await;
    }
}

/// The oldest is the slowest: an honest one ended long ago.
fn make_room(oldest_first: &mut VecDeque<AbortHandle>) {
    if oldest_first.len() >= CONNECTIONS {
        oldest_first.retain(|connection| !connection.is_finished());
    }
    if oldest_first.len() >= CONNECTIONS
        && let Some(oldest) = oldest_first.pop_front()
    {
        oldest.abort();
    }
}

async fn connection(stream: TcpStream, service: TowerToHyperService<Router>, lasts: Duration) {
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(LONGEST_HEAD);
    // A client that is slow, gone or speaks something else; there is nobody to tell.
    drop(timeout(lasts, http.serve_connection(TokioIo::new(stream), service)).await);
}

fn routes(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .fallback((StatusCode::NOT_FOUND, "there are /healthz and /readyz\n"))
        .method_not_allowed_fallback(|| async { (StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n") })
        .with_state(health)
}

async fn alive(State(health): State<Health>) -> impl IntoResponse {
    let (status, text) = if health.alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the planner's loop has stopped turning\n")
    };
    (status, NOT_STORED, text)
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    let readiness = health.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, NOT_STORED, axum::Json(readiness))
}

const NOT_STORED: [(HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Instant;

    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::task::AbortOnDropHandle;

    use super::super::health::Part;
    use super::*;

    const LASTS: Duration = Duration::from_millis(1500);

    struct Surface {
        address: SocketAddr,
        health: Health,
        stop: CancellationToken,
        server: AbortOnDropHandle<()>,
    }

    impl Surface {
        async fn start() -> Surface {
            let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
            let (address, health, stop) = (listener.local_addr().unwrap(), Health::new(), CancellationToken::new());
            let server = tokio::spawn(serve_each_for(LASTS, listener, health.clone(), stop.clone()));
            Surface { address, health, stop, server: AbortOnDropHandle::new(server) }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        /// The whole answer to raw bytes.
        async fn send(&self, bytes: &str) -> String {
            let mut stream = self.connect().await;
            stream.write_all(bytes.as_bytes()).await.unwrap();
            read(&mut stream).await
        }

        /// Status and body.
        async fn ask(&self, request: &str) -> (u16, String) {
            let answer = self.send(&format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head[9..12].parse().unwrap(), body.to_owned())
        }

        async fn readyz(&self) -> (u16, Value) {
            let (status, body) = self.ask("GET /readyz").await;
            (status, serde_json::from_str(&body).unwrap())
        }
    }

    async fn read(stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        let ended = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        // A connection that was aborted ends with a reset, if it had unread bytes.
        drop(ended.expect("the server ends the connection"));
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn readyz_says_what_is_missing_until_nothing_is_and_again_while_draining() {
        let surface = Surface::start().await;
        let (status, body) = surface.readyz().await;
        assert_eq!((status, &body["ready"], &body["last_pass_at"]), (503, &json!(false), &Value::Null));
        let names: Vec<&String> = body.as_object().unwrap().keys().collect();
        assert_eq!(names, ["ready", "database", "migrations", "planner", "last_pass_at", "draining"]);
        surface.health.trouble(Part::Migrations, None);
        surface.health.passed("2026-11-20T06:30:00Z".parse().unwrap());
        let ready = json!({"ready": true, "database": "ok", "migrations": "ok", "planner": "ok",
            "last_pass_at": "2026-11-20T06:30:00+00:00", "draining": false});
        assert_eq!(surface.readyz().await, (200, ready));
        surface.health.draining();
        let (status, body) = surface.readyz().await;
        assert_eq!((status, &body["ready"], &body["draining"]), (503, &json!(false), &json!(true)));
        assert_eq!(surface.ask("GET /healthz").await, (200, "ok\n".to_owned()));
    }

    #[tokio::test]
    async fn other_paths_are_404_other_methods_405_and_head_has_no_body() {
        let surface = Surface::start().await;
        for path in ["/", "/healthz/", "/readyz/x", "/../etc/passwd", "/metrics"] {
            assert_eq!(surface.ask(&format!("GET {path}")).await.0, 404, "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            assert_eq!(surface.ask(&format!("{method} /readyz")).await.0, 405, "{method}");
        }
        assert_eq!(surface.ask("HEAD /healthz").await, (200, String::new()));
        assert_eq!(surface.ask("HEAD /readyz").await, (503, String::new()));
        let refused = surface.send("DELETE /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(refused.contains("allow: GET,HEAD"), "{refused}");
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_or_no_http_is_refused() {
        let surface = Surface::start().await;
        let long = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(64 * 1024));
        let mut stream = surface.connect().await;
        // The server may close before it has read all.
        drop(stream.write_all(long.as_bytes()).await);
        assert!(!read(&mut stream).await.contains(" 200 "));
        assert!(surface.send("\u{16}\u{3}\u{1} hello\r\n\r\n").await.starts_with("HTTP/1.1 400"));
        assert_eq!(surface.ask("GET /healthz").await.0, 200);
    }

    #[tokio::test]
    async fn slow_clients_neither_hold_the_surface_nor_outlast_their_time() {
        let surface = Surface::start().await;
        let mut slow = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            let mut stream = surface.connect().await;
            stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
            slow.push(stream);
        }
        let began = Instant::now();
        assert_eq!(surface.ask("GET /healthz").await.0, 200);
        assert_eq!(read(&mut slow[0]).await, "", "the oldest made room");
        assert!(began.elapsed() < LASTS * 2 / 3, "{:?}", began.elapsed());
        assert_eq!(read(slow.last_mut().unwrap()).await, "", "nobody waits for ever");
        assert!(began.elapsed() > LASTS * 2 / 3, "the youngest had its time: {:?}", began.elapsed());
    }

    #[tokio::test]
    async fn when_told_to_stop_it_ends_soon_and_gives_the_port_back() {
        let surface = Surface::start().await;
        let _slow = surface.connect().await;
        surface.stop.cancel();
        timeout(Duration::from_secs(4), surface.server).await.expect("it waits for nobody").unwrap();
        listen(surface.address).await.unwrap();
    }

    #[tokio::test]
    async fn a_taken_address_is_named_with_what_to_do() {
        let surface = Surface::start().await;
        let error = listen(surface.address).await.unwrap_err();
        let said = crate::telemetry::Chain(&error).to_string();
        assert!(said.starts_with(&format!("listen on {} ", surface.address)) && said.contains("--listen"), "{said}");
        assert!(said.contains("in use"), "{said}");
    }
}
