#!/usr/bin/env bash
# The main job: searches, trains and scores every method on every task of a preset, then makes tables and a page.
#
#   bash benchmarks/run_all.sh                          # preset "tiny" on data that comes with it
#   bash benchmarks/run_all.sh --list                   # what would run, how long, what to download
#   bash benchmarks/run_all.sh --list --verbose         # also every cell, method and preset
#   bash benchmarks/run_all.sh small --seeds 0 1 2      # PRESET, then any argument of python -m benchmarks.suite
#   bash benchmarks/run_all.sh paper --wandb            # what papers report, as far as its data is here
#   bash benchmarks/run_all.sh small --ray-address auto # on the Ray cluster that this machine is a node of
#
# With preset "tiny", the other detectors, preset "families", take one training step each; they have no table.
#
# First says what is kept, what will run and how long, and what is missing and where to get it; then runs that.
# Makes its own environment (see setup.sh; also for --list) if the active one will not do. Finished cells
# are kept: after Ctrl-C, or to add seeds, run it again. Exits with the status of the suite: not 0 if any cell failed.
set -euo pipefail
root=$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

preset=tiny
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    preset=$1
    shift
fi
results="$root/results"
rest=() # the suite's other arguments
only_asks=false
every_task=true
while [ $# -gt 0 ]; do
    case "$1" in
        --results) results=${2:?"--results needs a folder"}; shift ;;
        --results=*) results=${1#*=} ;;
        --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --list) only_asks=true; rest+=("$1") ;;
        --task | --task=*) every_task=false; rest+=("$1") ;;
        *) rest+=("$1") ;;
    esac
    shift
done
# Python runs in the root, the caller may be in another folder.
case "$results" in /*) ;; *) results="$PWD/$results" ;; esac

cd -- "$root"
python=$(bash setup.sh)
suite=("$python" -m benchmarks.suite "$preset" --results "$results" ${rest[@]+"${rest[@]}"})
if $only_asks; then
    exec "${suite[@]}"
fi

status=0
"${suite[@]}" || status=$?
if [ "$status" -eq 2 ]; then # wrong usage; the suite has said what
    exit 2
elif [ "$status" -ge 128 ]; then # stopped by a signal: 130 is Ctrl-C
    printf 'Stopped. Run the same command again to go on where it was.\n' >&2
    exit "$status"
fi
if [ "$preset" = tiny ] && $every_task; then
    steps=$(mktemp -d)
    trap 'rm -rf "$steps"' EXIT
    printf '\nOne training step of each of the other detectors:\n'
    "$python" -m benchmarks.suite families --task coco_detection --method baseline --folds 1 --results "$steps" \
        -- --scenes 10 --epochs 1 || [ "$status" -ne 0 ] || status=1
fi
report=0
"$python" -m benchmarks.report --results "$results" || report=$?
printf '\nRecords: %s\nTables:  %s\nPage:    %s\n' "$results/runs" "$results/<task>-<preset>/table.md" "$results/index.html"
if [ "$status" -ne 0 ]; then
    printf 'Not everything ran; the tables name each missing cell and its reason.\n' >&2
    exit "$status"
fi
exit "$report"
