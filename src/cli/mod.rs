//! The command line: one short file a command, printing only; what the commands do lives below.
//!
//! Results go to stdout, logs and progress to stderr. With `--format json` stdout holds one JSON object a line and nothing
//! else. Exit codes are a contract (DESIGN 3): see `Exit`.

mod apply;
mod archive;
mod carry;
mod connections;
mod coverage;
mod delivery;
mod demo;
mod desk;
mod doctor;
mod fill;
mod migrate;
mod operator;
mod pause;
mod plan;
mod progress;
mod prune;
mod run_job;
mod runs;
mod sandbox;
mod schema;
mod serve;
mod status;
mod text;
mod validate;
mod why;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::app::{Files, Place, Selection, StartError};
use crate::clock::Clock;
use crate::connection::environment::Environment;
use crate::run::store::StoreError;
use crate::telemetry::{self, Chain, LogFormat};
use crate::worker::open::OpenError;
use crate::yaml::Problem;

/// Fetches scheduled reports from BIK, LiveChat and JAICP into an archive people can trust.
#[derive(Debug, Parser)]
#[command(name = "reportd", version, about, disable_help_subcommand = true, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Args)]
struct Common {
    /// Config file [default: ./reportd.yaml, which need not exist]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of job files (*.yaml, *.yml; no sub-folders)
    #[arg(long, global = true, value_name = "DIR", default_value = "./jobs", hide_default_value = false)]
    jobs: PathBuf,
    /// Form of what is printed to stdout
    #[arg(long, global = true, value_enum, default_value_t)]
    format: Format,
    /// Form of the log on stderr
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
}

/// Form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
    /// Annotations of a GitHub workflow (validate only).
    Github,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// First run: every job of jobs/ once, against simulated vendors and a database of its own
    Demo(demo::Demo),
    /// All problems of config and job files
    Validate(validate::Validate),
    /// Next fires with their windows, and the exact requests
    Plan(plan::Plan),
    /// One run now (of each connection, of each part of the window), with progress
    RunJob(run_job::RunJob),
    /// The service: fires schedules, carries runs, any number of processes on one database
    Serve(serve::Serve),
    /// Put the job files into the database as the set that all replicas fire
    Apply(apply::Apply),
    /// Which windows are held, and which are not
    Coverage(coverage::Coverage),
    /// Fetch the windows that are missing, missed, paused or failed, and no others
    Fill(fill::Fill),
    /// What needs a person now, by cause, each with what ends it
    Status(status::Status),
    /// The newest runs
    Runs(runs::Runs),
    /// One run with its history
    Show(runs::Show),
    /// Start a failed or cancelled run again
    Retry(operator::Retry),
    /// Stop a run; what was made at the vendor stays there
    Cancel(operator::Cancel),
    /// Say what became of a held run
    Resolve(operator::Resolve),
    /// Which rule decided about an instant
    Why(why::Why),
    /// Let a job fire no more until it is resumed
    Pause(pause::Pause),
    /// Let a paused job fire again
    Resume(pause::Resume),
    /// The newest deliveries: what was told whom
    Deliveries(delivery::Deliveries),
    /// Send a delivery again, or end it
    Delivery(delivery::DeliveryCommand),
    /// Check the archive, rebuild the database's knowledge of it, or remove what `retain` lets go
    Archive(archive::ArchiveCommand),
    /// Accounts and their breakers
    Connections(connections::Connections),
    /// Look at everything that must be right, and say what to do
    Doctor(doctor::Doctor),
    /// Bring the database's schema to this version
    Migrate(migrate::Migrate),
    /// The three vendors on loopback, strict as their docs
    Sandbox(sandbox::SandboxCommand),
    /// JSON Schema of job files or of reportd.yaml
    Schema(schema::SchemaCommand),
    /// Completions for a shell
    Completions(schema::Completions),
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, also when the report was empty.
    Done,
    /// The run failed or was cancelled, or a check found something.
    Failed,
    /// Usage, config or job file.
    Usage,
    /// Held for an operator.
    Held,
    /// Still in flight when the wait ended.
    InFlight,
    /// Interrupted; the run stays.
    Interrupted,
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Held => 3,
            Exit::InFlight => 4,
            Exit::Interrupted => 130,
        }
    }
}

/// Why a command could not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked makes no sense, or the config does not.
    Usage(String),
    /// Problems of files.
    Problems(Vec<Problem>),
    /// Something failed.
    Failed(anyhow::Error),
}

