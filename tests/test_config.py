"""Settings: every key is read, mistakes are named, and every experiment has a tiny form."""

import pytest

from vitjax import cli
from vitjax.config import Tracked, base_config, dino_head, form
from vitjax.errors import UserError


def test_a_key_that_nothing_reads_is_refused_by_name():
    config = base_config()
    config.data.extra = 3
    tracked = Tracked(config)
    assert tracked.seed == 0
    assert dict(tracked.mesh) == {"data": 1, "fsdp": -1, "tensor": 1}
    assert not {"config.seed", "config.mesh.fsdp"} & set(tracked.unread())
    with pytest.raises(UserError, match=r"^config\.data\.extra: nothing in this experiment reads"):
        tracked.refuse_unread()
    assert tracked.data.extra == 3
    tracked.refuse_unread()


def test_a_default_may_be_unread_but_not_what_the_user_gave():
    tracked = Tracked(base_config())
    tracked.refuse_unread()
    with pytest.raises(UserError, match=r"^config\.optim\.b2"):
        tracked.refuse_unread(given=["config.optim.b2"])


def test_a_missing_key_names_its_section():
    with pytest.raises(UserError, match=r"config\.data\.nothing is missing; config\.data has"):
        Tracked(base_config()).data.nothing  # noqa: B018


@pytest.mark.parametrize(
    "flag, key, value",
    [
        ("--config.total_steps=40", "total_steps", 40),
        ("--config.total_epochs=2.5", "total_epochs", 2.5),
        ("--config.total_steps=None", "total_steps", None),
        ("--config.optim.base_lr=1e-3", "optim.base_lr", 1e-3),
        ("--config.optim.base_lr=-1", "optim.base_lr", -1.0),
        ("--config.mesh.fsdp=-1", "mesh.fsdp", -1),
        ("--config.augment.crop_area=(0.1,0.5)", "augment.crop_area", (0.1, 0.5)),
        ("--config.data.path=a=b", "data.path", "a=b"),
    ],
)
def test_overrides_take_the_type_that_was_there(flag, key, value):
    config = cli.override(base_config(), [flag])
    for part in key.split("."):
        config = config[part]
    assert config == value and type(config) is type(value)


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--config.optim.base_lrr=1", r"no such setting; did you mean 'base_lr'"),
        ("--config.batchsize=1", r"did you mean 'batch_size'"),
        ("--config.batch_size=many", r"--config\.batch_size=many: .* type int"),
        ("--config.batch_size=1e-3", r"type int"),
        ("--config.data=3", r"config\.data.*section"),
        ("--config.seed.x=3", r"config\.seed is a single value"),
    ],
)
def test_a_mistyped_override_names_key_value_and_remedy(flag, message):
    with pytest.raises(UserError, match=message):
        cli.override(base_config(), [flag])


def test_an_unknown_option_names_the_nearest():
    options = cli.parser("vitjax.main", "")
    cli.add_workdir(options, "")
    with pytest.raises(UserError, match=r"--workdri=x: no such option; did you mean '--workdir'"):
        cli.parse(options, ["--workdri=x", "--workdir=y"])
    with pytest.raises(UserError, match="workdir"):
        cli.parse(options, ["--config=a.py"])


def test_a_missing_config_file_is_named():
    with pytest.raises(UserError, match=r"configs/none\.py: there is no such file"):
        cli.load_config(["--config=configs/none.py"])


def test_an_unknown_form_is_refused():
    with pytest.raises(UserError, match="no form 'small'"):
        form(base_config(), "small")


def test_the_tiny_form_shrinks_heads_prototypes_and_queues_and_leaves_out_what_is_out():
    config = base_config()
    config.model.update(dict(name="vgg", depth=16, width=64, head_widths=()))
    config.objective.update(dict(queue=0, bank=dict(queue=3840), prototypes=3000))
    config.objective.projector = dino_head(prototypes=8, widths=(2048, 2048, 16))
    tiny = form(config, "tiny")
    assert tiny.model.to_dict() == dict(name="vgg", depth=11, width=8, head_widths=())
    assert (tiny.objective.queue, tiny.objective.bank.queue, tiny.objective.prototypes) == (0, 32, 16)
    assert (tiny.objective.projector.widths, tiny.objective.projector.prototypes) == ((32, 32, 16), 8)


def test_the_tiny_form_of_a_resnet_is_the_shallowest_and_narrow():
    config = base_config()
    config.model.update(dict(name="resnet", depth=50, width=64))
    assert form(config, "tiny").model.to_dict() == dict(name="resnet", depth=10, width=8)


def test_what_is_asked_of_a_section_counts_as_read_only_when_it_is_taken():
    tracked = Tracked(dino_head())
    assert "prototypes" in tracked and "centre" not in tracked
    assert "config.prototypes" in tracked.unread()
