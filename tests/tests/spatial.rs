//! PostGIS, and schemas of large public projects that qualify their extensions' objects with `public`.

use std::sync::OnceLock;

use serde_json::json;
use tdb_tests::{Instance, fixture, in_database, pg_dump, pg_restore_over, psql, psql_file};
use tempfile::TempDir;

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

#[test]
fn a_dump_of_map_data_becomes_the_schema_of_tenants() {
    let workspace = instance().workspace("osm");
    psql(&workspace.url, "CREATE TABLE before (id int)").ok();
    let old = instance().tenant("osm-old", "osm");
    psql_file(&workspace.url, &fixture("osm.sql")).ok();
    assert_eq!(instance().deploy_all("osm")["status"], "completed");
    let new = instance().prove(&workspace);
    for url in [&old.url, &new.url] {
        psql(
            url,
            "INSERT INTO osm_point VALUES (1, 'Here', 'a=>b', ST_Transform(ST_SetSRID(ST_Point(10, 50), 4326), 3857));
             INSERT INTO osm_polygon (way) VALUES (ST_Buffer(ST_SetSRID(ST_Point(1, 1), 3857), 5));
             INSERT INTO osm_line VALUES (1, 'path', 'SRID=3857;LINESTRING(0 0, 1000 0)');
             REFRESH MATERIALIZED VIEW osm_roads;
             SET enable_seqscan = off",
        )
        .ok();
        let near = "SELECT name FROM osm_point WHERE way && ST_Transform(ST_MakeEnvelope(9, 49, 11, 51, 4326), 3857)";
        assert_eq!(psql(url, near).ok().text(), "Here");
        let plan = psql(url, &format!("SET enable_seqscan = off; EXPLAIN {near}")).ok();
        assert!(plan.text().contains("osm_point_way_idx"), "{}", plan.text());
        assert_eq!(psql(url, "SELECT metres FROM osm_roads").ok().text(), "1000");
        // A custom reference system.
        psql(url, "INSERT INTO spatial_ref_sys (srid, srtext) VALUES (990001, 'x'); UPDATE spatial_ref_sys SET srtext = 'y' WHERE srid = 990001").ok();
        psql(
            url,
            "CREATE TRIGGER planted AFTER INSERT ON spatial_ref_sys EXECUTE FUNCTION osm_valid()",
        )
        .fails_saying("42501");
        psql(url, "ALTER TABLE spatial_ref_sys OWNER TO CURRENT_USER").fails_saying("42501");
    }
    let drift = instance().api().get("/drift?blueprint=osm").ok();
    assert_eq!(drift["count"], 0, "{drift:#}");

    // A complete dump of a tenant, into another project's workspace, and back into the tenant.
    let whole = pg_dump(&old.url, &["-O", "-x"]).ok().stdout;
    assert!(whole.contains("990001") && !whole.contains("GRANT"), "{whole}");
    let copy = instance().workspace("osm-copy");
    psql(&copy.url, &whole).ok();
    assert_eq!(
        psql(&copy.url, "SELECT count(*) FROM spatial_ref_sys WHERE srid = 990001")
            .ok()
            .text(),
        "1"
    );
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("osm.dump").display().to_string();
    pg_dump(&old.url, &["-Fc", "-f", &file]).ok();
    psql(&old.url, "TRUNCATE osm_point, osm_line, osm_polygon").ok();
    let left_out = [
        " EXTENSION - ",
        " COMMENT - EXTENSION ",
        " TABLE DATA public spatial_ref_sys ",
    ];
    pg_restore_over(&old.url, &file, &left_out).ok();
    assert_eq!(psql(&old.url, "SELECT count(*) FROM osm_point").ok().text(), "1");
}

