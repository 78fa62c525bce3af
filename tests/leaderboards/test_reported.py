"""The papers' printed raw tables, through our statistics, give the papers' printed aggregates."""

import pytest

from lorafuse_bench.leaderboards import reported
from lorafuse_bench.leaderboards.boards.board import Row
from lorafuse_bench.leaderboards.boards.provenance import protocols
from lorafuse_bench.leaderboards.boards.reported_rows import reported_rows
from lorafuse_bench.leaderboards.statistics import stats
from lorafuse_bench.tasks.suites import of_oblivion

ABILITIES = [
    ("rethinking_table1_0.5b_mtl5", "Qwen2-0.5B", [0.223, 0.999, 0.681, 0.613, 0.702, 1.0]),
    ("rethinking_table2_1.5b_mtl5", "Qwen2-1.5B", [0.224, 1.004, 0.731, 0.956, 0.955, 1.0]),
    ("rethinking_table6_1.5b_mtl7", "Qwen2-1.5B", [0.242, 1.002, 0.704, 0.790, 0.771, 1.0]),
]
LABELS = ["base", "moa", "svd", "weight_sum", "concat", "oracle"]


def rows_of(name: str, model: str) -> dict[str, Row]:
    table = reported.load(name)
    rows = [
        row
        for row in reported_rows(table.suite or "", of_oblivion(table.suite or ""))
        if (row.source or "").endswith(f"{table.table}, {model}")
    ]
    return {row.label: row for row in rows}


@pytest.mark.parametrize(("name", "model", "printed"), ABILITIES)
def test_multitask_ability_of_the_rethinking_paper(name: str, model: str, printed: list[float]) -> None:
    rows = rows_of(name, model)
    assert [row.aggregate for row in reported.load(name).rows] == printed
    for label, expected in zip(LABELS, printed, strict=True):
        ability = rows[label].ability
        assert ability is not None
        assert ability.value == pytest.approx(expected, abs=0.0025)
        assert ability.se is None


def test_the_ablation_of_the_rethinking_paper_stands_beside_its_main_table() -> None:
    """Table 5 prints no oracle: its rows are normalised by that of Table 2, two of whose rows it prints again."""
    rows = [row for row in reported_rows("mtl5", False) if (row.source or "").endswith("Qwen2-1.5B")]
    ablated = {row.label: row for row in rows if "Table 5" in (row.source or "")}
    assert list(ablated) == ["concat:scaling=false", "weight_sum:average=true"]
    assert [row.label for row in rows if row.label in ("concat", "weight_sum")] == ["weight_sum", "concat"]
    oracle = next(row for row in rows if row.label == "oracle")
    for label, bleu in (("concat:scaling=false", 0.092), ("weight_sum:average=true", 0.088)):
        ratio = ablated[label].tasks["wmt14_en_de"].normalised
        assert ratio and ratio.value == pytest.approx(
            bleu / oracle.tasks["wmt14_en_de"].metrics["bleu"].value
        )
        assert ablated[label].ability and 0.7 < ablated[label].ability.value < 0.955


def test_reported_rows_are_marked_and_on_one_scale() -> None:
    row = rows_of("rethinking_table1_0.5b_mtl5", "Qwen2-0.5B")["moa"]
    assert (row.origin, row.rank, row.run_ids) == ("reported", None, ())
    assert row.tasks["squad"].metrics["f1"].value == pytest.approx(0.714)
    assert row.tasks["sst2"].normalised
    assert row.tasks["sst2"].normalised.value == pytest.approx(0.904 / 0.898)


@pytest.mark.parametrize(
    "name",
    [
        "spectr_table2_normalised_accuracy",
        "moore_table5_csr_llama3.1_8b",
        "moore_table6_nlu_llama3.1_8b",
        "moore_table11_csr_qwen2.5_7b",
        "moore_table12_oblivion",
    ],
)
def test_printed_means_are_the_plain_mean(name: str) -> None:
    table = reported.load(name)
    assert table.tolerance
    for row in table.rows:
        mean = stats.mean_of([stats.Estimate(value or 0.0, None) for value in row.values])
        assert mean.value == pytest.approx(row.aggregate, abs=table.tolerance), row.label


