"""Does searching pay? Every method against the hand design, the tuned hand design and the published local search.

    python -m benchmarks.studies.does_search_pay --root PATH [--group REGEX] [--seeds 0 1 2] [--methods M ...]
    python -m benchmarks.studies.does_search_pay --seglearn [...]
    python -m benchmarks.studies.does_search_pay --only-table

Runs all methods on own data in the layout of the MS-TCN release, or on the embedded wrist sessions, with a network that
fits a small machine (preset "compact": 2 stages x 10 layers x 32 maps), and the local search by the published rule and
with a wider spread beside ours; cells that are done are kept. Then writes a table of paired differences for each of the
two. The own data of the committed study are 50 Salads' SVM scores at 1 frame per second, which are in the repository
colincsl/TemporalConvolutionalNetworks.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks import methods, suite
from benchmarks.groups import Group, estimate, group, number, scores
from benchmarks.record import ROOT, read_all
from rfnext.files import write_text

METHODS = (
    "baseline",
    "tuned_design",
    "random_search",
    "multi_dilation",
    "kernel_enlargement",
    "learnable_spacings",
    "local_search_run",
    "local_single",
    "local_single_held_out",
    "local_single_annealed",
    "local_single_branches5",
    "local_multi",
    "one_shot",
    "one_shot_held_out",
    "one_shot_ranked",
    "one_shot_to_local_single",
    "one_shot_to_local_multi",
    "global_",
    "global_shortened",
    "global_to_local_single",
)
SEGLEARN = {"dataset=seglearn", "stride=4"}
"""Fields of the config on the embedded sessions."""
VARIANTS = {"search.rule=paper": "paper", "search.spread=0.5": "spread 0.5"}
"""Fields of the config by which `local_single` is run once more -> what its row is called in brackets."""
REFERENCES = ("baseline", "tuned_design", "local_single (paper)")
METRICS = ("f1@25", "f1@50", "accuracy")


@dataclass(frozen=True)
class Options:
    """All methods on one dataset, and their paired differences."""

    root: Path | None = None
    """Folder of own data."""
    seglearn: bool = False
    """On the embedded wrist sessions instead, at 2.5 frames per second."""
    methods: tuple[str, ...] = METHODS
    """What to run."""
    group: str = r"rgb-\d+"
    """Videos whose names match alike are held out together."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds on every fold."""
    only_table: bool = False
    """Run nothing, gather the records."""
    results: Path = ROOT / "results"
    """Folder of the records."""


def run(options: Options) -> int:
    """Run the cells, seed by seed, so that an interrupted study is balanced; the suite's exit status."""
    data = ["--root", str(options.root), "--group", options.group]
    if options.seglearn:
        data = [word for field in sorted(SEGLEARN) for word in f"--{field}".split("=")]
    status = 0
    for seed in options.seeds:
        shared = ["compact", "--task", "action_segmentation", "--results", str(options.results), "--seeds", str(seed)]
        runs = [["--method", *options.methods, "--", *data]]
        if "local_single" in options.methods:
            runs += [["--method", "local_single", "--", *data, *f"--{field}".split("=")] for field in VARIANTS]
        for arguments in runs:
            status = max(status, suite.main([*shared, *arguments]))
            if status == 130:  # interrupted
                return status
    return status


def rows(groups: Sequence[Group], seglearn: bool) -> dict[str, tuple[Group, str]]:
    """Name of the row -> the group and method that it shows. Those of `VARIANTS` carry theirs in brackets.

    Raises ValueError if two groups have the same row: own data of two kinds in one folder.
    """
    found: dict[str, tuple[Group, str]] = {}
    for one in groups:
        preset, *fields = one.preset.split("+")
        variants = [name for field, name in VARIANTS.items() if field in fields]
        rest = set(fields) - set(VARIANTS)
        data = rest == SEGLEARN if seglearn else len(rest) < 2 and all(field.startswith("group=") for field in rest)
        if (one.task, preset) != ("action_segmentation", "compact") or not data or len(variants) > 1:
            continue
        for method in one.methods:
            name = f"{method} ({variants[0]})" if variants else method
            if name in found:
                raise ValueError(f"{found[name][0].preset} and {one.preset} both have {name}; keep one of them")
            found[name] = (one, method)
    suffixes = ["", *(f" ({name})" for name in VARIANTS.values())]
    order = [method + suffix for method in methods.METHODS for suffix in suffixes]
    return {name: found[name] for name in order if name in found}


def table(groups: Sequence[Group], seglearn: bool) -> str | None:
    """Markdown: every method's scores, and the paired differences to the references; None without any records."""
    shown = rows(groups, seglearn)
    if "baseline" not in shown:
        return None
    values = {name: scores(one, method) for name, (one, method) in shown.items()}
    lines = []
    for metric in METRICS:
        heads = [f"minus {name}" for name in REFERENCES]
        lines += [
            f"{metric} (%), mean ± 95 % interval over folds (seeds averaged); differences are paired by fold and seed.",
            "",
            f"| method | {metric} | {' | '.join(heads)} | cells | search epochs |",
            "| --- |" + " ---: |" * (3 + len(heads)),
        ]
        for name, (one, method) in shown.items():
            mine = values[name][metric]
            cells = [_text(mine, signed=False)]
            for reference in REFERENCES:
                other = values.get(reference, {}).get(metric, {})
                both = {cell: mine[cell] - other[cell] for cell in mine if cell in other}
                cells.append("" if name == reference else _text(both, signed=True))
            epochs = {record.search.epochs for record in one.done(method).values()}
            cost = f"{min(epochs)}" if len(epochs) == 1 else f"{min(epochs)}–{max(epochs)}"
            lines.append(f"| {name} | {' | '.join(cells)} | {len(mine)} | {cost} |")
        lines.append("")
    return "\n".join(lines)


def _text(values: dict[tuple[int, int], float], *, signed: bool) -> str:
    found = estimate(values)
    return "–" if found is None else number(found, 1, signed=signed)


def main() -> int:
    """Command line."""
    options = tyro.cli(Options, description=__doc__)
    status = 0
    if not options.only_table:
        if (options.root is None) == (not options.seglearn):
            print("error: give either --root PATH, the folder of the data, or --seglearn", file=sys.stderr)
            return 2
        status = run(options)
    records, broken = read_all(options.results)
    for seglearn, name in ((False, "table.md"), (True, "table_seglearn.md")):
        if text := table(group(records, broken), seglearn):
            write_text(options.results / "studies/does_search_pay" / name, text)
            print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
