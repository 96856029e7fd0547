"""Configs: the sections that every experiment has, and the proof that each key is read.

An experiment is a file with `get_config(arg='') -> ConfigDict`. It starts from `base_config()` and sets what
the experiment is about. Defaults live here and in the file, never in the code that reads them, and
`Tracked` finds the key that nothing reads: a setting without effect is an error, not a surprise.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from vitjax.errors import UserError

# At most these in a tiny form, at any depth of a section; 0 and () are 'none' and stay so.
_AT_MOST = dict(widths=32, head_widths=32, prototypes=16, queue=32)
_AT_MOST |= dict(ch=4, shared_width=8, attention_px=16, discriminator_steps=2, standing_passes=2, standing_batch=8)
# What networks have in a tiny form, where it is not a transformer's width and depth.
_TINY_NETWORKS = dict(
    resnet=dict(depth=10, width=8),
    vgg=dict(depth=11, width=8),
    clip_resnet=dict(blocks=(1, 1, 1, 1)),
    dcgan=dict(width=4),
)


def base_config() -> ml_collections.ConfigDict:
    """The settings that every experiment has, with their defaults; `model` and `objective` are its own."""
    c = ml_collections.ConfigDict()
    c.seed = 0  # of the weights, the order and every draw
    c.batch_size = 256  # pictures a step, of all devices together
    # The length of the run: steps win over epochs.
    c.total_steps = config_dict.placeholder(int)
    c.total_epochs = config_dict.placeholder(float)
    c.dtype = "auto"  # 'auto' is bfloat16 on accelerators and float32 on CPUs
    c.accum = 1  # micro-batches a step
    c.embed_chunks = 1  # of losses that compare pictures: pieces of the batch that are embedded one after the other
    c.loss_chunks = 1  # and pieces of the matrix of their similarities
    # An update whose loss or gradient is not finite is left out; then 'skip' goes on, 'stop' ends the run, and
    # 'rewind' goes back to the last checkpoint and leaves the batch out, at most `max_rewinds` times.
    c.nonfinite = "skip"
    c.max_rewinds = 5
    c.grace_s = 25.0  # from a signal to the end; schedulers give 30 s
    c.watchdog_s = 1800.0  # the longest silence before a run that hangs is ended; 0 is never
    c.preempted_exit_code = 143  # after SIGTERM; tools/launch/ starts such a run again

    c.data = d = ml_collections.ConfigDict()
    d.source = "auto"  # 'auto' decides by what lies at `path`; or a file of vitjax/data/sources/
    d.path = ""  # a folder, file or URL (gs://, s3://, https://)
    d.split = "train"
    d.builtin = ""  # 'scenes' or 'digits', where there is no path
    d.tfds = ""  # a TensorFlow Datasets name, such as 'imagenet2012', where there is no path or below it
    d.fields = ()  # beside the labels: 'text', 'boxes', 'mask'
    d.image_column = ""  # of tables; '' and () are the usual names
    d.label_columns, d.text_columns = (), ()
    d.captions, d.text_length = 1, 77  # captions drawn a picture, and tokens of each
    d.tokenizer = "bytes"  # or 'clip:PATH', 'hf:PATH', 'sentencepiece:PATH', of a vocabulary's file or folder
    d.text_clean = ""  # before it: 'lower', or 'canonical' (without punctuation too); CLIP's own cleans by itself
    d.text_pad = config_dict.placeholder(int)  # the id that fills up a text; None: what the vocabulary says
    d.max_boxes = 100  # a picture; of more the first ones stay
    d.mix = ml_collections.ConfigDict()  # {name: mix_part(path=..., weight=...)} of source 'mix'
    d.max_pixels = 178_956_970  # a picture with more is a bad record: half a gigabyte as RGB
    d.max_bad_fraction = 0.1  # of the records that were met; more bad ones end the run
    d.cache_gb = 50.0  # for copies of remote files that must be local, in `cache_dir`
    d.size_px = 224
    d.canvas_px = 0  # the decoded picture's longest side; 0 is twice `size_px`
    d.crop = "device"  # 'host' crops while decoding: cheaper where one crop a picture is all that is needed
    d.resize = "bicubic"
    d.eval_crop_fraction = 0.875  # of the resized picture's short side, cut out of its middle
    d.eval_aspect = "keep"  # or 'squash': evaluation makes both sides as long as the short one, as SigLIP sees pictures
    d.mean = (0.485, 0.456, 0.406)
    d.std = (0.229, 0.224, 0.225)
    d.workers = -1  # -1 chooses; 0 decodes in threads; n > 0 in processes
    d.seed = 0  # of the built-in world
    d.train_examples = 50_000  # drawn by the built-in world
    d.eval_examples = 5_000
    d.cache_dir = ""

    c.augment = ml_collections.ConfigDict()
    c.augment.crop_area = (0.2, 1.0)  # of a random crop, as a share of the picture's
    c.augment.crop_aspect = (3 / 4, 4 / 3)
    c.augment.flip = 0.5  # how often
    # {name: view(...)} of methods that compare views; see vitjax/policies.py. Methods with one view take one from
    # here, or without any that of the settings above.
    c.augment.views = ml_collections.ConfigDict()

    c.optim = o = ml_collections.ConfigDict()
    o.name = "adamw"  # or 'lars', 'sgd'
    o.base_lr = 1e-3
    o.base_batch = 256  # peak rate = base_lr * batch_size / base_batch; 0: base_lr is the peak rate
    o.schedule = "cosine"  # or 'constant', 'rsqrt'
    o.warmup_steps = config_dict.placeholder(int)
    o.warmup_epochs = config_dict.placeholder(float)
    o.start_lr, o.end_lr = 0.0, 0.0  # before the warm-up and at the end of the run, whatever the batch
    o.timescale_steps = 10_000  # of 'rsqrt'
    o.cooldown_steps = 0
    # Patterns: regular expressions, found anywhere in a parameter's path, such as 'backbone/block_03/mlp/fc1/kernel'.
    o.rate_scales = ()  # pairs of a pattern and the factor of its rates, such as (('(bias|scale)$', 0.024),)
    o.constant_rate = ()  # patterns of what keeps the peak rate, without warm-up and schedule
    o.frozen = ()  # patterns of what never moves
    o.held = ()  # patterns of what does not move in the first `held_steps` or `held_epochs`
    o.held_steps = config_dict.placeholder(int)
    o.held_epochs = config_dict.placeholder(float)
    o.weight_decay = 0.05
    o.end_weight_decay = config_dict.placeholder(float)  # where a cosine leads the decay; None: it is constant
    o.no_decay = ()  # patterns of what is not decayed, and not adapted by LARS
    o.decay_vectors = False  # whether biases and norms are, too; the form 'larc' always does
    o.b1, o.b2, o.eps = 0.9, 0.95, 1e-8  # AdamW
    o.momentum, o.nesterov = 0.9, False  # SGD and LARS
    o.trust_coefficient, o.form = 1e-3, "simclr"  # LARS; or 'byol', 'larc', 'solo', see vitjax/lars.py
    o.clip, o.clip_norm = "global", 0.0  # or 'per_tensor'; a norm of 0 is off
    o.layer_decay = 1.0  # 1 is off

    c.model = ml_collections.ConfigDict()
    c.objective = ml_collections.ConfigDict()

    c.mesh = ml_collections.ConfigDict(dict(data=1, fsdp=-1, tensor=1))  # devices along the axis; -1 is all the rest
    c.init = ml_collections.ConfigDict(dict(backbone=""))  # a run or an export to take this part of the weights from
    c.checkpoint = ml_collections.ConfigDict()
    c.checkpoint.every_steps = 1000  # and at the end, before an evaluation, and when the run is stopped
    c.checkpoint.keep = 2  # of the newest; 0 keeps all
    c.checkpoint.keep_every_steps = 0  # beside the newest `keep`, each that lies on this period; 0 is none
    c.checkpoint.keep_best = ""  # and the one that is best by this metric, such as 'eval/linear/accuracy'
    c.checkpoint.keep_best_mode = "max"  # or 'min'
    # A linear head beside the method, on its features and these labels; '' is none.
    c.probe = ml_collections.ConfigDict(dict(field="", lr=1e-3))
    c.alarms = a = ml_collections.ConfigDict()  # what a run says of itself when it looks ill; 0 turns one off
    a.chance = 0.02  # the loss lies within this share of chance, and does not fall
    a.collapse = 0.15  # the spread of features or embeddings, of 1, once it is a quarter of what it was
    a.codes = 0.99  # the entropy of a picture's code, of that of a code that takes all prototypes alike
    a.modes = 0.15  # how far made pictures are from their like, in the same of real ones
    a.won = 30.0  # the norm of the generator's gradient, in that of the discriminator's
    a.starved = 0.3  # the share of the time that is spent waiting for data
    a.exploding = 100.0  # the gradient's norm, in its own running medians
    a.dead = 1e-7  # the gradient's norm
    a.refused = 5  # updates of 100 that were not finite
    c.log = ml_collections.ConfigDict(dict(every_steps=50, pictures_every_steps=0))  # 0: at the end of the run only
    c.profile = ml_collections.ConfigDict(dict(start_step=-1, steps=3))  # a trace of so many steps; -1: none
    c.evals = ml_collections.ConfigDict()
    return c


def mix_part(**changes: Any) -> ml_collections.ConfigDict:
    """One part of `config.data.mix`: where its pictures are, what they have, and its weight.

    Whatever else `config.data` holds is the same for all parts.
    """
    settings = dict(
        weight=1.0,  # the part's share is weight / sum of weights
        source="auto",
        path="",
        split="",  # '' is the split that is asked of the mix
        builtin="",
        tfds="",
        image_column="",
        label_columns=(),
        text_columns=(),
        fields=config_dict.placeholder(tuple),  # None: those of the mix
    )
    return ml_collections.ConfigDict(settings | changes)


def view(**changes: Any) -> ml_collections.ConfigDict:
    """One entry of `config.augment.views`: a random crop, and then what follows here, in this order."""
    settings = dict(
        count=1,  # so many views by the same settings, each with draws of its own
        size_px=0,  # of the crop when resized; 0 is `config.data.size_px`
        crop_area=(0.08, 1.0),
        crop_aspect=(3 / 4, 4 / 3),
        flip=0.5,  # how often, as are `jitter`, `grey`, `blur` and `solarise`
        jitter=0.0,
        brightness=0.0,  # the largest deviation of a factor from 1
        contrast=0.0,
        saturation=0.0,
        hue=0.0,  # in turns
        jitter_form="torchvision",  # or 'simclr', 'byol'; see vitjax/augment/colour.py
        grey=0.0,
        blur=0.0,
        blur_sigma=(0.1, 2.0),  # in pixels
        blur_px=0,  # the kernel's side; 0 is a tenth of the view's, made odd
        blur_edge="zero",  # what lies around the view: 'zero', or 'repeat' its last pixel
        solarise=0.0,
        solarise_threshold=0.5,
    )
    return ml_collections.ConfigDict(settings | changes)


def mlp_head(**changes: Any) -> ml_collections.ConfigDict:
    """The settings of a projector or predictor; see `vitjax.models.heads` and `vitjax.published_heads`."""
    settings = dict(
        widths=(2048, 256),  # of each layer's output
        hidden_norm=True,  # batch norm, after all layers but the last
        hidden_bias=False,
        out_bias=False,
        out_norm="none",  # or 'affine', 'no_centre', 'no_affine'
        activation="relu",  # or 'gelu'
        kernel_init="fan_in_uniform",  # or 'fan_in_normal', 'normal'
        init_std=0.01,  # of 'normal'
    )
    return ml_collections.ConfigDict(settings | changes)


def dino_head(**changes: Any) -> ml_collections.ConfigDict:
    """The settings of DINO's head: an MLP without norms, then prototypes."""
    settings = dict(hidden_norm=False, hidden_bias=True, out_bias=True, activation="gelu", kernel_init="normal")
    settings |= dict(init_std=0.02, prototypes=65_536, norm_last_layer=True)
    return mlp_head(**settings | changes)