def test_normalised_base_of_spectr_follows_from_its_raw_table() -> None:
    raw = {(row.label, row.model): row.values for row in reported.load("spectr_table3_raw_accuracy").rows}
    for row in reported.load("spectr_table2_normalised_accuracy").rows:
        if row.label != "base":
            continue
        oracle = raw["oracle", row.model]
        for printed, x, y in zip(row.values, raw["base", row.model], oracle, strict=True):
            ratio = stats.paired_ratio(stats.statistic([x or 0.0]), stats.statistic([y or 0.0]))
            assert 100 * ratio.value == pytest.approx(printed, abs=0.0501)


def test_printed_ratios_stand_beside_measured_ones() -> None:
    """Table 2 has ratios and no raw scores, Table 3 raw scores of the base and the oracle."""
    ratios, raw = (
        rows_of(f"spectr_table{name}", "gemma-2b") for name in ("2_normalised_accuracy", "3_raw_accuracy")
    )
    spectr = ratios["spectr"]
    assert spectr.tasks["cola"].metrics == {}
    assert spectr.tasks["cola"].normalised and spectr.tasks["cola"].normalised.value == pytest.approx(0.913)
    assert spectr.ability and spectr.ability.value == pytest.approx(0.799, abs=0.0005)
    assert raw["base"].tasks["cola"].metrics["acc"].value == pytest.approx(0.79)
    assert raw["base"].ability and ratios["base"].ability
    assert raw["base"].ability.value == pytest.approx(ratios["base"].ability.value, abs=0.0005)


def test_deltas_of_moore_are_differences_from_the_base() -> None:
    base, *rows = reported.load("moore_table12_oblivion").rows
    assert base.role == "floor"
    for row in rows:
        assert row.deltas
        after, before = (*row.values, row.aggregate), (*base.values, base.aggregate)
        for delta, x, y in zip(row.deltas, after, before, strict=True):
            assert delta == pytest.approx((x or 0.0) - (y or 0.0), abs=0.0051)


@pytest.mark.parametrize("name", ["moore_table5_csr_llama3.1_8b", "moore_table6_nlu_llama3.1_8b"])
def test_rows_of_a_table_without_an_oracle_stand_raw(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = reported.load(name).model_copy(update={"suite": "toy"})
    monkeypatch.setattr(reported, "tables_of", lambda suite: iter([table]))
    for row, printed in zip(reported_rows("toy", oblivion=False), table.rows, strict=True):
        assert row.ability is None
        for column, value in zip(table.columns, printed.values, strict=True):
            if value is not None:
                assert row.tasks[column.task].normalised is None
                raw = row.tasks[column.task].metrics[column.metric].value
                assert raw == pytest.approx(value / 100 if column.unit == "percent" else value)


def test_similarities_of_spectr_are_symmetric_and_average_to_the_printed_means() -> None:
    rows = reported.load("spectr_figure2_cosine_similarity").rows
    for i, row in enumerate(rows):
        others = [value for value in row.values if value is not None]
        assert row.values[i] is None
        assert sum(others) / len(others) == pytest.approx(row.aggregate, abs=0.001)
        assert all(row.values[j] == rows[j].values[i] for j in range(len(rows)))


def test_clusters_of_the_trade_offs_paper_hold_256_experts_once() -> None:
    table = reported.load("tradeoffs_mbc_clusters")
    members = [name for cluster in table.lists.values() for name in cluster]
    assert len(members) == len(set(members)) == 256
    sizes = [len(table.lists[column.task.removeprefix("cluster ")]) for column in table.columns]
    assert sizes == list(table.rows[0].values)


@pytest.mark.parametrize("name", reported.names())
def test_every_table_has_one_value_per_column(name: str) -> None:
    table = reported.load(name)
    assert table.rows
    assert all(len(row.values) == len(table.columns) for row in table.rows)


def test_all_tables_are_there() -> None:
    assert len(reported.names()) == 15


@pytest.mark.parametrize(
    ("suite", "metric", "says"),
    [
        ("csr_mtl", "acc_options", "asks BoolQ without its passage"),
        ("nlu_mtl", "acc", "classifies by a head"),
    ],
)
def test_another_protocol_is_said_on_the_board(suite: str, metric: str, says: str) -> None:
    tables = [table for table in reported.tables_of(suite) if table.protocol]
    assert tables
    assert {column.metric for table in tables for column in table.columns if column.task != "cola"} == {
        metric
    }
    (sentence,) = protocols(suite)
    assert says in sentence
    assert all(table.table in sentence for table in tables)
    assert not list(protocols("mtl7"))
