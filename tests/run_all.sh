#!/usr/bin/env bash
# All tests, or those that the arguments of pytest choose (paths count from the repository's root):
#
#   bash tests/run_all.sh
#   bash tests/run_all.sh tests/rfnext -m "not slow"
#
# Makes its own environment (see setup.sh) if the active one will not do.
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
python=$(bash setup.sh)
[ $# -gt 0 ] || printf 'The tests take 15 to 20 minutes on 2 cores.\n'
exec "$python" -m pytest "$@"
