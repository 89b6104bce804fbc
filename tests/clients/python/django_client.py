"""Django with psycopg 3. Its migrations (auth, sessions, contenttypes) and one of this test create a workspace's schema."""

import sys
import threading

import django
from django.conf import settings

import checks
from checks import expect


def configure():
    account = {"USER": checks.USER, "PASSWORD": checks.PASSWORD, "HOST": checks.HOST, "PORT": checks.PORT}
    base = {"ENGINE": "django.db.backends.postgresql", "NAME": checks.DATABASE, **account}
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", "library"],
        DATABASES={
            "default": base,
            "tls": base | {"OPTIONS": {"sslmode": "require"}},
            "plain": base | {"OPTIONS": {"sslmode": "disable"}},
            "wrong": base | {"PASSWORD": "wrong"},
            "unknown": base | {"NAME": checks.UNKNOWN_DATABASE},
            "prepares": base | {"OPTIONS": {"prepare_threshold": 0, "server_side_binding": True}},
            "elsewhere": base | {"TIME_ZONE": "Asia/Kathmandu"},
        },
        USE_TZ=True,
        SECRET_KEY="of a test",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()


configure()

from django.contrib.auth.models import Permission, User  # noqa: E402
from django.contrib.sessions.backends.db import SessionStore  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, OperationalError, connection, connections, transaction as atomic  # noqa: E402
from library.models import Book, Item  # noqa: E402


def query(text, parameters=None, using="default"):
    with connections[using].cursor() as cursor:
        cursor.execute(text, parameters)
        return cursor.fetchall()


def written(**values):
    Item.objects.all().delete()
    Item.objects.create(id=1, **values)
    item = Item.objects.get(id=1)
    found = {name: getattr(item, name) for name in values}
    expect({name: bytes(it) if isinstance(it, memoryview) else it for name, it in found.items()}, values)


def tls():
    expect(query("SELECT 1", using="tls"), [(1,)])
    assert connections["tls"].connection.pgconn.ssl_in_use


def plain():
    expect(query("SELECT 1", using="plain"), [(1,)])
    assert not connections["plain"].connection.pgconn.ssl_in_use


def parameters():
    row = {"name": checks.TEXT, "price": checks.PRICE, "data": checks.DATA, "made": checks.MADE}
    written(**row, doc=checks.DOCUMENT)
    expect(Item.objects.filter(doc__a__1=None, made__year=2026).count(), 1)


def transaction():
    with atomic.atomic():
        Item.objects.all().delete()
        Item.objects.create(id=1)
        try:
            with atomic.atomic():
                Item.objects.create(id=1)
        except IntegrityError:
            pass
    try:
        with atomic.atomic():
            Item.objects.select_for_update().all().delete()
            raise ValueError
    except (ValueError, TypeError):
        pass
    expect(list(Item.objects.values_list("id", flat=True)), [1])


def refused():
    checks.refuses(connections["wrong"].ensure_connection, OperationalError, "password authentication failed")
    checks.refuses(connections["unknown"].ensure_connection, OperationalError, checks.UNKNOWN_DATABASE)


def prepared():
    for n in range(100):
        expect(query("SELECT %s::int + 1", [n], "prepares"), [(n + 1,)])
    assert query("SELECT count(*) FROM pg_prepared_statements", None, "prepares")[0][0] >= 1


def pipeline():
    Item.objects.all().delete()
    Item.objects.bulk_create([Item(id=n, name=str(n)) for n in range(5000)], batch_size=500)
    Item.objects.bulk_create([Item(id=1, name="again")], update_conflicts=True, unique_fields=["id"], update_fields=["name"])
    expect((Item.objects.count(), Item.objects.get(id=1).name), (5000, "again"))


def large():
    expect(sum(len(text) for _, text in query(checks.LARGE, using="tls")), checks.LARGE_BYTES)
    Item.objects.all().delete()
    query("INSERT INTO items (id, name) " + checks.LARGE + " RETURNING 1")
    expect(sum(len(item.name) for item in Item.objects.iterator(1000)), checks.LARGE_BYTES)


def concurrent():
    pids, meet = set(), threading.Barrier(checks.CONNECTIONS, timeout=30)

    def one():
        pids.add(query("SELECT pg_backend_pid()")[0][0])
        meet.wait()
        connection.close()

    threads = [threading.Thread(target=one) for _ in range(checks.CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(len(pids), checks.CONNECTIONS)


def unicode():
    written(name=checks.UNICODE)
    expect(Item.objects.filter(name__icontains="\U0001f418").count(), 1)


def nulls():
    written(name=None, price=None, data=None, doc=None, made=None, tags=None)


def arrays():
    written(tags=["a", 'b"c', "{,}", "", None], numbers=[1, None, 3])
    expect(Item.objects.filter(tags__contains=["a"]).count(), 1)


def timezones():
    text = "SELECT %s::timestamptz::text, current_setting('TimeZone')"
    expect(query(text, [checks.MADE], "elsewhere"), [("2026-03-29 15:30:00.123456+05:45", "Asia/Kathmandu")])
    expect(query(text, [checks.MADE]), [("2026-03-29 09:45:00.123456+00", "UTC")])


def migrate():
    call_command("migrate", verbosity=0)
    call_command("migrate", check_unapplied=True, verbosity=0)


def use():
    # Data of a migration is left out of a schema; this is how Django itself makes it where it is missing.
    call_command("migrate", verbosity=0, fake=True)
    user = User.objects.create_user("ann", "ann@example.com", "secret")
    user.user_permissions.set(Permission.objects.all())
    expect(User.objects.get(username="ann").check_password("secret"), True)
    session = SessionStore()
    session["cart"] = [1, 2]
    session.save()
    expect(SessionStore(session.session_key)["cart"], [1, 2])
    Book.objects.create(author=user, title="T", tags=["a", "b"], price="1.50")
    expect(list(Book.objects.values_list("author__username", "tags")), [("ann", ["a", "b"])])
    with atomic.atomic():
        checks.refuses(lambda: Book.objects.create(author=user, title="T", price="-1"), IntegrityError, "price_positive")


if __name__ == "__main__":
    if sys.argv[1:]:
        {"migrate": migrate, "use": use}[sys.argv[1]]()
    else:
        below = "a matter of the driver below, see psycopg3"
        checks.report(django.__version__, globals(), {"copy": below, "cancel": below, "notify": below})
