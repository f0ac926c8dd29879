"""The data sets that a config can name: where they are, and what tables call them.

To add one in LJSpeech's layout, or any folder of audio files:
1. its name in `config.DatasetName`, and in the docstring of `config.Config.dataset`, which --help shows;
2. a preset in `config.PRESETS` with its sample rate, mel and folds;
3. here: what tables call it in `LABELS`, and where to get it in `DOWNLOADS`;
4. a row in the table of `README.md`.
Its folder is then data/<name>, $RFNEXT_DATA/<name> or --root PATH. Data in another format: write a converter that makes
a cache folder, as `embedded.prepare` does, and call it in `data_folder` and `unavailable`. Papers with numbers on it:
return the key of `benchmarks/published.toml` in `published`.
"""

import functools
import importlib.util
import os
import shlex
from pathlib import Path

from tasks import sharing
from tasks.file_names import real_name
from tasks.spec import DataFiles, fail
from tasks.tts_vocoder.config import Config
from tasks.tts_vocoder.data import Recordings, chosen_clips, open_recordings, split
from tasks.tts_vocoder.recordings import embedded
from tasks.tts_vocoder.recordings.clips import Shape, list_clips

LJSPEECH = "https://keithito.com/LJ-Speech-Dataset"
LJSPEECH_CLIPS = 13100
"""Clips of LJSpeech-1.1."""

NEEDS = ("auraloss", "librosa", "lightning", "pystoi", "scipy", "soundfile")
"""Packages that the task needs besides those of the library."""

DOWNLOADS = {
    "ljspeech": f"Download LJSpeech-1.1.tar.bz2 (2.6 GB) from {LJSPEECH} and unpack its LJSpeech-1.1 as that folder"
}
"""How to get a data set that is missing."""

LABELS = {
    "asterisk": "Asterisk's English prompts, real speech (embedded)",
    "espeak": "eSpeak NG, SYNTHETIC speech (embedded)",
    "ljspeech": "LJSpeech-1.1",
}


def data_folder(config: Config) -> Path:
    """The folder of the config's data, which may be missing; the embedded data is made on first use.

    Raises DataError if the embedded data cannot be made.
    """
    if config.root is not None:
        return config.root
    if config.dataset == "asterisk" or config.dataset == "espeak":
        return embedded.prepare(config.dataset)
    here = os.environ.get("RFNEXT_DATA") or Path(__file__).parents[2] / "data"
    return Path(here) / config.dataset


def folds(config: Config) -> tuple[int, ...]:
    """The config's folds."""
    return config.folds


def download(config: Config) -> tuple[str, ...]:
    """Shell commands that put LJSpeech where it is looked for."""
    if config.dataset != "ljspeech" or config.root is not None:
        return ()
    folder = data_folder(config)
    parent = shlex.quote(str(folder.parent))
    return (
        f"mkdir -p {parent} && cd {parent}",
        "wget -c https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2  # 2.6 GB",
        f"tar xjf LJSpeech-1.1.tar.bz2 && mv LJSpeech-1.1 {folder.name} && cd -",
    )


def unavailable(config: Config) -> str | None:
    """Why the config cannot run here and how to fix it; None if no reason was found.

    Lists the clips and their metadata. Problems inside the clips, `python -m tasks.tts_vocoder.check` finds.
    """
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        return f"packages are missing; pip install {' '.join(missing)}"
    try:
        if config.root is None and (config.dataset == "asterisk" or config.dataset == "espeak"):
            return embedded.unavailable(config.dataset)
        folder = data_folder(config)
        if not folder.is_dir() and config.dataset in DOWNLOADS:
            return f"no folder {folder}. {DOWNLOADS[config.dataset]}, or name it by --root PATH"
        if not folder.is_dir():
            return f"no folder {folder}; name your recordings by --root PATH, or link them there"
        clips = list_clips(folder, fail)
        if config.dataset == "ljspeech" and len(clips) != LJSPEECH_CLIPS:
            return (
                f"{folder} holds {len(clips)} clips, LJSpeech-1.1 has {LJSPEECH_CLIPS:,}; unpack it again, or use your "
                "own recordings by --dataset folder --root PATH"
            )
        for fold in config.folds:
            split(list(clips)[: config.clips], fold=fold, test=config.test, validation=config.validation)
    except ValueError as error:  # DataError is one
        return str(error)
    return None


def data_files(config: Config) -> DataFiles | None:
    """The clips that the config uses. Of metadata.csv, only which clips it names decides anything."""
    if config.root is None and (config.dataset == "asterisk" or config.dataset == "espeak"):
        return None
    root = data_folder(config)
    clips = chosen_clips(list_clips(root, lambda *problem: None), config.clips)
    return DataFiles(root, (), tuple(clips.values()), _own(config))


def _own(config: Config) -> bool:
    return config.dataset == "folder" or (config.dataset not in DOWNLOADS and config.root is not None)


def data_label(config: Config) -> str:
    """What the numbers are measured on."""
    if _own(config):
        folder = config.root or Path(os.environ.get("RFNEXT_DATA") or "data") / config.dataset
        return f"own recordings in {real_name(folder)}"
    return LABELS[config.dataset]


def published(config: Config) -> str | None:
    """None: RF-Next gives no numbers for speech."""
    return None


def open_fold(config: Config, fold: int) -> Recordings:
    """One fold of the config's data. Raises ValueError if the config lacks the fold, DataError for unusable data."""
    if fold not in folds(config):
        raise ValueError(f"fold {fold} is not one of {folds(config)}")
    files, sizes = data_files(config), (config.test, config.validation, config.clips)
    state = () if files is None else files.state()
    return _opened(data_folder(config), config.shape, fold, sizes, state, 1 + config.workers)


@functools.lru_cache(maxsize=1)
def _opened(
    root: Path,
    shape: Shape,
    fold: int,
    sizes: tuple[float, float, int | None],
    state: tuple[tuple[int, int] | None, ...],
    processes: int,
) -> Recordings:
    # Training and scoring of one cell read the same fold; its clips stay in memory while the files are the same.
    test, validation, clips = sizes
    with sharing.among(processes):
        return open_recordings(root, shape, fold=fold, test=test, validation=validation, clips=clips)
