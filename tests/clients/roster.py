"""Which clients there are, what each needs and how it is started."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
# Of the Debian package libpostgresql-jdbc-java.
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


class Installation:
    """What the clients need, under one directory; each kind is installed when its first client is run."""

    def __init__(self, into: Path):
        self.into = into
        self.outcomes: dict[str, Missing | None] = {}

    def of(self, kind: str):
        """Installs what the kind needs; raises `Missing`."""
        if kind not in self.outcomes:
            try:
                getattr(self, f"_{kind}")()
                self.outcomes[kind] = None
            except Missing as missing:
                self.outcomes[kind] = missing
        if missing := self.outcomes[kind]:
            raise missing

    def clients(self) -> list[Client]:
        python = str(self.into / "venv/bin/python")
        node = str(self.into / "node")

        def in_python(name, file, **more):
            return Client(name, "python", (python, str(HERE / "python" / file)), **more)

        def in_node(name, file, **more):
            # Modules are looked up beside the program, so it runs as a copy beside them.
            return Client(name, "node", ("node", f"{node}/{file}"), **more)

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
            in_node("knex", "knex_client.js", migrates=True),
            Client("jdbc", "java", ("java", "-cp", str(JDBC_JAR), str(HERE / "java/JdbcClient.java"))),
        ]

    def _python(self):
        wanted = HERE / "python/requirements.txt"
        venv = self.into / "venv"
        done = venv / "requirements.txt"
        if done.exists() and done.read_bytes() == wanted.read_bytes():
            return
        _run("python3", "-m", "venv", "--clear", venv)
        _run(venv / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", wanted)
        shutil.copy(wanted, done)

    def _node(self):
        _need("node", "npm")
        into = self.into / "node"
        into.mkdir(parents=True, exist_ok=True)
        lock = into / "package-lock.json"
        same = lock.exists() and lock.read_bytes() == (HERE / "node/package-lock.json").read_bytes()
        shutil.copytree(HERE / "node", into, dirs_exist_ok=True)
        if not same or not (into / "node_modules/.package-lock.json").exists():
            _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=into)

    def _java(self):
        _need("java", "javac")
        if not JDBC_JAR.exists():
            raise Missing(f"no {JDBC_JAR}: apt-get install libpostgresql-jdbc-java")


def _need(*programs: str):
    for program in programs:
        if not shutil.which(program):
            raise Missing(f"no {program} on this machine")


def _run(*command: str | Path, cwd: Path | None = None):
    ran = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ran.returncode != 0:
        last = (ran.stderr.strip() or ran.stdout.strip()).splitlines()[-5:]
        raise Missing(f"{Path(command[0]).name} {command[1]} failed: {' '.join(last)}")
