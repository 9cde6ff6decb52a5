//! Reads a folder of job files. The only impure file of this module: it reads the folder and nothing else.
//!
//! A problem in one file never hides another file: everything is read, everything is compiled, all problems come back.

use std::path::{Path as FilePath, PathBuf};

use chrono::{DateTime, Utc};

use super::compile::compile;
use super::file::JobFile;
use super::{Defaults, Job, lint};
use crate::connection::Connection;
use crate::yaml::{self, Decoder, Finding, Path, Problem, Severity, Source};

/// All job files of a folder.
#[derive(Debug, Default)]
pub struct Jobs {
    /// Jobs without errors, by name.
    pub jobs: Vec<Job>,
    /// Problems of all files, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// Job files seen, broken ones included.
    pub files: usize,
}

impl Jobs {
    /// Whether any problem is an error.
    pub fn broken(&self) -> bool {
        self.problems.iter().any(|p| p.severity == Severity::Error)
    }
}

/// A path as people are shown it: without a leading `./`.
pub fn shown(path: &FilePath) -> String {
    let text = path.display().to_string();
    text.strip_prefix("./").map_or(text.clone(), str::to_owned)
}

/// `*.yaml` and `*.yml` directly in `folder`, sorted. A folder that cannot be read is a problem.
fn list(folder: &FilePath) -> Result<Vec<PathBuf>, Problem> {
    let fail = |e: std::io::Error| {
        let why = match e.kind() {
            std::io::ErrorKind::NotFound => "does not exist".to_owned(),
            _ => format!("cannot be read: {e}"),
        };
        Problem::whole_file(shown(folder), format!("the job folder {why}; name it with --jobs"))
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The most problems of meaning that are told of one file.
const MOST: usize = 100;

/// One job file as it was read.
#[derive(Clone, Debug)]
pub struct FileText {
    /// The path, as people are shown it.
    pub file: String,
    /// The stem: the job's name.
    pub name: String,
    /// What stands in it, or why it could not be read.
    pub bytes: Result<Vec<u8>, Problem>,
}

impl FileText {
    /// A file that is not in a folder: a text of the set in force.
    pub fn stored(file: String, name: String, text: String) -> FileText {
        FileText { file, name, bytes: Ok(text.into_bytes()) }
    }
}

/// Reads every job file of `folder`, in the order of names. The problem is that of a folder that cannot be read.
pub fn read(folder: &FilePath) -> Result<Vec<FileText>, Problem> {
    let files = list(folder)?;
    Ok(in_parallel(&files, |path| {
        let file = shown(path);
        let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        FileText { bytes: yaml::read(path, &file), file, name }
    }))
}

struct Loaded {
    job: Option<Job>,
    asked: Vec<lint::Asked>,
    source: Option<Source>,
    problems: Vec<Problem>,
}

/// Loads and compiles every job file of `folder`. `now` is where lints start to look at schedules.
pub fn load(folder: &FilePath, connections: &[Connection], defaults: &Defaults, now: DateTime<Utc>) -> Jobs {
    match read(folder) {
        Ok(texts) => compile_all(&texts, connections, defaults, now),
        Err(problem) => Jobs { problems: vec![problem], ..Jobs::default() },
    }
}

/// Compiles job files that were read.
pub fn compile_all(texts: &[FileText], connections: &[Connection], defaults: &Defaults, now: DateTime<Utc>) -> Jobs {
    let decoder = Decoder::<JobFile>::new();
    let mut loaded = in_parallel(texts, |text| compile_one(text, &decoder, connections, defaults, now));
    let mut names: std::collections::HashMap<&str, &str> = std::collections::HashMap::new();
    for (text, one) in texts.iter().zip(&mut loaded) {
        if let Some(other) = names.insert(&text.name, &text.file) {
            let message = format!("the job '{}' stands in two files: {other} and this one", text.name);
            one.problems.push(Problem::whole_file(text.file.clone(), message));
            one.job = None;
        }
    }
    refuse_borrowed_names(texts, &mut loaded);
    let (mut jobs, mut asked, mut sources, mut problems) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for one in loaded {
        problems.extend(one.problems);
        if let Some(job) = one.job {
            jobs.push(job);
            asked.push(one.asked);
            sources.push(one.source);
        }
    }
    for (index, finding) in lint::across(&asked) {
        problems.extend(sources[index].as_ref().map(|source| source.locate(&finding)));
    }
    problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    Jobs { jobs, problems, files: texts.len() }
}

/// A former name that is a job of its own would take that job's history away.
fn refuse_borrowed_names(texts: &[FileText], loaded: &mut [Loaded]) {
    let names: std::collections::HashSet<&str> = texts.iter().map(|text| text.name.as_str()).collect();
    let mut taken: std::collections::HashMap<String, String> = std::collections::HashMap::new();
    for one in loaded {
        let Some(job) = &one.job else { continue };
        let own = job.was.iter().find(|name| names.contains(name.as_str()));
        let own = own.map(|name| format!("'{name}' is a job of its own here, and no former name of this one"));
        let twice = job.was.iter().find_map(|name| Some((name, taken.get(name)?)));
        let twice = twice.map(|(name, other)| format!("'{name}' is the former name of {other} already"));
        taken.extend(job.was.iter().map(|name| (name.clone(), job.name.clone())));
        let Some(message) = own.or(twice) else { continue };
        let finding = Finding::error(Path::root().key("was"), message);
        one.problems.extend(one.source.as_ref().map(|source| source.locate(&finding)));
        one.job = None;
    }
}

fn compile_one(
    text: &FileText,
    decoder: &Decoder<JobFile>,
    connections: &[Connection],
    defaults: &Defaults,
    now: DateTime<Utc>,
) -> Loaded {
    let bytes = match &text.bytes {
        Ok(bytes) => bytes,
        Err(problem) => return Loaded { job: None, asked: Vec::new(), source: None, problems: vec![problem.clone()] },
    };
    let decoded = decoder.decode(&text.file, bytes);
    let mut problems = decoded.problems;
    let structural = problems.iter().any(|p| p.severity == Severity::Error);
    let mut findings: Vec<Finding> = Vec::new();
    let mut job =
        decoded.value.as_ref().and_then(|value| compile(&text.name, value, connections, defaults, &mut findings));
    if let Some(job) = &job {
        findings.extend(lint::job(job, now));
    }
    if let Some(value) = &decoded.value {
        clear_secrets(value, &mut findings);
    }
    // A file with more mistakes than anybody mends in one go is not worth a page for each.
    let more = findings.len().saturating_sub(MOST);
    findings.truncate(MOST);
    if more > 0 {
        findings.push(Finding::error(Path::root(), format!("and {more} more problems in this file")));
    }
    for finding in &findings {
        let problem = decoded.source.locate(finding);
        // A key that is missing because it was mistyped has been told already, at the mistyped key.
        let told = structural && problems.iter().any(|p| (p.line, p.column) == (problem.line, problem.column));
        if !told {
            problems.push(problem);
        }
    }
    if structural {
        job = None;
    }
    let asked = job.as_ref().map(|job| lint::asked(job, connections, now)).unwrap_or_default();
    for problem in &mut problems {
        // A line of a webhook may hold its key, whatever is wrong with it.
        if problem.source.as_deref().is_some_and(names_a_signing_key) {
            problem.source = None;
        }
    }
    Loaded { job, asked, source: Some(decoded.source), problems }
}

fn clear_secrets(file: &JobFile, findings: &mut Vec<Finding>) {
    let bodies = [
        ("livechat", file.livechat.as_ref().and_then(|f| f.filters.as_ref()).map(|f| vec![f.clone()])),
        ("jaicp", file.jaicp.as_ref().and_then(|f| f.filters.clone())),
    ];
    for (vendor, filters) in bodies {
        for (i, filter) in filters.into_iter().flatten().enumerate() {
            let at = Path::root().key(vendor).key("filters");
            let at = if vendor == "jaicp" { at.index(i) } else { at };
            for (key, value) in &filter.0 {
                lint::secrets(&value.0, &at.key(key), findings);
            }
        }
    }
    for (name, value) in file.jaicp.iter().flat_map(|f| f.headers.iter()).flat_map(|h| &h.0) {
        lint::secrets(&value.0, &Path::root().key("jaicp").key("headers").key(name), findings);
    }
    if let Some(text) = &file.description {
        lint::secrets(&text.clone().into(), &Path::root().key("description"), findings);
    }
}

/// Maps `files` on as many threads as the machine has cores, in order; a few files are not worth a thread.
fn in_parallel<I: Sync, T: Send>(files: &[I], one: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(files.len() / 64 + 1);
    let one = &one;
    std::thread::scope(|scope| {
        let chunks = files.chunks(files.len().div_ceil(threads).max(1));
        let workers: Vec<_> =
            chunks.map(|chunk| scope.spawn(move || chunk.iter().map(one).collect::<Vec<T>>())).collect();
        // A worker panics only where `one` would have panicked on this thread too.
        workers.into_iter().flat_map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// Whether a line may be one of a webhook's secrets. `key` alone is a word of JAICP's filters.
fn names_a_signing_key(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    ["webhook", "whsec", "keys", "secret", "token", "passw"].iter().any(|word| line.contains(word))
        || line.trim_start().trim_start_matches("- ").starts_with("key:") && !line.contains("type:")
}
