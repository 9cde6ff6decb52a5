//! Renames that the files do not say: a job that is back under a name that it had before, and what begins without the history that it may
//! be thought to have. Without its history every window of the past is asked for again, at BIK with a mail each.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use serde_yaml::Value;

use super::sha256;
use crate::job::file::Words;
use crate::job::load::FileText;
use crate::job::{Job, series_name};
use crate::run::store::StoreError;
use crate::run::store::job_set::{Applying, SeriesChange};

const ANEW: &str = "what it held counts as missing and may be asked for again, at BIK with a mail each";

/// Whose history is whose after a change of the folder, beside what `was` says.
#[derive(Clone, Debug, Default)]
pub(super) struct Renames {
    /// Names of gone jobs whose history a job takes along.
    pub(super) also_was: BTreeMap<String, Vec<String>>,
    /// Gone jobs that stay in force: whose they are is not known before a file with errors is mended.
    pub(super) staying: BTreeSet<String>,
    /// New jobs that may be those, and wait so long.
    pub(super) waiting: BTreeSet<String>,
    /// What people are told of it.
    pub(super) told: Vec<String>,
    /// New jobs of which something was told.
    named: BTreeSet<String>,
    /// Jobs that are back, and the names that they had meanwhile.
    back: Vec<(String, String)>,
}

impl Renames {
    fn is_taken(&self, gone: &str) -> bool {
        self.also_was.values().flatten().any(|name| name == gone)
    }

    fn begins_anew(&mut self, job: &str, holder: &str) {
        self.named.insert(job.to_owned());
        self.told.push(format!(
            "{job} begins anew, though {holder} has the history of a name that it had: it takes that along with `was: [{holder}]` only, \
             in place of {holder}; else {ANEW}"
        ));
    }
}

/// What a job file says, as far as it matters for whose history is whose.
#[derive(Debug)]
struct Said {
    /// Its former names.
    was: Vec<String>,
    /// What is asked of which vendor, whoever is mailed.
    asks: String,
    /// Which of the vendor's reports that is.
    report: Vec<Value>,
}

impl Said {
    /// `None` = it cannot be read.
    fn of(text: &str) -> Option<Said> {
        let mut value: Value = serde_yaml::from_str(text).ok()?;
        let all = value.as_mapping_mut()?;
        let was = serde_yaml::from_value::<Option<Words>>(all.remove("was").unwrap_or_default()).ok()?;
        all.retain(|key, _| ["bik", "livechat", "jaicp"].map(Some).contains(&key.as_str()));
        if let Some(body) = all.get_mut("bik").and_then(Value::as_mapping_mut) {
            body.remove("emails");
        }
        let said =
            |vendor: &str, key: &str| value.get(vendor).and_then(|body| body.get(key)).cloned().unwrap_or_default();
        let report = vec![
            said("bik", "reportType"),
            said("bik", "reportName"),
            said("livechat", "report"),
            said("jaicp", "report"),
            said("jaicp", "query"),
        ];
        let asks = serde_yaml::to_string(&value).ok()?;
        Some(Said { was: was.map_or_else(Vec::new, |Words(was)| was), asks, report })
    }
}

/// The files of the folder, and what was known of names before.
struct Names<'a> {
    texts: HashMap<&'a str, &'a FileText>,
    good: &'a HashMap<&'a str, &'a Job>,
    /// sha256 of the files in force.
    known: &'a HashMap<String, String>,
    /// Names that files say they had.
    claimed: HashSet<&'a str>,
    /// Names, and the jobs that have what stood under them.
    holders: BTreeSet<(String, String)>,
    /// What gone jobs said.
    gone: HashMap<String, Said>,
    read: RefCell<HashMap<&'a str, Rc<Option<Said>>>>,
}

impl<'a> Names<'a> {
    /// What a file of the folder says, read once.
    fn said(&self, name: &'a str) -> Rc<Option<Said>> {
        let read = || {
            let bytes = self.texts.get(name)?.bytes.as_ref().ok()?;
            Said::of(std::str::from_utf8(bytes).ok()?)
        };
        Rc::clone(self.read.borrow_mut().entry(name).or_insert_with(|| Rc::new(read())))
    }

    fn is_new(&self, name: &str) -> bool {
        !self.known.contains_key(name)
    }

    fn is_broken(&self, name: &str) -> bool {
        self.texts.contains_key(name) && !self.good.contains_key(name)
    }

    /// New, or another text than the one in force.
    fn is_changed(&self, name: &str) -> bool {
        let bytes = self.texts.get(name).and_then(|text| text.bytes.as_ref().ok());
        bytes.is_none_or(|bytes| self.known.get(name) != Some(&sha256(bytes)))
    }

    /// The jobs that have what stood under a name.
    fn holders_of(&self, name: &str) -> Vec<&str> {
        let held = self.holders.range((name.to_owned(), String::new())..).take_while(|(former, _)| former == name);
        held.map(|(_, holder)| holder.as_str()).filter(|holder| *holder != name).collect()
    }

