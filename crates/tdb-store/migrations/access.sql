-- Who may do what in the store; applied after the migrations, again and again, so that no table is forgotten.
-- The owner's name is current_user; the names of the three login roles are in the settings tdb.role_*.
DO $access$
DECLARE
    the_table regclass;
    has_project boolean;
    policy name;
    api text := quote_ident(current_setting('tdb.role_api'));
    data_plane text := quote_ident(current_setting('tdb.role_data_plane'));
    jobs text := quote_ident(current_setting('tdb.role_jobs'));
    -- What a session may see without a project is nothing: the setting is then NULL or empty.
    own_project constant text := 'project_id = current_setting(''tdb.project'', true)';
BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %s, %s, %s', current_database(), api, data_plane, jobs);
    EXECUTE format('REVOKE ALL ON SCHEMA control_plane FROM PUBLIC, %s, %s, %s', api, data_plane, jobs);
    EXECUTE format('GRANT USAGE ON SCHEMA control_plane TO %s, %s, %s', api, data_plane, jobs);
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA control_plane FROM PUBLIC, %s, %s, %s', api, data_plane, jobs);
    EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA control_plane FROM PUBLIC, %s, %s, %s', api, data_plane, jobs);
    EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA control_plane FROM PUBLIC, %s, %s, %s', api, data_plane, jobs);

    FOR the_table, has_project IN
        SELECT c.oid::regclass, EXISTS (SELECT FROM pg_attribute a
                                        WHERE a.attrelid = c.oid AND a.attname = 'project_id' AND NOT a.attisdropped)
        FROM pg_class c WHERE c.relnamespace = 'control_plane'::regnamespace AND c.relkind IN ('r', 'p')
    LOOP
        FOR policy IN SELECT p.polname FROM pg_policy p WHERE p.polrelid = the_table LOOP
            EXECUTE format('DROP POLICY %I ON %s', policy, the_table);
        END LOOP;
        CONTINUE WHEN NOT has_project;
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', the_table);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', the_table);
        -- For the functions that the data plane executes as the owner; those write route_events only.
        EXECUTE format('CREATE POLICY owner_reads ON %s FOR SELECT TO CURRENT_USER USING (true)', the_table);
        EXECUTE format('CREATE POLICY own_project ON %s TO %s USING (%s) WITH CHECK (%s)', the_table, api, own_project, own_project);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %s', the_table, api);
        -- Keys are nothing that a job works with.
        CONTINUE WHEN the_table = 'control_plane.api_keys'::regclass;
        EXECUTE format('CREATE POLICY jobs ON %s TO %s USING (true) WITH CHECK (true)', the_table, jobs);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %s', the_table, jobs);
    END LOOP;

    CREATE POLICY owner_numbers ON control_plane.route_events FOR UPDATE TO CURRENT_USER USING (true) WITH CHECK (true);
    EXECUTE format('GRANT SELECT (name, host, port, tls, opaque_names, status, version, facts, created_at, answered_at)
                    ON control_plane.servers TO %s', api);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON control_plane.servers, control_plane.proxies, control_plane.leases,
                    control_plane.processes TO %s', jobs);
    EXECUTE format('GRANT EXECUTE ON FUNCTION control_plane.credential_by_user(text), control_plane.key_by_prefix(text),
                    control_plane.route(text, text, text, text), control_plane.creation_attempts(uuid),
                    control_plane.newest_epoch(),
                    control_plane.events_after(bigint), control_plane.acknowledge(uuid, bigint, interval),
                    control_plane.retire_proxy(uuid) TO %s', data_plane);
    EXECUTE format('GRANT EXECUTE ON FUNCTION control_plane.sign_up(uuid, text, text), control_plane.become_operator(),
                    control_plane.is_operator() TO %s', api);
    EXECUTE format('GRANT EXECUTE ON FUNCTION control_plane.user_by_email(text), control_plane.api_key_counts(text[]),
                    control_plane.api_key_name(uuid) TO %s', jobs);
    EXECUTE format('GRANT EXECUTE ON FUNCTION control_plane.newest_epoch() TO %s, %s', api, jobs);
END $access$;
