"""Spoken words as images of log-mel energies or MFCCs, which the same integers make on the device."""

from __future__ import annotations

import itertools
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import Arrays, DataSet, Images, Indices, Labels, stratified_split
from pipeline.data.folders import TEST_FRACTION, list_splits
from pipeline.data.options import AudioOptions
from pipeline.data.places import ENVIRONMENT, usual_places
from pipeline.data.registry import register_with
from pipeline.data.wav import read_wav
from pipeline.errors import DataError
from pipeline.frontend import features
from pipeline.storage import why_unreadable

NAME = "spoken_digits"
NPZ_FILE = "fsdd.npz"
RECORDINGS = "recordings"  # the folder of the Free Spoken Digit Dataset that holds the clips
_TEST_SPEAKER = (
    "theo"  # of the digits, where nobody is named: a quiet voice, so that loudness must not matter
)
_TEST_INDICES = 5  # split "clip": the data set's usual test clips are each speaker's first five of a digit
_SPLIT_SEED = 1952
_KEYS = ("pcm", "offset", "y", "speaker", "index", "sample_rate")


@dataclass(frozen=True, slots=True, eq=False)
class Clips:
    """Clips of any length, their classes, and who speaks ("" where unknown)."""

    samples: Sequence[NDArray[np.int16]]
    labels: Labels
    speakers: NDArray[np.str_]
    class_names: tuple[str, ...]
    source: str
    test: NDArray[np.bool_] | None = None  # the data set's own test clips
    val: NDArray[np.bool_] | None = None


@register_with(NAME, AudioOptions())
def spoken_digits(path: Path | None, options: AudioOptions) -> Arrays:
    """The Free Spoken Digit Dataset: `fsdd.npz`, or the folder of DIGIT_SPEAKER_INDEX.wav.

    path: the file, the folder, or one that holds either (`recordings/`); None searches the usual places.
    Raises DataError where there is none, and for damage.
    """
    for place in [path] if path is not None else usual_places():
        if place.is_file():
            return _arrays(_from_npz(place, options.sample_rate), options)
        if (place / NPZ_FILE).is_file():
            return _arrays(_from_npz(place / NPZ_FILE, options.sample_rate), options)
        for folder in (place, place / RECORDINGS, place / "free-spoken-digit-dataset" / RECORDINGS):
            if next(folder.glob("[0-9]_*_*.wav"), None) is not None:
                return _arrays(_from_names(folder, options.sample_rate), options)
    where = f"at {path}" if path is not None else "in the usual places"
    raise DataError(
        f"no spoken digits {where}",
        hint="clone https://github.com/Jakobovski/free-spoken-digit-dataset and pass --data FOLDER, "
        f"or set ${ENVIRONMENT} to the folder that holds it",
    )


@register_with("audio_folder", AudioOptions())
def audio_folder(path: Path | None, options: AudioOptions) -> Arrays:
    """WAV files of classes named by their folders, as in `image_folder`.

    Speakers are known where names look like SPEAKER_nohash_N.wav (Speech Commands). Raises DataError.
    """
    if path is None:
        raise DataError(
            "an audio folder needs a path", hint="data.path in the run file, or --data on the command line"
        )
    class_names, splits = list_splits(path, (".wav",))
    order = list(splits)
    files = [file for split in order for file in splits[split].files]
    belongs = np.repeat(order, [len(splits[split].files) for split in order])
    speakers = [f.name.split("_nohash_")[0] if "_nohash_" in f.name else "" for f in files]
    clips = Clips(
        samples=[read_wav(file, options.sample_rate) for file in files],
        labels=np.concatenate([splits[split].labels for split in order]),
        speakers=np.array(speakers, dtype=str),
        class_names=class_names,
        source=str(path),
        test=belongs == "test" if "test" in splits else None,
        val=belongs == "val" if "val" in splits else None,
    )
    return _arrays(clips, options)


