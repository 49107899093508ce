"""Films: who is in them, what comes out, and what happens with those that are no good."""

import csv
import json
import tracemalloc

import cv2
import numpy as np
import pytest
from PIL import Image

from p2m_core.config.settings import PredictConfig
from p2m_core.errors import InputError
from p2m_core.face_mesh import to_world
from p2m_core.files import make_folder
from p2m_core.geometry.crop import box_of
from p2m_workbench import cli
from p2m_workbench.photos.batch import predict_files
from p2m_workbench.photos.clip_files import (
    EYES,
    HEAD,
    LIVE_LINK,
    STEPS,
    ClipFiles,
    letterboxed,
    quantized,
    read_meshes,
    time_code,
)
from p2m_workbench.photos.clips import Clip, Follower, Frame, Look
from p2m_workbench.photos.predict import open_weights, predict
from p2m_workbench.photos.read import find_photos, read_photo, sample_photo
from p2m_workbench.photos.result_files import RECORD_FILE
from p2m_workbench.photos.rig import own_units
from p2m_workbench.photos.tracking import LOST_S, size_of

FPS = 25
KINDS = PredictConfig(save=("overlay", "csv"))


@pytest.fixture(scope="module")
def portrait():
    """The sample photo's head, 200 px high."""
    return cv2.resize(read_photo(sample_photo())[90:390, 130:400], (180, 200), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def model():
    return open_weights("bundled")


def frame_of(portrait, *places, size=(480, 240)):
    """A frame with the portrait's left upper corner at each place, None for nowhere."""
    frame = np.full((size[1], size[0], 3), (70, 80, 95), np.uint8)
    height, width = portrait.shape[:2]
    for x, y in (place for place in places if place is not None):
        left, right = max(x, 0), min(x + width, size[0])
        if right > left:
            frame[y : y + height, left:right] = portrait[: size[1] - y, left - x : right - x]
    return frame


def write(path, frames, codec="mp4v", fps=FPS):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def table(folder):
    return list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))


def follow(model, frames, **settings):
    """The identities in each frame."""
    follower = Follower(model, PredictConfig(**settings))
    return [[identity for identity, _ in follower(frame, k / FPS)] for k, frame in enumerate(frames)]


@pytest.fixture(scope="module")
def film(portrait, tmp_path_factory):
    """A film of a face that moves by 6 px a frame, and what is written for it."""
    folder = tmp_path_factory.mktemp("film")
    path = write(folder / "me.mp4", [frame_of(portrait, (20 + 6 * k, 20)) for k in range(10)])
    settings = PredictConfig(save=("glb", "rig", "overlay", "csv"))
    return predict_files(path, folder / "out", settings=settings), folder / "out"


# ------------------------------------------------------------------------------------------------ what comes out


def test_a_film_has_its_files(film):
    result, out = film
    assert not result.problems
    names = ["me-face1-units.csv", "me-face1.glb", "me-overlay.webm", "me.npz", "predictions.csv"]
    assert sorted(path.name for path in out.iterdir()) == [RECORD_FILE, *names]
    assert (result.photos, result.films, result.frames) == (0, 1, 10)
    assert result.kinds == {"npz", "overlay", "glb", "rig", "csv"}
    assert result.clips == [f"me.mp4: 10 frames, 1 face(s); {', '.join(names[:-1])}"]
    rows = table(out)
    assert [(row["name"], row["photo"], row["frame"], row["identity"]) for row in rows] == [
        ("me-face1", "me.mp4", str(k), "1") for k in range(10)
    ]
    np.testing.assert_allclose([float(row["time_s"]) for row in rows], np.arange(10) / FPS, atol=1e-3)
    np.testing.assert_allclose(np.diff([float(row["x0"]) for row in rows])[3:], 6, atol=2)


def test_meshes_of_all_frames_are_in_one_file(film):
    _, out = film
    clip, rows = read_meshes(out / "me.npz"), table(out)
    assert clip["vertices_px"].shape[::2] == (10, 3)
    assert (clip["identity"] == 1).all()
    assert clip["frame"].tolist() == [*range(10)]
    assert (clip["frame_size"] == [480, 240]).all()
    assert clip["faces"].max() == clip["vertices_px"].shape[1] - 1
    assert len(clip["groups"]) == len(clip["faces"])
    boxes = np.array([[float(row[name]) for name in ("x0", "y0", "x1", "y1")] for row in rows])
    np.testing.assert_allclose([box_of(points) for points in clip["landmarks_px"]], boxes, atol=0.01)
    # The landmarks are vertices: both tell of the same mesh.
    gap = np.linalg.norm(clip["landmarks_px"][:, :, None] - clip["vertices_px"][:, None, ::3], axis=-1).min(-1)
    assert gap.max() < 0.05 * size_of(clip["vertices_px"][0])
    assert (out / "me.npz").stat().st_size < 10 * 60_000


