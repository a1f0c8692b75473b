import errno
import hashlib
import os

import pytest

from device_agent.errors import RequestError
from device_agent.updates.digest import RunningDigests
from device_agent.updates.store import RESERVE_BYTES, FileStore

DATA = bytes(range(256)) * 8
SHA256 = hashlib.sha256(DATA).hexdigest()


def test_a_file_sent_in_chunks_is_whole_under_its_digest(tmp_path):
    store = FileStore(tmp_path)
    assert store.put(SHA256, len(DATA), 0, DATA[:1000]) == 1000
    assert not store.has(SHA256)
    assert store.put(SHA256, len(DATA), 1000, DATA[1000:]) == len(DATA)
    assert store.path(SHA256).read_bytes() == DATA
    assert list((tmp_path / "incoming").iterdir()) == []


def test_an_upload_is_resumed_by_an_agent_that_starts_anew(tmp_path):
    FileStore(tmp_path).put(SHA256, len(DATA), 0, DATA[:700])
    store = FileStore(tmp_path)
    assert store.offset(SHA256, len(DATA)) == 700
    store.put(SHA256, len(DATA), 700, DATA[700:])
    assert store.has(SHA256)


def test_a_chunk_at_the_wrong_place_is_refused_and_the_upload_stands(tmp_path):
    store = FileStore(tmp_path)
    store.put(SHA256, len(DATA), 0, DATA[:700])
    for offset in (699, 701):
        with pytest.raises(RequestError) as caught:
            store.put(SHA256, len(DATA), offset, b"x")
        assert caught.value.code == "bad_offset"
    assert store.offset(SHA256, len(DATA)) == 700


def test_an_upload_can_be_started_afresh(tmp_path):
    store = FileStore(tmp_path)
    store.put(SHA256, len(DATA), 0, b"wrong")
    assert store.put(SHA256, len(DATA), 0, DATA) == len(DATA)


def test_wrong_bytes_are_dropped_and_can_be_sent_again(tmp_path):
    store = FileStore(tmp_path)
    with pytest.raises(RequestError) as caught:
        store.put(SHA256, len(DATA), 0, DATA[:-1] + b"!")
    assert caught.value.code == "bad_digest"
    assert store.offset(SHA256, len(DATA)) == 0
    assert store.put(SHA256, len(DATA), 0, DATA) == len(DATA)


def test_more_bytes_than_announced_are_refused(tmp_path):
    with pytest.raises(RequestError) as caught:
        FileStore(tmp_path).put(SHA256, 10, 0, DATA)
    assert caught.value.code == "bad_request"


def test_an_empty_file_is_a_file(tmp_path):
    store = FileStore(tmp_path)
    empty = hashlib.sha256(b"").hexdigest()
    assert store.put(empty, 0, 0, b"") == 0
    assert store.has(empty)


def test_a_board_without_space_refuses_before_it_writes(tmp_path):
    store = FileStore(tmp_path, free=lambda _: RESERVE_BYTES + len(DATA) - 1)
    with pytest.raises(RequestError) as caught:
        store.put(SHA256, len(DATA), 0, DATA)
    assert caught.value.code == "disk_full"
    assert list((tmp_path / "incoming").iterdir()) == []


def test_a_disk_that_fills_up_in_a_chunk_loses_nothing_that_had_come(tmp_path, monkeypatch):
    class Full:
        """A file whose disk is full after 100 more bytes."""

        def __init__(self, stream):
            self._stream = stream
            self._room = 100

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._stream.close()

        def __getattr__(self, name):
            return getattr(self._stream, name)

        def write(self, data):
            if not self._room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._room = 0
            return self._stream.write(data[:100])

    store = FileStore(tmp_path)
    store.put(SHA256, len(DATA), 0, DATA[:700])
    opened = os.fdopen
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", lambda *a, **k: Full(opened(*a, **k)))
        with pytest.raises(OSError, match="No space"):
            store.put(SHA256, len(DATA), 700, DATA[700:])
    assert store.offset(SHA256, len(DATA)) == 700
    store.put(SHA256, len(DATA), 700, DATA[700:])
    assert store.path(SHA256).read_bytes() == DATA


