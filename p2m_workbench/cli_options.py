"""The options of `p2m`: those that stand for settings, and the few that do not.

An option that stands for a setting is the same as --set, `--count 50` as `--set synth.count=50`, and its help is the
setting's own text.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from p2m_core import __version__
from p2m_core.config.settings import Config
from p2m_core.errors import InputError


@dataclass(frozen=True)
class Option:
    """An option that stands for a setting.

    words: the values that are no paths, such as "bundled"; None if the value is no path at all.
    again: the setting, a list, that gets the further values of a repeated option.   switch: whether it may stand
    without a value, for true.
    """

    flag: str
    field: str
    words: tuple[str, ...] | None = None
    again: str = ""
    switch: bool = False


EXAMPLES: dict[str, str] = {
    "synth": "p2m synth data/raw/faces --count 500 --workers 2",
    "preprocess": "p2m preprocess data/raw/AFLW2000-3D --face-model fit",
    "train": "p2m train -c face-lite --epochs 5 --set name=trial",
    "control": "p2m control face-lite --stop",
    "evaluate": "p2m evaluate --weights bundled --weights run --predictions mediapipe.npz --data data/processed/faces",
    "predict": "p2m predict photo.jpg --out meshes --box 120,80,310,290",
    "run": "p2m run -c demo 04_inspect 05_predict",
    "sweep": "p2m sweep -c face-lite --grid train.lr=1e-4,3e-4 model.backbone=resnet18,resnet50 --jobs 2",
    "diff": "p2m diff face-lite trial",
    "convert": "p2m convert old.pth new.safetensors --template ellipsoid.npz\n  p2m convert BFM.mat bfm.npz",
    "doctor": "p2m doctor",
    "demo": "p2m demo",
    "settings": "p2m settings train",
}
OPTIONS: dict[str, list[Option]] = {
    "synth": [
        Option("out", "synth.out", ()),
        Option("--count", "synth.count"),
        Option("--start", "synth.start"),
        Option("--size", "synth.size_px"),
        Option("--yaw", "synth.yaw"),
        Option("--seed", "synth.seed"),
        Option("--backgrounds", "synth.backgrounds", ("null",)),
        Option("--workers", "synth.workers"),
        Option("--scheduler", "synth.scheduler"),
    ],
    "preprocess": [
        Option("folder", "data.raw", ()),
        Option("--out", "data.store", ()),
        Option("--face-model", "data.face_model", ("auto", "synthetic", "fit")),
        Option("--workers", "data.workers"),
    ],
    "train": [
        Option("--data", "data.store", ()),
        Option("--epochs", "train.epochs"),
        Option("--minutes", "train.minutes"),
        Option("--processes", "train.processes"),
        Option("--batch-size", "train.batch_size"),
        Option("--lr", "train.lr"),
        Option("--init-from", "train.init_from", ("bundled", "null")),
        Option("--continue-with", "train.continue_with", switch=True),
    ],
    "evaluate": [
        Option("--weights", "evaluate.weights", ("run", "bundled"), "evaluate.checkpoints"),
        Option("--data", "evaluate.store", ("null",)),
        Option("--predictions", "evaluate.predictions", (), "evaluate.predictions"),
        Option(
            "--mapping",
            "evaluate.mapping",
            ("auto", "dlib68", "mediapipe468", "template"),
            "evaluate.mapping",
        ),
        Option("--protocol", "evaluate.protocol"),
        Option("--split", "evaluate.split"),
        Option("--found", "evaluate.found"),
    ],
    "sweep": [
        Option("--seeds", "sweep.seeds"),
        Option("--jobs", "sweep.jobs"),
        Option("--timeout", "sweep.timeout_s"),
        Option("--retries", "sweep.retries"),
    ],
    "predict": [
        Option("--weights", "predict.weights", ("bundled",)),
        Option("--passes", "predict.passes"),
        Option("--workers", "predict.workers"),
        Option("--min-face", "predict.min_face"),
    ],
}


def one_line(text: str | None) -> str:
    """A docstring without its line breaks."""
    return " ".join((text or "").split())


def _help(field: str) -> str:
    """A setting's text, its name and its default."""
    section, _, name = field.partition(".")
    info = type(getattr(Config(), section)).model_fields[name]
    return f"{one_line(info.description).rstrip('.')} (setting {field}, default: {info.default})".replace("%", "%%")


