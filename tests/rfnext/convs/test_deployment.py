"""Blocks that become one conv for deployment: right on a network with a structure, an error on one that is searched."""

import copy
import logging
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import rfnext
from rfnext import Bounds, LocalConfig, LocalSearch, Structure
from rfnext.structure import named_convs

timm = pytest.importorskip("timm")

NETWORKS = ["repvgg_a0", "mobileone_s0", "fastvit_t8", "repvit_m0_9", "repghostnet_050"]


def create(name: str) -> nn.Module:
    """With norms and scales as after a training: the initial ones hide some of the branches."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        if isinstance(gamma := getattr(module, "gamma", None), nn.Parameter):
            gamma.data.uniform_(0.5, 1.5)
    return model.eval()


def searched(name: str) -> LocalSearch:
    search = LocalSearch(create(name), LocalConfig(bounds=Bounds(1, 3)))
    generator = torch.Generator().manual_seed(1)
    for weight in search.branch_weights():
        weight.data += 0.03 * torch.randn(weight.shape, generator=generator)
    search.after_step()
    return search


def reparameterized(model: nn.Module) -> nn.Module:
    return timm.utils.reparameterize_model(model).eval()


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max())


def images() -> Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_found_structure_deploys_and_a_searched_network_does_not(name: str) -> None:
    search, x = searched(name), images()
    before = copy.deepcopy(search.model.state_dict())
    with pytest.raises(ValueError, match=r"would drop the branches of its layer '.*structure\(\)\.apply"):
        reparameterized(search.model)
    assert before.keys() == search.model.state_dict().keys()

    structure, fresh = search.structure(), create(name)
    structure.apply(search.model)
    structure.apply(fresh)
    fresh.load_state_dict(search.model.state_dict())
    dilations = {conv.dilation for conv in named_convs(fresh).values()}
    assert dilations != {(1, 1)}
    with torch.no_grad():
        expected = search.model(x)
        for model in (search.model, fresh, copy.deepcopy(fresh)):
            deployed = reparameterized(model)
            assert len(list(deployed.modules())) < len(list(model.modules()))
            assert difference(expected, deployed(x)) < 1e-4


def test_kernels_that_no_longer_coincide_are_an_error_that_names_the_block() -> None:
    model, x = create("mobileone_s0"), images()
    Structure({"stages.1.0.conv_kxk.1.conv": 2}).apply(model)
    expected = model(x)
    with pytest.raises(ValueError, match=r"reparameterize\(\) of block 'stages\.1\.0' would change .*tie="):
        reparameterized(model)
    assert torch.equal(model(x), expected)
    with pytest.raises(ValueError, match=r"'stages\.1\.0' would change"):
        timm.utils.reparameterize_model(model, inplace=True)


class Yolo(nn.Module):
    """A whole network with a fuse() of its own, which makes conv and norm one, as those of the YOLO family do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.norm(self.conv(x))]

    def fuse(self) -> "Yolo":
        conv = self.conv
        fused = nn.Conv2d(3, 4, conv.kernel_size, conv.stride, conv.padding, conv.dilation)  # type: ignore[arg-type]
        scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()  # type: ignore[operator]
        fused.weight.data = conv.weight.data * scale.data[:, None, None, None]
        fused.bias.data = (self.norm.bias - self.norm.running_mean * scale).data  # type: ignore[union-attr]
        self.conv, self.norm = fused, nn.Identity()  # type: ignore[assignment]
        return self


def test_a_network_that_fuses_itself(caplog: pytest.LogCaptureFixture) -> None:
    model = Yolo().eval()
    search = LocalSearch(model, LocalConfig())
    with pytest.raises(ValueError, match=r"fuse\(\) of the Yolo would drop the branches of its layer 'conv'"):
        model.fuse()
    search.structure().apply(model)
    Structure({"conv": 3}).apply(model)
    x = images()
    (expected,) = model(x)
    with caplog.at_level(logging.WARNING):
        (fused,) = model.fuse()(x)
    assert "is not checked: its output is a list" in caplog.text
    torch.testing.assert_close(fused, expected, rtol=1e-4, atol=1e-5)
    assert rfnext.Structure.read(model) == Structure({"conv": (3, 3)})


class Pyramid(nn.Module):
    """Its fuse() joins features in forward(), and has nothing to do with deployment."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(self.conv(x), 2)

    def fuse(self, x: Tensor = torch.zeros(()), factor: int = 1) -> Tensor:  # noqa: B008
        return factor * x


def test_methods_that_join_features_go_on_working() -> None:
    model, x = Pyramid(), images()
    search = LocalSearch(model, LocalConfig())
    torch.testing.assert_close(model(x), 2 * model.conv(x))
    search.structure().apply(model)
    torch.testing.assert_close(model(x), 2 * model.conv(x))


def test_torch_fuses_a_searched_conv_and_its_norm() -> None:
    """It copies the conv and changes its weight, so the branches stay."""
    model, x = Yolo().eval(), images()
    model.norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    search = LocalSearch(model, LocalConfig())
    search.convs["conv"].branch_weight.data[0] = 0.02
    (expected,) = model(x)
    norm = cast(nn.BatchNorm2d, model.norm)
    torch.testing.assert_close(fuse_conv_bn_eval(model.conv, norm)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # all of it is deprecated
@pytest.mark.parametrize("how", ["searched", "branches kept", "accelerated"])
def test_quantisation_does_not_leave_layers_in_floats(how: str) -> None:
    from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    if how == "accelerated":
        assert rfnext.accelerate(model) == ["0"]
    else:
        structure = LocalSearch(model, LocalConfig()).structure()
    if how == "branches kept":
        structure.apply(model)
        rfnext.keep_branches(model, structure, LocalConfig())
    model.qconfig = get_default_qat_qconfig("fbgemm")  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"leave this layer in floats.*Conv2d\(3, 4.*first"):
        prepare_qat(model)
    assert not hasattr(model[0], "qconfig")
    if how == "accelerated":
        rfnext.decelerate(model)
    else:
        structure.apply(model)
    assert hasattr(prepare_qat(model)[0], "weight_fake_quant")
