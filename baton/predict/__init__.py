"""Runs a loaded version on inputs: encode, forward passes, decode.

Evaluation and serving use the same code, so that a version answers as it was evaluated. The room must not import the registry,
Ray, or a library that runs models: it reaches models through `baton.engines`.

Start with `predictor` (`Predictor.load`, `predict`), then `packing`, which groups windows into forward passes.
"""
