//! Everything one step has in hand: the claimed run, its request, the account with its secrets, permits for further calls.

use futures_util::future::BoxFuture;

use super::Worker;
use crate::connection::Connection;
use crate::request::Request;
use crate::run::Run;
use crate::run::store::RunStore;
use crate::run::store::claim::Claimed;
use crate::run::store::permit::{Admission, Permit};
use crate::vendor::account::{Account, Secrets};
use crate::vendor::error::VendorError;
use crate::vendor::{self, Answer, Context, Permits, Watch};

/// Everything one step has in hand.
pub(super) struct Hand<'a> {
    pub(super) claimed: &'a Claimed,
    pub(super) request: Request,
    pub(super) connection: &'a Connection,
    pub(super) account: &'a Account,
    pub(super) secrets: &'a Secrets,
}

impl<'a> Hand<'a> {
    pub(super) fn run(&self) -> &'a Run {
        &self.claimed.run
    }

    pub(super) fn permit(&self) -> Permit<'a> {
        Permit {
            connection: &self.account.connection,
            vendor: self.account.vendor.as_str(),
            requests_per_second: self.account.limits.requests_per_second,
            max_in_flight: self.account.limits.max_in_flight,
            secret: &self.secrets.fingerprint,
        }
    }
}

impl Worker {
    /// Makes the first call, or asks with the ticket.
    pub(super) async fn call(
        &self,
        hand: &Hand<'_>,
        watch: Watch<'_>,
        ticket: Option<&serde_json::Value>,
    ) -> Result<Answer, VendorError> {
        let permits = FurtherCalls::new(&self.store, hand);
        let context = self.context(hand, &permits, watch);
        match ticket {
            None => vendor::submit(&context, &hand.request).await,
            Some(ticket) => vendor::poll(&context, &hand.request, ticket).await,
        }
    }

    /// What the vendor modules work with.
    pub(super) fn context<'a>(
        &'a self,
        hand: &Hand<'a>,
        permits: &'a FurtherCalls<'a>,
        watch: Watch<'a>,
    ) -> Context<'a> {
        Context {
            http: &self.http,
            connection: hand.connection,
            account: hand.account,
            secrets: hand.secrets,
            spool: self.archive.spool(),
            permits,
            watch,
            now: self.clock.now(),
        }
    }
}

/// Permits for the further calls of one step: waits for the account's rate.
pub(super) struct FurtherCalls<'a> {
    store: &'a RunStore,
    permit: Permit<'a>,
}

impl<'a> FurtherCalls<'a> {
    pub(super) fn new(store: &'a RunStore, hand: &Hand<'a>) -> FurtherCalls<'a> {
        FurtherCalls { store, permit: hand.permit() }
    }
}

impl Permits for FurtherCalls<'_> {
    fn next(&self) -> BoxFuture<'_, Result<(), VendorError>> {
        Box::pin(further_call(self.store, self.permit))
    }
}

async fn further_call(store: &RunStore, permit: Permit<'_>) -> Result<(), VendorError> {
    loop {
        match store.admit(&permit).await {
            Ok(Admission::Now | Admission::Probe) => return Ok(()),
            Ok(Admission::Rate(wait)) => tokio::time::sleep(wait).await,
            Ok(Admission::Full { .. } | Admission::Behind) => return Ok(()),
            Ok(Admission::BreakerOpen { reason, .. }) => {
                return Err(VendorError::Interrupted(format!("breaker open: {reason}")));
            }
            Err(error) => return Err(VendorError::Interrupted(crate::telemetry::Chain(&error).to_string())),
        }
    }
}
