"""Our HRNet equals the published one in sizes, names and shapes, and it can be trained."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from precompute.teacher.hrnet import HRNETS, HRNet, HRNetConfig, build_hrnet, heatmap_size


def on_meta(name, joints=17):
    with torch.device("meta"):
        return build_hrnet(name, joints)


@pytest.mark.parametrize(("name", "millions"), [("hrnet_w32", 28.54), ("hrnet_w48", 63.60)])
def test_sizes_are_those_of_the_published_networks(name, millions):
    assert sum(p.numel() for p in on_meta(name).parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_the_work_is_that_of_the_published_network():
    """7.1 G multiply-additions in the paper's count, 7.645 G in torch's of every convolution."""
    with FlopCounterMode(display=False) as counter:
        assert on_meta("hrnet_w32")(torch.empty(1, 3, 256, 192, device="meta")).shape == (1, 17, 64, 48)
    assert counter.get_total_flops() / 2e9 == pytest.approx(7.645, abs=0.001)


def test_weights_have_the_official_names():
    shapes = {name: tuple(t.shape) for name, t in on_meta("hrnet_w32").state_dict().items()}
    assert len(shapes) == 1754
    official = {
        "conv1.weight": (64, 3, 3, 3),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.3.conv3.weight": (256, 64, 1, 1),
        "transition1.0.0.weight": (32, 256, 3, 3),
        "transition1.1.0.0.weight": (64, 256, 3, 3),
        "stage2.0.fuse_layers.1.0.0.0.weight": (64, 32, 3, 3),
        "transition2.2.0.0.weight": (128, 64, 3, 3),
        "stage3.3.fuse_layers.2.0.1.0.weight": (128, 32, 3, 3),
        "stage3.3.fuse_layers.0.2.0.weight": (32, 128, 1, 1),
        "stage4.2.branches.3.3.bn2.running_var": (256,),
        "final_layer.weight": (17, 32, 1, 1),
        "final_layer.bias": (17,),
    }
    assert official.items() <= shapes.items()
    assert {name.split(".")[0] for name in shapes} == {
        *("conv1", "bn1", "conv2", "bn2", "layer1", "transition1", "stage2", "transition2", "stage3"),
        *("transition3", "stage4", "final_layer"),
    }


def test_the_last_stage_computes_only_the_finest_branch():
    last = on_meta("hrnet_w32").stage4[-1]
    assert len(last.branches) == 4
    assert len(last.fuse_layers) == 1


def test_every_new_branch_comes_from_the_one_before_it():
    """Also if the stem has the width of the first branch, and nothing has to be converted."""
    model = HRNet(HRNetConfig(widths=(8, 16, 32, 64), blocks=1, stage1_blocks=1, stage1_planes=2, stem=8))
    assert not list(model.transition1[0].parameters())
    assert model(torch.zeros(1, 3, 64, 32)).shape == (1, 17, 16, 8)


@pytest.mark.parametrize("name", sorted(HRNETS.keys() - {"hrnet_w32", "hrnet_w48"}))
def test_maps_are_a_quarter_of_the_input_on_both_axes(name):
    assert on_meta(name, joints=5)(torch.empty(2, 3, 96, 160, device="meta")).shape == (2, 5, 24, 40)


def test_the_sample_network_is_small():
    assert sum(p.numel() for p in on_meta("hrnet_w16_sample").parameters()) == 1_251_201


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    model = build_hrnet("hrnet_w16_sample").train()
    (model(torch.randn(2, 3, 64, 96)) - torch.rand(2, 17, 16, 24)).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_a_fresh_network_puts_out_almost_nothing():
    """The official initialisation has a standard deviation of 0.001, so that training starts at an empty heatmap."""
    torch.manual_seed(0)
    model = build_hrnet("hrnet_w16_sample").train()
    assert model(torch.randn(2, 3, 64, 96)).abs().max() < 0.1


@pytest.mark.parametrize("size", [(200, 256), (192, 250), (0, 64)])
def test_sides_that_are_no_multiples_of_32_are_refused(size):
    with pytest.raises(ValueError, match=rf"multiples of 32, got {size[1]}x{size[0]} \(height x width\)"):
        heatmap_size(size)


def test_the_network_itself_refuses_such_an_input():
    with pytest.raises(ValueError, match="multiples of 32, got 64x40"):
        build_hrnet("hrnet_w16_sample")(torch.zeros(1, 3, 64, 40))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown HRNet 'hrnet_w33'; available: hrnet_w32, hrnet_w48"):
        build_hrnet("hrnet_w33")


def test_a_fused_head_takes_all_branches_at_the_finest_resolution():
    """HRNetV2: the branches are resampled bilinearly, as pixel centres of areas, and one convolution mixes them."""
    torch.manual_seed(0)
    model = HRNet(HRNetConfig(widths=(2, 3, 4, 5), blocks=1, modules=(1, 1, 1), fused=True), 21).eval()
    assert model.conv_layers[0].weight.shape == (14, 14, 1, 1)
    assert [len(module.fuse_layers) for module in model.stage4] == [4]
    branches = {}
    model.stage4.register_forward_hook(lambda module, inputs, output: branches.update(enumerate(output)))
    mixed = {}
    model.conv_layers.register_forward_pre_hook(lambda module, inputs: mixed.update(all=inputs[0]))
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 64, 96)).shape == (1, 21, 16, 24)
    torch.testing.assert_close(mixed["all"][:, :2], branches[0])
    rows = (torch.arange(16) + 0.5) / 2 - 0.5  # of the second branch, 8 rows
    below = rows.floor().long().clamp(0, 7), (rows.floor().long() + 1).clamp(0, 7)
    part = (rows - rows.floor()).view(-1, 1)
    columns = torch.nn.functional.interpolate(branches[1], (8, 24), mode="bilinear")
    expected = columns[:, :, below[0]] * (1 - part) + columns[:, :, below[1]] * part
    torch.testing.assert_close(mixed["all"][:, 2:5], expected)
