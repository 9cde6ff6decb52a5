//! Secrets: where one is (`env:NAME`, `file:PATH`), and the only place that reads it.
//!
//! A value lives as [`SecretString`]: it has no `Display`, its `Debug` is redacted, its memory is wiped. What is stored is a
//! salted fingerprint, to see that a secret changed. Reading is repeated on reload and once after a vendor said 401, so a
//! rotated secret needs no restart.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Largest secret file that is read.
const MAX_BYTES: u64 = 64 * 1024;

/// Where a secret is. Says nothing about whether it is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// An environment variable.
    Env(String),
    /// A file whose content, less one line end, is the secret.
    File(PathBuf),
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretRef::Env(name) => write!(f, "env:{name}"),
            SecretRef::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Why a secret could not be read. Never holds any of its content.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The variable is unset or empty.
    #[error("environment variable {0} is not set")]
    Unset(String),
    /// The variable or file is not UTF-8.
    #[error("{0} is not UTF-8 text")]
    NotText(String),
    /// The file holds nothing.
    #[error("secret file {0} is empty")]
    Empty(PathBuf),
    /// The path is a folder, a pipe or a device.
    #[error("secret file {0} is not a regular file")]
    NotAFile(PathBuf),
    /// The file is far larger than a secret.
    #[error("secret file {0} is larger than 64 KiB")]
    TooLarge(PathBuf),
    /// The file cannot be read.
    #[error("read secret file {path}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl SecretRef {
    /// Parses `env:NAME` or `file:PATH`, a relative path being relative to `root`. The error never repeats the text, which
    /// may be the secret itself.
    pub fn parse(text: &str, root: &Path) -> Result<SecretRef, &'static str> {
        match text.split_once(':') {
            Some(("env", name)) if is_env_name(name) => Ok(SecretRef::Env(name.to_owned())),
            Some(("env", _)) => Err("env: needs the name of an environment variable, such as env:NORTH_BIK_KEY"),
            Some(("file", path)) if !path.is_empty() => Ok(SecretRef::File(root.join(path))),
            Some(("file", _)) => Err("file: needs a path, such as file:/run/secrets/token"),
            _ => Err("a secret in clear: write env:NAME or file:PATH, and change the secret, since it stood in a file"),
        }
    }

    /// Reads the secret as it is now. `env` looks up a variable.
    pub fn read(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<SecretString, SecretError> {
        match self {
            SecretRef::Env(name) => match env(name) {
                Some(value) if !value.trim().is_empty() => Ok(SecretString::from(value.trim())),
                _ => Err(SecretError::Unset(name.clone())),
            },
            SecretRef::File(path) => {
                let fail = |source| SecretError::Unreadable { path: path.clone(), source };
                let meta = std::fs::metadata(path).map_err(fail)?;
                // A pipe would wait for ever, a device never end.
                if !meta.is_file() {
                    return Err(SecretError::NotAFile(path.clone()));
                }
                let mut bytes = Vec::new();
                std::fs::File::open(path)
                    .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
                    .map_err(fail)?;
                if bytes.len() as u64 > MAX_BYTES {
                    return Err(SecretError::TooLarge(path.clone()));
                }
                let text = String::from_utf8(bytes).map_err(|_| SecretError::NotText(self.to_string()))?;
                match text.trim() {
                    "" => Err(SecretError::Empty(path.clone())),
                    text => Ok(SecretString::from(text)),
                }
            }
        }
    }
}

fn is_env_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.as_bytes()[0].is_ascii_digit()
}

/// First 16 hex digits of sha256(salt, parts): enough to see a change, useless to guess a secret from.
pub fn fingerprint(salt: &[u8], parts: &[&SecretString]) -> String {
    let mut hash = Sha256::new();
    hash.update(salt);
    for part in parts {
        let text = part.expose_secret();
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hex::encode(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_clear_is_refused_without_being_repeated() {
        for text in ["hunter2", "envy:X", "env:", "env:1X", "env:A B", "file:", "https://x"] {
            let message = SecretRef::parse(text, Path::new("/")).unwrap_err();
            assert!(!message.contains("hunter2"));
        }
    }

    #[test]
    fn a_file_secret_is_read_anew_each_time_and_loses_its_line_end() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("s"), "one\n").unwrap();
        let secret = SecretRef::parse("file:s", folder.path()).unwrap();
        assert_eq!(secret.read(&|_| None).unwrap().expose_secret(), "one");
        std::fs::write(folder.path().join("s"), "two").unwrap();
        assert_eq!(secret.read(&|_| None).unwrap().expose_secret(), "two");
        std::fs::write(folder.path().join("s"), "\n").unwrap();
        assert!(matches!(secret.read(&|_| None), Err(SecretError::Empty(_))));
    }

    #[test]
    fn an_unset_or_blank_variable_is_named() {
        let secret = SecretRef::Env("NORTH".into());
        assert_eq!(
            secret.read(&|_| Some(" ".into())).unwrap_err().to_string(),
            "environment variable NORTH is not set"
        );
    }

    #[test]
    fn the_fingerprint_depends_on_the_salt_and_on_where_one_part_ends() {
        let (a, b, ab, empty) = ("a".into(), "b".into(), "ab".into(), "".into());
        assert_ne!(fingerprint(b"1", &[&a, &b]), fingerprint(b"1", &[&ab, &empty]));
        assert_ne!(fingerprint(b"1", &[&a]), fingerprint(b"2", &[&a]));
    }
}
