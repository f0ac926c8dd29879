"""Searching: what a search is given."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.cell import Cell
from benchmarks.methods.method import Found, Settings
from benchmarks.running.pool import Pool


@dataclass(frozen=True)
class Searching:
    """What a search is given.

    cell: the cell that it is done for. pool: trains its candidates. folder: for its files; exists or not yet.
    start: what the search before it found. settings: of the search and of those before it.
    """

    cell: Cell
    pool: Pool
    folder: Path
    start: Found | None
    settings: Settings
