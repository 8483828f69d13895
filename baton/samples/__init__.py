"""Three small data sets, written for this project: intents, entities and help. They contain no code.

`README.md` describes their rows. The demo, the image and the tests use them.
"""
