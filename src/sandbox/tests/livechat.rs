//! LiveChat: who may ask, what is refused, and the shape of every report.

use super::*;

const REPORTS: [(&str, &str); 16] = [
    ("chats/total_chats", "total-chats-report"),
    ("chats/duration", "duration-report"),
    ("chats/tags", "tags-report"),
    ("chats/ratings", "ratings-report"),
    ("chats/ranking", "ranking-report"),
    ("chats/engagement", "engagement-report"),
    ("chats/greetings_conversion", "greetings-conversion-report"),
    ("chats/forms", "form-report"),
    ("chats/response_time", "response-time-report"),
    ("chats/first_response_time", "first-response-time-report"),
    ("chats/groups", "groups-report"),
    ("chats/queued_visitors", "queued-visitors-report"),
    ("agents/availability", "availability-report"),
    ("agents/performance", "performance-report"),
    ("tags/chat_usage", "tags-chat-usage-report"),
    ("customers/unique_visitors", "visitors-report"),
];

fn march() -> Value {
    json!({"timezone": "Asia/Kolkata", "filters": {"from": "2026-03-01T00:00:00+05:30", "to": "2026-03-31T23:59:59+05:30"}})
}

#[tokio::test]
async fn every_report_has_its_name_its_echo_and_the_days_asked_for() {
    let bench = Bench::new().await;
    for (report, name) in REPORTS {
        let (status, body) = answered(bench.livechat(report, &march())).await;
        assert_eq!((status, body["name"].as_str()), (200, Some(name)));
        assert_eq!(body["request"], march());
        assert!(!body["records"].is_null() || !body["summary"].is_null());
        if let Some(total) = body["total"].as_f64() {
            let days = body["records"].as_object().unwrap();
            assert_eq!(days.len(), 31, "{report}");
            assert!(days.contains_key("2026-03-01") && days.contains_key("2026-03-31"));
            assert!(days.values().any(|day| day == &json!({})), "{report} has no quiet day");
            assert!(total > 0.0);
        }
        assert_eq!(answered(bench.livechat(report, &march())).await.1, body, "the same again");
    }
    assert_eq!(bench.sandbox.creates(Vendor::LiveChat), 2 * REPORTS.len());
}

#[tokio::test]
async fn totals_are_what_the_records_say() {
    let bench = Bench::new().await;
    for (report, field) in
        [("chats/ratings", "chats"), ("chats/total_chats", "total"), ("chats/response_time", "count")]
    {
        let (_, body) = answered(bench.livechat(report, &march())).await;
        let sum: u64 = body["records"].as_object().unwrap().values().map(|day| day[field].as_u64().unwrap_or(0)).sum();
        assert_eq!(body["total"].as_u64(), Some(sum));
    }
}

#[tokio::test]
async fn the_queue_report_has_three_pages_of_different_chats() {
    let bench = Bench::new().await;
    let mut chats = std::collections::HashSet::new();
    for page in 1..=3 {
        let mut body = march();
        body["page"] = json!(page);
        let (_, answer) = answered(bench.livechat("chats/queued_visitors_left", &body)).await;
        assert_eq!((&answer["summary"]["total_pages"], &answer["total"]), (&json!(3), &json!(75)));
        chats.extend(answer["records"].as_object().unwrap().keys().cloned());
    }
    assert_eq!(chats.len(), 75);
    let mut body = march();
    body["page"] = json!(4);
    assert_eq!(answered(bench.livechat("chats/queued_visitors_left", &body)).await.0, 400);
    assert_eq!(answered(bench.livechat("chats/ratings", &body)).await.0, 400);
}

#[tokio::test]
async fn a_personal_token_is_basic_and_an_oauth_token_is_bearer() {
    let bench = Bench::new().await;
    let url = bench.url("/v3.6/reports/chats/tags");
    let ask = || bench.http.post(&url).json(&json!({}));
    assert_eq!(ask().bearer_auth(credentials::LIVECHAT_BEARER).send().await.unwrap().status(), 200);
    for wrong in [
        ask(),
        ask().bearer_auth(credentials::LIVECHAT_TOKEN),
        ask().bearer_auth(""),
        ask().basic_auth("sandbox-account", Some("other")),
        ask().basic_auth("other", Some(credentials::LIVECHAT_TOKEN)),
        ask().header("authorization", "Basic %%%"),
    ] {
        let (status, body) = answered(wrong).await;
        assert_eq!((status, body["error"]["type"].as_str()), (401, Some("authentication")));
    }
}

