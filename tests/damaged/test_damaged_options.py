"""Options that no command can take, in one line each."""

from __future__ import annotations

from pathlib import Path

import pytest
from damage import Row, Work, check

RUN = "run --zoo {zoo} --suites sst2 --methods base --limit 1 --out {root}/out "
TRAIN = "train experts --suite sst2 --base {zoo}/base --data {data} --out {root}/out --steps 1 "
ADAPTER = (
    "train adapter --method moore --suite sst2 --base {zoo}/base --data {data} --out {root}/out --steps 1 "
)
LONG = "x" * 5000
PLACES = (
    ("bench merge", "--out"),
    ("bench train", "--out"),
    ("bench forward", "--plot"),
    ("train experts --suite sst2 --base {zoo}/base", "--out"),
    ("train adapter --method moore --suite sst2 --base {zoo}/base", "--out"),
    ("zoo build mini", "--out"),
    ("zoo base nobody/nothing", "--out"),
    ("export --zoo {zoo} --method svd", "--out"),
    ("leaderboard build {results} --out {root}/b.json", "--html"),
    ("leaderboard pack {results} --caption words", "--out"),
    ("leaderboard claims {results}", "--markdown"),
    ("analyze oblivion {results}", "--out"),
)
"""Commands that write, and the option that says where."""

