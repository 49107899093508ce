"""Learning rate schedule and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from p2m_core.config.settings import TrainConfig

COSINE_END = 0.01  # of the learning rate, where the cosine ends


def learning_rate(settings: TrainConfig, step: int, progress: float) -> float:
    """The learning rate of a step: train.lr, multiplied by the warm-up's factor and by the schedule's.

    Args: step: counted from 0, for the warm-up.   progress: share of the run that is done, for the schedule.
    """
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    if settings.schedule == "cosine":
        half = (1 - COSINE_END) / 2
        return settings.lr * warm * (COSINE_END + half + half * math.cos(math.pi * progress))
    drops = sum(progress >= share for share in settings.milestones) if settings.schedule == "step" else 0
    return settings.lr * warm * settings.lr_drop**drops


class WeightAverage:
    """Exponential moving average of all a network's weights and buffers; integers are copied.

    tensors: by the names of the network's state dict.   decay: share of the old average that a step keeps.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after a step (counted from 0)."""
        # A smaller decay at first, or the random initial weights would stay in the average for long.
        decay = min(self.decay, (1 + step) / (10 + step))
        own = model.state_dict()
        floats = [name for name, tensor in own.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.tensors[n] for n in floats], [own[n] for n in floats], 1 - decay)
        for name in own.keys() - set(floats):
            self.tensors[name].copy_(own[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The network with the averaged weights, in evaluation mode; afterwards its own weights again."""
        own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        modes = {module: module.training for module in model.modules()}
        model.load_state_dict(self.tensors)
        model.eval()
        try:
            yield
        finally:  # also after an error, or a checkpoint would hold the average
            model.load_state_dict(own)
            for module, training in modes.items():
                module.training = training
