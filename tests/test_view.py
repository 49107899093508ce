import io
import re
import threading

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from specimens import made_up

from p2m_core.facemesh import to_world
from p2m_core.raster import error_scale
from p2m_core.view import Look, MeshPreview, SpecimenScene, draw_curves, inspect, preview


@pytest.fixture(scope="module")
def first():
    return made_up("first", rings=3, levels=4)


@pytest.fixture(scope="module")
def second():
    return made_up("second", truth=False, rings=2, levels=3, height=200, width=300)


def arrays(geometry):
    return {name: attribute.array for name, attribute in geometry.attributes.items()}


# --- scene ----------------------------------------------------------------------------------------


def test_each_level_has_its_own_geometry(first):
    scene = SpecimenScene(first)
    seen = set()
    for k in range(4):
        scene.show(first, Look(level=k))
        geometry = scene.solid.geometry
        assert scene.wire.geometry is scene.heat.geometry is geometry
        seen.add(geometry.model_id)
        np.testing.assert_array_equal(arrays(geometry)["position"], to_world(first.mesh.levels[k]))
        np.testing.assert_array_equal(geometry.index.array, first.mesh.level_faces[k].ravel())
        for array in (*arrays(geometry).values(), geometry.index.array):
            assert type(array) is np.ndarray
            assert array.flags.c_contiguous
            assert array.dtype in (np.float32, np.uint32)
        np.testing.assert_allclose(np.linalg.norm(arrays(geometry)["normal"], axis=1), 1, atol=1e-5)
        assert arrays(geometry)["color"].max() <= 1
    assert len(seen) == 4
    scene.show(first, Look(level=0))
    assert scene.solid.geometry.model_id in seen  # made once, then kept


def test_what_is_shown(first, second):
    scene = SpecimenScene(first)
    assert (scene.solid.visible, scene.heat.visible, scene.truth.visible, scene.photo.visible) == (
        True,
        False,
        False,
        True,
    )
    scene.show(first, Look(error=True, truth=True, wireframe=True, landmarks=True, photo=False))
    assert (scene.solid.visible, scene.heat.visible, scene.truth.visible, scene.photo.visible) == (
        False,
        True,
        True,
        False,
    )
    assert scene.wire.visible
    assert scene.landmarks.visible
    np.testing.assert_array_equal(arrays(scene.truth.geometry)["position"], to_world(first.truth_px))
    scene.show(second, Look(error=True, truth=True))
    assert (scene.solid.visible, scene.heat.visible, scene.truth.visible) == (True, False, False)


def test_truth_of_a_coarse_level_is_its_first_rows(first):
    scene = SpecimenScene(first)
    scene.show(first, Look(level=1, truth=True))
    count = len(first.mesh.levels[1])
    np.testing.assert_array_equal(arrays(scene.truth.geometry)["position"], to_world(first.truth_px[:count]))


def test_every_mesh_stands_in_the_middle_at_the_same_size(first, second):
    scene = SpecimenScene(first)
    for specimen in (first, second):
        scene.show(specimen, Look())
        points = to_world(specimen.mesh.vertices_px) * np.array(scene.group.scale) + np.array(scene.group.position)
        np.testing.assert_allclose(points.min(0) + points.max(0), 0, atol=1e-4)
        assert np.ptp(points, axis=0).max() == pytest.approx(1, abs=1e-4)


def test_the_photo_plane_holds_the_photo_behind_the_mesh(second):
    scene = SpecimenScene(second)
    x, y, z = scene.photo.position
    # Centre of a 300 x 200 photo, whose first pixel's centre is (0, 0), with y up.
    assert (x, y) == (149.5, -99.5)
    assert (scene.photo.geometry.width, scene.photo.geometry.height) == (300, 200)
    assert z < second.mesh.vertices_px[:, 2].min()


# --- inspector ------------------------------------------------------------------------------------


def test_inspector_walks_through_samples_and_levels(first, second):
    widget = inspect([first, second])
    view = widget.scene.renderer
    assert widget.level.value == 4
    widget.level.value = 2
    assert len(arrays(widget.scene.solid.geometry)["position"]) == len(first.mesh.levels[1])
    assert f"{len(first.mesh.levels[1])} vertices" in widget._counts.value
    widget.level.value = 4
    widget.sample.value = 1
    assert widget.specimen is second
    assert (widget.level.value, widget.level.max) == (3, 3)  # the finest stays the finest
    widget.level.value = 1
    widget.sample.value = 0
    assert (widget.level.value, widget.level.max) == (1, 4)
    assert len(arrays(widget.scene.solid.geometry)["position"]) == len(first.mesh.levels[0])
    assert widget.scene.renderer is view  # one live view, however many samples


def test_inspector_without_truth_offers_no_error_colours(first, second):
    widget = inspect([first, second])
    widget.error.value = True
    assert widget.scene.heat.visible
    assert f"≥ {error_scale(first.error_percent()):g} %" in widget._legend.value
    assert f"mean {first.error_percent().mean():.2f} %" in widget._legend.value
    widget.sample.value = 1
    assert widget.error.disabled
    assert widget.truth.disabled
    assert not widget.scene.heat.visible
    assert "no ground truth" in widget._legend.value
    widget.sample.value = 0
    assert widget.scene.heat.visible
    assert not widget.error.disabled


def test_inspector_controls_reach_the_scene(first):
    widget = inspect([first])
    for control, part in ((widget.wireframe, "wire"), (widget.landmarks, "landmarks"), (widget.truth, "truth")):
        assert not getattr(widget.scene, part).visible
        control.value = True
        assert getattr(widget.scene, part).visible
    widget.photo.value = False
    assert not widget.scene.photo.visible
    widget.scene.camera.position = (3.0, 2.0, 1.0)
    widget.reset.click()
    assert widget.scene.camera.position[:2] == (0, 0)


