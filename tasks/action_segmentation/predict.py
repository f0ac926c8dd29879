"""Segment videos: `python -m tasks.action_segmentation.predict CHECKPOINT VIDEOS... --out OUT`.

CHECKPOINT is the model.pt of a cell or the selected.pt of a training; it says which classes there are and what features
it takes. VIDEOS are feature files <video>.npy, folders of them, or data folders in the MS-TCN layout. A video is
labelled if its features are ROOT/features/<video>.npy and there is ROOT/groundTruth/<video>.txt. It is as long as its
labels; without labels, as its features.

Writes, all or nothing, into a new folder:

    OUT/results/<video>.txt     the class of every frame, as `tasks.action_segmentation.score` reads it
    OUT/segments.json           label, start and end of every segment; it covers the frames start <= t < end
    OUT/strips/<video>.png      the segments as a picture, the truth above them if there are labels
"""

import argparse
import contextlib
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rfnext.files import explained, write_text
from tasks import checkpoint
from tasks.action_segmentation import metrics
from tasks.action_segmentation.evaluation import predict
from tasks.action_segmentation.ms_tcn_format.feature_files import open_features, read_features
from tasks.action_segmentation.ms_tcn_format.layout import Layout, read_bundle
from tasks.action_segmentation.ms_tcn_format.lengths import Sampling, difference
from tasks.action_segmentation.ms_tcn_format.result_files import read_prediction, write_prediction
from tasks.diverged import on_file
from tasks.ranges import POSITIVE, number_in
from tasks.spec import fail


class Source(NamedTuple):
    """A video to segment.

    path: its features. vectors: how many of them are used. frames: its length.
    labels: class name of every frame; None: unlabelled.
    """

    path: Path
    vectors: int
    frames: int
    labels: list[str] | None


def find_videos(given: Sequence[Path], bundle: Path | None = None) -> dict[str, Path]:
    """Feature files by the name of the video: those given, and those in the folders given.

    bundle: list of <video>.txt; only these, and all of them. Raises DataError if a file is missing or a name is twice.
    """
    found: dict[str, Path] = {}
    for one in given:
        if not one.exists():
            fail(one, None, "no such file or folder", "give features, or a folder that holds them")
        folder = one / "features" if (one / "features").is_dir() else one
        files = sorted(folder.glob("*.npy")) if folder.is_dir() else [one]
        if not files:
            fail(folder, None, "there is no .npy file in it", "give features, or a folder that holds them")
        for path in files:
            if path.stem in found:
                fail(path, None, f"{found[path.stem]} is a video of that name, too", "leave one of the two out")
            found[path.stem] = path
    if bundle is None:
        return found
    for video, line in (wanted := read_bundle(bundle, fail)).items():
        if video not in found:
            fail(bundle, line, f"there are no features of {video}", "give the folder that holds them")
    return {video: found[video] for video in wanted}


