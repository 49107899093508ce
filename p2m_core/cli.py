"""The command `p2m`. Each command reads a config, lays its options over it, and calls one function of the library.

An option that stands for a setting is the same as --set: `--count 50` is `--set synth.count=50`.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2m_core import __version__
from p2m_core.config import Config, load_config
from p2m_core.errors import InputError, Preempted
from p2m_core.stopping import stop_on_sigterm
from p2m_core.yaml_file import parse_value

CONTINUE = "stopped; the same command goes on from here"
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h, on which the scripts in slurm/ queue the job again


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


# ------------------------------------------------------------------------------------------------ commands


def synth(args: argparse.Namespace) -> Any:
    """write synthetic faces in the AFLW2000-3D format, or objects with a config of objects"""
    config = _config(args)
    if config.data.kind == "objects":
        from p2m_core.data.procedural import write_objects

        return write_objects(config.synth.out, config.synth.count, seed=config.synth.seed, workers=config.synth.workers)
    from p2m_core.synthetic.writer import write_dataset

    return write_dataset(config.synth)


def preprocess(args: argparse.Namespace) -> Any:
    """turn a folder or zip of images and labels into a store that training reads"""
    from p2m_core.data.preprocess import build_store
    from p2m_core.data.store import Store

    if "data.raw" in args.values and "data.store" not in args.values:
        # Samples of another folder must not go into the store that the config names.
        folder = Path(json.loads(args.values["data.raw"])).resolve()
        name = folder.stem if folder.suffix.lower() == ".zip" else folder.name
        args.values["data.store"] = json.dumps(f"data/processed/{name}")
    config = _config(args)
    if config.data.kind == "objects":
        raise InputError("config", "data.kind", "is objects, which are read as they are", "go on with p2m train")
    if config.data.kind == "folder":
        from p2m_core.data.folder_store import FolderStore, build_folder_store

        return FolderStore(build_folder_store(config), config).summary()
    return Store(build_store(config)).summary()


def train(args: argparse.Namespace) -> Any:
    """train the network on a store, or go on with a stopped training"""
    from p2m_core.train import train

    return train(_config(args))


def evaluate(args: argparse.Namespace) -> Any:
    """measure weights, and other systems' predictions, of faces beside the mean face's floor; or weights of objects"""
    if args.run:
        from p2m_core.capsule import check_run

        if args.config or args.set or args.values:
            raise InputError("--run", args.run, "has settings of its own", "give no other option with it")
        check = check_run(args.run)
        print(check)
        return 1 if check.differing else None
    config = _config(args)
    if config.data.kind != "faces":
        from p2m_core.evaluate_objects import evaluate_objects

        return evaluate_objects(config)
    from p2m_core.evaluate import evaluate

    return evaluate(config)


def predict(args: argparse.Namespace) -> Any:
    """turn photos into meshes, textured and with pictures, landmarks and an HTML view"""
    from p2m_core.config import SAVED
    from p2m_core.photos import SAMPLE_PHOTO
    from p2m_core.predict_files import predict_files, timing_table

    if args.box and len(args.photos) > 1:
        raise InputError("--box", "", "given with several photos", "give one photo, or no box to have faces detected")
    if args.save or args.all:
        args.values["predict.save"] = json.dumps(list(SAVED) if args.all else args.save.split(","))
    if args.video:
        args.values["predict.video"] = "true"
    settings, boxes = _config(args).predict, [_box(text) for text in args.box] or None
    photos = [path if str(path) == SAMPLE_PHOTO else path.absolute() for path in args.photos]
    result = predict_files(photos, args.out, boxes, settings, args.device, keep=False)
    faces = [row["name"] for row in result.rows if not row["problem"]]
    kinds = ", ".join(settings.save)
    print(f"{result.photos} photo(s), {len(faces)} face(s), {len(result.problems)} failed; {args.out}: {kinds}")
    if len(faces) <= 20:
        print(*(f"{Path(args.out) / name}.*" for name in faces), sep="\n")
    if args.timing:
        print(timing_table(result, settings.workers))
    return 1 if result.problems else None


def run(args: argparse.Namespace) -> Any:
    """execute the notebooks in order into outputs/NAME/notebooks/"""
    from p2m_core.pipeline import NotebookError, run_notebooks

    parameters = _parameters(args)
    try:
        return run_notebooks(
            args.config, args.notebooks or None, parameters, args.timeout, overrides=args.set, fresh=args.fresh
        )
    except NotebookError as error:
        return _failed(error)


def sweep(args: argparse.Namespace) -> Any:
    """execute the notebooks for every combination of some settings, variants and seeds, into outputs/NAME-sweep/"""
    from p2m_core.sweep import sweep

    if args.grid:
        grid = {}
        for text in args.grid:
            field, equals, values = text.partition("=")
            if not equals or not values:
                raise InputError("--grid", text, "is not of the form a.b=v1,v2", "for example train.lr=1e-4,3e-4")
            grid[field.strip()] = parse_value(field, f"[{values}]")
        args.values = args.values | {"sweep.grid": json.dumps(grid)}
    result = sweep(_config(args), _parameters(args))
    print(result)
    return 1 if result.failed else None


def diff(args: argparse.Namespace) -> Any:
    """compare two runs: settings, what they stand on, metrics, and their meshes sample by sample"""
    from p2m_core.capsule import diff_runs

    difference = diff_runs(args.a, args.b)
    if args.out:
        difference.save(args.out)
    return difference


def convert(args: argparse.Namespace) -> Any:
    """turn weights of older ports or of the official network, or a face model, into files of this project"""
    if args.new.suffix == ".npz":
        from p2m_core.faces.formats import convert_face_model

        if args.template or args.set or args.incomplete:
            raise InputError(args.new, "", "is a face model's name, which takes no options", "leave them away")
        return convert_face_model(args.old, args.new)
    from p2m_core.convert import convert

    return convert(args.old, args.new, args.template, args.set, args.incomplete)


def doctor(args: argparse.Namespace) -> Any:
    """list the data that are there and that are missing, check a set, or find images that lists share"""
    from p2m_core.config import PROJECT_ROOT
    from p2m_core.doctor import check, report

    if args.splits:
        from p2m_core.data.audit import audit, read_list

        overlaps = audit({str(path): read_list(path, args.images) for path in args.splits}, args.workers)
        print(*overlaps or ["no image is in two places"], sep="\n")
        return 1 if overlaps else None
    if args.path is None:
        return report(PROJECT_ROOT)
    words = ("auto", "synthetic", "fit")
    return check(args.path, args.face_model if args.face_model in words else str(Path(args.face_model).absolute()))


def demo(args: argparse.Namespace) -> Any:
    """the whole path in some minutes on two CPU cores, into outputs/demo/"""
    from p2m_core.pipeline import NotebookError
    from p2m_core.pipeline import demo as run_demo

    try:
        return run_demo(args.set)
    except NotebookError as error:
        return _failed(error)


EXAMPLES: dict[Callable[[argparse.Namespace], Any], str] = {
    synth: "p2m synth data/raw/faces --count 500 --workers 2",
    preprocess: "p2m preprocess data/raw/AFLW2000-3D --face-model fit",
    train: "p2m train -c face-lite --epochs 5 --set name=trial",
    evaluate: "p2m evaluate --weights bundled --weights run --predictions mediapipe.npz --data data/processed/faces",
    predict: "p2m predict photo.jpg --out meshes --box 120,80,310,290",
    run: "p2m run -c demo 04_inspect 05_predict",
    sweep: "p2m sweep -c face-lite --grid train.lr=1e-4,3e-4 model.backbone=resnet18,resnet50 --jobs 2",
    diff: "p2m diff face-lite trial",
    convert: "p2m convert old.pth new.safetensors --template ellipsoid.npz\n  p2m convert BFM.mat bfm.npz",
    doctor: "p2m doctor",
    demo: "p2m demo",
}
OPTIONS: dict[Callable[[argparse.Namespace], Any], list[Option]] = {
    synth: [
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
    preprocess: [
        Option("folder", "data.raw", "folder or zip of images and labels", ()),
        Option("--out", "data.store", "the store; data/processed/FOLDER where only FOLDER is given", ()),
        Option("--face-model", "data.face_model", "folder or file of a face model", ("auto", "synthetic", "fit")),
        Option("--workers", "data.workers", "processes"),
    ],
    train: [
        Option("--data", "data.store", "store to train on", ()),
        Option("--epochs", "train.epochs", "passes over the data"),
        Option("--minutes", "train.minutes", "end by the clock instead"),
        Option("--processes", "train.processes", "processes on this machine, one a GPU"),
        Option("--batch-size", "train.batch_size", "samples a step"),
        Option("--lr", "train.lr", "learning rate"),
        Option("--init-from", "train.init_from", "weights to start from", ("bundled", "null")),
    ],
    evaluate: [
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
    sweep: [
        Option("--seeds", "sweep.seeds", "runs of each variant, seeds from the config's on"),
        Option("--jobs", "sweep.jobs", "runs at a time"),
        Option("--timeout", "sweep.timeout_s", "seconds a notebook may take"),
        Option("--retries", "sweep.retries", "how often a run that failed is tried again"),
        Option("--scheduler", "sweep.scheduler", "auto, pool, local, slurm, or tcp://HOST:PORT of a Dask scheduler"),
    ],
    predict: [
        Option("--weights", "predict.weights", "weights to predict with", ("bundled",)),
        Option("--detector", "predict.detector", "cascades; fast, for faces that fill the photo; or blazeface"),
        Option("--passes", "predict.passes", "2 crops again around the first prediction"),
        Option("--workers", "predict.workers", "processes"),
    ],
}

# ------------------------------------------------------------------------------------------------ machinery


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser("p2m", description="One photo of a face in, a triangle mesh of that face out.")
    top.add_argument("--version", action="version", version=f"p2m {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command, example in EXAMPLES.items():
        sub = commands.add_parser(
            command.__name__,
            help=command.__doc__,
            description=f"p2m {command.__name__}: {command.__doc__}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=command, values={}, config=None, set=[])
        for option in OPTIONS.get(command, []):
            _add_setting(sub, option)
        _add_others(sub, command)
        if command not in (convert, diff, doctor, demo):
            text = "name of a file in configs/, or a YAML file (default: the defaults in the code)"
            sub.add_argument("-c", "--config", metavar="NAME|FILE", help=text)
        if command not in (diff, doctor):
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


def _add_others(sub: argparse.ArgumentParser, command: Callable[[argparse.Namespace], Any]) -> None:
    """What is no setting."""
    if command is predict:
        sub.add_argument(
            "photos",
            nargs="+",
            metavar="PHOTO",
            type=Path,
            help="image files or folders of them; grace_hopper is a sample (default: none)",
        )
        sub.add_argument(
            "--out", metavar="DIR", type=Path, default=Path("meshes"), help="folder (default: %(default)s)"
        )
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
    if command is doctor:
        sub.add_argument(
            "path", nargs="?", type=Path, metavar="PATH", help="a set or face model (default: all of data/)"
        )
        text = "face model to check a set with: a folder or file, synthetic or fit (default: %(default)s)"
        sub.add_argument("--face-model", metavar="MODEL", default="auto", help=text)
        text = "lists of images, or folders, to look for overlaps within and between (default: none)"
        sub.add_argument("--splits", nargs="+", type=Path, metavar="LIST", default=[], help=text)
        sub.add_argument("--images", type=Path, help="folder of the lists' images (default: that of each list)")
        sub.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    if command is convert:
        sub.add_argument("old", type=Path, metavar="OLD", help="weights, or a face model (default: none)")
        text = "the .safetensors to write, or for a face model the .npz (default: none)"
        sub.add_argument("new", type=Path, metavar="NEW", help=text)
        sub.add_argument("--template", type=Path, help=".npz, .dat, .obj it was trained on (default: none)")
        text = "go on although tensors are missing or unexpected (default: fail and list them)"
        sub.add_argument("--incomplete", action="store_true", help=text)
    if command is evaluate:
        text = "evaluate a run again and check that its numbers come out (default: measure as the settings say)"
        sub.add_argument("--run", metavar="RUN", help=text)
    if command is diff:
        sub.add_argument("a", metavar="A", help="a run: its folder, or its name in outputs/ (default: none)")
        sub.add_argument("b", metavar="B", help="another (default: none)")
        sub.add_argument("--out", type=Path, metavar="DIR", help="folder for the whole tables, csv (default: none)")
    if command is sweep:
        text = "settings and their values; every combination is a run (default: setting sweep.grid)"
        sub.add_argument("--grid", nargs="+", metavar="A.B=V1,V2", default=[], help=text)
    if command is run:
        sub.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="e.g. 02_train (default: the config's)")
        text = "execute also the notebooks that would do the same again (default: these are kept)"
        sub.add_argument("--fresh", action="store_true", help=text)
        sub.add_argument("--timeout", metavar="S", type=float, help="seconds a notebook may take (default: no limit)")
    if command in (run, sweep):
        text = "a notebook's parameter, as name=value or 02_train.name=value; repeatable (default: none)"
        sub.add_argument("-p", "--parameter", metavar="NAME=VALUE", action="append", default=[], help=text)


def _default(field: str) -> Any:
    value: Any = Config()
    for part in field.split("."):
        value = getattr(value, part)
    return value


def _config(args: argparse.Namespace) -> Config:
    """The config with --set and then the options laid over it."""
    return load_config(args.config, [*args.set, *(f"{field}={value}" for field, value in args.values.items())])


def _parameters(args: argparse.Namespace) -> dict[str, Any]:
    """The notebooks' parameters of -p."""
    parameters = {}
    for text in args.parameter:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError("--parameter", text, "is not of the form name=value", "for example -p detach=true")
        parameters[name.strip()] = parse_value(name, value)
    return parameters


