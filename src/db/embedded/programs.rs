//! Which PostgreSQL programs this machine has, and what to type when it has none.
//!
//! A candidate is a folder with both `postgres` and `initdb` (a client-only package has neither) whose `postgres`
//! answers `--version`. The folder that the user named is taken alone; otherwise `PATH` comes first, then the folders of
//! the distributions. Nothing is installed here: that is the user's decision, or the `x` script's after it has said so.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{EmbeddedError, EmbeddedOptions, blocking};

/// The oldest major version tried with.
pub(super) const OLDEST: u32 = 14;

/// A program that prints its version takes milliseconds; more means a hung file system.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// Where packages put the programs: parent, start of the name of a folder in it, folder inside that one.
const PLACES: &[(&str, &str, &str)] = &[
    ("usr/lib/postgresql", "", "bin"),
    ("usr", "pgsql-", "bin"),
    ("usr/lib", "postgresql", "bin"),
    ("usr/libexec", "postgresql", ""),
    ("opt/homebrew/opt", "postgresql", "bin"),
    ("usr/local/opt", "postgresql", "bin"),
    ("home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ("Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// A pair of programs of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    pub(super) postgres: PathBuf,
    pub(super) initdb: PathBuf,
    pub(super) major: u32,
}

/// The programs for the data folder `data` of version `wanted`, or the newest ones if there is no data folder yet.
pub(super) async fn find(
    options: &EmbeddedOptions,
    data: &Path,
    wanted: Option<&str>,
) -> Result<Programs, EmbeddedError> {
    let given = options.clone();
    let folders = blocking(move || Ok(candidates(&given, Path::new("/")))).await?;
    let mut found = Vec::new();
    for folder in folders {
        if let Some(programs) = inspect(&folder).await.filter(|programs| programs.major >= OLDEST) {
            found.push(programs);
        }
    }
    if found.is_empty() {
        return Err(match &options.pg_bin {
            Some(path) => EmbeddedError::NoProgramsIn { path: path.clone() },
            None => EmbeddedError::NoPrograms { install: install_hint().await },
        });
    }
    choose(found, data, wanted)
}

fn choose(mut found: Vec<Programs>, data: &Path, wanted: Option<&str>) -> Result<Programs, EmbeddedError> {
    let mut versions: Vec<String> = found.iter().map(|programs| programs.major.to_string()).collect();
    versions.sort();
    versions.dedup();
    let best = match wanted {
        Some(wanted) => found.iter().position(|programs| programs.major.to_string() == wanted),
        // The first of the newest: the order of the search decides between equals.
        None => (0..found.len()).rev().max_by_key(|&index| found[index].major),
    };
    match (best, wanted) {
        (Some(index), _) => Ok(found.swap_remove(index)),
        (None, wanted) => Err(EmbeddedError::Version {
            path: data.to_path_buf(),
            wanted: wanted.unwrap_or_default().to_owned(),
            found: versions.join(", "),
        }),
    }
}

/// The folders that hold both programs, in the order of the search, each once.
fn candidates(options: &EmbeddedOptions, root: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(named) = &options.pg_bin {
        let named = std::path::absolute(named).unwrap_or_else(|_| named.clone());
        folders.extend([named.join("bin"), named]);
    } else {
        // A relative entry would mean another program for every folder that reportd is started in.
        let path = options.search_path.as_deref().unwrap_or(OsStr::new(""));
        folders.extend(std::env::split_paths(path).filter(|folder| folder.is_absolute()));
        for (parent, start, inside) in PLACES {
            let Ok(entries) = std::fs::read_dir(root.join(parent)) else {
                continue;
            };
            let mut names: Vec<_> = entries
                .flatten()
                .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(start.as_bytes()))
                .map(|entry| entry.path().join(inside))
                .collect();
            names.sort();
            folders.extend(names);
        }
    }
    let mut kept: Vec<PathBuf> = Vec::new();
    for folder in folders.into_iter().filter(|folder| has_both(folder)) {
        // A link in PATH leads to the folder where the programs find their own libraries and files.
        let real = std::fs::canonicalize(folder.join("postgres")).ok();
        let real = real.as_deref().and_then(Path::parent).filter(|real| has_both(real)).map(Path::to_path_buf);
        let folder = real.unwrap_or(folder);
        if !kept.contains(&folder) {
            kept.push(folder);
        }
    }
    kept
}

fn has_both(folder: &Path) -> bool {
    ["postgres", "initdb"].iter().all(|program| folder.join(program).is_file())
}

/// `None` when its `postgres` does not run here, such as one that was built for another C library.
async fn inspect(folder: &Path) -> Option<Programs> {
    let postgres = folder.join("postgres");
    let mut command = Command::new(&postgres);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_LIMIT, command.output()).await.ok()?.ok()?;
    let major = major(&String::from_utf8_lossy(&output.stdout))?;
    Some(Programs { initdb: folder.join("initdb"), postgres, major })
}

