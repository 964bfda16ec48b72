"""Causal language models: one decoder graph for prefill, chunks and decode, and the forms that backends run fastest."""
