"""Tasks that the mini world writes when they are first asked for: all but those of mtl7 and mtl_proposal.

They are not shipped: a generated data directory says in its build.json which world it is of, and from that
the same rows come everywhere.
"""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path

from datasets import Dataset, Features
from datasets.features import ClassLabel, List, Value

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.mini_world import oblivion_rows, suite_rows
from lorafuse_bench.mini_world.families import family_tasks
from lorafuse_bench.mini_world.plain_text import WRITERS
from lorafuse_bench.mini_world.splits import (
    INT32,
    RECORD,
    SMALL_TRAIN_ROWS,
    STRING,
    MiniTask,
    columns,
    idx,
    padded_id,
    task_splits,
)
from lorafuse_bench.mini_world.world import make_world

_LISTED = {"text": List(STRING), "label": List(STRING)}
_DUPLICATE = ClassLabel(names=["not_duplicate", "duplicate"])
_ENTAILS = ClassLabel(names=["entailment", "not_entailment"])
_TOPICS = ClassLabel(names=["World", "Sports", "Business", "Sci/Tech"])
_CLASSES = ClassLabel(
    names=(
        "Company EducationalInstitution Artist Athlete OfficeHolder MeanOfTransportation Building NaturalPlace"
        " Village Animal Plant Album Film WrittenWork"
    ).split()
)
_GLUE = "nyu-mll/glue"

SUITE_TASKS: tuple[MiniTask, ...] = (
    MiniTask("arc_c", "allenai/ai2_arc", "ARC-Challenge", "test", ("question", "choices"),
             columns("id", "question", choices=_LISTED, answerKey=STRING), suite_rows.arc_c, padded_id),
    MiniTask("arc_e", "allenai/ai2_arc", "ARC-Easy", "test", ("question", "choices"),
             columns("id", "question", choices=_LISTED, answerKey=STRING), suite_rows.arc_e, padded_id),
    MiniTask("boolq", "google/boolq", "default", "validation", ("passage", "question"),
             columns("question", answer=Value("bool"), passage=STRING), suite_rows.boolq),
    MiniTask("obqa", "allenai/openbookqa", "main", "test", ("question_stem", "choices"),
             columns("id", "question_stem", choices=_LISTED, answerKey=STRING), suite_rows.obqa, padded_id),
    MiniTask("siqa", "lighteval/siqa", "default", "validation", ("context", "question"),
             columns("context", "question", "answerA", "answerB", "answerC", "label"), suite_rows.siqa),
    MiniTask("hellaswag", "Rowan/hellaswag", "default", "validation", ("ctx", "endings"),
             columns("activity_label", "ctx_a", "ctx_b", "ctx", "source_id", "split", "split_type", "label",
                     ind=INT32, endings=List(STRING)),
             suite_rows.hellaswag, lambda index: {"ind": index}),
    MiniTask("winogrande", "allenai/winogrande", "winogrande_debiased", "validation",
             ("sentence", "option1", "option2"),
             columns("sentence", "option1", "option2", "answer"), suite_rows.winogrande),
    MiniTask("csqa", "tau/commonsense_qa", "default", "validation", ("question", "choices"),
             columns("id", "question", "question_concept", choices=_LISTED, answerKey=STRING),
             suite_rows.csqa, padded_id),
    MiniTask("cola", _GLUE, "cola", "validation", ("sentence",),
             columns("sentence", label=ClassLabel(names=["unacceptable", "acceptable"]), idx=INT32),
             suite_rows.cola, idx),
    MiniTask("mrpc", _GLUE, "mrpc", "validation", ("sentence1", "sentence2"),
             columns("sentence1", "sentence2", label=ClassLabel(names=["not_equivalent", "equivalent"]),
                     idx=INT32), suite_rows.mrpc, idx),
    MiniTask("qqp", _GLUE, "qqp", "validation", ("question1", "question2"),
             columns("question1", "question2", label=_DUPLICATE, idx=INT32), suite_rows.qqp, idx),
    MiniTask("qnli", _GLUE, "qnli", "validation", ("question", "sentence"),
             columns("question", "sentence", label=_ENTAILS, idx=INT32), suite_rows.qnli, idx),
    MiniTask("rte", _GLUE, "rte", "validation", ("sentence1", "sentence2"),
             columns("sentence1", "sentence2", label=_ENTAILS, idx=INT32), suite_rows.rte, idx),
    MiniTask("agnews", "fancyzhx/ag_news", "default", "test", ("text",),
             columns("text", label=_TOPICS), suite_rows.agnews),
    MiniTask("dbpedia", "fancyzhx/dbpedia_14", "dbpedia_14", "test", ("content",),
             columns("title", "content", label=_CLASSES), suite_rows.dbpedia),
    *(MiniTask(f"text_{kind}", "mini/text", kind, "validation", ("text", "target"), columns("text", "target"),
               partial(suite_rows.text, WRITERS[kind]), train_rows=SMALL_TRAIN_ROWS)
      for kind in "story parallel claims views tools boxes wordbook".split()),
    *(MiniTask(task.key, "mini/families", task.key, "validation", ("text", "instruction"),
               columns("text", "instruction", "target"), task.row, train_rows=SMALL_TRAIN_ROWS)
      for task in family_tasks()),
)  # fmt: skip

