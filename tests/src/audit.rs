//! Compares the server's catalogs with the metadata store, without using TenantsDB: nothing may be lost, duplicated,
//! incomplete or left over.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Instance, Session, column, eventually_async};

/// The time limit for a restarted instance to complete or undo what a kill interrupted.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(90);
/// The maximum number of spares of a blueprint's newest version.
const STOCK_MAX: i64 = 4;
/// Databases of the server that belong to no project.
const OWN_DATABASES: [&str; 4] = ["postgres", "template0", "template1", "tdb_base"];

impl Instance {
    /// Waits until the store and the server agree, then checks every tenant and change of `blueprint`.
    pub async fn audit(&self, blueprint: &str) {
        let (store, server) = (self.store().await, self.server("postgres").await);
        let deadline = Instant::now() + RECOVERY_TIME_MAX;
        while let Some(found) = self.differences(&store, &server).await {
            assert!(
                Instant::now() < deadline,
                "store and server differ after a restart: {found}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.every_tenant_is_whole(blueprint).await;
    }

    /// Waits until every blueprint has as many spares of its newest version as the demand of the last day requires.
    pub async fn wait_for_spares(&self) {
        let store = self.store().await;
        let store = &store;
        let sql = "SELECT count(*) FROM control_plane.workspaces w,
                     LATERAL (SELECT count(*) AS day, count(*) FILTER (WHERE d.created_at > now() - interval '10 minutes') AS burst
                                FROM control_plane.tenant_databases d
                               WHERE d.workspace_id = w.id AND d.created_at > now() - interval '1 day') AS made
                   WHERE (SELECT count(*) FROM control_plane.templates s WHERE s.workspace_id = w.id AND s.status = 'spare' AND s.step = 'adopted'
                             AND s.version = (SELECT max(version) FROM control_plane.templates p
                                               WHERE p.workspace_id = w.id AND p.status = 'published'))
                       < least($1, greatest(made.burst - 1, made.day / 4))";
        eventually_async(RECOVERY_TIME_MAX, "there are spares", || async move {
            let row = store.query_one(sql, &[&STOCK_MAX]).await.expect("the templates");
            (row.get::<_, i64>(0) == 0).then_some(())
        })
        .await;
    }

    /// A description of the first difference; `None` if there is none.
    async fn differences(&self, store: &Session, server: &Session) -> Option<String> {
        let unsettled: Vec<String> = column(
            store,
            "SELECT format('%s__%s %s %s', blueprint, tenant, status, step) FROM control_plane.tenant_databases WHERE status <> 'ready'
             UNION ALL SELECT format('%s__%s %s of a tenant that is %s', d.blueprint, d.tenant, d.access, t.status)
             FROM control_plane.tenant_databases d JOIN control_plane.tenants t ON t.project_id = d.project_id AND t.name = d.tenant
             WHERE d.access <> CASE t.status WHEN 'deleted' THEN 'closed' ELSE 'open' END
             UNION ALL SELECT format('%s_dev %s %s', blueprint, status, step) FROM control_plane.workspaces WHERE status <> 'ready'
             UNION ALL SELECT format('tenant %s %s', name, status) FROM control_plane.tenants
             WHERE status NOT IN ('ready', 'suspended', 'deleted')
             UNION ALL SELECT format('%s %s %s', deployment_id, tenant, status) FROM control_plane.deployment_targets
             WHERE status NOT IN ('done', 'skipped', 'failed')",
        )
        .await;
        if !unsettled.is_empty() {
            return Some(format!("unsettled: {unsettled:?}"));
        }
        let known: BTreeSet<String> = column(
            store,
            "SELECT name FROM control_plane.physical_databases WHERE name IS NOT NULL",
        )
        .await;
        let store_database: String = store
            .query_one("SELECT current_database()::text", &[])
            .await
            .ok()?
            .get(0);
        let mut found: BTreeSet<String> = column(server, "SELECT datname::text FROM pg_database").await;
        found.retain(|name| !OWN_DATABASES.contains(&name.as_str()) && *name != store_database);
        if known != found {
            let lost: Vec<_> = known.difference(&found).collect();
            let left: Vec<_> = found.difference(&known).collect();
            return Some(format!("databases lost {lost:?}, left over {left:?}"));
        }
        // Each role belongs to an existing database, and each database has its roles.
        let orphans: Vec<String> = column(
            server,
            "SELECT rolname::text FROM pg_roles r WHERE starts_with(rolname, 'r_') AND NOT EXISTS
             (SELECT FROM pg_database d WHERE d.datname <> 'template0' AND has_database_privilege(r.oid, d.oid, 'CONNECT'))",
        )
        .await;
        if !orphans.is_empty() {
            return Some(format!("roles of no database: {orphans:?}"));
        }
        None
    }

    /// Each tenant has exactly the changes that the store lists, each once and completed, and no drift.
    async fn every_tenant_is_whole(&self, blueprint: &str) {
        let drift = self.drift(blueprint);
        assert_eq!(drift["count"], 0, "{drift:#}");
        let tenants = self.api().get("/tenants?limit=1000").ok();
        for tenant in tenants["tenants"].as_array().expect("tenants") {
            for database in tenant["databases"].as_array().expect("databases") {
                if database["blueprint"] == blueprint && tenant["status"] == "ready" {
                    self.one_tenant_is_whole(blueprint, tenant["tenant_id"].as_str().expect("a name"))
                        .await;
                }
            }
        }
    }

    async fn one_tenant_is_whole(&self, blueprint: &str, tenant: &str) {
        let store = self.store().await;
        let sql = "SELECT p.name, v.change_ids::text FROM control_plane.tenant_databases t
                   JOIN control_plane.physical_databases p ON p.tenant_database_id = t.id
                   JOIN control_plane.workspaces w USING (blueprint)
                   JOIN control_plane.versions v ON v.workspace_id = w.id AND v.number = t.version
                   WHERE t.tenant = $1 AND t.blueprint = $2";
        let row = store
            .query_one(sql, &[&tenant, &blueprint])
            .await
            .expect("the tenant's row");
        let (physical, expected): (String, String) = (row.get(0), row.get(1));
        let direct = self.server(&physical).await;
        let sql = "SELECT coalesce(array_agg(change_id ORDER BY change_id), '{}')::text, coalesce(bool_and(state = 'done'), true)
                   FROM tdb.deployed_change";
        let row = direct.query_one(sql, &[]).await.expect("its deployed changes");
        assert_eq!(
            row.get::<_, String>(0),
            expected,
            "changes of {tenant}: its database (left), its version (right)"
        );
        assert!(row.get::<_, bool>(1), "{tenant} has a change that is half done");
    }

    /// The change log contains the creation of each of `tables` exactly once (`CREATE TABLE`), and the journal is empty.
    pub async fn logged_once(&self, blueprint: &str, tables: &BTreeSet<String>) {
        // Requesting the diff drains the journal first.
        let _: Vec<Value> = self.diff(blueprint);
        let store = self.store().await;
        let sql = "SELECT c.statements::text FROM control_plane.changes c JOIN control_plane.workspaces w ON w.id = c.workspace_id
                   WHERE w.blueprint = $1";
        let rows = store.query(sql, &[&blueprint]).await.expect("the change log");
        for table in tables {
            let text = format!("CREATE TABLE {table} ");
            let times = rows
                .iter()
                .filter(|row| row.get::<_, String>(0).contains(&text))
                .count();
            assert_eq!(times, 1, "{text}is {times} times in the change log");
        }
        let direct = self.journal_of(blueprint).await;
        let direct = &direct;
        eventually_async(RECOVERY_TIME_MAX, "the journal is drained", || async move {
            let row = direct
                .query_one("SELECT count(*) FROM tdb.ddl_event WHERE NOT drained", &[])
                .await
                .expect("the journal");
            (row.get::<_, i64>(0) == 0).then_some(())
        })
        .await;
    }

    /// The rows that the administrator wrote to the journal have been moved to the change log.
    pub async fn journal_keeps_no_extension(&self, blueprint: &str) {
        let _: Vec<Value> = self.diff(blueprint);
        let direct = self.journal_of(blueprint).await;
        let sql = "SELECT count(*) FROM tdb.ddl_event WHERE event = 'extension'";
        let row = direct.query_one(sql, &[]).await.expect("the journal");
        assert_eq!(row.get::<_, i64>(0), 0, "rows of extensions are left in the journal");
    }

    /// A session of the administrator in the workspace's database.
    async fn journal_of(&self, blueprint: &str) -> Session {
        let sql = "SELECT p.name FROM control_plane.workspaces w JOIN control_plane.physical_databases p ON p.workspace_id = w.id
                   WHERE w.blueprint = $1";
        let store = self.store().await;
        let physical: String = store.query_one(sql, &[&blueprint]).await.expect("the workspace").get(0);
        self.server(&physical).await
    }
}
