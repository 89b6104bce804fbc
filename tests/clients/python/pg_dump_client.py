"""pg_dump and pg_restore: a tenant's database goes out in each format and comes back the same."""

import subprocess
import tempfile
from pathlib import Path

import checks
from checks import expect

FILL = """
    DELETE FROM items;
    INSERT INTO items (id, name, price, data, doc, made, mood, tags, numbers)
    SELECT n, repeat('\u4e16\u754c ' || n, 50), n / 8.0, sha256(n::text::bytea), jsonb_build_object('n', n),
           '2026-03-29 09:45Z', 'happy', ARRAY['a', 'b"c', NULL], ARRAY[n, NULL]
    FROM generate_series(1, 20000) n;
    INSERT INTO items (id) VALUES (0);
    SELECT lo_unlink(oid) FROM pg_largeobject_metadata;
    SELECT lo_from_bytea(0, 'a large object');
"""
DIGEST = "SELECT count(*), md5(string_agg(items::text, '|' ORDER BY id)) FROM items"
NOT_ITS_BUSINESS = "it dumps and restores, nothing else"


def run(program, *arguments, url=checks.URL):
    ran = subprocess.run([program, *arguments, "-d", url], capture_output=True, text=True)
    if ran.returncode != 0:
        raise ChildProcessError(ran.stderr)
    # No object of the control plane's may be in a tenant's way.
    assert not ran.stderr, ran.stderr
    return ran.stdout


def psql(script):
    return run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", script).strip()


def tls():
    assert "CREATE TABLE public.items" in run("pg_dump", "-s", url=checks.url(sslmode="require"))


def plain():
    assert "CREATE TABLE public.items" in run("pg_dump", "-s", url=checks.url(sslmode="disable"))


def copy():
    """Out in plain text, custom and directory format with two jobs, and back over what is there."""
    psql(FILL)
    before = psql(DIGEST)
    with tempfile.TemporaryDirectory() as directory:
        for name, dump, restore in [
            ("plain", ["-Fp", "-c", "--if-exists"], None),
            ("custom", ["-Fc"], ["-1"]),
            ("directory", ["-Fd", "-j2"], ["-j2"]),
        ]:
            path = str(Path(directory, name))
            run("pg_dump", *dump, "-f", path)
            psql("UPDATE items SET name = 'changed'; INSERT INTO items (id) VALUES (-1)")
            if restore is None:
                run("psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-f", path)
            else:
                run("pg_restore", "--clean", "--if-exists", "--exit-on-error", *restore, path)
            expect(psql(DIGEST), before)
            expect(psql("SELECT lo_get(oid) FROM pg_largeobject_metadata"), "\\x61206c61726765206f626a656374")


def refused():
    wrong, unknown = checks.url(password="wrong"), checks.UNKNOWN_DATABASE
    checks.refuses(lambda: run("pg_dump", url=wrong), ChildProcessError, "password authentication failed")
    checks.refuses(lambda: run("pg_dump", url=checks.url(database=unknown)), ChildProcessError, unknown)


def large():
    psql(f"DELETE FROM items; INSERT INTO items (id, name) {checks.LARGE}")
    assert len(run("pg_dump", "-a", "-t", "items")) > checks.LARGE_BYTES


if __name__ == "__main__":
    version = subprocess.run(["pg_dump", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    mine = ["tls", "plain", "copy", "refused", "large"]
    skipped = {check: NOT_ITS_BUSINESS for check in checks.CHECKS if check not in mine}
    for check in ["unicode", "nulls", "arrays"]:
        skipped[check] = "part of the rows of copy"
    checks.report(version, globals(), skipped)
