"""asyncpg: everything binary, every query prepared, types looked up in the catalog."""

import asyncio
import io
import json

import asyncpg

import checks
from checks import expect


def connect(sslmode="prefer", **settings):
    return asyncpg.connect(checks.url(sslmode=sslmode), **settings)


async def tls():
    session = await connect("require")
    assert session._transport.get_extra_info("ssl_object")
    expect(await session.fetchval("SELECT 1"), 1)
    await session.close()


async def plain():
    session = await connect("disable")
    assert not session._transport.get_extra_info("ssl_object")
    expect(await session.fetchval("SELECT 1"), 1)
    await session.close()


async def parameters():
    session = await connect()
    await session.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    row = (1, checks.TEXT, checks.PRICE, checks.DATA, checks.MADE, checks.DOCUMENT)
    await session.execute("DELETE FROM items")
    await session.execute("INSERT INTO items (id, name, price, data, made, doc) VALUES ($1, $2, $3, $4, $5, $6)", *row)
    found = await session.fetchrow("SELECT id, name, price, data, made, doc FROM items WHERE id = $1", 1)
    expect(tuple(found), row)
    # A type of the tenant's own is looked up in the catalog by its oid.
    expect(await session.fetchval("SELECT $1::mood", "happy"), "happy")
    await session.close()


async def transaction():
    session = await connect()
    await session.execute("DELETE FROM items")
    async with session.transaction():
        await session.execute("INSERT INTO items (id) VALUES (1)")
    try:
        async with session.transaction(isolation="serializable"):
            await session.execute("DELETE FROM items")
            raise ValueError
    except ValueError:
        pass
    expect(await session.fetchval("SELECT array_agg(id) FROM items"), [1])
    await session.close()


async def copy():
    session = await connect("require")
    await session.execute("DELETE FROM items")
    records = [(n, f"name {n}") for n in range(50_000)]
    await session.copy_records_to_table("items", columns=["id", "name"], records=records)
    out = io.BytesIO()
    said = await session.copy_from_table("items", columns=["id", "name"], output=out, format="csv")
    expect((said, out.getvalue().count(b"\n")), ("COPY 50000", 50_000))
    out.seek(0)
    await session.execute("DELETE FROM items")
    expect(await session.copy_to_table("items", columns=["id", "name"], source=out, format="csv"), "COPY 50000")
    await session.close()


async def cancel():
    for mode in ["disable", "require"]:
        session, other = await connect(mode), await connect()
        running = asyncio.create_task(session.execute(checks.SLEEP))
        async with asyncio.timeout(30):
            while await other.fetchval(checks.SLEEPERS) != 1:
                await asyncio.sleep(0.02)
        running.cancel()
        try:
            await running
            raise AssertionError("not cancelled")
        except asyncio.CancelledError:
            pass
        # The driver waits with the next query until the cancel request is done.
        expect(await session.fetchval("SELECT 1"), 1)
        expect(await other.fetchval(checks.SLEEPERS), 0)
        try:
            await session.execute(checks.SLEEP, timeout=0.2)
            raise AssertionError("no timeout")
        except TimeoutError:
            pass
        expect(await session.fetchval("SELECT 2"), 2)
        await session.close()
        await other.close()


async def refused():
    for mode in ["disable", "require"]:
        for change, kind in [
            ({"password": "wrong"}, asyncpg.InvalidPasswordError),
            ({"database": checks.UNKNOWN_DATABASE}, asyncpg.InvalidCatalogNameError),
        ]:
            try:
                await asyncpg.connect(checks.url(sslmode=mode, **change))
                raise AssertionError(f"{change} should be refused")
            except kind as refusal:
                assert refusal.sqlstate in ("28P01", "3D000"), refusal.sqlstate


