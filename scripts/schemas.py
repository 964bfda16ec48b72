"""Writes the JSON schemas of the manifest and of resource profiles from the classes that read them.

Usage: python scripts/schemas.py [--check]    (--check: write nothing, fail if a file is not what it would be)
"""

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from ctx_runtime.manifest import Manifest
from ctx_runtime.resource_profile import ResourceProfile

FOLDER = Path(__file__).parent.parent / "runtime"
SCHEMAS: dict[str, type[BaseModel]] = {"manifest.schema.json": Manifest, "profile.schema.json": ResourceProfile}


def main(arguments: list[str]) -> int:
    """Write the schemas, or with `--check` name those that are not current; 1 if there is one."""
    if arguments == ["--check"]:
        stale = [name for name, text in generate().items() if not is_current(FOLDER / name, text)]
        for name in stale:
            print(f"runtime/{name} is not current: python scripts/schemas.py")
        return 1 if stale else 0
    for name, text in generate().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


def generate() -> dict[str, str]:
    """The text of each schema by file name."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {
        name: json.dumps(dialect | model.model_json_schema(mode="validation"), indent=2, sort_keys=True) + "\n"
        for name, model in SCHEMAS.items()
    }


def is_current(path: Path, text: str) -> bool:
    """Whether the file is there and holds `text`."""
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