def settings_page(only: str = "") -> str:
    """All settings with default and meaning, or those of one section, as Markdown: docs/settings.md.

    Raises: InputError if there is no such section.
    """
    groups: dict[str, type[BaseModel]] = {"": Config}
    groups |= {name: type(value) for name, value in Config() if isinstance(value, BaseModel)}
    if only and only not in groups:
        raise InputError("settings", only, "is no section of settings", f"take one of {', '.join(groups)[2:]}")
    parts = []
    for group, settings in groups.items():
        if only not in ("", group):
            continue
        rows = ["| setting | default | meaning |", "|---|---|---|"]
        for name, info in settings.model_fields.items():
            if not isinstance(info.default, BaseModel):
                field = f"{group}.{name}".strip(".")
                rows.append(f"| `{field}` | `{json.dumps(info.default)}` | {one_line(info.description)} |")
        title = f"## {group}" if group else "# Settings"
        parts.append(f"{title}\n\n{one_line(settings.__doc__)}\n\n" + "\n".join(rows))
    return "\n\n".join(parts)


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
        if name not in ("control", "convert", "diff", "doctor", "demo", "settings"):
            text = "name of a file in configs/, or a YAML file (default: the defaults in the code)"
            sub.add_argument("-c", "--config", metavar="NAME|FILE", help=text)
        if name not in ("control", "diff", "doctor", "settings"):
            text = "change any setting, repeatable, e.g. --set train.lr=1e-4; p2m settings lists all (default: none)"
            sub.add_argument("--set", metavar="A.B=VALUE", action="append", default=[], help=text)
    return top


def _add_setting(sub: argparse.ArgumentParser, option: Option) -> None:
    text = _help(option.field) + (" (repeatable)" if option.again else "")
    name = option.flag.lstrip("-").upper().replace("-", "_")
    more: dict[str, Any] = {} if option.flag.startswith("-") else {"nargs": "?"}
    more |= {"nargs": "?", "const": "true"} if option.switch else {}
    sub.add_argument(option.flag, metavar=name, action=_Setting, option=option, help=text, **more)


class _Setting(argparse.Action):
    """Collects the options that stand for settings, as {field: (the option as it is typed, YAML)}."""

    def __init__(self, *args: Any, option: Option, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.option = option

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if values is None:  # a positional that was not given
            return
        words = self.option.words
        listed = self.option.again == "evaluate.mapping" and "," in values
        bare = Path(values).name == values and not Path(values).suffix and not Path(values).exists()
        run = bare and self.option.field.endswith("weights")  # a run's name
        if words is not None and values not in words and not listed and not run:
            # A path on the command line counts from where the user is, one in a config from the project's root.
            values = str(Path(values).absolute())
        as_yaml = values if words is None or values == "null" else json.dumps(values)
        field, again = self.option.field, self.option.again
        if again and (again == field or field in namespace.values):
            _, before = namespace.values.get(again, ("", "[]"))
            field, as_yaml = again, json.dumps([*json.loads(before), values])
        namespace.values = namespace.values | {field: (option_string or self.metavar, as_yaml)}


# ------------------------------------------------------------------------------------------------ what is no setting


def _add_predict(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "photos",
        nargs="+",
        metavar="PHOTO",
        type=Path,
        help="image files or folders of them, films; grace_hopper is a sample (default: none)",
    )
    sub.add_argument("--out", metavar="DIR", type=Path, default=Path("meshes"), help="folder (default: %(default)s)")
    box_help = "tight box around the 68 landmarks, px; repeatable (default: faces are detected)"
    sub.add_argument("--box", metavar="X0,Y0,X1,Y1", action="append", default=[], help=box_help)
    sub.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    sub.add_argument("--save", metavar="KIND,KIND", help=_help("predict.save"))
    sub.add_argument("--all", action="store_true", help="all kinds of files (default: those of --save)")
    sub.add_argument("--frame", choices=("photo", "head_mm"), help=_help("predict.frame"))
    sub.add_argument("--video", action="store_true", help=_help("predict.video"))
    sub.add_argument("--timing", action="store_true", help="print the time of each stage (default: not)")


def _add_control(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", metavar="RUN", help="its folder, or its name in outputs/ (default: none)")
    text = "end it after the current step, with a checkpoint (default: say where it stands)"
    sub.add_argument("--stop", action="store_true", help=text)
    text = "epochs to train longer; the decay of the learning rate is stretched (default: none)"
    sub.add_argument("--epochs", metavar="N", type=int, default=0, help=text)
    text = "minutes to train longer, in whole epochs unless train.minutes is set (default: none)"
    sub.add_argument("--minutes", metavar="M", type=float, default=0.0, help=text)
    text = "factor of the learning rate from the next step on, above 0 and below 1 (default: none)"
    sub.add_argument("--scale-lr", metavar="F", type=float, default=1.0, help=text)


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
    text = "the old port's options file, for what no tensor tells: camera, normalisation ... (default: none)"
    sub.add_argument("--options", metavar="FILE", type=Path, help=text)
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


def _add_settings(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("section", nargs="?", default="", metavar="SECTION", help="e.g. train (default: all sections)")


def _add_parameters(sub: argparse.ArgumentParser) -> None:
    text = "a notebook's parameter, as name=value or 02_train.name=value; repeatable (default: none)"
    sub.add_argument("-p", "--parameter", metavar="NAME=VALUE", action="append", default=[], help=text)


OTHERS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], ...]] = {
    "predict": (_add_predict,),
    "control": (_add_control,),
    "doctor": (_add_doctor,),
    "convert": (_add_convert,),
    "evaluate": (_add_evaluate,),
    "diff": (_add_diff,),
    "sweep": (_add_sweep, _add_parameters),
    "run": (_add_run, _add_parameters),
    "settings": (_add_settings,),
}
