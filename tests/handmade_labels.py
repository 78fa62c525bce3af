"""A handful of rows for every label task of csr_mtl, nlu_mtl and spectr9, as `handmade` has for the others."""

from __future__ import annotations

from typing import Any

Doc = dict[str, Any]


def _lettered(question: str, options: list[str], key: str, stem: str = "question") -> Doc:
    labels = list("ABCDE"[: len(options)])
    return {"id": question, stem: question, "choices": {"text": options, "label": labels}, "answerKey": key}


SCIENCE: list[Doc] = [
    _lettered("Which is a gas?", ["iron", "steam", "ice", "salt"], "B"),
    # ARC has questions with three options, and some keyed by numbers.
    {
        "id": "n",
        "question": "Which is hot?",
        "choices": {"text": ["snow", "fire", "rain"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
]
FACTS = [_lettered("To cut bread one needs", ["a knife", "a cup", "a bell", "a rope"], "A", "question_stem")]
NOTIONS = [
    {
        "question_concept": "bird",
        **_lettered("Where does a bird sleep?", ["sea", "nest", "pan", "car", "sun"], "B"),
    }
]
PASSAGES: list[Doc] = [
    {"question": "is ice cold", "answer": True, "passage": "Ice is cold."},
    {"question": "is ice hot", "answer": False, "passage": "Ice is cold."},
]
PEOPLE: list[Doc] = [
    {
        "context": "Ann won.",
        "question": "How does Ann feel?",
        "answerA": "sad",
        "answerB": "tired",
        "answerC": "glad",
        "label": "3",
    }
]
ENDINGS: list[Doc] = [
    {
        "ind": 0,
        "activity_label": "Baking",
        "ctx": "She opens the oven. ",
        "endings": ["It sings.", "She takes the bread out.", "It flies.", "It rains."],
        "label": "1",
    }
]
BLANKS: list[Doc] = [
    {
        "sentence": "The cup broke but the pan held as the _ is iron.",
        "option1": "cup",
        "option2": "pan",
        "answer": "2",
    },
    {"sentence": "Ann, not Bea, left, so _ is here.", "option1": "Bea", "option2": "Ann", "answer": "1"},
]
GRAMMAR: list[Doc] = [
    {"sentence": "The cat sleeps.", "label": 1, "idx": 0},
    {"sentence": "Cat the sleeps.", "label": 0, "idx": 1},
    {"sentence": "She sang.", "label": 1, "idx": 2},
]


def _pairs(one: str, two: str) -> list[Doc]:
    """Two rows, labels 0 and 1."""
    return [{one: "A rose is red.", two: f"Text {label}.", "label": label, "idx": label} for label in (0, 1)]


TOPICS: list[Doc] = [
    {"text": "The team won the cup.", "label": 1},
    {"text": "A new chip is fast.", "label": 3},
]
THINGS: list[Doc] = [{"label": 6, "title": "Old Mill", "content": " The Old Mill is a mill in Kent."}]

# Task key -> (folder, evaluation split, rows, features), as in `handmade.DATASETS`.
LABEL_DATASETS: dict[str, tuple[str, str, list[Doc], None]] = {
    "arc_c": ("allenai__ai2_arc/ARC-Challenge", "test", SCIENCE, None),
    "arc_e": ("allenai__ai2_arc/ARC-Easy", "test", SCIENCE, None),
    "boolq": ("google__boolq/default", "validation", PASSAGES, None),
    "obqa": ("allenai__openbookqa/main", "test", FACTS, None),
    "siqa": ("lighteval__siqa/default", "validation", PEOPLE, None),
    "hellaswag": ("Rowan__hellaswag/default", "validation", ENDINGS, None),
    "winogrande": ("allenai__winogrande/winogrande_debiased", "validation", BLANKS, None),
    "csqa": ("tau__commonsense_qa/default", "validation", NOTIONS, None),
    "cola": ("nyu-mll__glue/cola", "validation", GRAMMAR, None),
    "mrpc": ("nyu-mll__glue/mrpc", "validation", _pairs("sentence1", "sentence2"), None),
    "qqp": ("nyu-mll__glue/qqp", "validation", _pairs("question1", "question2"), None),
    "qnli": ("nyu-mll__glue/qnli", "validation", _pairs("question", "sentence"), None),
    "rte": ("nyu-mll__glue/rte", "validation", _pairs("sentence1", "sentence2"), None),
    "agnews": ("fancyzhx__ag_news/default", "test", TOPICS, None),
    "dbpedia": ("fancyzhx__dbpedia_14/dbpedia_14", "test", THINGS, None),
}

FIRST_LABEL_ROWS = {
    "arc_c": (
        (
            "Question:\nWhich is a gas?\nAnswer 1:\niron\nAnswer 2:\nsteam"
            "\nAnswer 3:\nice\nAnswer 4:\nsalt\nCorrect Answer:"
        ),
        " 2",
    ),
    "arc_e": (
        (
            "Question:\nWhich is a gas?\nAnswer 1:\niron\nAnswer 2:\nsteam"
            "\nAnswer 3:\nice\nAnswer 4:\nsalt\nCorrect Answer:"
        ),
        " 2",
    ),
    "boolq": ("Context:\nIce is cold.\nQuestion:\nis ice cold\nAnswer:", " yes"),
    "obqa": (
        (
            "Question:\nTo cut bread one needs\nAnswer 1:\na knife\nAnswer 2:\na cup"
            "\nAnswer 3:\na bell\nAnswer 4:\na rope"
            "\nCorrect Answer:"
        ),
        " 1",
    ),
    "siqa": (
        (
            "Context:\nAnn won.\nQuestion:\nHow does Ann feel?\nAnswer 1:\nsad\nAnswer 2:\ntired\nAnswer 3:\nglad"
            "\nCorrect Answer:"
        ),
        " 3",
    ),
    "hellaswag": (
        (
            "Context:\nShe opens the oven. \nEnding 1:\nIt sings.\nEnding 2:\nShe takes the bread out."
            "\nEnding 3:\nIt flies.\nEnding 4:\nIt rains.\nCorrect Ending:"
        ),
        " 2",
    ),
    "winogrande": (
        "Sentence:\nThe cup broke but the pan held as the _ is iron.\nOption 1:\ncup\nOption 2:\npan\nCorrect Option:",
        " 2",
    ),
    "csqa": (
        (
            "Question:\nWhere does a bird sleep?\nAnswer 1:\nsea\nAnswer 2:\nnest\nAnswer 3:\npan\nAnswer 4:\ncar"
            "\nAnswer 5:\nsun\nCorrect Answer:"
        ),
        " 2",
    ),
    "cola": ("The cat sleeps.\nAcceptability:", " acceptable"),
    "mrpc": ("Sentence 1:\nA rose is red.\nSentence 2:\nText 0.\nEquivalent:", " no"),
    "qqp": ("Question 1:\nA rose is red.\nQuestion 2:\nText 0.\nDuplicate:", " no"),
    "qnli": ("Question:\nA rose is red.\nSentence:\nText 0.\nAnswered:", " yes"),
    "rte": ("Premise:\nA rose is red.\nHypothesis:\nText 0.\nEntailed:", " yes"),
    "agnews": ("The team won the cup.\nTopic:", " Sports"),
    "dbpedia": ("Old Mill\n The Old Mill is a mill in Kent.\nCategory:", " Building"),
}
