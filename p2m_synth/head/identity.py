"""Who: a random neutral head from age, gender, build, ancestry and local shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p2m_synth.head.asset import load_asset

# Spread of one local shape, by region, in units of its target: beyond 0.3 people turn into aliens. Shapes with a name
# here have their own: in these, AFLW2000-3D's faces vary more than ours did (benchmarks/landmarks.py).
LOCAL_SIGMA = {
    "asym": 0.14, "cheek": 0.22, "chin": 0.21, "ears": 0.16, "eyebrows": 0.28, "eyes": 0.19, "forehead": 0.10,
    "head": 0.12, "mouth": 0.21, "nose": 0.12,
    "mouth/mouth-trans-forward": 0.35, "mouth/mouth-trans-up": 0.3,
    "chin/chin-prominent-incr": 0.3, "chin/chin-prognathism-incr": 0.35, "head/head-angle-out": 0.2,
}  # fmt: skip
# Mean of some local shapes; that of the others is 0. With it our mean landmarks lie where AFLW2000-3D's do: its faces
# have deeper noses (made by benchmarks/landmarks.py --derive).
LOCAL_MEAN = {
    "nose/nose-scale-depth-incr": 0.5, "nose/nose-trans-forward": 0.3, "nose/nose-greek-incr": 0.2,
    "nose/nose-curve-convex": 0.2, "mouth/mouth-lowerlip-height-incr": -0.25, "chin/chin-prognathism-incr": 0.15,
    "head/head-scale-depth-incr": 0.2,
}  # fmt: skip
# Shifts of a whole part, which tear it off its neighbours, and overall age, which the macro targets give.
LEFT_OUT = ("head-trans", "mouth-trans-out", "nose-trans-out", "head-age")
OUTLINES = ("diamond", "invertedtriangular", "oval", "rectangular", "round", "square", "triangular")


@dataclass(frozen=True)
class Identity:
    """age: 0 child, 0.5 young, 1 old.   gender: 0 male, 1 female.   ancestry: (3,) african, asian, caucasian.
    muscle, weight: 0 to 1.   local: one value in [-1, 1] a local shape."""

    age: float
    gender: float
    ancestry: np.ndarray
    muscle: float
    weight: float
    local: np.ndarray


def draw_identity(rng: np.random.Generator) -> Identity:
    """A random person."""
    low, high = ((0.05, 0.35), (0.35, 0.7), (0.7, 1.0))[rng.choice(3, p=(0.10, 0.58, 0.32))]
    names = load_asset()["local_names"]
    index = {name: k for k, name in enumerate(names)}
    local = np.zeros(len(names))
    for k, name in enumerate(names):
        region, shape = name.split("/")
        if shape.startswith(LEFT_OUT) or shape.removeprefix("head-") in OUTLINES:
            continue
        if shape.startswith("r-"):  # the left side comes first; the right side follows it, not quite
            local[k] = local[index[f"{region}/l-{shape[2:]}"]] + rng.normal(0, 0.03)
        else:
            local[k] = rng.normal(LOCAL_MEAN.get(name, 0), LOCAL_SIGMA.get(name, LOCAL_SIGMA[region]))
    for outline in rng.choice(OUTLINES, rng.integers(0, 3), replace=False):
        local[index[f"head/head-{outline}"]] = rng.uniform(0.05, 0.25)
    return Identity(
        age=rng.uniform(low, high),
        gender=rng.beta(0.35, 0.35),
        ancestry=rng.dirichlet([0.45] * 3),
        muscle=rng.beta(3, 3),
        weight=rng.beta(2.5, 2.5),
        local=np.clip(local, -1, 1),
    )


def target_weights(identity: Identity) -> np.ndarray:
    """The weight of each target in `target_basis` (T,)."""

    def between(value: float, anchors: int) -> np.ndarray:  # linear interpolation between equally spaced targets
        return np.clip(1 - abs(value * (anchors - 1) - np.arange(anchors)), 0, 1)

    age, gender = between(identity.age, 3), between(identity.gender, 2)
    muscle, weight = between(identity.muscle, 3), between(identity.weight, 3)
    ancestry = np.einsum("r,g,a->rga", identity.ancestry, gender, age)
    build = np.einsum("g,a,m,w->gamw", gender, age, muscle, weight)
    local = np.stack([identity.local, -identity.local], 1).clip(0)
    return np.concatenate([ancestry, build, local], axis=None).astype(np.float32)


def target_basis() -> np.ndarray:
    """All shape targets as rows, (T, 3 n), dm."""
    asset = load_asset()
    n = len(asset["vertices_dm"])
    return np.concatenate([asset[name].reshape(-1, 3 * n) for name in ("ancestry", "build", "local")])
