"""Performances as tokens: the vocabulary, whole-piece and streaming translation, and the grammar of legal events.

Reading order: ``vocabulary`` (the offset table), ``encoding`` (Piece <-> tokens), ``streaming`` (tokens -> notes as
they finish), ``grammar`` (which event may come next), ``motifs`` (what followed the last time).
"""

from ritornello.codec.encoding import decode, encode, seconds_of, steps_of
from ritornello.codec.grammar import Context, Grammar, contexts, legal_events
from ritornello.codec.motifs import (
    CALL_STRIKES,
    FOLLOWED_LONG,
    HINT_COLUMNS,
    N_HINTS,
    NOTHING,
    RETURN_S,
    MotifMemory,
    hints,
    returns,
    with_hints,
)
from ritornello.codec.streaming import Note, StreamDecoder, StreamEncoder
from ritornello.codec.vocabulary import (
    END,
    FINGERPRINT,
    N_EVENTS,
    NOTE_OFF,
    NOTE_ON,
    PAD,
    SHIFT,
    START,
    STEP_S,
    VELOCITY,
    VOCABULARY_SIZE,
    describe,
)

__all__ = [
    "CALL_STRIKES",
    "END",
    "FINGERPRINT",
    "FOLLOWED_LONG",
    "HINT_COLUMNS",
    "NOTE_OFF",
    "NOTE_ON",
    "NOTHING",
    "N_EVENTS",
    "N_HINTS",
    "PAD",
    "RETURN_S",
    "SHIFT",
    "START",
    "STEP_S",
    "VELOCITY",
    "VOCABULARY_SIZE",
    "Context",
    "Grammar",
    "MotifMemory",
    "Note",
    "StreamDecoder",
    "StreamEncoder",
    "contexts",
    "decode",
    "describe",
    "encode",
    "hints",
    "legal_events",
    "returns",
    "seconds_of",
    "steps_of",
    "with_hints",
]
