//! reportd.yaml, the job files, and what notices need beyond them. Reads secrets to see that they can be read; keeps none.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Check, Ground};
use crate::app::{Files, Place};
use crate::connection::secret::SecretRef;
use crate::delivery::notice::Notice;
use crate::job::load::{Jobs, shown};
use crate::job::{self, series_name};
use crate::job_set;
use crate::run::store::job_set::JobSet;
use crate::status::Broken;
use crate::status::gather::broken_files;
use crate::telemetry::Chain;
use crate::yaml::{Problem, Severity};

const NAME: &str = "config";

/// Broken files, and users of what is missing, that are told one by one.
const MOST: usize = 5;

/// What is wrong with reportd.yaml itself, if it has errors.
pub(super) fn broken(files: &Files, place: &Place) -> Option<Vec<Check>> {
    let found = broken_checks(&files.config_problems, &place.jobs);
    (!found.is_empty()).then_some(found)
}

pub(super) async fn checks(ground: &Ground) -> Vec<Check> {
    let followed = followed(ground).await;
    let jobs = followed.as_ref().unwrap_or(&ground.files.jobs);
    let mut found = broken_checks(&jobs.problems, &ground.jobs);
    if found.is_empty() {
        found.push(good(ground, jobs, followed.is_some()));
    }
    let users = Users::of(ground, jobs);
    found.extend(users.without_mail(ground));
    found.extend(users.unreadable(ground));
    found
}

/// The jobs of the set in force, on a machine that follows it: that one has no folder, and needs none.
async fn followed(ground: &Ground) -> Option<Jobs> {
    if ground.jobs.exists() {
        return None;
    }
    let store = ground.database().await.store()?;
    let asked = tokio::time::timeout(super::LIMIT, store.job_set()).await;
    let set = asked.ok()?.ok().filter(|set| set.version > 0)?;
    let settings = &ground.files.settings;
    Some(job_set::compile(&set, &settings.connections, &settings.defaults, ground.clock.now()))
}

fn good(ground: &Ground, jobs: &Jobs, followed: bool) -> Check {
    let series: usize = jobs.jobs.iter().map(|job| job.series.len()).sum();
    let problems = ground.files.config_problems.iter().chain(&jobs.problems);
    let warnings = problems.filter(|problem| problem.severity == Severity::Warning).count();
    let warnings = match warnings {
        0 => "no warnings".to_owned(),
        n => format!("{} (`reportd validate` shows them)", counted(n, "warning", "warnings")),
    };
    let files = counted(jobs.files, "job file", "job files");
    let of = if followed { " of the set in force" } else { "" };
    let series = if series == 1 { "1 series".to_owned() } else { format!("{series} series") };
    Check::ok(NAME, None, &format!("{files}{of}, {series}, {warnings}"))
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn broken_checks(problems: &[Problem], folder: &Path) -> Vec<Check> {
    let broken = broken_files(problems, folder, &JobSet::default());
    let action = "correct it; `reportd validate` shows every error with its line";
    let one = |broken: &Broken| {
        let more =
            if broken.count > 1 { format!(" (and {} more in this file)", broken.count - 1) } else { String::new() };
        let file = broken.first.split(':').next().map(str::to_owned);
        Check::bad(NAME, file, &format!("{}{more}", broken.first), action)
    };
    let mut found: Vec<Check> = broken.iter().take(MOST).map(one).collect();
    if broken.len() > MOST {
        let message = format!("and {} more with errors", counted(broken.len() - MOST, "file", "files"));
        found.push(Check::bad(NAME, Some(shown(folder)), &message, action));
    }
    found
}

/// Who needs what.
#[derive(Default)]
struct Users {
    email: Vec<String>,
    /// `env:NAME` or `file:PATH` -> what it is, and for whom.
    secrets: BTreeMap<String, Vec<String>>,
}

impl Users {
    fn of(ground: &Ground, jobs: &Jobs) -> Users {
        let settings = &ground.files.settings;
        let mut users = Users::default();
        if let Some(heartbeat) = &settings.heartbeat {
            users.secret(&heartbeat.to_string(), "the heartbeat of the service".to_owned());
        }
        for job in &jobs.jobs {
            if let Some(heartbeat) = &job.heartbeat {
                users.secret(heartbeat, format!("the heartbeat of {}", job.name));
            }
            for series in &job.series {
                let Some(connection) = job::connection(&settings.connections, &series.connection) else { continue };
                let name = series_name(&job.name, &series.connection);
                let telling = job.telling(connection);
                for (_, notice) in telling.deliver.iter().chain(&telling.alert) {
                    users.needs(notice, &name);
                }
            }
        }
        users
    }

    fn needs(&mut self, notice: &Notice, series: &str) {
        match notice {
            Notice::Email(_) if self.email.last().is_none_or(|last| last != series) => {
                self.email.push(series.to_owned());
            }
            Notice::Webhook(webhook) => {
                let url = [&webhook.url].into_iter().filter(|url| url.starts_with("env:") || url.starts_with("file:"));
                for secret in url.chain(&webhook.keys) {
                    self.secret(secret, format!("a webhook of {series}"));
                }
            }
            _ => {}
        }
    }

    fn secret(&mut self, secret: &str, user: String) {
        let users = self.secrets.entry(secret.to_owned()).or_default();
        if !users.contains(&user) {
            users.push(user);
        }
    }

    fn without_mail(&self, ground: &Ground) -> Option<Check> {
        if ground.files.settings.mail.is_some() || self.email.is_empty() {
            return None;
        }
        let message =
            format!("{} to be mailed, and the config has no `mail:`", some(&self.email, "has notices", "have notices"));
        let action = "set `mail:` in the config (url, from), or take the email notices out";
        Some(Check::bad(NAME, Some("mail".to_owned()), &message, action))
    }

    fn unreadable<'a>(&'a self, ground: &'a Ground) -> impl Iterator<Item = Check> + 'a {
        self.secrets.iter().filter_map(|(text, users)| {
            let secret = SecretRef::parse(text, Path::new("/")).ok()?;
            let error = secret.read(&|name| ground.environment.get(name)).err()?;
            let message = format!("{}: {} it", Chain(&error), some(users, "needs", "need"));
            Some(Check::bad(NAME, Some(text.clone()), &message, super::account::READABLE))
        })
    }
}

/// `a needs`, `a and 2 more need`.
fn some(names: &[String], one: &str, many: &str) -> String {
    match names {
        [] => many.to_owned(),
        [only] => format!("{only} {one}"),
        [first, more @ ..] => format!("{first} and {} more {many}", more.len()),
    }
}
