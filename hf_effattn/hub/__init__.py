"""Exports a model as a checkpoint that carries its own code, verifies that it loads anywhere, and publishes it."""
