-- The pairs of declared role $1[i] and owner $2[i] for which the role is missing or not ours, or the membership is missing. $3
-- is the comment on declared roles of this installation.
SELECT w.role, r.oid IS NOT NULL AS there, coalesce(shobj_description(r.oid, 'pg_authid') = $3, false) AS ours,
       w.owner, o.oid IS NOT NULL AS owner_there
  FROM unnest($1::text[], $2::text[]) AS w(role, owner)
  LEFT JOIN pg_roles r ON r.rolname = w.role
  LEFT JOIN pg_roles o ON o.rolname = w.owner
 WHERE r.oid IS NULL OR coalesce(shobj_description(r.oid, 'pg_authid') <> $3, true)
    OR o.oid IS NOT NULL AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.roleid = r.oid AND m.member = o.oid)
