"""The graph of a program: its sites, what the parameters of each depend on, and the plates that they stand in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax import numpy as jnp

from .._extras import require
from ..core._addresses import Path, as_path, as_selection, matches, paths
from ..core._arguments import generative
from ..core._generative import GenerativeFunction
from ..core._given_values import struct
from ..core._operations import Assess
from ..core._overrides import isolated
from ..core._target import Target
from ..transforms._internal import influences


class Node(NamedTuple):
    """A node of a `ModelGraph`.

    Attributes:
        address: its address, 'a/b'.
        kind: "latent", "observed", "deterministic" or "factor".
        distribution: the family that it is drawn from; empty where it is not drawn.
        shape: the shape of one value.
        plate: how many there are along each axis of the lanes and loops around it.
    """

    address: str
    kind: str
    distribution: str
    shape: tuple[int, ...]
    plate: tuple[int, ...]


class ModelGraph(NamedTuple):
    """What `model_graph` returns.

    Attributes:
        nodes: the sites, deterministic values and factors.
        edges: pairs of addresses: the parameters of the second depend on the value of the first. One from a node to
            itself leads from one step of a loop to a later one.

    Examples:
        >>> import tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     z = tg.sample("z", tg.dist.Normal(0.0, 1.0))
        ...     tg.sample("x", tg.dist.Normal(z, 1.0).expand([5]))
        >>> graph = tg.model_graph(model, observed="x")
        >>> [(node.address, node.kind, node.distribution) for node in graph.nodes], graph.edges
        ([('z', 'latent', 'Normal'), ('x', 'observed', 'Normal')], (('z', 'x'),))
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]

    @property
    def plates(self) -> dict[str, tuple[str, ...]]:
        """The plates: what each is called, where it stands and its size, and the addresses in it."""
        out: dict[str, tuple[str, ...]] = {}
        for node in self.nodes:
            if node.plate:
                above = node.address.rpartition("/")[0]
                label = f"{above} {_times(node.plate)}".strip()
                out[label] = (*out.get(label, ()), node.address)
        return out

    def dot(self) -> str:
        """The graph in the language of Graphviz: `graphviz.Source(graph.dot())` draws it."""
        inside = {address for members in self.plates.values() for address in members}
        lines = [_dot_node(node) for node in self.nodes if node.address not in inside]
        for i, (label, members) in enumerate(self.plates.items()):
            body = " ".join(_dot_node(node) for node in self.nodes if node.address in members)
            lines.append(f"subgraph cluster_{i} {{ label={_quoted(label)}; {body} }}")
        lines += [f"{_quoted(a)} -> {_quoted(b)};" for a, b in self.edges]
        return "\n".join(["digraph {", *(f"  {line}" for line in lines), "}"])

    def levels(self) -> dict[str, int]:
        """How far down each node stands: below all that leads to it."""
        depth = dict.fromkeys((node.address for node in self.nodes), 0)
        for _ in depth:  # As many rounds as nodes settle it, circles or not.
            for a, b in self.edges:
                if a != b:
                    depth[b] = min(max(depth[b], depth[a] + 1), len(depth))
        return depth


def _times(plate):
    return " x ".join(map(str, plate))


def _quoted(text):
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


SHAPES = {"latent": "ellipse", "observed": "ellipse", "deterministic": "box", "factor": "square"}


def _label(node):
    return node.address if not node.distribution else f"{node.address} ~ {node.distribution}"


def _dot_node(node):
    filled = ", style=filled, fillcolor=lightgrey" if node.kind == "observed" else ""
    return f"{_quoted(node.address)} [label={_quoted(_label(node))}, shape={SHAPES[node.kind]}{filled}];"


