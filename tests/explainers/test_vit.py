"""Rollout, LeGrad and Chefer et al.: the authors' outputs, what they share, whose attention is seen."""

import math

import pytest
import torch
import torch.nn.functional as F
from networks import golden_outputs, in_threads, small, small_swin, small_vit
from torch import nn
from torchvision.models import VisionTransformer

import lficam
from lficam.errors import InputError
from lficam.explainers.frozen import freeze
from lficam.lab.explore import session
from lficam.maps import minmax, upsample

METHODS = ("rollout", "legrad", "chefer")
PIXELS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """As timm writes it."""

    def __init__(self, channels, fused):
        super().__init__()
        self.fused_attn, self.qkv, self.proj = fused, nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.attn_drop = nn.Dropout(0.0)

    def forward(self, x):
        query, key, value = self.qkv(x).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        if self.fused_attn:
            x = F.scaled_dot_product_attention(query, key, value)
        else:
            x = self.attn_drop((query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)) @ value
        return self.proj(x.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, channels, fused):
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(channels), Attention(channels, fused), nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 16), nn.GELU(), nn.Linear(16, channels))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ByBlocks(nn.Module):
    """A vision transformer of such blocks, with the weights of torchvision's; or that takes the mean of its tokens."""

    def __init__(self, fused=False, mean=False, like=None):
        super().__init__()
        like = like or small_vit()
        self.first, self.mean, channels = like, mean, like.hidden_dim
        self.blocks = nn.Sequential(*(Block(channels, fused) for _ in like.encoder.layers))
        self.norm, self.head = like.encoder.ln, like.heads
        for mine, theirs in zip(self.blocks, like.encoder.layers, strict=True):
            mine.norm1, mine.norm2, mine.mlp = theirs.ln_1, theirs.ln_2, theirs.mlp
            mine.attn.qkv.weight, mine.attn.qkv.bias = (
                getattr(theirs.self_attention, f"in_proj_{n}") for n in ("weight", "bias")
            )
            mine.attn.proj = theirs.self_attention.out_proj
        like.encoder.layers, like.encoder.ln, like.heads = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x):
        x = self.first._process_input(x)
        if not self.mean:
            x = torch.cat([self.first.class_token.expand(len(x), -1, -1), x], 1)
        x = x + self.first.encoder.pos_embedding[:, -x.shape[1] :]
        x = self.norm(self.blocks(x))
        return self.head(x.mean(1) if self.mean else x[:, 0])


@pytest.fixture(scope="module")
def golden():
    content = golden_outputs("vit_tiny")
    network = VisionTransformer(**content["config"])
    network.load_state_dict(content["state"])
    return content, freeze(network, mean=0.5, std=0.5, size=32), content["image_uint8"].float() / 255


def test_rollout_equals_the_authors(golden):
    content, classifier, images = golden
    wanted = content["rollout"]
    maps = {n: lficam.baseline(classifier, "rollout", blocks=n)(images) for n in (None, 1)}
    torch.testing.assert_close(maps[None], wanted["map"], atol=1e-6, rtol=0)
    torch.testing.assert_close(maps[1].flatten(1), wanted["joint_start_layer1"][:, 0, 1:], atol=1e-6, rtol=0)
    for name, other in content["vit_explain_rollout"].items():
        heads, discard = name.split("_discard")
        options = {"protocol": "vit-explain", "heads": heads, "discard": float(discard)}
        found = lficam.baseline(classifier, "rollout", **options)(images)
        torch.testing.assert_close(found / found.amax((1, 2), keepdim=True), other, atol=1e-5, rtol=0)


def test_chefer_equals_the_authors(golden):
    content, classifier, images = golden
    explainer = lficam.baseline(classifier, "chefer")
    torch.testing.assert_close(explainer(images), content["chefer_predicted"]["map"], atol=1e-6, rtol=0)


