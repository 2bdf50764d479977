"""The world as it is: full disks, no permission, files that vanish, several writers, signals, odd names, closed pipes."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from sslfeat.data.dataset import find_inputs
from sslfeat.features.reader import Features
from sslfeat.features.verify import verify
from sslfeat.features.writer import Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from tests.conftest import contents
from tests.test_subprocess_decoder import HOSTILE

NIGHTLY = bool(os.environ.get("SSLFEAT_NIGHTLY"))
MAIN = "from sslfeat.cli.app import main; main()"
PR_CAPBSET_DROP, DAC_OVERRIDE, DAC_READ_SEARCH = 24, 1, 2  # linux/prctl.h, linux/capability.h


def command(tiny: Path, images: Path, out: Path, code: str = MAIN) -> list[str]:
    options = ["--encoder", tiny, "--out", out, "--part-size", "8", "--num-workers", "2"]
    return [sys.executable, "-c", code, *map(str, ["embed", images, *options])]


def finish(arguments: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


def wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    while not file.exists():
        assert process.poll() is None
        time.sleep(0.01)


def test_a_full_disk_stops_the_run_and_leaves_nothing_half_written(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writing fails at 20 different places."""
    assert finish(command(tiny, image_folder, tmp_path / "whole")).returncode == 0
    whole = contents(tmp_path / "whole")
    largest = max(map(len, whole.values()))
    out = tmp_path / "f"
    for limit in [round(largest * share / 20) for share in range(20)]:
        stopped = finish(
            command(tiny, image_folder, out),
            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )
        assert stopped.returncode == 1, stopped.stderr
        assert "error: File too large" in stopped.stderr
        assert str(out) in stopped.stderr
        assert all(data == whole[name] for name, data in contents(out).items()), f"half-written at {limit} bytes"
    assert finish(command(tiny, image_folder, out)).returncode == 0
    assert contents(out) == whole


