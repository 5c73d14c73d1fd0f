"""What must hold of the documentation as it is built: `python tests/site_checks.py site`, the end of `make docs`.

Nothing is loaded from elsewhere, every link and picture is there, no example is garbled, the words that a newcomer
types are found; and, where there is a Chromium (on the path, or named by CHROMIUM), no page is wider than a phone.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

WORDS = {
    "install": "first-posterior.html",
    "predictive": "first-posterior.html",
    "missing": "missing-data-and-control-flow.html",
    "checkpoint": "long-runs.html",
    "HMM": "discrete-latents.html",
    "mixture": "discrete-latents.html",
    "minibatch": "local-latents.html",
    "R-hat": "checking-a-fit.html",
    "GPU": "first-posterior.html",
    "save": "long-runs.html",
    "NaN": "missing-data-and-control-flow.html",
    "flow": "networks-and-flows.html",
    "plate": "discrete-latents.html",
    "deterministic": "reference-generative-functions.html",
    "loo": "checking-a-fit.html",
    "compare": "checking-a-fit.html",
    "Equinox": "networks-and-flows.html",
    "estimator": "choosing-an-estimator.html",
    "baseline": "choosing-an-estimator.html",
    "citation": "index.html",
}
"""What a newcomer types into the search, and the page that must be among what is found."""

WIDTHS = (390, 1280)
"""A phone and a desk, in CSS pixels."""

LOADS = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """One page: its anchors, its links, what it loads, and where Python's prompt stands outside of code."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.garbled: list[str] = []
        self._in_code = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.anchors |= {known[name] for name in ("id", "name") if known.get(name)}
        if tag == "a" and known.get("href"):
            self.links.append(known["href"])
        elif tag in LOADS and known.get(LOADS[tag]) and known.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(known[LOADS[tag]])
        if tag in ("pre", "script"):
            self._in_code += 1
        elif tag == "blockquote" or "example" in (known.get("class") or "").split():
            self.garbled.append(f"<{tag}> at line {self.getpos()[0]}")

    def handle_endtag(self, tag):
        self._in_code -= tag in ("pre", "script")

    def handle_data(self, data):
        if ">>>" in data and not self._in_code:
            self.garbled.append(data.strip()[:60])


def pages_of(site: Path) -> dict[str, Page]:
    """Every page by its path in the site, but the one for missing pages, whose links begin at the server's root."""
    found = {path.relative_to(site).as_posix(): path for path in sorted(site.rglob("*.html"))}
    return {name: Page(path.read_text()) for name, path in found.items() if name != "404.html"}


def loads_from_elsewhere(site: Path, pages: dict[str, Page]) -> Iterator[str]:
    for name, page in pages.items():
        yield from (f"{name} loads {url}" for url in page.loads if urlsplit(url).netloc)
    for style in site.rglob("*.css"):
        for url in re.findall(r"url\(\s*['\"]?((?:https?:)?//[^'\")]+)", style.read_text()):
            yield f"{style.relative_to(site)} loads {url}"


def broken_links(site: Path, pages: dict[str, Page]) -> Iterator[str]:
    for name, page in pages.items():
        for url in [*page.links, *page.loads]:
            if not _reached(site, pages, name, url):
                yield f"{name}: nothing is at {url}"


def _reached(site: Path, pages: dict[str, Page], name: str, url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return True
    path = (site / name).parent / unquote(parts.path) if parts.path else site / name
    path = path / "index.html" if path.is_dir() else path
    if not path.is_file():
        return False
    there = pages.get(os.path.relpath(path, site))
    return there is None or not parts.fragment or unquote(parts.fragment) in there.anchors


def garbled_examples(pages: dict[str, Page]) -> Iterator[str]:
    """An example that is no block of code: a quotation, an admonition, or a prompt in running text."""
    for name, page in pages.items():
        if page.garbled:
            yield f"{name}: {len(page.garbled)} examples are no code, first {page.garbled[0]}. Write `Examples:`"


def words_not_found(site: Path, words: dict[str, str] = WORDS) -> Iterator[str]:
    entries = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    for word, page in words.items():
        text = " ".join(f"{e['title']} {e['text']}" for e in entries if e["location"].partition("#")[0] == page)
        if not re.search(rf"\b{re.escape(word)}", text, re.IGNORECASE):
            yield f"the search for {word!r} does not find {page}"


def too_wide(site: Path, pages: dict[str, Page], chromium: str) -> Iterator[str]:
    """Each page in a frame of each width, in one browser without a window, which writes down what does not fit."""
    frames = [(width, name) for width in WIDTHS for name in pages]
    with tempfile.TemporaryDirectory() as folder:
        harness = Path(folder) / "widths.html"
        harness.write_text(HARNESS % json.dumps([[width, (site.resolve() / name).as_uri()] for width, name in frames]))
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
        flags += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=600000"]
        done = subprocess.run([chromium, *flags, harness.as_uri()], capture_output=True, text=True, timeout=600)
    (measured,) = re.findall(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL) or [done.stderr[-2000:]]
    rows = re.findall(r"^(\d+) (\d+) (\S+)$", measured, re.MULTILINE)
    if len(rows) != len(frames):
        yield f"the widths of {len(rows)} of {len(frames)} pages were measured: {measured[-500:]}"
    for width, found, name in rows:
        if int(found) > int(width):
            yield f"{Path(urlsplit(name).path).name} is {found} wide where the window is {width}"


HARNESS = """<!doctype html><body><pre></pre><script>
const todo = %s;
async function measure([width, url]) {
  const frame = document.createElement("iframe");
  frame.style.width = width + "px"; frame.style.height = "800px"; frame.style.border = "0"; frame.src = url;
  document.body.append(frame);
  await new Promise(done => frame.onload = done);
  const found = frame.contentDocument.documentElement.scrollWidth;
  document.querySelector("pre").append(width + " " + found + " " + url + "\\n");
  frame.remove();
}
(async () => { for (const each of todo) await measure(each); })();
</script></body>
"""


def problems(site: Path) -> list[str]:
    pages = pages_of(site)
    found = [*loads_from_elsewhere(site, pages), *broken_links(site, pages), *garbled_examples(pages)]
    found += words_not_found(site)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium:
        found += too_wide(site, pages, chromium)
    else:
        print("No Chromium: how wide the pages are was not measured.")
    return found


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]))
    print(*wrong, sep="\n")
    sys.exit(bool(wrong))
