"""Vocabularies out of files: one file a kind, each with the one door `read(paths) -> tokenize.Vocabulary`."""
