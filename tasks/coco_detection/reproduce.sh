#!/usr/bin/env bash
# A row of the published tables as it was measured: mmdet's schedule on COCO's train2017, the last epoch scored on
# val2017, on all GPUs of this machine.
#
#   bash tasks/coco_detection/reproduce.sh convnext|pvtv2|res2net|hrnet|panoptic [baseline|multi|single|all] [--yes]
#
# baseline: hand-designed. multi: the search run itself, which is what the published "multi" rows are.
# single: the found structure retrained (after multi). all, the default: the three of them.
# It measures and prints the GPU-hours it will take, and asks before it starts; --yes does not ask. Finished trainings
# are kept; start it again to continue an interrupted one.
set -euo pipefail

usage() {
    sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

detector=${1:-}
row=${2:-all}
case "$detector" in convnext | pvtv2 | res2net | hrnet | panoptic) ;; *) usage ;; esac
case "$row" in
    baseline) modes=(baseline) ;;
    multi) modes=(search) ;;
    single) modes=(search fixed_single_branch) ;;
    all) modes=(baseline search fixed_single_branch) ;;
    *) usage ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
configs=tasks/coco_detection/configs
data=${RFNEXT_DATA:-data}/coco
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
if [ "$gpus" -eq 0 ]; then
    echo "no GPU: at the published size this takes months of a CPU; see --preset tiny in the README" >&2
    exit 1
fi
if [ "$detector" = panoptic ]; then
    python -m tasks.coco_detection.check "$data" --panoptic
    python -c 'import panopticapi' 2>/dev/null || {
        echo "mmdet scores panoptic segments by a package that is not on PyPI:" \
            "pip install git+https://github.com/cocodataset/panopticapi.git" >&2
        exit 1
    }
else
    python -m tasks.coco_detection.check "$data"
fi

todo=()
for mode in "${modes[@]}"; do
    [ -e "work_dirs/${detector}_$mode/finished" ] || todo+=("$mode")
done
for mode in ${todo[@]+"${todo[@]}"}; do
    # A retrained single-branch network costs what the baseline does, and its structure is not there yet.
    measured=${mode/fixed_single_branch/baseline}
    python -m tasks.coco_detection.train_published "$configs/${detector}_$measured.py" --estimate
done
if [ "${#todo[@]}" -gt 0 ] && [ "${3:-}" != --yes ]; then
    read -r -p "Train on $gpus GPUs now? [y/N] " answer
    [ "$answer" = y ] || exit 1
fi

for mode in ${todo[@]+"${todo[@]}"}; do
    more=()
    if [ "$mode" = fixed_single_branch ]; then
        structure=$(ls -v "work_dirs/${detector}_search"/local_search_config_step*.json | tail -n 1)
        more=(--set "custom_hooks.0.rfstructure_file=$structure")
    fi
    torchrun --nproc_per_node "$gpus" -m tasks.coco_detection.train_published "$configs/${detector}_$mode.py" \
        --data "$data" --resume ${more[@]+"${more[@]}"}
    touch "work_dirs/${detector}_$mode/finished"
done
for mode in "${modes[@]}"; do
    echo "${detector}_$mode: the last epoch's scores end the newest log in work_dirs/${detector}_$mode"
done
