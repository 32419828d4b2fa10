"""Reading pictures: what comes out, and what is refused with which words."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFile, ImageOps

from vlitqc.media import MediaLoader, default_image_root, issue_kind
from vlitqc.types import Image, Media, Origin, Sample

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"


def encoded(picture: PilImage.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def photo(width: int = 120, height: int = 80) -> PilImage.Image:
    rng = np.random.default_rng(0)
    picture = PilImage.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((width, height))
    ImageDraw.Draw(picture).rectangle((0, 0, width // 4, height // 4), fill="red")
    return picture


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
        plain = MediaLoader._decode

        def counted(self: MediaLoader, data: bytes) -> Any:
            with lock:
                decoded.append(len(data))
            return plain(self, data)

        monkeypatch.setattr(MediaLoader, "_decode", counted)
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
