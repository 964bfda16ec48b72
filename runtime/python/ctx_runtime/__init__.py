"""The run side of ctx-export: open a bundle, give it inputs of any length, get answers."""

__version__ = "0.1.0"
