import io
import json
import re
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import pythreejs as three
from example_predictions import made_up
from PIL import Image

from p2m_core.errors import InputError
from p2m_core.face_mesh import to_world
from p2m_workbench.drawing.mesh_images import clay_shares, error_scale
from p2m_workbench.face_prediction import FacePrediction, Stages, unpooled
from p2m_workbench.preprocessing.store_photos import StorePhotos
from p2m_workbench.training.requests import Request
from p2m_workbench.viewing import (
    FaceScene,
    MeshPreview,
    ViewOptions,
    draw_curves,
    inspect,
    inspector,
)
from p2m_workbench.viewing import (
    live_preview as preview,
)
from p2m_workbench.viewing import (
    watch_training as training,
)
from p2m_workbench.viewing.cockpit import Cockpit
from p2m_workbench.viewing.store_explorer import REGIONS


@pytest.fixture(scope="module")
def first():
    return made_up("first", rings=3, levels=4)


@pytest.fixture(scope="module")
def second():
    return made_up("second", truth=False, rings=2, levels=3, height=200, width=300)


def arrays(geometry):
    return {name: attribute.array for name, attribute in geometry.attributes.items()}


# --- stages ---------------------------------------------------------------------------------------


def test_stages_end_at_the_levels_and_start_at_the_stage_before(first):
    stages, mesh = Stages(first.mesh), first.mesh
    assert (stages.first, stages.last) == (0, 4)
    np.testing.assert_allclose(stages.vertices(0), mesh.template_px, atol=1e-4)
    for k, level in enumerate(mesh.levels):
        np.testing.assert_array_equal(stages.vertices(k + 1), level)
        halfway = stages.vertices(k + 0.5)
        np.testing.assert_allclose(halfway, (stages.starts[k] + level) / 2, atol=1e-4)
    np.testing.assert_array_equal(stages.vertices(9), mesh.levels[-1])
    np.testing.assert_allclose(stages.vertices(-1), mesh.template_px, atol=1e-4)


def test_a_level_at_the_next_ones_vertices_is_the_same_surface(first):
    """The prediction's levels are midpoint subdivisions, so new vertices start in the middle of an edge of the coarse
    level, and each coarse triangle has the area of the four that replace it."""

    def areas(vertices, faces):
        a, b, c = (vertices[faces[:, k]].astype(float) for k in range(3))
        return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2

    mesh = first.mesh
    for coarse, fine, faces, coarse_faces in zip(
        mesh.levels, mesh.levels[1:], mesh.level_faces[1:], mesh.level_faces, strict=False
    ):
        start = unpooled(coarse, fine, faces)
        np.testing.assert_array_equal(start[: len(coarse)], coarse)
        np.testing.assert_allclose(areas(start, faces).reshape(-1, 4).sum(1), areas(coarse, coarse_faces), rtol=1e-3)
    lonely = np.array([[0, 1, 2]])  # vertex 3 has no neighbour at all
    np.testing.assert_array_equal(unpooled(np.eye(3), np.arange(12.0).reshape(4, 3), lonely)[3], [9, 10, 11])


def test_stages_without_a_template_begin_at_the_first_level(first):
    stages = Stages(replace(first.mesh, template_px=None))
    assert stages.first == 1
    np.testing.assert_array_equal(stages.vertices(0), first.mesh.levels[0])


# --- scene ----------------------------------------------------------------------------------------


def test_each_level_has_its_own_geometry(first):
    scene = FaceScene(first)
    seen = set()
    for k in range(4):
        scene.show(first, ViewOptions(stage=k + 1))
        geometry = scene.solid.geometry
        assert scene.wire.geometry is scene.depth.geometry is scene.skin.geometry is geometry
        seen.add(geometry.model_id)
        np.testing.assert_array_equal(arrays(geometry)["position"], to_world(first.mesh.levels[k]))
        np.testing.assert_array_equal(geometry.index.array, first.mesh.level_faces[k].ravel())
        for array in (*arrays(geometry).values(), geometry.index.array):
            assert type(array) is np.ndarray
            assert array.flags.c_contiguous
            assert array.dtype in (np.float32, np.int16, np.uint16)
        assert geometry.attributes["normal"].normalized
        np.testing.assert_allclose(np.linalg.norm(arrays(geometry)["normal"] / 32767, axis=1), 1, atol=1e-4)
        assert scene.solid.morphTargetInfluences == [0]
    assert len(seen) == 4
    scene.show(first, ViewOptions(stage=1))
    assert scene.solid.geometry.model_id in seen  # made once, then kept


