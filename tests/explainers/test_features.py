"""Feature maps of any network in one pass: which layers have places, what they give, and what is refused."""

import pytest
import torch
from networks import Small, in_threads, small, small_swin, small_vit, watch
from torch import nn
from torchvision import models

import lficam
from lficam.errors import InputError
from lficam.explainers.features import Layer, choose_layers, spatial_layers, suggest, tap


def layers_of(network, size=32):
    return spatial_layers(network.eval(), torch.rand(1, 3, size, size))[0]


def chosen(network, names, size=32):
    return choose_layers(layers_of(network, size), names)


def named(layers):
    return [layer.name for layer in layers]


def test_layers_with_places_in_the_order_in_which_they_answer():
    layers, logits = spatial_layers(small().eval(), torch.rand(2, 3, 32, 32))
    assert named(layers) == [f"{s}{part}" for s in ("first", "second", "third") for part in (".0", ".1", ".2", "")]
    assert logits.shape == (2, 5)
    last = layers[-1]
    assert (last.kind, last.channels, last.height, last.width) == ("maps", 10, 4, 4)
    assert str(last).split() == ["third", "10", "x", "4", "x", "4"]
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert named(layers_of(network)) == ["0"]  # without layers of one pixel and vectors


@torch.no_grad()
def test_tokens_and_channels_last_become_maps():
    layers = {layer.name: layer for layer in layers_of(small_vit())}
    norm = layers["encoder.layers.encoder_layer_1.ln_1"]
    assert (norm.kind, norm.channels, norm.height, norm.width, norm.extra) == ("tokens", 8, 4, 4, 1)
    assert "tokens" in str(norm)
    network, images = small_swin().eval(), torch.rand(2, 3, 32, 32)
    (layer,) = chosen(network, ["features.1"])
    assert (layer.kind, layer.channels, layer.height) == ("channels-last", 12, 8)
    (maps,), logits = tap(network, images, [layer])
    with watch(network.features[1]) as outputs:
        torch.testing.assert_close(network(images), logits)
    assert maps.shape == (2, 12, 8, 8)
    assert torch.equal(maps[1, 3, 2, 6], outputs[0][1, 2, 6, 3])


@torch.no_grad()
def test_tokens_lie_row_by_row_behind_the_class_token():
    tokens = torch.rand(2, 17, 8)
    layer = Layer("ln", "tokens", 8, 4, 4, extra=1)
    maps = layer.maps(tokens)
    assert maps.shape == (2, 8, 4, 4)
    assert torch.equal(maps[1, 5, 2, 3], tokens[1, 1 + 2 * 4 + 3, 5])
    torch.testing.assert_close(layer.maps(tokens, multiply=True)[1, 5, 2, 3], tokens[1, 12, 5] * tokens[1, 0, 5])


@torch.no_grad()
def test_a_later_layer_that_writes_in_place_does_not_reach_the_maps():
    network, images = small().eval(), torch.rand(2, 3, 32, 32)
    layers = {layer.name: layer for layer in layers_of(network)}
    assert layers["first.1"].reused  # by the activation
    assert not layers["third.1"].reused  # whose activation does not write in place
    assert not layers["first.0"].reused
    found, _ = tap(network, images, chosen(network, ["first.1", "second.2"]))
    before = network.first[1](network.first[0](images))
    assert before.min() < 0
    torch.testing.assert_close(found[0], before)
    torch.testing.assert_close(found[1], network.second(network.first(images)))


@torch.no_grad()
def test_nothing_behind_the_last_layer_is_computed():
    network = small().eval()
    with watch(network.third) as third, watch(network.fc) as fc:
        found, logits = tap(network, torch.rand(1, 3, 32, 32), chosen(network, ["first", "second"]), stop=True)
        assert len(found) == 2
        assert logits is None
        assert len(third) == 1  # by listing the layers
        assert len(fc) == 1


