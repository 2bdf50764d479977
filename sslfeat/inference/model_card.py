"""Model card of an encoder: architecture, preprocessing, training data, and verification of the export."""

from __future__ import annotations

import dataclasses
import json
import re
import string
from dataclasses import dataclass, field

from sslfeat.data.transforms import BORDER, CROPS, FILTERS, Preprocess
from sslfeat.errors import EncoderFileError
from sslfeat.storage.records import parse_record

CARD_KEY = "sslfeat.card"
CARD_FORMAT = 2
LONGEST = 1000  # maximum number of characters of a text
COLOR = re.compile("#[0-9a-f]{6}")


@dataclass(frozen=True)
class TrainingData:
    """Training data: name, number of images, and license of the images."""

    name: str
    images: int
    license: str

    def __post_init__(self) -> None:
        _check(self.images >= 0, f"{self.images} images")


@dataclass(frozen=True)
class Training:
    """Training time and quality: ``quality`` maps names to figures in percent on held-out images."""

    steps: int = 0
    epochs: float = 0.0
    hours: float = 0.0
    quality: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(min(self.steps, self.epochs, self.hours) >= 0, f"{self.steps} steps, {self.epochs} epochs, {self.hours} hours")


@dataclass(frozen=True)
class Parity:
    """Comparison of the exported file with the torch encoder, from image file to embedding.

    ``max_abs_diff``: maximum over all components; ``scale``: largest absolute component of the torch embeddings;
    ``min_cosine``: minimum over the images; ``neighbor_overlap``: mean share of common 10 nearest neighbors (cosine);
    ``source``: origin of the images.
    """

    images: int
    source: str
    batch_sizes: tuple[int, ...]
    max_abs_diff: float
    scale: float
    min_cosine: float
    neighbor_overlap: float

    def __post_init__(self) -> None:
        _check(self.images >= 0, f"{self.images} images")
        _check(all(size > 0 for size in self.batch_sizes), f"batch sizes {self.batch_sizes}")
        _check(abs(self.min_cosine) < 1.001, f"a cosine of {self.min_cosine}")  # 1 may be rounded up
        _check(0 <= self.neighbor_overlap <= 1, f"a share of {self.neighbor_overlap} neighbors")


@dataclass(frozen=True)
class Identity:
    """Identifies the encoder of features by its fingerprint; the name is for display."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Card:
    """Stored in the encoder file, as JSON under the metadata key ``sslfeat.card``.

    ``layer`` is the layer of the backbone that the features are taken from.
    """

    name: str
    method: str
    backbone: str
    layer: str
    dim: int
    preprocess: Preprocess
    training_data: TrainingData
    license: str
    config_sha256: str
    versions: dict[str, str]
    parity: Parity
    training: Training = field(default_factory=Training)
    format: int = CARD_FORMAT

    def to_json(self) -> str:
        """Serialize to compact JSON with sorted keys, so that equal cards give equal text."""
        fields = {**dataclasses.asdict(self), "preprocess": self.preprocess.fields()}
        return json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Card:
        """Parse and check a card. Raises EncoderFileError naming the invalid field."""
        card = parse_record(cls, text, "card", EncoderFileError)
        _check_texts(card)
        _check_preprocess(card.preprocess)
        if card.dim < 1:
            raise EncoderFileError(f"card: dim is {card.dim}")
        return card


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"invalid value: {what}")


def _check_texts(card: Card) -> None:
    """Texts are printed in tables and pages: they must be single lines of limited length."""
    data = card.training_data
    texts = {"training_data.name": data.name, "training_data.license": data.license, "parity.source": card.parity.source}
    texts |= {name: getattr(card, name) for name in ("name", "method", "backbone", "layer", "license")}
    texts |= {f"training.quality.{name[:LONGEST]}": name for name in card.training.quality}
    texts |= {f"versions.{package[:LONGEST]}": f"{package} {number}" for package, number in card.versions.items()}
    for where, text in texts.items():
        if len(text) > LONGEST or any(ord(letter) < 32 for letter in text):
            raise EncoderFileError(f"card: {where} is {text[:60]!r}: it must be one line of at most {LONGEST} characters")
    if len(card.config_sha256) != 64 or set(card.config_sha256) - set(string.hexdigits):
        raise EncoderFileError(f"card: config_sha256 is {card.config_sha256[:80]!r}, not 64 hexadecimal digits")


def _check_preprocess(preprocess: Preprocess) -> None:
    allowed: dict[str, tuple[object, ...]] = {
        "filter": tuple(FILTERS),
        "antialias": (True,),
        "crop": CROPS,
        "color": ("RGB",),
        "profile": ("sRGB",),
    }
    for name, values in allowed.items():
        if getattr(preprocess, name) not in values:
            raise EncoderFileError(f"card: preprocess: {name} is {getattr(preprocess, name)!r}, not one of {values}")
    if not 1 <= preprocess.size <= preprocess.resize <= 8192:
        raise EncoderFileError(f"card: preprocess has size {preprocess.size} and resize {preprocess.resize} px")
    if not (COLOR.fullmatch(preprocess.fill) if preprocess.crop == BORDER else preprocess.fill == ""):
        raise EncoderFileError(f"card: preprocess: fill is {preprocess.fill!r}: #rrggbb with crop {BORDER!r}, else empty")
