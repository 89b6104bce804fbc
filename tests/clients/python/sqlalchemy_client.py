"""SQLAlchemy over psycopg 3, its pool and its reflection; Alembic makes the schema of a workspace."""

import asyncio
import pathlib
import sys
import tempfile

import alembic.command
import alembic.config
import sqlalchemy as sa
from sqlalchemy import exc, orm
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine

import checks
from checks import expect

SCHEME = "postgresql+psycopg"
MOOD = postgresql.ENUM("sad", "ok", "happy", name="mood", create_type=False)


class Base(orm.DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name = sa.Column(sa.Text)
    price = sa.Column(sa.Numeric(12, 3))
    data = sa.Column(sa.LargeBinary)
    doc = sa.Column(postgresql.JSONB)
    made = sa.Column(sa.DateTime(timezone=True))
    mood = sa.Column(MOOD)
    tags = sa.Column(postgresql.ARRAY(sa.Text))
    numbers = sa.Column(postgresql.ARRAY(sa.Integer))


def engine(pool_size=1, connect_args=None, **parameters):
    url = checks.url(scheme=SCHEME, **parameters)
    return sa.create_engine(url, pool_size=pool_size, max_overflow=0, connect_args=connect_args or {})


def scalar(query, /, **values):
    with engine().connect() as session:
        return session.execute(sa.text(query), values).scalar()


def written(**values):
    """Written through the unit of work, and read in a separate session."""
    with orm.Session(engine()) as session:
        session.execute(sa.delete(Item))
        session.add(Item(id=1, **values))
        session.commit()
    with orm.Session(engine()) as session:
        item = session.get_one(Item, 1)
        expect({name: getattr(item, name) for name in values}, values)


def tls():
    with engine(sslmode="require").connect() as session:
        assert session.connection.driver_connection.pgconn.ssl_in_use


def plain():
    with engine(sslmode="disable").connect() as session:
        assert not session.connection.driver_connection.pgconn.ssl_in_use


def parameters():
    row = {"name": checks.TEXT, "price": checks.PRICE, "data": checks.DATA, "made": checks.MADE}
    written(**row, doc=checks.DOCUMENT, mood="happy")
    columns = {column["name"]: column for column in sa.inspect(engine()).get_columns("items")}
    expect(columns["mood"]["type"].enums, ["sad", "ok", "happy"])


def transaction():
    with engine().begin() as session:
        session.execute(sa.delete(Item))
        session.execute(sa.insert(Item).values(id=1))
    with engine().connect() as session:
        with session.begin_nested() as savepoint:
            session.execute(sa.delete(Item))
            savepoint.rollback()
        session.execute(sa.delete(Item))
        session.rollback()
        expect(session.execute(sa.select(Item.id)).scalars().all(), [1])


def refused():
    wrong, unknown = "password authentication failed", checks.UNKNOWN_DATABASE
    checks.refuses(engine(password="wrong").connect, exc.OperationalError, wrong)
    checks.refuses(engine(database=unknown).connect, exc.OperationalError, unknown)


def prepared():
    with engine(connect_args={"prepare_threshold": 0}).connect() as session:
        for n in range(100):
            expect(session.execute(sa.text("SELECT cast(:n AS int) + 1"), {"n": n}).scalar(), n + 1)
        assert session.execute(sa.text("SELECT count(*) FROM pg_prepared_statements")).scalar() >= 1


def pipeline():
    with engine().begin() as session:
        session.execute(sa.delete(Item))
        rows = [{"id": n, "name": str(n)} for n in range(5000)]
        given = session.execute(sa.insert(Item).returning(Item.id, sort_by_parameter_order=True), rows)
        expect(given.scalars().all(), list(range(5000)))


def large():
    with engine(sslmode="require").connect() as session:
        expect(sum(len(row.repeat) for row in session.execute(sa.text(checks.LARGE))), checks.LARGE_BYTES)
        parts = session.execution_options(stream_results=True).execute(sa.text(checks.LARGE))
        expect(sum(len(row.repeat) for row in parts), checks.LARGE_BYTES)


def concurrent():
    sessions = [pool.connect() for pool in [engine(checks.CONNECTIONS)] for _ in range(checks.CONNECTIONS)]
    pids = {session.execute(sa.text("SELECT pg_backend_pid()")).scalar() for session in sessions}
    expect(len(pids), checks.CONNECTIONS)
    for session in sessions:
        session.close()
    asyncio.run(concurrent_with_asyncpg())


async def concurrent_with_asyncpg():
    pool = create_async_engine(checks.url(scheme="postgresql+asyncpg"), pool_size=checks.CONNECTIONS)

    async def one():
        async with pool.connect() as session:
            return (await session.execute(sa.text("SELECT pg_backend_pid(), pg_sleep(1)"))).first()[0]

    pids = await asyncio.gather(*(one() for _ in range(checks.CONNECTIONS)))
    expect(len(set(pids)), checks.CONNECTIONS)
    await pool.dispose()


def unicode():
    written(name=checks.UNICODE)


def nulls():
    written(name=None, price=None, data=None, made=None, mood=None, tags=None)


def arrays():
    written(tags=["a", 'b"c', "{,}", "", None], numbers=[1, None, 3])


def timezones():
    with engine(options="-c TimeZone=Asia/Kathmandu").connect() as session:
        moment, text = session.execute(sa.text("SELECT :m ::timestamptz, cast(:m ::timestamptz AS text)"), {"m": checks.MADE}).one()
        expect((moment, text), (checks.MADE, "2026-03-29 15:30:00.123456+05:45"))


MIGRATION_1 = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "1", None
def upgrade():
    op.create_table("authors",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("email", sa.String(200), nullable=False, unique=True),
        sa.Column("plan", sa.Enum("free", "pro", name="plan"), server_default="free", nullable=False))
"""
MIGRATION_2 = """
import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB
revision, down_revision = "2", "1"
def upgrade():
    op.create_table("books",
        sa.Column("id", sa.Uuid, server_default=sa.text("gen_random_uuid()"), primary_key=True),
        sa.Column("author", sa.BigInteger, sa.ForeignKey("authors.id", ondelete="CASCADE"), index=True),
        sa.Column("facts", JSONB))
    op.add_column("authors", sa.Column("name", sa.Text, server_default="", nullable=False))
    op.create_check_constraint("email_has_at", "authors", "email LIKE '%@%'")
    op.alter_column("authors", "email", type_=sa.Text)
    with op.get_context().autocommit_block():
        op.create_index("books_facts", "books", ["facts"], postgresql_using="gin", postgresql_concurrently=True)
"""
ENVIRONMENT = """
from alembic import context
from sqlalchemy import create_engine
engine = create_engine(context.config.get_main_option("sqlalchemy.url").replace("%%", "%"))
with engine.connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
"""


def migrate():
    with tempfile.TemporaryDirectory() as directory:
        config = alembic.config.Config()
        config.set_main_option("script_location", directory)
        config.set_main_option("path_separator", "os")
        config.set_main_option("sqlalchemy.url", checks.url(scheme=SCHEME))
        for name, text in [("env.py", ENVIRONMENT), ("versions/1.py", MIGRATION_1), ("versions/2.py", MIGRATION_2)]:
            path = pathlib.Path(directory, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        alembic.command.upgrade(config, "head")


def use():
    reflected = sa.MetaData()
    reflected.reflect(engine())
    authors, books = reflected.tables["authors"], reflected.tables["books"]
    with engine().begin() as session:
        (author,) = session.execute(sa.insert(authors).values(email="ann@example.com").returning(authors.c.id)).one()
        session.execute(sa.insert(books).values(author=author, facts={"pages": 3}))
        found = session.execute(sa.select(authors.c.plan, books.c.facts).join(books)).one()
        expect(tuple(found), ("free", {"pages": 3}))
    with engine().connect() as session:
        wrong = sa.insert(authors).values(email="nobody")
        checks.refuses(lambda: session.execute(wrong), exc.IntegrityError, "email_has_at")


if __name__ == "__main__":
    if sys.argv[1:]:
        {"migrate": migrate, "use": use}[sys.argv[1]]()
    else:
        below = "a matter of the driver below, see psycopg3 and asyncpg"
        checks.report(sa.__version__, globals(), {"copy": below, "cancel": below, "notify": below})
