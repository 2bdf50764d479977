"""A features folder knows what it was asked to be of: the line that brings it up to date can be pasted."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import typer

from sslfeat.cli.app import app
from sslfeat.cli.places import READ, WRITTEN
from sslfeat.errors import FeaturesError
from sslfeat.features.given import OPTIONS, Given
from sslfeat.features.metadata import FORMAT, RUN_NAME, read_run
from sslfeat.storage.records import CHECK, signed_bytes
from tests.conftest import contents
from tests.in_process import run


@pytest.fixture
def home(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with some images and a table of others, with labels."""
    monkeypatch.chdir(tmp_path)
    images = sorted(image_folder.rglob("*.jpg"))
    for name, few in (("my images", images[:4]), ("others", images[4:8])):
        Path(name).mkdir()
        for path in few:
            shutil.copy(path, name)
    rows = "".join(f"others/{path.name},odd\n" for path in images[4:8])
    Path("list.csv").write_text(f"path,label\n{rows}")
    return tmp_path


def test_the_line_that_is_recorded_follows_the_images(home: Path, tiny: Path) -> None:
    options = ["--encoder", str(tiny), "--part-size", "3", "--exclude", "*none*", "--exclude", "*never*", "--labels", "none"]
    done = run("embed", "my images", "list.csv", "--out", "f", *options, "--num-workers", "1")
    assert done.returncode == 0, done.stderr
    given = read_run(Path("f")).given
    assert given is not None
    assert given.images == ("my images", "list.csv")
    assert sorted(given.options) == sorted(options)
    before = contents(home / "f")
    shutil.copy(next(Path("others").iterdir()), "my images/a new one.jpg")
    words = given.update(Path("f"))
    assert (words[:4], words[-1]) == (["sslfeat", "embed", "my images", "list.csv"], "--update")
    assert run(*words[1:]).returncode == 0
    Path("my images/a new one.jpg").unlink()
    assert run(*words[1:]).returncode == 0
    assert contents(home / "f") == before


def test_features_of_other_commands_know_it_too(home: Path, tiny: Path) -> None:
    assert run("index", "my images", "--encoder", tiny, "--out", "i").returncode == 0
    assert read_run(Path("i/features")).given == Given(("my images",), ("--encoder", str(tiny)))
    assert run("dedupe", "my images").returncode == 0
    assert read_run(Path("my images-features")).given == Given(("my images",))


def test_what_cannot_be_given_again_or_may_be_secret_is_not_recorded() -> None:
    assert Given.of(["a"], ["--encoder", "https://x.org/e.onnx"]) == Given(("a",), ("--encoder", "https://x.org/e.onnx"))
    assert Given.of(["what? @me.jpg"]) is not None
    for images, options in (
        (["-"], []), (["a", "s3://b/c?sig=1"], []), (["ftp://me:pw@x/y"], []), (["a\udcff"], []),
        (["a"], ["--encoder", "https://x/e.onnx?token=1"]),
    ):  # fmt: skip
        assert Given.of(images, options) is None


def test_a_folder_of_format_3_is_read_and_gone_on_with(home: Path, tiny: Path) -> None:
    line = ("embed", "my images", "--encoder", tiny, "--out", "f")
    assert run(*line).returncode == 0
    path = Path("f", RUN_NAME)
    fields = json.loads(path.read_bytes())
    del fields[CHECK], fields["given"]
    path.write_bytes(signed_bytes({**fields, "format": 3}))
    assert (read_run(Path("f")).given, read_run(Path("f")).format) == (None, FORMAT)
    assert run("verify", "f").returncode == 0
    assert json.loads(run(*line, "--json").stdout)["resumed"] == 4
    (Path("f") / "part-00000.parquet").unlink()
    assert run("repair", "f", "--encoder", tiny).returncode == 0
    next(Path("my images").iterdir()).unlink()
    assert json.loads(run(*line, "--update", "--json").stdout)["embedded"] == 3
    assert read_run(Path("f")).given == Given(("my images",), ("--encoder", str(tiny)))
    path.write_bytes(signed_bytes({**fields, "format": 2}))
    with pytest.raises(FeaturesError, match="format 2"):
        read_run(Path("f"))


def test_names_of_options_and_places_are_those_of_the_commands() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    assert {name for parameter in commands["embed"].params for name in parameter.opts} >= OPTIONS
    for command, names in (*READ.items(), *((command, (name,)) for command, name in WRITTEN.items())):
        assert {parameter.name for parameter in commands[command].params} >= set(names), command


def test_an_update_without_what_most_images_are_of_is_refused(home: Path, tiny: Path) -> None:
    line = ("--encoder", str(tiny), "--out", "f")
    assert run("embed", "my images", *line, "--labels", "none").returncode == 0
    before = contents(home / "f")
    refused = run("embed", "others", *line, "--update")
    assert (refused.returncode, contents(home / "f")) == (2, before)
    assert (
        "4 of the 4 images of f would be removed: it was computed from 'my images', and 'my images' is missing from this command"
        in refused.stderr
    )
    words = ["embed", "my images", "others", "--out", "f", "--labels", "none", "--encoder", str(tiny), "--update"]
    assert shlex.join(["sslfeat", *words]) in refused.stderr
    assert "--overwrite instead of --update" in refused.stderr
    assert run(*words).returncode == 0
    assert run("embed", "./others/", *line, "--update").returncode == 0  # half of them
    for path in sorted(Path("others").iterdir())[1:]:
        path.unlink()
    assert run("embed", Path("others").absolute(), *line, "--update").returncode == 0  # however it is written
    assert read_run(Path("f")).inputs.count == 1
    assert run("embed", "my images", *line, "--overwrite").returncode == 0


