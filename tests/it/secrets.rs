//! Canaries: every secret, and every link to a file, holds one marker; vendors repeat them in every place an answer has; all
//! logs are on and all commands are run. Then the marker is looked for in all that was printed, stored and archived.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reportd::connection::environment::Environment;
use reportd::request::Vendor;
use reportd::sandbox::Credentials;
use reportd::vendor::account::Account;
use serde_json::{Value, json};

use crate::harness::{Shop, run};
use crate::smtp::{Act, Rough, Step};
use crate::vendors::{Asked, ENGAGEMENT, MESSAGES, RATINGS, Script, http, noon};
use crate::verbs::Started;

/// In every secret and every link.
const MARK: &str = "cAnArYsEcReT";

const BIK_KEY: &str = "key/+1cAnArYsEcReT1=w";
const BIK_SECRET: &str = "hush/+2cAnArYsEcReT2 x";
const ACCOUNT: &str = "shop-account";
const PAT: &str = "dal:cAnArYsEcReT/+3=p";
const BEARER: &str = "dal:cAnArYsEcReT/+4=b";
const JAICP: &str = "cAnArYsEcReTab:cAnArYsEcReT0123456789abcdef01234567";
const DOWNLOADS: &str = "cAnArYsEcReT/+5=d";

fn credentials() -> Credentials {
    Credentials {
        bik_key: BIK_KEY.into(),
        bik_secret: BIK_SECRET.into(),
        livechat_account: ACCOUNT.into(),
        livechat_token: PAT.into(),
        livechat_bearer: BEARER.into(),
        jaicp_token: JAICP.into(),
    }
}

/// The environment of both shops; what `south` has in files is not in it.
fn environment() -> Vec<(&'static str, String)> {
    vec![
        ("BIK_KEY", BIK_KEY.into()),
        ("BIK_SECRET", BIK_SECRET.into()),
        ("LIVECHAT", format!("{ACCOUNT}:{PAT}")),
        ("JAICP", JAICP.into()),
        ("DOWNLOADS", DOWNLOADS.into()),
    ]
}

/// Every form in which the secrets could come back from the vendor of `job` that was asked with this authorization.
fn forms(job: &str, authorization: &str) -> Vec<String> {
    let secrets: Vec<String> = match job {
        "engagement" => vec![BIK_KEY.into(), BIK_SECRET.into(), format!("{BIK_KEY}:{BIK_SECRET}")],
        "ratings" if authorization.starts_with("Bearer") => vec![BEARER.into()],
        "ratings" => vec![PAT.into(), format!("{ACCOUNT}:{PAT}")],
        _ => vec![JAICP.into(), DOWNLOADS.into()],
    };
    forms_of(secrets)
}

/// The forms in which somebody may repeat these.
fn forms_of(secrets: Vec<String>) -> Vec<String> {
    let mut all = Vec::new();
    for secret in secrets {
        let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let percent = form.replace('+', "%20");
        let lower: String = percent.split('%').enumerate().fold(String::new(), |text, (n, part)| match n {
            0 => part.to_owned(),
            _ => format!("{text}%{}{}", part[..2].to_lowercase(), &part[2..]),
        });
        let base64 = STANDARD.encode(&secret);
        all.extend([secret.replace('/', "\\/"), form, percent, lower, base64.replace('=', ""), base64]);
        all.extend([URL_SAFE_NO_PAD.encode(&secret), secret]);
    }
    all
}

/// The marker as it is, and its base64 in each of the three places in which it can lie in a longer text.
fn marks() -> Vec<String> {
    let encoded = (0..3).map(|shift| {
        let text = STANDARD.encode(format!("{}{MARK}", "-".repeat(shift)));
        // The first and last characters depend on the neighbours.
        text.trim_end_matches('=')[(shift * 8).div_ceil(6)..].chars().take(12).collect()
    });
    std::iter::once(MARK.to_lowercase()).chain(encoded).collect()
}

