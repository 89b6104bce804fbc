SELECT oid, datistemplate AS template, datallowconn AS open, datconnlimit = -2 AS invalid
  FROM pg_database WHERE datname = $1
