"""``sslfeat adopt``: convert a third-party ONNX encoder to an encoder file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sslfeat.cli.console import check_folders, check_new, note, say, say_json, working
from sslfeat.cli.options import CardName, Json, License, Overwrite
from sslfeat.errors import UsageError
from sslfeat.system.plurals import counted

Filter = Literal["bicubic", "bilinear", "lanczos", "box"]
Pool = Literal["none", "cls", "mean"]
Crop = Literal["center", "squash", "border"]
JUDGES = 64


def adopt(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="ONNX model of timm, DINO, CLIP or another library")],
    out: Annotated[Path | None, typer.Option(help="output: encoder file; default: NAME-adopted.onnx")] = None,
    preprocessor: Annotated[
        Path | None, typer.Option(help="preprocessor_config.json, or config.json of timm, instead of the options below")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="side of the images, px; default: that of the model, if fixed")] = None,
    resize: Annotated[int | None, typer.Option(help="shorter side before the crop, px; default: --image-size")] = None,
    filter_: Annotated[Filter, typer.Option("--filter", help="resampling filter")] = "bicubic",
    crop: Annotated[Crop, typer.Option(help="how to make images square; squash: stretch; border: pad")] = "center",
    mean: Annotated[str | None, typer.Option(help="mean per channel (0 to 1), as R,G,B; default: that of ImageNet")] = None,
    std: Annotated[str | None, typer.Option(help="standard deviation per channel, as R,G,B; default: that of ImageNet")] = None,
    pool: Annotated[Pool, typer.Option(help="pooling of tokens; none: the output is an embedding")] = "none",
    output: Annotated[str | None, typer.Option(help="name of the output to use; default: the only suitable one")] = None,
    images: Annotated[
        list[str] | None, typer.Option(help="images: for verification; default: generated images; repeatable")
    ] = None,
    name: CardName = None,
    license: License = "not stated",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Convert a third-party ONNX encoder to an encoder file with preprocessing and model card, and compare both on images."""
    from sslfeat.data.sampling import decode_all
    from sslfeat.export.adopt.external_data import read_whole
    from sslfeat.export.adopt.foreign_model import AdoptRequest, chosen_output, side_of
    from sslfeat.export.adopt.preprocessor_config import read_config
    from sslfeat.export.adopt.remarks import alike, remarks
    from sslfeat.export.adopt.subprocess import adopt_in_subprocess
    from sslfeat.export.images import images_to_check
    from sslfeat.numerics.sampling import evenly
    from sslfeat.storage import atomic

    out = out or Path(f"{model.stem}-adopted.onnx")
    check_new(overwrite, out)
    check_folders(out)
    if preprocessor is not None and any((image_size, resize, mean, std)):
        raise UsageError("--preprocessor defines the preprocessing: omit --image-size, --resize, --mean and --std")
    data = read_whole(model)
    if preprocessor is not None:
        fed = read_config(preprocessor)
    else:
        side = side_of(data, output, pool) if image_size is None else image_size
        fed = _fed(side, resize, filter_, crop, mean, std)
    choice = chosen_output(data, output, pool)
    request = AdoptRequest(**fed, pool=pool, output=output, name=name or out.stem, license=license)
    with images_to_check(images or (), ()) as (sources, image_source):
        some = [sources[number] for number in evenly(len(sources), JUDGES)]
        pixels, fine = decode_all(some, request.preprocess)
        with working(f"comparing {model} with the new encoder file"):
            file = adopt_in_subprocess(data, request, pixels[fine], image_source)
    atomic.write_atomic(out, file.data)
    assumed = [name for name, given in (("mean", mean), ("std", std)) if preprocessor is None and given is None]
    parity, notes = file.card.parity, [*filter(None, [choice, alike(file, pixels[fine])]), *remarks(file, request, assumed)]
    if as_json:
        figures = {"max_abs_diff": parity.max_abs_diff, "min_cosine": parity.min_cosine}
        facts = {"out": str(out), "bytes": len(file.data), "dim": file.card.dim, **figures}
        facts |= {"preprocess": file.card.preprocess.fields(), "remarks": notes}
        say_json("adopt", facts, file.identity, parity.images)
        return
    say(f"{out}: {len(file.data) / 1e6:.1f} MB, {file.card.dim}-d, {file.card.preprocess.size} px, {file.fingerprint}")
    say(f"compared with {model}, {counted(parity.images, 'image')}: max diff {parity.max_abs_diff:.3g} of {parity.scale:.3g}, "
        f"cosine {parity.min_cosine:.7f}")  # fmt: skip
    for text in notes:
        note(text)


def _fed(
    image_size: int | None, resize: int | None, filter_: str, crop: str, mean: str | None, std: str | None
) -> dict[str, Any]:
    """Fields of an AdoptRequest from the options. Raises UsageError without image size."""
    from sslfeat.data.transforms import Preprocess
    from sslfeat.export.adopt.foreign_model import AdoptRequest
    from sslfeat.export.adopt.preprocessor_config import border_color

    if image_size is None:
        raise UsageError(
            "the model accepts images of any size: the size must be set",
            "give --image-size (and --mean, --std), or its preprocessor_config.json with --preprocessor",
        )
    center = _three(mean) if mean else AdoptRequest.mean
    deviation = _three(std) if std else AdoptRequest.std
    preprocess = Preprocess(resize or image_size, image_size, filter_, crop=crop, fill=border_color(crop, center))
    return {"mean": center, "std": deviation, "preprocess": preprocess}


def _three(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{text!r} is not three numbers, such as 0.5,0.5,0.5") from error
