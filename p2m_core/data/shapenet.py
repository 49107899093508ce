"""Objects in Pixel2Mesh's packed formats. They are read as they are: no store is made of them.

    RAW/  train.txt  test.txt                           a view a line; LISTS has the names that are looked for
          data_tf/CATEGORY/MODEL/rendering/NN.dat       pickle of (N, 6): points and normals, metres, camera frame
                                           NN.png       137x137 RGBA; transparent pixels become white
    or    data/CATEGORY/MODEL_NN.dat                    the larger set: pickle of the picture and (N, 6)

A line may be CATEGORY/MODEL/rendering/NN.dat with any folders before it, as the published lists have
("Data/ShapeNetP2M/", "data_tf/"), or CATEGORY_MODEL_NN.dat. CATEGORY is looked for in RAW and in its data_tf or data.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from p2m_core.config.paths import resolve
from p2m_core.config.settings import Config
from p2m_core.data.clouds import CloudDataset, CloudStore
from p2m_core.data.splits import SPLITS, by_shares
from p2m_core.errors import InputError
from p2m_core.files import decode_text, sha256
from p2m_core.geometry.template import ellipsoid
from p2m_core.geometry.template_files import load_template
from p2m_core.safe_pickle import load_arrays

LISTS = ("{}.txt", "{}_list.txt", "meta/{}_tf.txt", "meta/{}_all.txt")
PACKED = re.compile(r"(?:.*/)?([^/]+)/([^/]+)/rendering/([^/]+)\.dat")
WHOLE = re.compile(r"(?:.*/)?([^/_]+)[_/]([^/]+)_([^/_]+)\.dat")
CATEGORIES = {
    "02691156": "plane", "02828884": "bench", "02933112": "cabinet", "02958343": "car", "03001627": "chair",
    "03211117": "monitor", "03636649": "lamp", "03691459": "speaker", "04090263": "firearm", "04256520": "couch",
    "04379243": "table", "04401088": "cellphone", "04530566": "watercraft",
}  # fmt: skip
_log = logging.getLogger(__name__)


# --- files ----------------------------------------------------------------------------------------


def find_list(folder: Path, split: str) -> Path:
    """The list of a split's views, in the folder or beside it.   Raises InputError if there is none."""
    for name in LISTS:
        for path in (folder / name.format(split), folder.parent / name.format(split)):
            if path.is_file():
                return path
    names = ", ".join(name.format(split) for name in LISTS)
    raise InputError(folder, f"{split}.txt", "there is no list of views", f"add one of {names}")


def read_list(path: Path, folder: Path) -> dict[str, list[str]]:
    """A list's views, a row each.

    Returns: columns name (CATEGORY/MODEL/NN, the category in words), category, model, path (of the .dat).
    Raises:  InputError for a line of another form, or a category whose folder is not there.
    """
    columns: dict[str, list[str]] = {"name": [], "category": [], "model": [], "path": []}
    bases: dict[tuple[str, str], Path] = {}
    for number, line in enumerate(decode_text(path.read_bytes()).splitlines(), 1):
        line = line.strip().replace("\\", "/")
        if not line:
            continue
        packed = PACKED.fullmatch(line)
        match = packed or WHOLE.fullmatch(line)
        if match is None:
            remedy = "give lines like CATEGORY/MODEL/rendering/00.dat or CATEGORY_MODEL_00.dat"
            raise InputError(path, f"line {number}", f"'{line}' names no view", remedy)
        category, model, view = match.groups()
        kind = "data_tf" if packed else "data"
        if (category, kind) not in bases:
            base = next((b for b in (folder / kind, folder) if (b / category).is_dir()), None)
            if base is None:
                problem = f"there is no folder {category} in {folder} or its {kind}"
                raise InputError(path, f"line {number}", problem, f"set data.raw to the folder that holds {kind}")
            bases[category, kind] = base
        file = f"{category}/{model}/rendering/{view}.dat" if packed else f"{category}/{model}_{view}.dat"
        word = CATEGORIES.get(category, category)
        for column, value in zip(columns, (f"{word}/{model}/{view}", word, model, f"{bases[category, kind]}/{file}")):
            columns[column].append(value)
    return columns


def read_picture(path: Path) -> np.ndarray:
    """A picture file, (H, W, 4) uint8 RGBA.   Raises InputError if it is missing or damaged."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGBA"))
    except FileNotFoundError:
        raise InputError(path, "", "is missing", "put it beside its .dat, or take the line out of the list") from None
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(path, "", f"cannot be read as a picture: {error}", "copy it anew") from None


def on_white(picture: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3 or 4) as RGB, white where it is wholly transparent.

    Half-transparent edges keep their colour, as in Pixel2Mesh's own reader.
    """
    if picture.shape[2] == 3:
        return picture
    return np.where(picture[..., 3:] == 0, np.array(255, picture.dtype), picture[..., :3])


