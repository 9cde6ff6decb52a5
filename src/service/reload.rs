//! Watching config and job files: what stands there now, and whether that is new. Blocking; runs on a thread of its own, so
//! that a file system that hangs keeps nobody from planning.
//!
//! Two looks: names, sizes and times every few seconds, and the content's hash every minute, because not every file system
//! tells of changes. A config with errors changes nothing: the last good one stays.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::app::{Place, as_root};
use crate::clock::Clock;
use crate::connection::environment::Environment;
use crate::job::load::{FileText, Jobs, compile_all, read};
use crate::settings::{self, Settings};
use crate::yaml::Problem;

/// Between two looks at names, sizes and times.
pub(super) const LOOK: Duration = Duration::from_secs(2);

/// Between two looks at contents.
const HASH: Duration = Duration::from_secs(60);

/// What stands in config and job folder.
#[derive(Debug)]
pub struct Loaded {
    /// The settings to go on with: the file's, or the last good ones.
    pub settings: Settings,
    /// The job files as read; `None` when the folder cannot be read, or is not looked at (`--follow`).
    pub texts: Option<Vec<FileText>>,
    /// The jobs without errors.
    pub jobs: Jobs,
    /// The config's problems.
    pub config_problems: Vec<Problem>,
}

/// Looks at config and job files.
#[derive(Clone, Debug)]
pub struct Watcher {
    place: Place,
    environment: Environment,
    clock: Clock,
    follow: bool,
    last_good: Settings,
    stamp: Option<[u8; 32]>,
    hash: Option<[u8; 32]>,
    hashed: Instant,
    /// Job files that were there at the last load.
    names: BTreeSet<String>,
    /// Those of them that the last look did not find.
    vanished: BTreeSet<String>,
}

impl Watcher {
    /// A watcher that starts with these settings; the first read counts as news.
    pub fn new(place: Place, settings: Settings, clock: Clock, follow: bool) -> Watcher {
        let environment = settings.environment.clone();
        let (stamp, hash) = (None, None);
        let (names, vanished) = (BTreeSet::new(), BTreeSet::new());
        Watcher {
            place,
            environment,
            clock,
            follow,
            last_good: settings,
            stamp,
            hash,
            hashed: Instant::now(),
            names,
            vanished,
        }
    }

    /// Reads everything.
    pub fn load(&mut self) -> Loaded {
        self.stamp = Some(self.stamps());
        let texts = self.texts();
        self.hash = Some(self.contents(texts.as_ref()));
        self.hashed = Instant::now();
        self.compile(texts)
    }

    /// The job files; `None` when nobody looks at them.
    fn texts(&self) -> Option<Result<Vec<FileText>, Problem>> {
        (!self.follow).then(|| read(&self.place.jobs))
    }

    /// Takes over job files that were read, with the config as it is now.
    fn compile(&mut self, texts: Option<Result<Vec<FileText>, Problem>>) -> Loaded {
        if let Some(Ok(texts)) = &texts {
            self.names = names(texts);
            self.vanished.clear();
        }
        let loaded = settings::load(&self.place.config, self.place.config_named, self.environment.clone(), as_root());
        let broken = loaded.broken();
        if !broken {
            self.last_good = loaded.settings;
        }
        let settings = self.last_good.clone();
        let (texts, jobs) = match texts {
            None => (None, Jobs::default()),
            Some(Err(problem)) => (None, Jobs { problems: vec![problem], ..Jobs::default() }),
            Some(Ok(texts)) => {
                let jobs = compile_all(&texts, &settings.connections, &settings.defaults, self.clock.now());
                (Some(texts), jobs)
            }
        };
        Loaded { settings, texts, jobs, config_problems: loaded.problems }
    }

    /// What is new, if anything is. `asked` = somebody says that something is (SIGHUP).
    pub fn look(&mut self, asked: bool) -> Option<Loaded> {
        let stamp = self.stamps();
        let touched = self.stamp != Some(stamp);
        if !asked && !touched && self.hashed.elapsed() < HASH {
            return None;
        }
        self.stamp = Some(stamp);
        self.hashed = Instant::now();
        let texts = self.texts();
        if let Some(Ok(texts)) = &texts {
            // A checkout takes files away and puts them back: a removal counts when the next look finds it too.
            let vanished: BTreeSet<String> = self.names.difference(&names(texts)).cloned().collect();
            let before = std::mem::replace(&mut self.vanished, vanished);
            if !asked && !self.vanished.is_subset(&before) {
                self.stamp = None;
                return None;
            }
        }
        let hash = Some(self.contents(texts.as_ref()));
        // On request secrets are read anew too, whatever the files say.
        if !asked && self.hash == hash {
            return None;
        }
        self.hash = hash;
        Some(self.compile(texts))
    }

    /// Names, sizes and times of all files.
    fn stamps(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut stamp = |path: &Path| {
            hash.update(path.as_os_str().as_encoded_bytes());
            match path.metadata() {
                Ok(data) => {
                    for number in
                        [data.size(), data.ino(), data.mtime().cast_unsigned(), data.mtime_nsec().cast_unsigned()]
                    {
                        hash.update(number.to_le_bytes());
                    }
                }
                Err(error) => hash.update(error.to_string()),
            }
        };
        stamp(&self.place.config);
        if !self.follow {
            let entries = std::fs::read_dir(&self.place.jobs).into_iter().flatten().flatten();
            let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
            paths.sort();
            for path in &paths {
                stamp(path);
            }
        }
        hash.finalize().into()
    }

    /// Everything that is written there.
    fn contents(&self, texts: Option<&Result<Vec<FileText>, Problem>>) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(std::fs::read(&self.place.config).unwrap_or_default());
        match texts {
            None => {}
            Some(Err(problem)) => hash.update(&problem.message),
            Some(Ok(texts)) => {
                for text in texts {
                    hash.update([0]);
                    hash.update(&text.file);
                    hash.update([0]);
                    match &text.bytes {
                        Ok(bytes) => hash.update(bytes),
                        Err(problem) => hash.update(&problem.message),
                    }
                }
            }
        }
        hash.finalize().into()
    }

    /// Looks again and again, and when `asked` changes, and sends what is new.
    pub async fn watch(self, news: mpsc::Sender<Loaded>, mut asked: watch::Receiver<u64>, stop: CancellationToken) {
        let mut watcher = self;
        loop {
            let now = tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => false,
                changed = asked.changed() => changed.is_ok(),
            };
            let looked = tokio::task::spawn_blocking(move || {
                let loaded = watcher.look(now);
                (watcher, loaded)
            });
            let Ok((back, loaded)) = looked.await else { return };
            watcher = back;
            if let Some(loaded) = loaded
                && news.send(loaded).await.is_err()
            {
                return;
            }
        }
    }
}

fn names(texts: &[FileText]) -> BTreeSet<String> {
    texts.iter().map(|text| text.name.clone()).collect()
}
