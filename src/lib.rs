//! reportd fetches scheduled reports from BIK, LiveChat and JAICP into an archive people can trust.

pub mod app;
pub mod archive;
pub mod artifact;
pub mod cli;
pub mod clock;
pub mod connection;
pub mod crash;
pub mod db;
pub mod job;
pub mod operator;
pub mod plan;
pub mod rehearsal;
pub mod request;
pub mod run;
pub mod sandbox;
pub mod settings;
pub mod telemetry;
pub mod vendor;
pub mod view;
pub mod worker;
pub mod yaml;
