"""Shares of a features folder on a store: whoever dies or comes between, the objects are the files of one local run."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from sslfeat.data.dataset import find_inputs
from sslfeat.data.manifest import Manifest
from sslfeat.engines.part_worker import PartWorker
from sslfeat.engines.shares import Share
from sslfeat.errors import FeaturesError, RemoteError
from sslfeat.features.commits import check_record
from sslfeat.features.metadata import RUN_NAME, slice_of
from sslfeat.features.reader import Features
from sslfeat.features.remote import RemoteCopies
from sslfeat.features.remote_begin import is_about
from sslfeat.features.verify import verify
from sslfeat.features.writer import FeatureRun, Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.storage import atomic, cache, claim
from sslfeat.storage.claim import Claim, excludes
from sslfeat.storage.mirror import LEDGER, localize
from sslfeat.storage.remote import RemoteFolder
from sslfeat.storage.staging import Staging, staged
from tests.conftest import contents, however_asked
from tests.remote_world import URL, World, quiet, world
from tests.remotes import Killed, Memory, bucket, memory

__all__ = ["bucket", "memory", "world"]
INPUTS = f"{claim.FOLDER}/inputs.arrow"


def test_the_last_share_completes_the_folder(world: World, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch)
    expected = world.local("reference")
    for text, missing in (("3/3", 3), ("1/3", 1), ("3/3", 1)):
        assert world.share(text, machine=text[0]).missing == missing
        assert f"{claim.FOLDER}/failures.csv" not in memory.contents(URL)
    assert world.share("2/3", machine="1").missing == 0
    assert memory.contents(URL) == expected
    assert (world.share("2/2", machine="5").resumed, world.embed()) == (6, 12)
    assert memory.contents(URL) == expected
    assert list(verify(localize(URL))) == []


def test_a_share_anywhere_within_another(world: World, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch)
    expected = world.local("reference")
    world.share("1/2")
    last = memory.operations
    assert last > 30
    for within in range(1, last, 4):
        memory.clear()
        world.lose("")
        world.lose("B")
        memory.live()
        memory.meanwhile = (within, lambda: world.share("2/2", machine="B"))
        world.share("1/2")
        assert memory.meanwhile is None
        assert memory.contents(URL) == expected, within


@pytest.mark.parametrize("machine", ["", "another"])
def test_a_share_killed_anywhere_is_gone_on_with(
    world: World, memory: Memory, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    quiet(monkeypatch)
    expected = world.local("reference")
    world.share("1/2")
    last = memory.operations
    resumed = set()
    for kill_at in range(2 if machine else 1, last, 5):
        memory.live()
        memory.clear()
        for name in ("", "B", "another"):
            world.lose(name)
        memory.live(kill_at)
        with pytest.raises(Killed):
            world.share("1/2")
        memory.live()
        world.share("2/2", machine="B")
        resumed.add(world.share("1/2", machine).resumed)
        assert memory.contents(URL) == expected, kill_at
    assert resumed == {0, 3, 6}


def test_writers_exclude_each_other_if_they_might_write_the_same() -> None:
    shares = [Share(number, count) for count in range(1, 7) for number in range(1, count + 1)]
    for one, other in itertools.product(shares, shares):
        assert excludes(one.name, other.name) == bool(set(one.of(60)) & set(other.of(60)))
    assert all(excludes("", share.name) and excludes(share.name, "") for share in shares)


def test_shares_and_other_writers_keep_each_other_out(world: World, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "BEAT", 0.05)

    def writer(share: str, machine: str) -> AbstractContextManager[Staging]:
        with world.on(machine):
            stack = ExitStack()
            stack.enter_context(staged(URL, "any", is_about, share))
            return stack  # type: ignore[return-value]

    with writer("1-of-2", "A"), writer("2-of-2", "B"):
        with pytest.raises(RemoteError, match="is in use by another process"):
            writer("1-of-2", "A")
        for share in ("", "1-of-2", "1-of-1", "3-of-4"):
            with pytest.raises(RemoteError, match=f"{URL} is being written by process {os.getpid()} on "):
                writer(share, "C")
    with writer("", "A"):
        for machine in "AB":
            with pytest.raises(RemoteError, match="is being written by process"):
                writer("1-of-2", machine)
    with writer("1-of-2", "C"):  # all of them were given up
        pass


@pytest.mark.parametrize(("dead", "next_one"), [("", "2-of-3"), ("2-of-3", ""), ("1-of-3", "1-of-3"), ("1-of-3", "2-of-4")])
def test_a_silent_writer_is_outlived_and_stays_ended(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, dead: str, next_one: str
) -> None:
    monkeypatch.setattr(claim, "BEAT", 0.005)
    folder = RemoteFolder(URL)
    gone = Claim(folder, "gone", dead)
    gone._take()  # and never beats
    gone.check()
    for share in (next_one, dead, dead):  # of which the last has deleted what told
        with Claim(folder, f"machine of {share}", share).held() as held:
            held.check()
            with pytest.raises(RemoteError, match="another writer took over"):
                gone.check()
            gone._write(gone._record)  # a beat that comes late
            held.check()


def test_another_run_is_refused_by_name(world: World, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch)
    world.share("1/2")
    before = memory.contents(URL)
    world.options = Options(batch_size=2, part_size=4, workers=1)
    with pytest.raises(FeaturesError, match="part_size = 3, not 4"):
        world.share("2/2", machine="B")
    world.options = Options(batch_size=2, part_size=3, workers=1)
    (world.images / "11.jpg").unlink()
    with pytest.raises(FeaturesError, match=r"the images differ from those in .*1 removed"):
        world.share("2/2", machine="B")
    assert memory.contents(URL) == before


def test_what_was_not_begun_binds_nobody(world: World, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch)
    real = RemoteFolder.create

    def die(folder: RemoteFolder, name: str, data: bytes) -> bool:
        if name == INPUTS:
            raise Killed
        return real(folder, name, data)

    monkeypatch.setattr(RemoteFolder, "create", die)
    with pytest.raises(Killed):
        world.share("1/2")
    monkeypatch.setattr(RemoteFolder, "create", real)
    world.options = Options(batch_size=2, part_size=4, workers=1)
    world.share("1/2")
    world.share("2/2")
    assert memory.contents(URL) == world.local("reference")


def test_times_of_files_may_differ_from_machine_to_machine(world: World, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch)
    expected = world.local("reference")

    def others() -> None:
        for path in sorted(world.images.iterdir())[:11]:  # of one that is no image, nothing but size and time is known
            os.utime(path, (1, 1))
        world.share("2/2", machine="B")

    with Claim(RemoteFolder(URL), "dead", "1-of-2").held():
        RemoteFolder(URL).create(INPUTS, expected[INPUTS])
    others()
    assert memory.contents(URL)[RUN_NAME] == expected[RUN_NAME]
    assert memory.contents(URL)[INPUTS] == expected[INPUTS]
    world.share("1/2")
    assert memory.contents(URL) == expected
    memory.clear()
    world.lose("")
    world.lose("B")
    for path in world.images.iterdir():
        os.utime(path, (2, 2))
    memory.live()
    memory.meanwhile = (16, others)  # in the midst of beginning
    world.share("1/2")
    copy = localize(URL)
    assert list(verify(copy)) == []
    assert len(Features.load(copy).paths) == 11


def test_leftovers_of_a_folder_that_was_withdrawn_are_refused(world: World, memory: Memory) -> None:
    world.embed()
    RemoteFolder(URL).delete([RUN_NAME])
    with pytest.raises(FeaturesError, match=r"contains parts of an interrupted update or --overwrite"):
        world.share("1/2", machine="B")
    world.embed()
    assert memory.contents(URL) == world.local("reference")


def on_workers(world: World, copies: RemoteCopies, machine: str = "W") -> Callable[[FeatureRun, list[int]], None]:
    """An engine that has two workers, on another machine."""

    def engine(job: FeatureRun, missing: list[int]) -> None:
        make, facts = job.encoder.__reduce__()
        place = copies.elsewhere()
        with world.on(machine):
            workers = [PartWorker(Path.cwd(), make, facts, Path("nowhere"), job.options, job.run, place) for _ in range(2)]
            for worker in workers:
                assert worker.start() == 0
            for number, worker in zip(missing, itertools.cycle(workers), strict=False):
                numbers = slice_of(job.run, number)
                worker.embed(number, numbers.start, [job.manifest.inputs[index] for index in numbers])
        for number in missing:
            name = f"{claim.FOLDER}/part-{number:05d}.json"
            job.copies.refresh(name)
            job.add(number, check_record(job.out, job.run, number))

    return engine


def test_workers_elsewhere_upload_their_parts(world: World, memory: Memory) -> None:
    with staged(URL, "embed", is_about) as staging:
        copies, out = RemoteCopies(staging.mirror, staging.claim.hold), staging.mirror.folder
        engine = on_workers(world, copies)
        done = embed_to_folder(world.encoder, world.inputs(), out, world.options, copies=copies, engine=engine)
    assert (done.embedded, done.failed) == (11, 1)
    assert memory.contents(URL) == world.local("reference")
    with world.on("W"):
        assert [path.name for path in cache.root().rglob("*.*") if path.suffix == ".json" and path.name != LEDGER] == [
            "features.json"
        ] * 2  # and no part
        assert not list(cache.root().rglob("*.parquet"))


def test_a_worker_ends_when_the_folder_or_the_right_to_it_is_anothers(world: World, memory: Memory) -> None:
    with staged(URL, "embed", is_about) as staging:
        copies, out = RemoteCopies(staging.mirror, staging.claim.hold), staging.mirror.folder
        manifest = Manifest.take(world.inputs())
        embed_to_folder(world.encoder, world.inputs(), out, world.options, copies=copies)
        run = world.options.describe(world.encoder, manifest)
        make, facts = world.encoder.__reduce__()
        before = memory.contents(URL)
        with world.on("W"):
            worker = PartWorker(Path.cwd(), make, facts, Path("nowhere"), world.options, run, copies.elsewhere())
            worker.start()
    with staged(URL, "embed", is_about), world.on("W"), pytest.raises(RemoteError, match="another writer took over"):
        worker.embed(0, 0, manifest.inputs[:3])
    assert memory.contents(URL) == before
    world.options = Options(batch_size=2, part_size=4, workers=1)
    world.embed(overwrite=True)
    with world.on("W"), pytest.raises(FeaturesError, match=f"{URL} on .* differs from that of the run"):
        worker.embed(0, 0, manifest.inputs[:3])


def test_processes_killed_at_random_and_run_again(bucket: Path, tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    rng, wanted = random.Random(3), 40 if os.environ.get("SSLFEAT_NIGHTLY") else 2
    common = ["embed", str(image_folder), "--encoder", str(tiny), "--part-size", "5", "--batch-size", "3", "--num-workers", "1"]
    embed_to_folder(Encoder.load(tiny, "cpu", 1), find_inputs([image_folder]), tmp_path / "f", Options(3, 5))
    expected = {name: data for name, data in contents(tmp_path / "f").items() if name != atomic.LOCK_NAME}
    command = [sys.executable, "-c", "from sslfeat.cli.app import main; main()", *common, "--out", "s3://bucket/shared"]

    def start(share: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "SSLFEAT_CACHE": str(tmp_path / f"machine-{share[0]}")}
        return subprocess.Popen([*command, "--parts", share], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    kills = 0
    while kills < wanted:
        shutil.rmtree(bucket / "shared", ignore_errors=True)
        waiting = ["1/2", "2/2"]
        while waiting:
            started = [(share, start(share)) for share in waiting]
            if kills < wanted:
                while not list((bucket / "shared").glob("part-*")) and all(process.poll() is None for _, process in started):
                    time.sleep(0.01)
                time.sleep(rng.uniform(0.0, 0.3))
                rng.choice(started)[1].kill()
            ended = [(share, process.communicate()[0], process.returncode) for share, process in started]
            kills += sum(code == -signal.SIGKILL for *_, code in ended)
            assert {code for *_, code in ended} <= {0, -signal.SIGKILL}, ended
            waiting = [share for share, _, code in ended if code]
        there = {name: data for name, data in contents(bucket / "shared").items() if not claim.is_claim(name)}
        assert however_asked(there) == however_asked(expected)
