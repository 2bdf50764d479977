"""The files of a features folder as one thing: begun, recognized, emptied, and never mixed with another run's."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sslfeat import __version__
from sslfeat.data.fast_resize import PACKAGE as RESIZER
from sslfeat.data.manifest import Manifest, is_manifest
from sslfeat.data.manifest_diff import ManifestDiff
from sslfeat.data.transforms import FAST, Decoding
from sslfeat.errors import OVERWRITE, UPDATE, FeaturesError, InputError
from sslfeat.features.files import CONTENTS, ENCODERS, INPUTS_NAME
from sslfeat.features.given import Given
from sslfeat.features.metadata import META_FOLDER, RUN_NAME, Encoded, FeaturesMetadata, Inputs, load_manifest, read_run
from sslfeat.features.reuse import Reuse
from sslfeat.inference.encoder import Encoder
from sslfeat.storage import atomic, staged
from sslfeat.system.cores import processor


def describe(
    encoder: Encoder, manifest: Manifest, layout: str, decoding: Decoding, part_size: int, batch_size: int | None,
    given: Given | None = None,
) -> FeaturesMetadata:  # fmt: skip
    """All that decides the bytes of the folder; a resumed run must agree in all but the processor. Raises InputError."""
    decoding.require()
    names = ("numpy", "pillow", "pyarrow", *((RESIZER,) if decoding.mode == FAST else ()))
    packages = {package: version(package) for package in names}
    try:
        return FeaturesMetadata(
            encoder=Encoded(encoder.fingerprint, encoder.card),
            inputs=Inputs.of(manifest),
            layout=layout,
            decode=decoding,
            part_size=part_size,
            batch_size=batch_size or (32 if encoder.provider == "cuda" else 4),
            provider=encoder.provider,
            threads=encoder.threads,
            precision=encoder.precision,
            versions={"sslfeat": __version__, **packages, "onnxruntime": _onnxruntime_version()},
            processor=processor(),
            given=given,
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def _onnxruntime_version() -> str:
    from sslfeat.inference.backends import onnxruntime  # whose distribution has a name for each platform

    return str(onnxruntime.__version__)


def open_folder(
    out: Path, run: FeaturesMetadata, manifest: Manifest, files: dict[str, bytes], overwrite: bool,
    complete: Callable[[], None] = lambda: None,
) -> tuple[FeaturesMetadata, Manifest]:  # fmt: skip
    """Make ``out`` ready for this run, and see that it is of this run.

    Returns the run and the inputs to go on with: those that it was begun with, where nothing but the files' times differs.
    ``complete`` is called before images are compared with the rows that were committed, and has those rows in ``out`` after.
    Raises FeaturesError if it holds files that are not a features folder's, or naming the first field in which the runs
    differ, or how the images do.
    """
    if ready_folder(out, run, manifest, files, overwrite):
        return run, manifest
    return join_folder(out, run, manifest, complete)


def ready_folder(out: Path, run: FeaturesMetadata, manifest: Manifest, files: dict[str, bytes], overwrite: bool = False) -> bool:
    """Make ``out`` new, emptied on request, or leave it begun; returns whether this run began it now.

    Raises FeaturesError if it holds files that are not a features folder's.
    """
    refuse_strangers(out)
    atomic.remove_temporaries(out)
    if (out / RUN_NAME).exists() and overwrite:
        empty_folder(out)
    if (out / RUN_NAME).exists():
        return False
    begin_folder(out, run, manifest, files)
    return True


def join_folder(
    out: Path, run: FeaturesMetadata, manifest: Manifest, complete: Callable[[], None] = lambda: None
) -> tuple[FeaturesMetadata, Manifest]:
    """The same for a folder that was begun: nothing is written."""
    kept = read_run(out)
    check_settings(kept, run, out)
    if kept.inputs == run.inputs:
        return kept, manifest
    complete()
    before = load_manifest(out, kept)
    changes = ManifestDiff.between(before, manifest, Reuse(out, kept, before, manifest).same)
    if changes.none and changes.moved is None:
        return kept, before
    raise FeaturesError(
        f"the images are not those that {out} was made of: {changes}",
        f"take that over with {UPDATE}, which embeds only what is new, or choose another folder",
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
        raise FeaturesError(f"{out} holds other files ({strangers[0]}, ...)", "choose a folder that is new or empty")


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
            f"{out} was made by encoder {before[0]!r} ({before[1]}), now {now[0]!r} ({now[1]}) is given",
            f"use that one, choose another folder, or start afresh with {OVERWRITE}",
        )
    first, second = kept.plain(), requested.plain()
    for fields in (first, second):  # of the encoder, the fingerprint decides: a card's prose may have changed
        del fields["inputs"], fields["encoder"], fields["given"]
        del fields["processor"]  # which is recorded part by part
    _check_fields(first, second, out)


def _check_fields(kept: dict[str, Any], requested: dict[str, Any], out: Path, where: str = "") -> None:
    for name in sorted({*kept, *requested}):
        before, now = kept.get(name), requested.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            _check_fields(before, now, out, f"{where}{name}.")
        elif before != now:
            again = _install_again(name, before) if where == "versions." and before else "repeat the settings of then"
            raise FeaturesError(
                f"{out} was begun with {where}{name} = {before!r}, now it is {now!r}",
                f"{again}, choose another folder, or start afresh with {OVERWRITE}",
            )


def _install_again(package: str, number: str) -> str:
    """How to get back to the version that a folder was begun with."""
    from sslfeat.inference.diagnostics import WHEELS, conflict, installed_version

    if package != "onnxruntime":
        return f"pip install {package}=={number}"
    mixed = conflict()
    if mixed is not None:
        return f"{mixed.message}, which may be why ({mixed.cure}=={number})"
    wheel = next((name for name in WHEELS if installed_version(name) is not None), package)
    return f"pip install {wheel}=={number}"
