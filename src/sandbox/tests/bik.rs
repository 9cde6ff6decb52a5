//! BIK: what is refused, a report's way to its file, mails, and the faults of its tasks.

use super::*;

/// Asks for a report and polls until its link or its end; gives the status words met and the link.
async fn collect(bench: &Bench) -> (Vec<String>, Option<String>) {
    let (status, created) = answered(bench.bik("generateReport", &report())).await;
    assert_eq!(status, 200);
    let mut words: Vec<String> = Vec::new();
    for _ in 0..2_000 {
        let poll = json!({"reportHistoryId": created["data"]["reportHistoryId"]});
        let (_, answer) = answered(bench.bik("getReportById", &poll)).await;
        let word = answer["data"]["reportStatus"].as_str().unwrap_or("none").to_owned();
        if words.last() != Some(&word) {
            words.push(word.clone());
        }
        if word == "COMPLETED" {
            return (words, Some(answer["data"]["downloadLink"].as_str().unwrap().to_owned()));
        }
        assert!(answer["data"]["downloadLink"].is_null());
        if matches!(word.as_str(), "FAILED" | "none") {
            return (words, None);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (words, None)
}

#[tokio::test]
async fn a_report_is_queued_made_and_downloaded_and_each_address_is_mailed_once() {
    let bench = Bench::unhurried().await;
    let (words, link) = collect(&bench).await;
    assert_eq!(words, ["QUEUE", "IN_PROGRESS", "COMPLETED"]);
    let link = link.unwrap();
    let answer = bench.get(&link).await;
    assert_eq!(answer.headers()["content-type"], "text/csv; charset=utf-8");
    let csv = answer.text().await.unwrap();
    assert!(csv.starts_with("\"Date\",\"Agent\",\"Channel\"") && csv.ends_with("\r\n"));
    let rows = csv.matches("\"whatsapp\"").count();
    assert!((5..=40).contains(&rows), "{rows}");
    assert!(
        csv.split("\r\n").filter(|line| line.starts_with("\"2026-")).all(|line| {
            (&line[1..25] >= "2026-03-01T18:30:00.000Z") && (&line[1..25] < "2026-03-02T18:29:59.999Z")
        })
    );

    let mails = bench.sandbox.mails();
    assert_eq!(
        mails.iter().map(|mail| mail.to.as_str()).collect::<Vec<_>>(),
        ["asha@north.example", "bi@north.example"]
    );
    assert_eq!((mails[0].report_name.as_str(), mails[0].at), ("Agent Engagement", NOW.parse().unwrap()));

    let (_, again) = collect(&bench).await;
    assert_ne!(again.as_ref(), Some(&link), "another id");
    assert_eq!(bench.get(&again.unwrap()).await.text().await.unwrap(), csv, "the same window has the same bytes");

    for wrong in [link.replace("token=", "token=0"), link.split('?').next().unwrap().to_owned()] {
        assert_eq!(bench.get(&wrong).await.status(), 403);
    }
    assert_eq!(bench.get(&link.replace("/44590.", "/1.")).await.status(), 404);
}

#[tokio::test]
async fn what_the_page_does_not_allow_is_refused_and_has_no_effect() {
    let bench = Bench::new().await;
    let cases: [(&str, &str, Value); 17] = [
        ("/reportType", "reportType", json!("helpdesk")),
        ("/reportName", "reportName", json!("agent engagement")),
        ("/reportName", "reportName", json!("Ticket's Overview")),
        ("/emails", "emails", json!([])),
        ("/emails", "emails", json!(["asha"])),
        ("/emails", "emails", json!(["a b@north.example"])),
        ("/emails", "emails", json!("asha@north.example")),
        ("/dateRange", "dateRange", json!("yesterday")),
        ("/dateRange/startDate", "dateRange.startDate", json!("2026-03-03T00:00:00Z")),
        ("/dateRange/startDate", "dateRange", json!("2026-03-01T00:00:00")),
        ("/dateRange/startDate", "dateRange", json!("1.3.2026")),
        ("/dateRange/endDate", "dateRange.endDate", json!(1)),
        ("/dateRange/zone", "dateRange.zone", json!("UTC")),
        ("/filters/channel", "filters.channel", json!("telegram")),
        ("/filters/groupBy", "filters.groupBy", json!("hour")),
        ("/filters/chanel", "filters.chanel", json!("whatsapp")),
        ("/appId", "appId", json!(7)),
    ];
    for (place, name, value) in cases {
        let mut body = report();
        let (parent, key) = place.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[key] = value;
        let (status, answer) = answered(bench.bik("generateReport", &body)).await;
        let message = answer["errors"][0]["message"].as_str().unwrap();
        assert_eq!((status, answer["status"].as_u64()), (400, Some(400)), "{body}");
        assert!(message.contains(&format!("'{name}'")), "{body}: {message}");
    }
    for key in ["reportType", "reportName", "dateRange", "emails"] {
        let mut body = report();
        body.as_object_mut().unwrap().remove(key);
        assert_eq!(answered(bench.bik("generateReport", &body)).await.0, 400, "{key}");
    }
    for body in ["", "{", "[]"] {
        assert_eq!(answered(bench.bik("generateReport", &json!({})).body(body)).await.0, 400);
    }
    let text = bench.http.post(bench.url("/integrations/bikPlatformFunctions-generateReport"));
    let text = text.basic_auth(credentials::BIK_KEY, Some(credentials::BIK_SECRET)).body(report().to_string());
    assert_eq!(answered(text.header("content-type", "text/plain")).await.0, 400);
    assert_eq!((bench.sandbox.creates(Vendor::Bik), bench.sandbox.mails().len()), (0, 0));
}

#[tokio::test]
async fn dates_curly_names_and_an_app_id_are_taken() {
    let bench = Bench::new().await;
    for (place, value) in [
        ("dateRange", json!({"startDate": "2026-03-01", "endDate": "2026-03-01"})),
        ("reportName", json!("Ticket’s Overview")),
        ("reportName", json!("Customer ticket report (with forms)")),
        ("appId", json!("app-1")),
        ("filters", json!({})),
    ] {
        let mut body = report();
        body[place] = value;
        assert_eq!(answered(bench.bik("generateReport", &body)).await.0, 200, "{body}");
    }
}

#[tokio::test]
async fn credentials_are_needed_and_can_change() {
    let bench = Bench::new().await;
    let unsigned = bench.http.post(bench.url("/integrations/bikPlatformFunctions-getReportById")).json(&json!({}));
    let other =
        bench.http.post(bench.url("/integrations/bikPlatformFunctions-generateReport")).basic_auth("x", Some("y"));
    for request in [other.json(&report()), unsigned] {
        let (status, body) = answered(request).await;
        assert_eq!((status, body), (401, json!({"status": 401, "errors": [{"message": "Unauthorized"}]})));
    }
    assert_eq!(answered(bench.bik("authPartnerViaKey", &json!({"appId": "a"}))).await, (200, json!({"status": "200"})));
    bench.sandbox.set_credentials(Credentials { bik_secret: "new".into(), ..Credentials::default() });
    assert_eq!(answered(bench.bik("authPartnerViaKey", &json!({"appId": "a"}))).await.0, 401);
}

#[tokio::test]
async fn tickets_and_events_are_taken_and_counted() {
    let bench = Bench::new().await;
    let ticket =
        json!({"channel": "tasks", "bikCustomerId": "5233549", "taskTitle": "look", "assignmentType": "ALL_AGENTS"});
    let (status, answer) = answered(bench.bik("createAndAssignTicket", &ticket)).await;
    assert_eq!((status, &answer["data"]["ticket"]["customerId"]), (200, &json!("5233549")));
    let event =
        json!({"event": {"email": "ops@example.com", "eventName": "report_archived", "eventProperties": {"job": "x"}}});
    assert_eq!(answered(bench.bik("events/sendEvent", &event)).await, (200, json!({"status": 200, "success": true})));
    assert_eq!(answered(bench.bik("events/sendEvent", &ticket)).await.0, 400);
    assert_eq!((bench.sandbox.tickets(), bench.sandbox.events()), (1, 1));
    let received = bench.sandbox.received();
    assert_eq!(
        received.iter().map(|request| request.operation).collect::<Vec<_>>(),
        ["createAndAssignTicket", "sendEvent", "sendEvent"]
    );
    assert_eq!((received[1].json(), received[1].status, received[2].status), (event, Some(200), Some(400)));
}

#[tokio::test]
async fn a_failure_may_hide_inside_http_200() {
    let bench = Bench::with(&["bik.generateReport=inner-400:1", "bik.getReportById=inner-500:1"]).await;
    let (status, body) = answered(bench.bik("generateReport", &report())).await;
    assert_eq!((status, body), (200, json!({"status": 400, "errors": [{"message": "Bad Request"}]})));
    assert_eq!(bench.sandbox.creates(Vendor::Bik), 0);
    let (status, body) = answered(bench.bik("getReportById", &json!({"reportHistoryId": 1}))).await;
    assert_eq!((status, body["status"].as_u64()), (200, Some(500)));
    let (status, body) = answered(bench.bik("getReportById", &json!({"reportHistoryId": 1}))).await;
    assert_eq!((status, body["status"].as_u64()), (404, Some(404)));
}

#[tokio::test]
async fn a_spoiled_report_ends_as_its_fault_says() {
    let bench = Bench::new().await;
    for (fault, last) in [("failed", "FAILED"), ("gone", "none")] {
        bench.fault(&format!("bik.generateReport={fault}:1"));
        let (words, link) = collect(&bench).await;
        assert_eq!((words.last().map(String::as_str), link), (Some(last), None), "{fault}");
    }
    bench.fault("bik.generateReport=stuck:1");
    let (_, created) = answered(bench.bik("generateReport", &report())).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (_, answer) =
        answered(bench.bik("getReportById", &json!({"reportHistoryId": created["data"]["reportHistoryId"]}))).await;
    assert_eq!(answer["data"]["reportStatus"], "IN_PROGRESS");
    bench.fault("bik.getReportById=odd-status:1");
    assert_eq!(collect(&bench).await.0[0], "RE_QUEUED");

    bench.fault("bik.getReportById=dead-link:1");
    assert_eq!(bench.get(&collect(&bench).await.1.unwrap()).await.status(), 403);
    bench.fault("bik.getReportById=foreign-link:1");
    assert!(collect(&bench).await.1.unwrap().starts_with("https://files.elsewhere.example/files/bik/"));
    bench.fault("bik.getReportById=relative-link:1");
    let relative = collect(&bench).await.1.unwrap();
    assert_eq!(bench.get(&bench.url(&relative)).await.status(), 200);

    bench.fault("bik.generateReport=no-rows:1");
    let empty = bench.get(&collect(&bench).await.1.unwrap()).await.text().await.unwrap();
    assert_eq!(empty.lines().count(), 1);

    bench.fault("bik.download=huge:1");
    let link = collect(&bench).await.1.unwrap();
    let huge = bench.get(&link).await;
    assert_eq!(huge.content_length(), Some(32 << 20));
    assert_eq!(huge.bytes().await.unwrap().len(), 32 << 20);
    bench.fault("bik.generateReport=huge:1");
    bench.fault("bik.download=truncated:1");
    assert!(bench.get(&collect(&bench).await.1.unwrap()).await.bytes().await.is_err());
}
