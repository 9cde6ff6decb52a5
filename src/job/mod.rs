//! What a job file says, compiled.

pub mod schedule;
