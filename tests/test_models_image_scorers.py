"""Models that score pictures, against their own libraries: ICNet, and pyiqa's no-reference metrics."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.image_scorers import (
    SMALL_MANIQA,
    small_backbone,
    write_brisque,
    write_cnniqa,
    write_icnet,
    write_maniqa,
    write_niqe,
)
from oracles import icnet as oracle
from PIL import Image
from skimage import data

from vlitqc.errors import ModelUnavailable, UnknownName, UsageError
from vlitqc.models import pyiqa_quality
from vlitqc.models.batching import Passes
from vlitqc.models.icnet import ICNet
from vlitqc.models.icnet_network import ICNetwork
from vlitqc.models.pyiqa_quality import PyiqaQuality, metrics
from vlitqc.types import FloatArray, ModelRef, Rgb, Scale

REF = ModelRef("ImageScorer", "test", "1", "0" * 64)


def pictures() -> list[Rgb]:
    """Photographs of three sizes, two of them equal in size, in mixed order."""
    return [
        data.astronaut()[:300, :400],
        data.cat()[:120, :90],
        data.coffee()[:300, :400],
        np.ascontiguousarray(data.rocket()[100:340, 200:430]),
        data.cat()[100:220, 100:190],
    ]


def tensor(picture: Rgb) -> torch.Tensor:
    """As pyiqa reads a file: RGB, 0 to 1, a batch of one."""
    return torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32) / 255)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scorers")


@pytest.fixture(scope="module")
def ck(folder: Path) -> Path:
    return write_icnet(folder)


@pytest.fixture(scope="module")
def cnniqa(folder: Path) -> Path:
    return write_cnniqa(folder)


@pytest.fixture
def no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# ---------------------------------------------------------------- ICNet


def test_icnet_has_the_published_layout(ck: Path) -> None:
    network = ICNetwork()
    ours = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert ours == {name: tuple(value.shape) for name, value in torch.load(ck, weights_only=True).items()}
    assert len(ours) == 246
    assert sum(parameter.numel() for parameter in network.parameters()) == 20_328_074


def test_icnet_equals_a_second_construction(ck: Path, equals: Callable[..., None], no_socket: None) -> None:
    model = ICNet(REF, {"checkpoint": ck}, batch_size=2, device="cpu")
    images = pictures()[1:4]
    ours = model.score_images(images)
    assert ours.dtype == np.float64
    state = torch.load(ck, weights_only=True)
    theirs = [100 * float(oracle.score(state, reference_input(picture))[0]) for picture in images]
    equals(ours, theirs, backend="ICNet (IC9600)", reference="the same network from torchvision.resnet18")
    assert np.ptp(ours) > 5  # otherwise the comparison says little
    assert ((ours >= 0) & (ours <= 100)).all()
    one = ICNet(REF, {"checkpoint": ck}, batch_size=1, device="cpu").score_images(images[::-1])
    np.testing.assert_allclose(one[::-1], ours, atol=1e-4)


def reference_input(picture: Rgb) -> torch.Tensor:
    """What IC9600's own script makes of a picture."""
    from torchvision import transforms

    steps = [
        transforms.Resize((512, 512)),
        transforms.ToTensor(),
        transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    ]
    found: torch.Tensor = transforms.Compose(steps)(Image.fromarray(picture))[None]
    return found