def knn_eval(**changes: Any) -> ml_collections.ConfigDict:
    """The settings of the evaluator `knn`; see `vitjax.evals.knn`."""
    return _eval("knn", **dict(k=20, temperature=0.07) | changes)


def linear_eval(**changes: Any) -> ml_collections.ConfigDict:
    """The settings of the evaluator `linear`; see `vitjax.evals.linear`."""
    return _eval("linear", **changes)


def accuracy_eval(**changes: Any) -> ml_collections.ConfigDict:
    """The settings of the evaluator `accuracy`; see `vitjax.evals.accuracy`."""
    settings = dict(name="accuracy", every_steps=0, eval_split="test", fields=("label",), eval_examples=0)
    return ml_collections.ConfigDict(settings | dict(baselines=()) | changes)


def zero_shot_eval(**changes: Any) -> ml_collections.ConfigDict:
    """The settings of the evaluator `zero_shot`; see `vitjax.evals.zero_shot`."""
    settings = dict(
        name="zero_shot",
        every_steps=0,
        eval_split="test",
        fields=("label",),
        eval_examples=0,
        classes="",  # a file with the classes' names, one a line; '' is those of the data
        templates="",  # a file with prompts, one a line with {} for the name
        sentences=(),  # or the prompts themselves; without either, seven of CLIP's
        baselines=(),
    )
    return ml_collections.ConfigDict(settings | changes)


