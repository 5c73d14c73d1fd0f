"""Source in the reference is named by its path in the repository, not by that of the links that mkdocstrings reads."""

FOLDERS = {"build/tree/tracegrad/transforms/": "transforms/", "build/tree/tracegrad/": "ppl/"}


def on_page_content(html, **_):
    for made, real in FOLDERS.items():
        html = html.replace(made, real)
    return html