def check_video(path: Path, feature_size: int, sampling: Sampling) -> Source:
    """Compare a file's header with what the network takes, and with the labels if there are any.

    Raises DataError naming the file.
    """
    features = open_features(path, fail)
    assert features is not None  # `fail` never returns
    rows, vectors = features.shape
    if rows != feature_size:
        turned = "these are (frames, features), transpose them" if vectors == feature_size else "extract the same ones"
        fail(path, None, f"features are {rows} x {vectors}, the network takes D = {feature_size}", turned)
    folder = path.absolute().parent
    truth = Layout(folder.parent).ground_truth(path.stem)
    if folder.name != "features" or not truth.exists():
        return Source(path, vectors, math.ceil(vectors * sampling.feature_stride), None)
    labels = read_prediction(truth)
    off = abs(difference(vectors, len(labels), sampling.feature_stride))
    if off > sampling.tolerance:
        what = f"{vectors} feature vectors, one per {sampling.feature_stride} frames as in the network's training, "
        what += f"cover {off} frames more or less than the {len(labels)} labels of {truth}"
        fail(path, None, what, f"extract them as for the training, or accept it by --length-tolerance {off}")
    return Source(path, min(vectors, -(-len(labels) // sampling.feature_stride)), len(labels), labels)


def segment(model: checkpoint.Checkpoint, source: Source) -> NDArray[np.int64]:
    """Class index of every frame of a video, exactly as `evaluation.evaluate` predicts it."""
    features = read_features(source.path, fail, vectors=source.vectors, stride=model.config.stride)
    assert features is not None
    with on_file(source.path):
        return predict(model.model, features, model.config.sampling.step, source.frames)


def as_json(names: Sequence[str], fps: float | None) -> list[dict[str, Any]]:
    """The segments of a video: label, start and end in frames and, if `fps` is given, in seconds."""
    found = []
    for label, start, end in zip(*(part.tolist() for part in metrics.segments(names)), strict=True):
        seconds = {} if fps is None else {"start_seconds": start / fps, "end_seconds": end / fps}
        found.append({"label": label, "start": start, "end": end} | seconds)
    return found


def write_picture(path: Path, names: Sequence[str], labels: Sequence[str] | None, classes: Sequence[str]) -> None:
    """Draw the prediction of a video, below its labels if it has any."""
    from tasks.action_segmentation import illustrate

    known = list(dict.fromkeys([*classes, *(labels or ())]))  # labels may be of classes that the network does not know
    index = {name: k for k, name in enumerate(known)}
    prediction, truth = (np.array([index[name] for name in row], dtype=np.int64) for row in (names, labels or ()))
    video = path.stem
    strip = illustrate.Strip(video, {"prediction": prediction})
    illustrate.draw([strip if labels is None else illustrate.compared(video, prediction, truth)], known, path)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that becomes `path` if nothing fails, and else is removed.

    Raises FileExistsError if there is something at `path` already, other than an empty folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not empty; give another --out, or take it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as outer:
        work = Path(outer) / path.name
        work.mkdir()
        yield work
        work.replace(path)


def run(given: argparse.Namespace) -> str:
    """Segment what the command line says, and return what was done. Raises ValueError and OSError."""
    model = checkpoint.load(given.checkpoint, "action_segmentation")
    classes, trained = model.facts["classes"], model.config.sampling
    tolerance = trained.tolerance if given.length_tolerance is None else given.length_tolerance
    sampling = Sampling(trained.stride, trained.feature_stride, tolerance)
    paths = find_videos(given.videos, given.bundle)
    # All headers are read before the first video is segmented.
    sources = {video: check_video(path, model.facts["features"], sampling) for video, path in paths.items()}
    videos: dict[str, Any] = {}
    with new_folder(given.out.absolute()) as folder:
        for video, source in sources.items():
            names = [classes[index] for index in segment(model, source).tolist()]
            write_prediction(folder / "results" / f"{video}.txt", names)
            write_picture(folder / "strips" / f"{video}.png", names, source.labels, classes)
            videos[video] = {"frames": len(names), "segments": as_json(names, given.fps)}
        content = {"checkpoint": str(given.checkpoint), "classes": classes, "fps": given.fps, "videos": videos}
        write_text(folder / "segments.json", json.dumps(content, indent=1))
    labelled = sum(source.labels is not None for source in sources.values())
    return f"{given.out}: {len(videos)} videos segmented, {labelled} of them with labels beside them"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message if it fails, and leaves nothing behind then."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.action_segmentation.predict",
        description="Segment videos, labelled or not, with a trained network. Writes result files, segments.json and "
        "pictures into a new folder.",
    )
    parser.add_argument("checkpoint", type=Path, help="model.pt of a cell, or selected.pt of a training")
    parser.add_argument(
        "videos", type=Path, nargs="+", help="features <video>.npy, (D, T); folders of them; or data folders"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write, new or empty")
    parser.add_argument("--bundle", type=Path, help="list of <video>.txt: only these")
    parser.add_argument(
        "--fps", type=number_in(POSITIVE), help="frames per second of the video: segments.json then has seconds, too"
    )
    parser.add_argument(
        "--length-tolerance",
        type=int,
        help="frames by which features may cover less or more than the labels; default: that of the training",
    )
    given = parser.parse_args(arguments)
    try:
        done = run(given)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {explained(error)}")
    print(f"{done}; score them: python -m tasks.action_segmentation.score {given.out}/results GROUND_TRUTH")


if __name__ == "__main__":
    main()
