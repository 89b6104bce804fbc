"""psycopg 3, synchronous, with its pipeline mode."""

import threading

import psycopg
from psycopg import errors
from psycopg.types.json import Jsonb

import checks
from checks import expect


def connect(**settings):
    return psycopg.connect(checks.URL, **settings)


def tls():
    with connect(sslmode="require") as session:
        assert session.pgconn.ssl_in_use
        expect(session.execute("SELECT 1").fetchone(), (1,))


def plain():
    with connect(sslmode="disable") as session:
        assert not session.pgconn.ssl_in_use
        expect(session.execute("SELECT 1").fetchone(), (1,))


def parameters():
    row = (1, checks.TEXT, checks.PRICE, checks.DATA, checks.MADE)
    for binary in [False, True]:
        with connect() as session:
            session.execute("DELETE FROM items")
            insert = "INSERT INTO items (id, name, price, data, made, doc) VALUES (%s, %s, %s, %s, %s, %s)"
            session.execute(insert, (*row, Jsonb(checks.DOCUMENT)))
            cursor = session.cursor(binary=binary)
            found = cursor.execute("SELECT id, name, price, data, made, doc FROM items WHERE id = %s", (1,)).fetchone()
            expect(found, (*row, checks.DOCUMENT))


def transaction():
    with connect() as session:
        session.execute("DELETE FROM items")
        with session.transaction():
            session.execute("INSERT INTO items (id) VALUES (1)")
            try:
                with session.transaction():
                    session.execute("INSERT INTO items (id) VALUES (2)")
                    raise ValueError
            except ValueError:
                pass
        session.commit()
        session.execute("DELETE FROM items")
        session.rollback()
    with connect() as session:
        expect(session.execute("SELECT array_agg(id) FROM items").fetchone(), ([1],))


def copy():
    with connect() as session:
        session.execute("DELETE FROM items")
        with session.cursor().copy("COPY items (id, name) FROM STDIN") as copying:
            for n in range(50_000):
                copying.write_row((n, "name"))
        with session.cursor().copy("COPY items TO STDOUT (FORMAT binary)") as copying:
            assert sum(len(part) for part in copying) > 50_000
        expect(session.execute("SELECT count(*) FROM items").fetchone(), (50_000,))


def cancel():
    for mode in ["disable", "require"]:
        with connect(sslmode=mode, autocommit=True) as session, connect(autocommit=True) as other:

            def stop():
                checks.wait_for(lambda: other.execute(checks.SLEEPERS).fetchone() == (1,))
                session.cancel_safe()

            stopper = threading.Thread(target=stop)
            stopper.start()
            checks.refuses(lambda: session.execute(checks.SLEEP), errors.QueryCanceled, "57014")
            stopper.join()
            expect(session.execute("SELECT 1").fetchone(), (1,))


def refused():
    # libpq gives no SQLSTATE for a failed login, only the text.
    for mode in ["disable", "require"]:
        wrong = "password authentication failed"
        checks.refuses(lambda: connect(password="wrong", sslmode=mode), psycopg.OperationalError, wrong)
        unknown = checks.UNKNOWN_DATABASE
        checks.refuses(lambda: connect(dbname=unknown, sslmode=mode), psycopg.OperationalError, unknown)


def prepared():
    with connect(autocommit=True) as session:
        for n in range(100):
            expect(session.execute("SELECT %s::int + 1", (n,), prepare=True).fetchone(), (n + 1,))
        expect(session.execute("SELECT count(*) FROM pg_prepared_statements").fetchone(), (1,))


def pipeline():
    with connect(autocommit=True) as session:
        with session.pipeline():
            cursors = [session.execute("SELECT %s::int", (n,)) for n in range(1000)]
        expect([cursor.fetchone()[0] for cursor in cursors], list(range(1000)))
        try:
            with session.pipeline():
                session.execute("SELECT 1")
                session.execute("SELECT 1/0")
                session.execute("SELECT 2")
            raise AssertionError("the error in the pipeline is lost")
        except errors.DivisionByZero:
            pass
        session.cursor().executemany("INSERT INTO items (id) VALUES (%s)", [(n,) for n in range(100_000, 101_000)])
        expect(session.execute("SELECT count(*) FROM items WHERE id >= 100000").fetchone(), (1000,))


def notify():
    with connect(autocommit=True) as listener, connect(autocommit=True) as speaker:
        listener.execute("LISTEN channel")
        speaker.execute("SELECT pg_notify('channel', 'hello')")
        heard = next(listener.notifies(timeout=30))
        expect((heard.channel, heard.payload), ("channel", "hello"))


def large():
    with connect(sslmode="require") as session:
        rows = session.execute(checks.LARGE).fetchall()
        expect(sum(len(text) for _, text in rows), checks.LARGE_BYTES)
        expect(rows[-1][0], checks.ROWS)
    with connect() as session, session.cursor(name="by_parts") as cursor:
        expect(sum(len(row[1]) for row in cursor.execute(checks.LARGE)), checks.LARGE_BYTES)


def concurrent():
    sessions = [connect(autocommit=True) for _ in range(checks.CONNECTIONS)]
    pids = {session.execute("SELECT pg_backend_pid()").fetchone() for session in sessions}
    expect(len(pids), checks.CONNECTIONS)
    for session in sessions:
        session.close()


def unicode():
    with connect() as session:
        expect(session.execute("SELECT %s::text", (checks.UNICODE,)).fetchone(), (checks.UNICODE,))
        session.execute('CREATE TEMP TABLE "Gr\u00f6\u00dfe" ("\u4e16\u754c" text)')
        cursor = session.execute('SELECT * FROM "Gr\u00f6\u00dfe"')
        expect(cursor.description[0].name, "\u4e16\u754c")


def nulls():
    with connect() as session:
        expect(session.execute("SELECT %s::int, %s::text, NULL::bytea, ''", (None, None)).fetchone(), (None, None, None, ""))


def arrays():
    with connect() as session:
        row = ([1, None, 3], ["a", 'b"c', "{,}", "", None], [[1, 2], [3, 4]])
        expect(session.execute("SELECT %s::int[], %s::text[], %s::int[][]", row).fetchone(), row)


def timezones():
    with connect(options="-c TimeZone=Asia/Kathmandu") as session:
        text, moment = session.execute("SELECT %s::text, %s::timestamptz", ("x", checks.MADE)).fetchone()
        expect(moment, checks.MADE)
        expect(str(moment.tzinfo), "Asia/Kathmandu")
        session.execute("SET TIME ZONE 'America/New_York'")
        expect(session.execute("SELECT %s::timestamptz::text", (checks.MADE,)).fetchone(), ("2026-03-29 05:45:00.123456-04",))
        expect(session.info.parameter_status("TimeZone"), "America/New_York")


if __name__ == "__main__":
    checks.report(psycopg.__version__, globals())
