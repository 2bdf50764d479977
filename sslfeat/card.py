"""The card: what an encoder is, how to feed it, what it was trained on, and how its export was checked."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from sslfeat.errors import EncoderFileError
from sslfeat.preprocess import FILTERS, Preprocess

CARD_KEY = "sslfeat.card"
CARD_FORMAT = 1


@dataclass(frozen=True)
class TrainingData:
    """What the encoder was trained on: a name, the number of pictures, and the pictures' licence."""

    name: str
    images: int
    licence: str


@dataclass(frozen=True)
class Parity:
    """The exported file against the torch encoder, from picture file to embedding.

    ``max_abs_diff`` is over all components, ``scale`` the largest absolute component of the torch embeddings,
    ``min_cosine`` the worst picture's, ``neighbour_overlap`` the mean share of the 10 nearest neighbours (cosine)
    that both agree on. ``source`` says where the pictures came from.
    """

    images: int
    source: str
    batch_sizes: tuple[int, ...]
    max_abs_diff: float
    scale: float
    min_cosine: float
    neighbour_overlap: float


@dataclass(frozen=True)
class Card:
    """Travels inside the encoder file, as JSON under the metadata key ``sslfeat.card``.

    ``layer`` is where in the backbone the features are taken.
    """

    name: str
    method: str
    backbone: str
    layer: str
    dim: int
    preprocess: Preprocess
    training_data: TrainingData
    licence: str
    config_sha256: str
    versions: dict[str, str]
    parity: Parity
    format: int = CARD_FORMAT

    def to_json(self) -> str:
        """Compact JSON with sorted keys: equal cards give equal text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Parse and check a card. Raises EncoderFileError that names the field at fault."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise EncoderFileError(f"the card is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise EncoderFileError("the card is not a JSON object")
        if value.get("format") != CARD_FORMAT:
            raise EncoderFileError(
                f"the card has format {value.get('format')!r}; this sslfeat reads format {CARD_FORMAT}: "
                "upgrade sslfeat, or export the encoder again"
            )
        card: Card = _build(cls, value, "card")
        _check_preprocess(card.preprocess)
        if card.dim < 1:
            raise EncoderFileError(f"card.dim is {card.dim}")
        return card


def _check_preprocess(preprocess: Preprocess) -> None:
    allowed: dict[str, tuple[object, ...]] = {
        "filter": tuple(FILTERS),
        "antialias": (True,),
        "crop": ("center",),
        "color": ("RGB",),
    }
    for field, values in allowed.items():
        if getattr(preprocess, field) not in values:
            raise EncoderFileError(f"card.preprocess.{field} is {getattr(preprocess, field)!r}, not one of {values}")
    if not 1 <= preprocess.size <= preprocess.resize <= 8192:
        raise EncoderFileError(f"card.preprocess has size {preprocess.size} and resize {preprocess.resize} px")


def _build(kind: Any, value: Any, where: str) -> Any:
    """A frozen dataclass from parsed JSON; every field present, of its type, and none beyond."""
    if not isinstance(value, dict):
        raise EncoderFileError(f"{where} is not a JSON object")
    fields = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    if set(value) != set(fields):
        raise EncoderFileError(f"{where}: unknown or missing fields {sorted(set(value) ^ set(fields))}")
    return kind(**{name: _parse(fields[name], value[name], f"{where}.{name}") for name in fields})


def _parse(kind: str, value: Any, where: str) -> Any:
    nested = {"Preprocess": Preprocess, "TrainingData": TrainingData, "Parity": Parity}
    if kind in nested:
        return _build(nested[kind], value, where)
    checks = {
        "str": isinstance(value, str),
        "bool": isinstance(value, bool),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "dict[str, str]": isinstance(value, dict) and all(isinstance(item, str) for item in value.values()),
        "tuple[int, ...]": isinstance(value, list) and all(isinstance(item, int) for item in value),
    }
    if not checks[kind]:
        raise EncoderFileError(f"{where} is {value!r}, not a {kind}")
    return tuple(value) if kind == "tuple[int, ...]" else value
