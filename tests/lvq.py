"""De Sa's original rule: two codebooks, each taught by the other's hypotheses (de Sa 1993, "Learning Classification with
Unlabeled Data"), in numpy. A reference for small problems; ``methods/desa.py`` is the same idea for networks.

Two modalities x1 (N, D1), x2 (N, D2) of the same N events are each quantized by a codebook. First an output layer
learns by competition which codewords of the two occur together, which names them; then LVQ2.1 (Kohonen 1990) moves the
borders between differently named codewords, the other modality's class standing in for the label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
ROUNDS, RESTARTS = 25, 20  # of k-means, for codebooks and for the output layer


@dataclass
class Codebook:
    """Codewords (M, D) with the class (M,) of each."""

    words: Array
    classes: Labels

    def classify(self, x: Array) -> Labels:
        """The class of the nearest codeword of each of (N, D)."""
        classes: Labels = self.classes[distances(x, self.words).argmin(1)]
        return classes

    def learn(self, x: Array, label: int, rate: float, window: float) -> None:
        """LVQ2.1 on one input (D,): if one of the two nearest codewords has the label, one has not, and x lies in the
        window about their midplane, the right one comes nearer and the wrong one goes away."""
        squared = ((x - self.words) ** 2).sum(1)
        near, next_near = np.argpartition(squared, 1)[:2]
        right, wrong = (near, next_near) if self.classes[near] == label else (next_near, near)
        if self.classes[right] != label or self.classes[wrong] == label:
            return
        ratio = np.sqrt(min(squared[near], squared[next_near]) / max(squared[near], squared[next_near], 1e-300))
        if ratio > (1 - window) / (1 + window):
            self.words[right] += rate * (x - self.words[right])
            self.words[wrong] -= rate * (x - self.words[wrong])


def learn_pair(
    first: Array, second: Array, classes: int, words: int, rng: np.random.Generator, epochs: int = 10
) -> tuple[Codebook, Codebook]:
    """Codebooks of ``words`` words for each modality, whose classes, 0 to ``classes`` - 1, mean the same in both."""
    modalities = (first, second)
    centers = [kmeans(x, words, rng) for x in modalities]
    winners = [distances(x, c).argmin(1) for x, c in zip(modalities, centers, strict=True)]
    # how often each word occurs with each word of the other modality: words of one class keep the same company
    together = np.zeros((words, words))
    np.add.at(together, (winners[0], winners[1]), 1)
    names = _name(together, classes, rng)
    books = (Codebook(centers[0], names[0]), Codebook(centers[1], names[1]))
    total, step = epochs * len(first), 0
    for _ in range(epochs):
        for i in rng.permutation(len(first)):
            x1, x2 = first[i], second[i]
            guess1, guess2 = int(books[0].classify(x1[None])[0]), int(books[1].classify(x2[None])[0])
            rate, window = 0.03 * (1 - step / total), 0.3
            books[0].learn(x1, guess2, rate, window)
            books[1].learn(x2, guess1, rate, window)
            step += 1
    return books


def kmeans(x: Array, k: int, rng: np.random.Generator) -> Array:
    """Centers (k, D) by Lloyd's rule; an empty one stays where it is."""
    centers = x[rng.choice(len(x), k, replace=False)].copy()
    for _ in range(ROUNDS):
        nearest = distances(x, centers).argmin(1)
        for j in np.unique(nearest):
            centers[j] = x[nearest == j].mean(0)
    return centers


def distances(x: Array, words: Array) -> Array:
    """Squared distances (N, M)."""
    squared: Array = ((x[:, None] - words[None]) ** 2).sum(2)
    return squared


def _name(together: Array, classes: int, rng: np.random.Generator) -> tuple[Labels, Labels]:
    """Classes of the words of both modalities, from how often they occur together: the output layer.

    A class is an output unit with a weight from each word of either modality. Words and units settle in turn: a unit
    takes up the words whose partners it already has (competition), which is co-clustering of the table.
    """
    best: tuple[float, Labels, Labels] | None = None
    joint = together / together.sum()
    for _ in range(RESTARTS):
        columns = rng.integers(classes, size=joint.shape[1])
        for _ in range(ROUNDS):
            rows = _partners(joint, columns, classes)
            columns = _partners(joint.T, rows, classes)
        block = np.zeros((classes, classes))
        np.add.at(block, (rows[:, None], columns[None]), joint)
        outer = np.outer(block.sum(1), block.sum(0))
        seen = block > 0
        shared = float((block[seen] * np.log(block[seen] / outer[seen])).sum())
        if best is None or shared > best[0]:
            best = shared, rows, columns
    if best is None:
        raise ValueError("no restart")
    return best[1], best[2]


def _partners(joint: Array, names: Labels, classes: int) -> Labels:
    """For each row the class that its partners hold, compared with how common that class is."""
    mass = joint @ np.eye(classes)[names]
    expected = mass.sum(0, keepdims=True).clip(1e-12)
    return np.asarray((mass / expected).argmax(1), np.int64)
