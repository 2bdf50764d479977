"""Features folders with false or malformed metadata, records and parts, signed with valid hashes: errors that name them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sslfeat.data.dataset import find_inputs
from sslfeat.errors import FeaturesError
from sslfeat.features.metadata import read_run
from sslfeat.features.reader import Features, FeaturesFolder
from sslfeat.features.update import repair_folder, update_folder
from sslfeat.features.verify import verify
from sslfeat.features.writer import Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.storage import atomic
from sslfeat.storage.records import CHECK, signed_bytes
from tests.conftest import TINY_DIM, contents, sslfeat

LIES: dict[str, Any] = {
    "format": [None, "3", 2, [3], {}],
    "encoder": [None, [], {}, {"fingerprint": 1, "card": {}}],
    "encoder.fingerprint": [None, 7, ["x"]],
    "encoder.card": [None, 1, {}, "x"],
    "encoder.card.dim": [0, -1, "8", None, 10**30, 8.0],
    "encoder.card.name": [None, {}],
    "inputs": [None, 0, []],
    "inputs.count": [-1, None, "40", 1e300, 10**17, 10**30, True, 41, 0],
    "inputs.sha256": [None, 0, "../../etc/passwd", "x" * 64],
    "inputs.labeled": [None, 1],
    "layout": ["csv", "../x", None, ["parquet"], 0],
    "decode": [None, {"mode": "rough", "max_pixels": 1}, {"mode": "exact", "max_pixels": 0}, {"mode": "exact", "x": 1}],
    "part_size": [0, -1, None, "7", 10**30, 1e-9, 2**40],
    "batch_size": [0, -5, None, "x", 10**12],
    "provider": [None, 1],
    "threads": [0, -1, None, 10**9],
    "precision": [None, {}, {"ran": "../../x", "asked": "int8"}, {"ran": "int8"}, {"ran": "int8", "asked": "int8", "sha256": 1}],
    "versions": [None, [], {"sslfeat": 1}],
    "given": [1, {}, {"images": []}, {"images": ["-"]}, {"images": ["a"], "options": ["--out", "/"]}],
    "surplus": [1],
}


def lie(folder: Path, field: str, value: Any) -> None:
    """Set a field of ``features.json`` and sign it again, as whoever made the folder can."""
    run = json.loads((folder / "__sslfeat__/features.json").read_bytes())
    del run[CHECK]
    *above, last = field.split(".")
    place = run
    for name in above:
        place = place[name]
    place[last] = value
    (folder / "__sslfeat__/features.json").write_bytes(signed_bytes(run))


@pytest.fixture
def folder(embedded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded, tmp_path / "features"))


def attempts(folder: Path, tiny: Path, inputs: Any) -> list[Callable[[], object]]:
    """Everything that reads a features folder."""
    encoder = Encoder.load(tiny, "cpu", 1)
    return [
        lambda: Features.load(folder),
        lambda: list(FeaturesFolder(folder).parts()),
        lambda: FeaturesFolder(folder).rows(),
        lambda: refuse_any(list(verify(folder))),
        lambda: repair_folder(encoder, folder),
        lambda: embed_to_folder(encoder, inputs, folder, Options(part_size=1024)),
        lambda: update_folder(encoder, inputs, folder, Options(part_size=1024)),
    ]


def refuse_any(faults: list[str]) -> None:
    if faults:
        raise FeaturesError(faults[0])


@pytest.mark.parametrize("field", LIES)
def test_a_signed_lie_in_run_json_is_an_error_with_the_fields_name(
    field: str, folder: Path, tiny: Path, image_folder: Path
) -> None:
    whole, inputs = contents(folder), find_inputs([image_folder])
    for value in LIES[field]:
        (folder / "__sslfeat__/features.json").write_bytes(whole["__sslfeat__/features.json"])
        lie(folder, field, value)
        for attempt in attempts(folder, tiny, inputs):
            try:
                attempt()
            except FeaturesError as error:
                expected = {"format": "format", "surplus": "surplus"}.get(field, field.split(".")[-1])
                told = (expected, "count", "listed", "damaged", "committed", "inputs", "created with", "images differ")
                assert any(name in str(error) for name in told), f"{field} = {value!r}: {error}"
            else:
                assert value == 0 and field == "inputs.count", f"{field} = {value!r} went through"
        after = contents(folder)
        assert {k: v for k, v in after.items() if k != "__sslfeat__/features.json"} == {
            k: v for k, v in whole.items() if k != "__sslfeat__/features.json"
        }


COMMIT_LIES: dict[str, list[Any]] = {
    "rows": [-1, None, "40", 10**30, 1e400, 39, 41, True, [40]],
    "failures": [None, 3, [["a"]], [["a", "b", "c"]], [[1, 2]], {"a": "b"}, [["a", "b"]]],
    "files": [None, [], {}, {"../__sslfeat__/features.json": "0" * 64}, {"/etc/passwd": "0" * 64}, {"part-00000.parquet": None}],
    "surplus": [1],
}


@pytest.mark.parametrize("field", COMMIT_LIES)
def test_a_lie_in_a_commit_record_commits_nothing(field: str, folder: Path, tiny: Path, image_folder: Path) -> None:
    whole = contents(folder)
    record = json.loads(whole["__sslfeat__/part-00000.json"])
    for value in COMMIT_LIES[field]:
        data = atomic.json_bytes({**record, field: value}) if value != 1e400 else b'{"rows": 1e400}'
        (folder / "__sslfeat__/part-00000.json").write_bytes(data)
        for attempt in attempts(folder, tiny, [])[:4]:
            with pytest.raises(FeaturesError, match="part-00000"):
                attempt()
        repair_folder(Encoder.load(tiny, "cpu", 1), folder)
        assert contents(folder) == whole, f"{field} = {value!r}"


@pytest.mark.parametrize("data", [b"", b"null", b"[" * 100_000, b"\xff", b'{"rows": ' + b"9" * 5000 + b"}"])
def test_a_commit_record_that_is_none(data: bytes, folder: Path, tiny: Path) -> None:
    (folder / "__sslfeat__/part-00000.json").write_bytes(data)
    assert len(list(verify(folder))) >= 1
    with pytest.raises(FeaturesError, match=r"part-00000\.json"):
        Features.load(folder)


NESTED = b'{"format": 3, "x": ' + b"[" * 900 + b"]" * 900 + b"}"


@pytest.mark.parametrize("data", [b"", b"null", b"[" * 100_000, b"\xff", b'{"format": 3}', NESTED])
def test_a_run_json_that_is_none(data: bytes, folder: Path) -> None:
    (folder / "__sslfeat__/features.json").write_bytes(data)
    with pytest.raises(FeaturesError, match=r"features\.json"):
        read_run(folder)
    assert "Traceback" not in sslfeat("info", folder).stderr


def sign(folder: Path, name: str, data: bytes) -> None:
    """Put other ``data`` in a part's file, and its hash in the record."""
    (folder / name).write_bytes(data)
    record = json.loads((folder / "__sslfeat__/part-00000.json").read_bytes())
    record["files"][name] = atomic.sha256_file(folder / name)
    (folder / "__sslfeat__/part-00000.json").write_bytes(atomic.json_bytes(record))


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def test_a_signed_part_that_holds_something_else_is_named(folder: Path) -> None:
    name = "part-00000.parquet"
    table = pq.read_table(folder / name)
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(40 * 9, np.float32)), 9)
    holes = pa.array([None, *table["embedding"].to_pylist()[1:]], pa.list_(pa.float32(), TINY_DIM))
    column = list(table.column_names).index
    for lie in (
        b"PAR1 no parquet",
        parquet(table.drop_columns(["embedding"])),
        parquet(table.drop_columns(["sha256"])),
        parquet(table.slice(1)),
        parquet(table.set_column(column("embedding"), "embedding", wide)),
        parquet(table.set_column(column("embedding"), "embedding", holes)),
        parquet(table.set_column(column("embedding"), "embedding", table["embedding"].cast(pa.list_(pa.float64(), TINY_DIM)))),
        parquet(table.set_column(column("path"), "path", pa.array(range(40)))),
        parquet(table.set_column(column("path"), "path", pa.array([None] * 40, pa.string()))),
        parquet(table.set_column(column("width"), "width", pa.array(["1"] * 40))),
    ):
        sign(folder, name, lie)
        for read in (Features.load, lambda out: list(FeaturesFolder(out).parts()), lambda out: refuse_any(list(verify(out)))):
            with pytest.raises(FeaturesError, match=r"part-00000\.parquet"):
                read(folder)


def test_a_signed_npy_that_holds_something_else_is_named(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    out, name = tmp_path / "f", "img_emb/img_emb_0000.npy"
    embed_to_folder(Encoder.load(tiny, "cpu", 1), find_inputs([image_folder]), out, Options(layout="npy"))
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 8), }"
    for lie in (b"", b"\x93NUMPY", np.zeros((40, 9), np.float32), np.zeros((40, 8)), np.zeros(40, np.float32),
                np.array([{}] * 40), (header % 10**15).ljust(127) + b"\n"):  # fmt: skip
        if isinstance(lie, np.ndarray):
            np.save(tmp_path / "lie.npy", lie, allow_pickle=True)
            lie = (tmp_path / "lie.npy").read_bytes()
        sign(out, name, lie)
        with pytest.raises(FeaturesError, match=r"img_emb_0000\.npy"):
            Features.load(out)
        assert list(verify(out))