def give_up_privileges() -> None:
    """In a superuser's process that is about to run a program: file modes shall hold for it too (capabilities(7))."""
    if os.geteuid() == 0:
        for capability in (DAC_OVERRIDE, DAC_READ_SEARCH):
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="privileges are given up in Linux's way")
def test_without_permission(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    """As a user who may not write the output, and may not read some of the images."""
    images = shutil.copytree(image_folder, tmp_path / "images")
    hidden = sorted(images.rglob("*.jpg"))[:3]
    for path in hidden:
        path.chmod(0)
    (tmp_path / "closed").mkdir(mode=0o555)
    refused = finish(command(tiny, images, tmp_path / "closed" / "f"), preexec_fn=give_up_privileges)
    assert refused.returncode == 1
    assert "cannot write to" in refused.stderr
    assert "Permission denied" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = finish(command(tiny, images, tmp_path / "f"), preexec_fn=give_up_privileges)
    assert done.returncode == 3, done.stderr
    failures = (tmp_path / "f" / "__sslfeat__/failures.csv").read_text().splitlines()[1:]
    assert failures == [f"{path},cannot be opened: Permission denied" for path in hidden]


def test_files_that_vanish_or_change_between_listing_and_reading(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    images = shutil.copytree(image_folder, tmp_path / "images")
    inputs = find_inputs([images])
    paths = sorted(images.rglob("*.jpg"))
    paths[0].unlink()
    paths[1].unlink()
    paths[1].mkdir()
    shutil.copy(paths[3], paths[2])
    summary = embed_to_folder(Encoder.load(tiny, "cpu"), inputs, tmp_path / "f", Options(part_size=8))
    assert (summary.embedded, summary.failed) == (38, 2)
    reasons = (tmp_path / "f" / "__sslfeat__/failures.csv").read_text()
    assert "No such file" in reasons
    assert "not a regular file" in reasons or "Is a directory" in reasons
    features = Features.load(tmp_path / "f")
    assert (features.embeddings[0] == features.embeddings[1]).all()  # what was there when it was read
    assert list(verify(tmp_path / "f", sources=True)) == []


def odd_names(folder: bytes) -> list[bytes]:
    """Names with bytes that are not UTF-8, newlines, right-to-left text, both normal forms, and 255 bytes."""
    names = [
        b"\xff\xfe.jpg", b"new\nline.jpg", b"-rf.jpg", b" .jpg", "\u202ertl.jpg".encode(), "\u00e9.jpg".encode(),
        "e\u0301.jpg".encode(), b"a" * 251 + b".jpg", b"quote\"comma,.jpg", b"*[x]?.jpg", b"\\x41.jpg", "\U0001f600.jpg".encode(),
    ]  # fmt: skip
    return [os.path.join(folder, name) for name in names]


def test_odd_names_and_things_that_are_no_images(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    source = next(image_folder.rglob("*.jpg")).read_bytes()
    for path in odd_names(os.fsencode(images)):
        with open(path, "wb") as file:
            file.write(source)
    (images / "loop").symlink_to(images)
    (images / "gone.jpg").symlink_to(images / "nowhere")
    os.mkfifo(images / "pipe.jpg")
    (images / "null.jpg").symlink_to("/dev/null")
    (images / "zero.jpg").symlink_to("/dev/zero")
    (images / "empty.jpg").touch()
    began = time.monotonic()
    done = finish(command(tiny, images, tmp_path / "f"))
    assert done.returncode == 3, done.stderr
    assert time.monotonic() - began < 30
    features = Features.load(tmp_path / "f")
    assert len(features.paths) == 12
    assert len(set(features.paths)) == 12
    assert len((tmp_path / "f" / "__sslfeat__/failures.csv").read_text().splitlines()) == 1 + 5
    assert list(verify(tmp_path / "f", sources=True)) == []


@pytest.mark.parametrize("attempt", range(50 if NIGHTLY else 1))
def test_of_eight_writers_one_wins_and_seven_say_why(attempt: int, tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for number in range(30):
        shutil.copytree(image_folder, images / str(number))
    writers = [
        subprocess.Popen(command(tiny, images, tmp_path / "f"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(8)
    ]
    said = [writer.communicate(timeout=120)[1].decode() for writer in writers]
    codes = [writer.returncode for writer in writers]
    assert codes.count(1) == sum("being written by another process" in text for text in said)
    assert set(codes) <= {0, 1}
    assert codes.count(0) >= 1  # one that came when all was done found it done
    assert list(verify(tmp_path / "f")) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_at_once_even_if_an_image_hangs(
    signum: signal.Signals, tiny: Path, image_folder: Path, tmp_path: Path
) -> None:
    images = shutil.copytree(image_folder, tmp_path / "images")
    Image.new("RGB", (20, 20)).save(images / "zzz-hang.png")
    (tmp_path / "decoder.py").write_text(HOSTILE)
    code = (
        "import sys\n"
        "from sslfeat.data import subprocess_decoder as isolated\n"
        f"isolated.COMMAND = (sys.executable, {str(tmp_path / 'decoder.py')!r})\n" + MAIN
    )
    process = subprocess.Popen(
        command(tiny, images, tmp_path / "f", code), stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    wait_for(tmp_path / "f" / "__sslfeat__/part-00003.json", process)
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signum)
    said = process.communicate(timeout=30)[1].decode()
    assert time.monotonic() - began < 5
    assert process.returncode == 128 + signum
    assert "run it again to continue" in said
    with pytest.raises(ProcessLookupError):  # no orphans: nobody is left in its session
        os.killpg(process.pid, 0)
    assert finish(command(tiny, images, tmp_path / "f")).returncode == 0


def test_a_killed_run_leaves_no_decoders(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tiny, image_folder, tmp_path / "f"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    wait_for(tmp_path / "f" / "__sslfeat__/part-00000.json", process)
    process.kill()
    process.communicate()
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("decoders outlived the run")


def test_a_closed_standard_output_loses_no_features(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    with subprocess.Popen(command(tiny, image_folder, tmp_path / "f"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode in (0, 1)
    assert "Traceback" not in said
    assert list(verify(tmp_path / "f")) == []
