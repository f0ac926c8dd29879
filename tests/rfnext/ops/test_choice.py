"""Which implementation "auto" means: measured, pinned, or by the fixed rule."""

import json
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rfnext import mixed_dilation_conv, pin_implementation, reproducible
from rfnext.ops import choice, kept_choices
from tests import python_processes
from tests.rfnext.ops.cases import IMPLEMENTATIONS, NATIVE, Products


@pytest.fixture(autouse=True)
def _fresh_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path))
    kept_choices.path.cache_clear()
    choice.forget_measurements()
    with pin_implementation(None):
        yield
    choice.forget_measurements()


def layer(channels: int = 8, length: int = 60) -> dict[str, Any]:
    return {
        "x": torch.randn(2, channels, length, requires_grad=True),
        "weight": torch.randn(channels, channels, 3, requires_grad=True),
        "bias": None,
        "probability": torch.rand(2, requires_grad=True),
        "dilations": [(1,), (4,)],
    }


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "rfnext.ops.choice"]


def slow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one implementation slower."""
    plain = choice.IMPLEMENTATIONS[name]

    def slowed(*arguments: Any) -> Tensor:
        end = time.thread_time() + 0.02  # of computing, in which one thread is timed
        while time.thread_time() < end:
            pass
        return plain(*arguments)

    monkeypatch.setitem(choice.IMPLEMENTATIONS, name, slowed)


@pytest.mark.parametrize("fastest", IMPLEMENTATIONS)
def test_auto_picks_the_fastest_and_says_so_once(
    fastest: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in IMPLEMENTATIONS:
        if name != fastest:
            slow(name, monkeypatch)
    with caplog.at_level(logging.INFO, logger="rfnext.ops.choice"):
        for _ in range(3):
            mixed_dilation_conv(**layer())
        mixed_dilation_conv(**layer(length=62))  # between the same powers of two
        (message,) = messages(caplog)
        assert f": {fastest} (" in message
        assert "(2, 8, 60)" in message
        mixed_dilation_conv(**layer(channels=9))
        assert len(messages(caplog)) == 2


def test_auto_keeps_its_choice(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rfnext.ops.choice")
    for name in ("branches", "dense", *NATIVE):
        slow(name, monkeypatch)
    mixed_dilation_conv(**layer())
    slow("taps", monkeypatch)
    slow("taps", monkeypatch)
    start = time.thread_time()
    mixed_dilation_conv(**layer())
    (message,) = messages(caplog)
    assert ": taps (" in message
    assert time.thread_time() - start < 8 * 0.02  # it was not measured again


@pytest.mark.skipif(not NATIVE, reason="needs a C compiler")
def test_what_can_no_longer_compute_a_layer_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="rfnext.ops.choice")
    monkeypatch.setattr(choice, "_measure", lambda names, *_: {name: float(name != "native") for name in names})
    mixed_dilation_conv(**layer())
    monkeypatch.setattr(choice, "native_is_for", lambda *_: False)  # as after native.forget(), without a compiler
    mixed_dilation_conv(**layer())
    first, second = messages(caplog)
    assert ": native (" in first
    assert "native" not in second


def test_layers_in_another_order_of_memory_are_measured_anew(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rfnext.ops.choice")
    contiguous = layer()
    last = {"x": contiguous["x"].detach().mT.contiguous().mT.requires_grad_()}
    sliced = {"x": contiguous["x"].detach().repeat(1, 1, 2)[..., ::2].requires_grad_()}
    for number, changed in enumerate(({}, last, sliced), start=1):
        for _ in range(2):
            mixed_dilation_conv(**contiguous | changed)
        assert len(messages(caplog)) == number


def test_measurements_can_be_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rfnext.ops.choice")
    for expected in (1, 1, 2):
        if expected == 2:
            choice.forget_measurements()
        mixed_dilation_conv(**layer())
        assert len(messages(caplog)) == expected


def test_another_process_takes_what_was_measured_unless_the_file_is_broken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def another_process() -> str:
        choice.forget_measurements(kept=False)
        caplog.clear()
        mixed_dilation_conv(**layer())
        (message,) = messages(caplog)
        return message

    assert " ms" in another_process()
    (file,) = tmp_path.glob("native/choices-*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert another_process().endswith(" (measured before)")
    (key,) = json.loads(file.read_text())
    good = file.read_text()
    for broken in ("[]", good[:-5], '{"a": 1}', "[" * 100_000, json.dumps({key: "triton"}), json.dumps({key: "x"})):
        file.write_text(broken)
        assert " ms" in another_process()
        assert json.loads(file.read_text()).keys() == {key}
    file.chmod(0o666)
    assert " ms" in another_process()
    assert "others may have written it" in caplog.text
    assert another_process().endswith(" (measured before)")


def test_what_a_process_that_died_has_left_beside_the_choices_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (written.append(Path(old)), replace(old, new)))
    kept_choices.keep("one", "taps")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.kill()
    ended.wait()
    left = written[0].with_name(written[0].name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    left.write_text("{")
    kept_choices.keep("other", "dense")
    assert not left.exists()
    assert kept_choices.read() == {"one": "taps", "other": "dense"}


def test_measuring_leaves_random_numbers_and_gradients_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rfnext.ops.choice")
    arguments = layer()
    state = torch.get_rng_state()
    y = mixed_dilation_conv(**arguments)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(messages(caplog)) == 1
    assert all(arguments[name].grad is None for name in ("x", "weight", "probability"))
    y.sum().backward()
    assert all(arguments[name].grad is not None for name in ("x", "weight", "probability"))


def test_checkpoints_and_modes_do_not_see_the_measurement(caplog: pytest.LogCaptureFixture) -> None:
    """A checkpoint compares what the forward pass saved with what its repetition saves."""
    caplog.set_level(logging.INFO, logger="rfnext.ops.choice")
    arguments = layer()
    with Products() as products:
        y = checkpoint(lambda x: mixed_dilation_conv(**{**arguments, "x": x}), arguments["x"], use_reentrant=False)
    assert len(messages(caplog)) == 1
    assert products.count <= 2 * 60 * 8 * 8 * 12  # one forward pass, of at most 12 taps; measuring takes 20
    y.sum().backward()
    assert arguments["x"].grad is not None


def test_auto_works_without_gradients() -> None:
    arguments = layer()
    with torch.inference_mode():
        found = mixed_dilation_conv(**{**arguments, "x": arguments["x"].detach().clone()})
    with torch.no_grad():
        torch.testing.assert_close(found, mixed_dilation_conv(**arguments, implementation="branches"))


def test_auto_measures_nothing_when_results_must_not_depend_on_time(caplog: pytest.LogCaptureFixture) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with caplog.at_level(logging.INFO, logger="rfnext.ops.choice"):
            mixed_dilation_conv(**layer())
    finally:
        torch.use_deterministic_algorithms(False)
    assert not messages(caplog)


def test_auto_works_in_function_transforms() -> None:
    arguments = layer()

    def loss(weight: Tensor) -> Tensor:
        return mixed_dilation_conv(**{**arguments, "weight": weight}).square().sum()

    found = torch.func.grad(loss)(arguments["weight"])
    (expected,) = torch.autograd.grad(loss(arguments["weight"]), arguments["weight"])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the implementations that run from now on."""
    names: list[str] = []

    def noting(name: str, plain: Any) -> Any:
        return lambda *arguments: (names.append(name), plain(*arguments))[1]

    for name in IMPLEMENTATIONS:
        monkeypatch.setitem(choice.IMPLEMENTATIONS, name, noting(name, choice.IMPLEMENTATIONS[name]))
    return names


