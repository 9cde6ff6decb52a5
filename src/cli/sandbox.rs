//! `reportd sandbox`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{Cx, Exit, Failure, say, say_json};
use crate::sandbox::{Fault, Options, Sandbox, credentials, ids_of_this_start};

#[derive(Debug, Args)]
pub(super) struct SandboxCommand {
    /// Loopback address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Misbehave, N times or always: bik.generateReport=lost:1, jaicp.task=503+2, … (an unknown word lists them all)
    #[arg(long = "fault", value_name = "VENDOR.OPERATION=FAULT[:N]")]
    faults: Vec<Fault>,
}

impl SandboxCommand {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let clock = cx.clock.clone();
        let options = Options {
            listen: self.listen,
            faults: self.faults.clone(),
            pace: Duration::from_secs(2),
            ids_from: ids_of_this_start(cx.clock.now()),
            clock: Arc::new(move || clock.now()),
        };
        let sandbox = Sandbox::start(options)
            .await
            .map_err(|e| Failure::Usage(format!("the sandbox cannot listen on {}: {e}", self.listen)))?;
        if cx.json() {
            let urls = [sandbox.bik_base_url(), sandbox.livechat_base_url(), sandbox.jaicp_base_url()];
            say_json(&serde_json::json!({ "bik": urls[0], "livechat": urls[1], "jaicp": urls[2] }));
        } else {
            say(&recipe(&sandbox));
        }
        super::carry::stop_saying("what it made is forgotten").cancelled().await;
        sandbox.stop().await;
        Ok(Exit::Done)
    }
}

/// What to put where, as a config file that can be used as it is printed.
fn recipe(sandbox: &Sandbox) -> String {
    format!(
        "# Three simulated vendors on http://{}; Ctrl-C stops them. To use them, make this text reportd.yaml, and:\n\
         # export BIK_KEY={} BIK_SECRET={} LIVECHAT={}:{} JAICP={}\n\
         connections:\n  \
           default:\n    \
             zone: UTC\n    \
             bik:      {{ base_url: \"{}\", key: env:BIK_KEY, secret: env:BIK_SECRET, quiet_emails: [me@example.com] }}\n    \
             livechat: {{ base_url: \"{}\", token: env:LIVECHAT }}\n    \
             jaicp:    {{ base_url: \"{}\", token: env:JAICP }}",
        sandbox.addr(),
        credentials::BIK_KEY,
        credentials::BIK_SECRET,
        credentials::LIVECHAT_ACCOUNT,
        credentials::LIVECHAT_TOKEN,
        credentials::JAICP_TOKEN,
        sandbox.bik_base_url(),
        sandbox.livechat_base_url(),
        sandbox.jaicp_base_url(),
    )
}
