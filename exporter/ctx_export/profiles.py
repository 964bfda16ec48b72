"""Resource profiles from YAML: the shipped ones by name, any other by path. Each error names file, line and key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ctx_runtime.bucket import LocatedError
from ctx_runtime.errors import ResourceProfileError
from ctx_runtime.resource_profile import (
    BatchRange,
    BucketEntry,
    Overflow,
    ResourceProfile,
    RopeScaling,
    SubNetwork,
)

MAX_BYTES = 1 << 16
"""The largest profile file that is read."""
MAX_DEPTH = 8
"""The deepest nesting of a profile file."""

Key = tuple[str | int, ...]
"""Where a value stands: `("buckets", 1, "max_length")`; `()` is the whole file."""

_MODELS: Mapping[str, type[BaseModel]] = {
    "buckets": BucketEntry,
    "batch": BatchRange,
    "overflow": Overflow,
    "subnetwork": SubNetwork,
    "position_resolution": RopeScaling,
}


def load_profile(name_or_path: str | Path) -> ResourceProfile:
    """Load a resource profile.

    A text without a folder and without the ending `.yaml` or `.yml` is the name of a shipped profile, whatever stands
    in the working directory. Anything else is a path.

    Raises:
        ResourceProfileError: no such profile, or the file is not a sound one; the message is one line,
            `my.yaml:7: buckets.1.max_length: …`.
    """
    if isinstance(name_or_path, Path) or Path(name_or_path).suffix in {".yaml", ".yml"}:
        return _load_file(Path(name_or_path))
    if Path(name_or_path).name != name_or_path:
        return _load_file(Path(name_or_path))
    if name_or_path not in profile_names():
        close = get_close_matches(name_or_path, profile_names(), n=1)
        raise ResourceProfileError(
            f"no resource profile is named {name_or_path!r}",
            hint=f"{_did_you_mean(close)}shipped profiles: {', '.join(profile_names())}; a file of your own needs "
            f"the ending .yaml",
        )
    return _load_file(_shipped_folder() / f"{name_or_path}.yaml")


def profile_names() -> tuple[str, ...]:
    """The names of the shipped resource profiles, sorted."""
    return tuple(sorted(path.stem for path in _shipped_folder().glob("*.yaml")))


def _shipped_folder() -> Path:
    """Beside this file in an installed wheel, at the root of a checkout otherwise."""
    installed = Path(__file__).with_name("shipped_profiles")
    return installed if installed.is_dir() else Path(__file__).parents[2] / "profiles"


def _load_file(path: Path) -> ResourceProfile:
    text = _read_text(path)
    lines: dict[Key, int] = {}
    try:
        node = yaml.compose(text, Loader=_Loader)
        values = _construct(node, (), lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ResourceProfileError(f"{path}:{line}: {error.problem}", hint=error.note) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ResourceProfileError(f"{path}:{line}: {error.reason}") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise ResourceProfileError(
            f"{path}:1: expected the keys of a resource profile, got {found}",
            hint="the smallest profile is `name: x` and `buckets: [{max_length: 16}, {max_length: 48}]`",
        )
    try:
        return ResourceProfile.model_validate(values)
    except ValidationError as error:
        raise _describe(path, lines, error) from None


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ResourceProfileError(
            f"{path}: {reason}", hint=f"give a .yaml file, or one of {', '.join(profile_names())}"
        ) from None
    if len(data) > MAX_BYTES:
        raise ResourceProfileError(f"{path}: larger than {MAX_BYTES} bytes", hint="is this a resource profile?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ResourceProfileError(f"{path}: not a UTF-8 text file", hint="is this a resource profile?") from None


class _Loader(yaml.SafeLoader):
    """The part of YAML that a resource profile needs.

    No anchors, aliases or tags, little nesting, and plain words are texts: `off` is a sharing policy, not a boolean,
    and `010` is no octal number.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None or getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem="anchors, aliases and tags are not allowed",
                problem_mark=event.start_mark,
                note="write the value out, or set it once at the top for all buckets",
            )
        if self.depth == MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH}", problem_mark=event.start_mark)
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(0|[1-9][0-9]*)$"), [*"-0123456789"])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^-?[0-9]+(\.[0-9]*)?(e[-+]?[0-9]+)?$"), [*"-0123456789"]
)


def _construct(node: yaml.Node | None, key: Key, lines: dict[Key, int]) -> object:
    """The value of `node`; the line of each key, counted from 1, is added to `lines`."""
    if node is None:
        return None
    lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*key, index), lines) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(node, key, lines)
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except ValueError as error:
        raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from None


def _construct_mapping(node: yaml.MappingNode, key: Key, lines: dict[Key, int]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name_node, value_node in node.value:
        name = name_node.value
        if name_node.tag != "tag:yaml.org,2002:str":
            raise yaml.MarkedYAMLError(problem="expected a plain key", problem_mark=name_node.start_mark)
        if name in values:
            problem = f"{_dotted((*key, name))}: given twice"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=name_node.start_mark)
        lines[(*key, name)] = name_node.start_mark.line + 1
        values[name] = _construct(value_node, (*key, name), lines)
    return values


def _describe(path: Path, lines: Mapping[Key, int], error: ValidationError) -> ResourceProfileError:
    """The first problem in the file as one line, with how many more there are."""
    details = error.errors(include_url=False)
    holders = {detail["loc"][:end] for detail in details for end in range(len(detail["loc"]))}
    problems = sorted(
        (_problem(detail, lines) for detail in details if detail["loc"] not in holders),
        key=lambda problem: problem[0],
    )
    line, message, hint = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return ResourceProfileError(f"{path}:{line}: {message}{more}", hint=hint)


def _problem(details: Any, lines: Mapping[Key, int]) -> tuple[int, str, str | None]:  # noqa: ANN401
    """Line, message and hint of one of pydantic's error details."""
    key: Key = details["loc"]
    message, hint = details["msg"][0].lower() + details["msg"][1:], None
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, LocatedError):
        key = cause.key
    if isinstance(cause, ValueError):
        message = str(cause)
    elif details["type"] == "extra_forbidden":
        message, hint = "unknown key", _known_keys(key)
    elif details["type"] == "missing":
        message = "missing"
    else:
        message = f"{message}, got {_shorten(details['input'])}"
    line = next((lines[key[:end]] for end in range(len(key), -1, -1) if key[:end] in lines), 1)
    return line, f"{_dotted(key)}: {message}" if key else message, hint


def _known_keys(key: Key) -> str:
    """The hint for an unknown `key`: the closest known one, and all that may stand in its place."""
    parent = next((part for part in reversed(key[:-1]) if isinstance(part, str)), "")
    known = sorted(_MODELS.get(parent, ResourceProfile).model_fields)
    return f"{_did_you_mean(get_close_matches(str(key[-1]), known, n=1))}known keys: {', '.join(known)}"


def _dotted(key: Key) -> str:
    return ".".join(str(part) if str(part).isprintable() else repr(part) for part in key)


def _did_you_mean(close: list[str]) -> str:
    return f"did you mean {close[0]!r}? " if close else ""


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