def retrieval_eval(**changes: Any) -> ml_collections.ConfigDict:
    """The settings of the evaluator `retrieval`; see `vitjax.evals.retrieval`."""
    settings = dict(
        name="retrieval",
        every_steps=0,
        eval_split="test",
        eval_examples=0,
        captions=5,  # of a picture; of more the first ones count
        baselines=(),
    )
    return ml_collections.ConfigDict(settings | changes)


def fid_eval(**changes: Any) -> ml_collections.ConfigDict:
    """The settings of the evaluator `fid`; see `vitjax.evals.fid`."""
    return _generation_eval("fid", **changes)


def kid_eval(**changes: Any) -> ml_collections.ConfigDict:
    """The settings of the evaluator `kid`; see `vitjax.evals.kid`."""
    return _generation_eval("kid", **dict(subsets=100, subset_size=1000) | changes)


def inception_score_eval(**changes: Any) -> ml_collections.ConfigDict:
    """The settings of the evaluator `inception_score`; `features` must be a network that classifies."""
    return _generation_eval("inception_score", **dict(features="", parts=10) | changes)


def precision_recall_eval(**changes: Any) -> ml_collections.ConfigDict:
    """The settings of the evaluator `precision_recall`; see `vitjax.evals.precision_recall`."""
    return _generation_eval("precision_recall", **dict(k=3) | changes)


