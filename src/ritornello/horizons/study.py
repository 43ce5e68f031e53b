"""The rows of the DSMR study as schedules: which depth remembers how much, all under one budget."""

from __future__ import annotations


def study_texts(*, layers: int, budget_tokens: int) -> dict[str, str]:
    """The text of every row by its name, for `HorizonSchedule.parse` with the same ``layers``.

    Two-scale: a quarter of the layers is long; every other has a quarter of what it would have under uniform horizons.
    """
    half = max(1, layers // 2)
    budget = f"budget={budget_tokens}"
    return {
        "full memory": "unlimited",
        "Perceiver-AR-like": f"perceiver_ar({budget})",
        "two-scale": f"two_scale({budget}, long_layers={max(1, layers // 4)}, short={budget_tokens // (4 * layers)})",
        "binary, low layers": f"binary({budget}, layers=1-{half})",
        "binary, high layers": f"binary({budget}, layers={min(half + 1, layers)}-{layers})",
        "binary, alternating": f"binary({budget}, layers=odd)",
        "binary, sliding": f"binary({budget}, layers=odd) sliding",
        "ascending": f"ascending({budget})",
        "descending": f"descending({budget})",
        "uniform": f"uniform({budget})",
    }
