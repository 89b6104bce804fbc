//! What an attacker with the store and its master key would have: the secret of every role.

use std::collections::BTreeMap;
use std::fs;

use secrecy::ExposeSecret;
use tdb_auth::MasterKey;

use crate::Instance;

impl Instance {
    /// Maps each role name to its database and secret, for every workspace, build and tenant of the store.
    pub async fn role_secrets(&self) -> BTreeMap<String, (String, String)> {
        let text = fs::read_to_string(self.data_dir().join("master-key")).expect("the master key");
        let key = MasterKey::parse(&text.into()).expect("a master key");
        let store = self.store().await;
        let mut secrets = BTreeMap::new();
        for role in ["owner", "deployer", "readonly"] {
            let sql = format!(
                "SELECT g.{role}_role, g.{role}_secret, p.name FROM control_plane.postgres_databases g
                   JOIN control_plane.physical_databases p USING (id) WHERE p.name IS NOT NULL"
            );
            for row in store.query(&sql, &[]).await.expect("roles of the store") {
                let (name, sealed, database): (String, Vec<u8>, String) = (row.get(0), row.get(1), row.get(2));
                let secret = key
                    .open(&format!("role:{name}"), &sealed)
                    .expect("a secret sealed with this key");
                secrets.insert(name, (database, secret.expose_secret().to_owned()));
            }
        }
        secrets
    }
}
