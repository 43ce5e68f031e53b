"""Takes the pictures of the studio in ``docs/images`` anew, live, with the bundled model.

    pip install -e '.[studio]' playwright
    python tools/studio_pictures.py prompt.mid --title 'Debussy, Pour le piano: going on' [--seed 1]

plays on from the prompt's first 24 seconds in a headless Chromium, and takes what is shown: at 1,280 pixels the piece
and four ways on from one moment, at 2,560 the same, dark, and on a phone of 390.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ritornello import read_midi

IMAGES = Path(__file__).parents[1] / "docs" / "images"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROMPT_S, MOMENT_S = 24.0, 36.0
READY = "window.studio?.maker.live && studio.samples.buffers.size === 60"


def main() -> None:
    """A page on a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", type=Path, help="a MIDI file")
    parser.add_argument("--title", default="")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    piece = read_midi(options.prompt)
    columns = (piece.onset, piece.offset, piece.pitch, piece.velocity)
    rows = [list(row) for row in zip(*(column.tolist() for column in columns)) if row[0] < PROMPT_S]
    given = [dict(zip(("start", "end", "pitch", "velocity"), row), given=True) for row in rows]
    pedals = [{"start": down, "end": up} for down, up in piece.pedals.tolist() if up < PROMPT_S]
    prompt = {"title": options.title or options.prompt.stem, "notes": given, "pedals": pedals, "kept": []}
    command = [sys.executable, "-m", "ritornello", "studio", "--no-open", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        address = re.findall(r"http://\S+?/", server.stderr.readline())[0]
        with sync_playwright() as tool:
            arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
            browser = tool.chromium.launch(executable_path=BROWSER, args=arguments)
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(address)
            until(page, READY)
            begin = "([seed, prompt]) => { studio.maker.stop(); studio.session.begin(seed, prompt); }"
            page.evaluate(begin, [options.seed, prompt])
            page.click("#on")
            until(page, f"studio.maker.live?.upTo > {MOMENT_S + 16}")
            page.click("#play")
            page.evaluate("studio.roll.emit('seek', 29.3)")
            shot(page, "studio", 11, 41)
            page.evaluate(f"studio.roll.emit('seek', {MOMENT_S})")
            page.keyboard.press("c")
            page.keyboard.press("2")
            until(page, f"studio.maker.choice?.ways.every((way) => way.ended || way.upTo > {MOMENT_S + 12})")
            page.evaluate(f"studio.transport.seek({MOMENT_S + 2.5})")
            until(page, f"studio.transport.position > {MOMENT_S + 3} && studio.transport.sounding().length > 1")
            page.click("#play")
            page.evaluate("studio.hands.show(studio.roll.sounding); undefined")
            shot(page, "studio-ways", 21, 51)
            page.set_viewport_size({"width": 2560, "height": 1440})
            page.emulate_media(color_scheme="dark")
            shot(page, "studio-wide", 18, 54)
            phone = browser.new_page(viewport={"width": 390, "height": 844}, device_scale_factor=2)
            phone.goto(address)
            until(phone, READY)
            session = page.evaluate("studio.session.toText()")
            phone.evaluate("(text) => { studio.maker.stop(); studio.session.fromText(text); }", session)
            phone.evaluate(f"studio.roll.emit('seek', {MOMENT_S})")
            phone.click("#ways")
            until(phone, f"studio.maker.choice?.ways.every((way) => way.ended || way.upTo > {MOMENT_S + 12})")
            phone.click("#play")
            phone.evaluate(f"studio.roll.emit('seek', {MOMENT_S + 3})")
            shot(phone, "studio-phone", 29, 43)
            browser.close()
    finally:
        server.terminate()
        server.wait()


def until(page: Page, condition: str) -> None:
    """Waits; playwright's own way evaluates text in the page, which its policy forbids."""
    while not page.evaluate(f"Boolean({condition})"):
        page.wait_for_timeout(100)


def shot(page: Page, name: str, start_s: float, end_s: float) -> None:
    """What is shown between two times, half a second later."""
    page.evaluate(
        "([start, end]) => { const {roll} = studio; roll.zoom(roll.seconds / (end - start));"
        "Object.assign(roll, {start, follow: false, stale: true, dirty: true}); }",
        [start_s, end_s],
    )
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
