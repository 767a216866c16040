"""A small residual network for small images."""

from __future__ import annotations

from typing import Any

from rung import nn
from rung.models.resnet import BasicBlock, conv, make_stage
from rung.nn import functional as f
from rung.tensor.tensor import Tensor


class ConvNet(nn.Module):
    """x[N, in_channels, H, W] -> logits [N, num_classes]: a 3×3 convolution, a residual block of
    `width` channels, one of twice as many at half the size, the mean over the image, and a linear
    map. 43,762 parameters for digits."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10, width: int = 24) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = make_stage(BasicBlock, width, width, depth=1, stride=1)
        self.layer2 = make_stage(BasicBlock, width, 2 * width, depth=1, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x: Any) -> Tensor:
        x = f.relu(self.bn1(self.conv1(x)))
        x = self.layer2(self.layer1(x))
        return self.fc(self.avgpool(x).flatten(1))  # type: ignore[no-any-return]
