"""Labelled text: files to examples, examples to token ids and labels, and those to batches of similar length."""

from ctx_models.data.batching import Batch, collate, plan_batches
from ctx_models.data.encoding import IGNORED, Dataset, Features, encode_examples, label_set
from ctx_models.data.reading import Example, LabelledText, PlainText, RetrievalPair, TaggedWords, read_examples
from ctx_models.heads import Task

__all__ = [
    "IGNORED",
    "Batch",
    "Dataset",
    "Example",
    "Features",
    "LabelledText",
    "PlainText",
    "RetrievalPair",
    "TaggedWords",
    "Task",
    "collate",
    "encode_examples",
    "label_set",
    "plan_batches",
    "read_examples",
]
