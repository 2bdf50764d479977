"""Tables of labels as people have them: text as written, every way to write a path, and a cure for what cannot be read."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from sslfeat.errors import InputError
from sslfeat.evaluation.probing import labels
from tests.conftest import labels_from_table

PATHS = [f"pics/{kind}/{number}.jpg" for kind in ("cat", "dog") for number in range(3)]
KINDS = [path.split("/")[1] for path in PATHS]


def table(
    tmp_path: Path, values: list[str] | None = None, names: list[str] | None = None, head: str = "path,label", by: str = ","
) -> Path:
    rows = zip(names or PATHS, values or KINDS, strict=True)
    file = tmp_path / "labels.csv"
    file.write_text("\n".join([head, *(f"{name}{by}{value}" for name, value in rows)]) + "\n", encoding="utf-8", newline="")
    return file


@pytest.mark.parametrize(
    "pair",
    [("0002", "2"), ("1.10", "1.1"), ("1e5", "100000"), ("true", "True"), ("NA", "nan"), ("2020-01-01", "2020-01-01 00:00:00")],
)
def test_text_stays_as_written(tmp_path: Path, pair: tuple[str, str]) -> None:
    values = [pair[number % 2] for number in range(6)]
    assert labels_from_table(table(tmp_path, values), PATHS) == values


@pytest.mark.parametrize(("by", "ending"), [(",", "csv"), (";", "csv"), ("\t", "csv"), ("\t", "tsv"), (";", "txt")])
def test_the_delimiter_is_found(tmp_path: Path, by: str, ending: str) -> None:
    file = table(tmp_path, head=f"path{by}label", by=by).rename(tmp_path / f"l.{ending}")
    assert labels_from_table(file, PATHS) == KINDS
    values = [f"a{by}b", "c", "c", "c", "c", "c"]
    quoted = table(tmp_path, [f'"{value}"' for value in values], head=f"path{by}label", by=by)
    assert labels_from_table(quoted, PATHS) == values


@pytest.mark.parametrize(
    "head", ["Path,Label", "FILE , Class", " path, label", '"path","label"', "path,label,", "sep=,\npath,label"]
)
def test_headers_in_any_case_and_with_spaces(tmp_path: Path, head: str) -> None:
    assert labels_from_table(table(tmp_path, [f" {kind} " for kind in KINDS], head=head), PATHS) == KINDS


@pytest.mark.parametrize("sort", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_with_and_without_their_mark(tmp_path: Path, sort: str) -> None:
    file = table(tmp_path, ["café", *KINDS[1:]])
    file.write_bytes(file.read_text("utf-8").replace("\n", "\r\n").encode(sort))
    assert labels_from_table(file, PATHS) == ["café", *KINDS[1:]]


def test_quoted_line_breaks_and_empty_cells(tmp_path: Path) -> None:
    values = ['"a\nb"', "", " ", "x", '"say ""hi"""', "x"]
    wanted = ["a\nb", None, None, "x", 'say "hi"', "x"]
    assert labels_from_table(table(tmp_path, values), PATHS) == wanted


@pytest.mark.parametrize(
    "written",
    [
        [f"./{path}" for path in PATHS],
        [path.replace("/", "\\") for path in PATHS],
        ["C:\\data\\" + path.replace("/", "\\") for path in PATHS],
        [path if number % 2 else os.path.abspath(path) for number, path in enumerate(PATHS)],
        [path.removeprefix("pics/") for path in PATHS],
        ["/elsewhere/" + path for path in PATHS],
    ],
)
def test_every_way_to_write_a_path(tmp_path: Path, written: list[str]) -> None:
    assert labels_from_table(table(tmp_path, names=written), PATHS) == KINDS


