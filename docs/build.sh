#!/usr/bin/env bash
# Builds the documentation site; a warning is an error:
#
#   bash docs/build.sh            # into site/
#   bash docs/build.sh FOLDER
#
# MkDocs is the extra "docs" of pyproject.toml. Where Python has it not, it goes into build/docs, once: 144 MB, half a minute. The exit
# status is 69 if the index of packages cannot be reached, and 1 at any other failure.
set -euo pipefail
folder=${1:-}
[ -z "$folder" ] || [ "${folder:0:1}" = / ] || folder=$PWD/$folder
CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
folder=${folder:-$PWD/site}
python=$(bash setup.sh)

wanted=$("$python" - <<'PYTHON'
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")
PYTHON
)
packages=$PWD/build/docs
if [ "$wanted" != "$(cat "$packages/wanted" 2>/dev/null)" ]; then
    rm -rf "$packages"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    if ! "$python" -m pip install --disable-pip-version-check --retries 2 --quiet --target "$packages" $wanted 2>&1 | tee "$log" >&2; then
        echo "docs/build.sh: no way to install ${wanted//$'\n'/, }" >&2
        # What pip says of each retry where it reaches nothing, whatever the reason: no name, no route, no answer, a proxy.
        grep -Eq "connection broken|Max retries exceeded|(Connect|Read)TimeoutError|ProxyError" "$log" && exit 69
        exit 1
    fi
    printf '%s\n' "$wanted" >"$packages/wanted"
fi
export PYTHONPATH=$packages NO_MKDOCS_2_WARNING=1
"$python" -m mkdocs build --strict --site-dir "$folder"
echo "$folder/index.html"
