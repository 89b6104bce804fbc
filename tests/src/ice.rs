//! An instance with a second database server that a test can freeze.

use serde_json::json;
use tdb_testkit::Cluster;

use crate::Instance;

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
