"""MS-TCN's layer and stage as published, of torch's own modules, for one video or several of the same length."""

from torch import nn
from torch.nn import functional as F


class PlainLayer(nn.Module):
    def __init__(self, maps, dilation, dropout=0.0):
        super().__init__()
        self.dilated = nn.Conv1d(maps, maps, 3, padding=dilation, dilation=dilation)
        self.pointwise = nn.Conv1d(maps, maps, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return x + self.dropout(self.pointwise(F.relu(self.dilated(x))))


class PlainStage(nn.Module):
    def __init__(self, channels, maps, classes, layers):
        super().__init__()
        self.enter = nn.Conv1d(channels, maps, 1)
        self.layers = nn.ModuleList(layers)
        self.classify = nn.Conv1d(maps, classes, 1)

    def forward(self, x):
        x = self.enter(x)
        for layer in self.layers:
            x = layer(x)
        return self.classify(x)