#[test]
fn an_extension_in_a_separate_schema_finds_the_one_that_it_requires() {
    let workspace = instance().workspace("topo");
    psql(
        &workspace.url,
        "CREATE EXTENSION postgis; CREATE TABLE places (at geometry)",
    )
    .ok();
    let old = instance().tenant("topo-old", "topo");
    let reader = instance()
        .api()
        .post("/credentials", json!({"tenant_id": "topo-old", "rights": "ro"}))
        .ok();
    let reader = reader["connection_string"].as_str().expect("a connection string");
    let reader = in_database(reader, "topo__topo-old");
    psql(&reader, "SELECT count(*) FROM places").ok();
    psql(
        &workspace.url,
        "CREATE EXTENSION postgis_topology; CREATE EXTENSION postgis_tiger_geocoder CASCADE",
    )
    .ok();
    assert_eq!(instance().deploy_all("topo")["status"], "completed");
    let new = instance().prove(&workspace);
    let settings = "SELECT count(*) FROM pg_db_role_setting WHERE setrole = 0";
    for url in [&workspace.url, &old.url, &new.url] {
        assert_eq!(psql(url, settings).ok().text(), "0", "search_path is the user's");
        psql(url, "SELECT topology.CreateTopology('town', 4326)").ok();
        let schemas = "SELECT string_agg(extname || ' ' || extnamespace::regnamespace, ', ' ORDER BY extname)
                         FROM pg_extension WHERE extname ~ 'postgis'";
        assert_eq!(
            psql(url, schemas).ok().text(),
            "postgis public, postgis_tiger_geocoder tiger, postgis_topology topology"
        );
    }
    // The extensions were created after the reader, and so were their schemas.
    let read = "SELECT name FROM topology.topology; SELECT count(*) > 0 FROM tiger.geocode_settings_default; \
                SELECT count(*) FROM town.node";
    assert_eq!(psql(&reader, read).ok().text(), "town\nt\n0");
    let listed = instance().api().get("/workspaces/topo/extensions?limit=1000").ok();
    let all = listed["extensions"].as_array().expect("extensions");
    let topology = all
        .iter()
        .find(|extension| extension["name"] == "postgis_topology")
        .expect("it");
    assert_eq!(topology["schema"], json!("topology"));
}

#[test]
fn cascade_creates_what_is_required_where_postgres_does() {
    // From an empty database: postgis and fuzzystrmatch are required; the schema is that of extensions without a fixed one.
    let workspace = instance().workspace("cascaded");
    psql(
        &workspace.url,
        "CREATE EXTENSION postgis_topology SCHEMA public CASCADE",
    )
    .ok();
    psql(&workspace.url, "CREATE EXTENSION postgis_tiger_geocoder CASCADE").ok();
    let tenant = instance().prove(&workspace);
    let places = "SELECT string_agg(extname || ' ' || extnamespace::regnamespace, ', ' ORDER BY extname)
                    FROM pg_extension WHERE extname <> 'plpgsql'";
    for url in [&workspace.url, &tenant.url] {
        assert_eq!(
            psql(url, places).ok().text(),
            "fuzzystrmatch public, postgis public, postgis_tiger_geocoder tiger, postgis_topology topology"
        );
        psql(url, "CREATE TABLE places (at geometry)").ok();
    }
    let bare = instance().workspace("bare");
    let missing = psql(&bare.url, "CREATE EXTENSION postgis_topology");
    missing.fails_saying("required extension \"postgis\" is not installed");
}

#[test]
fn a_schema_other_than_public_is_described_with_its_name() {
    let workspace = instance().workspace("music");
    psql_file(&workspace.url, &fixture("music.sql")).ok();
    let tenant = instance().prove(&workspace);
    psql(
        &tenant.url,
        "INSERT INTO music.place (gid, name, coordinates) VALUES (gen_random_uuid(), 'Café', '(50, 10)');
         INSERT INTO music.artist (name, position, born_in) VALUES ('A', public.ll_to_earth(50, 10), 1);",
    )
    .ok();
    let near = "SELECT name, metres, music.plain(name) FROM music.near, LATERAL (SELECT 1) x";
    assert_eq!(psql(&tenant.url, near).ok().text(), "A|0|a");
}
