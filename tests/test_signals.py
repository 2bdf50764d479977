"""Stopping: at a safe point where one is reached, and in any case."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sslfeat.inference import backends
from sslfeat.inference.model_card import CARD_KEY
from tests.conftest import tiny_card, tiny_model

Starter = Callable[..., subprocess.Popen[str]]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


def busy_model(foreseeable: bool = False) -> onnx.ModelProto:
    """An encoder that multiplies matrices for minutes, and, since their size depends on pixels, passes every check."""
    model = tiny_model()
    graph = model.graph
    constants = {"square": np.array([3000, 3000]), "nought": np.float32(0), "edge": np.array([3000, 3000], np.float32)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    graph.node[4].output[0] = "mean"
    graph.node.extend(
        [
            helper.make_node("ReduceMax", ["mean"], ["top"], keepdims=0),
            helper.make_node("Mul", ["top", "nought"], ["none"]),
            helper.make_node("Add", ["none", "edge"], ["edges"]),
            helper.make_node("Cast", ["edges"], ["sides"], to=TensorProto.INT64),
            helper.make_node("ConstantOfShape", ["square" if foreseeable else "sides"], ["zeros"], value=zero),
            helper.make_node("Add", ["zeros", "top"], ["m0"]),
        ]
    )
    for number in range(600):
        graph.node.append(helper.make_node("MatMul", [f"m{number}", "m0"], [f"m{number + 1}"]))
    graph.node.append(helper.make_node("ReduceMax", ["m600"], ["most"], keepdims=0))
    graph.node.append(helper.make_node("Add", ["mean", "most"], ["embedding"]))
    return model


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = busy_model()
    model.metadata_props.add(key=CARD_KEY, value=tiny_card().to_json())
    path = tmp_path_factory.mktemp("busy") / "busy.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def heed_interrupts() -> None:
    """As in a terminal: shells start what runs in the background with SIGINT ignored, which processes hand on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process and waits until it has printed ``ready``; whatever becomes of the test, it ends."""
    processes = []

    def start(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


INSIDE = """
import sys, numpy as np
from sslfeat import Encoder
from sslfeat.system import signals
signals.DEADLINE = float(sys.argv[3])
encoder = Encoder.load(sys.argv[1], "cpu")
with signals.deferred() if sys.argv[2] == "deferred" else signals.watched():
    print("ready", flush=True)
    encoder.run(np.zeros((1, 16, 16, 3), np.uint8))
"""


@pytest.mark.parametrize("how", ["deferred", "watched"])
def test_a_run_stuck_inside_onnxruntime_ends_after_the_deadline(how: str, busy: Path, started: Starter) -> None:
    process = started(INSIDE, busy, how, "1.5")
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM if how == "deferred" else signal.SIGINT)
    assert process.wait(timeout=30) == (143 if how == "deferred" else 130)
    assert time.monotonic() - began > 1.2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(signum: int, busy: Path, started: Starter) -> None:
    process = started(INSIDE, busy, "deferred", "600")
    time.sleep(0.5)
    process.send_signal(signum)
    time.sleep(0.1)
    process.send_signal(signum)  # as one with the first
    time.sleep(1.0)
    assert process.poll() is None
    process.send_signal(signum)
    assert process.wait(timeout=30) == 128 + signum


EMBED = """
import sys
from sslfeat.system import signals
signals.DEADLINE = 1.0
from sslfeat.inference.encoder import Encoder
run = Encoder.run
def told(self, pixels):
    print("ready", flush=True)
    return run(self, pixels)
Encoder.run = told
from sslfeat.cli.app import main
sys.argv[0] = "sslfeat"
main()
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_embed_with_an_encoder_that_never_ends(
    signum: int, busy: Path, image_folder: Path, started: Starter, tmp_path: Path
) -> None:
    process = started(EMBED, "embed", image_folder, "--encoder", busy, "--out", tmp_path / "out", "--provider", "cpu")
    time.sleep(0.3)
    process.send_signal(signum)
    assert process.wait(timeout=30) == 128 + signum


IN_TIME = """
import os, signal, time
from pathlib import Path
from sslfeat.system import signals
def state():
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    descriptors = len(list(Path("/dev/fd").iterdir())) if Path("/dev/fd").exists() else 0
    return [signal.getsignal(number) for number in signals.WATCHED], wakeup, descriptors
before = state()
with signals.deferred(deadline=2) as stop:
    assert stop.signum == 0
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)
    assert stop.signum == signal.SIGTERM
time.sleep(2.5)  # past the deadline
assert state() == before
"""


def test_a_block_that_ends_in_time_leaves_everything_as_it_was() -> None:
    done = subprocess.run([sys.executable, "-c", IN_TIME], capture_output=True, text=True)  # it may end its process
    assert done.returncode == 0, done.stderr


OPENVINO = """
import os, signal, sys, threading
from pathlib import Path
from sslfeat.inference.backends import OpenVinoBackend
held = [OpenVinoBackend(Path(sys.argv[1]), "fp32", 1)]
dropping = threading.Thread(target=held.clear)
dropping.start()
dropping.join()
signal.signal(signal.SIGINT, lambda *signal: sys.exit(130))
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_signal_after_another_thread_dropped_an_openvino_session(tiny: Path) -> None:
    pytest.importorskip("openvino")
    command = [sys.executable, "-X", "faulthandler", "-c", OPENVINO, str(tiny)]  # faulthandler has handlers run on its stack
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr


def test_openvino_cores_that_threads_make_at_once_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[object] = weakref.WeakSet()
    both = threading.Barrier(2, timeout=30)

    class Core:
        def __init__(self) -> None:
            both.wait()
            alive.add(self)

    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=Core))
    monkeypatch.setattr(backends, "_CORES", [])
    threads = [threading.Thread(target=backends._openvino_core, args=(-1,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert len(alive) == 2
