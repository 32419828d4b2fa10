"""Bytes of every picture, video and sound format, damaged at random: nothing is raised, nothing hangs.

Cases run in processes of their own, so that a crash or a hang of a decoder is seen and put down to its case. Every
case follows from its number: VLITQC_FUZZ_CASES says how many are run, VLITQC_FUZZ_FIRST the number of the first.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import resource
import struct
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image as PilImage
from PIL import features

from vlitqc.media import MAX_PIXELS, MediaLoader, issue_kind, remarks
from vlitqc.media.clips import LONGEST
from vlitqc.types import Clip, Image, Media

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
CASES = int(os.environ.get("VLITQC_FUZZ_CASES", "4000"))
FIRST = int(os.environ.get("VLITQC_FUZZ_FIRST", "0"))
WORKERS = 2
SECONDS = 10.0
"""What one case may compute: a busy machine makes no hang."""
WAIT_SECONDS = 60.0
"""What one case may take by the clock, computing or not."""
MEMORY = 8 << 30
SIDE = 96
LARGEST_SEED = 1 << 16


# ---------------------------------------------------------------- whole files


def picture(mode: str = "RGB", width: int = 40, height: int = 30) -> PilImage.Image:
    rng = np.random.default_rng(0)
    plain = PilImage.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if mode == "I;16":
        return PilImage.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    if mode == "F":
        return PilImage.fromarray(rng.random((height, width), dtype=np.float32))
    return plain.convert(mode)


def saved(form: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    picture(mode).save(file, form, **options)
    return file.getvalue()


def frames() -> dict[str, Any]:
    return {"save_all": True, "append_images": [picture(), picture().rotate(180)]}


def pictures() -> Iterator[bytes]:
    exif = PilImage.Exif()
    exif[0x0112] = 6
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield saved("PNG", mode)
    yield saved("PNG", exif=exif, icc_profile=bytes(200), **frames())
    for mode, more in (("L", {}), ("RGB", {"exif": exif}), ("CMYK", {}), ("RGB", {"progressive": True})):
        yield saved("JPEG", mode, **more)
    yield saved("MPO", **frames())
    for mode in ("1", "L", "P", "RGB"):
        yield saved("BMP", mode)
    yield saved("DIB")
    yield (
        b"BM"
        + struct.pack("<IHHI", 1100, 0, 0, 1078)
        + struct.pack("<IiiHHIIiiII", 40, 20, 20, 1, 8, 1, 0, 0, 0, 256, 0)
        + bytes(range(256)) * 4
        + b"\x05\x09\x00\x03abc\x00\x00\x00\x00\x02\x03\x01\x04\x04\x00\x00"
        + b"\x14\x07\x00\x00" * 20
    )  # run lengths
    for mode in ("1", "L", "RGB", "I;16", "F"):
        yield saved("PPM", mode)
    yield b"P3\n4 4\n100\n" + b"1 50 100\n" * 16
    yield saved("GIF", "P")
    yield saved("GIF", **frames())
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        yield saved("TIFF", compression=compression, exif=exif)
    for mode in ("1", "P", "I;16", "F", "CMYK", "RGBA", "LAB"):
        yield saved("TIFF", mode)
    yield saved("TIFF", "1", compression="group4")
    yield saved("TIFF", **frames())
    yield saved("ICO", "RGBA", sizes=[(16, 16), (32, 32)])
    yield saved("ICO", sizes=[(16, 16)], bitmap_format="bmp")
    yield saved("WEBP", exif=exif)
    yield saved("WEBP", "RGBA", lossless=True)
    yield saved("WEBP", **frames())
    if features.check("avif"):
        yield saved("AVIF", exif=exif)
        yield saved("AVIF", **frames())
    if features.check("jpg_2000"):
        yield saved("JPEG2000")
        yield saved("JPEG2000", "RGBA", no_jp2=True, tile_size=(16, 16))
        yield saved("JPEG2000", "I;16")


def video(form: str, codec: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as out:
        stream: Any = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(5):
            grey = np.full((32, 32, 3), i * 50, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        out.mux(stream.encode(None))
    return file.getvalue()


def sound(form: str, codec: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as out:
        stream: Any = out.add_stream(codec, rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


VIDEOS = (
    ("mp4", "mpeg4"), ("mov", "mpeg2video"), ("matroska", "mpeg4"), ("webm", "libvpx"), ("avi", "mpeg4"),
    ("flv", "flv"), ("mpegts", "mpeg2video"), ("mpeg", "mpeg1video"),
)  # fmt: skip
SOUNDS = (
    ("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "libmp3lame"), ("ogg", "libopus"), ("adts", "aac"),
    ("mp4", "aac"), ("matroska", "libopus"), ("wav", "adpcm_ms"),
)  # fmt: skip


@cache
def corpus() -> tuple[tuple[str, bytes], ...]:
    """Kind and bytes of every whole file, the same in every process."""
    found = [("image", data) for data in pictures()]
    folder = DATA / "pillow_broken"
    if folder.is_dir():
        names = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size <= LARGEST_SEED)
        found += [("image", p.read_bytes()) for p in names if p.suffix != ".tsv"]
    found += [("video", video(*told)) for told in VIDEOS]
    found += [("audio", sound(*told)) for told in SOUNDS]
    return tuple(found)


# ---------------------------------------------------------------- damage

Damage = Callable[[random.Random, bytearray], None]
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63)


def place(rng: random.Random, data: bytearray) -> int:
    """Anywhere, and twice as often in the head, where the structure is."""
    end = len(data) if rng.random() < 0.4 else min(len(data), 200)
    return rng.randrange(end) if end else 0


def flip(rng: random.Random, data: bytearray) -> None:
    if data:
        data[place(rng, data)] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, data: bytearray) -> None:
    at = place(rng, data)
    part = rng.randbytes(rng.randint(1, 8))
    data[at : at + len(part)] = part


def insert(rng: random.Random, data: bytearray) -> None:
    at = place(rng, data)
    data[at:at] = rng.randbytes(rng.randint(1, 64))


def delete(rng: random.Random, data: bytearray) -> None:
    at = place(rng, data)
    del data[at : at + rng.randint(1, 64)]


def duplicate(rng: random.Random, data: bytearray) -> None:
    at = place(rng, data)
    part = bytes(data[at : at + rng.randint(1, 256)])
    data[at:at] = part * rng.choice((1, 1, 2, 50))


def truncate(rng: random.Random, data: bytearray) -> None:
    del data[rng.randint(0, len(data)) :]


def number(rng: random.Random, data: bytearray) -> None:
    """A field of the header becomes an edge value of its width."""
    width = rng.choice((1, 2, 4, 8))
    value = (rng.choice(EDGES) + rng.choice((0, 0, -1, 1))) % (1 << 8 * width)
    at = place(rng, data)
    data[at : at + width] = value.to_bytes(width, rng.choice(("big", "little")))


def splice(rng: random.Random, data: bytearray) -> None:
    """From somewhere on, another file of the same or of another kind."""
    other = rng.choice(corpus())[1]
    data[place(rng, data) :] = other[rng.randrange(len(other)) :]


def zeros(rng: random.Random, data: bytearray) -> None:
    at = place(rng, data)
    n = len(data[at : at + rng.randint(1, 512)])
    data[at : at + n] = bytes(n)


DAMAGES: tuple[Damage, ...] = (
    flip, flip, overwrite, number, number, number, insert, delete, duplicate, truncate, splice, zeros,
)  # fmt: skip


def with_sums(data: bytearray) -> bytearray:
    """A PNG with right checksums, so that the damage is seen by more than the first check."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return data