def read_view(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """A view in either format.

    Returns: picture (H, W, 3) uint8 RGB; points (N, 6) float32: place and normal, metres, camera frame.
    Raises:  InputError if a file is missing, is no pickle of arrays, or holds arrays of other shapes or numbers that
             are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "", "is missing", "copy the set anew, or take the line out of the list")
    content = load_arrays(path)
    if isinstance(content, list | tuple) and len(content) == 2:
        picture, points = np.asarray(content[0]), np.asarray(content[1])
        if picture.ndim != 3 or picture.shape[2] not in (3, 4) or picture.dtype.kind not in "uif":
            problem = f"has shape {picture.shape} and type {picture.dtype}, not (H, W, 3 or 4) numbers"
            raise InputError(path, "picture", problem, "give a view of Pixel2Mesh's packed set")
        picture = np.clip(picture, 0, 255).astype(np.uint8)
    else:
        picture, points = None, np.asarray(content)
    if points.ndim != 2 or points.shape[1] != 6 or not len(points) or points.dtype.kind not in "uif":
        problem = f"has shape {points.shape} and type {points.dtype}, not (N, 6) numbers"
        raise InputError(path, "points", problem, "give a view of Pixel2Mesh's packed set")
    bad = np.flatnonzero(~np.isfinite(points).all(1))
    if len(bad):
        raise InputError(path, f"point {bad[0]}", f"{len(bad)} points are not finite", "take the view out of the list")
    if picture is None:
        picture = read_picture(path.with_suffix(".png"))
    return on_white(picture), points.astype(np.float32)


def scaled(picture: np.ndarray, size_px: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 as a square of another side, float32 in [0, 1]; its outer edges stay where they are."""
    way = cv2.INTER_LINEAR if size_px > max(picture.shape[:2]) else cv2.INTER_AREA
    # As floats: on bytes OpenCV is off by up to a level.
    return cv2.resize(picture.astype(np.float32) / 255, (size_px, size_px), interpolation=way)


# --- what training and evaluation ask for ---------------------------------------------------------


class ObjectStore(CloudStore):
    """The views of a folder in one of the packed formats.

    table: columns name, category, model, path (str) and split, a row a view.   template: Template.
    """

    camera, unit = "perspective", "m"
    damaged = np.zeros(0, np.int64)  # views are read as they are, without checksums

    def __init__(self, folder: str | Path, config: Config):
        self.folder, self.config, kind = resolve(folder), config, config.template
        files = {split: find_list(self.folder, split) for split in ("train", "test")}
        train, test = (read_list(path, self.folder) for path in files.values())
        if both := set(train["path"]) & set(test["path"]):
            problem = f"{len(both)} of its views are in {files['train']} too, the first: {min(both)}"
            raise InputError(files["test"], "", problem, "take them out of one of the lists")
        if shared := set(train["model"]) & set(test["model"]):
            _log.warning(
                "%s: %d models have views in both lists: the test is not of unseen objects", folder, len(shared)
            )
        self.table = {column: np.array(train[column] + test[column], dtype=str) for column in train}
        # Views of one model stay together, so the share of train that validates is drawn by model.
        split = by_shares(self.table["model"], config.data.model_copy(update={"test_share": 0.0}))
        split[len(train["path"]) :] = SPLITS.index("test")
        self.table["split"] = split
        self.template = load_template(resolve(kind.file), kind.levels) if kind.file else ellipsoid(kind.levels)
        names, counts = np.unique(self.table["category"], return_counts=True)
        self.manifest = {
            "kind": "objects",
            "raw": str(self.folder),
            "count": len(self),
            "splits": {name: len(self.rows(name)) for name in SPLITS},
            "categories": dict(zip(names.tolist(), counts.tolist(), strict=True)),
            "models in train and test": len(shared),
            "sha256": {str(path): sha256(path) for path in files.values()},
        }

    def __len__(self) -> int:
        return len(self.table["path"])

    def rows(self, split: str) -> np.ndarray:
        """Indices of a split's views; "all" gives every one."""
        return np.arange(len(self)) if split == "all" else np.nonzero(self.table["split"] == SPLITS.index(split))[0]

    def dataset(self, rows: np.ndarray, config: Config, train: bool) -> ObjectDataset:
        """Views for the network."""
        return ObjectDataset(self, rows, config, train)


class ObjectDataset(CloudDataset):
    """Views as the network's inputs, in the object's frame, see `CloudDataset`."""

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return read_view(self.store.table["path"][index])

    def to_input(
        self, picture: np.ndarray, cloud: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        model, normals = self.config.model, cloud[:, 3:]
        normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        return scaled(picture, model.input_px), cloud[:, :3] - np.array(model.mesh_offset, np.float32), normals
