"""The page of `bash tests/gpu.sh`: what failed, then a table per section."""

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.records.machine import commit, versions
from tests.gpu.findings import ON_GPU

Findings = Sequence[Mapping[str, Any]]


def markdown(device: str, sections: Mapping[str, Findings], seconds: float) -> str:
    """The whole page."""
    known = versions()
    packages = ", ".join(f"{name} {known[name]}" for name in ("python", "torch", "timm") if known[name])
    packages += f", CUDA {torch.version.cuda}" if ON_GPU else ", no CUDA device: small shapes, Triton's interpreter"
    lines = [
        f"# {device}",
        "",
        f"`bash tests/gpu.sh` on {datetime.date.today()}: {packages}, commit {commit()}, {seconds:.0f} s.",
        "",
        "| section | passed | failed | not run |",
        "| --- | ---: | ---: | ---: |",
    ]
    for title, found in sections.items():
        counts = Counter(one["outcome"] for one in found)
        lines.append(f"| {title} | {counts['passed']} | {counts['failed']} | {counts['not run']} |")
    lines += ["", *failures(sections)]
    for title, found in sections.items():
        lines += ["", f"## {title}", "", *table(found), *left_out(found)]
    return "\n".join(lines) + "\n"


def failures(sections: Mapping[str, Findings]) -> list[str]:
    """Two lines for each thing that failed: which one, and why."""
    lines = []
    for title, found in sections.items():
        for one in found:
            if one["outcome"] == "failed":
                lines += [f"- {title}: {', '.join(map(str, one['what'].values()))}", f"  {one['why']}"]
    return lines or ["Nothing failed."]


def table(found: Findings) -> list[str]:
    """What was measured, a row per check that passed."""
    passed = [one["what"] | one["found"] for one in found if one["outcome"] == "passed"]
    columns = list(dict.fromkeys(name for row in passed for name in row))
    if not columns:
        return ["No check passed."]
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    return lines + ["| " + " | ".join(shown(row.get(name, "")) for name in columns) + " |" for row in passed]


def left_out(found: Findings) -> list[str]:
    """The reasons why checks were not made, each with its count."""
    reasons = Counter(one["why"] for one in found if one["outcome"] == "not run")
    return ["", *(f"Not run, {count} times: {reason}" for reason, count in reasons.items())] if reasons else []


def shown(value: Any) -> str:
    """A number to three digits; text as it is, without what ends a cell."""
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/")
