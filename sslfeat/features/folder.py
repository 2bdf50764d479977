"""The files of a features folder as one thing: begun, recognized, emptied, and never mixed with another run's."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from sslfeat import __version__
from sslfeat.data.manifest import Manifest, is_manifest
from sslfeat.data.manifest_diff import ManifestDiff
from sslfeat.data.transforms import Decoding
from sslfeat.errors import FeaturesError, InputError
from sslfeat.features.files import CONTENTS, ENCODERS, INPUTS_NAME
from sslfeat.features.metadata import META_FOLDER, RUN_NAME, Encoded, FeaturesMetadata, Inputs, load_manifest, read_run
from sslfeat.features.reuse import Reuse
from sslfeat.inference.encoder import Encoder
from sslfeat.storage import atomic, staged


def describe(
    encoder: Encoder, manifest: Manifest, layout: str, decoding: Decoding, part_size: int, batch_size: int | None
) -> FeaturesMetadata:
    """All that decides the bytes of the folder; a resumed run must agree in every field. Raises InputError."""
    labeled = any(record.label is not None for record in manifest.inputs)
    packages = {package: version(package) for package in ("numpy", "pillow", "pyarrow")}
    try:
        return FeaturesMetadata(
            encoder=Encoded(encoder.fingerprint, encoder.card),
            inputs=Inputs(len(manifest.inputs), manifest.sha256, labeled),
            layout=layout,
            decode=decoding,
            part_size=part_size,
            batch_size=batch_size or (32 if encoder.provider == "cuda" else 4),
            provider=encoder.provider,
            threads=encoder.threads,
            precision=encoder.precision,
            versions={"sslfeat": __version__, **packages, "onnxruntime": _onnxruntime_version()},
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def _onnxruntime_version() -> str:
    import onnxruntime  # the distribution's name depends on the platform; the module's does not

    return str(onnxruntime.__version__)


def open_folder(
    out: Path, run: FeaturesMetadata, manifest: Manifest, files: dict[str, bytes], overwrite: bool
) -> tuple[FeaturesMetadata, Manifest]:
    """Make ``out`` ready for this run: new, begun by the same run, or emptied on request.

    Returns the run and the inputs to go on with: those that it was begun with, where nothing but the files' times differs.
    Raises FeaturesError if it holds files that are not a features folder's, or naming the first field in which the runs
    differ, or how the images do.
    """
    refuse_strangers(out)
    atomic.remove_temporaries(out)
    if (out / RUN_NAME).exists() and overwrite:
        empty_folder(out)
    if not (out / RUN_NAME).exists():
        begin_folder(out, run, manifest, files)
        return run, manifest
    kept = read_run(out)
    check_settings(kept, run, out)
    if kept.inputs == run.inputs:
        return kept, manifest
    before = load_manifest(out, kept)
    changes = ManifestDiff.between(before, manifest, Reuse(out, kept, before, manifest).same)
    if changes.none and changes.moved is None:
        return kept, before
    raise FeaturesError(
        f"the images are not those that {out} was made of: {changes}. Take that over with --update, which embeds only "
        "what is new, or choose another --out"
    )


def refuse_strangers(out: Path) -> None:
    """Raise FeaturesError if ``out`` holds anything, and is not a features folder, nor about to become one."""
    begun = is_manifest(out / INPUTS_NAME)
    if (out / RUN_NAME).exists() and (begun or _is_run(out / RUN_NAME)):
        return
    own = {atomic.LOCK_NAME, staged.UPDATE, META_FOLDER, *((INPUTS_NAME, *ENCODERS) if begun else ())}
    names = (path.relative_to(out).as_posix() for path in (*out.iterdir(), *(out / META_FOLDER).glob("*")))
    strangers = sorted(name for name in names if name not in own and not name.endswith(atomic.TEMPORARY_SUFFIX))
    if strangers:
        raise FeaturesError(f"{out} holds other files ({strangers[0]}, ...): choose an --out that is new or empty")


def _is_run(path: Path) -> bool:
    """Whether this is, or was before it was damaged, the ``features.json`` of a features folder: others use the name too."""
    try:
        return all(f'"{name}"'.encode() in path.read_bytes() for name in ("check", "encoder", "inputs", "part_size"))
    except OSError:
        return False


def begin_folder(out: Path, run: FeaturesMetadata, manifest: Manifest, files: dict[str, bytes]) -> None:
    """Write what a run is of, and ``files`` that it needs, then what it is: the last makes it one."""
    atomic.make_folder(out / META_FOLDER)
    atomic.write_atomic(out / INPUTS_NAME, manifest.to_bytes())  # the first: it tells that the others are ours
    for leftover in (out / name for name in ENCODERS if name not in files):  # of a run that came no further than this
        leftover.unlink(missing_ok=True)
    for name, data in files.items():
        atomic.write_atomic(out / name, data)
    atomic.write_atomic(out / RUN_NAME, run.to_json())


def empty_folder(out: Path) -> None:
    """Delete what a run wrote, and nothing else."""
    for path in CONTENTS.files(out):
        if path == out / RUN_NAME:  # the last: without it, what is left would belong to nobody
            staged.remove_folders(out, CONTENTS)
            atomic.sync_folder(out)
            atomic.sync_folder(path.parent)
        path.unlink()


def check_settings(kept: FeaturesMetadata, requested: FeaturesMetadata, out: Path) -> None:
    """Raise FeaturesError naming the first field, but for the images, in which the runs differ."""
    before, now = ((run.encoder.card.name, run.encoder.fingerprint[:12]) for run in (kept, requested))
    if before[1] != now[1]:
        raise FeaturesError(
            f"{out} was made by encoder {before[0]!r} ({before[1]}), now {now[0]!r} ({now[1]}) is given: "
            "use that one, choose another --out, or start afresh with --overwrite"
        )
    first, second = kept.plain(), requested.plain()
    for fields in (first, second):  # of the encoder, the fingerprint decides: a card's prose may have changed
        del fields["inputs"], fields["encoder"]
    _check_fields(first, second, out)


def _check_fields(kept: dict[str, Any], requested: dict[str, Any], out: Path, where: str = "") -> None:
    for name in sorted({*kept, *requested}):
        before, now = kept.get(name), requested.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            _check_fields(before, now, out, f"{where}{name}.")
        elif before != now:
            raise FeaturesError(
                f"{out} was begun with {where}{name} = {before!r}, now it is {now!r}: "
                "repeat the settings of then, choose another --out, or start afresh with --overwrite"
            )
