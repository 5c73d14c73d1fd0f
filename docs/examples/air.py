"""Attend, infer, repeat: how many digits does a scene have, where, and what do they look like?

    make air                                            # every method, three epochs each: half an hour on two cores
    make air AIR="--methods mvd enum --epochs 20"       # or: python docs/examples/air.py --methods mvd enum --epochs 20
    make air AIR="--methods mvd --rate 1e-4 --epochs 41"  # as published: a tenth of the learning rate
    make air AIR="--quick --methods mvd"                # a minute, to see that it runs

It leaves air.csv (held-out accuracy and objective after every round), curves.png, scenes.png, the networks, and with
--variance a table of gradient variances, variance.txt. The model, family and objectives are in the files beside this.
"""

import argparse
import csv
import time
from pathlib import Path
from typing import NamedTuple

import air_plots
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from air_model import air, places, present
from air_objectives import METHODS, UNROLLED_ONLY, parameters
from air_scenes import digits, make_scenes, mixed
from air_variance import variance_table

import tracegrad as tg

OUTPUT = Path(__file__).parents[2] / "build" / "air"


class Report(NamedTuple):
    """One line of air.csv: seconds are those spent in `fit`, compilation included; objectives in nats per scene."""

    method: str
    epoch: float
    step: int
    seconds: float
    objective: float
    held_out_elbo: float
    accuracy: float
    ms_per_step: float


# ---- evaluation ------------------------------------------------------------------------------------------------------


@eqx.filter_jit
def infer(params, images, key):
    """For each scene: the number of digits drawn from the family, their windows, what is painted, and the ELBO."""
    model, guide = air()

    def one(key, image):
        q = guide.simulate(key, params["recogniser"], image)
        logp, mean = model.assess(q.choices | {"scene": image}, params["painter"])
        return present(q.choices), places(q.choices), mean, logp - q.logp

    return jax.vmap(one)(jax.random.split(key, len(images)), images.astype(float) / 255.0)


def evaluate(params, scenes, key):
    """The share of scenes whose digits are counted right, and the mean ELBO in nats."""
    bits, _, _, elbos = infer(params, jnp.asarray(scenes.images), key)
    return float(np.mean(np.sum(bits, axis=1) == scenes.counts)), float(jnp.mean(elbos))


# ---- training --------------------------------------------------------------------------------------------------------


def train(name, scenes, held_out, options, tell):
    """Train by a method, and after every so many steps look at held-out scenes and `tell(params, report)`."""
    method = METHODS[name]
    objective = method.objective(scanned=options.scanned and name not in UNROLLED_ONLY)
    began, spent = time.perf_counter(), 0.0

    def look(so_far):
        nonlocal began, spent
        seconds, step = time.perf_counter() - began, len(so_far.history)
        latest = so_far.history[-((step - 1) % options.every + 1) :]
        accuracy, elbo = evaluate(so_far.params, held_out, jax.random.key(0))
        epoch, spent = step * options.batch / len(scenes.images), spent + seconds
        ms = 1e3 * seconds / len(latest)
        tell(so_far.params, Report(name, epoch, step, spent, float(latest.mean()), elbo, accuracy, ms))
        began = time.perf_counter()

    tg.fit(
        objective,
        parameters(jax.random.key(options.seed)),
        optax.adam(options.rate),
        key=jax.random.key(options.seed + 1),
        steps=options.steps,
        data=jnp.asarray(scenes.images),
        batch_size=options.batch,
        state=method.state,
        maximize=True,
        progress=False,
        callback=look,
        every=options.every,
    )


def run(options):
    options.output.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    scenes = make_scenes(digits(), options.scenes, seed=0)
    held_out = make_scenes(digits(held_out=True), options.held_out, seed=1)
    print(f"{options.scenes} scenes in {time.perf_counter() - began:.1f} s", flush=True)

    reports, trained = [], {}
    with (options.output / "air.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Report._fields)

        def tell(params, report):
            reports.append(report)
            writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in report])
            file.flush()
            print(describe(report), flush=True)
            trained[report.method] = params
            eqx.tree_serialise_leaves(options.output / f"{report.method}.eqx", params)

        for name in options.methods:
            train(name, scenes, held_out, options, tell)

    last = {report.method: report for report in reports}
    best = max(last, key=lambda name: last[name].accuracy)
    print(summarise(reports, best))
    air_plots.curves(reports, options.output / "curves.png")
    chosen = mixed(held_out.counts)
    found = infer(trained[best], jnp.asarray(held_out.images), jax.random.key(0))
    bits, windows, means = (np.asarray(x)[chosen] for x in found[:3])
    air_plots.scenes(
        held_out.images[chosen], held_out.counts[chosen], bits, windows, means, options.output / "scenes.png"
    )
    if options.variance:
        start = parameters(jax.random.key(options.seed))
        critic = trained.get("reinforce-critic", trained[best])["critic"]
        images = jnp.asarray(scenes.images[:16])
        text = variance_table({"at the start": start, f"after {best}": trained[best] | {"critic": critic}}, images)
        (options.output / "variance.txt").write_text(text)
        print(text)
    print(f"\n{options.output}")


def describe(report):
    return (
        f"{report.method:18} epoch {report.epoch:6.2f}  step {report.step:6d}  {report.seconds:7.0f} s  "
        f"objective {report.objective:8.1f}  held-out ELBO {report.held_out_elbo:8.1f}  "
        f"accuracy {report.accuracy:.3f}  {report.ms_per_step:6.1f} ms/step"
    )


def summarise(reports, best, level=0.9):
    """When each method first counted nine scenes in ten right, and where it ended."""
    lines = [f"\n{'method':18} {'accuracy':>8} {'ELBO':>8} {'seconds':>8}   {level:.2f} reached after"]
    for name in dict.fromkeys(r.method for r in reports):
        mine = [r for r in reports if r.method == name]
        first = next((r for r in mine if r.accuracy >= level), None)
        reached = f"{first.seconds:.0f} s, epoch {first.epoch:.1f}" if first else "-"
        end = mine[-1]
        lines.append(f"{name:18} {end.accuracy:8.3f} {end.held_out_elbo:8.1f} {end.seconds:8.0f}   {reached}")
    return "\n".join([*lines, f"shown in scenes.png: {best}"])


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, "all"], default=["all"])
    parser.add_argument("--scenes", type=int, default=60_000, help="training scenes")
    parser.add_argument("--held-out", type=int, default=2000, help="held-out scenes")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--steps", type=int, help="training steps, in place of epochs")
    parser.add_argument("--every", type=int, default=200, help="steps between two looks at held-out scenes")
    parser.add_argument("--rate", type=float, default=1e-3, help="of Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scanned", action="store_true", help="the three steps in one `scan`, where the method can")
    parser.add_argument("--variance", action="store_true", help="the table of gradient variances too")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for the results")
    parser.add_argument("--quick", action="store_true", help="few scenes, few steps: to see that it runs")
    options = parser.parse_args(arguments)
    if "all" in options.methods:
        options.methods = list(METHODS)
    if options.quick:
        options.scenes, options.held_out, options.steps, options.every = 512, 64, 4, 2
        options.batch = min(options.batch, 8)
    options.steps = options.steps or max(1, round(options.epochs * options.scenes / options.batch))
    return options


if __name__ == "__main__":
    run(parse())
