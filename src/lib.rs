//! reportd fetches scheduled reports from BIK, LiveChat and JAICP into an archive people can trust.

pub mod archive;
pub mod artifact;
pub mod clock;
pub mod connection;
pub mod db;
pub mod job;
pub mod request;
pub mod run;
pub mod sandbox;
pub mod settings;
pub mod vendor;
pub mod yaml;