def fitted(samples: Sequence[NDArray[np.int16]], length: int) -> NDArray[np.int16]:
    """(n, length): shorter clips in the middle of silence, of longer ones the middle."""
    clips = np.zeros((len(samples), length), np.int16)
    for row, clip in zip(clips, samples, strict=True):
        cut = clip[max(0, (len(clip) - length) // 2) :][:length]
        start = (length - len(cut)) // 2
        row[start : start + len(cut)] = cut
    return clips


def clips_of(data: DataSet, count: int) -> NDArray[np.int16] | None:
    """The clips (count, samples) that the first test images were made of; None where they were made of none."""
    if data.front_end is None or data.sound_test is None:
        return None
    return fitted(data.sound_test[:count], data.front_end.samples)


def _arrays(clips: Clips, options: AudioOptions) -> Arrays:
    front_end = options.front_end
    test, warnings = _test_clips(clips, options)
    val = np.zeros_like(test) if clips.val is None else clips.val & ~test
    train = ~test & ~val
    # int8 feature f is stored as the pixel f + 128, which is the network's int8 input f again
    images: Images = features(front_end, fitted(clips.samples, front_end.samples)).view(np.uint8) ^ np.uint8(
        0x80
    )
    known = options.split == "speaker" and bool((clips.speakers != "").all())
    groups: Indices = np.unique(clips.speakers[train], return_inverse=True)[1].astype(np.int64)
    too_few = known and groups.max(initial=0) == 0
    if too_few and not val.any():
        warnings = (
            *warnings,
            "One speaker is left for training: validation uses other clips of the same voice.",
        )
    return Arrays(
        x_train=images[train],
        y_train=clips.labels[train],
        x_test=images[test],
        y_test=clips.labels[test],
        x_val=images[val] if val.any() else None,
        y_val=clips.labels[val] if val.any() else None,
        groups_train=groups if known and not too_few else None,
        class_names=clips.class_names,
        source=clips.source,
        warnings=warnings,
        mirror=False,
        front_end=front_end,
        sound_test=[clips.samples[int(i)] for i in np.flatnonzero(test)],
    )


def _test_clips(clips: Clips, options: AudioOptions) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Which clips are for the test, and what is to be said about it."""
    voices = sorted(set(clips.speakers.tolist()) - {""})
    if options.test_speakers:
        unknown = sorted(set(options.test_speakers) - set(voices))
        if unknown or len(options.test_speakers) >= len(voices):
            raise DataError(
                f"data.test_speakers cannot be {', '.join(options.test_speakers)}",
                hint=f"some, not all, of: {', '.join(voices[:20]) or 'nobody (the speakers are not known)'}",
            )
        return np.isin(clips.speakers, options.test_speakers), ()
    if options.split == "speaker" and len(voices) > 1 and "" not in clips.speakers:
        if clips.test is not None and not set(clips.speakers[clips.test]) & set(clips.speakers[~clips.test]):
            return clips.test, ()
        chosen = [_TEST_SPEAKER] if _TEST_SPEAKER in voices else _some(voices)
        return np.isin(clips.speakers, chosen), ()
    if clips.test is not None:
        return clips.test, ()
    test = np.zeros(len(clips.labels), bool)
    test[stratified_split(clips.labels, TEST_FRACTION, _SPLIT_SEED)[1]] = True
    what = "known" if options.split == "speaker" else "asked to be kept apart"
    return test, (f"Speakers are not {what}: a fixed {TEST_FRACTION:.0%} of each class is the test split.",)


def _some(voices: list[str]) -> list[str]:
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(voices))
    return [voices[i] for i in order[: max(1, round(len(voices) * TEST_FRACTION))]]


def _from_npz(file: Path, sample_rate: int) -> Clips:
    hint = "fetch it again"
    try:
        with np.load(file, allow_pickle=False) as archive:
            a = {key: archive[key] for key in _KEYS}
    except KeyError as error:
        raise DataError(
            f"{file} lacks an array: {error.args[0]}", hint=f"needed: {', '.join(_KEYS)}"
        ) from error
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file} is not a readable .npz file: {why_unreadable(error)}", hint=hint) from error
    offset, count = a["offset"].astype(np.int64), len(a["y"])
    if (
        a["pcm"].dtype != np.int16 or offset.shape != (count + 1,) or (np.diff(offset) <= 0).any()
        or offset[0] < 0 or offset[-1] > len(a["pcm"]) or len(a["speaker"]) != count or len(a["index"]) != count
    ):  # fmt: skip
        raise DataError(f"{file}: the clips' offsets, labels and samples do not fit together", hint=hint)
    if int(a["sample_rate"]) != sample_rate:
        rate = int(a["sample_rate"])
        raise DataError(
            f"{file} has {rate} samples a second, the front end {sample_rate}",
            hint=f"set data.sample_rate = {rate}",
        )
    return Clips(
        samples=[a["pcm"][start:end] for start, end in itertools.pairwise(offset)],
        labels=a["y"].astype(np.int64),
        speakers=a["speaker"].astype(str),
        class_names=tuple("0123456789"),
        source=str(file),
        test=a["index"] < _TEST_INDICES,
    )


def _from_names(folder: Path, sample_rate: int) -> Clips:
    """The data set's own form: DIGIT_SPEAKER_INDEX.wav."""
    files = sorted(folder.glob("*.wav"))
    parts = []
    for file in files:
        named = re.fullmatch(r"([0-9])_(.+)_([0-9]+)", file.stem)
        if named is None:
            raise DataError(f"{file} is not named DIGIT_SPEAKER_INDEX.wav", hint="rename or remove it")
        parts.append((int(named[1]), named[2], int(named[3])))
    return Clips(
        samples=[read_wav(file, sample_rate) for file in files],
        labels=np.array([digit for digit, _, _ in parts], np.int64),
        speakers=np.array([speaker for _, speaker, _ in parts], dtype=str),
        class_names=tuple("0123456789"),
        source=str(folder),
        test=np.array([index for _, _, index in parts]) < _TEST_INDICES,
    )
