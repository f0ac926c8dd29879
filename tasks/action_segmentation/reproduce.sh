#!/usr/bin/env bash
# The papers' protocol on one dataset of the MS-TCN data release: all folds, three seeds, then (without options) the
# tables.
#
#   bash tasks/action_segmentation/reproduce.sh 50salads|breakfast|gtea [options of benchmarks.suite]
#
# Finished cells are kept: start it again to go on. It says what to download if the data is missing.
set -euo pipefail

dataset=${1:-}
case "$dataset" in
    50salads | breakfast | gtea) shift ;;
    *)
        sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
status=0
python -m benchmarks.suite "$dataset" --task action_segmentation \
    --method baseline local_as_searched local_single local_multi --seeds 0 1 2 "$@" || status=$?
# Options may mean another results folder, or only a list.
if [ $# -eq 0 ]; then python -m benchmarks.report; fi
exit "$status"
