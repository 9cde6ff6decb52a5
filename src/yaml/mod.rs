//! Text to a typed value, or to every problem of the file, each as file:line:column with its source line.
//!
//! A good file takes the fast path: a look at its bytes, then `serde_yaml` straight into the Rust type. Only a file that
//! fails is parsed again with marks, turned into JSON, held against the JSON Schema that the same Rust type generates, and
//! reported violation by violation; what was wrong is then cut out, so that the caller can look for more in the rest.
//!
//! ```text
//! bytes -> screen -> serde_yaml::from_str -> value
//!                          | fails
//!                          v
//!          tree (marks) -> JSON -> collect (schema) -> prune -> serde_json -> value?, problems
//! ```
//!
//! It knows no job, no vendor and no setting: it is a text and a type in, a value and places out. It refuses what YAML
//! allows and people regret: merge keys, repeated keys, keys that are not text, private tags, several documents in a file,
//! aliases that multiply. Nothing here reads the environment or the clock; `read` is the only function that touches a disk.

mod collect;
mod decode;
mod duration;
mod free;
mod grow;
mod hint;
mod lines;
mod problem;
mod read;
mod salvage;
mod scalar;
mod screen;
mod source;
mod tree;
mod words;

pub use decode::{Decoded, Decoder};
pub use duration::{DurationText, parse_duration, show_duration};
pub use free::{Free, Named};
pub use problem::{Finding, Path, Problem, Segment, Severity, Spot, is_unprintable};
pub use read::{MAX_BYTES, read};
pub use source::Source;
pub use words::did_you_mean;

#[cfg(test)]
mod decode_tests;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod hostile_tests;
