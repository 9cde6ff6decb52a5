//! What `serve` is made of: the pulse, the health of the process and its HTTP surface, the word to systemd.
//!
//! Each of these parts stands alone and knows neither runs nor vendors.

pub mod health;
pub mod pulse;
pub mod surface;
pub mod systemd;