class _Described(Assess):
    """Take every value; on record are the parameters of each distribution, and values and terms that are no choices."""

    keeps_densities = True

    def __init__(self):
        self.order: dict[Path, None] = {}
        self.found: dict[Path, tuple[str, tuple[int, ...]]] = {}
        self.noted: dict[Path, tuple[int, ...]] = {}
        self.opaque: set[Path] = set()

    def note(self, path, value):
        """The value."""
        self.order[path] = None
        self.noted[path] = jnp.shape(value)
        return jnp.asarray(value)

    def factor(self, path, logp, what="a factor"):
        """The term."""
        self.order[path] = None
        return logp

    def site(self, at, given):
        """Take the value, and record what it is drawn from."""
        visit = super().site(at, given)
        leaves = jax.tree.leaves(at.distribution)
        self.order[at.path] = None
        self.found[at.path] = (_family(at.distribution), tuple(struct(at.distribution).shape))
        if all(eqx.is_array_like(x) for x in leaves):
            return visit._replace(record=[jnp.asarray(x) for x in leaves])
        self.opaque.add(at.path)  # Its density tells, which depends on its own value, too.
        return visit._replace(record=[visit.logp])


def _family(distribution):
    """The name of a family, beneath what only shapes it."""
    base = getattr(distribution, "base_dist", None)
    wraps = type(distribution).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution")
    return _family(base) if wraps and base is not None else type(distribution).__name__


def model_graph(model: GenerativeFunction | Target, args: Any = (), *, observed: Any = ()) -> ModelGraph:
    """The graph of a program at its arguments: nothing is drawn, and what data flow there is is found by tracing it.

    A node depends on another where the parameters of its distribution are computed from the other's value, on whatever
    way, a loop's carry or the choice of a branch too. Where the analysis is unsure there is an edge.

    Args:
        model: a generative function, or a `Target`, which brings its arguments and observations.
        args: its arguments, a tuple, or the only one.
        observed: what is observed: addresses or patterns, or a dict of values.

    Returns:
        A `ModelGraph`.

    Raises:
        AddressError: an observed address that the program does not have.
        ArgumentError: no generative function.

    Source: Koller and Friedman, Probabilistic Graphical Models, 2009, section 3.2.

    Examples:
        >>> import jax.numpy as jnp, tracegrad as tg
        >>> @tg.gen
        ... def step(carry, _):
        ...     return tg.sample("z", tg.dist.Normal(carry, 1.0)), None
        >>> graph = tg.model_graph(step.scan(3), (0.0,))
        >>> graph.edges, graph.plates
        ((('z', 'z'),), {'3': ('z',)})
    """
    target, known = _whole(model, args, observed)
    operation, shapes = _Described(), target.latents()

    def run(choices):
        return target.visit(operation, jax.random.key(0), choices).records

    with isolated():
        records = jax.eval_shape(run, shapes)
        found = influences(run, shapes)
    sources = [p for p, _ in paths(shapes)]
    leaves = [(p, len(jax.tree.leaves(x))) for p, x in paths(records)]
    into: dict[Path, set[Path]] = {}
    for (path, count), start in zip(leaves, _starts(leaves), strict=True):
        into[path] = {sources[i] for depends in found[start : start + count] for i in depends}
    kinds = _Kinds(operation, dict(paths(shapes)), known)
    place = {path: i for i, path in enumerate(operation.order)}
    by_place = sorted(paths(records), key=lambda entry: place.get(entry[0], len(place)))
    nodes = tuple(kinds.node(path, jax.tree.leaves(x)) for path, x in by_place)
    order = [as_path(node.address) for node in nodes]
    edges = [(a, b) for b in order for a in order if any(matches(a, s) for s in into[b] if kinds.leads(s, b))]
    return ModelGraph(nodes, tuple(("/".join(a), "/".join(b)) for a, b in edges))


def _starts(leaves):
    starts = [0]
    for _, count in leaves:
        starts.append(starts[-1] + count)
    return starts[:-1]


