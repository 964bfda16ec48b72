"""The engines of bench_traffic.py: each turns requests of all-MiniLM-L6-v2 into sentence embeddings.

Usage: encoder_engines.py ENGINE MODEL [BUNDLE], which is then asked over its pipes.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from engines import Answer, serve, timed

CLS, SEP, TOKEN_BUDGET, PEER_BATCH = 101, 102, 512, 32
Embed = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Embeds token ids `(length,)` of some requests: `(requests, 384)`, in their order."""
Submit = Callable[[np.ndarray, Callable[[], None]], None]
"""Takes a request, and calls back when its embedding is there."""


class Ways(NamedTuple):
    """How an engine takes requests: all at once, by the name of the way, and one by one as they come."""

    embed: Mapping[str, Embed]
    submit: Submit


def main() -> None:
    engine, model = sys.argv[1:3]
    words = whole_words(Path(model))
    serve(lambda: handlers(ENGINES[engine](*sys.argv[2:]), words))


def handlers(ways: Ways, words: np.ndarray) -> dict[str, Callable[..., Answer]]:
    def throughput(way: str, lengths: Sequence[int], seed: int) -> Answer:
        rows = requests(lengths, seed, words)
        embeddings, times = timed(lambda: ways.embed[way](rows))
        return times | {"begins": embeddings[:4, :8].tolist()}

    def latency(lengths: Sequence[int], seed: int, rate: float) -> Answer:
        rows = requests(lengths, seed, words)
        arrivals = np.random.default_rng(seed).exponential(1 / rate, len(rows)).cumsum()
        return {"seconds": open_loop(ways.submit, rows, arrivals).tolist()}

    return {"throughput": throughput, "latency": latency}


def whole_words(model: Path) -> np.ndarray:
    """The ids of plain words, which the tokenizer gives back when it reads them."""
    vocabulary = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    return np.array(
        [index for word, index in vocabulary.items() if word.isascii() and word.isalpha() and len(word) > 2]
    )


def requests(lengths: Sequence[int], seed: int, words: np.ndarray) -> list[np.ndarray]:
    """Token ids `(length,)` of a request of each length, framed by the special tokens."""
    random = np.random.default_rng(seed)
    return [np.array([CLS, *random.choice(words, length - 2), SEP]) for length in lengths]


def open_loop(submit: Submit, rows: Sequence[np.ndarray], arrivals: np.ndarray) -> np.ndarray:
    """Seconds `(requests,)` from the moment when each was to arrive to its answer: none waits for the one before."""
    finished, left = np.zeros(len(rows)), threading.Semaphore(0)

    def done(index: int) -> None:
        finished[index] = time.perf_counter()
        left.release()

    started = time.perf_counter()
    for index, (row, arrival) in enumerate(zip(rows, arrivals, strict=True)):
        time.sleep(max(0.0, started + arrival - time.perf_counter()))
        submit(row, partial(done, index))
    for _ in rows:
        left.acquire()
    return finished - started - arrivals


