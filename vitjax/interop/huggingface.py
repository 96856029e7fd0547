"""A CLIP or a SigLIP as the files of a directory that `transformers` opens, and its settings out of one.

transformers itself is not needed. The tokenizer is not among the files: which one a model was trained with is in
`config.data.tokenizer`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vitjax.errors import UserError
from vitjax.interop import table, two_towers
from vitjax.interop.table import Row
from vitjax.models import published
from vitjax.models import two_towers as towers_model

ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers
# With this id transformers pools the largest id instead of the first `eos_token_id`, as OpenAI's code does.
ARGMAX_EOS_ID = 2
SIGLIP_EOS_ID = 1

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
    rows = two_towers.rows(towers_model.make(config.model, config.text, config.towers), f"hf_{form}")
    tensors = table.write(flat, rows)
    length = flat["params/text/position"].shape[1]
    facts = {"config.json": _config(config, form, length), "preprocessor_config.json": _preprocessor(config.data)}
    return Files(facts, tensors, rows)


def settings(facts: Mapping[str, Any]) -> published.Settings:
    """The sections `data`, `model`, `text` and `towers` of the model that a config.json of transformers describes.

    Every number must stand in the file: many published ones leave out what was a default of their day, and are
    to be written whole first (`AutoConfig.from_pretrained(dir).to_dict()` has all of it).

    Raises:
      UserError: it is of another model, or a number is missing.
    """
    kind = facts.get("model_type")
    if kind not in FORMS:
        raise UserError(f"config.json is of model_type={kind!r}; known are {', '.join(FORMS)}")
    image, text = (_Facts(facts.get(f"{x}_config", {}), f"{x}_config") for x in ("vision", "text"))
    clip, forms = kind == "clip", FORMS[kind]
    # SigLIP's texts are their last token's; its config.json has CLIP's end by default, which is no token of its own.
    eos = text["eos_token_id"] if clip else SIGLIP_EOS_ID
    text_settings = _tower(text) | dict(vocab_size=text["vocab_size"], eos_id=eos, **forms["text"])
    if clip:
        legacy = eos == ARGMAX_EOS_ID
        text_settings |= dict(pool="argmax" if legacy else "eos", inits="clip")
        text_settings["eos_id"] = text["vocab_size"] - 1 if legacy else eos
    else:
        text_settings["inits"] = "xavier"
    towers = forms["towers"] | dict(embed_dim=facts["projection_dim"] if clip else image["hidden_size"])
    towers |= dict(scale=1 / 0.07) if clip else dict(scale=10.0, bias=-10.0)
    pixels = published.CLIP_PIXELS if clip else published.SIGLIP_PIXELS
    return dict(
        data=dict(size_px=image["image_size"], text_length=text["max_position_embeddings"], **pixels),
        model=forms["model"] | _tower(image) | dict(patch_px=image["patch_size"], drop_path=0.0),
        text=text_settings,
        towers=towers,
    )


class _Facts:
    """A section of a config.json in which nothing may be missing."""

    def __init__(self, facts: Mapping[str, Any], name: str):
        self._facts, self._name = facts, name

    def __getitem__(self, key: str) -> Any:
        if key not in self._facts:
            raise UserError(
                f"{self._name}.{key} is missing in config.json; write it whole, as "
                "transformers.AutoConfig.from_pretrained(dir).to_dict() gives it"
            )
        return self._facts[key]


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
    # SigLIP's class has no projection, so that both towers have the width of the embedding, and a bias.
    if form is FORMS["siglip"]:
        if config.towers.bias is None:
            yield "a number for config.towers.bias, not None"
        if config.text.width != config.towers.embed_dim:
            yield f"config.text.width={config.towers.embed_dim}, not {config.text.width}"


def _config(config: Any, form: str, length: int) -> dict[str, Any]:
    """config.json; `length` is that of the texts."""
    model, text, embed_dim = config.model, config.text, config.towers.embed_dim
    image = _sizes(model) | dict(image_size=config.data.size_px, patch_size=model.patch_px, num_channels=3)
    words = _sizes(text) | dict(vocab_size=text.vocab_size, max_position_embeddings=length)
    words["eos_token_id"] = ARGMAX_EOS_ID if form == "clip" and text.pool == "argmax" else text.eos_id
    # Read by tokenizers only; transformers' defaults may be no ids of a small vocabulary.
    words |= dict(bos_token_id=None, pad_token_id=None)
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


def _tower(facts: Any) -> dict[str, Any]:
    """`_sizes` the other way.

    Raises:
      UserError: an activation that we do not have.
    """
    ours = {theirs: name for name, theirs in ACTIVATIONS.items()}
    if facts["hidden_act"] not in ours:
        raise UserError(f"hidden_act={facts['hidden_act']!r} is not known; choose from {', '.join(ours)}")
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
    short_side = int(data.size_px / data.eval_crop_fraction)
    return dict(
        image_processor_type="CLIPImageProcessor",
        do_convert_rgb=True,
        do_resize=True,
        size=dict(shortest_edge=short_side),
        resample=RESAMPLE[data.resize],
        do_center_crop=True,
        crop_size=dict(height=data.size_px, width=data.size_px),
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(data.mean),
        image_std=list(data.std),
    )
