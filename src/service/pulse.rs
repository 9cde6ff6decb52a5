//! The pulse: a beat about every second, upon which the planner asks the database what is due.
//!
//! The beats come from one UTC job of `tokio-cron-scheduler`. It decides nothing: not what is due, nor when it was due.
//! A beat says "look now" and no more, so one that is missed or late costs time and never a fire, and beats that
//! nobody waited for collapse into one.
//!
//! That scheduler can fall silent and stay so: a listener of its ends, an `add` never returns, the wall clock jumps ahead
//! and back. A watchdog on the monotonic clock therefore beats in its place and builds a new one. Each scheduler has a
//! thread and a runtime of its own: dropping that runtime is the only end that leaves none of its tasks behind, and a
//! scheduler that hangs holds up nobody. Failing to start is one more way to be silent, so starting never fails.

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::telemetry::Chain;

/// Five beats missed: more than a busy machine delays one.
const PATIENCE: Duration = Duration::from_secs(5);
/// Its `add` was seen never to return. Shorter than [`PATIENCE`], so that the watchdog's warning can name the cause.
const START_WITHIN: Duration = Duration::from_secs(4);
/// Messages that the scheduler's listeners may lag behind before they end for good. One job makes five a second.
const CHANNEL: usize = 1024;
const EVERY_SECOND: &str = "* * * * * *";

/// Who gave a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The scheduler, about every second.
    Scheduler,
    /// The watchdog, because the scheduler was silent for 5 s.
    Watchdog,
}

/// The source of beats. It ends with [`Pulse::stop`], or when it is dropped.
pub struct Pulse {
    /// Holds one beat at most for whoever asks next.
    beats: Arc<Notify>,
    scheduler: Scheduler,
    patience: Duration,
    /// When the watchdog beats. It stands here and not in [`Pulse::beat`], which `select!` drops and calls again.
    deadline: Instant,
    silent: bool,
}

impl Pulse {
    /// Starts the scheduler; its first beat comes within 1.5 s.
    pub fn start() -> Pulse {
        let beats = Arc::new(Notify::new());
        let scheduler = Scheduler::start(&beats);
        Pulse { beats, scheduler, patience: PATIENCE, deadline: Instant::now() + PATIENCE, silent: false }
    }

    /// Waits for the next beat; at once when there was one since the last call. Dropping the future loses no beat.
    pub async fn beat(&mut self) -> Beat {
        // In this order: whoever comes back after a long pass finds the deadline over, and a beat that came meanwhile.
        tokio::select! {
            biased;
            () = self.beats.notified() => self.heard(),
            () = sleep_until(self.deadline) => self.missed(),
        }
    }

    /// Ends the scheduler and its thread.
    pub fn stop(self) {
        drop(self);
    }

    fn heard(&mut self) -> Beat {
        if self.silent {
            tracing::info!("the scheduler gives the pulse again");
        }
        self.silent = false;
        self.deadline = Instant::now() + self.patience;
        Beat::Scheduler
    }

    fn missed(&mut self) -> Beat {
        if !self.silent {
            let cause = self.scheduler.trouble.get().map_or("none known", String::as_str);
            tracing::warn!(
                cause,
                silent_s = self.patience.as_secs(),
                "the scheduler that gives the pulse is silent: the watchdog beats in its place, and builds a new one \
                 each time; schedules fire up to that much later, none is lost"
            );
        }
        self.silent = true;
        self.scheduler = Scheduler::start(&self.beats);
        self.deadline = Instant::now() + self.patience;
        Beat::Watchdog
    }
}

/// One scheduler on a thread of its own, which ends with this value.
struct Scheduler {
    /// Why it gives no beats, if it knows.
    trouble: Arc<OnceLock<String>>,
    _alive: DropGuard,
}

