"""Addresses of collections: ``SCHEME://USER:PASSWORD@HOST:PORT/DATABASE/COLLECTION``, or a path instead of the host.

Passwords do not appear in the text of an address, and are removed from messages of store clients.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote

from sslfeat.errors import StoreError, UsageError

PASSWORD = "SSLFEAT_STORE_PASSWORD"  # environment variable, since command lines are visible to all users
AUTHORITY = re.compile(r"(?:(?P<user>[^:@]*)(?::(?P<password>[^:@]*))?@)?(?P<host>\[[^\]]+\]|[^:@\[\]]*)(?::(?P<port>\d{1,5}))?")
MEMORY = ":memory:"  # host that stands for the memory of the process
RESERVED = ": @ / ? # %"


@dataclass(frozen=True)
class Address:
    """A ``collection`` at a ``host``, or in the files of ``folder``; ``port`` 0: default of the store."""

    scheme: str
    collection: str
    folder: str = ""
    host: str = ""
    port: int = 0
    database: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str, form: str, options: tuple[str, ...] = ()) -> Address:
        """Address of a server.

        Raises UsageError, which shows ``form`` instead of the URL, since that may contain a password.
        """
        scheme, _, rest = url.partition("://")
        rest, _, query = rest.partition("?")
        place, _, collection = rest.rpartition("/")
        authority, _, database = place.partition("/")
        if authority == MEMORY:
            return cls(scheme, collection, host=MEMORY, database=database)
        parsed = AUTHORITY.fullmatch(authority)
        if not parsed or not collection or re.search("[:@/]", database + collection):
            raise UsageError(
                f"invalid {scheme} address: the form is {form}, where each of {RESERVED} within a user or "
                "password is percent-encoded (@ is %40)"
            )
        given = dict(parse_qsl(query, keep_blank_values=True))
        if set(given) - set(options):
            raise UsageError(f"the {scheme} address has an option after ? that is not one of {', '.join(options)}")
        port = int(parsed["port"] or 0)
        if port > 65535:
            raise UsageError(f"the {scheme} address has port {port}: the maximum is 65535")
        password = unquote(parsed["password"] or "") or os.environ.get(PASSWORD, "")
        names = [unquote(text or "") for text in (collection, parsed["host"], database, parsed["user"])]
        return cls(scheme, names[0], "", names[1].strip("[]"), port, names[2], names[3], password, given)

    @classmethod
    def of_files(cls, url: str, form: str) -> Address:
        """Address of a store in files, ``SCHEME://FOLDER/COLLECTION``. Raises UsageError."""
        scheme, _, rest = url.partition("://")
        folder, _, collection = rest.rpartition("/")
        if not folder or not collection:
            raise UsageError(f"{url!r} does not name a collection: the form is {form}")
        return cls(scheme, collection, folder)

    @property
    def tls(self) -> bool | None:
        """Whether to encrypt the connection, ``?tls=1`` or ``?tls=0``; None: not specified."""
        return self.options["tls"] not in ("0", "false", "no", "off") if "tls" in self.options else None

    def __str__(self) -> str:
        """Address without password and options."""
        if self.folder:
            return f"{self.scheme}://{self.folder}/{self.collection}"
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        place = "/".join(filter(None, (f"{user}{self.host}{port}", self.database)))
        return f"{self.scheme}://{place}/{self.collection}"

    @contextlib.contextmanager
    def naming(self, errors: tuple[type[Exception], ...]) -> Iterator[None]:
        """Convert ``errors`` of the store's client to a one-line StoreError without the password."""
        try:
            yield
        except errors as cause:
            said = getattr(cause, "message", None) or str(cause) or type(cause).__name__
            text = " ".join(str(said).split())
            # a traceback would show the original message
            raise StoreError(f"{self}: {self._without_password(text)}") from (None if self.password else cause)

    def _without_password(self, text: str) -> str:
        for secret in {self.password, quote(self.password, safe="")} - {""}:
            text = text.replace(secret, "***")
        return text
