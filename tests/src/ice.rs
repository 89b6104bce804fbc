//! An instance with a second database server that a test can freeze.

use std::time::{Duration, Instant};

use serde_json::json;
use tdb_testkit::Cluster;

use crate::Instance;

/// The limit for operations that take milliseconds, and for those that find out, in three seconds, that a server does not
/// answer. A wait for the frozen server takes ten seconds (a login) or longer.
const PROMPT: Duration = Duration::from_secs(9);

/// Does `work`, which must not wait for a frozen server.
pub fn promptly<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    let took = begun.elapsed();
    assert!(took < PROMPT, "{what} took {took:?}");
    done
}

/// An instance with a second server, "ice", which is to freeze.
pub fn with_ice() -> (Instance, Cluster) {
    let (instance, cluster) = (Instance::start(), Cluster::start().unwrap());
    let enrolment = json!({
        "name": "ice", "host": "127.0.0.1", "port": cluster.port(), "tls": "disable",
        "admin_user": cluster.superuser(), "admin_password": cluster.password(),
    });
    instance.api().post("/servers", enrolment).ok();
    (instance, cluster)
}

/// Has new databases placed on one of the two servers.
pub fn only(instance: &Instance, server: &str) {
    for (name, action) in [("dev", "drain"), ("ice", "drain"), (server, "resume")] {
        instance
            .api()
            .post(&format!("/servers/{name}/{action}"), json!({}))
            .ok();
    }
}
