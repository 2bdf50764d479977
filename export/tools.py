"""Programs needed by ``export`` and the service's container besides Python packages, for ``sslfeat doctor``."""

from __future__ import annotations

import shutil
import subprocess

from sslfeat.errors import ExportError
from sslfeat.export.targets.browser import find_browser
from sslfeat.inference.diagnostics import Check, installed_version

TIMEOUT = 10  # seconds to wait for the Docker daemon


def tools() -> list[Check]:
    """Whether the programs for web, triton and docker are installed and respond."""
    return [_web(), _triton(), _docker()]


def _web() -> Check:
    """``--target web``: npm downloads onnxruntime-web, and a browser tests the page."""
    missing, cures = [], []
    try:
        browser = find_browser()
    except ExportError:
        browser = ""
        missing.append("no browser for testing the page")
        cures.append("install chromium")
    if shutil.which("npm") is None:
        missing.append("no npm for downloading onnxruntime-web")
        cures.append("install Node.js, or give the package's dist folder with --web-runtime")
    if missing:
        return Check("web", "missing", "; ".join(missing), "; ".join(cures))
    return Check("web", "installed", f"npm, {browser}")


def _triton() -> Check:
    """The target ``triton`` has no requirements; running its result requires the server."""
    server, client = shutil.which("tritonserver"), installed_version("tritonclient")
    said = f"client {client}" if client else "no client (pip install 'tritonclient[http]')"
    if server:
        return Check("triton", "installed", f"{server}, {said}")
    image = "docker pull nvcr.io/nvidia/tritonserver"
    return Check("triton", "missing", f"no tritonserver, {said}; not needed for exporting", image)


def _docker() -> Check:
    if shutil.which("docker") is None:
        return Check("docker", "missing", "no docker", "https://docs.docker.com/engine/install/")
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("docker", "missing", f"docker does not respond: {error}", "start the Docker daemon")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["the daemon does not respond"])[-1]
        return Check("docker", "missing", reason, "start the Docker daemon, as a user with access to it")
    return Check("docker", "works", f"server {done.stdout.strip()}")
