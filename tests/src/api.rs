//! The admin API as JSON over HTTP, without the product's types.

use std::time::Duration;

use serde_json::{Value, json};

/// An address and a key.
#[derive(Clone, Debug)]
pub struct Api {
    url: String,
    key: Option<String>,
    headers: Vec<(String, String)>,
    agent: ureq::Agent,
}

/// An HTTP status and a body.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    headers: Vec<(String, String)>,
    request: String,
}

impl Api {
    pub fn new(url: &str, key: Option<&str>) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(120)))
            // A server can close a kept connection while the next request is being sent, which is not a failure of the server.
            .max_idle_connections(0)
            .build();
        Self {
            url: url.trim_end_matches('/').to_owned(),
            key: key.map(str::to_owned),
            headers: Vec::new(),
            agent: config.new_agent(),
        }
    }

    /// The same address with another key, or without one.
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self {
            key: key.map(str::to_owned),
            ..self.clone()
        }
    }

    /// The same with an additional header.
    pub fn with_header(&self, name: &str, value: &str) -> Self {
        let mut api = self.clone();
        api.headers.push((name.to_owned(), value.to_owned()));
        api
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.try_send("GET", path, None)
            .unwrap_or_else(|e| panic!("GET {path}: {e}"))
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.try_send("DELETE", path, None)
            .unwrap_or_else(|e| panic!("DELETE {path}: {e}"))
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: Value) -> Answer {
        self.try_send("POST", path, Some(body))
            .unwrap_or_else(|e| panic!("POST {path}: {e}"))
    }

    /// Sends a request; an error if there was no response, for example because the process was killed.
    pub fn try_send(&self, method: &str, path: &str, body: Option<Value>) -> Result<Answer, ureq::Error> {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let line = format!("{method} {path} {}", body.as_ref().unwrap_or(&Value::Null));
        let mut response = match body {
            Some(body) => {
                let request = request.header("Content-Type", "application/json");
                self.agent
                    .run(request.body(body.to_string()).map_err(ureq::Error::Http)?)?
            }
            None => self.agent.run(request.body(()).map_err(ureq::Error::Http)?)?,
        };
        let headers = response.headers().iter();
        let headers = headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
            .collect();
        let text = response.body_mut().read_to_string()?;
        Ok(Answer {
            status: response.status().as_u16(),
            body: serde_json::from_str(&text).unwrap_or_else(|_| json!(text)),
            headers,
            request: line,
        })
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Panics unless the status is a success; checks the envelope.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(
            (200..300).contains(&self.status),
            "{}: {} {:#}",
            self.request,
            self.status,
            self.body
        );
        assert_eq!(self.body["success"], json!(true), "{}: {:#}", self.request, self.body);
        self.body
    }

    /// Panics unless it is a problem document (RFC 9457) with this status; returns it.
    #[track_caller]
    pub fn problem(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {:#}", self.request, self.body);
        for field in ["type", "title", "status", "detail", "code", "request_id"] {
            assert!(
                !self.body[field].is_null(),
                "no {field} in the answer of {}: {:#}",
                self.request,
                self.body
            );
        }
        assert_eq!(self.body["success"], json!(false), "{}: {:#}", self.request, self.body);
        assert_eq!(self.body["status"], json!(status), "{}: {:#}", self.request, self.body);
        self.body
    }
}