@pytest.mark.parametrize("stage", [0, 0.25, 1.5, 3.9])
def test_between_levels_a_number_moves_the_mesh(first, stage):
    scene = FaceScene(first)
    scene.show(first, ViewOptions(stage=stage))
    geometry, [part] = scene.solid.geometry, scene.solid.morphTargetInfluences
    start, end = geometry.morphAttributes["position"][0].array, arrays(geometry)["position"]
    expected = to_world(Stages(first.mesh).vertices(stage))
    np.testing.assert_allclose(end + part * (start - end), expected, atol=1e-3)
    for mesh in (scene.depth, scene.skin, scene.wire):
        assert mesh.morphTargetInfluences == [part]
    scene.show(first, ViewOptions(stage=stage, style="points"))
    np.testing.assert_allclose(scene.dots.geometry.attributes["position"].array, expected, atol=1e-3)


def test_photo_coordinates_find_the_vertex_on_the_photo(second):
    scene = FaceScene(second)
    u, v = arrays(scene.solid.geometry)["uv"].T
    height, width = second.photo.shape[:2]
    np.testing.assert_allclose(u * width - 0.5, second.mesh.vertices_px[:, 0], atol=1e-3)
    np.testing.assert_allclose((1 - v) * height - 0.5, second.mesh.vertices_px[:, 1], atol=1e-3)


@pytest.mark.parametrize("stage", [4, 2.5])
def test_error_colours_are_places_on_the_ramp(first, stage):
    scene = FaceScene(first)
    scene.show(first, ViewOptions(stage=stage, surface="error", maximum=2.0))
    share = np.clip(first.error_at(stage) / 2.0, 0, 1)
    u = arrays(scene.solid.geometry)["uv"][:, 0]
    np.testing.assert_allclose((u * 256 - 0.5) / 255, share, atol=1e-5)
    assert scene.solid.material is scene.materials["error"]
    assert scene.depth.geometry is not scene.solid.geometry  # clicks still find the photo's coordinates


STYLES_SHOWN = {"solid": (1, 0, 0), "edges": (1, 1, 0), "wire": (0, 1, 0), "points": (0, 0, 1)}


@pytest.mark.parametrize("style", STYLES_SHOWN)
@pytest.mark.parametrize("surface", ["clay", "photo", "normals", "error"])
def test_what_is_shown(first, second, surface, style):
    scene = FaceScene(first)
    for prediction in (first, second):
        known = prediction is first
        options = ViewOptions(surface=surface, style=style, truth=True, landmarks=True, photo=False)
        scene.show(prediction, options)
        shown = tuple(part.visible for part in (scene.solid, scene.wire, scene.dots))
        assert shown == tuple(map(bool, STYLES_SHOWN[style]))
        assert scene.skin.visible == (surface == "photo" and scene.solid.visible)
        assert scene.truth.visible == known
        assert scene.landmarks.visible
        assert not scene.photo.visible
        name = {"photo": "clay", "error": "error" if known else "clay"}.get(surface, surface)
        assert scene.solid.material is scene.materials[name]
    scene.show(first, ViewOptions(stage=2))
    assert not scene.truth.visible
    assert scene.photo.visible


def test_clay_has_eyes_and_a_mouth_where_the_mesh_has_groups(first, with_eyes):
    scene, mesh = FaceScene(with_eyes), with_eyes.mesh
    scene.show(with_eyes, ViewOptions(stage=3))
    assert scene.solid.material is scene.materials["painted"]
    u = arrays(scene.solid.geometry)["uv"][:, 0]
    shares = clay_shares(mesh.vertices_px, mesh.faces, mesh.groups)
    np.testing.assert_allclose((u * 256 - 0.5) / 255, shares[: len(mesh.levels[2])], atol=1e-5)
    scene.show(with_eyes, ViewOptions(surface="photo"))
    photo_uv = arrays(scene.skin.geometry)["uv"]
    assert scene.solid.material is scene.materials["painted"]  # where the photo shows nothing
    np.testing.assert_array_equal(photo_uv, scene.parts_of(with_eyes).finest.photo_uv)
    scene.show(with_eyes, ViewOptions(surface="normals"))
    assert scene.solid.material is scene.materials["normals"]
    scene.show(first, ViewOptions())
    assert scene.solid.material is scene.materials["clay"]
    # A mesh in training moves, and its irises with it.
    widened = mesh.vertices_px * np.float32([1, 1, 2])
    scene.move(with_eyes, replace(with_eyes, mesh=replace(mesh, vertices_px=widened)), 1.0)
    u = arrays(scene.parts_of(with_eyes).finest.painted)["uv"][:, 0]
    moved_shares = clay_shares(widened, mesh.faces, mesh.groups)
    np.testing.assert_allclose((u * 256 - 0.5) / 255, moved_shares, atol=1e-5)
    assert (moved_shares != shares).any()
    assert inspector.truth_of(replace(with_eyes, truth_px=mesh.vertices_px)).mesh.groups is mesh.groups


