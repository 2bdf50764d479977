"""Registry of stores: the scheme of a URL selects the module of that name.

A module defines ``ERRORS``, exceptions of the client, and ``connect(address)``, which returns a ``Store``.
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
    """Address format of a kind of store, and prefixes of addresses of files."""

    form: str
    options: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def parse(self, url: str) -> Address:
        """Parse a URL. Raises UsageError."""
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
    """Whether this is the URL of a store. Raises UsageError for a misspelled scheme."""
    scheme, separator, _ = place.partition("://")
    if not separator or scheme in KINDS:
        return bool(separator)
    if near := _near(scheme):
        raise UsageError(f"{scheme}:// is not a vector store: did you mean {near}://?")
    return False


def open_store(url: str, wanted: StoreInfo | None = None) -> OpenedStore:
    """Open the collection at ``url``; if missing, create it for ``wanted``, if given.

    Raises UsageError for an invalid URL, MissingExtraError, RetrievalError if it contains features of
    another encoder, StoreError.
    """
    if not is_store(url):
        raise UsageError(f"not the address of a vector store: it must begin with {', '.join(f'{name}://' for name in KINDS)}")
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
