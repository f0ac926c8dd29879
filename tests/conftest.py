"""What all tests share: seeds, threads, the folder of real data, and markers."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

ROOT = Path(__file__).parents[1]

# The caller's own settings of the library are not what is tested; rfnext reads the first one when it is imported.
for name in ("RFNEXT_IMPLEMENTATION", "RFNEXT_ASTERISK", "RFNEXT_DATA"):
    os.environ.pop(name, None)

# The same examples in every run, so that a failure is the change's; no deadline, since machines are busy.
hypothesis.settings.register_profile("repository", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repository")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):  # keywords hold the names of folders, too
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """On tensors as small as a test's, threads cost more than they bring."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def shared() -> Path:
    """The folder `shared` beside the repository: real data that cannot be part of it. Skips without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder.name}/ is not beside the repository")
    return folder