def seen_by_icnet(picture: Rgb, monkeypatch: pytest.MonkeyPatch) -> FloatArray:
    """What reaches the network of a picture, ``float32[3, 512, 512]``."""
    seen: list[torch.Tensor] = []

    def network(inputs: torch.Tensor) -> torch.Tensor:
        seen.append(inputs)
        return inputs.new_full((len(inputs),), 0.5)

    monkeypatch.setattr(ICNet, "load", lambda _: (network, Passes("cpu", cpu=2, cuda=2)))
    assert ICNet(REF, {"checkpoint": Path("ck.pth")}).score_images([picture]).tolist() == [50.0]
    found: FloatArray = seen[0][0].numpy()
    return found


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (512, 512), (700, 31)])
def test_icnet_sees_a_picture_as_the_original_does(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = seen_by_icnet(picture, monkeypatch)
    assert (found.shape, found.dtype) == ((3, 512, 512), np.float32)
    np.testing.assert_allclose(found, reference_input(picture)[0].numpy(), atol=1e-5)


def test_icnet_preprocessing_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # (255/255 - 0.485) / 0.229, (0 - 0.456) / 0.224, (51/255 - 0.406) / 0.225
    picture = np.broadcast_to(np.array([255, 0, 51], np.uint8), (9, 7, 3)).copy()
    found = seen_by_icnet(picture, monkeypatch)
    np.testing.assert_allclose(found[:, 100, 200], [2.248908, -2.035714, -0.915556], atol=1e-5)


def test_icnet_scale_and_empty_input(tmp_path: Path) -> None:
    model = ICNet(REF, {"checkpoint": tmp_path / "absent.pth"})
    assert model.scale == Scale("", (0.0, 100.0), True, "ICNet (IC9600, Feng et al. 2023)")
    assert model.score_images([]).shape == (0,)
    with pytest.raises(
        ModelUnavailable, match=r"absent\.pth cannot be read as weights of ICNet.*get ck\.pth"
    ):
        model.score_images(pictures()[:1])


def test_icnet_survives_pickling_without_its_weights(ck: Path) -> None:
    model = ICNet(REF, {"checkpoint": ck}, batch_size=3, precision="fp32", device="cpu")
    model.load()
    packed = pickle.dumps(model)
    assert len(packed) < 2000
    again = pickle.loads(packed)
    assert again.__getstate__() == model.__getstate__()
    assert again.ref == REF


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number above 0, got 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number above 0, got 1.5"),
        ({"precision": "int4"}, "precision must be one of auto, fp32; got 'int4'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], said: str) -> None:
    for backend in (ICNet, PyiqaQuality):
        with pytest.raises(TypeError, match=said):
            backend(REF, {"checkpoint": Path("ck.pth")}, **options)


# ---------------------------------------------------------------- wrong files


class Hostile:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def _wrong(path: Path, what: str, state: dict[str, torch.Tensor]) -> Path:
    first = next(iter(state))
    match what:
        case "text":
            path.write_text("version https://git-lfs.github.com/spec/v1\n")
        case "empty":
            path.write_bytes(b"")
        case "folder":
            path.mkdir()
        case "hostile":
            torch.save({"params": Hostile(path.with_suffix(".ran"))}, path)
        case "list":
            torch.save([torch.zeros(3)], path)
        case "nothing":
            torch.save({}, path)
        case "training state":
            torch.save({"epoch": 3, "model": {}}, path)
        case "cut off":
            torch.save(state, path)
            path.write_bytes(path.read_bytes()[:5000])
        case "missing":
            torch.save({k: v for k, v in state.items() if k != first}, path)
        case "unexpected":
            torch.save(state | {f"extra.{i}": torch.zeros(1) for i in range(5)}, path)
        case "reshaped":
            torch.save(state | {first: torch.zeros(2, 3)}, path)
    return path


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("text", "cannot be read as weights of"),
        ("empty", "cannot be read as weights of"),
        ("folder", "cannot be read as weights of"),
        ("hostile", r"cannot be read as .* \(it is damaged, or holds other things than tensors\)"),
        ("cut off", "cannot be read as weights of"),
        ("list", "holds a list, not the weights of"),
        ("nothing", "holds nothing, not the weights of"),
        ("training state", r"holds more than tensors \(epoch, model\)"),
        ("missing", r"holds 7 tensors that do not fit the 8 of pyiqa's cnniqa \(missing: conv1\.weight\)"),
        ("unexpected", r"\(unexpected: extra\.0, extra\.1, extra\.2 and 2 more\)"),
        ("reshaped", r"\(of another shape: conv1\.weight \[2, 3\] instead of \[50, 3, 7, 7\]\)"),
    ],
)
def test_a_wrong_file_is_named_with_its_fault_and_the_cure(
    what: str, said: str, cnniqa: Path, tmp_path: Path
) -> None:
    path = _wrong(tmp_path / "w.pth", what, torch.load(cnniqa, weights_only=True)["params"])
    model = PyiqaQuality(REF, {"checkpoint": path}, metric="cnniqa", device="cpu")
    with pytest.raises(ModelUnavailable, match=said) as caught:
        model.score_images(pictures()[:1])
    assert str(path) in str(caught.value)
    assert "get CNNIQA_koniq10k-e6f14c91.pth from" in str(caught.value)
    assert not path.with_suffix(".ran").exists()


