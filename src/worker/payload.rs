//! The JSON that webhooks carry: the run as the contract has it, and what else a receiver needs.

use serde_json::{Map, Value, json};

use super::Worker;
use crate::delivery::about::{About, Member};
use crate::delivery::{Cause, Trouble};
use crate::request::window::rfc3339_in;
use crate::run::store::delivery::DeliveryRow;
use crate::telemetry::Chain;
use crate::view::RunView;

impl Worker {
    /// The JSON of a webhook: the run as the contract has it, and what else a receiver needs. What happened is as it was when the
    /// notice was made; ticket and revision are as they are now.
    pub(super) async fn payload(&self, row: &DeliveryRow, about: &About) -> Result<Value, Trouble> {
        let mut views = Vec::new();
        for member in &about.members {
            views.push(self.member_view(member, about.cause).await?);
        }
        let mut body = match views.first() {
            Some(Value::Object(first)) => first.clone(),
            _ => Map::new(),
        };
        body.insert("type".into(), format!("run.{}", about.cause.as_str()).into());
        body.insert("timestamp".into(), rfc3339_in(row.made_at, chrono_tz::Tz::UTC).into());
        body.insert("delivery_id".into(), row.id.to_string().into());
        body.insert("after".into(), about.after.map(Cause::as_str).into());
        body.insert("runs".into(), views.into());
        body.insert("more".into(), about.more.into());
        Ok(Value::Object(body))
    }

    async fn member_view(&self, member: &Member, cause: Cause) -> Result<Value, Trouble> {
        let failure = member.failure.as_ref().map(|f| json!({"class": f.class, "message": f.message}));
        let run = match member.run_id {
            Some(id) => self.store.run(id).await.map_err(|e| Trouble::later(Chain(&e).to_string()))?,
            None => None,
        };
        if let Some(run) = run {
            let files = if cause.is_success() { self.files_of(&run).await? } else { Vec::new() };
            let mut view = serde_json::to_value(RunView::of(&run, &files)).unwrap_or_default();
            // As it was when the notice was made: a run may have gone on since.
            if matches!(cause, Cause::Archived | Cause::Empty | Cause::Failed | Cause::Held) {
                view["state"] = cause.as_str().into();
            }
            view["failure"] = failure.unwrap_or_default();
            return Ok(view);
        }
        let window = member.window.as_ref().map(|w| {
            json!({"start": rfc3339_in(w.start, w.zone), "end": rfc3339_in(w.end, w.zone), "zone": w.zone.name(), "label": w.label})
        });
        Ok(json!({
            "run_id": member.run_id, "job": member.job, "connection": member.connection, "vendor": member.vendor,
            "trigger": null, "state": null, "window": window, "ticket": null, "revision": null, "artifacts": [],
            "failure": failure,
        }))
    }
}
