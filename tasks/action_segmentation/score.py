"""Score result files: `python -m tasks.action_segmentation.score PREDICTIONS GROUND_TRUTH`.

Prints one JSON object with the keys accuracy, edit, f1@10, f1@25 and f1@50, in percent. `--details FOLDER` writes what
they are made of.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rfnext.files import explained
from tasks.action_segmentation import breakdown, metrics
from tasks.action_segmentation.ms_tcn_format.layout import read_bundle
from tasks.action_segmentation.ms_tcn_format.result_files import read_prediction
from tasks.spec import DataError, fail

SURPLUS = 1
"""Frames by which a prediction may be longer than the truth. Repeating the predictions of every second frame, as for
50 Salads, gives one frame too many for a video of odd length, and the MS-TCN code writes it."""


def read_folders(
    predictions: str | Path, ground_truth: str | Path, videos: Iterable[str] | None = None
) -> dict[str, tuple[list[str], list[str]]]:
    """Video -> prediction and truth, of a folder of result files, <video> or <video>.txt, and one of <video>.txt.

    videos: exactly these must have been predicted; None: all predictions are scored, since a folder of ground truth
        usually holds all folds.
    Raises DataError if a file is missing, named twice, unreadable or empty, if there is one too many, or if a
    prediction differs in length from its truth.
    """
    predicted = _files(Path(predictions))
    truth = _files(Path(ground_truth))
    for video, path in predicted.items():
        if video not in truth:
            fail(path, None, f"there is no {video}.txt in {ground_truth}", "remove it or add the truth")
    if videos is not None:
        expected = set(videos)
        if missing := sorted(expected - set(predicted)):
            fail(Path(predictions), None, f"no prediction of {', '.join(missing)}", "add it")
        if extra := sorted(set(predicted) - expected):
            fail(predicted[extra[0]], None, "a prediction of a video that is not to be scored", "remove it")
    return {video: _pair(path, truth[video]) for video, path in predicted.items()}


def _files(folder: Path) -> dict[str, Path]:
    """Video name -> file, sorted; hidden files and folders are passed over."""
    if not folder.is_dir():
        fail(folder, None, "no such folder", "give a folder with one file for each video")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        video = path.name.removesuffix(".txt")
        if video in files:
            fail(path, None, f"there is also {files[video].name} for this video", "take one away")
        files[video] = path
    if not files:
        fail(folder, None, "there is no file in it", "give a folder with one file for each video")
    return files


def _pair(prediction: Path, truth: Path) -> tuple[list[str], list[str]]:
    predicted, true = read_prediction(prediction), read_prediction(truth)
    if not 0 <= len(predicted) - len(true) <= SURPLUS:
        what = f"{len(predicted)} frames, but {truth} has {len(true)}"
        fail(prediction, None, what, "predict every frame, up-sampling where frames were skipped")
    return predicted[: len(true)], true


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message if a file cannot be scored."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.action_segmentation.score",
        description="Score the result files of any tool, one file of class names for each video with or "
        'without the "### Frame level recognition: ###" line, against a groundTruth folder. Prints JSON.',
    )
    parser.add_argument("predictions", type=Path, help="folder with <video> or <video>.txt; its videos are scored")
    parser.add_argument("ground_truth", type=Path, help="folder with <video>.txt, one class name a line")
    parser.add_argument("--bundle", type=Path, help="list of <video>.txt: exactly these must have been predicted")
    parser.add_argument(
        "--last-segment",
        choices=["i", "i+1"],
        default="i+1",
        help="where the last segment of T frames ends: i+1 at T, behind the last frame (MS-TCN today, LTContext); "
        "i at T - 1 (RF-Next, MS-TCN++, ASFormer); default: %(default)s",
    )
    parser.add_argument(
        "--background",
        nargs="*",
        default=["background"],
        metavar="NAME",
        help="classes whose segments count neither in Edit nor in F1; none with --background alone; "
        "default: background",
    )
    parser.add_argument(
        "--details",
        type=Path,
        metavar="FOLDER",
        help="write scores of every class and video, the confusion matrix and the numbers of segments there",
    )
    given = parser.parse_args(arguments)
    try:
        videos = None if given.bundle is None else read_bundle(given.bundle, fail)
        pairs = read_folders(given.predictions, given.ground_truth, videos)
        scores = metrics.score(pairs.values(), background=given.background, last_segment=given.last_segment)
        if given.details:
            written = breakdown.write(pairs, given.details, given.background, given.last_segment)
            print(f"written: {', '.join(map(str, written))}", file=sys.stderr)
    except (DataError, OSError) as error:
        sys.exit(f"error: {explained(error)}")
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
