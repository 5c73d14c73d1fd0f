"""The how-to pages: their code runs as printed, and their numbers are those of the script that makes them."""

import importlib.util
import re

import jax
import numpy as np
import pytest
from source_tree import ROOT

DOCS = ROOT / "docs"
WRITING = ["writing-a-distribution.md", "writing-an-algorithm.md", "writing-an-estimator.md", "writing-an-objective.md"]
QUESTIONS = "thirteen-questions.md"
ANSWERS = [QUESTIONS, "local-latents.md"]
HOW_TO = [
    "from-a-model-to-a-posterior.md",
    "changing-a-program.md",
    "choosing-an-estimator.md",
    "discrete-latents.md",
    "missing-data-and-control-flow.md",
    "networks-and-flows.md",
    "choosing-an-objective.md",
    "what-it-refuses.md",
]
TUTORIALS = ["from-pyro.md", "from-genjax-and-gen.md"]
LONG = ["first-posterior.md", "checking-a-fit.md", "programmable-vi.md", "long-runs.md"]
"""Pages that run Markov chains, or fits of many steps."""
CHAINS = ["first-posterior.md", "checking-a-fit.md"]
NUMBER = r"-?\d+(?:\.\d+)?"
PAGES = [*HOW_TO, *ANSWERS, *TUTORIALS, *LONG, "expectation-in-150-lines.md", *WRITING]
RUN = [pytest.param(page, marks=pytest.mark.slow if page in LONG else pytest.mark.table) for page in PAGES]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def choosing():
    spec = importlib.util.spec_from_file_location("choosing", DOCS / "examples" / "choosing.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.table
@pytest.mark.parametrize("page", RUN)
def test_the_code_of_a_page_runs(page, capsys, tmp_path, monkeypatch):
    """All blocks of a page are one program, run as a reader runs it; what it prints is what the page says."""
    (tmp_path / "docs").symlink_to(DOCS)  # a reader runs them in a checkout, and they may leave pictures there
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    code = blocks(page, "python")
    assert len(code) >= (1 if page in TUTORIALS else 4)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile("\n".join(code), str(DOCS / page), "exec"), {"__name__": page})
    printed, said = capsys.readouterr().out.splitlines(), "".join(blocks(page, "text")).splitlines()
    if (
        page in CHAINS
    ):  # From one kind of processor to the next a chain takes another way: the words, and what it finds.
        (printed, found), (said, expected) = map(words_and_numbers, (printed, said))
        np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.1)
    assert printed == said


def words_and_numbers(lines):
    text = "\n".join(lines)
    return re.sub(rf" *{NUMBER}", " #", text), [float(x) for x in re.findall(NUMBER, text)]


@pytest.mark.parametrize("page", WRITING)
def test_a_page_on_writing_your_own_begins_with_a_program_and_ends_with_a_proof(page):
    """A block of 15 to 40 lines that needs no other one, and a section that says how to see that it is right."""
    first, *_ = blocks(page, "python")
    assert 15 <= len([line for line in first.splitlines() if line.strip()]) <= 40
    assert first.startswith("import ")
    *_, proof = (DOCS / page).read_text().split("\n## ")
    assert proof.startswith("Prove it\n")
    assert "\nassert " in proof
    assert re.search("exact_expectation|check_unbiased", proof)
    assert re.search("able to fail|can fail|look right and are not", proof)


def test_each_of_the_thirteen_questions_is_answered_in_ten_lines():
    _, *sections = (DOCS / QUESTIONS).read_text().split("\n## ")
    assert len(sections) == 13
    for section in sections:
        assert section.partition("\n")[0].endswith("?")
        (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        assert 1 <= len([line for line in code.splitlines() if line.strip()]) <= 10, section


@pytest.mark.parametrize("page", [*PAGES, "from-numpyro.md"])
def test_pages_are_in_the_navigation_and_on_the_first_page(page):
    assert page in (ROOT / "mkdocs.yml").read_text()
    assert f"]({page})" in (DOCS / "index.md").read_text()


@pytest.mark.parametrize("name", ["plate", "chain", "mixture"])
def test_the_variances_of_the_page_are_those_of_the_script(name):
    """The rows are all there, in order; those of the two ends are measured again."""
    module = choosing()
    objective, args, sites = module.PROBLEMS[name]
    head = f"| {' | '.join(sites)} | variance |"
    text = (DOCS / "choosing-an-estimator.md").read_text().partition(head)[2]
    rows = [row.strip("| ").split(" | ") for row in text.partition("\n\n")[0].splitlines()[2:]]
    n = len(sites)
    combinations = 1
    for choices in sites.values():
        combinations *= len(choices)
    assert len(rows) == combinations
    costs = [float(row[n + 2]) for row in rows]
    assert costs == sorted(costs)
    for row in (rows[0], rows[-1]):
        tried = {site: [e for e in sites[site] if f"`{e}`" == cell] for site, cell in zip(sites, row[:n], strict=True)}
        found = module.tg.compare_estimators(objective, *args, key=jax.random.key(0), sites=tried, draws=2000)
        assert found.rows[0]["variance"] == pytest.approx(float(row[n]), rel=0.1)
        assert float(row[n]) * float(row[n + 1]) == pytest.approx(float(row[n + 2]), rel=0.02)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/expectation-in-150-lines.md"])
def test_the_files_that_a_page_names_are_there(page):
    """A path in code, with a folder in it, is one of the repository, of `transforms/` or of `ppl/`."""
    named = re.findall(r"`([a-z.]+/(?:[\w-]+/)*(?:[\w-]+(?:\.\w+)?)?)`", (ROOT / page).read_text())
    places = (ROOT, ROOT / "transforms", ROOT / "ppl")
    assert len(named) > 5
    missing = [n for n in named if not any((p / n).exists() or (p / f"{n}.py").exists() for p in places)]
    assert missing == []
