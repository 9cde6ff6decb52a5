//! The integration tests: the real program, a real PostgreSQL, real HTTP on loopback, real files, processes that are killed.

#[cfg(test)]
mod archive;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod embedded;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod life;
#[cfg(test)]
mod smoke;
#[cfg(test)]
mod store;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod verbs;
