-- A bookshop platform as it looks before it has a database per customer: every table carries the shop it belongs to.
CREATE TABLE shops (
    id          integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    slug        text NOT NULL UNIQUE,
    name        text NOT NULL,
    opened_on   date NOT NULL DEFAULT current_date
);

CREATE TABLE books (
    id          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    shop_id     integer NOT NULL REFERENCES shops,
    isbn        text NOT NULL CHECK (isbn ~ '^[0-9]{13}$'),
    title       text NOT NULL,
    authors     text[] NOT NULL,
    price       numeric(8, 2) NOT NULL CHECK (price >= 0),
    in_stock    integer NOT NULL DEFAULT 0 CHECK (in_stock >= 0),
    UNIQUE (shop_id, isbn)
);
CREATE INDEX books_by_title ON books (shop_id, lower(title));

CREATE TABLE customers (
    id          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    shop_id     integer NOT NULL REFERENCES shops,
    email       text NOT NULL,
    name        text NOT NULL,
    UNIQUE (shop_id, email)
);

CREATE TYPE order_state AS ENUM ('open', 'paid', 'sent', 'returned');

CREATE TABLE orders (
    id          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    shop_id     integer NOT NULL REFERENCES shops,
    customer_id bigint NOT NULL REFERENCES customers,
    state       order_state NOT NULL DEFAULT 'open',
    ordered_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE order_lines (
    order_id    bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
    line        integer NOT NULL,
    shop_id     integer NOT NULL REFERENCES shops,
    book_id     bigint NOT NULL REFERENCES books,
    copies      integer NOT NULL CHECK (copies > 0),
    price       numeric(8, 2) NOT NULL,
    PRIMARY KEY (order_id, line)
);

CREATE VIEW revenue AS
    SELECT o.shop_id, date_trunc('month', o.ordered_at) AS month, sum(l.copies * l.price) AS total
    FROM orders o JOIN order_lines l ON l.order_id = o.id
    WHERE o.state IN ('paid', 'sent')
    GROUP BY o.shop_id, month;

INSERT INTO shops (slug, name, opened_on) VALUES
    ('acme', 'Acme Books', '2019-03-01'), ('globex', 'Globex Readers', '2021-09-15'), ('initech', 'Initech Press', '2024-01-10');
INSERT INTO books (shop_id, isbn, title, authors, price, in_stock)
    SELECT s.id, lpad((9780000000000 + s.id * 1000 + n)::text, 13, '0'), format('Volume %s of %s', n, s.name),
           ARRAY[format('Author %s', n % 7)], 5 + n % 40, n % 12
    FROM shops s, generate_series(1, 40) AS n;
INSERT INTO customers (shop_id, email, name)
    SELECT s.id, format('reader%s@%s.example', n, s.slug), format('Reader %s', n) FROM shops s, generate_series(1, 25) AS n;
INSERT INTO orders (shop_id, customer_id, state, ordered_at)
    SELECT c.shop_id, c.id, (enum_range(NULL::order_state))[1 + c.id % 4], '2026-01-01'::timestamptz + c.id * interval '9 hours'
    FROM customers c;
INSERT INTO order_lines (order_id, line, shop_id, book_id, copies, price)
    SELECT o.id, n, o.shop_id, b.id, 1 + n % 3, b.price
    FROM orders o, generate_series(1, 2) AS n,
         LATERAL (SELECT id, price FROM books WHERE shop_id = o.shop_id ORDER BY id OFFSET (o.id * n) % 40 LIMIT 1) AS b;
