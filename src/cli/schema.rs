//! `reportd schema` and `reportd completions`.

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use super::{Exit, say};
use crate::job::file::JobFile;
use crate::settings::file::ConfigFile;
use crate::yaml::Decoder;

#[derive(Debug, Args)]
pub(super) struct SchemaCommand {
    /// Of what
    #[arg(value_enum)]
    of: Of,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Of {
    Job,
    Config,
}

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl SchemaCommand {
    pub(super) fn run(&self) -> Exit {
        let schema = match self.of {
            Of::Job => Decoder::<JobFile>::schema(),
            Of::Config => Decoder::<ConfigFile>::schema(),
        };
        say(&serde_json::to_string_pretty(&schema).unwrap_or_default());
        Exit::Done
    }
}

impl Completions {
    pub(super) fn run(&self, command: &mut clap::Command) -> Exit {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, command, "reportd", &mut text);
        say(String::from_utf8_lossy(&text).trim_end());
        Exit::Done
    }
}
