"""``ritornello export --web`` in a browser: a plain static server, the page, notes from the model in a worker."""

from __future__ import annotations

import shutil

import pytest
from conftest import one_line
from studio_server import site

from ritornello.studio import static

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
UNTIL = """new Promise((resolve, reject) => {
  const look = () => { const there = %s; if (there) resolve(there); else setTimeout(look, 50); };
  look();
  setTimeout(() => reject(new Error('not yet')), 120_000);
})"""
LOADED, PLAYING = UNTIL % "window.studio?.maker.engine?.about", UNTIL % "studio.transport.playing"
PLAY = """async ({options, until}) => {
  const stream = await studio.maker.engine.start(options);
  const heard = [];
  await new Promise((resolve, reject) => {
    stream.on('notes', ({notes, upTo}) => { heard.push(...notes); if (upTo >= until) resolve(); });
    stream.on('end', resolve);
    stream.on('error', reject);
    setTimeout(() => reject(new Error('nothing more was heard')), 120_000);
    stream.advance(until);
  });
  stream.close();
  return heard.filter(({start}) => start < until);
}"""


def test_a_browser_plays_from_a_static_folder(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    static.write_web("base", tmp_path / "web")
    with site(tmp_path / "web") as address, playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        wrong, asked = [], []
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.click("#first")  # before the model is there
        about = page.evaluate(LOADED)
        page.evaluate(PLAYING)
        page.click("#play")
        assert about["licence"] == "CC BY-NC-SA 4.0"
        assert about["parameters"] > 6e6
        prompt = [{"pitch": 60 + n, "velocity": 70, "start": n / 4, "end": n / 4 + 0.2} for n in range(8)]
        played = page.evaluate(PLAY, {"options": {"notes": prompt, "seed": 3}, "until": 6})
        assert played
        assert all(note["start"] >= 1.9 and note["end"] > note["start"] for note in played)
        assert played == page.evaluate(PLAY, {"options": {"notes": prompt, "seed": 3}, "until": 6})
        nats = page.evaluate("notes => studio.maker.engine.score({notes, from: 1, to: 3})", prompt)
        assert 0 < nats < 10
        refused = page.evaluate(f"({PLAY})({{options: {{seed: -1}}, until: 1}}).catch(({{message}}) => message)")
        assert "the seed is -1" in refused
        assert wrong == []
        missing = page.evaluate(
            "import('./engine/local.js').then(({open}) => open({base: 'nowhere/'})).catch(({message}) => message)"
        )
        assert "nowhere/web.json cannot be loaded (404)" in missing
        browser.close()
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {address.split("/")[2]}


def test_an_export_replaces_an_earlier_one_and_nothing_else(command, model, tmp_path):
    web = tmp_path / "web"
    first = command("export", model, web, "--web", "--json")
    assert first.code == 0
    assert first.figures["licence"] == "CC0"
    assert set(first.figures["files"]) == {
        path.relative_to(web).as_posix() for path in web.rglob("*") if path.is_file()
    }
    assert static.LOCAL in (web / "index.html").read_bytes()
    (web / "index.html").write_text("old")
    assert command("export", model, web, "--web").code == 0
    assert static.LOCAL in (web / "index.html").read_bytes()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "index.html").write_text("mine")
    with one_line(tmp_path / "letters", "new folder"):
        static.write_web(str(model), tmp_path / "letters")
    assert (tmp_path / "letters" / "index.html").read_text() == "mine"
