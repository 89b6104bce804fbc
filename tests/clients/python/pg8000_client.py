"""pg8000: a driver in pure Python, text format, a Flush or Sync after each message."""

import io
import ssl

import pg8000.dbapi
import pg8000.native

import checks
from checks import expect

ACCOUNT = {"user": checks.USER, "host": checks.HOST, "port": checks.PORT}


def encryption():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connect(**settings):
    return pg8000.native.Connection(**{**ACCOUNT, "password": checks.PASSWORD, "database": checks.DATABASE, **settings})


def tls():
    session = connect(ssl_context=encryption())
    assert isinstance(session._usock, ssl.SSLSocket)
    expect(session.run("SELECT 1"), [[1]])
    # True encrypts if the server will.
    expect(connect(ssl_context=True).run("SELECT 1"), [[1]])


def plain():
    expect(connect(ssl_context=False).run("SELECT 1"), [[1]])


def parameters():
    session = connect()
    session.run("DELETE FROM items")
    insert = "INSERT INTO items (id, name, price, data, made, doc) VALUES (:id, :name, :price, :data, :made, :doc)"
    row = {"id": 1, "name": checks.TEXT, "price": checks.PRICE, "data": checks.DATA, "made": checks.MADE}
    session.run(insert, **row, doc=checks.DOCUMENT)
    found = session.run("SELECT id, name, price, data, made, doc FROM items WHERE id = :id", id=1)
    expect(found, [[*row.values(), checks.DOCUMENT]])


def transaction():
    account = {**ACCOUNT, "password": checks.PASSWORD, "database": checks.DATABASE}
    session = pg8000.dbapi.connect(**account)
    cursor = session.cursor()
    cursor.execute("DELETE FROM items")
    cursor.execute("INSERT INTO items (id) VALUES (%s)", (1,))
    session.commit()
    cursor.execute("DELETE FROM items")
    session.rollback()
    expect(connect().run("SELECT array_agg(id) FROM items"), [[[1]]])


def copy():
    session = connect(ssl_context=encryption())
    session.run("DELETE FROM items")
    rows = io.BytesIO(b"".join(b"%d\tname\n" % n for n in range(50_000)))
    session.run("COPY items (id, name) FROM STDIN", stream=rows)
    out = io.BytesIO()
    session.run("COPY items (id, name) TO STDOUT", stream=out)
    expect(out.getvalue().count(b"\tname\n"), 50_000)


def refused():
    for context in [False, encryption()]:
        for change, code in [({"password": "wrong"}, "28P01"), ({"database": checks.UNKNOWN_DATABASE}, "3D000")]:
            checks.refuses(lambda: connect(ssl_context=context, **change), pg8000.native.DatabaseError, code)


def prepared():
    session = connect()
    statement = session.prepare("SELECT cast(:n AS int) + 1")
    for n in range(200):
        expect(statement.run(n=n), [[n + 1]])
    statement.close()


def notify():
    listener, speaker = connect(), connect()
    listener.run("LISTEN channel")
    speaker.run("NOTIFY channel, 'hello'")
    # It reads notifications on the way to the answer of a query.
    checks.wait_for(lambda: listener.run("SELECT 1") and listener.notifications)
    expect(listener.notifications[0][1:], ("channel", "hello"))


def large():
    rows = connect(ssl_context=encryption()).run(checks.LARGE)
    expect(sum(len(text) for _, text in rows), checks.LARGE_BYTES)


def concurrent():
    sessions = [connect() for _ in range(checks.CONNECTIONS)]
    expect(len({session.run("SELECT pg_backend_pid()")[0][0] for session in sessions}), checks.CONNECTIONS)
    for session in sessions:
        session.close()


def unicode():
    expect(connect().run("SELECT cast(:text AS text)", text=checks.UNICODE), [[checks.UNICODE]])


def nulls():
    expect(connect().run("SELECT cast(:a AS int), cast(:b AS text), ''", a=None, b=None), [[None, None, ""]])


def arrays():
    row = [[1, None, 3], ["a", 'b"c', "{,}", "", None]]
    expect(connect().run("SELECT cast(:a AS int[]), cast(:b AS text[])", a=row[0], b=row[1]), [row])


def timezones():
    session = connect(startup_params={"timezone": "Asia/Kathmandu"})
    ((moment, text),) = session.run("SELECT cast(:m AS timestamptz), cast(:m AS timestamptz)::text", m=checks.MADE)
    expect((moment, text), (checks.MADE, "2026-03-29 15:30:00.123456+05:45"))


if __name__ == "__main__":
    skipped = {"cancel": "the driver has no cancel", "pipeline": "the driver sends one query at a time"}
    checks.report(pg8000.__version__, globals(), skipped)
