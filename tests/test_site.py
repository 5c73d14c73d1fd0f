"""The checks of the built documentation find what they are for; `make docs` runs them on the site."""

import json

import pytest
from site_checks import WORDS, broken_links, garbled_examples, loads_from_elsewhere, pages_of, words_not_found
from source_tree import ROOT

CODE = "<pre><span></span><code>&gt;&gt;&gt; 1 + 1\n2</code></pre>"


@pytest.fixture
def built(tmp_path):
    """A site of two pages, from their bodies, with a style sheet; and its pages."""

    def build(body, other="<h2 id='there'>There</h2>", style="a { color: red }"):
        (tmp_path / "index.html").write_text(f"<html><body>{body}</body></html>")
        (tmp_path / "other.html").write_text(f"<html><body>{other}</body></html>")
        (tmp_path / "site.css").write_text(style)
        return tmp_path, pages_of(tmp_path)

    return build


def test_a_good_page_passes(built):
    links = '<a href="other.html#there">a</a><a href="#here" id="here">b</a><a href="https://arxiv.org">c</a>'
    site, pages = built(f'<link rel="stylesheet" href="site.css">{links}{CODE}')
    assert [*loads_from_elsewhere(site, pages), *broken_links(site, pages), *garbled_examples(pages)] == []


@pytest.mark.parametrize(
    "body",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<img src="http://example/x.png">',
        '<link rel="stylesheet" href="//example/x.css">',
    ],
)
def test_what_is_loaded_from_elsewhere_is_found(body, built):
    assert len(list(loads_from_elsewhere(*built(body)))) == 1


def test_a_style_that_loads_a_font_is_found(built):
    assert len(list(loads_from_elsewhere(*built("", style="a { src: url('https://fonts.example/x.woff') }")))) == 1


@pytest.mark.parametrize("link", ["gone.html", "other.html#gone", "#gone", "images/gone.png"])
def test_a_link_to_nothing_is_found(link, built):
    assert len(list(broken_links(*built(f'<a href="{link}">a</a>')))) == 1
    assert len(list(broken_links(*built(f'<img src="{link}">')))) == 1


@pytest.mark.parametrize(
    "body",
    [
        "<p>&gt;&gt;&gt; 1 + 1</p>",
        "<blockquote><p>1 + 1</p></blockquote>",
        '<details class="example" open><p>1 + 1</p></details>',
    ],
)
def test_an_example_that_is_no_code_is_found(body, built):
    _, pages = built(CODE + body + CODE)
    assert len(list(garbled_examples(pages))) == 1


def test_words_are_looked_up_where_they_should_lead(built):
    site, _ = built("")
    entries = [
        {"location": "a.html#x", "title": "Save it", "text": ""},
        {"location": "b.html", "title": "", "text": "HMMs"},
    ]
    (site / "search").mkdir()
    (site / "search" / "search_index.json").write_text(json.dumps({"docs": entries}))
    assert list(words_not_found(site, {"save": "a.html", "HMM": "b.html"})) == []
    assert len(list(words_not_found(site, {"save": "b.html", "MM": "b.html"}))) == 2


def test_the_twenty_words_lead_to_pages_that_are_there():
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert len(WORDS) == 20
    assert {page.removesuffix(".html") for page in WORDS.values()} - pages == set()
