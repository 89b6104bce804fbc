"""What the Python clients share: where to connect, values to send, and the report the runner reads."""

import asyncio
import datetime
import decimal
import inspect
import os
import sys
import time
import traceback
import urllib.parse

CHECKS = [
    "tls", "plain", "parameters", "transaction", "copy", "cancel", "refused", "prepared", "pipeline",
    "notify", "large", "concurrent", "unicode", "nulls", "arrays", "timezones",
]  # fmt: skip

URL = os.environ["CLIENT_URL"]
_parts = urllib.parse.urlsplit(URL)
HOST, PORT = _parts.hostname, _parts.port
USER, PASSWORD, DATABASE = _parts.username, _parts.password, _parts.path.removeprefix("/")
# The client's own tenant of a blueprint that is none; another tenant's name would be 42501, whether it exists or not.
UNKNOWN_DATABASE = f"nothing__{DATABASE.rpartition('__')[2]}"

TEXT = """it's "quoted" \\ 100% $1 :x ?"""
PRICE = decimal.Decimal("123456789.125")
DATA = bytes(range(256))
DOCUMENT = {"a": [1, None, {"b": "\u20ac"}]}
# 15:30 in Kathmandu, which is at +05:45.
MADE = datetime.datetime(2026, 3, 29, 9, 45, 0, 123456, tzinfo=datetime.timezone.utc)
UNICODE = "Gr\u00fc\u00dfe \u4e16\u754c \U0001f418 e\u0301 \u202eabc"

ROWS = 50_000
LARGE = f"SELECT n, repeat(md5(n::text), 32) FROM generate_series(1, {ROWS}) n"
LARGE_BYTES = ROWS * 1024
SLEEP = "SELECT pg_sleep(120)"
# Only this client's sessions are in its database.
SLEEPERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query = 'SELECT pg_sleep(120)'"
CONNECTIONS = 20


def url(database=DATABASE, password=PASSWORD, scheme="postgresql", **parameters):
    query = f"?{urllib.parse.urlencode(parameters, quote_via=urllib.parse.quote)}" if parameters else ""
    return f"{scheme}://{USER}:{password}@{HOST}:{PORT}/{database}{query}"


def wait_for(answer, limit=30):
    """Until `answer()` is true."""
    deadline = time.monotonic() + limit
    while not answer():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def refuses(connect, kind, *said):
    """That `connect()` raises `kind` with each of the texts."""
    try:
        connect()
    except kind as refusal:
        text = f"{refusal} {getattr(refusal, 'sqlstate', '') or ''}"
        assert all(part in text for part in said), text
    else:
        raise AssertionError(f"not refused: {said}")


def expect(found, wanted):
    assert found == wanted, f"{found!r} instead of {wanted!r}"


def report(version, module, skipped=None):
    """Runs the function of each check's name; `skipped` says why a check has none."""
    print("version", version, sep="\t", flush=True)
    for check in CHECKS:
        print(check, *_outcome(check, module, skipped or {}), sep="\t", flush=True)


def _outcome(check, module, skipped):
    if check in skipped:
        return "skipped", skipped[check]
    try:
        done = module[check]()
        if inspect.isawaitable(done):
            asyncio.run(done)
    except Exception as fault:
        traceback.print_exc(file=sys.stderr)
        return "FAILED", " ".join(f"{type(fault).__name__}: {fault}".split())
    return ("ok",)
