-- Servers on which a declared role is not as declared, and why. The project has databases there.
CREATE TABLE declared_role_faults (
    project_id  text NOT NULL,
    name        text NOT NULL,
    server      text NOT NULL REFERENCES servers ON DELETE CASCADE,
    fault       text NOT NULL,
    since       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, name, server),
    FOREIGN KEY (project_id, name) REFERENCES declared_roles ON DELETE CASCADE
);
CREATE INDEX ON declared_role_faults (server);
