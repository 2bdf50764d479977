"""Conditions on columns: numbers, dates, missing values, and the messages when no image meets them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sslfeat.data.dataset import find_inputs
from sslfeat.errors import InputError
from sslfeat.features.writer import embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.retrieval.create import Events, build_into, requirements_of
from sslfeat.retrieval.filters import Condition, Filter
from sslfeat.retrieval.index import Index
from sslfeat.retrieval.vectors import ArrayVectors, FolderVectors, table
from sslfeat.system.dates import Moment
from tests.in_process import run
from tests.lists import OPTIONS, encoder, found

__all__ = ["encoder"]


def test_conditions_that_nothing_could_meet_say_so(encoder: Encoder, image_folder: Path, tmp_path: Path) -> None:
    lines = ["path,Price,Weight"]
    for number, image in enumerate(sorted(image_folder.rglob("*.jpg"))):
        lines.append(f'{image},"{number},50",{number if number % 2 else "EUR 3"}')
    (tmp_path / "list.csv").write_text("\n".join(lines))
    embed_to_folder(encoder, find_inputs([tmp_path / "list.csv"]), tmp_path / "f", OPTIONS)
    build_into(tmp_path / "i", FolderVectors(tmp_path / "f"), "cosine", requirements_of(0.95, None, "flat"), Events())
    index = Index.load(tmp_path / "i")
    with pytest.raises(InputError, match=r"no value of Price is a number, for example '0,50' \(write 0.50\)"):
        found(index, "Price<50")
    with pytest.raises(InputError, match=r"'50,5' is not a number \(write 50.5\)"):
        found(index, "Price<50,5")
    assert index.search(index.vectors([0]), 5, where=["Weight<9"]).notes == (
        "--where 'Weight<9': 20 values of Weight ignored, not a number, for example 'EUR 3'",
    )
    for condition, near in (("price=1", "Price"), ("Prise<4", "Price"), ("lable = x", "label")):
        with pytest.raises(InputError, match=f"did you mean '{near}'"):
            found(index, condition)
    assert found(index, "Weight < 9") == found(index, "Weight<9") == 4
    assert found(index, "Price = 1,50") == 1
    with pytest.raises(InputError, match="no image has the field label; labels come from"):
        found(index, "label=cat")
    assert found(index, "label!=cat") == 40
    page = tmp_path / "found.html"
    run("search", tmp_path / "i", tmp_path / "f", "--where", "Weight=3", "--out", page)
    assert '<span class="fact">Price: 3,50</span>' in page.read_text() and "where Weight=3" in page.read_text()
    assert "20 values of Weight ignored" in run("search", tmp_path / "i", tmp_path / "f", "--where", "Weight<9").stderr


def rows_of(**fields: Sequence[str | None]) -> ArrayVectors:
    count = len(next(iter(fields.values())))
    columns = table([f"{number}.jpg" for number in range(count)])
    for name, texts in fields.items():
        columns = columns.append_column(name, pa.array(texts, pa.string()))
    return ArrayVectors(np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32), columns)


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ("taken>=2024-01-31", "bcd"),
        ("taken>2024-01-31", "d"),  # all of that day is that day
        ("taken<=2024-01-31", "abc"),
        ("taken<2024-01-31T12:00", "ab"),
        ("taken>=2024-01-31 12:30:05", "cd"),
        ("taken>=2024-02", "d"),
        ("taken<2024", "a"),
        ("taken<=2024", "abcd"),
        ("taken>=2024:01:31", "bcd"),
        ("zoned>=2024-01-01T00:00Z", "bd"),  # c lies in the year before, d says no zone
        ("zoned<2024-01-01", "a"),
    ],
)
def test_dates_are_compared_as_dates(condition: str, met: str) -> None:
    taken = ["2023-12-31", "2024-01-31", "2024:01:31 12:30:05", "2024-02-01T00:00:00.5Z", None, "0000:00:00 00:00:00"]
    zoned = ["2023-06-01", "2024-01-01 00:30Z", "2024-01-01T00:30+02:00", "2024-01-01 00:00", None, None]
    index = Index.build(rows_of(taken=taken, zoned=zoned))
    hits = index.search(index.vectors([0]), 6, where=condition)
    assert "".join(sorted("abcdef"[row] for row in hits.rows[0].tolist() if row >= 0)) == met
    said = ("--where 'taken", "1 value of taken ignored, not a", "'0000:00:00 00:00:00'")
    assert all(all(part in note for part in said) for note in hits.notes)
    assert bool(hits.notes) == condition.startswith("taken")


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("01/02/2024", " nor a date such as 2024-01-31"),
        ("Jan 5 2024", " nor a date such as 2024-01-31"),
        ("1 234,50", " (write 1234.50)"),
        ("06/2026", " nor a date such as 2024-01-31"),
        ("10 and price<20", ": these are two conditions: give --where twice"),
        ("10 & <20,5", ": these are two conditions: give --where twice"),
    ],
)
def test_a_date_of_another_form_is_no_number_to_write(text: str, cure: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"{text!r} is not a number{cure}")):
        Condition.parse(f"taken>={text}", ["taken"])


def test_an_offset_of_hours_alone_as_databases_write_it() -> None:
    condition = Condition.parse("taken>=2024-01-31T10:00Z", ["taken"])
    assert condition.read(["2024-01-31 11:30:00+01", "2024-01-31 10:30:00+01", None]) == [True, False, None]


def test_each_value_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read, parse = list[str](), Moment.parse

    def noted(text: str) -> Moment | None:
        read.append(text)
        return parse(text)

    monkeypatch.setattr(Moment, "parse", noted)
    rows = pa.table({"taken": ["2024-01-30", "2024-02-01", "2024-02-01", None]})
    found = Filter("taken>=2024-01-31")
    assert found.met(rows).tolist() == [False, True, True, False]
    assert found.notes() == () and sorted(read[2:]) == ["2024-01-30", "2024-02-01"]  # the limit comes first


def test_why_nothing_is_found_is_said() -> None:
    many = [f"place {number}" for number in range(20)]
    index = Index.build(rows_of(city=["Bern", "Rome"] * 10, place=many, gone=[None] * 20))
    index.remove(["1.jpg"])  # place 1 is there no more

    def notes(*where: str) -> tuple[str, ...]:
        return index.search(index.vectors([0]), 5, where=where).notes

    assert notes("city=Bern") == ()
    assert notes("city=rome") == ("--where 'city=rome': city is one of Bern, Rome",)
    assert notes("place=Place 3") == ("--where 'place=Place 3': no image has this place: did you mean 'place 3'?",)
    assert notes("place=place 1", "city=Rome")[0].startswith("--where 'place=place 1': no image has this place")
    assert notes("city~om") == ("--where 'city~om': no city matches: a glob must match the whole value, such as *om*",)
    for condition in ("city=", "city~"):
        assert notes(condition) == (f"--where '{condition}': no city is an empty string; images without city match city!~?*",)
    assert notes("width>5") == ("--where 'width>5': no width is >5",)
    assert notes("city=Rome", "place=place 0") == ("each condition is met by some images, but no image meets all of them",)
    assert notes("path!~*.jpg") == ("--where 'path!~*.jpg': all images have this value",)
    with pytest.raises(InputError, match="unknown field 'gone'"):
        notes("gone=x")
    with pytest.raises(InputError, match="no value of city is a date, for example 'Bern': write dates such as 2024-01-31"):
        notes("city>2024-01-01")
    with pytest.raises(InputError, match="'yesterday' is not a number nor a date such as 2024-01-31"):
        notes("city>yesterday")


def test_images_with_a_value_and_without_one() -> None:
    index = Index.build(rows_of(price=["1", None, "20", None]))
    for condition, met in (("price!~?*", [1, 3]), ("price~?*", [0, 2])):
        assert sorted(index.search(index.vectors([0]), 2, where=condition).rows[0].tolist()) == met
