"""Which of timm's image models the teachers offer, and which of them `salt teachers` lists; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from salt_vit.image_models import architectures, published_weights

Offer = Mapping[str, tuple[str, ...]]
"""Models by name, and the tags of their published weights, the usual ones first."""

REPRESENTATIVE = (
    "vit_base_patch16_clip_quickgelu_224.openai",
    "vit_large_patch14_clip_quickgelu_224.openai",
    "vit_large_patch14_clip_quickgelu_336.openai",
    "vit_base_patch16_clip_224.datacompxl",
    "vit_large_patch14_clip_224.datacompxl",
    "vit_huge_patch14_clip_224.laion2b",
    "vit_huge_patch14_clip_quickgelu_224.dfn5b",
    "vit_large_patch14_clip_quickgelu_224.metaclip_2pt5b",
    "vit_base_patch16_siglip_224.webli",
    "vit_base_patch16_siglip_224.v2_webli",
    "vit_large_patch16_siglip_256.v2_webli",
    "vit_so400m_patch14_siglip_224.v2_webli",
    "vit_so400m_patch14_siglip_384.webli",
    "vit_giantopt_patch16_siglip_256.v2_webli",
    "eva02_small_patch14_224.mim_in22k",
    "eva02_base_patch14_224.mim_in22k",
    "eva02_large_patch14_224.mim_m38m",
    "eva02_large_patch14_clip_336.merged2b",
    "eva_giant_patch14_clip_224.merged2b",
    "vit_pe_core_base_patch16_224.fb",
    "vit_pe_core_large_patch14_336.fb",
    "vit_pe_spatial_base_patch16_512.fb",
    "vit_pe_spatial_large_patch14_448.fb",
    "aimv2_large_patch14_224.apple_pt_dist",
    "aimv2_huge_patch14_224.apple_pt",
    "vit_base_patch14_reg1_tipsv2.webli",
    "vit_intern300m_patch14_448.ogvl_2pt5",
    "vit_base_patch16_224.mae",
    "vit_large_patch16_224.mae",
    "vit_huge_patch14_224.mae",
    "vit_tiny_patch16_224.augreg_in21k",
    "vit_base_patch16_224.augreg_in21k",
    "deit3_base_patch16_224.fb_in22k_ft_in1k",
)
"""The best known weights; every other one of the table can be named as well."""


@cache
def all_models() -> Offer:
    """Every model of the table."""
    return {name: tuple(published_weights(name)) for name in architectures()}


@cache
def dino_models() -> Offer:
    """The models that have weights of DINO, DINOv2 or DINOv3, with the tags of these."""
    offer = {name: tuple(tag for tag in tags if _is_dino(name, tag)) for name, tags in all_models().items()}
    return {name: offer[name] for name in sorted(offer, key=_generation_and_size) if offer[name]}


def _generation_and_size(name: str) -> tuple[int, int, str]:
    made = architectures()[name]
    return 2 * ("dinov2" in name) + 3 * ("dinov3" in name), made.depth * made.block_parameters, name


def _is_dino(name: str, tag: str) -> bool:
    # EUPE has DINOv3's architecture, and was distilled from other teachers as well.
    return tag == "dino" or "dinov2" in name or ("dinov3" in name and not tag.startswith("eupe"))
