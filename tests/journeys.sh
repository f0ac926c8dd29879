#!/usr/bin/env bash
# The ways of a fresh user: what the READMEs of four tasks say is typed, from a folder of data to a prediction, with Ctrl-C
# and the same command again in between. Under 5 minutes on 2 CPU cores. run_all.sh runs them, too.
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
exec bash tests/run_all.sh tests/tasks/*/test_readme.py "$@"