def test_a_checkpoint_of_another_network_does_not_pass_for_icnet(cnniqa: Path) -> None:
    with pytest.raises(
        ModelUnavailable, match=r"missing: b1_1\.0\.weight, .* and 243 more; unexpected: conv1"
    ):
        ICNet(REF, {"checkpoint": cnniqa}, device="cpu").load()


def test_a_checkpoint_from_training_on_several_gpus_is_read(cnniqa: Path, tmp_path: Path) -> None:
    state = torch.load(cnniqa, weights_only=True)["params"]
    path = tmp_path / "parallel.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    ours, theirs = (
        PyiqaQuality(REF, {"checkpoint": file}, metric="cnniqa", device="cpu").score_images(pictures())
        for file in (path, cnniqa)
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (lambda value: value.to(torch.complex64), "complex, quantized"),
        (lambda value: value.to_sparse(), "sparse, complex"),
        (lambda value: value.to("meta"), "without values"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "quantized"),
        (lambda value: value.to(torch.float8_e4m3fn), "real numbers"),
        (lambda value: torch.nested.nested_tensor([value[0], value[1]]), "one by one"),
        (lambda value: torch.full_like(value, float("nan")), "weights that are not finite"),
        (lambda value: value.half() / 0, "weights that are not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(quantize|nested tensors|TypedStorage):UserWarning")
def test_tensors_that_are_no_plain_finite_numbers_are_refused(
    spoilt: Callable[[torch.Tensor], torch.Tensor], said: str, cnniqa: Path, tmp_path: Path
) -> None:
    state = torch.load(cnniqa, weights_only=True)["params"]
    path = tmp_path / "w.pth"
    torch.save(state | {"conv1.weight": spoilt(state["conv1.weight"])}, path)
    model = PyiqaQuality(REF, {"checkpoint": path}, metric="cnniqa", device="cpu")
    with pytest.raises(ModelUnavailable, match=said) as caught:
        model.load()
    assert str(path) in str(caught.value)
    assert "(conv1.weight)" in str(caught.value)
    assert "get CNNIQA_koniq10k-e6f14c91.pth from" in str(caught.value)


def test_icnet_refuses_broken_weights(ck: Path, tmp_path: Path) -> None:
    state = torch.load(ck, weights_only=True)
    first = next(iter(state))
    torch.save(state | {first: torch.full_like(state[first], float("inf"))}, tmp_path / "ck.pth")
    with pytest.raises(
        ModelUnavailable, match=r"ck\.pth holds weights that are not finite \(b1_1\.0\.weight\)"
    ):
        ICNet(REF, {"checkpoint": tmp_path / "ck.pth"}, device="cpu").load()


@pytest.mark.parametrize("backend", [ICNet, PyiqaQuality])
def test_weights_must_be_named(backend: Any) -> None:
    with pytest.raises(ModelUnavailable, match="a file with the role 'checkpoint'"):
        backend(REF, {})


# ---------------------------------------------------------------- pyiqa


def reference(name: str, images: Sequence[Rgb], **options: Any) -> list[float]:
    """pyiqa's own call, a picture at a time."""
    import pyiqa

    metric = pyiqa.create_metric(name, device=torch.device("cpu"), **options)
    return [float(metric(tensor(image)).reshape(-1)[0]) for image in images]