@torch.no_grad()
@pytest.mark.parametrize("build", [small, small_swin])
def test_maps_can_be_changed_on_their_way(build):
    network, images = build().eval(), torch.rand(2, 3, 32, 32)
    names = ["first", "second"] if build is small else ["features.1", "features.2"]
    layers = chosen(network, names)
    seen = []

    def change(maps):
        seen.extend(m.shape for m in maps)
        return maps[-1] * 0

    _, changed = tap(network, images, layers, change=change)
    _, of_zeros = tap(network, images * 0.5, layers, change=change)
    torch.testing.assert_close(changed, of_zeros)  # nothing of the images is left
    assert not torch.allclose(changed, network(images))
    _, same = tap(network, images, layers, change=lambda maps: maps[-1])
    torch.testing.assert_close(same, network(images))
    assert seen[:2] == [(2, layer.channels, layer.height, layer.width) for layer in layers]


# Choosing


def test_layers_are_found_by_name():
    assert named(chosen(small(), ["third", "first"])) == ["first", "third"]  # in the order of the network
    names = ["encoder.layers.encoder_layer_1.ln", "encoder.layers.encoder_layer_2.ln"]  # as torchvision writes them
    assert named(chosen(small_vit(), names)) == [f"{name}_1" for name in names]


class Twice(nn.Module):
    """A classifier that applies one activation after two convolutions."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.activation = nn.ReLU()

    def forward(self, x):
        return self.activation(self.two(self.activation(self.one(x)))).mean((2, 3))


def test_wrong_layers_are_one_sentence():
    with pytest.raises(InputError, match="near ones are first, second, third"):
        chosen(Small(), ["xyz"])
    with pytest.raises(InputError, match="Layer 'activation' is called 2 times in one pass: choose one called on"):
        chosen(Twice(), ["activation"])
    assert named(suggest(layers_of(Twice()), 3)) == ["two"]


# Suggestions


def defaults(name, count):
    with torch.device("meta"):  # shapes alone
        network = models.get_model(name, weights=None).eval()
        return suggest(spatial_layers(network, torch.zeros(1, 3, 224, 224))[0], count)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "convnext_tiny", "swin_t", "densenet121"])
def test_of_other_networks_the_last_three_resolutions(name):
    layers = defaults(name, 3)
    assert [(layer.height, layer.width) for layer in layers] == [(28, 28), (14, 14), (7, 7)]


def test_a_map_of_one_channel_is_never_suggested():
    network = lficam.create("lfi-cam", "resnet-8", 10)
    layers, _ = spatial_layers(network.eval(), torch.zeros(1, 3, 32, 32))
    assert "attention" in [layer.name for layer in layers if layer.channels == 1]
    assert named(suggest(layers, 1)) == ["backbone.stages.2"]


def test_a_network_that_has_some_names_of_vgg_is_none():
    """Its last layer is features.30, as VGG-16's, but there is no pooling, or not where VGG-16 has it."""
    small = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
    for parts in ({"28": small, "30": nn.Conv2d(4, 4, 3)}, {str(i): nn.Conv2d(3, 3, 1) for i in range(31)}):
        network = nn.Sequential()
        network.features = nn.Sequential()
        for name, part in parts.items():
            network.features.add_module(name, part)
        network.pool, network.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        layers = layers_of(network)
        assert named(suggest(layers, 1)) == ["features"]
        assert named(suggest(layers, 3))[-1] == "features"


def test_layers_are_the_same_in_inference_mode():
    network = small().eval()
    expected = layers_of(network)
    with torch.inference_mode():
        assert layers_of(network) == expected
    network.forward = torch.inference_mode()(network.forward)
    assert named(layers_of(network)) == named(expected)
    assert all(layer.reused for layer in layers_of(network))  # nobody knows


@torch.no_grad()
def test_passes_of_other_threads_are_not_seen():
    network, images = small().eval(), torch.rand(2, 3, 32, 32)
    layers = chosen(network, ["first", "third"])
    calls = [
        lambda: tap(network, images, layers)[0][0],
        lambda: tap(network, images * 0.5, layers[1:])[0][0],
        lambda: tap(network, images * 0.5, layers[:1], stop=True)[0][0],
        lambda: tap(network, images, layers, change=lambda maps: maps[-1] * 0)[1],
        lambda: network(images),
        lambda: torch.tensor([layer.calls for layer in layers_of(network)]),
    ]
    assert in_threads(calls, rounds=20)
    for call in (lambda x: tap(network, x, layers), lambda x: spatial_layers(network, x)):
        with pytest.raises(RuntimeError):
            call(torch.rand(1, 4, 32, 32))
    assert not any(part._forward_hooks for part in network.modules())
