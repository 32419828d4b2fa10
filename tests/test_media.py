"""Reading pictures: what comes out, and what is refused with which words."""

from __future__ import annotations

import csv
import errno
import io
import os
import struct
import subprocess
import threading
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage
from PIL import ImageCms, ImageDraw, ImageFile, ImageOps

from vlitqc.engine.scorer import _may_pass, _media_issues, batches
from vlitqc.media import MediaLoader, default_image_root, issue_kind, pictures, remarks
from vlitqc.media import loader as loader_module
from vlitqc.testing import MemoryCache
from vlitqc.types import Batch, Image, Media, Origin, Sample

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"


def encoded(picture: PilImage.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes = b"") -> bytes:
    """A PNG chunk."""
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")


def with_chunks(png: bytes, chunks: bytes) -> bytes:
    """The PNG with further chunks after its header."""
    return png[:33] + chunks + png[33:]


def xmp(orientation: int) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def photo(width: int = 120, height: int = 80) -> PilImage.Image:
    rng = np.random.default_rng(0)
    picture = PilImage.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((width, height))
    ImageDraw.Draw(picture).rectangle((0, 0, width // 4, height // 4), fill="red")
    return picture


def grey_tiff(width: int, bits: int, photometric: int, values: bytes, sample: int = 1) -> bytes:
    """A TIFF of one row."""
    tags = {
        256: width,
        257: 1,
        258: bits,
        259: 1,
        262: photometric,
        273: 134,
        277: 1,
        278: 1,
        279: len(values),
    }
    tags[339] = sample
    entries = [struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items()]
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return head.ljust(134, b"\0") + values


def loaded(data: bytes, **options: Any) -> Image:
    return MediaLoader(Path.cwd(), **{"longest_side": 4096, **options}).load(Media("image", "x", data))


def pixels(data: bytes, **options: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = loaded(data, **options)
    assert image.pixels is not None, image.fault
    assert image.pixels.dtype == np.uint8
    assert image.pixels.ndim == 3 and image.pixels.shape[2] == 3
    return image.pixels


def sample(*references: str) -> Sample:
    media = tuple(Media("image", reference) for reference in references)
    return Sample("a", (), media, {}, Origin("f", 0, 1, 0, 0, ""))


def fault(image: Image) -> str:
    assert image.pixels is None
    assert image.fault is not None
    return image.fault


class TestPixels:
    def test_small_pictures_come_as_they_are(self) -> None:
        image = loaded(encoded(photo()), longest_side=120)
        assert np.array_equal(image.pixels, np.array(photo()))  # type: ignore[arg-type]
        assert (image.width, image.height, image.format) == (120, 80, "PNG")
        assert image.fault is None and image.n_bytes > 0 and len(image.sha256) == 64

    @pytest.mark.parametrize(
        ("size", "side", "expected"),
        [
            ((120, 80), 60, (40, 60)),
            ((80, 120), 60, (60, 40)),
            ((120, 80), 119, (79, 119)),
            ((400, 1), 10, (1, 10)),
        ],
    )
    @pytest.mark.parametrize("form", ["PNG", "JPEG"])
    def test_the_longest_side_is_kept_to(
        self, size: tuple[int, int], side: int, expected: tuple[int, int], form: str
    ) -> None:
        image = loaded(encoded(photo(*size), form), longest_side=side)
        assert image.pixels is not None
        assert image.pixels.shape[:2] == expected
        assert (image.width, image.height) == size

    def test_a_jpeg_reduced_while_decoding_looks_the_same(self) -> None:
        data = encoded(photo(1600, 1200), "JPEG", quality=95)
        whole = PilImage.open(io.BytesIO(data)).resize((100, 75), PilImage.Resampling.BICUBIC)
        difference = np.abs(pixels(data, longest_side=100).astype(int) - np.array(whole))
        assert difference.mean() < 1

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
    def test_pictures_are_upright(self, orientation: int, form: str) -> None:
        exif = PilImage.Exif()
        exif[0x0112] = orientation
        data = encoded(photo(), form, exif=exif)
        with PilImage.open(io.BytesIO(data)) as stored:
            expected = ImageOps.exif_transpose(stored).convert("RGB")
        image = loaded(data)
        assert image.pixels is not None
        assert np.array_equal(image.pixels, np.array(expected))
        assert (image.width, image.height) == expected.size == ((120, 80) if orientation < 5 else (80, 120))
        small = pixels(data, longest_side=60)
        assert small.shape[:2] == ((40, 60) if orientation < 5 else (60, 40))

    def test_alpha_lies_on_white(self) -> None:
        picture = PilImage.new("RGBA", (3, 1), (255, 0, 0, 255))
        picture.putpixel((1, 0), (255, 0, 0, 0))
        picture.putpixel((2, 0), (255, 0, 0, 51))
        assert pixels(encoded(picture)).tolist() == [[[255, 0, 0], [255, 255, 255], [255, 204, 204]]]

    def test_grey_with_alpha_lies_on_white(self) -> None:
        picture = PilImage.new("LA", (2, 1), (0, 255))
        picture.putpixel((1, 0), (0, 0))
        assert pixels(encoded(picture)).tolist() == [[[0] * 3, [255] * 3]]

    def test_a_palette_with_a_transparent_colour(self) -> None:
        picture = PilImage.new("P", (2, 1), 0)
        picture.putpalette([9, 8, 7, 1, 2, 3])
        picture.putpixel((1, 0), 1)
        assert pixels(encoded(picture, transparency=1)).tolist() == [[[9, 8, 7], [255, 255, 255]]]

    def test_sixteen_bits_are_scaled_and_not_clipped(self) -> None:
        values = np.array([[0, 257, 257 * 100, 65535]], np.uint16)
        found = pixels(encoded(PilImage.fromarray(values)))
        assert found[0, :, 0].tolist() == [0, 1, 100, 255]
        assert np.array_equal(found[..., 0], found[..., 2])

    def test_floats(self) -> None:
        unit = PilImage.fromarray(np.array([[0.0, 0.2, 1.0, np.nan]], np.float32))
        assert pixels(encoded(unit, "TIFF"))[0, :, 0].tolist() == [0, 51, 255, 0]
        plain = PilImage.fromarray(np.array([[0.0, 51.0, 255.0, -3.0]], np.float32))
        assert pixels(encoded(plain, "TIFF"))[0, :, 0].tolist() == [0, 51, 255, 0]

    def test_floats_beyond_their_range(self) -> None:
        over = PilImage.fromarray(np.array([[0.0, 0.2, 1.0, 1.2]], np.float32))
        assert pixels(encoded(over, "TIFF"))[0, :, 0].tolist() == [0, 51, 255, 255]
        over = PilImage.fromarray(np.array([[-9.0, 51.0, 255.0, 300.0]], np.float32))
        assert pixels(encoded(over, "TIFF"))[0, :, 0].tolist() == [0, 51, 255, 255]
        wide = PilImage.fromarray(np.array([[0.0, 51.0 * 257, 65535.0]], np.float32))
        assert pixels(encoded(wide, "TIFF"))[0, :, 0].tolist() == [0, 51, 255]

    def test_grey_of_twelve_bits(self) -> None:
        # Two values in three bytes: 0 and 4095, 819 and 2048.
        data = grey_tiff(4, 12, 1, bytes((0x00, 0x0F, 0xFF, 0x33, 0x38, 0x00)))
        assert pixels(data).tolist() == [[[0] * 3, [255] * 3, [51] * 3, [128] * 3]]

    @pytest.mark.parametrize("photometric", [0, 1])
    def test_grey_of_which_zero_is_white(self, photometric: int) -> None:
        expected = [255, 204, 0] if photometric == 0 else [0, 51, 255]
        deep = grey_tiff(3, 16, photometric, struct.pack("<3H", 0, 51 * 257, 65535))
        assert pixels(deep)[0, :, 0].tolist() == expected
        plain = grey_tiff(3, 8, photometric, bytes((0, 51, 255)))
        assert pixels(plain)[0, :, 0].tolist() == expected
        real = grey_tiff(3, 32, photometric, struct.pack("<3f", 0.0, 0.2, 1.0), sample=3)
        assert pixels(real)[0, :, 0].tolist() == expected

    def test_deep_integers_by_their_own_maximum(self) -> None:
        deep = PilImage.fromarray(np.array([[0, 50_000, 100_000]], np.int32))
        assert pixels(encoded(deep, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]

    def test_cmyk_and_bilevel(self) -> None:
        cmyk = PilImage.new("CMYK", (1, 1), (0, 255, 255, 0))
        assert pixels(encoded(cmyk, "TIFF")).tolist() == [[[255, 0, 0]]]
        assert pixels(encoded(PilImage.new("1", (1, 1), 1))).tolist() == [[[255, 255, 255]]]

    def test_the_first_frame_stands_for_an_animation(self) -> None:
        frames = [PilImage.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
        data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert pixels(data)[0, 0].tolist() == [255, 0, 0]

    @pytest.mark.parametrize("adobe", [True, False])
    @pytest.mark.parametrize("profile", [True, False])
    def test_cmyk_jpegs_are_taken_for_inverted(self, adobe: bool, profile: bool) -> None:
        # Adobe's JPEGs hold 255 - ink, and all others of four colours that one meets do the same.
        cmyk = PilImage.new("CMYK", (16, 16), (0, 255, 255, 0))
        icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() if profile else b""
        data = encoded(cmyk, "JPEG", quality=95, icc_profile=icc)
        at = data.index(b"\xff\xee\x00\x0eAdobe")
        red = pixels(data if adobe else data[:at] + data[at + 16 :])[8, 8]
        assert np.abs(red.astype(int) - [255, 0, 0]).max() <= 3

    @pytest.mark.parametrize("form", ["PNG", "TIFF"])
    def test_sixteen_bit_colour(self, form: str) -> None:
        values = struct.pack(">6H", 0, 0x8000, 0xFFFF, 0x1234, 0x00FF, 0xFF00)
        head = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
        data += chunk(b"IDAT", zlib.compress(b"\0" + values)) + chunk(b"IEND")
        if form == "TIFF":
            tags = [
                (256, 2),
                (257, 1),
                (258, 16),
                (259, 1),
                (262, 2),
                (273, 134),
                (277, 3),
                (278, 1),
                (279, 12),
            ]
            entries = [struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags]
            entries[2] = struct.pack(">HHII", 258, 3, 3, 128)
            data = b"MM\0*\0\0\0\x08" + struct.pack(">H", 9) + b"".join(entries) + bytes(4)
            data = data.ljust(128, b"\0") + struct.pack(">3H", 16, 16, 16) + values
        assert pixels(data).tolist() == [[[0, 0x80, 0xFF], [0x12, 0, 0xFF]]]

    @pytest.mark.parametrize(
        ("form", "told"), [("GIF", 2), ("WEBP", 3), ("PNG", 3), ("AVIF", 3), ("TIFF", 2)]
    )
    def test_several_frames_are_told(self, form: str, told: int) -> None:
        frames = [PilImage.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
        if form not in pictures._formats():
            pytest.skip(f"this Pillow has no {form}")
        image = loaded(encoded(frames[0], form, save_all=True, append_images=frames[1:]))
        assert image.pixels is not None and image.pixels[8, 8, 0] > 250 and image.pixels[8, 8, 2] < 5
        assert image.frames == told
        kind, word = ("multipage_image", "page") if form == "TIFF" else ("animated_image", "frame")
        count = 3 if told == 3 else "several"
        assert list(remarks(image)) == [(kind, f"{form} of {count} {word}s: only the first is looked at")]
        assert loaded(encoded(frames[0], form)).frames == 1

    def test_a_phone_picture_with_a_preview_is_one_picture(self) -> None:
        image = loaded(encoded(photo(64, 64), "MPO", save_all=True, append_images=[photo(16, 16)]))
        assert (image.fault, image.format, image.frames, list(remarks(image))) == (None, "MPO", 1, [])

    @pytest.mark.parametrize("orientation", range(2, 9))
    @pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
    def test_orientation_that_only_xmp_tells(self, orientation: int, form: str) -> None:
        plain = encoded(photo(), form, **({"lossless": True} if form == "WEBP" else {}))
        if form == "PNG":
            data = with_chunks(plain, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(orientation)))
        elif form == "TIFF":
            data = encoded(photo(), form, tiffinfo={700: xmp(orientation)})
        else:
            data = encoded(photo(), form, xmp=xmp(orientation), lossless=True)
        turn = pictures._UPRIGHT[orientation]
        assert np.array_equal(pixels(data), np.array(PilImage.fromarray(pixels(plain)).transpose(turn)))

    @pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (2, 30_000)])
    def test_long_strips(self, size: tuple[int, int]) -> None:
        image = loaded(encoded(PilImage.new("RGB", size, "red")), longest_side=100)
        assert image.pixels is not None
        assert image.pixels.shape == ((1, 100, 3) if size[0] > size[1] else (100, 1, 3))
        assert (image.width, image.height) == size
        assert (image.pixels == [255, 0, 0]).all()

    @pytest.mark.parametrize(
        ("reference", "form", "told"),
        [
            ("a/cat.png", "JPEG", "a/cat.png holds JPEG"),
            ("cat.JPG", "PNG", "cat.JPG holds PNG"),
            ("cat.jpeg", "JPEG", None),
            ("cat.jpg", "MPO", None),
            ("cat.bmp", "DIB", None),
            ("cat.pgm", "PPM", None),
            ("cat", "PNG", None),
            ("v1.5", "PNG", None),
            ("data:image/png;base64,iVBO…", "JPEG", None),
        ],
    )
    def test_names_that_say_something_else(self, reference: str, form: str, told: str | None) -> None:
        image = MediaLoader(Path.cwd(), longest_side=64).load(
            Media("image", reference, encoded(photo(), form))
        )
        assert image.fault is None
        assert list(remarks(image)) == ([("wrong_extension", told)] if told else [])


class TestFaults:
    @pytest.mark.parametrize("form", ["JPEG", "PNG"])
    @pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
    def test_cut_pictures_are_never_filled_up(self, form: str, share: float, monkeypatch: Any) -> None:
        data = encoded(photo(300, 300), form)
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        told = fault(loaded(data[: int(len(data) * share)]))
        assert told.startswith("truncated: ")
        assert issue_kind(told) == "truncated_image"

    @pytest.mark.parametrize(
        ("data", "word"),
        [
            (b"", "unreadable: "),
            (LFS, "lfs pointer: "),
            (b"hello, I am no picture", "not an image: "),
            (b"\x89PNG\r\n\x1a\n", ""),
        ],
    )
    def test_bytes_that_are_no_picture(self, data: bytes, word: str) -> None:
        told = fault(loaded(data))
        assert told.startswith(word)
        assert issue_kind(told) in ("unreadable_image", "truncated_image")

    @pytest.mark.parametrize(
        "data",
        [
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) run\n%%EOF\n",
            b"\xc5\xd0\xd3\xc6" + (32).to_bytes(4, "little") + (90).to_bytes(4, "little") + bytes(20)
            + b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) run\n%%EOF\n",
            b"\xd7\xcd\xc6\x9a\0\0" + bytes(4) + b"\x40\0\x40\0\x48\0" + bytes(6) + b"\1\0\x09\0" + bytes(60),
            b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800),
            b"BUFR" + bytes(60),
            b"%PDF-1.7\n",
        ],
    )  # fmt: skip
    def test_formats_that_run_a_program_are_not_opened(self, data: bytes, monkeypatch: Any) -> None:
        started: list[Any] = []

        def start(*arguments: Any, **_: Any) -> Any:
            started.append(arguments)
            raise OSError("a program was started")

        monkeypatch.setattr(subprocess, "Popen", start)
        for name in ("system", "popen", "posix_spawn", "execv", "execve"):
            monkeypatch.setattr(os, name, start)
        assert fault(loaded(data)).startswith(f"not an image: no decoder knows its {len(data)} bytes")
        assert started == []

    @pytest.mark.parametrize(
        "form", ["JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "ICO"]
    )
    def test_the_formats_in_use_are_opened(self, form: str) -> None:
        image = loaded(encoded(photo(64, 64), form))
        assert (image.fault, image.width, image.height) == (None, 64, 64)

    @pytest.mark.parametrize("form", ["AVIF", "JPEG2000"])
    def test_the_formats_that_pillow_may_lack(self, form: str) -> None:
        PilImage.init()
        if form not in PilImage.SAVE:
            pytest.skip(f"this Pillow has no {form}")
        assert loaded(encoded(photo(64, 64), form)).fault is None

    def test_limits(self) -> None:
        data = encoded(photo(100, 50))
        assert loaded(data, max_pixels=5000).pixels is not None
        assert fault(loaded(data, max_pixels=4999)).startswith("too large: 100 x 50 pixels")
        assert loaded(data, max_bytes=len(data)).pixels is not None
        told = fault(loaded(data, max_bytes=len(data) - 1))
        assert told.startswith("too large: ")
        assert issue_kind(told) == "unreadable_image"

    def test_a_decompression_bomb(self) -> None:
        bomb = b"P6 60000 60000 255\n" + bytes(100)
        assert fault(loaded(bomb)).startswith("too large: ")

    def test_an_enormous_header(self) -> None:
        png = encoded(photo())
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 0x7FFFFFFF, 0x7FFFFFFF, 8, 2, 0, 0, 0))
        assert fault(loaded(png[:8] + head + png[33:])).startswith("too large: ")
        wide = chunk(b"IHDR", struct.pack(">IIBBBBB", 13_000, 13_000, 8, 2, 0, 0, 0))
        assert fault(loaded(png[:8] + wide + png[33:])).startswith("truncated: ")
        none = chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 10, 8, 2, 0, 0, 0))
        assert fault(loaded(png[:8] + none + png[33:])).startswith("unreadable: ")

    @pytest.mark.parametrize(
        ("name", "head"),
        [(b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0"), (b"iCCP", b"profile\0\0")],
    )
    def test_text_and_profile_bombs(self, name: bytes, head: bytes) -> None:
        bomb = zlib.compress(bytes(1 << 26))
        start = time.process_time()
        image = loaded(with_chunks(encoded(photo()), chunk(name, head + bomb)))
        assert time.process_time() - start < 5
        assert fault(image) == "unreadable: Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK"

    def test_a_jpeg_of_many_scans(self) -> None:
        # Each scan of 232 bytes is decoded over all the pixels: 30 s for a file of 1.6 MB.
        data = encoded(PilImage.new("L", (4000, 4000)), "JPEG", progressive=True)
        at, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
        assert loaded(data, longest_side=64).fault is None
        told = fault(loaded(data[:end] + data[at:end] * 300 + b"\xff\xd9"))
        assert told == "too large: 306 scans of 4000 x 4000 pixels"

    def test_a_bitmap_of_run_lengths(self) -> None:
        # Pillow fills up a row byte by byte in Python: 21 s for these 1084 bytes.
        head = struct.pack("<IiiHHIIiiII", 40, 178_000_000, 1, 1, 8, 1, 0, 0, 0, 256, 0)
        bomb = b"BM" + struct.pack("<IHHI", 1084, 0, 0, 1078) + head + bytes(1024) + b"\1\5\0\0\0\1"
        assert fault(loaded(bomb)) == "too large: 178000000 x 1 pixels, over the limit of 16777216"
        icon = b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 8, 1 << 22, 22)
        assert fault(loaded(icon + bomb[14:].ljust(1 << 22, b"\0"))).startswith("too large: an icon of ")

    def test_a_jpeg_2000_of_nothing(self) -> None:
        # 12 s and 3 GB for 171 bytes.
        if "JPEG2000" not in pictures._formats():
            pytest.skip("this Pillow has no JPEG2000")
        data = bytearray(encoded(photo(64, 64), "JPEG2000", no_jp2=True))
        at = data.index(b"\xff\x51")
        for place in (6, 22):
            struct.pack_into(">II", data, at + place, 13_000, 13_000)
        assert fault(loaded(bytes(data))) == "too large: 13000 x 13000 pixels, over the limit of 67108864"

    def test_a_tiff_whose_strips_leave_some_of_it_empty(self) -> None:
        # Of a height given many times over, Pillow takes the first; the strips hold fewer rows, the rest is black.
        data = bytearray(encoded(photo(40, 30), "TIFF"))
        entry = data.index(struct.pack("<HHI", 257, 4, 1))
        struct.pack_into("<II", data, entry + 4, 257, 42)
        told = fault(loaded(bytes(data)))
        assert told == "truncated: its strips hold 1200 of 40 x 134 pixels"
        assert issue_kind(told) == "truncated_image"

    def test_large_strips_are_reduced_in_time(self) -> None:
        data = encoded(PilImage.new("L", (40, 1_000_000), 200), "TIFF", compression="tiff_deflate")
        start = time.process_time()
        image = loaded(data, longest_side=96)
        assert time.process_time() - start < 5
        assert image.pixels is not None and image.pixels.shape == (96, 1, 3)
        assert (image.pixels == 200).all()

    def test_a_large_canvas_around_a_small_frame(self) -> None:
        # 10 s before large pictures were reduced ahead of everything else.
        picture = PilImage.new("P", (20, 20), 1)
        picture.putpalette([0, 0, 200, 200, 0, 0])
        picture.putpixel((0, 0), 0)
        data = bytearray(encoded(picture, "GIF", transparency=0))
        struct.pack_into("<HH", data, 6, 9000, 9000)
        start = time.process_time()
        image = loaded(bytes(data), longest_side=90)
        assert time.process_time() - start < 5
        assert image.pixels is not None and image.pixels.shape == (90, 90, 3)
        assert image.pixels[50, 50].tolist() == [255, 255, 255]

    def test_too_much_time(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(pictures, "MAX_SECONDS", -1.0)
        assert fault(loaded(encoded(photo()))).startswith("unreadable: it takes over -1 seconds to decode")

    def test_many_small_chunks_end_in_time(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(pictures, "MAX_SECONDS", 0.3)
        start = time.process_time()
        told = fault(loaded(with_chunks(encoded(photo()), chunk(b"vpAg") * 1_000_000)))
        assert told == "unreadable: it takes over 0.3 seconds to decode, as hostile files do"
        assert time.process_time() - start < 5

    def test_no_memory_costs_only_the_picture_and_may_pass(self, monkeypatch: Any) -> None:
        plain = PilImage.open

        def scarce(file: Any, *arguments: Any, **options: Any) -> Any:
            if len(file.getvalue()) > 5000:
                raise MemoryError
            return plain(file, *arguments, **options)

        monkeypatch.setattr(PilImage, "open", scarce)
        small, large = encoded(PilImage.new("RGB", (4, 4))), encoded(photo(400, 400))
        media = (Media("image", "a", small), Media("image", "b", large), Media("image", "c", small))
        whole = Sample("a", (), media, {}, Origin("f", 0, 1, 0, 0, ""))
        (row,) = MediaLoader(Path.cwd(), longest_side=64).load_batch([whole])
        assert [image.fault for image in row] == [None, "unreadable: no memory was left to decode it", None]
        assert [image.retry for image in row] == [False, True, False]
        assert _may_pass(Batch([whole], [row])) and not _may_pass(Batch([whole], [row[:1]]))

    def test_faults_and_notes_become_issues(self) -> None:
        media = (Media("image", "a.png", encoded(photo(), "JPEG")), Media("image", "b.png", b""))
        whole = Sample("a", (), media, {}, Origin("f", 7, 8, 0, 0, ""))
        batch = Batch([whole], MediaLoader(Path.cwd(), longest_side=64).load_batch([whole]))
        assert [(i.kind, i.severity, i.row, i.line) for i in _media_issues(batch)] == [
            ("wrong_extension", "note", 7, 8),
            ("unreadable_image", "error", 7, 8),
        ]

    @pytest.mark.parametrize(
        ("data", "told"),
        [
            (b"<!DOCTYPE html>\n<html><head><title>404", "an HTML page"),
            (b"\n<HTML><body>", "an HTML page"),
            (b'<?xml version="1.0"?><svg xmlns="x">', "vector graphics (SVG), which are not decoded"),
            (b"<svg>", "vector graphics (SVG), which are not decoded"),
            (b"<?xml version='1.0'?><Error><Code>AccessDenied", "XML or HTML text"),
            (b'{"error": "not found"}', "JSON text"),
            (b"Not Found", "text"),
            ("Größe".encode(), "text"),
            (b"%PDF-1.7\n", "a PDF document"),
            (b"PK\x03\x04", "a zip archive"),
            (bytes(64), "nothing but zero bytes"),
            (b"\0\0\0\x18ftypmp42", "mov video or sound"),
            (b"\xfe\x01\x02", "bytes of an unknown kind (b'\\xfe\\x01\\x02'…)"),
        ],
    )
    def test_what_the_bytes_are(self, data: bytes, told: str) -> None:
        assert fault(loaded(data)) == f"not an image: no decoder knows its {len(data)} bytes; they are {told}"

    def test_pictures_that_are_not_decoded(self) -> None:
        heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
        told = "not an image: HEIC pictures are not decoded; convert them to JPEG or PNG"
        assert fault(loaded(heic)) == told

    def test_hostile_bytes_never_raise(self) -> None:
        rng = np.random.default_rng(1)
        for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
            data = bytearray(encoded(photo(40, 30), form))
            for _ in range(40):
                broken = bytes(data)
                for at in rng.integers(0, len(data), 6):
                    broken = broken[:at] + bytes([int(rng.integers(256))]) + broken[at + 1 :]
                image = loaded(broken)
                assert (image.pixels is None) != (image.fault is None)

    def test_warnings_of_the_decoder_stay_inside(self) -> None:
        exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\xff\xff\xff\xff\xff\xff\xff\xff"
        data = encoded(photo(), "JPEG")
        data = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
        with warnings.catch_warnings(), pytest.warns(UserWarning), PilImage.open(io.BytesIO(data)) as picture:
            warnings.simplefilter("always")
            picture.getexif()
        assert loaded(data).fault is None

    def test_every_fault_has_an_issue_kind(self) -> None:
        with pytest.raises(KeyError):
            issue_kind("something else")
        assert issue_kind("missing: x") == "missing_image"


class TestPlaces:
    @pytest.fixture()
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "root"
        (root / "sub").mkdir(parents=True)
        (root / "sub" / "a.png").write_bytes(encoded(photo()))
        (tmp_path / "secret.png").write_bytes(encoded(photo()))
        (root / "in.png").symlink_to(root / "sub" / "a.png")
        (root / "out.png").symlink_to(tmp_path / "secret.png")
        (root / "loop").symlink_to(root / "loop")
        os.mkfifo(root / "pipe")
        (root / "zero.png").symlink_to("/dev/zero")
        (root / "a.svg.png").symlink_to(root / "b.svg.png")
        (root / "b.svg.png").symlink_to(root / "a.svg.png")
        return root

    @pytest.mark.parametrize(
        ("reference", "word"),
        [
            ("no.png", "missing: no.png not found under "),
            ("sub/a.png/b.png", "missing: "),
            ("", "missing: "),
            ("a\0b", "missing: "),
            ("../secret.png", "outside: path leaves the image root: ../secret.png"),
            ("../../nothing-here", "outside: "),
            ("out.png", "outside: "),
            ("/etc/passwd", "outside: "),
            ("https://example.org/a.png", "remote: https://example.org/a.png not fetched"),
            ("s3://bucket/a.png", "remote: "),
            ("data:image/png;base64,@@@", "unreadable: "),
            ("sub", "unreadable: "),
            ("pipe", "unreadable: "),
            ("x" * 5000, "unreadable: "),
            ("loop", "unreadable: "),
            ("a.svg.png", "unreadable: "),
            ("zero.png", "outside: "),
            ("a\ud800b.png", "unreadable: "),
        ],
    )
    def test_refused(self, root: Path, reference: str, word: str) -> None:
        told = fault(MediaLoader(root, longest_side=64).load(Media("image", reference)))
        assert told.startswith(word)
        assert issue_kind(told)

    def test_allowed(self, root: Path) -> None:
        loader = MediaLoader(root, longest_side=64)
        for reference in ("sub/a.png", "in.png", "./sub/../sub/a.png", str(root / "sub" / "a.png")):
            assert loader.load(Media("image", reference)).fault is None
        bold = MediaLoader(root, longest_side=64, allow_outside=True)
        for reference in ("../secret.png", "out.png", str(root.parent / "secret.png")):
            assert bold.load(Media("image", reference)).fault is None

    def test_devices_are_never_read(self, root: Path) -> None:
        told = fault(MediaLoader(root, longest_side=64, allow_outside=True).load(Media("image", "zero.png")))
        assert told == "unreadable: zero.png is a folder or a device, not a file"

    def test_a_file_that_became_a_pipe_is_not_waited_for(self, root: Path, monkeypatch: Any) -> None:
        status = (root / "sub" / "a.png").stat()
        monkeypatch.setattr(Path, "stat", lambda self, **_: status)
        told = fault(MediaLoader(root, longest_side=64).load(Media("image", "pipe")))
        assert told == "unreadable: pipe is a folder or a device, not a file"

    def test_a_file_that_shrinks_while_it_is_read(self, root: Path, monkeypatch: Any) -> None:
        size = (root / "sub" / "a.png").stat().st_size
        plain = os.fstat

        def before(descriptor: int) -> os.stat_result:
            found = list(plain(descriptor))
            found[6] += 10
            return os.stat_result(found)

        monkeypatch.setattr(os, "fstat", before)
        image = MediaLoader(root, longest_side=64).load(Media("image", "sub/a.png"))
        assert fault(image) == f"unreadable: sub/a.png shrank while it was read: {size} of {size + 10} bytes"
        assert image.retry

    @pytest.mark.parametrize(
        ("number", "words", "retry"),
        [(errno.EACCES, "Permission denied", False), (errno.EMFILE, "Too many open files", True)],
    )
    def test_files_that_cannot_be_opened(
        self, root: Path, number: int, words: str, retry: bool, monkeypatch: Any
    ) -> None:
        def refuse(*_: Any) -> int:
            raise OSError(number, words)

        monkeypatch.setattr(os, "open", refuse)
        image = MediaLoader(root, longest_side=64).load(Media("image", "sub/a.png"))
        assert (fault(image), image.retry) == (f"unreadable: sub/a.png: {words}", retry)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_files_without_permission(self, root: Path) -> None:
        (root / "sub" / "a.png").chmod(0)
        told = fault(MediaLoader(root, longest_side=64).load(Media("image", "sub/a.png")))
        assert told == "unreadable: sub/a.png: Permission denied"

    def test_fingerprints(self, root: Path) -> None:
        loader = MediaLoader(root, longest_side=64)
        first = loader.fingerprint(Media("image", "sub/a.png"))
        assert first == loader.fingerprint(Media("image", "in.png"))
        os.utime(root / "sub" / "a.png", ns=(1, 1))
        assert (
            loader.fingerprint(Media("image", "sub/a.png"))
            == f"{(root / 'sub' / 'a.png').stat().st_size}-1"
            != first
        )
        assert loader.fingerprint(Media("image", "no.png")) == "missing"
        assert loader.fingerprint(Media("image", "../secret.png")) == "outside"
        assert loader.fingerprint(Media("image", "http://a/b")) == "remote"
        inline = [loader.fingerprint(Media("image", "data:…", data)) for data in (b"a", b"b", b"a")]
        assert inline[0] == inline[2] != inline[1]

    @pytest.mark.parametrize("threads", [1, 4])
    def test_a_batch_keeps_its_order_and_decodes_each_content_once(
        self, root: Path, threads: int, monkeypatch: Any
    ) -> None:
        (root / "copy.png").write_bytes((root / "sub" / "a.png").read_bytes())
        (root / "b.jpg").write_bytes(encoded(photo(30, 30), "JPEG"))
        (root / "cut.jpg").write_bytes(encoded(photo(30, 30), "JPEG")[:-200])
        decoded: list[int] = []
        lock = threading.Lock()
        plain = pictures.decode

        def counted(data: bytes, *limits: int) -> Any:
            with lock:
                decoded.append(len(data))
            return plain(data, *limits)

        monkeypatch.setattr(pictures, "decode", counted)
        loader = MediaLoader(root, longest_side=64, threads=threads)
        rows = loader.load_batch(
            [
                sample("sub/a.png", "cut.jpg"),
                sample(),
                sample("b.jpg", "copy.png", "no.png"),
                sample("sub/a.png"),
            ]
        )
        assert [[image.reference for image in row] for row in rows] == [
            ["sub/a.png", "cut.jpg"],
            [],
            ["b.jpg", "copy.png", "no.png"],
            ["sub/a.png"],
        ]
        assert [[image.fault is None for image in row] for row in rows] == [
            [True, False],
            [],
            [True, True, False],
            [True],
        ]
        assert rows[0][0].pixels is rows[2][1].pixels is rows[3][0].pixels
        assert rows[2][1].reference == "copy.png"
        assert len(decoded) == 3

    def test_looks_at_pictures_that_wait_are_counted_by_picture(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loader_module, "MOST_LOOKS", 2)
        cache = MemoryCache()
        names = [f"{i}.png" for i in range(4)]
        for i, name in enumerate(names):
            (root / name).write_bytes(encoded(photo(30 + i, 30), "PNG"))
        MediaLoader(root, longest_side=64, cache=cache).load_batch([sample(*names)])
        loader = MediaLoader(root, longest_side=64, cache=cache)
        looked_at = 0
        for name in names:
            rows = loader.load_batch([sample(name, name), sample(name)])
            late = {callable(image.source) for row in rows for image in row}
            assert late == {looked_at <= 2}
            for _ in range(5):
                assert all(image.pixels is not None for row in rows for image in row)
            looked_at += True in late

    @pytest.mark.parametrize(
        "header", ["text", [30, 30], [30, 30, 1, 1], [30.5, 30, "PNG", 1], [True, 30, "PNG", 1], {}, None, 5]
    )
    def test_a_header_of_another_form_is_none(self, root: Path, header: Any) -> None:
        class Odd(MemoryCache):
            def find(self, space: str, contents: Any) -> dict[str, Any]:
                return dict.fromkeys(contents, header)

        image = MediaLoader(root, longest_side=64, cache=Odd()).load(Media("image", "sub/a.png"))
        assert image.fault is None and not callable(image.source) and image.format == "PNG"

    def test_only_pictures_are_loaded(self, root: Path) -> None:
        mixed = Sample(
            "a", (), (Media("video", "v.mp4"), Media("image", "in.png")), {}, Origin("f", 0, 1, 0, 0, "")
        )
        (row,) = MediaLoader(root, longest_side=64).load_batch([mixed])
        assert [image.reference for image in row] == ["in.png"]

    def test_pictures_inside_the_record(self, root: Path) -> None:
        first, second = (encoded(PilImage.new("RGB", (4, 4), colour)) for colour in ("red", "blue"))
        media = (Media("image", "data:…", first), Media("image", "data:…", second))
        (row,) = MediaLoader(root, longest_side=64).load_batch(
            [Sample("a", (), media, {}, Origin("f", 0, 1, 0, 0, ""))]
        )
        assert [image.pixels[0, 0].tolist() for image in row if image.pixels is not None] == [
            [255, 0, 0],
            [0, 0, 255],
        ]

    def test_a_record_of_many_pictures_is_bounded(self, root: Path, monkeypatch: Any) -> None:
        colours = [PilImage.new("RGB", (8, 8), (n, 0, 0)) for n in range(4)]
        one, two, three, four = (Media("image", f"{n}", encoded(c)) for n, c in enumerate(colours))
        small = Media("image", "small", encoded(PilImage.new("RGB", (1, 1))))
        missing = Media("image", "no.png")
        row = (one, one, missing, two, small, three, four, small, missing)
        records = [
            Sample("a", (), media, {}, Origin("f", 0, 1, 0, 0, "")) for media in ((one,), row, (four,))
        ]
        monkeypatch.setattr(loader_module, "MAX_DECODED_BYTES", 2 * 3 * 8 * 8 + 3)
        read: list[str] = []
        plain = MediaLoader._load

        def counted(self: MediaLoader, media: Media, decoded: Any) -> Image:
            read.append(media.reference)
            return plain(self, media, decoded)

        monkeypatch.setattr(MediaLoader, "_load", counted)
        for threads in (1, 4):
            read.clear()
            found = MediaLoader(root, longest_side=8, threads=threads).load_batch(records)
            over = "too large: the record's pictures up to this one take over 387 bytes decoded"
            assert [image.fault for image in found[1]] == [
                None, None, f"missing: no.png not found under {root}", None, None, over, over, None,
                f"missing: no.png not found under {root}",
            ]  # fmt: skip
            assert issue_kind(over) == "unreadable_image"
            assert [[image.fault for image in found[at]] for at in (0, 2)] == [[None], [None]]
            assert sorted(read) == ["0", "0", "1", "2", "3", "no.png", "small"]
        whole = MediaLoader(root, longest_side=4).load_batch(records)
        assert [image.fault is None for image in whole[1]] == [image is not missing for image in row]

    def test_a_batch_ends_before_it_has_too_many_pictures(self) -> None:
        def cut(*counts: int, size: int = 3) -> list[list[int]]:
            parts = batches([sample(*["x"] * n) for n in counts], size, side=64)
            return [[len(s.images) for s in part] for part in parts]

        assert cut() == []
        assert cut(0, 0, 0, 0) == [[0, 0, 0], [0]]
        assert cut(3, 3, 0, 1) == [[3, 3, 0], [1]]
        assert cut(3, 4, 2) == [[3], [4, 2]]
        assert cut(1, 200, 0, 6, 6) == [[1], [200], [0, 6], [6]]
        assert cut(0, 64, 64, 1, size=64) == [[0, 64, 64], [1]]

    def test_wrong_arguments(self, root: Path) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            MediaLoader(root, longest_side=0)


class TestDefaultRoot:
    def touch(self, *paths: Path) -> None:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    @pytest.mark.parametrize("place", [".", "images", "..", "../images", "../..", "../../images"])
    def test_each_place(self, tmp_path: Path, place: str) -> None:
        data = tmp_path / "a" / "b" / "c" / "data.json"
        root = (data.parent / place).resolve()
        self.touch(data, root / "x.png", root / "y.png")
        assert default_image_root(data, ["x.png", "y.png", "z.png"]) == root

    def test_the_data_does_not_move_the_root_up(self, tmp_path: Path) -> None:
        data = tmp_path / "a" / "b" / "data.json"
        self.touch(data, data.parent / "0.png", tmp_path / "x.png", tmp_path / "a" / "y.png")
        up = [
            str(tmp_path / "x.png"),
            str(tmp_path / "a" / "y.png"),
            "b/../../x.png",
            "../b/0.png",
            "b/../y.png",
        ]
        assert default_image_root(data, up) == data.parent
        assert default_image_root(data, [*up, "0.png"]) == data.parent

    def test_most_must_be_there(self, tmp_path: Path) -> None:
        data = tmp_path / "d" / "data.json"
        self.touch(data, data.parent / "1.png", *(data.parent / "images" / f"{n}.png" for n in range(3)))
        assert default_image_root(data, ["0.png", "1.png", "2.png"]) == data.parent / "images"

    def test_the_best_of_poor_ones_and_the_folder_for_nothing(self, tmp_path: Path) -> None:
        data = tmp_path / "d" / "data.json"
        self.touch(data, tmp_path / "0.png")
        assert default_image_root(data, [f"{n}.png" for n in range(9)]) == tmp_path
        assert default_image_root(data, ["none.png", "http://a/b.png"]) == data.parent
        assert default_image_root(data, []) == data.parent


@pytest.mark.skipif(not (DATA / "pillow_broken").is_dir(), reason="no shared data here")
class TestRealPictures:
    def test_the_same_files_cannot_be_opened(self) -> None:
        loader = MediaLoader(DATA / "pillow_broken", longest_side=256)
        with (DATA / "pillow_broken" / "EXPECTED_pillow.tsv").open() as table:
            rows = list(csv.reader(table, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
        images = {row[0]: loader.load(Media("image", row[0])) for row in rows}
        readable = {name for name, image in images.items() if image.fault is None}
        assert readable == {row[0] for row in rows if row[4] == "ok"}
        assert issue_kind(str(images["truncated_jpeg.jpg"].fault)) == "truncated_image"
        assert str(images["decompression_bomb.ico"].fault).startswith("too large: ")

    def test_llava_pretrain(self) -> None:
        folder = DATA / "llava_pretrain_2k" / "playground" / "data" / "LLaVA-Pretrain"
        references = sorted(str(p.relative_to(folder / "images")) for p in folder.rglob("*.jpg"))[:20]
        root = default_image_root(folder / "blip_laion_cc_sbu_dev.json", references)
        assert root.samefile(folder / "images")
        rows = MediaLoader(root, longest_side=384).load_batch([sample(*references)])
        assert all(image.fault is None for image in rows[0])