def _box(text: str) -> tuple[float, ...]:
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError("--box", text, "is not four numbers", "give x0,y0,x1,y1 in pixels") from None
    if x0 >= x1 or y0 >= y1:
        raise InputError("--box", text, "has no area", "give x0,y0,x1,y1 with x0 < x1 and y0 < y1")
    return x0, y0, x1, y1


def _failed(error: Exception) -> int:
    print(f"p2m: {error}", file=sys.stderr)
    return 1


def _show(result: Any) -> None:
    """Print what a command gives: a list line by line, a notebook or a row of the doctor as a small block."""
    for item in result if isinstance(result, list) else [result]:
        if hasattr(item, "written"):
            status = "kept" if item.kept else item.status
            print(f"{item.name:<16} {status:<8} {item.seconds:>7.1f} s", *item.written, sep="\n    ")
            print(item.report, end="")
        elif hasattr(item, "purpose"):
            print(f"{item.status:<11} {item.name:<20} {item.detail}".rstrip())
            print(f"{'':<11} {item.purpose}; {item.licence}")
            if item.status != "there":
                print(f"{'':<11} belongs in {item.path}: {item.source}")
        elif item is not None:
            print(item)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns: exit status: 0 done, 1 a notebook failed or a check found something, 2 bad input, 75 stopped by a cluster,
             130 interrupted.
    """
    args = parser().parse_args(argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("p2m_core").setLevel(logging.INFO)
    try:
        with stop_on_sigterm():
            result = args.command(args)
    except InputError as error:
        print(f"p2m: {error}", file=sys.stderr)
        return 2
    except Preempted as error:
        print(f"p2m: {error}", file=sys.stderr)
        return PREEMPTED
    except KeyboardInterrupt:
        print(f"\np2m: {CONTINUE}", file=sys.stderr)
        return 130
    if isinstance(result, int):
        return result
    _show(result)
    return 0
