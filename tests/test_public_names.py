"""What is public: a table of all names, what `dir` shows, and that each name is documented and used in a test."""

import ast
import importlib
import re
from types import ModuleType

import pytest
from source_tree import PUBLIC, ROOT, exported, sources

import tracegrad as tg

FLAT = """
    AddressError ArgumentError BiasReport BiasedGradientError ChoiceError Comparison DensityError DiscontinuityWarning
    DistributionError Draws EstimatorError Fit FitError GenerativeFunction HigherOrderError MovingAverage NoRuleError
    ObjectiveError RandomKeyError SupportWarning Target Trace TracegradError Unconstrained WeightedDraws
    arm auto baseline_loss biased_concrete biased_straight_through check_unbiased compare_estimators cond control_loss
    cubo describe_estimators disarm dist dreg dreg_wake_phi elbo energy_distance enum exact exact_expectation
    expectation f_divergence fit forward_filter forward_kl gen hmc importance importance_sampling iwelbo
    jensen_shannon kalman leave_one_out local_expectation log_variance marginal merge mmd mvd nested_vi normalize nuts
    rebar reinforce relabel relax renyi reparam rsvi sample select sir sleep smc smc_bound smc_wake_phi
    sticking_the_landing deterministic factor frozen nan_as_missing noncentred ordered positive scale_tril simplex
    unit_interval unwrap
    sum_and_sample switch symmetric_kl to_arviz to_unconstrained trajectory_balance tvo unordered_set validated vargrad
    vimco wake_phi wake_theta with_estimators
    Calibration Evaluation Fitted Posterior PredictiveCheck Summary evaluate log_likelihood predictive
    predictive_check sbc shrinkage vi
    CheckpointError load_fit signal_to_noise
    ModelGraph model_graph plot_history plot_model
    EstimatorChoice by_importance tune_estimators
    algorithms errors estimators objectives transforms
""".split()
"""Every name that a user may have written down as `tg.name`. None may go."""

GROUPS = {
    "algorithms": """
        Algorithm Estimate Retained at_index choose each effective_size exact forward_filter importance kalman
        log_mean_exp sir smc split
    """.split(),
    "auto": "Family delta flow full_rank laplace low_rank mean_field".split(),
    "errors": [name for name in FLAT if name.endswith(("Error", "Warning"))],
    "estimators": """
        arm biased_concrete biased_straight_through disarm enum local_expectation mvd rebar reinforce relax reparam rsvi
        sum_and_sample unordered_set
    """.split(),
    "objectives": """
        cubo dreg dreg_wake_phi elbo energy_distance f_divergence forward_kl iwelbo jensen_shannon log_variance mmd
        nested_vi renyi sleep smc_bound smc_wake_phi sticking_the_landing symmetric_kl trajectory_balance tvo vargrad
        vimco wake_phi wake_theta
    """.split(),
    "transforms": """
        Accepted ArgumentError BiasedGradientError Description Direct DiscontinuityWarning Drawn Enumerate Estimator
        EstimatorError Fork HigherOrderError NoRuleError ObjectiveError Path RandomKeyError Scored SiteReport
        StandardNoise TracegradError WeakDerivative accepted_noise arm by_importance check_pathwise choose_estimators
        describe_sites
        detached disarm elementwise enum exact_expectation expectation held leave_one_out local_expectation log_density
        magic_box moving_support mvd noise positive_support probabilities rebar reinforce relax reparam
        reparameterised rsvi sample scored standard_noise stated sum_and_sample support unordered_set weak_derivative
        with_surrogate
    """.split(),
}
"""The groups, and what each shows. A name may be added here; taking one away breaks somebody's program."""

NAMES = {"tracegrad": FLAT, **{f"tracegrad.{group}": names for group, names in GROUPS.items()}}


def test_no_public_name_is_lost_and_none_is_public_by_accident():
    assert {module: sorted(exported(module)) for module in PUBLIC} == {m: sorted(names) for m, names in NAMES.items()}


