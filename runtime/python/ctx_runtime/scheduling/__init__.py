"""Submitted requests: queued by bucket and length, batched, and run by worker threads; see docs/scheduling.md."""
