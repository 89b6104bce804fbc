#!/bin/bash
# What `docker compose up` would do, without a Docker engine: checks docker-compose.yml, then runs the instructions of
# deploy/Dockerfile and the commands of the services in bare Debian roots made with debootstrap. As root, on a machine
# whose ports 6432, 9876, 9877 and 127.0.0.2..3:5432 are free. Takes about three minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/target/containers
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

say() { printf '== %s\n' "$*"; }
inside() { # the processes in our roots: those that were started are their grandparents
    for process in /proc/[0-9]*; do
        [[ $(readlink "$process/root") != "$work"/* ]] || echo "${process#/proc/}"
    done
}
finish() {
    for _ in $(seq 100); do
        pids=$(inside)
        [ -n "$pids" ] || break
        # shellcheck disable=SC2086 # several words
        kill -INT $pids 2>/dev/null || true
        sleep 0.2
    done
    awk -v under="$work/" 'index($2, under) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r -n 1 umount
    return 0
}
trap finish EXIT

[ "$(id -u)" = 0 ] || { echo "run it as root: it makes Debian roots and changes into them" >&2; exit 1; }
for program in debootstrap docker-compose psql; do
    command -v $program >/dev/null || { echo "$program is missing: apt-get install $program" >&2; exit 1; }
done
finish
# Nothing is removed through a mount that was left there.
! grep -qF " $work/" /proc/mounts || { echo "something is still mounted under $work" >&2; exit 1; }
rm -rf "$work/image" "$work/control-plane" "$work/data-plane"
mkdir -p "$work"

say "docker-compose.yml is valid, and says what is missing"
[ -e .env ] || deploy/make-env
docker-compose config --quiet
: >"$work/empty"
if env -i PATH="$PATH" docker-compose --env-file "$work/empty" config --quiet 2>"$work/missing"; then
    echo "it takes an empty environment" >&2
    exit 1
fi
grep -q "run deploy/make-env first" "$work/missing"
set -a
. ./.env
set +a

say "a bare Debian root"
if [ ! -e "$work/bare/etc/debian_version" ]; then
    rm -rf "$work/bare"
    debootstrap --variant=minbase bookworm "$work/bare" "$mirror" >"$work/debootstrap.log"
    cp -r /etc/apt/apt.conf.d/. "$work/bare/etc/apt/apt.conf.d/"
    cp /etc/resolv.conf "$work/bare/etc/"
fi

in_root() { # root command…: with the paths of a login shell of that root
    local root=$1
    shift
    mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
        /usr/sbin/chroot "$root" "$@"
}

say "the image: the build's command, then the instructions of its last stage"
build=$(sed -n 's/^RUN \(cargo .*\)/\1/p' deploy/Dockerfile)
$build
cp -a "$work/bare" "$work/image"
sed -e ':join' -e '/\\$/N; s/\\\n//; tjoin' deploy/Dockerfile | awk '/^FROM/ { stage = $0; lines = "" } !/^FROM/ { lines = lines $0 "\n" } END { printf "%s", lines }' |
    while read -r instruction rest; do
        case $instruction in
        RUN) in_root "$work/image" sh -c "$rest" >>"$work/image.log" 2>&1 ;;
        COPY)
            rest=${rest/--from=build /}
            mode=
            [[ $rest == --chmod=* ]] && mode=${rest%% *} && rest=${rest#* }
            read -ra files <<<"${rest//\/src\//}"
            target=$work/image${files[-1]}
            [[ ${files[-1]} == */ ]] && mkdir -p "$target" || mkdir -p "$(dirname "$target")"
            cp "${files[@]:0:${#files[@]}-1}" "$target"
            [ -z "$mode" ] || chmod "${mode#--chmod=}" "$target"
            ;;
        esac
    done
printf '127.0.0.1 localhost\n127.0.0.2 control-plane\n127.0.0.3 data-plane\n' >"$work/image/etc/hosts"

postgres() { # service address password: what the postgres image does at its first start
    local root=$work/$1 bin
    cp -a "$work/bare" "$root"
    in_root "$root" sh -c 'apt-get update -qq && mkdir -p /etc/postgresql-common &&
        echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf &&
        apt-get install -qq --no-install-recommends postgresql >/dev/null 2>&1'
    bin=$(cd "$root" && echo usr/lib/postgresql/*/bin)
    # Copies: a mount that is left behind must not lead rm into the repository.
    cp -r deploy/samples "$root/samples"
    cp -r deploy/compose "$root/docker-entrypoint-initdb.d"
    mount -t tmpfs tmpfs "$root/dev/shm"
    in_root "$root" install -d -o postgres /data /var/run/postgresql
    in_root "$root" su postgres -c "echo '$3' >/tmp/pw; /$bin/initdb -D /data -A scram-sha-256 --auth-local=trust --pwfile=/tmp/pw -E UTF8 --locale=C.UTF-8 >/dev/null; rm /tmp/pw
        echo 'host all all all scram-sha-256' >>/data/pg_hba.conf; /$bin/pg_ctl -s -w -D /data -o '-c listen_addresses=' start"
    in_root "$root" su postgres -c "POSTGRES_USER=postgres STORE_PASSWORD=$STORE_PASSWORD /docker-entrypoint-initdb.d/$1.sh"
    in_root "$root" su postgres -c "/$bin/pg_ctl -s -w -D /data stop"
    in_root "$root" su postgres -c "exec /$bin/postgres -D /data -c listen_addresses=$2 ${4:-}" >"$work/$1.log" 2>&1 &
    for _ in $(seq 50); do pg_isready -q -h "$2" && return; sleep 0.2; done
    cat "$work/$1.log" >&2
    return 1
}

say "control-plane and data-plane, with the scripts that are mounted into them"
postgres control-plane 127.0.0.2 "$CONTROL_PLANE_PASSWORD"
command=$(sed -n 's/.*command: \["postgres", \(.*\)\]/\1/p' docker-compose.yml | tr -d '",')
postgres data-plane 127.0.0.3 "$DATA_PLANE_PASSWORD" "$command"
PGPASSWORD=$DATA_PLANE_PASSWORD psql -h 127.0.0.3 -U postgres -Atc 'SHOW max_connections' | grep -qx 500
PGPASSWORD=$DATA_PLANE_PASSWORD psql -h 127.0.0.3 -U postgres -d sample_bookshop -Atc 'SELECT count(*) FROM order_lines' | grep -qx 150
PGPASSWORD=$DATA_PLANE_PASSWORD psql -h 127.0.0.3 -U postgres -d sample_helpdesk -Atc 'SELECT count(*) FROM messages' | grep -qx 360

say "tenantsdb, as its own user, healthy"
/usr/sbin/chroot --userspec=10001 "$work/image" /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin \
    TENANTSDB_STORE_URL="postgresql://cp_owner:$STORE_PASSWORD@control-plane:5432/tdb_control?sslmode=prefer" \
    TENANTSDB_MASTER_KEY="$TENANTSDB_MASTER_KEY" TENANTSDB_API_KEY="$TENANTSDB_API_KEY" TENANTSDB_SERVER_PASSWORD="$DATA_PLANE_PASSWORD" \
    tenantsdb-entrypoint serve --config /etc/tenantsdb/proxy.toml >"$work/tenantsdb.log" 2>&1 &
tenantsdb=$!
healthy() { /usr/sbin/chroot --userspec=10001 "$work/image" /usr/local/bin/tenantsdb-healthcheck 2>/dev/null; }
for _ in $(seq 100); do healthy && break; sleep 0.2; done
healthy || { cat "$work/tenantsdb.log" >&2; exit 1; }

say "a workspace, a tenant, and SQL through the published port"
tdb() { /usr/sbin/chroot --userspec=10001 "$work/image" /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/ TDB_API_URL=http://127.0.0.1:9876 TDB_API_KEY="$TENANTSDB_API_KEY" tdb "$@"; }
url() { grep -o 'postgresql://[^"]*' | head -n 1; }
workspace=$(tdb workspaces create --name helpdesk --database PostgreSQL --json | url)
psql -q -v ON_ERROR_STOP=1 "$workspace" -f deploy/samples/helpdesk.sql
tenant=$(tdb tenants create --name acme --blueprint helpdesk --json | url)
psql -q "$tenant" -Atc "INSERT INTO tickets (subject) VALUES ('It works'); SELECT subject FROM tickets" | grep -qx 'It works'
tdb tenants list
say "what the README does: psql in the image, TLS"
tdb psql helpdesk__acme -- -XAtc 'SELECT subject FROM tickets' | grep -qx 'It works'
psql "$tenant?sslmode=require" -XAtc 'SELECT subject FROM tickets' | grep -qx 'It works'

say "SIGTERM drains: the health check fails, the process ends well"
kill -TERM $tenantsdb
wait $tenantsdb
if healthy; then echo "it is healthy after its end" >&2; exit 1; fi
say "all well"