def damaged(case: int) -> tuple[str, bytes]:
    """Kind and bytes of a case."""
    rng = random.Random(case)
    kind, whole = rng.choice(corpus())
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        rng.choice(DAMAGES)(rng, data)
    if data.startswith(b"\x89PNG") and rng.random() < 0.8:
        with_sums(data)
    if rng.random() < 0.05:
        kind = rng.choice(("image", "video", "audio"))
    return kind, bytes(data)


# ---------------------------------------------------------------- one case


def checked(kind: str, data: bytes) -> str:
    """The case's outcome in a word; AssertionError where the result is not what is promised."""
    loader = MediaLoader(Path.cwd(), longest_side=SIDE, threads=1)
    media = Media(kind, "x.png", data)  # type: ignore[arg-type]
    result: Image | Clip = loader.load(media) if kind == "image" else loader.clip(media)
    list(remarks(result))
    if result.fault is not None:
        assert "\0" not in result.fault and len(result.fault) < 1000, result.fault
        name = issue_kind(result.fault, kind)
        return f"{name} ({result.fault.partition(':')[0]})"
    if isinstance(result, Image):
        pixels = result.pixels
        assert pixels is not None and pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        assert min(pixels.shape[:2]) >= 1 and max(pixels.shape[:2]) <= SIDE
        assert 1 <= result.width * result.height <= MAX_PIXELS and result.frames >= 1
        assert (result.width > result.height) <= (pixels.shape[1] >= pixels.shape[0])
    else:
        assert result.format and (result.seconds is None or 0 < result.seconds <= LONGEST)
        if kind == "video":
            assert 0 < result.width * result.height <= MAX_PIXELS and 0 <= result.fps < float("inf")
            assert result.frames >= 0
        else:
            assert result.sample_rate > 0 and result.channels > 0
    return f"whole {kind}"


