"""The byte-level tokenizer: any text survives, and transformers loads back what was saved."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2Tokenizer

from lorafuse_bench.files import write_json
from lorafuse_bench.mini_world.plain_text import documents, unmarked
from lorafuse_bench.mini_world.settings import BASE
from lorafuse_bench.mini_world.tokenizer import END_OF_TEXT, save_tokenizer, train_tokenizer
from lorafuse_bench.mini_world.world import make_world

WORLD = make_world(0)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(
        (unmarked(d)[0] for d in islice(documents(WORLD, "test", BASE.courses[0].shares), 2000)), 1000
    )


@pytest.mark.parametrize(
    "text", ["", " two  spaces\n\n", "Ünïcödé ß 日本語 🙂", "tab\tand \x00 byte", "a:\n1 2"]
)
def test_round_trip(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_loads_as_the_same_qwen2_tokenizer(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path)
    # The architecture decides which tokenizer class transformers takes.
    write_json(tmp_path / "config.json", {"model_type": "qwen2"})
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = f"in {WORLD.places[0]} was {WORLD.names[0]} . größe 17 !"
    assert isinstance(loaded, Qwen2Tokenizer)
    assert loaded.get_vocab() == tokenizer.get_vocab() and len(loaded) == 1000
    assert loaded.encode(text) == tokenizer.encode(text)
    assert (tmp_path / "vocab.json").is_file() and (tmp_path / "merges.txt").is_file()


def test_end_of_text_is_one_special_token(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.eos_token == tokenizer.pad_token == END_OF_TEXT
    assert tokenizer.encode(END_OF_TEXT) == [tokenizer.eos_token_id] == [0]


def test_learns_whole_words(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(tokenizer.encode(" the")) == 1 and len(tokenizer.encode(" quixotic")) > 2


def test_the_same_texts_give_the_same_tokenizer() -> None:
    texts = [unmarked(d)[0] for d in islice(documents(WORLD, "twice", BASE.courses[0].shares), 300)]
    first, second = (train_tokenizer(texts, 500).get_vocab() for _ in range(2))
    assert first == second
