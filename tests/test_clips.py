"""Headers of videos and sounds: what is read, what is refused, and that ffmpeg sees nothing else."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image as PilImage

from vlitqc.engine.scorer import _media_issues
from vlitqc.media import MediaLoader, clips, content, issue_kind, remarks
from vlitqc.media.content import container
from vlitqc.types import Batch, Clip, Media, Origin, Sample
from vlitqc_metrics.composition import Composition

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
RATE = 16_000


def video(form: str = "mp4", codec: str = "mpeg4", frames: int = 25, fps: int = 25, **options: str) -> bytes:
    """A grey clip of 64 × 48 pixels."""
    # By a name, since faststart opens its own output a second time.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip"
        with av.open(str(path), "w", format=form, options=options) as out:
            stream: Any = out.add_stream(codec, rate=fps)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(frames):
                grey = np.full((48, 64, 3), i * 9 % 256, np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            out.mux(stream.encode(None))
        return path.read_bytes()


def sound(form: str = "wav", codec: str = "pcm_s16le", seconds: float = 1.0, channels: int = 1) -> bytes:
    """Silence."""
    file = io.BytesIO()
    layout = {1: "mono", 2: "stereo"}[channels]
    with av.open(file, "w", format=form) as out:
        stream: Any = out.add_stream(codec, rate=RATE, layout=layout)
        n = int(seconds * RATE)
        for start in range(0, n, 1024):
            part = np.zeros((1, min(1024, n - start) * channels), np.int16)
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def loader(root: Path, **options: Any) -> MediaLoader:
    return MediaLoader(root, **{"longest_side": 64, **options})


def read(data: bytes, kind: Any = "video") -> Clip:
    return loader(Path.cwd()).clip(Media(kind, "x", data))


def fault(clip: Clip) -> str:
    assert clip.fault is not None and not clip.format
    assert issue_kind(clip.fault, clip.kind)
    return clip.fault


def sample(*media: Media) -> Sample:
    return Sample("a", (), media, {}, Origin("f", 3, 4, 0, 0, ""))


def png(colour: str = "red") -> bytes:
    file = io.BytesIO()
    PilImage.new("RGB", (20, 10), colour).save(file, "PNG")
    return file.getvalue()


class TestHeaders:
    @pytest.mark.parametrize(
        ("form", "codec", "named"),
        [
            ("mp4", "mpeg4", "mov"),
            ("mov", "mpeg4", "mov"),
            ("matroska", "mpeg4", "matroska"),
            ("webm", "libvpx", "matroska"),
            ("avi", "mpeg4", "avi"),
            ("flv", "flv", "flv"),
            ("mpegts", "mpeg2video", "mpegts"),
            ("mpeg", "mpeg2video", "mpeg"),
        ],
    )
    def test_videos(self, form: str, codec: str, named: str) -> None:
        clip = read(video(form, codec))
        assert clip.fault is None
        assert (clip.kind, clip.format, clip.width, clip.height) == ("video", named, 64, 48)
        assert clip.seconds == pytest.approx(1.0, abs=0.25)
        assert clip.fps == pytest.approx(25, rel=0.05)
        assert clip.codec and clip.n_bytes > 0 and len(clip.sha256) == 64

    @pytest.mark.parametrize(
        ("form", "codec"),
        [
            ("wav", "pcm_s16le"),
            ("flac", "flac"),
            ("mp3", "libmp3lame"),
            ("ogg", "libopus"),
            ("adts", "aac"),
            ("mp4", "aac"),
        ],
    )
    @pytest.mark.parametrize("channels", [1, 2])
    def test_sounds(self, form: str, codec: str, channels: int) -> None:
        clip = read(sound(form, codec, 2.0, channels), "audio")
        assert clip.fault is None
        assert clip.channels == channels
        # Opus knows a few rates only, and says 48 kHz of them all.
        assert clip.sample_rate == (48_000 if codec == "libopus" else RATE)
        assert clip.seconds == pytest.approx(2.0, abs=0.2)
        assert (clip.width, clip.height, clip.fps) == (0, 0, 0)

    def test_the_length_is_exact_where_the_header_is(self) -> None:
        clip = read(sound(seconds=0.75), "audio")
        assert (clip.seconds, clip.codec, clip.n_bytes) == (0.75, "pcm_s16le", 44 + 2 * 12_000 + 34)
        clip = read(video(frames=50, fps=10))
        assert (clip.seconds, clip.frames, clip.fps) == (5.0, 50, 10.0)

    def test_an_index_at_the_front_or_the_end(self) -> None:
        front, back = read(video(movflags="faststart")), read(video())
        assert (front.seconds, front.width) == (back.seconds, back.width) == (1.0, 64)

    def test_one_kind_in_the_place_of_the_other(self) -> None:
        assert fault(read(sound())) == "unreadable: its wav container holds sound but no video"
        assert fault(read(video(), "audio")) == "unreadable: its mov container holds video but no sound"

    def test_a_clip_has_a_header_or_a_fault(self) -> None:
        with pytest.raises(ValueError, match="not both"):
            Clip("video", "x", None)
        with pytest.raises(ValueError, match="not both"):
            Clip("video", "x", "missing: x", format="mov")


class TestFaults:
    @pytest.mark.parametrize(
        ("data", "told"),
        [
            (b"", "unreadable: the file is empty"),
            (LFS, "lfs pointer: "),
            (b"<!DOCTYPE html><html><body>404", "not a video: its 30 bytes are an HTML page"),
            (b"%PDF-1.7\n", "not a video: its 9 bytes are a PDF document"),
            (bytes(4000), "not a video: its 4000 bytes are nothing but zero bytes"),
            (b"hello", "not a video: its 5 bytes are text"),
            (b"The free encyclopedia", "not a video: its 21 bytes are text"),
        ],
    )
    def test_what_is_no_clip(self, data: bytes, told: str) -> None:
        clip = read(data)
        assert fault(clip).startswith(told)
        assert issue_kind(fault(clip), "video") == "unreadable_video"
        assert issue_kind(fault(read(data, "audio")), "audio") == "unreadable_audio"

    @pytest.mark.parametrize(
        ("data", "kind"), [(video(), "video"), (video("avi"), "video"), (sound(), "audio")]
    )
    def test_cut_files(self, data: bytes, kind: str) -> None:
        assert read(data, kind).fault is None
        for share in (0.3, 0.6, 0.95):
            told = fault(read(data[: int(len(data) * share)], kind))
            assert told.startswith("truncated: ")
            assert issue_kind(told, kind) == f"truncated_{kind}"

    @pytest.mark.parametrize(
        ("data", "kind"),
        [
            (sound("mov"), "audio"),
            (video("matroska"), "video"),
            (video("webm", "libvpx"), "video"),
            (sound("matroska"), "audio"),
        ],
    )
    def test_files_that_tell_their_length(self, data: bytes, kind: str) -> None:
        assert read(data, kind).fault is None
        for length in (len(data) // 2, len(data) * 2 // 3, len(data) - 1):
            assert fault(read(data[:length], kind)).startswith(f"truncated: {length} of ")

    def test_what_stands_before_the_content_of_a_quicktime_file(self) -> None:
        data = sound("mov")
        assert data[24:28] == b"wide"
        told = fault(read(data[: len(data) // 2], "audio"))
        assert told.endswith("bytes are there, cut in its 'mdat'")

    def test_a_stream_does_not_know_its_length(self) -> None:
        data = video("matroska", live="1")
        at = data.index(b"\x18\x53\x80\x67") + 4
        assert data[at : at + 8] == b"\x01" + b"\xff" * 7
        assert read(data).fault is None and read(data[: len(data) * 2 // 3]).fault is None

    def test_a_count_beyond_all_memory_is_a_broken_header(self) -> None:
        data = bytearray(video(movflags="faststart"))
        at = data.index(b"stts") + 8
        data[at : at + 4] = b"\x7f\xff\xff\xff"
        clip = read(bytes(data))
        assert fault(clip) == "unreadable: broken mov header: Cannot allocate memory"
        assert not clip.retry

    @pytest.mark.parametrize("text", ["Hello, this is a caption.", "two, three", "\u00e9t\u00e9 " * 400])
    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
    def test_utf_16_text_is_no_sound(self, text: str, encoding: str) -> None:
        data = ("\ufeff" + text).encode(encoding)
        assert fault(read(data, "audio")) == f"not a sound: its {len(data)} bytes are UTF-16 text"

    def test_a_frame_of_sound_is_followed_by_another(self) -> None:
        for data in (sound("mp3", "libmp3lame"), sound("adts", "aac")):
            start = 10 + content._synchsafe(data[6:10]) if data.startswith(b"ID3") else 0
            measure = content._mp3_frame if start else content._aac_frame
            second = start + measure(data[start:])
            assert container(data) and container(data[start:])
            assert container(data[:second] + b"\0\0" + data[second + 2 :]) is None
            assert container(data[start : second + 1])

    @pytest.mark.parametrize("rate", [8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
    @pytest.mark.parametrize(("codec", "kilobits"), [("libmp3lame", 64), ("libmp3lame", 32), ("mp2", 64)])
    def test_frames_of_mpeg_audio(self, rate: int, codec: str, kilobits: int) -> None:
        """From frame to frame the lengths lead to the end of the file."""
        if codec == "mp2" and rate < 16_000:
            pytest.skip("layer II knows no lower rates")
        file = io.BytesIO()
        options = {"id3v2_version": "0", "write_xing": "0"} if codec == "libmp3lame" else {}
        with av.open(file, "w", format="mp3" if options else "mp2", options=options) as out:
            stream: Any = out.add_stream(codec, rate=rate, layout="mono")
            stream.bit_rate = kilobits * 1000
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152 * 8), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            out.mux([*stream.encode(frame), *stream.encode(None)])
        data = file.getvalue()
        at = n = 0
        while at < len(data):
            assert data[at] == 0xFF and container(data[at:]) == "mp3"
            at += content._mp3_frame(data[at:])
            n += 1
        assert at == len(data) and n >= 8

    def test_a_header_without_content(self) -> None:
        assert fault(read(sound(seconds=0), "audio")).startswith("unreadable: ")

    def test_an_absurd_length(self) -> None:
        data = bytearray(sound("flac", "flac"))
        data[21:26] = bytes([data[21] | 0x0F]) + b"\xff\xff\xff\xff"  # 2^36 - 1 samples
        assert (
            fault(read(bytes(data), "audio")) == "unreadable: the header says that it lasts 4.29e+06 seconds"
        )

    def test_bounds(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(clips, "MAX_HEADER_BYTES", 0)
        assert fault(read(video(movflags="faststart"))) == "unreadable: its header takes over 0 bytes"
        monkeypatch.setattr(clips, "MAX_HEADER_BYTES", 1 << 20)
        monkeypatch.setattr(clips, "MAX_SECONDS", -1.0)
        assert fault(read(video())) == "unreadable: its header takes over -1 seconds to read"

    def test_no_memory_is_a_fault_that_may_pass(self, monkeypatch: Any) -> None:
        def full(*_: Any) -> Any:
            raise MemoryError

        monkeypatch.setattr(clips, "_probed", full)
        clip = read(video())
        assert fault(clip).startswith("unreadable: no memory")
        assert clip.retry


PLAYLISTS = [
    b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
    b"<?xml version='1.0'?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>",
    b"[playlist]\nFile1=/etc/passwd\n",
    b"RIFF\x10\0\0\0#EXTM3U\nfile:///etc/passwd\n",
]


def referring(path: str) -> bytes:
    """An mp4 whose samples are in another file: its data reference names ``path``."""
    data = video(movflags="faststart")
    at = data.index(b"dref") - 4
    old = data[at : at + int.from_bytes(data[at : at + 4], "big")]
    name = path.encode()
    # Flags 0: not in this file, but where a Macintosh alias says.
    alias = bytes(10) + b"\2HD".ljust(28, b"\0") + bytes(12) + b"\1x".ljust(64, b"\0") + bytes(16 + 4 + 16)
    alias += b"\0\2" + len(name).to_bytes(2, "big") + name + b"\0" * (len(name) % 2) + b"\xff\xff\0\0"
    entry = (len(alias) + 12).to_bytes(4, "big") + b"alis" + bytes(4) + alias
    new = (len(entry) + 16).to_bytes(4, "big") + b"dref" + bytes(4) + b"\0\0\0\1" + entry
    grown = len(new) - len(old)
    data = data[:at] + new + data[at + len(old) :]
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        start = data.index(box) - 4
        size = int.from_bytes(data[start : start + 4], "big") + grown
        data = data[:start] + size.to_bytes(4, "big") + data[start + 4 :]
    return data


class TestNothingElseIsOpened:
    """An audit hook sees what Python opens. ffmpeg it does not see, so the bait is a pipe: who opens that waits for
    ever, and the child that reads the clips would not end."""

    @pytest.mark.parametrize("suffix", ["mp4", "m3u8", "avi", "mkv", "wav"])
    @pytest.mark.parametrize("text", PLAYLISTS)
    def test_playlists_are_refused_whatever_they_are_called(
        self, tmp_path: Path, text: bytes, suffix: str
    ) -> None:
        (tmp_path / f"a.{suffix}").write_bytes(text)
        for kind in ("video", "audio"):
            told = fault(loader(tmp_path).clip(Media(kind, f"a.{suffix}")))
            assert told.startswith(f"not {'a video' if kind == 'video' else 'a sound'}: ")
        assert container(text) is None

    @pytest.mark.parametrize("place", ["trap", "/", "relative"])
    def test_files_that_a_clip_names(self, tmp_path: Path, place: str) -> None:
        trap = tmp_path / "trap"
        os.mkfifo(trap)
        target = {"trap": str(trap), "relative": "trap", "/": "file://" + str(trap)}[place]
        (tmp_path / "list.mp4").write_bytes(f"#EXTM3U\n#EXTINF:1,\n{target}\n".encode())
        (tmp_path / "concat.mp4").write_bytes(f"ffconcat version 1.0\nfile {target}\n".encode())
        (tmp_path / "dref.mp4").write_bytes(referring(target))
        code = (
            "import sys; from pathlib import Path\n"
            "from vlitqc.media import MediaLoader; from vlitqc.types import Media\n"
            "opened = []\n"
            "sys.addaudithook(lambda name, args: opened.append(str(args[0])) if name == 'open' else None)\n"
            "loader = MediaLoader(Path('.'), longest_side=64)\n"
            "for name in ('list.mp4', 'concat.mp4', 'dref.mp4'):\n"
            "    print(loader.clip(Media('video', name)).fault)\n"
            "assert not any('trap' in name for name in opened), opened\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        told = done.stdout.splitlines()
        assert told[0].startswith("not a video: ") and told[1].startswith("not a video: ")
        assert len(told) == 3

    def test_a_clip_whose_samples_are_elsewhere(self, monkeypatch: Any) -> None:
        asked: list[str] = []

        def refuse(url: str, flags: int, options: dict[str, str]) -> Any:
            asked.append(url)
            raise PermissionError

        monkeypatch.setattr(clips, "_refuse", refuse)
        data = referring("/etc/passwd")
        read(data)
        assert asked == []
        follow = {"enable_drefs": "1", "use_absolute_path": "1"}
        monkeypatch.setattr(clips, "_OPTIONS", clips._OPTIONS | follow)
        read(data)
        assert asked == [
            "/etc/passwd"
        ]  # so the clip does name it, and the second wall holds without the first

    def test_a_second_file_is_refused_by_name(self) -> None:
        with pytest.raises(PermissionError, match="names another file"):
            clips._refuse("/etc/passwd", 1, {})

    def test_av_is_imported_only_for_a_clip(self) -> None:
        code = (
            "import sys; from pathlib import Path\n"
            "from vlitqc.media import MediaLoader; from vlitqc.types import Media\n"
            "loader = MediaLoader(Path('.'), longest_side=64); loader.load(Media('image', 'x', b'x'))\n"
            "loader.clip(Media('video', 'x', b'x')); assert 'av' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestPlaces:
    @pytest.fixture()
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "root"
        (root / "frames").mkdir(parents=True)
        (root / "none").mkdir()
        for i in range(3):
            (root / "frames" / f"{i}.png").write_bytes(png())
        (root / "frames" / "notes.txt").touch()
        (root / "a.mp4").write_bytes(video())
        (root / "a.wav").write_bytes(sound())
        (root / "a.mkv").write_bytes(video())
        (tmp_path / "out.mp4").write_bytes(video())
        (root / "link.mp4").symlink_to(tmp_path / "out.mp4")
        (root / "loop.mp4").symlink_to(root / "loop.mp4")
        (root / "zero.mp4").symlink_to("/dev/zero")
        os.mkfifo(root / "pipe.mp4")
        return root

    @pytest.mark.parametrize(
        ("reference", "word", "kind"),
        [
            ("no.mp4", "missing: no.mp4 not found under ", "missing_video"),
            ("../out.mp4", "outside: ", "path_outside_root"),
            ("link.mp4", "outside: ", "path_outside_root"),
            ("zero.mp4", "outside: ", "path_outside_root"),
            ("/etc/passwd", "outside: ", "path_outside_root"),
            ("https://example.org/a.mp4", "remote: https://example.org/a.mp4 not fetched", "remote_video"),
            ("rtsp://10.0.0.1/a", "remote: ", "remote_video"),
            ("loop.mp4", "unreadable: ", "unreadable_video"),
            ("pipe.mp4", "unreadable: ", "unreadable_video"),
            ("none", "missing: the folder none holds no frames", "missing_video"),
            ("data:video/mp4;base64,@@", "unreadable: ", "unreadable_video"),
            ("concat:a.mp4|a.mkv", "missing: ", "missing_video"),
        ],
    )
    def test_refused(self, root: Path, reference: str, word: str, kind: str) -> None:
        told = fault(loader(root).clip(Media("video", reference)))
        assert told.startswith(word)
        assert issue_kind(told, "video") == kind
        if not kind.startswith("path"):
            assert issue_kind(told, "audio") == kind.replace("video", "audio")

    def test_devices_are_never_read(self, root: Path) -> None:
        told = fault(loader(root, allow_outside=True).clip(Media("video", "zero.mp4")))
        assert told == "unreadable: zero.mp4 is a folder or a device, not a file"

    def test_a_folder_of_frames(self, root: Path) -> None:
        clip = loader(root).clip(Media("video", "frames"))
        assert (clip.fault, clip.format, clip.frames, clip.width, clip.height) == (None, "frames", 3, 20, 10)
        assert (clip.seconds, clip.codec, clip.n_bytes) == (None, "PNG", 3 * len(png()))

    def test_a_list_of_frames(self, root: Path) -> None:
        whole = ("frames/0.png", "frames/1.png")
        clip = loader(root).clip(Media("video", whole[0], frames=whole))
        assert (clip.fault, clip.frames) == (None, 2)
        clip = loader(root).clip(Media("video", whole[0], frames=(*whole, "frames/8.png", "frames/9.png")))
        assert fault(clip) == "missing: 2 of 4 frames, first frames/8.png"
        clip = loader(root).clip(Media("video", whole[0], frames=(*whole, "../out.mp4")))
        assert fault(clip) == "outside: path leaves the image root: ../out.mp4"
        clip = loader(root).clip(Media("video", "frames/notes.txt", frames=("frames/notes.txt", whole[0])))
        assert fault(clip) == "unreadable: empty or no files: 1 of 2 frames, first frames/notes.txt"
        assert loader(root).clip(Media("video", "frames/2.png")).frames == 1
        inside = Media("video", "data:…", png(), frames=("data:…", "data:…"))
        clip = loader(root).clip(inside)
        assert (clip.fault, clip.frames, clip.width, len(clip.sha256)) == (None, 2, 20, 64)

    def test_every_frame_is_a_file_with_content(self, root: Path) -> None:
        (root / "frames" / "5.png").touch()
        told = "unreadable: empty or no files: {} of {} frames, first frames/{}"
        assert fault(loader(root).clip(Media("video", "frames"))) == told.format(1, 4, "5.png")
        (root / "frames" / "4.jpg").mkdir()
        assert fault(loader(root).clip(Media("video", "frames"))) == told.format(2, 5, "4.jpg")

    def test_an_animation_as_a_video(self, root: Path) -> None:
        frames = [PilImage.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
        frames[0].save(root / "a.webp", save_all=True, append_images=frames[1:])
        clip = loader(root).clip(Media("video", "a.webp"))
        assert (clip.fault, clip.format, clip.codec, clip.frames) == (None, "frames", "WEBP", 3)

    def test_a_changed_frame_changes_the_fingerprint(self, root: Path) -> None:
        media = Media("video", "frames/0.png", frames=("frames/0.png", "frames/1.png"))
        before = loader(root).fingerprint(media)
        (root / "frames" / "1.png").write_bytes(png("blue") + b"!")
        assert loader(root).fingerprint(media) != before

    def test_names_that_say_something_else(self, root: Path) -> None:
        clip = loader(root).clip(Media("video", "a.mkv"))
        assert list(remarks(clip)) == [("wrong_extension", "a.mkv holds mov")]
        for reference in ("a.mp4", "frames", "no.mp4"):
            assert list(remarks(loader(root).clip(Media("video", reference)))) == []

    def test_a_batch_keeps_its_order_and_reads_each_once(self, root: Path, monkeypatch: Any) -> None:
        seen: list[str] = []
        plain = MediaLoader.clip

        def counted(self: MediaLoader, media: Media) -> Clip:
            seen.append(media.reference)
            return plain(self, media)

        monkeypatch.setattr(MediaLoader, "clip", counted)
        a, b = Media("video", "a.mp4"), Media("audio", "a.wav")
        rows = loader(root).clips(
            [sample(a, Media("image", "frames/0.png"), b), sample(), sample(Media("audio", "no.wav"), a)]
        )
        assert [[c.reference for c in row] for row in rows] == [["a.mp4", "a.wav"], [], ["no.wav", "a.mp4"]]
        assert [[c.fault is None for c in row] for row in rows] == [[True, True], [], [False, True]]
        assert sorted(seen) == ["a.mp4", "a.wav", "no.wav"]

    def test_faults_and_notes_become_issues(self, root: Path) -> None:
        media = [Media("video", "a.mkv"), Media("audio", "no.wav"), Media("video", "no.mp4")]
        batch = Batch([sample(*media)], [[]], loader(root).clips([sample(*media)]))
        found = [(issue.kind, issue.severity, issue.row, issue.line) for issue in _media_issues(batch)]
        assert found == [
            ("wrong_extension", "note", 3, 4),
            ("missing_audio", "error", 3, 4),
            ("missing_video", "error", 3, 4),
        ]


class Store:
    """The features of one batch, as a run would hand them over."""

    def __init__(self, metric: Composition, batch: Batch) -> None:
        self.features = metric.features(batch)
        self.n_samples = len(batch)

    def vectors(self, name: str) -> Any:
        found = self.features[name]
        return found.values, found.index


def test_composition_tells_durations() -> None:
    def clip(kind: Any, seconds: float | None) -> Clip:
        return Clip(kind, "x", None, format="mov", seconds=seconds)

    media = [Media("video", "x")] * 3, [Media("audio", "x")]
    rows = [clip("video", 60), clip("video", 180), clip("video", None)], [clip("audio", 3600)]
    batch = Batch([sample(*m) for m in media], [(), ()], rows)
    assert batch.part(1).clips == (tuple(rows[1]),)
    metric = Composition()
    details = metric.resolve(Store(metric, batch)).details  # type: ignore[arg-type]
    assert details["media_kinds"] == {"image": 0, "video": 3, "audio": 1}
    assert details["video_durations"]["n"] == 2
    assert details["video_durations"]["hours"] == pytest.approx(240 / 3600)
    assert details["video_durations"]["seconds"]["p50"] == 120
    assert details["audio_durations"] == {
        "n": 1, "hours": 1.0, "seconds": dict.fromkeys(("p5", "p25", "p50", "p75", "p95"), 3600.0)
    }  # fmt: skip
    bare = Batch(batch.samples, [(), ()])
    assert not {"video_durations", "audio_durations"} & set(
        metric.resolve(Store(metric, bare)).details  # type: ignore[arg-type]
    )
    with pytest.raises(ValueError, match="rows of clips"):
        Batch(batch.samples, [(), ()], [()])


@pytest.mark.skipif(not (DATA / "llama_factory").is_dir(), reason="no shared data here")
def test_real_clips(capsys: Any) -> None:
    expected = {
        "1.mp4": ("h264", 9.72, 640, 360),
        "2.avi": ("h264", 9.03, 320, 240),
        "3.mp4": ("h264", 6.09, 640, 360),
        "4.mp4": ("h264", 5.0, 224, 224),
        "1.mp3": ("mp3", 4.03, 48_000, 2),
        "4.mp3": ("mp3", 5.0, 44_100, 2),
        "2.wav": ("pcm_s16le", 2.90, 16_000, 1),
        "3.flac": ("flac", 5.86, 16_000, 1),
    }
    reader = loader(DATA / "llama_factory" / "data" / "mllm_demo_data")
    for name, (codec, seconds, first, second) in expected.items():
        kind: Any = "video" if name.endswith(("mp4", "avi")) else "audio"
        clip = reader.clip(Media(kind, name))
        assert clip.fault is None and clip.codec == codec
        assert clip.seconds == pytest.approx(seconds, abs=0.01)
        found = (clip.width, clip.height) if kind == "video" else (clip.sample_rate, clip.channels)
        assert found == (first, second)
        assert list(remarks(clip)) == []
    folder = DATA / "mantis_examples" / "data" / "examples" / "chat_video"
    found_ = [loader(folder).clip(Media("video", str(p))) for p in sorted(folder.rglob("*.mp4"))]
    assert [(c.width, c.height, round(c.seconds or 0, 1)) for c in found_] == [
        (596, 336, 5.0), (596, 336, 22.6), (596, 336, 5.1)
    ]  # fmt: skip
