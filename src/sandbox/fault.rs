//! The ways in which the sandbox misbehaves on request, and the words for them.
//!
//! A fault is written `VENDOR.OPERATION=FAULT[:N]`, as in `bik.generateReport=lost:1`: the next `N` requests of that
//! operation (all, without `N`) meet it, then everything is normal again. Faults with the same operation wait for each
//! other in the order given.
//!
//! Three kinds differ in when they act. Some act *before* the vendor has done anything (a status, `reset`, `inner-…`,
//! `echo-secret`); some act on the answer *after* the effect (`lost`, `hang`, `slow`, `truncated`, `html`, `empty`,
//! `garbage`); and some belong to a task (`failed`, `stuck`, …): they stick to the task that meets them, whether named
//! on its create or on its poll, so `N` counts tasks. A create meets them only when it is accepted. Two are milder on a
//! poll, so that a client's recovery can be seen: there `gone` spoils one answer, and the three link faults spoil one
//! handing out of the link.
//!
//! Nothing here knows HTTP: `server` and the vendors' modules act on the words.

use std::fmt;
use std::str::FromStr;

/// One of the three vendors that the sandbox plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// BIK's platform functions.
    Bik,
    /// LiveChat's Reports API.
    LiveChat,
    /// JAICP's Reporter API, the generation with the token in the path.
    Jaicp,
}

impl Vendor {
    const ALL: [Self; 3] = [Self::Bik, Self::LiveChat, Self::Jaicp];

    /// The vendor's word in faults and pages: `bik`, `livechat` or `jaicp`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bik => "bik",
            Self::LiveChat => "livechat",
            Self::Jaicp => "jaicp",
        }
    }

    /// The operations that can be given a fault.
    fn operations(self) -> &'static [&'static str] {
        match self {
            Self::Bik => &[
                "generateReport",
                "getReportById",
                "download",
                "authPartnerViaKey",
                "createAndAssignTicket",
                "sendEvent",
            ],
            Self::LiveChat => &["report"],
            Self::Jaicp => &["create", "task", "download", "delete", "query", "by-session", "filters"],
        }
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// An HTTP error in the vendor's own shape, without any effect. Written as the number.
    Status {
        /// The HTTP status, 300 to 599. A 3xx carries a `Location` on another host.
        code: u16,
        /// `Retry-After` in seconds; only with 429 and 503, written `503+2`.
        retry_after: Option<u32>,
    },
    /// The effect happens, then the connection ends without an answer.
    Lost,
    /// The connection is reset before any effect.
    Reset,
    /// The effect happens, then nothing comes for ten minutes or until the client goes.
    Hang,
    /// The effect happens; the answer comes after a second, and then in dribbles.
    Slow,
    /// The effect happens; the answer's `Content-Length` promises more than comes.
    Truncated,
    /// The effect happens; the answer is 200 with an HTML error page.
    Html,
    /// The effect happens; the answer is 200 with no bytes.
    Empty,
    /// The effect happens; the answer is 200 and says it is JSON, but is not.
    Garbage,
    /// BIK only: HTTP 200 around an inner status, 400, 401 or 500, without any effect. Written `inner-400`.
    Inner(u16),
    /// The task ends as failed.
    Failed,
    /// The task never ends.
    Stuck,
    /// Two polls of the task answer a status word that no page knows.
    OddStatus,
    /// JAICP only: the task ends as stopped.
    Stopped,
    /// The task is answered with 404: for ever when named on the create, once per `N` on a poll.
    Gone,
    /// The link answers 403.
    DeadLink,
    /// The link is on a host that nobody allowed.
    ForeignLink,
    /// The link is a path without a host.
    RelativeLink,
    /// The report holds no rows.
    NoRows,
    /// The report is a CSV of 32 MiB.
    Huge,
    /// A 400 whose message repeats the request's credentials and URL.
    EchoSecret,
}

const WORDS: [(&str, FaultKind); 22] = [
    ("lost", FaultKind::Lost),
    ("reset", FaultKind::Reset),
    ("hang", FaultKind::Hang),
    ("slow", FaultKind::Slow),
    ("truncated", FaultKind::Truncated),
    ("html", FaultKind::Html),
    ("empty", FaultKind::Empty),
    ("garbage", FaultKind::Garbage),
    ("echo-secret", FaultKind::EchoSecret),
    ("inner-400", FaultKind::Inner(400)),
    ("inner-401", FaultKind::Inner(401)),
    ("inner-500", FaultKind::Inner(500)),
    ("failed", FaultKind::Failed),
    ("stuck", FaultKind::Stuck),
    ("odd-status", FaultKind::OddStatus),
    ("stopped", FaultKind::Stopped),
    ("gone", FaultKind::Gone),
    ("dead-link", FaultKind::DeadLink),
    ("foreign-link", FaultKind::ForeignLink),
    ("relative-link", FaultKind::RelativeLink),
    ("no-rows", FaultKind::NoRows),
    ("huge", FaultKind::Huge),
];

