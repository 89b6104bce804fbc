"""pgbench in each of its protocols, with many sessions."""

import re
import subprocess
import tempfile

import checks
from checks import expect

NOT_ITS_BUSINESS = "it measures, nothing else"


def pgbench(*arguments, url=checks.URL, script=None):
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        if script:
            file.write(script)
            file.flush()
            arguments = [*arguments, "-n", "-f", file.name]
        ran = subprocess.run(["pgbench", *arguments, url], capture_output=True, text=True)
    if ran.returncode != 0:
        raise ChildProcessError(ran.stderr)
    return ran.stdout


def done(out):
    expect(re.search(r"number of failed transactions: (\d+)", out).group(1), "0")
    made, wanted = re.search(r"transactions actually processed: (\d+)/(\d+)", out).groups()
    expect(made, wanted)


def tls():
    done(pgbench("-t", "10", url=checks.url(sslmode="require"), script="SELECT 1;"))


def plain():
    done(pgbench("-t", "10", url=checks.url(sslmode="disable"), script="SELECT 1;"))


def transaction():
    pgbench("-i", "-q", "--foreign-keys", "--partitions=3")
    for protocol in ["simple", "extended", "prepared"]:
        done(pgbench("-n", "-M", protocol, "-c", "4", "-t", "100"))


def refused():
    wrong, unknown = checks.url(password="wrong"), checks.UNKNOWN_DATABASE
    checks.refuses(lambda: pgbench(url=wrong), ChildProcessError, "password authentication failed")
    checks.refuses(lambda: pgbench(url=checks.url(database=unknown)), ChildProcessError, unknown)


def prepared():
    done(pgbench("-M", "prepared", "-t", "1000", script="\\set n random(1, 100)\nSELECT :n + 1;"))


def pipeline():
    script = "\\startpipeline\n" + "SELECT 1;\n" * 50 + "\\endpipeline\n"
    done(pgbench("-M", "extended", "-c", "4", "-t", "50", script=script))


def concurrent():
    pgbench("-i", "-q")
    done(pgbench("-n", "-S", "-c", str(checks.CONNECTIONS), "-j", "2", "-t", "100"))
    done(pgbench("-n", "-S", "-C", "-c", "4", "-t", "25"))


if __name__ == "__main__":
    version = subprocess.run(["pgbench", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    mine = ["tls", "plain", "transaction", "refused", "prepared", "pipeline", "concurrent"]
    checks.report(version, globals(), {check: NOT_ITS_BUSINESS for check in checks.CHECKS if check not in mine})
