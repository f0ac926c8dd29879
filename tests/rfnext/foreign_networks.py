"""Networks of other libraries, small and of random weights, on which the library's promises are tried.

Without its library, a network raises ModuleNotFoundError when it is made. timm, torchvision and torchaudio are
installed here; the others need `pip install transformers segmentation-models-pytorch diffusers monai`.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Foreign(NamedTuple):
    """A network of another library.

    make: gives it. sizes: of its inputs. anchor: of its convs. refused: what the error says of a network that no search
    takes. slow: its test is. hidden: searched convs that its forward() does not call.
    """

    make: Callable[[], nn.Module]
    sizes: tuple[tuple[int, ...], ...]
    anchor: Any = None
    refused: str = ""
    slow: bool = False
    example: bool = False

    def network(self, seed: int = 0) -> nn.Module:
        """A network in float64 and eval mode, whose parameters and statistics are all random."""
        torch.manual_seed(seed)
        model = self.make().double().eval()
        randomise(model)
        return model

    def inputs(self) -> list[Tensor]:
        """Random tensors, always the same."""
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(size, dtype=torch.float64, generator=generator) for size in self.sizes]


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Move what is constant: norms, layer scales, statistics, branches that start at zero."""
    for parameter in model.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            parameter += 0.2 * torch.randn_like(parameter)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.1 * torch.randn_like(buffer)
        if name.endswith("running_var"):
            buffer += 0.3 * torch.rand_like(buffer)


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


IMAGES = ((2, 3, 64, 64),)
STREAM = ((2, 1, 512),)
MADE_OF_STANDARDISED = "StdConv2d overrides forward(), and its own computation would be lost"