async def prepared():
    session = await connect()
    statement = await session.prepare("SELECT $1::int + 1")
    for n in range(1000):
        expect(await statement.fetchval(n), n + 1)
    # A schema that changes under a cached plan: the driver prepares again by itself.
    await session.execute("CREATE TEMP TABLE changing (a int)")
    expect(len(await session.fetch("SELECT * FROM changing")), 0)
    await session.execute("ALTER TABLE changing ADD COLUMN b int; INSERT INTO changing VALUES (1, 2)")
    expect([tuple(row) for row in await session.fetch("SELECT * FROM changing")], [(1, 2)])
    await session.close()


async def pipeline():
    session = await connect()
    await session.execute("DELETE FROM items")
    await session.executemany("INSERT INTO items (id) VALUES ($1)", [(n,) for n in range(20_000)])
    expect(await session.fetchval("SELECT count(*) FROM items"), 20_000)
    try:
        await session.executemany("INSERT INTO items (id) VALUES ($1)", [(n,) for n in range(20_100, 19_000, -1)])
        raise AssertionError("a duplicate was taken")
    except asyncpg.UniqueViolationError:
        pass
    expect(await session.fetchval("SELECT count(*) FROM items"), 20_000)
    await session.close()


async def notify():
    listener, speaker = await connect(), await connect("require")
    heard = asyncio.Queue()
    await listener.add_listener("channel", lambda *event: heard.put_nowait(event[2:]))
    await speaker.execute("NOTIFY channel, 'hello'")
    expect(await asyncio.wait_for(heard.get(), 30), ("channel", "hello"))
    await listener.remove_listener("channel", lambda: None)
    await listener.close()
    await speaker.close()


async def large():
    session = await connect("require")
    rows = await session.fetch(checks.LARGE)
    expect(sum(len(row[1]) for row in rows), checks.LARGE_BYTES)
    size = 0
    async with session.transaction():
        async for row in session.cursor(checks.LARGE):
            size += len(row[1])
    expect(size, checks.LARGE_BYTES)
    await session.close()


async def concurrent():
    async with asyncpg.create_pool(checks.URL, min_size=checks.CONNECTIONS, max_size=checks.CONNECTIONS) as pool:
        answers = [pool.fetchrow("SELECT pg_backend_pid(), pg_sleep(0.1)") for _ in range(checks.CONNECTIONS)]
        expect(len({row[0] for row in await asyncio.gather(*answers)}), checks.CONNECTIONS)
        # Each release resets the session: UNLISTEN, RESET ALL, advisory locks.
        async with pool.acquire() as session:
            await session.execute("SET work_mem = '3MB'; SELECT pg_advisory_lock(1)")
        expect({await pool.fetchval("SHOW work_mem") for _ in range(checks.CONNECTIONS)}, {"4MB"})


async def unicode():
    session = await connect()
    expect(await session.fetchval("SELECT $1::text", checks.UNICODE), checks.UNICODE)
    await session.close()


async def nulls():
    session = await connect()
    expect(tuple(await session.fetchrow("SELECT $1::int, $2::text, ''", None, None)), (None, None, ""))
    await session.close()


async def arrays():
    session = await connect()
    row = ([1, None, 3], ["a", 'b"c', "{,}", "", None], [[1, 2], [3, 4]])
    expect(tuple(await session.fetchrow("SELECT $1::int[], $2::text[], $3::int[][]", *row)), row)
    expect(await session.fetchval("SELECT ARRAY['sad', 'happy']::mood[]"), ["sad", "happy"])
    await session.close()


async def timezones():
    session = await connect(server_settings={"timezone": "Asia/Kathmandu", "application_name": "kathmandu"})
    expect(await session.fetchval("SELECT $1::timestamptz", checks.MADE), checks.MADE)
    expect(await session.fetchval("SELECT $1::timestamptz::text", checks.MADE), "2026-03-29 15:30:00.123456+05:45")
    expect(session.get_settings().TimeZone, "Asia/Kathmandu")
    await session.close()


if __name__ == "__main__":
    checks.report(asyncpg.__version__, globals())