impl Failure {
    /// Says what went wrong on stderr; returns how the process ends for it.
    pub(crate) fn complain(&self) -> Exit {
        match self {
            Failure::Usage(message) => {
                note(&format!("reportd: {message}"));
                Exit::Usage
            }
            Failure::Problems(problems) => {
                for problem in problems {
                    note(problem.text().trim_end());
                }
                Exit::Usage
            }
            Failure::Failed(error) => {
                note(&format!("reportd: {}", Chain(error.as_ref())));
                Exit::Failed
            }
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Failure {
        use crate::db::DbError;
        match &error {
            StartError::ArchiveLost(_)
            | StartError::Db(DbError::Unset(_) | DbError::Url | DbError::Behind { .. } | DbError::Ahead { .. }) => {
                Failure::Usage(Chain(&error).to_string())
            }
            _ => Failure::Failed(error.into()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match error {
            // What was asked cannot be done with the run as it stands.
            StoreError::Refused(message) => Failure::Usage(message),
            other => Failure::Failed(other.into()),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        match error {
            OpenError::Store(error) => error.into(),
            OpenError::Archive(error) => Failure::Failed(error.into()),
            other => Failure::Usage(Chain(&other).to_string()),
        }
    }
}

impl From<crate::operator::OperatorError> for Failure {
    fn from(error: crate::operator::OperatorError) -> Failure {
        match error {
            crate::operator::OperatorError::Open(error) => error.into(),
            other => Failure::Usage(Chain(&other).to_string()),
        }
    }
}

impl From<crate::archive::ArchiveError> for Failure {
    fn from(error: crate::archive::ArchiveError) -> Failure {
        Failure::Failed(error.into())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Failed(error.into())
    }
}

/// What every command is given.
pub(crate) struct Cx {
    common: Common,
    pub(crate) environment: Environment,
    pub(crate) clock: Clock,
}

impl Cx {
    pub(crate) fn json(&self) -> bool {
        self.common.format == Format::Json
    }

    pub(crate) fn format(&self) -> Format {
        self.common.format
    }

    pub(crate) fn place(&self) -> Place {
        Place {
            config: self.common.config.clone().unwrap_or_else(|| PathBuf::from("./reportd.yaml")),
            config_named: self.common.config.is_some(),
            jobs: self.common.jobs.clone(),
        }
    }

    pub(crate) fn files(&self) -> Files {
        Files::load(&self.place(), self.environment.clone(), &self.clock)
    }
}

/// Refuses to go on with broken files: the config's, and those of the job that is asked for, or of all.
pub(crate) fn refuse_errors(files: &Files, selection: Option<&Selection>) -> Result<(), Failure> {
    let errors = files.errors_of(selection.map(|s| s.job.as_str()));
    if errors.is_empty() { Ok(()) } else { Err(Failure::Problems(errors)) }
}

/// Why stdout takes nothing more: 1 = its reader has gone (`| head`), which is no error; 2 = it cannot be written. What
/// follows is not written; the work and its exit code stay.
static STDOUT_TROUBLE: AtomicU8 = AtomicU8::new(0);

/// Writes a line to stdout.
pub(crate) fn say(line: &str) {
    if STDOUT_TROUBLE.load(Ordering::Relaxed) != 0 {
        return;
    }
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        let gone = error.kind() == std::io::ErrorKind::BrokenPipe;
        STDOUT_TROUBLE.store(if gone { 1 } else { 2 }, Ordering::Relaxed);
        if !gone {
            note(&format!("reportd: results cannot be written to stdout: {error}"));
        }
    }
}

/// Writes a line to stderr.
pub(crate) fn note(line: &str) {
    // Nowhere is left to complain when stderr is gone.
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

/// One JSON object on one line.
pub(crate) fn say_json(value: &impl serde::Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => say(&text),
        Err(error) => note(&format!("reportd: a result cannot be written as JSON: {error}")),
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let environment = crate::settings::environment();
    if let Some(point) = environment.get("REPORTD_CRASH_AT") {
        crate::crash::arm(&point);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let help = !error.use_stderr();
            drop(error.print());
            return ExitCode::from(if help { 0 } else { Exit::Usage.code() });
        }
    };
    // A service tells what it does; a command's results say it.
    let filter = if matches!(cli.command, Command::Serve(_)) { "warn,reportd=info" } else { "error" };
    telemetry::start(cli.common.log_format, environment.get("RUST_LOG").as_deref(), filter);
    // Fails only when a provider was installed before, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            note(&format!("reportd: the async runtime did not start: {error}"));
            return ExitCode::from(Exit::Failed.code());
        }
    };
    let clock = Clock::system(environment.get("REPORTD_CLOCK_OFFSET").as_deref());
    let cx = Cx { common: cli.common, environment, clock };
    let exit = match runtime.block_on(dispatch(&cx, cli.command)) {
        Ok(exit) => exit,
        Err(failure) => failure.complain(),
    };
    let unwritten = STDOUT_TROUBLE.load(Ordering::Relaxed) == 2;
    let exit = if unwritten && exit == Exit::Done { Exit::Failed } else { exit };
    // A thread that waits for a child or a file must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ExitCode::from(exit.code())
}

async fn dispatch(cx: &Cx, command: Command) -> Result<Exit, Failure> {
    if cx.format() == Format::Github && !matches!(command, Command::Validate(_)) {
        return Err(Failure::Usage("--format github is for validate only".into()));
    }
    match command {
        Command::Demo(args) => args.run(cx).await,
        Command::Validate(args) => Ok(args.run(cx)),
        Command::Plan(args) => args.run(cx),
        Command::RunJob(args) => args.run(cx).await,
        Command::Serve(args) => Box::pin(args.run(cx)).await,
        Command::Apply(args) => args.run(cx).await,
        Command::Coverage(args) => args.run(cx).await,
        Command::Fill(args) => args.run(cx).await,
        Command::Status(args) => args.run(cx).await,
        Command::Runs(args) => args.run(cx).await,
        Command::Show(args) => args.run(cx).await,
        Command::Retry(args) => args.run(cx).await,
        Command::Cancel(args) => args.run(cx).await,
        Command::Resolve(args) => args.run(cx).await,
        Command::Why(args) => args.run(cx).await,
        Command::Pause(args) => args.run(cx).await,
        Command::Resume(args) => args.run(cx).await,
        Command::Deliveries(args) => args.run(cx).await,
        Command::Delivery(args) => args.run(cx).await,
        Command::Archive(args) => args.run(cx).await,
        Command::Connections(args) => args.run(cx).await,
        Command::Doctor(args) => args.run(cx).await,
        Command::Migrate(args) => args.run(cx).await,
        Command::Sandbox(args) => args.run(cx).await,
        Command::Schema(args) => Ok(args.run()),
        Command::Completions(args) => Ok(args.run(&mut Cli::command())),
    }
}
