"""Image encoders that give four feature maps, shallow to deep."""

from __future__ import annotations

import logging

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_log = logging.getLogger(__name__)


class ResNet(nn.Module):
    """torchvision's ResNet18 or 50 without its classifier: maps at 1/4, 1/8, 1/16, 1/32 of the input."""

    def __init__(self, name: str, pretrained: bool):
        super().__init__()
        net = getattr(torchvision.models, name)(weights=None)
        if pretrained:
            load_imagenet(net, name)
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            setattr(self, part, getattr(net, part))
        width = 64 if name == "resnet18" else 256
        self.channels = (width, 2 * width, 4 * width, 8 * width)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps


class VGG16(nn.Module):
    """The paper's VGG16: strides in the first convolution of a stage, 5x5 in the last two; maps at 1/4 to 1/32.

    Source: Pixel2Mesh's official code; tensor names as in its PyTorch port.
    """

    # name: (channels in, channels out, kernel, stride)
    CONVOLUTIONS = {
        "conv0_1": (3, 16, 3, 1), "conv0_2": (16, 16, 3, 1),
        "conv1_1": (16, 32, 3, 2), "conv1_2": (32, 32, 3, 1), "conv1_3": (32, 32, 3, 1),
        "conv2_1": (32, 64, 3, 2), "conv2_2": (64, 64, 3, 1), "conv2_3": (64, 64, 3, 1),
        "conv3_1": (64, 128, 3, 2), "conv3_2": (128, 128, 3, 1), "conv3_3": (128, 128, 3, 1),
        "conv4_1": (128, 256, 5, 2), "conv4_2": (256, 256, 3, 1), "conv4_3": (256, 256, 3, 1),
        "conv5_1": (256, 512, 5, 2), "conv5_2": (512, 512, 3, 1), "conv5_3": (512, 512, 3, 1),
        "conv5_4": (512, 512, 3, 1),
    }  # fmt: skip
    TAPS = ("conv2_3", "conv3_3", "conv4_3", "conv5_4")
    channels = (64, 128, 256, 512)

    def __init__(self):
        super().__init__()
        for name, (c_in, c_out, kernel, stride) in self.CONVOLUTIONS.items():
            convolution = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            setattr(self, name, convolution)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for name in self.CONVOLUTIONS:
            x = F.relu(getattr(self, name)(x))
            if name in self.TAPS:
                maps.append(x)
        return maps


def load_imagenet(net: nn.Module, name: str) -> None:
    """ImageNet weights through torchvision; where the net is out of reach, random ones and a clear warning."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        net.load_state_dict(weights.get_state_dict(progress=False))
    except OSError as error:
        _log.warning(
            "no ImageNet weights for %s (%s): it starts from random ones; set model.pretrained=false", name, error
        )


def build_backbone(name: str, pretrained: bool) -> nn.Module:
    """The encoder `name` (resnet18, resnet50 or vgg16), with an attribute `channels` of its four maps."""
    return VGG16() if name == "vgg16" else ResNet(name, pretrained)
