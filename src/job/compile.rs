//! [`JobFile`] -> [`Job`], with every problem of the file, not the first.
//!
//! Ends by resolving the job once for each of its connections with a sample window, so that a job that compiles can run:
//! addresses that come from variables are checked here, not at the vendor.

use chrono::NaiveDate;

use super::ask::{Ask, compile_bik, compile_jaicp, compile_livechat};
use super::file::{JobFile, WindowFile, Words};
use super::notice::file::NoticeFile;
use super::notice::{self, List, NoticeRule};
use super::policy::{PartialPolicy, PolicyFields, compile_retain, keep, parse_date, parse_zone};
use super::resolve::{self, Mailing};
use super::schedule::Cron;
use super::{Defaults, Job, Retain, Series, connection, is_name, series_name};
use crate::connection::Connection;
use crate::request::Vendor;
use crate::request::waiver::Waiver;
use crate::request::window::WindowRule;
use crate::template::{Template, Tree};
use crate::yaml::{Finding, Path, did_you_mean};

struct Compiler<'a> {
    name: &'a str,
    file: &'a JobFile,
    connections: &'a [Connection],
    defaults: &'a Defaults,
    out: &'a mut Vec<Finding>,
    root: Path,
}

/// Compiles one file. `None` when the job cannot run; `out` then holds at least one error.
pub fn compile(
    name: &str,
    file: &JobFile,
    connections: &[Connection],
    defaults: &Defaults,
    out: &mut Vec<Finding>,
) -> Option<Job> {
    Compiler { name, file, connections, defaults, out, root: Path::root() }.job()
}

