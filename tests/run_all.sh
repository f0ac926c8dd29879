#!/usr/bin/env bash
# All tests, or those that the arguments of pytest choose (paths count from the repository's root):
#
#   bash tests/run_all.sh                       # all: about 24 minutes on 2 CPU cores
#   bash tests/run_all.sh -m "not slow"         # for daily work: about 10 minutes
#   bash tests/run_all.sh tests/rfnext -k local
#
# Tests run in as many processes as there are cores, at most 8; -n 0 runs them in one process, for a debugger. Can be
# started from any folder. Makes its own environment (see setup.sh) if the active one lacks a package.
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
python=$(bash setup.sh)
[ $# -gt 0 ] || printf 'All tests: about 24 minutes on 2 CPU cores; with -m "not slow" about 10.\n'
exec "$python" -m pytest -n auto --maxprocesses 8 --dist worksteal "$@"