@pytest.mark.parametrize(
    ("name", "write"),
    [("cnniqa", write_cnniqa), ("niqe", write_niqe), ("brisque", write_brisque), ("piqe", None)],
)
def test_equals_pyiqa(
    name: str,
    write: Callable[[Path], Path] | None,
    tmp_path: Path,
    equals: Callable[..., None],
    no_socket: None,
) -> None:
    files = {} if write is None else {"checkpoint": write(tmp_path)}
    images = [image for image in pictures() if name != "niqe" or min(image.shape[:2]) >= 200]
    model = PyiqaQuality(REF, files, metric=name, device="cpu")
    ours = model.score_images(images)
    options = {"pretrained_model_path": str(files["checkpoint"])} if files else {}
    equals(ours, reference(name, images, **options), backend=f"pyiqa {name}", reference="pyiqa.create_metric")
    assert len(set(ours)) == len(ours)
    alone = [model.score_images([image])[0] for image in images]
    np.testing.assert_allclose(ours, alone, atol=1e-5)


@pytest.fixture
def small() -> Iterator[None]:
    with small_backbone():
        yield


def test_maniqa_equals_pyiqa(
    tmp_path: Path, equals: Callable[..., None], no_socket: None, small: None
) -> None:
    path = write_maniqa(tmp_path, **SMALL_MANIQA)
    wrapped = tmp_path / "params.pth"
    torch.save({"params": torch.load(path, weights_only=True)}, wrapped)
    images = [*pictures()[:3], data.cat()[:100, :224], data.cat()[:225, :225], data.cat()[:3, :40]]
    model = PyiqaQuality(REF, {"checkpoint": path}, settings=SMALL_MANIQA, batch_size=3, device="cpu")
    ours = model.score_images(images)
    theirs = reference("maniqa", images, pretrained_model_path=str(wrapped), **SMALL_MANIQA)
    equals(ours, theirs, backend="pyiqa maniqa, small", reference="pyiqa.create_metric")
    assert np.ptp(ours) > 0.5
    # The crops are the same every time, and do not depend on the company.
    single = PyiqaQuality(REF, {"checkpoint": wrapped}, settings=SMALL_MANIQA, batch_size=1, device="cpu")
    np.random.seed(5)
    np.testing.assert_allclose(single.score_images(images[2::-1])[::-1], ours[:3], atol=1e-5)


def test_maniqa_forgets_a_pass_that_failed(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = PyiqaQuality(
        REF, {"checkpoint": write_maniqa(tmp_path, **SMALL_MANIQA)}, settings=SMALL_MANIQA, device="cpu"
    )
    first, second = pictures()[0], pictures()[2]
    before = model.score_images([second])
    network, _ = model.load()

    def full(*_: Any) -> Any:
        raise RuntimeError("out of memory\nmore")

    with monkeypatch.context() as patch:
        patch.setattr(network, "extract_feature", full)
        with pytest.raises(ValueError, match=r"^maniqa of a picture of 400 × 300 px: out of memory$"):
            model.score_images([first])
    np.testing.assert_array_equal(model.score_images([second]), before)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("musiq-ava", "musiq_ava_ckpt-e8d3f067.pth"),
        ("paq2piq", "P2P_RoIPoolModel-fit.10.bs.120-ca69882e.pth"),
        ("topiq_nr", "cfanet_nr_koniq_res50-9a73138b.pth"),
        ("unique", "UNIQUE.pt"),
        ("wadiqam_nr", "WaDIQaM-NR-koniq-aaffea29.pth"),
    ],
)
def test_other_networks_are_built_without_a_hub_and_filled_from_the_file(
    name: str, published: str, cnniqa: Path, tmp_path: Path, no_socket: None
) -> None:
    model = PyiqaQuality(REF, {"checkpoint": cnniqa}, metric=name, device="cpu")
    kind = pyiqa_quality._table()[name]["metric_opts"]["type"]
    module = import_module(f"pyiqa.archs.{pyiqa_quality._NETWORKS[kind]}_arch")
    before = dict(vars(module))
    # The network is built, and refuses the weights of another.
    with pytest.raises(ModelUnavailable, match=f"do not fit .* {name} .*get {published} from"):
        model.load()
    assert dict(vars(module)) == before
    # One with the names and shapes that it asks for is taken.
    with pyiqa_quality._nothing_fetched(module, None, []):
        options = {k: v for k, v in pyiqa_quality._table()[name]["metric_opts"].items() if k != "type"}
        state = getattr(module, kind)(**options).state_dict()
    torch.save({"params": state}, tmp_path / "own.pth")
    model = PyiqaQuality(REF, {"checkpoint": tmp_path / "own.pth"}, metric=name, device="cpu")
    images = [data.cat()[:230, :240], data.cat()[40:270, 100:340], data.astronaut()[:240, :230]]
    together = model.score_images(images)
    alone = [model.score_images([image])[0] for image in images]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_every_metric_that_is_served_needs_pyiqas_table_alone() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from vlitqc.models.pyiqa_quality import PyiqaQuality, metrics\n"
        "from vlitqc.types import ModelRef\n"
        "ref = ModelRef('t', 't', '1', '0' * 64)\n"
        "found = [PyiqaQuality(ref, {'checkpoint': Path('x')}, metric=m).scale for m in metrics()]\n"
        "assert len(found) > 25\n"
        "print(sorted({'torch', 'pyiqa', 'timm', 'torchvision'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


