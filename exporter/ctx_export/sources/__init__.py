"""Where a model comes from.

A Hugging Face folder, the folder of a length-adaptive model, a safetensors checkpoint with a factory, or a module in
Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ctx_export.sources import huggingface, modules
from ctx_export.sources.adaptive import is_checkpoint, load_adaptive
from ctx_export.sources.source import Source, one_line
from ctx_runtime.errors import SourceError

__all__ = ["Source", "load_source"]

_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


def load_source(
    model: str | Path | torch.nn.Module,
    *,
    task: str | None = None,
    name: str | None = None,
    factory: str | None = None,
    example_inputs: Mapping[str, torch.Tensor] | None = None,
    allow_pickle: bool = False,
) -> Source:
    """Load a model in float32, without network and without running code that came with it.

    Args:
        model: a Hugging Face folder, or the id of a model in the local cache; the folder of a length-adaptive model; a
            `.safetensors` checkpoint (with `factory`); or a module (with `example_inputs`).
        task: what a Hugging Face model does; by default what the `architectures` of its configuration say. For a
            module, a word for the manifest.
        name: the bundle's name; by default the folder's, the file's or the class's.
        factory: `package.module:function`; the function takes nothing and returns `(module, example_inputs)`. It is
            looked up in the current folder too.
        example_inputs: one tensor `(batch, length, …)` for each input of a module's forward, by name. Axis 1 of an
            input is its length where it has the size of the first input's axis 1. An integer `attention_mask` or
            `mask` of shape `(batch, length)` is 1 on real tokens and 0 on padding; a boolean one is True on real
            tokens. The values show what the integer inputs may hold; 0 pads.
        allow_pickle: load the weights of a Hugging Face folder from `pytorch_model.bin` where there is no
            `model.safetensors`.

    Raises:
        SourceError: the model can't be loaded; the message and its hint say why.
    """
    if isinstance(model, torch.nn.Module):
        if example_inputs is None or factory is not None:
            raise SourceError("a module needs example_inputs and no factory", hint="one tensor for each input, by name")
        return modules.load_module(model, example_inputs, task=task, name=name)
    path = _to_path(model)
    if path.suffix in _PICKLES:
        raise SourceError(f"{path} is a pickle, which can run code", hint="save the weights as .safetensors")
    if path.suffix == ".safetensors":
        if factory is None:
            raise SourceError(f"{path} holds weights only", hint="say what makes the module: --factory module:function")
        return modules.load_checkpoint(path, factory, example_inputs, task=task, name=name)
    if factory is not None or example_inputs is not None:
        raise SourceError(
            "factory and example_inputs go with a .safetensors checkpoint or a module",
            hint=f"leave them out to load the folder {model}",
        )
    if is_checkpoint(path):
        return load_adaptive(path, task=task, name=name)
    return huggingface.load_pretrained(model, task=task, name=name, allow_pickle=allow_pickle)


def _to_path(model: str | Path) -> Path:
    """`model` as a path that the file system can be asked for."""
    try:
        path = Path(model).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, nobody's home, a NUL
        raise SourceError(f"{str(model)[:80]!r} is no path: {one_line(error)[:80]}", hint="check the path") from error
    return path