def work(connection: Connection, cases: range) -> None:
    """Run the cases, telling of each when it begins and how it ended."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    corpus()
    for case in cases:
        kind, data = damaged(case)
        connection.send((case, None, 0.0, ""))
        start = time.process_time()
        try:
            outcome, wrong = checked(kind, data), ""
        except BaseException:  # noqa: BLE001 - whatever it is, it is the finding
            outcome, wrong = "raised", traceback.format_exc()
        connection.send((case, outcome, time.process_time() - start, wrong))


@dataclass
class Worker:
    """A process, what it has to do, and the case in which it is."""

    cases: range
    case: int | None = None
    done: int = 0

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.cases[self.done :]), daemon=True)
        self.process.start()
        theirs.close()
        self.begin(None)

    def begin(self, case: int | None) -> None:
        self.case = case
        self.since = time.monotonic()
        self.used: float | None = None

    def computed(self) -> float:
        """Seconds that the process has computed so far."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def late(self) -> bool:
        if self.used is None:  # looked up only now, since most cases are over before it can be
            self.used = self.computed()
        computing = self.case is not None and self.computed() - self.used > SECONDS
        return computing or time.monotonic() - self.since > WAIT_SECONDS


def run(n: int, first: int) -> tuple[Counter[str], tuple[float, int], dict[int, str]]:
    """Outcomes, the slowest case with its seconds, and what went wrong by case."""
    outcomes: Counter[str] = Counter()
    slowest = (0.0, -1)
    wrong: dict[int, str] = {}
    workers = [Worker(range(first + i, first + n, WORKERS)) for i in range(min(WORKERS, n))]
    for worker in workers:
        worker.start()
    while workers:
        ready = wait([worker.connection for worker in workers], timeout=0.5)
        for worker in list(workers):
            lost = ""
            if worker.connection in ready:
                try:
                    case, outcome, seconds, trace = worker.connection.recv()
                except EOFError:
                    worker.process.join()
                    lost = f"the process ended with code {worker.process.exitcode}"
                else:
                    worker.begin(case)
                    if outcome is not None:
                        worker.done += 1
                        outcomes[outcome] += 1
                        slowest = max(slowest, (seconds, case))
                        if trace or seconds > SECONDS:
                            wrong[case] = trace or f"took {seconds:.1f} s"
            elif worker.late():
                lost = f"was not done after {time.monotonic() - worker.since:.1f} s"
                worker.process.kill()
                worker.process.join()
            if worker.done == len(worker.cases):
                worker.process.join()
                workers.remove(worker)
            elif lost:
                assert worker.case is not None, f"a worker never began: {lost}"
                wrong[worker.case] = lost
                outcomes["lost"] += 1
                worker.done += 1
                if worker.done == len(worker.cases):
                    workers.remove(worker)
                else:
                    worker.start()
    return outcomes, slowest, wrong


def test_damaged_media(capsys: Any, tmp_path: Path) -> None:
    start = time.perf_counter()
    outcomes, (seconds, case), wrong = run(CASES, FIRST)
    with capsys.disabled():
        print(f"\n{CASES} damaged media from case {FIRST} on, in {time.perf_counter() - start:.0f} s:")
        for outcome, count in outcomes.most_common():
            print(f"  {count:7d}  {outcome}")
        if case >= 0:
            print(f"  slowest: case {case}, {seconds:.2f} s; wrong: {len(wrong)}")
    assert sum(outcomes.values()) == CASES
    for number_, told in wrong.items():
        (tmp_path / str(number_)).write_bytes(damaged(number_)[1])
        print(f"case {number_} ({damaged(number_)[0]}), its bytes in {tmp_path / str(number_)}: {told}")
    assert not wrong


def test_cases_follow_from_their_number() -> None:
    assert [damaged(case) for case in range(50)] == [damaged(case) for case in range(50)]
    assert len({damaged(case)[1] for case in range(50)}) > 45


def test_the_whole_files_are_whole() -> None:
    mine = [(kind, data) for kind, data in corpus() if kind != "image"] + [("image", d) for d in pictures()]
    assert {checked(kind, data) for kind, data in mine} == {"whole image", "whole video", "whole audio"}


def _hang(connection: Connection, cases: range) -> None:
    for case in cases:
        connection.send((case, None, 0.0, ""))
        while case == 1:
            pass
        if case == 2:
            os.kill(os.getpid(), 11)
        connection.send((case, "whole image", 0.0, ""))


def test_hangs_and_crashes_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "work", _hang)
    monkeypatch.setattr(module, "SECONDS", 0.5)
    outcomes, _, wrong = run(6, 0)
    assert wrong[1].startswith("was not done after ") and wrong[2] == "the process ended with code -11"
    assert len(wrong) == 2
    assert outcomes == {"whole image": 4, "lost": 2}
