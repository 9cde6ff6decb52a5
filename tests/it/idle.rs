//! What `serve` costs when nothing is due: statements, counted on the wire, and memory and CPU as the kernel counts them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use crate::harness::Shop;
use crate::verbs::{LIVECHAT, Started};

/// How long is watched.
const WATCH: Duration = Duration::from_secs(10);

/// A way to the database on which every statement is counted.
struct Wire {
    url: String,
    statements: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Wire {
    async fn to(database_url: &str) -> Wire {
        let options: PgConnectOptions = database_url.parse().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut url = url::Url::parse(database_url).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let rest: Vec<_> = url.query_pairs().into_owned().filter(|(key, _)| key != "host").collect();
        url.query_pairs_mut().clear().extend_pairs(rest);
        let statements = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&statements);
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (options, counted) = (options.clone(), Arc::clone(&counted));
                // A connection that is cut is the program's own business.
                tokio::spawn(async move { drop(carry(client, &options, &counted).await) });
            }
        });
        Wire { url: url.into(), statements, _serving: AbortOnDropHandle::new(serving) }
    }

    fn count(&self) -> usize {
        self.statements.load(Ordering::SeqCst)
    }
}

async fn carry(client: TcpStream, to: &PgConnectOptions, statements: &AtomicUsize) -> std::io::Result<()> {
    match to.get_socket() {
        Some(folder) => {
            let server = UnixStream::connect(folder.join(format!(".s.PGSQL.{}", to.get_port()))).await?;
            pipe(client, server, statements).await
        }
        None => pipe(client, TcpStream::connect((to.get_host(), to.get_port())).await?, statements).await,
    }
}

/// Carries both ways until either side ends, and counts what asks the server for something: Query and Execute.
async fn pipe(client: TcpStream, server: impl AsyncRead + AsyncWrite, statements: &AtomicUsize) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    // The first message has no letter; a wish for TLS is refused, since nothing could be counted then.
    let mut start = first(&mut from_client).await?;
    while start[4..] == 80_877_103_u32.to_be_bytes() {
        to_client.write_all(b"N").await?;
        start = first(&mut from_client).await?;
    }
    to_server.write_all(&start).await?;
    let asks = async {
        loop {
            let letter = from_client.read_u8().await?;
            let length = from_client.read_u32().await?;
            let mut body = vec![0; length as usize - 4];
            from_client.read_exact(&mut body).await?;
            if matches!(letter, b'Q' | b'E') {
                statements.fetch_add(1, Ordering::SeqCst);
            }
            to_server.write_all(&[&[letter][..], &length.to_be_bytes(), &body].concat()).await?;
            to_server.flush().await?;
        }
    };
    tokio::select! {
        ended = asks => ended,
        ended = tokio::io::copy(&mut from_server, &mut to_client) => ended.map(drop),
    }
}

async fn first(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    let mut message = length.to_be_bytes().to_vec();
    message.resize(length as usize, 0);
    from.read_exact(&mut message[4..]).await?;
    Ok(message)
}

/// A shop with so many jobs, of which none is due for hours.
async fn shop_with(jobs: usize) -> Shop {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T12:00:00Z").await;
    for n in 0..jobs {
        shop.job(&format!("job-{n}"), &format!("zone: UTC\nschedule: \"H 6 * * *\"\nwindow: yesterday\n{LIVECHAT}"));
    }
    shop
}

async fn serve_over(shop: &Shop, wire: &Wire) -> Started {
    let mut command = shop.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env("DATABASE_URL", &wire.url);
    let serving = Started::new(command);
    serving.until_says("jobs are loaded").await;
    serving.until_http("/readyz", 200).await;
    serving
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_hundred_jobs_and_nothing_due_there_are_about_two_statements_a_second_and_none_for_a_job() {
    let shop = shop_with(100).await;
    let wire = Wire::to(&shop.database_url).await;
    let serving = serve_over(&shop, &wire).await;
    let after_start = wire.count();
    assert!(after_start > 10, "nothing was counted");
    assert_eq!(shop.number("SELECT count(*) FROM series WHERE next_at > reportd_now()").await, 100);
    let before = wire.count();
    tokio::time::sleep(WATCH).await;
    let sent = wire.count() - before;
    println!("{sent} statements in {WATCH:?}; {after_start} for the start");
    // The pulse once a second and the notices every other one; and a look whether a connection is free before each.
    assert!((5..=30).contains(&sent), "{sent} statements in {WATCH:?}");
    let said = serving.stop().await.stderr;
    assert!(!said.contains("no transaction in progress"), "a free connection is rolled back: {said}");
}

/// Resident memory in KiB and CPU time since the start, as Linux counts them.
fn cost(serving: &Started) -> (u64, Duration) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", serving.id())).unwrap();
    let status = read("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let memory = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let stat = read("stat");
    // After the name, which may hold anything, utime and stime are the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    (memory, Duration::from_millis(ticks * 10))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures, on Linux only"]
async fn the_cost_of_a_hundred_and_of_ten_thousand_idle_jobs_is_told() {
    for jobs in [100, 10_000] {
        let shop = shop_with(jobs).await;
        let wire = Wire::to(&shop.database_url).await;
        let started = Instant::now();
        let serving = serve_over(&shop, &wire).await;
        let ready = started.elapsed();
        let (before, (_, cpu)) = (wire.count(), cost(&serving));
        tokio::time::sleep(WATCH).await;
        let (memory, after) = cost(&serving);
        println!(
            "{jobs} jobs: ready after {ready:?}, {} KiB, {:?} of CPU and {} statements in {WATCH:?}",
            memory,
            after.checked_sub(cpu).unwrap(),
            wire.count() - before
        );
        serving.stop().await;
    }
}
