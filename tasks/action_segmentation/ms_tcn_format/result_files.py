"""Result files of the MS-TCN family: the predicted class name of every frame of a video."""

from collections.abc import Iterable
from pathlib import Path

from rfnext.files import write_text
from tasks.action_segmentation.ms_tcn_format.layout import MOST_LINES, read_text
from tasks.spec import fail

HEADER = "### Frame level recognition: ###"


def read_prediction(path: str | Path) -> list[str]:
    """Class name of every frame in a result file: names between white space, after the header line if it has
    one.

    Raises DataError if the file is missing, not text, or holds no label.
    """
    path = Path(path)
    text = read_text(path, fail) or ""
    if text.startswith("#"):
        text = text.partition("\n")[2]
    if text.count(" ") > MOST_LINES:
        fail(path, 1, f"it has more than {MOST_LINES} labels", "cut the video into shorter ones")
    return text.split() or fail(path, 1, "no frame is labelled", "predict this video again")


def write_prediction(path: str | Path, names: Iterable[str]) -> None:
    """Write a result file as the MS-TCN family does, atomically; `names` are the class names of all frames.

    Raises ValueError if there is no frame or a name has white space in it or starts with "#".
    """
    names = list(names)
    for name in set(names) or {""}:
        if name.split() != [name] or name.startswith("#"):
            raise ValueError(f"{path}: {name!r} cannot be written as a class name")
    write_text(path, f"{HEADER}\n{' '.join(names)}")
