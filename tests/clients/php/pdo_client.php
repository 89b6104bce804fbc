<?php
// PHP's PDO with its PostgreSQL driver, over libpq.

declare(strict_types=1);

const TEXT = 'it\'s "quoted" \\ 100% $1 :x';
const UNICODE = "Gr\u{fc}\u{df}e \u{4e16}\u{754c} \u{1f418} e\u{301} \u{202e}abc";
const ROWS = 50_000;
const LARGE = 'SELECT n, repeat(md5(n::text), 32) FROM generate_series(1, ' . ROWS . ') n';
const LARGE_BYTES = ROWS * 1024;
const CONNECTIONS = 20;

function connect(array $more = []): PDO
{
    $url = parse_url(getenv('CLIENT_URL'));
    $account = $more + ['host' => $url['host'], 'port' => $url['port'], 'dbname' => substr($url['path'], 1),
        'user' => $url['user'], 'password' => $url['pass']];
    $parts = array_map(fn ($name, $value) => "$name='$value'", array_keys($account), $account);
    return new PDO('pgsql:' . implode(';', $parts), null, null, [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
}

/** The client's own tenant of a blueprint that is none. */
function unknown_database(): string
{
    $parts = explode('__', parse_url(getenv('CLIENT_URL'))['path']);
    return 'nothing__' . end($parts);
}

function expect(mixed $found, mixed $wanted): void
{
    if ($found !== $wanted) {
        throw new RuntimeException(var_export($found, true) . ' instead of ' . var_export($wanted, true));
    }
}

function refuses(string $said, callable $work): void
{
    try {
        $work();
    } catch (PDOException $refusal) {
        expect(str_contains($refusal->getMessage(), $said) ?: $refusal->getMessage(), true);
        return;
    }
    throw new RuntimeException("not refused: $said");
}

function row(PDO $session, string $query, array $values = []): array
{
    $statement = $session->prepare($query);
    $statement->execute($values);
    return $statement->fetch(PDO::FETCH_NUM);
}

$below = 'PDO has none';
$skipped = ['cancel' => $below, 'pipeline' => $below];
$checks = [
    'tls' => fn () => expect(row(connect(['sslmode' => 'require']), 'SELECT 1'), [1]),
    'plain' => fn () => expect(row(connect(['sslmode' => 'disable']), 'SELECT 1'), [1]),
    'parameters' => function () {
        foreach ([false, true] as $emulated) {
            $session = connect();
            $session->setAttribute(PDO::ATTR_EMULATE_PREPARES, $emulated);
            $session->exec('DELETE FROM items');
            $data = implode(array_map('chr', range(0, 255)));
            $insert = $session->prepare('INSERT INTO items (id, name, price, data, doc, made) VALUES (:id, :name, :price, :data, :doc, :made)');
            $insert->bindValue('id', 1, PDO::PARAM_INT);
            $insert->bindValue('name', TEXT);
            $insert->bindValue('price', '123456789.125');
            $insert->bindValue('data', $data, PDO::PARAM_LOB);
            $insert->bindValue('doc', '{"a": [1, null]}');
            $insert->bindValue('made', '2026-03-29 09:45:00.123456Z');
            $insert->execute();
            $found = row($session, 'SELECT id, name, price, data, doc, made FROM items WHERE id = ?', [1]);
            $found[3] = stream_get_contents($found[3]);
            expect($found, [1, TEXT, '123456789.125', $data, '{"a": [1, null]}', '2026-03-29 09:45:00.123456+00']);
        }
    },
    'transaction' => function () {
        $session = connect();
        $session->beginTransaction();
        $session->exec('DELETE FROM items; INSERT INTO items (id) VALUES (1)');
        $session->commit();
        $session->beginTransaction();
        $session->exec('DELETE FROM items');
        $session->rollBack();
        expect(row($session, 'SELECT count(*) FROM items'), [1]);
    },
    'copy' => function () {
        $session = connect(['sslmode' => 'require']);
        $session->exec('DELETE FROM items');
        $lines = array_map(fn ($n) => "$n\tname\n", range(1, 20_000));
        $session->pgsqlCopyFromArray('items', $lines, "\t", '\\\\N', 'id, name');
        expect($session->pgsqlCopyToArray('items', "\t", '\\\\N', 'id, name'), $lines);
    },
    'refused' => function () {
        foreach (['disable', 'require'] as $mode) {
            refuses('password authentication failed', fn () => connect(['password' => 'wrong', 'sslmode' => $mode]));
            refuses(unknown_database(), fn () => connect(['dbname' => unknown_database(), 'sslmode' => $mode]));
        }
    },
    'prepared' => function () {
        $session = connect();
        $statement = $session->prepare('SELECT ?::int + 1');
        foreach (range(1, 100) as $n) {
            $statement->execute([$n]);
            expect($statement->fetchColumn(), $n + 1);
        }
        // That query is a prepared statement itself.
        expect(row($session, 'SELECT count(*) FROM pg_prepared_statements'), [2]);
    },
    'notify' => function () {
        $listener = connect();
        $listener->exec('LISTEN channel');
        connect()->exec("NOTIFY channel, 'hello'");
        $heard = $listener->pgsqlGetNotify(PDO::FETCH_NUM, 30_000);
        expect([$heard[0], $heard[2]], ['channel', 'hello']);
    },
    'large' => function () {
        $size = 0;
        foreach (connect(['sslmode' => 'require'])->query(LARGE, PDO::FETCH_NUM) as $row) {
            $size += strlen($row[1]);
        }
        expect($size, LARGE_BYTES);
    },
    'concurrent' => function () {
        $sessions = array_map(fn () => connect(), range(1, CONNECTIONS));
        $pids = array_map(fn ($session) => row($session, 'SELECT pg_backend_pid()')[0], $sessions);
        expect(count(array_unique($pids)), CONNECTIONS);
    },
    'unicode' => fn () => expect(row(connect(), 'SELECT ?::text', [UNICODE]), [UNICODE]),
    'nulls' => fn () => expect(row(connect(), "SELECT ?::int, ?::text, ''", [null, null]), [null, null, '']),
    'arrays' => fn () => expect(row(connect(), 'SELECT ?::int[], ?::text[]', ['{1,NULL,3}', '{a,"b,c",NULL}']), ['{1,NULL,3}', '{a,"b,c",NULL}']),
    'timezones' => fn () => expect(
        row(connect(['options' => '-c TimeZone=Asia/Kathmandu']), 'SELECT ?::timestamptz', ['2026-03-29 09:45Z']),
        ['2026-03-29 15:30:00+05:45'],
    ),
];

echo "version\t", PHP_VERSION, "\n";
foreach ($skipped as $check => $why) {
    echo "$check\tskipped\t$why\n";
}
foreach ($checks as $check => $work) {
    try {
        $work();
        echo "$check\tok\n";
    } catch (Throwable $fault) {
        fwrite(STDERR, "$fault\n");
        echo "$check\tFAILED\t", preg_replace('/\s+/', ' ', $fault->getMessage()), "\n";
    }
}
