"""Past findings stay mended, and a few hundred seeded inputs end in a value or a clear error."""

import json

import pytest

from tests.faults.fuzz import fuzzer
from tests.faults.fuzz.readers import READERS


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("reader", READERS)
def test_readers_end_in_a_value_or_their_own_error(reader, tmp_path, capsys):
    status = fuzzer.main(["--inputs", "25", "--seed", "0", "--keep", str(tmp_path), "--reader", reader])
    said = json.loads(capsys.readouterr().out)
    assert (status, said["findings"]) == (0, {}), [path.read_text()[-2000:] for path in tmp_path.glob("*/finding.txt")]
    assert said["inputs"] > 25
