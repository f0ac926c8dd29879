"""The commands of the README, typed as they stand, from a folder of recordings to a synthesised file."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).parents[3]
README = ROOT / "tasks/tts_vocoder/README.md"

SMALL = (
    "--generator hifi_gan_v3 --channels 16 --mel.sample-rate 8000 --mel.fmax 4000 --recipe stft --epochs 1 --batch 4 "
    "--segment 2048 --validate-every 1 --test 1 --validation 1 --search.interval 1 --search.rounds 1"
)
"""Options that a training is shortened by."""


@pytest.mark.slow
def test_from_recordings_to_a_file(espeak, tmp_path):
    (tmp_path / "recordings" / "wavs").mkdir(parents=True)
    for number in range(1, 5):
        wave, rate = soundfile.read(espeak / "wavs" / f"espeak-00{number}.wav")
        soundfile.write(tmp_path / "recordings" / "wavs" / f"s{number}.wav", wave[: 2 * rate], rate)
    block = re.search(r"## From a folder of recordings.*?```bash\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert block is not None
    said = []
    for line in block[1].splitlines():
        words = shlex.split(line, comments=True)
        assert words[:2] == ["python", "-m"]
        small = shlex.split(SMALL) if words[2] == "benchmarks.run" else []
        done = subprocess.run(
            [sys.executable, *words[1:], *small],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0].startswith("fine: 4 clips")
    network = re.search(r"^network: (.*)$", said[1], re.MULTILINE)
    assert network is not None
    assert f"--checkpoint {Path(network[1]).relative_to(tmp_path)}" in block[1]
    assert said[2] == said[1]  # what is run again gives the same numbers
    wave, rate = soundfile.read(tmp_path / "out.wav")
    assert rate == 8000
    assert abs(len(wave) / rate - soundfile.info(tmp_path / "recordings/wavs/s1.wav").duration) < 0.1
