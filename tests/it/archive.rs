//! The archive.

use crate::harness::{Shop, run};
use crate::verbs::LIVECHAT;

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_use_a_new_archive_at_once_agree_on_it() {
    for round in 0..3 {
        let shop = Shop::open().await;
        shop.job("report", LIVECHAT);
        let mut all = tokio::task::JoinSet::new();
        for day in 1..=6 {
            let window = format!("2025-03-{day:02}..2025-03-{day:02}");
            all.spawn(run(shop.command(&["run-job", "report", "--window", &window])));
        }
        while let Some(ran) = all.join_next().await {
            ran.unwrap().expect(0);
        }
        assert_eq!(shop.count("SELECT count(*) FROM revisions").await, 6, "round {round}");
        shop.run(&["archive", "verify"]).await.expect(0);
    }
}
