"""Names that columns usually have, by what they hold.

Names are compared in lower case, with spaces, dots and hyphens as underscores.
"""

from __future__ import annotations

import re

#: Two columns that are a text pair, surest first.
PAIRS = (
    ("text", "text_pair"),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("question1", "question2"),
    ("question_1", "question_2"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("text_a", "text_b"),
    ("string1", "string2"),
    ("s1", "s2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("query", "passage"),
    ("query", "document"),
    ("claim", "evidence"),
    ("sentence", "aspect"),
    ("text", "aspect"),
    ("question", "answer"),
)
#: Names of a single text: each of the first is sure by itself; two of the second are ambiguous;
#: the third are used where there is no other.
TEXTS_SURE = ("text", "sentence", "premise", "sentence1", "question", "question1", "query")
TEXTS = (
    "review", "content", "tweet", "comment", "post", "message", "body", "document", "article",
    "utterance", "passage", "context", "string", "statement", "claim", "sms", "abstract",
    "description", "review_text", "review_body", "reviewtext", "comment_text", "tweet_text",
    "text_a", "full_text", "clean_text", "input", "prompt", "transcript", "essay", "snippet",
)  # fmt: skip
TEXTS_LAST = ("title", "headline", "subject", "summary", "phrase", "question_text")
#: Names of a label: the first in order of preference, the second equally good.
LABELS_SURE = ("label", "labels", "gold_label", "target", "class", "y", "label_id", "label_text")
LABELS = (
    "category", "sentiment", "score", "rating", "stars", "star_rating", "stance", "emotion",
    "intent", "topic", "polarity", "toxicity", "toxic", "subjectivity", "relation", "similarity",
    "similarity_score", "relatedness_score", "entailment", "entailment_judgment", "is_duplicate",
    "duplicate", "answer", "gold", "annotation", "tag", "genre", "type", "grade", "spam",
    "verdict", "act", "final_decision", "acceptability", "output", "coarse_label", "fine_label",
)  # fmt: skip
#: Names of labels whose whole numbers have an order.
RATINGS = (
    "rating", "ratings", "stars", "star_rating", "score", "grade", "similarity", "similarity_score",
    "relatedness_score", "difficulty", "level", "review_rating", "overall",
)  # fmt: skip
#: Columns of tokens and of their tags.
TOKENS = ("tokens", "words", "token")
TAGS = ("ner_tags", "tags", "labels", "label", "ner", "ner_labels", "pos_tags", "upos", "pos",
        "chunk_tags")  # fmt: skip
#: Prompts and their completions; the second tuple only where the completion is free text.
COMPLETIONS_SURE = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("document", "summary"),
    ("dialogue", "summary"),
    ("article", "highlights"),
    ("source_text", "target_text"),
)
COMPLETIONS = (
    ("input", "output"), ("source", "target"), ("src", "tgt"), ("query", "response"),
    ("question", "answer"),
)  # fmt: skip
#: The choices of a multiple-choice example: in one column, or in a numbered series of columns.
CHOICES = ("choices", "options", "endings", "candidates", "answers", "alternatives")
CHOICE_SERIES = re.compile(r"(choice|option|ending|answer|sol|solution)_?([0-9]|[a-f])")
CORRECT = ("label", "answer", "answerkey", "answer_key", "answer_idx", "answer_index", "correct",
           "correct_answer", "gold", "target", "correct_choice")  # fmt: skip
STEMS = ("question", "question_stem", "text", "sentence", "goal", "ctx", "prompt", "stem",
         "query", "startphrase", "sent1", "input")  # fmt: skip
PASSAGES = ("context", "passage", "article", "story", "premise", "paragraph", "para")
#: What an answer that a label judges is judged by.
JUDGED_BY = ("context", "passage", "document", "evidence", "paragraph")
#: A column that assigns rows to splits. Those of the first tuple can hold nothing else; the others
#: are taken where one value at least names a split, for a subset may be a topic, a fold a number.
SPLIT_COLUMNS_SURE = ("split", "splits", "data_split", "dataset_split")
SPLIT_COLUMNS = ("partition", "set", "subset", "fold")


def plain(name: str) -> str:
    """A name as names are compared."""
    return re.sub(r"[\s.\-]+", "_", name.strip().lower())


_USUAL = frozenset(
    [name for two in (*PAIRS, *COMPLETIONS_SURE, *COMPLETIONS) for name in two]
    + [*TEXTS_SURE, *TEXTS, *TEXTS_LAST, *LABELS_SURE, *LABELS, *TOKENS, *TAGS, *CHOICES, *CORRECT]
    + [*STEMS, *PASSAGES, *JUDGED_BY, *SPLIT_COLUMNS_SURE, *SPLIT_COLUMNS, "id", "index"]
)


def is_usual(name: str) -> bool:
    """Whether columns are often called so."""
    return plain(name) in _USUAL or bool(CHOICE_SERIES.fullmatch(plain(name)))
