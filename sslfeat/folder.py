"""The files of a features folder as one thing: begun, recognised, emptied, and never mixed with another run's."""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sslfeat import __version__, store
from sslfeat.changes import Changes
from sslfeat.encoder import Encoder
from sslfeat.errors import FeaturesError
from sslfeat.features import FORMAT, RUN_NAME, read_run, run_bytes
from sslfeat.layouts import FOLDERS
from sslfeat.preprocess import Decoding
from sslfeat.stock import STOCK_NAME, Stock
from sslfeat.swap import ENCODERS, UPDATE_NAME, own_files


def describe(
    encoder: Encoder, stock: Stock, layout: str, decoding: Decoding, part_size: int, batch_size: int | None
) -> dict[str, Any]:
    """All that decides the bytes of the folder; a resumed run must agree in every field."""
    return {
        "format": FORMAT,
        "encoder": {"fingerprint": encoder.fingerprint, "card": json.loads(encoder.card.to_json())},
        "inputs": {
            "count": len(stock.inputs),
            "sha256": stock.sha256,
            "labelled": any(item.label is not None for item in stock.inputs),
        },
        "layout": layout,
        "decode": dataclasses.asdict(decoding),
        "part_size": part_size,
        "batch_size": batch_size or (32 if encoder.provider == "cuda" else 4),
        "provider": encoder.provider,
        "threads": encoder.threads,
        "precision": encoder.precision,
        "versions": {
            "sslfeat": __version__,
            **{package: version(package) for package in ("numpy", "pillow", "pyarrow")},
            "onnxruntime": _onnxruntime_version(),
        },
    }


def _onnxruntime_version() -> str:
    import onnxruntime  # the distribution's name depends on the platform; the module's does not

    return str(onnxruntime.__version__)


def open_folder(out: Path, run: dict[str, Any], stock: Stock, files: dict[str, bytes], overwrite: bool) -> None:
    """Make ``out`` ready for this run: new, begun by the same run, or emptied on request."""
    store.remove_temporaries(out)
    path = out / RUN_NAME
    begun = {store.LOCK_NAME, STOCK_NAME, UPDATE_NAME, *(item.name for item in out.glob(ENCODERS))}
    strangers = [item.name for item in out.iterdir() if item.name not in begun]
    if strangers and not path.exists():
        raise FeaturesError(f"{out} holds other files ({strangers[0]}, ...): choose an --out that is new or empty")
    if path.exists() and overwrite:
        empty_folder(out)
    if path.exists():
        check_same(read_run(out), run, out, stock)
    else:
        begin_folder(out, run, stock, files)


def begin_folder(out: Path, run: dict[str, Any], stock: Stock, files: dict[str, bytes]) -> None:
    """Write what a run is of, and ``files`` that it needs, then what it is: the last makes it one."""
    for leftover in out.glob(ENCODERS):  # of a run that did not come as far as this
        leftover.unlink()
    for name, data in files.items():
        store.write_atomic(out / name, data)
    store.write_atomic(out / STOCK_NAME, stock.to_bytes())
    store.write_atomic(out / RUN_NAME, run_bytes(run))


def empty_folder(out: Path) -> None:
    """Delete what a run wrote, and nothing else."""
    for item in own_files(out):
        if item.name == RUN_NAME:  # the last: without it, what is left would belong to nobody
            for folder in filter(Path.is_dir, (out / name for name in FOLDERS)):
                folder.rmdir()
            store.sync_folder(out)
        item.unlink()


def check_same(kept: dict[str, Any], asked: dict[str, Any], out: Path, stock: Stock) -> None:
    """Raise FeaturesError naming the first field in which the runs differ, or how the pictures do."""
    check_settings(kept, asked, out)
    if kept["inputs"]["sha256"] != asked["inputs"]["sha256"]:
        changes = Changes.between(Stock.load(out, kept["inputs"]["sha256"]), stock)
        raise FeaturesError(
            f"the pictures are not those that {out} was made of: {changes}. Embed what changed with --update, "
            "or choose another --out"
        )


def check_settings(kept: dict[str, Any], asked: dict[str, Any], out: Path) -> None:
    """Raise FeaturesError naming the first field, but for the pictures, in which the runs differ."""
    before, now = ((run["encoder"]["card"]["name"], run["encoder"]["fingerprint"][:12]) for run in (kept, asked))
    if before[1] != now[1]:
        raise FeaturesError(
            f"{out} was made by encoder {before[0]!r} ({before[1]}), now {now[0]!r} ({now[1]}) is given: "
            "use that one, choose another --out, or start afresh with --overwrite"
        )
    _check_fields({**kept, "inputs": None}, {**asked, "inputs": None}, out)


def _check_fields(kept: dict[str, Any], asked: dict[str, Any], out: Path, where: str = "") -> None:
    for name in sorted({*kept, *asked}):
        before, now = kept.get(name), asked.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            _check_fields(before, now, out, f"{where}{name}.")
        elif before != now:
            raise FeaturesError(
                f"{out} was begun with {where}{name} = {before!r}, now it is {now!r}: "
                "repeat the settings of then, choose another --out, or start afresh with --overwrite"
            )
