"""``sslfeat export``: a training run becomes a verified encoder file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sslfeat.cli.console import say, say_json
from sslfeat.cli.exits import needs
from sslfeat.errors import InputError


def export(
    run: Annotated[Path | None, typer.Argument(help="run folder of 'sslfeat train'")] = None,
    out: Annotated[Path, typer.Option(help="encoder file to write")] = Path("encoder.onnx"),
    random_init: Annotated[
        str | None, typer.Option(help="instead of a run: an untrained BACKBONE, the baseline")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="take the features here, e.g. layer3; default: the last")] = None,
    image_size: Annotated[int | None, typer.Option(help="px, with --random-init")] = None,
    seed: Annotated[int, typer.Option(help="with --random-init")] = 0,
    images: Annotated[
        list[str] | None, typer.Option(help="pictures for the parity check; default: the run's own")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name on the card; default: the file's")] = None,
    data_name: Annotated[str | None, typer.Option(help="name of the training data on the card")] = None,
    data_licence: Annotated[str, typer.Option(help="licence of the training data on the card")] = "not stated",
    licence: Annotated[str, typer.Option(help="licence of the weights on the card")] = "not stated",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace --out")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the parity figures as JSON")] = False,
) -> None:
    """Export an encoder to ONNX; the file is written only if onnxruntime gives torch's features."""
    if (run is None) == (random_init is None):
        raise InputError("give a run folder, or --random-init BACKBONE, not both or neither")
    if random_init is not None and image_size is None:
        raise InputError("--random-init needs --image-size")
    with needs("export"):
        import onnxscript  # noqa: F401 - torch imports it only halfway through an export

        from sslfeat.export.run import Labels, export_random, export_run
    if random_init is not None and image_size is not None:
        file = export_random(random_init, image_size, seed, out, images or (), overwrite)
    elif run is not None:
        file = export_run(run, out, Labels(name, data_name, data_licence, licence), images or (), overwrite, layer)
    parity = file.card.parity
    figures = {"images": parity.images, "max_abs_diff": parity.max_abs_diff, "scale": parity.scale}
    figures |= {"min_cosine": parity.min_cosine, "neighbour_overlap": parity.neighbour_overlap}
    if as_json:
        say_json({"out": str(out), "bytes": len(file.data), "fingerprint": file.fingerprint, **figures})
        return
    say(f"{out}: {len(file.data) / 1e6:.1f} MB, {file.card.dim}-d, {file.card.preprocess.size} px, {file.fingerprint}")
    say("parity with torch: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
