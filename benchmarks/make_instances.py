"""Reproduce the benchmark set in problems/instances/set to the bit, and search for better states.

    python benchmarks/make_instances.py                    build every block of benchmarks/instances.json
    python benchmarks/make_instances.py --check            the same, but only compare with the set that ships
    python benchmarks/make_instances.py --improve 60       search each unproven block for another minute
    python benchmarks/make_instances.py --descents         count again how many descents find the best known energies
    python benchmarks/make_instances.py --choose           select the blocks again (half an hour), then build them

Models and data come from the folder that HYBRID_ICBS_DATA names. Facts of an unchanged block (best known energy
and state, descents) are kept; a new block is solved. docs/instances.md describes the set and how its blocks were
selected.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from instance_blocks import Made, Network, Recipe, make

import solvers
from problems import BestKnown, BlockProblem
from problems.instances.benchmark import FOLDER, Descent, Instance, read_records, write_manifest, write_record
from solvers.local.repair import polish

CHOICES = Path(__file__).with_name("instances.json")
SIZES, LARGE, SHARES = (16, 24, 32, 64, 128, 256, 1024), 4096, (0.1, 0.5, 0.9)
LARGEST = (("resnet20", 0.1), ("llama", 0.5), ("llama", 0.9))  # n = 65536; MLPNet has 32,360 weights
DENSE_UP_TO = 1024
SAME = 1e-9
"""Share of the distance to a random state by which energies may differ and count as equal."""

DENSITIES = {
    "mlpnet": (0.1, 0.2, 0.5),
    "resnet20": (0.3, 0.5),
    "llama": (0.5,),
}  # of typical blocks: the first that fits
HARD_DENSITIES = {"mlpnet": (0.1, 0.02), "resnet20": (0.3, 0.1), "llama": (0.5, 0.1)}
HARD_LAYERS = (
    "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "model.layers.2.mlp.up_proj",
    "model.layers.3.self_attn.o_proj",
)  # fmt: skip
HARD_TRIES = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--choose", nargs="*", metavar="NETWORK", help="choose the blocks anew, of all networks or some"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a block differs")
    parser.add_argument("--improve", type=float, metavar="SECONDS", help="search for better states so long for each")
    parser.add_argument("--descents", action="store_true", help="count descents anew")
    parser.add_argument("--seed", type=int, default=1000, help="first seed of --improve")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of the instances to work on")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.improve is not None or options.descents:
        recorded = [each for each in read_records(options.out).values() if fnmatch(each.name, options.only)]
        if not recorded:
            sys.exit(f"no instance of {options.out} is called {options.only!r}")
        for instance in recorded:
            if options.improve is not None and not instance.best_known.proven:
                improve(instance, options.improve, options.seed)
        for instance in recorded if options.descents else []:
            write_record(counted := with_descents(instance, instance.load()))
            print(
                f"{counted.name}: {counted.descent.found} of {counted.descent.tries}, {counted.best_known}", flush=True
            )
        return
    if options.choose is not None:
        if unknown := set(options.choose) - set(DENSITIES):
            sys.exit(f"--choose {' '.join(sorted(unknown))}: the networks are {', '.join(DENSITIES)}")
        chosen = json.loads(CHOICES.read_text()) if CHOICES.exists() else {}
        for network in options.choose or DENSITIES:
            chosen = {name: recipe for name, recipe in chosen.items() if recipe["network"] != network}
            chosen |= {name: asdict(recipe) for name, recipe in choose(network)}
        CHOICES.write_text("{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in chosen.items()) + "\n}\n")
    recipes = {name: Recipe(**values) for name, values in json.loads(CHOICES.read_text()).items()}
    wanted = {name: recipe for name, recipe in recipes.items() if fnmatch(name, options.only)}
    if not wanted:
        sys.exit(f"no instance of {CHOICES.name} is called {options.only!r}")
    sys.exit(remake(wanted, options.out, list(recipes), options.check))


def remake(recipes: dict[str, Recipe], folder: Path, everything: list[str], check: bool) -> int:
    """Build blocks and their records; the number that differ from the existing ones."""
    names, changed, size = {recipe: name for name, recipe in recipes.items()}, 0, 0
    for made in make(recipes.values()):
        name = names.pop(made.recipe)
        file = io.BytesIO()
        made.compact.write(file)
        data = file.getvalue()
        digest, size = hashlib.sha256(data).hexdigest(), size + len(data)
        path = folder / f"{name}.npz"
        if path.exists() and (folder / f"{name}.json").exists() and path.read_bytes() == data:
            continue
        changed += 1
        print(f"{name}: {'differs' if check else 'new'}", flush=True)
        if not check:
            path.write_bytes(data)
            write_record(solved(unsolved(made, name, digest, folder)))
            write_manifest(folder, [each for each in everything if (folder / f"{each}.json").exists()])
    for name in names.values():
        raise SystemExit(f"{name} cannot be made: the network has too few weights of one kind")
    if not check:
        write_manifest(folder, [name for name in everything if (folder / f"{name}.json").exists()])
    print(
        f"{len(recipes)} instances, {size / 1e6:.2f} MB of coefficients: {changed} {'differ' if check else 'are new'}"
    )
    return changed if check else 0


def unsolved(made: Made, name: str, digest: str, folder: Path) -> Instance:
    """The facts of an unsolved block: its best state is the present mask."""
    recipe, mask = made.recipe, made.compact.mask()
    energy = float(made.compact.problem(recipe.cardinality, offset=made.offset).energy(mask))
    return Instance(
        name=name, source=recipe.network, family=name.split("-")[1],
        form="dense" if recipe.n <= DENSE_UP_TO else "low-rank",
        n=recipe.n, cardinality=recipe.cardinality, rank=recipe.samples, offset=made.offset,
        best_known=BestKnown(energy, False, "the present mask"), descent=Descent(1, 0), layers=made.layers,
        provenance=recipe.provenance(), sha256=digest, best_state=_bits(mask), folder=folder,
    )  # fmt: skip


# Best known energies


def solved(instance: Instance) -> Instance:
    """A record with the best known energy, proven if that is fast, and the number of descents that find it."""
    problem = instance.load()
    found: list[tuple[float, str, np.ndarray]] = []
    for backend, seeds in budget(problem.n):
        for seed in range(seeds):
            answer = solvers.solve(problem, backend, seed=seed)
            found.append((float(answer.first.energy), f"{backend}, seed {seed}", _state(answer)))
    best = min(found, key=lambda each: each[0])
    reached = sum(_same(problem, energy, best[0]) for energy, _, _ in found)
    by = f"{best[1]}; {reached} of {len(found)} runs of tabu and sa reach it"
    instance = _with_best(instance, problem, best[2], by)
    if problem.n <= 128:
        proof = solvers.solve(problem, "exact", seed=0, time_limit=600.0 if problem.n <= 32 else 15.0)
        if proof.info["proven"]:
            instance = _with_best(instance, problem, _state(proof), f"exact, by {proof.info['method']}", proven=True)
    return with_descents(instance, problem)


def budget(n: int) -> list[tuple[str, int]]:
    """Backends with their settings, and how many seeds of each, for a first best known energy."""
    if n <= 256:
        return [("tabu", 10), ("sa", 5)]
    if n <= 1024:
        return [("tabu", 20), ("sa?sweeps=200", 5)]
    return [("tabu", 3), ("sa?sweeps=100", 2)] if n <= 4096 else [("tabu", 1), ("sa", 1)]


def improve(instance: Instance, seconds: float, seed: int) -> None:
    """Search a block for a time, half by `tabu` and half by `sa`; a better state is recorded."""
    problem = instance.load()
    before = instance.best_known.energy
    for backend in ("tabu", "sa"):
        answer = solvers.solve(problem, backend, seed=seed, time_limit=seconds / 2)
        if float(answer.first.energy) < instance.best_known.energy:
            by = f"{backend}, seed {seed}, {seconds / 2:g} s"
            instance = _with_best(instance, problem, _state(answer), by)
    if _same(problem, before, instance.best_known.energy):
        print(f"{instance.name}: {before:.12g} stands", flush=True)
        return
    write_record(with_descents(instance, problem))
    print(
        f"{instance.name}: {before:.12g} -> {instance.best_known.energy:.12g} by {instance.best_known.found_by}",
        flush=True,
    )


def with_descents(instance: Instance, problem: BlockProblem) -> Instance:
    """A record with the share of descents that find the best known energy; a better one that they find is recorded.

    The descent that found it does not count.
    """
    tries = 1000 if problem.n <= 256 else 200 if problem.n <= 1024 else 50 if problem.n <= 4096 else 5
    states = polish(problem, problem.random_states(tries, 0))
    energies = problem.energy(states)
    if energies.min() < instance.best_known.energy and not instance.best_known.proven:
        instance = _with_best(instance, problem, states[int(energies.argmin())], "descent from a random state")
        energies = np.delete(energies, energies.argmin())
    found = int(np.count_nonzero(_same(problem, energies, instance.best_known.energy)))
    return replace(instance, descent=Descent(len(energies), found))


def _with_best(instance: Instance, problem: BlockProblem, x: np.ndarray, by: str, proven: bool = False) -> Instance:
    best = BestKnown(float(problem.energy(x)), proven, by)
    return replace(instance, best_known=best, best_state=_bits(x))


def _same(problem: BlockProblem, energies: np.ndarray | float, best: float) -> np.ndarray:
    return np.asarray(energies) <= best + SAME * abs(problem.random_mean_energy() - best)


def _state(answer: object) -> np.ndarray:
    return np.asarray(answer.record.sample[0], np.int8)  # type: ignore[attr-defined]


def _bits(x: np.ndarray) -> str:
    return base64.b64encode(np.packbits(x.astype(bool)).tobytes()).decode("ascii")


# Choosing


def choose(network: str) -> Iterator[tuple[str, Recipe]]:
    """The blocks of a network: typical ones, and those that descents solve least often."""
    for recipe in typical_recipes(network):
        yield _name(recipe, "typical"), recipe
    for recipe in hardest(network):
        yield _name(recipe, "picked"), recipe


def typical_recipes(network: str) -> Iterator[Recipe]:
    """The first block of a run with the default preset, for each size, at the first density that leaves enough
    weights."""
    weights = len(Network(network).dense)
    cells = [(n, 0.5) for n in SIZES] + [(LARGE, share) for share in SHARES]
    for n, share in cells + [(65536, share) for name, share in LARGEST if name == network]:
        k = round(share * n)
        density = next(d for d in DENSITIES[network] if n - k <= round(d * weights) <= weights - k)
        yield Recipe(network, "loss", n, k, _samples(network, n), 0, density, "contested")


def hard_recipes(network: str) -> Iterator[Recipe]:
    """The blocks of which the hardest of each size and share of ones is taken; typical ones are in the set already."""
    typical = set(typical_recipes(network))
    yield from (recipe for recipe in _candidates(network) if recipe not in typical)


def _candidates(network: str) -> Iterator[Recipe]:
    for n in SIZES:
        for share in SHARES:
            k = round(share * n)
            if network == "llama" and n <= 256:
                for layer in HARD_LAYERS:
                    for row in range(6):
                        for density in (0.5, 0.3):
                            yield Recipe(network, "layer", n, k, 256, 0, density, "threshold", layer, row)
                continue
            for rule in ("contested", "strongest"):
                for density in HARD_DENSITIES[network]:
                    for batch in range(3):
                        yield Recipe(network, "loss", n, k, _samples(network, n), batch, density, rule)


def hardest(network: str) -> list[Recipe]:
    """Of the candidates of each cell the one whose descents reach the best energy least often; ties by mean final
    energy."""
    best: dict[tuple[int, int], tuple[float, float, Recipe]] = {}
    for made in make(hard_recipes(network)):
        recipe = made.recipe
        problem = made.compact.problem(recipe.cardinality, offset=made.offset).to_dense(np.float32)
        energies = problem.energy(polish(problem, problem.random_states(HARD_TRIES, 0)))
        tabu = float(solvers.solve(problem, "tabu", seed=0).first.energy)
        least = min(tabu, float(energies.min()))
        rate = float(np.mean(_same(problem, energies, least)))
        gap = float(np.median(energies) - least) / (problem.random_mean_energy() - least)
        cell = (recipe.n, recipe.cardinality)
        print(f"{network} {cell} {recipe.rule} {recipe.density} {recipe.batch} {recipe.layer} {recipe.row}: "
              f"{rate:.3f} {gap:.2g}", flush=True)  # fmt: skip
        if cell not in best or (rate, -gap) < best[cell][:2]:
            best[cell] = (rate, -gap, recipe)
    return [best[cell][2] for cell in sorted(best)]


def _samples(network: str, n: int) -> int:
    most = 32 if network == "llama" else 200
    return min(most, 200 if n <= 128 else 100 if n <= 256 else 64 if n <= 1024 else 32 if n <= 4096 else 8)


def _name(recipe: Recipe, family: str) -> str:
    return f"{recipe.network}-{family}-n{recipe.n}-k{recipe.cardinality}"


if __name__ == "__main__":
    main()
