#!/bin/sh
# Run by the postgres image at its first start: the metadata store's owner, who may create roles and is no superuser.
set -eu
psql --set ON_ERROR_STOP=1 --set password="$STORE_PASSWORD" --username "$POSTGRES_USER" <<'SQL'
CREATE ROLE cp_owner LOGIN CREATEROLE PASSWORD :'password';
CREATE DATABASE tdb_control OWNER cp_owner;
REVOKE ALL ON DATABASE tdb_control FROM PUBLIC;
SQL
