"""The command `p2m`. Each command reads a config, lays its options over it, and calls one function of the library."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2m_core.config.loading import load_config, parse_value
from p2m_core.config.settings import Config
from p2m_core.errors import InputError, Preempted
from p2m_synth.signals import stop_on_sigterm, stop_with_parent
from p2m_workbench.cli_options import build_parser, settings_page

GOES_ON = ("train", "synth", "preprocess", "run", "sweep", "demo")  # where they were, when they are given again
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h, on which the scripts in slurm/ queue the job again


# ------------------------------------------------------------------------------------------------ commands


def synth(args: argparse.Namespace) -> Any:
    """write synthetic faces in the AFLW2000-3D format, or objects with a config of objects"""
    config = _config(args)
    if config.data.kind == "objects":
        from p2m_synth.objects.writer import write_objects

        return write_objects(config.synth.out, config.synth.count, seed=config.synth.seed, workers=config.synth.workers)
    from p2m_synth.writer import write_dataset

    return write_dataset(config.synth)


def preprocess(args: argparse.Namespace) -> Any:
    """turn a folder or zip of images and labels into a store that training reads"""
    with _not_collected():
        from p2m_workbench.preprocessing import preprocess

    named = "data.store" in args.values or any(text.startswith("data.store=") for text in args.set)
    if "data.raw" in args.values and not named:
        # Samples of another folder must not go into the store that the config names.
        folder = Path(json.loads(args.values["data.raw"][1])).resolve()
        name = folder.stem if folder.suffix.lower() == ".zip" else folder.name
        args.values["data.store"] = "FOLDER", json.dumps(f"data/processed/{name}")
    return preprocess(_config(args)).summary()


def train(args: argparse.Namespace) -> Any:
    """train the network on a store, or go on with a stopped training"""
    from p2m_workbench.training.trainer import train

    return train(_config(args))


def control(args: argparse.Namespace) -> Any:
    """say where a training stands, wherever it runs, and stop it, prolong it or lower its learning rate"""
    from p2m_workbench.runs.compare import find_run
    from p2m_workbench.training.requests import Request, send
    from p2m_workbench.training.status import read_status, status_line

    folder = find_run(args.run)
    if args.stop or args.epochs or args.minutes or args.scale_lr != 1:
        send(folder, Request(args.stop, args.epochs, args.minutes, args.scale_lr))
        print("asked; done after the current step, and noted in history.json")
    status = read_status(folder)
    if not status:
        raise InputError(folder, "", "has not trained yet", "start it with p2m train")
    return f"{folder.name} {status['state']}, {status['share']:.1%}: {status_line(status)}"


def evaluate(args: argparse.Namespace) -> Any:
    """measure weights, and other systems' predictions, of faces beside the mean face's floor; or weights of objects"""
    if args.run:
        from p2m_workbench.runs.compare import reproduce_run

        if args.config or args.set or args.values:
            raise InputError("--run", args.run, "has settings of its own", "give no other option with it")
        result = reproduce_run(args.run)
        print(result)
        return 1 if result.differing else None
    config = _config(args)
    if config.evaluate.protocol == "scan-to-mesh":
        from p2m_workbench.measuring.scans import evaluate_scans

        return evaluate_scans(config)
    if config.evaluate.protocol == "consistency":
        from p2m_workbench.measuring.people import evaluate_people

        return evaluate_people(config)
    if config.evaluate.protocol == "surface":
        from p2m_workbench.measuring.surfaces import evaluate_surfaces

        return evaluate_surfaces(config)
    if config.data.kind != "faces":
        from p2m_workbench.measuring.evaluate_objects import evaluate_objects

        return evaluate_objects(config)
    with _not_collected():
        from p2m_workbench.measuring.evaluate import evaluate

    return evaluate(config)


def predict(args: argparse.Namespace) -> Any:
    """turn photos and films into meshes, textured and with pictures, landmarks and an HTML view"""
    from p2m_core.config.settings import SAVED

    with _not_collected():
        from p2m_workbench.photos.batch import predict_files, summary, timing_table
        from p2m_workbench.photos.read import SAMPLE_PHOTO

    if args.box and len(args.photos) > 1:
        raise InputError("--box", "", "given with several photos", "give one photo, or no box to have faces detected")
    if args.save is not None:
        args.values["predict.save"] = "--save", json.dumps([kind.strip() for kind in args.save.split(",")])
    if args.all:
        args.values["predict.save"] = "--all", json.dumps(SAVED)
    if args.frame:
        args.values["predict.frame"] = "--frame", args.frame
    if args.video:
        args.values["predict.video"] = "--video", "true"
    settings, boxes = _config(args).predict, [_box(text) for text in args.box] or None
    photos = [path if str(path) == SAMPLE_PHOTO else path.absolute() for path in args.photos]
    result = predict_files(photos, args.out, boxes, settings, args.device, keep=False)
    faces = [row["name"] for row in result.rows if not row["problem"]]
    if 0 < len(faces) <= 20 and result.kinds - {"csv"}:
        print(*(f"{Path(args.out) / name}.*" for name in faces), sep="\n")
    if result.clips:
        print(*result.clips, sep="\n")
    print(summary(result, args.out))
    if args.timing:
        print(timing_table(result, settings.workers))
    return 1 if result.problems else None


def run(args: argparse.Namespace) -> Any:
    """execute the notebooks in order into outputs/NAME/notebooks/"""
    from p2m_workbench.runs.pipeline import NotebookError, run_notebooks

    parameters = _parameters(args)
    try:
        return run_notebooks(
            args.config, args.notebooks or None, parameters, args.timeout, overrides=args.set, fresh=args.fresh
        )
    except NotebookError as error:
        return _failed(error)


def sweep(args: argparse.Namespace) -> Any:
    """execute the notebooks for every combination of some settings, variants and seeds, into outputs/NAME-sweep/"""
    from p2m_workbench.runs.sweep import sweep

    if args.grid:
        grid = {}
        for text in args.grid:
            field, equals, values = text.partition("=")
            if not equals or not values:
                raise InputError("--grid", text, "is not of the form a.b=v1,v2", "for example train.lr=1e-4,3e-4")
            grid[field.strip()] = parse_value(field, f"[{values}]", "--grid")
        args.values = args.values | {"sweep.grid": ("--grid", json.dumps(grid))}
    result = sweep(_config(args), _parameters(args))
    print(result)
    return 1 if result.failed else None


def diff(args: argparse.Namespace) -> Any:
    """compare two runs: settings, code and data, and metrics"""
    from p2m_workbench.runs.compare import diff_runs

    difference = diff_runs(args.a, args.b)
    if args.out:
        difference.save(args.out)
    return difference


def convert(args: argparse.Namespace) -> Any:
    """turn weights of older ports or of the official network, or a face model, into files of this project"""
    if args.new.suffix == ".npz":
        from p2m_workbench.interop.face_models import convert_face_model

        if args.template or args.set or args.incomplete or args.options:
            raise InputError(args.new, "", "is a face model's name, which takes no options", "leave them away")
        return convert_face_model(args.old, args.new)
    from p2m_workbench.interop.convert import convert

    return convert(args.old, args.new, args.template, args.set, args.incomplete, args.options)


def doctor(args: argparse.Namespace) -> Any:
    """list the data that are there and that are missing, check a set, or find images that lists share"""
    from p2m_core.config.paths import project_root
    from p2m_workbench.doctor.check import Complaint, check
    from p2m_workbench.doctor.inventory import report

    if args.splits:
        from p2m_workbench.doctor.overlaps import find_overlaps, read_list

        overlaps = find_overlaps({str(path): read_list(path, args.images) for path in args.splits}, args.workers)
        print(*overlaps or ["no image is in two places"], sep="\n")
        return 1 if overlaps else None
    if args.path is None:
        return report(project_root())
    words = ("auto", "synthetic", "fit")
    lines = check(args.path, args.face_model if args.face_model in words else str(Path(args.face_model).absolute()))
    _show(lines)
    return 1 if any(isinstance(line, Complaint) for line in lines) else None


def demo(args: argparse.Namespace) -> Any:
    """the whole path in some minutes on two CPU cores, into outputs/demo/"""
    from p2m_workbench.runs.pipeline import NotebookError, run_notebooks

    try:
        return run_notebooks("demo", timeout_s=900, overrides=args.set)
    except NotebookError as error:
        return _failed(error)


def settings(args: argparse.Namespace) -> Any:
    """list all settings, or those of one section, with default and meaning"""
    return settings_page(args.section)


COMMANDS = (synth, preprocess, train, control, evaluate, predict, run, sweep, diff, convert, doctor, demo, settings)

# ------------------------------------------------------------------------------------------------ machinery


def _config(args: argparse.Namespace) -> Config:
    """The config with --set and then the options laid over it."""
    return load_config(args.config, args.set, args.values)


def _parameters(args: argparse.Namespace) -> dict[str, Any]:
    """The notebooks' parameters of -p."""
    parameters = {}
    for text in args.parameter:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError("--parameter", text, "is not of the form name=value", "for example -p detach=true")
        parameters[name.strip()] = parse_value(name, value, "--parameter")
    return parameters


