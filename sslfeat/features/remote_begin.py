"""Creation of one features folder on an object store by independent shares, without locks.

``inputs.arrow`` and ``features.json`` are created exclusively, in this order. Later shares adopt the existing files, and
are rejected if these belong to another run. A process killed at any point therefore does not block the others.
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
    """Whether this is a metadata file, needed to continue a run (everything except rows)."""
    return name.startswith(f"{META_FOLDER}/")


def agreed(mirror: Mirror) -> bool:
    """Create the folder on the store, or adopt its existing ``features.json`` and inputs.

    Returns False if the store has another list of inputs and no ``features.json``; the list was fetched for comparison. Raises
    FeaturesError if there are parts of a withdrawn folder.
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
    """Return the object of this name, created from the local file if missing."""
    found = mirror.remote.object(name)
    if found is None:
        mirror.remote.create(name, (mirror.folder / name).read_bytes())
        found = mirror.remote.object(name)
    if found is None:
        raise RemoteError(
            f"{mirror.remote.url}/{name} was deleted right after it was written: does another program use this location?"
        )
    return found


def _refuse_leftovers(mirror: Mirror) -> None:
    """Raise FeaturesError for parts without ``features.json``, which is uploaded first: they belong to a withdrawn folder."""
    parts = [name for name in mirror.there() if OWN_NAME.fullmatch(name) or rank(name) == 1]
    if parts and mirror.remote.object(RUN_NAME) is None:
        raise FeaturesError(
            f"{mirror.remote.url} contains parts of an interrupted update or --overwrite: run that command again, "
            "or 'sslfeat embed' without --parts to start over"
        )
