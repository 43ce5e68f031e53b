"""Performances as tokens: the vocabulary, whole-piece and streaming translation, and the grammar of legal events.

Reading order: ``vocabulary`` (the offset table), ``encoding`` (Piece <-> tokens), ``streaming`` (tokens -> notes as
they finish), ``grammar`` (which event may come next), ``motifs`` (what followed the last time).
"""

from ritornello.codec.encoding import decode as decode
from ritornello.codec.encoding import encode as encode
from ritornello.codec.encoding import seconds_of as seconds_of
from ritornello.codec.encoding import steps_of as steps_of
from ritornello.codec.grammar import Context as Context
from ritornello.codec.grammar import Grammar as Grammar
from ritornello.codec.grammar import contexts as contexts
from ritornello.codec.grammar import legal_events as legal_events
from ritornello.codec.motifs import CALL_STRIKES as CALL_STRIKES
from ritornello.codec.motifs import FOLLOWED_LONG as FOLLOWED_LONG
from ritornello.codec.motifs import HINT_COLUMNS as HINT_COLUMNS
from ritornello.codec.motifs import N_HINTS as N_HINTS
from ritornello.codec.motifs import NOTHING as NOTHING
from ritornello.codec.motifs import RETURN_S as RETURN_S
from ritornello.codec.motifs import MotifMemory as MotifMemory
from ritornello.codec.motifs import hints as hints
from ritornello.codec.motifs import returns as returns
from ritornello.codec.motifs import with_hints as with_hints
from ritornello.codec.streaming import Note as Note
from ritornello.codec.streaming import StreamDecoder as StreamDecoder
from ritornello.codec.streaming import StreamEncoder as StreamEncoder
from ritornello.codec.vocabulary import END as END
from ritornello.codec.vocabulary import FINGERPRINT as FINGERPRINT
from ritornello.codec.vocabulary import N_EVENTS as N_EVENTS
from ritornello.codec.vocabulary import NOTE_OFF as NOTE_OFF
from ritornello.codec.vocabulary import NOTE_ON as NOTE_ON
from ritornello.codec.vocabulary import PAD as PAD
from ritornello.codec.vocabulary import SHIFT as SHIFT
from ritornello.codec.vocabulary import START as START
from ritornello.codec.vocabulary import STEP_S as STEP_S
from ritornello.codec.vocabulary import VELOCITY as VELOCITY
from ritornello.codec.vocabulary import VOCABULARY_SIZE as VOCABULARY_SIZE
