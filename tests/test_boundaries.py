"""At the edge to the rest of the user's program: bound methods under `jit`, columns of tables, very many addresses."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)
norm = jax.scipy.stats.norm.logpdf

model = tg.gen(lambda m: tg.sample("x", dist.Normal(tg.sample("z", dist.Normal(m, 1.0)), 1.0)))
guide = tg.gen(lambda m: tg.sample("z", dist.Normal(m, 1.0)))


# ---- bound methods under jit ----------------------------------------------------------------------------------------


def made(mean=0.0, x=2.0):
    return tg.Target(model, (mean,), {"x": x})


def log_joint(z, mean=0.0, x=2.0):
    return norm(z, mean) + norm(x, z)


def test_the_density_of_a_target_under_jit():
    for target in (made(), made(jnp.array(0.0), jnp.array(2.0))):
        np.testing.assert_allclose(jax.jit(target.log_prob)({"z": 0.5}), log_joint(0.5), rtol=1e-6)
        gradient = jax.jit(jax.grad(target.log_prob))({"z": 0.5})["z"]
        np.testing.assert_allclose(gradient, -0.5 + 1.5, rtol=1e-6)
        np.testing.assert_allclose(
            jax.jit(jax.vmap(target.log_prob))({"z": jnp.arange(3.0)}), log_joint(np.arange(3.0)), rtol=1e-6
        )


def test_targets_of_other_values_are_not_taken_for_each_other():
    for mean, x in ((0.0, 2.0), (1.0, 2.0), (0.0, 3.0), (jnp.array(1.0), np.array(2.0)), (jnp.array(2.0), 2.0)):
        np.testing.assert_allclose(jax.jit(made(mean, x).log_prob)({"z": 0.5}), log_joint(0.5, mean, x), rtol=1e-6)


def test_a_target_that_holds_traced_values_under_a_jit_of_its_own():
    def total(mean):
        target, same, other = made(mean), made(mean), made(mean + 1.0)
        return sum(jax.jit(t.log_prob)({"z": 0.5}) for t in (target, target, same, other))

    np.testing.assert_allclose(jax.jit(total)(1.0), 3 * log_joint(0.5, 1.0) + log_joint(0.5, 2.0), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(total)(1.0), -3 * 0.5 - 1.5, rtol=1e-6)


def test_what_is_compiled_for_a_target_is_found_again():
    target = made(jnp.array(0.0))
    run = jax.jit(target.log_prob)
    run({"z": 0.5})
    again = jax.jit(target.log_prob)
    again({"z": 0.7})
    assert run._cache_size() == again._cache_size() == 1


posterior = tg.normalize(made(), tg.sir(3, guide, (1.0,)))
family = tg.auto.mean_field(made())
space = tg.to_unconstrained(made())
marginal = tg.marginal(model, "x", tg.importance(3))
PARAMS = {"loc": jnp.zeros(1), "log_scale": jnp.zeros(1)}
METHODS = {
    "simulate": (model.simulate, (KEY, 0.0)),
    "assess": (model.assess, ({"x": 1.0, "z": 0.0}, 0.0)),
    "generate": (model.generate, (KEY, {"x": 1.0}, 0.0)),
    "update": (model.update, (KEY, model.simulate(KEY, 0.0), {"x": 1.0}, 0.0)),
    "of a vmap": (guide.vmap().simulate, (KEY, jnp.zeros(2))),
    "of a branch": (tg.cond(True, model, model).simulate, (KEY, 0.0)),
    "of estimators": (model.with_estimators({"z": tg.reinforce(jnp.zeros(()))}).simulate, (KEY, 0.0)),
    "of a posterior": (posterior.simulate, (KEY,)),
    "of a posterior's propose": (posterior.propose, (KEY,)),
    "of a marginal": (marginal.simulate, (KEY, 0.0)),
    "of a guide": (family.guide.simulate, (KEY, PARAMS)),
    "init": (family.init, (KEY,)),
    "draw": (made().draw, (KEY,)),
    "space": (space.log_prob, (jnp.zeros(1),)),
    "constrain": (space.constrain, (jnp.zeros(1),)),
    "unconstrain": (space.unconstrain, ({"z": 0.5},)),
    "average": (tg.MovingAverage(0.9).update, (1.0,)),
    "weighted draws": (tg.WeightedDraws({"z": jnp.zeros(3)}, jnp.zeros(3)).mean, ()),
    "objective": (tg.elbo(model, guide, {"x": 2.0}), (KEY, (0.0,), (0.5,))),
}


@pytest.mark.parametrize(("method", "args"), METHODS.values(), ids=METHODS)
def test_public_methods_under_jit_give_what_they_give_without(method, args):
    expected, found = jax.tree.leaves(method(*args)), jax.tree.leaves(jax.jit(method)(*args))
    for x, y in zip(expected, found, strict=True):
        if jnp.issubdtype(jnp.result_type(x), jnp.number):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


# ---- columns of tables ----------------------------------------------------------------------------------------------


class Column:
    """A column of another library, polars say: all that is known of it is `to_numpy`."""

    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return np.asarray(self.values)


class Table(Column):
    columns = ("x",)

    def __getitem__(self, name):
        return Column(self.values)


def of_pandas(values):
    return pytest.importorskip("pandas").Series(values)


def table_of_pandas(values):
    return pytest.importorskip("pandas").DataFrame({"x": values})


COLUMNS = {"pandas": of_pandas, "to_numpy": Column}
VALUES = np.array([1.0, 2.0, 4.0])


@tg.gen
def line(xs):
    slope = tg.sample("slope", dist.Normal(0.0, 1.0))
    return tg.sample("ys", dist.Normal(slope * xs, 1.0))


def density(slope, xs, ys):
    return norm(slope) + norm(ys, slope * xs).sum()


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_a_column_stands_where_an_array_stands(column):
    xs, ys = column(VALUES), column(VALUES[::-1].copy())
    exact = density(0.5, VALUES, VALUES[::-1])
    given = {"slope": 0.5, "ys": ys}
    np.testing.assert_allclose(line.assess(given, xs)[0], exact, rtol=1e-6)
    np.testing.assert_allclose(line.assess(given, xs=xs)[0], exact, rtol=1e-6)
    np.testing.assert_allclose(tg.Target(line, (xs,), {"ys": ys}).log_prob({"slope": 0.5}), exact, rtol=1e-6)
    made, weight = line.generate(KEY, {"ys": ys}, xs)
    np.testing.assert_allclose(weight, norm(VALUES[::-1], made.choices["slope"] * VALUES).sum(), rtol=1e-5)
    np.testing.assert_array_equal(line.simulate(KEY, xs).retval, line.simulate(KEY, VALUES).retval)
    np.testing.assert_allclose(line.update(KEY, made, {}, xs)[1], 0.0, atol=1e-5)
    np.testing.assert_array_equal(guide.vmap().simulate(KEY, xs).retval, guide.vmap().simulate(KEY, VALUES).retval)
    outer = tg.gen(lambda: tg.sample("points", guide.vmap()(xs)))
    np.testing.assert_array_equal(outer.simulate(KEY).retval.shape, (3,))


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_a_column_in_an_objective(column):
    q = tg.gen(lambda m: tg.sample("slope", dist.Normal(m, 1.0)))
    bound, plain = (tg.elbo(line, q, {"ys": ys}) for ys in (column(VALUES), VALUES))
    for args in ((column(VALUES),), column(VALUES)):
        value, slope = jax.value_and_grad(lambda m, args=args: bound(KEY, args, (m,)))(0.5)
        exact, other = jax.value_and_grad(lambda m: plain(KEY, (jnp.asarray(VALUES),), (m,)))(0.5)
        np.testing.assert_allclose((value, slope), (exact, other), rtol=1e-6)
    f = tg.expectation(lambda key, xs: jnp.sum(xs) * q.simulate(key, 0.0).retval)
    np.testing.assert_array_equal(f(KEY, column(VALUES)), f(KEY, VALUES))


def test_a_column_as_a_parameter_of_a_distribution():
    inside = tg.gen(lambda: tg.sample("ys", dist.Normal(of_pandas(VALUES), 1.0)))
    np.testing.assert_allclose(inside.assess({"ys": VALUES})[0], 3 * norm(0.0), rtol=1e-6)


def test_integers_and_flags_of_a_column():
    counted = tg.gen(lambda: tg.sample("n", dist.Poisson(2.0).expand([3])))
    logps = np.array([1, 0, 3]) * np.log(2.0) - 2.0 - np.log([1.0, 1.0, 6.0])
    np.testing.assert_allclose(counted.assess({"n": of_pandas([1, 0, 3])})[0], logps.sum(), rtol=1e-5)
    flags = tg.gen(lambda: tg.sample("b", dist.Bernoulli(0.25).expand([2])))
    found = flags.assess({"b": of_pandas([True, False])})[0]
    np.testing.assert_allclose(found, np.log(0.25) + np.log(0.75), rtol=1e-6)


@pytest.mark.parametrize("table", [table_of_pandas(VALUES), Table(VALUES)], ids=["pandas", "columns"])
def test_a_whole_table_is_refused_with_what_to_write(table):
    text = r"A table \(.*\) is no array. Give its columns, which are: `\{name: df\[name\]"
    for run in (
        lambda: line.simulate(KEY, table),
        lambda: line(table),
        lambda: tg.Target(line, (table,)),
        lambda: tg.Target(line, (VALUES,), {"ys": table}),
        lambda: tg.expectation(lambda key, d: 1.0)(KEY, table),
    ):
        with pytest.raises(tg.ArgumentError, match=text):
            run()
    columns = {name: table[name] for name in table.columns}
    by_name = tg.gen(lambda d: tg.sample("ys", dist.Normal(2.0 * d["x"], 1.0)))
    np.testing.assert_allclose(by_name.assess({"ys": 2.0 * VALUES}, columns)[0], 3 * norm(0.0), rtol=1e-6)


@pytest.mark.parametrize("values", [["a", "b"], [1.0, None, "c"]])
def test_a_column_that_holds_no_numbers(values):
    for column in (of_pandas(values), Column(np.array(values, object))):
        with pytest.raises(tg.ArgumentError, match="A column .* holds no numbers. Encode it"):
            line.simulate(KEY, column)
        with pytest.raises(tg.ArgumentError, match="holds no numbers"):
            line.assess({"slope": 0.0, "ys": column}, VALUES)


def test_other_objects_pass_as_they_are():
    settings = types.SimpleNamespace(scale=2.0)
    with_object = tg.gen(lambda s: tg.sample("z", dist.Normal(0.0, s.scale)))
    made = with_object.simulate(KEY, settings)
    assert made.args[0] is settings
    np.testing.assert_allclose(made.logp, norm(made.choices["z"], 0.0, 2.0), rtol=1e-6)


# ---- many addresses and deep calls ----------------------------------------------------------------------------------


def flat(n):
    return tg.gen(lambda: [tg.sample(f"x{i}", dist.Normal(0.0, 1.0)) for i in range(n)] and None)


def test_an_error_names_the_nearest_of_many_addresses():
    program = flat(500)
    choices = {f"x{i}": float(i) for i in range(500)}
    with pytest.raises(tg.AddressError, match="no sample at 'x12a'. It samples at: 'x12") as caught:
        program.assess(choices | {"x12a": 0.0})
    assert "'x12'" in str(caught.value)
    assert "and 495 others" in str(caught.value)
    assert len(str(caught.value)) < 300
    with pytest.raises(tg.AddressError, match=r"'Q' \(nor at 2 other addresses that are given\).*and 495 others"):
        program.assess(choices | {"Q": 0.0, "R": 0.0, "S": 0.0})
    with pytest.raises(tg.AddressError, match="'zz' matches no sample. .* and 495 others") as caught:
        program.with_estimators({"zz": tg.reparam()}).assess(choices)
    assert len(str(caught.value)) < 300


def test_a_dozen_addresses_are_all_named():
    with pytest.raises(tg.AddressError) as caught:
        flat(12).generate(KEY, {"y": 0.0})
    assert all(f"'x{i}'" in str(caught.value) for i in range(12))


def nest(depth):
    program = tg.gen(lambda: tg.sample("x", dist.Delta(1.0)))
    for _ in range(depth):
        program = tg.gen(lambda inner=program: tg.sample("s", inner()))
    return program


@pytest.mark.parametrize("around", [lambda f: f, lambda f: f.repeat(2)], ids=["plain", "in lanes"])
def test_calls_nested_too_deep_say_what_to_write(around):
    with pytest.raises(
        tg.AddressError, match=r"nested \d+ deep, .*`sample\('steps', step.scan\(n\)\(init\)\)`"
    ) as caught:
        around(nest(400)).simulate(KEY)
    assert caught.value.__suppress_context__
    assert float(nest(50).simulate(KEY).retval) == 1.0


def test_a_recursion_of_the_users_own_stays_what_it_is():
    def forever():
        return forever()

    with pytest.raises(RecursionError):
        tg.gen(forever).simulate(KEY)
