CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE items (
    id int PRIMARY KEY,
    name text,
    price numeric(12, 3),
    data bytea,
    doc jsonb,
    made timestamptz,
    mood mood,
    tags text[],
    numbers int[]
);
