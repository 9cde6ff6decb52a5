//! reportd fetches scheduled reports from BIK, LiveChat and JAICP into an archive people can trust.

pub mod yaml;