def test_truth_of_a_coarse_level_is_its_first_rows(first):
    scene = FaceScene(first)
    scene.show(first, ViewOptions(stage=2, truth=True))
    count = len(first.mesh.levels[1])
    np.testing.assert_array_equal(arrays(scene.truth.geometry)["position"], to_world(first.truth_px[:count]))


def test_every_mesh_stands_in_the_middle_at_the_same_size(first, second):
    scene = FaceScene(first)

    def placed(points_px):
        return (to_world(points_px) + np.array(scene.shift.position)) * np.array(scene.root.scale)

    for prediction in (first, second):
        scene.show(prediction, ViewOptions())
        points = placed(prediction.mesh.vertices_px)
        np.testing.assert_allclose(points.min(0) + points.max(0), 0, atol=1e-4)
        assert np.ptp(points, axis=0).max() == pytest.approx(1, abs=1e-4)
    # In the frame of another prediction the difference in place is seen.
    scene.show(inspector.truth_of(first), ViewOptions(), first)
    there = placed(first.truth_px)
    scene.show(first, ViewOptions())
    np.testing.assert_allclose(there, placed(first.truth_px), atol=1e-5)


def test_the_photo_plane_holds_the_photo_behind_the_mesh(second):
    scene = FaceScene(second)
    x, y, z = np.array(scene.photo.position) - np.array(scene.shift.position)
    # Centre of a 300 x 200 photo, whose first pixel's centre is (0, 0), with y up.
    np.testing.assert_allclose((x, y), (149.5, -99.5), atol=1e-4)
    assert (scene.photo.geometry.width, scene.photo.geometry.height) == (300, 200)
    assert z < min(second.mesh.vertices_px[:, 2].min(), second.mesh.template_px[:, 2].min())


# --- inspector ------------------------------------------------------------------------------------


def click(scene, prediction, vertex, level=-1):
    """What the browser tells of a click right beside a vertex."""
    faces = prediction.mesh.level_faces[level]
    face = faces[(faces == vertex).any(1)][0]
    height, width = prediction.photo.shape[:2]
    x, y = prediction.mesh.levels[level][vertex, :2]
    scene.picker.set_state(
        {
            "face": face.tolist(),
            "uv": [(x + 0.5) / width, 1 - (y + 0.5) / height],
            "point": [0.1, 0.2, float(vertex)],
            "faceIndex": 0,
        }
    )


def test_inspector_walks_through_samples_and_levels(first, second):
    widget = inspect([second, first])
    assert [s.name for s in widget.predictions] == ["first", "second"]  # sorted by error, unknown last
    assert [b.description for b in widget.thumbnails] == [f"{first.mean_error_percent():.2f} %", ""]
    view = widget.scene.renderer
    assert widget.level.value == 400
    widget.level.value = 200
    assert len(arrays(widget.scene.solid.geometry)["position"]) == len(first.mesh.levels[1])
    assert f"{len(first.mesh.levels[1])} vertices" in widget._title.value
    widget.level.value = 0
    assert "template" in widget._title.value
    widget.level.value = 400
    widget.thumbnails[1].click()
    assert widget.prediction is second
    assert (widget.level.value, widget.level.max) == (300, 300)  # the finest stays the finest
    widget.level.value = 150
    widget.thumbnails[0].click()
    assert (widget.level.value, widget.level.max) == (150, 400)
    assert widget.scene.renderer is view  # one live view, however many samples


def test_a_jump_glides_to_its_level(first, monkeypatch):
    monkeypatch.setattr(inspector.time, "sleep", lambda seconds: None)
    widget = inspect([first])
    seen = []
    widget.level.observe(lambda change: seen.append(change["new"]), "value")
    [template, *_] = widget._jumps.children
    template.click()
    assert template.description == "Template"
    assert seen[-1] == 0
    assert len(seen) > 5
    assert seen == sorted(seen, reverse=True)
    assert all(value % widget.level.step == 0 for value in seen)  # or the browser sends its own back


def test_inspector_without_truth_offers_no_error_colours(first, second):
    widget = inspect([first, second])
    widget.surface.value = "error"
    assert widget.scene.solid.material is widget.scene.materials["error"]
    assert f"≥ {error_scale(first.error_percent()):g} %" in widget._legend.value
    assert "nme-dense-3d@template" in widget._legend.value
    assert f"{first.mean_error_percent():.2f} %" in widget._title.value
    widget.choose(1)
    assert widget.truth.disabled
    assert widget.scene.solid.material is widget.scene.materials["clay"]
    assert "no ground truth" in widget._title.value
    assert widget._legend.value == ""
    widget.choose(0)
    assert widget.scene.solid.material is widget.scene.materials["error"]
    assert not widget.truth.disabled


