"""``sslfeat adopt``: a foreign ONNX encoder becomes a first-class citizen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sslfeat.cli.console import check_new, say, say_json
from sslfeat.errors import InputError, UsageError

JUDGES = 64
IMAGENET = ("0.485,0.456,0.406", "0.229,0.224,0.225")


def adopt(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="an encoder by timm, DINO, CLIP, a peer, ...")],
    out: Annotated[Path, typer.Option(help="encoder file to write")] = Path("adopted.onnx"),
    config: Annotated[Path | None, typer.Option(help="its preprocessor_config.json, instead of the options below")] = None,
    size: Annotated[int | None, typer.Option(help="side of the images it takes, px")] = None,
    resize: Annotated[int | None, typer.Option(help="shorter side before the crop, px; default: --size")] = None,
    filter_: Annotated[str, typer.Option("--filter", help="bicubic, bilinear, lanczos or box")] = "bicubic",
    mean: Annotated[str, typer.Option(help="of the channels, values 0 to 1; default: ImageNet's")] = IMAGENET[0],
    std: Annotated[str, typer.Option(help="as --mean")] = IMAGENET[1],
    pool: Annotated[str, typer.Option(help="of tokens: cls or mean; none: the output is an embedding")] = "none",
    output: Annotated[str | None, typer.Option(help="which output, if it has several")] = None,
    images: Annotated[list[str] | None, typer.Option(help="images to verify with; default: drawn ones")] = None,
    name: Annotated[str | None, typer.Option(help="on the card; default: the file's")] = None,
    license: Annotated[str, typer.Option(help="of the weights, on the card")] = "not stated",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace --out")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Give a foreign ONNX encoder a card and sslfeat's contract; what it says of images is checked against the model itself."""
    from sslfeat.data.sampling import decode_all
    from sslfeat.data.transforms import Preprocess
    from sslfeat.export.adopt.external_data import read_whole
    from sslfeat.export.adopt.foreign_model import AdoptRequest, read_preprocessor
    from sslfeat.export.adopt.subprocess import adopt_apart
    from sslfeat.export.images import images_to_check
    from sslfeat.numerics.sampling import evenly
    from sslfeat.storage import atomic

    check_new(overwrite, out)
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} does not exist")
    fed: dict[str, Any]
    if config is not None:
        fed = read_preprocessor(config)
    elif size is None:
        raise UsageError("how is it fed? Give --size (and --mean, --std), or its preprocessor_config.json with --config")
    else:
        fed = {"preprocess": Preprocess(resize or size, size, filter_), "mean": _three(mean), "std": _three(std)}
    request = AdoptRequest(**fed, pool=pool, output=output, name=name or out.stem, license=license)
    data = read_whole(model)
    with images_to_check(images or (), ()) as (sources, image_source):
        some = [sources[number] for number in evenly(len(sources), JUDGES)]
        pixels, fine = decode_all(some, request.preprocess)
        file = adopt_apart(data, request, pixels[fine], image_source)
    atomic.write_atomic(out, file.data)
    parity = file.card.parity
    if as_json:
        figures = {"images": parity.images, "max_abs_diff": parity.max_abs_diff, "min_cosine": parity.min_cosine}
        say_json({"out": str(out), "bytes": len(file.data), "dim": file.card.dim, "fingerprint": file.fingerprint, **figures})
        return
    say(f"{out}: {len(file.data) / 1e6:.1f} MB, {file.card.dim}-d, {file.card.preprocess.size} px, {file.fingerprint}")
    say(f"beside {model}: {parity.images} images, max abs diff {parity.max_abs_diff:.3g} of {parity.scale:.3g}, cosine "
        f"{parity.min_cosine:.7f}")  # fmt: skip


def _three(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{text!r} is not three numbers, such as 0.5,0.5,0.5") from error
