"""A CLIP or a SigLIP as the files of a directory that `transformers` opens, and its settings out of one.

transformers itself is not needed. The tokenizer is not among the files: which one a model was trained with is in
`config.data.tokenizer`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vitjax import augment
from vitjax.errors import UserError
from vitjax.interop import table, two_towers
from vitjax.interop.table import Row
from vitjax.models import published
from vitjax.models import two_towers as towers_model

ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
# With this id transformers pools the largest id instead of the first `eos_token_id`, as OpenAI's code does.
ARGMAX_EOS_ID = 2
SIGLIP_EOS_ID = 1
SIGLIP2_VOCABULARY = 256_000  # Gemma's, by which SigLIP 2 is told from SigLIP: both are 'siglip' in a config.json

# What transformers fixes in each of its classes, and so has to be so.
FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "clip": dict(
        model=dict(name="clip_vit", class_token=True, pool="cls", posemb="learned"),
        text=dict(causal=True),
        towers=dict(image_projection="linear", text_projection="linear", bias=None),
    ),
    "siglip": dict(
        model=dict(name="vit", class_token=False, pool="map", posemb="learned"),
        text=dict(causal=False, pool="last"),
        towers=dict(image_projection="none", text_projection="biased"),
    ),
}
CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}

# transformers' own values of what a config.json leaves out: those of the classes' first published models.
_BASE = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
_CLIP_NUMBERS = dict(layer_norm_eps=1e-5, hidden_act="quick_gelu")
_SIGLIP_NUMBERS = dict(layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh")
_PICTURES = dict(image_size=224, num_channels=3)
DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "clip": dict(
        text_config=_CLIP_NUMBERS
        | dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8)
        | dict(vocab_size=49_408, max_position_embeddings=77, eos_token_id=49_407),
        vision_config=_BASE | _CLIP_NUMBERS | _PICTURES | dict(patch_size=32),
    ),
    "siglip": dict(
        text_config=_BASE
        | _SIGLIP_NUMBERS
        | dict(vocab_size=32_000, max_position_embeddings=64, pad_token_id=1, projection_size=None),
        vision_config=_BASE | _SIGLIP_NUMBERS | _PICTURES | dict(patch_size=16, vision_use_head=True),
    ),
}
MAYBE_NONE = ("pad_token_id", "projection_size")
PROJECTION_DIM = 512  # of a CLIP whose config.json has none


class Files(NamedTuple):
    """What to write.

    Attributes:
      json: names of JSON files -> contents.
      tensors: those of model.safetensors.
      rows: the table that the tensors were written by, to read them back.
    """

    json: dict[str, dict[str, Any]]
    tensors: dict[str, np.ndarray]
    rows: list[Row]


def files(config: Any, flat: Mapping[str, np.ndarray]) -> Files:
    """The directory of a model of two towers.

    Args:
      config: a run's, with the sections `data`, `model`, `text` and `towers`.
      flat: 'params/backbone/...' -> array, of single blocks.

    Raises:
      UserError: transformers has no class for such a model.
    """
    form = _form(config)
    # In the config 0 is the tokenizer's own.
    text = dict(config.text) | dict(vocab_size=len(flat["params/text/embedding"]))
    rows = two_towers.rows(towers_model.make(config.model, ConfigDict(text), config.towers), f"hf_{form}")
    tensors = table.write(flat, rows)
    facts = {CONFIG: _config(config, form, flat), PREPROCESSOR: _preprocessor(config.data)}
    return Files(facts, tensors, rows)


def settings_of(folder: Path) -> published.Settings:
    """`settings` by the files of a directory.

    Raises:
      UserError: one is no JSON, or describes what we do not have.
    """
    pictures = folder / PREPROCESSOR
    return settings(_read(folder / CONFIG), _read(pictures) if pictures.is_file() else {})


def settings(facts: Mapping[str, Any], pictures: Mapping[str, Any] | None = None) -> published.Settings:
    """The sections `data`, `model`, `text` and `towers` of the model that a config.json of transformers describes.

    What it leaves out has transformers' own defaults. Where the logit scale begins is not among the settings.

    Args:
      facts: of config.json.
      pictures: of preprocessor_config.json; what it leaves out is as for the published models.

    Raises:
      UserError: it is of another model, or of one that our towers do not have.
    """
    kind = facts.get("model_type")
    if kind not in FORMS:
        raise UserError(f"{CONFIG} is of model_type={kind!r}; known are {', '.join(FORMS)}")
    image, text = (_section(facts, name, DEFAULTS[kind][name]) for name in ("vision_config", "text_config"))
    if image["num_channels"] != 3:
        raise UserError(f"{CONFIG}: vision_config.num_channels={image['num_channels']} must be 3, of RGB")
    sections = dict(
        data=_pixels(kind, pictures or {}, image) | dict(text_length=text["max_position_embeddings"]),
        model=_tower("vision_config", image) | dict(patch_px=image["patch_size"], drop_path=0.0),
        text=_tower("text_config", text) | dict(vocab_size=text["vocab_size"]),
        towers={},
    )
    own = _clip(facts, text) if kind == "clip" else _siglip(image, text)
    return {name: values | FORMS[kind].get(name, {}) | own.get(name, {}) for name, values in sections.items()}


def _clip(facts: Mapping[str, Any], text: Mapping[str, Any]) -> published.Settings:
    """What CLIP alone has."""
    embed_dim = facts.get("projection_dim", PROJECTION_DIM)
    if not isinstance(embed_dim, int):
        raise UserError(f"{CONFIG}: projection_dim={embed_dim!r} must be a whole number, such as {PROJECTION_DIM}")
    pool = dict(pool="eos", eos_id=text["eos_token_id"])
    if text["eos_token_id"] == ARGMAX_EOS_ID:  # so in OpenAI's own files, whose texts end with the last id all the same
        pool = dict(pool="argmax", eos_id=text["vocab_size"] - 1)
    return dict(text=dict(inits="clip", **pool), towers=dict(embed_dim=embed_dim))


def _siglip(image: Mapping[str, Any], text: Mapping[str, Any]) -> published.Settings:
    """What SigLIP alone has."""
    width, projection = image["hidden_size"], text["projection_size"] or text["hidden_size"]
    if projection != width:
        raise UserError(
            f"{CONFIG}: texts are projected to {projection} numbers (text_config.projection_size, or hidden_size "
            f"without it) and pictures, which SigLIP does not project, have vision_config.hidden_size={width}; vitjax "
            "has no towers whose embeddings differ in size"
        )
    if not image["vision_use_head"]:
        raise UserError(f"{CONFIG}: vision_config.vision_use_head=false; SigLIP's pictures are embedded by that head")
    data = dict(text_pad=text["pad_token_id"])
    if text["vocab_size"] == SIGLIP2_VOCABULARY:  # its config.json has SigLIP's padding, if any
        data = dict(text_pad=0, text_clean="lower")
    return dict(
        data=data,
        # The config.json has CLIP's end by default, which is no token of SigLIP's.
        text=dict(inits="xavier", eos_id=SIGLIP_EOS_ID),
        towers=dict(embed_dim=width, bias=-10.0),
    )


def _section(facts: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A section of a config.json, whole.

    Raises:
      UserError: a value is of another type than transformers' own.
    """
    # Files of the first versions have a section twice; what transformers goes by is this one, over the defaults.
    found = facts.get(f"{name}_dict")
    found = facts.get(name) if found is None else found
    if not isinstance(found, Mapping | type(None)):
        raise UserError(f"{CONFIG}: {name}={found!r} must be a section, in braces")
    section = dict(defaults) | {key: value for key, value in (found or {}).items() if key in defaults}
    for key, value in section.items():
        wanted = int if key in MAYBE_NONE else type(defaults[key])
        if not isinstance(value, wanted) and not (value is None and key in MAYBE_NONE):
            raise UserError(f"{CONFIG}: {name}.{key}={value!r} must be of type {wanted.__name__}")
    return section


