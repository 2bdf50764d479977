"""Shares of the parts: any number of processes on one folder, in any order, killed anywhere, leave what one leaves."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sslfeat.cli.embed import _job
from sslfeat.data.dataset import find_inputs
from sslfeat.engines.shares import Share, embed_share
from sslfeat.errors import FeaturesError, UsageError
from sslfeat.features import folder as features_folder
from sslfeat.features import writer
from sslfeat.features.metadata import read_run
from sslfeat.features.update import update_folder
from sslfeat.features.verify import verify
from sslfeat.features.writer import Options, Summary, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.storage import atomic
from sslfeat.storage.records import signed_bytes
from tests.conftest import contents, however_asked, sslfeat, write_tiny

OPTIONS = Options(batch_size=3, part_size=7, workers=1)
LEFT_OVER = f".dead{atomic.TEMPORARY_SUFFIX}"


@pytest.fixture(scope="module")
def images(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 files in 6 parts, the one that is no image in the first."""
    folder = tmp_path_factory.mktemp("shares") / "images"
    shutil.copytree(image_folder, folder)
    (folder / "circles" / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    return folder


@pytest.fixture(scope="module")
def whole(tiny: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that one undisturbed process writes."""
    out = tmp_path_factory.mktemp("whole") / "f"
    embed_to_folder(Encoder.load(tiny, "cpu", 1), find_inputs([images]), out, OPTIONS)
    return features(out)


def features(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(out).items() if name != atomic.LOCK_NAME}


def run(tiny: Path, images: Path, out: Path, text: str, options: Options = OPTIONS) -> Summary:
    return embed_share(Encoder.load(tiny, "cpu", 1), find_inputs([images]), out, options, share=Share.parse(text))


def test_every_part_belongs_to_one_share() -> None:
    for parts in range(12):
        for count in range(1, 15):
            belonging = sorted(number for share in range(1, count + 1) for number in Share(share, count).of(parts))
            assert belonging == list(range(parts))
    assert Share.parse(" 3/16 ") == Share(3, 16)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/2", "1/2/3", "a/b", "1.0/2", "٣/٤", "", "1/99999999999"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"share|K/N"):
        Share.parse(text)


def test_the_last_share_completes_the_folder(tiny: Path, images: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "f"
    for text, missing in (("4/4", 5), ("2/4", 3), ("1/4", 1), ("2/4", 1)):
        summary = run(tiny, images, out, text)
        assert (summary.missing, (out / "__sslfeat__/failures.csv").exists()) == (missing, False)
    summary = run(tiny, images, out, "3/4")
    assert (summary.embedded, summary.failed, summary.missing) == (7, 0, 0)  # part 2 alone: its own, not the folder's
    assert features(out) == whole
    assert list(verify(out)) == []
    assert run(tiny, images, out, "9/9").embedded == 0
    assert run(tiny, images, out, "1/1").resumed == 41
    assert features(out) == whole


def test_shares_at_once_and_twice_leave_the_same(tiny: Path, images: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def share(text: str) -> None:
        try:
            run(tiny, images, tmp_path / "f", text)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=share, args=(text,)) for text in ("1/3", "2/3", "3/3", "2/3", "1/2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert features(tmp_path / "f") == whole


def test_a_damaged_part_is_made_again_by_its_share(tiny: Path, images: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "f"
    for name, data in whole.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    (out / "part-00003.parquet").write_bytes(b"damaged")
    run(tiny, images, out, "1/2")
    assert features(out) != whole
    run(tiny, images, out, "2/2")
    assert features(out) == whole


def test_other_images_or_settings_are_refused_by_name(tiny: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "f"
    run(tiny, images, out, "1/3")
    before = contents(out)
    fewer = tmp_path / "fewer"
    shutil.copytree(images, fewer)
    (fewer / "stripes" / "stripes-0001.jpg").unlink()
    with pytest.raises(FeaturesError, match=r"1 removed.*stripes-0001"):
        run(tiny, fewer, out, "2/3")
    with pytest.raises(FeaturesError, match="part_size = 7, not 8"):
        run(tiny, images, out, "2/3", dataclasses.replace(OPTIONS, part_size=8))
    with pytest.raises(FeaturesError, match=r"encoder 'tiny' .* not 'other'"):
        run(write_tiny(tmp_path / "other.onnx", seed=1), images, out, "2/3")
    assert contents(out) == before


def test_an_ordinary_writer_and_shares_keep_each_other_out(
    tiny: Path, images: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, encoder, inputs = tmp_path / "f", Encoder.load(tiny, "cpu", 1), find_inputs([images])
    run(tiny, images, out, "1/2")
    with atomic.shared(out, FeaturesError, lambda: None):
        for overwrite in (False, True):
            with pytest.raises(FeaturesError, match="written by another process"):
                embed_to_folder(encoder, inputs, out, OPTIONS, overwrite=overwrite)
        run(tiny, images, out, "1/1")
        with pytest.raises(FeaturesError, match="written by another process"):
            update_folder(encoder, inputs, out, OPTIONS)
    assert features(out) == whole
    with atomic.exclusive(out, FeaturesError), ExitStack() as stack, pytest.raises(FeaturesError, match="another process"):
        stack.enter_context(atomic.shared(out, FeaturesError, lambda: None, patience=0.0))


def test_a_share_waits_for_a_writer_that_ends(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(atomic.exclusive(tmp_path, FeaturesError))
        threading.Timer(0.3, stack.pop_all().close).start()
        with atomic.shared(tmp_path, FeaturesError, lambda: None, patience=30.0):
            pass


def test_the_first_prepares_alone_and_the_last_tidies_up(tmp_path: Path) -> None:
    prepared: list[str] = []

    @contextmanager
    def sharing(name: str) -> Iterator[None]:
        with atomic.shared(tmp_path, FeaturesError, lambda: prepared.append(name)):
            yield

    with sharing("first"):
        (tmp_path / LEFT_OVER).touch()
        with sharing("second"), sharing("third"):
            assert prepared == ["first"]
        assert (tmp_path / LEFT_OVER).exists()  # somebody may be writing it
    assert not (tmp_path / LEFT_OVER).exists()
    with pytest.raises(FeaturesError, match="settings"), atomic.shared(tmp_path, FeaturesError, _refuse):
        pass
    with atomic.exclusive(tmp_path, FeaturesError):  # nothing of the lock stays
        pass


def _refuse() -> None:
    raise FeaturesError("other settings")


def test_parts_of_another_processor_are_recorded_and_said(
    tiny: Path,
    images: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "f"
    with caplog.at_level(logging.WARNING):
        run(tiny, images, out, "1/2")
    assert not caplog.records
    for module in (writer, features_folder):
        monkeypatch.setattr(module, "processor", lambda: "Zilog Z80")
    with caplog.at_level(logging.WARNING):
        run(tiny, images, out, "2/2")
    (message,) = [record.getMessage() for record in caplog.records]
    assert "parts of it were computed on 'Zilog Z80'" in message
    assert repr(read_run(out).processor) in message
    named = {
        name: json.loads(data).get("processor") for name, data in features(out).items() if "part-" in name and "json" in name
    }
    assert list(named.values()) == [None, "Zilog Z80"] * 3
    assert [name for name, data in features(out).items() if data != whole[name]] == [name for name in named if named[name]]
    assert list(verify(out)) == []
    (images / "new.jpg").write_bytes((images / "circles" / "circles-0000.jpg").read_bytes())
    try:
        update_folder(Encoder.load(tiny, "cpu", 1), find_inputs([images]), out, OPTIONS)
    finally:
        (images / "new.jpg").unlink()
    assert read_run(out).processor == json.loads(whole["__sslfeat__/features.json"])["processor"]


def test_a_folder_that_names_no_processor_is_gone_on_with(tiny: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "f"
    run(tiny, images, out, "1/2")
    path = out / "__sslfeat__/features.json"
    fields = {name: value for name, value in read_run(out).plain().items() if name != "processor"}
    path.write_bytes(signed_bytes(fields))
    run(tiny, images, out, "2/2")
    assert "processor" not in json.loads((out / "__sslfeat__/part-00001.json").read_text())


@pytest.mark.parametrize(
    ("parts", "engine", "address", "update", "overwrite"),
    [
        ("1/2", "ray", None, False, False),
        ("1/2", "local", None, True, False),
        ("1/2", "local", None, False, True),
        (None, "local", None, True, True),
        (None, "ray", None, True, False),
        (None, "local", "auto", False, False),
        ("2", "local", None, False, False),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    parts: str | None, engine: str, address: str | None, update: bool, overwrite: bool, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        _job(parts, engine, address, update, overwrite, "fp32", tmp_path)


def test_the_first_share_settles_the_precision(tmp_path: Path) -> None:
    with pytest.raises(FeaturesError, match="share 1/2 decides the result of --precision int8"):
        _job("2/2", "local", None, False, False, "int8", tmp_path)
    _job("1/2", "local", None, False, False, "int8", tmp_path)
    (tmp_path / "__sslfeat__").mkdir()
    (tmp_path / "__sslfeat__/features.json").touch()
    _job("2/2", "local", None, False, False, "int8", tmp_path)


def test_the_command_line(tiny: Path, images: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    common = ("embed", images, "--encoder", tiny, "--out", tmp_path / "f", "--part-size", "7", "--batch-size", "3")
    first = sslfeat(*common, "--parts", "1/2", "--json")
    assert (first.returncode, json.loads(first.stdout)["missing_parts"]) == (3, 3)
    second = sslfeat(*common, "--parts", "2/2")
    assert (second.returncode, "belong to other shares" in second.stderr) == (0, False)
    assert however_asked(features(tmp_path / "f")) == however_asked(whole)


def test_killed_at_random_and_run_again_the_folder_is_the_same(
    tiny: Path, images: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    rng, kills = random.Random(2), 0
    wanted = 100 if os.environ.get("SSLFEAT_NIGHTLY") else 3
    code = "from sslfeat.cli.app import main; main()"
    command = [sys.executable, "-c", code, "embed", str(images), "--encoder", str(tiny), "--part-size", "7", "--batch-size", "3"]
    for number in itertools.count():
        out = tmp_path / f"round-{number}"
        waiting = ["1/2", "2/2"]
        while waiting:
            started = [(text, start([*command, "--out", str(out), "--parts", text])) for text in waiting]
            if kills < wanted:
                time.sleep(rng.uniform(0.0, 0.5))
                while not list(out.glob("part-*")):
                    time.sleep(0.01)
                rng.choice(started)[1].kill()
            ended = [(text, process.wait()) for text, process in started]
            kills += sum(code == -signal.SIGKILL for _, code in ended)
            assert {code for _, code in ended} <= {0, 3, -signal.SIGKILL}
            waiting = [text for text, code in ended if code == -signal.SIGKILL]
        assert however_asked(features(out)) == however_asked(whole)
        if kills >= wanted:
            break


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
