"""``ritornello export --web`` in a browser: a plain static server, the page, notes from the model in a worker."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from conftest import one_line

from ritornello.studio import static

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGE = """<!doctype html>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; \
worker-src 'self'; connect-src 'self'">
<meta name="engine" content="remote">
<script type="module" src="page.js"></script>
"""
SCRIPT = """
import {open} from './engine/local.js';
const kind = document.querySelector('meta[name=engine]').content;
window.kind = kind;
window.ready = open().then((engine) => { window.engine = engine; });
window.play = async (options, until) => {
  const stream = await engine.start(options);
  const heard = [], told = [];
  const done = new Promise((resolve, reject) => {
    stream.on('notes', ({notes, upTo}) => { heard.push(...notes); told.push(upTo); if (upTo >= until) resolve(); });
    stream.on('end', resolve);
    stream.on('error', reject);
    setTimeout(() => reject(new Error('nothing more was heard')), 120_000);
  });
  stream.advance(until + 20); // what is held then is final later
  await done;
  stream.close();
  return {heard, told};
};
"""


class Quiet(SimpleHTTPRequestHandler):
    """A static server without a log."""

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an export with a page of the test's own."""
    page = tmp_path_factory.mktemp("page")
    shutil.copytree(static.PAGE / "engine", page / "engine")
    (page / "index.html").write_text(PAGE)
    (page / "page.js").write_text(SCRIPT)
    folder = tmp_path_factory.mktemp("exports") / "web"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(static, "PAGE", page)
        static.write_web("small", folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def test_a_browser_plays_from_a_static_folder(site):
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        wrong, asked = [], []
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(site)
        page.evaluate("ready")
        assert page.evaluate("kind") == "local"
        about = page.evaluate("engine.about")
        assert about["licence"] == "CC BY-NC-SA 4.0"
        assert about["parameters"] > 6e6
        prompt = [{"pitch": 60 + n, "velocity": 70, "start": n / 4, "end": n / 4 + 0.2} for n in range(8)]
        played = page.evaluate("prompt => play({notes: prompt, seed: 3}, 8)", prompt)
        assert len(played["heard"]) > 3
        assert all(note["start"] >= 1.9 and note["end"] > note["start"] for note in played["heard"])
        assert played == page.evaluate("prompt => play({notes: prompt, seed: 3}, 8)", prompt) | {"told": played["told"]}
        nats = page.evaluate("prompt => engine.score({notes: prompt, from: 1, to: 3})", prompt)
        assert 0 < nats < 10
        refused = page.evaluate("play({seed: -1}, 1).catch(({message}) => message)")
        assert "the seed is -1" in refused
        missing = page.evaluate(
            "import('./engine/local.js').then(({open}) => open({base: 'nowhere/'})).catch(({message}) => message)"
        )
        assert "nowhere/web.json cannot be loaded (404)" in missing
        browser.close()
    assert [text for text in wrong if "404" not in text] == []
    assert {url.split("/")[2] for url in asked if not url.startswith("blob:")} == {site.split("/")[2]}


def test_an_export_replaces_an_earlier_one_and_nothing_else(command, model, tmp_path, monkeypatch):
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text(PAGE)
    monkeypatch.setattr(static, "PAGE", page)
    web = tmp_path / "web"
    first = command("export", model, web, "--web", "--json")
    assert first.code == 0
    assert (web / "index.html").read_text() == PAGE.replace("remote", "local")
    assert first.figures["licence"] == "CC0"
    assert set(first.figures["files"]) == {
        path.relative_to(web).as_posix() for path in web.rglob("*") if path.is_file()
    }
    assert command("export", model, web, "--web").code == 0
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "index.html").write_text("mine")
    with one_line(tmp_path / "letters", "new folder"):
        static.write_web(str(model), tmp_path / "letters")
    assert (tmp_path / "letters" / "index.html").read_text() == "mine"
