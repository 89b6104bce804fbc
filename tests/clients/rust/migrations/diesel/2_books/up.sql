CREATE TABLE books (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    author bigint NOT NULL REFERENCES authors ON DELETE CASCADE,
    price numeric(12, 3)
);
ALTER TABLE authors ADD CONSTRAINT email_has_at CHECK (email LIKE '%@%');
