"""The console as a browser sees it, without one: cookies are kept, forms carry what their page gave them."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import Any

from starlette.testclient import TestClient

from baton.keys import Scope
from services.console.pages import TOKEN_FIELD
from services.control.api.app import build_api
from tests.control.test_api import nothing
from tests.support.local_control import LocalControl


class Browser:
    """One visitor of the console of a control plane."""

    def __init__(self, control: LocalControl, application: Any = None, **headers: str) -> None:
        self.control, self.registry = control, control.registry
        self.application = application or build_api(control, nothing)
        self.client = TestClient(
            self.application,
            base_url="http://localhost",
            headers=headers,
            follow_redirects=False,
            raise_server_exceptions=False,
        )
        self._page = ""

    def get(self, path: str, **options: Any) -> Any:
        answer = self.client.get(path, **options)
        self._page = answer.text or self._page
        return answer

    def text(self, path: str) -> str:
        """What a page that can be seen says, without its markup."""
        answer = self.get(path)
        assert answer.status_code == 200, (path, answer.status_code, words(answer.text))
        return words(answer.text)

    def post(self, path: str, *, page: str | None = None, **fields: Any) -> Any:
        """Send a form with the token of ``page``, by default of the last one."""
        if page is not None:
            self.get(page)
        return self.client.post(path, data={TOKEN_FIELD: self.form_token, **fields})

    @property
    def form_token(self) -> str:
        found = re.search(rf'name="{TOKEN_FIELD}" value="(\w+)"', self._page)
        assert found is not None, "the last page has no form"
        return found[1]

    def log_in(self, key: str, **fields: Any) -> Any:
        return self.post("/console/login", page="/", key=key, next="/", **fields)


def words(page: str) -> str:
    """The words of a page, with single spaces."""
    body = re.sub(r"(?s)<head>.*?</head>|<title>.*?</title>", " ", page)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def keys_for(control: LocalControl) -> Callable[..., str]:
    """Return a function that makes a key with some scopes, which the control plane knows at once."""

    def make(*scopes: Scope, **limits: Any) -> str:
        token = control.registry.keys.create("+".join(scopes), list(scopes), **limits)[1]
        control.keyring.refresh()
        return token

    return make
