"""Videos and sounds: what their headers say, read by ffmpeg on a leash.

ffmpeg sees one object of ours, which reads the one file that was checked; the container is chosen here, from the
file's first bytes, among those that hold their own content. Whatever else ffmpeg would open (what a playlist, a
reference movie or a list of files names) is refused, and so are protocols. Bytes and time are bounded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from time import thread_time
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from vlitqc.media.content import BOXES, LFS, container, described
from vlitqc.media.files import MediaFault
from vlitqc.media.pictures import MAX_PIXELS

if TYPE_CHECKING:
    import av.stream
    from av.container import InputContainer

HEAD_BYTES = 1 << 16
MAX_HEADER_BYTES = 1 << 27
"""What may be read of one file: the index of a video of many hours is some ten megabytes long."""

MAX_SECONDS = 8.0
"""Time that one header may take, of computing as of waiting."""

LONGEST = 30 * 86400.0
"""Seconds; a header that says more is broken."""

_OPTIONS = {
    "probesize": str(1 << 20),
    "analyzeduration": "1000000",
    "max_pixels": str(MAX_PIXELS),
    "threads": "1",
    "enable_drefs": "0",
    "use_absolute_path": "0",
    "protocol_whitelist": "none",
}
_WORD = {"video": "a video", "audio": "a sound"}
_OTHER = {"video": "sound but no video", "audio": "video but no sound"}
_SEGMENT = b"\x18\x53\x80\x67"
_RIFF_STREAMED = 0x7FFF0000  # writers that cannot go back put a size near one of the two ends


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says; fields as of ``Clip``."""

    format: str
    codec: str
    seconds: float | None
    frames: int = 0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    sample_rate: int = 0
    channels: int = 0


