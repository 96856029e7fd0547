"""The models and training steps of vitjax in plain PyTorch, for `bench_step.py --against=torch`.

Modules carry the names of timm's ViT, of the original MAE and of torchvision's ResNet, so that the tables of
`vitjax.interop` copy the weights; SimCLR is in torch_simclr.py, DCGAN in torch_gan.py, and CLIP, which is open_clip's,
in torch_clip.py. The arithmetic is vitjax's: uint8 pictures in, normalised on the way; MAE embeds only the patches that
it keeps; classifiers run in float32. What vitjax's step does beyond a plain one (the norm of all gradients, the refusal
of an update that is not finite, the health panel, masks that depend on the seed and the row alone) is left out here,
and so counts against vitjax.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torch_clip
import torch_gan
import torch_simclr
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel
from torch_forms import FORMATS, KERNELS, Form

from vitjax import optim
from vitjax.errors import UserError
from vitjax.experiment import Experiment
from vitjax.interop import mae as mae_names
from vitjax.interop import table, timm_vit, torchvision_resnet
from vitjax.models import mae as mae_model
from vitjax.models import patches, resnet

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
# Settings whose other values have no counterpart here.
ONLY = {
    "accum": 1,
    "embed_chunks": 1,
    "loss_chunks": 1,
    "probe.field": "",
    "model.drop_path": 0.0,
    "model.remat": False,
    "optim.clip": "global",
    "optim.layer_decay": 1.0,
    "optim.no_decay": (),
    "optim.decay_vectors": False,
    "optim.end_weight_decay": None,
    "optim.rate_scales": (),
    "optim.frozen": (),
    "optim.held": (),
}
# Of one objective alone.
OWN = {"clip": torch_clip.ONLY, "dcgan": torch_gan.ONLY}


class Move(NamedTuple):
    """One update; a step makes several where players take turns.

    Attributes:
      loss: (batch, noise) -> scalar.
      learner: what the update changes.
      rate: the factor of its learning rate.
      after: called when it is done.
    """

    loss: Callable[[Mapping[str, Tensor], Tensor | None], Tensor]
    learner: nn.Module
    rate: float = 1.0
    after: Callable[[], None] = lambda: None


class Reference:
    """A training step in PyTorch that starts from the weights of vitjax.

    Args:
      variables: vitjax's flat variables under unstacked names, as numpy arrays.

    Raises:
      UserError: the config asks for something that is not written here.
    """

    def __init__(self, built: Experiment, variables: Mapping[str, np.ndarray], form: Form, device: str):
        config = built.config
        _check(config)
        self.form, self.device = form, torch.device(device)
        self.num_patches = 0
        model, rows = _model(built, form)
        weights = table.write(variables, rows)
        model.load_state_dict({name: torch.from_numpy(x) for name, x in weights.items()})
        self.model = model.to(self.device, memory_format=FORMATS[form.memory]).train()
        self._clip_norm = config.optim.clip_norm
        self.learning_rate = optim.describe(config, built.run)["peak_lr"]
        mean, std = (np.asarray(x, np.float32) for x in (config.data.mean, config.data.std))
        self._scale = torch.tensor(1 / (255 * std), device=self.device)
        self._shift = torch.tensor(-mean / std, device=self.device)
        self._low = str(np.dtype(built.run.dtype)) == "bfloat16"
        moves = self._moves_of(config)
        # One compiled function holds the forward pass; autograd's backward is compiled with it.
        compiled = [move.loss if device == "cpu" else torch.compile(move.loss) for move in moves]
        self._moves = [move._replace(loss=loss) for move, loss in zip(moves, compiled)]
        self._optimisers = [_optimiser(move.learner, config.optim, form) for move in moves]

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """A host batch on the device."""
        return {name: torch.tensor(x, device=self.device) for name, x in batch.items()}

    def step(self, batch: Mapping[str, Tensor], noise: Tensor | None = None) -> Tensor:
        """The loss before the step that it takes, in a game the first player's.

        Args:
          noise: what vitjax draws in that step: [B, N], which orders MAE's patches, or a game's latents [2, B, Z], a
            row for each move. None: it is drawn here.
        """
        losses = [self._update(*each, batch, noise) for each in zip(self._moves, self._optimisers)]
        return losses[0]

    def _update(
        self, move: Move, optimiser: torch.optim.Optimizer, batch: Mapping[str, Tensor], noise: Tensor | None
    ) -> Tensor:
        for group in optimiser.param_groups:
            group["lr"] = self.learning_rate * move.rate
        kernel = contextlib.nullcontext()
        if self.form.attention != "auto":
            kernel = sdpa_kernel(KERNELS[self.form.attention])
        with kernel, torch.autocast(self.device.type, torch.bfloat16, enabled=self._low):
            loss = move.loss(batch, noise)
        loss.backward()
        if self._clip_norm:
            nn.utils.clip_grad_norm_(move.learner.parameters(), self._clip_norm, foreach=True)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        move.after()
        return loss.detach()

    def wait(self) -> None:
        """Returns when the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _images(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Normalised pictures [B, H, W, 3]."""
        return torch.addcmul(self._shift, batch["image"].float(), self._scale)

    def _planes(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Normalised pictures [B, 3, H, W], in the layout of the form."""
        return self._images(batch).permute(0, 3, 1, 2).contiguous(memory_format=FORMATS[self.form.memory])

    def _mae_loss(self, config: Any) -> Callable[[Mapping[str, Tensor], Tensor | None], Tensor]:
        norm_pix, patch_px = config.objective.norm_pix, config.model.patch_px

        def loss(batch: Mapping[str, Tensor], noise: Tensor | None) -> Tensor:
            target = patchify(self._images(batch), patch_px)
            if noise is None:
                noise = torch.rand(target.shape[:2], device=self.device)
            pred, mask = self.model(target, noise)
            if norm_pix:
                var, mean = torch.var_mean(target, dim=-1, keepdim=True)
                target = (target - mean) / (var + 1e-6).sqrt()
            error = (pred.float() - target).square().mean(dim=-1)
            return (error * mask).sum() / mask.sum()

        return loss

    def _class_loss(self, config: Any) -> Callable[[Mapping[str, Tensor], Tensor | None], Tensor]:
        label, prepare = config.objective.label, self._planes if config.model.name == "resnet" else self._images

        def loss(batch: Mapping[str, Tensor], noise: Tensor | None) -> Tensor:
            return F.cross_entropy(self.model(prepare(batch)), batch[label].long())

        return loss

    def _pair_loss(self, config: Any) -> Callable[[Mapping[str, Tensor], Tensor | None], Tensor]:
        return lambda batch, noise: self.model(self._planes(batch))

    def _moves_of(self, config: Any) -> list[Move]:
        """The updates of a step, in their order."""
        name = config.objective.name
        return MOVES[name](self, config) if name in MOVES else [Move(LOSSES[name](self, config), self.model)]

    def _gan_moves(self, config: Any) -> list[Move]:
        game, rate = self.model, config.objective.discriminator_rate

        def latents(batch: Mapping[str, Tensor], noise: Tensor | None, move: int) -> Tensor:
            shape = (len(batch["image"]), config.objective.z_dim)
            return torch.randn(shape, device=self.device) if noise is None else noise[move]

        def judge(batch: Mapping[str, Tensor], noise: Tensor | None) -> Tensor:
            return game.discriminator_loss(self._planes(batch), latents(batch, noise, 0))

        def make(batch: Mapping[str, Tensor], noise: Tensor | None) -> Tensor:
            return game.generator_loss(latents(batch, noise, 1))

        return [Move(judge, game.discriminator, rate), Move(make, game.generator, after=game.average)]

    def _caption_moves(self, config: Any) -> list[Move]:
        value, max_scale = torch_clip.loss(), config.objective.max_scale

        def loss(batch: Mapping[str, Tensor], noise: Tensor | None) -> Tensor:
            return value(*self.model(self._planes(batch), batch["text"][:, 0]))

        return [Move(loss, self.model, after=lambda: torch_clip.bound_scale(self.model, max_scale))]


LOSSES = {"mae": Reference._mae_loss, "supervised": Reference._class_loss, "simclr": Reference._pair_loss}
MOVES = {"dcgan": Reference._gan_moves, "clip": Reference._caption_moves}


def patchify(images: Tensor, patch_px: int) -> Tensor:
    """[B, N, P*P*3]: each patch's pixels as one row, in the order (row, column, channel)."""
    b, h, w, c = images.shape
    x = images.view(b, h // patch_px, patch_px, w // patch_px, patch_px, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(b, -1, patch_px * patch_px * c)


class Attention(nn.Module):
    """Multi-head self-attention with one projection to q, k and v."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear maps with the activation between them."""

    def __init__(self, width: int, hidden: int, activation: str):
        super().__init__()
        self.fc1, self.fc2, self.activation = nn.Linear(width, hidden), nn.Linear(hidden, width), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float, activation: str):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn, self.mlp = Attention(width, heads), Mlp(width, hidden, activation)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """A linear map of patches, kept as the convolution that it is elsewhere."""

    def __init__(self, width: int, patch_px: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_px, patch_px)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.proj.weight.permute(0, 2, 3, 1).flatten(1), self.proj.bias)


