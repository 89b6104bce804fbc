#!/bin/sh
# Run by the postgres image at its first start: one database for each file of deploy/samples.
set -eu
for file in /samples/*.sql; do
    name=sample_$(basename "$file" .sql)
    createdb --username "$POSTGRES_USER" "$name"
    psql --set ON_ERROR_STOP=1 --quiet --single-transaction --username "$POSTGRES_USER" --dbname "$name" --file "$file"
done