INF = float("inf")


@pytest.mark.parametrize(
    ("name", "bounds", "higher"),
    [
        ("maniqa", (-INF, INF), True),
        ("piqe", (0.0, 100.0), False),
        ("niqe", (-INF, INF), False),
        ("musiq-ava", (1.0, 10.0), True),
        ("wadiqam_nr", (-INF, INF), True),
    ],
)
def test_the_scale_is_pyiqas(name: str, bounds: tuple[float, float], higher: bool) -> None:
    model = PyiqaQuality(REF, {"checkpoint": Path("x")}, metric=name)
    assert model.scale == Scale("", bounds, higher, f"{name} (pyiqa)")


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("0, 1", (0, 1)),
        ("~0, ~1", (-INF, INF)),
        ("0, ~", (0, INF)),
        ("~, 2", (-INF, 2)),
        ("-2, 2", (-2, 2)),
        ("0, 2.5", (0, 2.5)),
        (None, (-INF, INF)),
        ("", (-INF, INF)),
    ],
)
def test_the_range_in_pyiqas_words(text: str | None, bounds: tuple[float, float]) -> None:
    assert pyiqa_quality._bounds(text) == bounds


def test_metrics_that_cannot_be_served_are_refused() -> None:
    with pytest.raises(UnknownName, match="no pyiqa metric is called 'maniqua'; did you mean maniqa"):
        PyiqaQuality(REF, {}, metric="maniqua")
    with pytest.raises(UsageError, match="lpips compares a picture with a reference"):
        PyiqaQuality(REF, {}, metric="lpips")
    for name in ("clipiqa", "qalign", "fid", "clipscore", "liqe", "topiq_nr-face", "pi", "arniqa"):
        with pytest.raises(UsageError, match=r"cannot be computed from a picture and one local file; served"):
            PyiqaQuality(REF, {}, metric=name)
    assert {"maniqa", "maniqa-pipal", "niqe", "brisque", "piqe", "topiq_nr", "musiq"} <= set(metrics())


def test_settings_of_a_metric(cnniqa: Path) -> None:
    with pytest.raises(TypeError, match="settings may not name pretrained, pretrained_model_path, type"):
        PyiqaQuality(
            REF,
            {"checkpoint": cnniqa},
            metric="cnniqa",
            settings={"pretrained": True, "pretrained_model_path": "x", "type": "y", "n_kers": 3},
        )
    # MANIQA's constructor would swallow it.
    wrong = PyiqaQuality(REF, {"checkpoint": cnniqa}, settings={"test_samples": 5}, device="cpu")
    with pytest.raises(UsageError, match="pyiqa's maniqa has no setting called test_samples"):
        wrong.load()


