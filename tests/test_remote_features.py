"""Features and indexes on a store are the local ones, to the byte, wherever the writer is killed and whoever goes on."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sslfeat.cli.app import main
from sslfeat.errors import FeaturesError
from sslfeat.features.metadata import RUN_NAME
from sslfeat.features.reader import Features
from sslfeat.features.writer import Options
from sslfeat.retrieval.index import Index
from sslfeat.storage import atomic, claim
from sslfeat.storage.mirror import Mirror, localize
from sslfeat.storage.remote import RemoteFolder
from tests.conftest import contents, sslfeat
from tests.remote_world import URL, World, quiet, world
from tests.remotes import Killed, Memory, bucket, memory

__all__ = ["bucket", "memory", "world"]


def test_the_objects_are_the_files(world: World, memory: Memory) -> None:
    world.embed()
    expected = world.local("reference")
    assert memory.contents(URL) == expected
    assert world.embed() == 12  # nothing is left to do
    assert memory.contents(URL) == expected
    assert len(Features.load(localize(URL)).paths) == 11


@pytest.mark.parametrize("machine", ["same", "other"])
def test_killed_at_any_operation_and_run_again(
    world: World, memory: Memory, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    quiet(monkeypatch)
    expected = world.local("reference")
    world.embed()
    last = memory.operations
    assert last > 40
    kept = []
    for kill_at in range(1, last, 4 if machine == "same" else 6):
        memory.live()
        memory.clear()
        shutil.rmtree(world.cache)
        memory.live(kill_at)
        with pytest.raises(Killed):
            world.embed()
        if machine == "other":
            shutil.rmtree(world.cache)
        memory.live()
        kept.append(world.embed())
        assert memory.contents(URL) == expected, kill_at
    assert sorted(kept) == kept and {0, 3, 6, 9, 12} == set(kept)  # what was committed is not made again


def test_killed_again_and_again_it_comes_to_an_end(world: World, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch)
    for kill_at in range(5, 100, 5):
        memory.live(kill_at)
        try:
            world.embed()
            break
        except Killed:
            continue
    memory.live()
    world.embed()
    assert memory.contents(URL) == world.local("reference")


def test_an_update_that_is_killed_anywhere_is_the_old_folder_none_or_the_new_one(
    world: World, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(monkeypatch)
    before = world.local("before")
    times = os.stat(world.images / "00.jpg")
    aside = world.images.with_name("aside")

    def change() -> None:
        (world.images / "00.jpg").rename(aside)

    def restore() -> None:
        aside.rename(world.images / "00.jpg")
        os.utime(world.images / "00.jpg", ns=(times.st_atime_ns, times.st_mtime_ns))

    change()
    world.update()
    after = memory.contents(URL)
    assert len(after) == len(before) and after[RUN_NAME] != before[RUN_NAME]
    for kill_at in range(1, 300, 16):
        restore()
        memory.live()
        memory.clear()
        shutil.rmtree(world.cache)
        world.embed()
        old = memory.contents(URL)
        change()
        memory.live(kill_at)
        finished = True
        try:
            world.update()
        except Killed:
            finished = False
        found = memory.contents(URL)
        memory.live()
        world.update()
        new = memory.contents(URL)
        assert new.keys() == after.keys()
        assert RUN_NAME not in found or found in (old, new), kill_at
        assert len(Features.load(localize(URL)).paths) == 10
        if finished:
            break
    else:
        raise AssertionError("it never came to its end")


def test_another_run_is_refused_and_replaced_on_request(world: World, memory: Memory) -> None:
    world.embed()
    expected = memory.contents(URL)
    world.options = Options(batch_size=2, part_size=4, workers=1)
    with pytest.raises(FeaturesError, match="part_size = 3, not 4"):
        world.embed()
    assert memory.contents(URL) == expected
    world.embed(overwrite=True)
    assert memory.contents(URL) == world.local("reference")


def test_images_are_compared_by_content_where_their_times_differ(world: World, memory: Memory) -> None:
    world.embed()
    shutil.rmtree(world.cache)
    for path in sorted(world.images.iterdir())[:11]:  # the last is no image: size and time are all that is known of it
        os.utime(path, (1, 1))
    expected = memory.contents(URL)
    assert world.embed() == 12
    assert memory.contents(URL) == expected
    shutil.rmtree(world.cache)
    shutil.copy(world.images / "01.jpg", world.images / "00.jpg")
    with pytest.raises(FeaturesError, match="the images differ"):
        world.embed()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line within this process: exit code, standard output, standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["sslfeat", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_the_command_line_on_s3(
    bucket: Path, tiny: Path, image_folder: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    out, index, encoder = "s3://bucket/features", "s3://bucket/index", "s3://bucket/enc.onnx"
    (bucket / "enc.onnx").write_bytes(tiny.read_bytes())
    done = sslfeat("embed", image_folder, "--encoder", encoder, "--out", out, "--part-size", "16")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 40 embedded, 0 failed")
    reference = tmp_path / "features"
    assert command("embed", image_folder, "--encoder", encoder, "--out", reference, "--part-size", "16")[0] == 0
    there = {name: data for name, data in contents(bucket / "features").items() if not claim.is_claim(name)}
    assert there == {name: data for name, data in contents(reference).items() if name != atomic.LOCK_NAME}
    assert command("index", out, "--out", index)[0] == 0
    assert b'"origin": "s3://bucket/features"' in (bucket / "index" / "index.json").read_bytes()
    image = sorted(image_folder.rglob("*.jpg"))[0]
    code, found, _ = command("search", index, image, "--files", "--top", "1")  # by an encoder that was pulled above
    assert (code, Path(found.strip()).name) == (0, image.name)
    code, _, said = command("index", out, "--out", index)
    assert code == 1 and "s3://bucket/index already contains an index" in said
    code, _, said = command("cluster", out, "-k", "2", "--out", "s3://bucket/clusters")
    assert code == 2 and "requires a local path for this argument" in said
    part = bucket / "features" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    code, _, said = command("verify", out)
    assert code == 1 and "s3://bucket/features/part-00001.parquet is damaged" in said
    assert command("repair", out, "--encoder", encoder)[0] == 0
    assert part.read_bytes() == (reference / "part-00001.parquet").read_bytes()


def test_an_index_whose_upload_was_cut_off_is_uploaded_by_the_same_command(
    world: World, memory: Memory, monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str, str]]
) -> None:
    quiet(monkeypatch)
    world.embed()
    arguments = ("index", URL, "--out", "memory://place/index")
    memory.live()
    real = Mirror.push_all

    def die(mirror: Mirror, check: Callable[[], None]) -> None:
        memory.live(kill_at=8)
        real(mirror, check)

    monkeypatch.setattr(Mirror, "push_all", die)
    with pytest.raises(Killed):
        command(*arguments)
    monkeypatch.setattr(Mirror, "push_all", real)
    memory.live()
    assert "index.json" not in memory.contents("memory://place/index")
    assert command(*arguments)[:2] == (0, "memory://place/index: uploaded; an earlier run of this command completed it\n")
    assert set(memory.contents("memory://place/index")) == {"index.faiss", "ids.parquet", "index.json"}
    assert len(Index.load(localize("memory://place/index"))) == 11


def test_what_somebody_keeps_beside_it_stays(world: World, memory: Memory) -> None:
    world.embed()
    RemoteFolder(URL).put("notes.txt", b"mine")
    (world.images / "00.jpg").unlink()
    world.update()
    assert memory.contents(URL)["notes.txt"] == b"mine"
    world.options = Options(batch_size=2, part_size=5, workers=1)
    world.embed(overwrite=True)
    assert memory.contents(URL) == {**world.local("reference"), "notes.txt": b"mine"}
