"""Files of labelled rows as people have them → raw rows, each with its place.

One module for each kind of file; `training.data.sources` chooses. Knows neither tasks nor settings. A file that could mean
something else than what would be read is refused: nothing is guessed silently.
"""
