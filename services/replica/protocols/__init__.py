"""Wire dialects of the replica. Each module reads a request body into typed inputs and renders typed outputs as an answer.

Knows neither HTTP nor the batcher. Start with `dialect`, what each of them is, and `huggingface`, the default one. A new one is
a module of its own with a constant ``DIALECT``; `services.replica.endpoints` gives it a path.
"""
