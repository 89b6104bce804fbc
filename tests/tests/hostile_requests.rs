//! Invalid requests of every kind, to every endpoint of the API's description: each response is a problem document in the
//! API's terms, reveals nothing of the implementation, and is not an internal error.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tdb_tests::Instance;

/// Terms of Rust, serde, SQL libraries and the operating system.
const LEAKS: [&str; 19] = [
    "`",
    "struct ",
    "invalid type",
    "invalid value",
    "invalid length",
    "expected ",
    "unit value",
    "missing field",
    "variant",
    "u32",
    "u16",
    "i64",
    "Option",
    "deserialize",
    "serde",
    "os error",
    "db error",
    "panicked",
    "key must be a string",
];

struct Asker {
    agent: ureq::Agent,
    url: String,
    key: String,
    asked: usize,
}

impl Asker {
    /// Sends a request and checks the response; a success is accepted too, if the request happens to be valid.
    fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) {
        self.asked += 1;
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("Authorization", format!("Bearer {}", self.key));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = match body {
            Some(body) => self.agent.run(
                request
                    .header("Content-Type", "application/json")
                    .body(body)
                    .expect("a request"),
            ),
            None => self.agent.run(request.body(()).expect("a request")),
        }
        .unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let status = answer.status().as_u16();
        if status < 400 {
            return;
        }
        let call = format!("{method} {path} {:?}", body.map(String::from_utf8_lossy));
        assert!(
            status < 500,
            "{call}: {status} {:?}",
            answer.body_mut().read_to_string()
        );
        let problem: Value = answer
            .body_mut()
            .read_json()
            .unwrap_or_else(|error| panic!("{call}: {status}: {error}"));
        assert_eq!(problem["status"], status, "{call}: {problem:#}");
        let said = format!("{} {}", problem["detail"], problem["hint"]);
        for leak in LEAKS {
            assert!(!said.contains(leak), "{call} shows {leak:?}: {problem:#}");
        }
    }
}

/// Values of every type and size.
fn values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(1.5),
        json!(4294967296_u64),
        json!(18446744073709551615_u64),
        json!(1e300),
        json!(""),
        json!("x\u{0}y"),
        json!("\u{1F600}"),
        json!("'; DROP TABLE x; --"),
        json!("a".repeat(300)),
        json!([]),
        json!([[]]),
        json!({}),
        json!({"a": 1}),
    ]
}

fn bodies(properties: &[String]) -> Vec<Vec<u8>> {
    let deep = format!("{}1{}", "{\"a\":".repeat(300), "}".repeat(300));
    let mut bodies: Vec<Vec<u8>> = [
        "",
        "{",
        "[",
        "nul",
        "{} {}",
        "{\"a\":1e999}",
        "{\"\\u0000\":1}",
        "{\"a\":1,\"a\":2}",
        "\"\\ud800\"",
        "{a:1}",
        "\u{feff}{}",
        &deep,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    bodies.push(b"\"\xff\xfe\"".to_vec());
    bodies.push(b"{\"name\":\"\xc3\x28\"}".to_vec());
    bodies.extend(values().iter().map(|value| value.to_string().into_bytes()));
    for name in properties {
        for value in values() {
            let mut body = Map::new();
            body.insert(name.clone(), value);
            bodies.push(Value::Object(body).to_string().into_bytes());
        }
    }
    bodies
}

/// The field names of a request, according to its schema in the description.
fn properties(document: &Value, operation: &Value) -> Vec<String> {
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let schema = match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).expect("a schema"),
        None => schema,
    };
    let properties = schema["properties"].as_object();
    properties.map(|all| all.keys().cloned().collect()).unwrap_or_default()
}

#[test]
fn refusals_reveal_nothing_of_the_implementation() {
    let instance = Instance::start();
    let document = instance.api().get("/openapi.json").body;
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)));
    let mut asker = Asker {
        agent: config.build().new_agent(),
        url: instance.api_url().to_owned(),
        key: instance.api_key().to_owned(),
        asked: 0,
    };
    let segments = [
        "nobody",
        "%00",
        "%ff",
        "a%2Fb",
        "..",
        "-1",
        "99999999999999999999",
        "Ä",
        "%C3%84",
        "%27",
        "00000000-0000-4000-8000-000000000000",
    ];
    let queries = [
        "?limit=x",
        "?limit=-1",
        "?limit=99999999999",
        "?limit=1&limit=2",
        "?cursor=%00",
        "?cursor=%ff",
        "?hard=1",
        "?hard",
        "?x=1",
        "?%ff=1",
        "?limit=%",
        "?blueprint=%00",
        "?blueprint=A",
        "?&&=",
    ];
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let method = method.to_uppercase();
            for segment in segments {
                let filled = path
                    .replace("{id}", segment)
                    .replace("{name}", segment)
                    .replace("{ddl_id}", segment);
                let body = (method != "GET").then_some(&b"{}"[..]);
                // Login is slow, and sign-up creates objects.
                if path != "/signup" && path != "/login" {
                    asker.ask(&method, &filled, &[], body);
                }
                if !path.contains('{') {
                    break;
                }
            }
            let filled = path
                .replace("{id}", "nobody")
                .replace("{name}", "nobody")
                .replace("{ddl_id}", "1");
            for query in queries.iter().filter(|_| method == "GET" || method == "DELETE") {
                asker.ask(&method, &format!("{filled}{query}"), &[], None);
            }
            if method == "POST" || method == "PUT" || method == "PATCH" {
                for body in bodies(&properties(&document, operation)) {
                    asker.ask(&method, &filled, &[], Some(&body));
                }
                let long = "k".repeat(256);
                for key in ["", "ä", &long] {
                    asker.ask(&method, &filled, &[("Idempotency-Key", key)], Some(b"[]"));
                }
            }
            for last in ["x", "-1", "99999999999999999999", ""] {
                asker.ask(
                    &method,
                    &filled,
                    &[("Last-Event-ID", last), ("X-Request-Id", "a\"b")],
                    None,
                );
            }
        }
    }
    assert!(asker.asked > 1000, "{}", asker.asked);
}
