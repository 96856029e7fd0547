"""What is said before a run starts."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from vitjax import sharding, summary
from vitjax.config import base_config
from vitjax.objective import State


def shape_of(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def table(sizes, devices=8):
    params = {"fc": {"kernel": shape_of(256, 1024), "bias": shape_of(1000)}, "embedding": shape_of(250, 100)}
    block = {"block_00": {"mlp": {"fc1": {"kernel": shape_of(128, 512)}}}}
    state = State(shape_of(dtype=np.int32), params, {"mu": params, "count": shape_of(dtype=np.int32)}, block)
    mesh = sharding.make_mesh(ConfigDict(dict(zip(sharding.AXES, sizes))), jax.devices()[:devices])
    return summary.sharding_table(sharding.abstract(state, mesh), mesh)


def test_sharding_table_says_what_is_split_how_and_what_a_device_holds():
    # 262,144 numbers split over 8; 1,000 too few to split, 250 x 100 not divisible by 8.
    assert table((1, 8, 1)) == """\
          arrays       bytes    a device  layout
params         3     1.15 MB      235 kB  fsdp on 1 of 3 arrays, 91% of bytes; the rest replicated
opt            4     1.15 MB      235 kB  fsdp on 1 of 4 arrays, 91% of bytes; the rest replicated
extra          1      262 kB     32.8 kB  fsdp on 1 of 1 arrays, 100% of bytes
total          8     2.57 MB      503 kB  fsdp on 3 of 8 arrays, 92% of bytes; the rest replicated"""


def test_sharding_table_names_every_layout_in_use():
    mixed = table((2, 2, 2))
    assert "extra          1      262 kB     65.5 kB  fsdp x tensor on 1 of 1 arrays, 100% of bytes" in mixed
    assert "fsdp on 4 of 8 arrays, 89% of bytes; fsdp x tensor on 1 of 8 arrays, 10% of bytes" in mixed
    assert table((8, 1, 1)).count("  replicated") == 4


def test_one_device_gets_a_line():
    assert table((1, 1, 1), devices=1) == "2.57 MB on one device"


class Source:
    def __init__(self, text):
        self._text = text

    def __len__(self):
        return 1200

    def __repr__(self):
        return self._text


@pytest.mark.parametrize(
    "text, said",
    [
        ("FolderSource('/my/x, y', 1200 pictures)", "1,200 pictures in /my/x, y (folder), 3 kB each"),
        ("ParquetSource('/x', 1200 rows in 3 files)", "1,200 pictures in /x (parquet), 3 kB each"),
        ("the built-in scenes (train, 32 px)", "1,200 pictures of the built-in scenes (train, 32 px), 3 kB each"),
    ],
)
def test_the_pictures_are_told_in_a_sentence(text, said):
    run = SimpleNamespace(batch_size=8, batch_spec={"image": shape_of(8, 32, 32, 3, dtype=np.uint8)})
    assert summary._data(Source(text), run).startswith(said)


def test_rates_decay_and_what_stands_still_are_told():
    config = base_config()
    run = SimpleNamespace(batch_size=512, total_steps=1000, steps_per_epoch=78.25)
    assert summary._still(config, run) == {} and summary._decay(config, run) == "0.05"
    config.optim.update(dict(base_lr=0.3, start_lr=3e-5, warmup_epochs=4.0, end_weight_decay=0.4))
    config.optim.update(dict(frozen=("backbone/patch",), held=("prototypes", "last"), held_epochs=4.0))
    assert summary._rates(config, run) == "base 0.3, peak 0.6 after 313 steps from 3e-05"
    assert summary._decay(config, run) == "0.05 to 0.4, by a cosine"
    said = "backbone/patch never moves; prototypes, last held for 313 steps"
    assert summary._still(config, run) == {"still": said}
