"""Mels that an acoustic model predicted for recordings, as HiFi-GAN is fine-tuned on them.

FOLDER/<clip>.npy beside every recording <clip>.wav: (mels, frames), predicted with the recording's own durations
(teacher forcing), so that frame f belongs to the samples from f * hop on. The recordings are neither trimmed nor
scaled.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rfnext.lazy import LazyModule
from tasks.spec import Report
from tasks.tts_vocoder.mels.mel import MelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.tts_vocoder.mels import saved_mel
else:
    saved_mel = LazyModule("tasks.tts_vocoder.mels.saved_mel")

TOLERANCE = 2
"""Frames by which a mel and its recording may differ in length: conventions differ in the frames at the ends."""


@dataclass(frozen=True)
class Predicted:
    """A folder of mels, and the configuration that they must have. fingerprint: of their content, so that what was read
    is not taken for what is there now."""

    folder: Path
    config: MelConfig
    fingerprint: str | None = None

    def path(self, name: str) -> Path:
        """The file of a clip's mel."""
        return self.folder / f"{name}.npy"

    def read(self, name: str, samples: int, report: Report) -> "Tensor | None":
        """The mel (mels, frames) of a clip of so many samples, not longer than the clip; None, once reported, if it is
        missing, of another convention (`mel_check`), or of another length."""
        mel = saved_mel.read_mel(self.path(name), self.config, report)
        if mel is None:
            return None
        whole = samples // self.config.hop
        if abs(mel.shape[1] - whole) > TOLERANCE:
            what = f"{mel.shape[1]} frames for a recording of {whole}, at {self.config.sample_rate} Hz and hop"
            fix = "predict it with the recording's own durations (teacher forcing), at that rate and hop"
            report(self.path(name), None, f"{what} {self.config.hop}", fix)
            return None
        return mel[:, :whole]
