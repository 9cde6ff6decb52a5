//! What the tests of the vendors' conversations share: jobs, accounts that differ in one setting, a database whose waits are
//! over at once, a bare HTTP client to ask the sandbox what it answered, and a scripted vendor for what the sandbox cannot do.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reportd::sandbox::{Received, credentials};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{Ran, Shop};

/// A BIK job.
pub const ENGAGEMENT: &str = "window: yesterday\nbik: { reportType: Helpdesk, reportName: Agent Engagement, emails: [\"{var.owner}\", lead@north.example] }\n";
/// A LiveChat job.
pub const RATINGS: &str = "window: yesterday\nlivechat: { report: chats/ratings, distribution: day }\n";
/// A JAICP background report.
pub const MESSAGES: &str = "window: yesterday\njaicp:\n  report: messages\n  filters: [{ key: MESSAGE_TIME, type: DATE_TIME_RANGE }]\n  \
     settings: { fileType: CSV }\n";

/// Longest wait for something that another process does.
const SOON: Duration = Duration::from_secs(30);

/// Local noon of the 2nd, 3rd … of January 2026: each gives `yesterday` another day, so another window.
pub fn noon(day: usize) -> String {
    format!("2026-{:02}-{:02}T12:00:00", 1 + (day + 1) / 28, 1 + (day + 1) % 28)
}

impl Shop {
    /// A shop whose runs wait for nothing: whenever one is put off, the database's clock jumps to when it is due.
    pub async fn hurried() -> Shop {
        let shop = Shop::open().await;
        shop.hurry(true).await;
        shop
    }

    /// Whether the database's clock jumps over every wait of a run.
    pub async fn hurry(&self, on: bool) {
        let statements: &[&'static str] = if on {
            &[
                "CREATE OR REPLACE FUNCTION hurry() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     UPDATE instance SET clock_offset = clock_offset + GREATEST(NEW.next_step_at - reportd_now(), interval '0');
                     RETURN NULL;
                 END $$",
                "CREATE TRIGGER hurry AFTER INSERT OR UPDATE OF next_step_at ON runs FOR EACH ROW
                 WHEN (NEW.finished_at IS NULL AND NEW.lease_token IS NULL) EXECUTE FUNCTION hurry()",
            ]
        } else {
            &["DROP TRIGGER hurry ON runs"]
        };
        for statement in statements {
            sqlx::query(*statement).execute(&self.pool).await.unwrap();
        }
    }