/// Fails the test when a mark is in `text`. The plain mark is looked for in any case: hosts come back in lower case.
#[track_caller]
fn clean(what: &str, text: &str) {
    let lower = text.to_lowercase();
    for (n, mark) in marks().iter().enumerate() {
        let found = if n == 0 { lower.find(mark.as_str()) } else { text.find(mark.as_str()) };
        if let Some(at) = found {
            let around: String = text.chars().skip(text[..at].chars().count().saturating_sub(300)).take(500).collect();
            panic!("{what} holds a secret:\n{around}");
        }
    }
}

/// A shop with all logs on, whose every word is kept.
struct Spied {
    shop: Shop,
    said: std::sync::Mutex<String>,
    day: AtomicUsize,
    /// What more is in its environment: the secrets of those who are told things.
    told: Vec<(&'static str, String)>,
}

impl Spied {
    async fn open() -> Spied {
        let shop = Shop::hurried().await;
        shop.sandbox.set_credentials(credentials());
        shop.job("engagement", &format!("give_up: 1m\nconnections: all\n{ENGAGEMENT}"));
        shop.job("ratings", &format!("give_up: 1m\nconnections: all\n{RATINGS}"));
        shop.job("messages", &format!("give_up: 1m\nconnections: all\n{MESSAGES}"));
        let spied = Spied { shop, said: std::sync::Mutex::default(), day: AtomicUsize::new(0), told: Vec::new() };
        spied.point_at(None);
        spied
    }

    /// Two shops at the sandbox or at a script: `north` with its secrets in variables, `south` with them in files.
    fn point_at(&self, script: Option<&Script>) {
        let sandbox = &self.shop.sandbox;
        let [bik, livechat, jaicp] = match script {
            None => [sandbox.bik_base_url(), sandbox.livechat_base_url(), sandbox.jaicp_base_url()],
            Some(script) => ["/bik", "/livechat", "/jaicp"].map(|path| format!("{}{path}", script.url())),
        };
        let file = |name: &str, text: &str| std::fs::write(self.shop.folder.path().join(name), text).unwrap();
        file("bik-token", &format!("Basic {}", STANDARD.encode(format!("{BIK_KEY}:{BIK_SECRET}"))));
        file("bearer", BEARER);
        file("jaicp", JAICP);
        let more = "requests_per_second: 1000, max_in_flight: 100";
        let text = format!(
            "connections:\n  north:\n    zone: Asia/Kolkata\n    vars: {{ owner: asha@north.example }}\n    \
             bik: {{ base_url: \"{bik}\", key: env:BIK_KEY, secret: env:BIK_SECRET, quiet_emails: [bi@north.example], {more} }}\n    \
             livechat: {{ base_url: \"{livechat}\", token: env:LIVECHAT, {more} }}\n    \
             jaicp: {{ base_url: \"{jaicp}\", token: env:JAICP, download_headers: {{ x-key: env:DOWNLOADS }}, gone_grace: 0, {more} }}\n  \
             south:\n    zone: Europe/Berlin\n    vars: {{ owner: ben@south.example }}\n    \
             bik: {{ base_url: \"{bik}\", token: file:bik-token, quiet_emails: [bi@south.example], {more} }}\n    \
             livechat: {{ base_url: \"{livechat}\", token: file:bearer, auth: bearer, {more} }}\n    \
             jaicp: {{ base_url: \"{jaicp}\", token: file:jaicp, download_headers: {{ x-key: env:DOWNLOADS }}, gone_grace: 0, {more} }}\n"
        );
        std::fs::write(self.shop.folder.path().join("reportd.yaml"), text).unwrap();
    }

    /// Runs a command with every log on, keeps all it says, and returns its stdout.
    async fn spy(&self, args: &[&str]) -> String {
        let mut command = self.shop.command(args);
        command.args(["--log-format", "json"]).env("RUST_LOG", "trace").envs(environment()).envs(self.told.clone());
        let ran = run(command).await;
        assert!(args[0] != "run-job" || ran.stderr.len() > 2000, "the logs are on: {}", ran.stderr);
        clean(&format!("stdout of {args:?}"), &ran.stdout);
        clean(&format!("stderr of {args:?}"), &ran.stderr);
        self.said.lock().unwrap().push_str(&ran.stdout);
        ran.stdout
    }

