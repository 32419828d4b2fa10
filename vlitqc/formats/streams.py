"""A file through its layers: gzip, zstd and UTF-16 off for reading, on again for writing.

What is broken in a layer ends the stream early, with the reason in ``fault``; all that can be unpacked before it is
read. Nothing is held whole, however far it unpacks.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from vlitqc.errors import FormatError

STEP = 1 << 18
MAX_LAYERS = 4
"""Nobody packs deeper; what does is no data."""

_BUFFER = 1 << 17
_SIGNATURES = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_UNMARKED = (("utf-32-le", 4, 0), ("utf-32-be", 4, 3), ("utf-16-le", 2, 0), ("utf-16-be", 2, 1))
"""Codec, bytes a character, and which of them holds an ASCII letter."""

_LETTERS = frozenset(b"\t\n\r") | frozenset(range(0x20, 0x7F))


class Content:
    """What a file holds, whatever it is wrapped in.

    ``layers``: ``gzip``, ``zstd`` and ``utf-16``, outermost first. ``start``: where the content begins in the
    unpacked stream: after a byte order mark of UTF-8, else at 0.

    Raises OSError where the file cannot be read, FormatError for UTF-32.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._codecs: tuple[str, ...] = ()
        self._bom = b""
        while True:
            with _unpacked(path, self._codecs, 16) as stream:
                head = stream.read(8)
            name, bom = _layer(head)
            if name.startswith("utf-32"):
                raise FormatError(f"{path} is UTF-32 text; convert it with: iconv -f {name.upper()} -t UTF-8")
            self._bom = self._bom or bom
            if not name or len(self._codecs) == MAX_LAYERS:
                break
            self._codecs += (name,)
            if name.startswith("utf"):
                break
        self.layers = tuple("utf-16" if name.startswith("utf") else name for name in self._codecs)
        self.start = len(self._bom) if self._bom == codecs.BOM_UTF8 else 0

    def open(self) -> Stream:
        """The unpacked bytes; UTF-16 comes as UTF-8, a lone surrogate as the three bytes that it would have.

        The stream stands at ``start``. It can be sought anywhere; through a layer, going back reads anew.
        """
        stream = _unpacked(self.path, self._codecs)
        if self.start:
            stream.seek(self.start)
        return stream

    def create(self, target: Path) -> BinaryIO:
        """A new file with the same layers and byte order mark, to be given the unpacked bytes."""
        return io.BufferedWriter(_Packing(target, self._codecs, self._bom), _BUFFER)


class Stream(io.BufferedReader):
    """An unpacked file."""

    @property
    def fault(self) -> str | None:
        """What is broken in a layer, in words and with its place, once reading has come to it."""
        return self.raw.fault if isinstance(self.raw, _Unpacking) else None


