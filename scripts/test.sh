#!/bin/sh
# Runs every check and every test. `make test` installs what this needs first.
set -eu
cd "$(dirname "$0")/.."
bin=.venv/bin
step() { printf '\n== %s\n' "$*"; }

# The browser tests drive Debian's Chromium; anywhere else they skip and say so.
if ! command -v chromium >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    printf 'Installing Chromium for the browser tests …\n'
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } >/dev/null 2>&1 \
        || printf 'Chromium could not be installed; run: apt-get install -y chromium\n'
fi

step "ruff"
$bin/ruff check .
$bin/ruff format --check .
step "mypy"
$bin/mypy
step "pytest"
$bin/python -m pytest -n 2 --dist loadfile "$@"