    /// One window of a job, for both shops.
    async fn job(&self, job: &str) -> Vec<Value> {
        let at = noon(self.day.fetch_add(1, Ordering::SeqCst));
        let out = self.spy(&["run-job", job, "--at", &at, "--wait", "60s", "--format", "json"]).await;
        let runs: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(runs.len(), 2, "{runs:?}");
        runs
    }

    /// Every command that tells of runs, in both forms; then every row of every table, and the archive.
    async fn look_everywhere(&self) {
        for form in ["text", "json"] {
            for args in [
                vec!["validate"],
                vec!["plan"],
                vec!["runs"],
                vec!["status"],
                vec!["why", "engagement", "--at", "2025-03-03"],
                vec!["pause", "engagement"],
                vec!["resume", "engagement"],
                vec!["connections"],
                vec!["deliveries"],
                vec!["archive", "verify"],
            ] {
                self.spy(&[&args[..], &["--format", form]].concat()).await;
            }
        }
        let runs: Vec<(String,)> =
            sqlx::query_as("SELECT id::text FROM runs").fetch_all(&self.shop.pool).await.unwrap();
        for (n, (id,)) in runs.iter().enumerate() {
            self.spy(&["show", id, "--format", if n % 2 == 0 { "text" } else { "json" }]).await;
        }
        let tables: Vec<String> =
            sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")
                .fetch_all(&self.shop.pool)
                .await
                .unwrap();
        assert!(tables.len() >= 9, "{tables:?}");
        for table in tables {
            let sql = format!("SELECT COALESCE(string_agg(t::text, E'\\n'), '') FROM {table} t");
            let rows: String = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&self.shop.pool).await.unwrap();
            clean(&format!("table {table}"), &rows);
        }
        names_and_manifests(&self.shop.archive());
    }
}

/// Looks at the names of all files of the archive, and into those that reportd wrote itself. Reports are the vendor's.
fn names_and_manifests(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        clean("a name in the archive", &entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            names_and_manifests(&entry.path());
        } else if ["manifest.json", "reportd.json"].contains(&&*entry.file_name().to_string_lossy()) {
            clean("a manifest", &std::fs::read_to_string(entry.path()).unwrap());
        }
    }
}

