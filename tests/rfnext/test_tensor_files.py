"""Files of tensors: what torch.save wrote comes back, and what would take more memory than the file is refused."""

import io
import resource
import zipfile

import pytest
import torch

from rfnext import tensor_files


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_wrote_comes_back(tmp_path, zipped):
    content = {"state_dict": {"a": torch.arange(4.0)}, "meta": {"epoch": 3, "names": ["x", None, 1.5]}}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = tensor_files.read(tmp_path / "a.pt")
    assert torch.equal(found["state_dict"]["a"], content["state_dict"]["a"])
    assert found["meta"] == content["meta"]


def with_parts(path, method, **changes):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, buffer)
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(path, "w", method) as packed:
        for name in archive.namelist():
            packed.writestr(name, changes.get(name.rpartition("/")[2].partition(".")[0], archive.read(name)))


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x04\x85R.", r"makes data that it does not hold \(bytearray\)"),
        (b"c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0hex\x86R.", r"makes data that it does not hold \(codec hex\)"),
        (b"cposix\nsystem\nX\x04\0\0\0true\x85R.", "UnpicklingError"),
    ],
)
def test_programs_are_not_run(tmp_path, pickled, message):
    with_parts(tmp_path / "a.pt", zipfile.ZIP_STORED, data=b"\x80\x02" + pickled)
    with pytest.raises(ValueError, match=message):
        tensor_files.read(tmp_path / "a.pt")


def test_an_archive_is_not_inflated(tmp_path):
    with_parts(tmp_path / "a.pt", zipfile.ZIP_DEFLATED, data=bytes(2**28))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="compressed, which torch does not write"):
        tensor_files.read(tmp_path / "a.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


def test_an_archive_whose_parts_are_larger_than_the_file(tmp_path):
    with_parts(tmp_path / "a.pt", zipfile.ZIP_STORED)
    data = bytearray((tmp_path / "a.pt").read_bytes())
    entry = data.index(b"PK\1\2")  # of the directory; its sizes are at 20 and 24
    data[entry + 20 : entry + 28] = 2 * (2**30).to_bytes(4, "little")
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(ValueError, match="its parts are larger than the file"):
        tensor_files.read(tmp_path / "a.pt")


def test_tensors_that_repeat_a_number_are_larger_than_what_is_stored(tmp_path):
    torch.save({"a": torch.zeros(1).expand(2**30)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="tensor 'a' is larger than what is stored of it"):
        tensor_files.check_tensors(tensor_files.read(tmp_path / "a.pt"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_that_are_no_numbers(dtype):
    model = torch.nn.Linear(2, 1)
    model.register_buffer("unset", torch.full((3,), torch.nan, dtype=dtype))
    model.register_buffer("mean", torch.zeros(3, dtype=dtype))
    model.register_buffer("running_var", torch.ones(1, dtype=dtype))
    weights = torch.tensor([0.0, 1.0], dtype=dtype)
    infinite = weights / 0  # nan, inf; masks of attention, which are buffers, hold infinities
    state = {"weight": weights, "steps": torch.tensor(3), "unset": infinite, "mean": infinite[1:]}
    tensor_files.refuse_wrong_values(state, model)
    for name in ("weight", "mean", "of another network"):
        with pytest.raises(ValueError, match=f"tensor '{name}' has values that are no numbers .NaN.: the training div"):
            tensor_files.refuse_wrong_values(state | {name: infinite}, model)
    for name in ("weight", "branch_weight", "running_var"):
        with pytest.raises(ValueError, match=f"tensor '{name}' has infinite values"):
            tensor_files.refuse_wrong_values(state | {name: infinite[1:]}, model)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_weights_of_another_kind_are_refused(dtype):
    """torch copies them: integers as if no scale belonged to them, complex numbers without their imaginary part."""
    model = torch.nn.BatchNorm1d(2)
    state = model.state_dict()
    tensor_files.refuse_wrong_values({name: value.double() for name, value in state.items()}, model)
    for name in ("weight", "running_mean"):
        with pytest.raises(ValueError, match=f"tensor '{name}' holds {str(dtype)[6:]}, the network float32"):
            tensor_files.refuse_wrong_values(state | {name: torch.ones(2).to(dtype)}, model)


def test_lists_within_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "MOST_VALUES", 10**5)  # counting all of them takes seconds
    value = ["x"]
    for _ in range(40):
        value = [value, value]
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="more than 100000 values"):
        tensor_files.read(tmp_path / "a.pt")
