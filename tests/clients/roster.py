"""Which clients there are, what each needs and how it is started."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PRISMA_MIGRATE = "its migrate is a program that npm does not have; Prisma fetches it from its own site"
JDBC_JAR = Path("/usr/share/java/postgresql.jar")


@dataclass(frozen=True)
class Client:
    """`command` runs its checks; with `migrate` and `use` behind it, its migration tool and its use of the result."""

    name: str
    kind: str
    command: tuple[str, ...]
    migrates: bool = False
    # Where a client is no ORM and brings no migration tool.
    migration_skipped: str = "no migration tool"


class Missing(Exception):
    """Why a kind of client cannot be had here."""


class Broken(Exception):
    """It can be had, but our programs for it do not build."""


class Installation:
    """What the clients need, under one directory; each kind is installed when its first client is run."""

    def __init__(self, into: Path):
        self.into = into
        self.outcomes: dict[str, Missing | Broken | None] = {}

    def of(self, kind: str):
        """Installs what the kind needs; raises `Missing` or `Broken`."""
        if kind not in self.outcomes:
            try:
                getattr(self, f"_{kind}")()
                self.outcomes[kind] = None
            except (Missing, Broken) as reason:
                self.outcomes[kind] = reason
        if reason := self.outcomes[kind]:
            raise reason

    def clients(self) -> list[Client]:
        python = str(self.into / "venv/bin/python")
        node = str(self.into / "node")
        rust = self.into / "rust/debug"

        def in_python(name, file, **more):
            return Client(name, "python", (python, str(HERE / "python" / file)), **more)

        def in_node(name, file, **more):
            # Modules are looked up beside the program, so it runs as a copy beside them.
            return Client(name, "node", ("node", f"{node}/{file}"), **more)

        def in_rust(name, **more):
            return Client(name, "rust", (str(rust / name),), **more)

        return [
            in_python("asyncpg", "asyncpg_client.py"),
            in_python("pg8000", "pg8000_client.py"),
            in_python("psycopg2", "psycopg2_client.py"),
            in_python("psycopg3", "psycopg3_sync.py"),
            in_python("psycopg3_async", "psycopg3_async.py"),
            in_python("sqlalchemy", "sqlalchemy_client.py", migrates=True),
            in_python("django", "django_client.py", migrates=True),
            in_node("node_pg", "pg_client.js"),
            in_node("postgres_js", "postgres_client.js"),
            in_node("sequelize", "sequelize_client.js", migrates=True),
            in_node("knex", "knex_client.js", migrates=True),
            in_node("prisma", "prisma_client.js", migration_skipped=PRISMA_MIGRATE),
            in_rust("tokio_postgres"),
            in_rust("sqlx", migrates=True),
            in_rust("diesel", migrates=True),
            Client("jdbc", "java", ("java", "-cp", str(JDBC_JAR), str(HERE / "java/JdbcClient.java"))),
            Client("ruby_pg", "ruby", ("/usr/bin/ruby", str(HERE / "ruby/pg_client.rb"))),
            Client("activerecord", "ruby", ("/usr/bin/ruby", str(HERE / "ruby/activerecord_client.rb")), migrates=True),
            Client("php_pdo", "php", ("/usr/bin/php", str(HERE / "php/pdo_client.php"))),
            Client("perl_dbd_pg", "perl", ("/usr/bin/perl", str(HERE / "perl/dbd_client.pl"))),
            in_python("pgcli", "pgcli_client.py"),
            in_python("psql", "psql_client.py"),
            in_python("pg_dump", "pg_dump_client.py"),
            in_python("pgbench", "pgbench_client.py"),
        ]

    def _python(self):
        wanted = HERE / "python/requirements.txt"
        venv = self.into / "venv"
        done = venv / "requirements.txt"
        if done.exists() and done.read_bytes() == wanted.read_bytes():
            return
        _install("python3", "-m", "venv", "--clear", venv)
        _install(venv / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", wanted)
        shutil.copy(wanted, done)

    def _node(self):
        _need("node", "npm")
        into = self.into / "node"
        into.mkdir(parents=True, exist_ok=True)
        lock = into / "package-lock.json"
        same = lock.exists() and lock.read_bytes() == (HERE / "node/package-lock.json").read_bytes()
        shutil.copytree(HERE / "node", into, dirs_exist_ok=True)
        if not same or not (into / "node_modules/.package-lock.json").exists():
            # No install scripts: Prisma's would fetch programs that its driver adapter does without.
            _install("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=into)
        prisma = into / "node_modules/prisma/build/index.js"
        # Its schema engine would be fetched; generating needs none, any program will do.
        environment = os.environ | {"PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true"}
        _build("node", prisma, "generate", "--schema", into / "schema.prisma", cwd=into, env=environment)

    def _rust(self):
        _need("cargo", "pg_config")
        _install("cargo", "fetch", "--quiet", "--locked", cwd=HERE / "rust")
        _build("cargo", "build", "--quiet", "--locked", "--target-dir", self.into / "rust", cwd=HERE / "rust")

    def _java(self):
        _need("java", "javac")
        if not JDBC_JAR.exists():
            raise Missing(f"no {JDBC_JAR}")

    def _ruby(self):
        _need("ruby")
        _works("ruby", "-e", "require 'pg'; require 'active_record'")

    def _php(self):
        _need("php")
        _works("php", "-r", "exit(in_array('pgsql', PDO::getAvailableDrivers()) ? 0 : 1);")

    def _perl(self):
        _works("perl", "-MDBD::Pg", "-e", "1")


def _need(*programs: str):
    for program in programs:
        if not shutil.which(program):
            raise Missing(f"no {program} on this machine")


def _works(*command: str):
    if subprocess.run([f"/usr/bin/{command[0]}", *command[1:]], capture_output=True).returncode != 0:
        raise Missing(f"{command[0]} does not find its PostgreSQL driver")


def _install(*command: str | Path, **more):
    if fault := _run(command, more):
        raise Missing(fault)


def _build(*command: str | Path, **more):
    if fault := _run(command, more):
        raise Broken(fault)


def _run(command: tuple[str | Path, ...], more: dict) -> str | None:
    """Why it failed, if it did."""
    ran = subprocess.run(command, **more, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    last = (ran.stderr.strip() or ran.stdout.strip()).splitlines()[-5:]
    return f"{Path(command[0]).name} {command[1]} failed: {' '.join(last)}" if ran.returncode else None