#[tokio::test]
async fn an_error_has_the_platforms_type() {
    let bench = Bench::new().await;
    let kind = |path: &'static str, body: Value| {
        let login = (credentials::LIVECHAT_ACCOUNT, Some(credentials::LIVECHAT_TOKEN));
        let request = bench.http.post(bench.url(path)).basic_auth(login.0, login.1).json(&body);
        async move {
            let (status, body) = answered(request).await;
            (status, body["error"]["type"].as_str().unwrap_or("none").to_owned())
        }
    };
    let is = |status, kind: &str| (status, kind.to_owned());
    assert_eq!(kind("/v3.3/reports/chats/tags", json!({})).await, is(400, "unsupported_version"));
    assert_eq!(kind("/v3.4/reports/chats/forms", json!({})).await, is(404, "not_found"));
    assert_eq!(kind("/v3.6/reports/chats/summary", json!({})).await, is(404, "not_found"));
    assert_eq!(kind("/v3.6/reports/stats/visitors", json!({})).await, is(200, "none"));
    assert_eq!(kind("/v3.6/reports/chats/tags", json!({"filters": {}})).await, is(400, "validation"));
    assert_eq!(kind("/v3.6/reports/chats/tags", json!({"limit": 1})).await, is(400, "validation"));
    let century =
        json!({"distribution": "hour", "filters": {"from": "1926-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}});
    assert_eq!(kind("/v3.6/reports/chats/tags", century).await, is(504, "request_timeout"));
}

#[tokio::test]
async fn an_old_version_says_when_it_ends() {
    let bench = Bench::new().await;
    for (version, header) in [("3.4", "deprecation"), ("3.5", "legacy")] {
        let request = bench.http.post(bench.url(&format!("/v{version}/reports/chats/tags"))).json(&json!({}));
        let answer = request.bearer_auth(credentials::LIVECHAT_BEARER).send().await.unwrap();
        assert!(answer.status() == 200 && answer.headers().contains_key(header));
    }
}

#[tokio::test]
async fn a_query_string_asks_the_same_as_a_body() {
    let bench = Bench::new().await;
    let query = "timezone=Asia/Kolkata&filters.from=2026-03-01T00:00:00%2B05:30&filters.to=2026-03-31T23:59:59%2B05:30";
    let ask = |query: &str| {
        bench
            .http
            .get(bench.url(&format!("/v3.6/reports/chats/ratings?{query}")))
            .bearer_auth(credentials::LIVECHAT_BEARER)
    };
    let (status, by_query) = answered(ask(query)).await;
    assert_eq!(status, 200);
    assert_eq!(by_query, answered(bench.livechat("chats/ratings", &march())).await.1);
    assert_eq!(answered(ask(&query.replace("%2B", "+"))).await.0, 400, "a bare plus is a space");
}

#[tokio::test]
async fn without_a_zone_days_follow_the_tokens_owner() {
    let bench = Bench::new().await;
    let body = json!({"filters": {"from": "2026-03-01T00:00:00Z", "to": "2026-03-01T23:59:59Z"}});
    let (_, answer) = answered(bench.livechat("chats/ratings", &body)).await;
    assert_eq!(answer["records"].as_object().unwrap().keys().collect::<Vec<_>>(), ["2026-02-28", "2026-03-01"]);
}

#[tokio::test]
async fn a_report_without_rows_is_still_a_report() {
    let bench = Bench::with(&["livechat.report=no-rows"]).await;
    for (report, name) in REPORTS.into_iter().chain([("chats/queued_visitors_left", "queued-visitors-left-report")]) {
        let (status, body) = answered(bench.livechat(report, &march())).await;
        assert_eq!((status, body["name"].as_str()), (200, Some(name)));
        assert!(["{}", "[]", "null"].contains(&body["records"].to_string().as_str()), "{body}");
        assert!(body["total"].as_f64().is_none_or(|total| total == 0.0));
    }
}
