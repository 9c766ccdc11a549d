"""A small machine-learning flow on made-up data, in plain Python."""

from __future__ import annotations

import math
import random
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, Optional

from ....base_adapter import tool
from ....streams import StreamChunk
from .binary import embedding

_programs: dict[str, dict[str, Any]] = {}
_programs_lock = threading.Lock()


class MachineLearningTools:
    @tool("A sample with four features and a label")
    def load_sample_data(
        self, rows: int = 150, seed: int = 42, **_ignored: Any
    ) -> dict[str, Any]:
        source = random.Random(seed)
        data = [[source.gauss(0.0, 1.0) for _ in range(4)] for _ in range(rows)]
        return {
            "rows": rows,
            "columns": 4,
            "column_names": [f"feature_{i}" for i in range(4)],
            "data": data,
            "labels": [int(sum(row) > 0) for row in data],
        }

    @tool("Centres and scales columns")
    def preprocess_data(
        self, data: Optional[list[list[float]]] = None, **_ignored: Any
    ) -> dict[str, Any]:
        rows = data if data is not None else self.load_sample_data()["data"]
        columns = list(zip(*rows))
        means = [math.fsum(column) / len(column) for column in columns]
        stds = [
            math.sqrt(math.fsum((x - mean) ** 2 for x in column) / len(column)) or 1.0
            for column, mean in zip(columns, means)
        ]
        scaled = [[(x - m) / s for x, m, s in zip(row, means, stds)] for row in rows]
        return {
            "rows": len(rows),
            "train_size": len(rows) * 4 // 5,
            "test_size": len(rows) - len(rows) * 4 // 5,
            "feature_means": means,
            "feature_stds": stds,
            "data": scaled,
        }

    @tool("Adds squares and products of columns")
    def generate_features(
        self, data: Optional[list[list[float]]] = None, **_ignored: Any
    ) -> dict[str, Any]:
        rows = data if data is not None else self.load_sample_data()["data"]
        made = [[*row, *(x * x for x in row), row[0] * row[-1]] for row in rows]
        width = len(rows[0]) if rows else 0
        return {
            "original_features": width,
            "new_features": (len(made[0]) - width) if made else 0,
            "total_features": len(made[0]) if made else 0,
            "data": made,
        }

    @tool("The columns with the largest variance")
    def select_features(
        self, data: Optional[list[list[float]]] = None, k: int = 2, **_ignored: Any
    ) -> dict[str, Any]:
        rows = data if data is not None else self.load_sample_data()["data"]
        scores = []
        for column in zip(*rows):
            mean = math.fsum(column) / len(column)
            scores.append(math.fsum((x - mean) ** 2 for x in column) / len(column))
        best = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
        return {"selected": best, "scores": [scores[i] for i in best]}

    @tool("Trains a model, epoch by epoch", supports_streaming=True)
    def train_model(
        self,
        epochs: int = 5,
        model_type: str = "logistic",
        delay_ms: float = 0.0,
        **_ignored: Any,
    ) -> Iterator[Any]:
        weights = [0.0] * 4
        sample = self.load_sample_data()
        loss = accuracy = 0.0
        for epoch in range(1, epochs + 1):
            loss, accuracy = _epoch(weights, sample["data"], sample["labels"])
            yield {
                "epoch": epoch,
                "total_epochs": epochs,
                "loss": loss,
                "accuracy": accuracy,
                "progress": 100.0 * epoch / epochs,
            }
            if delay_ms > 0:
                time.sleep(delay_ms / 1000)
        yield StreamChunk(
            {
                "model_id": uuid.uuid4().hex,
                "model_type": model_type,
                "training_complete": True,
                "loss": loss,
                "accuracy": accuracy,
            },
            is_final=True,
        )

    @tool("Epochs of several workers", supports_streaming=True)
    def distributed_training(
        self,
        model_config: Optional[dict[str, Any]] = None,
        dataset_path: str = "",
        epochs: int = 5,
        **_ignored: Any,
    ) -> Iterator[Any]:
        wanted = int((model_config or {}).get("epochs", epochs))
        weights = [0.0] * 4
        train, check = self.load_sample_data(seed=1), self.load_sample_data(seed=2)
        for epoch in range(1, wanted + 1):
            loss, _ = _epoch(weights, train["data"], train["labels"])
            accuracy = _accuracy(weights, check["data"], check["labels"])
            yield {"epoch": epoch, "train_loss": loss, "val_acc": accuracy}
        path = f"{dataset_path or 'model'}.final"
        yield StreamChunk({"final_model_path": path, "epochs": wanted}, is_final=True)

    @tool("Accuracy over folds")
    def cross_validate(self, folds: int = 5, **_ignored: Any) -> dict[str, Any]:
        if folds < 2:
            raise ValueError("folds must be at least 2")
        sample = self.load_sample_data()
        scores = []
        for fold in range(folds):
            train = [i for i in range(sample["rows"]) if i % folds != fold]
            test = [i for i in range(sample["rows"]) if i % folds == fold]
            weights = [0.0] * 4
            for _ in range(5):
                _epoch(weights, *_pick(sample, train))
            scores.append(_accuracy(weights, *_pick(sample, test)))
        mean = sum(scores) / folds
        std = math.sqrt(sum((score - mean) ** 2 for score in scores) / folds)
        return {"folds": folds, "scores": scores, "mean_score": mean, "std_score": std}

    @tool("Class and confidence for one row of features")
    def predict_single(
        self, features: Optional[list[float]] = None, **_ignored: Any
    ) -> dict[str, Any]:
        row = features if features is not None else [0.5, -0.1, 0.3, 0.2]
        probability = _sigmoid(sum(row))
        return {
            "prediction": int(probability >= 0.5),
            "confidence": max(probability, 1.0 - probability),
        }

    @tool("Predictions and embeddings for a batch")
    def predict_batch_with_embeddings(
        self, batch_size: int = 8, embedding_dim: int = 64, **_ignored: Any
    ) -> dict[str, Any]:
        source = random.Random(batch_size)
        predictions = []
        for index in range(batch_size):
            row = [source.gauss(0.0, 1.0) for _ in range(4)]
            predictions.append(
                {
                    "id": index,
                    **self.predict_single(row),
                    "embedding": embedding(f"item {index}", embedding_dim),
                }
            )
        return {"batch_size": batch_size, "predictions": predictions}

    @tool("One prediction for each item", supports_streaming=True)
    def batch_inference(
        self,
        batch_items: Optional[list[Any]] = None,
        images: Optional[list[Any]] = None,
        items: Optional[list[Any]] = None,
        model_path: str = "",
        **_ignored: Any,
    ) -> Iterator[Any]:
        key = "image" if images is not None else "item"
        given = batch_items or images or items or []
        for item in given:
            score = abs(embedding(str(item), 1)[0]) * embedding(f"{model_path}{item}", 8)[0]
            probability = _sigmoid(3 * score)
            yield {
                key: item,
                "prediction": "positive" if probability >= 0.5 else "negative",
                "confidence": max(probability, 1.0 - probability),
            }
        yield StreamChunk({"total_processed": len(given)}, is_final=True)

    @tool("Sizes of images")
    def process_images(self, images: list[Any], return_tensors: bool = False) -> dict[str, Any]:
        results: list[dict[str, Any]] = []
        for index, image in enumerate(images):
            raw = image if isinstance(image, bytes) else str(image).encode()
            entry: dict[str, Any] = {"index": index, "size": len(raw)}
            if return_tensors:
                entry["tensor"] = [byte / 255.0 for byte in raw]
            results.append(entry)
        return {"processed": len(results), "results": results}

    @tool("Keeps a program for later")
    def create_program(self, name: str = "program", **fields: Any) -> dict[str, Any]:
        program_id = f"program_{uuid.uuid4().hex[:12]}"
        with _programs_lock:
            _programs[program_id] = {"name": name, **fields}
        return {"program_id": program_id, "name": name}

    @tool("Runs a kept program on an input")
    def execute_program(self, program_id: str, input: Any = None) -> dict[str, Any]:
        with _programs_lock:
            program = _programs.get(program_id)
        if program is None:
            raise KeyError(f"no program {program_id!r} in this worker")
        return {"program_id": program_id, "program": program, "output": input}


def _pick(sample: dict[str, Any], rows: list[int]) -> tuple[list[list[float]], list[int]]:
    return [sample["data"][i] for i in rows], [sample["labels"][i] for i in rows]


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(min(x, 60.0), -60.0)))


def _epoch(
    weights: list[float], data: list[list[float]], labels: list[int]
) -> tuple[float, float]:
    """One pass of gradient descent; loss and accuracy after it."""
    for row, label in zip(data, labels):
        error = _sigmoid(sum(w * x for w, x in zip(weights, row))) - label
        for i, x in enumerate(row):
            weights[i] -= 0.1 * error * x
    losses = []
    for row, label in zip(data, labels):
        p = min(max(_sigmoid(sum(w * x for w, x in zip(weights, row))), 1e-9), 1 - 1e-9)
        losses.append(-math.log(p if label else 1 - p))
    return math.fsum(losses) / len(losses), _accuracy(weights, data, labels)


def _accuracy(weights: list[float], data: list[list[float]], labels: list[int]) -> float:
    hits = 0
    for row, label in zip(data, labels):
        hits += int(sum(w * x for w, x in zip(weights, row)) > 0) == label
    return hits / len(labels)
