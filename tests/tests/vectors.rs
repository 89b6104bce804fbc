//! pgvector as in its documentation, on a PostgreSQL that has it.

use tdb_tests::installation::with_pgvector;
use tdb_tests::{Instance, InstanceOptions, clean, psql, run};

#[test]
fn vectors_and_their_indexes_are_deployed_as_written() {
    let bin = with_pgvector();
    let mut options = InstanceOptions::default();
    options
        .environment
        .push(("PG_BIN_DIR".to_owned(), bin.display().to_string()));
    let instance = Instance::start_with(&options);
    let workspace = instance.workspace("search");
    psql(
        &workspace.url,
        "CREATE TABLE documents (id bigserial PRIMARY KEY, body text)",
    )
    .ok();
    let old = instance.tenant("v-old", "search");
    psql(&old.url, "INSERT INTO documents (body) VALUES ('old')").ok();
    psql(
        &workspace.url,
        "CREATE EXTENSION vector;
         CREATE TABLE items (id bigserial PRIMARY KEY, embedding vector(3));
         ALTER TABLE documents ADD COLUMN embedding vector(3);
         CREATE INDEX ON items USING hnsw (embedding vector_l2_ops) WITH (m = 16, ef_construction = 64);
         CREATE INDEX ON documents USING ivfflat (embedding vector_cosine_ops) WITH (lists = 10);
         CREATE INDEX CONCURRENTLY items_ip ON items USING hnsw (embedding vector_ip_ops);
         CREATE FUNCTION nearest(vector) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT id FROM items ORDER BY embedding <-> $1 LIMIT 1';",
    )
    .ok();
    assert_eq!(instance.deploy_all("search")["status"], "completed");
    let new = instance.prove(&workspace);
    for url in [&old.url, &new.url] {
        psql(
            url,
            "INSERT INTO items (embedding) SELECT ARRAY[i, 1, 1]::vector FROM generate_series(1, 100) i",
        )
        .ok();
        psql(url, "INSERT INTO documents (body, embedding) VALUES ('new', '[1,2,3]')").ok();
        assert_eq!(psql(url, "SELECT nearest('[42.2,1,1]')").ok().text(), "42");
        let plan = "SET enable_seqscan = off; EXPLAIN SELECT id FROM items ORDER BY embedding <-> '[3,1,2]' LIMIT 5";
        let plan = psql(url, plan).ok();
        assert!(plan.text().contains("items_embedding_idx"), "{}", plan.text());
        let near = "SELECT body FROM documents ORDER BY embedding <=> '[1,2,3]' LIMIT 1";
        assert_eq!(psql(url, near).ok().text(), "new");
        psql(url, "DROP EXTENSION vector CASCADE").fails_saying("42501");
    }
    let drift = instance.api().get("/drift?blueprint=search").ok();
    assert_eq!(drift["count"], 0, "{drift:#}");

    // A dump of the whole tenant qualifies everything with public.
    let mut dump = clean(bin.join("pg_dump"));
    dump.args(["-O", "-x", "-d", &old.url]);
    let dump = run(dump, "").ok().stdout;
    assert!(
        dump.contains("public.vector(3)") && dump.contains("COMMENT ON EXTENSION vector"),
        "{dump}"
    );
    let copy = instance.workspace("search-copy");
    psql(&copy.url, &dump).ok();
    assert_eq!(psql(&copy.url, "SELECT public.nearest('[42.2,1,1]')").ok().text(), "42");
    let tenant = instance.prove(&copy);
    psql(&tenant.url, "INSERT INTO items (embedding) VALUES ('[1,2,3]')").ok();
}
