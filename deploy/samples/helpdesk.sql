-- A helpdesk: the schema of one customer, as a blueprint would have it.
CREATE TABLE agents (
    id          integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    email       text NOT NULL UNIQUE,
    name        text NOT NULL,
    active      boolean NOT NULL DEFAULT true
);

CREATE TYPE priority AS ENUM ('low', 'normal', 'urgent');

CREATE TABLE tickets (
    id          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    subject     text NOT NULL CHECK (subject <> ''),
    priority    priority NOT NULL DEFAULT 'normal',
    assigned_to integer REFERENCES agents,
    labels      jsonb NOT NULL DEFAULT '[]',
    opened_at   timestamptz NOT NULL DEFAULT now(),
    closed_at   timestamptz CHECK (closed_at >= opened_at)
);
CREATE INDEX open_tickets ON tickets (priority, opened_at) WHERE closed_at IS NULL;
CREATE INDEX tickets_by_label ON tickets USING gin (labels);

CREATE TABLE messages (
    ticket_id   bigint NOT NULL REFERENCES tickets ON DELETE CASCADE,
    number      integer NOT NULL,
    body        text NOT NULL,
    sent_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (ticket_id, number)
);

CREATE FUNCTION close_ticket(the_ticket bigint) RETURNS void LANGUAGE sql AS
    $$ UPDATE tickets SET closed_at = now() WHERE id = the_ticket AND closed_at IS NULL $$;

INSERT INTO agents (email, name) SELECT format('agent%s@helpdesk.example', n), format('Agent %s', n) FROM generate_series(1, 6) AS n;
INSERT INTO tickets (subject, priority, assigned_to, labels, opened_at)
    SELECT format('Question %s', n), (enum_range(NULL::priority))[1 + n % 3], 1 + n % 6, jsonb_build_array(format('topic-%s', n % 5)),
           '2026-01-01'::timestamptz + n * interval '3 hours'
    FROM generate_series(1, 120) AS n;
INSERT INTO messages (ticket_id, number, body, sent_at)
    SELECT t.id, n, format('Message %s about %s', n, t.subject), t.opened_at + n * interval '10 minutes'
    FROM tickets t, generate_series(1, 3) AS n;
