#!/usr/bin/env bash
# HiFi-GAN's protocol on LJSpeech (12,950 clips to train on, 150 held out), searched and not, then (without options) the
# tables. RF-Next published no settings for speech, so the search's are this repository's own.
#
#   bash tasks/tts_vocoder/reproduce.sh [options of benchmarks.suite]
#
# One full training is 2.5 million steps; "-- --epochs 100" shortens all of them. Finished cells are kept: start it again
# to go on. It says what to download if the data is missing.
set -euo pipefail

case "${1:-}" in
    -h | --help)
        sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
status=0
python -m benchmarks.suite ljspeech --task tts_vocoder \
    --method baseline local_single local_multi --seeds 0 1 2 "$@" || status=$?
# Options may mean another results folder, or only a list.
if [ $# -eq 0 ]; then python -m benchmarks.report; fi
exit "$status"
