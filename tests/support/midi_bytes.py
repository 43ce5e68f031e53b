"""MIDI files made byte by byte, and what is read from them."""

from __future__ import annotations

import struct

from ritornello.midi import parse_midi

QUARTER = 480  # ticks; 0.5 s until a tempo event


def number(value: int) -> bytes:
    digits = [value & 127]
    while value := value >> 7:
        digits.append(value & 127 | 128)
    return bytes(reversed(digits))


def track(*events: tuple[int, bytes], end: bytes = b"\0\xff\x2f\0") -> bytes:
    body = b"".join(number(delta) + message for delta, message in events) + end
    return b"MTrk" + struct.pack(">I", len(body)) + body


def midi(*tracks: bytes, form: int = 0, division: int = QUARTER) -> bytes:
    return b"MThd" + struct.pack(">IHHH", 6, form, len(tracks), division) + b"".join(tracks)


def on(pitch: int, velocity: int = 64, channel: int = 0) -> bytes:
    return bytes([0x90 | channel, pitch, velocity])


def off(pitch: int, channel: int = 0) -> bytes:
    return bytes([0x80 | channel, pitch, 0])


def pedal(value: int, channel: int = 0) -> bytes:
    return bytes([0xB0 | channel, 64, value])


def tempo(us_per_quarter: int) -> bytes:
    return b"\xff\x51\x03" + us_per_quarter.to_bytes(3, "big")


def name(text: bytes) -> bytes:
    return b"\xff\x03" + number(len(text)) + text


def notes(data: bytes, **options) -> list[tuple[float, float, int, int]]:
    piece = parse_midi(data, "song.mid", **options)
    columns = (piece.onset.tolist(), piece.offset.tolist(), piece.pitch.tolist(), piece.velocity.tolist())
    return [(round(a, 9), round(b, 9), c, d) for a, b, c, d in zip(*columns, strict=True)]


def pedals(data: bytes) -> list[list[float]]:
    return parse_midi(data, "song.mid").pedals.round(9).tolist()


ONE_NOTE = midi(track((0, on(60)), (QUARTER, off(60))))
