-- Roles without login that a project's schemas name, such as "anon". Each server where the project has databases has a
-- role of that name; every owner role of those databases is a member.
CREATE TABLE declared_roles (
    project_id  text NOT NULL REFERENCES projects ON DELETE CASCADE,
    name        text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 63),
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, name)
);
