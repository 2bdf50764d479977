"""``sslfeat train``: train an encoder on unlabeled images."""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sslfeat.cli.console import note, progress, say, say_json
from sslfeat.cli.exits import BAD_INPUTS
from sslfeat.cli.options import Exclude, Json, Overwrite, Provider, Seed, Strict, TrustCode, Weights, parse_bytes
from sslfeat.errors import UsageError, needs
from sslfeat.system.plurals import counted
from sslfeat.system.ranks import quiet_false_alarm

PAIRS = (("accuracy", "chance"), ("error", "trivial"))  # metrics that are shown with their baseline
PRECISIONS = {"auto": None, "fp32": "32-true", "bf16": "bf16-mixed"}

if TYPE_CHECKING:
    from sslfeat.models.engine.config import TrainConfig
    from sslfeat.models.engine.trainer import Result, TrainProgress


def train(
    method: Annotated[str | None, typer.Argument(help="a method from 'sslfeat methods', or a .py file")] = None,
    images: Annotated[list[str] | None, typer.Argument(help="folders, images, quoted globs, .txt lists")] = None,
    out: Annotated[Path | None, typer.Option(help="output: run folder; default: run, with --extend RUN-extended")] = None,
    backbone: Annotated[str | None, typer.Option(help="resnet10[_wN], resnet18, vit_tiny, timm/NAME; default: by method")] = None,
    init: Annotated[str | None, typer.Option(help="initial weights: run, shipped encoder, timm/NAME, torchvision/NAME")] = None,
    weights: Weights = None,
    extend: Annotated[Path | None, typer.Option(help="finished run to continue; the result is written to --out")] = None,
    teacher: Annotated[str | None, typer.Option(help="encoder file or name; for the method distill")] = None,
    image_size: Annotated[int | None, typer.Option(help="side of the images, px; default: theirs, on a CPU at most 96")] = None,
    batch_size: Annotated[int | None, typer.Option(help="images per batch; default: set by the method")] = None,
    steps: Annotated[int | None, typer.Option(help="budget in optimizer steps")] = None,
    epochs: Annotated[float | None, typer.Option(help="budget in passes over the images")] = None,
    minutes: Annotated[float | None, typer.Option(help="budget in minutes; default: 30 on a CPU, 100 epochs on a GPU")] = None,
    lr: Annotated[float | None, typer.Option(help="peak learning rate; default: set by the method")] = None,
    backbone_lr: Annotated[float | None, typer.Option(help="relative to --lr; default: 1, with --init 0.2")] = None,
    layer_decay: Annotated[float | None, typer.Option(help="learning rate decay per layer; default: 1, with --init 0.7")] = None,
    freeze_norm: Annotated[bool, typer.Option("--freeze-norm", help="freeze the batch statistics of the backbone")] = False,
    weight_decay: Annotated[float | None, typer.Option(help="weight decay of AdamW; default: set by the method")] = None,
    clip: Annotated[float | None, typer.Option(help="maximum gradient norm; 0: no clipping; default: set by the method")] = None,
    seed: Seed = 0,
    provider: Provider = "auto",
    precision: Annotated[Literal["auto", "fp32", "bf16"], typer.Option(help="arithmetic precision; auto: the faster")] = "auto",
    accumulate: Annotated[int, typer.Option(help="number of pieces to split each batch into, to save memory")] = 1,
    compile_: Annotated[str | None, typer.Option("--compile", help="torch.compile backend, such as inductor")] = None,
    exclude: Exclude = None,
    probe_data: Annotated[str | None, typer.Option(help="class folders to evaluate on; takes a tenth of the time")] = None,
    keep: Annotated[Literal["last", "best"], typer.Option(help="weights to keep; best: by accuracy on --probe-data")] = "last",
    set_: Annotated[list[str] | None, typer.Option("--set", help="option of the method, as name=value; repeatable")] = None,
    config: Annotated[Path | None, typer.Option(help="repeat a run from its config.yaml")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted run; only --out is required")] = False,
    overwrite: Overwrite = False,
    trust_code: TrustCode = False,
    cache_size: Annotated[
        str | None, typer.Option(help="limit of the image cache, such as 20G; 0: none; default: SSLFEAT_CACHE_GIB")
    ] = None,
    checkpoint_steps: Annotated[int | None, typer.Option(help="steps between checkpoints; default: a minute", min=1)] = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Train an encoder without labels. 'sslfeat train METHOD --help' describes a method and its options.

    On several GPUs: 'torchrun --nproc-per-node N --no-python sslfeat train ...'.
    """
    quiet_false_alarm()
    out = out or _place(extend)
    given = {**locals(), "accelerator": provider, "precision": PRECISIONS[precision]}
    if config is not None:
        settings = _repeat(config, bool(method or images), trust_code)
    elif resume and not (method or images or extend):
        settings = _going_on(given, out, trust_code)
    elif extend is None and (not method or not images):
        raise UsageError("METHOD and IMAGES are required", "sslfeat train simclr IMAGES --out RUN")
    else:
        _check_order(method or "", images or [""])
        settings = _settings(given)
    if extend is not None:
        from sslfeat.models.engine.initial import extended_run

        settings = extended_run(extend, settings, trust_code)
    begin: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "trust_code": trust_code}
    size = parse_bytes("--cache-size", cache_size, least=0)
    begin |= {"strict": strict, "checkpoint_steps": checkpoint_steps, "cache_size": size}
    _train(settings, out, begin, as_json)


def _place(extend: Path | None) -> Path:
    """Default run folder without ``--out``: next to the run that is extended, with a note."""
    if extend is None:
        return Path("run")
    with needs("train"):
        from sslfeat.models.engine.initial import beside
    out = beside(extend)
    note(f"writing to {out} (change with --out)")
    return out


def _check_order(method: str, images: list[str]) -> None:
    """Raises UsageError, with the intended command, if images precede the method."""
    if os.path.exists(method) and not method.endswith(".py"):
        with needs("train"):
            from sslfeat.models.method import method_names
        if images[0] in method_names():
            line = shlex.join(["sslfeat", "train", images[0], method, *images[1:]])
            raise UsageError(f"{images[0]} is the method, which must come first", line)


def _settings(given: dict[str, Any]) -> TrainConfig:
    """Settings from the command line; paths are made absolute, so the run can be repeated from any folder."""
    from sslfeat.data.read import absolute

    with needs("train"):
        from sslfeat.models.engine.config import TrainConfig
    names = {item.name for item in dataclasses.fields(TrainConfig)} & set(given)
    method, init, probe_data = given["method"] or "", given["init"], given["probe_data"]
    placed = {
        "method": os.path.abspath(method) if method.endswith(".py") else method,
        "images": tuple(absolute(spec) for spec in given["images"] or ()),
        "init": os.path.abspath(init) if init and os.path.exists(init) else init,
        "weights": os.path.abspath(given["weights"]) if given["weights"] else None,
        "probe_data": absolute(probe_data) if probe_data else None,
        "exclude": tuple(given["exclude"] or ()),
        "options": _options(given["set_"] or [], given["teacher"]),
        "compile": given["compile_"],
        "extend": None,  # resolved together with the settings of that run
    }
    return TrainConfig(**{name: given[name] for name in names} | placed)


def _repeat(config: Path, named: bool, trust_code: bool) -> TrainConfig:
    """Settings of an earlier run from its config.yaml."""
    from sslfeat.models.engine.config import load_config
    from sslfeat.models.engine.frozen import refuse_code

    if named:
        raise UsageError("--config already names the method and the images: omit them")
    settings = load_config(config)
    if not trust_code:
        refuse_code(settings, config)
    return settings


def _going_on(given: dict[str, Any], out: Path, trust_code: bool) -> TrainConfig:
    """Settings of the run in ``out``. Raises UsageError if any are given together with ``--resume``."""
    with needs("train"):
        from sslfeat.models.engine.config import TrainConfig
        from sslfeat.models.engine.run_folder import settings_of
    asked, plain = _settings(given), TrainConfig("", ())
    changed = [item.name for item in dataclasses.fields(TrainConfig) if getattr(asked, item.name) != getattr(plain, item.name)]
    if changed:
        raise UsageError(f"--resume uses the settings of {out}: omit {', '.join(changed)}, or repeat the whole command")
    return settings_of(out, trust_code)


def _train(settings: TrainConfig, out: Path, begin: dict[str, Any], as_json: bool) -> None:
    from sslfeat.models.engine.checkpoint import LAST_NAME
    from sslfeat.models.engine.setup import leads
    from sslfeat.models.engine.trainer import Reporter
    from sslfeat.models.engine.trainer import train as run

    start, goes_on = time.monotonic(), begin["resume"] and (out / LAST_NAME).exists()
    with progress(1.0) as show:

        def loading(done: int, total: int) -> None:
            show(done / max(total, 1), f"reading images {done}/{total}")

        def preparing(what: str, done: int, total: int) -> None:
            show(done / max(total, 1), f"{what}: {done}/{total}")

        last: TrainProgress | None = None

        def training(now: TrainProgress) -> None:
            nonlocal last
            last = now
            show(now.share, describe(now))

        def stepped(share: float, step: int) -> None:
            show(share, describe(last, step) if last else f"step {step}")

        def look(step: int, figures: dict[str, float]) -> None:
            note(f"evaluation at step {step}: " + "  ".join(f"{name} {value:.3g}" for name, value in figures.items()))

        reporter = Reporter(loading, preparing, training, note, look, stepped)
        result = run(settings, out, reporter=reporter, **begin)
    if not leads():
        return
    seconds = time.monotonic() - start
    if as_json:
        facts = {"out": str(result.run), "method": settings.method_name, "steps": result.steps, "seconds": round(seconds, 3),
                 "training_seconds": round(result.seconds, 3), "looking_seconds": round(result.looking, 3),
                 "first": result.first, "last": result.last, "fault": result.fault, "failed": len(result.failures)}  # fmt: skip
        say_json("train", facts, images=result.images)
    else:
        _say(result, seconds, goes_on, settings.method.endswith(".py"))
    if result.failures:
        note(f"{counted(len(result.failures), 'image')} could not be read: {out / 'failures.csv'}")
        raise typer.Exit(BAD_INPUTS)


def _say(result: Result, seconds: float, resumed: bool, own_code: bool) -> None:
    spent = f"training {result.seconds:.0f} s, evaluation {result.looking:.0f} s"
    since = f"{seconds:.0f} s since resuming; in total {spent}" if resumed else f"{seconds:.0f} s ({spent})"
    say(f"{result.run}: {counted(result.steps, 'step')} in {since}")
    say(f"next: {shlex.join(['sslfeat', 'export', str(result.run), *(['--trust-code'] if own_code else [])])}")
    if result.fault:  # printed last, to be noticed
        say(f"warning: {result.fault}")
    elif "knn" in result.first:
        say(
            f"accuracy on the probe images, initial and final: nearest neighbors {result.first['knn']:.1%}, "
            f"{result.last['knn']:.1%}; linear {result.first['linear']:.1%}, {result.last['linear']:.1%}"
        )


def describe(read: TrainProgress, step: int | None = None) -> str:
    """Format progress as one line: images/s, loss, accuracy with its chance level, error with that of the trivial predictor.

    If ``step`` is later than the step of the metrics, the line states both.
    """
    figures = dict(read.figures)
    pairs = [(name, figures.pop(name, None), beside, figures.pop(beside, None)) for name, beside in PAIRS]
    now = read.step if step is None else step
    parts = [f"step {now}" + (f"  at step {read.step}:" if now != read.step else ""), f"{read.images_per_second:.0f} images/s"]
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
