//! [`ConfigFile`] -> [`Settings`], with every problem of the file. Always yields settings, so that job files can be checked
//! against what was understood; with an error in `findings` they are not to be run with.

use std::path::{Path as FilePath, PathBuf};

use sha2::{Digest, Sha256};
use url::Url;

use super::file::{ConfigFile, DefaultsFile, MailFile};
use super::{Database, Settings};
use crate::connection::environment::Environment;
use crate::connection::secret::SecretRef;
use crate::delivery::email::{Login, Mail, Sender, Server};
use crate::job::Defaults;
use crate::job::notice::{self, List};
use crate::job::policy::{PartialPolicy, PolicyFields, compile_retain, keep, parse_zone};
use crate::yaml::{Finding, Path};

/// What settings are compiled against.
pub struct Base {
    /// Folder that relative paths are relative to, absolute.
    pub root: PathBuf,
    /// The environment.
    pub environment: Environment,
    /// Whether the process runs as root.
    pub as_root: bool,
}

pub(super) struct Compiler {
    pub(super) base: Base,
    pub(super) out: Vec<Finding>,
}

/// Compiles the file.
pub fn compile(file: &ConfigFile, base: Base) -> (Settings, Vec<Finding>) {
    let mut compiler = Compiler { base, out: Vec::new() };
    let settings = compiler.settings(file);
    (settings, compiler.out)
}

impl Compiler {
    pub(super) fn error(&mut self, path: Path, message: impl Into<String>) {
        self.out.push(Finding::error(path, message.into()));
    }

    fn settings(&mut self, file: &ConfigFile) -> Settings {
        let root = Path::root();
        let connections = match &file.connections {
            Some(named) => {
                named.0.iter().map(|(name, c)| self.connection(name, c, &root.key("connections").key(name))).collect()
            }
            None => vec![self.default_connection()],
        };
        let archive = match file.archive.as_deref() {
            Some(text) if text.contains("://") => {
                self.error(
                    root.key("archive"),
                    format!("archive '{text}': this version keeps the archive in a folder; name one"),
                );
                "archive"
            }
            Some("") => {
                self.error(root.key("archive"), "archive is empty: name a folder");
                "archive"
            }
            Some(text) => text,
            None => "archive",
        };
        let archive = self.base.root.join(archive);
        Settings {
            root: self.base.root.clone(),
            database: self.database(file.database.as_deref()),
            archive,
            connections,
            defaults: self.defaults(file.defaults.as_ref(), file),
            mail: file.mail.as_ref().and_then(|mail| self.mail(mail)),
            heartbeat: file.heartbeat.as_deref().and_then(|text| self.secret(text, &root.key("heartbeat"))),
            environment: self.base.environment.clone(),
        }
    }

    fn database(&mut self, text: Option<&str>) -> Database {
        let at = Path::root().key("database");
        match text {
            None if self.base.environment.get("DATABASE_URL").is_some() => Database::Env("DATABASE_URL".into()),
            None => Database::Embedded(embedded_folder(&self.base.root, self.base.as_root, ".reportd/pg")),
            Some(text) => match text.strip_prefix("env:") {
                Some("") => {
                    self.error(at, "env: needs the name of an environment variable, such as env:DATABASE_URL");
                    Database::Env(String::new())
                }
                Some(name) => Database::Env(name.to_owned()),
                None => {
                    match Url::parse(text) {
                        Ok(url) if matches!(url.scheme(), "postgres" | "postgresql") => {
                            if url.password().is_some() {
                                let message = "a password in clear: write database: env:DATABASE_URL".to_owned();
                                self.out.push(Finding::warning(at, message).secret());
                            }
                        }
                        _ => {
                            let message = "database is env:NAME or a postgresql:// URL".to_owned();
                            self.out.push(Finding::error(at, message).secret());
                        }
                    }
                    Database::Url(text.into())
                }
            },
        }
    }

