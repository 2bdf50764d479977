"""Distillation into a small network (SEED: Fang et al. 2021; CompRess: Koohpayegani et al. 2020).

Task: from a view of an image, predict the feature that a larger encoder (any encoder file) computes from the whole image. A
linear layer on the features predicts the direction of the teacher's feature, and its similarities to the features of
thousands of other images (SEED, section 3.2, equation 5). The teacher processes every image once, without augmentation,
before training. There is no known shortcut. Crops are large and colors change little, because a view that lacks what the
teacher saw can only be guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.errors import UsageError
from sslfeat.inference.onnx_model import read_encoder_file
from sslfeat.inference.registry import resolve
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.data import Images
from sslfeat.models.engine.distributed import gather, rank
from sslfeat.models.engine.teacher_features import teacher_features
from sslfeat.models.method import About, Figures, Recipe, register
from sslfeat.models.multi_view import MultiView, ViewConfig, Views
from sslfeat.models.ranges import Area, Count, CountOrZero, NotNegative, Positive, Share


@register("distill")
class Distill(MultiView):
    """Predictions (V N, T) of the teacher's centered, normalized features."""

    least_views = 1

    @dataclass(frozen=True)
    class Config(ViewConfig):
        """``teacher``: an encoder file or a name from ``sslfeat models``. ``features``: a features folder of that encoder
        that contains the images; by default they are embedded into a subfolder ``teacher-...`` of the run.
        ``teacher_fingerprint``: set automatically; a run cannot be resumed with another teacher.

        ``relational``: weight of the similarity loss. ``others``: number of other images drawn per step (SEED's queue:
        65,536). ``temperature``: of the similarities (SEED: 0.2 and 0.01, CompRess: 0.04).
        """

        teacher: str = ""
        features: str = ""
        teacher_fingerprint: str = ""
        relational: NotNegative = 1.0
        others: CountOrZero = 4096
        temperature: Positive = 0.05
        jitter: NotNegative = 0.2
        gray: Share = 0.0
        min_area: Area = 0.3
        views: Count = 1

    recipe = Recipe(batch_size=256, lr=3e-3, weight_decay=1e-4)
    about = About(
        "Fang et al. 2021; Koohpayegani, Tejankar, Pirsiavash 2020",
        "predict the features of a larger encoder",
        "ImageNet linear (EfficientNet-B0 of a larger network) 67.6, the same tuned without one 65.8",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        self.head: nn.Module = nn.Identity()
        self._taught: npt.NDArray[np.float16] = np.empty((0, 0), np.float16)

    @classmethod
    def depends_on(cls, options: dict[str, Any]) -> dict[str, Any]:
        teacher = options.get("teacher")
        if not teacher:
            raise UsageError("distill needs a teacher: give an encoder with --teacher ENCODER")
        return {"teacher_fingerprint": read_encoder_file(resolve(teacher)).fingerprint}

    def prepare(self, images: Images) -> None:
        super().prepare(images)
        rows = teacher_features(self.config.teacher, self.config.features, images)
        center = np.mean(rows, 0, dtype=np.float64).astype(np.float32)
        self._taught = np.empty_like(rows)
        for start in range(0, len(rows), 4096):
            part = rows[start : start + 4096].astype(np.float32) - center
            part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
            self._taught[start : start + 4096] = part
        self.head = nn.Linear(self.encoder.dim, rows.shape[1])

    def compare(self, features: Tensor, views: Views) -> tuple[Tensor, Figures]:
        """2 - 2 cos to the teacher's feature, plus ``relational`` times the divergence of the similarities, in nats.

        ``accuracy``: how often the nearest feature of the batch is that of the image itself.
        """
        predicted = functional.normalize(self.head(self.features_of_all(features, views)).float(), dim=1)
        targets = self._rows(self._of_batch(len(features) // self.config.views), predicted.device)
        repeated = targets.repeat(len(predicted) // len(targets), 1)
        everyone = gather(targets)
        with torch.autocast(predicted.device.type, enabled=False):
            cosine = (predicted * repeated).sum(1)
            loss = (2 - 2 * cosine).mean()
            if self.config.relational:
                drawn = torch.randint(len(self._taught), (self.config.others,))
                others = torch.cat([everyone, self._rows(drawn, predicted.device)])
                loss = loss + self.config.relational * relational(predicted, repeated, others, self.config.temperature)
            right = torch.arange(len(targets), device=predicted.device).repeat(len(predicted) // len(targets))
            right = right + rank() * len(targets)
            accuracy = ((predicted.detach() @ everyone.T).argmax(1) == right).float().mean()
        return loss, {"cosine": cosine.detach().mean(), "accuracy": accuracy, "chance": 1 / len(everyone)}

    def _of_batch(self, n: int) -> Tensor:
        """Indices (N,) of the images in the batch."""
        if self.numbers is None or len(self.numbers) != n:
            raise UsageError("distill needs the indices of the images in a batch: train it with sslfeat")
        return self.numbers.cpu()

    def _rows(self, numbers: Tensor, device: torch.device) -> Tensor:
        return torch.from_numpy(self._taught[numbers.numpy()]).to(device).float()


def relational(predicted: Tensor, targets: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence in nats from the similarities of unit rows ``targets`` (N, T) to ``others`` (Q, T) to those
    of ``predicted`` (N, T), each a softmax over the others."""
    student = functional.log_softmax(predicted @ others.T / temperature, 1)
    teacher = functional.log_softmax(targets @ others.T / temperature, 1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
