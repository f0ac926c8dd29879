"""Makers of the networks of other libraries: small, and of parts that give tensors."""

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Part(nn.Module):
    """A network that is called in another way than by tensors alone, or of which one output is compared.

    call: of the network and the inputs.
    """

    def __init__(self, network: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self.call = call

    def forward(self, *inputs: Tensor) -> Any:
        return self.call(self.network, *inputs)


class Chain(nn.Module):
    """Encoder and decoder, without the quantiser between them, which is no continuous function."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            y = part(x)
            x = y if isinstance(y, Tensor) else y[0]
        return x


def _library(name: str) -> Any:
    return importlib.import_module(name)


def timm(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: _library("timm").create_model(name, pretrained=False, num_classes=4, **arguments)


def bit() -> nn.Module:
    from timm.layers import StdConv2d
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2([1, 1, 1, 1], (128, 128, 128, 128), num_classes=4, stem_type="fixed", conv_layer=StdConv2d)


def byobnet(block: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

        blocks = tuple(ByoBlockCfg(type=block, d=1, c=c, s=2, gs=0) for c in (8, 16))
        return ByobNet(ByoModelCfg(blocks=blocks, stem_type=block, stem_chs=8), num_classes=4)

    return make


def torchvision(name: str, path: str = "models", **arguments: Any) -> Callable[[], nn.Module]:
    weights = {} if path == "models" or path == "models.video" else {"weights_backbone": None}
    return lambda: getattr(_library(f"torchvision.{path}"), name)(**weights, **arguments)


def feature_pyramid() -> nn.Module:
    """RetinaNet without the selection of its boxes: heads that all levels share."""
    detection = _library("torchvision.models.detection")
    backbone = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        returned_layers=[2, 3, 4],
        extra_blocks=_library("torchvision.ops.feature_pyramid_network").LastLevelP6P7(256, 256),
    )
    network = detection.RetinaNet(backbone, num_classes=4)
    return Part(network, lambda net, x: net.head(list(net.backbone(x).values())))


def video() -> nn.Module:
    resnet = _library("torchvision.models.video.resnet")
    return resnet.VideoResNet(resnet.BasicBlock, [resnet.Conv2Plus1D] * 4, [1, 1, 1, 1], resnet.R2Plus1dStem)


def torchaudio(name: str, call: Callable[..., Any] | None = None, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        network = getattr(_library("torchaudio.models"), name)(**arguments)
        return Part(network, call) if call else network

    return make


def wav2vec2() -> nn.Module:
    layers = [(16, 10, 5), (16, 3, 2), (16, 3, 2), (16, 2, 2)]
    return _library("torchaudio.models").wav2vec2_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=layers,
        extractor_conv_bias=False,
        encoder_embed_dim=16,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=1,
        encoder_num_heads=2,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    )


def transformers(name: str, call: Callable[..., Any] | None = None, **arguments: Any) -> Callable[[], nn.Module]:
    """A model by its name without "Model", with a config of the same name."""

    def make() -> nn.Module:
        library = _library("transformers")
        stem = arguments.get("config", name)
        config = getattr(library, f"{stem}Config")(**{k: v for k, v in arguments.items() if k != "config"})
        network = getattr(library, name if "config" in arguments else f"{name}Model")(config)
        return Part(network, call) if call else network

    return make


CODEC: dict[str, Any] = {
    "num_filters": 8,
    "hidden_size": 8,
    "codebook_dim": 8,
    "codebook_size": 16,
    "upsampling_ratios": [4, 2],
    "num_residual_layers": 2,
}
ATTENTION = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 8}


def encodec() -> nn.Module:
    library = _library("transformers")
    codec = library.EncodecModel(library.EncodecConfig(**CODEC, num_lstm_layers=1))
    return Chain(codec.encoder, codec.decoder)


def mimi() -> nn.Module:
    library = _library("transformers")
    more = {"upsample_groups": 8, "vector_quantization_hidden_dimension": 8, "num_quantizers": 2, "frame_rate": 1500}
    config = library.MimiConfig(**CODEC, **ATTENTION, **more, num_hidden_layers=1, num_semantic_quantizers=1)
    codec = library.MimiModel(config)
    return Chain(codec.encoder, codec.decoder)


def dac() -> nn.Module:
    library = _library("transformers")
    codec = library.DacModel(
        library.DacConfig(encoder_hidden_size=8, decoder_hidden_size=32, downsampling_ratios=[2, 4], hidden_size=32)
    )
    codec.apply_weight_norm()
    return Chain(codec.encoder, codec.decoder)


def hifi_gan() -> nn.Module:
    """HiFi-GAN, in torch's older weight norm."""
    library = _library("transformers")
    network = library.SpeechT5HifiGan(
        library.SpeechT5HifiGanConfig(
            model_in_dim=8, upsample_initial_channel=16, upsample_rates=[4, 2], upsample_kernel_sizes=[8, 4]
        )
    )
    network.apply_weight_norm()
    return network


def smp(name: str, encoder: str = "resnet18", **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        library = _library("segmentation_models_pytorch")
        return getattr(library, name)(encoder, encoder_weights=None, classes=2, **arguments)

    return make


def diffusers(name: str, call: Callable[..., Any] | None = None, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        network = getattr(_library("diffusers"), name)(**arguments)
        return Part(network, call) if call else network

    return make


def at_time(network: nn.Module, x: Tensor) -> Any:
    return network(x, 3)


def causal_in_time(name: str, conv: nn.Module) -> Any:
    """Of (time, height, width); some convs have no axis of time."""
    return ("last", "centre", "centre") if isinstance(conv, nn.Conv3d) else None


def wan() -> nn.Module:
    """The causal video autoencoder of Wan, by all frames at once."""
    codec = _library("diffusers").AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False]
    )
    return Chain(codec.encoder, codec.quant_conv, Part(codec.decoder, lambda decoder, x: decoder(x[:, :4])))


def monai(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(_library("monai.networks.nets"), name)(**arguments)
