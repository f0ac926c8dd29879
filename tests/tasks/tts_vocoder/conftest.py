"""Speech that the tests of this folder share: the embedded sentences, made once."""

import pytest

from tasks.tts_vocoder.recordings import embedded


@pytest.fixture(scope="session")
def espeak(tmp_path_factory):
    """Folder of the synthetic speech, 22.05 kHz, in LJSpeech's layout."""
    if reason := embedded.unavailable("espeak"):
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFNEXT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return embedded.prepare("espeak")