    /// (Re)writes reportd.yaml with the accounts of `north` and these settings, each (vendor, key, YAML); "" removes one.
    pub fn accounts(&self, changes: &[(&str, &str, &str)]) {
        let quoted = |url: String| format!("\"{url}\"");
        let mut accounts: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
        let mut set = |vendor, key, value: String| accounts.entry(vendor).or_default().insert(key, value);
        set("bik", "base_url", quoted(self.sandbox.bik_base_url()));
        set("bik", "key", "env:BIK_KEY".into());
        set("bik", "secret", "env:BIK_SECRET".into());
        set("bik", "quiet_emails", "[bi@north.example]".into());
        set("livechat", "base_url", quoted(self.sandbox.livechat_base_url()));
        set("livechat", "token", "env:LIVECHAT".into());
        set("jaicp", "base_url", quoted(self.sandbox.jaicp_base_url()));
        set("jaicp", "token", "env:JAICP".into());
        for vendor in ["bik", "livechat", "jaicp"] {
            set(vendor, "requests_per_second", "1000".into());
            set(vendor, "max_in_flight", "8".into());
        }
        for (vendor, key, value) in changes {
            set(vendor, key, (*value).to_owned());
        }
        let mut text = String::from(
            "connections:\n  north:\n    zone: Asia/Kolkata\n    vars: { owner: asha@north.example, support: [1, 4] }\n",
        );
        for (vendor, settings) in accounts {
            let settings: Vec<_> =
                settings.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}: {v}")).collect();
            text.push_str(&format!("    {vendor}: {{ {} }}\n", settings.join(", ")));
        }
        std::fs::write(self.folder.path().join("reportd.yaml"), text).unwrap();
    }

    /// `run-job … --format json`, which must end so; its run.
    pub async fn job_ends(&self, args: &[&str], code: i32) -> Value {
        let args = [&["run-job", "--format", "json", "--wait", "60s"], args].concat();
        self.run(&args).await.expect(code).json().remove(0)
    }

    /// The kinds and details of a run's events, in order.
    pub async fn events(&self, run: &Value) -> Vec<(String, String)> {
        sqlx::query_as("SELECT kind, detail FROM run_events WHERE run_id = $1::uuid ORDER BY id")
            .bind(run["run_id"].as_str().unwrap())
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    /// How many events of this kind a run has.
    pub async fn count(&self, run: &Value, kind: &str) -> usize {
        self.events(run).await.iter().filter(|(of, _)| of == kind).count()
    }

    /// The archived files of a run, by name.
    pub fn files(&self, run: &Value) -> Vec<(String, Vec<u8>)> {
        let file = |artifact: &Value| {
            let path = artifact["path"].as_str().unwrap();
            let name = path.rsplit('/').next().unwrap().to_owned();
            (name, std::fs::read(self.archive().join(path)).unwrap())
        };
        run["artifacts"].as_array().unwrap().iter().map(file).collect()
    }

    /// What the vendors received of this operation.
    pub fn asked(&self, operation: &str) -> Vec<Received> {
        self.sandbox.received().into_iter().filter(|r| r.operation == operation).collect()
    }

    /// Asks the sandbox once more what it answered to this request: its answers depend on nothing else.
    pub async fn again(&self, received: &Received) -> Vec<u8> {
        let headers: Vec<_> = received.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        fetch(self.sandbox.addr(), &received.method, &received.path, &headers, &received.body).await
    }
}

/// Waits until `found` gives something; fails the test when it takes too long.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut found: impl FnMut() -> F) -> T {
    let looking = async {
        loop {
            if let Some(found) = found().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, looking).await.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}

/// The body of the answer to one request.
async fn fetch(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    for (name, value) in headers.iter().filter(|(name, _)| !["connection", "content-length"].contains(name)) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()));
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let at = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    answer.split_off(at + 4)
}

/// A request that a [`Script`] received.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Method, path and query.
    pub line: String,
    /// The whole head, names in lower case.
    pub head: String,
    /// The body, as text.
    pub body: String,
}

impl Asked {
    /// Whether the request line holds this text.
    pub fn is(&self, text: &str) -> bool {
        self.line.contains(text)
    }

