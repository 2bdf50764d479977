"""Files in a target folder for its use on a device: a sample with its embedding, example programs, and a README.

All are templates in ``snippets/``; the program of a target and language becomes ``check`` with its own suffix.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from sslfeat.data.synthetic import draw
from sslfeat.data.transforms import BORDER, CENTER, Preprocess, resize_crop
from sslfeat.export.targets.base import INT8, Target
from sslfeat.inference.backends import OnnxRuntimeBackend
from sslfeat.inference.model_card import Card
from sslfeat.inference.onnx_model import EncoderFile

README, PIXELS, EMBEDDING = "README.md", "golden.rgb", "golden.f32"
SNIPPETS, COMPARE = Path(__file__).parent / "snippets", "compare.py.in"
LEAST_8_BITS = 0.99  # minimum cosine of a drawn image, which loses more in 8 bits than photographs


def write_device_files(target: Target, file: EncoderFile, out: Path, gates: list[str]) -> None:
    """Add these files to the folder ``out`` of an artifact; ``gates``: its verdicts as text.

    The sample is a drawn image, not a user's: uint8 (H, W, 3) by rows, and its embedding by the encoder file, little-endian
    float32 (D,).
    """
    whole = sample()
    small = resize_crop(whole, file.card.preprocess)
    given = whole if target.device.any_size else small
    embedding = OnnxRuntimeBackend(file.data, "cpu", 1).run(np.asarray(small)[None])[0]
    (out / PIXELS).write_bytes(given.tobytes())
    (out / EMBEDDING).write_bytes(embedding.astype("<f4").tobytes())
    facts = _facts(target, file.card, given.size, gates)
    for name in target.device.programs:
        parts = [name, COMPARE] if name.endswith(".py.in") else [name]
        text = "".join((SNIPPETS / part).read_text("utf-8") for part in parts)
        (out / program(name)).write_text(_filled(text, facts), encoding="utf-8")
    (out / README).write_text(_filled((SNIPPETS / f"{README}.in").read_text("utf-8"), facts), encoding="utf-8")


def sample() -> Image.Image:
    """The drawn image, RGB, before resizing."""
    return draw("circles", np.random.default_rng(0))


def least_cosine(target: Target) -> float:
    """Minimum cosine with ``golden.f32``."""
    return LEAST_8_BITS if target.gate == INT8 else target.gate.cosine


def program(template: str) -> str:
    """Name of a template in the folder."""
    return f"check.{template.split('.')[1]}"


def _facts(target: Target, card: Card, sides: tuple[int, int], gates: list[str]) -> dict[str, str]:
    """Values for the templates; ``sides`` of the sample in px."""
    of_encoder = {"size": str(card.preprocess.size), "dim": str(card.dim)}
    return {
        **of_encoder,
        "name": card.name,
        "target": target.name,
        "about": target.about,
        "main": target.main,
        "width": str(sides[0]),
        "height": str(sides[1]),
        "takes": _filled(target.device.takes, of_encoder),
        "gives": _filled(target.device.gives, of_encoder),
        "first": "" if target.device.any_size else f"\n- **First** {_rule(card.preprocess)}.",
        "programs": ", ".join(f"`{program(name)}`" for name in target.device.programs),
        "least": str(least_cosine(target)),
        "gates": "\n".join(f"- {gate}" for gate in gates) or f"Not compared: {target.unrun}.",
        "license": card.license,
        "third_party": target.device.third_party and f"\n- {target.device.third_party}",
        "data": card.training_data.name,
        "data_license": card.training_data.license,
    }


def _filled(text: str, facts: Mapping[str, str]) -> str:
    for name, value in facts.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def _rule(prep: Preprocess) -> str:
    """Description of the resize and crop."""
    kept = f"keep the center, {prep.size} x {prep.size} px,\n  from `round((side - {prep.size}) / 2)` on, halves to even"
    how = {
        CENTER: f"resize the shorter side to {prep.resize} px, the other to `{prep.resize} * other // shorter`, and {kept}",
        BORDER: f"resize the longer side to {prep.resize} px and {kept}, with {prep.fill} around it",
    }.get(prep.crop, f"resize to {prep.resize} x {prep.resize} px and {kept}")
    return f"{how}; by Pillow's {prep.filter} filter with antialiasing:\n  others give other features (`onnx-full` has it inside)"
