"""Functions on texts alone: words, tags, answers, masks and normal forms.

The room knows Unicode and the rules of data sets. It must not import tasks, tokenizers, models, files or the registry.

Start with `words` (where words begin, in any script), which NER builds on. `tags` reads tagged tokens, `answers` finds and
scores answers, `masks` hides personal data, and `normal_form` decides whether two texts are the same.
"""
