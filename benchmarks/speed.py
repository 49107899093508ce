"""How fast are training and prediction on this machine? (For synthesis see synthesis.py.)

    python benchmarks/speed.py [--tiny]

Prints training samples/s of face-lite with bf16, against fp32 as the baseline; ms a photo with
flip averaging, against one pass as the baseline. Medians after warm-up; nothing else should run.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import numpy as np
import torch

from p2m_core.config import load_config
from p2m_core.faces.registration import face_template
from p2m_core.losses import MeshLoss
from p2m_core.model import Pixel2Mesh
from p2m_core.predict import predict_crops
from p2m_core.synthetic.face_model import load_head_model


def median_s(function: Callable[[], object], rounds: int) -> float:
    """Median time of a call, after one to warm up."""
    function()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tiny", action="store_true", help="one round of next to nothing, for the tests")
    tiny = options.parse_args().tiny
    rounds, batch = (1, 2) if tiny else (10, 32)
    cores = torch.get_num_threads()
    print(f"{platform.machine()}, {cores} threads, torch {torch.__version__}")

    config = load_config("face-lite")
    template, _ = face_template(load_head_model().face_model(), config.template.rings, config.template.levels)
    model = Pixel2Mesh(config.model, template).to(memory_format=torch.channels_last)
    loss, side = MeshLoss(config.loss, template), config.model.input_px
    images = torch.rand(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    truth = model(images).levels[-1].detach() + 0.01

    def step(bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            prediction = model(images)
        loss(prediction, truth)[0].backward()

    fp32, bf16 = (median_s(lambda on=on: step(on), rounds) for on in (False, True))
    print(f"training step, batch {batch}: {batch / bf16:.0f} samples/s with bf16, {fp32 / bf16:.2f} times fp32")

    model.eval()
    crop = np.zeros((1, side, side, 3), np.uint8)
    once, flipped = (median_s(lambda on=on: predict_crops(model, crop, on), rounds) for on in (False, True))
    print(f"one photo: {1000 * flipped:.0f} ms with flip averaging, {flipped / once:.2f} times one pass")


if __name__ == "__main__":
    main()