class _Source:
    """What ffmpeg may see of a file: it has no name, and ends early once too much of it was read or time is up."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MAX_HEADER_BYTES
        self._end = thread_time() + MAX_SECONDS
        self.over = ""

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none after a bound was passed, which ``over`` then tells."""
        if self._left <= 0:
            self.over = f"its header takes over {MAX_HEADER_BYTES} bytes"
        elif thread_time() > self._end:
            self.over = f"its header takes over {MAX_SECONDS:g} seconds to read"
        if self.over:
            return b""
        data = self._file.read(size)
        self._left -= max(1, len(data))
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of a file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of a file."""
        return self._file.tell()


def read_header(file: BinaryIO, size: int, kind: Literal["video", "audio"]) -> Header:
    """The header of the video or sound in ``file``. Raises MediaFault and nothing else but OSError of reading."""
    head = file.read(HEAD_BYTES)
    if not head:
        raise MediaFault("unreadable: the file is empty")
    if head.startswith(LFS):
        raise MediaFault("lfs pointer: the file holds a Git LFS pointer, not the medium; run: git lfs pull")
    form = container(head)
    if form is None:
        raise MediaFault(f"not {_WORD[kind]}: its {size} bytes are {described(head)}")
    _check_whole(file, size, form, head)
    file.seek(0)
    source = _Source(file)
    try:
        header = _probed(source, form, kind)
    except MediaFault:
        raise
    except MemoryError as error:
        raise MediaFault("unreadable: no memory was left to read its header", retry=True) from error
    except Exception as error:  # what else may come of hostile bytes ends in the fault as well
        told = source.over or f"broken {form} header: {getattr(error, 'strerror', None) or error}"
        raise MediaFault(f"unreadable: {told}") from error
    if source.over:
        raise MediaFault(f"unreadable: {source.over}")
    return header


def _probed(source: _Source, form: str, kind: Literal["video", "audio"]) -> Header:
    import av  # 0.1 s that only those with clips spend
    from av.error import ExitError, FFmpegError

    try:
        with av.open(
            source,
            "r",
            format=form,
            options=_OPTIONS,
            timeout=MAX_SECONDS,
            metadata_errors="replace",
            io_open=_refuse,
        ) as opened:
            return _video(opened, form) if kind == "video" else _audio(opened, form)
    except ExitError as error:  # the clock ran out, which a busy disk or machine may have caused
        told = f"unreadable: its header took over {MAX_SECONDS:g} seconds to read"
        raise MediaFault(told, retry=True) from error
    except FFmpegError as error:  # one is a MemoryError too: a header that asks for the impossible
        told = source.over or f"broken {form} header: {error.strerror}"
        raise MediaFault(f"unreadable: {told}") from error


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    raise PermissionError(f"it names another file ({url[:100]}), which is not opened")


def _video(opened: InputContainer, form: str) -> Header:
    import av.stream

    cover = av.stream.Disposition.attached_pic
    stream = next((s for s in opened.streams.video if not s.disposition & cover), None)
    if stream is None:
        raise MediaFault(f"unreadable: its {form} container holds {_held(opened, 'video')}")
    context = stream.codec_context
    if context is None or not (0 < context.width * context.height <= MAX_PIXELS):
        size = "none" if context is None else f"{context.width} x {context.height}"
        raise MediaFault(f"unreadable: the header gives no valid frame size: {size}")
    seconds = _seconds(opened, stream)
    rate = stream.average_rate or stream.guessed_rate
    return Header(
        form,
        context.codec.canonical_name,
        seconds,
        frames=max(0, stream.frames),
        width=context.width,
        height=context.height,
        fps=float(rate) if rate and rate > 0 else 0.0,
    )


def _audio(opened: InputContainer, form: str) -> Header:
    stream = next(iter(opened.streams.audio), None)
    if stream is None:
        raise MediaFault(f"unreadable: its {form} container holds {_held(opened, 'audio')}")
    context = stream.codec_context
    if context is None or context.sample_rate <= 0 or context.channels <= 0:
        raise MediaFault("unreadable: the header gives no sample rate or no channels")
    seconds = _seconds(opened, stream)
    return Header(
        form,
        context.codec.canonical_name,
        seconds,
        sample_rate=context.sample_rate,
        channels=context.channels,
    )


def _held(opened: InputContainer, kind: Literal["video", "audio"]) -> str:
    return _OTHER[kind] if len(opened.streams) else "neither video nor sound"


def _seconds(opened: InputContainer, stream: av.stream.Stream) -> float | None:
    """The stream's duration, or else the container's. None where the header does not say."""
    if stream.duration is not None and stream.duration > 0 and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif opened.duration is not None:
        seconds = opened.duration / 1e6
    else:
        return None
    if not 0 <= seconds <= LONGEST:
        raise MediaFault(f"unreadable: the header says that it lasts {seconds:.3g} seconds")
    if seconds == 0:
        raise MediaFault("unreadable: it lasts 0 seconds: a header without content")
    return seconds


def _check_whole(file: BinaryIO, size: int, form: str, head: bytes) -> None:
    """Raises MediaFault where the file's own length fields reach beyond its end, as after a broken download."""
    if form in ("avi", "wav"):
        told = int.from_bytes(head[4:8], "little")
        if 0 < told < _RIFF_STREAMED and told + 8 > size + 1:  # the last chunk's padding byte may be left out
            raise MediaFault(f"truncated: {size} of {told + 8} bytes are there")
    elif form == "mov":
        start = 0
        for _ in range(10_000):  # fragments of a stream that is sent as it arises are this many at most
            file.seek(start)
            box = file.read(16)
            if len(box) < 8 or box[4:8] not in BOXES:
                return
            length = struct.unpack(">I", box[:4])[0]
            if length == 1 and len(box) == 16:
                length = struct.unpack(">Q", box[8:])[0]
            if length < 8:  # 0: as far as the file goes
                return
            start += length
            if start > size:
                name = box[4:8].decode()
                raise MediaFault(
                    f"truncated: {size} of at least {start} bytes are there, cut in its '{name}'"
                )
    elif form == "matroska":
        length, start = _ebml_size(head, len(_SEGMENT))
        start += length
        if head[start : start + len(_SEGMENT)] == _SEGMENT:
            length, start = _ebml_size(head, start + len(_SEGMENT))
            if start + length > size:
                raise MediaFault(f"truncated: {size} of {start + length} bytes are there")


def _ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """How long the Matroska element is whose length stands at ``at``, 0 for one that does not know, and its start."""
    n = 9 - int.from_bytes(data[at : at + 1], "big").bit_length()
    unknown = (1 << 7 * n) - 1
    length = int.from_bytes(data[at : at + n], "big") & unknown
    return 0 if length == unknown else length, at + n