def test_coordinates_are_kept_to_a_fraction_of_a_pixel():
    vertices = np.random.default_rng(0).normal(300, 60, (500, 3)).astype(np.float32)
    steps, origin, step = quantized(vertices)
    assert steps.dtype == np.int16
    assert np.abs(origin + step * steps - vertices).max() <= 0.51 * step <= 0.51 * size_of(vertices) / STEPS
    far = vertices * np.float32([1, 1, 1e4])  # what does not fit is rounded to wider steps
    steps, origin, step = quantized(far)
    np.testing.assert_allclose(origin + step * steps, far, atol=0.6 * step)


def test_the_overlay_shows_every_frame(film):
    _, out = film
    with Clip(out / "me-overlay.webm") as clip:
        frames = [frame.pixels for frame in clip]
    assert [frame.shape for frame in frames] == [(240, 480, 3)] * 10
    grey = np.ptp(frames[5].astype(int), axis=2) < 25  # the mesh's clay; the skin is none, the background is bluish
    x = np.nonzero(grey & (frames[5].mean(2) > 110))[1]
    assert x.min() < 20 + 30 + 90 < x.max()


def glb(path):
    """The outline of a .glb, and its accessors' values."""
    content = path.read_bytes()
    length = int.from_bytes(content[12:16], "little")
    outline, binary = json.loads(content[20 : 20 + length]), content[28 + length :]
    kinds = {5126: np.float32, 5125: np.uint32}

    def view(at, kind, count):
        start = outline["bufferViews"][at]["byteOffset"]
        return np.frombuffer(binary, kind, count, start)

    def values(k):
        accessor = outline["accessors"][k]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        if "sparse" in accessor:
            sparse, rows = accessor["sparse"], np.zeros((accessor["count"], width))
            idx = view(sparse["indices"]["bufferView"], np.uint32, sparse["count"])
            rows[idx] = view(sparse["values"]["bufferView"], np.float32, width * sparse["count"]).reshape(-1, width)
            return rows
        kind = kinds[accessor["componentType"]]
        return view(accessor["bufferView"], kind, width * accessor["count"]).reshape(-1, width)

    return outline, values


def test_the_moving_face_is_where_the_meshes_are(film):
    """What a viewer computes of the .glb, by glTF's rules, in each frame."""
    _, out = film
    outline, values = glb(out / "me-face1.glb")
    primitive = outline["meshes"][0]["primitives"][0]
    neutral = values(primitive["attributes"]["POSITION"])
    ways = np.stack([values(target["POSITION"]) for target in primitive["targets"]])
    [animation] = outline["animations"]
    of = {
        channel["target"]["path"]: values(animation["samplers"][channel["sampler"]]["output"])
        for channel in animation["channels"]
    }
    times = values(animation["samplers"][0]["input"])[:, 0]
    np.testing.assert_allclose(times, np.arange(10) / FPS, atol=1e-3)
    accessor = outline["accessors"][animation["samplers"][0]["input"]]
    assert (accessor["min"], accessor["max"]) == ([times[0]], [times[-1]])
    weights = of["weights"].reshape(10, 52)
    assert (weights >= 0).all() and (weights <= 1).all()  # noqa: PT018
    np.testing.assert_allclose(np.linalg.norm(of["rotation"], axis=1), 1, atol=1e-5)
    clip = read_meshes(out / "me.npz")
    for k in range(10):
        local = neutral + np.tensordot(weights[k], ways, 1)
        x, y, z, w = of["rotation"][k]
        axis = np.broadcast_to([x, y, z], local.shape)
        turned = local * of["scale"][k] + 2 * np.cross(axis, np.cross(axis, local * of["scale"][k])
                                                       + w * local * of["scale"][k])  # fmt: skip
        error = np.linalg.norm(turned + of["translation"][k] - to_world(clip["vertices_px"][k]), axis=1)
        assert error.mean() < 0.01 * size_of(clip["vertices_px"][k])
    assert (out / "me-face1.glb").stat().st_size < 5e6


