"""psycopg 3 through the proxy. Arguments: the tenant's connection string, the superuser's past the proxy."""

import sys
import threading
import time

import psycopg
from psycopg import conninfo, errors

TENANT, SERVER = sys.argv[1:3]


def connect(url=TENANT, **settings):
    return psycopg.connect(url, **settings)


def tls():
    for mode, encrypted in [("disable", False), ("prefer", True), ("require", True)]:
        with connect(sslmode=mode) as session:
            assert session.pgconn.ssl_in_use == encrypted, mode
            assert session.execute("SELECT 1").fetchone() == (1,)


def parameters():
    with connect() as session:
        row = session.execute("SELECT %s::int, %s::text, %s::jsonb", (41, "it's \u20ac", '{"a": [1]}')).fetchone()
        assert row == (41, "it's \u20ac", {"a": [1]}), row
        for _ in range(10):  # becomes a prepared statement on the way
            assert session.execute("SELECT %s::int + 1", (1,), prepare=True).fetchone() == (2,)
        with session.pipeline():
            cursors = [session.execute("SELECT %s::int", (n,)) for n in range(100)]
        assert [cursor.fetchone()[0] for cursor in cursors] == list(range(100))
        with session.cursor(name="by_parts") as cursor:
            cursor.execute("SELECT generate_series(1, 1000)")
            assert len(cursor.fetchmany(10)) == 10


def transactions():
    with connect() as session:
        with session.transaction():
            session.execute("INSERT INTO python_items (id) VALUES (1)")
            try:
                with session.transaction():
                    session.execute("INSERT INTO python_items (id) VALUES (2)")
                    raise ValueError
            except ValueError:
                pass
        session.commit()
        assert session.execute("SELECT array_agg(id) FROM python_items").fetchone() == ([1],)
        session.rollback()


def copy():
    with connect() as session:
        session.execute("CREATE TEMP TABLE copied (id int, name text)")
        with session.cursor().copy("COPY copied FROM STDIN") as copying:
            for n in range(50_000):
                copying.write_row((n, "name"))
        assert session.execute("SELECT count(*) FROM copied").fetchone() == (50_000,)
        with session.cursor().copy("COPY copied TO STDOUT (FORMAT binary)") as copying:
            assert sum(len(part) for part in copying) > 50_000


def cancel():
    for mode in ["disable", "require"]:
        with connect(sslmode=mode, application_name="python-cancel", autocommit=True) as session:
            def stop():
                with psycopg.connect(SERVER, autocommit=True) as server:
                    look = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'python-cancel' AND query LIKE '%pg_sleep%' AND state = 'active'"
                    deadline = time.monotonic() + 30
                    while server.execute(look).fetchone() is None:
                        assert time.monotonic() < deadline
                        time.sleep(0.02)
                session.cancel_safe()
            stopper = threading.Thread(target=stop)
            stopper.start()
            try:
                session.execute("SELECT pg_sleep(120)")
                raise AssertionError("not cancelled")
            except errors.QueryCanceled:
                pass
            stopper.join()
            assert session.execute("SELECT 1").fetchone() == (1,)


def refusals():
    # libpq gives no SQLSTATE for a failed login, only the text.
    for mode in ["disable", "require"]:
        for change, said in [
            ({"password": "wrong"}, "password authentication failed"),
            ({"user": "nobody_at_all"}, "password authentication failed"),
            ({"dbname": "nothing__driven"}, "nothing__driven"),
        ]:
            try:
                connect(conninfo.make_conninfo(TENANT, sslmode=mode, **change))
                raise AssertionError(f"{change} should be refused")
            except psycopg.OperationalError as refusal:
                assert said in str(refusal), refusal


for part in [tls, parameters, transactions, copy, cancel, refusals]:
    part()
    print(part.__name__, "passed")
print("all passed")
