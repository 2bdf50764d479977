"""Create, recognize and empty features folders, without mixing them with other runs or files."""

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
    """Collect all settings that determine the contents; a resumed run may differ in the processor only. Raises InputError."""
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
    from sslfeat.inference.backends import onnxruntime  # the name of the distribution depends on the platform

    return str(onnxruntime.__version__)


def open_folder(
    out: Path, run: FeaturesMetadata, manifest: Manifest, files: dict[str, bytes], overwrite: bool,
    complete: Callable[[], None] = lambda: None,
) -> tuple[FeaturesMetadata, Manifest]:  # fmt: skip
    """Prepare ``out`` for this run, or check that it belongs to this run.

    Returns the run and the inputs to use: the recorded ones if only the modification times of the files differ. ``complete``
    is called before images are compared with committed rows, and must fetch those rows into ``out``. Raises FeaturesError if
    ``out`` contains other files, or naming the first setting that differs, or the changes of the images.
    """
    if ready_folder(out, run, manifest, files, overwrite):
        return run, manifest
    return join_folder(out, run, manifest, complete)


def ready_folder(out: Path, run: FeaturesMetadata, manifest: Manifest, files: dict[str, bytes], overwrite: bool = False) -> bool:
    """Create ``out`` (emptied with ``overwrite``) unless it is a features folder; return whether it was created.

    Raises FeaturesError if it contains other files.
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
    """Like ``open_folder`` for an existing features folder; writes nothing."""
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
        f"the images differ from those in {out}: {changes}",
        f"update the folder with {UPDATE}, which embeds only new images, or choose another folder",
    )


def refuse_strangers(out: Path) -> None:
    """Raise FeaturesError if ``out`` is neither empty nor a (possibly incomplete) features folder."""
    begun = is_manifest(out / INPUTS_NAME)
    if (out / RUN_NAME).exists() and (begun or _is_run(out / RUN_NAME)):
        return
    own = {atomic.LOCK_NAME, staged.UPDATE, META_FOLDER, *((INPUTS_NAME, *ENCODERS) if begun else ())}
    names = (path.relative_to(out).as_posix() for path in (*out.iterdir(), *(out / META_FOLDER).glob("*")))
    strangers = sorted(name for name in names if name not in own and not name.endswith(atomic.TEMPORARY_SUFFIX))
    if strangers:
        raise FeaturesError(f"{out} contains other files ({strangers[0]}, ...)", "choose a new or empty folder")


def _is_run(path: Path) -> bool:
    """Whether this is a (possibly damaged) ``features.json`` of sslfeat; other programs use the name too."""
    try:
        return all(f'"{name}"'.encode() in path.read_bytes() for name in ("check", "encoder", "inputs", "part_size"))
    except OSError:
        return False


def begin_folder(out: Path, run: FeaturesMetadata, manifest: Manifest, files: dict[str, bytes]) -> None:
    """Write the list of inputs, ``files``, and finally ``features.json``, which makes it a features folder."""
    atomic.make_folder(out / META_FOLDER)
    atomic.write_atomic(out / INPUTS_NAME, manifest.to_bytes())  # first: it marks the other files as ours
    for leftover in (out / name for name in ENCODERS if name not in files):  # of an interrupted earlier start
        leftover.unlink(missing_ok=True)
    for name, data in files.items():
        atomic.write_atomic(out / name, data)
    atomic.write_atomic(out / RUN_NAME, run.to_json())


def empty_folder(out: Path) -> None:
    """Delete the files of a run, and nothing else."""
    for path in CONTENTS.files(out):
        if path == out / RUN_NAME:  # last: it identifies the remaining files
            staged.remove_folders(out, CONTENTS)
            atomic.sync_folder(out)
            atomic.sync_folder(path.parent)
        path.unlink()


def check_settings(kept: FeaturesMetadata, requested: FeaturesMetadata, out: Path) -> None:
    """Raise FeaturesError naming the first setting, except the images, in which the runs differ."""
    before, now = ((run.encoder.card.name, run.encoder.fingerprint[:12]) for run in (kept, requested))
    if before[1] != now[1]:
        raise FeaturesError(
            f"{out} was created with encoder {before[0]!r} ({before[1]}), not {now[0]!r} ({now[1]})",
            f"use that encoder, choose another folder, or start over with {OVERWRITE}",
        )
    first, second = kept.plain(), requested.plain()
    for fields in (first, second):  # the encoder is compared by fingerprint: texts of the card may have changed
        del fields["inputs"], fields["encoder"], fields["given"]
        del fields["processor"]  # recorded for each part
    _check_fields(first, second, out)


def _check_fields(kept: dict[str, Any], requested: dict[str, Any], out: Path, where: str = "") -> None:
    for name in sorted({*kept, *requested}):
        before, now = kept.get(name), requested.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            _check_fields(before, now, out, f"{where}{name}.")
        elif before != now:
            again = _install_again(name, before) if where == "versions." and before else "use the original settings"
            raise FeaturesError(
                f"{out} was created with {where}{name} = {before!r}, not {now!r}",
                f"{again}, choose another folder, or start over with {OVERWRITE}",
            )


def _install_again(package: str, number: str) -> str:
    """Return the command that installs the version that a folder was created with."""
    from sslfeat.inference.diagnostics import WHEELS, conflict, installed_version

    if package != "onnxruntime":
        return f"pip install {package}=={number}"
    mixed = conflict()
    if mixed is not None:
        return f"{mixed.message}, which may be the cause ({mixed.cure}=={number})"
    wheel = next((name for name in WHEELS if installed_version(name) is not None), package)
    return f"pip install {wheel}=={number}"
