"""A Ray cluster embeds the parts: an actor for each core (or GPU) holds the encoder and a decoder and writes parts itself.

Images, encoder file and features folder must be in the same place on every machine; a folder on an object store is reached
from all. Ray Core is all that is used: parts are few and large, and need no data frames between machines.
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

# Read when Ray is imported, and by what it starts.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}  # nothing phones home
LOCAL = {"RAY_worker_niceness": "0", "RAY_AUTH_MODE": "token"}  # priority as of a local run; nobody else runs code in it
OBJECT_STORE = 100 << 20  # bytes: what passes through it are lists of paths
NEWS_EVERY = 2.0  # seconds between two questions how far a worker is
LAG, PAUSE = 30.0, 0.5  # seconds until a network file system shows what another machine wrote, and between two looks
WATCH = "watch"  # the group of calls that are answered while a part is embedded


@dataclass(frozen=True)
class RayEngine:
    """Has parts embedded on the Ray cluster at ``address`` (``HOST:PORT`` or ``auto``; None: one on this machine, for this run).

    A program that is connected to a cluster already uses that one. Raises InputError if there is none at ``address``.
    """

    address: str | None = None
    patience: Patience | None = None

    def __call__(self, job: FeatureRun, missing: list[int]) -> None:
        """Embed ``missing``, see ``features.writer.Engine``."""
        if not missing:
            return
        slow = job.options.limits.seconds * job.run.batch_size  # the progress of a worker is seen batch by batch
        patience = self.patience or Patience(image=max(Patience.image, 2 * slow))
        with _connected(self.address), contextlib.closing(Pool(RayCluster(job), missing, patience).run(job.check)) as done:
            for number in done:
                job.add(number, _seen(job, number))
                job.say()


class RayCluster:
    """See ``pool.Cluster``. A worker is known by a number."""

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
        self._due: dict[int, float] = {}  # when a worker is to be asked again
        job.spent.workers = 0

    def room(self) -> int:
        """By what the machines have in all: others may hold some of it."""
        has = self._ray.cluster_resources()
        return int(min(has.get(name, 0) // need for name, need in self._wanted().items()))

    def start(self) -> int:
        """An actor; Ray has it wait until there is room."""
        key = next(self._keys)
        options = replace(self._job.options, workers=self._workers)
        make, facts = self._job.encoder.__reduce__()
        run, place = self._job.run, self._job.copies.elsewhere()
        self._actors[key] = self._actor.remote(Path.cwd(), make, facts, self._out, options, run, place)
        self._ask(key, "start")
        self._job.spent.workers = max(self._job.spent.workers, len(self._actors) * self._workers)
        return key

    def give(self, worker: int, number: int) -> None:
        """The part's inputs go along, so that no worker need hold all of them."""
        numbers = slice_of(self._job.run, number)
        records = [self._job.manifest.inputs[index] for index in numbers]
        self._parts[self._actors[worker].embed.remote(number, numbers.start, records)] = worker, number

    def wait(self, seconds: float) -> list[Outcome[int]]:
        """Seconds that parts took are added to the job's."""
        if not self._parts:
            time.sleep(seconds)
            return []
        done, _ = self._ray.wait(list(self._parts), num_returns=1, timeout=seconds)
        return [self._outcome(reference) for reference in done]

    def news(self) -> dict[int, int | Exception]:
        """Workers are asked every NEWS_EVERY seconds, and once only until they answer."""
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
        """At once; what it was writing is not committed."""
        actor = self._actors.pop(worker, None)
        self._due.pop(worker, None)
        self._asked = {reference: key for reference, key in self._asked.items() if key != worker}
        self._parts = {reference: place for reference, place in self._parts.items() if place[0] != worker}
        if actor is not None:
            self._ray.kill(actor)

    def state(self) -> str:
        """What a worker needs, and what there is."""
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
        """What a call returned or raised, and whether its worker is lost."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference), False
        except errors.RayTaskError as error:
            return error.cause if isinstance(error.cause, Exception) else error, False
        except errors.RayError as error:  # the worker, its machine, or what it was to be sent
            return error, True


def _seen(job: FeatureRun, number: int) -> CommitRecord:
    """The record of a part that a worker committed. Raises FeaturesError if it does not come into sight."""
    deadline = time.monotonic() + LAG
    while True:
        try:
            job.copies.refresh(commit_path(Path(), number).as_posix())
            return check_record(job.out, job.run, number)
        except FeaturesError as error:
            if time.monotonic() > deadline:
                raise FeaturesError(
                    f"part {number} was committed by a worker, but here {error}: --out must be where all see the same"
                ) from error
        time.sleep(PAUSE)


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Be connected to the cluster, started here without an ``address``; signals go on to where they went."""
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
        except Exception as error:  # which is what Ray raises, too
            what = f"no Ray cluster answers at {address}" if address else "Ray cannot start on this machine"
            raise InputError(f"{what}: {error} What is committed stays: run it again") from error
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Those of the variables that are not set are, meanwhile."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)
