-- Schemas that a script of the extension would find on its search_path ($1: its own, $2: extensions that it requires) and
-- in which somebody other than a superuser may have put something.
SELECT n.nspname::text
  FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner
 WHERE (n.nspname = $1 OR n.oid IN (SELECT extnamespace FROM pg_extension WHERE extname = ANY ($2)))
   AND (NOT o.rolsuper
        OR EXISTS (SELECT FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a LEFT JOIN pg_roles g ON g.oid = a.grantee
                    WHERE a.privilege_type = 'CREATE' AND NOT coalesce(g.rolsuper, false)))
 ORDER BY 1
