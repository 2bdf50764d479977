"""An opened collection: verified metadata, and client errors without passwords."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sslfeat.errors import StoreError
from sslfeat.features import formats
from sslfeat.retrieval.query_encoder import check_encoder
from sslfeat.storage.records import build_record, parse_json
from sslfeat.stores.address import Address
from sslfeat.stores.base import Store, StoreInfo

T = TypeVar("T")


class OpenedStore:
    """An opened collection with metadata ``info``. Close it, or use it in a ``with`` statement."""

    def __init__(self, address: Address, store: Store, errors: tuple[type[Exception], ...], info: StoreInfo) -> None:
        """Use ``registry.open_store``."""
        self.address, self.info = address, info
        self.columns = (*formats.COLUMNS, *info.fields)  # fields for conditions
        self.most_rows, self.deepest = store.most_rows, store.deepest
        self._store, self._errors = store, errors

    @classmethod
    def open(cls, address: Address, store: Store, errors: tuple[type[Exception], ...], wanted: StoreInfo | None) -> OpenedStore:
        """See ``registry.open_store``. The store is closed on errors."""
        try:
            with address.naming(errors):
                text = store.description()
                if text is None and wanted is not None:
                    store.create(wanted)
                    text = store.description()
            info = _read(text, address)
            if wanted is not None:
                _check(wanted, info, address)
            with address.naming(errors):
                store.open(info)
            return cls(address, store, errors, info)
        except BaseException:
            store.close()
            raise

    def ask(self, work: Callable[[Store], T]) -> T:
        """Result of ``work`` on the store. Raises StoreError for errors of the client."""
        with self.address.naming(self._errors):
            return work(self._store)

    def ids(self) -> Iterator[list[str]]:
        """See ``Store.ids``. Raises StoreError."""
        with self.address.naming(self._errors):
            yield from self._store.ids()

    def __enter__(self) -> OpenedStore:
        return self

    def __exit__(self, *raised: object) -> None:
        self._store.close()


def _read(text: str | None, address: Address) -> StoreInfo:
    if text is None:
        raise StoreError(f"{address} does not exist: create it with 'sslfeat push FEATURES --to URL'")
    foreign = f"{address} was not created by 'sslfeat push': choose another name"
    if not text:
        raise StoreError(foreign)
    value: Any = parse_json(text, str(address), StoreError)
    if not isinstance(value, dict) or "sslfeat" not in value:
        raise StoreError(foreign)
    return build_record(StoreInfo, value["sslfeat"], str(address), StoreError)


def _check(wanted: StoreInfo, found: StoreInfo, address: Address) -> None:
    check_encoder(found.encoder, wanted.encoder, "the encoder of these features", str(address))
    if wanted.dim != found.dim:
        raise StoreError(f"{address} has dimension {found.dim}, but these vectors have {wanted.dim}")
    if extra := sorted(set(wanted.fields) - set(found.fields)):
        known = f"only {', '.join(found.fields)}" if found.fields else "none"
        raise StoreError(
            f"{address} has no metadata field {extra[0]!r}, {known} (fields are fixed by the first push): choose another name"
        )
