"""MIDI files to pieces and back: ``tracks``, ``keys``, ``reading``, ``writing``.

The parser is the project's own, in numpy, because nothing that a file holds may be lost: docs/decisions.md says
what the libraries lose.
"""

from ritornello.midi.reading import parse_midi, read_midi
from ritornello.midi.writing import write_midi

__all__ = ["parse_midi", "read_midi", "write_midi"]