EVALS: dict[str, Callable[..., ml_collections.ConfigDict]] = {
    "knn": knn_eval,
    "linear": linear_eval,
    "accuracy": accuracy_eval,
    "zero_shot": zero_shot_eval,
    "retrieval": retrieval_eval,
    "fid": fid_eval,
    "kid": kid_eval,
    "inception_score": inception_score_eval,
    "precision_recall": precision_recall_eval,
}
DEFAULT_EVALS = ("knn", "linear")  # of `python -m vitjax.evaluate` for a run whose config names none


def _generation_eval(name: str, **changes: Any) -> ml_collections.ConfigDict:
    settings = dict(
        name=name,
        every_steps=0,
        eval_split="train",  # of the real pictures; published figures are against the training set
        eval_examples=0,  # 0: all
        samples=10_000,  # made pictures; published figures have 50,000
        # By what pictures are compared: 'pixels8', 'inception:FILE', or the path of a run or an export.
        features="pixels8",
        baselines=("random_init",),
    )
    return ml_collections.ConfigDict(settings | changes)


def _eval(name: str, **changes: Any) -> ml_collections.ConfigDict:
    settings = dict(
        name=name,
        every_steps=0,  # 0: at the end of the run only; -1: never
        train_split="train",
        eval_split="test",
        fields=("label",),
        train_examples=0,  # 0: all
        eval_examples=0,
        baselines=("random_init", "raw_pixels"),
    )
    return ml_collections.ConfigDict(settings | changes)


