"""The training loop. To understand training, read this file first, then one of ``methods/``.

Images are decoded once, or whenever they are sampled if they do not fit into the cache. The batch and the randomness of each
step are determined by (seed, step), and a checkpoint contains weights, optimizer state and step; on a CPU a resumed run
therefore ends with the same weights as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sslfeat.errors import InterruptedRun, TrainingError
from sslfeat.features.failures import write_failures
from sslfeat.models.engine import config as configs
from sslfeat.models.engine import distributed, hooks
from sslfeat.models.engine.best import Best
from sslfeat.models.engine.checkpoint import (
    ENCODER_NAME,
    LAST_NAME,
    KeptWith,
    Progress,
    all_finite,
    load_checkpoint,
    save_checkpoint,
)
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.data import Ahead, Images, Order, pieces_of, typical_size
from sslfeat.models.engine.draws import StepGenerator
from sslfeat.models.engine.frozen import build_method, save_encoder
from sslfeat.models.engine.health import RunResult, find_fault, looks
from sslfeat.models.engine.initial import Pace, initial_encoder, restore_method, with_source
from sslfeat.models.engine.meter import Complaints, Meter
from sslfeat.models.engine.metrics_log import RunLog
from sslfeat.models.engine.online_eval import ProbeSet, Watch, collapse, load_probe_set, probe_inputs
from sslfeat.models.engine.pixel_cache import remove_caches
from sslfeat.models.engine.reporting import Reporter, Result, TrainProgress
from sslfeat.models.engine.run_folder import Begin, holds_run, write_result
from sslfeat.models.engine.schedule import LookSchedule, ended_by, learning_rate, share_spent, shares
from sslfeat.models.engine.setup import choice_of, leads, make_fabric, make_optimizer, refuse_failures, seed_step, training_images
from sslfeat.models.method import Figures, Method, file_sha256, find_method
from sslfeat.models.own_file import named_faults
from sslfeat.storage import atomic
from sslfeat.system import signals

__all__ = ["Reporter", "Result", "TrainProgress", "train"]

LOG_EVERY = 20  # steps
STOP_WITHIN = 300.0  # seconds after a stop signal for finishing the current step and writing a checkpoint
AGREE_EVERY = 10  # steps between synchronizing stop signals in distributed training
CHECKPOINT_SECONDS = 60.0


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
    checkpoint_steps: int | None = None,
    cache_size: int | None = None,
    overwrite: bool = False,
    trust_code: bool = False,
    strict: bool = False,
) -> Result:
    """Train ``config.method`` on ``config.images`` into the folder ``out``.

    ``resume``: continue an interrupted run from its last checkpoint, or start it if there is none; if the method's Python file
    has changed, this requires ``trust_code``. ``overwrite``: replace another run. Checkpoints are written every minute, or
    every ``checkpoint_steps``. ``cache_size``: bytes of cached pixels (see ``load_images``); it does not affect the batches.
    ``strict``: raise an error if an image cannot be read. Started by torchrun, several processes train together, one per GPU.
    Invalid arguments are rejected before the folder is changed. Raises SslfeatError; InterruptedRun after a SIGINT or SIGTERM,
    once the checkpoint has been written.
    """
    leader, begin = leads(), Begin(resume, overwrite, trust_code)
    reporter = reporter if reporter and leader else Reporter()
    inputs, labeled = config.inputs(reporter.warn), probe_inputs(config.probe_data)
    config, fitting = with_source(config), find_method(config.method).recipe
    config = configs.with_defaults(config, fitting, len(inputs), typical_size(inputs))
    config = dataclasses.replace(config, method_sha256=file_sha256(config.method))
    goes_on = resume and (out / LAST_NAME).exists()
    if resume and not goes_on and not holds_run(out):
        reporter.warn(f"--resume: {out} contains no checkpoint: starting a new run")
    module = build_method(config) if goes_on else build_method(config, partial(initial_encoder, config))
    with atomic.exclusive(out, TrainingError) if leader else contextlib.nullcontext(), signals.deferred(STOP_WITHIN) as stop:
        begin.check(config, out)
        if leader:
            atomic.remove_temporaries(out)
        try:
            drawn = training_images(config, inputs, out, reporter, stop, cache_size, module.sees_whole_images)
            with contextlib.closing(drawn) as images, named_faults(config.method):
                if strict:
                    refuse_failures(images.failures)
                config = dataclasses.replace(config, inputs_sha256=images.identity)
                probe_set = load_probe_set(labeled, int(config.image_size or 0), out) if labeled else None
                run = _Run(config, out, module, images, reporter, stop)
                if leader:
                    begin.record(config, out, images.known)
                run.restore(goes_on)
                verdict = run.loop(checkpoint_steps, probe_set)
        finally:
            if leader:
                remove_caches(out)
        if leader:
            write_failures(out, images.failures)
            write_result(out, verdict)
    return Result(
        out, verdict.steps, images.failures, verdict.fault, verdict.first, verdict.last, len(images.pixels), verdict.seconds,
        run.looking,
    )  # fmt: skip


class _Run:
    """A run in progress: setup before the loop happens once, everything in the loop once per step."""

    def __init__(
        self, config: TrainConfig, out: Path, module: Method, images: Images, reporter: Reporter, stop: signals.Stop
    ) -> None:
        self.config, self.out, self.images, self.reporter, self.stop = config, out, images, reporter, stop
        self.fabric = make_fabric(config)
        if self.fabric.broadcast(config.inputs_sha256) != config.inputs_sha256:
            raise TrainingError("the processes see different images: give all of them the same images")
        module = module.to(memory_format=torch.channels_last)
        module.prepare(images)
        distributed.share_statistics(module.to(self.fabric.device), self.fabric.device)
        distributed.equalize(module)
        self.module = module
        self.optimizer = make_optimizer(module, config)  # after moving the parameters, whose device its state uses
        self.pace, self.best = Pace(config, module), Best(out, config.keep == "best")
        self.order = Order(len(images.pixels), int(config.batch_size or 1), config.seed)
        self.ahead = Ahead(images.pixels, self.fabric.device)
        self.upcoming: tuple[int, list[npt.NDArray[np.int64]]] | None = None
        self.step, self.clock, self.looking, self.saved = 0, time.monotonic(), 0.0, ""

    def restore(self, resume: bool) -> None:
        """Resume from the last checkpoint if there is one, and prepare the first step."""
        spent = 0.0
        if not resume:
            restore_method(self.config, self.module)
        else:
            progress = load_checkpoint(self.out / LAST_NAME, self.module, self.optimizer)
            self.step, spent, self.looking = progress.step, progress.seconds, progress.looking
            self.saved = f"step {self.step}"
        if self.config.compile:
            self.module.loss = torch.compile(self.module.loss, backend=self.config.compile)  # type: ignore[method-assign]
        self.method, self.stepper = self.fabric.setup(self.module, self.optimizer)
        self.clock = time.monotonic() - spent  # the time since then is the training time, without evaluations
        if resume and self._share() >= 1:
            self.reporter.warn(f"{self.out} was already complete at step {self.step}: --extend {self.out} trains it further")

    def loop(self, checkpoint_steps: int | None, probe_set: ProbeSet | None) -> RunResult:
        """Train until the budget is reached."""
        config, out, fabric = self.config, self.out, self.fabric
        generator = StepGenerator(fabric.device)
        meter, log, saved_at = Meter(), RunLog(out, self.step) if fabric.is_global_zero else None, time.monotonic()
        complaints = Complaints(self.reporter.warn, self.module.complaint)
        watch = Watch(out, self.module, self.images, probe_set, log) if log else None
        self.looks = LookSchedule(self.looking, every=config.keep == "best")
        means: dict[str, float] = {}
        try:
            while (share := self._share()) < 1:
                if watch and self.looks.due(self.step, share, time.monotonic() - self.clock):
                    meter.leave_out(self._look(watch, complaints))
                self._cycle(generator)
                seed_step(config.seed, self.step, fabric.global_rank, generator)
                self.module.share = share
                self.pace.apply(self.optimizer, learning_rate(float(config.lr or 0), share), share)
                meter.add(*self._step(generator))
                self.step += 1
                self.reporter.stepped(share, self.step)
                if self.step % LOG_EVERY == 0 or self.step == 1:
                    means = self._report(share, meter, complaints, log)
                signum = self._signal()
                late = time.monotonic() - saved_at > CHECKPOINT_SECONDS
                if signum or (self.step % checkpoint_steps == 0 if checkpoint_steps else late):
                    self._save()
                    saved_at = time.monotonic()
                if signum:
                    raise InterruptedRun(signum, f"interrupted at step {self.step}: resume with the same command and --resume")
            if meter.unread:  # the last step always has a row; verdicts use more than the last few steps
                few = meter.unread < LOG_EVERY // 2 and self.step > LOG_EVERY
                last_means = self._report(1.0, meter, complaints, log, judge=False)
                means = means if few else last_means
            seconds = time.monotonic() - self.clock
            if ended := ended_by(shares(config, self.step, self.order.steps_per_epoch, seconds)):
                self.reporter.warn(ended)
            self._save()
            if watch:
                self._look(watch, complaints)
                self.best.keep()
        finally:
            if log:
                log.close()
        first, last = looks(out, self.best.step) if log else ({}, {})
        counts = (self.step, len(self.images.pixels), len(self.images.failures), seconds)
        return RunResult(*counts, means, first, last, find_fault(means, first, last, probe_set.asked if probe_set else 0))

    def _step(self, generator: torch.Generator) -> tuple[int, Figures]:
        """One optimizer step over one batch, in ``accumulate`` pieces; returns the number of images and mean figures."""
        fabric, pieces = self.fabric, self._pieces(self.step)
        count = sum(map(len, pieces))
        sums: Figures = {}
        for number, piece in enumerate(pieces):
            part = len(piece) / count
            self.module.numbers = torch.from_numpy(piece).to(fabric.device)
            batch = self.ahead.take(piece)
            last = number == len(pieces) - 1
            with fabric.no_backward_sync(self.method, enabled=not last):
                loss, figures = self.method(batch, generator)
                fabric.backward(loss * part)
            self.ahead.expect(self._pieces(self.step + 1)[0] if last else pieces[number + 1])
            for name, value in {"loss": loss.detach(), **figures}.items():
                sums[name] = sums.get(name, 0.0) + value * part
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip)
        self.stepper.step()
        self.stepper.zero_grad()
        self.module.after_step()
        return count * fabric.world_size, sums

    def _pieces(self, step: int) -> list[npt.NDArray[np.int64]]:
        """Image indices of this rank in a step, piece by piece."""
        if self.upcoming is None or self.upcoming[0] != step:
            drawn, count = self.order.indices(step), len(self.images.pixels)
            chosen = hooks.choose(self.module, drawn, choice_of(self.config.seed, step), count)
            self.upcoming = step, pieces_of(chosen, self.config.accumulate, self.fabric.global_rank, self.fabric.world_size)
        return self.upcoming[1]

    def _cycle(self, generator: StepGenerator) -> None:
        """Call the method's ``on_cycle`` when a cycle begins."""
        if not hooks.cycle_begins(self.module, self.step, self.order.steps_per_epoch):
            return
        seed_step(self.config.seed, -1 - self.step, 0, generator)  # the same on every rank
        for parameter in hooks.begin_cycle(self.module, self.images, generator):
            self.optimizer.state.pop(parameter, None)
        distributed.equalize(self.module)
        self.upcoming = None  # the method may now choose other images

    def _report(
        self, share: float, meter: Meter, complaints: Complaints, log: RunLog | None, judge: bool = True
    ) -> dict[str, float]:
        """Log and report the mean figures since the last report; returns them. ``judge``: warn if nothing is learned."""
        rate, means = meter.read()
        means = distributed.mean_figures(means, self.fabric.device)
        complaints.check(self.step, share if judge else 0.0, means)
        if log:
            log.write(self.step, {**means, "lr": self.pace.highest, "images_per_second": rate})
        self.reporter.training(TrainProgress(share, self.step, rate, means))
        return means

    def _look(self, watch: Watch, complaints: Complaints) -> float:
        """Evaluate the encoder and warn about problems; returns the time in seconds, which does not count toward the budget."""
        began = time.monotonic()
        figures = watch.look(self.step, self.fabric.device, self.config.seed)
        self.best.offer(self.module, self.step, len(self.images.pixels), figures)
        if self.step:
            complaints.say("collapse", collapse(figures))
        self.reporter.look(self.step, figures)
        self.looks.took(self.step, seconds := time.monotonic() - began)
        self.clock += seconds
        self.looking += seconds
        return seconds

    def _share(self) -> float:
        share = share_spent(self.config, self.step, self.order.steps_per_epoch, time.monotonic() - self.clock)
        return self.fabric.broadcast(share) if self.config.minutes and self.fabric.world_size > 1 else share

    def _signal(self) -> int:
        """The stop signal received by any process; all processes see it at the same step."""
        signum = self.stop.signum or 0
        if self.fabric.world_size == 1:
            return signum
        if self.step % AGREE_EVERY:
            return 0
        heard = self.fabric.all_reduce(torch.tensor(float(signum), device=self.fabric.device), reduce_op="max")
        return int(cast(Tensor, heard))

    def _save(self) -> None:
        """Replace checkpoint and encoder with the current state, unless weights are not finite."""
        if not self.fabric.is_global_zero:
            return
        if not all_finite(self.module, self.optimizer):
            kept = f"{self.out} still contains those of {self.saved}" if self.saved else "none were written"
            raise TrainingError(
                f"the weights are not finite at step {self.step}; {kept}: train again with a lower --lr than "
                f"{self.config.lr:g}, a lower --clip than {self.config.clip:g}, or --precision fp32"
            )
        progress = Progress(self.step, time.monotonic() - self.clock, self.looking)
        save_checkpoint(self.out / LAST_NAME, self.module, self.optimizer, progress)
        save_encoder(self.out / ENCODER_NAME, self.module, KeptWith(len(self.images.pixels), self.step))
        self.saved = f"step {self.step}"
