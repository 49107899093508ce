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
from p2m_core.config import Config, load_config, parse_value
from p2m_core.errors import InputError, Preempted

CONTINUE = "stopped; the same command goes on from here"
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h, on which the scripts in slurm/ queue the job again


@dataclass(frozen=True)
class Option:
    """An option that stands for a setting. `words`: what may stand there in place of a path, None if it is no path."""

    flag: str
    field: str
    help: str
    words: tuple[str, ...] | None = None


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
    """turn a folder of images and labels into a store that training reads"""
    from p2m_core.data.store import Store, build_store

    if "data.raw" in args.values and "data.store" not in args.values:
        # Samples of another folder must not go into the store that the config names.
        folder = Path(json.loads(args.values["data.raw"])).resolve()
        args.values["data.store"] = json.dumps(f"data/processed/{folder.name}")
    config = _config(args)
    if config.data.kind == "objects":
        raise InputError("config", "data.kind", "is objects, which are read as they are", "go on with p2m train")
    return Store(build_store(config)).summary()


def train(args: argparse.Namespace) -> Any:
    """train the network on a store, or go on with a stopped training"""
    from p2m_core.train import train

    return train(_config(args))


def evaluate(args: argparse.Namespace) -> Any:
    """measure weights: of faces beside the mean face's floor, of objects by chamfer distance and F1"""
    config = _config(args)
    if config.data.kind == "objects":
        from p2m_core.evaluate_objects import evaluate_objects

        return evaluate_objects(config)
    from p2m_core.evaluate import evaluate

    return evaluate(config)


def predict(args: argparse.Namespace) -> Any:
    """turn photos into meshes: OBJ, PLY, GLB, an overlay picture and an HTML view"""
    from p2m_core.predict import SAMPLE_PHOTO, predict_files

    if args.box and len(args.photos) > 1:
        raise InputError("--box", "", "given with several photos", "give one photo, or no box to have faces detected")
    settings, boxes = _config(args).predict, [_box(text) for text in args.box] or None
    photos = [path if str(path) == SAMPLE_PHOTO else path.absolute() for path in args.photos]
    specimens, problems = predict_files(photos, args.out, boxes, settings.weights, args.device, settings.flip)
    for specimen in specimens:
        print(f"{Path(args.out) / specimen.name}.obj .ply .glb .png .html .json")
    return 1 if problems else None


def run(args: argparse.Namespace) -> Any:
    """execute the notebooks in order into outputs/NAME/notebooks/"""
    from p2m_core.pipeline import NotebookError, run_notebooks

    parameters = {}
    for text in args.parameter:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError("--parameter", text, "is not of the form name=value", "for example -p detach=true")
        parameters[name.strip()] = parse_value(name, value)
    try:
        return run_notebooks(args.config, args.notebooks or None, parameters, args.timeout, overrides=args.set)
    except NotebookError as error:
        return _failed(error)


def convert(args: argparse.Namespace) -> Any:
    """turn weights of older ports, or of the official network, into weights of this project"""
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
    return report(PROJECT_ROOT) if args.path is None else check(args.path)


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
    evaluate: "p2m evaluate --weights bundled --data data/processed/faces",
    predict: "p2m predict photo.jpg --out meshes --box 120,80,310,290",
    run: "p2m run -c demo 04_inspect 05_predict",
    convert: "p2m convert old.pth new.safetensors --template ellipsoid.npz",
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
        Option("folder", "data.raw", "folder of images and labels", ()),
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
        Option("--weights", "evaluate.weights", "weights to measure", ("run", "bundled")),
        Option("--data", "evaluate.store", "store to measure on, data.store where null", ("null",)),
    ],
    predict: [Option("--weights", "predict.weights", "weights to predict with", ("bundled",))],
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
        if command not in (convert, doctor, demo):
            text = "name of a file in configs/, or a YAML file (default: the defaults in the code)"
            sub.add_argument("-c", "--config", metavar="NAME|FILE", help=text)
        if command is not doctor:
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
        if words is not None and values not in words:
            # A path on the command line counts from where the user is, one in a config from the project's root.
            values = str(Path(values).absolute())
        as_yaml = values if words is None or values == "null" else json.dumps(values)
        namespace.values = namespace.values | {self.option.field: as_yaml}


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
    if command is doctor:
        sub.add_argument(
            "path", nargs="?", type=Path, metavar="PATH", help="a set or face model (default: all of data/)"
        )
        text = "lists of images, or folders, to look for overlaps within and between (default: none)"
        sub.add_argument("--splits", nargs="+", type=Path, metavar="LIST", default=[], help=text)
        sub.add_argument("--images", type=Path, help="folder of the lists' images (default: that of each list)")
        sub.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    if command is convert:
        sub.add_argument("old", type=Path, metavar="OLD", help="a .pth, .pt, or a pickle of arrays (default: none)")
        sub.add_argument("new", type=Path, metavar="NEW", help="the .safetensors to write (default: none)")
        sub.add_argument("--template", type=Path, help=".npz, .dat, .obj it was trained on (default: none)")
        text = "go on although tensors are missing or unexpected (default: fail and list them)"
        sub.add_argument("--incomplete", action="store_true", help=text)
    if command is run:
        sub.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="e.g. 02_train (default: the config's)")
        text = "a notebook's parameter, as name=value or 02_train.name=value; repeatable (default: none)"
        sub.add_argument("-p", "--parameter", metavar="NAME=VALUE", action="append", default=[], help=text)
        sub.add_argument("--timeout", metavar="S", type=float, help="seconds a notebook may take (default: no limit)")


def _default(field: str) -> Any:
    value: Any = Config()
    for part in field.split("."):
        value = getattr(value, part)
    return value


def _config(args: argparse.Namespace) -> Config:
    """The config with --set and then the options laid over it."""
    return load_config(args.config, [*args.set, *(f"{field}={value}" for field, value in args.values.items())])


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
            print(f"{item.name:<16} {item.status:<8} {item.seconds:>7.1f} s", *item.written, sep="\n    ")
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

    Returns: exit status: 0 done, 1 a notebook failed, 2 bad input, 75 stopped by a cluster, 130 interrupted.
    """
    args = parser().parse_args(argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("p2m_core").setLevel(logging.INFO)
    try:
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
