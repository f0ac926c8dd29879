#!/usr/bin/env bash
# Finds or makes the environment of the main job and the tests, and prints the path of its Python:
#
#   bash setup.sh
#
# The first Python on the PATH is used as it is if it has every package of requirements.txt at that version (an
# activated conda or virtual environment, say). Otherwise the packages go into .venv beside this file: 3 to 10
# minutes, about 3 GB to download on Linux, 7 GB of disk; so does the package itself, as it stands here, so that
# "import rfnext" works in every folder. Into an environment that is not ours nothing is installed; what to type is said.
# Needs Python >= 3.11 with pip, on Linux or macOS.
# Safe to interrupt and to start again at any time, from any working directory, in any environment.
#
# For a smaller, CPU-only torch set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU wheels: pip then prefers
# its "+cpu" builds of the same versions.
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

# Standard output carries the result alone, so that scripts can take it from there.
say() { printf '%s\n' "$*" >&2; }

# Prints what Python $1 lacks of requirements.txt; succeeds if nothing.
satisfied() {
    "$1" - requirements.txt <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version

if sys.version_info < (3, 11):
    sys.exit(f"Python {sys.version.split()[0]}, wanted >= 3.11")
differences = []
for line in open(sys.argv[1], encoding="utf-8"):
    name, _, wanted = line.partition("#")[0].strip().partition("==")
    try:
        # 2.14.1+cpu is a build of 2.14.1
        found = version(name).partition("+")[0] if name else wanted
    except PackageNotFoundError:
        found = "missing"
    if found != wanted:
        differences.append(f"{name} {found} (wanted {wanted})")
sys.exit(", ".join(differences) or None)
PYTHON
}

# Whether Python $1 is that of environment $2.
belongs() { "$1" -c 'import os, sys; sys.exit(not os.path.samefile(sys.prefix, sys.argv[1]))' "$2" 2>/dev/null; }

# Whether Python $1 finds the package of this folder from everywhere.
finds_package() {
    [ ! -e pyproject.toml ] || "$1" -I - "$PWD/rfnext" 2>/dev/null <<'PYTHON'
import importlib.util, os, sys

found = importlib.util.find_spec("rfnext")
sys.exit(not (found and found.origin and os.path.samefile(os.path.dirname(found.origin), sys.argv[1])))
PYTHON
}

install_package() {
    finds_package "$1" || "$1" -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation \
        --editable . >&2
}

ready() { printf '%s\n' "$1"; exit 0; }

base=""
for candidate in python3 python python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        base=$(command -v "$candidate")
        break
    fi
done
if [ -z "$base" ]; then
    say "setup.sh: no Python >= 3.11 on the PATH; install one (python.org, conda, pyenv or your system's packages)"
    exit 1
fi

python="$PWD/.venv/bin/python"
unfinished="$PWD/.venv/unfinished" # there while pip works: what it left behind then is not to be trusted
own=false
! belongs "$base" .venv || own=true
if ! { $own && [ -e "$unfinished" ]; } && differences=$(satisfied "$base" 2>&1); then
    if ! $own || [ -L .venv ]; then # a link leads to another folder's
        finds_package "$base" ||
            say "To import rfnext outside this folder, too: $base -m pip install --no-deps --editable '$PWD'"
        ready "$base"
    fi
    ! finds_package "$base" || ready "$base"
fi
active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
if [ -n "$active" ] && ! $own; then
    belongs "$base" "$active" || differences="its Python is not the first on the PATH, or is older than 3.11"
    say "Not using the active environment $active: $differences"
fi
# Neither another folder of packages nor pip's options for installing elsewhere may pass for .venv.
unset PYTHONHOME PYTHONPATH PIP_PREFIX PIP_REQUIRE_VIRTUALENV PIP_ROOT PIP_TARGET
export PIP_USER=0

# A second set-up at the same time waits for the first one. The lock goes when this process ends, however it does.
exec 9<requirements.txt
if command -v flock >/dev/null && ! flock --nonblock 9; then
    say "Another set-up is running in this folder; waiting for it."
    flock 9
fi

if [ ! -e "$unfinished" ] && [ -x "$python" ] && satisfied "$python" >/dev/null 2>&1; then
    [ -L .venv ] || install_package "$python"
    ready "$python"
fi

say "Setting up .venv in $PWD with $("$base" --version): the packages of requirements.txt, about 3 GB to download," \
    "7 GB of disk, 3 to 10 minutes, once. Ctrl-C is safe; run the same command again."
base=$("$base" -c 'import sys; print(sys._base_executable)') # not .venv's own, if that is the active one
if [ -e "$unfinished" ] || ! "$python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    rm -rf .venv
    mkdir .venv
    touch "$unfinished"
    # Debian's Python comes without ensurepip unless python3-venv is installed; its pip can fill the gap.
    "$base" -m venv .venv >/dev/null 2>&1 || {
        "$base" -m venv --without-pip .venv
        "$base" -m pip --python "$python" install pip >&2
    }
fi
touch "$unfinished"
"$python" -m pip install --disable-pip-version-check --requirement requirements.txt >&2
if ! differences=$(satisfied "$python" 2>&1); then
    say "setup.sh: pip ended without an error, yet $python differs: $differences"
    exit 1
fi
install_package "$python"
rm "$unfinished"
ready "$python"