def test_an_update_of_images_that_were_moved_goes_on(home: Path, tiny: Path) -> None:
    line = ("--encoder", tiny, "--out", "f", "--labels", "none")
    assert run("embed", "my images", *line).returncode == 0
    Path("new/place").mkdir(parents=True)
    for number, path in enumerate(sorted(Path("my images").iterdir())):
        path.rename(("new/place" if number % 2 else "new") + f"/{number}.jpg")
    done = run("embed", "new", *line, "--update", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed"] == 4


def test_metadata_that_go_with_their_list_are_missed(home: Path, tiny: Path) -> None:
    rows = "".join(f"{path},red\n" for path in Path("others").iterdir())
    Path("colors.csv").write_text(f"path,color\n{rows}")
    line = ("--encoder", tiny, "--out", "f", "--labels", "none", "--update")
    assert run("embed", "others", "colors.csv", *line).returncode == 0
    done = run("embed", "others", *line)
    assert done.returncode == 0
    assert "the metadata of 4 images was removed: colors.csv was given before, and is missing from this command" in done.stderr
    assert f"sslfeat embed others colors.csv --out f --encoder {tiny} --labels none --update" in done.stderr
    assert "is gone" not in run("embed", "others", "colors.csv", *line).stderr
    Path("colors.csv").write_text("path,color\n" + rows.replace("red", "blue"))
    assert "is gone" not in run("embed", "others", "colors.csv", *line).stderr


def test_a_list_that_lost_most_of_its_rows_takes_nothing_away(home: Path, tiny: Path) -> None:
    names = sorted(path.name for path in Path("others").iterdir())
    for head in ("path,color", "path,label"):
        rows = [head, *(f"others/{name},{number}" for number, name in enumerate(names))]
        line = ("embed", "others", "colors.csv", "--encoder", tiny, "--out", head[5:], "--update")
        Path("colors.csv").write_text("\n".join(rows))
        assert run(*line).returncode == 0
        before = contents(home / head[5:])
        for left, words in ((1, "colors.csv has no rows"), (2, "3 of the 4 images of "), (3, None)):
            Path("colors.csv").write_text("\n".join(rows[:left]))
            done = run(*line)
            assert (done.returncode == 0) == (words is None), done.stderr
            assert words is None or (words in done.stderr and contents(home / head[5:]) == before)
        assert run(*line[:-1], "--labels", "none", "--update").returncode == 0  # it was asked for
        Path("colors.csv").write_text("\n".join(rows[:2]))
        assert run(*line[:-1], "--overwrite").returncode == 0


def test_failures_are_summed_up_by_reason_and_those_that_are_new_counted(home: Path, tiny: Path) -> None:
    Path("my images/empty.jpg").touch()
    with Path("list.csv").open("a") as file:
        file.write("others/gone.jpg,odd\nothers/lost.jpg,odd\n")
    line = ("embed", "my images", "list.csv", "--encoder", tiny, "--out", "f", "--update")
    first = run(*line)
    assert "2 images: no such file (named in a list, or by a broken link)\n1 image: the file is empty\n" in first.stderr
    assert "since the last run" not in first.stderr
    Path("my images/later.jpg").touch()
    second = run(*line)
    assert second.returncode == 3
    assert "new since the last run: 1 of the 4, such as my images/later.jpg\n" in second.stderr
    assert "new since the last run: 0 of the 4\n" in run(*line).stderr


def test_labels_are_counted_of_images_that_are_there(home: Path, tiny: Path) -> None:
    Path("kinds").mkdir()
    for number, path in enumerate(sorted(Path("my images").iterdir())):
        Path("kinds", str(number % 2)).mkdir(exist_ok=True)
        path.rename(Path("kinds", str(number % 2), path.name))
    line = ("--encoder", tiny, "--out", "f", "--update")
    assert run("embed", "kinds", *line).returncode == 0
    with Path("list.csv").open("a") as file:
        file.write("others/gone.jpg,\nothers/lost.jpg,rare\n")
    done = run("embed", "kinds", "others", "list.csv", *line)  # most lose a folder's name, but the table is new
    assert done.returncode == 3
    assert "labels: 1 class; without a label: 4 images (" in done.stderr


def test_what_was_there_before_counts_failed_images_on_both_sides(home: Path, tiny: Path) -> None:
    Path("my images/bad.jpg").write_bytes(b"none")
    line = ("embed", "my images", "--encoder", tiny, "--out", "f")
    assert run(*line).returncode == 3
    assert "f: 4 embedded, 1 failed (5 of 5 by an earlier run), " in run(*line).stdout