def test_a_wrong_file_of_constants(cnniqa: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.pth"
    torch.save((Hostile(tmp_path / "ran"), 1), hostile)
    text = tmp_path / "text.mat"
    text.write_text("not a matrix")
    for name, path in [
        ("niqe", text),
        ("niqe", cnniqa),
        ("brisque", hostile),
        ("brisque", text),
        ("nrqm", text),
    ]:
        with pytest.raises(ModelUnavailable, match=f"cannot be read as the file of pyiqa's {name}.*; get "):
            PyiqaQuality(REF, {"checkpoint": path}, metric=name, device="cpu").load()
    assert not (tmp_path / "ran").exists()


def test_a_picture_without_a_value_is_an_error(cnniqa: Path) -> None:
    black = np.zeros((64, 48, 3), np.uint8)
    with pytest.raises(ValueError, match=r"^piqe of a picture of 48 × 64 px is not finite$"):
        PyiqaQuality(REF, {}, metric="piqe").score_images([black])
    model = PyiqaQuality(REF, {"checkpoint": cnniqa}, metric="cnniqa", device="cpu")
    with pytest.raises(ValueError, match=r"^cnniqa of a picture of 5 × 3 px: .*Kernel size"):
        model.score_images([np.zeros((3, 5, 3), np.uint8)])
    assert model.score_images([]).shape == (0,)


def test_large_and_thin_pictures_are_not_put_in_one_pass(
    cnniqa: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []

    def note(self: PyiqaQuality, network: Any, device: str, images: Sequence[Rgb]) -> list[float]:
        passes.append(len(images))
        return [float(image[0, 0, 0]) for image in images]

    monkeypatch.setattr(PyiqaQuality, "_forward", note)
    model = PyiqaQuality(REF, {"checkpoint": cnniqa}, metric="cnniqa", batch_size=4, device="cpu")
    sizes = [(300, 400)] * 5 + [(2048, 1024)] * 3 + [(2048, 2048)] * 2 + [(8, 1000)] * 2
    images = [np.full((*size, 3), i, np.uint8) for i, size in enumerate(sizes)]
    order = np.random.default_rng(0).permutation(len(images))
    values = model.score_images([images[i] for i in order])
    assert values.tolist() == order.tolist()
    assert sorted(passes) == sorted([4, 1, 2, 1, 1, 1, 1, 1])


def test_a_picture_too_thin_to_be_enlarged_is_refused(cnniqa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def note(self: PyiqaQuality, network: Any, device: str, images: Sequence[Rgb]) -> list[float]:
        seen.extend(image.shape for image in images)
        return [0.0] * len(images)

    monkeypatch.setattr(PyiqaQuality, "_forward", note)
    passes = Passes("cpu", cpu=4, cuda=4, side_by_side=False)
    monkeypatch.setattr(PyiqaQuality, "load", lambda self: (None, passes))
    model = PyiqaQuality(REF, {"checkpoint": cnniqa})
    for height, width in ((1, 2048), (2048, 6), (1, 332)):
        with pytest.raises(ValueError, match=f"picture of {width} × {height} px is too thin to be measured"):
            model.score_images([np.zeros((height, width, 3), np.uint8), np.zeros((300, 300, 3), np.uint8)])
    assert not seen
    # 225 × 74,475 and 225 × 65,829 px, below 2²⁴; a large picture is not enlarged, and never too thin.
    kept = [(1, 331, 3), (2048, 7, 3), (4097, 4097, 3), (225, 80_000, 3)]
    model.score_images([np.zeros(shape, np.uint8) for shape in kept])
    assert seen == kept
    # Statistics enlarge nothing.
    PyiqaQuality(REF, {}, metric="piqe").score_images([np.zeros((1, 2048, 3), np.uint8)])
    assert seen[-1] == (1, 2048, 3)


def test_pyiqa_survives_pickling(cnniqa: Path) -> None:
    model = PyiqaQuality(REF, {"checkpoint": cnniqa}, metric="cnniqa", batch_size=2, device="cpu")
    values = model.score_images(pictures())
    packed = pickle.dumps(model)
    assert len(packed) < 2000
    np.testing.assert_array_equal(pickle.loads(packed).score_images(pictures()), values)


@pytest.mark.parametrize("absent", ["pyiqa", "torchvision"])
def test_a_missing_library_says_how_to_get_it(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlitqc.models import libraries

    monkeypatch.setattr(libraries, "find_spec", lambda name: None if name == absent else object())
    with pytest.raises(
        ModelUnavailable, match=rf"the library {absent} is not installed; .*'vlitqc\[models\]'"
    ):
        PyiqaQuality(REF, {})
