"""How fast are training and prediction with face-lite on this machine? (For synthesis see synthesis.py.)

    python benchmarks/speed.py [--tiny]

Prints training samples/s of whole steps (forward, loss, backward, clipping, optimiser, moving average) with bf16,
against fp32 as the baseline; the same with vertices, landmarks and all of Pixel2Mesh's terms, chamfer against 2000
points, against face-lite's own terms as the baseline, and the share of chamfer; ms a photo on all cores and on one,
with and without flip averaging, in bf16 against fp32 as the baseline; and with ONNX Runtime, against torch; frames a
second as a video, and as single photos. Medians after warm-up; nothing else should run.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from p2m_core.config.loading import load_config
from p2m_core.config.settings import LossConfig, ModelConfig, PredictConfig
from p2m_core.data.aflw2000 import read_image
from p2m_core.geometry.crop import face_size
from p2m_core.geometry.template import Template
from p2m_core.inference import open_network, predict_crops
from p2m_core.morphable.registration import face_template
from p2m_core.network.losses import MeshLoss
from p2m_core.network.model import Pixel2Mesh
from p2m_core.targets import Truth
from p2m_synth.head.head_model import load_head_model
from p2m_workbench.photos.batch import predict_files, timing_table
from p2m_workbench.photos.predict import predict
from p2m_workbench.photos.read import sample_photo

BATCH = 32


def median_s(function: Callable[[], object], rounds: int) -> float:
    """Median time of a call, after two to warm up."""
    function(), function()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def training_step(
    config: ModelConfig, loss_config: LossConfig, template: Template, bf16: bool, batch: int
) -> Callable[[], None]:
    """A whole step on one random batch, as a function."""
    torch.manual_seed(0)
    model = Pixel2Mesh(config, template).to(memory_format=torch.channels_last)
    loss, optimizer = MeshLoss(loss_config, template), torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    images = torch.rand(batch, 3, config.input_px, config.input_px)
    truth = Truth(model(images).levels[-1].detach() + 0.01)
    average = [x.detach().clone() for x in model.parameters()]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            prediction = model(images)
        optimizer.zero_grad(set_to_none=True)
        loss(prediction, truth)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(model.parameters()), 0.002)

    return step


def training(rounds: int, batch: int) -> None:
    config = load_config("face-lite")
    template, _ = face_template(
        load_head_model().face_model(), config.template.kind, config.template.rings, config.template.levels
    )
    every = {"chamfer": 1.0, "chamfer_levels": (0.0, 0.0, 0.0, 1.0), "points": 2000, "normal": 1e-3, "edge": 0.1}
    every |= {"laplace": 0.2, "move": 0.03, "shape": 0.0, "correspondence": 0.0}
    losses = {
        "own": config.loss,
        "every": config.loss.model_copy(update=every),
        "without chamfer": config.loss.model_copy(update=every | {"chamfer": 0.0}),
    }
    fp32, bf16, full, rest = (
        median_s(training_step(config.model, losses[name], template, low, batch), rounds)
        for name, low in (("own", False), ("own", True), ("every", True), ("without chamfer", True))
    )
    print(f"training, batch {batch}: {batch / bf16:.0f} samples/s with bf16, {fp32 / bf16:.2f} times fp32")
    print(
        f"training with Pixel2Mesh's terms: {batch / full:.0f} samples/s, {bf16 / full:.2f} times face-lite's own; "
        f"chamfer takes {100 * max(0, full - rest) / full:.0f}%"
    )


def prediction(rounds: int, tiny: bool) -> None:
    networks = {precision: open_network("bundled", "cpu", precision) for precision in ("fp32", "bf16")}
    side = networks["fp32"].config.input_px
    crop, image = np.zeros((1, side, side, 3), np.uint8), torch.rand(1, 3, side, side)

    def time_s(precision: str, flip: bool) -> float:
        return median_s(lambda: predict_crops(networks[precision], crop, flip), rounds)

    for cores in (torch.get_num_threads(), 1):
        torch.set_num_threads(cores)
        once, flipped, low_once, low = (time_s(p, flip) for p in networks for flip in (False, True))
        print(
            f"one photo, {cores} core(s): {1000 * once:.1f} ms, with flip averaging {1000 * flipped:.1f} ms; "
            f"bf16 {1000 * low_once:.1f} and {1000 * low:.1f} ms: {once / low_once:.2f} and {flipped / low:.2f} times "
            "the speed of fp32"
        )
    photo = read_image(sample_photo())
    [full], [low] = (predict(photo, precision=precision) for precision in networks)
    moved = np.linalg.norm(low.vertices_px - full.vertices_px, axis=1).mean() / face_size(full.landmarks_px)
    print(f"bf16 moves a vertex of {sample_photo().name} by {100 * moved:.2f}% of the face size")
    with torch.inference_mode():
        single = median_s(lambda: networks["fp32"](image), rounds)
    if not tiny:
        print(f"ONNX Runtime on one core: {onnx_latency(image, rounds, single)}")


def frames(count: int) -> None:
    """The sample photo moved and turned, 450 px, as a video and as single photos."""
    photo = read_image(sample_photo())
    with tempfile.TemporaryDirectory() as folder:
        for k in range(count):
            matrix = cv2.getRotationMatrix2D((256, 300), 8 * np.sin(k / 15), 0.75 + 0.1 * np.sin(k / 9))
            matrix[:, 2] += [6 * np.sin(k / 7) - 40, 4 * np.cos(k / 5) - 60]
            frame = cv2.warpAffine(photo, matrix, (450, 450), borderMode=cv2.BORDER_REFLECT)
            cv2.imwrite(f"{folder}/{k:03d}.jpg", frame[..., ::-1])
        for name, way in (("video", {"video": True}), ("single photos", {"workers": 2})):
            settings = PredictConfig(save=("glb", "csv"), **way)
            result = predict_files([folder], f"{folder}/{name}", settings=settings, keep=False)
            print(f"{count} frames as {name}:\n{timing_table(result, settings.workers)}")


def onnx_latency(image: torch.Tensor, rounds: int, baseline_s: float) -> str:
    """The exported network's time, if the packages are there."""
    try:
        import onnxruntime

        from p2m_workbench.interop.onnx_export import export_onnx
    except ImportError as error:
        return f"not measured, {error}"
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx("bundled", Path(folder) / "face-lite.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options)
    own = median_s(lambda: session.run(None, {"images": image.numpy()}), rounds)
    return f"{1000 * own:.1f} ms, {baseline_s / own:.2f} times torch"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tiny", action="store_true", help="one round of next to nothing, for the tests")
    tiny = options.parse_args().tiny
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    training(1 if tiny else 10, 2 if tiny else BATCH)
    frames(2 if tiny else 96)
    prediction(1 if tiny else 30, tiny)


if __name__ == "__main__":
    main()
