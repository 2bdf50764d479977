"""Embed on a Ray cluster: one actor per core (or GPU) holds the encoder and a decoder, and writes parts.

Images, encoder file and features folder must have the same paths on all machines, or be in an object store. Only Ray Core is
used: parts are few and large, and no data is exchanged between machines.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sslfeat.engines.part_worker import PartWorker
from sslfeat.engines.pool import Outcome, Patience, Pool
from sslfeat.errors import FeaturesError, InputError, needs
from sslfeat.features.commits import CommitRecord, check_record, commit_path
from sslfeat.features.metadata import slice_of
from sslfeat.features.writer import FeatureRun
from sslfeat.system.cores import available_cores
from sslfeat.system.signals import WATCHED

# Read when Ray is imported, and by its processes.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}  # no usage statistics
LOCAL = {"RAY_worker_niceness": "0", "RAY_AUTH_MODE": "token"}  # priority as in a local run; private to this run
OBJECT_STORE = 100 << 20  # bytes: only lists of paths are transferred
NEWS_EVERY = 2.0  # seconds between progress requests
LAG, PAUSE = 30.0, 0.5  # seconds: maximum delay of a network file system, and polling interval
WATCH = "watch"  # concurrency group for calls during embedding


@dataclass(frozen=True)
class RayEngine:
    """Embeds parts on the Ray cluster at ``address`` (``HOST:PORT`` or ``auto``; None: a local cluster for this run).

    An existing connection to a cluster is used. Raises InputError if there is no cluster at ``address``.
    """

    address: str | None = None
    patience: Patience | None = None

    def __call__(self, job: FeatureRun, missing: list[int]) -> None:
        """Embed the ``missing`` parts, see ``features.writer.Engine``."""
        if not missing:
            return
        slow = job.options.limits.seconds * job.run.batch_size  # progress is reported per batch
        patience = self.patience or Patience(image=max(Patience.image, 2 * slow))
        with _connected(self.address), contextlib.closing(Pool(RayCluster(job), missing, patience).run(job.check)) as done:
            for number in done:
                job.add(number, _seen(job, number))
                job.say()


class RayCluster:
    """Implements ``pool.Cluster``; workers are numbered."""

    def __init__(self, job: FeatureRun) -> None:
        import ray

        self._ray, self._job, self._out = ray, job, job.out.resolve()
        self._workers = job.options.workers or 1
        self._needs = {"num_cpus": self._workers * job.encoder.threads, "num_gpus": int(job.encoder.provider == "cuda")}
        remote = ray.remote(concurrency_groups={WATCH: 1})(PartWorker)
        self._actor = remote.options(**self._needs, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD")
        self._keys = itertools.count()
        self._actors: dict[int, Any] = {}
        self._parts: dict[Any, tuple[int, int]] = {}  # reference -> worker and part
        self._asked: dict[Any, int] = {}  # reference -> worker
        self._due: dict[int, float] = {}  # time of the next progress request
        job.spent.workers = 0

    def room(self) -> int:
        """Computed from the total resources, some of which may be in use by others."""
        has = self._ray.cluster_resources()
        return int(min(has.get(name, 0) // need for name, need in self._wanted().items()))

    def start(self) -> int:
        """Create an actor, which starts when resources are free."""
        key = next(self._keys)
        options = replace(self._job.options, workers=self._workers)
        make, facts = self._job.encoder.__reduce__()
        run, place = self._job.run, self._job.copies.elsewhere()
        self._actors[key] = self._actor.remote(Path.cwd(), make, facts, self._out, options, run, place)
        self._ask(key, "start")
        self._job.spent.workers = max(self._job.spent.workers, len(self._actors) * self._workers)
        return key

    def give(self, worker: int, number: int) -> None:
        """Send the inputs of the part, so that workers need not hold all inputs."""
        numbers = slice_of(self._job.run, number)
        records = [self._job.manifest.inputs[index] for index in numbers]
        self._parts[self._actors[worker].embed.remote(number, numbers.start, records)] = worker, number

    def wait(self, seconds: float) -> list[Outcome[int]]:
        """Also adds the time of the parts to that of the job."""
        if not self._parts:
            time.sleep(seconds)
            return []
        done, _ = self._ray.wait(list(self._parts), num_returns=1, timeout=seconds)
        return [self._outcome(reference) for reference in done]

    def news(self) -> dict[int, int | Exception]:
        """Ask workers every NEWS_EVERY seconds, with at most one pending request each."""
        now = time.monotonic()
        for key in [key for key, due in self._due.items() if due <= now]:
            self._ask(key, "progress")
        answered = self._ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)[0] if self._asked else []
        found: dict[int, int | Exception] = {}
        for reference in answered:
            key = self._asked.pop(reference)
            said, _ = self._said(reference)
            found[key] = said
            if isinstance(said, Exception):
                self.stop(key)
            else:
                self._due[key] = now + NEWS_EVERY
        return found

    def stop(self, worker: int) -> None:
        """Kill the actor; its unfinished part is not committed."""
        actor = self._actors.pop(worker, None)
        self._due.pop(worker, None)
        self._asked = {reference: key for reference, key in self._asked.items() if key != worker}
        self._parts = {reference: place for reference, place in self._parts.items() if place[0] != worker}
        if actor is not None:
            self._ray.kill(actor)

    def state(self) -> str:
        """Resources that a worker needs, and free resources."""
        has, free = self._ray.cluster_resources(), self._ray.available_resources()
        return ", ".join(
            f"a worker needs {need:g} {name}, {free.get(name, 0):g} of {has.get(name, 0):g} are free"
            for name, need in self._wanted().items()
        )

    def _wanted(self) -> dict[str, int]:
        return {name: need for name, need in zip(("CPU", "GPU"), self._needs.values(), strict=True) if need}

    def _ask(self, key: int, method: str) -> None:
        call = getattr(self._actors[key], method).options(concurrency_group=WATCH)
        self._asked[call.remote()] = key
        self._due.pop(key, None)

    def _outcome(self, reference: Any) -> Outcome[int]:
        worker, number = self._parts.pop(reference)
        said, lost = self._said(reference)
        if isinstance(said, Exception):
            if lost:
                self.stop(worker)
            return Outcome(worker, number, said, lost)
        spent = self._job.spent
        spent.decode, spent.infer, spent.write = (
            a + b for a, b in zip((spent.decode, spent.infer, spent.write), said, strict=True)
        )
        return Outcome(worker, number)

    def _said(self, reference: Any) -> tuple[Any, bool]:
        """Result or exception of a call, and whether its worker is lost."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference), False
        except errors.RayTaskError as error:
            return error.cause if isinstance(error.cause, Exception) else error, False
        except errors.RayError as error:  # failure of the worker, its machine, or the transfer
            return error, True


