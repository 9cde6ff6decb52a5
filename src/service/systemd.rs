//! The word to systemd, or to whatever speaks its protocol: ready, stopping, how things stand, still alive.
//!
//! Without NOTIFY_SOCKET all of it does nothing. It is a courtesy: that it cannot be said is logged and holds up nothing,
//! so each word has a second at most, off the threads that do the work (the send blocks while the other side does not
//! read). The environment is read by `sd-notify` and never changed; programs that we start must not inherit it, or they
//! speak in our name. Only sockets with a path are reached, not abstract ones (`@…`).

use std::io;
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

const WORD_WITHIN: Duration = Duration::from_secs(1);
/// Words go one at a time and in order; while one is stuck, no second thread waits behind it.
static TURN: Semaphore = Semaphore::const_new(1);
/// What `systemctl status` shows on a line.
const LONGEST_STATUS: usize = 200;

/// Start-up is over: jobs are loaded, the database answers, requests to `--listen` are served.
pub async fn ready() {
    say("ready", || sd_notify::notify(&[NotifyState::Ready])).await;
}

/// We were told to end and are finishing what is in progress.
pub async fn stopping() {
    say("stopping", || sd_notify::notify(&[NotifyState::Stopping])).await;
}

/// One line about how things stand, for `systemctl status`.
pub async fn status(text: &str) {
    let text = one_line(text);
    say("status", move || sd_notify::notify(&[NotifyState::Status(&text)])).await;
}

/// We are alive; to be said once every [`watchdog_interval`], by the loop whose life it vouches for.
pub async fn watchdog() {
    say("watchdog", || sd_notify::notify(&[NotifyState::Watchdog])).await;
}

/// How often [`watchdog`] has to be called: half of WATCHDOG_USEC; `None` when nobody waits for it.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|interval| !interval.is_zero())
}

async fn say(word: &'static str, send: impl FnOnce() -> io::Result<()> + Send + 'static) {
    match timeout(WORD_WITHIN, on_a_thread(send)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(word, %error, "cannot tell the service manager: check NOTIFY_SOCKET of the service");
        }
        Err(_) => tracing::warn!(word, "cannot tell the service manager: it does not read its socket"),
    }
}

/// Not on the runtime's own threads for blocking work: the runtime would wait for them when it ends.
async fn on_a_thread(send: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let turn = TURN.acquire().await.map_err(io::Error::other)?;
    let (sent, outcome) = oneshot::channel();
    thread::Builder::new().name("systemd".to_owned()).spawn(move || {
        // Whoever asked may have gone on.
        drop(sent.send(send()));
        drop(turn);
    })?;
    outcome.await.map_err(io::Error::other)?
}

/// A line break would begin another word of the protocol.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_STATUS).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::path::Path;
    use std::process::{Command, Output};

    use super::*;

    const CHILD: &str = "service::systemd::tests::says_every_word_when_started_by_another_test";

    /// The environment belongs to a process, so the words are said by one of its own: this program with one test.
    #[tokio::test]
    #[ignore = "started by the other tests, with an environment of their choice"]
    async fn says_every_word_when_started_by_another_test() {
        ready().await;
        status("3 runs in flight\nREADY=0").await;
        watchdog().await;
        stopping().await;
        println!("interval={:?}", watchdog_interval());
    }

    fn child(variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", CHILD, "--ignored", "--nocapture"]);
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        command.envs(variables.iter().copied()).output().unwrap()
    }

    fn said(output: &Output) -> String {
        assert!(output.status.success(), "{output:?}");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(stdout.contains("1 passed"), "the child ran no test: {stdout}");
        stdout
    }

    fn received(socket: &UnixDatagram) -> Vec<String> {
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 1024];
        let mut words = Vec::new();
        while let Ok(length) = socket.recv(&mut buffer) {
            words.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        words
    }

    fn socket(folder: &Path) -> (UnixDatagram, String) {
        let path = folder.join("notify");
        (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned())
    }

    #[test]
    fn each_word_arrives_once_in_order_and_a_status_cannot_smuggle_another() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, path) = socket(folder.path());
        let output = child(&[("NOTIFY_SOCKET", &path), ("WATCHDOG_USEC", "30000000")]);
        let words = ["READY=1\n", "STATUS=3 runs in flight READY=0\n", "WATCHDOG=1\n", "STOPPING=1\n"];
        assert_eq!(received(&socket), words);
        assert!(said(&output).contains("interval=Some(15s)"));
    }

    #[test]
    fn without_a_service_manager_nothing_happens() {
        assert!(said(&child(&[])).contains("interval=None"));
    }

    #[test]
    fn a_socket_that_is_gone_and_a_watchdog_that_is_not_ours_hurt_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone").to_str().unwrap().to_owned();
        let variables = [("NOTIFY_SOCKET", gone.as_str()), ("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "1")];
        assert!(said(&child(&variables)).contains("interval=None"));
        for nonsense in ["0", "1e6", "-5", ""] {
            assert!(said(&child(&[("WATCHDOG_USEC", nonsense)])).contains("interval=None"), "{nonsense}");
        }
    }

    #[tokio::test]
    async fn a_service_manager_that_does_not_read_holds_us_up_for_a_second_at_most() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        // What a blocking send does on a full socket, and one that the test can end.
        let blocked = move || held.recv().map_err(io::Error::other);
        let began = std::time::Instant::now();
        tokio::join!(say("watchdog", blocked), say("status", || Ok(())));
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        drop(release);
        let (heard, said) = oneshot::channel();
        say("ready", move || heard.send(()).map_err(|()| io::ErrorKind::Other.into())).await;
        assert_eq!(said.await, Ok(()), "what comes after is said again");
    }
}
