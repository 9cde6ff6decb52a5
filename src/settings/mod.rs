//! `reportd.yaml` and the environment -> [`Settings`]: the only place that reads the environment.
//!
//! Settings name secrets, they do not hold them (but for a database URL that the file itself gives): `validate` and `plan`
//! need no secret, and `serve` starts with one missing.

mod accounts;
pub mod compile;
pub mod file;

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::connection::Connection;
use crate::connection::environment::Environment;
use crate::connection::secret::SecretRef;
use crate::delivery::email::Mail;
use crate::job::Defaults;
use crate::yaml::{self, Decoder, Problem, Severity};
use file::ConfigFile;

/// Takes the process's environment; variables that are not UTF-8 count as unset.
pub fn environment() -> Environment {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
}

/// Where Postgres is.
#[derive(Clone, Debug)]
pub enum Database {
    /// The URL that this environment variable holds; unset is an error when the database is needed.
    Env(String),
    /// The URL that the file itself gives.
    Url(SecretString),
    /// A private cluster in this folder, run from the machine's own programs.
    Embedded(PathBuf),
}

/// Everything that is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder that relative paths are relative to.
    pub root: PathBuf,
    /// Where Postgres is.
    pub database: Database,
    /// The archive's folder.
    pub archive: PathBuf,
    /// The shops.
    pub connections: Vec<Connection>,
    /// What jobs inherit.
    pub defaults: Defaults,
    /// How mail goes out.
    pub mail: Option<Mail>,
    /// URL to ping after each planner pass.
    pub heartbeat: Option<SecretRef>,
    /// The environment, for secrets.
    pub environment: Environment,
}

/// Settings with the problems of their file; without the file's errors they can be used as they are.
#[derive(Debug)]
pub struct Loaded {
    /// What could be understood.
    pub settings: Settings,
    /// All problems of the file.
    pub problems: Vec<Problem>,
}

impl Loaded {
    /// Whether any problem is an error.
    pub fn broken(&self) -> bool {
        self.problems.iter().any(|p| p.severity == Severity::Error)
    }
}

/// Loads the config file. `required` = the user named it, so that its absence is a problem and not the default.
/// `as_root` moves the embedded database out of the folder, because PostgreSQL refuses to run as root and its own user may
/// not be able to reach it.
pub fn load(config: &Path, required: bool, environment: Environment, as_root: bool) -> Loaded {
    let shown = crate::job::load::shown(config);
    let folder = config.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let root = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let base = compile::Base { root, environment, as_root };
    if !required && matches!(config.symlink_metadata(), Err(e) if e.kind() == std::io::ErrorKind::NotFound) {
        let (settings, _) = compile::compile(&ConfigFile::default(), base);
        return Loaded { settings, problems: Vec::new() };
    }
    let bytes = match yaml::read(config, &shown) {
        Ok(bytes) => bytes,
        Err(problem) => {
            let (settings, _) = compile::compile(&ConfigFile::default(), base);
            return Loaded { settings, problems: vec![problem] };
        }
    };
    // An empty config is as good as none.
    if bytes.iter().all(u8::is_ascii_whitespace) {
        let (settings, _) = compile::compile(&ConfigFile::default(), base);
        return Loaded { settings, problems: Vec::new() };
    }
    let decoded = Decoder::<ConfigFile>::new().decode(&shown, &bytes);
    let (settings, findings) = compile::compile(&decoded.value.unwrap_or_default(), base);
    let mut problems = decoded.problems;
    problems.extend(findings.iter().map(|finding| decoded.source.locate(finding)));
    for problem in &mut problems {
        // A line about credentials may hold one, whatever is wrong with it.
        if problem.source.as_deref().is_some_and(names_a_credential) {
            problem.source = None;
        }
    }
    problems.sort_by_key(|p| (p.line, p.column));
    Loaded { settings, problems }
}

fn names_a_credential(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    ["key", "tok", "secret", "pass", "auth", "user", "heartbeat", "database", "url"]
        .iter()
        .any(|word| line.contains(word))
}
