"""``baton.yaml`` as pydantic models: defaults, checks, error messages and the JSON Schema for editors.

Must not know Ray, HTTP, the registry or the storage. Reads no environment variables itself: entry points pass a mapping.

Start with `file.py` (`load_config`, and `BatonConfig`, the whole file). Then read `model_settings.py` (one model) and
`training_settings.py` (its key `training`). The description of each field is the documentation that editors show. `changes.py`
compares two configurations.
"""