def timm(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: _library("timm").create_model(name, pretrained=False, num_classes=4, **arguments)


def bit() -> nn.Module:
    from timm.layers import StdConv2d
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2([1, 1, 1, 1], (128, 128, 128, 128), num_classes=4, stem_type="fixed", conv_layer=StdConv2d)


def byobnet(block: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from timm.models.byobnet import ByobNet, ByoBlockCfg, ByoModelCfg

        blocks = tuple(ByoBlockCfg(type=block, d=1, c=c, s=2, gs=0) for c in (8, 16))
        return ByobNet(ByoModelCfg(blocks=blocks, stem_type=block, stem_chs=8), num_classes=4)

    return make


def torchvision(name: str, path: str = "models", **arguments: Any) -> Callable[[], nn.Module]:
    weights = {} if path == "models" or path == "models.video" else {"weights_backbone": None}
    return lambda: getattr(_library(f"torchvision.{path}"), name)(**weights, **arguments)


def feature_pyramid() -> nn.Module:
    """RetinaNet without the selection of its boxes: heads that all levels share."""
    network = _library("torchvision.models.detection").retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=4
    )
    return Part(network, lambda net, x: net.head(list(net.backbone(x).values())))


def torchaudio(name: str, call: Callable[..., Any] | None = None, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        network = getattr(_library("torchaudio.models"), name)(**arguments)
        return Part(network, call) if call else network

    return make


def wav2vec2() -> nn.Module:
    layers = [(16, 10, 5), (16, 3, 2), (16, 3, 2), (16, 2, 2)]
    return _library("torchaudio.models").wav2vec2_model(
        extractor_mode="group_norm", extractor_conv_layer_config=layers, extractor_conv_bias=False,
        encoder_embed_dim=16, encoder_projection_dropout=0.0, encoder_pos_conv_kernel=16, encoder_pos_conv_groups=4,
        encoder_num_layers=1, encoder_num_heads=2, encoder_attention_dropout=0.0, encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.0, encoder_dropout=0.0, encoder_layer_norm_first=False, encoder_layer_drop=0.0,
        aux_num_out=None,
    )  # fmt: skip


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


def vits_decoder() -> nn.Module:
    """HiFi-GAN of the VITS, in torch's older weight norm."""
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


UNET = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}

NETWORKS: dict[str, Foreign] = {
    "timm/resnet18": Foreign(timm("resnet18"), IMAGES),
    "timm/convnext_atto": Foreign(timm("convnext_atto"), IMAGES, slow=True),
    "timm/test_convnext": Foreign(timm("test_convnext"), IMAGES),
    "timm/mobilenetv3_small_050": Foreign(timm("mobilenetv3_small_050"), IMAGES, slow=True),
    "timm/res2net50_14w_8s": Foreign(timm("res2net50_14w_8s"), IMAGES, slow=True),
    "timm/resnest14d": Foreign(timm("resnest14d"), IMAGES, slow=True),
    "timm/test_byobnet": Foreign(timm("test_byobnet"), IMAGES),
    "timm/ByobNet of RepVGG's blocks (tied)": Foreign(byobnet("rep"), IMAGES),
    "timm/ByobNet of MobileOne's blocks (tied)": Foreign(byobnet("one"), IMAGES),
    "timm/repvgg_a0": Foreign(timm("repvgg_a0"), IMAGES, slow=True),
    "timm/mobileone_s0": Foreign(timm("mobileone_s0"), IMAGES, slow=True),
    "timm/repvit_m0_9": Foreign(timm("repvit_m0_9"), IMAGES, slow=True),
    "timm/fastvit_t8": Foreign(timm("fastvit_t8"), IMAGES, slow=True),
    "timm/hrnet_w18_small": Foreign(timm("hrnet_w18_small"), IMAGES, slow=True),
    "timm/ghostnet_100": Foreign(timm("ghostnet_100"), IMAGES, slow=True),
    "timm/inception_next_atto": Foreign(timm("inception_next_atto"), IMAGES, slow=True),
    "timm/pvt_v2_b0": Foreign(timm("pvt_v2_b0"), IMAGES, slow=True),
    "timm/edgenext_xx_small": Foreign(timm("edgenext_xx_small"), IMAGES, slow=True),
    "timm/test_coatnet": Foreign(timm("test_coatnet", img_size=64), IMAGES),
    "timm/test_nfnet (ScaledStdConv2d)": Foreign(timm("test_nfnet"), IMAGES, refused="x"),
    "timm/resnetv2 (StdConv2d)": Foreign(bit, IMAGES, refused=MADE_OF_STANDARDISED),
    "timm/tf_mobilenetv3_small_minimal_100 (Conv2dSame)": Foreign(timm("tf_mobilenetv3_small_minimal_100"), IMAGES),
    "timm/tf_efficientnet_lite0 (Conv2dSame)": Foreign(timm("tf_efficientnet_lite0"), IMAGES, slow=True),
    "torchvision/mobilenet_v3_small": Foreign(torchvision("mobilenet_v3_small"), IMAGES, slow=True),
    "torchvision/shufflenet_v2_x0_5": Foreign(torchvision("shufflenet_v2_x0_5"), IMAGES),
    "torchvision/squeezenet1_1": Foreign(torchvision("squeezenet1_1"), IMAGES),
    "torchvision/densenet": Foreign(
        torchvision("DenseNet", growth_rate=8, block_config=(2, 2), num_init_features=8), IMAGES
    ),
    "torchvision/regnet_y_400mf": Foreign(torchvision("regnet_y_400mf"), IMAGES, slow=True),
    "torchvision/googlenet": Foreign(torchvision("googlenet", init_weights=True), IMAGES, slow=True),
    "torchvision/deeplabv3_mobilenet_v3_large": Foreign(
        torchvision("deeplabv3_mobilenet_v3_large", "models.segmentation"), IMAGES, slow=True
    ),
    "torchvision/lraspp_mobilenet_v3_large": Foreign(
        torchvision("lraspp_mobilenet_v3_large", "models.segmentation"), IMAGES, slow=True
    ),
    "torchvision/retinanet (shared heads)": Foreign(feature_pyramid, IMAGES, slow=True),
    "torchvision/r2plus1d_18": Foreign(torchvision("r2plus1d_18", "models.video"), ((2, 3, 4, 32, 32),), slow=True),
    "torchaudio/ConvTasNet": Foreign(
        torchaudio("ConvTasNet", enc_num_feats=16, msk_num_feats=8, msk_num_hidden_feats=16), ((2, 1, 512),)
    ),
    "torchaudio/WaveRNN": Foreign(
        torchaudio(
            "WaveRNN", upsample_scales=[2, 2, 2], n_classes=8, hop_length=8, n_res_block=2, n_rnn=8, n_fc=8, n_freq=8,
            n_hidden=8, n_output=8,
        ),
        ((2, 1, 64), (2, 1, 8, 12)),
    ),  # fmt: skip
    "torchaudio/Conformer": Foreign(
        torchaudio(
            "Conformer", lambda net, x: net(x, torch.tensor([24, 24]))[0], input_dim=8, num_heads=2, ffn_dim=16,
            num_layers=2, depthwise_conv_kernel_size=7,
        ),
        ((2, 24, 8),),
    ),  # fmt: skip
    "torchaudio/Wav2Letter": Foreign(
        torchaudio("Wav2Letter", num_classes=8, input_type="mfcc", num_features=8), ((2, 8, 64),)
    ),
    "torchaudio/wav2vec2": Foreign(wav2vec2, ((2, 2000),)),
    "torchaudio/HDemucs": Foreign(
        torchaudio("HDemucs", sources=["a", "b"], channels=8, nfft=256, depth=4), ((1, 2, 8192),), slow=True
    ),
    "transformers/EnCodec": Foreign(encodec, STREAM, "last", slow=True, example=True),
    "transformers/Mimi": Foreign(mimi, STREAM, "last", slow=True, example=True),
    "transformers/DAC (weight norm)": Foreign(dac, STREAM, slow=True),
    "transformers/HiFi-GAN (older weight norm)": Foreign(vits_decoder, ((2, 24, 8),), slow=True),
    "transformers/ConvNextV2": Foreign(
        transformers("ConvNextV2", hidden_sizes=[8, 16], depths=[2, 2], num_stages=2), IMAGES, slow=True
    ),
    "transformers/MobileNetV2 (TensorFlow's padding)": Foreign(
        transformers("MobileNetV2", depth_multiplier=0.35), IMAGES, slow=True
    ),
    "transformers/SegFormer": Foreign(
        transformers("Segformer", hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2]),
        IMAGES,
        slow=True,
    ),
    "transformers/Mamba": Foreign(
        transformers(
            "Mamba", lambda net, x: net(inputs_embeds=x), vocab_size=8, hidden_size=8, num_hidden_layers=2, state_size=4
        ),
        ((2, 24, 8),),
        "last",
        slow=True,
    ),
    "transformers/Whisper (encoder)": Foreign(
        transformers(
            "Whisper", lambda net, x: net.get_encoder()(x), d_model=8, encoder_layers=1, encoder_attention_heads=2,
            decoder_layers=1, decoder_attention_heads=2, num_mel_bins=8, max_source_positions=24, vocab_size=16,
            encoder_ffn_dim=8, decoder_ffn_dim=8, pad_token_id=0, bos_token_id=0, eos_token_id=0,
            decoder_start_token_id=0,
        ),
        ((2, 8, 48),),
        slow=True,
    ),  # fmt: skip
    "segmentation-models-pytorch/Unet": Foreign(smp("Unet"), IMAGES, slow=True),
    "segmentation-models-pytorch/DeepLabV3Plus": Foreign(smp("DeepLabV3Plus", "mobilenet_v2"), IMAGES, slow=True),
    "segmentation-models-pytorch/FPN": Foreign(smp("FPN", "timm-regnetx_002"), IMAGES, slow=True),
    "segmentation-models-pytorch/MAnet": Foreign(smp("MAnet"), IMAGES, slow=True),
    "diffusers/UNet2DModel": Foreign(
        diffusers(
            "UNet2DModel", at_time, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ),
        ((2, 3, 16, 16),),
        slow=True,
    ),  # fmt: skip
    "diffusers/UNet1DModel": Foreign(
        diffusers("UNet1DModel", at_time, extra_in_channels=64), ((2, 2, 64),), slow=True
    ),
    "diffusers/AutoencoderKL": Foreign(
        diffusers(
            "AutoencoderKL", lambda net, x: net.decode(net.encode(x).latent_dist.mean), block_out_channels=(8, 16),
            norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        ((2, 3, 32, 32),),
        slow=True,
    ),  # fmt: skip
    "diffusers/AutoencoderKLWan (causal video)": Foreign(
        wan, ((1, 3, 5, 16, 16),), causal_in_time, slow=True
    ),
    "monai/UNet": Foreign(
        monai("UNet", **UNET, channels=(4, 8, 16), strides=(2, 2), num_res_units=2), ((2, 1, 16, 16, 16),), slow=True
    ),
    "monai/SegResNet": Foreign(monai("SegResNet", **UNET), ((2, 1, 16, 16, 16),), slow=True),
    "monai/DynUNet": Foreign(
        monai("DynUNet", **UNET, kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2], filters=[4, 8, 8]),
        ((2, 1, 16, 16, 16),),
        slow=True,
    ),
}
