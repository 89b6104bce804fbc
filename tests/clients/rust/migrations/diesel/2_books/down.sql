ALTER TABLE authors DROP CONSTRAINT email_has_at;
DROP TABLE books;