def _read(file: Path) -> dict[str, Any]:
    try:
        facts = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is no JSON ({error}); fetch it again") from error
    if not isinstance(facts, dict):
        raise UserError(f"{file} holds no settings, in braces; fetch it again")
    return facts


def _form(config: Any) -> str:
    """The class that a model fits, 'clip' or 'siglip'.

    Raises:
      UserError: none; the message says what the nearest one would have.
    """
    sections = tuple(config)
    if "text" not in sections or "towers" not in sections:
        raise UserError("--format=transformers writes models of an image and a text tower; use --format=vitjax")
    different = {name: list(_differences(config, form)) for name, form in FORMS.items()}
    name = min(different, key=lambda name: len(different[name]))
    if different[name]:
        raise UserError(
            f"transformers' {CLASSES[name]}, the nearest that it has, would need {'; '.join(different[name])}: "
            "use --format=vitjax"
        )
    if name == "clip" and (config.text.pool == "last" or _ambiguous(config.text)):
        raise UserError(
            f"config.text.pool={config.text.pool!r} with config.text.eos_id={config.text.eos_id} has no place in "
            "transformers' CLIPModel; use --format=vitjax"
        )
    return name


def _ambiguous(text: Any) -> bool:
    """Whether transformers would take the id of the end of text for the sign of the old pooling."""
    return text.pool == "eos" and text.eos_id == ARGMAX_EOS_ID


def _differences(config: Any, form: Mapping[str, Mapping[str, Any]]) -> Any:
    for section, wanted in form.items():
        for key, value in wanted.items():
            found = config[section][key] if key in tuple(config[section]) else None
            if found != value:
                yield f"config.{section}.{key}={value!r}, not {found!r}"
    if form is FORMS["siglip"] and config.towers.bias is None:
        yield "a number for config.towers.bias, not None"


