//! JAICP: tasks and their files, queries, the token in the path, and the faults of its tasks.

use super::*;

fn day() -> Value {
    json!({"key": "SESSION_START_TIME", "type": "DATE_TIME_RANGE", "from": "2026-03-01T00:00:00.000Z", "to": "2026-03-01T23:59:59.999Z"})
}

fn export(file_type: &str) -> Value {
    json!({"filters": [day()], "settings": {"fileType": file_type, "withHeader": true}})
}

async fn create(bench: &Bench, kind: &str, body: &Value) -> Value {
    let (status, task) = answered(bench.jaicp(Method::POST, &format!("reports/{kind}")).json(body)).await;
    assert_eq!(status, 200, "{task}");
    task
}

/// Polls a task until it ends; gives every answer that differs from the one before.
async fn follow(bench: &Bench, task: &Value) -> Vec<Value> {
    let path = format!("reports/tasks/{}", task["taskId"].as_str().unwrap());
    let mut seen: Vec<Value> = Vec::new();
    for _ in 0..2_000 {
        let (_, answer) = answered(bench.jaicp(Method::GET, &path)).await;
        if seen.last() != Some(&answer) {
            seen.push(answer.clone());
        }
        if matches!(answer["status"].as_str(), Some("COMPLETED" | "FAILED" | "STOPPED" | "DELETED") | None) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    seen
}

async fn file_of(bench: &Bench, kind: &str, body: &Value) -> String {
    let task = create(bench, kind, body).await;
    follow(bench, &task).await.pop().unwrap()["fileUrl"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_kind_of_report_becomes_a_file() {
    let bench = Bench::new().await;
    let plain = json!({"settings": {"fileType": "CSV"}});
    for (kind, word, body) in [
        ("sessions", "SESSIONS", export("CSV")),
        ("messages", "MESSAGES", export("CSV")),
        ("clients", "CLIENTS", export("CSV")),
        ("client-list", "CLIENTS_LIST", plain),
        ("daily", "DAILY", json!({"date": "2026-03-01", "settings": {"fileType": "CSV"}})),
        (
            "telephony?startTime=2026-03-01T00:00:00.000Z&endTime=2026-03-02T00:00:00.000Z&botIds=a&botIds=b",
            "TELEPHONY",
            json!({}),
        ),
    ] {
        let task = create(&bench, kind, &body).await;
        assert_eq!((&task["status"], &task["reportType"]), (&json!("CREATED"), &json!(word)));
        assert_eq!(
            (task["creationTime"].as_str(), &task["settings"]),
            (Some("2026-03-10T12:00:00.000Z"), &body["settings"])
        );
        let done = follow(&bench, &task).await.pop().unwrap();
        assert_eq!(done["status"], "COMPLETED");
        assert_eq!(done["writeCount"], done["totalCount"]);
        let name = format!("{}-{}.csv", kind.split('?').next().unwrap(), &task["taskId"].as_str().unwrap()[2..]);
        assert_eq!(done["fileName"].as_str(), Some(name.as_str()));
        let file = bench.get(done["fileUrl"].as_str().unwrap()).await.text().await.unwrap();
        assert!(file.contains("\r\n\"2026-03-"), "{kind}");
    }
}

#[tokio::test]
async fn a_task_goes_from_created_over_started_with_growing_counts_to_completed() {
    let bench = Bench::unhurried().await;
    let seen = follow(&bench, &create(&bench, "messages", &export("XLSX")).await).await;
    let mut words: Vec<_> = seen.iter().map(|task| task["status"].as_str().unwrap()).collect();
    words.dedup();
    assert_eq!(words, ["CREATED", "STARTED", "COMPLETED"]);
    assert!(seen.iter().filter_map(|task| task["writeCount"].as_u64()).is_sorted());
    assert!(seen.iter().all(|task| task["fileUrl"].is_string() == (task["status"] == "COMPLETED")));
    let file = bench.get(seen.last().unwrap()["fileUrl"].as_str().unwrap()).await;
    assert!(file.headers()["content-type"].to_str().unwrap().ends_with("spreadsheetml.sheet"));
    assert!(file.bytes().await.unwrap().starts_with(b"PK\x03\x04"));
}

#[tokio::test]
async fn settings_shape_the_file() {
    let bench = Bench::new().await;
    let mut body = export("CSV");
    body["settings"] =
        json!({"fileType": "CSV", "withHeader": false, "delimiter": ";", "dateTimeFormat": "dd.MM.yyyy"});
    let link = file_of(&bench, "sessions", &body).await;
    let file = bench.get(&link).await.text().await.unwrap();
    assert!(file.starts_with("\"01.03.2026\";\"s"), "{file}");

    assert_eq!(bench.get(&link.replace(".csv", ".xlsx")).await.status(), 403);
    assert_eq!(bench.get(&link.replace("/files/jaicp/1/", "/files/jaicp/1/0")).await.status(), 403);
    assert_eq!(bench.get(&link.replace("/files/jaicp/1/", "/files/jaicp/2/")).await.status(), 404);
}

#[tokio::test]
async fn what_the_specification_does_not_allow_is_refused() {
    let bench = Bench::new().await;
    for (path, body) in [
        ("reports/sessions", json!({"filter": []})),
        ("reports/sessions", json!({"filters": {}})),
        ("reports/sessions", json!({"filters": [], "settings": {}})),
        ("reports/sessions", json!({"date": "2026-03-01"})),
        ("reports/sessions?size=10", export("CSV")),
        ("reports/daily", json!({})),
        ("reports/daily", json!({"date": "01.03.2026"})),
        ("reports/daily", json!({"date": "2026-02-30"})),
        ("reports/daily", export("CSV")),
        ("reports/telephony", export("CSV")),
        ("reports/telephony?startTime=2026-03-01", json!({})),
        ("reports/telephony?from=2026-03-01T00:00:00.000Z", json!({})),
        ("sessions/filter?size=1001", json!({})),
        ("sessions/filter?size=0", json!({})),
        ("sessions/filter?page=-1", json!({})),
        ("sessions/filter?limit=5", json!({})),
        ("sessions/filter", export("CSV")),
        ("messages/by-session", json!({})),
    ] {
        let (status, answer) = answered(bench.jaicp(Method::POST, path).json(&body)).await;
        assert_eq!(status, 400, "{path} {body}");
        assert!(answer["error"].as_str().unwrap().contains('.') && answer["message"].is_string());
    }
    assert_eq!(answered(bench.jaicp(Method::POST, "reports/client-list")).await.0, 400, "its body is required");
    let offset = bench.jaicp(Method::POST, "reports/sessions").header("Timezone", "+3h");
    assert_eq!(answered(offset).await.0, 400);
    assert_eq!(answered(bench.jaicp(Method::POST, "reports/calls")).await.0, 404);
    assert_eq!(bench.sandbox.creates(Vendor::Jaicp), 0);
}

#[tokio::test]
async fn the_token_in_the_path_is_needed_with_and_without_api() {
    let bench = Bench::new().await;
    let token = credentials::JAICP_TOKEN;
    for prefix in ["/api", ""] {
        assert_eq!(bench.get(&bench.url(&format!("{prefix}/reporter/p/{token}/reports"))).await.status(), 200);
        let other = token.replace("sandboxx:", "sandboxy:");
        assert_eq!(bench.get(&bench.url(&format!("{prefix}/reporter/p/{other}/reports"))).await.status(), 401);
    }
    bench.sandbox.set_credentials(Credentials { jaicp_token: "newtoken:1".into(), ..Credentials::default() });
    let (status, body) = answered(bench.jaicp(Method::GET, "reports")).await;
    assert_eq!((status, body["error"].as_str()), (401, Some("reporter.auth.wrong_token")));
}

#[tokio::test]
async fn a_deleted_task_loses_its_file_and_its_place_in_the_list() {
    let bench = Bench::new().await;
    let link = file_of(&bench, "sessions", &export("CSV")).await;
    create(&bench, "sessions", &export("CSV")).await;
    let listed =
        |tasks: &Value| tasks["tasks"].as_array().unwrap().iter().map(|t| t["taskId"].to_string()).collect::<Vec<_>>();
    assert_eq!(listed(&answered(bench.jaicp(Method::GET, "reports")).await.1), ["\"t-1\"", "\"t-2\""]);
    let deleted = bench.jaicp(Method::DELETE, "reports/tasks/t-1").send().await.unwrap();
    assert_eq!((deleted.status().as_u16(), deleted.content_length()), (200, Some(0)));
    assert_eq!(listed(&answered(bench.jaicp(Method::GET, "reports")).await.1), ["\"t-2\""]);
    assert_eq!(answered(bench.jaicp(Method::GET, "reports/tasks/t-1")).await.1["status"], "DELETED");
    assert_eq!(bench.get(&link).await.status(), 404);
    assert_eq!(answered(bench.jaicp(Method::DELETE, "reports/tasks/t-9")).await.0, 404);
    assert_eq!((bench.sandbox.deleted(), bench.sandbox.account_wide_deletes()), (1, 0));
    for path in ["reports", "reports/all"] {
        assert_eq!(bench.jaicp(Method::DELETE, path).send().await.unwrap().status(), 200);
    }
    assert_eq!((bench.sandbox.deleted(), bench.sandbox.account_wide_deletes()), (2, 2));
}

#[tokio::test]
async fn pages_together_hold_every_session_once_and_each_session_shows_its_messages() {
    let bench = Bench::new().await;
    let body = json!({"filters": [day(), {"key": "CHANNEL_TYPE", "type": "CHECKBOX", "options": ["vk"]}]});
    let (mut ids, mut total) = (Vec::new(), 0);
    for page in 0.. {
        let path = format!("sessions/filter?page={page}&size=4&needToReturnSessionLabels=true");
        let (status, answer) = answered(bench.jaicp(Method::POST, &path).json(&body)).await;
        assert_eq!((status, &answer["paging"]["pageNum"]), (200, &json!(page)));
        total = answer["paging"]["totalCount"].as_u64().unwrap();
        let rows = answer["sessions"].as_array().unwrap();
        for row in rows {
            assert_eq!((&row["channelType"], row["labels"].is_array()), (&json!("vk"), true));
            assert!(row["startTime"].as_str().unwrap().starts_with("2026-03-01T"));
            ids.push(row["sessionId"].as_str().unwrap().to_owned());
        }
        if rows.is_empty() {
            break;
        }
    }
    assert_eq!(ids.len() as u64, total);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len() as u64, total);

    for method in [Method::GET, Method::POST] {
        let (status, answer) =
            answered(bench.jaicp(method, &format!("messages/by-session?sessionId={}", ids[0]))).await;
        assert_eq!((status, &answer["session"]["sessionId"]), (200, &json!(ids[0])));
        let messages = answer["messages"].as_array().unwrap();
        assert_eq!(answer["paging"]["totalCount"].as_u64(), Some(messages.len() as u64));
        assert!(
            messages
                .iter()
                .all(|message| ["SENT", "READ", "NOT_DELIVERED"].contains(&message["status"].as_str().unwrap()))
        );
    }
    assert_eq!(answered(bench.jaicp(Method::GET, "messages/by-session?sessionId=s-1")).await.0, 404);
    for what in ["messages", "clients"] {
        let (_, answer) = answered(bench.jaicp(Method::POST, &format!("{what}/filter")).json(&body)).await;
        assert!(!answer[what].as_array().unwrap().is_empty());
    }
    let (_, filters) = answered(bench.jaicp(Method::GET, "filters?analyticsSection=SESSIONS")).await;
    assert_eq!(filters[0]["key"], "SESSION_START_TIME");
    assert_eq!(answered(bench.jaicp(Method::GET, "filters?analyticsSection=CALLS")).await.0, 400);

    bench.fault("jaicp.query=no-rows:1");
    let (_, empty) = answered(bench.jaicp(Method::POST, "sessions/filter")).await;
    assert_eq!((&empty["paging"]["totalCount"], &empty["sessions"]), (&json!(0), &json!([])));
}

#[tokio::test]
async fn a_spoiled_task_ends_as_its_fault_says() {
    let bench = Bench::new().await;
    for (fault, last) in [("failed", "FAILED"), ("stopped", "STOPPED")] {
        bench.fault(&format!("jaicp.create={fault}:1"));
        let task = create(&bench, "sessions", &export("CSV")).await;
        assert_eq!(follow(&bench, &task).await.pop().unwrap()["status"], last);
    }
    bench.fault("jaicp.create=stuck:1");
    let stuck = create(&bench, "sessions", &export("CSV")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let path = format!("reports/tasks/{}", stuck["taskId"].as_str().unwrap());
    assert_eq!(answered(bench.jaicp(Method::GET, &path)).await.1["status"], "STARTED");
    bench.fault("jaicp.task=odd-status:1");
    bench.fault("jaicp.task=gone:1");
    let task = create(&bench, "sessions", &export("CSV")).await;
    assert_eq!(follow(&bench, &task).await[0]["error"], "reporter.common.not_found");
    assert_eq!(follow(&bench, &task).await[0]["status"], "POSTPONED");

    bench.fault("jaicp.task=relative-link:1");
    let link = file_of(&bench, "sessions", &export("CSV")).await;
    assert!(link.starts_with("/files/jaicp/"));
    bench.fault("jaicp.task=foreign-link:1");
    assert!(file_of(&bench, "sessions", &export("CSV")).await.starts_with("https://files.elsewhere.example/"));

    bench.fault("jaicp.task=dead-link:1");
    let task = create(&bench, "sessions", &export("CSV")).await;
    for status in [403, 200] {
        let link = follow(&bench, &task).await.pop().unwrap()["fileUrl"].as_str().unwrap().to_owned();
        assert_eq!(bench.get(&link).await.status(), status);
    }

    bench.fault("jaicp.create=no-rows:1");
    let link = file_of(&bench, "sessions", &export("CSV")).await;
    assert_eq!(bench.get(&link).await.text().await.unwrap().lines().count(), 1);
    bench.fault("jaicp.create=huge:1");
    let link = file_of(&bench, "sessions", &export("CSV")).await;
    assert_eq!(bench.get(&link).await.bytes().await.unwrap().len(), 32 << 20);
}
