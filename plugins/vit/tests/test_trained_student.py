"""What a ViT student is to the later run that learns from it: its structure, its identity, its blocks' tokens."""

from __future__ import annotations

import pytest
import torch
from salt_vit import build_timm_vit
from salt_vit.config import TimmViTConfig

from salt_toolkit import ClipSpec
from salt_toolkit.context import video_inputs
from salt_toolkit.testing import random_batch

CLIP = ClipSpec(frames=4, stride=1, size=32)
INPUTS = video_inputs(CLIP)
SMALL = {"model": "vit_tiny_patch16_224", "dim": 24, "depth": 3, "heads": 3, "patch": 8}


def shapes(student):
    return {key: value.shape for key, value in student.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("vit_tiny_patch16_224", 0.5),
        ("vit_base_patch16_clip_224.openai", 0.48145466),
        ("vit_base_patch16_224.mae", 0.485),
    ],
)
def test_the_structure_needs_no_weights_and_normalises_as_they_want(name, mean):
    """The cache of these tests is empty, and there is no connection."""
    config = TimmViTConfig(model=name, pretrained=True)
    assert len(config.missing()) == 1
    structure = config.structure()
    assert list(structure.missing()) == []
    clip = ClipSpec(frames=2, stride=1, size=32)
    assert structure.token_spec(clip) == config.token_spec(clip)
    student = build_timm_vit(structure, clip=clip)
    assert student.embed.shift[0].item() / student.embed.scale[0].item() == pytest.approx(-255 * mean, rel=1e-5)
    assert student.positions.requires_grad
    assert structure.cost(video_inputs(clip), 2).parameters == sum(
        parameter.numel() for parameter in student.parameters()
    )
    assert len(config.missing()) == 1  # the config itself is as before


@pytest.mark.parametrize(
    "model",
    ["vit_tiny_patch16_224", "vit_base_patch14_reg4_dinov2", "vit_base_patch16_18x2_224", "beit3_base_patch16_224"],
)
def test_a_shortened_structure_has_some_of_the_same_weights(model):
    """Also where the recipe may not change the depth, since the blocks are not plain."""
    config = TimmViTConfig(model=model)
    clip = ClipSpec(frames=2, stride=1, size=2 * config.sizes["patch"])
    with torch.device("meta"):
        whole, short = (build_timm_vit(config.structure(layers), clip=clip) for layers in (None, 2))
    assert shapes(short) == {key: shape for key, shape in shapes(whole).items() if not is_late(key)}
    assert config.structure(2).cost(video_inputs(clip), 4).parameters == sum(
        parameter.numel() for parameter in short.parameters()
    )


def is_late(key):
    """Whether a weight belongs to the third block, or a later one."""
    blocks, _, rest = key.partition(".")
    return blocks == "blocks" and int(rest.partition(".")[0]) >= 2


def test_tokens_after_a_block_are_those_of_a_student_that_ends_there():
    """With the same weights; and after the last one they are what the student itself says, bit for bit."""
    config, batch = TimmViTConfig(**SMALL), random_batch(CLIP)
    torch.manual_seed(0)
    student = build_timm_vit(config, clip=CLIP).eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # so that the last norm is not the identity
        found = student.tokens_after(batch, [3, 1, 2])
        assert torch.equal(found[0], student(batch))
        for tokens, depth in zip(found[1:], (1, 2), strict=True):
            short = build_timm_vit(TimmViTConfig(**{**SMALL, "depth": depth}), clip=CLIP).eval()
            short.load_state_dict({key: value for key, value in student.state_dict().items() if key in shapes(short)})
            assert torch.equal(tokens, short(batch))
    assert config.teachable_layers() == 3
    assert TimmViTConfig(model="vit_tiny_patch16_224").teachable_layers() == 12


def test_blocks_behind_the_last_that_is_asked_for_do_not_run():
    student = build_timm_vit(TimmViTConfig(**SMALL), clip=CLIP).eval()
    student.blocks[2].register_forward_hook(lambda *_: pytest.fail("the third block ran"))
    student.tokens_after(random_batch(CLIP), [1, 2])


def test_the_identity_leaves_out_what_matters_in_training_alone():
    config = TimmViTConfig(**SMALL)
    for settings in ({"drop_path": 0.2}, {"grad_checkpointing": True}):
        assert TimmViTConfig(**SMALL, **settings).identity(INPUTS) == config.identity(INPUTS)
    plain = TimmViTConfig(model="vit_tiny_patch16_224")
    assert TimmViTConfig(model="vit_tiny_patch16_224", pretrained=True).identity(INPUTS) == plain.identity(
        video_inputs(CLIP)
    )
    assert TimmViTConfig(model="vit_tiny_patch16_224", dim=192, patch=16).identity(
        video_inputs(CLIP)
    ) == plain.identity(INPUTS)
    tagged = [TimmViTConfig(model=f"vit_base_patch16_{tag}", pretrained=True) for tag in ("224.mae", "224.dino", "224")]
    others = [TimmViTConfig(**{**SMALL, name: value}) for name, value in (("heads", 4), ("depth", 2), ("tubelet", 4))]
    identities = [each.identity(INPUTS) for each in (config, plain, *tagged, *others)]
    assert all(one not in identities[:number] for number, one in enumerate(identities))
