"""CLIP and SigLIP models of open_clip: pictures and texts in one space, from files on this machine.

Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, ICML 2021 (CLIP); Zhai
et al., *Sigmoid Loss for Language Image Pre-Training*, ICCV 2023 (SigLIP); Ilharco et al., *OpenCLIP*, 2021. A
cosine of two unit rows becomes a score on the model's own scale::

    CLIP     100 · cos                              unit "100·cosine", −100 to 100
    SigLIP   exp(logit_scale) · cos + logit_bias    unit "logit", unbounded; both numbers stand in the weights
"""

from __future__ import annotations

import json
import logging
import math
import pickle
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vlitqc.errors import ModelUnavailable
from vlitqc.media_tokens import strip_media_tokens
from vlitqc.models.batching import Passes
from vlitqc.models.libraries import need
from vlitqc.models.open_clip_tokens import BytePairs, HubTokens, Tokens
from vlitqc.models.sentence_pieces import fit, fits, split_sentences
from vlitqc.models.state_dict import why_unreadable
from vlitqc.models.torch_device import check_precision, torch_device
from vlitqc.types import FloatArray, ModelRef, Rgb, Scale

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
CONFIG = "open_clip_config.json"
FOLDER_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""The names under which a folder may hold its weights; the first that is there is read, as open_clip does."""

CLIP_SCALE = Scale("100·cosine", (-100.0, 100.0), True)
SIGLIP_SCALE = Scale(
    "logit", (-math.inf, math.inf), True, "Zhai et al. 2023 (SigLIP); VLIT review, section 4.1"
)

_HUB = "hf-hub:"
_HUB_FILES = ("*.json", "*.txt", "*.model", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TOKENIZER_FILES = {"tokenizer": "tokenizer.json", "tokenizer_config": "tokenizer_config.json"}
_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
_POSITIONS = ("visual.positional_embedding", "positional_embedding", "text.positional_embedding")
# A side this many times the other is first cut to its middle, which is all that a centre crop keeps: resized
# whole, a picture of 4,096 × 1 pixels would take hundreds of megabytes.
_NARROW = 32
# More at once gain nothing on one core of a CPU; on CUDA this is where the search begins.
_CPU_BATCH, _CUDA_BATCH = 8, 32
_CANNOT_READ = (
    OSError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    StopIteration,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


class _Config(NamedTuple):
    """``model`` and ``preprocess`` as in open_clip_config.json; ``name`` for messages."""

    name: str
    model: dict[str, Any]
    preprocess: dict[str, Any]

    @property
    def has_bias(self) -> bool:
        return self.model.get("init_logit_bias") is not None

    @property
    def hub_tokenizer(self) -> str | None:
        """The hub's name of the tokenizer; None: open_clip's own."""
        name: str | None = self.model["text_cfg"].get("hf_tokenizer_name") or None
        return name


@dataclass(frozen=True, slots=True)
class _Loaded:
    network: Any
    encode_tokens: Callable[[torch.Tensor], torch.Tensor]
    tokens: Tokens
    geometry: Sequence[Any]  # open_clip's transforms of a Pillow picture
    mean: Any
    std: Any
    passes: Passes
    device: str
    half: Any  # the dtype of autocast, or None
    logit_scale: float
    logit_bias: float


class OpenClip:
    """Image-text model over open_clip.

    Files by role, one of these three ways:

    * ``folder``: a snapshot of a hub repository made for open_clip: ``open_clip_config.json``, weights under one
      of ``FOLDER_WEIGHTS``, and the tokenizer's files where it is not open_clip's own.
    * ``checkpoint``: a state dict, ``.safetensors`` or ``.pt``, of the option ``architecture``; optionally of the
      tag ``pretrained``. ``tokenizer``: the folder of the tokenizer, or its ``tokenizer.json``, for
      architectures that need one.
    * ``checkpoint`` and ``config``: a JSON file of a model's configuration, in the layout of
      ``open_clip_config.json`` or of open_clip's ``model_configs``.

    Without files, ``sources`` says which files a tag of open_clip needs.

    Pictures pass through the model's own transforms. Their mean, standard deviation, interpolation and way of
    resizing come from the configuration or the tag; without either, from the architecture's tags where all
    agree, and else are open_clip's defaults. QuickGELU is used where the architecture or the tag says so.

    Media tokens are taken out of every text. Nothing of a text is cut off: one that is longer than the context
    counts as the mean of the unit vectors of its ``sentences``. Rows do not depend on the other pictures or
    texts of a call beyond float32 rounding.

    Weights are float32 and by default computed with as such on a CPU; on CUDA ``precision`` names the type of
    autocast. What autocast changes in a cosine, ``benchmarks/speed/pictures.py`` prints for the GPU at hand; CUDA
    was not run when this was written, and no number is claimed. Run were tiny random models of CLIP's and SigLIP's
    layouts, and none of the published weights. No socket is opened and no code that a folder carries is run.

    Args:
        ref: what the model is.
        files: see above.
        architecture: a name of open_clip's, such as ``ViT-B-32`` or ``ViT-B-16-SigLIP2-256``, or ``hf-hub:`` and
            a repository, for ``sources``.
        pretrained: a tag of open_clip for that architecture, such as ``openai``.
        precision: on CUDA, ``auto`` computes in bfloat16, or in float16 where the GPU has no bfloat16; ``bf16``,
            ``fp16`` and ``fp32`` as they say. On a CPU only ``bf16`` is other than float32: about twice
            as fast with AVX512_BF16 or AMX, and slower than float32 without. It changes 100·cosine by 0.04 on average
            and 0.2 at most (ViT-B/32 with random weights, whose scores have a standard deviation of 2.6), and more
            with convolutional towers.
        batch_size: pictures or texts in one pass; changes no number beyond rounding. By default 8 on a CPU, and on
            CUDA what trial finds fastest.
        threads: how many pictures are resized at once for a GPU; on a CPU the network's own threads resize.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        TypeError: options and files do not fit together.
        ModelUnavailable: open_clip or torchvision is not installed.
    """

    RUNTIME_OPTIONS = ("batch_size", "threads")
    FROM_WEIGHTS = ("line",)

    def __init__(
        self,
        ref: ModelRef,
        files: Mapping[str, Path],
        *,
        architecture: str | None = None,
        pretrained: str | None = None,
        precision: str = "auto",
        batch_size: int | None = None,
        threads: int = 4,
        device: str = "auto",
    ) -> None:
        for library in ("open_clip", "torchvision"):
            need(library, "vlitqc[models]")
        check_precision(precision, PRECISIONS)
        for name, value in (("batch_size", batch_size), ("threads", threads)):
            unset = name == "batch_size" and value is None
            if not unset and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise TypeError(f"{name} must be a whole number from 1; got {value!r}")
        _check_files(set(files), architecture, pretrained)
        self.ref = ref
        self._files = dict(files)
        self._architecture = architecture
        self._pretrained = pretrained
        self._precision = precision
        self._batch_size = batch_size
        self._threads = threads
        self._device_name = device
        self._lock = threading.RLock()
        self._config_read: _Config | None = None
        self._tokens: Tokens | None = None
        self._loaded: _Loaded | None = None
        if "folder" not in files and "config" not in files:
            assert architecture is not None
            self._config_read = _built_in(architecture)

    def __getstate__(self) -> dict[str, Any]:
        # Weights do not travel between processes, and a lock cannot.
        return {
            "ref": self.ref,
            "files": self._files,
            "architecture": self._architecture,
            "pretrained": self._pretrained,
            "precision": self._precision,
            "batch_size": self._batch_size,
            "threads": self._threads,
            "device": self._device_name,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @classmethod
    def sources(
        cls, *, architecture: str | None = None, pretrained: str | None = None, **_: Any
    ) -> list[dict[str, Any]]:
        """The hub files that an architecture and a tag of open_clip's own table need, in the words of a profile.

        Each has ``role``, ``hub`` (the repository), ``revision`` and ``path``; a whole repository
        (``architecture = "hf-hub:org/name"``) has ``patterns`` in place of ``path``. The table often names a
        repository without a file: then it is ``open_clip_model.safetensors`` for timm's, which publish that, and
        ``open_clip_pytorch_model.bin`` for others. Empty where open_clip is not installed.

        Raises TypeError for an architecture or tag that the table does not hold.
        """
        if architecture is not None and architecture.startswith(_HUB):
            hub = architecture.removeprefix(_HUB)
            return [{"role": "folder", "hub": hub, "revision": "main", "patterns": list(_HUB_FILES)}]
        if find_spec("open_clip") is None:
            return []
        if architecture is None or pretrained is None:
            raise TypeError(
                "name the files, or set the options architecture and pretrained to a tag of open_clip"
            )
        config = _built_in(architecture)
        place = str(_tag(architecture, pretrained)["hf_hub"])
        hub, name = place.rsplit("/", 1)
        name = name or (
            "open_clip_model.safetensors" if hub.startswith("timm/") else "open_clip_pytorch_model.bin"
        )
        wanted = [("checkpoint", hub, name)]
        if config.hub_tokenizer is not None:
            wanted += [(role, config.hub_tokenizer, path) for role, path in _TOKENIZER_FILES.items()]
        return [
            {"role": role, "hub": repository, "path": path, "revision": "main"}
            for role, repository, path in wanted
        ]

    @property
    def scale(self) -> Scale:
        """100·cosine, or the logit of a model that has a logit bias. Reads the configuration, not the weights.

        Raises ModelUnavailable where a configuration file cannot be read.
        """
        return SIGLIP_SCALE if self._config().has_bias else CLIP_SCALE

    def match(self, cosine: float) -> float:
        """100 · cosine, or the model's own logit; rises with the cosine. Raises what ``load`` raises."""
        if not self._config().has_bias:
            return 100.0 * cosine
        scale, bias = self.line()
        return scale * cosine + bias

    def line(self) -> tuple[float, float]:
        """Scale and bias of the model's logit. Raises what ``load`` raises."""
        at = self._ready()
        return at.logit_scale, at.logit_bias

    def load(self) -> None:
        """Read weights and tokenizer. Raises ModelUnavailable where they cannot be read or do not fit."""
        self._ready()

    def encode_images(self, images: Sequence[Rgb]) -> FloatArray:
        """Unit rows ``float32[n, d]``, in order. Raises what ``load`` raises."""
        import torch

        at = self._ready()

        def forward(pixels: torch.Tensor) -> torch.Tensor:
            inputs = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
            inputs.div_(255).sub_(at.mean).div_(at.std)
            with _autocast(at):
                return _unit(at.network.encode_image(inputs))

        return self._joined(
            at.passes.images(images, lambda image: _resize(at.geometry, image), forward, "image")
        )

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Unit rows ``float32[n, d]``, in order. Raises what ``load`` raises."""
        at = self._ready()
        stripped = [strip_media_tokens(text) for text in texts]
        distinct = list(dict.fromkeys(stripped))
        parts = [
            [text] if whole else self._pieces(at.tokens, split_sentences(text) or [text])
            for text, whole in zip(distinct, fits(distinct, at.tokens.room, at.tokens.count), strict=True)
        ]
        pieces = list(dict.fromkeys(chain.from_iterable(parts)))
        # Each pass may be cut to its longest, so like lengths go together; the most work comes first.
        lengths = dict(zip(pieces, at.tokens.count(pieces), strict=True))
        pieces.sort(key=lengths.__getitem__, reverse=True)

        def forward(part: slice) -> torch.Tensor:
            tokens = at.tokens.rows(pieces[part]).to(at.device)
            with _autocast(at):
                return _unit(at.encode_tokens(tokens))

        rows = at.passes.parts(len(pieces), forward, "text")
        encoded = dict(zip(pieces, self._joined(rows), strict=True))
        vectors = {
            text: _mean([encoded[piece] for piece in own]) for text, own in zip(distinct, parts, strict=True)
        }
        return np.stack([vectors[text] for text in stripped]) if stripped else self._joined([])

    def sentences(self, text: str) -> list[str]:
        """The sentences of ``text`` without media tokens; one longer than the context is cut between words.

        Every word is in exactly one piece, and every piece fits the context whole. A word that is itself longer
        than the context, or than 128 characters, is cut within. Reads the tokenizer, not the weights.
        """
        return self._pieces(self._words(), split_sentences(strip_media_tokens(text)))

    @staticmethod
    def _pieces(tokens: Tokens, texts: Sequence[str]) -> list[str]:
        return list(chain.from_iterable(fit(texts, tokens.room, tokens.count)))

    def _joined(self, rows: Sequence[torch.Tensor]) -> FloatArray:
        import torch

        if not rows:
            return np.empty((0, int(self._config().model["embed_dim"])), np.float32)
        joined: FloatArray = torch.cat(list(rows)).cpu().numpy()
        if not np.isfinite(joined).all():
            raise ModelUnavailable(
                f"{self._config().name} gives rows that are not finite: its weights are broken, or too large for "
                f"precision '{self._precision}'; try precision = 'fp32'"
            )
        return joined

    def _config(self) -> _Config:
        with self._lock:
            if self._config_read is None:
                path = self._files["config"] if "config" in self._files else self._files["folder"] / CONFIG
                self._config_read = _read_config(path)
            return self._config_read

    def _ready(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._read()
            return self._loaded

    def _read(self) -> _Loaded:
        import torch

        device = torch_device(self._device_name)
        config = self._config()
        weights = self._weights()
        shapes = _shapes(weights, config)
        try:
            network = _build(config, self._tag_config())
            _check_shapes(shapes, network, config, weights)
            _fill(network, weights)
            geometry, *colours = _transforms(network)
            mean, std = (torch.tensor(colour, device=device).view(3, 1, 1) for colour in colours)
        except _CANNOT_READ as error:
            raise ModelUnavailable(
                f"{weights} does not hold the weights of {config.name} ({_said(error)}); name the architecture "
                "that they were trained as, or another file"
            ) from error
        network = network.eval().requires_grad_(False).to(device)
        half = _half(self._precision, device)
        if device == "cpu":
            # Not the pictures': in float32 theirs take another way, which is as fast.
            _position_by_position(network.text if hasattr(network, "text") else network.transformer)
        if device == "cpu" and half is not None:
            _halve(network, half)
        bias = network.logit_bias
        return _Loaded(
            network,
            _token_encoder(network),
            self._words(),
            geometry,
            mean,
            std,
            Passes(device, cpu=_CPU_BATCH, cuda=_CUDA_BATCH, size=self._batch_size, threads=self._threads),
            device,
            half,
            float(network.logit_scale.detach().double().exp()),
            float(bias.detach()) if bias is not None else 0.0,
        )

    def _weights(self) -> Path:
        if "checkpoint" in self._files:
            return self._files["checkpoint"]
        folder = self._files["folder"]
        for name in FOLDER_WEIGHTS:
            if (folder / name).is_file():
                return folder / name
        raise ModelUnavailable(
            f"{folder} holds no weights under a name that open_clip knows ({', '.join(FOLDER_WEIGHTS[:3])}, …); "
            "get the whole repository, or name the file as a checkpoint"
        )

    def _tag_config(self) -> dict[str, Any]:
        """What the tag, or all tags of the architecture alike, say of pictures and of QuickGELU."""
        if "folder" in self._files or "config" in self._files or self._architecture is None:
            return {}
        if self._pretrained is not None:
            return _tag(self._architecture, self._pretrained)
        import open_clip

        name = self._architecture.replace("/", "-")
        found = [
            open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)
        ]
        alike = found and all(tag[key] == found[0][key] for tag in found for key in _PREPROCESSING)
        return {key: found[0][key] for key in _PREPROCESSING} if alike else {}

    def _words(self) -> Tokens:
        with self._lock:
            if self._tokens is None:
                self._tokens = self._tokenizer(self._config())
            return self._tokens

    def _tokenizer(self, config: _Config) -> Tokens:
        text = config.model["text_cfg"]
        # Masking leaves tokens out at random: a way to train, and no way to measure.
        kwargs = {k: v for k, v in (text.get("tokenizer_kwargs") or {}).items() if k != "reduction_mask"}
        context = text.get("context_length") or 77
        named = self._files.get("tokenizer", self._files.get("folder"))
        try:
            if config.hub_tokenizer is None:
                return BytePairs(context, kwargs)
            if named is None:
                raise ModelUnavailable(
                    f"{config.name} needs the tokenizer {config.hub_tokenizer}; add a file of role 'tokenizer' that "
                    "names its folder"
                )
            folder = named if named.is_dir() else named.parent
            if not (folder / "tokenizer_config.json").is_file():
                raise ModelUnavailable(
                    f"{folder} holds no tokenizer (no tokenizer_config.json); {config.name} needs that of "
                    f"{config.hub_tokenizer}"
                )
            return HubTokens(folder, context, text.get("tokenizer_mode"), kwargs)
        except _CANNOT_READ as error:
            raise ModelUnavailable(
                f"the tokenizer of {config.name} cannot be read ({_said(error)})"
            ) from error


# ---------------------------------------------------------------- configurations


def _check_files(roles: set[str], architecture: str | None, pretrained: str | None) -> None:
    unknown = roles - {"folder", "checkpoint", "config", *_TOKENIZER_FILES}
    if unknown:
        raise TypeError(
            f"no file has the role '{min(unknown)}'; known: checkpoint, config, folder, tokenizer"
        )
    if "folder" in roles:
        hub = architecture is not None and architecture.startswith(_HUB)
        if (
            roles & {"checkpoint", "config"}
            or pretrained is not None
            or (architecture is not None and not hub)
        ):
            raise TypeError(
                "a folder says itself what it holds; leave out checkpoint, config and the options"
            )
        return
    if "checkpoint" not in roles:
        raise TypeError(
            "needs a file of role 'checkpoint' or 'folder', or the options architecture and pretrained of a tag"
        )
    if ("config" in roles) == (architecture is not None):
        raise TypeError("a checkpoint needs either the option architecture or a file of role 'config'")
    if pretrained is not None and architecture is None:
        raise TypeError("the option pretrained goes with architecture")


def _built_in(architecture: str) -> _Config:
    """open_clip's configuration of that name, read without importing open_clip."""
    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations))) / "model_configs"
    path = folder / f"{architecture.replace('/', '-')}.json"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.json"))
        near = " or ".join(get_close_matches(architecture, known, n=3, cutoff=0.5)) or "ViT-B-32"
        raise TypeError(f"open_clip knows no architecture '{architecture}'; did you mean {near}?")
    try:
        return _config(architecture, json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise TypeError(f"architecture {architecture}: {error}") from error


def _read_config(path: Path) -> _Config:
    try:
        return _config(path.parent.name, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnavailable(
            f"{path} cannot be read as a configuration of open_clip ({error}); expected the keys embed_dim, "
            "vision_cfg and text_cfg, or these under model_cfg"
        ) from error


def _config(name: str, found: Any) -> _Config:
    """Checked to name nothing that would be fetched. Raises ValueError."""
    table = found if isinstance(found, dict) else {}
    model = table.get("model_cfg", table)
    preprocess = table.get("preprocess_cfg") or {}
    parts = model if isinstance(model, dict) else {}
    vision, text = parts.get("vision_cfg"), parts.get("text_cfg")
    width = parts.get("embed_dim")
    if not (isinstance(vision, dict) and isinstance(text, dict) and isinstance(preprocess, dict)):
        raise ValueError("it lacks vision_cfg or text_cfg")
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise ValueError(f"embed_dim is {width!r}")
    tower, timm = text.get("hf_model_name"), str(vision.get("timm_model_name") or "")
    if tower is not None and not Path(str(tower)).is_dir():
        raise ValueError(
            f"its text tower is '{tower}' of the hub, which is not read from there; put a local folder in its place"
        )
    if ":" in timm or "/" in timm:
        raise ValueError(f"its image tower '{timm}' is no name that timm builds without a hub")
    return _Config(name, parts, preprocess)


def _tag(architecture: str, pretrained: str) -> dict[str, Any]:
    """The row of open_clip's table. Raises TypeError where there is none."""
    import open_clip

    name = architecture.replace("/", "-")
    found: dict[str, Any] = open_clip.get_pretrained_cfg(name, pretrained)
    if not found:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise TypeError(f"open_clip has no weights '{pretrained}' of {architecture}; known: {known}")
    return found


# ---------------------------------------------------------------- weights


def _shapes(path: Path, config: _Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a checkpoint by name, without reading their values."""
    cure = "name a state dict (.safetensors or .pt)"
    if path.suffix not in SUFFIXES:
        raise ModelUnavailable(
            f"{path} is no file of weights that is read here ({', '.join(SUFFIXES)}); {cure}"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(path, framework="pt") as file:
                    shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            except SafetensorError as error:
                raise ValueError(str(error)) from error
        else:
            shapes = _pickled_shapes(path)
    except _CANNOT_READ as error:
        raise ModelUnavailable(
            f"{path} cannot be read as weights of {config.name} ({_said(error)}); {cure}"
        ) from error
    if not shapes:
        raise ModelUnavailable(f"{path} holds no tensors by name, so no weights of {config.name}; {cure}")
    if config.has_bias and "logit_bias" not in shapes:
        raise ModelUnavailable(
            f"{path} holds no logit_bias, which {config.name} is scored with; {cure} of that model"
        )
    return shapes


def _pickled_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    import torch

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ValueError(
                    "a TorchScript archive, which carries code and is not run; OpenAI's models are published as "
                    "plain weights too, for instance timm/vit_base_patch32_clip_224.openai"
                )
    found = torch.load(path, map_location="meta", weights_only=True)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    items = found.items() if isinstance(found, dict) else ()
    tensors = {str(key).removeprefix("module."): value for key, value in items}
    return {key: tuple(value.shape) for key, value in tensors.items() if isinstance(value, torch.Tensor)}


def _build(config: _Config, tag: Mapping[str, Any]) -> Any:
    """The network with random weights, by open_clip's route for local folders."""
    import open_clip

    model = dict(config.model)
    if tag.get("quick_gelu"):
        model["quick_gelu"] = True
    preprocess = {**{key: tag[key] for key in _PREPROCESSING if key in tag}, **config.preprocess}
    with TemporaryDirectory() as folder, _quiet_log():
        table = json.dumps({"model_cfg": model, "preprocess_cfg": preprocess})
        (Path(folder) / CONFIG).write_text(table, encoding="utf-8")
        return open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], network: Any, config: _Config, path: Path) -> None:
    """Positions of another number would be stretched to fit without a word: weights of another resolution."""
    own = {key: tuple(value.shape) for key, value in network.state_dict().items() if key in _POSITIONS}
    for key, shape in own.items():
        if key in shapes and shapes[key] != shape:
            raise ModelUnavailable(
                f"{path} does not hold the weights of {config.name}: {key} is {list(shapes[key])} instead of "
                f"{list(shape)}, so they are of another resolution or context; name their own architecture"
            )


def _fill(network: Any, path: Path) -> None:
    import open_clip
    from safetensors import SafetensorError

    try:
        with _quiet_log():
            open_clip.load_checkpoint(network, str(path), strict=True, weights_only=True)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Keep open_clip's lines out of the log: "initialized randomly" is true of a moment only.

    It logs by the root logger, whose first use would also set up a handler for the whole process.
    """

    def is_another(record: logging.LogRecord) -> bool:
        return Path(record.pathname).parent.name != "open_clip"

    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    logging.root.addFilter(is_another)
    try:
        yield
    finally:
        logging.root.removeFilter(is_another)
        logging.root.removeHandler(handler)


def _said(error: BaseException) -> str:
    """The first words of an error: that of a state dict names every tensor."""
    if isinstance(error, pickle.UnpicklingError):
        return why_unreadable(error)
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300]}{'…' if len(words) > 300 else ''}"


# ---------------------------------------------------------------- computing


def _transforms(network: Any) -> tuple[list[Any], Sequence[float], Sequence[float]]:
    """open_clip's transforms for inference: those of a Pillow picture, then mean and standard deviation."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = PreprocessCfg(**network.visual.preprocess_cfg)
    *geometry, _, normalize = image_transform_v2(config, is_train=False).transforms
    return geometry, normalize.mean, normalize.std


def _resize(geometry: Sequence[Any], image: Rgb) -> Rgb:
    """``uint8[side, side, 3]``."""
    from PIL import Image as Pillow

    height, width = image.shape[:2]
    if max(height, width) > _NARROW * min(height, width) and any(
        type(step).__name__ == "CenterCrop" for step in geometry
    ):
        spare = max(height, width) - _NARROW * min(height, width)
        cut = slice(spare // 2, max(height, width) - spare // 2)
        image = image[cut] if height > width else image[:, cut]
    picture = Pillow.fromarray(np.ascontiguousarray(image))
    for step in geometry:
        picture = _keeping_ratio(step, picture) if type(step).__name__ == "ResizeKeepRatio" else step(picture)
    return np.asarray(picture)


def _keeping_ratio(step: Any, picture: Any) -> Any:
    """As the step itself does, and at least 1 pixel wide and high: it would round a thin picture away."""
    from torchvision.transforms.functional import resize

    sides = step.get_params(picture, step.size, step.longest)
    return resize(picture, [max(1, side) for side in sides], step.interpolation)


def _token_encoder(network: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """``network.encode_text``, without the positions that cannot change its rows.

    Under a causal mask a position sees none behind it, and the tower gives its end mark's position alone: what follows
    the last end mark of all texts is padding. open_clip's own forward takes nothing but the whole context.
    """
    import torch
    from open_clip.model import CLIP
    from open_clip.transformer import TextTransformer, text_global_pool

    if isinstance(network, CLIP):
        tower, pool, end = network, network.text_pool_type, network.text_eos_id
    elif isinstance(network.text, TextTransformer) and network.text.cls_emb is None:
        tower, pool, end = network.text, network.text.pool_type, network.text.eos_id
    else:
        tower = None
    if tower is None or tower.attn_mask is None:
        encode: Callable[[torch.Tensor], torch.Tensor] = network.encode_text
        return encode

    def encode_to_the_end(tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        length = int(text_global_pool(positions, tokens, pool, end).max()) + 1
        tokens = tokens[:, :length]
        kind = tower.transformer.get_cast_dtype()
        x: torch.Tensor = tower.token_embedding(tokens).to(kind)
        x = x + tower.positional_embedding[:length].to(kind)
        x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
        x = text_global_pool(tower.ln_final(x), tokens, pool, end)
        projection = tower.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, torch.nn.Linear) else x @ projection
        return x

    return encode_to_the_end


def _position_by_position(tower: Any) -> None:
    """Let open_clip's layers hold a position of all items after another, which is an option of their own.

    Item by item, torch multiplies the rows of each item by a copy of attention's weights made for it.
    """
    from open_clip.transformer import ResidualAttentionBlock, Transformer

    for layers in tower.modules():
        # Another version of open_clip may have no such option.
        if type(layers) is Transformer and all(
            type(block) is ResidualAttentionBlock
            and getattr(layers, "batch_first", None) is block.attn.batch_first is True
            for block in layers.resblocks
        ):
            layers.batch_first = False
            for block in layers.resblocks:
                block.attn.batch_first = False


def _halve(network: Any, half: torch.dtype) -> None:
    """Cast the weights of products once, which autocast would do at every pass; the rest stays float32.

    So do the sums that go from layer to layer through open_clip's own towers, which halves what a cosine changes.
    """
    from open_clip.transformer import Transformer
    from torch.nn import Conv2d, Linear, MultiheadAttention

    for module in network.modules():
        # A convolution that standardizes its weights does so in float32.
        if isinstance(module, Linear | MultiheadAttention) or type(module) is Conv2d:
            for weights in module.parameters(recurse=False):
                weights.data = weights.data.to(half)
        elif type(module) is Transformer:
            module.register_forward_pre_hook(lambda _, given: (given[0].float(), *given[1:]))
    _position_by_position(network)


def _half(precision: str, device: str) -> Any:
    import torch

    if precision == "fp32" or (device == "cpu" and precision != "bf16"):
        return None
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return torch.bfloat16 if precision == "bf16" else torch.float16


def _autocast(at: _Loaded) -> AbstractContextManager[Any]:
    import torch

    return nullcontext() if at.half is None else torch.autocast(at.device, dtype=at.half)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import normalize

    return normalize(rows.float(), dim=-1)


def _mean(rows: Sequence[FloatArray]) -> FloatArray:
    """The unit vector of the mean; a single row stays as it is."""
    if len(rows) == 1:
        return rows[0]
    mean = np.mean(rows, axis=0, dtype=np.float64)
    length = max(float(np.linalg.norm(mean)), float(np.finfo(np.float32).tiny))
    return np.asarray(mean / length, np.float32)
