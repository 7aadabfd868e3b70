#!/usr/bin/env bash
# Builds the CPU environment of the OpenRLHF tests once: a virtual environment, a tiny model, compiled DeepSpeed parts.
# The last line of stdout is the path of the virtual environment; progress goes to stderr. PYTHON chooses the
# interpreter (3.11 or 3.12), RLHFD_OPENRLHF_CACHE the folder. Needs about 5 GB and a few minutes; later calls return at once.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${RLHFD_OPENRLHF_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rlhfd}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
key=$({ cat "$here/requirements.txt" "$here/build_env.sh" "$here/shim/lab_assets.py"
    grep '^SHIM_VERSION' "$here/shim/sitecustomize.py"; } | sha256sum | cut -c1-12)
target=$cache/openrlhf-$key
log=$cache/openrlhf-$key.log

say() { printf 'build_env: %4ds %s\n' "$SECONDS" "$*" >&2; }
die() { say "$*"; exit 1; }
finish() { echo "$target/venv"; exit 0; }

logged() {
    "$@" >>"$log" 2>&1 && return
    tail -n 15 "$log" >&2
    die "failed: $* (whole log: $log)"
}

choose_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    die "no CPython 3.11 or 3.12 found (tried: ${PYTHON:-python3 python3.12 python3.11}); set PYTHON"
}

# DeepSpeed compiles C++ against Python.h on first use. Tools and headers are looked for, not package names:
# python may come from anywhere, and only the interpreter of the distribution takes the distribution's headers.
missing_packages() {
    local version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    command -v g++ >/dev/null || echo g++
    command -v make >/dev/null || echo make
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "python$version-venv"
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || echo "python$version-dev"
}

install_missing_packages() {
    local packages
    packages=$(missing_packages | tr '\n' ' ')
    [ -n "$packages" ] || return 0
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || die "please install: $packages"
    say "apt-get install $packages"
    logged apt-get update
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive logged apt-get install -y --no-install-recommends $packages
    packages=$(missing_packages | tr '\n' ' ')
    [ -z "$packages" ] || die "still missing after apt-get install: $packages"
}

build_venv() {
    local pip="$target/venv/bin/python -m pip"
    logged "$python" -m venv "$target/venv"
    # torch with its dependencies and before the rest, because deepspeed's setup imports it. Where the configured
    # index has only the CUDA build of this version, this line takes that one: it works as well, but is several GB larger.
    say "torch"
    logged $pip install torch==2.13.0 setuptools==80.10.2
    say "OpenRLHF, vLLM, Ray and what they need"
    grep -v '^deepspeed==' "$here/requirements.txt" >"$target/requirements.txt"
    logged $pip install --no-deps -r "$target/requirements.txt"
    say "DeepSpeed"
    DS_BUILD_OPS=0 DS_ACCELERATOR=cpu logged $pip install --no-deps --no-build-isolation \
        "$(grep '^deepspeed==' "$here/requirements.txt")"
}

build_assets() {
    say "tiny model and data"
    logged "$target/venv/bin/python" "$here/shim/lab_assets.py" "$target/assets"
    say "SFT of the tiny model, which also compiles DeepSpeed's extensions"
    PYTHONPATH=$here/.. logged "$python" -S -m openrlhf.runs "$target"
}

[ ! -e "$target/stamp" ] || finish
exec 9>"$cache/openrlhf-$key.lock"
flock -n 9 || { say "another call is building $target; waiting for it"; flock 9; }
[ ! -e "$target/stamp" ] || finish
rm -rf "$target" # half built: a call that was interrupted
mkdir "$target"
: >"$log"
python=$(choose_python)
say "building $target with $python"
install_missing_packages
build_venv 9>&- # a child that is left over must not hold the lock
build_assets 9>&-
touch "$target/stamp"
say "done, $(du -sh "$target" | cut -f1); of older versions any $cache/openrlhf-* can be removed"
finish
