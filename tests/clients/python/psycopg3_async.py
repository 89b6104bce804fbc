"""psycopg 3 on asyncio, with its pipeline mode."""

import asyncio

import psycopg
from psycopg import errors
from psycopg.types.json import Jsonb

import checks
from checks import expect


def connect(**settings):
    return psycopg.AsyncConnection.connect(checks.URL, **settings)


async def one(session, query, parameters=None):
    return await (await session.execute(query, parameters)).fetchone()


async def tls():
    async with await connect(sslmode="require") as session:
        assert session.pgconn.ssl_in_use
        expect(await one(session, "SELECT 1"), (1,))


async def plain():
    async with await connect(sslmode="disable") as session:
        assert not session.pgconn.ssl_in_use
        expect(await one(session, "SELECT 1"), (1,))


async def parameters():
    row = (1, checks.TEXT, checks.PRICE, checks.DATA, checks.MADE)
    async with await connect() as session:
        await session.execute("DELETE FROM items")
        insert = "INSERT INTO items (id, name, price, data, made, doc) VALUES (%s, %s, %s, %s, %s, %s)"
        await session.execute(insert, (*row, Jsonb(checks.DOCUMENT)))
        found = await one(session, "SELECT id, name, price, data, made, doc FROM items WHERE id = %s", (1,))
        expect(found, (*row, checks.DOCUMENT))


async def transaction():
    async with await connect() as session:
        await session.execute("DELETE FROM items")
        async with session.transaction():
            await session.execute("INSERT INTO items (id) VALUES (1)")
        await session.commit()
        await session.execute("DELETE FROM items")
        await session.rollback()
        expect(await one(session, "SELECT array_agg(id) FROM items"), ([1],))


async def copy():
    async with await connect() as session:
        await session.execute("DELETE FROM items")
        async with session.cursor().copy("COPY items (id, name) FROM STDIN") as copying:
            for n in range(10_000):
                await copying.write_row((n, "name"))
        async with session.cursor().copy("COPY items TO STDOUT") as copying:
            size = 0
            async for part in copying:
                size += len(part)
        assert size > 10_000, size
        expect(await one(session, "SELECT count(*) FROM items"), (10_000,))


async def cancel():
    for mode in ["disable", "require"]:
        async with await connect(sslmode=mode, autocommit=True) as session, await connect(autocommit=True) as other:
            running = asyncio.create_task(session.execute(checks.SLEEP))
            async with asyncio.timeout(30):
                while await one(other, checks.SLEEPERS) != (1,):
                    await asyncio.sleep(0.02)
            await session.cancel_safe()
            try:
                await running
                raise AssertionError("not cancelled")
            except errors.QueryCanceled:
                pass
            expect(await one(session, "SELECT 1"), (1,))


async def refused():
    for change, said in [
        ({"password": "wrong"}, "password authentication failed"),
        ({"dbname": checks.UNKNOWN_DATABASE}, checks.UNKNOWN_DATABASE),
    ]:
        try:
            await connect(**change)
            raise AssertionError(f"{change} should be refused")
        except psycopg.OperationalError as refusal:
            assert said in str(refusal), refusal


async def prepared():
    async with await connect(autocommit=True) as session:
        for n in range(100):
            expect(await one(session, "SELECT %s::int + 1", (n,)), (n + 1,))
        expect(await one(session, "SELECT count(*) FROM pg_prepared_statements"), (1,))


async def pipeline():
    async with await connect(autocommit=True) as session:
        async with session.pipeline():
            cursors = [await session.execute("SELECT %s::int", (n,)) for n in range(1000)]
        expect([(await cursor.fetchone())[0] for cursor in cursors], list(range(1000)))


async def notify():
    async with await connect(autocommit=True) as listener, await connect(autocommit=True) as speaker:
        await listener.execute("LISTEN channel")
        await speaker.execute("NOTIFY channel, 'hello'")
        heard = await anext(listener.notifies(timeout=30))
        expect((heard.channel, heard.payload), ("channel", "hello"))


async def large():
    async with await connect(sslmode="require") as session:
        rows = await (await session.execute(checks.LARGE)).fetchall()
        expect(sum(len(text) for _, text in rows), checks.LARGE_BYTES)


async def concurrent():
    sessions = await asyncio.gather(*(connect(autocommit=True) for _ in range(checks.CONNECTIONS)))
    pids = await asyncio.gather(*(one(session, "SELECT pg_backend_pid(), pg_sleep(0.1)") for session in sessions))
    expect(len(set(pids)), checks.CONNECTIONS)
    await asyncio.gather(*(session.close() for session in sessions))


async def unicode():
    async with await connect() as session:
        expect(await one(session, "SELECT %s::text", (checks.UNICODE,)), (checks.UNICODE,))


async def nulls():
    async with await connect() as session:
        expect(await one(session, "SELECT %s::int, %s::text, ''", (None, None)), (None, None, ""))


async def arrays():
    async with await connect() as session:
        row = ([1, None, 3], ["a", 'b"c', "{,}", "", None])
        expect(await one(session, "SELECT %s::int[], %s::text[]", row), row)


async def timezones():
    async with await connect(options="-c TimeZone=Asia/Kathmandu") as session:
        (moment,) = await one(session, "SELECT %s::timestamptz", (checks.MADE,))
        expect((moment, str(moment.tzinfo)), (checks.MADE, "Asia/Kathmandu"))


if __name__ == "__main__":
    checks.report(psycopg.__version__, globals())