impl FaultKind {
    /// Every fault that a task can carry through its life.
    pub(super) const OF_TASKS: [Self; 10] = [
        Self::Failed,
        Self::Stuck,
        Self::OddStatus,
        Self::Stopped,
        Self::Gone,
        Self::DeadLink,
        Self::ForeignLink,
        Self::RelativeLink,
        Self::NoRows,
        Self::Huge,
    ];

    /// The ones that spoil a link.
    pub(super) const OF_LINKS: [Self; 3] = [Self::DeadLink, Self::ForeignLink, Self::RelativeLink];

    /// Whether the server acts on it by itself, knowing nothing of tasks and rows.
    pub(super) fn is_of_the_wire(self) -> bool {
        !Self::OF_TASKS.contains(&self)
    }

    /// Whether this fault can happen to this operation at all.
    fn fits(self, vendor: Vendor, operation: &str) -> bool {
        let of_a_task = matches!(operation, "generateReport" | "create" | "getReportById" | "task");
        match self {
            Self::Inner(_) => vendor == Vendor::Bik && operation != "download",
            Self::Stopped => vendor == Vendor::Jaicp && of_a_task,
            Self::DeadLink | Self::Huge => of_a_task || operation == "download",
            Self::NoRows => of_a_task || matches!(operation, "download" | "report" | "query" | "by-session"),
            kind if Self::OF_TASKS.contains(&kind) => of_a_task,
            _ => true,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, WORDS.iter().find(|(_, kind)| kind == self)) {
            (_, Some((word, _))) => f.write_str(word),
            (Self::Status { code, retry_after: Some(seconds) }, None) => write!(f, "{code}+{seconds}"),
            (Self::Status { code, .. } | Self::Inner(code), None) => write!(f, "{code}"),
            (_, None) => Ok(()),
        }
    }
}

/// Something that will go wrong, for one operation of one vendor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The vendor that misbehaves.
    pub vendor: Vendor,
    /// Its operation, one of the words that the error of a wrong one lists, such as `generateReport` or `create`.
    pub operation: String,
    /// What goes wrong. A kind that cannot happen to the operation (the parser refuses it) never acts.
    pub kind: FaultKind,
    /// How many times, from 1; `None` is until the faults are set anew.
    pub times: Option<u32>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}={}", self.vendor, self.operation, self.kind)?;
        self.times.map_or(Ok(()), |times| write!(f, ":{times}"))
    }
}

/// Why a text is not a fault; the message lists the words that are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// A dot, an equals sign or what should stand beside them is missing.
    #[error("fault '{0}' is not written VENDOR.OPERATION=FAULT[:N], as in bik.generateReport=lost:1")]
    Form(String),
    /// There is no such vendor.
    #[error("no vendor '{0}' for a fault; the vendors are bik, livechat, jaicp")]
    Vendor(String),
    /// The vendor has no such operation.
    #[error("{vendor} has no operation '{word}' for a fault; its operations are {known}")]
    Operation {
        /// The vendor asked for.
        vendor: Vendor,
        /// The word that was given.
        word: String,
        /// The words that exist, with commas.
        known: String,
    },
    /// No such fault, or not for this operation.
    #[error(
        "no fault '{word}' for {vendor}.{operation}; the faults are a status from 300 to 599 (429 and 503 take +SECONDS), {known}"
    )]
    Kind {
        /// The vendor asked for.
        vendor: Vendor,
        /// The operation asked for.
        operation: String,
        /// The word that was given.
        word: String,
        /// The words that exist for this operation, with commas.
        known: String,
    },
    /// The number of times is not one.
    #[error("'{0}' is not a number of times; write a whole number from 1, or leave it out for always")]
    Times(String),
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let form = || FaultError::Form(text.to_owned());
        let (target, what) = text.split_once('=').ok_or_else(form)?;
        let (vendor, operation) = target.split_once('.').ok_or_else(form)?;
        let vendor = Vendor::ALL
            .into_iter()
            .find(|known| known.word() == vendor)
            .ok_or_else(|| FaultError::Vendor(vendor.to_owned()))?;
        if !vendor.operations().contains(&operation) {
            let known = vendor.operations().join(", ");
            return Err(FaultError::Operation { vendor, word: operation.to_owned(), known });
        }
        let (word, times) = match what.split_once(':') {
            Some((word, times)) => (word, Some(times)),
            None => (what, None),
        };
        let kind = kind_of(word).filter(|kind| kind.fits(vendor, operation)).ok_or_else(|| {
            let known: Vec<_> =
                WORDS.iter().filter(|(_, kind)| kind.fits(vendor, operation)).map(|(word, _)| *word).collect();
            let (operation, word) = (operation.to_owned(), word.to_owned());
            FaultError::Kind { vendor, operation, word, known: known.join(", ") }
        })?;
        let times = times
            .map(|text| match text.parse() {
                Ok(times) if times > 0 => Ok(times),
                _ => Err(FaultError::Times(text.to_owned())),
            })
            .transpose()?;
        Ok(Self { vendor, operation: operation.to_owned(), kind, times })
    }
}