def _seen(job: FeatureRun, number: int) -> CommitRecord:
    """Record of a part committed by a worker. Raises FeaturesError if it does not become visible."""
    deadline = time.monotonic() + LAG
    while True:
        try:
            job.copies.refresh(commit_path(Path(), number).as_posix())
            return check_record(job.out, job.run, number)
        except FeaturesError as error:
            if time.monotonic() > deadline:
                raise FeaturesError(
                    f"part {number} was committed by a worker, but here {error}: --out must be on storage shared by all machines"
                ) from error
        time.sleep(PAUSE)


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect to the cluster, or start a local one without an ``address``; signal handlers are kept."""
    own = {**LOCAL, "RAY_AUTH_TOKEN": secrets.token_hex(32)} if address is None and "ray" not in sys.modules else {}
    with _environment({**QUIET, **own}), needs("ray", "ray"):
        import ray
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
    if address is None:
        options |= {"address": "local", "num_cpus": available_cores(), "object_store_memory": OBJECT_STORE}
        options |= {"include_dashboard": False}
    handlers = {number: signal.getsignal(number) for number in WATCHED}
    with _environment({**QUIET, **own}):
        try:
            ray.init(**options)
        except Exception as error:  # Ray raises any kind of exception
            what = f"cannot connect to a Ray cluster at {address}" if address else "Ray cannot start on this machine"
            raise InputError(f"{what}: {error} Committed parts are kept: repeat the command") from error
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Temporarily set those of the variables that are not set."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)
