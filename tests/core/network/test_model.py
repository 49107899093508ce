import json

import numpy as np
import pytest
import torch
import torchvision
from golden_networks import GOLDEN
from torch.nn import functional as F

from p2m_core.config.settings import ModelConfig
from p2m_core.errors import InputError
from p2m_core.geometry.template import ellipsoid
from p2m_core.network.encoders import build_backbone, fold_batch_norms
from p2m_core.network.layers import pool_features
from p2m_core.network.model import (
    PLACED_SCALE,
    SHAPE_SCALE,
    count_parameters,
    rotation_from_6d,
    smoothest_displacements,
    unit_template,
)
from p2m_workbench.interop.reference_network import build_network

FLIP = torch.tensor([1.0, -1.0, 1.0])  # the template has y up, the crop y down
LITE = {
    "input_px": 64, "feature_channels": 8, "hidden": (8, 8, 8), "blocks": (1, 1, 0), "block": "prenorm",
    "global_feature": True, "template_coordinates": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def network(template, **changes):
    return build_network(ModelConfig(**{**LITE, **changes}), template).eval()


def stirred(model):
    """With weights large enough that every part of the network matters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("encoder"):  # the pose head only a little: its scale is an exponential
                parameter += (1e-3 if name.startswith("pose_head") else 0.1) * torch.randn_like(parameter)
    return model


def photos(count=2, size=64):
    return torch.rand(count, 3, size, size)


# --- the whole network ---


@pytest.mark.parametrize(
    "changes",
    [
        {
            "feature_channels": 80,
            "hidden": (80, 80, 32, 8),
            "blocks": (3, 3, 1, 0),
            "pyramid": True,
            "correspondence_map": True,
        },
        {"backbone": "vgg16", "feature_channels": 0, "hidden": (16,) * 4, "blocks": (2,) * 4, "block": "averaged"},
        {
            "pose_head": False,
            "global_feature": False,
            "template_coordinates": False,
            "hidden": (8,) * 4,
            "blocks": (0,) * 4,
        },
    ],
    ids=["face-lite", "vgg16", "bare"],
)
@torch.no_grad()
def test_levels_of_the_full_template(registered, changes):
    template, _ = registered
    model = network(template, **changes)
    prediction = model(photos())
    shapes = [(2, n, 3) for n in template.counts]
    assert [tuple(x.shape) for x in prediction.levels] == [tuple(x.shape) for x in prediction.before] == shapes
    assert all(torch.isfinite(x).all() and x.dtype == torch.float32 for x in prediction.levels)
    for k, pairs in enumerate(template.unpool):  # a stage begins with what the one before left, unpooled
        n = template.counts[k]
        torch.testing.assert_close(prediction.before[k + 1][:, :n], prediction.levels[k])
        middle = prediction.levels[k][:, pairs].mean(2)
        torch.testing.assert_close(prediction.before[k + 1][:, n:], middle)


@torch.no_grad()
def test_samples_of_a_batch_do_not_touch_each_other(small_template):
    model, images = stirred(network(small_template)), photos(3)
    together = model(images).levels[-1]
    for k in range(3):
        torch.testing.assert_close(model(images[k : k + 1]).levels[-1][0], together[k], atol=3e-5, rtol=1e-4)


@torch.no_grad()
def test_the_image_matters_everywhere(small_template):
    """Features are sampled at each vertex: another image moves every vertex, each in its own way."""
    model = stirred(network(small_template))
    one, other = model(photos(2)).levels[-1]
    moved = (one - other).norm(dim=-1)
    assert (moved > 1e-6).all()
    assert moved.std() > 1e-4


def test_the_encoder_sees_imagenets_normalisation(small_template):
    model, images, seen = network(small_template), photos(), []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(images)
    expected = torchvision.transforms.functional.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0], expected)


def test_a_template_that_settings_do_not_fit(registered, small_template):
    with pytest.raises(ValueError, match=r"zip"):
        network(registered[0])
    with pytest.raises(InputError, match=r"model\.shape_basis: is 181, but level 2 has 61 vertices .*at most 177\)"):
        network(small_template, shape_basis=181, template_detail=True)


def test_all_trained_weights_get_a_gradient(small_template):
    changes = {
        "unpooling": "adaptive",
        "pyramid": True,
        "correspondence_map": True,
        "template_detail": True,
        "shape_basis": 9,
    }
    model = stirred(network(small_template, **changes)).train()
    prediction = model(photos(4))
    sum(x.square().sum() for x in prediction.levels).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # the hidden state of the last stage is read by none; its convolution's loop still is
    assert not missing
    assert count_parameters(model) == sum(p.numel() for p in model.parameters())
    model.encoder.requires_grad_(False)
    assert count_parameters(model) == sum(p.numel() for n, p in model.named_parameters() if not n.startswith("encoder"))


@torch.no_grad()
def test_the_legacy_camera_wants_the_crop():
    legacy = network(ellipsoid(3), **{**OBJECT, "camera": "legacy_crop"})
    with pytest.raises(ValueError, match="needs the crop of each photo"):
        legacy(photos())


@torch.no_grad()
def test_coordinates_keep_their_digits_under_bf16(small_template):
    model, images = stirred(network(small_template)), photos()
    full = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(images)
    assert low.levels[-1].dtype == torch.float32
    torch.testing.assert_close(low.before[0], full.before[0], atol=0.1, rtol=0)
    # bf16 alone would put vertices on a grid of 1/256: these do not lie on it
    assert (low.levels[-1].bfloat16().float() != low.levels[-1]).float().mean() > 0.9


def naive(model, images):
    """The stages as the paper has them: all columns laid side by side, unpooled, then convolved."""
    config, template = model.config, model.template
    maps = [x.float() for x in model.encoder(model.normalise(images))]
    pooled, means = maps[-1].mean((2, 3)), torch.cat([x.mean((2, 3)) for x in maps], 1)
    if model.reduce is not None:
        maps = [reduce(x) for reduce, x in zip(model.reduce, maps, strict=True)]
        size = maps[0].shape[-1]
        if config.pyramid:
            merged = maps[3]
            for k in range(3):
                merged = maps[2 - k] + F.interpolate(merged, scale_factor=2, mode="bilinear", align_corners=False)
                merged = merged + model.fuse[k].conv2(model.fuse[k].conv1(merged).clamp(min=0))
            maps = [merged]
        else:
            maps = [sum(F.interpolate(x, (size, size), mode="bilinear", align_corners=False) for x in maps)]
    unit = model.start[:, None].expand(-1, len(images), -1)
    own = unit.clone()
    turn, shift = model.placement(pooled)

    def place(points):
        return torch.stack([points[:, i] @ turn[i].T + shift[i] for i in range(len(images))], 1)

    def between(x, k):
        a, b = template.unpool[k].T
        t = model.unpool[k].new_pts_pos.clamp(0, 1)[:, None, None] if config.unpooling == "adaptive" else 0.5
        return torch.cat([x, t * x[a] + (1 - t) * x[b]])

    if config.shape_basis:
        amount = 0.02 * model.shape_head(means)
        offset = sum(amount[:, k, None] * model.shape_basis[:, None, :, k] for k in range(config.shape_basis))
        for k in range(1, len(template.unpool)):
            offset = between(offset, k)
        own += offset
    vertices = place(own[: template.counts[0]])
    hidden, levels = None, []
    for k, stage in enumerate(model.stages):
        padding = "zeros" if model.reduce is None else "border"
        columns = [vertices, pool_features(maps, vertices[..., :2], padding)]
        if k:
            columns.append(hidden)
        if config.global_feature:
            columns.append(model.to_global(pooled).expand(len(vertices), -1, -1))
        x = torch.cat(columns, -1)
        if k:
            x = between(x, k - 1)
            if config.template_detail:
                vertices = place(own[: len(x)]) + between(vertices - place(own[: len(vertices)]), k - 1)
            else:
                vertices = x[..., :3]
        if config.template_coordinates:
            x = torch.cat([x, unit[: template.counts[k]]], -1)
        reads = config.correspondence_map and template.counts[k] <= (images.shape[-1] // 4) ** 2
        if reads:
            away = unit[: template.counts[k]] - pool_features(
                [model.to_correspondence(maps[0])], vertices[..., :2], "border"
            )
            x = torch.cat([x, away], -1)
        x = F.relu(stage.conv1(x, model.adjacency[k]))
        for block in stage.blocks:
            x = block(x, model.adjacency[k])
        hidden = x
        moved = stage.conv2(x, model.adjacency[k])
        if config.correspondence_map:
            here, in_template = moved[..., :3], moved[..., 3:6]
            if reads:
                in_template = in_template + moved[..., 6:].sigmoid() * away
            moved = here + place(in_template) - shift
        vertices = vertices + moved if config.residual else moved
        levels.append(vertices.transpose(0, 1))
    return levels


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"unpooling": "adaptive"},
        {"template_detail": True, "unpooling": "adaptive"},
        {"unpooling": "adaptive", "residual": False, "block": "averaged", "template_coordinates": False},
        {"feature_channels": 0, "global_feature": False},
        {"pose_head": False},
        {"pyramid": True},
        {"pyramid": True, "correspondence_map": True, "template_detail": True},
        {"pose_head": False, "correspondence_map": True},
        {"shape_basis": 10, "template_detail": True, "unpooling": "adaptive"},
    ],
    ids=lambda changes: ", ".join(f"{k}={v}" for k, v in changes.items()) or "lite",
)
@torch.no_grad()
def test_multiplying_before_unpooling_changes_nothing(small_template, changes):
    model, images = stirred(network(small_template, **changes)), photos()
    for found, expected in zip(model(images).levels, naive(model, images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4 * float(expected.abs().max()))


# --- what each option does ---


@torch.no_grad()
def test_residual_starts_as_the_placed_template(small_template):
    placed = torch.from_numpy(unit_template(small_template)) * FLIP * PLACED_SCALE
    guessed = network(small_template)(photos()).before[0]  # the pose head starts near upright, frontal, centred
    torch.testing.assert_close(guessed, placed[: small_template.counts[0]].expand(2, -1, -1), atol=0.3, rtol=0)
    exact = network(small_template, pose_head=False)(photos())
    torch.testing.assert_close(exact.before[0], placed[: small_template.counts[0]].expand(2, -1, -1))
    for before, after in zip(exact.before, exact.levels, strict=True):
        assert (after - before).abs().max() < 0.05
    absolute = network(small_template, pose_head=False, residual=False)(photos())
    assert (absolute.levels[0] - absolute.before[0]).abs().max() > 0.1


@pytest.mark.parametrize("pose_head", [True, False])
@torch.no_grad()
def test_template_detail_begins_with_the_templates_own_shape(small_template, pose_head):
    """With stages that move nothing, the finest level is the placed template; without it, the coarse one's facets."""

    def still(**changes):
        model = network(small_template, pose_head=pose_head, **changes)
        for stage in model.stages:
            for parameter in stage.conv2.parameters():
                parameter.zero_()
        if pose_head:
            model.pose_head.weight.zero_()
        return model(photos(1))

    placed = torch.from_numpy(unit_template(small_template)) * FLIP * PLACED_SCALE
    for k, n in enumerate(small_template.counts):
        torch.testing.assert_close(still(template_detail=True).levels[k][0], placed[:n])
    faceted = placed[: small_template.counts[0]]
    for pairs in small_template.unpool:
        faceted = torch.cat([faceted, faceted[pairs].mean(1)])
    torch.testing.assert_close(still(template_detail=False).levels[-1][0], faceted)
    assert (faceted - placed).norm(dim=1).max() > 0.03


def test_the_shape_basis_begins_as_smooth_displacements_of_the_template(small_template):
    modes = smoothest_displacements(small_template, 1, 30)
    assert modes.shape == (61, 3, 30)
    flat = modes.reshape(-1, 30)
    np.testing.assert_allclose(flat.T @ flat / 61, np.eye(30), atol=1e-5)
    np.testing.assert_allclose(modes.sum(0), 0, atol=1e-3)  # none moves the face as a whole
    a, b = small_template.edges[1].T
    rough = ((modes[a] - modes[b]) ** 2).sum((0, 1))
    assert (np.diff(rough.reshape(10, 3).mean(1)) > -1e-4).all()
    # of any displacements without a part in the modes, none is as smooth as they are
    other = np.random.default_rng(3).normal(size=(61, 3, 50)).reshape(-1, 50)
    other -= flat @ (flat.T @ other) / 61
    other = other.reshape(61, 3, 50) - other.reshape(61, 3, 50).mean(0)
    other /= np.sqrt((other**2).sum((0, 1)) / 61)
    assert ((other[a] - other[b]) ** 2).sum((0, 1)).min() > rough.max()


@torch.no_grad()
def test_the_shape_basis_gives_the_template_another_shape_before_it_is_placed(small_template):
    """A coefficient of 1 moves what stages that do nothing leave of the template by the mode, turned as it is."""
    model = network(small_template, shape_basis=6, template_detail=True)
    for stage in model.stages:
        for parameter in stage.conv2.parameters():
            parameter.zero_()
    images = photos(1)
    plain = model(images).levels
    model.shape_head.bias[2] = 1.0
    turn, _ = model.placement(model.encoder(model.normalise(images))[-1].mean((2, 3)))
    mode = SHAPE_SCALE * torch.from_numpy(smoothest_displacements(small_template, 1, 6))[..., 2] @ turn[0].T
    moved = [after[0] - before[0] for after, before in zip(model(images).levels, plain, strict=True)]
    torch.testing.assert_close(moved[0], mode[:19], atol=1e-6, rtol=0)
    torch.testing.assert_close(moved[1], mode, atol=1e-6, rtol=0)
    finest = torch.cat([mode, mode[small_template.unpool[1]].mean(1)])
    torch.testing.assert_close(moved[2], finest, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_trusted_correspondence_map_draws_vertices_to_where_they_are_seen(small_template):
    """With a map that shows the template a little further right, and is trusted, vertices move there."""
    model = network(small_template, correspondence_map=True, pose_head=False, input_px=64)
    for stage in model.stages:
        for parameter in stage.conv2.parameters():
            parameter.zero_()
    model.stages[0].conv2.bias[6] = -20.0
    untrusted = model(photos(1)).levels[0]
    # features that are the pixel's place, turned back into the template's frame and moved
    x = ((torch.arange(16) + 0.5) / 8 - 1).expand(1, 1, 16, 16)
    shifted = torch.cat([x - 0.05, -x.mT, torch.zeros_like(x)], 1) / PLACED_SCALE
    model.to_correspondence = torch.nn.Identity()
    model.merge = lambda maps: shifted.repeat(1, 3, 1, 1)[:, :8]
    model.to_correspondence.forward = lambda maps: maps[:, :3]
    model.stages[0].conv2.bias[6] = 20.0
    moved = model(photos(1)).levels[0] - untrusted
    inner = untrusted[..., :2].abs().amax(-1) < 0.9
    torch.testing.assert_close(moved[inner][:, 0], torch.full((int(inner.sum()),), 0.05), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[inner][:, 1], torch.zeros(int(inner.sum())), atol=1e-5, rtol=0)


@torch.no_grad()
def test_absolute_coordinates_do_not_hang_on_the_template(small_template):
    """Without residual, stage 1's output is conv2's: its bias moves all vertices to one place."""
    model = network(small_template, residual=False)
    model.stages[0].conv2.weight.zero_(), model.stages[0].conv2.loop_weight.zero_()
    model.stages[0].conv2.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(model(photos()).levels[0], torch.tensor([0.1, 0.2, 0.3]).expand(2, 19, 3))


@torch.no_grad()
def test_pose_head_places_the_template_by_a_similarity(small_template):
    model = network(small_template)
    head, template = model.pose_head, torch.from_numpy(unit_template(small_template))[:19]
    head.weight.zero_()
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # a quarter turn in yaw
    head.bias.copy_(torch.cat([turn[:2].flatten(), torch.tensor([np.log(2.0), 0.3, -0.1])]))
    expected = (template @ turn.T * FLIP) * PLACED_SCALE * 2 + torch.tensor([0.3, -0.1, 0])
    torch.testing.assert_close(model(photos(1)).before[0][0], expected)
    assert network(small_template, pose_head=False).pose_head is None


def test_rotations_from_six_numbers_are_rotations():
    values = torch.randn(200, 6, dtype=torch.float64)
    rotation = rotation_from_6d(values)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand(200, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(200).double())
    torch.testing.assert_close(
        rotation[:, 0], F.normalize(values[:, :3])
    )  # the first three are the first row's direction
    assert ((rotation[:, 1] * values[:, 3:]).sum(1) > 0).all()
    torch.testing.assert_close(rotation_from_6d(rotation[:, :2].reshape(-1, 6)), rotation)


def test_options_add_and_remove_what_they_say(small_template):
    def names(**changes):
        return {name.split(".")[0] for name, _ in network(small_template, **changes).named_parameters()}

    assert names() == {"encoder", "reduce", "pose_head", "to_global", "stages"}
    assert names(unpooling="adaptive") - names() == {"unpool"}
    assert names() - names(feature_channels=0) == {"reduce"}
    assert names() - names(pose_head=False) == {"pose_head"}
    assert names() - names(global_feature=False) == {"to_global"}
    assert names(pyramid=True) - names() == {"fuse"}
    assert names(correspondence_map=True) - names() == {"to_correspondence"}
    assert names(shape_basis=3, template_detail=True) - names() == {"shape_head", "shape_basis"}

    def columns(**changes):
        return [stage.conv1.weight.shape[0] for stage in network(small_template, **changes).stages]

    assert columns() == [3 + 8 + 8 + 3, *[3 + 8 + 8 + 8 + 3] * 2]  # coordinates, image, hidden, global, template
    assert columns(global_feature=False) == [14, 22, 22]
    assert columns(template_coordinates=False) == [19, 27, 27]
    assert columns(feature_channels=0, global_feature=False) == [3 + 960 + 3, *[3 + 960 + 8 + 3] * 2]
    blocks = [len(stage.blocks) for stage in network(small_template, blocks=(2, 0, 3)).stages]
    assert blocks == [2, 0, 3]
    assert [stage.conv2.weight.shape[0] for stage in network(small_template, hidden=(4, 6, 9)).stages] == [4, 6, 9]
    norms = {kind: network(small_template, block=kind).stages[0].blocks[0].norm for kind in ("prenorm", "averaged")}
    assert norms["averaged"] is None
    assert norms["prenorm"] is not None


@torch.no_grad()
def test_adaptive_unpooling_moves_the_new_vertices(small_template):
    model = network(small_template, unpooling="adaptive")
    model.unpool[0].new_pts_pos.fill_(1.7)
    prediction = model(photos(1))
    first = small_template.unpool[0][:, 0]
    torch.testing.assert_close(prediction.before[1][:, 19:], prediction.levels[0][:, first])


def test_the_unit_template_is_centred_symmetric_and_of_size_one(registered):
    template, _ = registered
    unit = unit_template(template)
    np.testing.assert_allclose(unit.mean(0), 0, atol=1e-5)
    assert np.linalg.norm(unit, axis=1).mean() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(unit[template.mirror] * [-1, 1, 1], unit, atol=1e-5)
    # in the crop of the usual margin it fills the landmarks' box, not more than the crop
    assert 0.5 < abs(unit[:, :2] * PLACED_SCALE).max() < 1


# --- the object version's options (the golden tests compare whole networks) ---

OBJECT = {
    "camera": "perspective", "pose_head": False, "residual": False, "feature_channels": 0, "global_feature": False,
    "template_coordinates": False, "focal_px": (70.0, 70.0), "centre_px": (31.5, 31.5),
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"focal_px": (90.0, 70.0)},
        {"centre_px": (31.5, 40.0)},
        {"mesh_offset": (0.0, 0.1, -0.8)},
        {"z_threshold": 0.85},
        {"tensorflow_aligned": True},
    ],
    ids=lambda change: next(iter(change)),
)
@torch.no_grad()
def test_each_option_of_the_camera_moves_where_features_are_read(change):
    """With the same weights and image; the vertices before the first stage stay where they are."""
    models = [network(ellipsoid(3), **{**OBJECT, **more}) for more in ({}, change)]
    models[1].load_state_dict(models[0].state_dict())
    images = photos()
    plain, changed = (stirred_alike(model)(images) for model in models)
    assert torch.equal(plain.before[0], changed.before[0])
    assert not torch.allclose(plain.levels[0], changed.levels[0], atol=1e-4)


