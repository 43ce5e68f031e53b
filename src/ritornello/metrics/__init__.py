"""Musical features of pieces, and how far a generated set is from a reference.

Reading order: ``registry`` (every feature by name; extraction), ``pitches``, ``durations``, ``segments``,
``expression``, ``repetition`` and ``structure`` (the features), ``densities`` (two sets of distances as densities),
``comparison`` (scores, intervals, the null). Needs numpy alone.
"""
