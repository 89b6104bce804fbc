"""One `tenantsdb dev` on a throw-away directory and free ports, and what the runner asks of it through `tdb`."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

START_TIME_MAX = 120


class Instance:
    """Ends with the `with` block that entered it, and PostgreSQL with it."""

    def __init__(self, binaries: Path):
        self.binaries = binaries
        self.home = Path(tempfile.mkdtemp(prefix="tdb-clients."))
        # PostgreSQL runs as another user when root runs this.
        self.home.chmod(0o755)
        self.environment = clean_environment()
        for name in ["XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"]:
            self.environment[name] = str(self.home / "home")
        self.process = None
        self.facts = {}

    def __enter__(self):
        arguments = ["dev", "--json", "--data-dir", self.home / "data"]
        for port in ["--postgres-port", "--api-port", "--metrics-port", "--upstream-port"]:
            arguments += [port, "0"]
        ready = self.home / "ready"
        with open(ready, "wb") as out, open(self.home / "log", "wb") as log:
            self.process = subprocess.Popen(
                [self.binaries / "tenantsdb", *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                # Ctrl-C reaches the runner, which ends it in order.
                start_new_session=True,
            )
        try:
            self._wait_for(ready)
        except BaseException:
            self.__exit__()
            raise
        self.facts = json.loads((self.home / "data" / "dev.json").read_text())
        self.environment |= {"TDB_API_URL": self.facts["api_url"], "TDB_API_KEY": self.facts["api_key"]}
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def _wait_for(self, ready: Path):
        deadline = time.monotonic() + START_TIME_MAX
        while not ready.read_bytes().endswith(b"\n"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"tenantsdb dev did not get ready:\n{self.log()}")
            time.sleep(0.1)

    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    def tdb(self, *arguments: str) -> dict:
        """The answer of `tdb --json ARGUMENTS`."""
        command = [self.binaries / "tdb", "--json", *arguments]
        ran = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if ran.returncode != 0:
            raise RuntimeError(f"tdb {' '.join(arguments)}: {ran.stderr.strip()}")
        return json.loads(ran.stdout)

    def get(self, path: str) -> dict:
        """The answer of the admin API."""
        request = urllib.request.Request(
            self.facts["api_url"] + path, headers={"Authorization": f"Bearer {self.facts['api_key']}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def workspace(self, name: str) -> str:
        """A new one's connection string."""
        return self.tdb("workspaces", "create", "--name", name, "--database", "PostgreSQL")["connection_string"]

    def tenant(self, name: str, blueprint: str) -> str:
        """The connection string of a new tenant of the blueprint's newest version."""
        answer = self.tdb("tenants", "create", "--name", name, "--blueprint", blueprint)
        return answer["databases"][0]["connection"]["connection_string"]

    def past_the_proxy(self, name: str, schema: str) -> str:
        """A database of the private PostgreSQL itself, for telling a client's fault from the proxy's."""
        server = self.facts["server_url"]
        self._encrypt(server)
        self.psql(server, f"CREATE ROLE {name} LOGIN PASSWORD 'direct'; CREATE DATABASE {name} OWNER {name}".split("; "))
        address = server.split("@")[1].split("/")[0]
        url = f"postgresql://{name}:direct@{address}/{name}"
        self.psql(url, [schema])
        return url

    def _encrypt(self, server: str):
        """Lets the private PostgreSQL speak TLS as the proxy does."""
        (cluster,) = (pid.parent for pid in (self.home / "data").glob("*/postmaster.pid"))
        for source, target in [("proxy.crt", "server.crt"), ("proxy.key", "server.key")]:
            shutil.copy(next((self.home / "data").glob(f"**/{source}")), cluster / target)
            os.chown(cluster / target, cluster.stat().st_uid, cluster.stat().st_gid)
            (cluster / target).chmod(0o600)
        self.psql(server, ["ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"])

    def psql(self, url: str, statements: list[str]):
        command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url]
        for statement in statements:
            command += ["-c", statement]
        subprocess.run(command, env=self.environment, check=True, stdout=subprocess.DEVNULL)


def clean_environment() -> dict[str, str]:
    """The caller's, without what would lead a driver elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "TDB_", "DATABASE_URL"))}
