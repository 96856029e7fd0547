"""Sets of TensorFlow Datasets, prepared as array_record and read without TensorFlow.

What TensorFlow Datasets says of a set (features, splits, class names) comes from it; the records are read as those
of any other array_record file, pictures undecoded, which takes a fifth of the time of its own reader.
"""

import functools
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from vitjax.data import files, local_copies, tf_example
from vitjax.data.sources.array_record import ArrayRecordSource, Shard
from vitjax.data.splits import NoSuchSplit, canonical, check_path
from vitjax.errors import UserError

_INFO = "dataset_info.json"
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_WORD = re.compile(r"\b[A-Za-z_]\w*")
_FORMAT = "array_record"


def make(data: Any, split: str) -> ArrayRecordSource:
    """The split, such as 'train' or 'train[10:30]', of the set that `data.tfds` names or that `data.path` holds.

    With both, `data.path` is the folder in which TensorFlow Datasets keeps its sets; without a path that is
    $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: the set is not there, is in a form that only TensorFlow reads, or has no such split or feature.
    """
    path = os.path.expanduser(str(data.path))
    root = path or os.environ.get("TFDS_DATA_DIR") or os.path.expanduser("~/tensorflow_datasets")
    if not data.tfds or path:
        check_path(path)
    folder = find(root, data.tfds) or (find(path, "") if path else None)
    if folder is None:
        raise UserError(_absent(data.tfds, root))
    builder = _builder(folder, data)
    shards = _shards(builder, split, folder)
    if files.is_remote(folder):
        urls = [files.join(folder, os.path.basename(shard.filename)) for shard in shards]
        copies = local_copies.ensure(urls, data.cache_dir, data.cache_gb)
        shards = [shard._replace(filename=copy) for shard, copy in zip(shards, copies)]
    found = _features(builder.info.features, data)
    decode = functools.partial(tf_example.decode, columns=found.columns)
    asked = {"text": ("text",) * bool(found.columns.text), "boxes": ("boxes", "box_label") * bool(found.columns.boxes)}
    fields = (*found.columns.labels, *(name for field in data.fields for name in asked.get(field, ())))
    names = {field: names for field, names in found.class_names.items() if field in fields}
    return ArrayRecordSource(folder, shards, decode, fields, names)


def holds(path: str) -> bool:
    """Whether the path is a set that TensorFlow Datasets prepared, or holds versions of one."""
    return find(path, "") is not None


def find(root: str, name: str) -> str | None:
    """The folder of the newest version of the set 'name', 'name/config' or 'name:1.2.3' below `root`, or None.

    With no name, `root` is itself the set or that of its versions.

    Raises:
      UserError: it has several configs, of which none is named.
    """
    name, _, version = name.partition(":")
    folder = files.join(root, name) if name else root
    if version:
        folder = files.join(folder, version)
    if not files.is_folder(folder):
        return None
    if files.exists(files.join(folder, _INFO)):
        return folder
    inner = dict(files.folders(folder))
    versions = [tuple(map(int, inside.split("."))) for inside in inner if _VERSION.fullmatch(inside)]
    if versions:
        return find(folder, ".".join(map(str, max(versions))))
    if not name or "/" in name:
        return None
    configs = {inside: found for inside in inner if (found := find(folder, f"{inside}/"))}
    if len(configs) > 1:
        raise UserError(
            f"config.data.tfds={name!r} has the configs {', '.join(configs)} in {root}; name one, "
            f"{name}/{next(iter(configs))}"
        )
    return next(iter(configs.values()), None)


def _absent(name: str, root: str) -> str:
    """What to do where the set is not there."""
    if not name:
        return f"config.data.path={root} holds no set of TensorFlow Datasets: there is no {_INFO}"
    by_hand = ""
    if name.startswith("imagenet2012"):
        by_hand = (
            "lay ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (image-net.org) into "
            f"{files.join(root, 'downloads/manual')} and run "
        )
    return (
        f"config.data.path is empty, and config.data.tfds={name!r} is not prepared in {root}. Name your own pictures "
        "with --config.data.path=DIR (a folder of pictures; where there are labels, one folder a class), or draw some "
        "with --config.data.builtin=scenes, or prepare the set once, where TensorFlow is installed: "
        f"{by_hand}tfds build {name} --file_format={_FORMAT} --data_dir={root}"
    )


