#!/usr/bin/env bash
# The paper's two kinds of segmentation networks on a folder of your own, searched and not, then the tables.
#
#   bash tasks/semantic_segmentation/reproduce.sh PATH [options of benchmarks.suite]
#
# PATH has the layout that README.md says; pretrained backbones are downloaded. "-- --epochs 5" shortens all trainings.
# Finished cells are kept: start it again to go on.
set -euo pipefail

case "${1:--h}" in
    -h | --help)
        sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac
data=$(CDPATH="" cd -- "$1" && pwd)
shift
options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    options+=("$1")
    shift
done
[ $# -eq 0 ] || shift
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
status=0
for preset in folder-deeplabv3-resnet50 folder-upernet-convnext; do
    python -m benchmarks.suite "$preset" --task semantic_segmentation --method baseline local_single local_multi \
        --seeds 0 1 2 ${options[@]+"${options[@]}"} -- --root "$data" "$@" || status=$?
done
exit "$status"
