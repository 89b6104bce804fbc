-- The facts of a schema: (object, its properties). The name of role $1 is written as OWNER; superusers have different names on
-- different servers. Runs with search_path = '', so that every name in a definition is qualified. Not included: members of
-- extensions, temporary objects, positions of sequences, oids, data, privileges of tdb_readers, and the pg_attver that
-- PostgreSQL keeps among a column's options since the minor releases of November 2026.
WITH role_name AS (
  SELECT oid, CASE WHEN rolname = $1 THEN 'OWNER' WHEN rolsuper THEN 'ADMINISTRATOR' ELSE quote_ident(rolname) END AS name FROM pg_roles
   WHERE rolname <> 'tdb_readers'
  UNION ALL SELECT 0, 'PUBLIC'
),
member AS MATERIALIZED (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
ns AS MATERIALIZED (
  SELECT oid, nspname, nspowner, nspacl, quote_ident(nspname) AS name FROM pg_namespace
   WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'tdb') AND nspname !~ '^pg_(toast|temp)'
),
rel AS MATERIALIZED (
  SELECT c.*, ns.name || '.' || quote_ident(c.relname) AS name,
         CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
              WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE 'index' END AS kind
    FROM pg_class c JOIN ns ON ns.oid = c.relnamespace
   WHERE c.relkind IN ('r','p','v','m','S','f','c','i','I') AND c.relpersistence <> 't'
     AND (1259, c.oid) NOT IN (SELECT classid, objid FROM member)
),
proc AS MATERIALIZED (
  SELECT p.*, ns.name || '.' || quote_ident(p.proname) || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS name
    FROM pg_proc p JOIN ns ON ns.oid = p.pronamespace WHERE (1255, p.oid) NOT IN (SELECT classid, objid FROM member)
),
typ AS MATERIALIZED (
  SELECT t.*, ns.name || '.' || quote_ident(t.typname) AS name
    FROM pg_type t JOIN ns ON ns.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
   WHERE (1247, t.oid) NOT IN (SELECT classid, objid FROM member)
     AND (t.typtype IN ('e','d','r') OR t.typtype = 'c' AND c.relkind = 'c'
          OR t.typtype = 'b' AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid))
),
acl AS (
  SELECT kind || ' ' || name AS object, relacl AS acl,
         acldefault(CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, relowner) AS usual
    FROM rel WHERE relkind NOT IN ('i','I','c')
  UNION ALL
  SELECT 'column ' || rel.name || '.' || quote_ident(a.attname), a.attacl, acldefault('c', rel.relowner)
    FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attacl IS NOT NULL
  UNION ALL SELECT 'function ' || name, proacl, acldefault('f', proowner) FROM proc
  UNION ALL SELECT 'type ' || name, typacl, acldefault('T', typowner) FROM typ
  UNION ALL SELECT 'schema ' || name, nspacl, acldefault('n', nspowner)
    FROM ns WHERE (2615, oid) NOT IN (SELECT classid, objid FROM member)
  UNION ALL SELECT 'language ' || quote_ident(lanname), lanacl, acldefault('l', lanowner) FROM pg_language
  UNION ALL SELECT 'foreign-data wrapper ' || quote_ident(fdwname), fdwacl, acldefault('F', fdwowner) FROM pg_foreign_data_wrapper
  UNION ALL SELECT 'server ' || quote_ident(srvname), srvacl, acldefault('S', srvowner) FROM pg_foreign_server
),
acl_text AS (
  SELECT object,
         (SELECT string_agg(x, ', ' ORDER BY x) FROM (SELECT g.name || '=' || e.privilege_type || CASE WHEN e.is_grantable THEN '*' ELSE '' END AS x
            FROM aclexplode(coalesce(acl, usual)) e JOIN role_name g ON g.oid = e.grantee) a) AS has,
         (SELECT string_agg(x, ', ' ORDER BY x) FROM (SELECT g.name || '=' || e.privilege_type || CASE WHEN e.is_grantable THEN '*' ELSE '' END AS x
            FROM aclexplode(usual) e JOIN role_name g ON g.oid = e.grantee) u) AS usual
    FROM acl WHERE acl IS NOT NULL
)
SELECT 'schema ' || ns.name AS object, 'owner ' || r.name AS fact
  FROM ns JOIN role_name r ON r.oid = nspowner WHERE (2615, ns.oid) NOT IN (SELECT classid, objid FROM member)