class ViT(nn.Module):
    """Class scores of normalised pictures [B, H, W, 3]; without classes only `encode` is of use."""

    def __init__(self, c: Any, num_patches: int, num_classes: int = 0):
        super().__init__()
        prefix = int(c.class_token)
        self.pool, self.patch_px, self.prefix = c.pool, c.patch_px, prefix
        if prefix:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, c.width))
        _add_positions(self, "pos_embed", c.posemb, prefix + num_patches, c.width)
        self.patch_embed = PatchEmbed(c.width, c.patch_px)
        block = (c.width, c.heads, c.mlp_dim, c.norm_eps, c.activation)
        self.blocks = nn.Sequential(*(Block(*block) for _ in range(c.depth)))
        if c.pool == "gap_norm":
            self.fc_norm = nn.LayerNorm(c.width, c.norm_eps)
        else:
            self.norm = nn.LayerNorm(c.width, c.norm_eps)
        if num_classes:
            self.head = nn.Linear(c.width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.encode(self.patch_embed(patchify(images, self.patch_px)) + self.pos_embed[:, self.prefix :])
        with torch.autocast(x.device.type, enabled=False):
            return self.head(self._pool(x).float())

    def encode(self, x: Tensor) -> Tensor:
        """The blocks' output after the final norm, if there is one, of patches with their positions."""
        if self.prefix:
            cls = self.cls_token + self.pos_embed[:, :1]
            x = torch.cat([cls.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        x = self.blocks(x)
        return x if self.pool == "gap_norm" else self.norm(x)

    def _pool(self, x: Tensor) -> Tensor:
        if self.pool == "cls":
            return x[:, 0]
        mean = x[:, self.prefix :].mean(dim=1, dtype=torch.float32)
        return self.fc_norm(mean) if self.pool == "gap_norm" else mean


class MAE(ViT):
    """(pixels of all patches, 1 where a patch was removed) of patches [B, N, P*P*3] and noise [B, N]."""

    def __init__(self, c: Any, objective: Any, num_patches: int):
        super().__init__(c, num_patches)
        width = objective.decoder_width
        self.visible = mae_model.kept(num_patches, objective.mask_ratio)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        _add_positions(self, "decoder_pos_embed", "sincos2d", self.prefix + num_patches, width)
        self.decoder_embed = nn.Linear(c.width, width)
        block = (width, objective.decoder_heads, 4 * width, c.norm_eps, c.activation)
        self.decoder_blocks = nn.Sequential(*(Block(*block) for _ in range(objective.decoder_depth)))
        self.decoder_norm = nn.LayerNorm(width, c.norm_eps)
        self.decoder_pred = nn.Linear(width, 3 * c.patch_px**2)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        shuffle = noise.argsort(dim=1)
        restore, keep = shuffle.argsort(dim=1), shuffle[:, : self.visible]
        kept = x.gather(1, keep[:, :, None].expand(-1, -1, x.shape[2]))
        latent = self.encode(self.patch_embed(kept) + self.pos_embed[0, self.prefix :][keep])
        pred = self._decode(self.decoder_embed(latent), restore)
        return pred, (restore >= self.visible).float()

    def _decode(self, x: Tensor, restore: Tensor) -> Tensor:
        prefix, x = x[:, : self.prefix], x[:, self.prefix :]
        holes = self.mask_token.expand(len(x), restore.shape[1] - self.visible, -1).to(x.dtype)
        x = torch.cat([x, holes], dim=1).gather(1, restore[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([prefix, x], dim=1) + self.decoder_pos_embed
        x = self.decoder_norm(self.decoder_blocks(x)[:, self.prefix :])
        return self.decoder_pred(x)


class ResBlock(nn.Module):
    """relu(shortcut + branch), the branch two 3x3 convolutions or a bottleneck with its stride on the 3x3."""

    def __init__(self, channels: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        out = 4 * width if bottleneck else width
        if bottleneck:
            self.conv1, self.bn1 = _conv(channels, width, 1), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = _conv(width, out, 1), nn.BatchNorm2d(out)
        else:
            self.conv1, self.bn1 = _conv(channels, width, 3, stride), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.bottleneck, self.downsample = bottleneck, None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(_conv(channels, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y, inplace=True)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class ResNet(nn.Module):
    """Class scores of normalised pictures [B, 3, H, W]; without classes only `features` is of use."""

    def __init__(self, c: Any, num_classes: int = 0):
        super().__init__()
        self.width, self.bottleneck, self.stem = c.width, c.depth >= 50, c.stem
        stem = {"imagenet": (7, 2), "cifar": (3, 1), "cifar_half": (3, 2)}[c.stem]
        self.conv1, self.bn1 = _conv(3, self.width, *stem), nn.BatchNorm2d(self.width)
        channels = self.width
        for stage, depth in enumerate(resnet.DEPTHS[c.depth]):
            blocks, width = [], self.width * 2**stage
            for i in range(depth):
                blocks.append(ResBlock(channels, width, 2 if stage and not i else 1, self.bottleneck))
                channels = 4 * width if self.bottleneck else width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.num_features = channels
        if num_classes:
            self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.fc(x)

    def features(self, x: Tensor) -> Tensor:
        """float32 [B, D], the mean over the last pixels."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        if self.stem == "imagenet":
            x = F.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3), dtype=torch.float32)


def _conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)


def _add_positions(module: nn.Module, name: str, posemb: str, length: int, width: int) -> None:
    """Positions that are learned, or constants that come with the weights."""
    zeros = torch.zeros(1, length, width)
    if posemb == "learned":
        module.register_parameter(name, nn.Parameter(zeros))
    else:
        module.register_buffer(name, zeros)


def _model(built: Experiment, form: Form) -> tuple[nn.Module, list[table.Row]]:
    """The model of an experiment, and the table of its names."""
    config, c = built.config, built.config.model
    if config.objective.name == "clip":
        return torch_clip.make(built, form.block)
    if config.objective.name == "simclr":
        if c.name != "resnet":
            raise UserError(f"config.model.name={c.name!r} of simclr is not written in PyTorch here; choose 'resnet'")
        encoder, names = ResNet(c), torchvision_resnet.rows(c, head=False)
        model = torch_simclr.SimCLR(encoder, encoder.num_features, config.objective)
        return model, torch_simclr.rows(names, config.objective.projector)
    if config.objective.name == "dcgan":
        return torch_gan.make(config)
    if c.name == "resnet":
        classes = built.run.class_names[config.objective.label]
        return ResNet(c, len(classes)), torchvision_resnet.rows(c)
    if c.name != "vit":
        raise UserError(f"config.model.name={c.name!r} is not written in PyTorch here; choose 'vit' or 'resnet'")
    grid = patches.grid(config.data.size_px, config.data.size_px, c.patch_px)
    if config.objective.name == "mae":
        names = mae_names.rows(mae_model.make(c, config.objective), grid, "facebook")
        return MAE(c, config.objective, math.prod(grid)), names
    if c.pool in ("map", "gap_std"):
        raise UserError(f"config.model.pool={c.pool!r} is not written in PyTorch here; choose 'gap' or 'cls'")
    classes = built.run.class_names[config.objective.label]
    return ViT(c, math.prod(grid), len(classes)), timm_vit.rows(c, grid)


def _optimiser(model: nn.Module, settings: Any, form: Form) -> torch.optim.Optimizer:
    """AdamW or SGD, with decay on what has two axes or more."""
    params = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    how = {form.optimiser: True}
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, betas=(settings.b1, settings.b2), eps=settings.eps, **how)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, nesterov=settings.nesterov, **how)
    raise UserError(f"config.optim.name={settings.name!r} is not in PyTorch; choose 'adamw' or 'sgd'")


def _check(config: Any) -> None:
    """Nothing, if all that the config asks for is written here."""
    name = config.objective.name
    if name not in (*LOSSES, *MOVES):
        raise UserError(
            f"config.objective.name={name!r} is not written in PyTorch here; --against=torch knows "
            f"{', '.join((*LOSSES, *MOVES))}"
        )
    if name == "clip":
        torch_clip.check(config)
    only = ONLY | OWN.get(name, {})
    for key, value in only.items():
        section, name = config, key
        if "." in key:
            section, name = config[key.split(".")[0]], key.split(".")[1]
        if name in tuple(section) and section[name] != value:
            raise UserError(
                f"config.{key}={section[name]!r} is not written in PyTorch here; compare with "
                f"--config.{key}={value}"
            )
