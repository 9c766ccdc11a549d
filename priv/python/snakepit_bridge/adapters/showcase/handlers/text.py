"""Text tools."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Callable

from ....base_adapter import tool

_OPERATIONS: dict[str, Callable[[str], Any]] = {
    "upper": str.upper,
    "lower": str.lower,
    "reverse": lambda text: text[::-1],
    "length": len,
}

_POSITIVE = frozenset(
    ("best", "excellent", "fast", "good", "great", "happy", "love", "nice", "win", "wonderful")
)
_NEGATIVE = frozenset(
    ("awful", "bad", "fail", "hate", "poor", "sad", "slow", "terrible", "ugly", "worst")
)


class TextTools:
    @tool("upper, lower, reverse or length of a text")
    def process_text(self, text: str, operation: str = "upper") -> dict[str, Any]:
        function = _OPERATIONS.get(operation)
        if function is None:
            known = ", ".join(sorted(_OPERATIONS))
            raise ValueError(f"unknown operation {operation!r}; known: {known}")
        return {"result": function(text), "success": True}

    @tool("Counts, frequent words and mood of a text")
    def ml_analyze_text(self, text: str, top: int = 5) -> dict[str, Any]:
        words = re.findall(r"\w+", text.lower())
        sentences = [part for part in re.split(r"[.!?]+", text) if part.strip()]
        positive = sum(word in _POSITIVE for word in words)
        negative = sum(word in _NEGATIVE for word in words)
        score = (positive - negative) / max(positive + negative, 1)
        mood = "positive" if score > 0 else "negative" if score < 0 else "neutral"
        return {
            "word_count": len(words),
            "char_count": len(text),
            "sentence_count": len(sentences),
            "unique_words": len(set(words)),
            "average_word_length": sum(map(len, words)) / len(words) if words else 0.0,
            "top_words": [
                {"word": word, "count": count} for word, count in Counter(words).most_common(top)
            ],
            "sentiment": mood,
            "sentiment_score": score,
        }
