"""What ``--json`` prints is one object a run, as ``docs/json.schema.json`` has it, for every command and every error."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sslfeat.cli.groups import NAMES
from sslfeat.inference.encoder import Encoder
from tests.conftest import sslfeat, write_tiny
from tests.in_process import run

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "json.schema.json").read_text())
SUBPROCESS = {"embed", "repair", "train", "serve"}  # which change their process, or stay
ELSEWHERE = {"adopt", "pull", "push"}  # run by their own tests


def checked(text: str, name: str) -> dict[str, Any]:
    """The object that was printed, once it is valid as ``name`` of the schema."""
    found: dict[str, Any] = json.loads(text)
    schema = {name: part for name, part in SCHEMA.items() if name != "oneOf"} | {"$ref": f"#/$defs/{name}"}
    assert [f"{list(fault.path)}: {fault.message}" for fault in Draft202012Validator(schema).iter_errors(found)] == []
    return found


@pytest.fixture(scope="module")
def made(embedded: Path, image_folder: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By command, what it printed; each once, and some in another way."""
    work = tmp_path_factory.mktemp("json")
    other = write_tiny(work / "other.onnx", seed=3)
    image, index, probe = image_folder / "circles" / "circles-0000.jpg", work / "index", work / "probe"
    line: dict[str, tuple[str | Path, ...]] = {
        "samples": ("samples", "--count", "4", "--out", work / "drawn"),
        "models": ("models",),
        "methods": ("methods",),
        "doctor": ("doctor",),
        "index": ("index", embedded, "--out", index),
        "search": ("search", index, image, "--top", "2", "--encoder", tiny),
        "dedupe": ("dedupe", embedded),
        "map": ("map", embedded, "--out", work / "map.html"),
        "probe": ("probe", embedded, "--out", probe),
        "probe of two": ("probe", image_folder, "--encoder", tiny, "--encoder", other, "--work", work / "work"),
        "predict": ("predict", probe, embedded, "--top", "2"),
        "cluster": ("cluster", embedded, "-k", "3", "--out", work / "clusters"),
        "score": ("score", embedded, embedded),
        "report": ("report", embedded, "--out", work / "report.html"),
        "compare": ("compare", tiny, other, "--images", image_folder),
        "export": ("export", tiny, "--target", "ort", "--images", image_folder, "--out", work / "ort"),
        "bench": ("bench", tiny, "--seconds", "0.01", "--threads", "1", "--batch-size", "2", "--provider", "cpu"),
        "info": ("info", embedded),
        "info of an index": ("info", index),
        "info of an encoder": ("info", tiny),
        "info of a target": ("info", work / "ort"),
        "verify": ("verify", embedded),
    }
    found = {}
    for title, arguments in line.items():
        done = run(*arguments, "--json")
        assert done.returncode == 0, (title, done.stderr)
        found[title] = checked(done.stdout, str(arguments[0]))
    return found


def test_every_command_prints_its_object(made: dict[str, Any], tiny: Path) -> None:
    assert {found["command"] for found in made.values()} == NAMES - SUBPROCESS - ELSEWHERE
    identity = {"name": "tiny", "fingerprint": Encoder.load(tiny).fingerprint}
    for name in ("index", "search", "dedupe", "map", "probe", "predict", "cluster", "compare", "export", "bench", "info"):
        assert made[name]["encoder"] == identity, name
    for name in ("index", "search", "dedupe", "map", "probe", "predict", "cluster", "report", "compare", "info"):
        assert made[name]["images"] == 40, name
    assert [row["encoder"]["name"] for row in made["probe of two"]["encoders"]] == ["tiny", "other"]
    assert made["info of a target"]["encoder"] == identity
    assert [len(answer["hits"]) for answer in made["search"]["queries"]] == [2]


def test_embedding_and_repairing(image_folder: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    options = ("--encoder", tiny, "--json")
    done = sslfeat("embed", image_folder / "circles", tmp_path / "bad.jpg", "--out", tmp_path / "f", *options)
    assert done.returncode == 3  # and the object is there all the same
    found = checked(done.stdout, "embed")
    assert (found["images"], found["embedded"], found["failed"]) == (11, 10, 1)
    (tmp_path / "f" / "part-00000.parquet").unlink()
    faulty = run("verify", tmp_path / "f", "--json")
    assert faulty.returncode == 1
    assert checked(faulty.stdout, "verify")["faults"]
    assert checked(sslfeat("repair", tmp_path / "f", *options).stdout, "repair")["embedded"] == 10


def test_training_and_exporting_a_run(image_folder: Path, tmp_path: Path) -> None:
    options = ("--backbone", "resnet10_w8", "--image-size", "32", "--batch-size", "8", "--provider", "cpu", "--steps", "2")
    done = sslfeat("train", "rotation", image_folder, "--out", tmp_path / "mine", *options, "--json", timeout=300)
    assert done.returncode == 0, done.stderr
    found = checked(done.stdout, "train")
    assert (found["steps"], found["images"], found["method"]) == (2, 40, "rotation")
    done = sslfeat("export", tmp_path / "mine", "--images", image_folder, "--json", cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    found = checked(done.stdout, "export")
    assert (found["out"], found["encoder"]["name"]) == ("mine.onnx", "mine")
    assert (tmp_path / "mine.onnx").is_file()


def test_a_service_says_where_it_is(tiny: Path) -> None:
    command = [sys.executable, "-m", "sslfeat", "serve", "--encoder", str(tiny), "--port", "0", "--notice", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:
        assert service.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1].rstrip() != "}":
            lines.append(service.stdout.readline())
            assert lines[-1], "the service ended"
        service.send_signal(signal.SIGTERM)
        service.communicate(timeout=60)
    found = checked("".join(lines), "serve")
    assert found["url"].startswith("http://127.0.0.1:") and found["encoder"]["name"] == "tiny"


@pytest.mark.parametrize(
    ("arguments", "code", "command", "cure"),
    [
        (("embed", "no/such/folder"), 1, "embed", None),
        (("info", "sslfeat-smal"), 1, "info", "did you mean 'sslfeat-small'?"),
        (("cluster", "features", "--method", "kmean"), 2, "cluster", "sslfeat cluster --help"),
        (("cluster", "--no-such-option"), 2, "cluster", "sslfeat cluster --help"),
        (("clustr", "features"), 2, None, "sslfeat --help"),
        (("train", "simclr"), 2, "train", "sslfeat train simclr IMAGES --out RUN"),
    ],
)
def test_errors(arguments: tuple[str, ...], code: int, command: str | None, cure: str | None) -> None:
    done = run(*arguments, "--json")
    found = checked(done.stdout, "error")
    assert (done.returncode, found["command"], found["cure"]) == (code, command, cure)
    assert found["error"]


def test_the_schema_itself() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["$defs"]) == NAMES | {"encoder", "result", "error"}
    stranger = {"schema": 1, "command": "report", "encoder": None, "images": 1, "out": "x", "bytes": 1, "more": 1}
    assert not Draft202012Validator(SCHEMA).is_valid(stranger)
    assert Draft202012Validator(SCHEMA).is_valid({name: value for name, value in stranger.items() if name != "more"})