ROWS = (
    Row("unknown command", "rnu", "No such command 'rnu'. Did you mean 'run'?"),
    Row("unknown subcommand", "zoo shwo", "No such command 'shwo'"),
    Row("unknown option", RUN + "--batch-sise 3", "--batch-sise (Possible options: --batch-size)"),
    Row("unknown option before the command", "--quiet run", "No such option: --quiet"),
    Row("a word too many", RUN + "mtl5", "mtl5"),
    Row("no value", RUN + "--limit", "--limit"),
    Row("limit 0", RUN + "--limit 0", "'--limit'"),
    Row("limit -1", RUN + "--limit -1", "'--limit'"),
    Row("limit a word", RUN + "--limit all", "'--limit'"),
    Row("batch size 0", RUN + "--batch-size 0", "'--batch-size'"),
    Row("batch size -1", RUN + "--batch-size -1", "'--batch-size'"),
    Row("batch size a fraction", RUN + "--batch-size 1.5", "'--batch-size'"),
    Row("max length 0", RUN + "--max-length 0", "'--max-length'"),
    Row("audit of no results", "leaderboard audit {root}/nothing --zoo {zoo}", "no results in"),
    Row("audit of no cells", "leaderboard audit {results} --zoo {zoo} --cells 0", "'--cells'"),
    Row("audit with an unknown zoo", "leaderboard audit {results} --zoo nowhere", "zoo 'nowhere' not found"),
    Row("workers 0", RUN + "--workers 0", "'--workers'"),
    Row("workers a word", RUN + "--workers all", "'--workers'"),
    Row("engine unknown", RUN + "--engine rya", "unknown engine 'rya'. Did you mean 'ray'?"),
    Row("a cluster for the local engine", RUN + "--ray-address auto", "Add --engine ray, or leave it out"),
    Row("shard 0 of 4", RUN + "--shard 0/4", "--shard: '0/4' is no I/N"),
    Row("shard 5 of 4", RUN + "--shard 5/4", "--shard: '5/4' is no I/N"),
    Row("shard of a variable that is not set", RUN + "--shard /8", "--shard: '/8' is no I/N"),
    Row("JSON of no plan", RUN + "--json", "Add --plan, or drop --json"),
    Row(
        "plan of an unknown method", RUN + "--plan --methods mao", "unknown method 'mao'. Did you mean 'moa'?"
    ),
    Row("memory of experts without number", "plan --base mini --experts 1000001", "'--experts'"),
    Row("plan of a method that does not fit", RUN + "--plan --methods svd:rank=2000", "rank=2000"),
    Row("unknown device", RUN + "--device foo", "device 'foo' cannot be used"),
    Row("device that computes nothing", RUN + "--device meta", "device 'meta' computes nothing"),
    Row("device of another number", RUN + "--device cuda:99", "device 'cuda:99' cannot be used"),
    Row("unknown dtype", RUN + "--dtype flaot32", "unknown dtype 'flaot32'. Did you mean 'float32'?"),
    Row("unknown suite", RUN + "--suites mtl6", "unknown suite 'mtl6'"),
    Row("no suite", RUN + "--suites ''", "unknown suite ''"),
    Row("unknown task in a suite", RUN + "--suites sst2/sst3", "sst3"),
    Row("unknown method", RUN + "--methods mao", "unknown method 'mao'. Did you mean 'moa'?"),
    Row("no method", RUN + "--methods ''", "unknown method ''"),
    Row("unknown option of a method", RUN + "--methods svd:rnak=2", "Did you mean 'rank'?"),
    Row("option of a method a word", RUN + "--methods svd:rank=two", "option rank='two'"),
    Row("option of a method NaN", RUN + "--methods ties:density=nan", "density='nan': a finite number"),
    Row("option of a method too large", RUN + "--methods svd:rank=2000", "rank=2000"),
    Row("unknown expert", RUN + "--experts sst3 --methods concat", "Did you mean 'sst2'?"),
    Row("an expert twice", RUN + "--experts sst2,sst2 --methods concat", "two adapters are named 'sst2'"),
    Row("unknown zoo", RUN + "--zoo nowhere", "zoo 'nowhere' not found"),
    Row("a zoo of an overlong name", RUN + f"--zoo {LONG}", "File name too long"),
    Row("data nowhere", RUN + "--data nowhere", "data source 'nowhere' is not a directory"),
    Row("data of an overlong name", RUN + f"--data {LONG}", "File name too long"),
    Row("out of an overlong name", RUN + f"--out {LONG}", "File name too long"),
    Row("out that is a file", RUN + "--out {zoo}/manifest.json", "cannot write"),
    Row("out that cannot be written", RUN + "--out /proc/nowhere", "cannot write"),
    Row("code without consent", RUN + "--suites humaneval", "code that the model writes"),
    Row("learning rate NaN", TRAIN + "--learning-rate nan", "'--learning-rate': nan is not a finite"),
    Row("learning rate infinite", TRAIN + "--learning-rate inf", "'--learning-rate': inf is not a finite"),
    Row("learning rate 0", TRAIN + "--learning-rate 0", "'--learning-rate'"),
    Row("learning rate a word", TRAIN + "--learning-rate fast", "'--learning-rate'"),
    Row("steps 0", TRAIN + "--steps 0", "'--steps'"),
    Row("rank 0", TRAIN + "--rank 0", "'--rank'"),
    Row("alpha 0", TRAIN + "--alpha 0", "'--alpha'"),
    Row("alpha negative", TRAIN + "--alpha -1", "'--alpha'"),
    Row("alpha NaN", TRAIN + "--alpha nan", "'--alpha'"),
    Row("dropout 1", TRAIN + "--dropout 1", "'--dropout'"),
    Row("dropout NaN", TRAIN + "--dropout nan", "'--dropout'"),
    Row("targets that are not there", TRAIN + "--targets nothing", "the base has no linear map 'nothing'"),
    Row("no targets", TRAIN + "--targets ''", "the base has no linear map ''"),
    Row("one target that is not there", TRAIN + "--targets q_proj,nothing", "no linear map 'nothing'"),
    Row("warm-up NaN", TRAIN + "--warmup nan", "'--warmup'"),
    Row("a zoo of a name too long", TRAIN + f"--out {{root}}/{LONG[:201]}", "cannot be a name"),
    Row("an adapter's zoo too", ADAPTER + f"--out {{root}}/{LONG[:201]}", "cannot be a name"),
    Row(
        "a router outside the zoo",
        "train router --out {zoo} --name ../../x",
        "router '../../x' cannot be a name",
    ),
    Row("a task of control characters", "zoo index {zoo} --task sst2='a\tb'", "cannot be a name"),
    Row("a task of too many", "zoo index {zoo} --task sst2=" + LONG, "cannot be a name"),
    Row("unknown bank", TRAIN + "--bank mcb", "'--bank'"),
    Row("a bank without clusters", TRAIN + "--bank mbc", "has no clusters of experts"),
    Row("more clusters than experts", "zoo cluster {zoo} --clusters 3", "3 clusters of 2 experts"),
    Row("a bank that the zoo has not", RUN + "--experts @mbc", "has no bank 'mbc'"),
    Row("seed negative", TRAIN + "--seed -1", "'--seed'"),
    Row("seed beyond 32 bits", TRAIN + "--seed 99999999999", "'--seed'"),
    Row("seed beyond any integer", TRAIN + f"--seed {'9' * 30}", "'--seed'"),
    Row("epochs 0 of experts", TRAIN + "--epochs 0", "'--epochs'"),
    Row("train on an unknown device", TRAIN + "--device foo", "device 'foo' cannot be used"),
    Row("train in an unknown dtype", TRAIN + "--dtype foo", "unknown dtype 'foo'"),
    Row("unknown initialisation", TRAIN + "--init other", "'--init'"),
    Row("base nowhere", TRAIN + "--base nowhere/nobody", "nowhere/nobody"),
    Row("train into a folder that cannot be written", TRAIN + "--out /proc/nowhere", "/proc/nowhere"),
    Row("epochs 0", ADAPTER + "--epochs 0", "'--epochs'"),
    Row("a method that is no adapter", ADAPTER + "--method svd", "is not a trained adapter"),
    Row("zoo of no such name", "zoo build maxi --out {root}/out", "unknown zoo to build 'maxi'"),
    Row("zoo seed beyond 32 bits", "zoo build mini --out {root}/out --seed 99999999999", "'--seed'"),
    Row("zoo without tasks", "zoo build mini --out {root}/out --tasks 0", "'--tasks'"),
    Row("export into the zoo", "export --zoo {zoo} --method svd --out {zoo}", "is not empty"),
    Row("export of what no file can hold", "export --zoo {zoo} --method moa --out {root}/out", "moa"),
    Row("export onto a file", "export --zoo {zoo} --method svd --out {zoo}/manifest.json", "cannot write"),
    Row("export without a place", "export --zoo {zoo} --method svd", "'--out'"),
    Row("board of nothing", "leaderboard build {root}/nowhere", "nowhere"),
    Row("board of an empty folder", "leaderboard build {root}/zoo/experts", "experts"),
    Row("board that cannot be written", "leaderboard build {results} --out /proc/x/b.json", "cannot write"),
    *(
        Row(f"{command.split(' --')[0]} {option} at {place}", f"{command} {option} {place}", "cannot write")
        for command, option in PLACES
        for place in ("/proc/nowhere/x", "{zoo}/manifest.json/x")
    ),
    Row("samples of an unknown task", "samples {results} --task nothing", "no samples here"),
    Row("compare with an unknown method", "compare base svdd --results {results}", "svdd"),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "_"))
def test_an_option_is_refused_in_one_line(row: Row, whole: Work, tmp_path: Path) -> None:
    check(row, whole, tmp_path)