_FEW, _SOME, _NONE = 5, 50, 0
_ARGUMENTS = Features(
    {
        **dict.fromkeys(oblivion_rows.ARGUMENTS, STRING),
        **{name: Value("int64") for name in oblivion_rows.ARGUMENTS if name.startswith("num_")},
        "keywords": List(STRING),
        "forbidden_words": List(STRING),
    }
)
OBLIVION_TASKS: tuple[MiniTask, ...] = (
    *(MiniTask(f"mmlu {name}", "cais/mmlu", name, "test", ("question", "choices"),
               columns("question", "subject", choices=List(STRING), answer=ClassLabel(names=list("ABCD"))),
               oblivion_rows.mmlu, train_rows=_FEW, evaluation_rows=_FEW, training="dev")
      for name in oblivion_rows.SUBJECTS),
    *(MiniTask(f"bbh {name}", "SaylorTwift/bbh", name, "test", ("input",), columns("input", "target"),
               row, train_rows=_NONE, evaluation_rows=_FEW)
      for name, row in oblivion_rows.BBH.items()),
    MiniTask("ifeval", "google/IFEval", "default", "train", ("prompt",),
             columns("prompt", key=Value("int64"), instruction_id_list=List(STRING), kwargs=List(_ARGUMENTS)),
             oblivion_rows.ifeval, lambda index: {"key": index},
             train_rows=_NONE, evaluation_rows=_SOME, training=""),
    MiniTask("gpqa", "Idavidrein/gpqa", "gpqa_main", "train", ("Question", "Correct Answer"),
             columns("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2",
                     "Incorrect Answer 3", "Explanation", "Record ID"),
             oblivion_rows.gpqa, lambda index: {"Record ID": f"rec{index:05d}"},
             train_rows=_NONE, evaluation_rows=_SOME, training=""),
    MiniTask("humaneval", "openai/openai_humaneval", "openai_humaneval", "test", ("prompt",),
             columns("task_id", "prompt", "canonical_solution", "test", "entry_point"),
             oblivion_rows.humaneval, lambda index: {"task_id": f"Mini/{index}"},
             train_rows=_NONE, evaluation_rows=_SOME),
    MiniTask("mbpp", "google-research-datasets/mbpp", "full", "test", ("text",),
             columns("text", "code", "test_setup_code", task_id=INT32, test_list=List(STRING),
                     challenge_test_list=List(STRING)),
             oblivion_rows.mbpp, lambda index: {"task_id": index + 1},
             train_rows=2 * _FEW, evaluation_rows=_SOME, training="prompt"),
)  # fmt: skip


def world_seed(data: Path) -> int | None:
    """The seed of the world that a data directory was generated from; None for data from elsewhere."""
    record = data / RECORD
    return int(json.loads(record.read_text())["seed"]) if record.is_file() else None


def generated(folder: str, split: str, seed: int) -> Dataset:
    """The rows of one split of the dataset in `folder` (`<hub__id>/<config>`), of the world of `seed`.

    Raises LorafuseError for a dataset or split that this world does not write.
    """
    splits = _splits(folder, seed)
    if split not in splits:
        raise LorafuseError(
            f"the mini world writes no split '{split}' of {folder} (it has {', '.join(splits) or 'no such dataset'})."
            " Choose another data source with data= or LORAFUSE_DATA."
        )
    return splits[split]


@cache
def _splits(folder: str, seed: int) -> dict[str, Dataset]:
    for task in SUITE_TASKS + OBLIVION_TASKS:
        if task.folder == folder:
            made = task_splits(task, make_world(seed))
            return {
                split: Dataset.from_list(rows, features=task.features) for split, rows in made.items() if rows
            }
    return {}
