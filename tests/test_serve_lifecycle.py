"""Who may ask a service, what it does when too many do or leave, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import sslfeat
from tests.serving import read_all, running

KEY = "a key of some length"
JPEG = {"content-type": "image/jpeg"}
WAITING = ("--batch-delay", "600000", "--batch-size", "64", "--queue", "3", "--max-images", "3")
HEADERS = "POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: "


@pytest.fixture(scope="module")
def jpeg(image_folder: Path) -> bytes:
    return next(image_folder.rglob("*.jpg")).read_bytes()


def queued(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("sslfeat_queue_images ")))


def wait_for(client: httpx.Client, images: int) -> None:
    for _ in range(600):
        if queued(client) == images:
            return
        time.sleep(0.05)
    pytest.fail(f"{queued(client)} images are queued, not {images}")


def test_a_key_is_asked_for(tiny: Path, jpeg: bytes, tmp_path: Path) -> None:
    with running("--encoder", tiny, environment={"SSLFEAT_API_KEY": KEY}) as service, service.client() as client:
        for headers in (
            {},
            {"x-api-key": KEY + "x"},
            {"authorization": f"Bearer {KEY[:-1]}"},
            {"authorization": "Basic %"},
        ):
            for answer in (client.get("/v1/info", headers=headers), client.get("/", headers=headers)):
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Basic")
        assert client.get("/live").status_code == client.get("/ready").status_code == 200
        for shown in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
            assert client.post("/v1/embed", content=jpeg, headers={**JPEG, **shown}).status_code == 200
        assert client.get("/v1/info", auth=("anybody", KEY)).status_code == 200
        assert not any(KEY in line for line in service.log)
    (tmp_path / "key").write_text("short\n")
    refused = sslfeat("serve", "--encoder", tiny, "--api-key-file", tmp_path / "key", "--port", "0")
    assert refused.returncode == 2
    assert "at least 16" in refused.stderr


def test_pages_of_other_sites_may_not_ask(tiny: Path, jpeg: bytes) -> None:
    with running("--encoder", tiny, "--allow-host", "images.example") as service, service.client() as client:
        host = service.url.removeprefix("http://")
        for origin, status in (("http://evil.example", 403), ("null", 403), ("http://[", 403), (f"http://{host}", 200)):
            answer = client.post("/v1/embed", content=jpeg, headers={**JPEG, "origin": origin})
            assert answer.status_code == status
            assert "access-control-allow-origin" not in answer.headers
        assert client.get("/v1/info", headers={"host": "images.example:80"}).status_code == 200
        assert client.get("/v1/info", headers={"host": "rebound.example"}).status_code == 403
        assert client.get("/ready", headers={"host": "10.0.0.7:8000"}).status_code == 200  # as orchestrators ask
        assert client.post("/v1/search", json={"id": 1}).status_code == 404
        assert client.get("/v1/images/1").status_code == client.get("/v1/map").status_code == 404


def test_a_full_queue_a_deadline_and_clients_that_leave(tiny: Path, jpeg: bytes) -> None:
    files = [("images", ("a", jpeg))] * 3
    with running("--encoder", tiny, *WAITING, "--deadline", "3") as service, service.client() as client:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(httpx.post, f"{service.url}/v1/embed", files=files, trust_env=False, timeout=60)
            wait_for(client, 3)
            full = client.post("/v1/embed", content=jpeg, headers=JPEG)
            assert full.status_code == 429
            assert int(full.headers["retry-after"]) >= 1
            late = first.result()
        assert late.status_code == 503
        assert "deadline of 3 s exceeded" in late.json()["error"]
        assert queued(client) == 0
        with service.connect() as connection:
            connection.sendall(f"{HEADERS}{len(jpeg)}\r\n\r\n".encode() + jpeg)
            wait_for(client, 1)
        wait_for(client, 0)
        assert 'sslfeat_images_total{outcome="dropped"} 4.0' in client.get("/metrics").text
        assert not any("Traceback" in line for line in service.log)


def test_what_was_accepted_is_finished_after_sigterm(tiny: Path, jpeg: bytes) -> None:
    with running("--encoder", tiny, "--notice", "3") as service, service.connect() as connection:
        connection.sendall(f"{HEADERS}{len(jpeg)}\r\n\r\n".encode() + jpeg[:100])
        with service.client() as client:
            assert client.get("/ready").status_code == 200
            service.process.send_signal(signal.SIGTERM)
            for _ in range(100):
                if (ready := client.get("/ready")).status_code == 503:
                    break
                time.sleep(0.02)
            assert (ready.status_code, ready.headers["connection"]) == (503, "close")
            assert client.post("/v1/embed", content=jpeg, headers=JPEG).status_code == 200
            with pytest.raises(httpx.TransportError):
                while client.get("/live").status_code == 200:
                    time.sleep(0.05)
        connection.sendall(jpeg[100:])
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"embeddings":[[' in answer
        assert service.process.wait(60) == 0


def test_a_second_signal_ends_it_at_once(tiny: Path) -> None:
    with running("--encoder", tiny, "--notice", "0", "--drain", "600") as service, service.connect() as connection:
        connection.sendall(f"{HEADERS}100\r\n\r\n".encode())
        with service.client() as client:
            assert client.get("/live").status_code == 200
        service.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            service.process.wait(2)
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(60)


def test_a_port_that_is_taken_and_wrong_options_are_named(tiny: Path) -> None:
    with running("--encoder", tiny) as service:
        taken = sslfeat("serve", "--encoder", tiny, "--port", service.url.rpartition(":")[2])
    assert taken.returncode == 1
    assert "is not available" in taken.stderr
    assert sslfeat("serve", "--encoder", tiny, "--queue", "3", "--port", "0").returncode == 2
    assert sslfeat("serve", "--encoder", tiny, "--map", "map.parquet", "--port", "0").returncode == 2


def test_a_missing_package_is_named() -> None:
    code = "import sys; sys.modules['fastapi'] = None; from sslfeat.cli.app import main; sys.argv = ['sslfeat', 'serve']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "this needs the package 'fastapi': pip install" in done.stderr