def test_inspector_controls_reach_the_scene(first):
    widget = inspect([first])
    scene = widget.scene
    for control, part in ((widget.landmarks, scene.landmarks), (widget.truth, scene.truth)):
        assert not part.visible
        control.value = True
        assert part.visible
    widget.photo.value = False
    assert not scene.photo.visible
    widget.opacity.value = 0.5
    assert scene.solid.material.opacity == 0.5
    widget.surface.value = "photo"
    assert scene.skin.material.opacity == 0.5
    widget.surface.value = "clay"
    widget.style_.value = "wire"
    assert scene.wire.visible
    assert not scene.solid.visible
    scene.camera.camera.position = (3.0, 2.0, 1.0)
    widget.front.click()
    assert scene.camera.camera.position[:2] == (0, 0)
    widget.side.click()
    assert scene.camera.camera.position[0] > 10


def test_a_click_tells_vertex_error_and_position(first):
    widget = inspect([first])
    x, y, z = first.mesh.vertices_px[321]
    click(widget.scene, first, 321)
    told = widget.read_out.value
    assert "vertex 321" in told
    assert f"{first.error_percent()[321]:.2f} %" in told
    assert f"x {x:.1f}, y {y:.1f}, z {z:.1f} px" in told
    assert widget.scene.mark.visible
    np.testing.assert_allclose(widget.scene._mark_at.array[0], to_world(first.mesh.vertices_px[321]))
    widget.surface.value = "error"
    assert "left:" in widget._legend.value  # the mark on the scale
    widget.level.value = 100  # which has no vertex 321
    assert not widget.scene.mark.visible
    widget.level.value = 400
    assert "vertex 321" in widget.read_out.value
    # The end of a drag is a click too, but means nothing.
    widget.scene.camera.camera.position = (5.0, 0.0, 19.0)
    click(widget.scene, first, 7)
    assert "vertex 321" in widget.read_out.value


def test_a_click_beside_the_mesh_clears(first):
    widget = inspect([first])
    click(widget.scene, first, 12)
    assert widget.scene.mark.visible
    widget.scene.picker.set_state({"point": [0.0, 0.0, 0.0], "faceIndex": None})
    assert not widget.scene.mark.visible
    assert "Click on the mesh" in widget.read_out.value


def test_two_weights_stand_side_by_side(first, second):
    better = FacePrediction("first", first.mesh, first.photo, first.mesh.vertices_px + np.float32([0.5, 0, 0]))
    widget = inspect({"old": [first, second], "new": [better]})
    assert [label for label, _ in widget.beside.options] == ["nothing", "ground truth", "new", "second"]
    assert widget.other is None  # no second live view before it is asked for
    widget.beside.label = "new"
    assert widget.compared is better
    assert widget.other.renderer.camera is widget.scene.renderer.camera
    assert (
        widget.other.renderer.controls[0] is widget.scene.renderer.controls[0]
    )  # or one would not turn with the other
    assert widget.other.root.scale == widget.scene.root.scale
    assert f"{better.mean_error_percent():.2f} %" in widget._title.value
    widget.surface.value = "error"
    assert widget.scene.options.maximum == widget.other.options.maximum == error_scale(first.error_percent())
    widget.level.value = 250
    assert widget.other.options.stage == 2.5
    widget.beside.label = "ground truth"
    np.testing.assert_array_equal(arrays(widget.other.depth.geometry)["position"][:10], to_world(first.truth_px[:10]))
    assert widget.other.solid.material is widget.other.materials["clay"]
    widget.choose(1)
    assert widget.compared is None  # this one has no truth
    assert widget.scene.renderer.width == 620


def test_the_turntable_turns_both(first, monkeypatch):
    called = []
    for name in ("play", "stop"):
        monkeypatch.setattr(three.AnimationAction, name, lambda self, name=name: called.append(name))
    widget = inspect([first])
    widget.beside.label = "ground truth"
    widget.turntable.value = True
    assert called == ["play", "play"]
    widget.turntable.value = False
    assert called[2:] == ["stop", "stop"]


@pytest.mark.parametrize("nothing", [[], {}, {"a": []}])
def test_inspector_needs_a_prediction(nothing):
    with pytest.raises(ValueError, match="at least one prediction"):
        inspect(nothing)


# --- preview --------------------------------------------------------------------------------------


def picture_of(value):
    return np.asarray(Image.open(io.BytesIO(value)))


def moved(prediction, by_px):
    """The same photo, faces and truth, another mesh."""
    points = prediction.mesh.vertices_px + np.float32(by_px)
    mesh = replace(
        prediction.mesh, vertices_px=points, levels=(points,), level_faces=(prediction.mesh.faces,), template_px=None
    )
    return FacePrediction(prediction.name, mesh, prediction.photo, prediction.truth_px)


