"""Baton beside other servers: the same weights, the same engine, the same load, one after the other.

`servers/` has one program for each peer, written as its documentation suggests; none of them imports Baton. Each peer gets a
virtual environment of its own in the ignored folder ``.venv/peers``. Start with `__main__`.
"""