UNION ALL
SELECT rel.kind || ' ' || rel.name,
       concat_ws(', ', 'kind ' || relkind::text, 'owner ' || r.name, 'persistence ' || relpersistence::text,
         'options ' || (SELECT string_agg(o, ' ' ORDER BY o) FROM unnest(reloptions) o),
         'toast options ' || (SELECT string_agg(o, ' ' ORDER BY o) FROM pg_class tc, unnest(tc.reloptions) o WHERE tc.oid = reltoastrelid),
         'access method ' || (SELECT amname FROM pg_am WHERE pg_am.oid = relam),
         'tablespace ' || (SELECT spcname FROM pg_tablespace s WHERE s.oid = reltablespace),
         CASE WHEN relrowsecurity THEN 'row security' END, CASE WHEN relforcerowsecurity THEN 'row security forced' END,
         'replica identity ' || relreplident::text, 'of ' || nullif(reloftype, 0)::regtype,
         'partition key ' || CASE WHEN relkind = 'p' THEN pg_get_partkeydef(rel.oid) END,
         'partition ' || CASE WHEN relispartition THEN pg_get_expr(relpartbound, rel.oid) END,
         'inherits ' || (SELECT string_agg(inhparent::regclass::text, ', ' ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = rel.oid),
         CASE WHEN relkind = 'f' THEN (SELECT 'server ' || s.srvname || ' options ' || coalesce(t.ftoptions::text, '')
            FROM pg_foreign_table t JOIN pg_foreign_server s ON s.oid = t.ftserver WHERE t.ftrelid = rel.oid) END)
  FROM rel JOIN role_name r ON r.oid = relowner WHERE relkind NOT IN ('i','I')
UNION ALL
SELECT 'definition of ' || kind || ' ' || name, pg_get_viewdef(oid) FROM rel WHERE relkind IN ('v','m')
UNION ALL
SELECT 'columns of ' || rel.name, string_agg(quote_ident(attname), ', ' ORDER BY attnum)
  FROM rel JOIN pg_attribute a ON attrelid = rel.oid AND attnum > 0 AND NOT attisdropped
 WHERE relkind IN ('r','p','v','m','f','c') GROUP BY rel.name
UNION ALL
SELECT 'column ' || rel.name || '.' || quote_ident(attname),
       concat_ws(', ', format_type(atttypid, atttypmod),
         CASE WHEN attcollation <> t.typcollation THEN 'collation ' || attcollation::regcollation END,
         CASE WHEN attnotnull THEN 'not null' END,
         CASE WHEN attgenerated = '' THEN 'default ' ELSE 'generated ' || attgenerated::text || ' ' END || pg_get_expr(adbin, adrelid),
         'identity ' || nullif(attidentity::text, ''), 'storage ' || attstorage::text, 'compression ' || nullif(attcompression::text, ''),
         CASE WHEN coalesce(attstattarget, -1) <> -1 THEN 'statistics ' || attstattarget END,
         'options ' || (SELECT string_agg(o, ' ' ORDER BY o) FROM unnest(attoptions) o WHERE o !~ '^pg_'),
         'foreign options ' || attfdwoptions::text,
         CASE WHEN attinhcount > 0 THEN 'inherited ' || attinhcount || ' local ' || attislocal END)
  FROM rel JOIN pg_attribute a ON attrelid = rel.oid AND attnum > 0 AND NOT attisdropped
  JOIN pg_type t ON t.oid = atttypid LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum
 WHERE relkind IN ('r','p','v','m','f','c')
UNION ALL
SELECT 'constraint ' || quote_ident(conname) || ' on ' || coalesce(rel.name, typ.name),
       concat_ws(', ', pg_get_constraintdef(k.oid), 'validated ' || convalidated,
         CASE WHEN coninhcount > 0 THEN 'inherited ' || coninhcount || ' local ' || conislocal END)
  FROM pg_constraint k LEFT JOIN rel ON rel.oid = conrelid LEFT JOIN typ ON typ.oid = contypid
 WHERE contype <> 't' AND coalesce(rel.name, typ.name) IS NOT NULL
UNION ALL
SELECT 'index ' || rel.name,
       concat_ws(', ', pg_get_indexdef(rel.oid), 'owner ' || r.name, 'valid ' || (indisvalid AND indisready), CASE WHEN indisclustered THEN 'clustered' END,
         CASE WHEN indisreplident THEN 'replica identity' END,
         'statistics ' || (SELECT string_agg(attnum || '=' || attstattarget, ' ' ORDER BY attnum) FROM pg_attribute
            WHERE attrelid = rel.oid AND coalesce(attstattarget, -1) <> -1))
  FROM rel JOIN pg_index i ON i.indexrelid = rel.oid JOIN role_name r ON r.oid = relowner
UNION ALL
SELECT 'parameters of sequence ' || rel.name,
       concat_ws(', ', format_type(seqtypid, NULL), 'start ' || seqstart, 'increment ' || seqincrement, 'min ' || seqmin,
         'max ' || seqmax, 'cache ' || seqcache, 'cycle ' || seqcycle,
         'owned by ' || (SELECT refobjid::regclass || '.' || quote_ident(attname) FROM pg_depend d
            JOIN pg_attribute a ON attrelid = refobjid AND attnum = refobjsubid
            WHERE d.classid = 1259 AND d.objid = rel.oid AND refclassid = 1259 AND deptype IN ('a','i')))
  FROM rel JOIN pg_sequence s ON s.seqrelid = rel.oid
UNION ALL
SELECT 'function ' || p.name,
       concat_ws(', ', 'owner ' || r.name, CASE WHEN prokind <> 'a' THEN pg_get_functiondef(p.oid) END)
  FROM proc p JOIN role_name r ON r.oid = proowner
UNION ALL
SELECT 'definition of aggregate ' || p.name,
       (to_jsonb(a) - ARRAY['aggfnoid','aggtranstype','aggmtranstype','aggsortop'] || jsonb_build_object('state', aggtranstype::regtype::text,
         'moving state', nullif(aggmtranstype, 0)::regtype::text, 'sort', nullif(aggsortop, 0)::regoperator::text, 'parallel', proparallel))::text
  FROM proc p JOIN pg_aggregate a ON aggfnoid = p.oid
UNION ALL
SELECT 'trigger ' || quote_ident(tgname) || ' on ' || rel.name, pg_get_triggerdef(t.oid) || ', enabled ' || tgenabled::text
  FROM pg_trigger t JOIN rel ON rel.oid = tgrelid WHERE NOT tgisinternal
UNION ALL
SELECT 'rule ' || quote_ident(rulename) || ' on ' || rel.name, pg_get_ruledef(w.oid) || ', enabled ' || ev_enabled::text
  FROM pg_rewrite w JOIN rel ON rel.oid = ev_class WHERE rulename <> '_RETURN'
UNION ALL
SELECT 'policy ' || quote_ident(polname) || ' on ' || rel.name,
       concat_ws(', ', 'for ' || polcmd::text, CASE WHEN polpermissive THEN 'permissive' ELSE 'restrictive' END,
         'to ' || (SELECT string_agg(g.name, ' ' ORDER BY g.name) FROM unnest(polroles) o JOIN role_name g ON g.oid = o),
         'using ' || pg_get_expr(polqual, polrelid), 'check ' || pg_get_expr(polwithcheck, polrelid))
  FROM pg_policy p JOIN rel ON rel.oid = polrelid
UNION ALL
SELECT 'type ' || t.name,
       concat_ws(', ', 'kind ' || t.typtype::text, 'owner ' || r.name,
         'labels ' || (SELECT string_agg(quote_literal(enumlabel), ' ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid),
         'base ' || nullif(format_type(nullif(t.typbasetype, 0), t.typtypmod), '-'), CASE WHEN t.typnotnull THEN 'not null' END,
         'default ' || t.typdefault, CASE WHEN t.typtype = 'd' AND t.typcollation <> 0 THEN 'collation ' || t.typcollation::regcollation END,
         (SELECT concat_ws(', ', 'subtype ' || rngsubtype::regtype, 'collation ' || nullif(rngcollation, 0)::regcollation,
            'operator class ' || (SELECT opcname FROM pg_opclass o WHERE o.oid = rngsubopc), 'canonical ' || rngcanonical,
            'difference ' || rngsubdiff, 'multirange ' || rngmultitypid::regtype) FROM pg_range WHERE rngtypid = t.oid),
         CASE WHEN t.typtype = 'b' THEN concat_ws(' ', t.typlen, t.typinput, t.typoutput, t.typreceive, t.typsend, t.typalign, t.typstorage) END)
  FROM typ t JOIN role_name r ON r.oid = t.typowner WHERE t.typtype <> 'c'
UNION ALL
SELECT 'collation ' || ns.name || '.' || quote_ident(collname),
       concat_ws(', ', 'owner ' || r.name, 'provider ' || collprovider::text, 'deterministic ' || collisdeterministic, 'encoding ' || collencoding,
         collcollate, collctype, coalesce(to_jsonb(c) ->> 'colliculocale', to_jsonb(c) ->> 'colllocale'))
  FROM pg_collation c JOIN ns ON ns.oid = collnamespace JOIN role_name r ON r.oid = collowner
 WHERE (3456, c.oid) NOT IN (SELECT classid, objid FROM member)
UNION ALL
SELECT 'operator ' || o.oid::regoperator,
       concat_ws(', ', 'owner ' || r.name, 'function ' || oprcode, 'returns ' || oprresult::regtype, 'merges ' || oprcanmerge,
         'hashes ' || oprcanhash, 'commutator ' || nullif(oprcom, 0)::regoperator, 'negator ' || nullif(oprnegate, 0)::regoperator,
         'restrict ' || oprrest, 'join ' || oprjoin)
  FROM pg_operator o JOIN ns ON ns.oid = oprnamespace JOIN role_name r ON r.oid = oprowner
 WHERE (2617, o.oid) NOT IN (SELECT classid, objid FROM member)
UNION ALL
SELECT 'operator class ' || ns.name || '.' || quote_ident(opcname) || ' using ' || amname,
       concat_ws(', ', 'owner ' || r.name, 'for ' || opcintype::regtype, 'default ' || opcdefault, 'key ' || nullif(opckeytype, 0)::regtype,
         'family ' || (SELECT opfname FROM pg_opfamily f WHERE f.oid = opcfamily))
  FROM pg_opclass c JOIN ns ON ns.oid = opcnamespace JOIN pg_am a ON a.oid = opcmethod JOIN role_name r ON r.oid = opcowner
 WHERE (2616, c.oid) NOT IN (SELECT classid, objid FROM member)
UNION ALL
SELECT 'operator family ' || ns.name || '.' || quote_ident(opfname) || ' using ' || amname,
       concat_ws(', ', 'owner ' || r.name,
         (SELECT string_agg(amopstrategy || ' ' || amopopr::regoperator, ', ' ORDER BY amopstrategy, amopopr::regoperator::text) FROM pg_amop WHERE amopfamily = f.oid),
         (SELECT string_agg(amprocnum || ' ' || amproc::regprocedure, ', ' ORDER BY amprocnum, amproc::regprocedure::text) FROM pg_amproc WHERE amprocfamily = f.oid))
  FROM pg_opfamily f JOIN ns ON ns.oid = opfnamespace JOIN pg_am a ON a.oid = opfmethod JOIN role_name r ON r.oid = opfowner
 WHERE (2753, f.oid) NOT IN (SELECT classid, objid FROM member)
UNION ALL
SELECT 'cast ' || castsource::regtype || ' as ' || casttarget::regtype,
       concat_ws(', ', 'function ' || nullif(castfunc, 0)::regprocedure, 'context ' || castcontext::text, 'method ' || castmethod::text)
  FROM pg_cast c WHERE c.oid >= 16384 AND (2605, c.oid) NOT IN (SELECT classid, objid FROM member)
UNION ALL
SELECT 'statistics ' || ns.name || '.' || quote_ident(stxname),
       concat_ws(', ', 'owner ' || r.name, pg_get_statisticsobjdef(s.oid), CASE WHEN coalesce(stxstattarget, -1) <> -1 THEN 'target ' || stxstattarget END)
  FROM pg_statistic_ext s JOIN ns ON ns.oid = stxnamespace JOIN role_name r ON r.oid = stxowner
 WHERE (3381, s.oid) NOT IN (SELECT classid, objid FROM member)
UNION ALL
SELECT 'text search configuration ' || ns.name || '.' || quote_ident(cfgname),
       concat_ws(', ', 'owner ' || r.name, 'parser ' || (SELECT prsname FROM pg_ts_parser p WHERE p.oid = cfgparser),
         (SELECT string_agg(maptokentype || ' ' || mapseqno || ' ' || mapdict::regdictionary, ', ' ORDER BY maptokentype, mapseqno)
            FROM pg_ts_config_map WHERE mapcfg = c.oid))
  FROM pg_ts_config c JOIN ns ON ns.oid = cfgnamespace JOIN role_name r ON r.oid = cfgowner
 WHERE (3602, c.oid) NOT IN (SELECT classid, objid FROM member)
UNION ALL
SELECT 'text search dictionary ' || ns.name || '.' || quote_ident(dictname),
       concat_ws(', ', 'owner ' || r.name, 'template ' || (SELECT tmplname FROM pg_ts_template t WHERE t.oid = dicttemplate), dictinitoption)
  FROM pg_ts_dict d JOIN ns ON ns.oid = dictnamespace JOIN role_name r ON r.oid = dictowner
 WHERE (3600, d.oid) NOT IN (SELECT classid, objid FROM member)
UNION ALL
SELECT 'conversion ' || ns.name || '.' || quote_ident(conname),
       concat_ws(', ', 'owner ' || r.name, pg_encoding_to_char(conforencoding) || ' to ' || pg_encoding_to_char(contoencoding), conproc, 'default ' || condefault)
  FROM pg_conversion c JOIN ns ON ns.oid = connamespace JOIN role_name r ON r.oid = conowner
 WHERE (2607, c.oid) NOT IN (SELECT classid, objid FROM member)
UNION ALL
SELECT 'publication ' || quote_ident(pubname),
       concat_ws(', ', 'owner ' || r.name, 'all ' || puballtables, puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot,
         (SELECT string_agg(prrelid::regclass::text || coalesce(' columns ' || prattrs::text, '') || coalesce(' where ' || pg_get_expr(prqual, prrelid), ''), ', ' ORDER BY prrelid::regclass::text) FROM pg_publication_rel WHERE prpubid = p.oid),
         (SELECT string_agg('schema ' || pnnspid::regnamespace, ', ' ORDER BY pnnspid::regnamespace::text) FROM pg_publication_namespace WHERE pnpubid = p.oid))
  FROM pg_publication p JOIN role_name r ON r.oid = pubowner
UNION ALL
SELECT 'extension ' || quote_ident(extname), concat_ws(', ', 'version ' || extversion, 'schema ' || extnamespace::regnamespace, 'owner ' || r.name)
  FROM pg_extension e JOIN role_name r ON r.oid = extowner WHERE extname <> 'plpgsql'
UNION ALL
SELECT 'event trigger ' || quote_ident(evtname), concat_ws(', ', 'on ' || evtevent, 'calls ' || evtfoid::regproc, 'enabled ' || evtenabled::text, array_to_string(evttags, ' '))
  FROM pg_event_trigger t WHERE (3466, t.oid) NOT IN (SELECT classid, objid FROM member)
UNION ALL
SELECT 'foreign-data wrapper ' || quote_ident(fdwname), concat_ws(', ', 'owner ' || r.name, 'handler ' || nullif(fdwhandler, 0)::regproc, fdwoptions::text)
  FROM pg_foreign_data_wrapper f JOIN role_name r ON r.oid = fdwowner WHERE (2328, f.oid) NOT IN (SELECT classid, objid FROM member)
UNION ALL
SELECT 'server ' || quote_ident(srvname), concat_ws(', ', 'owner ' || r.name, 'wrapper ' || (SELECT fdwname FROM pg_foreign_data_wrapper f WHERE f.oid = srvfdw), srvtype, srvversion, srvoptions::text)
  FROM pg_foreign_server s JOIN role_name r ON r.oid = srvowner WHERE (1417, s.oid) NOT IN (SELECT classid, objid FROM member)
UNION ALL
SELECT 'comment on ' || i.type || ' ' || i.identity, d.description
  FROM pg_description d CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i
 WHERE (d.objoid >= 16384 OR d.classoid = 2615 AND d.objoid = 2200) AND (d.classoid, d.objoid) NOT IN (SELECT classid, objid FROM member)
   AND d.classoid <> 3079 AND i.identity IS NOT NULL
UNION ALL
SELECT 'security label on ' || objtype || ' ' || objname, provider || ' ' || label FROM pg_seclabels WHERE objtype NOT IN ('role', 'database', 'tablespace')
UNION ALL
SELECT 'privileges on ' || object, has FROM acl_text WHERE has IS DISTINCT FROM usual
UNION ALL
SELECT object, coalesce(has, 'none')
  FROM (SELECT 'default privileges of ' || o.name || coalesce(' in schema ' || n.name, '') || ' on ' || defaclobjtype::text AS object,
               (SELECT string_agg(g.name || '=' || e.privilege_type || CASE WHEN e.is_grantable THEN '*' ELSE '' END, ', '
                          ORDER BY g.name || '=' || e.privilege_type || CASE WHEN e.is_grantable THEN '*' ELSE '' END)
                  FROM aclexplode(defaclacl) e JOIN role_name g ON g.oid = e.grantee) AS has,
               (SELECT string_agg(g.name || '=' || e.privilege_type, ', ' ORDER BY g.name || '=' || e.privilege_type)
                  FROM aclexplode(acldefault(CASE defaclobjtype WHEN 'S' THEN 's' ELSE defaclobjtype END, defaclrole)) e
                  JOIN role_name g ON g.oid = e.grantee WHERE defaclnamespace = 0) AS usual
          FROM pg_default_acl d JOIN role_name o ON o.oid = defaclrole LEFT JOIN ns n ON n.oid = defaclnamespace) AS default_acl
 WHERE has IS DISTINCT FROM usual
UNION ALL
SELECT 'setting ' || setting.name, setting.value FROM (
:session_settings
) setting WHERE carried
