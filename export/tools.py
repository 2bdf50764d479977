"""What ``export`` and the service's container need besides Python packages, for ``sslfeat doctor``: web, triton, docker."""

from __future__ import annotations

import shutil
import subprocess

from sslfeat.errors import ExportError
from sslfeat.export.targets.browser import find_browser
from sslfeat.inference.diagnostics import Check, installed_version

TIMEOUT = 10  # seconds for the daemon's answer


def tools() -> list[Check]:
    """Each of them: whether its programs are here, and answer."""
    return [_web(), _triton(), _docker()]


def _web() -> Check:
    """``--target web``: npm fetches onnxruntime-web, a browser runs the page before it is given out."""
    missing, cures = [], []
    try:
        browser = find_browser()
    except ExportError:
        browser = ""
        missing.append("no browser, in which the page is checked")
        cures.append("install chromium")
    if shutil.which("npm") is None:
        missing.append("no npm, which fetches onnxruntime-web")
        cures.append("install Node.js, or give the package's dist folder with --web-runtime")
    if missing:
        return Check("web", "missing", "; ".join(missing), "; ".join(cures))
    return Check("web", "installed", f"npm, {browser}")


def _triton() -> Check:
    """The target ``triton`` needs nothing; to run what it makes takes the server."""
    server, client = shutil.which("tritonserver"), installed_version("tritonclient")
    said = f"client {client}" if client else "no client (pip install 'tritonclient[http]')"
    if server:
        return Check("triton", "installed", f"{server}, {said}")
    image = "docker pull nvcr.io/nvidia/tritonserver"
    return Check("triton", "missing", f"no tritonserver here, {said}; exports to it need none", image)


def _docker() -> Check:
    if shutil.which("docker") is None:
        return Check("docker", "missing", "no docker", "https://docs.docker.com/engine/install/")
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("docker", "missing", f"docker does not answer: {error}", "start the Docker daemon")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["the daemon does not answer"])[-1]
        return Check("docker", "missing", reason, "start the Docker daemon, as a user who may reach it")
    return Check("docker", "works", f"server {done.stdout.strip()}")
