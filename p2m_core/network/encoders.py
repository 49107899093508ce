"""Image encoders that give four feature maps, shallow to deep, and the decoder that draws the image from them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGGFACE2_MEAN_BGR = (91.4953, 103.8827, 131.0912)  # of 255


class Encoder(nn.Module):
    """Base of the encoders. `channels`: of the four maps that `forward` returns for images (B, 3, H, W)."""

    channels: tuple[int, int, int, int]


class Residual(nn.Module):
    """A block of a ResNet: two 3x3 convolutions, or, if it is deep, a 3x3 one between two of 1x1."""

    def __init__(self, inputs: int, width: int, stride: int, deep: bool):
        super().__init__()
        outputs = 4 * width if deep else width
        first = [(inputs, width, 1, 1)] if deep else []
        last = (width, outputs, 1, 1) if deep else (width, width, 3, 1)
        sizes = [*first, (width if deep else inputs, width, 3, stride), last]
        for k, (channels, out, kernel, step) in enumerate(sizes, 1):
            self.add_module(f"conv{k}", nn.Conv2d(channels, out, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{k}", nn.BatchNorm2d(out))
        self.count, same = len(sizes), stride == 1 and inputs == outputs
        shortcut = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.downsample: nn.Module | None = None if same else nn.Sequential(*shortcut)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ _ _"]:
        out = x
        for k in range(1, self.count + 1):
            out = getattr(self, f"bn{k}")(getattr(self, f"conv{k}")(out if k == 1 else F.relu_(out)))
        return F.relu_(out + (self.downsample(x) if self.downsample else x))


class ResNet(Encoder):
    """ResNet18 or 50 without its classifier: maps at 1/4, 1/8, 1/16, 1/32 of the input.

    Tensor names are torchvision's, whose import would cost each command a second.   Source: He et al., CVPR 2016.
    """

    def __init__(self, name: str):
        super().__init__()
        deep, inputs = name == "resnet50", 64
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        for k, count in enumerate((3, 4, 6, 3) if deep else (2, 2, 2, 2)):
            width, blocks = 64 << k, []
            for block in range(count):
                blocks.append(Residual(inputs, width, 2 if k and not block else 1, deep))
                inputs = 4 * width if deep else width
            self.add_module(f"layer{k + 1}", nn.Sequential(*blocks))
        for weights in (parameter for parameter in self.parameters() if parameter.ndim == 4):
            nn.init.kaiming_normal_(weights, mode="fan_out", nonlinearity="relu")
        self.channels = (inputs // 8, inputs // 4, inputs // 2, inputs)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        maps = [F.max_pool2d(F.relu_(self.bn1(self.conv1(x))), 3, 2, 1)]
        for k in (1, 2, 3, 4):
            maps.append(self.get_submodule(f"layer{k}")(maps[-1]))
        return maps[1:]


def fold_batch_norms(encoder: nn.Module) -> None:
    """Merge each batch norm into the convolution before it, in place: the same maps in evaluation mode, faster."""
    for module in list(encoder.modules()):
        children = dict(module.named_children())
        if isinstance(module, nn.Sequential) and [type(child) for child in module] == [nn.Conv2d, nn.BatchNorm2d]:
            pairs = {"0": "1"}  # the shortcut of a block
        else:
            pairs = {name: name.replace("conv", "bn") for name in children if name.startswith("conv")}
        for convolution, norm in pairs.items():
            first, second = children.get(convolution), children.get(norm)
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, convolution, fuse_conv_bn_eval(first, second))
                setattr(module, norm, nn.Identity())


class VGG16(Encoder):
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

    def __init__(self, tensorflow_aligned: bool = False):
        super().__init__()
        self.tensorflow_aligned = tensorflow_aligned
        for name, (c_in, c_out, kernel, stride) in self.CONVOLUTIONS.items():
            # TensorFlow pads an even size on one side more where the stride is 2; see forward.
            padding = 0 if tensorflow_aligned and stride == 2 else kernel // 2
            convolution = nn.Conv2d(c_in, c_out, kernel, stride, padding)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            setattr(self, name, convolution)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        maps = []
        for name, (_, _, kernel, stride) in self.CONVOLUTIONS.items():
            if self.tensorflow_aligned and stride == 2:
                x = F.pad(x, (kernel // 2 - 1, kernel // 2) * 2)
            x = F.relu(getattr(self, name)(x), inplace=True)
            if name in self.TAPS:
                maps.append(x)
        return maps


class Decoder(nn.Module):
    """The image from the four maps of the VGG16, for the reconstruction loss.   Source: Pixel2Mesh's official code."""

    # name: (channels in, channels out, kernel, padding), all with stride 2
    CONVOLUTIONS = {
        "conv_1": (512, 256, 2, 0), "conv_2": (512, 128, 4, 1), "conv_3": (256, 64, 4, 1), "conv_4": (128, 32, 6, 2),
        "conv_5": (32, 3, 6, 2),
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        for name, (c_in, c_out, kernel, padding) in self.CONVOLUTIONS.items():
            setattr(self, name, nn.ConvTranspose2d(c_in, c_out, kernel, 2, padding))

    def forward(self, maps: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b 3 h w"]:
        x = maps[3]
        for k, name in enumerate(self.CONVOLUTIONS):
            x = F.relu(getattr(self, name)(x if k in (0, 4) else torch.cat([x, maps[3 - k]], 1)))
        return torch.sigmoid(x)


class Normalise(nn.Module):
    """RGB in [0, 1] to what a backbone was trained on, see ModelConfig.normalisation; "vggface2" is BGR of 255."""

    mean: Tensor
    std: Tensor

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        mean, std = list(IMAGENET_MEAN), list(IMAGENET_STD)
        if kind == "vggface2":
            mean, std = [value / 255 for value in reversed(VGGFACE2_MEAN_BGR)], [1 / 255] * 3
        if kind == "imagenet_of_255":
            mean, std = ([value / 255 for value in values] for values in (mean, std))
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        if self.kind == "none":
            return images
        images = (images - self.mean) / self.std
        return images.flip(1) if self.kind == "vggface2" else images


def build_backbone(name: str, tensorflow_aligned: bool = False) -> Encoder:
    """The encoder `name`: resnet18, resnet50 or vgg16."""
    return VGG16(tensorflow_aligned) if name == "vgg16" else ResNet(name)
