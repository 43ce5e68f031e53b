"""Performances packed for training: many MIDI files become a few memory-mapped arrays of tokens.

Reading order: ``shards`` (the folder's format, reading it), ``prepare`` (folder, archive or table -> corpus; parts and
corpora -> one), ``splits`` (what is held out; the same music, found by content), ``maestro`` (MAESTRO's official
archive -> corpus). Reading needs numpy only.
"""

from ritornello.corpus.shards import SPLITS, Corpus, PieceRecord

__all__ = ["SPLITS", "Corpus", "PieceRecord"]