def test_an_unknown_file_is_said_to_be_unknown(tmp_path):
    with pytest.raises(RequestError) as caught:
        FileStore(tmp_path).path(SHA256)
    assert caught.value.code == "unknown_file"


def test_collect_removes_what_is_not_kept_and_counts_the_bytes(tmp_path):
    store = FileStore(tmp_path)
    other = hashlib.sha256(b"other").hexdigest()
    linked = hashlib.sha256(b"linked").hexdigest()
    store.put(SHA256, len(DATA), 0, DATA)
    store.put(other, 5, 0, b"other")
    store.put(linked, 6, 0, b"linked")
    os.link(store.path(linked), tmp_path / "elsewhere")
    store.put("0" * 64, 10, 0, b"half")
    assert store.collect([SHA256]) == (3, 5 + 4)
    assert store.has(SHA256)
    assert not store.has(other)


def test_a_file_that_was_measured_is_no_part_of_a_bundle_until_it_is_wanted_for_one(tmp_path):
    store = FileStore(tmp_path)
    store.put(SHA256, len(DATA), 0, DATA, "measure")
    with pytest.raises(RequestError, match="not on the board"):
        store.path(SHA256)
    assert store.path(SHA256, "measure").parent.name == "scratch"
    assert store.has(SHA256)  # asked for a bundle: verified and copied, not sent again
    assert store.path(SHA256).read_bytes() == DATA
    assert not (tmp_path / "scratch" / SHA256).exists()


def test_a_measured_file_that_the_disk_spoiled_is_sent_again(tmp_path):
    store = FileStore(tmp_path)
    store.put(SHA256, len(DATA), 0, DATA, "measure")
    path = store.path(SHA256, "measure")
    path.chmod(0o644)
    path.write_bytes(DATA[:-1] + b"?")
    assert not store.has(SHA256)
    assert store.put(SHA256, len(DATA), 0, DATA) == len(DATA)
    assert store.path(SHA256).read_bytes() == DATA


def test_under_a_quota_the_file_used_longest_ago_goes_first_and_none_that_is_in_use(tmp_path):
    files = [bytes([number]) * 1000 for number in range(4)]
    names = [hashlib.sha256(data).hexdigest() for data in files]
    store = FileStore(tmp_path, quota_bytes=3000, in_use=lambda: {names[0]})
    for number in range(3):
        store.put(names[number], 1000, 0, files[number])
        os.utime(tmp_path / "blobs" / names[number], (number, number))
    store.put(names[3], 1000, 0, files[3])
    assert [store.has(name) for name in names] == [True, False, True, True]
    with pytest.raises(RequestError) as caught:
        store.put("0" * 64, 2500, 0, b"x")
    assert caught.value.code == "over_quota"
    assert store.has(names[0])


def test_an_upload_that_another_process_began_is_checked_whole(tmp_path):
    data = b"".join(number.to_bytes(4, "big") for number in range(3000))
    name = hashlib.sha256(data).hexdigest()
    FileStore(tmp_path).put(name, len(data), 0, data[:5000])
    (tmp_path / "incoming" / name).write_bytes(b"\xff" + data[1:5000])  # the power cut spoiled it
    second = FileStore(tmp_path)
    with pytest.raises(RequestError, match="came as"):
        second.put(name, len(data), 5000, data[5000:])
    assert second.put(name, len(data), 0, data) == len(data)


def test_an_upload_begun_anew_is_checked_from_its_new_beginning(tmp_path):
    store, data = FileStore(tmp_path), bytes(range(256)) * 40
    name = hashlib.sha256(data).hexdigest()
    store.put(name, len(data), 0, b"x" * 100)
    store.put(name, len(data), 0, data[:4000])
    assert store.put(name, len(data), 4000, data[4000:]) == len(data)
    assert store.path(name).read_bytes() == data


def test_more_uploads_at_once_than_digests_are_kept_up():
    running = RunningDigests()
    for number in range(200):
        running.add(str(number), 0, b"a")
    assert running.end("0") == ""
    running.add("199", 1, b"b")
    assert running.end("199") == hashlib.sha256(b"ab").hexdigest()
    assert running.end("199") == ""
