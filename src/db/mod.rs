//! The database: for now the embedded server only.

pub mod embedded;