def _whole(model, args, observed):
    """The program with nothing observed, and the addresses that are."""
    if isinstance(model, Target):
        return Target(model.function, model.args, {}, model.kwargs), as_selection([p for p, _ in paths(model.observed)])
    target = Target(generative("model_graph", model), args)
    if isinstance(observed, Mapping):
        observed = [p for p, _ in paths(observed)]
    selection = as_selection(list(observed) if isinstance(observed, tuple) else observed)
    selection.check((p for p, _ in paths(target.latents())), "model_graph, `observed`")
    return target, selection


class _Kinds(NamedTuple):
    """What is known of the places of a program."""

    operation: _Described
    shapes: dict[Path, Any]
    observed: Any

    def node(self, path, record):
        """A node."""
        address = "/".join(path)
        if path in self.operation.found:
            family, shape = self.operation.found[path]
            whole = self.shapes[path].shape
            kind = "observed" if path in self.observed else "latent"
            return Node(address, kind, family, shape, whole[: len(whole) - len(shape)])
        if path in self.operation.noted:
            shape = self.operation.noted[path]
            return Node(address, "deterministic", "", shape, record[0].shape[: record[0].ndim - len(shape)])
        beneath = [p for p in self.shapes if matches(path, p)]
        if not beneath:
            return Node(address, "factor", "", (), record[0].shape)
        kind = "observed" if all(p in self.observed for p in beneath) else "latent"
        return Node(address, kind, "an estimated density", (), record[0].shape)

    def leads(self, source, path):
        """Whether what is on record at a path tells that it depends on a source: of an estimate's own it does not."""
        transparent = path in self.operation.found and path not in self.operation.opaque
        return transparent or not matches(path, source)


def plot_model(model: GenerativeFunction | Target, args: Any = (), *, observed: Any = (), ax: Any = None) -> Any:
    """Draw the graph of a program, by matplotlib: what is observed is grey, what is not drawn is square.

    Args:
        model: a generative function, or a `Target`.
        args: its arguments.
        observed: what is observed; as for `model_graph`.
        ax: axes to draw in; by default new ones.

    Returns:
        The axes.

    Examples:
        >>> import tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     z = tg.sample("z", tg.dist.Normal(0.0, 1.0))
        ...     tg.sample("x", tg.dist.Normal(z, 1.0))
        >>> axes = tg.plot_model(model, observed="x")
        >>> [text.get_text() for text in axes.texts if text.get_text()]
        ['z ~ Normal', 'x ~ Normal']
    """
    graph = model_graph(model, args, observed=observed)
    plt = require("matplotlib.pyplot", "plots", "plot_model")
    ax = plt.subplots()[1] if ax is None else ax
    where = _places(graph)
    for node in graph.nodes:
        times = f"\n{_times(node.plate)}" if node.plate else ""
        box = {
            "boxstyle": "square" if node.kind in ("deterministic", "factor") else "round",
            "facecolor": "lightgrey" if node.kind == "observed" else "white",
        }
        ax.text(*where[node.address], _label(node) + times, ha="center", va="center", bbox=box)
    for a, b in graph.edges:
        if a != b:
            ends = {"xy": where[b], "xytext": where[a]}
            ax.annotate("", **ends, arrowprops={"arrowstyle": "->", "shrinkA": 14, "shrinkB": 14})
        else:
            ax.annotate("", where[a], where[a], arrowprops={"arrowstyle": "->", "connectionstyle": "angle3"})
    ax.set(xlim=(-1.0, 1.0), ylim=(min((y for _, y in where.values()), default=0.0) - 0.5, 0.5))
    ax.set_axis_off()
    return ax


def _places(graph):
    """Where each node is drawn: level by level downwards, spread over the width."""
    levels = graph.levels()
    out = {}
    for level in set(levels.values()):
        row = [address for address, depth in levels.items() if depth == level]
        for i, address in enumerate(row):
            out[address] = (2.0 * (i + 0.5) / len(row) - 1.0, -float(level))
    return out
