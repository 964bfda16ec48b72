"""Proves the graphs of a decoder bundle against PyTorch: prompts and greedy tokens, at the edges of every bucket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctx_export.decoding.reference import ReferenceText, read_ahead, write_reference
from ctx_export.decoding.rotary import rescaled
from ctx_export.parity import BucketProof
from ctx_export.sources.causal import CausalSource
from ctx_runtime.backends.onnxruntime import OrtSession
from ctx_runtime.decoder import DecoderRecord
from ctx_runtime.generation.stepping import Stepper
from ctx_runtime.manifest import BucketRecord, InputSpec, OutputSpec, Tolerance
from ctx_runtime.parity import ParityCase, compare
from ctx_runtime.resource_profile import RopeScaling

_STAGGER = 5
"""Tokens by which the rows of a batch differ."""


def interface(decoder: DecoderRecord, pad_id: int) -> tuple[InputSpec, OutputSpec]:
    """What a decoder bundle takes and gives, beside its cache."""
    ids = InputSpec(name="input_ids", dtype="int64", shape=("batch", "length"), pad=pad_id, role="tokens")
    return ids, OutputSpec(name="logits", dtype="float32", shape=("batch", decoder.vocab_size), fusion="mean")


def write_references(source: CausalSource, records: Sequence[BucketRecord]) -> dict[RopeScaling | None, ReferenceText]:
    """PyTorch's text for the buckets of each rotary scaling, as long as the longest of them."""
    scalings = dict.fromkeys(map(scaling_of, records))
    texts: dict[RopeScaling | None, ReferenceText] = {}
    for scaling in scalings:
        edges = [edge for record in records if scaling_of(record) == scaling for edge in edges_of(record)]
        with rescaled(source.model, scaling) if scaling is not None else contextlib.nullcontext():
            texts[scaling] = write_reference(source.model, edges, avoid=source.eos_token_ids)
    return texts


def scaling_of(record: BucketRecord) -> RopeScaling | None:
    """The rotary scaling of a bucket, if it has one of its own."""
    return record.subnetwork.position_resolution if record.subnetwork is not None else None


def edges_of(record: BucketRecord) -> tuple[int, ...]:
    """The lengths that a bucket is proven at."""
    return tuple(sorted({record.min_length, record.max_length}))


@dataclass(frozen=True)
class DecoderProver:
    """Runs the graphs of the bundle at `root` over texts that PyTorch has written."""

    root: Path
    decoder: DecoderRecord
    pad_id: int

    def prove(self, record: BucketRecord, text: ReferenceText) -> BucketProof:
        """Read the text in chunks up to each edge, then token by token over the last 16, in the bucket's own cache.

        Where the bucket takes batches, rows of different length are run together too.
        """
        proof = BucketProof()
        with contextlib.closing(OrtSession(self.root / record.graph, threads=record.threads)) as session:
            alone, at = self._stepper(session, record, batch=1), 0
            for index, edge in enumerate(edges_of(record)):
                logits = alone.read(text.ids[at:edge])
                expected = text.rows(range(edge + 1 - len(logits), edge + 1))
                proof.cases.append(self._compare(record, expected, logits, (edge,)))
                proof.golden |= _golden(index, text, edge)
                at = edge
            if record.batch.max > 1 and record.min_length == 1:
                proof.cases += self._prove_batch(session, record, text)
        return proof

    def _prove_batch(self, session: OrtSession, record: BucketRecord, text: ReferenceText) -> Iterator[ParityCase]:
        """Rows of different length, then one more token for each."""
        longest = record.max_length - 1
        lengths = sorted({max(1, read_ahead(record.max_length), longest - _STAGGER * row) for row in range(3)})
        batch = self._stepper(session, record, batch=len(lengths))
        for read, rows in ((0, [text.ids[:n] for n in lengths]), (1, [text.ids[n : n + 1] for n in lengths])):
            after = tuple(length + read for length in lengths)
            yield self._compare(record, text.rows(after), batch.step(rows), after)

    def _stepper(self, session: OrtSession, record: BucketRecord, *, batch: int) -> Stepper:
        return Stepper(
            lambda feeds: session.run(feeds, bucket=record.name),
            session.inputs,
            self.decoder,
            capacity=record.max_length,
            batch=batch,
        )

    def _compare(
        self, record: BucketRecord, expected: np.ndarray, actual: np.ndarray, lengths: tuple[int, ...]
    ) -> ParityCase:
        return compare_logits(self.decoder, self.pad_id, record.name, record.tolerance, expected, actual, lengths)


def compare_logits(
    decoder: DecoderRecord,
    pad_id: int,
    bucket: str,
    tolerance: Tolerance,
    expected: np.ndarray,
    actual: np.ndarray,
    lengths: tuple[int, ...],
) -> ParityCase:
    """Compare logits `(n, vocab)`; `top1` of the case is the share of equal greedy tokens."""
    case = compare(
        {"logits": expected},
        {"logits": actual},
        outputs=interface(decoder, pad_id)[1:],
        bucket=bucket,
        form="masked",
        lengths=[max(lengths)] * len(expected),
        padded_to=max(lengths),
        tolerance=tolerance,
    )
    return case.model_copy(update={"lengths": lengths})


def _golden(index: int, text: ReferenceText, edge: int) -> dict[str, np.ndarray]:
    return {
        f"case{index}.in.input_ids": np.array([text.ids[:edge]], np.int64),
        f"case{index}.out.logits": text.rows([edge]),
        f"case{index}.lengths": np.array([edge], np.int64),
    }