#[test]
fn a_secret_is_found_in_every_form_in_which_it_could_leak() {
    let requests = [("engagement", ""), ("ratings", "Basic"), ("ratings", "Bearer"), ("messages", "")];
    for text in requests.iter().flat_map(|(job, authorization)| forms(job, authorization)) {
        let found = std::panic::catch_unwind(|| clean("this", &format!("{{\"a\": \"x {text} y\"}}")));
        assert!(found.is_err(), "{text}");
    }
    clean("nothing", "an ordinary text");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_leaves_in_ordinary_work_or_when_the_sandbox_repeats_it() {
    let spied = Spied::open().await;
    for job in ["engagement", "ratings", "messages"] {
        let runs = spied.job(job).await;
        assert!(runs.iter().all(|run| ["archived", "empty"].contains(&run["state"].as_str().unwrap())), "{runs:?}");
    }
    for (job, operation) in [
        ("engagement", "bik.generateReport"),
        ("engagement", "bik.getReportById"),
        ("engagement", "bik.download"),
        ("ratings", "livechat.report"),
        ("messages", "jaicp.create"),
        ("messages", "jaicp.task"),
        ("messages", "jaicp.download"),
    ] {
        spied.shop.fault(&format!("{operation}=echo-secret:2"));
        let runs = spied.job(job).await;
        assert!(runs.iter().all(|run| run["state"] == "failed"), "{operation}: {runs:?}");
        let message = runs[0]["failure"]["message"].as_str().unwrap();
        assert!(operation.ends_with("download") || message.contains("***"), "{operation}: {message}");
    }
    spied.look_everywhere().await;
}

/// What one vendor answers to a first call, a poll and a download.
type Says = fn(&str) -> [Vec<u8>; 3];

fn said(status: u16, body: &Value) -> Vec<u8> {
    http(status, "content-type: application/json\r\n", body.to_string())
}

fn ids() -> u64 {
    static IDS: AtomicUsize = AtomicUsize::new(1);
    IDS.fetch_add(1, Ordering::SeqCst) as u64
}

fn bik_created() -> Vec<u8> {
    said(200, &json!({ "status": 200, "success": true, "data": { "reportHistoryId": ids() } }))
}

fn bik_polled(word: &str, link: &str) -> Vec<u8> {
    said(200, &json!({ "status": 200, "success": true, "data": { "reportStatus": word, "downloadLink": link } }))
}

fn jaicp_created() -> Vec<u8> {
    said(200, &json!({ "taskId": format!("t-{}", ids()), "status": "CREATED" }))
}

fn jaicp_polled(word: &str, link: &str) -> Vec<u8> {
    said(200, &json!({ "status": word, "fileUrl": link, "writeCount": 1, "totalCount": 2 }))
}

/// Each way in which a vendor could repeat `x`, a secret in one form: job, answers, and the state that comes of it.
fn ways() -> Vec<(&'static str, &'static str, Says)> {
    vec![
        ("engagement", "failed", |x| {
            [said(400, &json!({ "status": 400, "errors": [{ "message": x }, x] })), vec![], vec![]]
        }),
        ("engagement", "failed", |x| {
            [said(200, &json!({ "status": "400", "errors": [{ "message": x }] })), vec![], vec![]]
        }),
        ("engagement", "failed", |x| [said(200, &json!({ "success": false, "errors": [x] })), vec![], vec![]]),
        ("engagement", "held", |x| [http(502, "", format!("<html>{x}</html>")), vec![], vec![]]),
        ("engagement", "held", |x| [http(302, &format!("location: https://a.example/{MARK}\r\n"), x), vec![], vec![]]),
        ("engagement", "held", |x| {
            [said(200, &json!({ "status": 200, "data": { "reportHistoryId": x } })), vec![], vec![]]
        }),
        ("engagement", "failed", |_| {
            [said(400, &json!({ "errors": [format!("see https://f.example/{MARK}.csv?t={MARK}")] })), vec![], vec![]]
        }),
        // A secret that lies across the place where a long body is cut.
        ("engagement", "held", |x| [http(500, "", format!("{}{x}", "-".repeat(1024 - x.len() / 2))), vec![], vec![]]),
        ("engagement", "held", |x| [http(500, "", x.repeat(4200 / x.len())), vec![], vec![]]),
        ("engagement", "failed", |x| [bik_created(), bik_polled(x, ""), vec![]]),
        ("engagement", "failed", |x| [bik_created(), said(400, &json!({ "errors": [{ "message": x }] })), vec![]]),
        ("engagement", "failed", |x| [bik_created(), bik_polled("COMPLETED", &format!("/f/{x}")), http(404, "", x)]),
        ("engagement", "failed", |x| {
            [bik_created(), bik_polled("COMPLETED", &format!("/f?t={x}")), http(200, "", format!("<html>{x}"))]
        }),
        ("engagement", "failed", |x| [bik_created(), bik_polled("COMPLETED", &format!("/f?t={x}")), http(422, "", x)]),
        ("engagement", "failed", |x| {
            [bik_created(), bik_polled("COMPLETED", &format!("ht tp:// {x}")), http(404, "", x)]
        }),
        ("engagement", "failed", |x| {
            let to = format!("location: /{MARK}\r\nx-told: {MARK}\r\n");
            [bik_created(), bik_polled("COMPLETED", "/f"), http(302, &to, x)]
        }),
        ("engagement", "waiting", |x| {
            [bik_created(), bik_polled("COMPLETED", &format!("https://u:{MARK}@a.example/{x}")), vec![]]
        }),
        ("engagement", "archived", |_| {
            [bik_created(), bik_polled("COMPLETED", &format!("/{MARK}.csv")), http(200, "", "a\r\n1\r\n")]
        }),
        ("ratings", "failed", |x| {
            [said(400, &json!({ "error": { "type": "validation", "message": x } })), vec![], vec![]]
        }),
        ("ratings", "failed", |x| [said(418, &json!({ "error": { "type": x, "message": x } })), vec![], vec![]]),
        ("ratings", "failed", |x| {
            let error = json!({ "type": "misdirected_request", "message": "m", "data": { "region": x } });
            [said(421, &json!({ "error": error })), vec![], vec![]]
        }),
        ("ratings", "archived", |x| {
            let body = json!({ "records": { "d": { "chats": 1 } }, "request": { "timezone": x } }).to_string();
            [http(200, &format!("legacy: {x}\r\ndeprecation: https://a.example/{x}\r\n"), body), vec![], vec![]]
        }),
        ("messages", "failed", |x| [said(400, &json!({ "error": x, "message": x, "args": [x] })), vec![], vec![]]),
        ("messages", "failed", |x| {
            [http(404, "", format!("no such path /reporter/p/{x}/reports/messages")), vec![], vec![]]
        }),
        ("messages", "failed", |x| [jaicp_created(), jaicp_polled(x, x), vec![]]),
        ("messages", "failed", |_| [said(200, &json!({ "taskId": JAICP, "status": "CREATED" })), vec![], vec![]]),
        ("messages", "failed", |x| [jaicp_created(), http(404, "", format!("https://a.example/p/{x}/tasks")), vec![]]),
        ("messages", "failed", |x| [jaicp_created(), jaicp_polled("COMPLETED", &format!("/f/{x}")), http(403, "", x)]),
        ("messages", "waiting", |x| {
            [jaicp_created(), jaicp_polled("COMPLETED", &format!("https://a.example/{x}")), vec![]]
        }),
        // Last, since they open the breakers: 401 of each.
        ("engagement", "queued", |x| {
            [said(401, &json!({ "status": 401, "errors": [{ "message": x }] })), vec![], vec![]]
        }),
        ("ratings", "queued", |x| {
            [said(401, &json!({ "error": { "type": "authentication", "message": x } })), vec![], vec![]]
        }),
        ("messages", "queued", |x| [said(403, &json!({ "error": x })), vec![], vec![]]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_leaves_when_a_vendor_repeats_it_in_any_place_of_an_answer() {
    let spied = Spied::open().await;
    for (n, (job, state, says)) in ways().into_iter().enumerate() {
        let script = Script::start(move |asked: &Asked| {
            // One form in every place, then another in every place.
            let forms = forms(job, asked.header("authorization").unwrap_or_default());
            let [first, poll, download] = says(&forms[n % forms.len()]);
            match asked {
                a if a.is("getReportById") || a.is("/reports/tasks/") => poll,
                a if a.is("POST") => first,
                _ => download,
            }
        });
        spied.point_at(Some(&script));
        let runs = spied.job(job).await;
        assert!(!script.asked("").is_empty());
        assert!(runs.iter().all(|run| run["state"] == state), "way {n}, {job}: {runs:#?}");
    }
    spied.look_everywhere().await;
    let open = spied.spy(&["connections"]).await;
    assert_eq!(open.matches("open: ").count(), 6, "{open}");
    // The checks above looked at something: the vendors' words are there, blacked out.
    assert!(spied.said.lock().unwrap().matches("***").count() > 20);
}

const MAIL_USER: &str = "cAnArYsEcReT-u/+7@shop";
const MAIL_PASSWORD: &str = "pw cAnArYsEcReT/+8=m";
/// `whsec_` and the base64 of a text that holds the marker.
fn hook_key() -> String {
    format!("whsec_{}", STANDARD.encode(format!("0123456789-{MARK}-0123456789")))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_those_who_are_told_leaves_when_they_repeat_it_in_any_place_of_an_answer() {
    let mut spied = Spied::open().await;
    // It says back the whole URL and every form of every part of it, and of the key.
    let script = Script::start(|asked| {
        let path = asked.line.split(' ').nth(1).unwrap().to_owned();
        let (folder, query) = path.split_once("?token=").unwrap_or((&path, ""));
        let mut secrets: Vec<String> =
            folder.split('/').filter(|part| part.contains(MARK)).map(str::to_owned).collect();
        secrets.extend([folder.to_owned(), query.to_owned(), query.replace("%2B", "+")]);
        let host = asked.header("host").unwrap();
        secrets.extend([format!("http://{host}{path}"), path]);
        http(410, &format!("x-echo: {MARK}\r\n"), forms_of(secrets).join(" "))
    });
    let rough = Rough::start().await;
    let url = |path: &str| format!("{}/{path}/{MARK}-segment-0123/end?token={MARK}/%2B9", script.url());
    spied.told = vec![
        ("MAIL_USER", MAIL_USER.into()),
        ("MAIL_PASSWORD", MAIL_PASSWORD.into()),
        ("HOOK", url("hook")),
        ("HOOK_KEY", hook_key()),
        ("PING", url("ping")),
    ];
    let file = spied.shop.folder.path().join("reportd.yaml");
    let config = std::fs::read_to_string(&file).unwrap();
    let mail = format!(
        "mail: {{ url: \"{}\", from: a@shop.example, username: env:MAIL_USER, password: env:MAIL_PASSWORD }}\nheartbeat: env:PING\n",
        rough.url()
    );
    std::fs::write(&file, config + &mail).unwrap();
    let notices = |on: &str| {
        format!(
            "- on: [{on}]\n    email: ops@shop.example\n  - on: [{on}]\n    webhook: {{ url: env:HOOK, keys: [env:HOOK_KEY] }}\n"
        )
    };
    let (deliver, alert) = (notices("manual, schedule"), notices("manual"));
    spied.shop.job("ratings", &format!("connections: all\ndeliver:\n  {deliver}alert:\n  {alert}{RATINGS}"));

    // What AUTH PLAIN sends, and each part of it, in every form, by the server at every step.
    let plain = format!("\0{MAIL_USER}\0{MAIL_PASSWORD}");
    let echo = forms_of(vec![plain, MAIL_USER.into(), MAIL_PASSWORD.into()]);
    let echo = echo.iter().map(|form| form.replace(['\r', '\n', '\0'], " ")).collect::<Vec<_>>();
    let answer = |code: &str| -> &'static str {
        let lines: Vec<String> = echo.chunks(2).map(|two| format!("{code}-{}", two.join(" "))).collect();
        Box::leak(format!("{}\r\n{code} no", lines.join("\r\n")).into_boxed_str())
    };
    rough.fault(Step::End, Act::Answer(answer("554")));
    spied.job("ratings").await;
    spied.shop.fault("livechat.report=400:2");
    spied.job("ratings").await;
    let failed = "SELECT count(*) FROM deliveries WHERE state = 'failed'";
    // Two shops' reports and one trouble, each by mail and by webhook.
    assert_eq!(spied.shop.number(failed).await, 6);
    let id: String = spied.shop.one("SELECT id::text FROM deliveries WHERE kind = 'email' LIMIT 1").await;
    for (step, code) in [(Step::Greeting, "554"), (Step::Auth, "535"), (Step::From, "550"), (Step::Rcpt, "451")] {
        rough.behave();
        rough.fault(step, Act::Answer(answer(code)));
        let shown = spied.spy(&["delivery", "retry", &id]).await;
        assert!(shown.contains("***"), "{step:?}: {shown}");
    }
    let runs = spied.shop.one::<String>("SELECT id::text FROM runs LIMIT 1").await;
    spied.spy(&["show", &runs, "--format", "text"]).await;

    // The service: its own heartbeat, a job's, and all the rest in another process.
    let job =
        format!("connections: [north]\nschedule: \"0 * * * *\"\nheartbeat: env:PING\ndeliver:\n  {deliver}{RATINGS}");
    spied.shop.job("ratings", &job.replace("yesterday", "previous_hour"));
    let mut command = spied.shop.command(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.env("RUST_LOG", "trace").envs(environment()).envs(spied.told.clone());
    let serving = Started::new(command);
    serving.until_says("jobs are loaded").await;
    spied.shop.advance(Duration::from_secs(3600)).await;
    spied.shop.until_count("SELECT count(*) FROM deliveries WHERE kind = 'heartbeat' AND state = 'failed'", 1).await;
    spied.shop.until_count("SELECT count(*) FROM deliveries WHERE kind = 'webhook' AND state = 'failed'", 4).await;
    let ran = serving.stop().await;
    assert!(!script.asked("/ping/").is_empty() && ran.stderr.len() > 10_000);
    clean("the service's logs", &format!("{}{}", ran.stdout, ran.stderr));
    spied.look_everywhere().await;
    assert!(spied.said.lock().unwrap().matches("***").count() > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_an_answer_to_a_wrong_config() {
    let spied = Spied::open().await;
    let file = spied.shop.folder.path().join("reportd.yaml");
    for bad in [
        format!("connections:\n  north:\n    bik: {{ key: {MARK}, secret: env:X }}\n"),
        format!("connections:\n  north:\n    livechat:\n      token: \"{MARK}:{MARK}\"\n      auth: patt\n"),
        format!("database: postgres://u:{MARK}@127.0.0.1:1/db\nconnections: {{ north: {{ zone: Nowhere }} }}\n"),
        format!("heartbeat: https://ping.example/{MARK}\n"),
        format!(
            "mail: {{ url: \"smtps://mail.example:465\", from: a@b.example, username: env:U, password: {MARK} }}\n"
        ),
    ] {
        std::fs::write(&file, &bad).unwrap();
        for args in [
            vec!["validate"],
            vec!["validate", "--format", "json"],
            vec!["validate", "--format", "github"],
            vec!["runs"],
            vec!["status"],
        ] {
            let mut command = spied.shop.command(&args);
            command.env("RUST_LOG", "trace");
            let ran = run(command).await;
            clean(&format!("{args:?} of {bad}"), &format!("{}{}", ran.stdout, ran.stderr));
            assert!(ran.code != Some(0) || bad.starts_with("database"), "{args:?} of {bad}: {ran:?}");
        }
    }
    // A database that cannot be reached, and one whose URL is none.
    std::fs::remove_file(&file).unwrap();
    for url in
        [format!("postgres://u:{MARK}@127.0.0.1:1/db"), format!("postgres//{MARK}"), format!("postgres://u:{MARK}@[")]
    {
        let mut command = spied.shop.command(&["runs"]);
        command.env("DATABASE_URL", &url).env("RUST_LOG", "trace");
        let ran = run(command).await;
        assert!(matches!(ran.code, Some(1 | 2)), "{ran:?}");
        clean("a database error", &format!("{}{}", ran.stdout, ran.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_debug_form_of_settings_and_accounts() {
    let spied = Spied::open().await;
    let environment = environment();
    let environment: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let path = spied.shop.folder.path().join("reportd.yaml");
    let loaded = reportd::settings::load(&path, true, Environment::of(&environment), false);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    clean("settings", &format!("{0:?}{0:#?}", loaded.settings));
    for connection in &loaded.settings.connections {
        for vendor in Vendor::ALL {
            let account = Account::new(connection, vendor, &loaded.settings.environment, b"salt").unwrap();
            let secrets = account.secrets().unwrap();
            let job = [(Vendor::Bik, "engagement"), (Vendor::Livechat, "ratings"), (Vendor::Jaicp, "messages")]
                .into_iter()
                .find_map(|(of, job)| (of == vendor).then_some(job));
            let bearer = if connection.name == "south" { "Bearer" } else { "Basic" };
            for form in forms(job.unwrap(), bearer) {
                clean("a redacted text", &secrets.redact(&format!("about {form}, and {form}{form}: x")));
            }
            clean("an account", &format!("{account:?}{account:#?}{secrets:?}{secrets:#?}"));
        }
    }
}
