"""What the image teachers must say, without their code: timm's published models, hooked; weights made up."""

from __future__ import annotations

import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional


def random_state(name, **changes):
    """The state of a published model, away from what it starts with, so that every weight matters."""
    torch.manual_seed(0)
    model = timm.create_model(name, **changes)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            # Resampling positions to a few patches averages most of this away.
            parameter.add_((0.5 if key == "pos_embed" else 0.05) * torch.randn_like(parameter))
    return model.state_dict()


def write_weights(name, file):
    """Writes such a state in timm's layout."""
    save_file(random_state(name), file)
    return file


def put_into_hub_cache(cache, repository, file):
    """Puts a file to where the hub's client keeps downloads."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0")
    (snapshot / "model.safetensors").symlink_to(file)
    return snapshot / "model.safetensors"


def normalised(pictures, mean, std):
    """Pictures of uint8, channels last, as timm's models want them."""
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (mean, std))
    return (pictures.permute(0, 3, 1, 2) / 255 - mean) / std


class Hooked:
    """timm's own loading and forward pass, one frame at a time, with hooks on the blocks.

    Args:
        name: In timm, with the tag.
        file: Its weights.
        size: Height and width of the pictures.
    """

    def __init__(self, name, file, size):
        overlay = {"file": str(file), "custom_load": False}
        self.model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=size).eval()
        self.cfg = timm.get_pretrained_cfg(name)
        self.outputs = []
        for block in self.model.blocks:
            block.register_forward_hook(lambda _block, _in, out: self.outputs.append(out))

    @property
    def mistakes(self):
        """The mistakes that a teacher of this model could make."""
        model = self.model
        biases = any("q_bias" in key or "qkv.bias" in key for key in model.state_dict())
        possible = {"prefix": model.num_prefix_tokens, "positions": model.pos_embed is not None, "biases": biases}
        return ("layer", "mean and std", "frames", *(name for name, is_possible in possible.items() if is_possible))

    @torch.no_grad()
    def latents(self, batch, layers=(-1,), prefix="drop", *, own=True, mistake=None):
        """The latents of clips that have the right size.

        Args:
            batch: Of clips.
            layers: Blocks, counted from 1, or from the end.
            prefix: As in the config.
            own: Whether the model's last norm is applied before the plain LayerNorm.
            mistake: One of `mistakes`; those in weights stay.
        """
        mean, std = self.cfg.mean, self.cfg.std
        if mistake == "mean and std":
            mean, std = ((0.5,) * 3, (0.5,) * 3) if mean[0] != 0.5 else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        if mistake == "layer":
            layers = tuple(layer - 1 for layer in layers)
        self._spoil(mistake)
        rows = []
        for clip in batch.tensors["clip"]:
            for picture in clip.flip(0) if mistake == "frames" else clip:
                self.outputs.clear()
                self.model.forward_features(normalised(picture[None], mean, std))
                taken = [self.outputs[layer - 1 if layer > 0 else layer] for layer in layers]
                rows.append(torch.cat([_latents(self.model, one, prefix, own, mistake) for one in taken], dim=-1))
        return torch.cat(rows).unflatten(0, batch.tensors["clip"].shape[:2]).flatten(1, 2)

    def _spoil(self, mistake):
        if mistake == "biases":
            for key, value in self.model.named_parameters():
                if key.endswith(("q_bias", "v_bias", "qkv.bias", "q_proj.bias", "v_proj.bias")):
                    value.zero_()
        if mistake == "positions":
            side = self.model.patch_embed.grid_size[0]
            patches = self.model.pos_embed[:, -(side**2) :]
            patches.copy_(patches.unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2).clone())


def _latents(model, tokens, prefix, own, mistake):
    if own:
        tokens = model.norm(tokens)
    tokens = functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
    before = model.num_prefix_tokens
    patches = tokens[:, before:]
    if mistake == "prefix":
        patches = tokens[:, : patches.shape[1]]
    beside = {"drop": 0, "class": 1, "all": before}[prefix]
    return torch.cat([patches, *(tokens[:, [at]].expand_as(patches) for at in range(beside))], dim=-1)


def token_error(found, expected):
    """The largest relative error of a token."""
    assert found.shape == expected.shape
    return ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


