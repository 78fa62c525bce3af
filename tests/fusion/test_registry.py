"""Names, options and labels."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.fusion.routing.moa import Moa


def test_every_method_says_what_it_is() -> None:
    assert {"base", "oracle", "moa", "concat", "weight_sum", "svd"} <= set(registry.methods())
    for name, cls in registry.methods().items():
        assert cls.name == name
        assert cls.family
        assert cls.paper
        assert cls.summary().endswith(".")
        assert cls.cost() != "-", f"the docstring of {name} says no cost"


def test_the_list_says_family_needs_cost_and_paper() -> None:
    listed = " ".join(CliRunner().invoke(cli.app, ["methods"], env={"COLUMNS": "200"}).output.split())
    for name, cls in registry.methods().items():
        assert f"{name} {cls.family} {', '.join(sorted(cls().needed)) or '-'} {cls.summary()}" in listed
        assert f"Cost: {cls.cost()}. {cls.paper}" in listed
    assert registry.methods()["arrow"].cost().startswith("two matmuls")


def test_a_method_shows_its_formula_and_options_with_defaults() -> None:
    shown = CliRunner().invoke(cli.app, ["methods", "arrow"], env={"COLUMNS": "200"}).output
    assert "g = softmax(top-k logits / temperature)" in shown
    for option in ("k 4 experts mixed", "temperature 1.0 divides", "merge after combine"):
        assert option in " ".join(shown.split())
    assert "(reference, needs task_id)" in CliRunner().invoke(cli.app, ["methods", "oracle"]).output
    for spec, needs in (("ensemble", "ensembling"), ("ensemble:weights=lp", "ensembling, needs fit")):
        assert f"{spec} ({needs})\n" in CliRunner().invoke(cli.app, ["methods", spec]).output
    mistaken = CliRunner().invoke(cli.app, ["methods", "arow"])
    assert mistaken.exit_code == 2
    assert "Did you mean 'arrow'?" in mistaken.stderr


def test_options_are_converted_from_text() -> None:
    assert registry.create("moa", {"decision": "vote", "pool": "mean"}) == Moa(
        decision="vote", pooling="mean"
    )
    assert registry.create("concat", {"scaling": "false"}).options() == {"scaling": False}
    assert registry.create("svd", {"rank": "4"}).options() == {"rank": 4}
    assert registry.create("oracle", {"expert": 7}).label() == "oracle:expert=7"


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("moa", "moa"),
        ("moa:decision=last", "moa"),
        ("moa:pool=mean+decision=vote", "moa:decision=vote+pooling=mean"),
        ("weight_sum:average", "weight_sum:average=true"),
    ],
)
def test_labels_are_canonical(spec: str, label: str) -> None:
    assert registry.parse(spec).label() == label
    assert registry.parse(label).label() == label


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mao", r"unknown method 'mao'\. Did you mean 'moa'\?"),
        ("moa:polling=mean", r"unknown option 'polling' of method 'moa'\. Did you mean 'pooling'\?"),
        ("moa:decision=first", r"option decision='first': Input should be 'last', 'vote' or 'per_block'"),
        ("svd:rank=x", r"option rank='x'"),
        ("svd:rank", r"method 'svd': option rank needs a value\. Write rank=VALUE\."),
        ("lora:rank=0", r"method 'lora': rank=0 must be at least 1\."),
        ("lora:scale=nan", r"method 'lora': option scale='nan': a finite number is due\."),
        ("mixlora:balance=-inf", r"method 'mixlora': option balance='-inf': a finite number is due\."),
        ("svd:rank=4+rank=8", r"option 'rank' is there twice in 'rank=4\+rank=8'\. Say it once\."),
    ],
)
def test_mistakes_are_named(spec: str, message: str) -> None:
    with pytest.raises(LorafuseError, match=message) as error:
        registry.parse(spec)
    assert "\n" not in str(error.value)


def test_a_third_partys_entry_point_registers_a_class_or_names_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry.METHODS, "_found", dict(registry.methods()))
    registry.METHODS.load(EntryPoint("mine", "tiny_method:Mine", "lorafuse.methods"))
    assert registry.methods()["mine"].family == "merging"
    with pytest.raises(
        LorafuseError, match=r"entry point 'broken' \(tiny_method:Missing\).*Repair or uninstall"
    ):
        registry.METHODS.load(EntryPoint("broken", "tiny_method:Missing", "lorafuse.methods"))


def test_two_methods_of_one_name_are_refused() -> None:
    class Other(Moa):
        """Another one."""

    with pytest.raises(LorafuseError, match="method 'moa' is defined by"):
        registry.register(Other)
    assert registry.methods()["moa"] is Moa
    assert issubclass(Moa, FusionMethod)


def test_every_wrong_spec_of_a_list_is_named() -> None:
    assert [method.label() for method in registry.parse_all("base, svd:rank=4")] == ["base", "svd:rank=4"]
    with pytest.raises(LorafuseError) as caught:
        registry.parse_all("mao,base,svd:rnak=4")
    first, second = str(caught.value).splitlines()
    assert "'mao'" in first
    assert "'rnak'" in second


def test_options_joined_by_commas_are_said_to_be_joined_by_plus() -> None:
    with pytest.raises(LorafuseError) as caught:
        registry.parse_all("base,ties,density=0.2,scale=2,svd:rank=4,scale=3")
    assert str(caught.value).splitlines() == [
        "'density=0.2' is no method. Options are joined by +: ties:density=0.2",
        "'scale=2' is no method. Options are joined by +: ties:density=0.2+scale=2",
        "'scale=3' is no method. Options are joined by +: svd:rank=4+scale=3",
    ]
