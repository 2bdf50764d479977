"""The embedding job: a list of pictures becomes a features folder, part by part, and survives being killed anywhere.

Each part is a fixed slice of the sorted inputs. Its parquet file is written first, its commit record, holding the file's
sha256, last; a later run trusts nothing but records whose hashes match. No clock, no order of arrival enters a file, so
a run that was killed and repeated leaves the same bytes as one that was not.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sslfeat import __version__, signals, store
from sslfeat.encoder import Encoder
from sslfeat.errors import FeaturesError, InputError, InterruptedRun
from sslfeat.failures import FAILURES_NAME, write_failures
from sslfeat.features import FORMAT, RUN_NAME, Commit, commit_path, part_path, read_commit, read_run
from sslfeat.inputs import Input, digest
from sslfeat.pipeline import Batch, Embedded, batched, embed_batches


@dataclass(frozen=True)
class Summary:
    """A finished job: its folder, pictures embedded and failed, and how many of both were there before."""

    folder: Path
    embedded: int
    failed: int
    resumed: int


def embed_to_folder(
    encoder: Encoder,
    inputs: Sequence[Input],
    out: Path,
    *,
    batch_size: int = 32,
    part_size: int = 1024,
    workers: int | None = None,
    overwrite: bool = False,
    report: Callable[[int, int], None] = lambda done, failed: None,
) -> Summary:
    """Embed ``inputs`` (sorted, from ``find_inputs``) into the folder ``out``, or finish what an earlier run began.

    ``report`` is told the numbers of inputs done and failed. Raises FeaturesError if ``out`` belongs to another run or
    is being written; InterruptedRun after SIGINT or SIGTERM, with all committed parts kept.
    """
    if batch_size < 1 or part_size < 1:
        raise InputError(f"batch size {batch_size} and part size {part_size} must be at least 1")
    parts = list(batched(inputs, part_size))
    with store.exclusive(out, FeaturesError), signals.deferred() as stop:
        _open_folder(out, _describe(encoder, inputs, batch_size, part_size), overwrite)
        commits = {number: commit for number in range(len(parts)) if (commit := read_commit(out, number))}
        resumed = sum(commit.rows + len(commit.failures) for commit in commits.values())
        done, failed = resumed, sum(len(commit.failures) for commit in commits.values())
        report(done, failed)
        missing = [number for number in range(len(parts)) if number not in commits]
        slices = [list(batched(parts[number], batch_size)) for number in missing]
        flat = ([item.raw for item in batch] for part in slices for batch in part)
        stream = embed_batches(encoder, flat, workers or encoder.threads)
        try:
            for number, part in zip(missing, slices, strict=True):
                outcomes: list[Batch] = []
                for batch in itertools.islice(stream, len(part)):
                    if stop.signum:
                        raise InterruptedRun(
                            stop.signum, f"interrupted; {out} keeps {done} inputs: run it again to go on"
                        )
                    outcomes.append(batch)
                    done += len(batch.outcomes)
                    failed += sum(not isinstance(outcome, Embedded) for outcome in batch.outcomes)
                    report(done, failed)
                commits[number] = _commit_part(out, number, parts[number], outcomes, encoder.dim)
        finally:
            stream.close()
        failures = [failure for number in range(len(parts)) for failure in commits[number].failures]
        write_failures(out, failures)
    return Summary(out, len(inputs) - len(failures), len(failures), resumed)


def _commit_part(folder: Path, number: int, inputs: Sequence[Input], batches: Sequence[Batch], dim: int) -> Commit:
    """Write a part, then the record that makes it count."""
    outcomes = [outcome for batch in batches for outcome in batch.outcomes]
    pairs = list(zip(inputs, outcomes, strict=True))
    rows = [(item, outcome) for item, outcome in pairs if isinstance(outcome, Embedded)]
    failures = tuple((item.name, outcome.reason) for item, outcome in pairs if not isinstance(outcome, Embedded))
    data = _parquet(rows, dim)
    store.write_atomic(part_path(folder, number), data)
    commit = Commit.of(data, len(rows), failures)
    store.write_atomic(commit_path(folder, number), commit.to_json())
    return commit


def _parquet(rows: Sequence[tuple[Input, Embedded]], dim: int) -> bytes:
    embeddings = np.stack([row.embedding for _, row in rows]) if rows else np.empty((0, dim), np.float32)
    columns = {
        "path": pa.array([item.name for item, _ in rows], pa.string()),
        "sha256": pa.array([row.sha256 for _, row in rows], pa.string()),
        "width": pa.array([row.width for _, row in rows], pa.int32()),
        "height": pa.array([row.height for _, row in rows], pa.int32()),
        "label": pa.array([item.label for item, _ in rows], pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel(), pa.float32()), dim),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, use_dictionary=["label"])
    return buffer.getvalue()


def _describe(encoder: Encoder, inputs: Sequence[Input], batch_size: int, part_size: int) -> dict[str, Any]:
    """All that decides the bytes of the folder; a resumed run must agree in every field."""
    return {
        "format": FORMAT,
        "encoder": {"fingerprint": encoder.fingerprint, "card": json.loads(encoder.card.to_json())},
        "inputs": {
            "count": len(inputs),
            "sha256": digest(inputs),
            "labelled": any(i.label is not None for i in inputs),
        },
        "part_size": part_size,
        "batch_size": batch_size,
        "provider": encoder.provider,
        "threads": encoder.threads,
        "versions": {
            "sslfeat": __version__,
            **{package: version(package) for package in ("numpy", "pillow", "pyarrow")},
            "onnxruntime": _onnxruntime_version(),
        },
    }


def _onnxruntime_version() -> str:
    import onnxruntime  # the distribution's name depends on the platform; the module's does not

    return str(onnxruntime.__version__)


def _open_folder(out: Path, run: dict[str, Any], overwrite: bool) -> None:
    """Make ``out`` ready for this run: new, begun by the same run, or emptied on request."""
    store.remove_temporaries(out)
    path = out / RUN_NAME
    strangers = [item.name for item in out.iterdir() if item.name != store.LOCK_NAME]
    if strangers and not path.exists():
        raise FeaturesError(f"{out} holds other files ({strangers[0]}, ...): choose an --out that is new or empty")
    if path.exists() and overwrite:
        for item in _own_files(out):
            item.unlink()
    if path.exists():
        _check_same(read_run(out), run, out)
    else:
        store.write_atomic(path, store.json_bytes(run))


def _own_files(out: Path) -> Iterator[Path]:
    """The files of a features folder, ``run.json`` last: interrupted, the deletion is begun again."""
    yield from sorted(out.glob("part-*.json"))
    yield from sorted(out.glob("part-*.parquet"))
    yield from (path for path in (out / FAILURES_NAME, out / RUN_NAME) if path.exists())


def _check_same(kept: dict[str, Any], asked: dict[str, Any], out: Path, where: str = "") -> None:
    for name in sorted({*kept, *asked}):
        before, now = kept.get(name), asked.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            _check_same(before, now, out, f"{where}{name}.")
        elif before != now:
            raise FeaturesError(
                f"{out} was begun with {where}{name} = {before!r}, now it is {now!r}: "
                "repeat the settings and inputs of then, choose another --out, or start afresh with --overwrite"
            )
