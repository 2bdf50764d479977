"""How shares that know nothing of each other begin one features folder on an object store, which has no locks.

``inputs.arrow`` and ``features.json`` are created exclusively, in this order. Whoever comes later takes what is there for
its own, and is refused then if it is of another run. So no moment to die in keeps others from going on.
"""

from __future__ import annotations

from dataclasses import replace

from sslfeat.data.manifest import Manifest
from sslfeat.errors import FeaturesError, RemoteError
from sslfeat.features.files import ENCODERS, INPUTS_NAME
from sslfeat.features.formats import OWN_NAME
from sslfeat.features.metadata import META_FOLDER, RUN_NAME, Inputs, read_run
from sslfeat.storage import atomic
from sslfeat.storage.mirror import Mirror, rank
from sslfeat.storage.remote import RemoteObject


def is_about(name: str) -> bool:
    """Whether this is all but the rows: what a run that is gone on with needs."""
    return name.startswith(f"{META_FOLDER}/")


def agreed(mirror: Mirror) -> bool:
    """Begin the folder there as it is here, or make it here as it was begun there.

    False: it is not begun, and its inputs are listed there otherwise; that list is here now, to be compared. Raises FeaturesError
    if there are parts of a folder that was withdrawn.
    """
    remote, run, inputs = mirror.remote, mirror.folder / RUN_NAME, mirror.folder / INPUTS_NAME
    begun = remote.object(RUN_NAME)
    if begun is None:
        _refuse_leftovers(mirror)
        listed = _created(mirror, INPUTS_NAME)
        if not remote.is_same(INPUTS_NAME, listed, inputs):
            mirror.fetch({INPUTS_NAME: listed})
            manifest = Manifest.load(inputs.parent, atomic.sha256_file(inputs))
            atomic.write_atomic(run, replace(read_run(mirror.folder), inputs=Inputs.of(manifest)).to_json())
            return False
        mirror.push(name for name in ENCODERS if (mirror.folder / name).exists())
        begun = _created(mirror, RUN_NAME)
    if not remote.is_same(RUN_NAME, begun, run):
        mirror.remove(mirror.names())
        mirror.fetch({name: known for name, known in mirror.there().items() if is_about(name)})
    return True


def _created(mirror: Mirror, name: str) -> RemoteObject:
    """The object of this name: there was one, or it is made of the file."""
    found = mirror.remote.object(name)
    if found is None:
        mirror.remote.create(name, (mirror.folder / name).read_bytes())
        found = mirror.remote.object(name)
    if found is None:
        raise RemoteError(f"{mirror.remote.url}/{name} was deleted as soon as it was written: who else uses this place?")
    return found


def _refuse_leftovers(mirror: Mirror) -> None:
    """No part is uploaded before ``features.json``: those that are there without it are of a folder that was withdrawn."""
    parts = [name for name in mirror.there() if OWN_NAME.fullmatch(name) or rank(name) == 1]
    if parts and mirror.remote.object(RUN_NAME) is None:
        raise FeaturesError(
            f"{mirror.remote.url} holds parts of an update, or of an --overwrite, that was cut off: give that command again, "
            "or 'sslfeat embed' without --parts, which begins anew"
        )