def test_units_are_written_as_live_link_face_does(film):
    _, out = film
    header, *rows = csv.reader((out / "me-face1-units.csv").read_text().splitlines())
    assert header[:5] == ["Timecode", "BlendShapeCount", "EyeBlinkLeft", "EyeLookDownLeft", "EyeLookInLeft"]
    assert header[16:20] == ["JawForward", "JawRight", "JawLeft", "JawOpen"]
    assert header[-12:-6] == ["NoseSneerLeft", "NoseSneerRight", "TongueOut", "HeadYaw", "HeadPitch", "HeadRoll"]
    assert header[2:] == [*LIVE_LINK, *HEAD, *EYES]
    assert {name.lower() for name in LIVE_LINK} == {name.lower() for name in own_units().names}
    assert [row[0] for row in rows[:2]] == ["00:00:00:00.000", "00:00:00:01.000"]
    assert {row[1] for row in rows} == {"61"}
    strength = np.array([row[2:54] for row in rows], float)
    assert (strength >= 0).all() and (strength <= 1).all()  # noqa: PT018
    outline, values = glb(out / "me-face1.glb")
    by_name = dict(zip(LIVE_LINK, strength.T, strict=True))
    weights = values(outline["animations"][0]["samplers"][0]["output"]).reshape(10, 52)
    for name, column in zip(outline["meshes"][0]["extras"]["targetNames"], weights.T, strict=True):
        np.testing.assert_allclose(by_name[name[0].upper() + name[1:]], column, atol=1e-6)
    angles = np.degrees(np.array([row[54:57] for row in rows], float))
    pose = np.array([[float(row["yaw_deg"]), float(row["pitch_deg"])] for row in table(out)])
    assert np.abs(angles[:, :2]).max() < np.abs(pose).max() + 10


def test_a_time_code():
    assert time_code(0, 30) == "00:00:00:00.000"
    assert time_code(3725.5, 30) == "01:02:05:15.000"


# ------------------------------------------------------------------------------------------------ who is in it


def test_the_jitter_of_a_still_face_is_halved(model, portrait):
    rng, found, smooth = np.random.default_rng(0), [], []

    class Found(Follower):
        def _smoothed(self, track, mesh, step_s):
            return mesh

    followers = Found(model, KINDS), Follower(model, KINDS)
    still = frame_of(portrait, (60, 20), size=(300, 240))
    for k in range(24):
        noisy = np.clip(still + rng.normal(0, 8, still.shape), 0, 255).astype(np.uint8)
        for follower, to in zip(followers, (found, smooth), strict=True):
            [(identity, mesh)] = follower(noisy, k / FPS)
            assert identity == 1
            to.append(mesh.landmarks_px)
    np.testing.assert_allclose(mesh.box, box_of(mesh.landmarks_px), rtol=1e-5)  # what is told is smoothed, too
    before, after = (np.array(points)[8:].std(0).mean() for points in (found, smooth))
    assert after < 0.5 * before


def test_new_people_are_found_and_old_ones_kept(model, portrait):
    frames = [frame_of(portrait, (10, 20), (280, 20) if k >= 2 else None) for k in range(5)]
    assert follow(model, frames) == [[1], [1], [1, 2], [1, 2], [1, 2]]


def test_who_leaves_is_gone_and_comes_back(model, portrait):
    there, empty = frame_of(portrait, (150, 20)), frame_of(portrait)
    follower = Follower(model, KINDS)
    for time_s, frame, people in (
        (0.0, there, [1]), (0.04, empty, []), (0.5, empty, []), (0.54, there, [1]),
        (0.6, empty, []), (0.7 + LOST_S, there, [2]),
    ):  # fmt: skip
        assert [identity for identity, _ in follower(frame, time_s)] == people


def test_after_a_cut_all_are_new(model, portrait):
    one = frame_of(portrait, (60, 20), size=(300, 240))
    other = 255 - one
    other[20:220, 60:240] = portrait[:, ::-1]  # in the same place
    assert follow(model, [one, one, other, other]) == [[1], [1], [2], [2]]


