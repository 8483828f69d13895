"""What models answered, and what people say about it: the prediction log, corrections, and the audit.

Must not know tasks: an answer and an example are JSON values here, a text is a fingerprint.

Start with `store.py` (`FeedbackStore`: corrections). Then read `predictions.py` (`PredictionStore`: the log, and which answers
were corrected), `correction.py` (which of several corrections with one id counts) and `audit.py` (texts that are held out to be
labelled).
"""