def stirred_alike(model):
    torch.manual_seed(3)
    return stirred(model)


@torch.no_grad()
def test_objects_start_as_the_template_itself():
    template = ellipsoid(3)
    start = network(template, **OBJECT)(photos()).before[0]
    torch.testing.assert_close(start[0], torch.from_numpy(template.vertices[: template.counts[0]]))


def test_a_last_hidden_layer_stands_between_the_last_stage_and_the_coordinates():
    with_it, without = (network(ellipsoid(3), **OBJECT, last_hidden=n) for n in (5, 0))
    assert with_it.stages[2].conv2.weight.shape[1] == 5
    assert with_it.gconv.weight.shape == (5, 3)
    assert without.stages[2].conv2.weight.shape[1] == 3
    assert without.gconv is None


def test_the_decoder_draws_an_image():
    model = network(ellipsoid(3), **{**OBJECT, "backbone": "vgg16", "decoder": True})
    image = model(photos()).image
    assert image.shape == (2, 3, 64, 64)
    assert ((image >= 0.5) & (image <= 1)).all()  # a ReLU before the sigmoid, as in the reference
    F.binary_cross_entropy(image, photos()).backward()
    assert model.encoder.conv5_4.weight.grad.abs().sum() > 0


# --- backbones ---


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16"])
@torch.no_grad()
def test_maps_are_a_quarter_to_a_thirty_second(name):
    encoder = build_backbone(name).eval()
    maps = encoder(torch.randn(1, 3, 64, 64))
    assert [tuple(x.shape) for x in maps] == [
        (1, c, 64 // d, 64 // d) for c, d in zip(encoder.channels, (4, 8, 16, 32), strict=True)
    ]
    assert all(0.01 < x.std() < 100 for x in maps)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@torch.no_grad()
def test_resnet_is_torchvisions(name):
    encoder = build_backbone(name).eval()
    net = getattr(torchvision.models, name)(weights=None).eval()
    net.load_state_dict({**encoder.state_dict(), "fc.weight": net.fc.weight, "fc.bias": net.fc.bias})
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(net.fc(encoder(image)[-1].mean((2, 3))), net(image))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@torch.no_grad()
def test_folding_batch_norms_leaves_the_maps_as_they_are(name):
    encoder = build_backbone(name)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5), module.bias.normal_()
    encoder.eval()
    image = torch.randn(2, 3, 64, 64)
    expected = encoder(image)
    fold_batch_norms(encoder)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder.modules())
    for found, wanted in zip(encoder(image), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_vgg16_has_the_references_tensors():
    content = json.loads((GOLDEN / "p2m_vgg.json").read_text())["shapes"]
    shapes = {
        name.removeprefix("nn_encoder."): shape for name, shape in content.items() if name.startswith("nn_encoder.")
    }
    assert {name: list(p.shape) for name, p in build_backbone("vgg16").state_dict().items()} == shapes
