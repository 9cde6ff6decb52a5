//! reportd fetches scheduled reports from BIK, LiveChat and JAICP into an archive people can trust.
//!
//! One way through the program:
//!
//! ```text
//! jobs/x.yaml --load, compile--> Job --window--> Request (pure; `plan` stops here and prints it)
//!     --insert--> Run --claim, step--> vendor --answer--> temp file --sniff, hash--> Artifact
//!     --put once--> archive --same transaction: artifacts, run archived--> Postgres --herald--> Delivery --> mail, webhook, …
//! ```
//!
//! `run-job` and `fill` insert runs for a person; `serve` inserts them when a schedule says so, and carries all of them on.
//!
//! The modules, in the order of that way:
//!
//! | module | what it is for |
//! |---|---|
//! | [`cli`] | the command line: one short file a command, printing only |
//! | [`app`] | the composition root: settings, jobs, database, archive, clients put together |
//! | [`settings`] | reportd.yaml and the environment -> typed settings; the only reader of the environment |
//! | [`yaml`] | text and a type -> a value, or every problem with its place; knows no job |
//! | [`connection`] | one shop: accounts, limits, variables, where its secrets are |
//! | [`template`] | placeholders in strings of job files |
//! | [`job`] | job file -> `Job`; schedules; job + connection + window -> `Request` |
//! | [`request`] | what one run asks for, and its window; pure data and pure functions |
//! | [`plan`] | the next fires with their windows and requests; pure |
//! | [`fire`] | the rule of a series with its history; due instants -> decisions; pure |
//! | [`run`] | the run: states, back-off, and every SQL statement on runs |
//! | [`vendor`] | talking to the three vendors: wire types, errors, downloads |
//! | [`artifact`] | bytes on their way in: temporary file, hash, "is this the report" |
//! | [`archive`] | the archive's folder: put once, manifests, verify |
//! | [`delivery`] | notices about runs: what they say, and how each kind goes out |
//! | [`worker`] | claim, step, commit: the only place where run, vendor and archive meet; makes deliveries and works them off |
//! | [`job_set`] | the job files in force: folder -> database -> jobs |
//! | [`service`] | `serve`: pulse, planner, workers, reload, health |
//! | [`coverage`] | expected windows x what is held -> a calendar; pure but for what reads rows and files |
//! | [`retention`] | what `archive prune` lets go by `retain`: job files, rows and archive put together |
//! | [`operator`] | retry and resolve: what an operator's word needs besides its SQL |
//! | [`selected`], [`why`], [`status`] | the series a person names; what decided about an instant; what needs a person |
//! | [`doctor`] | a look at everything that must be right, each thing by itself, with what to do |
//! | [`view`] | the JSON of the contract |
//! | [`sandbox`], [`rehearsal`] | the vendors on loopback, and running jobs against them |
//! | [`db`] | which Postgres, its pool, migrations, the embedded cluster |
//! | [`clock`], [`telemetry`], [`crash`] | the time; logs and error chains; points at which tests kill the process |
//!
//! Which way a `use` may point (held by `tests/it/tidy.rs`):
//!
//! ```text
//! cli -> service -> app -> worker -> { run, vendor, archive, delivery } -> { request, artifact } -> std
//!        service -> { fire, job_set }  worker -> plan -> job -> { connection, request, yaml }
//! cli -> doctor -> app
//! cli -> { coverage, status, why }, which only read: rows through run/store, files through the worker's archive
//! ```
//!
//! `vendor` does not know `run`'s rows and `run` does not know `vendor`: tickets are JSON between them, and they meet in
//! `worker/step.rs`. One owner for each thing outside: `reqwest` in `vendor` and
//! `delivery`, `lettre` in `delivery/email`, `sqlx` in `run/store` and `db`, `object_store` in `archive` and `delivery`,
//! the environment in `settings`, the wall clock in `clock`.

pub mod app;
pub mod archive;
pub mod artifact;
pub mod cli;
pub mod clock;
pub mod connection;
pub mod coverage;
pub mod crash;
pub mod db;
pub mod delivery;
pub mod doctor;
pub mod fire;
pub mod job;
pub mod job_set;
pub mod operator;
pub mod plan;
pub mod rehearsal;
pub mod request;
pub mod retention;
pub mod run;
pub mod sandbox;
pub mod selected;
pub mod service;
pub mod settings;
pub mod status;
pub mod telemetry;
pub mod template;
pub mod vendor;
pub mod view;
pub mod why;
pub mod worker;
pub mod yaml;
