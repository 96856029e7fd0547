"""What is said before a run starts."""

import jax
import numpy as np
from ml_collections import ConfigDict

from vitjax import sharding, summary
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
