"""`ctx-runtime`: inspect, run, generate, explain and verify a bundle on the device, without PyTorch."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctx_runtime import __version__
from ctx_runtime.backends.tensorrt import misfit_here
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import CtxError, InputError
from ctx_runtime.generation.ladder import Ladder
from ctx_runtime.generation_cli import add_commands
from ctx_runtime.golden import verify
from ctx_runtime.manifest import Manifest
from ctx_runtime.printing import print_json, print_line, print_table
from ctx_runtime.results import Result
from ctx_runtime.runtime import Runtime
from ctx_runtime.serving.cli import add_command as add_serve
from ctx_runtime.stats_cli import add_command as add_stats

_MAX_PRINTED = 1024
"""Outputs of more numbers are not printed by `run --json`; --output writes them all."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a check failed, 2 bad input or a missing part."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("default", RuntimeWarning)
            status: int = options.command(options)
        sys.stderr.writelines(f"warning: {warning.message}\n" for warning in told)
    except KeyboardInterrupt:
        sys.stderr.write("cancelled\n")
        status = 130
    except CtxError as error:
        if options.debug:
            raise
        sys.stderr.write(f"error: {error}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        if options.json:
            print_json({"error": {"kind": type(error).__name__, "message": str(error), "hint": error.hint}})
        status = error.exit_code
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ctx-runtime", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True)
    _command(commands, "inspect", _inspect, "Show what is in a bundle: buckets, inputs, outputs, engines, sizes.", "")
    run = _command(commands, "run", _run, "Run text or arrays of any length.", '--text "Call me Ishmael."')
    source = run.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", action="append", help="a text; may be given more than once")
    source.add_argument(
        "--text-file", type=Path, action="append", help="a UTF-8 text file; may be given more than once"
    )
    source.add_argument("--input", type=Path, help="an .npz with one array an input, (batch, length, …) or (length, …)")
    run.add_argument("--output", type=Path, help="write the outputs to this .npz")
    explain = _command(commands, "explain", _explain, "Say where an input would run, and why.", "--length 3000")
    explain.add_argument("--length", type=int, required=True, help="in tokens")
    explain.add_argument("--batch", type=int, default=1, help="rows of this length (default 1)")
    add_commands(functools.partial(_command, commands))
    serve = add_serve(functools.partial(_command, commands))
    for command in (run, explain, serve):
        command.add_argument("--min-quality", type=float, help="the least quality that an input is run with")
    add_stats(functools.partial(_command, commands))
    _command(commands, "verify", _verify, "Prove the bundle on this device from its golden vectors.", "")
    return parser


def _command(
    commands: Any,  # noqa: ANN401 (argparse keeps the class of subparsers to itself)
    name: str,
    command: Callable[[argparse.Namespace], int],
    description: str,
    example: str,
) -> argparse.ArgumentParser:
    epilog = f"example: ctx-runtime {name} minilm.bundle {example}".rstrip()
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=description, description=description, epilog=epilog
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on stdout")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(command=command)
    return parser


def _inspect(options: argparse.Namespace) -> int:
    bundle = Bundle.open(options.bundle)
    manifest = bundle.manifest
    if options.json:
        misfits = {engine.file: misfit_here(engine) for engine in manifest.engines}
        stated = {"bundle": str(bundle.root), "manifest": manifest.model_dump(mode="json"), "misfits": misfits}
        print_json(stated if manifest.decoder is None else stated | {"memory": _memory(manifest)})
        return 0
    total = sum(record.bytes for record in manifest.files)
    print_line(f"{manifest.name}: {manifest.task}, {total / 1e6:.1f} MB, {manifest.source.kind}")
    specs = [("input", spec) for spec in manifest.inputs] + [("output", spec) for spec in manifest.outputs]
    print_table(
        ("tensor", "name", "dtype", "shape"),
        ((kind, spec.name, spec.dtype, f"({', '.join(map(str, spec.shape))})") for kind, spec in specs),
    )
    print_table(
        ("bucket", "tokens", "batch", "network", "backends", "graph"),
        (
            (
                bucket.name,
                f"{bucket.min_length}..{bucket.max_length}",
                f"{bucket.batch.min}..{bucket.batch.max}",
                bucket.network,
                ", ".join(bucket.backends),
                bucket.graph,
            )
            for bucket in manifest.buckets
        ),
    )
    for engine in manifest.engines:
        buckets = ", ".join(engine.optimization_profiles)
        print_line(
            f"engine {engine.file}: {engine.backend} {engine.library_version}, {', '.join(engine.targets)}; {buckets}"
        )
        misfit = misfit_here(engine)
        print_line("  fits this machine" if misfit is None else f"  does not fit this machine: {misfit}")
    if manifest.decoder is not None:
        _print_decoder(manifest)
        return 0
    overflow = manifest.overflow
    pooling = "fused by the model" if manifest.fusion is not None else overflow.fusion
    print_line(f"longer than {manifest.max_length} tokens: {overflow.policy}, overlap {overflow.overlap}, {pooling}")
    if manifest.quality:
        _print_quality(manifest)
    return 0


def _memory(manifest: Manifest) -> dict[str, int]:
    """Bytes that one text takes in each bucket of a causal language model, beside the weights."""
    return {bucket.name: Ladder(manifest).bytes_in(bucket) for bucket in manifest.buckets}


def _print_decoder(manifest: Manifest) -> None:
    decoder = manifest.decoder
    assert decoder is not None  # noqa: S101 (the caller has looked)
    print_table(
        ("bucket", "memory of one text"),
        ((name, f"{bytes_taken / 1e6:.1f} MB") for name, bytes_taken in _memory(manifest).items()),
    )
    ways = {"sliding": f"old tokens leave, the first {decoder.sinks} stay", "error": "refused"}
    print_line(f"longer than {manifest.max_length} tokens: {ways[manifest.overflow.policy]}")
    template = "none" if decoder.chat_template is None else decoder.chat_template
    print_line(f"prompts in chunks of {decoder.chunk} tokens, chat template: {template}")


def _print_quality(manifest: Manifest) -> None:
    print_table(
        ("tokens", "network", "quality", "examples", "ms"),
        (
            (
                f"{record.min_length}..{record.max_length}",
                record.network,
                f"{record.metric} {record.value:.4g}",
                record.examples,
                "-" if record.latency_ms is None else f"{record.latency_ms:.4g}",
            )
            for record in manifest.quality
        ),
    )
    if manifest.min_quality is not None:
        print_line(f"an input runs where the quality at its length is at least {manifest.min_quality:g}")


def _run(options: argparse.Namespace) -> int:
    with Runtime.open(options.bundle, min_quality=options.min_quality) as runtime:
        results = _results(runtime, options)
    outputs = _gathered(results)
    if options.output is not None:
        _save(options.output, outputs)
    dispatch = [row for result in results for row in result.dispatch]
    if options.json:
        described = {name: _described(array) for name, array in outputs.items()}
        print_json({"outputs": described, "dispatch": [row._asdict() for row in dispatch]})
        return 0
    print_table(
        ("length", "bucket", "backend", "padding", "segments", "ms", "reason"),
        (
            (row.length, row.bucket, row.backend, row.padding, row.segments, f"{row.ms:.1f}", row.reason)
            for row in dispatch
        ),
    )
    print_table(
        ("output", "dtype", "shape", "first values"),
        (
            (name, array.dtype, array.shape, " ".join(f"{value:.4g}" for value in array.ravel()[:4]))
            for name, array in outputs.items()
        ),
    )
    return 0


def _explain(options: argparse.Namespace) -> int:
    with Runtime.open(options.bundle, min_quality=options.min_quality) as runtime:
        explanation = runtime.explain(options.length, batch=options.batch)
    if options.json:
        print_json(dataclasses.asdict(explanation))
    else:
        print_table(dataclasses.asdict(explanation), [dataclasses.astuple(explanation)])
    return 0


def _verify(options: argparse.Namespace) -> int:
    report = verify(options.bundle)
    if options.json:
        cases = [case.to_json() for case in report.cases]
        print_json({"passed": report.passed, "unverified": report.unverified, "cases": cases})
    else:
        print_table(
            ("bucket", "graph", "lengths", "max abs", "allowed", "cosine", "parity"),
            (
                (
                    case.bucket,
                    case.form,
                    ", ".join(map(str, case.lengths)),
                    f"{case.max_abs:.2e}",
                    f"{case.tolerance.max_abs:.0e}",
                    f"{case.cosine:.6f}",
                    "pass" if case.passed else "FAIL",
                )
                for case in report.cases
            ),
        )
        for bucket, reason in report.unverified.items():
            print_line(f"{bucket} is unverified: {reason}")
    return 0 if report.passed else 1


def _results(runtime: Runtime, options: argparse.Namespace) -> list[Result]:
    if options.input is not None:
        return [runtime.run(_load(options.input))]
    texts: list[str] = options.text or [_read_text(path) for path in options.text_file]
    return runtime.run_text(texts)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read as UTF-8 text: {error}") from error


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive.items())
    except Exception as error:  # numpy has no class of its own for a file that is not an npz
        raise InputError(f"{path} is not an .npz of plain arrays: {error}") from error


def _save(path: Path, outputs: dict[str, np.ndarray]) -> None:
    try:
        with path.open("wb") as file:
            np.savez(file, **outputs)  # type: ignore[arg-type]
    except OSError as error:
        raise InputError(f"{path} can't be written: {error}") from error


def _gathered(results: Sequence[Result]) -> dict[str, np.ndarray]:
    """Outputs of one result by name; of several texts stacked where shapes agree, else as `name.0`, `name.1`."""
    if len(results) == 1:
        return results[0].outputs
    gathered: dict[str, np.ndarray] = {}
    for name in results[0].outputs:
        arrays = [result.outputs[name] for result in results]
        if len({array.shape for array in arrays}) == 1:
            gathered[name] = np.stack(arrays)
        else:
            gathered |= {f"{name}.{index}": array for index, array in enumerate(arrays)}
    return gathered


def _described(array: np.ndarray) -> dict[str, object]:
    described: dict[str, object] = {"shape": list(array.shape), "dtype": str(array.dtype)}
    if array.size <= _MAX_PRINTED and np.isfinite(array).all():
        described["values"] = array.tolist()
    return described


if __name__ == "__main__":
    main()
