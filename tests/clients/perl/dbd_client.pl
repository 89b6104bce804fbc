# Perl's DBD::Pg, over libpq.

use strict;
use warnings;
use utf8;

use DBD::Pg qw(:async :pg_types);
use DBI;
use List::Util qw(sum uniq);
use Time::HiRes qw(sleep time);

my ($user, $password, $host, $port, $database) = $ENV{CLIENT_URL} =~ m{//(.*?):(.*?)\@(.*?):(\d+)/([\w-]+)};
# The client's own tenant of a blueprint that is none.
my $unknown = $database =~ s/.*__/nothing__/r;
my $TEXT = q(it's "quoted" \ 100% $1 :x);
my $UNICODE = "Gr\x{fc}\x{df}e \x{4e16}\x{754c} \x{1f418} e\x{301} \x{202e}abc";
my $ROWS = 50_000;
my $LARGE = "SELECT n, repeat(md5(n::text), 32) FROM generate_series(1, $ROWS) n";
my $LARGE_BYTES = $ROWS * 1024;
my $CONNECTIONS = 20;
# Only this client's sessions are in its database.
my $SLEEPERS = q(SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND query = 'SELECT pg_sleep(120)');

sub connected {
    my %more = (dbname => $database, password => $password, @_);
    my $secret = delete $more{password};
    my $source = join ';', map { "$_=$more{$_}" } sort keys %more;
    return DBI->connect("dbi:Pg:host=$host;port=$port;$source", $user, $secret, { RaiseError => 1, PrintError => 0, AutoCommit => 1 });
}

sub expect {
    my ($found, $wanted) = map { join '|', map { $_ // 'undef' } @$_ } @_;
    die "$found instead of $wanted\n" if $found ne $wanted;
}

sub refuses {
    my ($said, $work) = @_;
    die "not refused: $said\n" if eval { $work->(); 1 };
    die "$@ does not say $said\n" if index("$@ " . ($DBI::state // ''), $said) < 0;
}

sub answers { expect([connected(@_)->selectrow_array('SELECT 1')], [1]) }

my %checks = (
    tls => sub { answers(sslmode => 'require') },
    plain => sub { answers(sslmode => 'disable') },
    parameters => sub {
        my $session = connected();
        $session->do('DELETE FROM items');
        my $data = join '', map { chr } 0 .. 255;
        my $insert = $session->prepare('INSERT INTO items (id, name, price, data, doc, made) VALUES (?, ?, ?, ?, ?, ?)');
        $insert->bind_param(4, undef, { pg_type => PG_BYTEA });
        $insert->execute(1, $TEXT, '123456789.125', $data, '{"a": [1, null]}', '2026-03-29 09:45Z');
        my @found = $session->selectrow_array('SELECT id, name, price, data, doc, made FROM items WHERE id = ?', undef, 1);
        expect(\@found, [1, $TEXT, '123456789.125', $data, '{"a": [1, null]}', '2026-03-29 09:45:00+00']);
    },
    transaction => sub {
        my $session = connected();
        $session->begin_work;
        $session->do('DELETE FROM items');
        $session->do('INSERT INTO items (id) VALUES (1)');
        $session->pg_savepoint('here');
        $session->do('INSERT INTO items (id) VALUES (2)');
        $session->pg_rollback_to('here');
        $session->commit;
        $session->begin_work;
        $session->do('DELETE FROM items');
        $session->rollback;
        expect($session->selectcol_arrayref('SELECT id FROM items'), [1]);
    },
    copy => sub {
        my $session = connected(sslmode => 'require');
        $session->do('DELETE FROM items');
        $session->do('COPY items (id, name) FROM STDIN');
        $session->pg_putcopydata("$_\tname\n") for 1 .. 50_000;
        $session->pg_putcopyend;
        $session->do('COPY items (id, name) TO STDOUT');
        my ($lines, $line) = (0, '');
        $lines++ while $session->pg_getcopydata($line) >= 0;
        expect([$lines], [50_000]);
    },
    cancel => sub {
        for my $mode (qw(disable require)) {
            my ($session, $other) = (connected(sslmode => $mode), connected());
            $session->do('SELECT pg_sleep(120)', { pg_async => PG_ASYNC });
            my $deadline = time + 30;
            until ($other->selectrow_array($SLEEPERS) == 1) {
                die "it took too long\n" if time > $deadline;
                sleep 0.02;
            }
            $session->pg_cancel or die "not cancelled\n";
            expect([$session->selectrow_array('SELECT 1'), $other->selectrow_array($SLEEPERS)], [1, 0]);
        }
    },
    refused => sub {
        for my $mode (qw(disable require)) {
            refuses('password authentication failed', sub { connected(password => 'wrong', sslmode => $mode) });
            refuses($unknown, sub { connected(dbname => $unknown, sslmode => $mode) });
        }
    },
    prepared => sub {
        my $session = connected();
        my $statement = $session->prepare('SELECT ?::int + 1');
        for my $n (1 .. 100) {
            $statement->execute($n);
            expect($statement->fetchrow_arrayref, [$n + 1]);
        }
        # DBD::Pg prepares at the second execution.
        my ($count) = $session->selectrow_array(q(SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%+ 1'));
        expect([$count], [1]);
    },
    notify => sub {
        my ($listener, $speaker) = (connected(), connected());
        $listener->do('LISTEN channel');
        $speaker->do(q(NOTIFY channel, 'hello'));
        my ($heard, $deadline) = (undef, time + 30);
        sleep 0.02 until $heard = $listener->pg_notifies or time > $deadline;
        expect([@$heard[0, 2]], ['channel', 'hello']);
    },
    large => sub {
        my $rows = connected(sslmode => 'require')->selectall_arrayref($LARGE);
        expect([sum map { length $_->[1] } @$rows], [$LARGE_BYTES]);
    },
    concurrent => sub {
        my @sessions = map { connected() } 1 .. $CONNECTIONS;
        expect([scalar uniq map { $_->selectrow_array('SELECT pg_backend_pid()') } @sessions], [$CONNECTIONS]);
    },
    unicode => sub { expect([connected()->selectrow_array('SELECT ?::text', undef, $UNICODE)], [$UNICODE]) },
    nulls => sub { expect([connected()->selectrow_array(q(SELECT ?::int, ?::text, ''), undef, undef, undef)], [undef, undef, '']) },
    arrays => sub {
        my ($numbers, $texts) = ([1, undef, 3], ['a', 'b"c', '{,}', '', undef]);
        my @found = connected()->selectrow_array('SELECT ?::int[], ?::text[]', undef, $numbers, $texts);
        expect($found[0], $numbers);
        expect($found[1], $texts);
    },
    timezones => sub {
        my ($text) = connected(options => '-cTimeZone=Asia/Kathmandu')->selectrow_array('SELECT ?::timestamptz', undef, '2026-03-29 09:45Z');
        expect([$text], ['2026-03-29 15:30:00+05:45']);
    },
);

$| = 1;
binmode STDOUT, ':utf8';
print "version\t$DBD::Pg::VERSION\n";
print "pipeline\tskipped\tthe driver sends one query at a time\n";
for my $check (sort keys %checks) {
    my $fault = eval { $checks{$check}->(); 1 } ? undef : $@;
    print STDERR $fault if defined $fault;
    print defined $fault ? "$check\tFAILED\t" . $fault =~ s/\s+/ /gr : "$check\tok", "\n";
}
