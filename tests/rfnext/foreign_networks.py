"""Networks of other libraries, small and of random weights, on which the library's promises are tried.

Without its library, a network raises ModuleNotFoundError when it is made. timm, torchvision and torchaudio are
installed here; the others need `pip install transformers segmentation-models-pytorch diffusers monai`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.rfnext.foreign_makers import (
    at_time,
    bit,
    byobnet,
    causal_in_time,
    dac,
    diffusers,
    encodec,
    feature_pyramid,
    hifi_gan,
    mimi,
    monai,
    smp,
    timm,
    torchaudio,
    torchvision,
    transformers,
    video,
    wan,
    wav2vec2,
)


class Foreign(NamedTuple):
    """A network of another library.

    make: gives it. sizes: of its inputs. anchor: of its convs. refused: what the error says of a network that no search
    takes. slow: its test is. apart: a smaller network here has all its kinds of convs, so only the script that writes
    the page tries it.
    """

    make: Callable[[], nn.Module]
    sizes: tuple[tuple[int, ...], ...]
    anchor: Any = None
    refused: str = ""
    slow: bool = False
    apart: bool = False

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


def library_of(name: str) -> str:
    """The library that a network of NETWORKS is of."""
    return name.partition("/")[0]


IMAGES = ((2, 3, 64, 64),)
STREAM = ((2, 1, 512),)
UNET = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}

NETWORKS: dict[str, Foreign] = {
    "timm/resnet18": Foreign(timm("resnet18"), IMAGES, apart=True),
    "timm/test_resnet": Foreign(timm("test_resnet"), IMAGES),
    "timm/convnext_atto": Foreign(timm("convnext_atto"), IMAGES, apart=True),
    "timm/test_convnext": Foreign(timm("test_convnext"), IMAGES),
    "timm/mobilenetv3_small_050": Foreign(timm("mobilenetv3_small_050"), IMAGES, slow=True),
    "timm/res2net50_14w_8s, a block per stage": Foreign(
        timm("res2net50_14w_8s", layers=(1, 1, 1, 1)), IMAGES, slow=True
    ),
    "timm/resnest14d": Foreign(timm("resnest14d"), IMAGES, slow=True),
    "timm/test_byobnet": Foreign(timm("test_byobnet"), IMAGES),
    "timm/ByobNet of RepVGG's blocks (tied)": Foreign(byobnet("rep"), IMAGES),
    "timm/ByobNet of MobileOne's blocks (tied)": Foreign(byobnet("one"), IMAGES),
    "timm/repvgg_a0": Foreign(timm("repvgg_a0"), IMAGES, apart=True),
    "timm/mobileone_s0": Foreign(timm("mobileone_s0"), IMAGES, apart=True),
    "timm/repvit_m0_9": Foreign(timm("repvit_m0_9"), IMAGES, slow=True),
    "timm/fastvit_t8": Foreign(timm("fastvit_t8"), IMAGES, slow=True),
    "timm/hrnet_w18_small": Foreign(timm("hrnet_w18_small"), IMAGES, slow=True),
    "timm/ghostnet_100": Foreign(timm("ghostnet_100"), IMAGES, slow=True),
    "timm/inception_next_atto": Foreign(timm("inception_next_atto"), IMAGES, slow=True),
    "timm/pvt_v2_b0": Foreign(timm("pvt_v2_b0"), IMAGES, slow=True),
    "timm/edgenext_xx_small": Foreign(timm("edgenext_xx_small"), IMAGES, slow=True),
    "timm/test_coatnet": Foreign(timm("test_coatnet", img_size=64), IMAGES),
    "timm/test_nfnet (ScaledStdConv2d)": Foreign(timm("test_nfnet"), IMAGES, slow=True),
    "timm/resnetv2 (StdConv2d)": Foreign(bit, IMAGES),
    "timm/tf_mobilenetv3_small_minimal_100 (Conv2dSame)": Foreign(timm("tf_mobilenetv3_small_minimal_100"), IMAGES),
    "timm/tf_efficientnet_lite0 (Conv2dSame)": Foreign(timm("tf_efficientnet_lite0"), IMAGES, apart=True),
    "torchvision/mobilenet_v3_small": Foreign(torchvision("mobilenet_v3_small"), IMAGES, slow=True),
    "torchvision/shufflenet_v2_x0_5": Foreign(torchvision("shufflenet_v2_x0_5"), IMAGES),
    "torchvision/squeezenet1_1": Foreign(torchvision("squeezenet1_1"), IMAGES),
    "torchvision/densenet": Foreign(
        torchvision("DenseNet", growth_rate=8, block_config=(2, 2), num_init_features=8), IMAGES
    ),
    "torchvision/regnet_y_400mf": Foreign(torchvision("regnet_y_400mf"), IMAGES, slow=True),
    "torchvision/googlenet": Foreign(torchvision("googlenet", init_weights=True), IMAGES, slow=True),
    "torchvision/lraspp_mobilenet_v3_large": Foreign(
        torchvision("lraspp_mobilenet_v3_large", "models.segmentation"), IMAGES, slow=True
    ),
    "torchvision/retinanet on resnet18 (shared heads)": Foreign(feature_pyramid, IMAGES, slow=True),
    "torchvision/r2plus1d, a block per stage": Foreign(video, ((2, 3, 4, 32, 32),), slow=True),
    "torchaudio/ConvTasNet": Foreign(
        torchaudio("ConvTasNet", enc_num_feats=16, msk_num_feats=8, msk_num_hidden_feats=16), ((2, 1, 512),)
    ),
    "torchaudio/WaveRNN": Foreign(
        torchaudio(
            "WaveRNN",
            upsample_scales=[2, 2, 2],
            n_classes=8,
            hop_length=8,
            n_res_block=2,
            n_rnn=8,
            n_fc=8,
            n_freq=8,
            n_hidden=8,
            n_output=8,
        ),
        ((2, 1, 64), (2, 1, 8, 12)),
    ),
    "torchaudio/Conformer": Foreign(
        torchaudio(
            "Conformer",
            lambda net, x: net(x, torch.tensor([24, 24]))[0],
            input_dim=8,
            num_heads=2,
            ffn_dim=16,
            num_layers=2,
            depthwise_conv_kernel_size=7,
        ),
        ((2, 24, 8),),
    ),
    "torchaudio/Wav2Letter": Foreign(
        torchaudio("Wav2Letter", num_classes=8, input_type="mfcc", num_features=8), ((2, 8, 64),), slow=True
    ),
    "torchaudio/wav2vec2": Foreign(wav2vec2, ((2, 2000),)),
    "torchaudio/HDemucs": Foreign(
        torchaudio("HDemucs", sources=["a", "b"], channels=8, nfft=256, depth=4), ((1, 2, 8192),), slow=True
    ),
    "transformers/EnCodec": Foreign(encodec, STREAM, "last", slow=True),
    "transformers/Mimi": Foreign(mimi, STREAM, "last", slow=True),
    "transformers/DAC (weight norm)": Foreign(dac, STREAM, slow=True),
    "transformers/HiFi-GAN (older weight norm)": Foreign(hifi_gan, ((2, 24, 8),), slow=True),
    "transformers/ConvNextV2": Foreign(
        transformers("ConvNextV2", hidden_sizes=[8, 16], depths=[2, 2], num_stages=2), IMAGES, slow=True
    ),
    "transformers/MobileNetV2 (TensorFlow's padding)": Foreign(
        transformers("MobileNetV2", depth_multiplier=0.35),
        IMAGES,
        refused="conv_stem.first_conv.convolution: the module around it pads or crops by its dilation",
        slow=True,
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
            "Whisper",
            lambda net, x: net.get_encoder()(x),
            d_model=8,
            encoder_layers=1,
            encoder_attention_heads=2,
            decoder_layers=1,
            decoder_attention_heads=2,
            num_mel_bins=8,
            max_source_positions=24,
            vocab_size=16,
            encoder_ffn_dim=8,
            decoder_ffn_dim=8,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=0,
        ),
        ((2, 8, 48),),
        slow=True,
    ),
    "segmentation-models-pytorch/Unet": Foreign(smp("Unet"), IMAGES, slow=True),
    "segmentation-models-pytorch/DeepLabV3Plus": Foreign(smp("DeepLabV3Plus", "mobilenet_v2"), IMAGES, slow=True),
    "segmentation-models-pytorch/FPN": Foreign(smp("FPN", "timm-regnetx_002"), IMAGES, slow=True),
    "segmentation-models-pytorch/MAnet": Foreign(smp("MAnet"), IMAGES, slow=True),
    "diffusers/UNet2DModel": Foreign(
        diffusers(
            "UNet2DModel",
            at_time,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ),
        ((2, 3, 16, 16),),
        slow=True,
    ),
    "diffusers/UNet1DModel": Foreign(diffusers("UNet1DModel", at_time, extra_in_channels=64), ((2, 2, 64),), slow=True),
    "diffusers/AutoencoderKL": Foreign(
        diffusers(
            "AutoencoderKL",
            lambda net, x: net.decode(net.encode(x).latent_dist.mean),
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        ((2, 3, 32, 32),),
        slow=True,
    ),
    "diffusers/AutoencoderKLWan (causal video)": Foreign(wan, ((1, 3, 5, 16, 16),), causal_in_time, slow=True),
    "monai/UNet": Foreign(
        monai("UNet", **UNET, channels=(4, 8, 16), strides=(2, 2), num_res_units=2), ((2, 1, 16, 16, 16),), slow=True
    ),
    "monai/SegResNet": Foreign(monai("SegResNet", **UNET), ((2, 1, 16, 16, 16),), slow=True),
    "monai/DynUNet": Foreign(
        monai(
            "DynUNet", **UNET, kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2], filters=[4, 8, 8]
        ),
        ((2, 1, 16, 16, 16),),
        slow=True,
    ),
}