def loop(embed: Embed, *, most: int) -> Submit:
    """A plain server: one thread takes what waits, at most `most` requests, and embeds it."""
    waiting: queue.SimpleQueue[tuple[np.ndarray, Callable[[], None]]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            batch = [waiting.get()]
            while len(batch) < most and not waiting.empty():
                batch.append(waiting.get())
            embed([row for row, _ in batch])
            for _, done in batch:
                done()

    threading.Thread(target=work, daemon=True).start()
    return lambda row, done: waiting.put((row, done))


def ctx_export(_model: str, bundle: str) -> Ways:
    """Our scheduler, and the very session that it opened, fed with the shortest first, those of one length together."""
    from ctx_runtime import Runtime
    from ctx_runtime.scheduling.settings import Scheduling

    runtime = Runtime.open(bundle, share_weights="off", scheduling=Scheduling(workers=1))
    with runtime._dispatcher.session(runtime.bundle.manifest.buckets[0], "unmasked") as opened:
        session = opened._session  # type: ignore[attr-defined]
    names = [output.name for output in session.get_outputs()]

    def scheduled(rows: Sequence[np.ndarray]) -> np.ndarray:
        futures = [runtime.submit({"input_ids": row}) for row in rows]
        return np.array([future.result().outputs["sentence_embedding"] for future in futures])

    def bare(rows: Sequence[np.ndarray]) -> np.ndarray:
        embeddings = np.empty((len(rows), 384), np.float32)
        for members in equally_long(rows):
            ids = np.stack([rows[index] for index in members])
            outputs = session.run(names, {"input_ids": ids, "token_type_ids": np.zeros_like(ids)})
            embeddings[members] = outputs[names.index("sentence_embedding")]
        return embeddings

    def submit(row: np.ndarray, done: Callable[[], None]) -> None:
        runtime.submit({"input_ids": row}).add_done_callback(lambda _: done())

    return Ways({"submit": scheduled, "bare": bare}, submit)


def equally_long(rows: Sequence[np.ndarray]) -> Iterator[list[int]]:
    """The indices of rows of one length, shortest first, in batches of at most 512 tokens or one row."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    for length, group in groupby(order, key=lambda index: len(rows[index])):
        members, most = list(group), max(1, TOKEN_BUDGET // length)
        for start in range(0, len(members), most):
            yield members[start : start + most]


def optimum(model: str) -> Ways:
    """optimum-onnx's model: in batches of 32 as they come, or one by one, shortest first; as a server one by one."""
    import onnxruntime
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    network = ORTModelForFeatureExtraction.from_pretrained(model, export=True, session_options=options)

    def in_batches(rows: Sequence[np.ndarray]) -> np.ndarray:
        batches = [rows[start : start + PEER_BATCH] for start in range(0, len(rows), PEER_BATCH)]
        return np.concatenate([pooled(network, batch) for batch in batches])

    alone = one_by_one(lambda row: pooled(network, [row])[0])
    return Ways({"batches of 32": in_batches, "one by one": alone}, loop(alone, most=1))


def one_by_one(embed: Callable[[np.ndarray], np.ndarray]) -> Embed:
    """Embeds one request after the other, shortest first."""

    def shortest_first(rows: Sequence[np.ndarray]) -> np.ndarray:
        embeddings = np.empty((len(rows), 384), np.float32)
        for index in sorted(range(len(rows)), key=lambda index: len(rows[index])):
            embeddings[index] = embed(rows[index])
        return embeddings

    return shortest_first


def transformers_eager(model: str) -> Ways:
    """The model of transformers, not compiled, one request at a time, as its documentation advises for a CPU."""
    import torch
    from transformers import AutoModel

    torch.set_num_threads(1)
    network = AutoModel.from_pretrained(model, attn_implementation="sdpa").eval()

    def embed(row: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return pooled(network, [row])[0]

    return Ways({"one by one": one_by_one(embed)}, loop(one_by_one(embed), most=1))


def pooled(network: Any, rows: Sequence[np.ndarray]) -> np.ndarray:
    """The normalised means of the last hidden states, `(rows, 384)`; rows are padded to the longest."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor(np.stack([np.pad(row, (0, longest - len(row))) for row in rows]))
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    hidden = network(input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids)).last_hidden_state
    means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(means).numpy()


def sentence_transformers(model: str) -> Ways:
    """`encode`, which sorts by length, in batches of 2, its best here: its usual 32 took twice the time.

    It takes text, so that it tokenizes as well.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    network = SentenceTransformer(model, device="cpu")
    network.max_seq_length = 512
    words = np.array(network.tokenizer.convert_ids_to_tokens(range(len(network.tokenizer))))

    def encode(rows: Sequence[np.ndarray]) -> np.ndarray:
        return network.encode([" ".join(words[row[1:-1]]) for row in rows], batch_size=2)

    return Ways({"encode": encode}, loop(encode, most=PEER_BATCH))


def openvino(model: str) -> Ways:
    """OpenVINO on PyTorch's model, one request at a time, shortest first."""
    import openvino
    import torch
    from transformers import AutoModel

    network = AutoModel.from_pretrained(model, attn_implementation="sdpa").eval()
    example = {name: torch.ones((2, 8), dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.compile_model(openvino.convert_model(network, example_input=example), "CPU", settings)
    run = compiled.create_infer_request()

    def embed(row: np.ndarray) -> np.ndarray:
        ids = row[None]
        mean = run.infer({"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0].mean(0)
        return mean / np.linalg.norm(mean)

    return Ways({"one by one": one_by_one(embed)}, loop(one_by_one(embed), most=1))


ENGINES: dict[str, Callable[..., Ways]] = {
    "ctx-export": ctx_export,
    "optimum-onnx": optimum,
    "transformers": transformers_eager,
    "sentence-transformers": sentence_transformers,
    "OpenVINO": openvino,
}

if __name__ == "__main__":
    main()
