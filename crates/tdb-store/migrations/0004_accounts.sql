-- People who sign up, requests that may be repeated, and servers that are being emptied.

-- Reached through functions only: whoever reads it could guess passwords at leisure.
CREATE TABLE users (
    id          uuid PRIMARY KEY,
    account     uuid NOT NULL,
    email       text NOT NULL UNIQUE CHECK (char_length(email) BETWEEN 3 AND 254),
    -- A slow hash, never itself.
    password    text NOT NULL CHECK (password LIKE 'pbkdf2-sha256$%'),
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Keys that logins made; a user keeps the newest few.
ALTER TABLE api_keys ADD COLUMN user_id uuid REFERENCES users;
CREATE INDEX ON api_keys (user_id, created_at) WHERE user_id IS NOT NULL;

-- The account of the installation's first project: it alone registers and drains servers.
ALTER TABLE system_config ADD COLUMN operator_account uuid;
UPDATE system_config SET operator_account = (SELECT account FROM projects ORDER BY created_at, project_id LIMIT 1);

ALTER TABLE servers ADD COLUMN status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'draining'));

-- What became of a POST with the header Idempotency-Key. Seal: idempotency:<project>:<key>:<what>.
CREATE TABLE idempotency_keys (
    project_id   text NOT NULL REFERENCES projects ON DELETE CASCADE,
    key          text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 255),
    -- SHA-256 of who asked for what.
    request      bytea NOT NULL CHECK (length(request) = 32),
    -- Who works on it, and until when nobody else does.
    attempt      uuid NOT NULL,
    lease_until  timestamptz NOT NULL,
    -- Written with what was created, in its transaction: enough to give the answer that a crash prevented.
    receipt      bytea,
    status       smallint CHECK (status BETWEEN 200 AND 299),
    answer       bytea,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, key),
    CHECK ((status IS NULL) = (answer IS NULL))
);
CREATE INDEX ON idempotency_keys (created_at);

-- False where somebody has this address. The account is that of the transaction's project.
CREATE FUNCTION sign_up(the_id uuid, the_email text, the_password text) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH made AS (
        INSERT INTO control_plane.users (id, account, email, password)
        SELECT the_id, p.account, the_email, the_password FROM control_plane.projects p
        WHERE p.project_id = current_setting('tdb.project', true)
        ON CONFLICT (email) DO NOTHING RETURNING 1)
    SELECT EXISTS (SELECT FROM made)
$$;

CREATE FUNCTION user_by_email(the_email text) RETURNS TABLE (id uuid, account uuid, password text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.id, u.account, u.password FROM control_plane.users u WHERE u.email = the_email
$$;

-- The account of the transaction's project becomes the operator's, where there is none yet.
CREATE FUNCTION become_operator() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE control_plane.system_config
    SET operator_account = (SELECT p.account FROM control_plane.projects p
                            WHERE p.project_id = current_setting('tdb.project', true))
    WHERE operator_account IS NULL
$$;

-- Whether the transaction's project is of the operator's account.
CREATE FUNCTION is_operator() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM control_plane.projects p JOIN control_plane.system_config c ON c.operator_account = p.account
                   WHERE p.project_id = current_setting('tdb.project', true))
$$;
