"""The data plane: one replica of one model, which answers predictions and takes over new versions.

It must not import the control plane, and knows no other replica: it meets the rest of Baton in the registry and the storage.

Start with `replica` (the deployment class and the hand-over between versions). A request then goes through `http` (which finds
its path in `endpoints` and answers it), `request_body` and `protocols` (bodies), `routing` and `answer_cache` (who answers it),
`queues` (where it waits, or is refused) and `batching` (the model's thread), and is counted in `telemetry` and recorded in
`prediction_log`.
"""
