"""The graph of a program against graphs drawn by hand, and what is drawn of it."""

import matplotlib as mpl
import numpy as np
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

mpl.use("Agg")


@tg.gen
def schools(sigma):
    mu = tg.sample("mu", dist.Normal(0.0, 5.0))
    tau = tg.sample("tau", dist.HalfCauchy(5.0))
    theta = tg.sample("theta", dist.Normal(mu, tau).expand([8]).to_event(1))
    tg.deterministic("spread", theta.max() - theta.min())
    tg.factor("soft", -(mu**2))
    tg.sample("y", dist.Normal(theta, sigma).to_event(1))


SCHOOLS = {("mu", "theta"), ("tau", "theta"), ("theta", "spread"), ("mu", "soft"), ("theta", "y")}


def kinds(graph):
    return {node.address: (node.kind, node.distribution, node.shape, node.plate) for node in graph.nodes}


@pytest.mark.parametrize("observed", ["y", ["y"], ("y",), {"y": jnp.zeros(8)}])
def test_a_hierarchy(observed):
    graph = tg.model_graph(schools, jnp.ones(8), observed=observed)
    assert isinstance(graph, tg.ModelGraph)
    assert set(graph.edges) == SCHOOLS
    assert kinds(graph) == {
        "mu": ("latent", "Normal", (), ()),
        "tau": ("latent", "HalfCauchy", (), ()),
        "theta": ("latent", "Normal", (8,), ()),
        "spread": ("deterministic", "", (), ()),
        "soft": ("factor", "", (), ()),
        "y": ("observed", "Normal", (8,), ()),
    }
    assert graph == tg.model_graph(tg.Target(schools, jnp.ones(8), {"y": jnp.zeros(8)}))
    assert graph.levels() == {"mu": 0, "tau": 0, "theta": 1, "spread": 2, "soft": 1, "y": 2}


def test_plates_loops_and_branches():
    """A hidden Markov chain of three steps, read off in two places; and a row whose branch a draw chooses."""

    @tg.gen
    def step(carry, _):
        z = tg.sample("z", dist.Normal(carry, 1.0))
        tg.sample("y", dist.Normal(z, 1.0))
        return z, z

    left, right = (
        tg.gen(lambda m, loc=loc: tg.sample("v", dist.Normal(loc * m, 1.0))) for loc in (jnp.zeros(()), jnp.ones(()))
    )

    @tg.gen
    def row(x):
        tg.sample("w", dist.Poisson(jnp.exp(x)))

    @tg.gen
    def model():
        _, zs = tg.sample("steps", step.scan(3)(0.0))
        which = tg.sample("which", dist.Bernoulli(0.5))
        tg.sample("branch", tg.cond(which == 1, left, right)(zs[-1]))
        tg.sample("rows", row.vmap()(jnp.ones(4)))

    graph = tg.model_graph(model)
    assert set(graph.edges) == {
        ("steps/z", "steps/z"),
        ("steps/z", "steps/y"),
        ("steps/z", "branch/v"),
        ("which", "branch/v"),
    }
    assert graph.plates == {"steps 3": ("steps/z", "steps/y"), "rows 4": ("rows/w",)}
    assert kinds(graph)["rows/w"] == ("latent", "Poisson", (), (4,))


def test_what_does_not_depend_is_not_drawn():
    """Each leaf of a distribution alone: a value that is used in a shape or not at all leads nowhere."""

    @tg.gen
    def model():
        a = tg.sample("a", dist.Normal(0.0, 1.0))
        b = tg.sample("b", dist.Normal(jnp.zeros_like(a), 1.0))
        tg.sample("c", dist.Normal(0.0, jnp.exp(b)))
        return a

    assert tg.model_graph(model).edges == (("b", "c"),)


def test_a_density_that_is_an_estimate_is_one_node():
    @tg.gen
    def pair(m):
        u = tg.sample("u", dist.Normal(m, 1.0))
        tg.sample("x", dist.Normal(u, 1.0))

    @tg.gen
    def model():
        m = tg.sample("m", dist.Normal(0.0, 1.0))
        x = tg.sample("sub", tg.marginal(pair, "x", tg.importance(2))(m))["x"]
        tg.sample("y", dist.Normal(x, 1.0))

    graph = tg.model_graph(model, observed="y")
    assert set(graph.edges) == {("m", "sub"), ("sub", "y")}
    assert [node.distribution for node in graph.nodes] == ["Normal", "Normal", "an estimated density"]


def test_the_text_for_graphviz():
    @tg.gen
    def model():
        z = tg.sample("z", dist.Normal(0.0, 1.0))
        tg.sample("rows", tg.gen(lambda: tg.sample("x", dist.Normal(z, 1.0))).repeat(2)())

    assert tg.model_graph(model, observed="rows/x").dot().splitlines() == [
        "digraph {",
        '  "z" [label="z ~ Normal", shape=ellipse];',
        '  subgraph cluster_0 { label="rows 2"; "rows/x" [label="rows/x ~ Normal", shape=ellipse, style=filled, '
        "fillcolor=lightgrey]; }",
        '  "z" -> "rows/x";',
        "}",
    ]


def test_the_drawing_has_the_nodes_and_the_arrows():
    axes = tg.plot_model(schools, jnp.ones(8), observed="y")
    texts = [text.get_text() for text in axes.texts]
    assert [t for t in texts if t][0] == "mu ~ Normal"
    assert texts.count("") == len(SCHOOLS)
    assert tg.plot_model(tg.gen(lambda: None), ax=axes) is axes


def test_a_program_of_nothing_has_an_empty_graph():
    assert tg.model_graph(tg.gen(lambda: 1.0)) == ((), ())


def test_a_distribution_that_shows_no_parameters_is_read_off_its_density():
    class Coin:
        """Of two sides, no pytree."""

        def __init__(self, p):
            self.p = p

        def sample(self, key, sample_shape=()):
            return jnp.zeros(())

        def log_prob(self, value):
            return jnp.where(value == 1.0, jnp.log(self.p), jnp.log1p(-self.p))

    @tg.gen
    def model():
        a = tg.sample("a", dist.Beta(1.0, 1.0))
        tg.sample("b", Coin(a))

    assert tg.model_graph(model).edges == (("a", "b"),)


def test_bad_graphs_are_named():
    with pytest.raises(tg.AddressError, match="`observed`: 'z' matches no sample"):
        tg.model_graph(schools, jnp.ones(8), observed="z")
    with pytest.raises(tg.ArgumentError, match="model_graph takes a generative function"):
        tg.model_graph(lambda: 1.0)


# ---- the course of a fit ---------------------------------------------------------------------------------------------


def test_a_history_and_its_means():
    history = np.arange(100.0)
    history[3] = np.nan
    raw, means = tg.plot_history(history).lines
    np.testing.assert_array_equal(raw.get_ydata(), history)
    assert means.get_ydata()[:3].tolist() == [0.5, 2.0, 4.5]
    assert means.get_xdata()[:3].tolist() == [0.5, 2.0, 4.5]
    assert len(tg.plot_history([1.0]).lines[1].get_ydata()) == 1
    assert len(tg.plot_history([]).lines[1].get_ydata()) == 0


@pytest.mark.parametrize("what", [None, "history", 3.0, np.ones((2, 2)), {"history": [1.0]}, [1j]])
def test_what_is_no_history_is_refused(what):
    with pytest.raises(tg.ArgumentError, match="plot_history takes"):
        tg.plot_history(what)
