"""Where answers end: a stop counts after the first character that is not white space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from tiny import byte_tokenizer, tiny_zoo

from lorafuse_bench.model_wrappers import engine
from lorafuse_bench.model_wrappers import vllm as wrapper
from lorafuse_bench.model_wrappers.engine import Answer, Ask
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.model_wrappers.stopping import Ending, StopRows, cut
from lorafuse_bench.zoo.manifest import Zoo

EOS = 256
TOKENIZER = byte_tokenizer()


def tokens(text: str) -> list[int]:
    return list(TOKENIZER(text)["input_ids"])


def decode(ids: Sequence[int]) -> str:
    return str(TOKENIZER.decode(ids, skip_special_tokens=True))


def ending(*stops: str, **more: object) -> Ending:
    return Ending(decode, stops, frozenset({EOS}), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "stops", "answer"),
    [
        ("positive\nThe next", ["\n"], "positive"),
        ("\npositive\nThe next", ["\n"], "\npositive"),
        ("\n\n \t Paris, \nQ", ["\n", "\n\n"], "\n\n \t Paris, "),
        (" Paris. Q: who", ["\n", "Q:"], " Paris. "),
        ("a then b then c", ["then", " b"], "a "),
        ("\n\n", ["\n"], "\n\n"),
        ("", ["\n"], ""),
        ("all of it", ["", "never"], "all of it"),
        ("\u3000\nja\n", ["\n"], "\u3000\nja"),
    ],
)
def test_the_answer_and_when_it_is_known(text: str, stops: list[str], answer: str) -> None:
    assert cut(text, stops) == answer
    end = ending(*stops)
    ids = tokens(text)
    assert end.answer(ids) == answer
    first = next((i for i in range(len(ids) + 1) if end.ended(ids[:i])), None)
    assert (first is None) == (answer == text)
    if first is not None:
        assert end.answer(ids[:first]) == answer
        assert end.ends_now(ids[:first])


@given(
    st.text("ab\n ", max_size=30),
    st.lists(st.sampled_from(["\n", "\n\n", " ", "ab", "a\n", "b b"]), max_size=3),
)
def test_only_white_space_is_no_answer(text: str, stops: list[str]) -> None:
    assert bool(cut(text, stops).strip()) == bool(text.strip())
    end, ids = ending(*stops), tokens(text)
    assert any(end.ends_now(ids[:i]) for i in range(len(ids) + 1)) == (cut(text, stops) != text)


def test_the_models_own_end_wins() -> None:
    assert ending("\n").answer([*tokens(" yes"), EOS, *tokens("no\nno")]) == " yes"
    assert ending("\n").answer([EOS, *tokens("no\n")]) == ""


@pytest.mark.parametrize("thought", ["</t>", tokens("~")[0]])
def test_thoughts_are_no_part_of_an_answer(thought: str | int) -> None:
    end = ending("\n", thought=thought)
    closing = thought if isinstance(thought, str) else "~"
    thinking = tokens("Let me\nsee\n")
    assert not end.ended(thinking)
    assert end.answer(thinking + tokens(f"{closing}\n\nParis\nno")) == "Paris"
    assert end.ended(thinking + tokens(f"{closing}\n\nParis\n"))


def test_rows_stop_on_their_own() -> None:
    rows = [tokens(text) for text in ("\nab\n", "abc\n", "\n\n\n\n", "abcd")]
    done = StopRows(ending("\n"), 2)(torch.tensor([[0, 0, *row] for row in rows]), None)
    assert done.tolist() == [True, True, False, False]


class Scripted(torch.nn.Module):
    """An output layer by which the model writes a given text after each prompt, told apart by its last byte."""

    def __init__(self, scripts: dict[str, str], calls: list[int]) -> None:
        super().__init__()
        self.scripts = {tokens(key)[0]: [*tokens(text), EOS] for key, text in scripts.items()}
        self.calls = calls
        self.reading: list[list[int]] = []

    def read(self, module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].shape[1] > 1:
            self.reading = [list(self.scripts[row[-1]]) for row in args[0].tolist()]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(hidden))
        logits = torch.zeros(len(hidden), hidden.shape[1], EOS + 1)
        for row, script in zip(logits, self.reading, strict=True):
            row[-1, script.pop(0) if script else EOS] = 1.0
        return logits


SCRIPTS = {
    "1": "positive\nA film",
    "2": "\n\npositive\nA film",
    "3": " \n",
    "4": "",
    "5": "very, very long\nand more",
}
ANSWERS = ["positive", "\n\npositive", " \n", "", "very, very long"]


def asked(length: int = 40) -> list[Instance]:
    settings = {"until": ["\n"], "max_gen_toks": length, "do_sample": False}
    return [
        Instance("generate_until", {}, ("p" * (i + 1) + key, settings), 0, metadata=("lorafuse_sst2", i, 1))
        for i, key in enumerate(SCRIPTS)
    ]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"))


def scripted(zoo: Zoo, method: str, rows: int) -> tuple[LorafuseLM, list[int]]:
    lm, calls = LorafuseLM(method, zoo=zoo.root, batch_size=rows, device="cpu"), list[int]()
    head = Scripted(SCRIPTS, calls)
    lm.model.get_input_embeddings().register_forward_pre_hook(head.read)
    lm.model.set_output_embeddings(head)
    return lm, calls


@pytest.mark.parametrize("method", ["base", "oracle", "ensemble"])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_model_that_opens_with_an_empty_line_has_answered(zoo: Zoo, method: str, rows: int) -> None:
    lm, calls = scripted(zoo, method, rows)
    assert lm.generate_until(asked(), disable_tqdm=True) == ANSWERS
    # A row that is done does not keep the batch; the batch lasts as long as its longest answer.
    longest = len("very, very long\n")
    assert len(calls) <= longest * (1 if rows == 5 and method != "ensemble" else 5)


def test_the_number_of_tokens_is_kept(zoo: Zoo) -> None:
    lm, _ = scripted(zoo, "base", 2)
    assert lm.generate_until(asked(3), disable_tqdm=True) == ["pos", "\n\np", " \n", "", "ver"]


class Stopping:
    """An engine that ends at any stop, as vLLM does."""

    def __init__(self, *args: object) -> None:
        self.asked = 0

    def run(self, asks: Sequence[Ask], report: object = None) -> list[Answer]:
        self.asked += len(asks)
        return [self._answer(ask) for ask in asks]

    def _answer(self, ask: Ask) -> Answer:
        text = decode(ask.prompt)
        at = max(text.rfind(key) for key in SCRIPTS)
        script = [*tokens(SCRIPTS[text[at]]), EOS][len(text) - at - 1 :]
        answer = Answer()
        for token in script[: ask.settings["max_tokens"]]:
            answer.tokens.append(token)
            if any(stop in decode(answer.tokens) for stop in ask.settings["stop"]):
                answer.at_stop = True
                break
            if token == EOS:
                break
        return answer

    def close(self) -> None:
        pass


def test_vllm_writes_on_where_a_stop_does_not_count(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapper, "Engine", Stopping)
    monkeypatch.setattr(wrapper, "require_vllm", lambda: None)
    monkeypatch.setattr(wrapper, "engine_options", lambda: set())
    monkeypatch.setattr(wrapper, "_vllm_version", lambda: "0")
    lm = wrapper.LorafuseVLLM("oracle", zoo=zoo.root, device="cpu")
    assert lm.generate_until(asked(), disable_tqdm=True) == ANSWERS
    assert lm.generate_until(asked(3), disable_tqdm=True) == ["pos", "\n\np", " \n", "", "ver"]


def test_an_answer_kept_before_this_field_is_read(tmp_path: Path) -> None:
    assert engine.Answer(tokens=[1]).at_stop is False