def test_preview_moves_its_meshes(first):
    widget = MeshPreview()
    assert widget._stage.layout.display == "none"
    widget.update([moved(first, [0, 0, 0]), moved(first, [5, 0, 0])])
    assert widget._stage.layout.display is None
    scenes, cameras = widget.scenes, {scene.renderer.camera for scene in widget.scenes}
    assert len(scenes) == 2
    assert len(cameras) == 1
    later = moved(first, [3, -4, 2])
    widget.update([later, later])
    assert widget.scenes is scenes  # moved, not made anew
    for scene in scenes:
        geometry = scene.solid.geometry
        np.testing.assert_array_equal(arrays(geometry)["position"], to_world(later.mesh.vertices_px))
        u = arrays(scene.skin.geometry)["uv"][:, 0]
        share = np.clip(later.error_percent() / widget._maximum, 0, 1)
        np.testing.assert_allclose((u * 256 - 0.5) / 255, share, atol=1e-5)
        np.testing.assert_array_equal(arrays(scene.truth.geometry)["position"], to_world(first.truth_px))
    assert f"{later.mean_error_percent():.1f} %" in widget._legend.value
    assert widget.curves.layout.display == "none"
    widget.update(metrics=pd.DataFrame({"step": [0, 1], "loss": [2.0, 1.0]}))
    assert widget.curves.layout.display is None


def test_preview_without_truth_offers_no_error(second):
    widget = MeshPreview()
    widget.update([moved(second, [0, 0, 0])])
    assert {part: switch.disabled for part, switch in widget.switches.items()} == {
        "photo": False, "wire": False, "truth": True, "skin": True
    }  # fmt: skip
    assert widget._legend.value == ""


def test_a_runs_meshes_curves_and_numbers_are_news_once(tmp_path, first):
    points = np.stack([first.mesh.vertices_px, first.mesh.vertices_px + 1])
    truth = np.stack([first.truth_px + np.float32([0, 0, 70])] * 2)
    np.savez(
        tmp_path / "preview.npz", step=3, photos=np.stack([first.photo] * 2), faces=first.mesh.faces,
        names=np.array(["a", "b"]), vertices=points, truth=truth, groups=np.arange(len(first.mesh.faces)) % 4,
    )  # fmt: skip
    read = training.read_run(tmp_path)
    predictions, table, status, asked = read()
    assert (table, status, asked) == (None, None, None)
    assert [s.name for s in predictions] == ["a", "b"]
    np.testing.assert_array_equal(predictions[1].mesh.vertices_px, points[1])
    np.testing.assert_array_equal(predictions[1].mesh.groups, np.arange(len(first.mesh.faces)) % 4)
    # Depth is open, so 70 px of it are no error.
    assert predictions[0].error_percent() == pytest.approx(first.error_percent(), abs=1e-3)
    assert abs(np.mean(predictions[0].truth_px[:, 2] - points[0][:, 2])) < 1e-3
    (tmp_path / "metrics.csv").write_text("step,loss,val_error\n1,2.0,\n")
    (tmp_path / "status.json").write_text(json.dumps(STATUS | {"state": "trains"}))
    (tmp_path / "history.json").write_text(
        json.dumps([{"step": 7, "time": "", "asked": {"scale_lr": 0.5}, "changed": {"train.lr": [0.2, 0.1]}}])
    )
    predictions, table, status, asked = read()
    assert predictions is None
    assert table["loss"].tolist() == [2.0]
    assert status["state"] == "ended"  # nothing trains here
    assert asked == ["after step 7: train.lr 0.2 → 0.1"]
    assert read() == (None, None, None, None)


# --- curves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(),
        pd.DataFrame({"step": [1], "loss": [0.5]}),
        pd.DataFrame(
            {"step": [0, 1, 2], "loss": [1.0, np.nan, 0.2], "nme": [np.nan, np.inf, 3.0], "name": list("abc")}
        ),
        pd.DataFrame({"loss": [0.0, -1.0], "other": [np.nan, np.nan]}),
        pd.DataFrame({"step": [1, 2], "loss": [np.inf, 1.0], "lr": [0.1, 0.1], "val_error": [np.nan, 3.0]}),
    ],
)
def test_curves_of_any_frame(frame):
    svg = draw_curves(frame, 400, 200).decode()
    assert 'viewBox="0 0 288 144"' in svg  # pt