fn kind_of(word: &str) -> Option<FaultKind> {
    if let Some((_, kind)) = WORDS.iter().find(|(known, _)| *known == word) {
        return Some(*kind);
    }
    let (code, seconds) = match word.split_once('+') {
        Some((code, seconds)) => (code, Some(seconds)),
        None => (word, None),
    };
    let code: u16 = code.parse().ok().filter(|code| (300..=599).contains(code))?;
    let retry_after = match seconds {
        Some(seconds) if matches!(code, 429 | 503) => Some(seconds.parse().ok()?),
        Some(_) => return None,
        None => None,
    };
    Some(FaultKind::Status { code, retry_after })
}

/// The faults that are still to happen, in order.
#[derive(Debug, Default)]
pub(super) struct FaultBook(Vec<Fault>);

impl FaultBook {
    pub(super) fn replace(&mut self, faults: Vec<Fault>) {
        self.0 = faults;
    }

    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// One line for each fault with the times that are left.
    pub(super) fn lines(&self) -> String {
        self.0.iter().flat_map(|fault| [fault.to_string(), "\n".to_owned()]).collect()
    }

    /// Uses up one time of the first fault for this operation that the caller can act on now.
    pub(super) fn take(
        &mut self,
        vendor: Vendor,
        operation: &str,
        wanted: impl Fn(FaultKind) -> bool,
    ) -> Option<FaultKind> {
        let place = self
            .0
            .iter()
            .position(|fault| fault.vendor == vendor && fault.operation == operation && wanted(fault.kind))?;
        let fault = &mut self.0[place];
        let kind = fault.kind;
        match &mut fault.times {
            None => {}
            Some(times) if *times > 1 => *times -= 1,
            Some(_) => {
                self.0.remove(place);
            }
        }
        Some(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_that_can_be_written_reads_back_as_itself() {
        let mut seen = 0;
        for vendor in Vendor::ALL {
            for operation in vendor.operations() {
                for word in WORDS.iter().map(|(word, _)| *word).chain(["429+7", "503", "301", "599"]) {
                    for times in ["", ":1", ":70"] {
                        let text = format!("{vendor}.{operation}={word}{times}");
                        if let Ok(fault) = text.parse::<Fault>() {
                            assert_eq!(fault.to_string(), text);
                            seen += 1;
                        }
                    }
                }
            }
        }
        assert!(seen > 400, "{seen}");
    }

    #[test]
    fn a_wrong_word_is_answered_with_the_right_ones() {
        let error = |text: &str| text.parse::<Fault>().unwrap_err().to_string();
        assert!(error("bikk.download=lost").contains("the vendors are bik, livechat, jaicp"));
        assert!(error("jaicp.poll=lost").contains("create, task, download, delete, query, by-session, filters"));
        assert!(error("bik.download=lots").contains("lost, reset, hang"));
        assert!(!error("livechat.report=stuck").contains("stuck,"), "a fault that cannot happen here is not offered");
        assert!(error("bik.download=lost:0").contains("from 1"));
        assert!(error("bik.download=lost:1:2").contains("from 1"));
        for text in ["", "bik", "bik=lost", "bik.download", "=", ".=", "bik.=lost", "bik.download="] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
        for text in ["200", "600", "500+1", "503+", "503+-1", "503+x", "99999999"] {
            assert!(format!("bik.download={text}").parse::<Fault>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_fault_acts_as_often_as_it_says_and_faults_of_one_operation_wait_for_each_other() {
        let mut book = FaultBook::default();
        for text in ["jaicp.task=503+1:2", "jaicp.task=lost:1", "jaicp.query=reset"] {
            book.add(text.parse().unwrap());
        }
        let mut next = |operation| book.take(Vendor::Jaicp, operation, FaultKind::is_of_the_wire);
        let busy = FaultKind::Status { code: 503, retry_after: Some(1) };
        assert_eq!([(); 4].map(|()| next("task")), [Some(busy), Some(busy), Some(FaultKind::Lost), None]);
        assert_eq!([(); 3].map(|()| next("query")), [Some(FaultKind::Reset); 3]);
    }
}
