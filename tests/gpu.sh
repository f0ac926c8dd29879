#!/usr/bin/env bash
# Everything that hardware decides, on the GPU at hand, within 8 minutes; see tests/gpu/__main__.py:
#
#   bash tests/gpu.sh
#
# Writes a page named after the device into the folder gpu of results. Without a GPU the same checks run on the CPU, small. Installs nothing: it takes the
# first Python that has torch. timm is wanted for two networks; pytest, pytest-timeout and hypothesis for the tests.
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
for python in python3 python .venv/bin/python; do
    if "$python" -c 'import sys, torch; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        exec "$python" -m tests.gpu "$@"
    fi
done
echo "tests/gpu.sh: no Python >= 3.11 with torch on the PATH or in .venv" >&2
exit 2
