//! The integration tests: the real program, a real PostgreSQL, real HTTP on loopback, real files, processes that are killed.

#[cfg(test)]
mod embedded;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod readme;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod smoke;
#[cfg(test)]
mod tidy;
