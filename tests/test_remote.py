"""Remote folders: what is tried again, what a name may be, who may write, and what is fetched."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sslfeat.errors import InputError, RemoteError, UsageError
from sslfeat.storage import cache, claim, remote, retry
from sslfeat.storage.claim import Claim, ClaimRecord
from sslfeat.storage.mirror import LEDGER, localize, name_of
from sslfeat.storage.remote import RemoteFolder
from sslfeat.storage.staging import staged
from sslfeat.storage.urls import is_remote
from tests.conftest import contents
from tests.remotes import Killed, Memory, memory

__all__ = ["memory"]
URL = "memory://place/folder"


@pytest.mark.parametrize(
    ("text", "remote"), [("s3://b/x", True), ("memory://x", True), ("C://x", False), ("a/b", False), ("s3:/b", False)]
)
def test_what_is_remote(text: str, remote: bool) -> None:
    assert is_remote(text) is remote


def test_what_passes_is_tried_again_and_what_does_not_is_not(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RemoteFolder(URL)
    memory.failures = [ConnectionError("away"), TimeoutError("away")]
    folder.put("a", b"1")
    assert folder.get("a") == b"1"
    memory.failures = [PermissionError("not yours")]
    before = memory.operations
    with pytest.raises(RemoteError, match=r"reading memory://place/folder/a: PermissionError: not yours"):
        folder.get("a")
    assert memory.operations == before + 1
    monkeypatch.setenv(retry.RETRY_VARIABLE, "0.3")
    memory.failures = [ConnectionError("away")] * 100
    with pytest.raises(RemoteError, match=r"no success within 0.3 s \(ConnectionError: away\).*SSLFEAT_RETRY_SECONDS"):
        folder.get("a")
    monkeypatch.setenv(retry.RETRY_VARIABLE, "soon")
    memory.failures = [ConnectionError("away")]
    with pytest.raises(UsageError, match="SSLFEAT_RETRY_SECONDS is 'soon'"):
        folder.get("a")


def test_an_upload_that_arrives_otherwise_is_noticed(memory: Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abcdef")
    real = MemoryFileSystem.put_file
    damaged: list[str] = []

    def damage(self: MemoryFileSystem, path: str, key: str) -> None:
        real(self, path, key)
        if not damaged:
            damaged.append(key)
            self.store[key].seek(0)
            self.store[key].write(b"X")

    monkeypatch.setattr(MemoryFileSystem, "put_file", damage)
    RemoteFolder(URL).put_file("file", tmp_path / "file")
    assert damaged and memory.contents(URL) == {"file": b"abcdef"}


def test_a_name_that_leads_out_is_refused(memory: Memory) -> None:
    MemoryFileSystem().pipe_file("/place/folder/../../etc", b"")
    MemoryFileSystem.store["/place/folder/a/../../../x"] = MemoryFileSystem.store.popitem()[1]
    with pytest.raises(RemoteError, match="not a valid file name"):
        RemoteFolder(URL).list()


def test_places_that_cannot_be(memory: Memory) -> None:
    with pytest.raises(InputError, match="cannot be accessed"):
        RemoteFolder("nothing-of-the-kind://x")
    with pytest.raises(RemoteError, match="does not exist or is empty"):
        localize("memory://nowhere/at-all")


def test_a_cut_off_download_goes_on_where_it_was(memory: Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote, "BLOCK", 4)
    folder, data = RemoteFolder(URL), bytes(range(10))
    known = folder.put("a", data)
    memory.live(kill_at=3)
    with pytest.raises(Killed):
        folder.fetch("a", tmp_path / "a", known)
    assert not (tmp_path / "a").exists()
    memory.live()
    folder.fetch("a", tmp_path / "a", known)
    assert memory.operations == 2  # a block, and what the object is by now
    assert (tmp_path / "a").read_bytes() == data
    folder.put("a", data[::-1])
    with pytest.raises(RemoteError, match="was modified while it was read"):
        folder.fetch("a", tmp_path / "a", known)


def test_of_eight_writers_one_wins_and_the_others_name_it(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "BEAT", 0.05)
    won, refused, leave = [], [], threading.Event()

    def write(number: int) -> None:
        try:
            with Claim(RemoteFolder(URL), f"machine {number}").held() as held:
                won.append(number)
                leave.wait(10)
                held.check()
        except RemoteError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while len(refused) < 7 and any(thread.is_alive() for thread in threads):
        time.sleep(0.01)
    leave.set()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(refused) == 7 and all("is being written by process" in text for text in refused)
    with Claim(RemoteFolder(URL), "later").held():  # it was given up
        pass


def test_a_dead_writers_claim_is_taken_over_and_it_notices(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "BEAT", 0.02)
    folder = RemoteFolder(URL)
    dead = Claim(folder, "gone")
    dead._take()  # and never beats
    with Claim(folder, "next").held() as held:
        held.check()
        with pytest.raises(RemoteError, match="another writer took over"):
            dead.check()
    monkeypatch.setattr(claim, "BEAT", 1000.0)  # nobody could wait for that
    again = Claim(folder, "next")
    again._take()
    with Claim(folder, "next").held():  # the same machine, whose lock is ours: that one died
        pass


def test_a_share_has_a_claim_of_its_own(memory: Memory) -> None:
    with Claim(RemoteFolder(URL), "a", "1-of-2").held(), Claim(RemoteFolder(URL), "b", "2-of-2").held():
        assert len([name for name in RemoteFolder(URL).list() if claim.is_claim(name)]) == 2


def test_a_claim_that_lies_is_named(memory: Memory) -> None:
    MemoryFileSystem().pipe_file(f"/place/folder/{claim.FOLDER}/claim-00001.json", b"[]")
    with (
        pytest.raises(RemoteError, match=r"claim-00001.json is a list of 0, not an object"),
        Claim(RemoteFolder(URL), "a").held(),
    ):
        pass
    assert {field.name for field in dataclasses.fields(ClaimRecord)} >= {"token", "host", "process"}


def test_what_is_somebody_elses_is_not_written_to(memory: Memory) -> None:
    RemoteFolder(URL).put("holiday.jpg", b"")
    with pytest.raises(RemoteError, match="contains other files"), staged(URL, "work"):
        pass
    assert memory.contents(URL) == {"holiday.jpg": b""}


def test_a_second_look_fetches_what_changed(memory: Memory) -> None:
    folder = RemoteFolder(URL)
    for name in ("a", "b/c"):
        folder.put(name, name.encode())
    copy = localize(URL)
    assert contents(copy) == {"a": b"a", "b/c": b"b/c"}
    assert copy.name == "folder" and name_of(copy / "b") == f"{URL}/b"
    folder.put("a", b"new")
    folder.delete(["b/c"])
    memory.live()
    assert contents(localize(URL)) == {"a": b"new"}
    fetched = memory.operations
    memory.live()
    localize(URL)
    assert memory.operations == fetched - 2  # without reading an object, and looking at it again
    (copy / "a").write_bytes(b"altered")
    assert contents(localize(URL)) == {"a": b"new"}


def test_a_url_that_ends_in_dots_leads_nowhere_else(memory: Memory) -> None:
    MemoryFileSystem().pipe_file("/place/../a", b"a")
    assert localize("memory://place/..").parent.parent == cache.root() / cache.READING


def test_a_damaged_ledger_costs_a_comparison(memory: Memory) -> None:
    RemoteFolder(URL).put("a", b"a")
    copy = localize(URL)
    (copy.parent / LEDGER).write_bytes(b"{")
    assert contents(localize(URL)) == {"a": b"a"}


def test_offline_only_the_cache_is_used(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    RemoteFolder(URL).put("a", b"a")
    monkeypatch.setenv(cache.OFFLINE, "1")
    with pytest.raises(RemoteError, match="is not in the cache, and SSLFEAT_OFFLINE is set"):
        localize(URL)
    monkeypatch.setenv(cache.OFFLINE, "0")
    localize(URL)
    monkeypatch.setenv(cache.OFFLINE, "1")
    memory.live(kill_at=1)
    assert contents(localize(URL)) == {"a": b"a"}


def test_the_cache_is_bounded(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [f"memory://place/{number}" for number in range(3)]
    for url in urls:
        RemoteFolder(url).put("a", bytes(1000))
    monkeypatch.setattr(cache, "IN_USE", -1.0)
    monkeypatch.setenv(cache.LIMIT, str(2500 / (1 << 30)))
    copies = []
    for url in urls:
        copies.append(localize(url))
        time.sleep(0.02)
    assert [copy.exists() for copy in copies] == [False, True, True]
    monkeypatch.setenv(cache.LIMIT, "much")
    with pytest.raises(UsageError, match="SSLFEAT_CACHE_GIB is 'much'"):
        localize(urls[0])