class DinoV2Reference(nn.Module):
    """DINOv2's forward pass by its equations, on the authors' keys (dinov2/models/vision_transformer.py).

    The class token and every patch have a position, registers have none and stand between them.
    """

    def __init__(self, state, heads, depth):
        super().__init__()
        self.state, self.heads, self.depth = state, heads, depth

    def forward(self, pixels):
        """The tokens of patches after each of the first ``depth`` blocks, and the last norm of the last ones."""
        w = self.state
        patches = functional.conv2d(
            pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], w["patch_embed.proj.weight"].shape[-1]
        )
        tokens = torch.cat([w["cls_token"].expand(len(pixels), -1, -1), patches.flatten(2).mT], dim=1) + w["pos_embed"]
        registers = w.get("register_tokens", torch.zeros(1, 0, tokens.shape[-1])).expand(len(pixels), -1, -1)
        tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)
        for number in range(self.depth):
            tokens = self.block(tokens, f"blocks.{number}.")
        return self.norm(tokens, "norm")[:, 1 + registers.shape[1] :]

    def norm(self, tokens, key):
        dim = (tokens.shape[-1],)
        return functional.layer_norm(tokens, dim, self.state[f"{key}.weight"], self.state[f"{key}.bias"], 1e-6)

    def linear(self, tokens, key):
        return functional.linear(tokens, self.state[f"{key}.weight"], self.state[f"{key}.bias"])

    def block(self, tokens, at):
        attended = self.attention(self.norm(tokens, f"{at}norm1"), at)
        tokens = tokens + self.state[f"{at}ls1.gamma"] * attended
        hidden = functional.gelu(self.linear(self.norm(tokens, f"{at}norm2"), f"{at}mlp.fc1"))
        return tokens + self.state[f"{at}ls2.gamma"] * self.linear(hidden, f"{at}mlp.fc2")

    def attention(self, tokens, at):
        joined = self.linear(tokens, f"{at}attn.qkv").unflatten(-1, (3, self.heads, -1))
        queries, keys, values = joined.permute(2, 0, 3, 1, 4)
        weights = (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(dim=-1)
        return self.linear((weights @ values).transpose(1, 2).flatten(2), f"{at}attn.proj")


def authors_dinov2(timms):
    """A state in timm's layout as DINOv2's authors would have written it."""
    state = dict(timms)
    state["mask_token"] = torch.zeros(1, state["cls_token"].shape[-1])
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        first = torch.full_like(state["cls_token"], 0.1)
        state["cls_token"] = state["cls_token"] - first
        state["pos_embed"] = torch.cat([first, state["pos_embed"]], dim=1)
    return state


def authors_dinov3(timms):
    """A state in timm's layout as DINOv3's authors would have written it."""
    renamed = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "reg_token": "storage_tokens"}
    state = {}
    for key, value in timms.items():
        for theirs, authors in renamed.items():
            key = key.replace(theirs, authors)
        state[key] = value
    dim = state["cls_token"].shape[-1]
    for number in range(sum(key.endswith("attn.qkv.weight") for key in timms)):
        at = f"blocks.{number}.attn."
        queries, values = (state.pop(f"{at}{name}_bias", torch.zeros(dim)) for name in "qv")
        # The keys' share is whatever it was when training ended: the mask keeps it out.
        state[f"{at}qkv.bias"] = torch.cat([queries, torch.ones(dim), values])
        state[f"{at}qkv.bias_mask"] = torch.cat([torch.ones(dim), torch.zeros(dim), torch.ones(dim)])
    return {**state, "mask_token": torch.zeros(1, dim), "rope_embed.periods": torch.ones(16)}


def transformers_dinov3(timms):
    """A state in timm's layout (with biases of queries and values) under transformers' keys."""
    renamed = [
        ("patch_embed.proj.", "embeddings.patch_embeddings."),
        ("cls_token", "embeddings.cls_token"),
        ("reg_token", "embeddings.register_tokens"),
        ("blocks.", "model.layer."),
        ("attn.proj.", "attention.o_proj."),
        ("gamma_1", "layer_scale1.lambda1"),
        ("gamma_2", "layer_scale2.lambda1"),
        ("mlp.fc1.", "mlp.up_proj."),
        ("mlp.fc2.", "mlp.down_proj."),
        ("attn.q_bias", "attention.q_proj.bias"),
        ("attn.v_bias", "attention.v_proj.bias"),
    ]
    state = {"embeddings.mask_token": torch.zeros_like(timms["cls_token"])}
    for key, value in timms.items():
        for ours, theirs in renamed:
            key = key.replace(ours, theirs)
        layer, joined, _ = key.partition("attn.qkv.weight")
        for name, part in zip("qkv", value.chunk(3), strict=True) if joined else ():
            state[f"{layer}attention.{name}_proj.weight"] = part.contiguous()
        if not joined:
            state[key] = value
    return state
