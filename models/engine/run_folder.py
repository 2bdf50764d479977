"""The folder of a run: checks before starting or resuming, and the files written at the start and at the end."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from sslfeat.data.manifest import MANIFEST_NAME, Manifest
from sslfeat.data.manifest_diff import ManifestDiff
from sslfeat.errors import OVERWRITE, RESUME, TRUST_CODE, FeaturesError, TrainingError, UsageError
from sslfeat.features.failures import FAILURES_NAME
from sslfeat.models.engine import config as configs
from sslfeat.models.engine.best import BEST_NAME
from sslfeat.models.engine.checkpoint import ENCODER_NAME, LAST_NAME
from sslfeat.models.engine.config import CONFIG_NAME, TrainConfig
from sslfeat.models.engine.frozen import WHITENING_NAME, refuse_code
from sslfeat.models.engine.health import RunResult
from sslfeat.models.engine.metrics_log import EVENTS, METRICS_NAME
from sslfeat.models.engine.online_eval import PREVIEWS_NAME, WATCH_NAME
from sslfeat.models.engine.pixel_cache import remove_caches
from sslfeat.storage import atomic
from sslfeat.storage.records import parse_json

RESULT_NAME = "result.json"
OURS = (
    CONFIG_NAME, MANIFEST_NAME, METRICS_NAME, WATCH_NAME, LAST_NAME, ENCODER_NAME, FAILURES_NAME, RESULT_NAME, WHITENING_NAME,
    BEST_NAME,
)  # fmt: skip


@dataclass(frozen=True)
class Begin:
    """How a run starts: new, resumed (``resume``), or replacing another run (``overwrite``).

    ``trust_code``: resume although the method's Python file has changed.
    """

    resume: bool = False
    overwrite: bool = False
    trust_code: bool = False

    def check(self, config: TrainConfig, out: Path) -> None:
        """Raise TrainingError if ``out`` contains a run that would be replaced or mixed with this one; writes nothing.

        A folder without a checkpoint contains no run.
        """
        if self.resume and self.overwrite:
            raise UsageError("resume and overwrite exclude each other: resume continues a run, overwrite replaces it")
        if not holds_run(out) or self.overwrite:
            return
        if not self.resume:
            raise TrainingError(
                f"{out} already contains a run", f"resume it with {RESUME}, choose another folder, or replace it with {OVERWRITE}"
            )
        if not (out / LAST_NAME).exists():
            raise TrainingError(f"{out} contains an encoder but no {LAST_NAME} to resume from", "choose another folder")
        kept = configs.load_config(out / CONFIG_NAME)
        configs.check_same(config, kept, out)
        if config.method_sha256 != kept.method_sha256 and not self.trust_code:
            raise TrainingError(
                f"{config.method} has changed since {out} was started",
                f"restore it, choose another folder, or resume with the changed file with {TRUST_CODE}",
            )

    def record(self, config: TrainConfig, out: Path, manifest: Manifest) -> None:
        """Write ``config.yaml`` and the list of images; raises TrainingError if a resumed run had other images."""
        if self.resume and holds_run(out):
            _check_images(config, out, manifest)
        elif self.overwrite:
            clear(out)
        atomic.write_atomic(out / MANIFEST_NAME, manifest.to_bytes())
        configs.save_config(config, out)


def settings_of(out: Path, trust_code: bool = False) -> TrainConfig:
    """The settings of the run in ``out``, for resuming it. Raises UsageError, TrainingError."""
    if not (out / CONFIG_NAME).is_file():
        raise UsageError(f"{out} contains no run to resume: give the folder of a run, or a method and images to start one")
    settings = configs.load_config(out / CONFIG_NAME)
    refuse_code(settings, out / CONFIG_NAME, trust_code)
    return settings


def holds_run(out: Path) -> bool:
    """Whether the folder contains trained weights."""
    return any((out / name).exists() for name in (LAST_NAME, ENCODER_NAME))


def clear(out: Path) -> None:
    """Delete the files written by runs, and nothing else."""
    for path in (*(out / name for name in OURS), *out.glob(EVENTS), *(out / PREVIEWS_NAME).glob("step-*.png")):
        path.unlink(missing_ok=True)
    remove_caches(out)


def write_result(out: Path, result: RunResult) -> None:
    """Write ``result.json``, the result of the run."""
    atomic.write_atomic(out / RESULT_NAME, atomic.json_bytes(dataclasses.asdict(result)))


def came_to_an_end(run: Path) -> bool:
    """Whether a run was completed."""
    return (run / RESULT_NAME).exists()


def read_seconds(run: Path) -> float:
    """Training time of a run from its ``result.json``; 0 if it was not completed. Raises TrainingError."""
    path = run / RESULT_NAME
    try:
        return float(parse_json(path.read_bytes(), str(path), TrainingError)["seconds"]) if path.exists() else 0.0
    except (TypeError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} is damaged: it has no seconds") from error


def _check_images(config: TrainConfig, out: Path, manifest: Manifest) -> None:
    kept = configs.load_config(out / CONFIG_NAME)
    if config.inputs_sha256 == kept.inputs_sha256:
        return
    try:
        changes = str(ManifestDiff.between(Manifest.load(out, atomic.sha256_file(out / MANIFEST_NAME)), manifest))
    except (FeaturesError, OSError):
        changes = "the original list is not available"
    raise TrainingError(f"{out} was started with other images ({changes})", "restore them, or choose another folder")
