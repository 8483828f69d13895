"""The decision report as HTML, for people to read, print and send round: what `baton report` and the control API answer.

Start with ``page.py``: `fragments` are for a page that has other parts, too, `page` is one file. ``view.py`` says what stands
where, ``plots.py`` draws, ``words.py`` has the languages, ``report.html`` and ``report.css`` the form. Knows neither HTTP nor
the registry. The template escapes every text of a user.
"""
