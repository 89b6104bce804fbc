"""psql, as a person or a script uses it."""

import signal
import subprocess

import checks
from checks import expect


def start(*arguments, url=checks.URL):
    command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def psql(script, url=checks.URL):
    process = start("-f", "-", url=url)
    out, said = process.communicate(script)
    if process.returncode != 0:
        raise ChildProcessError(said)
    return out.strip()


def tls():
    assert "SSL connection" in psql("\\conninfo", checks.url(sslmode="require"))


def plain():
    assert "SSL connection" not in psql("\\conninfo", checks.url(sslmode="disable"))


def parameters():
    psql(f"\\set name {checks.TEXT.replace(chr(92), chr(92) * 2).replace(chr(39), chr(92) + chr(39)).join([chr(39)] * 2)}\n"
         "DELETE FROM items; INSERT INTO items (id, name, made) VALUES (1, :'name', '2026-03-29 09:45Z')")
    expect(psql("SELECT name, made FROM items"), f"{checks.TEXT}|2026-03-29 09:45:00+00")


def transaction():
    psql("BEGIN; DELETE FROM items; INSERT INTO items (id) VALUES (1); COMMIT; BEGIN; DELETE FROM items; ROLLBACK")
    expect(psql("SELECT id FROM items"), "1")


def copy():
    rows = "".join(f"{n}\tname\n" for n in range(50_000))
    psql(f"DELETE FROM items;\n\\copy items (id, name) FROM STDIN\n{rows}\\.\n")
    expect(psql("\\copy items (id, name) TO STDOUT") + "\n", rows)


def cancel():
    for mode in ["disable", "require"]:
        process = start("-c", checks.SLEEP, url=checks.url(sslmode=mode))
        checks.wait_for(lambda: psql(checks.SLEEPERS) == "1")
        process.send_signal(signal.SIGINT)
        assert "canceling statement due to user request" in process.communicate()[1]


def refused():
    checks.refuses(lambda: psql("", checks.url(password="wrong")), ChildProcessError, "password authentication failed")
    unknown = checks.UNKNOWN_DATABASE
    checks.refuses(lambda: psql("", checks.url(database=unknown)), ChildProcessError, unknown)


def prepared():
    script = "PREPARE increment (int) AS SELECT $1 + 1;\n" + "EXECUTE increment (41);\n" * 100
    expect(psql(script).split(), ["42"] * 100)


def notify():
    assert 'Asynchronous notification "channel" with payload "hello"' in psql("LISTEN channel; NOTIFY channel, 'hello'; SELECT 1")


def large():
    expect(sum(len(line.split("|")[1]) for line in psql(checks.LARGE).split("\n")), checks.LARGE_BYTES)


def concurrent():
    processes = [start() for _ in range(checks.CONNECTIONS)]
    for process in processes:
        process.stdin.write("SELECT pg_backend_pid();\n")
        process.stdin.flush()
    # All have answered before the first one ends.
    pids = {process.stdout.readline() for process in processes}
    expect(len(pids), checks.CONNECTIONS)
    for process in processes:
        process.communicate()


def unicode():
    expect(psql(f"SELECT '{checks.UNICODE}'"), checks.UNICODE)


def nulls():
    expect(psql("\\pset null NULL\nSELECT NULL::int, ''"), "NULL|")


def arrays():
    expect(psql("SELECT ARRAY[1, NULL, 3], '{a,\"b,c\"}'::text[]"), '{1,NULL,3}|{a,"b,c"}')


def timezones():
    shown = psql("SELECT '2026-03-29 09:45Z'::timestamptz", checks.url(options="-c TimeZone=Asia/Kathmandu"))
    expect(shown, "2026-03-29 15:30:00+05:45")


if __name__ == "__main__":
    version = subprocess.run(["psql", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    checks.report(version, globals(), {"pipeline": "psql before 17 sends one query at a time"})