    fn defaults(&mut self, file: Option<&DefaultsFile>, config: &ConfigFile) -> Defaults {
        let root = Path::root();
        let retain = compile_retain(config.retain.as_ref(), &root.key("retain"), &mut self.out);
        let own_root = self.base.root.clone();
        let Some(file) = file else { return Defaults { root: own_root, retain, ..Defaults::default() } };
        let at = root.key("defaults");
        let fields = PolicyFields {
            catch_up: file.catch_up.as_deref(),
            overlap: file.overlap.as_deref(),
            delay: file.delay.as_ref(),
            deadline: file.deadline.as_ref(),
            give_up: file.give_up.as_ref(),
            on_unknown: file.on_unknown.as_deref(),
            week_start: file.week_start.as_deref(),
            late_after: file.late_after.as_ref(),
        };
        let policy = PartialPolicy::compile(fields, &at, &mut self.out);
        // Variables differ by connection, and which job inherits a notice is not known here: names only.
        let mut rules = |which: List, list: &Option<Vec<_>>| {
            let list = list.as_deref().unwrap_or_default();
            notice::compile(list, which, &at.key(which.key()), &self.base.root, &mut self.out)
        };
        let (deliver, alert) = (rules(List::Deliver, &file.deliver), rules(List::Alert, &file.alert));
        let own = compile_retain(file.retain.as_ref(), &at.key("retain"), &mut self.out);
        Defaults {
            root: own_root,
            zone: keep(file.zone.as_deref().map(parse_zone), "zone", &at, &mut self.out),
            policy,
            deliver,
            alert,
            retain: crate::job::Retain {
                artifacts: own.artifacts.or(retain.artifacts),
                revisions: own.revisions.or(retain.revisions),
                events: own.events.or(retain.events),
            },
        }
    }

    fn mail(&mut self, file: &MailFile) -> Option<Mail> {
        let at = Path::root().key("mail");
        let server = file.url.as_deref().and_then(|text| match Server::parse(text) {
            Ok(server) => Some(server),
            Err(message) => {
                self.out.push(Finding::error(at.key("url"), message).secret());
                None
            }
        });
        let from = file.from.as_deref().and_then(|text| {
            let sender = Sender::parse(text);
            if sender.is_none() {
                self.error(at.key("from"), "mail.from is reports@example.com or Reports <reports@example.com>");
            }
            sender
        });
        for (key, missing) in [("url", file.url.is_none()), ("from", file.from.is_none())] {
            if missing {
                self.error(at.clone(), format!("mail needs '{key}'"));
            }
        }
        let mut secret = |text: &Option<String>, key| text.as_deref().map(|text| self.secret(text, &at.key(key)));
        let login = match (secret(&file.username, "username"), secret(&file.password, "password")) {
            (None, None) => None,
            (Some(username), Some(password)) => username.zip(password),
            (Some(_), None) => {
                self.out.push(Finding::error(at.key("username"), "mail has a username and no password").at_key());
                None
            }
            (None, Some(_)) => {
                self.out.push(Finding::error(at.key("password"), "mail has a password and no username").at_key());
                None
            }
        };
        let login = login.map(|(username, password)| Login { username, password });
        Some(Mail { server: server?, login, from: from? })
    }

    pub(super) fn secret(&mut self, text: &str, at: &Path) -> Option<SecretRef> {
        match SecretRef::parse(text, &self.base.root) {
            Ok(secret) => Some(secret),
            Err(message) => {
                // The line itself may hold the secret, so it is not shown.
                self.out.push(Finding::error(at.clone(), message.to_owned()).secret());
                None
            }
        }
    }
}

/// Where an embedded cluster of the config folder `root` lies: `within` it; as root a folder below /var/lib whose name no
/// other config folder has, because PostgreSQL's own user must be able to reach it.
pub fn embedded_folder(root: &FilePath, as_root: bool, within: &str) -> PathBuf {
    if !as_root {
        return root.join(within);
    }
    // Two spellings of one folder are one folder.
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let stem: String = root
        .file_name()
        .map(|n| n.to_string_lossy().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(32).collect())
        .unwrap_or_default();
    let hash = hex::encode(&Sha256::digest(root.as_os_str().as_encoded_bytes())[..4]);
    FilePath::new("/var/lib/reportd").join(format!("{stem}-{hash}"))
}