def test_auto_can_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    names = used(monkeypatch)
    with pin_implementation("dense"):
        mixed_dilation_conv(**layer())
        with pin_implementation("branches"):
            mixed_dilation_conv(**layer())
        mixed_dilation_conv(**layer())
        mixed_dilation_conv(**layer(), implementation="taps")
    assert names == ["dense", "branches", "dense", "taps"]
    pin_implementation("taps")
    mixed_dilation_conv(**layer())
    assert names[4:] == ["taps"]
    pin_implementation(None)
    mixed_dilation_conv(**layer())
    assert len(names) > 10  # measured


def test_equal_runs_on_a_cpu_do_not_measure_unless_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    names = used(monkeypatch)
    with reproducible(torch.device("cpu")):
        mixed_dilation_conv(**layer())
    with pin_implementation("branches"), reproducible(torch.device("cpu")):
        mixed_dilation_conv(**layer())
    assert names == [*(NATIVE or ["taps"]), "branches"]
    with pin_implementation("auto"), reproducible(torch.device("cpu")):
        mixed_dilation_conv(**layer())
    assert len(names) > 3  # measured


def implementation_in(thread: ThreadPoolExecutor, names: list[str]) -> str:
    """Which implementation a layer gets in a thread of its own."""
    names.clear()
    choice.forget_measurements()
    thread.submit(lambda: mixed_dilation_conv(**layer())).result()
    return names[-1] if len(names) == 1 else "measured"


