"""``sslfeat train``: a folder of images becomes a training run."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslfeat.cli.console import note, progress, say
from sslfeat.cli.exits import BAD_INPUTS, needs
from sslfeat.errors import UsageError

PAIRS = (("accuracy", "chance"), ("error", "trivial"))  # figures that mean little without the other

if TYPE_CHECKING:
    from sslfeat.models.engine.config import TrainConfig
    from sslfeat.models.engine.trainer import TrainProgress


def train(
    method: Annotated[str | None, typer.Argument(help="one of 'sslfeat methods', or a .py file")] = None,
    images: Annotated[list[str] | None, typer.Argument(help="folders, images, quoted globs, .txt lists")] = None,
    out: Annotated[Path, typer.Option(help="run folder")] = Path("run"),
    backbone: Annotated[str | None, typer.Option(help="resnet10[_wN], resnet18, vit_tiny, ..., timm/NAME")] = None,
    init: Annotated[str | None, typer.Option(help="begin from a run, a shipped encoder, timm/NAME, torchvision/NAME")] = None,
    extend: Annotated[Path | None, typer.Option(help="go on with a finished run, in a new --out")] = None,
    teacher: Annotated[str | None, typer.Option(help="distill: an encoder file, or a name of 'sslfeat models'")] = None,
    image_size: Annotated[int | None, typer.Option(help="px; default: from the images")] = None,
    batch_size: Annotated[int | None, typer.Option(help="default: the method's, less for few images")] = None,
    steps: Annotated[int | None, typer.Option(help="budget in optimizer steps")] = None,
    epochs: Annotated[float | None, typer.Option(help="budget in passes over the images")] = None,
    minutes: Annotated[float | None, typer.Option(help="minutes of training, evaluation not counted")] = None,
    lr: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    backbone_lr: Annotated[float | None, typer.Option(help="in units of --lr; default: 1, with --init 0.2")] = None,
    layer_decay: Annotated[float | None, typer.Option(help="of the rate, a layer; default: 1, with --init 0.7")] = None,
    freeze_norm: Annotated[bool, typer.Option("--freeze-norm", help="keep the backbone's batch statistics")] = False,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's")] = None,
    clip: Annotated[float | None, typer.Option(help="largest gradient norm, 0: any")] = None,
    seed: Annotated[int, typer.Option(help="of weights, order and augmentation")] = 0,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    precision: Annotated[str | None, typer.Option(help="32-true, bf16-mixed; default: the faster")] = None,
    accumulate: Annotated[int, typer.Option(help="split each batch into so many pieces, to save memory")] = 1,
    compile_: Annotated[str | None, typer.Option("--compile", help="backend of torch.compile: inductor")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="leave out images that match this glob; repeatable")] = None,
    probe_data: Annotated[str | None, typer.Option(help="class folders to evaluate on while training")] = None,
    keep: Annotated[str, typer.Option(help="last, or best by --probe-data")] = "last",
    set_: Annotated[list[str] | None, typer.Option("--set", help="name=value, an option of the method")] = None,
    config: Annotated[Path | None, typer.Option(help="repeat the run of this config.yaml")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the run in --out")] = False,
    trust_code: Annotated[bool, typer.Option("--trust-code", help="run the .py file of --config")] = False,
    checkpoint_steps: Annotated[int | None, typer.Option(help="default: a checkpoint a minute")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="unreadable images are an error")] = False,
) -> None:
    """Train an encoder without labels. METHOD --help explains the method. Several GPUs: torchrun --no-python sslfeat."""
    given = dict(locals())
    if config is not None:
        settings = _repeat(config, bool(method or images), trust_code)
    elif extend is None and (not method or not images):
        raise UsageError("a method and images are needed: sslfeat train simclr IMAGES --out RUN")
    else:
        settings = _settings(given)
    if extend is not None:
        settings = _extended(extend, settings, trust_code)
    if checkpoint_steps is not None and checkpoint_steps < 1:
        raise UsageError(f"--checkpoint-steps {checkpoint_steps}: it is at least 1")
    begin = {"resume": resume, "overwrite": overwrite, "trust_code": trust_code}
    _train(settings, out, begin, checkpoint_steps, strict)


def _settings(given: dict[str, Any]) -> TrainConfig:
    """What was asked for on the command line; paths are made absolute, so that the run can be repeated from anywhere."""
    with needs("train"):
        from sslfeat.models.engine.config import TrainConfig
    names = {item.name for item in dataclasses.fields(TrainConfig)} & set(given)
    method, init, probe_data = given["method"] or "", given["init"], given["probe_data"]
    placed = {
        "method": os.path.abspath(method) if method.endswith(".py") else method,
        "images": tuple(os.path.abspath(spec) for spec in given["images"] or ()),
        "init": os.path.abspath(init) if init and os.path.exists(init) else init,
        "probe_data": os.path.abspath(probe_data) if probe_data else None,
        "exclude": tuple(given["exclude"] or ()),
        "options": _options(given["set_"] or [], given["teacher"]),
        "compile": given["compile_"],
        "extend": None,  # which is made out with the settings of that run
    }
    return TrainConfig(**{name: given[name] for name in names} | placed)


def _repeat(config: Path, named: bool, trust_code: bool) -> TrainConfig:
    """The settings of an earlier run."""
    from sslfeat.models.engine.config import load_config
    from sslfeat.models.engine.frozen import refuse_code

    if named:
        raise UsageError("--config already names the method and the images: leave them out")
    settings = load_config(config)
    if not trust_code:
        refuse_code(settings, config)
    return settings


def _extended(run: Path, given: TrainConfig, trust_code: bool) -> TrainConfig:
    """The settings with which the run goes on."""
    from sslfeat.models.engine.config import CONFIG_NAME
    from sslfeat.models.engine.frozen import refuse_code
    from sslfeat.models.engine.initial import extended

    if given.init:
        raise UsageError("--extend goes on with a run, --init begins another from its encoder: give one of them")
    settings = extended(run.absolute(), given)
    refuse_code(settings, run / CONFIG_NAME, trust_code)
    return settings


def _train(settings: TrainConfig, out: Path, begin: dict[str, bool], checkpoint_steps: int | None, strict: bool) -> None:
    from sslfeat.models.engine.setup import leads
    from sslfeat.models.engine.trainer import Reporter
    from sslfeat.models.engine.trainer import train as run

    start = time.monotonic()
    with progress(1.0, "trained") as show:

        def loading(done: int, total: int) -> None:
            show(0.0, f"reading images {done}/{total}")

        def training(now: TrainProgress) -> None:
            show(now.share, describe(now))

        def look(step: int, figures: dict[str, float]) -> None:
            note(f"look at step {step}: " + "  ".join(f"{name} {value:.3g}" for name, value in figures.items()))

        reporter = Reporter(loading, training, note, look)
        result = run(settings, out, reporter=reporter, checkpoint_steps=checkpoint_steps, **begin)
    if not leads():
        return
    say(f"{result.run}: {result.steps} steps in {time.monotonic() - start:.0f} s")
    say(f"next: sslfeat export {result.run} --out encoder.onnx")
    if result.failures:
        note(f"{len(result.failures)} images could not be read: {out / 'failures.csv'}")
    if result.fault:  # last, where it is read
        say(f"warning: {result.fault}")
    elif "knn" in result.first:
        say(
            f"right on the probe images, at the start and now: nearest neighbors {result.first['knn']:.1%}, "
            f"{result.last['knn']:.1%}; linear {result.first['linear']:.1%}, {result.last['linear']:.1%}"
        )
    if result.failures:
        raise typer.Exit(1 if strict else BAD_INPUTS)


def describe(now: TrainProgress) -> str:
    """One line: images a second, loss, accuracy beside its chance level, error beside the trivial predictor's."""
    figures = dict(now.figures)
    pairs = [(name, figures.pop(name, None), beside, figures.pop(beside, None)) for name, beside in PAIRS]
    parts = [f"step {now.step}", f"{now.images_per_second:.0f} images/s"]
    parts += [f"{name} {value:.4g}" for name, value in figures.items()]
    for name, value, beside, reference in pairs:
        if value is not None:
            parts.append(f"{name} {value:.3f}" + (f" ({beside} {reference:.3f})" if reference is not None else ""))
    return "  ".join(parts)


def _options(pairs: list[str], teacher: str | None) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise UsageError(f"--set {pair}: write it as name=value")
    options = dict(pair.split("=", 1) for pair in pairs)
    if teacher:
        options["teacher"] = os.path.abspath(teacher) if os.path.exists(teacher) else teacher
    return options
