#!/usr/bin/env bash
# The library's tests with the oldest or the newest versions that pyproject.toml allows, in a fresh environment:
#
#   bash tests/dependencies.sh oldest                   # the lowest version of every range
#   bash tests/dependencies.sh newest                   # the highest
#   bash tests/dependencies.sh newest tests/tasks       # other tests; then with the packages of all tasks
#
# Downloads about 4 GB into a temporary folder, which is removed. The last line is a row for docs/dependencies.md.
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
case "${1:-}" in
    oldest) resolution=lowest-direct ;;
    newest) resolution=highest ;;
    *) echo "usage: bash tests/dependencies.sh oldest|newest [TESTS]" >&2; exit 2 ;;
esac
which=$1 tests=${2:-tests/rfnext}
extras=(--extra dev --extra lightning --extra plots --extra transformers)
[ "$tests" = tests/rfnext ] || extras=(--all-extras)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/tool"
"$folder/tool/bin/pip" install -q uv
uv="$folder/tool/bin/uv"
export UV_CACHE_DIR="$folder/cache"
"$uv" venv -q --python "$(command -v python3)" "$folder/env"
python="$folder/env/bin/python"
# Resolved first: of the oldest, what the oldest themselves need is not the oldest.
"$uv" pip compile -q --python "$python" --resolution "$resolution" "${extras[@]}" pyproject.toml -o "$folder/versions.txt"
"$uv" pip install -q --compile-bytecode --python "$python" -r "$folder/versions.txt" # as pip does

status=0
"$python" -m pytest -n 0 -q -p no:cacheprovider -o timeout=900 -m "not slow" "$tests" | tee "$folder/log" || status=$?
versions=$(grep -oE '^(torch|torchvision|numpy|lightning|timm|mmengine|triton|pytest)==[^ ]+' "$folder/versions.txt" |
    tr '\n' ' ' | sed 's/==/ /g')
echo "| $(date +%F) | $which | $("$python" -V), $versions| $tests | $(tail -1 "$folder/log" | tr -d '=') |"
exit "$status"
