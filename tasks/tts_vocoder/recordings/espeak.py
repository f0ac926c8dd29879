"""Synthetic speech by eSpeak NG.

`python -m tasks.tts_vocoder.recordings.espeak FOLDER` writes wavs/ and metadata.csv there.

The library is part of PyPI's `espeakng-loader` and is called through ctypes. Its noise depends on a state of the
process, so the bytes are the same only in a new process that speaks the same sentences in the same order. Therefore
`embedded` starts this module as a process. The sentences were written for this repository.
"""

import argparse
import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SENTENCES = (
    "A narrow bridge leads over the river to the old mill.",
    "After the rain had stopped, the children ran out to the meadow.",
    "All nine judges agreed that the second proposal was better.",
    "An honest mistake is easily mended, but pride makes it costly.",
    "Before you paint the fence, brush away the loose rust.",
    "Both engines were checked twice on the day before the flight.",
    "Bring a warm jacket, since the nights are chilly up here.",
    "By noon the fog had lifted, and we could see the harbour.",
    "Can you hear the difference between these two recordings?",
    "Cold water flows through the pipe and cools the machine.",
    "Deep under the ice there is a lake that nobody has seen.",
    "Does the library open on Sundays during the winter?",
    "Each of the jars holds about a litre and a half of juice.",
    "Eleven wooden boxes were stacked beside the kitchen door.",
    "Every voice has a colour of its own, even in a whisper.",
    "Few people know how this clock was made to run so quietly.",
    "Five geese flew over the valley in a crooked line.",
    "For years she had measured the height of the tide by hand.",
    "Give the dough an hour to rise before you shape the loaves.",
    "Great waves rolled against the pier and sprayed the windows.",
    "Half of the orchard was planted by my grandfather.",
    "He could not decide whether to laugh or to shout.",
    "Her answer was short, but it pleased the whole committee.",
    "His notebook was full of sketches of beetles and moths.",
    "How long will the journey take if we leave at seven?",
    "I would rather walk than wait another hour for the bus.",
    "If the lamp flickers, turn the switch off and call me.",
    "In the far corner of the yard stood a rusty bicycle.",
    "It takes a steady hand to draw a circle without a compass.",
    "Just as the music ended, somebody knocked at the door.",
    "Keep the receipt, because you may want to exchange the shoes.",
    "Large parts of the desert turn green after a single storm.",
    "Last Thursday the price of copper fell by three percent.",
    "Let us begin with the easy questions and save the others.",
    "Many thanks for the parcel, which arrived in good shape.",
    "Most of the village still remembers that cold January.",
    "My neighbour feeds the hedgehogs that visit her garden.",
    "Never had the choir sung with so much joy and power.",
    "No ship could enter the bay while the cable was up.",
    "Nobody noticed that the painting had been turned around.",
    "On a clear evening you can count the islands from here.",
    "One shelf is for maps, and the other one is for letters.",
    "Our train was late, yet we caught the last ferry.",
    "Over the years the path had grown narrow and thorny.",
    "Pears and plums were sold by the basket along the road.",
    "Please read the third chapter again, and this time slowly.",
    "Quite a few of the visitors asked for the same postcard.",
    "Rain drummed on the tin roof all through the night.",
    "Seven engineers worked on the valve until it closed tightly.",
    "She folded the blue cloth and put it under the chair.",
    "Should we measure the voltage before or after the fuse?",
    "Six thousand people signed the letter within a week.",
    "Smoke rose from the chimney and drifted across the field.",
    "Some of these melodies are older than the town itself.",
    "The baker whistled while he swept the flour from the floor.",
    "The doctor advised him to rest and to drink more water.",
    "The fox waited by the hedge until the farmer had gone.",
    "The glass was so thin that it rang when you touched it.",
    "The judge read the verdict in a calm and even voice.",
    "The kitchen smelled of ginger, cloves and orange peel.",
    "The moon was bright enough to throw shadows on the snow.",
    "The pupils measured how the length of the shadow changed.",
    "The second violin plays a little louder than the first.",
    "The tower was built of grey stone and roofed with slate.",
    "There is a good view of the valley from the church tower.",
    "These figures include all the journeys made by tram.",
    "They moved the heavy table without scratching the floor.",
    "This is the only bakery that opens before five o'clock.",
    "Those who came early found a seat close to the stage.",
    "Three of the puppies were asleep behind the stove.",
    "Turn left at the fountain and follow the tram lines.",
    "Two young swallows sat on the wire and waited for food.",
    "Under the bridge the water was dark and almost still.",
    "Use a soft brush and as little paint as you can.",
    "Very slowly the gate opened, and a horse looked out.",
    "We heard thunder in the distance, but no rain came.",
    "What do you call the small bird with the red throat?",
    "When the bell rings, put down your pencils and stand up.",
    "Whoever finds the key may keep the treasure in the chest.",
    "With a long pole he pushed the boat away from the bank.",
    "Yellow leaves covered the path that leads to the station.",
    "Yesterday's storm tore two branches off the walnut tree.",
    "You will need a sharp knife, a ruler and a piece of string.",
    "Zinc and copper together make a metal that we call brass.",
)

_SYNCHRONOUS = 2
"""AUDIO_OUTPUT_SYNCHRONOUS of speak_lib.h: samples go to the callback before espeak_Synth returns."""

_UTF8 = 1
"""espeakCHARS_UTF8"""


def synthesise(sentences: Sequence[str], voice: str = "en") -> tuple[int, list[NDArray[np.int16]]]:
    """Sample rate in Hz, and the samples of each sentence.

    Raises RuntimeError if eSpeak NG does not start or refuses the voice or a sentence.
    """
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate <= 0:
        raise RuntimeError("eSpeak NG does not start; pip install --force-reinstall espeakng-loader")
    received: list[NDArray[np.int16]] = []

    def receive(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: object) -> int:
        if samples and count > 0:
            received.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # 0: continue

    signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    callback = signature(receive)  # a reference is needed until the last call below
    library.espeak_SetSynthCallback(callback)
    library.espeak_Synth.argtypes = [ctypes.c_char_p, ctypes.c_size_t, *[ctypes.c_uint] * 4, *[ctypes.c_void_p] * 2]
    if library.espeak_SetVoiceByName(voice.encode()):
        raise RuntimeError(f"eSpeak NG has no voice {voice!r}")
    waves = []
    for sentence in sentences:
        received.clear()
        text = sentence.encode() + b"\0"
        if library.espeak_Synth(text, len(text), 0, 0, 0, _UTF8, None, None) or not received:
            raise RuntimeError(f"eSpeak NG said nothing for {sentence!r}")
        waves.append(np.concatenate(received))
    return rate, waves


def write(folder: Path) -> None:
    """All `SENTENCES` in LJSpeech's layout."""
    import soundfile

    rate, waves = synthesise(SENTENCES)
    names = [f"espeak-{number:03d}" for number in range(1, len(waves) + 1)]
    (folder / "wavs").mkdir(parents=True)
    for name, wave in zip(names, waves, strict=True):
        soundfile.write(folder / "wavs" / f"{name}.wav", wave, rate, subtype="PCM_16")
    lines = (f"{name}|{text}|{text}\n" for name, text in zip(names, SENTENCES, strict=True))
    (folder / "metadata.csv").write_text("".join(lines), "utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.tts_vocoder.recordings.espeak",
        description="Synthesise fixed sentences by eSpeak NG into FOLDER/wavs and FOLDER/metadata.csv.",
    )
    parser.add_argument("folder", type=Path, help="new folder, or one without wavs/")
    write(parser.parse_args(arguments).folder)


if __name__ == "__main__":
    sys.exit(main())
