"""The page at `/docs`: Swagger UI from files of the package ``fastapi-swagger``. It asks no other host.

Its Content-Security-Policy allows files of this service alone, and no script or style in the page itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files

from fastapi import FastAPI, Response
from fastapi.responses import RedirectResponse

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Baton API</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript. The document that it shows is openapi.json.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

START = """SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).href,
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  filter: true,
  validatorUrl: null,
});
"""
"""The script that starts Swagger UI. ``validatorUrl``: else it would send the document to a validator of its makers."""

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
"""Files of Swagger UI (Apache License 2.0), and their types."""

ASSET_HEADERS = {**HEADERS, "cache-control": "private, max-age=3600"}
"""They are large, and the same for everybody who may read them."""


def add_page(api: FastAPI) -> None:
    """Add `/docs` with its files. `/redoc`, where FastAPI has a second page, leads to it."""

    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(PAGE, media_type="text/html", headers=HEADERS)

    @api.get("/redoc", include_in_schema=False)
    async def redoc() -> RedirectResponse:
        return RedirectResponse("docs")

    @api.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        return Response(START, media_type="text/javascript", headers=ASSET_HEADERS)

    for name in ASSETS:
        api.add_api_route(f"/docs/{name}", _asset(name), include_in_schema=False)


def _asset(name: str) -> Callable[[], Awaitable[Response]]:
    """Return the endpoint of one file."""

    async def answer() -> Response:
        return Response(_content(name), media_type=ASSETS[name], headers=ASSET_HEADERS)

    return answer


@cache
def _content(name: str) -> bytes:
    return (files("fastapi_swagger") / "resources" / name).read_bytes()
