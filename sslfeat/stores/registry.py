"""Which stores there are: a URL's scheme says which, and a module of that name knows it.

Such a module has ``ERRORS``, what its client raises, and ``connect(address)``, which gives a ``Store``.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass

from sslfeat.errors import UsageError, needs
from sslfeat.stores.address import Address
from sslfeat.stores.base import StoreInfo
from sslfeat.stores.opened import OpenedStore


@dataclass(frozen=True)
class StoreKind:
    """How the addresses of a kind of store look, and with what they begin if they are of files and not of a server."""

    form: str
    options: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def parse(self, url: str) -> Address:
        """Raises UsageError for a URL that cannot be read."""
        of_files = url.partition("://")[2].startswith(self.files)
        return Address.of_files(url, self.form) if of_files else Address.parse(url, self.form, self.options)


KINDS = {
    "milvus": StoreKind(
        "milvus://USER:PASSWORD@HOST:PORT/COLLECTION, or milvus:///FOLDER/FILE.db/COLLECTION", ("tls",), ("/", ".")
    ),
    "pgvector": StoreKind("pgvector://USER:PASSWORD@HOST:PORT/DATABASE/TABLE", ("host", "sslmode", "sslrootcert")),
    "lancedb": StoreKind("lancedb://FOLDER/TABLE", files=("",)),
    "qdrant": StoreKind("qdrant://:API_KEY@HOST:PORT/COLLECTION", ("tls",)),
}
OTHER_NAMES = {"postgres": "pgvector", "postgresql": "pgvector", "lance": "lancedb"}


def is_store(place: str) -> bool:
    """Whether this is a store's URL. Raises UsageError if it is one but for its spelling."""
    scheme, separator, _ = place.partition("://")
    if not separator or scheme in KINDS:
        return bool(separator)
    if near := _near(scheme):
        raise UsageError(f"{scheme}:// is no vector store: is {near}:// meant?")
    return False


def open_store(url: str, wanted: StoreInfo | None = None) -> OpenedStore:
    """The collection at ``url``; where there is none, it is made to hold what is ``wanted``, if anything.

    Raises UsageError for a URL that cannot be read, MissingExtraError, RetrievalError naming both encoders if it holds
    another's vectors, StoreError.
    """
    if not is_store(url):
        raise UsageError(f"this is no vector store's address: one begins with {', '.join(f'{name}://' for name in KINDS)}")
    scheme = url.partition("://")[0]
    address = KINDS[scheme].parse(url)
    with needs(scheme):
        module = importlib.import_module(f"sslfeat.stores.{scheme}")
    with address.naming(module.ERRORS):
        store = module.connect(address)
    return OpenedStore.open(address, store, module.ERRORS, wanted)


def _near(scheme: str) -> str | None:
    known = OTHER_NAMES.get(scheme.lower())
    return known or next(iter(difflib.get_close_matches(scheme.lower(), KINDS, 1, 0.7)), None)
