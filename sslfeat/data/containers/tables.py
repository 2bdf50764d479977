"""Tables with a column of images: parquet, and Arrow as written by Hugging Face's ``save_to_disk``. Rows are named by number.

They are not loaded as a whole: parquet is read sequentially, some rows at a time, Arrow one record batch at a time.
"""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sslfeat.data.containers.base import Member, absent
from sslfeat.data.containers.columns import Columns, row_name, row_of
from sslfeat.data.containers.files import LocalFile, RandomFile, Stream
from sslfeat.data.transforms import MAX_FILE_BYTES
from sslfeat.errors import ImageError

STEP = 32  # parquet rows per read
KEPT = 128 << 20  # bytes of cached rows, for other threads
DAMAGED = (OSError, pa.ArrowException, MemoryError, ValueError, OverflowError, NotImplementedError)


class ImageTable:
    """Common base: rows are members, in groups whose first rows are ``starts``."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self.columns: Columns | None = None
        self.starts: list[int] = [0]
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.starts[-1]

    def members(self) -> Iterator[Member]:
        """See ``Container``; rows of a group with damaged metadata have none."""
        for group, (start, stop) in enumerate(zip(self.starts[:-1], self.starts[1:], strict=True)):
            try:
                with self._lock:
                    found = [member for batch, first in self._described(group) for member in self._columns.members(batch, first)]
            except DAMAGED as error:
                self.fault = self.fault or f"labels of rows {start} to {stop - 1} cannot be read: {_reason(error)}"
                found = []
            yield from found if len(found) == stop - start else (Member(row_name(row)) for row in range(start, stop))

    def size(self, name: bytes) -> int:
        """0: unknown before the row is read. Raises ImageError if there is no such row."""
        self._row(name)
        return 0

    def read(self, name: bytes) -> bytes:
        """See ``Container``."""
        row = self._row(name)
        with self._lock:
            try:
                value = self._value(row)
            except DAMAGED as error:
                raise ImageError(f"its rows cannot be read: {_reason(error)}") from error
        if value is None:
            raise ImageError("the row contains no image")
        if len(value) > MAX_FILE_BYTES:
            raise ImageError(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
        if not value:
            raise ImageError("the file is empty")
        return value

    def _row(self, name: bytes) -> int:
        row = row_of(name, self.rows)
        if row is None:
            raise absent()
        return row

    def _group_of(self, row: int) -> int:
        return bisect_right(self.starts, row) - 1

    @property
    def _columns(self) -> Columns:
        if self.columns is None:
            raise ImageError("it has no column of images")
        return self.columns

    def _images(self, batch: pa.RecordBatch) -> pa.Array:
        column = batch[self._columns.image]
        return pc.struct_field(column, "bytes") if self._columns.nested else column

    def _described(self, group: int) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Yield the batches of a group without images, with the number of their first row."""
        raise NotImplementedError

    def _value(self, row: int) -> bytes | None:
        raise NotImplementedError


class ParquetContainer(ImageTable):
    """See ``Container``."""

    def __init__(self, file: RandomFile) -> None:
        super().__init__()
        self._recent: deque[tuple[int, pa.Array]] = deque()
        self._reading: Iterator[pa.RecordBatch] = iter(())
        self._group, self._next = -1, 0
        self._broken: dict[int, tuple[int, str]] = {}  # group -> first unreadable row, reason
        try:
            self._file = pq.ParquetFile(pa.PythonFile(Stream(file), mode="r"), page_checksum_verification=True)
            self.columns = Columns.of(self._file.schema_arrow)
            for group in range(self._file.num_row_groups):
                self.starts.append(self.rows + max(0, self._file.metadata.row_group(group).num_rows))
        except DAMAGED as error:
            self.fault, self.starts = f"it cannot be read: {_reason(error)}", [0]
        if self.columns is None:
            self.fault, self.starts = self.fault or "it has no column of images", [0]

    def _described(self, group: int) -> Iterator[tuple[pa.RecordBatch, int]]:
        first, names = self.starts[group], self._columns.described
        for batch in self._file.iter_batches(1024, [group], names) if names else ():
            yield batch, first
            first += batch.num_rows

    def _value(self, row: int) -> bytes | None:
        for start, rows in self._recent:
            if start <= row < start + len(rows):
                value: bytes | None = rows[row - start].as_py()
                return value
        return self._read_on(row)

    def _read_on(self, row: int) -> bytes | None:
        group = self._group_of(row)
        first, reason = self._broken.get(group, (row + 1, ""))
        if row >= first:
            raise ImageError(reason)
        if group != self._group or row < self._next:
            self._group, self._next = group, self.starts[group]
            self._reading = self._file.iter_batches(STEP, [group], [self._columns.contents], use_threads=False)
        try:
            while row >= self._next:
                batch = next(self._reading)
                self._recent.append((self._next, self._images(batch)))
                self._next += batch.num_rows
                while len(self._recent) > 2 and sum(rows.nbytes for _, rows in self._recent) > KEPT:
                    self._recent.popleft()
        except (*DAMAGED, StopIteration) as error:
            self._broken[group] = self._next, f"row group {group} cannot be read from row {self._next} on: {_reason(error)}"
            self._group = -1
            raise ImageError(self._broken[group][1]) from error
        return self._value(row)