def _layer(head: bytes) -> tuple[str, bytes]:
    """The outermost layer's codec and the byte order mark, both mostly nothing."""
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            return name, signature if name.startswith("utf") else b""
    for name, width, at in _UNMARKED:
        # Letters of ASCII with nothing but NULs between: no other text and no archive begins so.
        whole = head[: len(head) // width * width]
        if len(whole) >= 2 * width and all(
            byte in _LETTERS if i % width == at else byte == 0 for i, byte in enumerate(whole)
        ):
            return name, b""
    return "", codecs.BOM_UTF8 if head.startswith(codecs.BOM_UTF8) else b""


def _unpacked(path: Path, layers: tuple[str, ...], buffer: int = _BUFFER) -> Stream:
    stream = Stream(io.FileIO(path), buffer)
    for name in layers:
        stream = Stream(_Unpacking(stream, name), buffer)
    return stream


# ---------------------------------------------------------------- reading

Fail = Callable[[str], None]


class _Unpacking(io.RawIOBase):
    """One layer taken off. Going back starts at the beginning again."""

    def __init__(self, source: Stream, codec: str) -> None:
        self._source = source
        self._codec = codec
        self._begin()

    def _begin(self) -> None:
        self._source.seek(0)
        self._failed: str | None = None
        self._steps = _READERS[self._codec](self._source, self._fail)
        self._ready = memoryview(b"")
        self._at = 0

    def _fail(self, fault: str) -> None:
        self._failed = fault

    @property
    def fault(self) -> str | None:
        """What is broken: first in what lies outside."""
        return self._source.fault or self._failed

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        into = memoryview(buffer).cast("B")
        while not self._ready:
            step = next(self._steps, None)
            if step is None:
                return 0
            self._ready = memoryview(step)
        n = min(len(into), len(self._ready))
        into[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        self._at += n
        return n

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        to = offset + (self._at if whence == io.SEEK_CUR else 0)
        if whence == io.SEEK_END:
            while self._skip(STEP):
                pass
            to += self._at
        if to < self._at:
            self._begin()
        while self._at < to and self._skip(to - self._at):
            pass
        return self._at

    def _skip(self, n: int) -> int:
        return self.readinto(bytearray(min(n, STEP)))

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def _gunzip(source: BinaryIO, fail: Fail) -> Iterator[bytes]:
    members = 0
    member, begun = zlib.decompressobj(wbits=31), False
    data = b""
    while True:
        if members and not begun:
            data = data.lstrip(b"\0")  # padding after the last member
        if not data:
            data = source.read(STEP)
            if not data:
                break
            continue
        before = member.copy()
        try:
            yield member.decompress(data, STEP)
        except zlib.error as error:
            at = source.tell() - len(data)
            for byte in data:  # once more, for what was unpacked before the fault is lost with the call
                try:
                    yield before.decompress(bytes((byte,)))
                except zlib.error:
                    break
                at += 1
            if members and not begun:
                fail(f"something that is no gzip data follows at byte {source.tell() - len(data)}")
            else:
                fail(f"the gzip data is damaged at byte {at} ({str(error).rpartition(': ')[2]})")
            return
        begun = True
        data = member.unconsumed_tail
        if member.eof:
            data = member.unused_data
            members += 1
            member, begun = zlib.decompressobj(wbits=31), False
    if begun:
        yield member.flush()
        if not member.eof:
            fail(f"the gzip data is cut short at byte {source.tell()}")


class _Feed(io.RawIOBase):
    """What pyarrow reads packed data from: byte by byte from ``slow`` on, to lose nothing before a fault."""

    def __init__(self, source: BinaryIO, slow: float = float("inf")) -> None:
        self._source = source
        self._slow = slow
        self.last = 0  # where the latest piece began

    def readable(self) -> bool:
        return True

    def read(self, n: int = -1) -> bytes:
        self.last = self._source.tell()
        left = self._slow - self.last
        return self._source.read(n if left >= n else max(1, int(left)))


def _unzstd(source: BinaryIO, fail: Fail) -> Iterator[bytes]:
    import pyarrow as pa

    feed = _Feed(source)
    unpacked = pa.CompressedInputStream(pa.PythonFile(feed, mode="r"), "zstd")
    good = 0
    try:
        while data := unpacked.read(STEP):
            yield data
            good += len(data)
        return
    except OSError as error:
        if error.errno is not None:  # the disk's own
            raise
        reason = str(error)
    # Once more, for what was unpacked before the fault is lost with the call.
    slow = feed.last
    source.seek(0)
    feed = _Feed(source, slow)
    unpacked = pa.CompressedInputStream(pa.PythonFile(feed, mode="r"), "zstd")
    while good:
        good -= len(unpacked.read(min(good, STEP)))
    try:
        while data := unpacked.read(1):
            yield data
    except OSError as error:
        if error.errno is not None:
            raise
    if "runcated" in reason:
        fail(f"the zstd data is cut short at byte {source.tell()}")
    else:
        fail(f"the zstd data is damaged at byte {feed.last} or before ({reason})")


def _from_utf16(codec: str) -> Callable[[BinaryIO, Fail], Iterator[bytes]]:
    mark = _MARKS[codec]

    def read(source: BinaryIO, fail: Fail) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder(codec)("surrogatepass")
        if source.read(len(mark)) != mark:
            source.seek(0)
        while data := source.read(STEP):
            yield decoder.decode(data).encode("utf-8", "surrogatepass")
        rest = decoder.getstate()[0]
        yield rest[: len(rest) // 2 * 2].decode(codec, "surrogatepass").encode("utf-8", "surrogatepass")
        if len(rest) % 2:
            fail(f"the UTF-16 text is cut short within a character at byte {source.tell()}")

    return read


_MARKS = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
_READERS: dict[str, Callable[[BinaryIO, Fail], Iterator[bytes]]] = {
    "gzip": _gunzip,
    "zstd": _unzstd,
    **{codec: _from_utf16(codec) for codec in _MARKS},
}


# ---------------------------------------------------------------- writing


class _Packing(io.RawIOBase):
    """All layers put on, the innermost first."""

    def __init__(self, target: Path, layers: tuple[str, ...], bom: bytes) -> None:
        self._stack = ExitStack()
        self._bytes: Any = self._stack.enter_context(target.open("xb"))
        self._decoder = self._encoder = None
        with ExitStack() as on_failure:
            on_failure.push(self._stack)
            for name in layers:
                if name == "gzip":  # no name and no time inside: equal content gives equal files
                    packed: Any = gzip.GzipFile("", "wb", fileobj=self._bytes, mtime=0, compresslevel=6)
                    self._bytes = self._stack.enter_context(packed)
                elif name == "zstd":
                    import pyarrow as pa

                    packed = pa.CompressedOutputStream(pa.PythonFile(self._bytes, mode="w"), "zstd")
                    self._bytes = self._stack.enter_context(packed)
                else:
                    self._decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
                    self._encoder = codecs.getincrementalencoder(name)("surrogatepass")
            self._bytes.write(bom)
            on_failure.pop_all()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raw = bytes(data)
        if self._decoder is None or self._encoder is None:
            self._bytes.write(raw)
        else:
            self._bytes.write(self._encoder.encode(self._decoder.decode(raw)))
        return len(raw)

    def close(self) -> None:
        if not self.closed:
            self._stack.close()
        super().close()
