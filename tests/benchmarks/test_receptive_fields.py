"""Receptive fields of scored networks: known answers, and nothing of a cell's result depends on measuring them."""

import dataclasses
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.cell import Cell
from benchmarks.methods.table import METHODS
from benchmarks.receptive_fields import EDGES, GROWTH, LARGEST, Profile, effective, measure, narrowed, theoretical
from benchmarks.records.record import read
from benchmarks.running.execute import run_cell
from benchmarks.running.pool import in_process
from tasks.spec import Probe, Split, Task

SPLIT = Split("validation", 1)


def boxes(*dilations: int, **other: Any) -> nn.Sequential:
    """Convs of kernel 3 whose weights are all one, without biases."""
    convs = [nn.Conv1d(1, 1, 3, padding=one, dilation=one, bias=False, **other) for one in dilations]
    for conv in convs:
        nn.init.ones_(conv.weight)
    return nn.Sequential(*convs)


def probing(forward: Callable[[Tensor], Tensor], *inputs: Tensor, shift: float = 0.0) -> Probe:
    return Probe(forward, inputs, "samples", (1.0,) * (inputs[0].dim() - 2), "the output", shift)


def measured(toy: ModuleType, network: nn.Module, probe: Probe) -> dict[str, Any]:
    task = dataclasses.replace(toy.TASK, probe=lambda *_: probe)
    found = measure(task, network, toy.TASK.presets["tiny"], SPLIT)
    assert found is not None
    return found


def test_two_boxes_are_measured_as_computed_by_hand(toy: ModuleType) -> None:
    model = boxes(1, 2)
    probe = dataclasses.replace(probing(model, torch.randn(1, 1, 101), torch.randn(1, 1, 61)), step=(4.0,))
    found = measured(toy, model, probe)
    assert json.loads(json.dumps(found)) == found
    assert (found["unit"], found["inputs"], found["part"]) == ("samples", 2, "validation")
    (axis,) = found["axes"]
    # Offsets -3 .. 3 get 1, 1, 2, 1, 2, 1, 1 of 9 paths; one position is 4 units.
    assert axis["edges"] == [-14.0, -10.0, -6.0, -2.0, 2.0, 6.0, 10.0, 14.0]
    assert axis["share"] == pytest.approx([n / 9 for n in (1, 1, 2, 1, 2, 1, 1)], abs=1e-4)
    assert axis["radius"] == {"0.5": 4.0, "0.95": 12.0}
    assert axis["theoretical"] == [-12.0, 12.0]
    assert axis["size"] == 101


def test_axes_are_measured_on_their_own(toy: ModuleType) -> None:
    model = nn.Conv2d(1, 1, (3, 5), padding=(2, 2), dilation=(2, 1), bias=False)
    nn.init.ones_(model.weight)
    rows, columns = measured(toy, model, probing(model, torch.randn(1, 1, 21, 31)))["axes"]
    assert rows["share"] == pytest.approx([1 / 3, 0, 1 / 3, 0, 1 / 3], abs=1e-4)
    assert (rows["theoretical"], rows["radius"]) == ([-2, 2], {"0.5": 2.0, "0.95": 2.0})
    assert columns["share"] == pytest.approx([1 / 5] * 5, abs=1e-4)
    assert (columns["theoretical"], columns["radius"]) == ([-2, 2], {"0.5": 1.0, "0.95": 2.0})
    assert (rows["size"], columns["size"]) == (21, 31)


def test_the_theoretical_field_is_found_beyond_the_ends_of_the_real_inputs() -> None:
    model = boxes(1, 16, 16, 20)  # reads 107 positions of an input that has 41
    assert theoretical(probing(model, torch.zeros(1, 1, 41)), torch.zeros(1, 1, 41), 0).bounds == (-53, 53)
    far = theoretical(probing(boxes(*[40] * 5), torch.zeros(1, 1, 50)), torch.zeros(1, 1, 50), 0)
    assert far.bounds == (-200, 200)