@pytest.mark.parametrize("module", PUBLIC)
def test_dir_shows_what_is_public(module):
    package = importlib.import_module(module)
    shown = [name for name in dir(package) if name != "__version__"]
    assert shown == sorted(package.__all__)
    assert [name for name in shown if not hasattr(package, name)] == []
    assert ("__version__" in dir(package)) == (package is tg)


@pytest.mark.parametrize("module", PUBLIC)
def test_a_star_import_gives_what_is_public(module):
    given = {}
    exec(f"from {module} import *", given)
    assert sorted(set(given) - {"__builtins__"}) == sorted(NAMES[module])


def test_a_name_means_one_thing():
    """In a group, in the layer beneath and flat: `sample` alone is two, with an address and without."""
    meanings = {}
    for module in PUBLIC:
        for name in exported(module):
            meanings.setdefault(name, set()).add(id(getattr(importlib.import_module(module), name)))
    assert {name for name, found in meanings.items() if len(found) > 1} == {"sample"}


def test_groups_are_modules_and_lie_under_their_names():
    assert [name for name in (*GROUPS, "dist") if not isinstance(getattr(tg, name), ModuleType)] == []
    assert set(GROUPS) | {"dist"} == {name for name in FLAT if isinstance(getattr(tg, name), ModuleType)}
    assert [name for name in GROUPS if importlib.import_module(f"tracegrad.{name}") is not getattr(tg, name)] == []


# Documented, and used in a test


def _same(module, name, others):
    """Whether a public name, or another public name of the same thing, is among others, given as (module, name)."""
    thing = getattr(importlib.import_module(module), name)
    return any((m, name) in others and getattr(importlib.import_module(m), name) is thing for m in PUBLIC)


def _documented():
    """The public names that have an entry, or a heading, in a page of reference."""
    pages = "\n".join(page.read_text() for page in sorted((ROOT / "docs").glob("reference*.md")))
    found = re.findall(r"^(?:::: |#+ `?)(tracegrad[\w.]*)\.(\w+)", pages, re.MULTILINE)
    return set(found)


def test_every_public_name_is_in_the_reference_and_nothing_else():
    documented = _documented()
    public = [(module, name) for module in PUBLIC for name in exported(module)]
    assert [entry for entry in public if not _same(*entry, documented)] == []
    assert documented - set(public) == set()


def _used(tree: ast.Module) -> set[tuple[str, str]]:
    """The names under `tracegrad` that a file uses, not merely imports, as (module, name)."""
    meaning = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            meaning |= {a.asname or a.name: a.name for a in node.names if a.name.startswith("tracegrad")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tracegrad"):
            meaning |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            first, *rest = ast.unparse(node).split(".")
            used |= {".".join([meaning[first], *rest])} if first in meaning else set()
    return {path.rpartition(".")[::2] for path in used}


def test_every_public_name_is_used_in_a_test():
    here = ROOT / "tests" / "test_public_names.py"
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path != here]
    used = set().union(*(_used(ast.parse(path.read_text())) for path in files))
    unused = [(m, name) for m in PUBLIC for name in exported(m) if not _same(m, name, used)]
    assert [entry for entry in unused if not isinstance(getattr(tg, entry[1], None), ModuleType)] == []


def test_only_public_modules_say_what_they_export():
    """A list of names stands where a reader looks for one: in the modules that are named in the reference."""
    listed = [source.module for source in sources() if "__all__" in {ast.unparse(t) for t in _assigned(source.tree)}]
    assert sorted(listed) == sorted(NAMES)


def _assigned(tree):
    return [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]


def test_using_is_more_than_importing():
    tree = ast.parse(
        "import tracegrad as tg\nfrom tracegrad.transforms import noise, mvd\ntg.algorithms.exact()\nmvd()"
    )
    assert _used(tree) >= {("tracegrad.algorithms", "exact"), ("tracegrad.transforms", "mvd")}
    assert ("tracegrad.transforms", "noise") not in _used(tree)