    /// The other jobs that have what stood under the names that a job says it had.
    fn claims(&self, job: &Job) -> BTreeSet<&str> {
        let was = job.was.iter().filter(|was| !self.texts.contains_key(was.as_str()));
        let mut claims: BTreeSet<&str> = was.flat_map(|was| self.holders_of(was)).collect();
        claims.retain(|holder| *holder != job.name && !job.was.iter().any(|was| was == holder));
        claims
    }

    /// A file with errors that may say that it was this job: one that is new and says nothing readable, or one that names it.
    fn may_claim(&self, gone: &str) -> Option<&'a str> {
        let is_its = |name: &String| name == gone || self.holders.contains(&(name.clone(), gone.to_owned()));
        let may = |name: &&'a str| match &*self.said(name) {
            Some(said) => said.was.iter().any(is_its),
            None => self.is_new(name),
        };
        let mut broken: Vec<&'a str> = self.texts.keys().copied().filter(|name| self.is_broken(name)).collect();
        broken.sort_unstable();
        broken.into_iter().find(may)
    }

    /// Whether a file asks for the report that a job asks or asked for, as far as that is known.
    fn is_same_report(&self, name: &'a str, holder: &str) -> bool {
        let asks = |then: &Said| (*self.said(name)).as_ref().is_some_and(|now| now.report == then.report);
        match self.texts.get_key_value(holder) {
            Some((holder, _)) => (*self.said(holder)).as_ref().is_none_or(asks),
            None => self.gone.get(holder).is_none_or(asks),
        }
    }
}

/// Whose history is whose after a change of the folder.
///
/// - A job that is back under a name that it had before takes its history back, if the job that has it now is gone, and it asks for the
///   same report. One that begins beside it, or asks for another, begins anew.
/// - A history that a new or changed file claims under an older name is that file's, too.
/// - While a file with errors may claim it, or may be what comes back, a gone job stays in force, and what may be it waits.
pub(super) async fn renames(
    applying: &mut Applying<'_>,
    texts: &[FileText],
    good: &HashMap<&str, &Job>,
    removed: &[String],
) -> Result<Renames, StoreError> {
    let mut holders: BTreeSet<(String, String)> =
        applying.former_names().await?.into_iter().map(|(former, _, job)| (former, job)).collect();
    // Of two files of one name the second is in error, and the first counts.
    let texts: HashMap<&str, &FileText> = texts.iter().rev().map(|text| (text.name.as_str(), text)).collect();
    let mut gone: Vec<String> = removed.to_vec();
    gone.extend(holders.iter().map(|(_, holder)| holder).filter(|job| !texts.contains_key(job.as_str())).cloned());
    let gone: HashMap<String, Said> =
        applying.texts(&gone).await?.into_iter().filter_map(|(job, text)| Some((job, Said::of(&text)?))).collect();
    // What was in force before former names were noted.
    for job in removed {
        let was = gone.get(job).into_iter().flat_map(|said| &said.was);
        holders.extend(was.map(|was| (was.clone(), job.clone())));
    }
    let claimed = good.values().flat_map(|job| &job.was).map(String::as_str).collect();
    let known = &applying.files;
    let names = Names { texts, good, known, claimed, holders, gone, read: RefCell::default() };
    let mut renames = Renames::default();
    claimed_under_older_names(&mut renames, &names);
    come_back(&mut renames, &names, removed);
    // What waits takes nothing along.
    let waiting = renames.waiting.clone();
    renames.also_was.retain(|job, _| !waiting.contains(job));
    renames.back.retain(|(job, _)| !waiting.contains(job));
    may_be_renamed(&mut renames, &names, removed);
    begin_anew(&mut renames, &names, removed);
    renames.told.extend(renames.back.iter().map(|(job, holder)| {
        format!(
            "{job} was renamed to {holder} and is back: it takes that history along; a rebuilt database knows that only if it says \
             `was`"
        )
    }));
    Ok(renames)
}

/// What a new or changed file claims by a name that a job had before: it is the file's if that job is gone, and nobody else claims it.
fn claimed_under_older_names(renames: &mut Renames, names: &Names<'_>) {
    let mut claims: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for job in names.good.values().filter(|job| names.is_changed(&job.name)) {
        for holder in names.claims(job) {
            if names.texts.contains_key(holder) || names.claimed.contains(holder) {
                renames.begins_anew(&job.name, holder);
            } else {
                claims.entry(holder).or_default().insert(&job.name);
            }
        }
    }
    for (gone, jobs) in claims {
        if jobs.len() == 1 {
            let job = jobs.first().copied().unwrap_or_default();
            renames.also_was.entry(job.to_owned()).or_default().push(gone.to_owned());
            continue;
        }
        for job in &jobs {
            renames.begins_anew(job, gone);
        }
    }
}

