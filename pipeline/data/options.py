"""What can be chosen about a data set in the run file's [data] table, beside its name and path."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.frontend import FrontEnd

_FITS = ("crop", "pad", "squash")
_LARGEST = 2048  # pixels a side


def _check_image(shape: tuple[int, ...], fit: str, lengths: tuple[int, ...]) -> None:
    """Raises ConfigError for what is not (height, width, channels), or without the last where `lengths` has 2."""
    fine = len(shape) in lengths and all(1 <= side <= _LARGEST for side in shape[:2])
    if not fine or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise ConfigError(
            f"data.shape = {list(shape)} is not (height, width{', channels' if lengths == (3,) else ''})",
            hint=f"for example {[96, 96, 3][: min(lengths)]}; at most {_LARGEST}, channels are 1 (grey) or 3 (RGB)",
            key="shape",
        )
    if fit not in _FITS:
        raise ConfigError(f"data.fit = '{fit}'", hint=f"choose one of: {', '.join(_FITS)}", key="fit")


@dataclass(frozen=True, slots=True)
class SizeOptions:
    """Of a data set whose images have a shape of their own: the shape they are brought to; empty: as they are.

    shape: (height, width), or with the channels. fit: as in `ImageOptions`. Raises ConfigError.
    """

    shape: tuple[int, ...] = ()
    fit: str = "crop"

    def __post_init__(self) -> None:
        _check_image(self.shape or (1, 1), self.fit, (2, 3))


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """The images' shape (height, width, channels) and how they are brought to it.

    fit: "crop" scales until the shape is filled and cuts the middle out, "pad" scales until the whole image
    is inside and leaves black borders, "squash" ignores the proportions. Raises ConfigError.
    """

    shape: tuple[int, ...] = (96, 96, 3)
    fit: str = "crop"

    def __post_init__(self) -> None:
        _check_image(self.shape, self.fit, (3,))


@dataclass(frozen=True, slots=True)
class WakeWordOptions(ImageOptions):
    """min_area: part of the image that an object of the category must cover to count (COCO annotations)."""

    category: str = "person"
    min_area: float = 0.005

    def __post_init__(self) -> None:
        ImageOptions.__post_init__(self)
        if not 0 <= self.min_area < 1:
            raise ConfigError(
                f"data.min_area = {self.min_area}", hint="a fraction of the image, below 1", key="min_area"
            )


@dataclass(frozen=True, slots=True)
class AudioOptions:
    """The front end (see FrontEnd; times in samples but for clip_ms) and how the test clips are chosen.

    split: "speaker" tests on the voices of test_speakers (where empty, on a fixed choice), "clip" on clips of
    all voices. level, range_db: what loudness the features' range covers. high_hz 0: half the sample rate.
    """

    sample_rate: int = 8000
    clip_ms: int = 1000
    window: int = 256
    hop: int = 160
    bands: int = 32
    coefficients: int = 0
    low_hz: float = 60.0
    high_hz: float = 0.0
    range_db: float = 60.0
    level: str = "clip"
    split: str = "speaker"
    test_speakers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.split not in ("speaker", "clip"):
            raise ConfigError(
                f"data.split = '{self.split}'", hint="choose one of: speaker, clip", key="split"
            )
        if self.test_speakers and self.split == "clip":
            raise ConfigError(
                "data.test_speakers has no meaning with split = 'clip'",
                hint="leave one of them out",
                key="test_speakers",
            )
        if self.sample_rate * self.clip_ms // 1000 < self.window:
            raise ConfigError(
                f"data.clip_ms = {self.clip_ms} is shorter than one window",
                hint=f"{self.window} samples are {1000 * self.window / max(1, self.sample_rate):.0f} ms",
                key="clip_ms",
            )
        _ = self.front_end  # raises for what it cannot compute

    @property
    def front_end(self) -> FrontEnd:
        """The front end that these options describe."""
        return FrontEnd(
            sample_rate=self.sample_rate,
            samples=self.sample_rate * self.clip_ms // 1000,
            window=self.window,
            hop=self.hop,
            bands=self.bands,
            coefficients=self.coefficients,
            low_hz=self.low_hz,
            high_hz=self.high_hz or self.sample_rate / 2,
            range_db=self.range_db,
            level=self.level,
        )
