"""Images per second of other libraries for embedding a folder of photographs, used as in their documentation.

    python benchmarks/embed_peers.py PEER MODEL FOLDER [--count N] [--batch-size N] [--workers N] [--work DIR]

Prints one line of JSON. All libraries compute in float32, resize the shorter side to the input size of the network with an
antialiased bicubic filter, crop the center and normalize (except lightly_train, which only supports bilinear resizing of the
whole image to a square). A result is rejected if an embedding is missing, of the wrong length, or not finite. Imports, loading of
the network, and a warm-up of two batches are excluded.

MODEL: resnet18 (of torchvision), vit_s_16 (12 layers, 6 heads, width 384) or shipped (network of the shipped encoder, 64 px), all
with random weights. PEER, and its requirements:

    fastembed       pip install fastembed torch torchvision onnx onnxscript    (torch to make the ONNX file, not to embed)
    thingsvision    pip install thingsvision    in a separate environment: it needs torchvision 0.15 and numpy 1
    lightly_train   pip install 'lightly-train[timm]'
    dataloader      pip install torch torchvision    a plain script: PIL, torchvision transforms, a DataLoader

shipped also needs sslfeat. WORK contains files prepared for a library in a separate process: an ONNX file for fastembed, and for
lightly_train a checkpoint of its own training with a single step.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from peer_networks import DIM, MEAN, SIZE, STD, build, transform

if TYPE_CHECKING:
    import numpy as np

    Rows = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Task:
    """``warm_up``, ``photos``: folders of JPEGs. ``made``: path of the files made by ``prepare``."""

    model: str
    warm_up: Path
    photos: Path
    made: Path
    batch_size: int
    workers: int


class Stopwatch:
    """Started after warm-up; starting again resets it."""

    began = 0.0

    def start(self) -> None:
        self.began = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self.began


def fastembed(task: Task, watch: Stopwatch) -> Rows:
    """Replaces the files of a known model; ``parallel`` processes, or none."""
    import numpy as np
    from fastembed import ImageEmbedding

    model = ImageEmbedding("Qdrant/resnet50-onnx", specific_model_path=str(task.made), lazy_load=task.workers > 0)
    warm_up, photos = sorted(task.warm_up.iterdir()), sorted(task.photos.iterdir())
    rows = []
    for row in model.embed([*warm_up, *photos], batch_size=task.batch_size, parallel=task.workers or None):
        rows.append(row)
        if len(rows) == len(warm_up):  # processes are started and have loaded the model
            watch.start()
    return np.stack(rows[len(warm_up) :])


def fastembed_model(model: str, made: Path) -> None:
    import torch

    torch.backends.mha.set_fastpath_enabled(False)  # fused attention cannot be exported to ONNX
    made.mkdir(parents=True)
    size = SIZE[model]
    torch.onnx.export(
        build(model), (torch.zeros(2, 3, size, size),), made / "model.onnx", input_names=["input"],
        output_names=["output"], dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, external_data=False,
    )  # fmt: skip
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True, "size": {"shortest_edge": size}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": size, "width": size},
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": MEAN, "image_std": STD,
    }  # fmt: skip
    (made / "preprocessor_config.json").write_text(json.dumps(config))


def thingsvision(task: Task, watch: Stopwatch) -> Rows:
    from thingsvision import get_extractor_from_model
    from thingsvision.utils.data import DataLoader, ImageDataset

    extractor = get_extractor_from_model(model=build(task.model), device="cpu", preprocess=transform(task.model), backend="pt")

    def embed(folder: Path) -> Rows:
        dataset = ImageDataset(
            root=str(folder), out_path=str(folder.parent), backend=extractor.get_backend(),
            transforms=extractor.get_transformations(),
        )  # fmt: skip
        batches = DataLoader(dataset=dataset, batch_size=task.batch_size, backend=extractor.get_backend())
        layer = {"resnet18": "avgpool", "vit_s_16": "heads"}[task.model]
        rows: Rows = extractor.extract_features(batches=batches, module_name=layer, flatten_acts=True, output_type="ndarray")
        return rows

    embed(task.warm_up)
    watch.start()
    return embed(task.photos)


def lightly_train(task: Task, watch: Stopwatch) -> Rows:
    """Loads its checkpoint in each call, so the stopwatch is restarted when prediction begins."""
    import torch
    from lightly_train import embed
    from pytorch_lightning import Trainer

    predict = Trainer.predict

    def timed(*arguments: Any, **named: Any) -> Any:
        watch.start()
        return predict(*arguments, **named)

    out = task.photos.parent / "embeddings.pt"
    for folder in (task.warm_up, task.photos):
        with mock.patch.object(Trainer, "predict", timed):
            embed(
                out=out, data=folder, checkpoint=task.made / "checkpoints" / "last.ckpt", format="torch", overwrite=True,
                batch_size=task.batch_size, num_workers=task.workers, image_size=SIZE[task.model],
            )  # fmt: skip
    rows: Rows = torch.load(out, weights_only=True)["embeddings"].numpy()
    return rows


def lightly_checkpoint(model: str, made: Path) -> None:
    import lightly_train
    import numpy as np
    from PIL import Image

    name = {"resnet18": "torchvision/resnet18", "vit_s_16": "timm/vit_small_patch16_224"}[model]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(4):
            noise = np.random.default_rng(number).integers(0, 256, (224, 224, 3), dtype=np.uint8)
            Image.fromarray(noise).save(Path(folder, f"{number}.png"))
        lightly_train.pretrain(out=made, data=folder, model=name, method="simclr", epochs=1, batch_size=4, num_workers=0)


def dataloader(task: Task, watch: Stopwatch) -> Rows:
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    network, prepare_image = build(task.model), transform(task.model)

    class Photos(Dataset[Any]):
        def __init__(self, folder: Path) -> None:
            self.paths = sorted(folder.iterdir())

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> Any:
            return prepare_image(Image.open(self.paths[index]).convert("RGB"))

    @torch.inference_mode()
    def embed(folder: Path) -> Rows:
        batches = DataLoader(Photos(folder), task.batch_size, num_workers=task.workers)
        rows: Rows = torch.cat([network(batch) for batch in batches]).numpy()
        return rows

    embed(task.warm_up)
    watch.start()
    return embed(task.photos)


@dataclass(frozen=True)
class Peer:
    """Functions to embed and to prepare, with batch size and workers: defaults, or the fastest on two cores."""

    embed: Callable[[Task, Stopwatch], Rows]
    models: tuple[str, ...]
    batch_size: int
    workers: int
    prepare: Callable[[str, Path], None] | None = None


PEERS = {
    "fastembed": Peer(fastembed, ("resnet18", "vit_s_16", "shipped"), 16, 2, fastembed_model),
    "thingsvision": Peer(thingsvision, ("resnet18", "vit_s_16"), 32, 0),
    "lightly_train": Peer(lightly_train, ("resnet18", "vit_s_16"), 128, 1, lightly_checkpoint),
    "dataloader": Peer(dataloader, ("resnet18", "vit_s_16", "shipped"), 32, 1),
}


def link(photos: list[Path], count: int, folder: Path) -> Path:
    """A folder of ``count`` links to the photographs, repeated as needed."""
    folder.mkdir()
    for number, photo in enumerate(itertools.islice(itertools.cycle(photos), count)):
        (folder / f"{number:06}.jpg").symlink_to(photo.resolve())
    return folder


def check(rows: Rows, count: int, dim: int) -> None:
    import numpy as np

    if rows.shape != (count, dim) or not np.isfinite(rows).all():
        raise SystemExit(f"embeddings of shape {rows.shape}, finite: {np.isfinite(rows).all()}, not {(count, dim)}")


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    peer = PEERS[name]
    photos = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    count = options.count or len(photos)
    batch_size = options.batch_size or peer.batch_size
    workers = peer.workers if options.workers is None else options.workers
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as scratch:
        warm_up = link(photos, 2 * batch_size, Path(scratch, "warm_up"))
        task = Task(options.model, warm_up, link(photos, count, Path(scratch, "photos")), made(options),
                    batch_size, workers)  # fmt: skip
        rows = peer.embed(task, watch)
        seconds = watch.seconds()
    check(rows, count, DIM[options.model])
    return {
        "peer": name, "model": options.model, "images": count, "seconds": round(seconds, 3),
        "images_per_second": round(count / seconds, 2),
        "batch_size": batch_size, "workers": workers,
    }  # fmt: skip


def made(options: argparse.Namespace) -> Path:
    folder: Path = options.work / f"{options.peer}-{options.model}"
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("model", choices=SIZE)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, help="number of photographs, repeated if there are fewer")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--workers", type=int, help="0: no workers; not supported by thingsvision")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "embed_peers"))
    parser.add_argument("--prepare", action="store_true", help="only prepare files for the library")
    options = parser.parse_args()
    peer = PEERS[options.peer]
    if options.model not in peer.models:
        parser.error(f"{options.peer} cannot embed with {options.model}: it takes {', '.join(peer.models)}")
    if options.prepare:
        if peer.prepare:
            peer.prepare(options.model, made(options))
        return
    if peer.prepare and not made(options).exists():
        subprocess.run([sys.executable, *sys.argv, "--prepare"], check=True, stdout=sys.stderr)
    with contextlib.redirect_stdout(sys.stderr):  # output of the libraries
        result = measure(options.peer, options)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