def test_the_theoretical_field_on_large_images_is_found_beyond_their_ends() -> None:
    large = torch.zeros(1, 1, 320, 416)
    assert large.numel() * GROWTH[0] > LARGEST
    model = nn.Sequential(
        nn.Conv2d(1, 1, 3, stride=2, padding=1),
        nn.Conv2d(1, 1, (3, 5), dilation=(90, 50), padding=(90, 100)),
        nn.Upsample(scale_factor=2),
    )
    probe = probing(model, large)
    # +-90 and +-100 positions of stride 2, one more by the first conv; the middle output is the first of its pair, so
    # the field is centred 0.5 before the pair's.
    rows, columns = (theoretical(probe, large, axis).bounds for axis in range(2))
    assert rows == (-181, 181)
    assert columns == (-201, 201)
    # Of a smaller image, which is not narrowed, the same.
    small = torch.zeros(1, 1, 192, 224)
    assert narrowed(small, 0).shape == small.shape
    assert [theoretical(probe, small, axis).bounds for axis in range(2)] == [rows, columns]


def test_an_image_is_narrowed_along_its_other_axis_by_whole_strides() -> None:
    assert narrowed(torch.zeros(1, 3, 800, 1344), 0).shape == (1, 3, 800, 64)
    assert narrowed(torch.zeros(1, 3, 800, 1344), 1).shape == (1, 3, 32, 1344)
    assert narrowed(torch.zeros(1, 3, 401, 333), 0).shape == (1, 3, 401, 163)
    assert narrowed(torch.zeros(1, 1, 100_000), 0).shape == (1, 1, 100_000)
    assert narrowed(torch.zeros(1, 1, 40, 400, 300), 1).shape[3] == 400


def test_a_network_that_takes_no_narrower_image_is_measured_on_the_whole() -> None:
    large = torch.zeros(1, 1, 280, 280)
    unpadded = nn.Conv2d(1, 1, 3, dilation=128)
    assert narrowed(large, 0).shape[3] < 257
    assert theoretical(probing(unpadded, large), large, 0).bounds is None
    near = nn.Conv2d(1, 1, (3, 3), dilation=(20, 128))
    assert theoretical(probing(near, large), large, 0).bounds == pytest.approx((-20, 20), abs=0.1)


@pytest.mark.parametrize("whole", [nn.InstanceNorm1d(1), nn.GroupNorm(1, 1)], ids=["instance", "group"])
def test_a_network_that_reads_the_whole_input_has_no_end(toy: ModuleType, whole: nn.Module) -> None:
    model = nn.Sequential(boxes(1), whole)
    (axis,) = measured(toy, model, probing(model, torch.randn(1, 1, 40)))["axes"]
    assert axis["theoretical"] is None
    assert axis["farther_than"] == 40 * 7
    assert sum(axis["share"]) == pytest.approx(1, abs=1e-3)


def test_strides_and_upsampling_keep_the_centre() -> None:
    patches = nn.Conv1d(1, 1, 4, stride=4)
    assert theoretical(probing(patches, torch.zeros(1, 1, 64)), torch.zeros(1, 1, 64), 0).bounds == (-1.5, 1.5)
    strided = nn.Conv1d(1, 1, 3, stride=2, padding=1)
    assert theoretical(probing(strided, torch.zeros(1, 1, 64), shift=-0.5), torch.zeros(1, 1, 64), 0).bounds == (-1, 1)
    upsampled = nn.Upsample(scale_factor=8)
    # The middle output of 8 per input position is the first of its position: 0.4375 before that one's centre.
    assert theoretical(probing(upsampled, torch.zeros(1, 1, 64)), torch.zeros(1, 1, 64), 0).bounds == (0.4375, 0.4375)


def test_a_radius_holds_its_part_of_the_gradient() -> None:
    profile = Profile(torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0]), torch.tensor([0.05, 0.2, 0.3, 0.2, 0.25]))
    assert [profile.radius(part) for part in (0.3, 0.5, 0.7, 0.95, 1.0)] == [0.0, 1.0, 1.0, 2.0, 3.0]


def test_a_profile_is_small_and_whole_however_long_the_input() -> None:
    offset = torch.arange(-200_000, 200_001, dtype=torch.float64)
    edges, share = Profile(offset, torch.full_like(offset, 1 / len(offset))).binned()
    assert len(share) == len(edges) - 1 <= 65
    assert sum(share) == pytest.approx(1)
    assert edges[-1] == -edges[0] == EDGES[-1]  # what lies beyond is in the last bins
    inner = [edge for edge in edges if abs(edge) < EDGES[-2]]
    for low, high, part in zip(inner, inner[1:], share[edges.index(inner[0]) :], strict=False):
        assert part == pytest.approx((high - low) / len(offset))


