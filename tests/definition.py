"""What engines are held against: the model's own forward, and its definition written out in NumPy, token by token."""

from __future__ import annotations

import numpy as np
import torch
from tiny import made_up_tokens, random_model

from ritornello import codec
from ritornello.horizons import HorizonSchedule
from ritornello.models.dsmr import DSMR, DSMRConfig

WIDTH = 32
TOLERANCE = 1e-4  # of the logits' standard deviation: float32 against float32 or float64
FAR = 1_000_000

EXTRAS = {"qk_bias": True, "motif_notes": 64}
FINITE = ("2x32, 8", "3x0", "48, 0, 16", "7, 1, 29", "0, 40, 5 sliding", "2x24 sliding")


def tiny_model(schedule: str = "32, 2x8", **sizes: int) -> DSMR:
    return random_model(11, schedule=HorizonSchedule.parse(schedule), **sizes)


def text(tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, codec.VOCABULARY_SIZE, tokens)


def returning_text(tokens: int) -> np.ndarray:
    """Made-up music whose first half comes again and again."""
    return np.resize(made_up_tokens(3, 30)[0].astype(np.int64)[:-1], tokens)


@torch.no_grad()
def forward(model: DSMR, tokens: np.ndarray) -> np.ndarray:
    """(T, V) the reference's logits, read whole from an empty state."""
    rows = torch.from_numpy(codec.with_hints(tokens, hints_of(model, tokens)))[None]
    return model(rows, model.initial_state(1))[0][0].numpy()


def hints_of(model: DSMR, tokens: np.ndarray) -> np.ndarray | None:
    notes = model.config.motif_notes
    return codec.MotifMemory(notes).read(tokens) if notes else None


def chunked(session, tokens: np.ndarray, sizes) -> dict[int, np.ndarray]:
    """Logits after each read, by the position of the read's last token."""
    logits, start = {}, 0
    for size in sizes:
        if start >= len(tokens):
            break
        found = session.read(tokens[start : start + size])
        start = min(start + size, len(tokens))
        logits[start - 1] = found
    return logits


def assert_close(found: np.ndarray, expected: np.ndarray, what: object = "") -> None:
    difference = np.abs(found - expected).max() / expected.std()
    assert difference < TOLERANCE, f"{what}: logits differ by {difference:.1e} of their standard deviation"


def by_definition(model: DSMR, tokens: np.ndarray, first_position: int = 0) -> np.ndarray:
    """(V,) logits after the last of tokens (T,) that stand at ``first_position`` and on, with nothing before them."""
    config, weights = model.config, {name: t.double().numpy() for name, t in model.state_dict().items()}
    heads, size = config.heads, config.width // config.heads
    place = first_position + np.arange(len(tokens))
    turn = place[:, None, None] * 10_000.0 ** (-np.arange(size // 2) / (size // 2))

    def norm(x, gain=1.0):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * gain

    def turned(x):  # (T, H, D)
        a, b = x[..., : size // 2], x[..., size // 2 :]
        return np.concatenate([a * np.cos(turn) - b * np.sin(turn), a * np.sin(turn) + b * np.cos(turn)], -1)

    x = norm(weights["embedding.weight"][tokens])
    if config.motif_notes:
        x = x + weights["hint_embedding.weight"][hints_of(model, tokens)].sum(1)
    for layer, horizon in enumerate(config.schedule.horizons):
        mine = {n.split(".", 2)[2]: w for n, w in weights.items() if n.startswith(f"blocks.{layer}.")}
        qkv = norm(x, mine["attention_gain"]) @ mine["qkv.weight"].T
        q, k, v = qkv.reshape(len(x), 3, heads, size).swapaxes(0, 1)
        if config.qk_bias:
            q, k = q + mine["qk_bias"][0, :, 0], k + mine["qk_bias"][1, :, 0]
        q, k = turned(norm(q)) * mine["qk_scale"][:, :, 0][None], turned(norm(k))
        scores = np.einsum("qhd,khd->hqk", q, k) / size**0.5
        scores = np.where(spelt_out(place, horizon, config), scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", shares, v).reshape(len(x), -1) @ mine["out.weight"].T
        gate, up = np.split(norm(x, mine["mlp_gain"]) @ mine["gate_up.weight"].T, 2, axis=-1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ mine["down.weight"].T
    return norm(x[-1], weights["final_gain"]) @ weights["head.weight"].T


def spelt_out(place: np.ndarray, horizon: int | None, config: DSMRConfig) -> np.ndarray:
    """(T, T) what a query sees, from the two sentences of design.md, one pair at a time."""
    seen = np.zeros((len(place), len(place)), bool)
    for i, q in enumerate(place.tolist()):
        start = q - q % config.segment_tokens
        first = -1 if horizon is None else start - horizon
        if horizon is not None and config.schedule.rule == "sliding":
            first = min(start, q - horizon)
        for j, k in enumerate(place.tolist()):
            seen[i, j] = first <= k <= q
    return seen
