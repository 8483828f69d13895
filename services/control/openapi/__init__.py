"""What the service says about its API: the paths of replicas in the OpenAPI document, and the page that shows the document.

``predictions.py`` has the paths that replicas answer, ``schemas.py`` the form of their bodies, ``page.py`` Swagger UI from our
own files. FastAPI describes the routes of the control plane by itself. Must not import the replica: a test compares both.
"""
