//! What one run asks for: pure data.

pub mod window;
