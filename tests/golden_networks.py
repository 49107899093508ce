"""The reference networks of tests/golden/: weights by the recipe, inputs, and what must come out of them."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from p2m_core.geometry.template_files import load_template
from p2m_core.targets import Truth
from p2m_workbench.interop.reference_network import LegacyCrop

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("p2m_vgg", "p2m_resnet50", "p2m_tensorflow", "p2m_face")
SKIPPED = ("adj_mat", "num_batches_tracked")


def facts(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def outputs(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def random(prefix, name):
    return np.random.default_rng(zlib.crc32((prefix + name).encode()))


def tensor(prefix, name, shape, scales):
    """A tensor of the recipe."""
    r = random(prefix, name)
    if name.endswith("running_var"):
        x = r.uniform(0.5, 1.5, shape)
    elif name.endswith("running_mean"):
        x = 0.1 * r.standard_normal(shape)
    elif name.endswith("new_pts_pos"):
        x = r.uniform(0.1, 0.9, shape)
    elif len(shape) == 1 and name.endswith("weight") and ("bn" in name or "downsample.1" in name):
        x = r.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        x = 0.02 * r.standard_normal(shape)
    elif len(shape) == 4:
        x = r.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    else:
        x = r.standard_normal(shape) * np.sqrt(0.7 / shape[0])
    for start, factor in scales.items():
        if name.startswith(start):
            x = x * factor
    return torch.from_numpy(np.float32(x))


def template_path(name):
    return GOLDEN / ("semi_sphere.npz" if name == "p2m_face" else "ellipsoid.npz")


def state_dict(name):
    """The whole state dict of the reference network, by its names."""
    content, mesh = facts(name), load_template(template_path(name))
    state = {}
    for key, shape in content["shapes"].items():
        if key == "init_pts":
            depth = -0.8 if content["tensorflow_aligned"] else 0.0
            state[key] = torch.from_numpy(mesh.vertices[: mesh.counts[0]]) + torch.tensor([0, 0, depth])
        elif key.endswith(SKIPPED):
            state[key] = torch.zeros(shape)
        else:
            state[key] = tensor(content["prefix"], key, shape, content["coordinate_scale"])
    return state


def overrides(name):
    """Settings that no tensor tells."""
    content = facts(name)
    camera = content["camera"]
    return (
        "model.normalisation=none",
        f"model.tensorflow_aligned={json.dumps(content['tensorflow_aligned'])}",
        f"model.focal_px={camera['f']}",
        f"model.centre_px={camera['c']}",
        f"model.mesh_offset={[float(x) for x in camera['mesh_pos']]}",
    )


def images(name):
    return torch.from_numpy(random(facts(name)["prefix"], "image").random((2, 3, 224, 224), dtype=np.float32))


def crop(name):
    content = facts(name).get("crop")
    if content is None:
        return None
    corner = torch.tensor(content["left_corner_px"])[:, :2]
    return LegacyCrop(corner, torch.tensor(content["width_px"]), torch.tensor(content["height_px"]))


def predict(model, name):
    """What a network says of the images; of the legacy crop camera it wants the crop as well."""
    place = crop(name)
    return model(images(name)) if place is None else model(images(name), place)


def truth(name):
    r = random(facts(name)["prefix"], "gt")
    points = np.float32(r.standard_normal((2, 3000, 3)) * 0.2)
    normals = np.float32(r.standard_normal((2, 3000, 3)))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return Truth(points=torch.from_numpy(points), normals=torch.from_numpy(normals), image=images(name))


def loss_settings(name):
    content = facts(name)
    weights = content["loss_weights"]
    return {
        "chamfer": content["chamfer_factor"],
        "chamfer_levels": tuple(weights["chamfer"]),
        "chamfer_opposite": weights["chamfer_opposite"],
        "laplace_levels": tuple(content["laplace_move_level_weights"]),
        **{term: weights[term] for term in ("normal", "edge", "laplace", "move", "reconst")},
    }