class ArrowContainer(ImageTable):
    """See ``Container``. Arrow's stream format, or its file format."""

    def __init__(self, file: RandomFile) -> None:
        super().__init__()
        self._batches: list[int] = []  # offsets in a stream
        self._opened: Any = None  # reader of the file format
        self._recent: OrderedDict[int, pa.Array] = OrderedDict()
        try:
            self._source = _source(file)
            if file.read(0, 6) == b"ARROW1":
                self._opened = pa.ipc.open_file(self._source)
                self._schema = self._opened.schema
                counts: Iterator[int] = (self._opened.get_batch(n).num_rows for n in range(self._opened.num_record_batches))
            else:
                self._schema = pa.ipc.read_schema(pa.ipc.read_message(self._source))
                counts = self._scan(file.facts.size)
            self.columns = Columns.of(self._schema)
            if self.columns is None:
                self.fault = "it has no column of images"
                return
            for count in counts:
                self.starts.append(self.rows + count)
        except (*DAMAGED, EOFError) as error:
            self.fault = f"{'it' if not self.rows else f'data after row {self.rows - 1}'} cannot be read: {_reason(error)}"

    def _scan(self, size: int) -> Iterator[int]:
        """Yield the number of rows of each batch of a stream, and record the offsets."""
        while self._source.tell() < size:
            place = self._source.tell()
            try:
                message = pa.ipc.read_message(self._source)
            except EOFError:  # end-of-stream marker
                return
            if message.type != "record batch":
                raise ValueError(f"unexpected message of type {message.type!r}")
            batch = pa.ipc.read_record_batch(message, self._schema)
            self._batches.append(place)
            yield batch.num_rows
        raise ValueError("it is truncated: the end-of-stream marker is missing")

    def _batch(self, number: int) -> pa.RecordBatch:
        if self._opened is not None:
            batch = self._opened.get_batch(number)
        else:
            self._source.seek(self._batches[number])
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(self._source), self._schema)
        batch.validate(full=True)  # offsets are untrusted
        return batch

    def _described(self, group: int) -> Iterator[tuple[pa.RecordBatch, int]]:
        batch = self._batch(group)
        if self._columns.named:
            own = pc.struct_field(batch[self._columns.image], "path")
            place = batch.schema.get_field_index(self._columns.image)
            batch = batch.set_column(place, self._columns.image, pa.StructArray.from_arrays([own], ["path"]))
        yield batch, self.starts[group]

    def _value(self, row: int) -> bytes | None:
        group = self._group_of(row)
        if group not in self._recent:
            self._recent[group] = self._images(self._batch(group))
            while len(self._recent) > 1 and sum(rows.nbytes for rows in self._recent.values()) > KEPT:
                self._recent.popitem(last=False)
        self._recent.move_to_end(group)
        value: bytes | None = self._recent[group][row - self.starts[group]].as_py()
        return value


def has_images(file: RandomFile) -> bool:
    """Whether a parquet file has a column of images, or is unreadable (reported when it is read)."""
    with contextlib.suppress(*DAMAGED):
        return Columns.of(pq.read_schema(pa.PythonFile(Stream(file), mode="r"))) is not None
    return True


def plain_rows(file: RandomFile) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file without images. Raises ImageError if it cannot be read."""
    try:
        with pq.ParquetFile(pa.PythonFile(Stream(file), mode="r")) as opened:
            for batch in opened.iter_batches(1024):
                yield from batch.to_pylist()
    except DAMAGED as error:
        raise ImageError(f"it cannot be read: {_reason(error)}") from error


def _source(file: RandomFile) -> Any:
    """Open the file for Arrow, memory-mapped if possible."""
    if isinstance(file, LocalFile) and file.facts.size:
        return pa.memory_map(file.path.decode("utf-8", "surrogateescape"))
    return pa.PythonFile(Stream(file), mode="r")


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
