//! What serving costs.
