//! Deletes tasks at the vendor that their jobs want deleted (`delete_after`), where a crash or an error came between the archive's
//! commit and the deletion. What is archived stays archived whatever happens here.

use super::Worker;
use super::hand::Hand;
use crate::request::Request;
use crate::run::store::StoreError;
use crate::run::store::claim::Claimed;

/// Tasks that one sweep takes.
const PAGE: i64 = 10;

impl Worker {
    /// Tries the deletions that are due; returns how many tasks it took.
    pub async fn sweep(&self) -> Result<usize, StoreError> {
        let due = self.store.deletions_due(PAGE).await?;
        for claimed in &due {
            self.delete_left_over(claimed).await?;
        }
        Ok(due.len())
    }

    async fn delete_left_over(&self, claimed: &Claimed) -> Result<(), StoreError> {
        let run = &claimed.run;
        // A request or an account that this process does not have is another's to delete.
        let Ok(request) = serde_json::from_value::<Request>(run.request.clone()) else { return Ok(()) };
        let Some((connection, account)) = self.accounts.get(&run.connection, request.vendor) else { return Ok(()) };
        let Ok(secrets) = account.secrets() else { return Ok(()) };
        if run.base_url != account.base_url || !(run.account.is_empty() || run.account == secrets.account) {
            return Ok(());
        }
        let hand = Hand { claimed, request, connection: &connection, account: &account, secrets: &secrets };
        self.delete_task(&hand).await
    }
}
