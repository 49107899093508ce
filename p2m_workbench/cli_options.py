"""The options of `p2m`: those that stand for settings, and the few that do not.

An option that stands for a setting is the same as --set: `--count 50` is `--set synth.count=50`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2m_core import __version__
from p2m_core.config.settings import Config


@dataclass(frozen=True)
class Option:
    """An option that stands for a setting.

    words: what may stand there in place of a path, None if it is no path.   again: the setting, a list, that what is
    given when the option is repeated goes to.
    """

    flag: str
    field: str
    help: str
    words: tuple[str, ...] | None = None
    again: str = ""


EXAMPLES: dict[str, str] = {
    "synth": "p2m synth data/raw/faces --count 500 --workers 2",
    "preprocess": "p2m preprocess data/raw/AFLW2000-3D --face-model fit",
    "train": "p2m train -c face-lite --epochs 5 --set name=trial",
    "evaluate": "p2m evaluate --weights bundled --weights run --predictions mediapipe.npz --data data/processed/faces",
    "predict": "p2m predict photo.jpg --out meshes --box 120,80,310,290",
    "run": "p2m run -c demo 04_inspect 05_predict",
    "sweep": "p2m sweep -c face-lite --grid train.lr=1e-4,3e-4 model.backbone=resnet18,resnet50 --jobs 2",
    "diff": "p2m diff face-lite trial",
    "convert": "p2m convert old.pth new.safetensors --template ellipsoid.npz\n  p2m convert BFM.mat bfm.npz",
    "doctor": "p2m doctor",
    "demo": "p2m demo",
}
OPTIONS: dict[str, list[Option]] = {
    "synth": [
        Option("out", "synth.out", "folder to write", ()),
        Option("--count", "synth.count", "number of faces"),
        Option("--start", "synth.start", "index of the first, so that several machines can share a set"),
        Option("--size", "synth.size_px", "side of the square images, px"),
        Option("--yaw", "synth.yaw", "how the heads are turned"),
        Option("--seed", "synth.seed", "the same seed gives the same faces"),
        Option("--backgrounds", "synth.backgrounds", "folder of pictures to stand before", ("null",)),
        Option("--workers", "synth.workers", "processes"),
        Option("--scheduler", "synth.scheduler", "tcp://HOST:PORT of a Dask scheduler, in place of processes here"),
    ],
    "preprocess": [
        Option("folder", "data.raw", "folder or zip of images and labels", ()),
        Option("--out", "data.store", "the store; data/processed/FOLDER where only FOLDER is given", ()),
        Option("--face-model", "data.face_model", "folder or file of a face model", ("auto", "synthetic", "fit")),
        Option("--workers", "data.workers", "processes"),
    ],
    "train": [
        Option("--data", "data.store", "store to train on", ()),
        Option("--epochs", "train.epochs", "passes over the data"),
        Option("--minutes", "train.minutes", "end by the clock instead"),
        Option("--processes", "train.processes", "processes on this machine, one a GPU"),
        Option("--batch-size", "train.batch_size", "samples a step"),
        Option("--lr", "train.lr", "learning rate"),
        Option("--init-from", "train.init_from", "weights to start from", ("bundled", "null")),
    ],
    "evaluate": [
        Option(
            "--weights",
            "evaluate.weights",
            "weights to measure, repeatable",
            ("run", "bundled"),
            "evaluate.checkpoints",
        ),
        Option("--data", "evaluate.store", "store to measure on, data.store where null", ("null",)),
        Option(
            "--predictions",
            "evaluate.predictions",
            "npz, npy, txt, obj or folder of another system's points, repeatable",
            (),
            "evaluate.predictions",
        ),
        Option(
            "--mapping",
            "evaluate.mapping",
            "how their points are the 68 landmarks, or 68 numbers, or a file; for all or once each",
            ("auto", "dlib68", "mediapipe468", "template"),
            "evaluate.mapping",
        ),
    ],
    "sweep": [
        Option("--seeds", "sweep.seeds", "runs of each variant, seeds from the config's on"),
        Option("--jobs", "sweep.jobs", "runs at a time"),
        Option("--timeout", "sweep.timeout_s", "seconds a notebook may take"),
        Option("--retries", "sweep.retries", "how often a run that failed is tried again"),
        Option("--scheduler", "sweep.scheduler", "auto, pool, local, slurm, or tcp://HOST:PORT of a Dask scheduler"),
    ],
    "predict": [
        Option("--weights", "predict.weights", "weights to predict with", ("bundled",)),
        Option("--detector", "predict.detector", "cascades; fast, for faces that fill the photo; or blazeface"),
        Option("--passes", "predict.passes", "2 crops again around the first prediction"),
        Option("--workers", "predict.workers", "processes"),
    ],
}


def _default(field: str) -> Any:
    value: Any = Config()
    for part in field.split("."):
        value = getattr(value, part)
    return value


# ------------------------------------------------------------------------------------------------ the parser


def build_parser(commands: Sequence[Callable[[argparse.Namespace], Any]]) -> argparse.ArgumentParser:
    """The parser of some commands, each a function whose docstring is its help."""
    top = argparse.ArgumentParser("p2m", description="One photo of a face in, a triangle mesh of that face out.")
    top.add_argument("--version", action="version", version=f"p2m {__version__}")
    added = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in commands:
        name = command.__name__
        sub = added.add_parser(
            name,
            help=command.__doc__,
            description=f"p2m {name}: {command.__doc__}.",
            epilog=f"example:\n  {EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=command, values={}, config=None, set=[])
        for option in OPTIONS.get(name, []):
            _add_setting(sub, option)
        for add in OTHERS.get(name, ()):
            add(sub)
        if name not in ("convert", "diff", "doctor", "demo"):
            text = "name of a file in configs/, or a YAML file (default: the defaults in the code)"
            sub.add_argument("-c", "--config", metavar="NAME|FILE", help=text)
        if name not in ("diff", "doctor"):
            text = "change one setting, repeatable, e.g. --set train.lr=1e-4 (default: none)"
            sub.add_argument("--set", metavar="A.B=VALUE", action="append", default=[], help=text)
    return top


def _add_setting(sub: argparse.ArgumentParser, option: Option) -> None:
    default = _default(option.field)
    words = f", or {' or '.join(option.words)}" if option.words else ""
    text = f"{option.help}{words} (setting {option.field}, default: {default})".replace("%", "%%")
    if option.flag.startswith("-"):
        name = option.flag.lstrip("-").upper().replace("-", "_")
        sub.add_argument(option.flag, metavar=name, action=_Setting, option=option, help=text)
    else:
        metavar = option.flag.upper()
        sub.add_argument(option.flag, metavar=metavar, nargs="?", action=_Setting, option=option, help=text)


class _Setting(argparse.Action):
    """Collects the options that stand for settings, as {field: YAML}."""

    def __init__(self, *args: Any, option: Option, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.option = option

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if values is None:  # a positional that was not given
            return
        words = self.option.words
        listed = self.option.again == "evaluate.mapping" and "," in values
        if words is not None and values not in words and not listed:
            # A path on the command line counts from where the user is, one in a config from the project's root.
            values = str(Path(values).absolute())
        as_yaml = values if words is None or values == "null" else json.dumps(values)
        field, again = self.option.field, self.option.again
        if again and (again == field or field in namespace.values):
            field, as_yaml = again, json.dumps([*json.loads(namespace.values.get(again, "[]")), values])
        namespace.values = namespace.values | {field: as_yaml}


# ------------------------------------------------------------------------------------------------ what is no setting


def _add_predict(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "photos",
        nargs="+",
        metavar="PHOTO",
        type=Path,
        help="image files or folders of them; grace_hopper is a sample (default: none)",
    )
    sub.add_argument("--out", metavar="DIR", type=Path, default=Path("meshes"), help="folder (default: %(default)s)")
    box_help = "tight box around the 68 landmarks, px; repeatable (default: faces are detected)"
    sub.add_argument("--box", metavar="X0,Y0,X1,Y1", action="append", default=[], help=box_help)
    sub.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    kinds = "obj, ply, glb, levels, json, pts, overlay, crop, depth, normals, turntable, turning-levels, html, csv"
    save_help = f"which files, of {kinds} (setting predict.save, default: {','.join(_default('predict.save'))})"
    sub.add_argument("--save", metavar="KIND,KIND", help=save_help)
    sub.add_argument("--all", action="store_true", help="all kinds of files (default: those of --save)")
    text = "photos are consecutive frames: look for a face where it was (setting predict.video, default: False)"
    sub.add_argument("--video", action="store_true", help=text)
    sub.add_argument("--timing", action="store_true", help="print the time of each stage (default: not)")


def _add_doctor(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("path", nargs="?", type=Path, metavar="PATH", help="a set or face model (default: all of data/)")
    text = "face model to check a set with: a folder or file, synthetic or fit (default: %(default)s)"
    sub.add_argument("--face-model", metavar="MODEL", default="auto", help=text)
    text = "lists of images, or folders, to look for overlaps within and between (default: none)"
    sub.add_argument("--splits", nargs="+", type=Path, metavar="LIST", default=[], help=text)
    sub.add_argument("--images", type=Path, help="folder of the lists' images (default: that of each list)")
    sub.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")


def _add_convert(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("old", type=Path, metavar="OLD", help="weights, or a face model (default: none)")
    text = "the .safetensors to write, or for a face model the .npz (default: none)"
    sub.add_argument("new", type=Path, metavar="NEW", help=text)
    sub.add_argument("--template", type=Path, help=".npz, .dat, .obj it was trained on (default: none)")
    text = "go on although tensors are missing or unexpected (default: fail and list them)"
    sub.add_argument("--incomplete", action="store_true", help=text)


def _add_evaluate(sub: argparse.ArgumentParser) -> None:
    text = "evaluate a run again and check that its numbers come out (default: measure as the settings say)"
    sub.add_argument("--run", metavar="RUN", help=text)


def _add_diff(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("a", metavar="A", help="a run: its folder, or its name in outputs/ (default: none)")
    sub.add_argument("b", metavar="B", help="another (default: none)")
    sub.add_argument("--out", type=Path, metavar="DIR", help="folder for the whole tables, csv (default: none)")


def _add_sweep(sub: argparse.ArgumentParser) -> None:
    text = "settings and their values; every combination is a run (default: setting sweep.grid)"
    sub.add_argument("--grid", nargs="+", metavar="A.B=V1,V2", default=[], help=text)


def _add_run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="e.g. 02_train (default: the config's)")
    text = "execute also the notebooks that would do the same again (default: these are kept)"
    sub.add_argument("--fresh", action="store_true", help=text)
    sub.add_argument("--timeout", metavar="S", type=float, help="seconds a notebook may take (default: no limit)")


def _add_parameters(sub: argparse.ArgumentParser) -> None:
    text = "a notebook's parameter, as name=value or 02_train.name=value; repeatable (default: none)"
    sub.add_argument("-p", "--parameter", metavar="NAME=VALUE", action="append", default=[], help=text)


OTHERS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], ...]] = {
    "predict": (_add_predict,),
    "doctor": (_add_doctor,),
    "convert": (_add_convert,),
    "evaluate": (_add_evaluate,),
    "diff": (_add_diff,),
    "sweep": (_add_sweep, _add_parameters),
    "run": (_add_run, _add_parameters),
}
