//! `manifest.json`: what a revision is, for readers that have neither reportd nor its database.
//!
//! The struct is the format. Readers ignore keys they do not know; a change that old readers would misread raises
//! `schema_version`. Nothing secret is in it: the request is redacted, links and tokens never come here.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::request::window::{Window, rfc3339_in};

/// The version written today.
pub const SCHEMA_VERSION: u32 = 1;

/// One revision of one report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The archive it was written for.
    pub archive_id: Uuid,
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: String,
    /// The run that made it.
    pub run_id: Uuid,
    /// `schedule`, `manual` or `fill`.
    pub trigger: String,
    /// The instant the run was made for, with the zone's offset.
    pub fire_at: String,
    /// What it covers.
    pub window: ManifestWindow,
    /// r1, r2, ….
    pub revision: i32,
    /// The revision it replaces as the newest; null for the first.
    pub supersedes: Option<i32>,
    /// sha256 of that revision's manifest.
    pub previous_manifest_sha256: Option<String>,
    /// `archived`, or `empty`: a well-formed answer with no rows.
    pub state: String,
    /// The report may still change.
    pub provisional: bool,
    /// What was asked, redacted: method, url, headers, body.
    pub request: Value,
    /// Hash of what was asked, without window, e-mails and description.
    pub content_hash: String,
    /// `reportHistoryId` or `taskId`; null where the vendor gives none.
    pub ticket: Option<String>,
    /// The vendor's own state word when the file was fetched.
    pub vendor_status: Option<String>,
    /// When the vendor was asked.
    pub requested_at: DateTime<Utc>,
    /// When the last byte had come.
    pub received_at: DateTime<Utc>,
    /// Set when a person handed the file in.
    pub handed_in_by: Option<String>,
    /// The files beside the manifest.
    pub files: Vec<FileEntry>,
    /// Version of reportd.
    pub reportd_version: String,
}

/// What a revision covers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestWindow {
    /// First instant, in UTC.
    pub start: DateTime<Utc>,
    /// First instant after it, in UTC.
    pub end: DateTime<Utc>,
    /// Its name in the archive.
    pub label: String,
    /// First local date.
    pub first_date: String,
    /// Last local date.
    pub last_date: String,
    /// IANA zone of the calendar.
    pub zone: String,
    /// The time zone data that cut it.
    pub tzdata: String,
}

/// One file of a revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name beside the manifest.
    pub name: String,
    /// Media type.
    pub media_type: String,
    /// Size.
    pub bytes: u64,
    /// Hash of the bytes, 64 hex digits.
    pub sha256: String,
    /// Fetched from loopback: a rehearsal, not the vendor.
    pub simulated: bool,
    /// Made by reportd from what was received.
    pub derived: bool,
}

impl ManifestWindow {
    /// The manifest's form of a window.
    pub fn of(window: &Window) -> ManifestWindow {
        let (first, last) = window.local_dates();
        ManifestWindow {
            start: window.start(),
            end: window.end(),
            label: window.label(),
            first_date: first.to_string(),
            last_date: last.to_string(),
            zone: window.zone().name().to_owned(),
            tzdata: chrono_tz::IANA_TZDB_VERSION.to_owned(),
        }
    }

    /// The window it describes; `None` when it describes none.
    pub fn window(&self) -> Option<Window> {
        Window::new(self.start, self.end, self.zone.parse::<Tz>().ok()?)
    }
}

/// The manifest's form of a fire's instant.
pub fn fire_text(fire_at: DateTime<Utc>, zone: Tz) -> String {
    rfc3339_in(fire_at, zone)
}

impl Manifest {
    /// The file's bytes: indented JSON with a line end, for people as much as for programs.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Every field is a string, number, list or map with string keys, which JSON can always hold.
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Whether this run put it, for the same question.
    pub fn is_of(&self, run: Uuid, content_hash: &str) -> bool {
        self.run_id == run && self.content_hash == content_hash
    }

    /// Whether it can be what lies in `folder`; the error says why not.
    pub fn check(&self, folder: &str) -> Result<(), String> {
        if self.schema_version > SCHEMA_VERSION {
            return Err(format!("schema_version {} is newer than this reportd knows", self.schema_version));
        }
        let place =
            self.window.window().map(|w| super::revision_folder(&self.job, &self.connection, &w, self.revision));
        if place.as_deref() != Some(folder) {
            return Err(format!("it describes {}, which is not where it lies", place.unwrap_or_default()));
        }
        match self.files.iter().find(|f| f.name.contains(['/', '\\']) || f.name.starts_with('.') || f.name.is_empty()) {
            Some(file) => Err(format!("it names a file outside its folder: {}", file.name.escape_debug())),
            None => Ok(()),
        }
    }

    /// Reads a manifest.
    pub fn from_bytes(bytes: &[u8]) -> Result<Manifest, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}
