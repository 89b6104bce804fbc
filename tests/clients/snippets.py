"""The programs in docs/connecting.md: each is run as it stands, with DATABASE_URL set."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from instance import clean_environment
from roster import HERE, JDBC_JAR, Client, Installation

PAGE = HERE.parent.parent / "docs/connecting.md"
SCHEMA = "CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL)"
PRINTS = "ann@acme.example"
RUN_TIME_MAX = 600


def snippets() -> dict[str, str]:
    """The page's programs by their client's name."""
    found = re.findall(r"^<!-- client: (\w+) -->\n```\w+\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return dict(found)


def run_snippet(installation: Installation, client: Client, program: str, url: str) -> str | None:
    """Why it failed, if it did."""
    environment = clean_environment() | {"DATABASE_URL": url}
    try:
        ran = subprocess.run(
            _command(installation, client, program),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_TIME_MAX,
            cwd=HERE,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {RUN_TIME_MAX} s"
    if ran.returncode == 0 and PRINTS in ran.stdout:
        return None
    return f"ended with {ran.returncode}: {ran.stdout} {ran.stderr}"


def _command(installation: Installation, client: Client, program: str) -> list[str]:
    into = installation.into / "snippets"
    into.mkdir(parents=True, exist_ok=True)
    match client.kind:
        case "node":
            # Modules are looked up beside the program.
            file = installation.into / "node" / f"snippet_{client.name}.mjs"
            file.write_text(program)
            return ["node", str(file)]
        case "rust":
            return _cargo(installation, client.name, program)
        case "java":
            file = into / "Users.java"
            file.write_text(program)
            return ["java", "-cp", str(JDBC_JAR), str(file)]
        case kind:
            file = into / client.name
            file.write_text(program)
            return [client.command[0], str(file)]


def _cargo(installation: Installation, name: str, program: str) -> list[str]:
    """The snippet as the only program of a package with the clients' dependencies, which are built already."""
    package = installation.into / "snippets" / f"rust_{name}"
    shutil.rmtree(package, ignore_errors=True)
    (package / "src").mkdir(parents=True)
    for file in ["Cargo.toml", "Cargo.lock"]:
        shutil.copy(HERE / "rust" / file, package / file)
    (package / "src/main.rs").write_text(program)
    manifest = str(package / "Cargo.toml")
    target = str(installation.into / "rust")
    return ["cargo", "run", "--quiet", "--locked", "--manifest-path", manifest, "--target-dir", target]