def test_a_block_pins_in_its_own_thread_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    names = used(monkeypatch)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        blocks = [lambda: reproducible(torch.device("cpu")), lambda: pin_implementation("branches")]
        for make, expected in zip(blocks, [*(NATIVE or ["taps"]), "branches"], strict=True):
            block: Any = make()
            one.submit(block.__enter__).result()
            assert implementation_in(one, names) == expected
            assert implementation_in(two, names) == "measured"
            one.submit(block.__exit__, None, None, None).result()
            assert implementation_in(one, names) == "measured"
        pin_implementation("dense")  # no block: for the process
        assert implementation_in(two, names) == "dense"
        pin_implementation(None)


def test_blocks_of_two_threads_may_begin_and_end_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    names = used(monkeypatch)
    first, second = pin_implementation("branches"), pin_implementation("taps")  # both are made before either begins
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        one.submit(first.__enter__).result()
        two.submit(second.__enter__).result()
        assert (implementation_in(one, names), implementation_in(two, names)) == ("branches", "taps")
        one.submit(first.__exit__).result()
        assert (implementation_in(one, names), implementation_in(two, names)) == ("measured", "taps")
        two.submit(second.__exit__).result()
        assert implementation_in(two, names) == "measured"


def test_blocks_closed_out_of_order_leave_none_on(monkeypatch: pytest.MonkeyPatch) -> None:
    names = used(monkeypatch)
    outer, inner = pin_implementation("branches"), pin_implementation("taps")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__()
    mixed_dilation_conv(**layer())
    inner.__exit__()
    assert names == ["taps"]
    mixed_dilation_conv(**layer())
    assert len(names) > 2  # measured


def test_a_block_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    names = used(monkeypatch)
    run = torch.compile(lambda arguments: mixed_dilation_conv(**arguments), backend="eager", fullgraph=True)
    for name in ("branches", "dense"):
        with pin_implementation(name):
            run(layer())
    assert names == ["branches", "dense"]


def test_a_pin_must_be_known() -> None:
    with pytest.raises(ValueError, match="unknown implementation 'fast'; known are auto, branches, taps, dense"):
        pin_implementation("fast")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("dense", ""), ("", "2 branches"), ("fast", "RFNEXT_IMPLEMENTATION")],  # an empty one is ignored: measured
)
def test_the_environment_can_pin(value: str, expected: str) -> None:
    code = (
        "import logging, torch, rfnext\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "logging.getLogger('rfnext.ops.native_build').setLevel(logging.WARNING)\n"
        "rfnext.mixed_dilation_conv(torch.ones(1, 1, 9), torch.ones(1, 1, 3), None, torch.ones(2), [(1,), (2,)])\n"
    )
    done = python_processes.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RFNEXT_IMPLEMENTATION": value},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert expected in done.stderr if expected else not done.stderr
    assert (done.returncode == 0) == (value != "fast")
