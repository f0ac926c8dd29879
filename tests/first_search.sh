#!/usr/bin/env bash
# A user's first ten minutes: the wheel alone into a clean environment, then what docs/first_search.md shows.
#
#   bash tests/first_search.sh                  # prints results/first_search/README.md
#   bash tests/first_search.sh torch==2.9.0     # with other versions; what pip accepts
#
# Downloads torch into a temporary folder, which is removed: up to 3 GB, 10 GB of disk. PYTHON names another Python.
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
root=$PWD python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r README.md LICENSE pyproject.toml MANIFEST.in rfnext "$folder/" # a build leaves files behind
cd "$folder"
sed -n '/^```python$/,/^```$/{/^```/!p}' "$root/docs/first_search.md" >first.py
TIMEFORMAT="%R %U %S"

# Runs a command; its output goes to the log, its seconds into the table.
step() {
    local seconds
    if ! { seconds=$( { time "$@" >>log 2>&1; } 2>&1); }; then
        cat log >&2
        exit 1
    fi
    printf '| `%s` | %s |\n' "${*//$folder\//}" "$(awk '{printf "%.0f | %.0f", $1, $2 + $3}' <<<"$seconds")"
}

printf '# A first search, as typed\n\n`bash tests/first_search.sh %s` on %s. Seconds that passed, and that a processor worked:\n\n' "$*" "$(date +%F)"
printf '| step | seconds | of a CPU |\n| --- | ---: | ---: |\n'
step "$python" -m venv env
export PATH=$folder/env/bin:$PATH PYTHONNOUSERSITE=1
unset PYTHONPATH
step env/bin/pip install ./ scikit-learn "$@"
rm -r rfnext       # what runs is what was installed
export HOME=$folder # no kernels are compiled yet
step env/bin/rfnext doctor
step env/bin/python first.py
step env/bin/rfnext show structure.json
step env/bin/rfnext plan --network first:network --input 32,1,64
printf '\n%s, torch %s, %s cores. What was printed:\n\n```\n' "$(env/bin/python -V)" \
    "$(env/bin/python -c 'import torch; print(torch.__version__)')" "$(env/bin/python -c 'import os; print(os.cpu_count())')"
sed -n '/^part /,$p' log | sed "s#$folder/##g"
printf '```\n'
