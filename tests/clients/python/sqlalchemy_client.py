"""SQLAlchemy over psycopg 3, and Alembic, whose migrations shape a workspace."""

import sys

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

import checks
from checks import expect

WIRE = "its wire is psycopg 3's, see there"
SKIPPED = dict.fromkeys(
    ["tls", "plain", "copy", "cancel", "refused", "prepared", "pipeline", "notify", "large", "nulls", "timezones"], WIRE
)


def engine(**settings):
    return sa.create_engine(checks.url(scheme="postgresql+psycopg"), **settings)


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.Text, unique=True)
    note: Mapped[str | None] = mapped_column(sa.Text)
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("authors.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(sa.Enum("draft", "out", name="book_state"), server_default="draft")
    labels: Mapped[list] = mapped_column(postgresql.JSONB, server_default="[]")
    author: Mapped[Author] = relationship(back_populates="books")


ITEMS = sa.Table(
    "items",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("price", sa.Numeric(12, 3)),
    sa.Column("data", sa.LargeBinary),
    sa.Column("doc", postgresql.JSONB),
    sa.Column("made", sa.DateTime(timezone=True)),
    sa.Column("tags", sa.ARRAY(sa.Text)),
    sa.Column("numbers", sa.ARRAY(sa.Integer)),
)


def parameters():
    row = {
        "id": 1,
        "name": checks.TEXT,
        "price": checks.PRICE,
        "data": checks.DATA,
        "doc": checks.DOCUMENT,
        "made": checks.MADE,
        "tags": None,
        "numbers": None,
    }
    with engine().begin() as session:
        session.execute(ITEMS.delete())
        session.execute(ITEMS.insert(), row)
        expect(dict(session.execute(ITEMS.select()).one()._mapping), row)


def transaction():
    with engine().begin() as session:
        session.execute(ITEMS.delete())
        session.execute(ITEMS.insert(), [{"id": 1}, {"id": 2}])
        savepoint = session.begin_nested()
        session.execute(ITEMS.delete())
        savepoint.rollback()
    with engine().connect() as session:
        session.execute(ITEMS.delete())
        session.rollback()
        expect(session.scalar(sa.select(sa.func.count()).select_from(ITEMS)), 2)


def concurrent():
    pool = engine(pool_size=checks.CONNECTIONS)
    sessions = [pool.connect() for _ in range(checks.CONNECTIONS)]
    expect(len({session.scalar(sa.text("SELECT pg_backend_pid()")) for session in sessions}), checks.CONNECTIONS)
    for session in sessions:
        session.close()


def unicode():
    with engine().connect() as session:
        expect(session.scalar(sa.select(sa.literal(checks.UNICODE))), checks.UNICODE)


def arrays():
    row = {"id": 3, "tags": ["a", 'b"c', "{,}", "", None], "numbers": [1, None, 3]}
    with engine().begin() as session:
        session.execute(ITEMS.delete())
        session.execute(ITEMS.insert(), row)
        expect(session.execute(sa.select(ITEMS.c.tags, ITEMS.c.numbers)).one(), (row["tags"], row["numbers"]))


def migrate():
    """Two revisions, each in a transaction of its own, as Alembic's transaction_per_migration runs them."""
    for revision in [first, second]:
        with engine().begin() as session:
            revision(Operations(MigrationContext.configure(session)))


def first(op):
    op.create_table(
        "authors", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text, nullable=False, unique=True)
    )
    op.create_table(
        "books",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("author_id", sa.Integer, sa.ForeignKey("authors.id", ondelete="CASCADE"), nullable=False),
        sa.Column("state", sa.Enum("draft", "out", name="book_state"), server_default="draft", nullable=False),
    )


def second(op):
    op.add_column("authors", sa.Column("note", sa.Text))
    op.add_column("books", sa.Column("labels", postgresql.JSONB, server_default="[]", nullable=False))
    op.create_index("books_by_state", "books", ["author_id", "state"])
    op.create_check_constraint("a_name", "authors", "name <> ''")


def use():
    with Session(engine()) as session:
        session.add(Author(name="Ada", books=[Book(labels=["new"])]))
        session.commit()
        book = session.scalars(sa.select(Book).join(Book.author).where(Author.name == "Ada")).one()
        expect((book.state, book.labels, book.author.note), ("draft", ["new"], None))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["migrate"]:
            migrate()
        case ["use"]:
            use()
        case _:
            checks.report(sa.__version__, globals(), SKIPPED)
