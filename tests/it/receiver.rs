//! Somebody outside who is told things over HTTP: keeps every request, answers as scripted, and can hang.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

/// What was received.
#[derive(Clone, Debug)]
pub struct Got {
    /// Path and query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
    }
}

#[derive(Default)]
struct Desk {
    got: Vec<Got>,
    answers: VecDeque<u16>,
    hangs: bool,
}

/// A server on loopback.
pub struct Receiver {
    desk: Arc<Mutex<Desk>>,
    port: u16,
    _serving: AbortOnDropHandle<()>,
}

async fn take(State(desk): State<Arc<Mutex<Desk>>>, uri: Uri, headers: HeaderMap, body: Bytes) -> StatusCode {
    let (answer, hangs) = {
        let mut desk = desk.lock().unwrap();
        desk.got.push(Got { path: uri.to_string(), headers, body: String::from_utf8(body.to_vec()).unwrap() });
        (desk.answers.pop_front().unwrap_or(200), desk.hangs)
    };
    while hangs && desk.lock().unwrap().hangs {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    StatusCode::from_u16(answer).unwrap()
}

impl Receiver {
    /// One that takes everything.
    pub async fn start() -> Receiver {
        let desk = Arc::<Mutex<Desk>>::default();
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(take).with_state(Arc::clone(&desk));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Receiver { desk, port, _serving: AbortOnDropHandle::new(serving) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The next answers; then 200 again.
    pub fn answers(&self, statuses: &[u16]) {
        self.desk.lock().unwrap().answers.extend(statuses);
    }

    /// Whether it takes requests and never answers.
    pub fn hangs(&self, hangs: bool) {
        self.desk.lock().unwrap().hangs = hangs;
    }

    /// Everything so far.
    pub fn got(&self) -> Vec<Got> {
        self.desk.lock().unwrap().got.clone()
    }

    /// What came to this path.
    pub fn at(&self, path: &str) -> Vec<Got> {
        self.got().into_iter().filter(|got| got.path.split('?').next() == Some(path)).collect()
    }
}
