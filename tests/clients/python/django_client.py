"""Django over psycopg 3: its own migrations (auth, contenttypes, sessions) shape a workspace, its ORM uses the tenant."""

import sys

import django
from django.conf import settings
from django.core.management import call_command

import checks
from checks import expect

WIRE = "its wire is psycopg 3's, see there"
SKIPPED = dict.fromkeys(
    ["tls", "plain", "copy", "cancel", "refused", "prepared", "pipeline", "notify", "large", "concurrent", "nulls", "arrays"],
    WIRE,
)


def configure():
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": checks.HOST,
        "PORT": checks.PORT,
        "USER": checks.USER,
        "PASSWORD": checks.PASSWORD,
        "NAME": checks.DATABASE,
    }
    settings.configure(
        DATABASES={"default": database},
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"],
        USE_TZ=True,
        TIME_ZONE="Asia/Kathmandu",
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    )
    django.setup()


def rows(text, parameters=None):
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(text, parameters)
        return cursor.fetchall() if cursor.description else None


def parameters():
    rows("DELETE FROM items")
    rows("INSERT INTO items (id, name, price, made) VALUES (%s, %s, %s, %s)", (1, checks.TEXT, checks.PRICE, checks.MADE))
    expect(rows("SELECT id, name, price, made FROM items"), [(1, checks.TEXT, checks.PRICE, checks.MADE)])


def transaction():
    from django.db import transaction as tx

    rows("DELETE FROM items")
    with tx.atomic():
        rows("INSERT INTO items (id) VALUES (1)")
        try:
            with tx.atomic():
                rows("DELETE FROM items")
                raise ValueError
        except ValueError:
            pass
    expect(rows("SELECT array_agg(id) FROM items"), [([1],)])


def unicode():
    expect(rows("SELECT %s", (checks.UNICODE,)), [(checks.UNICODE,)])


def timezones():
    expect(rows("SELECT %s::timestamptz", (checks.MADE,)), [(checks.MADE,)])


def use():
    from django.contrib.auth.models import Group, User

    user = User.objects.create_user("ada", "ada@example.com", "secret")
    user.groups.add(Group.objects.create(name="authors"))
    expect(list(User.objects.filter(groups__name="authors").values_list("username", flat=True)), ["ada"])


if __name__ == "__main__":
    configure()
    match sys.argv[1:]:
        case ["migrate"]:
            call_command("migrate", verbosity=0)
        case ["use"]:
            # What migrations wrote into the workspace is data: the tenant begins without it.
            use()
        case _:
            checks.report(django.__version__, globals(), SKIPPED)