def test_legrad_equals_torchcam_and_the_released_order(golden):
    content, classifier, images = golden
    wanted = content["legrad_predicted"]
    maps = {n: lficam.baseline(classifier, "legrad", blocks=n)(images) for n in (None, 1)}
    for n, name in ((None, "both"), (1, "last")):
        torch.testing.assert_close(maps[n], wanted["torchcam_0.5.0"][f"{name}_raw"], atol=1e-6, rtol=0)
    large = minmax(upsample(maps[None], 32))
    torch.testing.assert_close(large, wanted["official_style_upsample_sum_minmax"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_what_they_share(method):
    """A batch is its images one by one, in threads too; one pass an image is counted, and nothing is left behind."""
    classifier = freeze(small_vit(), size=32)
    explainer, predicted = lficam.baseline(classifier, method), classifier(PIXELS).argmax(1)
    maps = explainer(PIXELS)
    assert (explainer.forward_passes, explainer.counted, maps.shape) == (1, 3, (3, 4, 4))
    torch.testing.assert_close(explainer(PIXELS, predicted), maps)
    assert torch.allclose(explainer(PIXELS, (predicted + 1) % 6), maps) == (method == "rollout")
    one_by_one = lficam.baseline(classifier, method, batch_size=1)(PIXELS, predicted)
    torch.testing.assert_close(one_by_one, maps, atol=1e-6, rtol=1e-5)
    calls = [lambda x=x: explainer(x, 1) for x in PIXELS.split(1)] + [lambda: classifier(PIXELS)]
    assert in_threads(calls, rounds=2)
    with torch.inference_mode():
        assert torch.equal(explainer(PIXELS), maps)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = explainer(PIXELS, predicted)
    assert rounded.dtype == torch.float32
    assert (minmax(rounded) - minmax(maps)).abs().max() < 0.1
    assert not any(module._forward_hooks for module in classifier.network.modules())
    assert not any(p.requires_grad or p.grad is not None for p in classifier.parameters())
    nn.init.constant_(classifier.network.heads.head.bias, torch.nan)
    for broken in (explainer, lficam.baseline(classifier, method)):
        with pytest.raises(InputError, match="not finite: the weights are broken"):
            broken(PIXELS)


@pytest.mark.parametrize("method", METHODS)
def test_attention_as_timm_writes_it(method):
    wanted = lficam.baseline(freeze(small_vit(), size=32), method)(PIXELS)
    maps = lficam.baseline(freeze(ByBlocks(), size=32), method)(PIXELS)
    torch.testing.assert_close(maps, wanted, atol=1e-6, rtol=1e-4)


def test_without_class_token_only_legrad_explains():
    classifier = freeze(ByBlocks(mean=True), size=32)
    assert lficam.baseline(classifier, "legrad")(PIXELS).shape == (3, 4, 4)
    for method in ("rollout", "chefer"):
        with pytest.raises(
            InputError, match=f"{method} asks what the class token attends to, of which ByBlocks has none"
        ):
            lficam.baseline(classifier, method)


class Held(VisionTransformer):
    forward = torch.no_grad()(VisionTransformer.forward)


def held():
    return Held(32, 8, 2, 2, 8, 16, num_classes=6)


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_explained_is_told_in_a_sentence(method):
    for network, says in [
        (small(), f"{method} explains vision transformers, and Small has no tokens: use grad-cam"),
        (small_swin(), f"{method} explains vision transformers, and SwinTransformer has no tokens"),
        (
            ByBlocks(fused=True),
            f"{method} reads the attention of ByBlocks, which cannot be seen: it is fused.*fused_attn =",
        ),
    ]:
        with pytest.raises(InputError, match=says):
            lficam.baseline(freeze(network, size=32), method)
    with pytest.raises(InputError, match="blocks: expected a whole number of at least 1, got 0"):
        lficam.baseline(freeze(small_vit(), size=32), method, blocks=0)
    if method != "rollout":
        with pytest.raises(InputError, match="Held computes without gradients"):
            lficam.baseline(freeze(held(), size=32), method)(PIXELS)


def test_the_explorer_offers_what_suits_the_classifier():
    for network, wanted in ((small(), 0), (small_vit(), 3)):
        offered = session.training_free(freeze(network, size=32), 32)
        assert sum(opened.name.startswith(METHODS) for opened in offered) == wanted
