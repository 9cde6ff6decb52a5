//! The one integration binary: real processes, real PostgreSQL.

// `cfg(test)` tells clippy that helpers, too, may unwrap.
#[cfg(test)]
mod embedded;
