"""How many cores there are to use: affinity and control groups, of both versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sslfeat.system import cores


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_the_control_group(files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores.cgroup_quota(tmp_path) == quota


def test_the_fewer_of_affinity_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for quota, wanted in ((None, 8), (2.5, 3), (0.5, 1), (64.0, 8)):
        monkeypatch.setattr(cores, "cgroup_quota", lambda quota=quota: quota)
        assert cores.available_cores() == wanted


def test_libraries_are_kept_to_one_thread_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cores.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    cores.one_thread_each()
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"


def test_pandas_is_not_loaded_for_nothing(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    arguments = ["embed", str(image_folder), "--encoder", str(tiny), "--out", str(tmp_path / "f")]
    code = (
        "import sys; from sslfeat.cli.app import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit as end: print(end.code, {'pandas', 'torch'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "0 set()"


def test_a_decoding_process_loads_neither_numpy_nor_onnxruntime() -> None:
    code = "import sys; import sslfeat.data.decode_worker; print({'numpy', 'onnxruntime', 'pyarrow', 'typer'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