    /// The value of a header, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// The bytes of an HTTP answer with the right length.
pub fn http(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head =
        format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// 200 with this JSON.
pub fn json(body: &Value) -> Vec<u8> {
    http(200, "content-type: application/json\r\n", body.to_string())
}

type Play = Box<dyn Fn(&Asked) -> Vec<u8> + Send + Sync>;

/// A vendor that says what a test tells it to say. Each connection carries one request; an answer of no bytes is a
/// connection that ends without one.
pub struct Script {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    play: Arc<Play>,
    door: Door,
}

/// A port that is ours and either listens or refuses.
enum Door {
    Open(AbortOnDropHandle<()>),
    Shut(TcpSocket),
}

pub fn bound(addr: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap();
    socket
}

impl Script {
    /// A vendor on 127.0.0.1 that answers with what `play` makes of each request.
    pub fn start(play: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> Script {
        let mut script = Script::refusing(Ipv4Addr::LOCALHOST, play);
        script.open();
        script
    }

    /// The same on another address of loopback, whose port refuses every connection until [`Script::open`].
    pub fn refusing(ip: Ipv4Addr, play: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> Script {
        let socket = bound((IpAddr::V4(ip), 0).into());
        let addr = socket.local_addr().unwrap();
        Script { addr, asked: Arc::default(), play: Arc::new(Box::new(play)), door: Door::Shut(socket) }
    }

    /// Listens.
    pub fn open(&mut self) {
        let socket = match std::mem::replace(&mut self.door, Door::Shut(TcpSocket::new_v4().unwrap())) {
            Door::Shut(socket) => socket,
            open @ Door::Open(_) => {
                self.door = open;
                return;
            }
        };
        let listener = socket.listen(64).unwrap();
        let (asked, play) = (Arc::clone(&self.asked), Arc::clone(&self.play));
        self.door = Door::Open(AbortOnDropHandle::new(tokio::spawn(serve(listener, asked, play))));
    }

    /// `http://IP:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// `"http://IP:PORT"` and this path, in quotes for YAML.
    pub fn base(&self, path: &str) -> String {
        format!("\"{}{path}\"", self.url())
    }

    /// What it received whose request line holds this text.
    pub fn asked(&self, text: &str) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.is(text)).cloned().collect()
    }
}

async fn serve(listener: TcpListener, asked: Arc<Mutex<Vec<Asked>>>, play: Arc<Play>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (asked, play) = (Arc::clone(&asked), Arc::clone(&play));
        tokio::spawn(async move {
            // A client that goes away in the middle is its own business.
            drop(converse(stream, &asked, &play).await);
        });
    }
}

async fn converse(mut stream: TcpStream, asked: &Mutex<Vec<Asked>>, play: &Play) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut request = Asked { line: head.lines().next().unwrap_or_default().to_owned(), head, body: String::new() };
    let length: usize = request.header("content-length").map_or(0, |text| text.trim().parse().unwrap());
    while bytes.len() < end + 4 + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
    request.body = String::from_utf8_lossy(&bytes[end + 4..]).into_owned();
    let answer = play(&request);
    asked.lock().unwrap().push(request);
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

/// One answer after the other; the last one again and again.
pub fn in_turn(answers: Vec<Vec<u8>>) -> impl Fn(&Asked) -> Vec<u8> + Send + Sync {
    let next = Mutex::new(0);
    move |_| {
        let mut next = next.lock().unwrap();
        let answer = answers[(*next).min(answers.len() - 1)].clone();
        *next += 1;
        answer
    }
}

/// The sandbox behind another port, so that it can be out of reach while it remembers what it was asked.
pub struct Relay {
    addr: SocketAddr,
    to: SocketAddr,
    door: Door,
}

impl Relay {
    /// A port that refuses every connection until it is opened.
    pub fn refusing(to: SocketAddr) -> Relay {
        let socket = bound((Ipv4Addr::LOCALHOST, 0).into());
        Relay { addr: socket.local_addr().unwrap(), to, door: Door::Shut(socket) }
    }

    /// A base URL that leads to `base` of the sandbox.
    pub fn base(&self, base: &str) -> String {
        format!("\"{}\"", base.replace(&self.to.to_string(), &self.addr.to_string()))
    }

    /// Lets connections through.
    pub fn open(&mut self) {
        let socket = match std::mem::replace(&mut self.door, Door::Shut(TcpSocket::new_v4().unwrap())) {
            Door::Shut(socket) => socket,
            Door::Open(_) => panic!("the relay is open already"),
        };
        let (listener, to) = (socket.listen(64).unwrap(), self.to);
        self.door = Door::Open(AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut stream) = TcpStream::connect(to).await {
                        drop(tokio::io::copy_bidirectional(&mut from, &mut stream).await);
                    }
                });
            }
        })));
    }

    /// Refuses connections again.
    pub async fn shut(&mut self) {
        if let Door::Open(serving) = std::mem::replace(&mut self.door, Door::Shut(TcpSocket::new_v4().unwrap())) {
            serving.abort();
            // Its end closes the listener; only then the port can be bound again.
            drop(serving.await);
        }
        self.door = Door::Shut(bound(self.addr));
    }
}

/// The program's environment with one variable more.
pub async fn run_with(shop: &Shop, args: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut command = shop.command(args);
    command.envs(env.iter().copied());
    crate::harness::run(command).await
}

/// The secrets of the sandbox, as the tests' environment has them.
pub fn livechat_pat() -> String {
    format!("{}:{}", credentials::LIVECHAT_ACCOUNT, credentials::LIVECHAT_TOKEN)
}
