"""pgcli on its standard input: its completion reads the catalog, its queries come back as tables."""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import checks

NOT_ITS_BUSINESS = "an interactive program; its driver is psycopg 3"


def pgcli(script, url=checks.URL):
    # A separate home directory: it writes a configuration and a history.
    with tempfile.TemporaryDirectory() as home:
        config = Path(home, "config")
        config.write_text("[main]\ntable_format = csv\nless_chatty = True\nenable_pager = False\nkeyring = False\n")
        command = [str(Path(sys.executable).with_name("pgcli")), "--pgclirc", str(config), "--no-password", url]
        environment = os.environ | {"HOME": home, "XDG_CONFIG_HOME": home, "TERM": "dumb"}
        ran = subprocess.run(command, input=script, env=environment, capture_output=True, text=True, timeout=60)
        return ran.stdout + ran.stderr


def said(script, *texts, url=checks.URL):
    out = pgcli(script, url)
    assert all(text in out for text in texts), out


def tls():
    said("SELECT 'answer ' || 42;\n", "answer 42", url=checks.url(sslmode="require"))


def plain():
    said("SELECT 'answer ' || 42;\n", "answer 42", url=checks.url(sslmode="disable"))


def transaction():
    said("BEGIN;\nDELETE FROM items;\nINSERT INTO items (id) VALUES (7);\nCOMMIT;\nDELETE FROM items;\n", "INSERT 0 1")
    said("INSERT INTO items (id) VALUES (7);\nBEGIN;\nDELETE FROM items;\nROLLBACK;\nSELECT 'left ' || id FROM items;\n", "left 7")


def refused():
    said("SELECT 1;\n", "password authentication failed", url=checks.url(password="wrong"))
    said("SELECT 1;\n", checks.UNKNOWN_DATABASE, url=checks.url(database=checks.UNKNOWN_DATABASE))


def unicode():
    said(f"SELECT '{checks.UNICODE}';\n", checks.UNICODE)


def nulls():
    said("SELECT NULL AS a, 'there' AS b;\n", "<null>", "there")


def arrays():
    said("SELECT ARRAY[1, NULL, 3];\n\\d items\n", "[1, None, 3]", "numeric(12,3)")


if __name__ == "__main__":
    mine = ["tls", "plain", "transaction", "refused", "unicode", "nulls", "arrays"]
    checks.report(
        importlib.metadata.version("pgcli"),
        globals(),
        {check: NOT_ITS_BUSINESS for check in checks.CHECKS if check not in mine},
    )