def _config(config: Any, form: str, flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """config.json; how many tokens there are, and how many a text has, is seen from the weights."""
    model, text, embed_dim = config.model, config.text, config.towers.embed_dim
    image = _sizes(model) | dict(image_size=config.data.size_px, patch_size=model.patch_px, num_channels=3)
    vocab_size, length = len(flat["params/text/embedding"]), flat["params/text/position"].shape[1]
    words = _sizes(text) | dict(vocab_size=vocab_size, max_position_embeddings=length)
    words["eos_token_id"] = ARGMAX_EOS_ID if form == "clip" and text.pool == "argmax" else text.eos_id
    # Read by tokenizers only; transformers' defaults may be no ids of a small vocabulary.
    words |= dict(bos_token_id=None, pad_token_id=config.data.text_pad)
    whole: dict[str, Any] = dict(model_type=form, architectures=[CLASSES[form]], dtype="float32")
    if form == "clip":
        whole["projection_dim"] = embed_dim
        image["projection_dim"] = words["projection_dim"] = embed_dim
    else:
        words["projection_size"] = embed_dim
    image["model_type"], words["model_type"] = f"{form}_vision_model", f"{form}_text_model"
    return whole | dict(text_config=words, vision_config=image)


def _sizes(tower: Any) -> dict[str, Any]:
    """What transformers calls the settings that every tower has."""
    return dict(
        hidden_size=tower.width,
        num_hidden_layers=tower.depth,
        num_attention_heads=tower.heads,
        intermediate_size=tower.mlp_dim,
        layer_norm_eps=tower.norm_eps,
        hidden_act=ACTIVATIONS[tower.activation],
        attention_dropout=0.0,
    )


def _tower(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """`_sizes` the other way, of the section `name`.

    Raises:
      UserError: an activation that we do not have.
    """
    ours = {theirs: name for name, theirs in ACTIVATIONS.items()}
    if facts["hidden_act"] not in ours:
        activation = facts["hidden_act"]
        raise UserError(f"{CONFIG}: {name}.hidden_act={activation!r} is not known; choose from {', '.join(ours)}")
    return dict(
        width=facts["hidden_size"],
        depth=facts["num_hidden_layers"],
        heads=facts["num_attention_heads"],
        mlp_dim=facts["intermediate_size"],
        norm_eps=facts["layer_norm_eps"],
        activation=ours[facts["hidden_act"]],
    )


def _preprocessor(data: Any) -> dict[str, Any]:
    """preprocessor_config.json: the evaluation view. transformers resizes with Pillow, so pixels differ a little."""
    resized = augment.resized_px(data.size_px, data.eval_crop_fraction)
    squash = data.eval_aspect == "squash"
    return dict(
        image_processor_type="CLIPImageProcessor",
        do_convert_rgb=True,
        do_resize=True,
        size=dict(height=resized, width=resized) if squash else dict(shortest_edge=resized),
        resample=RESAMPLE[data.resize],
        do_center_crop=True,
        crop_size=dict(height=data.size_px, width=data.size_px),
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(data.mean),
        image_std=list(data.std),
    )


def _pixels(kind: str, facts: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """`_preprocessor` the other way, over what the published models have.

    Raises:
      UserError: pictures are made in a way that we do not have, or not for this model.
    """
    pixels = published.CLIP_PIXELS if kind == "clip" else published.SIGLIP_PIXELS
    side, patch_px = image["image_size"], image["patch_size"]
    # Of pictures of 384 px patches of 14 px cover 378; transformers passes over the rest, and ours are made as small.
    pixels = pixels | dict(size_px=side // patch_px * patch_px)
    if not facts:
        return pixels
    left_out = [step for step in ("do_resize", "do_rescale", "do_normalize") if not facts.get(step, True)]
    if left_out:
        raise UserError(f"{PREPROCESSOR}: {left_out[0]}=false; pictures of vitjax are resized, in 0..1 and normalised")
    names = {number: name for name, number in RESAMPLE.items()}
    resample = facts.get("resample", RESAMPLE["bicubic"])
    if resample not in names:
        raise UserError(f"{PREPROCESSOR}: resample={resample} is not known; choose from {RESAMPLE}")
    clip = kind == "clip"
    resized, squash = _resized(facts.get("size", side if clip else dict(height=side, width=side)))
    cropped = facts.get("do_center_crop", clip)
    cut = _resized(facts.get("crop_size", side))[0] if cropped else resized
    if cut != side or not (cropped or squash):
        raise UserError(
            f"{PREPROCESSOR}: size={facts.get('size')} with crop_size={facts.get('crop_size')} does not give pictures "
            f"of {side} x {side} px, which is what the model sees ({CONFIG}: vision_config.image_size)"
        )
    return pixels | dict(
        mean=tuple(facts.get("image_mean", pixels["mean"])),
        std=tuple(facts.get("image_std", pixels["std"])),
        resize=names[resample],
        eval_crop_fraction=cut / resized,
        eval_aspect="squash" if squash else "keep",
    )


def _resized(size: Any) -> tuple[int, bool]:
    """The side that pictures are resized to, and whether both are; a number alone is the short side, as in old files.

    Raises:
      UserError: no square and no short side.
    """
    if isinstance(size, int):
        return size, False
    found = size if isinstance(size, Mapping) else {}
    for side, squash in ((found.get("shortest_edge"), False), (found.get("height"), True)):
        if isinstance(side, int) and (not squash or found.get("width") == side):
            return side, squash
    raise UserError(f"{PREPROCESSOR}: a size of {size} is no square and no short side, such as shortest_edge=224")