impl Scheduler {
    fn start(beats: &Arc<Notify>) -> Scheduler {
        let (trouble, ended) = (Arc::new(OnceLock::new()), CancellationToken::new());
        let run = {
            let (beats, trouble, ended) = (Arc::clone(beats), Arc::clone(&trouble), ended.clone());
            move || {
                if let Err(error) = run(beats, &ended) {
                    trouble.get_or_init(|| Chain(&error).to_string());
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("pulse".to_owned()).spawn(run) {
            trouble.get_or_init(|| Chain(&PulseError::Thread(error)).to_string());
        }
        Scheduler { trouble, _alive: ended.drop_guard() }
    }
}

/// Why a scheduler did not start.
#[derive(Debug, thiserror::Error)]
enum PulseError {
    #[error("start a thread for the scheduler")]
    Thread(#[source] std::io::Error),
    #[error("start a runtime for the scheduler")]
    Runtime(#[source] std::io::Error),
    #[error("give the scheduler its job")]
    Job(#[source] JobSchedulerError),
    #[error("the scheduler did not take its job within {} s", START_WITHIN.as_secs())]
    Stuck,
}

/// Runs a scheduler until `ended`; the end of its runtime ends its tasks.
fn run(beats: Arc<Notify>, ended: &CancellationToken) -> Result<(), PulseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(PulseError::Runtime)?;
    runtime.block_on(async {
        tokio::select! {
            () = ended.cancelled() => Ok(()),
            error = timeout(START_WITHIN, schedule(beats)) => match error {
                Ok(Ok(_scheduler)) => {
                    ended.cancelled().await;
                    Ok(())
                }
                Ok(Err(error)) => Err(PulseError::Job(error)),
                Err(_) => Err(PulseError::Stuck),
            },
        }
    })
}

async fn schedule(beats: Arc<Notify>) -> Result<JobScheduler, JobSchedulerError> {
    let scheduler = JobScheduler::new_with_channel_size(CHANNEL).await?;
    let job = Job::new_async_tz(EVERY_SECOND, Utc, move |_, _| {
        beats.notify_one();
        Box::pin(std::future::ready(()))
    })?;
    scheduler.add(job).await?;
    scheduler.start().await?;
    Ok(scheduler)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Pulse {
        /// The scheduler ends, as by a defect of its own; the watchdog does not know.
        fn break_scheduler(&mut self) {
            self.scheduler = Scheduler { trouble: Arc::default(), _alive: CancellationToken::new().drop_guard() };
            // A beat that is on its way already goes nowhere.
            self.beats = Arc::new(Notify::new());
        }

        fn be_patient_for(&mut self, patience: Duration) {
            self.patience = patience;
            self.deadline = Instant::now() + patience;
        }
    }

    async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
        timeout(limit, future).await.expect("nothing came in time")
    }

    #[tokio::test]
    async fn beats_come_about_each_second() {
        let mut pulse = Pulse::start();
        assert_eq!(within(Duration::from_secs(3), pulse.beat()).await, Beat::Scheduler);
        let first = Instant::now();
        for _ in 0..2 {
            assert_eq!(within(Duration::from_secs(3), pulse.beat()).await, Beat::Scheduler);
        }
        assert!(first.elapsed() > Duration::from_millis(900), "two beats in {:?}", first.elapsed());
        pulse.stop();
    }

    #[tokio::test]
    async fn beats_that_nobody_waited_for_are_one_and_an_old_deadline_does_not_come_before_them() {
        let mut pulse = Pulse::start();
        pulse.break_scheduler();
        pulse.be_patient_for(Duration::from_millis(30));
        (0..5).for_each(|_| pulse.beats.notify_one());
        tokio::time::sleep(Duration::from_millis(40)).await;
        assert_eq!(pulse.beat().await, Beat::Scheduler);
        assert_eq!(pulse.beat().await, Beat::Watchdog);
    }

    #[tokio::test]
    async fn the_watchdog_beats_for_a_dead_scheduler_and_a_new_one_takes_over() {
        let mut pulse = Pulse::start();
        pulse.break_scheduler();
        pulse.be_patient_for(Duration::from_millis(50));
        assert_eq!(within(Duration::from_secs(3), pulse.beat()).await, Beat::Watchdog);
        assert!(pulse.silent);
        pulse.be_patient_for(PATIENCE);
        assert_eq!(within(Duration::from_secs(3), pulse.beat()).await, Beat::Scheduler);
        assert!(!pulse.silent);
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_each_time_still_gets_every_beat_and_the_watchdogs() {
        let impatient = async |pulse: &mut Pulse| {
            loop {
                if let Ok(beat) = timeout(Duration::from_millis(5), pulse.beat()).await {
                    return beat;
                }
            }
        };
        let mut pulse = Pulse::start();
        assert_eq!(within(Duration::from_secs(3), impatient(&mut pulse)).await, Beat::Scheduler);
        pulse.break_scheduler();
        pulse.be_patient_for(Duration::from_millis(100));
        assert_eq!(within(Duration::from_secs(3), impatient(&mut pulse)).await, Beat::Watchdog);
    }

    #[tokio::test]
    async fn a_scheduler_ends_with_its_pulse_and_leaves_no_task() {
        let mut pulse = Pulse::start();
        let beats = Arc::downgrade(&pulse.beats);
        assert_eq!(within(Duration::from_secs(3), pulse.beat()).await, Beat::Scheduler);
        pulse.stop();
        within(Duration::from_secs(3), async {
            while beats.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