def test_paths_that_differ_in_a_folder_are_not_joined(tmp_path: Path) -> None:
    other = table(tmp_path, names=[path.replace("pics", "train") for path in PATHS])
    with pytest.raises(InputError, match=r"no label for any of the 6 images.*contains train/cat/0\.jpg"):
        labels_from_table(other, PATHS)
    with pytest.raises(InputError, match="and another image: give more of its path"):
        labels_from_table(table(tmp_path, names=[Path(path).name for path in PATHS], values=["x"] * 6), PATHS)


def test_composed_and_decomposed_names_are_one(tmp_path: Path) -> None:
    apart, whole = (unicodedata.normalize(form, "é") for form in ("NFD", "NFC"))
    paths = [f"{apart}/0.jpg", f"{whole}/1.jpg"]
    file = table(tmp_path, [apart, whole], [f"{whole}/0.jpg", f"{apart}/1.jpg"])
    assert labels_from_table(file, paths) == [whole, whole]
    assert labels.class_folders(paths)[0] == [whole, whole]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("path,label\na.jpg,café\n".encode("latin-1"), r"is not UTF-8 \(line 2\): save it as 'CSV UTF-8'"),
        ("path,label\na.jpg,b\n".encode("utf-16-le"), "NUL characters: save it as 'CSV UTF-8'"),
        (b"PK\x03\x04 a workbook", "a spreadsheet, archive or parquet, not text: save it as CSV"),
        (b"", "is empty: it needs a header 'path,label'"),
        (b"pics/a.jpg,cat\npics/b.jpg,dog\n", r"no header.*pics/a\.jpg: add the header 'path,label'"),
        (b"path,label,label\na.jpg,b,c\n", "2 columns named 'label': rename all but one"),
        (b"path,label\na.jpg,cat,dog\n", "line 2: 3 cells, but 2 columns: quote cells that contain the delimiter"),
        (b'path,label\n"a.jpg,cat\n', "unbalanced quotes"),
        (b"path,label\na.jpg,cat\n./a.jpg,dog\n", "a.jpg has two labels, 'cat' and 'dog'"),
        (b"path,kind\na.jpg,cat\n", "no column 'label'.*path, kind.*: choose one with --column"),
    ],
)
def test_what_cannot_be_used_names_the_cure(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "labels.csv").write_bytes(data)
    with pytest.raises(InputError, match=message):
        labels_from_table(tmp_path / "labels.csv", ["a.jpg", "b.jpg"])


def test_parquet_keeps_text_and_knows_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "labels.parquet"

    def read(column: pa.Array) -> list[object]:
        parquet.write_table(pa.table({"Path": ["a.jpg", "b.jpg", "c.jpg"], "label": column}), file)
        return list(labels_from_table(file, ["a.jpg", "b.jpg", "c.jpg"]))

    assert read(pa.array(["0002", None, ""])) == ["0002", None, None]
    assert read(pa.array([2, None, 3])) == ["2", None, "3"]
    assert read(pa.array([2.0, float("nan"), 1.5])) == ["2.0", None, "1.5"]
    assert read(pa.array(["x", "y", "x"]).dictionary_encode()) == ["x", "y", "x"]
    assert read(pa.array([b"caf\xc3\xa9", b"x", b"x"])) == ["café", "x", "x"]
    with pytest.raises(InputError, match=r"not UTF-8, b'caf\\xe9'"):
        read(pa.array([b"caf\xe9", b"x", b"x"]))
    file.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        labels_from_table(file, ["a.jpg"])


def test_what_stands_beside_class_folders_is_left_out_and_counted() -> None:
    odd = ["pics/loose.jpg", "pics/cat/@eaDir/0.jpg/thumb.jpg", "pics/#recycle/old.jpg"]
    found, left_out = labels.class_folders([*PATHS, *odd])
    assert found == [*KINDS, None, None, None]
    assert [(row.images, row.example) for row in left_out] == [(1, odd[0]), (2, odd[1])]
    assert str(left_out[0]) == "1 left out: beside the class folders, for example pics/loose.jpg"
    assert labels.class_folders(["a/0.jpg", "a/1.jpg"])[0] == ["a", "a"]  # one folder is a class by itself
