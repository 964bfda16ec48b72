"""Plain modules, given in Python or made by a factory for a safetensors checkpoint."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError

from ctx_export.sources.source import Source, Values, clean_name, describe_outputs, dtype_of, one_line
from ctx_runtime.errors import SourceError
from ctx_runtime.manifest import InputSpec, SourceRecord, SpecialTokens

_ROLES: Mapping[str, Literal["tokens", "mask", "segment-ids"]] = {
    "input_ids": "tokens",
    "attention_mask": "mask",
    "mask": "mask",
    "token_type_ids": "segment-ids",
}
"""What integer inputs `(batch, length)` of these names hold."""
_SHOWN = 4
"""Names in an error before it says how many more there are."""


class NamedOutputs(torch.nn.Module):
    """A module whose forward returns a dict, whatever the wrapped one returns.

    A single tensor becomes `output0`, the tensors of a tuple `output0`, `output1`, …; a dict keeps its keys.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs by name.

        Raises:
            SourceError: an output is no tensor.
        """
        result: Any = self.module(**inputs)
        if isinstance(result, torch.Tensor):
            result = (result,)
        named = result if isinstance(result, Mapping) else {f"output{i}": value for i, value in enumerate(result)}
        for name, value in named.items():
            if not isinstance(value, torch.Tensor):
                raise SourceError(
                    f"output {name!r} is {type(value).__name__}, not a tensor", hint="return a tensor, tuple or dict"
                )
        return dict(named)


def load_module(
    module: torch.nn.Module,
    example_inputs: Mapping[str, torch.Tensor],
    *,
    task: str | None = None,
    name: str | None = None,
    kind: Literal["module", "safetensors"] = "module",
) -> Source:
    """Describe a module by its example inputs and by running it; see `load_source` for the arguments.

    Raises:
        SourceError: the inputs or outputs can't be described, or forward fails at another batch or length.
    """
    inputs = _describe_inputs(example_inputs)
    values = {
        spec.name: Values(int(tensor.min()), int(tensor.max()))
        for spec in inputs
        if not (tensor := example_inputs[spec.name]).is_floating_point()
    }
    length = next(iter(example_inputs.values())).shape[1]
    wrapped = NamedOutputs(module).eval()
    return Source(
        name=clean_name(name or type(module).__name__),
        task=clean_name(task or "custom"),
        record=SourceRecord(kind=kind, sha256=module_digest(module)),
        module=wrapped,
        inputs=inputs,
        outputs=describe_outputs(wrapped, inputs, values, lengths=(length, length // 2 or 2)),
        max_length=None,
        special_tokens=SpecialTokens(),
        tokenizer=None,
        via="torch",
        values=values,
    )


def load_checkpoint(
    path: Path,
    factory: str,
    example_inputs: Mapping[str, torch.Tensor] | None,
    *,
    task: str | None = None,
    name: str | None = None,
) -> Source:
    """Fill the module that `factory` makes with the weights at `path`; see `load_source` for the arguments.

    Raises:
        SourceError: the file is no safetensors file, the factory can't be called, or its module has other weights.
    """
    if not path.is_file():
        raise SourceError(f"no file {path}", hint="give a .safetensors checkpoint")
    made = _call_factory(factory)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module)):
        raise SourceError(
            f"the factory {factory} returned {type(made).__name__}",
            hint="return (module, example_inputs), with one tensor (batch, length, …) for each input",
        )
    module, examples = made
    try:
        missing, unexpected = safetensors.torch.load_model(module, path, strict=False)
    except safetensors.SafetensorError as error:
        raise SourceError(f"{path} is not a sound safetensors file: {error}", hint="save or copy it again") from error
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise SourceError(
            f"{path} does not fit the module of {factory}: {lines[min(1, len(lines) - 1)]}",
            hint="the factory must make the module that the checkpoint was saved from",
        ) from error
    if missing or unexpected:
        raise SourceError(
            f"{path} does not fit the module of {factory}: missing {_shown(missing)}; unexpected {_shown(unexpected)}",
            hint="the factory must make the module that the checkpoint was saved from",
        )
    return load_module(module, example_inputs or examples, task=task, name=name or path.stem, kind="safetensors")


def _call_factory(factory: str) -> object:
    """What `module:function` returns; the module is looked up in the current folder too."""
    module_name, _, function_name = factory.partition(":")
    if not module_name or not function_name:
        raise SourceError(f"{factory!r} is not module:function", hint="for example --factory my_package.model:create")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        function: Callable[[], object] = getattr(importlib.import_module(module_name), function_name)
        return function()
    except Exception as error:  # whatever the user's code may raise
        raise SourceError(
            f"the factory {factory} fails: {type(error).__name__}: {one_line(error)}",
            hint="it must be importable and callable without arguments",
        ) from error
    finally:
        sys.path.remove(here)


def _shown(names: list[str] | set[str]) -> str:
    """Some names in one line: `a, b, c, d and 3 more`."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return (", ".join(ordered[:_SHOWN]) or "none") + more