def test_curves_change_with_the_metrics():
    frame = pd.DataFrame({"step": [0, 1, 2], "loss": [3.0, 2.0, 1.0], "nme68_2d": [9.0, 8.0, 5.0]})
    assert draw_curves(frame) != draw_curves(frame.assign(loss=[3.0, 2.0, 0.1]))
    assert draw_curves(frame) != draw_curves(frame.assign(nme68_2d=[9.0, 8.0, 1.0]))
    assert draw_curves(frame) != draw_curves(frame.assign(lr=[0.1, 0.2, 0.3]))
    assert draw_curves(frame) == draw_curves(frame.assign(seconds=[1, 2, 3], samples_per_s=[0.1, 0.2, 0.3]))
    assert draw_curves(frame) != draw_curves(frame, earlier={"other": frame.assign(loss=[4.0, 3.0, 2.0])})
    assert draw_curves(frame) == draw_curves(frame, earlier={"other": frame[["step"]]})


def test_terms_of_the_loss_validation_and_rate_have_panels_with_units(monkeypatch):
    from p2m_workbench.drawing import curves as module

    drawn = []
    monkeypatch.setattr(module.Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    step = np.arange(2, 10)
    frame = pd.DataFrame({
        "step": step, "epoch": 0, "loss": 9.0 / step, "vertex": 1.0 / step, "shape": 2.0 / step,
        "lr": 0.1 / step, "val_error": [np.nan, 5, np.nan, 3, np.nan, 4, np.nan, np.nan],
    })  # fmt: skip
    made = module.curves(frame, earlier={"trial": frame.assign(val_error=6.0)}, units={"val_error": "mm"})
    loss, validation, rate = drawn[0].axes
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["loss", "vertex", "shape"]
    assert loss.get_yscale() == "log"
    assert validation.get_title(loc="left") == "validation error: mm\nbest 3.00 at step 5"
    assert [text.get_text() for text in validation.get_legend().get_texts()] == ["trial"]
    assert (rate.get_title(loc="left"), rate.get_xlabel()) == ("learning rate", "step")
    # Where a step is in the drawing, for the time machine's line.
    left, right, top, bottom, low, high = made.axes[1]
    place = validation.transData.transform((5, 3.0)) / [drawn[0].bbox.width, drawn[0].bbox.height]
    assert left + (5 - low) / (high - low) * (right - left) == pytest.approx(place[0], abs=1e-6)
    assert top < 1 - place[1] < bottom


def test_long_curves_are_thinned_but_for_the_validation():
    from p2m_workbench.drawing.curves import MOST_POINTS, _thinned

    x, y = pd.Series(np.arange(1000.0)), pd.Series(np.arange(1000.0) * 2, name="loss")
    thin = _thinned(x, y)
    assert len(thin[0]) == MOST_POINTS
    np.testing.assert_allclose(thin[1], 2 * thin[0])
    assert (np.diff(thin[0]) > 1).all()
    assert (thin[0][0], thin[0][-1]) == (1.0, 998.5)
    assert len(_thinned(x, y.rename("val_error"))[0]) == 1000


# --- the cockpit ----------------------------------------------------------------------------------

STATUS = {
    "state": "trains", "share": 0.25, "step": 30, "steps": 120, "epoch": 3, "epochs": 10, "seconds": 61.0,
    "seconds_left": 185.0, "loss": 0.5, "lr": 1e-3, "samples_per_s": 45.34, "best": 4.5, "metric": "nme68_2d",
    "memory_gib": 1.2,
}  # fmt: skip


def test_the_cockpits_buttons_send_requests():
    asked = []
    cockpit = Cockpit(asked.append)
    assert cockpit.stop.disabled
    assert cockpit.extend.disabled
    cockpit.update(status=STATUS)
    assert not cockpit.stop.disabled
    cockpit.stop.click()
    cockpit.more.value, cockpit.unit.value = 5, "minutes"
    cockpit.extend.click()
    cockpit.factor.value = 1 / 3
    cockpit.lower.click()
    assert asked == [Request(stop=True), Request(minutes=5), Request(scale_lr=1 / 3)]
    cockpit.update(status=STATUS | {"state": "finished", "share": 1.0})
    assert cockpit.lower.disabled


def test_the_cockpit_shows_numbers_and_what_went_wrong():
    def refuse(request):
        raise InputError("outputs/run", "", "no process trains this run now", "start it")

    cockpit = Cockpit(refuse)
    cockpit.update(status=STATUS, asked=["after step 7: train.lr 0.2 → 0.1"])
    assert cockpit.bar.value == 0.25
    for words in ("25.0%", "step 30 of 120", "45.3 samples/s", "0:03:05 left", "0:01:01 so far", "best nme68-2d 4.50"):
        assert words in cockpit.numbers.value
    assert cockpit.note.value == "after step 7: train.lr 0.2 → 0.1"
    cockpit.stop.click()
    assert "no process trains this run now" in cockpit.note.value
    cockpit.update(status=STATUS | {"state": "ended"})
    assert "ended without a word" in cockpit.numbers.value


def test_preview_follows_a_run_and_survives_its_errors(caplog, first):
    widget, calls, third = MeshPreview(), [], threading.Event()

    def read():
        calls.append(len(calls))
        if len(calls) == 2:
            raise OSError("half a file")
        if len(calls) >= 3:
            third.set()
        return [moved(first, [len(calls), 0, 0])], None

    finish = widget.follow(read, every_s=0.01)
    assert third.wait(20)
    finish()
    count = len(calls)
    x = arrays(widget.scenes[0].solid.geometry)["position"][:, 0]
    np.testing.assert_allclose(x - first.mesh.vertices_px[:, 0], count, atol=1e-3)  # the last state is on show
    assert "could not be updated" in caplog.text
    assert not any(thread.name == "mesh-preview" for thread in threading.enumerate())
    finish()
    assert len(calls) == count  # nothing after the end


def test_preview_shows_four_at_most(first):
    widget = MeshPreview()
    widget.update([moved(first, [k, 0, 0]) for k in range(6)])
    assert len(widget.scenes) == preview.MAX_VIEWS == 4


# --- the generator's explorer ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator(head):
    from p2m_core.config.settings import SynthConfig
    from p2m_workbench.viewing.synth_explorer import GeneratorExplorer

    return GeneratorExplorer(SynthConfig(seed=3), size_px=64)


@pytest.mark.parametrize(
    ("control", "value"),
    [("index", 5), ("seed", 4), ("yaw", -50), ("expression", "shout"), ("hair", "afro"), ("light", "night"),
     ("landmarks", True), ("mesh", True), ("mask", True)],
)  # fmt: skip
def test_every_control_of_the_generator_changes_the_picture(generator, control, value):
    before, widget = generator.picture.value, getattr(generator, control)
    old = widget.value
    widget.value = value
    assert generator.picture.value != before
    widget.value = old
    generator.turn.value = False
    assert generator.picture.value == before  # the same draw again


def test_the_yaw_slider_shows_what_was_drawn_until_it_is_moved(generator):
    drawn = np.degrees(generator.drawn.pose_para[1])
    assert not generator.turn.value
    assert generator.yaw.value == round(drawn)
    pictures = []
    generator.picture.observe(pictures.append, "value")
    generator.yaw.value = 30
    assert generator.turn.value
    assert len(pictures) == 1  # one picture, not one a control
    assert np.degrees(generator.drawn.pose_para[1]) == pytest.approx(30)
    generator.index.value = 1
    assert generator.yaw.value == 30  # the wish outlasts the face
    generator.index.value = 0
    generator.turn.value = False
    assert generator.yaw.value == round(drawn)
    generator.picture.unobserve(pictures.append, "value")


def test_the_generator_tells_what_it_drew(generator):
    generator.hair.value, generator.light.value = "bald", "night"
    for name, value in (("cut", "bald"), ("light", "night")):
        assert re.search(rf"<td>{name}</td><td[^>]*>{value}</td>", generator.facts.value)
    assert "none" not in generator.facts.value
    generator.hair.value = generator.light.value = ""


@pytest.mark.parametrize("control", ["expression", "hair", "light"])
def test_a_wish_can_be_taken_back(generator, control):
    before, menu = generator.picture.value, getattr(generator, control)
    menu.index = 2
    assert generator.picture.value != before
    menu.index = 0  # as a browser sets it
    assert (menu.index, menu.label) == (0, "as drawn")
    assert generator.picture.value == before


# --- the explorer of a store -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def explored(tiny_settings):
    from p2m_core.config.loading import load_config
    from p2m_workbench.preprocessing import preprocess
    from p2m_workbench.viewing.store_explorer import explore

    config = load_config(None, tiny_settings)
    return explore(preprocess(config), config)


@pytest.mark.parametrize(
    ("control", "value", "changes"),
    [("sample", 3, "picture sheet"), ("landmarks", False, "picture"), ("mesh", True, "picture"),
     ("regions", True, "picture"), ("boxes", False, "picture"), ("margin", 1.9, "picture sheet"),
     ("store_margin", 1.1, "picture"), ("seed", 7, "sheet"), ("augment.rotate_deg", 55, "sheet"),
     ("augment.scale", 0.4, "sheet"), ("augment.shift", 0.3, "sheet"), ("augment.flip", 1.0, "sheet"),
     ("augment.color", 0.0, "sheet"), ("augment.blur", 1.0, "sheet"), ("augment.noise", 1.0, "sheet"),
     ("augment.jpeg", 1.0, "sheet"), ("augment.occlude", 1.0, "sheet")],
)  # fmt: skip
def test_every_control_of_the_explorer_changes_what_it_says(explored, control, value, changes):
    name, _, field = control.partition(".")
    widget = explored.augment[field] if field else getattr(explored, name)
    before, old = {n: getattr(explored, n).value for n in ("picture", "sheet")}, widget.value
    widget.value = value
    after = {n: getattr(explored, n).value for n in before}
    assert {n for n in before if after[n] != before[n]} == set(changes.split())
    widget.value = old
    assert {n: getattr(explored, n).value for n in before} == before


def test_filters_and_order_choose_the_samples(explored):
    store = explored.store
    yaw = np.abs(store.yaw_deg())
    middle = float(np.median(yaw))
    whole = explored.yaw.value
    explored.yaw.value = (middle, whole[1])
    assert set(explored.chosen) == set(np.flatnonzero(yaw >= middle))
    explored.order.value = "face size"
    assert (np.diff(store.face_size_px()[explored.chosen]) <= 0).all()
    assert str(store.table["name"][explored.index]) in explored.facts.value
    explored.yaw.value = (whole[1] - 1e-6, whole[1])  # nobody looks there
    assert "widen the filters" in explored.facts.value
    explored.yaw.value, explored.order.value = whole, "as stored"
    assert explored.chosen.tolist() == list(range(len(store)))


def test_a_group_of_an_attribute_is_listed(explored):
    from p2m_synth.statistics import attribute_table

    table = attribute_table(explored.store.manifest["raw"]).set_index("name")
    label = next(label for label, _ in explored.group.options if label.startswith("sex: woman"))
    explored.group.label, explored.sample.value = label, 0
    names = explored.store.table["name"][explored.chosen]
    assert len(names) == (table["woman"] == 1).sum() > 0
    assert table.loc[names, "woman"].all()
    assert label == f"sex: woman ({len(names)})"
    assert explored.listed.value.startswith(f"1 to {min(16, len(names))} of {len(names)}: {names[0]}")
    sheet = picture_of(explored.sheet_of_samples.value)
    assert sheet.shape == (112 * (1 + (len(names) > 8)), 8 * 112, 3)
    explored.group.value = 0
    assert len(explored.chosen) == len(explored.store)


def test_regions_have_a_legend(explored):
    explored.regions.value = True
    told = [float(x) for x in re.findall(r"(?:elsewhere|landmark): ([\d.]+)", explored.legend.value)]
    assert len(told) == 3
    assert told == sorted(told)
    assert told[0] == pytest.approx(1 - sum(REGIONS), abs=0.051)
    assert "this config draws them evenly" in explored.legend.value
    explored.regions.value = False
    assert explored.legend.value == ""


def test_what_is_kept_is_what_preprocessing_takes(explored, monkeypatch, tmp_path):
    from p2m_core.config.loading import load_config
    from p2m_workbench.viewing import store_explorer

    monkeypatch.setattr(store_explorer, "run_folder", lambda config: tmp_path)
    assert explored.settings() == explored.config
    explored.store_margin.value, explored.augment["blur"].value = 1.8, 0.1
    explored.save.click()
    assert "data.store_margin=1.8, augment.blur=0.1" in explored.saved.value
    kept = load_config(tmp_path / "explored.yaml")
    assert kept == explored.settings()
    assert (kept.data.store_margin, kept.augment.blur) == (1.8, 0.1)
    explored.store_margin.value = explored.config.data.store_margin
    explored.augment["blur"].value = explored.config.augment.blur


def test_without_the_photos_the_stored_crop_is_shown(explored):
    photos = StorePhotos(explored.store)
    vars(photos)["_paths"] = {}
    photo, matrix = photos.photo(2)
    np.testing.assert_array_equal(photo, explored.store.crop(2))
    store = explored.store
    there = store.to_crop(store.table["landmarks_px"][2], 2)
    back = there[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(back, store.table["landmarks_px"][2][:, :2], atol=1e-3)


def test_outliers_are_found_by_each_reason(explored):
    from types import SimpleNamespace

    from p2m_workbench.doctor.outliers import find_outliers

    store = explored.store
    table = {name: values.copy() for name, values in store.table.items()}
    table["residual_percent"][:] = 0.5
    table["residual_percent"][1] = 7.0
    table["landmarks_px"][2, :6, 0] = -3.0
    yaw, size = np.zeros(len(store)), np.full(len(store), 90.0)
    yaw[3], size[4] = -95.0, 21.0
    found = find_outliers(SimpleNamespace(table=table, yaw_deg=lambda: yaw, face_size_px=lambda: size))
    assert found["index"].tolist()[0] == 1  # the worst residual first
    assert dict(zip(found["index"], found["reason"], strict=True)) == {
        1: "landmark residual 7.0 %",
        2: "6 landmarks outside the photo",
        3: "yaw -95 degrees",
        4: "face of 21 px",
    }
