"""Where a collection of vectors is: ``SCHEME://USER:PASSWORD@HOST:PORT/DATABASE/COLLECTION``, or a path in place of the host.

A password is in no text that is made of an address, and is taken out of what a store's client says.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote

from sslfeat.errors import StoreError, UsageError

PASSWORD = "SSLFEAT_STORE_PASSWORD"  # the environment's: command lines are seen by everybody on the machine
AUTHORITY = re.compile(r"(?:(?P<user>[^:@]*)(?::(?P<password>[^:@]*))?@)?(?P<host>\[[^\]]+\]|[^:@\[\]]*)(?::(?P<port>\d{1,5}))?")
MEMORY = ":memory:"  # a host of its own: nothing outside the process
RESERVED = ": @ / ? # %"


@dataclass(frozen=True)
class Address:
    """A ``collection`` at a ``host``, or in the files of ``folder``; ``port`` 0: the store's own."""

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
        """The address of a store at a host.

        Raises UsageError, which does not repeat the URL: it may hold a password. ``form`` is what it shows in its place.
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
                f"the {scheme} address cannot be read: its form is {form}, where each of {RESERVED} within a user or "
                "password is percent-encoded (@ is %40)"
            )
        given = dict(parse_qsl(query, keep_blank_values=True))
        if set(given) - set(options):
            raise UsageError(f"the {scheme} address has an option after ? that is not one of {', '.join(options)}")
        port = int(parsed["port"] or 0)
        if port > 65535:
            raise UsageError(f"the {scheme} address has port {port}: ports go up to 65535")
        password = unquote(parsed["password"] or "") or os.environ.get(PASSWORD, "")
        names = [unquote(text or "") for text in (collection, parsed["host"], database, parsed["user"])]
        return cls(scheme, names[0], "", names[1].strip("[]"), port, names[2], names[3], password, given)

    @classmethod
    def of_files(cls, url: str, form: str) -> Address:
        """The address of a store that is files: ``SCHEME://FOLDER/COLLECTION``, as written. Raises UsageError."""
        scheme, _, rest = url.partition("://")
        folder, _, collection = rest.rpartition("/")
        if not folder or not collection:
            raise UsageError(f"{url!r} names no collection: the form is {form}")
        return cls(scheme, collection, folder)

    @property
    def tls(self) -> bool | None:
        """Whether the connection is to be encrypted, ``?tls=1`` or ``?tls=0``; None: not said."""
        return self.options["tls"] not in ("0", "false", "no", "off") if "tls" in self.options else None

    def __str__(self) -> str:
        """The address without password and options."""
        if self.folder:
            return f"{self.scheme}://{self.folder}/{self.collection}"
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        place = "/".join(filter(None, (f"{user}{self.host}{port}", self.database)))
        return f"{self.scheme}://{place}/{self.collection}"

    @contextlib.contextmanager
    def naming(self, errors: tuple[type[Exception], ...]) -> Iterator[None]:
        """Around calls of the store's client: its ``errors`` become a StoreError of one line, without the password."""
        try:
            yield
        except errors as cause:
            said = getattr(cause, "message", None) or str(cause) or type(cause).__name__
            text = " ".join(str(said).split())
            # a traceback shows what the client said as it said it
            raise StoreError(f"{self}: {self._without_password(text)}") from (None if self.password else cause)

    def _without_password(self, text: str) -> str:
        for secret in {self.password, quote(self.password, safe="")} - {""}:
            text = text.replace(secret, "***")
        return text
