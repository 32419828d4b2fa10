"""State dicts of torch networks: read without unpickling code, and fitted to a network exactly."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlitqc.errors import ModelUnavailable

if TYPE_CHECKING:
    import torch

# What torch.load raises on files that are cut off, are something else, or ask for code to be run.
UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    AttributeError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    MemoryError,
)
_DTYPES = frozenset(
    {"float16", "bfloat16", "float32", "float64", "bool", "uint8", "int8", "int16", "int32", "int64"}
)


def read_state_dict(path: Path, what: str, cure: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    A dict under the key ``params`` or ``state_dict`` is taken for them, and the prefix ``module.`` that training
    on several GPUs leaves is dropped. The file is read with ``weights_only``. ``what`` names what it should be
    and ``cure`` says what to do, for the message of the ModelUnavailable that any other file raises.
    """
    import torch

    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ModelUnavailable(
            f"{path} cannot be read as weights of {what} ({why_unreadable(error)}); {cure}"
        ) from error
    for key in ("params", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found:
        raise ModelUnavailable(f"{path} holds {_kind(found)}, not the weights of {what}; {cure}")
    tensors = {str(key).removeprefix("module."): value for key, value in found.items()}
    wrong = [key for key, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise ModelUnavailable(
            f"{path} holds more than tensors ({_some(wrong)}), so it is no state dict of {what}; {cure}"
        )
    return tensors


def why_unreadable(error: Exception) -> str:
    """What an error at reading a file says, in one line."""
    if isinstance(error, pickle.UnpicklingError):
        # torch's own words tell how to unpickle the file all the same.
        return "it is damaged, or holds other things than tensors"
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no details'])[0]}"


def fit(
    network: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path, what: str, cure: str
) -> None:
    """Load ``state`` into ``network``, every tensor of both.

    Raises ModelUnavailable that names the first three tensors that are missing, unexpected or of another shape,
    or what ``check_values`` raises.
    """
    check_values(state, path, what, cure)
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    reshaped = [
        f"{key} {list(state[key].shape)} instead of {list(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    faults = [
        f"{word}: {_some(keys)}"
        for word, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if keys
    ]
    if faults:
        raise ModelUnavailable(
            f"{path} holds {len(state)} tensors that do not fit the {len(wanted)} of {what} "
            f"({'; '.join(faults)}); {cure}"
        )
    network.load_state_dict(state)


def check_values(state: Mapping[str, torch.Tensor], path: Path, what: str, cure: str) -> None:
    """Raise ModelUnavailable unless every tensor is dense and of finite real numbers."""
    import torch

    other = [
        key
        for key, value in state.items()
        # A nested tensor has no one shape, and calls its layout that of a dense one.
        if value.layout != torch.strided
        or value.is_nested
        or value.is_meta
        or str(value.dtype).removeprefix("torch.") not in _DTYPES
    ]
    if other:
        raise ModelUnavailable(
            f"{path} holds tensors that are not of real numbers one by one, but sparse, complex, quantized or "
            f"without values ({_some(other)}), which {what} cannot take; {cure}"
        )
    broken = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ModelUnavailable(f"{path} holds weights that are not finite ({_some(broken)}); {cure}")


def _kind(found: object) -> str:
    return "nothing" if isinstance(found, Mapping) else f"a {type(found).__name__}"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