def _describe_inputs(example_inputs: Mapping[str, torch.Tensor]) -> tuple[InputSpec, ...]:
    """The inputs of a module, by one example of each."""
    if not example_inputs or not all(isinstance(tensor, torch.Tensor) for tensor in example_inputs.values()):
        raise SourceError("example_inputs are empty or not all tensors", hint="give one tensor for each input, by name")
    first_name, first = next(iter(example_inputs.items()))
    if first.ndim < 2 or 0 in first.shape:
        raise SourceError(
            f"the first example input {first_name!r} has the shape {tuple(first.shape)}",
            hint="its axes are (batch, length, …); put the input that has them first",
        )
    taken: set[str] = set()
    specs: list[InputSpec] = []
    for name, tensor in example_inputs.items():
        if tensor.ndim == 0 or tensor.shape[0] != first.shape[0] or 0 in tensor.shape:
            raise SourceError(
                f"example input {name!r} has the shape {tuple(tensor.shape)}, not ({first.shape[0]}, …)",
                hint="axis 0 of every input is the batch",
            )
        shape: list[int | Literal["batch", "length"]] = ["batch", *tensor.shape[1:]]
        if tensor.ndim > 1 and tensor.shape[1] == first.shape[1]:
            shape[1] = "length"
        role = None if tensor.is_floating_point() or shape != ["batch", "length"] else _ROLES.get(name)
        if role in taken:
            role = None
        taken.add(role or "")
        pad = 0.0 if tensor.is_floating_point() else 0
        dtype = dtype_of(f"example input {name!r}", tensor)
        try:
            specs.append(InputSpec(name=name, dtype=dtype, shape=tuple(shape), pad=pad, role=role or "data"))
        except ValidationError as error:
            raise SourceError(f"input {name!r}: {error.errors()[0]['msg']}", hint="use another name or shape") from None
    return tuple(specs)


def module_digest(module: torch.nn.Module) -> str:
    """The sha256 of what a module computes.

    It covers the name, dtype, shape and bytes of every parameter and buffer; and, for every submodule, its class, its
    plain attributes and, outside PyTorch, the source file of its class and its forward. Functions that they take from
    other files are not seen.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict(keep_vars=True).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    classes: set[type] = set()
    for name, submodule in module.named_modules():
        plain = {key: value for key, value in sorted(vars(submodule).items()) if _is_plain(value)}
        kind = type(submodule)
        digest.update(f"{name} {kind.__module__}.{kind.__qualname__} {plain}\n".encode())
        classes.add(kind)
    for code in sorted({_code(kind) for kind in classes}):
        digest.update(code)
    return digest.hexdigest()


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _code(kind: type[torch.nn.Module]) -> bytes:
    """The source file of a class, if there is one, and the byte code of its forward."""
    if kind.__module__.split(".")[0] == "torch":
        return torch.__version__.encode()
    try:
        source = Path(inspect.getfile(kind)).read_bytes()
    except (OSError, TypeError):  # typed at a prompt
        source = b""
    code = getattr(kind.forward, "__code__", None)
    if code is None:
        return source
    constants = [constant for constant in code.co_consts if _is_plain(constant)]
    compiled: bytes = code.co_code
    return source + compiled + repr((code.co_names, constants)).encode()
