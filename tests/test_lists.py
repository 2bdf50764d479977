"""Tables of images as input: formats, encodings, paths, labels and metadata columns, and their updates."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sslfeat.data.dataset import find_inputs
from sslfeat.errors import FeaturesError, InputError
from sslfeat.features.update import update_folder
from sslfeat.features.writer import embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.retrieval.create import Events, build_into, requirements_of
from sslfeat.retrieval.index import Index
from sslfeat.retrieval.maintenance import change
from sslfeat.retrieval.vectors import FolderVectors
from tests.conftest import contents
from tests.in_process import run
from tests.lists import OPTIONS, encoder, found
from tests.test_json import checked

__all__ = ["encoder"]


def write_list(path: Path, folder: Path, town: str = "Rome") -> Path:
    lines = ["file_name,class,town,Year taken,width"]
    for number, image in enumerate(sorted(folder.rglob("*.jpg"))):
        lines.append(f'"{image}",kind {number % 3},{("Bern", town)[number % 2]},{2000 + number},{number}')
    path.write_text("\n".join(lines))
    return path


def test_a_list_s_columns_are_conditions(encoder: Encoder, image_folder: Path, tmp_path: Path) -> None:
    inputs = find_inputs([write_list(tmp_path / "list.csv", image_folder)])
    assert [record.label for record in inputs] == [f"kind {n % 3}" for n in range(40)]
    assert inputs[1].metadata == {"class": "kind 1", "town": "Rome", "Year_taken": "2001", "width_": "1"}
    embed_to_folder(encoder, inputs, tmp_path / "f", OPTIONS)
    build_into(tmp_path / "i", FolderVectors(tmp_path / "f"), "cosine", requirements_of(0.95, None, "flat"), Events())
    index = Index.load(tmp_path / "i")
    assert found(index, "town=Rome") == 20
    assert found(index, "class=kind 0") == found(index, "label=kind 0") == 14
    assert found(index, "town!=Rome", "Year_taken>=2030") == 5
    assert found(index, "Year_taken<2010", "label=kind 0") == 4
    assert found(index, "width_~1?") == 10
    assert found(index, "width>0") == 40
    named = index.search(index.vectors([0, 11]), 1)
    assert [dict(hit.metadata) for hit in (*named.of(0), *named.of(1))] == [inputs[0].metadata, inputs[11].metadata]
    assert len({*named.of(0), *named.of(1)}) == 2  # hits can be kept in sets
    with pytest.raises(InputError, match=r"FIELD one of path, sha256, width, height, label, Year_taken, class, town, width_"):
        found(index, "country=Italy")
    with pytest.raises(InputError, match="'new' is not a number nor a date"):
        found(index, "Year_taken>new")


def test_other_descriptions_are_taken_over_without_embedding(encoder: Encoder, image_folder: Path, tmp_path: Path) -> None:
    embed_to_folder(encoder, find_inputs([write_list(tmp_path / "list.csv", image_folder)]), tmp_path / "f", OPTIONS)
    build_into(tmp_path / "i", FolderVectors(tmp_path / "f"), "cosine", requirements_of(0.95, None, "flat"), Events())
    inputs = find_inputs([write_list(tmp_path / "list.csv", image_folder, "Oslo")])
    with pytest.raises(FeaturesError, match="20 with changed metadata"):
        embed_to_folder(encoder, inputs, tmp_path / "f", OPTIONS)
    summary, changes = update_folder(encoder, inputs, tmp_path / "f", OPTIONS)
    assert changes is not None and changes.described == 20 and summary.resumed == 40
    assert change(tmp_path / "i", FolderVectors(tmp_path / "f"), drop_missing=True).relabeled == 20
    assert found(Index.load(tmp_path / "i"), "town=Oslo") == 20
    assert change(tmp_path / "i", FolderVectors(tmp_path / "f"), drop_missing=True).relabeled == 0
    embed_to_folder(encoder, inputs, tmp_path / "fresh", OPTIONS)
    assert contents(tmp_path / "fresh") == contents(tmp_path / "f")


def test_folders_without_lists_are_as_before(embedded: Path) -> None:
    schema = pa.ipc.open_file(embedded / "__sslfeat__" / "inputs.arrow").schema
    assert schema.names == ["path", "label", "size", "modified", "changed"]
    assert pq.read_schema(embedded / "part-00000.parquet").names == ["path", "sha256", "width", "height", "label", "embedding"]


def test_metadata_go_along_wherever_images_are_searched(
    encoder: Encoder, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("qdrant_client")
    monkeypatch.chdir(tmp_path)
    table, url, every = write_list(tmp_path / "list.csv", image_folder), "qdrant://:memory:/lists/rows", []
    embed_to_folder(encoder, find_inputs([table]), tmp_path / "f", OPTIONS)
    assert run("push", "f", "--to", url).returncode == 0
    assert run("index", "f", "--out", "i").returncode == 0
    asked: tuple[str | Path, ...] = ("f", "--top", "40", "--where", "town=Rome", "--where", "Year_taken<2010", "--json")
    for place in (url, "i"):
        answers = checked(run("search", place, *asked).stdout, "search")["queries"]
        assert {hit["metadata"]["Year_taken"] for hit in answers[0]["hits"]} == {str(year) for year in range(2001, 2010, 2)}
        every.append([[(hit["path"], hit["metadata"]) for hit in answer["hits"]] for answer in answers])
        refused = run("search", place, "f", "--where", "country=Italy")
        assert "FIELD one of path, sha256, width, height, label, Year_taken, class, town, width_" in refused.stderr
    assert every[0] == every[1]


def test_rows_of_two_sources_have_each_other_s_columns(encoder: Encoder, image_folder: Path, tmp_path: Path) -> None:
    images = sorted(image_folder.rglob("*.jpg"))
    (tmp_path / "a.csv").write_text(f"path,town\n{images[0]},Rome\n{images[1]},\n")
    (tmp_path / "b.csv").write_text(f"path;year\n{images[2]};1999\n")
    for name in ("a", "b"):
        embed_to_folder(encoder, find_inputs([tmp_path / f"{name}.csv"]), tmp_path / name, OPTIONS)
    build_into(tmp_path / "i", FolderVectors(tmp_path / "a"), "cosine", requirements_of(0.95, None, "flat"), Events())
    change(tmp_path / "i", FolderVectors(tmp_path / "b"))
    index = Index.load(tmp_path / "i")
    assert (found(index, "town=Rome"), found(index, "year=1999"), found(index, "town!=Rome")) == (1, 1, 2)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "utf-16"])
def test_tables_as_programs_write_them(kind: str, image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").symlink_to(image_folder)
    paths = [f"in/{path.relative_to(image_folder)}" for path in sorted(image_folder.rglob("*.jpg"))[:3]]  # beside the list
    path = tmp_path / f"list.{'csv' if kind == 'utf-16' else kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"Image_Path": paths, "Label": [1, 2, None], "note": [["x"], None, []]}), path)
    else:
        separator = "\t" if kind == "tsv" else ","
        text = "".join(
            f"{name}{separator}{label}\r\n" for name, label in zip(["Path", *paths], ["LABEL", "1", "2", ""], strict=True)
        )
        path.write_bytes(text.encode("utf-16" if kind == "utf-16" else "utf-8-sig"))
    records = find_inputs([path])
    assert [record.path for record in records] == [str(tmp_path / name).encode() for name in paths]
    assert [record.label for record in records] == ["1", "2", None]
    assert all(record.metadata is None for record in records)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,label\nx.jpg,1\n", "no column of paths"),
        ("path,label\n,1\n", "row 1 has no path"),
        ("path,label\nx.jpg,1,2\n", "more fields"),
        ('path,label\n"x.jpg,1\n', "cannot be read as a table"),
        ("path\n" + "x" * (2 << 20), "cannot be read as a table"),
        ("", r"list\.csv is empty: a line 'path,label'"),
        ("path,town\nx.jpg,Bern\ny.jpg,Zürich\n", r"list\.csv is not UTF-8 \(row 2\): save it as 'CSV UTF-8'"),
        ("path,label\nx.jpg,Zürich\n", r"list\.csv is not UTF-8 \(row 1\)"),
        ("path,Größe\nx.jpg,1\n", r"list\.csv is not UTF-8"),
    ],
)
def test_tables_that_are_none(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=reason):
        find_inputs([tmp_path / "list.csv"])


def test_a_path_may_hold_bytes_that_are_not_utf_8(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"Z\xfcrich.jpg")
    Path(os.fsdecode(path)).write_bytes(b"1")
    (tmp_path / "list.csv").write_bytes(b"path,town\nZ\xfcrich.jpg,Bern\n")
    assert [record.path for record in find_inputs([tmp_path / "list.csv"])] == [path]


def test_a_table_in_another_encoding_than_the_names_of_its_files_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "pics"
    folder.mkdir()
    for written in ("a.jpg", "Z\u00fcrich.jpg"):
        Path(folder, written).write_bytes(b"1")
    file = tmp_path / "list.csv"
    file.write_bytes("path\na.jpg\nZ\u00fcrich.jpg\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"list\.csv is not UTF-8 \(Z\\xfcrich\.jpg\): save it as 'CSV UTF-8'"):
        find_inputs([folder, file])
    Path(folder, os.fsdecode(b"B\xe4r.jpg")).write_bytes(b"1")
    file.write_bytes("path\nB\u00e4r.jpg\nZ\u00fcrich.jpg\n".encode("latin-1"))  # one is so called: it is meant so
    assert b"Z\xfcrich.jpg" in [record.path for record in find_inputs([folder, file])]


def test_a_spreadsheet_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "cat.XLSX").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"cat\.XLSX: Excel files are not supported: save it as CSV"):
        find_inputs([tmp_path / "cat.XLSX"])


def described(*specs: Path, notes: list[str] | None = None) -> dict[str, tuple[str | None, dict[str, str]]]:
    inputs = find_inputs(specs, note=(notes if notes is not None else []).append)
    return {Path(record.name).name: (record.label, dict(record.metadata or {})) for record in inputs}


@pytest.mark.parametrize(("column", "field"), [("Category", "Category"), ("label", "label_")])
def test_a_column_of_labels_stays_a_field(column: str, field: str, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"1")
    path = tmp_path / "list.csv"
    path.write_text(f"path,{column},city\na.jpg,shoe,Bern\nb.jpg,,Rome\n")
    for labels in ("auto", "none", "folder"):
        notes: list[str] = []
        first, second = find_inputs([path], labels, note=notes.append)
        assert first.label == {"auto": "shoe", "none": None, "folder": tmp_path.name}[labels]
        kept = labels != "auto" or column != "label"  # else it is found by that name
        assert dict(first.metadata or {}) == {"city": "Bern", **({field: "shoe"} if kept else {})}
        assert dict(second.metadata or {}) == {"city": "Rome"}
        assert [f"the column {column!r}" in note and f"metadata field {field!r}" in note for note in notes] == (
            [True] if kept else []
        )


def test_folders_are_no_classes_beside_those_of_a_column(tmp_path: Path) -> None:
    names = [f"{folder}/{number}.jpg" for folder in ("in", "out") for number in range(4)]
    for name in names:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    path = tmp_path / "list.csv"
    path.write_text("path,Category,city\nin/0.jpg,shoe,Bern\nin/1.jpg,,Rome\n")
    both = [tmp_path / "photos", path]
    assert [record.label for record in find_inputs(both)] == ["shoe", *[None] * 7]
    assert [record.label for record in find_inputs(both, "folder")] == ["in"] * 4 + ["out"] * 4
    path.write_text("path,city\nin/0.jpg,Bern\n")
    assert [record.label for record in find_inputs(both)] == ["in"] * 4 + ["out"] * 4


def test_columns_that_a_list_has_no_more_leave_the_index(encoder: Encoder, image_folder: Path, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "list.csv", image_folder)
    embed_to_folder(encoder, find_inputs([listed]), tmp_path / "f", OPTIONS)
    build_into(tmp_path / "i", FolderVectors(tmp_path / "f"), "cosine", requirements_of(0.95, None, "flat"), Events())
    listed.write_text("\n".join(line.split(",")[0] for line in listed.read_text().splitlines()))
    update_folder(encoder, find_inputs([listed], "none"), tmp_path / "f", OPTIONS)
    change(tmp_path / "i", FolderVectors(tmp_path / "f"), drop_missing=True)
    index = Index.load(tmp_path / "i")
    assert index.columns.column_names == ["path", "sha256", "width", "height", "label"]
    with pytest.raises(InputError, match=r"FIELD one of path, sha256, width, height, label$"):
        found(index, "town=Rome")


def test_an_image_keeps_what_any_list_says_whatever_the_order(tmp_path: Path) -> None:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).touch()
    catalog, prices = tmp_path / "catalog.csv", tmp_path / "prices.csv"
    catalog.write_text("path,label,Brand\nmy photos/a.jpg,shoe,Acme\n")
    prices.write_text("path,label,Price,Brand\nmy photos/a.jpg,,5,Other\n")
    for order in ([folder, catalog], [catalog, folder]):
        assert described(*order) == {"a.jpg": ("shoe", {"Brand": "Acme"}), "b.jpg": (None, {})}
    notes: list[str] = []
    assert described(folder, catalog, prices, notes=notes)["a.jpg"] == ("shoe", {"Brand": "Acme", "Price": "5"})
    assert ["1 image" in note and "Brand 'Acme' and 'Other'" in note for note in notes] == [True]


def test_names_that_are_no_files_are_looked_for_in_what_else_is_given(tmp_path: Path) -> None:
    (tmp_path / "photos" / "x").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "x/b.jpg"):
        (tmp_path / "photos" / name).write_bytes(b"1")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(tmp_path / "photos", "photos")
    catalog = tmp_path / "catalog.csv"
    catalog.write_text("path,label\na.jpg,shoe\nx/b.jpg,hat\nb.jpg,of two\n")
    for source in (tmp_path / "photos", tmp_path / "photos.tar"):
        found = {record.name: record.label for record in find_inputs([source, catalog])}
        assert sorted(label for label in found.values() if label) == ["hat", "of two", "shoe"]
        assert found["b.jpg"] == "of two"  # of two images, neither: it fails by itself


def test_a_list_of_which_no_image_is_there(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "list.csv").write_text("path\na.jpg\nb.jpg\n")
    with pytest.raises(InputError, match=r"none of the 2 images .*list\.csv exists: a\.jpg .*the folder of the list") as error:
        find_inputs([tmp_path / "list.csv"])
    assert f"a.jpg is not at {Path.cwd() / 'a.jpg'} and not at {tmp_path / 'a.jpg'}. " in str(error.value)
    (tmp_path / "photos" / "c.jpg").write_bytes(b"1")
    absolute = tmp_path / "photos" / "list.csv"
    absolute.write_text(f"path\n{tmp_path}/photos/b.jpg\n")
    with pytest.raises(InputError, match=r"b\.jpg is not at \S+b\.jpg, and not exactly one of the other images") as error:
        find_inputs([tmp_path / "photos", absolute])
    assert "pass that folder as well" not in str(error.value)