def _builder(folder: str, data: Any) -> Any:
    """The description of the set by TensorFlow Datasets."""
    import tensorflow_datasets as tfds  # takes a second, and few need it

    there = files.scan(folder)[0]
    local = folder
    if files.is_remote(folder):
        small = [entry.path for entry in there if entry.name.endswith((".json", ".txt"))]
        local = os.path.dirname(local_copies.ensure(small, data.cache_dir, data.cache_gb)[0])
    # A set may be there in several forms.
    is_readable = any(f".{_FORMAT}-" in entry.name for entry in there)
    if not is_readable:
        raise UserError(
            f"{folder} was not prepared as {_FORMAT}, and other forms are read by TensorFlow only; make one of it, "
            f"once, where TensorFlow is installed: tfds convert_format --dataset_version_dir={folder} "
            f"--out_file_format={_FORMAT}"
        )
    return tfds.builder_from_directory(local, file_format=_FORMAT)


def _shards(builder: Any, split: str, folder: str) -> list[Shard]:
    splits = builder.info.splits
    own = {canonical(name): name for name in splits}
    asked = _WORD.sub(lambda word: own.get(canonical(word[0]), word[0]), split)
    try:
        parts = splits[asked].file_instructions
    except (KeyError, ValueError) as error:
        there = ", ".join(f"{name!r} ({info.num_examples:,})" for name, info in splits.items())
        raise NoSuchSplit(
            f"the split {split!r} is not in {folder}, which has {there}; set config.data.split (training) or "
            "config.evals.<name>.train_split and eval_split to one of these, or to a part such as 'train[:90%]'; "
            "config.evals.<name>.every_steps=-1 switches an evaluator off"
        ) from error
    if not parts:
        raise UserError(f"the split {split!r} of {folder} is empty")
    return [Shard(str(p.filename), p.skip, p.take, p.examples_in_shard) for p in parts]


class _Found(NamedTuple):
    columns: tf_example.Columns
    class_names: Mapping[str, tuple[str, ...]]


def _features(features: Any, data: Any) -> _Found:
    """Which features hold what, by their kinds and by the config."""
    import tensorflow_datasets as tfds

    flat = dict(_flat(features))
    classes = [n for n, f in flat.items() if isinstance(f, tfds.features.ClassLabel)]
    pictures = [n for n, f in features.items() if isinstance(f, tfds.features.Image)]
    image = _chosen("image_column", [data.image_column] * bool(data.image_column), pictures) or pictures[:1]
    if not image:
        raise UserError(f"config.data.tfds: the set has no pictures; its features are {', '.join(flat)}")
    labels = _chosen("label_columns", data.label_columns, classes) or [n for n in classes if "/" not in n]
    texts = [n for n, f in flat.items() if isinstance(f, tfds.features.Text)]
    text = _chosen("text_columns", data.text_columns, texts) or [n for n in tf_example.TEXT if n in texts][:1]
    boxes, box_label = _boxes(flat, classes, tuple(data.fields))
    fields = {"label": labels[0]} if len(labels) == 1 else {n if n == "label" else f"label/{n}": n for n in labels}
    names = {field: tuple(flat[name].names) for field, name in fields.items()}
    if box_label:
        names["box_label"] = tuple(flat[box_label].names)
    return _Found(tf_example.Columns(image[0], fields, tuple(text), boxes, box_label), names)


def _flat(features: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, feature) of all features, those in a list or dictionary by their path, as a record has them."""
    for name, feature in features.items():
        inner = getattr(feature, "feature", feature)
        if hasattr(inner, "items"):
            yield from _flat(inner, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", inner


def _chosen(key: str, named: Any, there: list[str]) -> list[str]:
    for name in named:
        if name not in there:
            raise UserError(
                f"config.data.{key}={name!r} is no such feature of the set, which has {', '.join(there) or 'none'}"
            )
    return list(named)


def _boxes(flat: Mapping[str, Any], classes: list[str], asked: tuple[str, ...]) -> tuple[str, str]:
    """The features of boxes and of what is in them, '' and '' where there are none."""
    import tensorflow_datasets as tfds

    boxes = [n for n, f in flat.items() if isinstance(f, tfds.features.BBoxFeature) and "/" in n]
    if "boxes" not in asked or not boxes:
        return "", ""
    form = flat[boxes[0]].bbox_format
    if form is not None and form.value != "REL_YXYX":
        raise UserError(
            f"config.data.fields={asked}: the boxes {boxes[0]!r} are {form.value} and not (y0, x0, y1, x1) in 0..1, "
            "which are all that is read; leave 'boxes' out"
        )
    label = [n for n in classes if n.rpartition("/")[0] == boxes[0].rpartition("/")[0]]
    if not label:
        raise UserError(f"config.data.fields={asked}: the boxes {boxes[0]!r} have no classes; leave 'boxes' out")
    return boxes[0], label[0]