def _box(text: str) -> tuple[float, ...]:
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError("--box", text, "is not four numbers", "give x0,y0,x1,y1 in pixels") from None
    if x0 >= x1 or y0 >= y1:
        raise InputError("--box", text, "has no area", "give x0,y0,x1,y1 with x0 < x1 and y0 < y1")
    return x0, y0, x1, y1


def _joined(argv: Sequence[str]) -> list[str]:
    """The arguments with "--box -4,9,40,65" as one: argparse takes what begins with - for an option."""
    joined: list[str] = []
    for text in argv:
        if joined and joined[-1] == "--box" and text.startswith("-"):
            joined[-1] = f"--box={text}"
        else:
            joined.append(text)
    return joined


def _failed(error: Exception) -> int:
    print(f"p2m: {error}", file=sys.stderr)
    return 1


@contextmanager
def _not_collected() -> Iterator[None]:
    """What is imported here stays: looking for garbage in it would take a fifth of a first photo's time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


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
    args = build_parser(COMMANDS).parse_args(_joined(sys.argv[1:] if argv is None else argv))
    logging.basicConfig(format="%(message)s")
    for package in ("p2m_core", "p2m_synth", "p2m_workbench"):
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        with stop_on_sigterm():
            stop_with_parent()
            result = args.command(args)
    except InputError as error:
        print(f"p2m: {error}", file=sys.stderr)
        return 2
    except Preempted as error:
        print(f"p2m: {error}", file=sys.stderr)
        return PREEMPTED
    except KeyboardInterrupt:
        how = "goes on from here" if args.command.__name__ in GOES_ON else "begins anew"
        print(f"\np2m: stopped; the same command {how}", file=sys.stderr)
        return 130
    if isinstance(result, int):
        return result
    _show(result)
    return 0