def form(
    config: ml_collections.ConfigDict, arg: str, **forms: Callable[[ml_collections.ConfigDict], None]
) -> ml_collections.ConfigDict:
    """The config in the form that was asked for: '' as it is, 'tiny' offline and in seconds, or one of its own.

    Tiny keeps the method, the optimiser and the augmentation, and shrinks data, network and length.

    Args:
      forms: name -> what changes the config into that form, such as cpu=for_two_cores.

    Raises:
      UserError: there is no such form.
    """
    if arg == "":
        return config
    if arg in forms:
        forms[arg](config)
        return config
    if arg != "tiny":
        known = ", ".join(f"':{name}'" for name in ("tiny", *forms))
        raise UserError(f"the config has no form {arg!r}; leave it out, or use {known}")
    config.total_steps, config.batch_size = 2, 16
    config.embed_chunks, config.loss_chunks = min(config.embed_chunks, 2), min(config.loss_chunks, 2)
    config.optim.warmup_steps = 1
    if config.optim.held:
        config.optim.held_steps = 1
    d = config.data
    for entry in config.augment.views.values():
        # In proportion, in whole patches: 224 and 96 become 32 and 16.
        entry.size_px = -(-entry.size_px * 32 // d.size_px // 8) * 8
    d.source, d.path, d.builtin, d.size_px = "auto", "", "scenes", 32
    d.mix = ml_collections.ConfigDict()
    d.train_examples, d.eval_examples, d.workers = 64, 32, 0
    small = dict(width=32, depth=2, heads=2, mlp_dim=64, patch_px=8)
    small |= dict(decoder_width=32, decoder_depth=1, decoder_heads=2)
    small |= _TINY_NETWORKS.get(config.model.name, {})
    for section in [config[name] for name in ("model", "objective", "text") if name in config]:
        section.update({key: value for key, value in small.items() if key in section})
        _shrink(section)
    if "towers" in config:
        config.towers.embed_dim = small["width"]  # towers without a projection have no other
        d.tokenizer, d.text_length = "bytes", 16
        config.text.vocab_size = 259  # of the bytes, whose end is 2
        if config.text.pool != "last":
            config.text.update(pool="eos", eos_id=2)
    for settings in config.evals.values():
        tiny = dict(train_split="train", eval_split="test", samples=32, subsets=2)
        settings.update({k: v for k, v in tiny.items() if k in settings})
    return config


def _shrink(section: ml_collections.ConfigDict) -> None:
    """Makes heads, prototypes and queues small, at any depth of the section."""
    for key, value in section.items():
        if isinstance(value, ml_collections.ConfigDict):
            _shrink(value)
        elif isinstance(value, tuple) and key in _AT_MOST:
            section[key] = tuple(min(width, _AT_MOST[key]) for width in value)
        elif isinstance(value, int) and key in _AT_MOST:
            section[key] = min(value, _AT_MOST[key])


class Tracked(Mapping):
    """A read-only view of a config that remembers which keys were read.

    `config.a.b` reads as of a ConfigDict. Taking a whole section as a mapping (`dict(config.a)`,
    `**config.a`) reads all of it.
    """

    def __init__(self, config: ml_collections.ConfigDict, path: str = "config", read: set[str] | None = None):
        self._config = config
        self._path = path
        self._read = set() if read is None else read

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        path = f"{self._path}.{name}"
        if name not in self._config:
            raise UserError(
                f"{path} is missing; {self._path} has {', '.join(sorted(self._config)) or 'no keys'}"
            )
        value = self._config[name]
        if isinstance(value, ml_collections.ConfigDict):
            return Tracked(value, path, self._read)
        self._read.add(path)
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._config

    def __iter__(self) -> Iterator[str]:
        return iter(self._config)

    def __len__(self) -> int:
        return len(self._config)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain nested dicts; this counts as reading nothing."""
        return self._config.to_dict()

    def unread(self) -> list[str]:
        """The keys that nothing has read so far, as 'config.a.b'."""
        return sorted(set(_leaves(self._config, self._path)) - self._read)

    def _value(self, key: str) -> Any:
        value = self._config
        for name in key.split(".")[1:]:
            value = value[name]
        return value

    def refuse_unread(self, given: Collection[str] = ()) -> None:
        """Nothing, if every key that somebody set for this experiment has been read.

        A default of `base_config` that this experiment has no use for is nobody's mistake; a key that is
        not among them, or that is in `given` (from the command line, as 'config.a.b'), is.

        Raises:
          UserError: such a key was read by nothing, so that its value has no effect.
        """
        defaults = set(_leaves(base_config(), "config")) - set(given)
        unread = [key for key in self.unread() if key not in defaults and self._value(key) is not None]
        if "config.total_epochs" in unread:
            raise UserError(
                f"config.total_epochs={self._config.total_epochs} has no effect beside config.total_steps="
                f"{self._config.total_steps}, which wins; add --config.total_steps=None to count in epochs"
            )
        for key in unread:
            section, _, name = key.rpartition(".")
            if section == "config.augment" and self._config.augment.views:
                own = ", ".join(f"{section}.views.{view}.{name}" for view in self._config.augment.views)
                raise UserError(
                    f"{key}={self._value(key)} has no effect beside config.augment.views, whose views have settings "
                    f"of their own: set {own}"
                )
        if unread:
            these, them = ("these keys", "them") if len(unread) > 1 else ("this key", "it")
            raise UserError(
                f"{', '.join(unread)}: nothing in this experiment reads {these}; remove {them}, or "
                "choose the model, objective, source or evaluator that does"
            )


def _leaves(config: ml_collections.ConfigDict, path: str) -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _leaves(value, f"{path}.{name}")
        else:
            yield f"{path}.{name}"