/// New jobs under names that others had before.
fn come_back<'a>(renames: &mut Renames, names: &Names<'a>, removed: &[String]) {
    let mut new: Vec<&'a str> = names.texts.keys().copied().filter(|name| names.is_new(name)).collect();
    new.sort_unstable();
    let mut back: BTreeMap<String, Vec<&'a str>> = BTreeMap::new();
    for name in new {
        for holder in names.holders_of(name) {
            let is_theirs = names.good.contains_key(holder) || names.claimed.contains(holder);
            if is_theirs || renames.is_taken(holder) {
                if names.good.contains_key(name) && names.is_same_report(name, holder) {
                    renames.begins_anew(name, holder);
                }
            } else {
                back.entry(holder.to_owned()).or_default().push(name);
            }
        }
    }
    for (holder, jobs) in back {
        let is_gone = removed.contains(&holder);
        let open = jobs.iter().copied().chain([holder.as_str()]).find(|name| names.is_broken(name));
        if let Some(open) = open.or_else(|| names.may_claim(&holder)) {
            let stays = if is_gone { "is gone and stays in force" } else { "is as it was" };
            let list = jobs.join(", ");
            renames.told.push(format!(
                "{holder} {stays}, and {list} waits: whose its history is shows when {open} has no errors"
            ));
            renames.named.extend(jobs.iter().map(|job| (*job).to_owned()));
            renames.waiting.extend(jobs.into_iter().map(str::to_owned));
            renames.staying.extend(is_gone.then_some(holder));
            continue;
        }
        match jobs.as_slice() {
            [job] if names.is_same_report(job, &holder) => {
                renames.back.push(((*job).to_owned(), holder.clone()));
                renames.also_was.entry((*job).to_owned()).or_default().push(holder);
            }
            _ => {
                for job in jobs {
                    renames.begins_anew(job, &holder);
                }
            }
        }
    }
}

/// Gone jobs that a file may claim which has errors, or waits.
fn may_be_renamed(renames: &mut Renames, names: &Names<'_>, removed: &[String]) {
    let is_good = |job: &&&Job| !renames.waiting.contains(&job.name);
    let claimed: HashSet<&String> = names.good.values().filter(is_good).flat_map(|job| &job.was).collect();
    let mut staying = Vec::new();
    for gone in removed.iter().filter(|gone| !claimed.contains(gone)) {
        if renames.is_taken(gone) || renames.staying.contains(gone) {
            continue;
        }
        let waits = |job: &&&Job| {
            let may_be =
                || names.claims(job).contains(gone.as_str()) || names.holders_of(&job.name).contains(&gone.as_str());
            renames.waiting.contains(&job.name) && (job.was.contains(gone) || may_be())
        };
        let waiting = names.good.values().find(waits).map(|job| job.name.as_str());
        if let Some(open) = waiting.or_else(|| names.may_claim(gone)) {
            staying.push((
                gone.clone(),
                format!("{gone} is gone and stays in force: {open}, which has errors or waits, may be what it is now"),
            ));
        }
    }
    for (gone, told) in staying {
        renames.staying.insert(gone);
        renames.told.push(told);
    }
}

/// New jobs that ask for what a gone one asked for, and do not say that they were it.
fn begin_anew(renames: &mut Renames, names: &Names<'_>, removed: &[String]) {
    let lost: HashMap<&str, &String> = removed
        .iter()
        .filter(|job| {
            !names.claimed.contains(job.as_str()) && !renames.is_taken(job) && !renames.staying.contains(*job)
        })
        .filter_map(|job| Some((names.gone.get(job)?.asks.as_str(), job)))
        .collect();
    if lost.is_empty() {
        return;
    }
    let mut begun: Vec<&str> = names.good.keys().copied().filter(|name| names.is_new(name)).collect();
    begun.sort_unstable();
    for name in begun {
        if renames.named.contains(name) {
            continue;
        }
        let said = names.said(name);
        if let Some(former) = (*said).as_ref().and_then(|said| lost.get(said.asks.as_str())) {
            renames.told.push(format!(
                "{name} asks for what {former} asked for, whose history it takes along with `was: [{former}]` only; else {ANEW}"
            ));
        }
    }
}

/// Series that begin where their job's last one ends: a connection that is renamed takes no history along.
pub(super) fn moved_connections(series: &[(SeriesChange, String, String)]) -> Vec<String> {
    let moved = |(change, job, connection): &(SeriesChange, String, String)| {
        let ended = |(other, name, _): &&(SeriesChange, String, String)| !other.in_force && name == job;
        let (_, _, former) = series.iter().find(ended).filter(|_| change.in_force && change.first_cursor.is_some())?;
        let (new, old) = (series_name(job, connection), series_name(job, former));
        Some(format!("{new} begins and {old} ends: a connection that is renamed takes no history along; {ANEW}"))
    };
    series.iter().filter_map(moved).collect()
}
