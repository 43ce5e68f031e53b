"""What a Perceiver computes, worked out from scratch by its definition.

One window at a time, head by head over absolute positions with the masks spelt out, in float64.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ritornello import codec
from ritornello.models.blocks import Layer
from ritornello.models.perceivers import Perceiver, PerceiverConfig

SIZES = {"layers": 2, "width": 16, "heads": 2, "mlp_width": 24}
SMALL = PerceiverConfig(**SIZES, context_tokens=16, latents=8, scales=(None, 12), stride_tokens=4)
VARIETY = {
    "perceivers": SMALL,
    "perceiver_ar": dataclasses.replace(SMALL, scales=(None,)),
    "short_look_first": dataclasses.replace(SMALL, scales=(12, None)),
    "latents_alone": dataclasses.replace(SMALL, context_tokens=8, scales=(None,)),
    "stride_of_all_latents": dataclasses.replace(SMALL, stride_tokens=8),
    "stride_of_one": dataclasses.replace(SMALL, stride_tokens=1),
    "three_looks": dataclasses.replace(SMALL, scales=(8, 16, 9)),
    "biases": dataclasses.replace(SMALL, qk_bias=True),
}
READ = PerceiverConfig(**SIZES, context_tokens=24, latents=16, scales=(None, 16), stride_tokens=8)


def awake(config: PerceiverConfig, *, seed: int = 7, dtype: torch.dtype = torch.float64) -> Perceiver:
    """Weights under which every look, layer and key matters: a fresh model's branches are silent."""
    with torch.random.fork_rng():
        model = Perceiver(config).to(dtype)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(std=(1 if name.startswith("embedding") else weight.shape[1]) ** -0.5, generator=rng)
            else:
                weight.uniform_(0.5, 3 if name.endswith("qk_scale") else 1.5, generator=rng)
    return model.eval()


def some_text(tokens: int, *, lanes: int = 1, seed: int = 0) -> Tensor:
    """(B, T) random events."""
    return torch.randint(codec.N_EVENTS, (lanes, tokens), generator=torch.Generator().manual_seed(seed))


def recomputed(model: Perceiver, tokens: Tensor, *, window: int, seen: list[int], begin: int = 0) -> Tensor:
    """A window from scratch: (T,) ids, or rows with hints, from ``begin`` on -> (T - (window - begin), V).

    Latents are the tokens from position ``window`` on; look i sees from position ``seen[i]`` on.
    """
    w = {name: weight.double() for name, weight in model.named_parameters()}
    d, n = model.config.width // model.config.heads, len(tokens)
    position = torch.arange(begin, begin + n)
    rates = 10_000.0 ** (-torch.arange(d // 2).double() / (d // 2))
    turn = torch.polar(torch.ones(n, d // 2).double(), position[:, None] * rates)

    def rms(x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def turned(x: Tensor, at: Tensor) -> Tensor:
        pairs = torch.complex(x[:, : d // 2], x[:, d // 2 :]) * at
        return torch.cat([pairs.real, pairs.imag], dim=1)

    def layer(x: Tensor, name: str, q: Tensor, k: Tensor, v: Tensor, first: int) -> Tensor:
        at, keys_at = position[n - len(q) :], position[n - len(k) :]
        hidden = (keys_at[None] > at[:, None]) | (keys_at[None] < first)
        found = []
        for head in range(model.config.heads):
            part = slice(head * d, (head + 1) * d)
            own, other = w[f"{name}.qk_bias"][:, head, 0] if model.config.qk_bias else (0, 0)
            queries = turned(rms(q[:, part] + own), turn[n - len(q) :]) * w[f"{name}.qk_scale"][head]
            scores = queries @ turned(rms(k[:, part] + other), turn[n - len(k) :]).T / math.sqrt(d)
            found.append(scores.masked_fill(hidden, -math.inf).softmax(-1) @ v[:, part])
        x = x + torch.cat(found, dim=1) @ w[f"{name}.out.weight"].T
        gate, up = (rms(x) * w[f"{name}.mlp_gain"] @ w[f"{name}.gate_up.weight"].T).chunk(2, dim=1)
        return x + gate * gate.sigmoid() * up @ w[f"{name}.down.weight"].T

    ids, hints = (tokens[:, 0], tokens[:, 1:]) if model.config.motif_notes else (tokens, None)
    embedded = rms(w["embedding.weight"][ids])
    if hints is not None:
        embedded = embedded + w["hint_embedding.weight"][hints].sum(1)
    x = embedded[window - begin :]
    for i, first in enumerate(seen):
        q = rms(x) * w[f"looks.{i}.attention_gain"] @ w[f"looks.{i}.q.weight"].T
        k, v = (rms(embedded) * w[f"looks.{i}.context_gain"] @ w[f"looks.{i}.kv.weight"].T).chunk(2, dim=1)
        x = layer(x, f"looks.{i}", q, k, v, first)
    for i in range(model.config.layers):
        q, k, v = (rms(x) * w[f"blocks.{i}.attention_gain"] @ w[f"blocks.{i}.qkv.weight"].T).chunk(3, dim=1)
        x = layer(x, f"blocks.{i}", q, k, v, window)
    return rms(x) * w["final_gain"] @ w["head.weight"].T


def widths(config: PerceiverConfig) -> list[int]:
    """What each look sees of a full window, in tokens."""
    return [config.context_tokens if scale is None else scale for scale in config.scales]


@torch.no_grad()
def window_by_window(model: Perceiver, tokens: Tensor) -> Tensor:
    """(T,) ids of a piece -> (T, V): every window recomputed; each ends a stride beyond the one before."""
    config, parts = model.config, []
    for start in range(0, len(tokens), config.stride_tokens):
        end = start + config.stride_tokens
        seen = [max(0, end - n) for n in widths(config)]
        window, begin = max(0, end - config.latents), min(seen)
        rows = recomputed(model, tokens[begin:end], window=window, seen=seen, begin=begin)
        parts.append(rows[start - window :])
    return torch.cat(parts)


def crop_recomputed(model: Perceiver, piece: list[int]) -> Tensor:
    """(T,) -> (Q or fewer, V)."""
    n = len(piece)
    end = max(n, model.config.latents)  # of a window that a short piece does not fill
    seen = [max(0, end - width) for width in widths(model.config)]
    return recomputed(model, torch.tensor(piece), window=max(0, n - model.config.latents), seen=seen)


@torch.no_grad()
def at_once(model: Perceiver, text: Tensor) -> Tensor:
    return model(text, model.initial_state(len(text)))[0]


def only(model: Perceiver, *kept: str) -> Perceiver:
    """The model with what all other looks and layers find left out of the stream."""
    for name, part in model.named_modules():
        if isinstance(part, Layer) and not name.startswith(kept):
            torch.nn.init.zeros_(part.out.weight)
    return model
