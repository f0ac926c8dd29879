"""What the fields of a record may hold. Reading is strict: nothing is converted, left out or passed over."""

import datetime
import json
from pathlib import PurePosixPath
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic takes that of typing from Python 3.12 on

NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
"""What names of tasks, presets and methods match: they become names of files."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has characters that are not printable")
    return text


def _time(text: str) -> str:
    if datetime.datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("has no time zone")
    return text


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ValueError("is no path inside of the results folder")
    return name


def _finite(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise ValueError("has numbers that are not finite") from error
    return value


def _profile(axis: "Axis") -> "Axis":
    edges, share = axis.get("edges"), axis.get("share")
    if (edges is None) != (share is None):
        raise ValueError("has one of edges and share, not both")
    if edges is not None and share is not None and (len(share) % 2 == 0 or len(edges) != len(share) + 1):
        raise ValueError("needs an odd number of shares and one edge more")
    if edges is not None and edges != sorted(edges):
        raise ValueError("has edges that are not in their order")
    if axis["theoretical"] is None and axis.get("farther_than") is None:
        raise ValueError("has neither a theoretical field nor farther_than")
    return axis


RENAMED = {
    "global_single": "genetic_single",
    "global_to_local_single": "genetic_to_local_single",
    "global_to_local_multi": "genetic_to_local_multi",
}
"""What older records call a method -> its name."""


def current_name(method: str) -> str:
    """The name of a method that a record names."""
    return RENAMED.get(method, method)


def _current_command(line: str) -> str:
    return " ".join(map(current_name, line.split(" ")))


Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Command = Annotated[str, AfterValidator(_current_command)]
Method = Annotated[Name, AfterValidator(current_name)]
Label = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Time = Annotated[str, AfterValidator(_time)]
Inside = Annotated[str, AfterValidator(_inside)]
Whole = Annotated[int, Field(ge=0, le=2**53)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Real = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
Dilations = dict[str, Annotated[list[Annotated[int, Field(ge=1, le=2**31 - 1)]], Field(min_length=1, max_length=8)]]
Json = Annotated[dict[str, Any], AfterValidator(_finite)]
Layers = Annotated[list[Annotated[int, Field(ge=1, le=2**31 - 1)]], Field(min_length=1)]
"""Of studies: one dilation or lag for each layer."""
Positive = Annotated[float, Field(gt=0, le=1e15)]
Percent = Annotated[float, Field(ge=0, le=100)]
Versions = dict[str, Label | None]

STRICT = ConfigDict(extra="forbid")


@with_config(STRICT)
class Protocol(TypedDict):
    """See `records.protocol`."""

    task: Name
    version: Whole
    data: str
    config: Json
    settings: Json


@with_config(STRICT)
class Device(TypedDict):
    """See `machine.describe_device`."""

    type: Label
    name: Label
    threads: Annotated[int, Field(ge=1, le=2**20)]
    native_kernels: NotRequired[bool]
    implementation: NotRequired[Label]


Radius = with_config(STRICT)(TypedDict("Radius", {"0.5": Amount, "0.95": Amount}))


@with_config(STRICT)
class Axis(TypedDict):
    """One axis of a receptive field, see `receptive_fields.measure`. tried: what older records have."""

    step: Annotated[float, Field(gt=0, le=1e9)]
    size: Annotated[int, Field(ge=1, le=2**40)]
    radius: Radius  # pyright: ignore[reportInvalidTypeForm]
    theoretical: Annotated[list[Real], Field(min_length=2, max_length=2)] | None
    farther_than: NotRequired[Amount | None]
    tried: NotRequired[Any]
    edges: NotRequired[list[Real]]
    share: NotRequired[list[Real]]


@with_config(STRICT)
class ReceptiveField(TypedDict):
    """See `receptive_fields.measure`."""

    unit: Label
    output: Label
    inputs: Whole
    part: Label
    seconds: Amount
    axes: Annotated[list[Annotated[Axis, AfterValidator(_profile)]], Field(min_length=1, max_length=8)]


@with_config(STRICT)
class Round(TypedDict):
    """One round of a search: the structure after `step` steps, epochs or candidates, and what judged it."""

    step: Whole
    structure: Dilations
    branches: NotRequired[Json]
    probability: NotRequired[Json]
    validation: NotRequired[dict[str, Real]]
    fitness: NotRequired[Real]
    factor: NotRequired[Real]