impl Compiler<'_> {
    fn error(&mut self, path: Path, message: impl Into<String>) {
        self.out.push(Finding::error(path, message.into()));
    }

    fn job(&mut self) -> Option<Job> {
        let errors_before = self.errors();
        if !is_name(self.name) {
            let message = format!("the file's stem '{}' is the job's name: [a-z0-9-], 1 to 64 characters", self.name);
            self.error(Path::root(), message);
        }
        let ask = self.ask();
        let vendor = ask.as_ref().map(Ask::vendor).or_else(|| self.vendor_key());
        let window = self.window();
        let file = self.file;
        if file.schedule.is_some() && file.window.is_none() {
            self.error(self.root.key("schedule"), "a scheduled job needs 'window', such as window: yesterday");
        }
        let connections = vendor.map(|v| self.connections(v)).unwrap_or_default();
        let series = self.series(&connections);
        let policy = PartialPolicy::compile(policy_fields(file), &self.root, self.out);
        let since = keep(file.since.as_deref().map(parse_date), "since", &self.root, self.out);
        let waivers = self.waivers();
        let was = self.was();
        let deliver = self.notices(file.deliver.as_deref(), &self.defaults.deliver, List::Deliver, &connections);
        let alert = self.notices(file.alert.as_deref(), &self.defaults.alert, List::Alert, &connections);
        let heartbeat = notice::heartbeat(file.heartbeat.as_deref(), &self.defaults.root, self.out);
        if file.paused.as_ref().is_some_and(|reason| reason.trim().is_empty()) {
            self.error(self.root.key("paused"), "paused needs a reason, such as paused: \"shop closed\"");
        }
        let retain = compile_retain(file.retain.as_ref(), &self.root.key("retain"), self.out);
        if let Some(ask) = &ask {
            self.check_vars(ask, &connections);
        }
        let job = Job {
            name: self.name.to_owned(),
            description: file.description.clone(),
            series,
            window,
            since,
            policy: policy.over(&self.defaults.policy, vendor?),
            ask: ask?,
            deliver,
            alert,
            heartbeat,
            refetch: file.refetch == Some(true),
            paused: file.paused.clone(),
            waivers,
            was,
            retain: Retain {
                artifacts: retain.artifacts.or(self.defaults.retain.artifacts),
                revisions: retain.revisions.or(self.defaults.retain.revisions),
                events: retain.events.or(self.defaults.retain.events),
            },
        };
        if self.errors() == errors_before {
            self.try_resolve(&job, &connections);
        }
        (self.errors() == errors_before).then_some(job)
    }

    fn errors(&self) -> usize {
        self.out.iter().filter(|f| f.severity == crate::yaml::Severity::Error).count()
    }

    fn vendor_key(&self) -> Option<Vendor> {
        let file = self.file;
        let set = [
            (Vendor::Bik, file.bik.is_some()),
            (Vendor::Livechat, file.livechat.is_some()),
            (Vendor::Jaicp, file.jaicp.is_some()),
        ];
        let mut keys = set.into_iter().filter(|(_, set)| *set).map(|(vendor, _)| vendor);
        keys.next().filter(|_| keys.next().is_none())
    }

    fn ask(&mut self) -> Option<Ask> {
        let file = self.file;
        let at = |vendor: Vendor| Path::root().key(vendor.as_str());
        let bik = file.bik.as_ref().map(|f| compile_bik(f, &at(Vendor::Bik), self.out).map(Ask::Bik));
        let livechat =
            file.livechat.as_ref().map(|f| compile_livechat(f, &at(Vendor::Livechat), self.out).map(Ask::Livechat));
        let jaicp = file.jaicp.as_ref().map(|f| compile_jaicp(f, &at(Vendor::Jaicp), self.out).map(Ask::Jaicp));
        let mut asks: Vec<Option<Ask>> = [bik, livechat, jaicp].into_iter().flatten().collect();
        if asks.len() == 1 {
            return asks.pop().flatten();
        }
        let path = if file.jaicp.is_some() {
            at(Vendor::Jaicp)
        } else if file.livechat.is_some() {
            at(Vendor::Livechat)
        } else {
            Path::root()
        };
        self.out.push(
            Finding::error(
                path,
                format!("a job needs exactly one of bik, livechat, jaicp; this one has {}", asks.len()),
            )
            .at_key(),
        );
        None
    }

    fn window(&mut self) -> Option<WindowRule> {
        match self.file.window.as_ref()? {
            WindowFile::Word(word) => {
                keep(Some(word.parse::<WindowRule>().map_err(|e| e.to_string())), "window", &self.root, self.out)
            }
            WindowFile::Dates { from, to } => {
                let at = self.root.key("window");
                let mut date = |text: &Option<String>, key: &str| match text {
                    Some(text) => keep(Some(parse_date(text)), key, &at, self.out),
                    None => {
                        self.out.push(Finding::error(at.clone(), format!("a fixed window needs '{key}'")));
                        None
                    }
                };
                let (from, to) = (date(from, "from"), date(to, "to"));
                let (from, to) = (from?, to?);
                if to < from {
                    self.error(at.key("to"), format!("the window ends on {to}, before it starts on {from}"));
                    return None;
                }
                Some(WindowRule::Fixed { from, to })
            }
        }
    }

    /// The connections the job runs for, all of which have this vendor.
    fn connections(&mut self, vendor: Vendor) -> Vec<Connection> {
        let with: Vec<&Connection> = self.connections.iter().filter(|c| c.has(vendor)).collect();
        let at = self.root.key("connections");
        let Some(Words(names)) = &self.file.connections else {
            match with.as_slice() {
                [only] => return vec![(*only).clone()],
                [] => self.error(
                    Path::root().key(vendor.as_str()),
                    format!("no connection has a {vendor} account: add one to reportd.yaml"),
                ),
                several => {
                    let names: Vec<&str> = several.iter().map(|c| c.name.as_str()).collect();
                    let message = format!(
                        "several connections have a {vendor} account: name them, as in connections: [{}], or connections: all",
                        names.join(", ")
                    );
                    self.error(Path::root().key(vendor.as_str()), message);
                }
            }
            return Vec::new();
        };
        if names.as_slice() == ["all"] {
            if with.is_empty() {
                self.error(at, format!("no connection has a {vendor} account"));
            }
            return with.into_iter().cloned().collect();
        }
        if names.is_empty() {
            self.error(at.clone(), "connections is empty: name one, or leave the key out");
        }
        let mut found: Vec<Connection> = Vec::new();
        for (i, name) in names.iter().enumerate() {
            let at = if names.len() == 1 { at.clone() } else { at.index(i) };
            match connection(self.connections, name) {
                Some(c) if found.iter().any(|f| f.name == c.name) => {
                    self.error(at, format!("connection '{name}' stands twice"));
                }
                Some(c) if c.has(vendor) => found.push(c.clone()),
                Some(_) => self.error(at, format!("connection '{name}' has no {vendor} account in reportd.yaml")),
                None => {
                    let known: Vec<&str> = self.connections.iter().map(|c| c.name.as_str()).collect();
                    let guess =
                        did_you_mean(name, &known).map_or_else(String::new, |w| format!(", did you mean '{w}'?"));
                    self.error(at, format!("unknown connection '{name}'{guess} (known: {})", known.join(", ")));
                }
            }
        }
        found
    }

    fn series(&mut self, connections: &[Connection]) -> Vec<Series> {
        let zone = keep(self.file.zone.as_deref().map(parse_zone), "zone", &self.root, self.out);
        let crons: &[String] = self.file.schedule.as_ref().map_or(&[], |Words(list)| list);
        if self.file.schedule.is_some() && crons.is_empty() {
            self.error(self.root.key("schedule"), "schedule is empty: leave the key out for a job that runs by hand");
        }
        let at = |i: usize| {
            if crons.len() == 1 { Path::root().key("schedule") } else { Path::root().key("schedule").index(i) }
        };
        let mut all = Vec::new();
        for c in connections {
            let series = series_name(self.name, &c.name);
            let mut parsed = Vec::new();
            for (i, text) in crons.iter().enumerate() {
                match Cron::parse(text, &series) {
                    Ok(cron) => parsed.push(cron),
                    Err(error) => {
                        let finding = Finding::error(at(i), error.to_string());
                        if !self.out.contains(&finding) {
                            self.out.push(finding);
                        }
                    }
                }
            }
            match zone.or(c.zone).or(self.defaults.zone) {
                Some(zone) => all.push(Series { connection: c.name.clone(), zone, crons: parsed }),
                None if self.file.zone.is_some() => {}
                None => self.error(
                    Path::root().key("connections"),
                    format!("no zone: set 'zone' here or on connection '{}', such as zone: Asia/Kolkata", c.name),
                ),
            }
        }
        all
    }

    fn waivers(&mut self) -> Vec<Waiver> {
        let mut list = Vec::new();
        for (i, file) in self.file.waive.iter().flatten().enumerate() {
            let at = self.root.key("waive").index(i);
            let from = keep(file.from.as_deref().map(parse_date), "from", &at, self.out);
            let to = keep(file.to.as_deref().map(parse_date), "to", &at, self.out);
            for (key, missing) in
                [("from", file.from.is_none()), ("to", file.to.is_none()), ("reason", file.reason.is_none())]
            {
                if missing {
                    self.error(at.clone(), format!("a waived gap needs '{key}'"));
                }
            }
            if let (Some(from), Some(to), Some(reason)) = (from, to, &file.reason) {
                if to < from {
                    self.error(at.key("to"), format!("the gap ends on {to}, before it starts on {from}"));
                }
                list.push(Waiver { from, to, reason: reason.clone() });
            }
        }
        list
    }

    fn was(&mut self) -> Vec<String> {
        let names = self.file.was.as_ref().map(|Words(list)| list.clone()).unwrap_or_default();
        for name in &names {
            if !is_name(name) || name == self.name {
                self.error(self.root.key("was"), format!("'{name}' is not a former name of this job"));
            }
        }
        names
    }

    /// The file's notices, or the inherited ones, checked for each connection of the job.
    fn notices(
        &mut self,
        list: Option<&[NoticeFile]>,
        inherited: &[NoticeRule],
        which: List,
        connections: &[Connection],
    ) -> Vec<NoticeRule> {
        let rules = match list {
            Some(list) => notice::compile(list, which, &self.root.key(which.key()), &self.defaults.root, self.out),
            None => inherited.to_vec(),
        };
        notice::check_for_all(&rules, which, list.is_none(), connections, self.out);
        rules
    }

    /// Every variable that the request names exists on every connection of the job.
    fn check_vars(&mut self, ask: &Ask, connections: &[Connection]) {
        let root = Path::root().key(ask.vendor().as_str());
        let mut problems = Vec::new();
        let mut visit = |path: &Path, template: &Template| {
            for var in template.vars() {
                problems.extend(missing_var(connections, var).map(|message| Finding::error(path.clone(), message)));
            }
        };
        let mut tree = |tree: &Tree, key: &str| tree.each_template(&root.key(key), &mut visit);
        match ask {
            Ask::Bik(ask) => {
                tree(&Tree::Text(ask.report_type.clone()), "reportType");
                tree(&Tree::Text(ask.report_name.clone()), "reportName");
                if let Some(description) = &ask.description {
                    tree(&Tree::Text(description.clone()), "reportDescription");
                }
                tree(&ask.emails, "emails");
                if let Some(filters) = &ask.filters {
                    tree(filters, "filters");
                }
            }
            Ask::Livechat(ask) => tree(&ask.filters, "filters"),
            Ask::Jaicp(ask) => tree(&ask.filters, "filters"),
        }
        self.out.append(&mut problems);
    }

    /// Resolves the job as a run would, so that what only a variable's value can spoil is told here.
    fn try_resolve(&mut self, job: &Job, connections: &[Connection]) {
        for (series, c) in job.series.iter().zip(connections) {
            let noon = NaiveDate::from_ymd_opt(2026, 1, 15).and_then(|d| d.and_hms_opt(12, 0, 0));
            let Some(fire_at) = noon.map(|n| n.and_utc()) else { continue };
            let sample = match &job.window {
                Some(rule) => rule.at(fire_at, series.zone, job.policy.week_start),
                None => WindowRule::Yesterday.at(fire_at, series.zone, job.policy.week_start),
            };
            let Some(window) = sample else {
                self.error(Path::root().key("window"), format!("the window is empty in zone {}", series.zone.name()));
                continue;
            };
            if let Err(problem) = resolve::request(job, c, &window, Mailing::Job) {
                let message = if connections.len() > 1 {
                    format!("{} (connection '{}')", problem.message, c.name)
                } else {
                    problem.message
                };
                self.error(problem.path, message);
            }
        }
    }
}

fn missing_var(connections: &[Connection], var: &str) -> Option<String> {
    let without: Vec<&Connection> = connections.iter().filter(|c| !c.vars.contains_key(var)).collect();
    let first = without.first()?;
    let known: Vec<&str> = first.vars.keys().map(String::as_str).collect();
    let guess = did_you_mean(var, &known).map_or_else(String::new, |w| format!(", did you mean '{{var.{w}}}'?"));
    let names: Vec<&str> = without.iter().map(|c| c.name.as_str()).collect();
    Some(format!("unknown variable '{{var.{var}}}': connection {} has no such var{guess}", names.join(", ")))
}

/// The shared keys of a job file.
fn policy_fields(file: &JobFile) -> PolicyFields<'_> {
    PolicyFields {
        catch_up: file.catch_up.as_deref(),
        overlap: file.overlap.as_deref(),
        delay: file.delay.as_ref(),
        deadline: file.deadline.as_ref(),
        give_up: file.give_up.as_ref(),
        on_unknown: file.on_unknown.as_deref(),
        week_start: file.week_start.as_deref(),
        late_after: file.late_after.as_ref(),
    }
}
