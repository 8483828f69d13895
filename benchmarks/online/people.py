"""Simulated people who label what the audit draws, whatever the model answered."""

from __future__ import annotations

import threading
from types import TracebackType

from baton.text.normal_form import normalise
from benchmarks.online.scenario import Rows
from benchmarks.service import MODEL
from services.client import Client

PAUSE_SECONDS = 2.0


class People:
    """Label every text that the audit draws with its truth in ``rows``, during a ``with`` block and once more at its end."""

    def __init__(self, client: Client, rows: Rows) -> None:
        self._client = client
        self._truth = {normalise(row["text"]): row["label"] for row in rows}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.labels = 0
        """How many labels they gave."""

    def __enter__(self) -> People:
        self._thread.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._label()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_SECONDS):
            self._label()

    def _label(self) -> None:
        items = self._client.get(f"/api/models/{MODEL}/audit", limit=500)["items"]
        labels = [{"id": item["id"], "label": self._truth[normalise(item["text"])]} for item in items]
        if labels:
            self.labels += self._client.post(f"/api/models/{MODEL}/audit", labels)["labelled"]
