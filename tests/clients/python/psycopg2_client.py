"""psycopg 2."""

import io
import select
import threading

import psycopg2
from psycopg2 import errors, extras

import checks
from checks import expect


def connect(autocommit=False, **settings):
    session = psycopg2.connect(checks.URL, **settings)
    session.autocommit = autocommit
    return session


def query(session, text, parameters=None):
    with session.cursor() as cursor:
        cursor.execute(text, parameters)
        return cursor.fetchall() if cursor.description else None


def tls():
    session = connect(sslmode="require")
    assert session.info.ssl_in_use
    expect(query(session, "SELECT 1"), [(1,)])


def plain():
    session = connect(sslmode="disable")
    assert not session.info.ssl_in_use
    expect(query(session, "SELECT 1"), [(1,)])


def parameters():
    row = (1, checks.TEXT, checks.PRICE, checks.DATA, checks.MADE)
    session = connect()
    query(session, "DELETE FROM items")
    insert = "INSERT INTO items (id, name, price, data, made, doc) VALUES (%s, %s, %s, %s, %s, %s)"
    query(session, insert, (*row, extras.Json(checks.DOCUMENT)))
    ((id, name, price, data, made, document),) = query(session, "SELECT id, name, price, data, made, doc FROM items")
    expect((id, name, price, bytes(data), made, document), (*row, checks.DOCUMENT))


def transaction():
    with connect() as session:
        query(session, "DELETE FROM items")
        query(session, "INSERT INTO items (id) VALUES (1)")
    query(session, "DELETE FROM items")
    session.rollback()
    expect(query(connect(), "SELECT array_agg(id) FROM items"), [([1],)])


def copy():
    session = connect()
    query(session, "DELETE FROM items")
    with session.cursor() as cursor:
        cursor.copy_expert("COPY items (id, name) FROM STDIN", io.StringIO("".join(f"{n}\tname\n" for n in range(50_000))))
        out = io.StringIO()
        cursor.copy_expert("COPY items (id, name) TO STDOUT", out)
    expect(out.getvalue().count("\tname\n"), 50_000)


def cancel():
    for mode in ["disable", "require"]:
        session, other = connect(autocommit=True, sslmode=mode), connect(autocommit=True)

        def stop():
            checks.wait_for(lambda: query(other, checks.SLEEPERS) == [(1,)])
            session.cancel()

        stopper = threading.Thread(target=stop)
        stopper.start()
        checks.refuses(lambda: query(session, checks.SLEEP), errors.QueryCanceled, "user request")
        stopper.join()
        expect(query(session, "SELECT 1"), [(1,)])


def refused():
    # libpq gives no SQLSTATE for a failed login, only the text.
    wrong, unknown = "password authentication failed", checks.UNKNOWN_DATABASE
    checks.refuses(lambda: connect(password="wrong"), psycopg2.OperationalError, wrong)
    checks.refuses(lambda: connect(dbname=unknown), psycopg2.OperationalError, unknown)


def prepared():
    session = connect(autocommit=True)
    query(session, "PREPARE increment (int) AS SELECT $1 + 1")
    for n in range(100):
        expect(query(session, "EXECUTE increment (%s)", (n,)), [(n + 1,)])


def pipeline():
    session = connect()
    query(session, "DELETE FROM items")
    with session.cursor() as cursor:
        extras.execute_batch(cursor, "INSERT INTO items (id) VALUES (%s)", [(n,) for n in range(1000)], page_size=100)
        extras.execute_values(cursor, "INSERT INTO items (id) VALUES %s", [(n,) for n in range(1000, 2000)])
    expect(query(session, "SELECT count(*) FROM items"), [(2000,)])


def notify():
    listener, speaker = connect(autocommit=True), connect(autocommit=True)
    query(listener, "LISTEN channel")
    query(speaker, "NOTIFY channel, 'hello'")
    assert select.select([listener], [], [], 30)[0], "nothing heard"
    listener.poll()
    expect([(heard.channel, heard.payload) for heard in listener.notifies], [("channel", "hello")])


def large():
    rows = query(connect(sslmode="require"), checks.LARGE)
    expect(sum(len(text) for _, text in rows), checks.LARGE_BYTES)
    with connect().cursor(name="by_parts") as cursor:
        cursor.execute(checks.LARGE)
        expect(sum(len(text) for _, text in cursor), checks.LARGE_BYTES)


def concurrent():
    sessions = [connect() for _ in range(checks.CONNECTIONS)]
    expect(len({query(session, "SELECT pg_backend_pid()")[0] for session in sessions}), checks.CONNECTIONS)
    for session in sessions:
        session.close()


def unicode():
    expect(query(connect(), "SELECT %s", (checks.UNICODE,)), [(checks.UNICODE,)])


def nulls():
    expect(query(connect(), "SELECT %s::int, %s::text, ''", (None, None)), [(None, None, "")])


def arrays():
    row = ([1, None, 3], ["a", 'b"c', "{,}", "", None])
    expect(query(connect(), "SELECT %s::int[], %s::text[]", row), [row])


def timezones():
    session = connect(options="-c TimeZone=Asia/Kathmandu")
    ((moment, text),) = query(session, "SELECT %s::timestamptz, %s::timestamptz::text", (checks.MADE, checks.MADE))
    expect((moment, text), (checks.MADE, "2026-03-29 15:30:00.123456+05:45"))


if __name__ == "__main__":
    checks.report(psycopg2.__version__.split()[0], globals())
