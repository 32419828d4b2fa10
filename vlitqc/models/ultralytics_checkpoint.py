"""Ultralytics' checkpoints: pickles of whole modules, read without calling anything that the file names.

``torch.load(weights_only=True)`` builds only what is on a list, but what is on it may be called with the file's own
arguments, and building a model of ultralytics from a description evaluates parts of that description as code. So
every name on the list stands for an empty shell while the file is read. The modules are then made of the shells by
hand: no constructor runs, attributes are plain data, parameters and buffers are tensors.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlitqc.errors import ModelUnavailable
from vlitqc.models.state_dict import UNREADABLE

if TYPE_CHECKING:
    import torch

_TORCH_MODULES = (
    "activation.GELU", "activation.Hardswish", "activation.LeakyReLU", "activation.ReLU", "activation.ReLU6",
    "activation.Sigmoid", "activation.SiLU", "batchnorm.BatchNorm2d", "container.ModuleList",
    "container.Sequential", "conv.Conv2d", "linear.Identity", "linear.Linear", "normalization.LayerNorm",
    "pooling.AdaptiveMaxPool2d", "pooling.MaxPool2d", "upsampling.Upsample",
)  # fmt: skip
_ULTRALYTICS_MODULES = (
    "block.BNContrastiveHead", "block.Bottleneck", "block.C2f", "block.C2fAttn", "block.ContrastiveHead",
    "block.DFL", "block.ImagePoolingAttn", "block.MaxSigmoidAttnBlock", "block.SPPF", "conv.Concat", "conv.Conv",
    "conv.DWConv", "head.WorldDetect",
)  # fmt: skip
MODEL = "ultralytics.nn.tasks.WorldModel"
MODULES = frozenset(
    {MODEL}
    | {f"torch.nn.modules.{name}" for name in _TORCH_MODULES}
    | {f"ultralytics.nn.modules.{name}" for name in _ULTRALYTICS_MODULES}
)
"""What a YOLO-World model is made of."""

DATA = frozenset(
    {
        "ultralytics.utils.IterableSimpleNamespace",
        "ultralytics.yolo.utils.IterableSimpleNamespace",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        *(f"{home}.{kind}Path" for home in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")),
    }
)
"""What else stands in a checkpoint: settings and results of the training. It is let in and left aside."""

# The list of what torch lets in belongs to the whole process.
_lock = threading.Lock()


class Shell:
    """An object of the file before anything is made of it: its attributes, and by its class the name it had."""

    named = ""

    def __new__(cls, *_: Any) -> Shell:
        """An empty shell, whatever the file would give the constructor."""
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        """Nothing."""

    def __setstate__(self, state: Any) -> None:
        # numpy's types store theirs as a tuple, which is of no use here.
        if isinstance(state, dict):
            vars(self).update(state)


def read_checkpoint(path: Path, what: str, cure: str) -> Shell | dict[str, torch.Tensor]:
    """The model in a checkpoint as a tree of shells, or the tensors of a plain state dict.

    A checkpoint is a dict with the model under ``ema`` or ``model``. ``what`` and ``cure`` are for the message of
    the ModelUnavailable that any other file raises; a name that is not let in is told.
    """
    import torch

    try:
        with _lock, _nothing_let_in():
            needed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            foreign = sorted(set(needed) - MODULES - DATA)
            if foreign:
                raise ModelUnavailable(
                    f"{path} asks for {foreign[0]}, which a checkpoint of {what} has no use for, "
                    f"so it is not read; {cure}"
                )
            shells: list[Any] = [(type("Shell", (Shell,), {"named": name}), name) for name in needed]
            with torch.serialization.safe_globals(shells):
                found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise _unreadable(path, what, cure, error) from error
    if isinstance(found, Mapping):
        for key in ("ema", "model"):
            if isinstance(found.get(key), Shell):
                return found[key]  # type: ignore[no-any-return]
        if found and all(isinstance(value, torch.Tensor) for value in found.values()):
            return {str(key): value for key, value in found.items()}
    raise ModelUnavailable(f"{path} holds neither a model of {what} nor a state dict; {cure}")


def rebuilt(shell: Shell, path: Path, what: str, cure: str) -> torch.nn.Module:
    """The WorldModel of a tree of shells, every module as the file has it.

    Raises ModelUnavailable where the tree is of another model or is broken.
    """
    if _name(shell) != MODEL:
        raise ModelUnavailable(f"{path} holds a {_name(shell)}, not a model of {what}; {cure}")
    try:
        return _module(shell, {})
    except (*UNREADABLE, RecursionError) as error:
        raise _unreadable(path, what, cure, error) from error


@contextlib.contextmanager
def _nothing_let_in() -> Iterator[None]:
    """Sets aside what others have put on torch's list: real classes would be built from it, and not shells."""
    import torch

    listed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(listed)


def _module(shell: Shell, made: dict[int, torch.nn.Module]) -> torch.nn.Module:
    import torch

    if id(shell) in made:
        return made[id(shell)]
    path = _name(shell)
    if path not in MODULES:
        raise TypeError(f"a {path} stands in the place of a module")
    # Torch and ultralytics have imported the homes of all that MODULES names.
    home, _, name = path.rpartition(".")
    kind: type[torch.nn.Module] = getattr(sys.modules[home], name)
    module = kind.__new__(kind)
    torch.nn.Module.__init__(module)
    made[id(shell)] = module
    # Hooks and the like are torch's own; the file has no say in them.
    own = set(vars(module))
    state = vars(shell)
    for key, value in state.items():
        if key not in own and not callable(getattr(kind, key, None)) and _is_plain(value):
            vars(module)[str(key)] = value
    module.training = False
    module._non_persistent_buffers_set = {str(key) for key in state.get("_non_persistent_buffers_set", ())}
    for key, value in state.get("_parameters", {}).items():
        tensor = None if value is None else torch.nn.Parameter(_tensor(value), requires_grad=False)
        module.register_parameter(key, tensor)
    for key, value in state.get("_buffers", {}).items():
        persistent = key not in module._non_persistent_buffers_set
        module.register_buffer(key, None if value is None else _tensor(value), persistent=persistent)
    for key, value in state.get("_modules", {}).items():
        module._modules[str(key)] = None if value is None else _module(value, made)
    return module


def _name(shell: Any) -> str:
    # Of the class: an attribute of the same name is the file's to set.
    return type(shell).named if isinstance(shell, Shell) else type(shell).__name__


def _tensor(value: Any) -> torch.Tensor:
    import torch

    if not isinstance(value, torch.Tensor):
        raise TypeError(f"a {type(value).__name__} stands in the place of a tensor")
    found = value.detach()
    return found.float() if found.is_floating_point() else found


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is data: numbers, texts, tensors, and lists and tables of them."""
    import torch

    if depth > 20:
        raise ValueError("lists within lists without end")
    if isinstance(value, (list, tuple, set)):
        return all(_is_plain(item, depth + 1) for item in value)
    if type(value) in (dict, OrderedDict):
        return all(_is_plain(item, depth + 1) for pair in value.items() for item in pair)
    return value is None or isinstance(value, (bool, int, float, str, torch.Tensor))


def _unreadable(path: Path, what: str, cure: str, error: BaseException) -> ModelUnavailable:
    said = (str(error).splitlines() or [""])[0]
    return ModelUnavailable(
        f"{path} cannot be read as a checkpoint of {what} ({type(error).__name__}: {said}); {cure}"
    )
