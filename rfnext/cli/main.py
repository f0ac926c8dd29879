"""`rfnext COMMAND`: look at networks and structures, merge, export and convert, without a script.

Nothing is executed but what --network names; files are parsed. An error is one line and exit status 2.
"""

import argparse
import logging
import math
import reprlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rfnext._version import __version__
from rfnext.cli.completion import SHELLS, run_completion
from rfnext.cli.new_task import run_new_task
from rfnext.files import explained
from rfnext.lazy import LazyModule

if TYPE_CHECKING:
    from rfnext.cli import commands, doctor
else:
    commands, doctor = LazyModule("rfnext.cli.commands"), LazyModule("rfnext.cli.doctor")

LARGEST_INPUT = 2**30
"""Values of an example; as float32 they take 4 GiB."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, that of the process by default; returns the exit status."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        text = given.run(given)
    except (ImportError, OSError, TypeError, ValueError) as error:
        sys.stderr.write(f"rfnext {given.command}: error: {explained(error)}\n")
        return 2
    sys.stdout.write(f"{text}\n")
    return 0


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(map(int, text.split(",")))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1 or math.prod(sizes) > LARGEST_INPUT:
        raise argparse.ArgumentTypeError(
            f"{reprlib.repr(text)} is no shape, as 1,3,224,224 is, of at most {LARGEST_INPUT} values"
        )
    return sizes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("rfnext", description="Search the dilations of convolutional networks.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., str], text: str) -> argparse.ArgumentParser:
        added = subparsers.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    planned = command("plan", commands.run_plan, "show what a search would do with a network")
    _add_network(planned)
    planned.add_argument("--where", action="append", help="glob of layers, may be repeated; !GLOB leaves out")
    planned.add_argument("--input", type=_shape, help="shape of an example, as in 1,3,224,224; adds sizes and costs")
    planned.add_argument("--candidates", type=int, nargs="+", help="plan a one-shot search among these dilations")
    planned.add_argument("--anchor", choices=["centre", "last"], help="tap that stays in place; last if causal")
    _add_branches(planned)

    command("show", commands.run_show, "print what a structure file holds, ours or published").add_argument(
        "structure", type=Path
    )

    applied = command("apply", commands.run_apply, "give a network the dilations of a structure")
    applied.add_argument("structure", type=Path, help="structure file")
    _add_network(applied)
    applied.add_argument("--checkpoint", type=Path, help="weights of the plain or the searched network")
    applied.add_argument("--output", type=Path, help="checkpoint to write; without it, only what changes is shown")

    merged = command("merge", commands.run_merge, "merge the branches of a checkpoint into larger plain kernels")
    merged.add_argument("checkpoint", type=Path, help="of the searched or the multi-branch network")
    _add_network(merged)
    merged.add_argument("--output", type=Path, required=True, help="checkpoint to write")

    exported = command("export", commands.run_export, "write a network as a file that needs no rfnext: .pt2 or .onnx")
    _add_network(exported)
    exported.add_argument("--checkpoint", type=Path, help="weights of the plain, searched or merged network")
    exported.add_argument("--structure", type=Path, help="structure file with the dilations")
    exported.add_argument("--input", type=_shape, required=True, help="shape of an example, as in 1,3,224,224")
    exported.add_argument("--output", type=Path, required=True, help="file to write, .pt2 or .onnx")

    converted = command("convert", commands.run_convert, "convert a checkpoint of the published code to ours, or back")
    converted.add_argument("checkpoint", type=Path, help="checkpoint to convert")
    _add_network(converted)
    converted.add_argument("--to", choices=["ours", "published"], default="ours", help="format to write (ours)")
    converted.add_argument("--structure", type=Path, help="structure file of a published checkpoint; none for RFConv2d")
    converted.add_argument("--output", type=Path, required=True, help="checkpoint to write")
    converted.add_argument("--output-structure", type=Path, required=True, help="structure file to write")
    _add_branches(converted)

    command("doctor", doctor.run_doctor, "print what rfnext can use here: compiler, GPU, optional packages")
    command(
        "new-task", run_new_task, "write a task of the benchmark; run it in the root of the repository"
    ).add_argument("name")
    completed = command("completion", run_completion, "print a script by which a shell completes commands and options")
    completed.add_argument("shell", choices=SHELLS)
    completed.set_defaults(parsers=subparsers.choices)
    return parser


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", required=True, metavar="MODULE:FUNCTION", help="builds the network as designed")
    parser.add_argument("--arguments", metavar="JSON", help='arguments of that function, as in {"num_classes": 4}')


def _add_branches(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--branches", type=int, default=2, help="branches of a local search (2)")
    parser.add_argument(
        "--spread", type=float, default=0.5, help="share of the dilation, from centre to outermost branch (0.5)"
    )
    parser.add_argument("--smallest", type=int, default=1, help="smallest dilation of a local search (1)")
    parser.add_argument("--largest", type=int, default=24, help="largest dilation of a local search (24)")
