//! One run of each vendor, from job file to archive.

use crate::harness::Shop;

#[tokio::test(flavor = "multi_thread")]
async fn one_job_of_each_vendor_goes_from_its_file_to_the_archive() {
    let shop = Shop::open().await;
    shop.job("engagement", "schedule: \"30 6 * * *\"\nwindow: yesterday\nbik: { reportType: Helpdesk, reportName: Agent Engagement, emails: [\"{var.owner}\"] }\n");
    shop.job(
        "ratings",
        "schedule: \"30 6 * * *\"\nwindow: yesterday\nlivechat: { report: chats/ratings, distribution: day }\n",
    );
    shop.job(
        "messages",
        "schedule: \"30 6 * * *\"\nwindow: yesterday\njaicp:\n  report: messages\n  filters: [{ key: MESSAGE_TIME, type: DATE_TIME_RANGE }]\n  settings: { fileType: CSV }\n",
    );
    for job in ["engagement", "ratings", "messages"] {
        let ran = shop.run(&["run-job", job, "--format", "json"]).await.expect(0);
        let run = &ran.json()[0];
        assert_eq!(run["state"], "archived", "{run}");
        assert_eq!(run["revision"], 1);
        let path = shop.archive().join(run["artifacts"][0]["path"].as_str().unwrap());
        assert!(std::fs::metadata(path).unwrap().len() > 0);
    }
    shop.run(&["archive", "verify"]).await.expect(0);
    let again = shop.run(&["run-job", "engagement", "--format", "json"]).await.expect(0);
    assert_eq!(again.json()[0]["revision"], 1);
    assert_eq!(shop.sandbox.mails().len(), 1, "{:?}", shop.sandbox.mails());
    assert_eq!(shop.sandbox.mails()[0].to, "bi@north.example");
}
