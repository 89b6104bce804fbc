#!/bin/bash
# Runs scripts/bootstrap in minimal Debian roots that each have one misleading package: afterwards a compiler can compile and
# libclang can parse headers, or one line of output says what is wrong. Needs root, debootstrap and the network; takes some
# minutes. With the argument `build`, the crate that needs libclang is also built in each root.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/target/bootstrap
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
cargo_home=${CARGO_HOME:-$HOME/.cargo}
rustup_home=${RUSTUP_HOME:-$HOME/.rustup}

say() { printf '== %s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
unmount() { awk -v under="$work/" 'index($2, under) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r -n 1 umount; }
trap unmount EXIT

[ "$(id -u)" = 0 ] || fail "run it as root: it makes Debian roots and changes into them"
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
unmount
# Nothing is removed through a mount that was left there.
! grep -qF " $work/" /proc/mounts || fail "something is still mounted under $work"
mkdir -p "$work/packages"

in_root() { # root command…
    local root=$1
    shift
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive HOME=/root \
        CARGO_HOME=/cargo RUSTUP_HOME=/rustup CARGO_TARGET_DIR=/build TMPDIR=/tmp /usr/sbin/chroot "$root" "$@"
}

root_with() { # name package…: a new root with Rust, these packages without recommended ones, and the repository
    local root=$work/$1
    shift
    rm -rf "$root"
    cp -a "$work/bare" "$root"
    mkdir -p "$root/cargo" "$root/rustup" "$root/repository"
    mount -t proc proc "$root/proc"
    # Packages are downloaded once.
    mount --bind "$work/packages" "$root/var/cache/apt/archives"
    mount --bind "$rustup_home" "$root/rustup"
    mount --bind "$cargo_home" "$root/cargo"
    for program in cargo rustc; do ln -s "/cargo/bin/$program" "$root/usr/local/bin/$program"; done
    git ls-files -z | xargs -0 cp --parents -t "$root/repository"
    [ $# = 0 ] || in_root "$root" apt-get install -y --no-install-recommends "$@" >>"$root.log" 2>&1
}

bootstrap() { # root purpose: may fail; its output is in root.said
    in_root "$1" sh -c "cd /repository && scripts/bootstrap $2" >>"$1.log" 2>"$1.said"
}

is_fit() { # root: compiles, links and parses, and the bootstrap has nothing left to do
    local root=$1
    printf '#include <stddef.h>\n#include <stdio.h>\nint main(void) { return puts("fit") < 0; }\n' >"$root/tmp/fit.c"
    [ "$(in_root "$root" sh -c 'cc -o /tmp/fit /tmp/fit.c && /tmp/fit')" = fit ] || fail "$root: no compiler"
    bootstrap "$root" dev || fail "$root: the second run fails: $(cat "$root.said")"
    [ ! -s "$root.said" ] || fail "$root: the second run still finds something missing: $(cat "$root.said")"
    if [ "${action:-}" = build ]; then
        in_root "$root" sh -c 'cd /repository && cargo build --offline -p pg_query' >>"$root.log" 2>&1 || fail "$root: $(tail -n 20 "$root.log")"
    fi
}

said() { # root pattern
    grep -q -e "$2" "$work/$1.said" || fail "$1 should have said $2: $(cat "$work/$1.said")"
}

action=${1:-}
if [ ! -e "$work/bare.complete" ]; then
    say "a bare Debian root"
    rm -rf "$work/bare"
    debootstrap --variant=minbase bookworm "$work/bare" "$mirror" >"$work/debootstrap.log"
    cp -r /etc/apt/apt.conf.d/. "$work/bare/etc/apt/apt.conf.d/"
    # An image of Docker throws packages away.
    rm -f "$work"/bare/etc/apt/apt.conf.d/docker-*
    cp /etc/resolv.conf "$work/bare/etc/"
    in_root "$work/bare" apt-get update -qq
    touch "$work/bare.complete"
fi
rm -f "$work"/*.log "$work"/*.said

say "libclang-cpp, which is another library"
root_with cpp libclang-cpp14
bootstrap "$work/cpp" dev || fail "cpp: $(cat "$work/cpp.said")"
said cpp 'installing.* libclang-dev'
is_fit "$work/cpp"

say "libclang without the headers of its compiler"
root_with bare-libclang libclang1-14
bootstrap "$work/bare-libclang" dev || fail "bare-libclang: $(cat "$work/bare-libclang.said")"
said bare-libclang 'installing.* libclang-dev'
is_fit "$work/bare-libclang"

say "the same of a newer one than the distribution's, which the build takes"
root_with newer-libclang libclang1-16
bootstrap "$work/newer-libclang" dev || fail "newer-libclang: $(cat "$work/newer-libclang.said")"
said newer-libclang 'installing.* libclang-common-16-dev'
is_fit "$work/newer-libclang"

say "gcc without the C library's headers"
root_with gcc gcc
if in_root "$work/gcc" sh -c 'echo "#include <stdio.h>" | cc -x c -c -o /dev/null -' 2>/dev/null; then
    fail "this gcc has the C library's headers"
fi
bootstrap "$work/gcc" dev || fail "gcc: $(cat "$work/gcc.said")"
said gcc 'installing.* libc6-dev'
is_fit "$work/gcc"

say "a libclang that cannot be repaired is named in one line"
root_with broken libclang-dev gcc libc6-dev
printf 'no library' >"$work/broken/usr/lib/libclang-99.so"
if bootstrap "$work/broken" dev; then
    fail "a file that is no library was taken for one"
fi
[ "$(grep -c 'cannot read' "$work/broken.said")" = 1 ] || fail "broken: $(cat "$work/broken.said")"
said broken '/usr/lib/libclang-99.so cannot read'

say "PostGIS of the PostgreSQL that is there, and no cluster"
root_with postgres postgresql-common
echo 'create_main_cluster = false' >>"$work/postgres/etc/postgresql-common/createcluster.conf"
in_root "$work/postgres" apt-get install -y --no-install-recommends postgresql >>"$work/postgres.log" 2>&1
for root in postgres cpp; do
    bootstrap "$work/$root" test || fail "$root: $(cat "$work/$root.said")"
    versions=("$work/$root"/usr/lib/postgresql/*)
    [ ${#versions[@]} = 1 ] || fail "$root: more than one PostgreSQL: ${versions[*]}"
    [ -f "$work/$root/usr/share/postgresql/${versions[0]##*/}/extension/postgis.control" ] || fail "$root: no PostGIS for ${versions[0]}"
    [ -z "$(ls "$work/$root/etc/postgresql" 2>/dev/null)" ] || fail "$root: a cluster was made"
done
root_with nothing
bootstrap "$work/nothing" test || fail "nothing: $(cat "$work/nothing.said")"
[ -f "$work"/nothing/usr/share/postgresql/*/extension/postgis.control ] || fail "nothing: no PostGIS"
[ -z "$(ls "$work/nothing/etc/postgresql" 2>/dev/null)" ] || fail "nothing: a cluster was made"
is_fit "$work/nothing"
say "all well"
