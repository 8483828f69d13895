"""Wire protocols of the replica. Each module parses a request body into typed inputs and renders typed outputs as an answer.

Knows neither HTTP nor the batcher. Start with `huggingface`. A new protocol is a module of its own with the same functions;
`services.replica.http` calls it under a path of its own.
"""