def test_positions_without_a_gradient_are_left_out_and_none_at_all_is_an_error() -> None:
    model = nn.Sequential(boxes(1), nn.ReLU())
    dead, live = -torch.ones(1, 1, 41), torch.ones(1, 1, 41)
    (profile,) = effective(probing(model, dead, live))
    assert float(profile.share.sum()) == pytest.approx(1)
    with pytest.raises(ValueError, match="at none"):
        effective(probing(model, dead))


def test_a_failing_probe_loses_no_training(
    toy: ModuleType, cell: Callable[..., Cell], caplog: pytest.LogCaptureFixture
) -> None:
    def probe(*_: Any) -> Probe:
        raise RuntimeError("no such layer")

    here = cell(task=dataclasses.replace(toy.TASK, probe=probe))
    with caplog.at_level(logging.ERROR):
        record = run_cell(here)
    assert record.status == "done"
    assert record.receptive_field is None
    assert "receptive fields were not measured" in caplog.text
    assert "no such layer" in caplog.text


def test_measuring_leaves_everything_as_it_was(toy: ModuleType) -> None:
    class Net(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Dropout(), nn.Conv1d(4, 2, 1))

    torch.manual_seed(0)
    model = Net()
    model[1].eval()  # as detectors train with frozen norms
    model(torch.randn(2, 1, 9)).sum().backward()

    def state() -> list[Any]:
        gradients = [parameter.grad.tolist() for parameter in model.parameters() if parameter.grad is not None]
        values = {name: value.tolist() for name, value in model.state_dict().items()}
        draws = [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002
        return [values, gradients, [module.training for module in model.modules()], draws]

    def probe(*_: Any) -> Probe:
        torch.randn(3)
        return probing(model, torch.randn(1, 1, 30, generator=torch.Generator().manual_seed(0)))

    before, enabled = state(), torch.backends.cudnn.enabled
    task: Task[Any] = dataclasses.replace(toy.TASK, probe=probe)
    found = [measure(task, model, toy.TASK.presets["tiny"], SPLIT) for _ in range(2)]
    assert state() == before
    assert torch.backends.cudnn.enabled is enabled
    assert found[0] is not None
    assert found[1] is not None
    assert found[0] | {"seconds": 0} == found[1] | {"seconds": 0}


@pytest.mark.parametrize("name", ["baseline", "baseline_multi"])
def test_a_cell_has_the_same_result_whether_it_is_measured_or_not(
    name: str, cell: Callable[..., Cell], toy: ModuleType, results: Path
) -> None:
    def result(one: Cell) -> dict[str, Any]:
        outcome = METHODS[name].finish.run(one, in_process(), None)
        found = {part: getattr(outcome, part) for part in ("metrics", "metrics_last", "validation", "history")}
        return found | {"draws": torch.rand(3).tolist(), "structure": dict(outcome.structure)}

    without = cell(name, task=dataclasses.replace(toy.TASK, probe=None), results=results / "without")
    assert result(cell(name)) == result(without)


def test_a_record_keeps_what_was_measured(cell: Callable[..., Cell], results: Path) -> None:
    here = cell("local_single")
    record = run_cell(here)
    assert record.receptive_field is not None
    stored = read(here.key.path(results))
    assert stored.receptive_field == record.receptive_field
    (axis,) = record.receptive_field["axes"]
    assert record.structure is not None
    reach = sum(dilation for (dilation,) in (record.structure["0"], record.structure["2"]))
    assert axis["theoretical"] == [-reach, reach]
    assert len(json.dumps(record.receptive_field)) < 4000


def test_a_task_without_a_probe_is_not_measured(toy: ModuleType) -> None:
    task = dataclasses.replace(toy.TASK, probe=None)
    assert measure(task, toy.build(toy.TASK.presets["tiny"]), toy.TASK.presets["tiny"], SPLIT) is None
