"""Notebooks as pages: what is in notebooks/, with its output, as it is committed."""

from pathlib import Path

from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

FOLDER = Path(__file__).parents[2] / "notebooks"


def on_files(files, config):
    """Add a page for each notebook, and its pictures."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        text, resources = MarkdownExporter().from_filename(path)
        pictures = resources["outputs"]
        for name in pictures:
            text = text.replace(f"![png]({name})", f"![What the code above draws]({path.stem}-{name})")
        note = f"\n*This page is `notebooks/{path.name}`.*\n"
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text + note))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{path.stem}-{name}", content=picture))
    return files