def test_inspector_needs_a_specimen():
    with pytest.raises(ValueError, match="at least one specimen"):
        inspect([])


# --- preview --------------------------------------------------------------------------------------


def picture_of(value):
    return np.asarray(Image.open(io.BytesIO(value)))


def test_preview_shows_what_it_is_given():
    widget = MeshPreview()
    pictures = [np.full((8, 9, 3), k, np.uint8) for k in range(3)]
    widget.update(pictures)
    for k in range(3):
        np.testing.assert_array_equal(picture_of(widget.pictures[k].value), pictures[k])
    assert [image.layout.display for image in widget.pictures] == [None, None, None, "none"]
    assert widget.curves.layout.display == "none"
    widget.update(metrics=pd.DataFrame({"step": [0, 1], "loss": [2.0, 1.0]}))
    assert widget.curves.layout.display is None
    np.testing.assert_array_equal(picture_of(widget.pictures[2].value), pictures[2])
    widget.update(pictures[:1])
    assert [image.layout.display for image in widget.pictures] == [None, "none", "none", "none"]


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(),
        pd.DataFrame({"step": [1], "loss": [0.5]}),
        pd.DataFrame(
            {"step": [0, 1, 2], "loss": [1.0, np.nan, 0.2], "nme": [np.nan, np.inf, 3.0], "name": list("abc")}
        ),
        pd.DataFrame({"loss": [0.0, -1.0], "other": [np.nan, np.nan]}),
    ],
)
def test_curves_of_any_frame(frame):
    assert picture_of(draw_curves(frame, 400, 200)).shape[:2] == (200, 400)


def test_curves_change_with_the_metrics():
    frame = pd.DataFrame({"step": [0, 1, 2], "loss": [3.0, 2.0, 1.0], "nme68_2d": [9.0, 8.0, 5.0]})
    assert draw_curves(frame) != draw_curves(frame.assign(loss=[3.0, 2.0, 0.1]))
    assert draw_curves(frame) != draw_curves(frame.assign(nme68_2d=[9.0, 8.0, 1.0]))
    assert draw_curves(frame) == draw_curves(frame.assign(seconds=[1, 2, 3], lr=[0.1, 0.2, 0.3]))


def test_preview_follows_a_run_and_survives_its_errors(caplog):
    widget, calls, third = MeshPreview(), [], threading.Event()

    def read():
        calls.append(len(calls))
        if len(calls) == 2:
            raise OSError("half a file")
        if len(calls) >= 3:
            third.set()
        return [np.full((4, 4, 3), len(calls), np.uint8)], None

    finish = widget.follow(read, every_s=0.01)
    assert third.wait(10)
    finish()
    count = len(calls)
    assert picture_of(widget.pictures[0].value)[0, 0, 0] == count  # the last state is on show
    assert "could not be updated" in caplog.text
    assert not any(thread.name == "mesh-preview" for thread in threading.enumerate())
    finish()
    assert len(calls) == count  # nothing after the end


def test_preview_shows_four_at_most():
    widget = MeshPreview()
    widget.update([np.zeros((4, 4, 3), np.uint8)] * 7)
    assert len([i for i in widget.pictures if i.layout.display is None]) == preview.MAX_PICTURES == 4


# --- the generator's explorer ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator(head):
    from p2m_core.config import SynthConfig
    from p2m_core.view.generator import GeneratorExplorer

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
    drawn = np.degrees(generator.drawn.pose[1])
    assert not generator.turn.value
    assert generator.yaw.value == round(drawn)
    pictures = []
    generator.picture.observe(pictures.append, "value")
    generator.yaw.value = 30
    assert generator.turn.value
    assert len(pictures) == 1  # one picture, not one a control
    assert np.degrees(generator.drawn.pose[1]) == pytest.approx(30)
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
    from p2m_core.config import load_config
    from p2m_core.data.store import Store, build_store
    from p2m_core.view.explorer import explore

    config = load_config("base", tiny_settings)
    return explore(Store(build_store(config)), config)


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


def test_what_is_kept_is_what_preprocessing_takes(explored, monkeypatch, tmp_path):
    from p2m_core.config import load_config
    from p2m_core.view import explorer

    monkeypatch.setattr(explorer, "run_folder", lambda config: tmp_path)
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
    before, explored.photos = explored.photos, {}
    photo, matrix = explored.photo(2)
    explored.photos = before
    np.testing.assert_array_equal(photo, explored.store.crop(2))
    store = explored.store
    there = store.to_crop(store.table["landmarks_px"][2], 2)
    back = there[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(back, store.table["landmarks_px"][2][:, :2], atol=1e-3)


def test_suspects_are_found_by_each_reason(explored):
    from types import SimpleNamespace

    from p2m_core.data.suspects import find_suspects

    store = explored.store
    table = {name: values.copy() for name, values in store.table.items()}
    table["residual_percent"][:] = 0.5
    table["residual_percent"][1] = 7.0
    table["landmarks_px"][2, :6, 0] = -3.0
    yaw, size = np.zeros(len(store)), np.full(len(store), 90.0)
    yaw[3], size[4] = -95.0, 21.0
    found = find_suspects(SimpleNamespace(table=table, yaw_deg=lambda: yaw, face_size_px=lambda: size))
    assert found["index"].tolist()[0] == 1  # the worst residual first
    assert dict(zip(found["index"], found["reason"], strict=True)) == {
        1: "landmark residual 7.0 %",
        2: "6 landmarks outside the photo",
        3: "yaw -95 degrees",
        4: "face of 21 px",
    }
