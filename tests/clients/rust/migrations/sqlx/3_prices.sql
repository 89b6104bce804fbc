-- no-transaction
CREATE INDEX CONCURRENTLY books_price ON books (price);
