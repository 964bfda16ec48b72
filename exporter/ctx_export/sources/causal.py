"""Causal language models in the Hugging Face format, with the tokens that texts begin and end with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from ctx_export.sources.folder import PICKLES, digest, find_folder, read_json, weight_files
from ctx_export.sources.huggingface import Task, load_model, quiet, read_config
from ctx_export.sources.source import clean_name
from ctx_export.sources.tokenizing import FILES, read_tokenizer
from ctx_runtime.errors import SourceError
from ctx_runtime.manifest import SourceRecord

TASK = "text-generation"
_CAUSAL = Task("ForCausalLM", "AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING", ("logits",))
_TEMPLATE = "chat_template.jinja"
_SETTINGS = ("config.json", "generation_config.json", _TEMPLATE, *FILES)


@dataclass(frozen=True, eq=False)
class CausalSource:
    """A causal language model with all that its export, its proof and its bundle need.

    Attributes:
        name: the bundle's name, unless the user gives another.
        record: where it came from, and the sha256 of its weights and configuration.
        model: of transformers, in float32 and eval mode.
        max_length: the longest text that its positions were made for, in tokens; None: no bound.
        rotary: its positions go on without end; else a table of them ends with `max_length`.
        tokenizer: a `tokenizer.json`, None for a model without.
        chat_template: a Jinja template of messages, None for a model without.
        pad_id: what fills a row of a batch.
        bos_token_id: what a text begins with; None: nothing.
        eos_token_ids: what ends a text.
    """

    name: str
    record: SourceRecord
    model: Any
    max_length: int | None
    rotary: bool
    tokenizer: Path | None
    chat_template: str | None
    pad_id: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]


def generates(model: object, task: str | None) -> bool:
    """Whether `model` is to be taken as a causal language model: so says the task, else its configuration."""
    if task is not None:
        return task == TASK
    if not isinstance(model, str | Path) or Path(model).suffix == ".safetensors":
        return False
    folder = find_folder(model)
    named = read_json(folder / "config.json", dict).get("architectures") if (folder / "config.json").is_file() else None
    known = set(transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return isinstance(named, list) and bool(named) and named[0] in known and not str(named[0]).startswith("Bert")


@quiet()
def load_causal(model: str | Path, *, name: str | None = None, allow_pickle: bool = False) -> CausalSource:
    """Load a causal language model from a folder or from the local cache, without running code that came with it.

    Raises:
        SourceError: it is no model, or none that generates; its files are damaged or pickles.
    """
    folder = find_folder(model)
    config = read_config(folder)
    weights = weight_files(folder, allow_pickle=allow_pickle)
    pretrained = load_model(folder, config, TASK, _CAUSAL, pickled=weights[0].name in PICKLES).eval()
    tokenizer = read_tokenizer(folder)
    ends = _ends(pretrained)
    settings = [path for file in _SETTINGS if (path := folder / file).is_file()]
    pads = (tokenizer.pad_id if tokenizer else None, config.pad_token_id, *ends, 0)
    return CausalSource(
        name=clean_name(name or (folder.name if Path(model).is_dir() else str(model))),
        record=SourceRecord(kind="huggingface", sha256=digest(folder, [*weights, *settings])),
        model=pretrained,
        max_length=getattr(config, "max_position_embeddings", None),
        rotary=bool(getattr(config, "rope_parameters", None)),
        tokenizer=tokenizer.file if tokenizer else None,
        chat_template=_chat_template(folder),
        pad_id=next(pad for pad in pads if pad is not None),
        bos_token_id=config.bos_token_id if tokenizer is None else next(iter(tokenizer.special_tokens.prefix), None),
        eos_token_ids=ends,
    )


def _ends(model: Any) -> tuple[int, ...]:  # noqa: ANN401 (transformers has no types)
    """The tokens that end a text: those of the generation settings, else of the configuration."""
    for settings in (getattr(model, "generation_config", None), model.config):
        ends = getattr(settings, "eos_token_id", None)
        if isinstance(ends, int):
            return (ends,)
        if isinstance(ends, Iterable):
            return tuple(map(int, ends))
    return ()


def _chat_template(folder: Path) -> str | None:
    """The template of messages: a file of its own, else the default one of the tokenizer's configuration."""
    if (folder / _TEMPLATE).is_file():
        return (folder / _TEMPLATE).read_text(encoding="utf-8")
    if not (folder / "tokenizer_config.json").is_file():
        return None
    template = read_json(folder / "tokenizer_config.json", dict).get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise SourceError(f"the chat template of {folder.name} is not a text", hint="copy or download it again")
    return template
