"""Wire dialects. Each module turns a request body into typed inputs and typed outputs into an answer body."""
