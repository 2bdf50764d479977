"""The command line from a process that has imported everything: a command costs its work, not seconds of imports.

``python command_server.py SOCKET`` serves; ``CLIENT`` is the script that stands in for ``sslfeat``. A command gets the client's
arguments, folder, environment and standard streams, runs in a forked process, and the client ends with its exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    about = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(about).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(about)
    code = server.recv(1)
sys.exit(code[0] if code else 1)
"""
IMPORTS = ("faiss", "onnx", "onnxruntime", "pyarrow.parquet", "torch", "torchvision", "sslfeat.models.engine.trainer")


def install_client(folder: Path, path: Path) -> None:
    """Write ``folder/sslfeat``, which asks the server that listens at ``path``."""
    script = folder / "sslfeat"
    script.write_text(CLIENT.format(python=sys.executable, socket=str(path)))
    script.chmod(0o755)


def serve(path: str) -> None:
    """Run commands one after the other or side by side, until killed."""
    for name in IMPORTS:
        with contextlib.suppress(ImportError):
            __import__(name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen()
        Path(f"{path}.new").rename(path)  # who sees it can connect
        while True:
            client, _ = listener.accept()
            if os.fork() == 0:
                if os.fork() == 0:  # twice: nobody has to wait for the child
                    _answer(client)
                os._exit(0)
            os.wait()
            client.close()


def _answer(client: socket.socket) -> None:
    code = 1
    try:
        size, streams, _, _ = socket.recv_fds(client, 4, 3)
        about = b""
        while len(about) < int.from_bytes(size, "big"):
            about += client.recv(65536)
        arguments, folder, environment = json.loads(about)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        code = _run(arguments)
    finally:
        client.sendall(bytes([code]))
        os._exit(code)


def _run(arguments: list[str]) -> int:
    from sslfeat.cli.app import main

    sys.argv = ["sslfeat", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