/// 15 from `postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`, 18 from `postgres (PostgreSQL) 18beta1`.
fn major(version: &str) -> Option<u32> {
    let number = version.strip_prefix("postgres (PostgreSQL) ")?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

async fn install_hint() -> String {
    let os_release = match tokio::fs::read_to_string("/etc/os-release").await {
        Ok(text) => text,
        Err(_) if cfg!(target_os = "macos") => "ID=macos".to_owned(),
        Err(_) => String::new(),
    };
    match install_line(&os_release, rustix::process::geteuid().is_root()) {
        Some(line) => format!("install them with `{line}`"),
        None => "install your system's postgresql server package".to_owned(),
    }
}

/// The line that installs the server on the system that this `/etc/os-release` describes.
fn install_line(os_release: &str, root: bool) -> Option<String> {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or("").trim_matches(['"', '\'']).to_owned()
    };
    let names = format!("{} {}", value("ID"), value("ID_LIKE"));
    let line = names.split_whitespace().find_map(|name| match name {
        "debian" | "ubuntu" => Some("apt-get install -y --no-install-recommends postgresql"),
        "fedora" | "rhel" | "centos" | "amzn" => Some("dnf install -y postgresql-server"),
        "alpine" => Some("apk add postgresql"),
        "arch" => Some("pacman -S --needed --noconfirm postgresql"),
        "suse" | "opensuse" | "sles" => Some("zypper --non-interactive install postgresql-server"),
        "macos" => Some("brew install postgresql@17"),
        _ => None,
    })?;
    let sudo = if root || line.starts_with("brew") { "" } else { "sudo " };
    Some(format!("{sudo}{line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(folder: &str, major: u32) -> Programs {
        let folder = Path::new(folder);
        Programs { postgres: folder.join("postgres"), initdb: folder.join("initdb"), major }
    }

    fn options(pg_bin: Option<PathBuf>, search_path: &str) -> EmbeddedOptions {
        EmbeddedOptions { dir: PathBuf::new(), pg_bin, search_path: Some(search_path.into()), durable: true }
    }

    fn put(folder: &Path, names: &[&str]) {
        std::fs::create_dir_all(folder).unwrap();
        for name in names {
            std::fs::write(folder.join(name), "").unwrap();
        }
    }

    #[test]
    fn the_version_is_read_from_releases_and_betas() {
        assert_eq!(major("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major("postgres (PostgreSQL) 16"), Some(16));
        assert_eq!(major("postgres: error while loading shared libraries"), None);
        assert_eq!(major("postgres (PostgreSQL) 99999999999999999999"), None);
    }

    #[test]
    fn an_existing_data_folder_gets_its_own_version_and_a_new_one_the_newest() {
        let found = || vec![programs("/path", 15), programs("/a", 16), programs("/b", 16)];
        let data = Path::new("/data");
        assert_eq!(choose(found(), data, Some("15")).unwrap(), programs("/path", 15));
        assert_eq!(choose(found(), data, None).unwrap(), programs("/a", 16));
        let message = choose(found(), data, Some("14")).unwrap_err().to_string();
        assert!(message.contains("/data was made by postgresql 14, and only version 15, 16 is here"), "{message}");
        assert!(message.contains("pg_upgrade or pg_dump"), "{message}");
    }

    #[test]
    fn the_search_takes_path_first_then_packages_and_needs_both_programs() {
        let root = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(root.path()).unwrap();
        let both = &["postgres", "initdb"];
        put(&root.join("usr/lib/postgresql/15/bin"), both);
        put(&root.join("usr/lib/postgresql/16/bin"), &["psql", "postgres"]);
        put(&root.join("usr/pgsql-17/bin"), both);
        put(&root.join("usr/share/bin"), both);
        put(&root.join("mine"), both);
        put(&root.join("links"), &[]);
        for name in both {
            std::os::unix::fs::symlink(root.join("usr/pgsql-17/bin").join(name), root.join("links").join(name))
                .unwrap();
        }
        let path = format!("relative::{0}/empty:{0}/mine:{0}/links", root.display());
        let expected = ["mine", "usr/pgsql-17/bin", "usr/lib/postgresql/15/bin"].map(|folder| root.join(folder));
        assert_eq!(candidates(&options(None, &path), &root), expected);
        assert_eq!(candidates(&options(None, ""), &root.join("mine")), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_named_folder_is_the_only_one_searched() {
        let root = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(root.path()).unwrap();
        put(&root.join("usr/lib/postgresql/15/bin"), &["postgres", "initdb"]);
        assert_eq!(candidates(&options(Some(root.join("nothing")), ""), &root), Vec::<PathBuf>::new());
        let above = root.join("usr/lib/postgresql/15");
        assert_eq!(candidates(&options(Some(above.clone()), ""), &root), [above.join("bin")]);
    }

    #[test]
    fn every_known_system_gets_its_install_line() {
        let line = |text: &str| install_line(text, true).unwrap_or_default();
        assert_eq!(line("NAME=x\nID=debian\n"), "apt-get install -y --no-install-recommends postgresql");
        assert_eq!(line("ID=linuxmint\nID_LIKE=\"ubuntu debian\""), line("ID=debian"));
        assert_eq!(line("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\""), "dnf install -y postgresql-server");
        assert_eq!(line("ID=alpine"), "apk add postgresql");
        assert_eq!(line("ID=manjaro\nID_LIKE=arch"), "pacman -S --needed --noconfirm postgresql");
        assert_eq!(line("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\""), line("ID=sles"));
        assert_eq!(install_line("ID=fedora", false).unwrap(), "sudo dnf install -y postgresql-server");
        assert_eq!(install_line("ID=macos", false).unwrap(), "brew install postgresql@17");
        assert_eq!(install_line("", true), None);
        assert_eq!(install_line("ID", true), None);
    }
}