def test_what_is_a_cut(portrait):
    rng = np.random.default_rng(0)
    one, other = (
        cv2.resize(rng.integers(0, tint, (6, 8, 3)).astype(np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
        for tint in ((250, 180, 90), (60, 120, 200))
    )
    darker = np.uint8(0.5 * one)
    assert Look.of(one).is_cut(Look.of(other))
    for same in (one, np.roll(one, 16, 1), darker, cv2.resize(one, (640, 480)), one[20:-20, 30:-30]):
        assert not Look.of(one).is_cut(Look.of(same))
    grey = np.full((100, 100, 3), 90, np.uint8)
    assert not Look.of(grey).is_cut(Look.of(grey))
    assert not Look.of(frame_of(portrait)).is_cut(Look.of(frame_of(portrait, (200, 20))))  # someone comes in


def test_without_the_mirror_image_a_face_must_be_confirmed(model, portrait):
    frames = [frame_of(portrait, (10, 20) if k < 2 else None, size=(300, 240)) for k in range(4)]
    assert follow(model, frames, flip=False) == [[1], [1], [], []]


def test_frames_of_other_sizes_go_on(model, portrait, tmp_path):
    small = frame_of(portrait, (60, 20), size=(300, 240))
    frames = [small, small, cv2.resize(small, (600, 480)), cv2.resize(small, (600, 480))]
    assert follow(model, frames) == [[1]] * 4
    files = ClipFiles(make_folder(tmp_path / "scratch"), tmp_path / "out", "me", ("overlay",), FPS)
    for k, pixels in enumerate(frames):
        files.add(Frame(k, k / FPS, pixels), [(1, mesh) for mesh in predict(pixels)])
    files.finish()
    with Clip(tmp_path / "out/me-overlay.webm") as clip:
        shapes = [frame.pixels.shape for frame in clip]
    assert shapes == [(240, 300, 3)] * 4
    sizes = read_meshes(tmp_path / "out/me.npz")["frame_size"]
    assert sizes.tolist() == [[300, 240]] * 2 + [[600, 480]] * 2


def test_a_picture_in_a_frame_of_another_shape():
    framed = letterboxed(np.full((100, 50, 3), 200, np.uint8), (200, 100))
    assert framed.shape == (100, 200, 3)
    assert (framed[:, 75:125] == 200).all()
    assert not framed[:, :75].any()
    assert not framed[:, 125:].any()


def test_photos_as_frames_have_identities(portrait, tmp_path):
    for k in range(3):
        Image.fromarray(frame_of(portrait, (20 + 5 * k, 20), size=(300, 240))).save(tmp_path / f"f{k}.png")
    settings = PredictConfig(video=True, save=("json", "csv"))
    predict_files(tmp_path, tmp_path / "out", settings=settings)
    assert [(row["name"], row["identity"]) for row in table(tmp_path / "out")] == [(f"f{k}", "1") for k in range(3)]


def test_the_box_of_the_first_frame(portrait, tmp_path):
    path = write(tmp_path / "two.mp4", [frame_of(portrait, (10, 20), (280, 20)) for _ in range(3)])
    result = predict_files(path, tmp_path / "out", np.array([330.0, 70, 410, 150]), KINDS)
    assert not result.problems
    first = [row for row in table(tmp_path / "out") if row["frame"] == "0"]
    assert [row["identity"] for row in first] == ["1"]
    assert float(first[0]["x0"]) > 280


# ------------------------------------------------------------------------------------------------ what is no good


def test_films_that_are_none(tmp_path, portrait):
    good = write(tmp_path / "good.mp4", [frame_of(portrait, (60, 20), size=(300, 240))] * 8).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(good[: len(good) // 2])
    (tmp_path / "nothing.mp4").touch()
    (tmp_path / "text.mov").write_text("no film")
    write(tmp_path / "grey.mp4", [np.full((64, 64, 3), 90, np.uint8)] * 3)
    cv2.VideoWriter(str(tmp_path / "frameless.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 64)).release()
    names = ("cut.mp4", "nothing.mp4", "text.mov", "grey.mp4", "frameless.avi", "good.mp4")
    result = predict_files([tmp_path / name for name in names], tmp_path / "out", settings=KINDS)
    for problem, text in zip(
        result.problems,
        ("cut.mp4: is damaged, or no film", "nothing.mp4: is empty", "text.mov: is damaged, or no film",
         "grey.mp4: no face found in 3 frames", "frameless.avi: holds no frame"),
        strict=True,
    ):  # fmt: skip
        assert text in problem
    assert {row["photo"] for row in table(tmp_path / "out") if row["problem"]} == set(names[:-1])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        RECORD_FILE, "good-overlay.webm", "good.npz", "predictions.csv",
    ]  # fmt: skip


def test_a_film_that_ends_early_is_told(tmp_path, portrait):
    path = write(tmp_path / "me.avi", [frame_of(portrait, (60, 20), size=(300, 240))] * 12, "MJPG")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle:] = bytes(len(content) - middle)  # a download that stopped
    path.write_bytes(content)
    result = predict_files(path, tmp_path / "out", settings=KINDS)
    assert 0 < result.frames < 12
    assert f"ends after {result.frames} of the 12 frames" in result.warnings[0]


def test_nothing_is_written_over(tmp_path, portrait):
    path = write(tmp_path / "me.mp4", [frame_of(portrait, (60, 20), size=(300, 240))] * 2)
    write(tmp_path / "me-overlay.webm", [frame_of(portrait, (60, 20), size=(300, 240))] * 2, "VP80")
    with pytest.raises(InputError, match=r"me-overlay\.webm: would be replaced by a result of me\.mp4"):
        predict_files([path, tmp_path / "me-overlay.webm"], tmp_path, settings=KINDS)
    Image.fromarray(portrait).save(tmp_path / "me-face1.png")
    with pytest.raises(InputError, match=r"me-face1\.png: is called as a face of me\.mp4"):
        predict_files([path, tmp_path / "me-face1.png"], tmp_path / "out", settings=KINDS)
    (tmp_path / "me-face1.glb").write_text("mine")
    with pytest.raises(
        InputError, match=r"me-overlay\.webm, me-face1\.glb would be replaced, and no earlier call wrote"
    ):
        predict_files(path, tmp_path, settings=PredictConfig(save=("overlay", "glb")))
    assert (tmp_path / "me-face1.glb").read_text() == "mine"


def test_a_films_results_are_no_films_to_be_read(tmp_path, caplog, portrait):
    path = write(tmp_path / "me.mp4", [frame_of(portrait, (60, 20), size=(300, 240))] * 2)
    Image.fromarray(portrait).save(tmp_path / "you.png")
    for _ in range(2):
        assert not predict_files(path, tmp_path, settings=KINDS).problems
    assert [photo.path.name for photo in find_photos(tmp_path)] == ["you.png"]
    assert "not read here: me.mp4 (name films" in caplog.text


def test_films_in_folders_are_left_out_and_told(tmp_path, caplog, portrait):
    write(tmp_path / "me.MP4", [portrait])
    Image.fromarray(portrait).save(tmp_path / "me.png")
    assert [photo.path.name for photo in find_photos(tmp_path)] == ["me.png"]
    assert "not read here: me.MP4 (name films and linked folders themselves)" in caplog.text
    both = find_photos([tmp_path / "me.png", tmp_path / "me.MP4"])
    assert [(photo.name, photo.is_clip) for photo in both] == [("me-png", False), ("me-mp4", True)]


def test_the_command(tmp_path, portrait, capsys):
    path = write(tmp_path / "me.mp4", [frame_of(portrait, (60, 20), size=(300, 240))] * 2)
    assert cli.main(["predict", str(path), "--out", str(tmp_path / "out"), "--save", "csv"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "me.mp4: 2 frames, 1 face(s); me.npz",
        f"1 film, 2 frames, 0 failed; {tmp_path / 'out'}: npz, csv",
    ]


def test_memory_does_not_grow_with_the_film(tmp_path, with_eyes):
    files = ClipFiles(make_folder(tmp_path / "scratch"), tmp_path / "out", "me", ("csv",), FPS)
    pixels, grown = np.zeros((240, 320, 3), np.uint8), []
    tracemalloc.start()
    for k in range(220):
        files.add(Frame(k, k / FPS, pixels), [(1, with_eyes.mesh)])
        if k in (20, 219):
            grown.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert grown[1] - grown[0] < 20_000  # 200 meshes are 10 MB
    files.finish()
    assert len(read_meshes(tmp_path / "out/me.npz")["frame"]) == 220


def test_an_npz_of_something_else(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(InputError, match=r"a\.npz: identity: is not in it"):
        read_meshes(tmp_path / "a.npz")
