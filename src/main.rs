//! The `reportd` program.

fn main() {}
