"""The model: who is a bot, judged from the sequence of a user's edits.

What :mod:`lib.model.stack` has learnt, with the threshold of :mod:`lib.model.threshold`, as plain numbers that score
and explain, and as a file that is what it was when it was written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sklearn
import skops
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from lib import artifacts, paths
from lib.model import evidence, features, stack, text
from lib.model.evidence import Weights
from lib.model.population import Population
from lib.model.stack import CrossValidation, ModelError, cross_validate, visible
from lib.model.threshold import MAX_HUMAN_FPR, choose_threshold
from lib.stats import CONFIDENCE

FORMAT = "wikisieve-model 2"
_DIGEST_BYTES = 64
_SEAL = f"{FORMAT} sha256=".encode()
#: Types in a model's file beyond those that skops trusts by itself. Hard-coded: a file cannot ask for more.
TRUSTED: tuple[str, ...] = ("numpy.clip",)


@text.compiled
def _probabilities(
    x: np.ndarray, mean: np.ndarray, scale: np.ndarray, weight: np.ndarray, constant: float, end: float
) -> np.ndarray:
    out = np.empty(len(x))
    for i in range(len(x)):
        odds = constant
        for j in range(len(mean)):
            odds += min(max((x[i, j] - mean[j]) / scale[j], -end), end) * weight[j]
        out[i] = 1.0 / (1.0 + np.exp(-odds))
    return out


@dataclass(frozen=True)
class Model:
    """A trained model with its threshold.

    The threshold was chosen on scores of cross-validation, by models that learnt from four fifths of the users, and
    holds for this one under the assumption that a model of all users gives unseen people no higher scores than the
    highest of theirs. The forward test of stage 3 checks that on later edits.
    """

    texts: LogisticRegression
    judge: Pipeline
    threshold: float
    with_name: bool = True
    facts: dict[str, Any] = field(default_factory=dict)  #: what it was trained on and what it promises
    version: str = ""

    @classmethod
    def fit(
        cls,
        people: Population | pa.Table,
        seed: int = 0,
        max_human_fpr: float = MAX_HUMAN_FPR,
        with_name: bool = True,
        cross: CrossValidation | None = None,
    ) -> Model:
        """Train both levels on all users and choose the threshold.

        Parameters
        ----------
        people : Population or pyarrow.Table
            Edits with the columns of stage 2.
        seed : int, default 0
        max_human_fpr : float, default 0.01
            Share of people that may be flagged, promised with 95 % confidence.
        with_name : bool, default True
            Whether the name may speak.
        cross : CrossValidation, optional
            Of the same people, when there is one already.

        Raises
        ------
        ModelError
            When there are too few bots or people.
        NoHonestThreshold
            When the promise cannot be made.
        """
        people = people if isinstance(people, Population) else Population.of(people)
        cross = cross or cross_validate(people, seed)
        threshold = choose_threshold(cross.highest_of_all_deals(with_name)[~people.bots], max_human_fpr)
        judge = stack.fit_judge(people, cross.rows, with_name)
        texts = stack.fit_texts(people, np.ones(len(people), bool), seed)
        facts = {
            "edits": len(people.user),
            "users": len(people),
            "bots": int(people.bots.sum()),
            "seed": seed,
            "max_human_fpr": max_human_fpr,
            "confidence": CONFIDENCE,
        }
        return cls(texts, judge, threshold, with_name, facts)._named()

    def evidence(self, table: pa.Table) -> np.ndarray:
        """Say what each edit shows by itself, shape (n, len(EVIDENCE)); see :func:`lib.model.evidence.of`."""
        return evidence.of(table, self.weights)

    @cached_property
    def weights(self) -> Weights:
        """The model of texts as plain numbers for the compiled loop."""
        return Weights(self.texts.coef_[0].astype(np.float32), float(self.texts.intercept_[0]))

    def score(self, x: np.ndarray) -> np.ndarray:
        """Score the features of users (:func:`lib.model.features.fold`).

        Parameters
        ----------
        x : ndarray of float, shape (m, len(FEATURES))

        Returns
        -------
        ndarray of float, shape (m,)
            The probability of a bot, rounded: the judge's, but added up row by row in one fixed order. A product of
            matrices may differ in the last bit with the number of rows, and a verdict must not depend on how edits were
            cut.
        """
        x = np.array(visible(x, self.with_name), np.float64, order="C")
        return stack.round_scores(_probabilities(x, *self._plain))

    @cached_property
    def _plain(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
        """The judge as plain numbers: mean, standard deviation, weight, constant, and where features end."""
        scaler, linear = self.judge.steps[0][1], self.judge.steps[-1][1]
        end = np.inf if self.with_name else stack.BLIND_END
        return (
            scaler.mean_.copy(),
            scaler.scale_.copy(),
            linear.coef_[0].copy(),
            float(linear.intercept_[0]),
            end,
        )

    def explain_all(self, states: np.ndarray) -> list[list[tuple[str, float]]]:
        """Say what made the scores of users.

        Parameters
        ----------
        states : ndarray of float, shape (n, STATE)
            Their summaries.

        Returns
        -------
        list of list of (str, float)
            For each user, features in words with their share of the score's log-odds against the average training user,
            largest first.
        """
        if not len(states):
            return []
        x = visible(features.describe(states), self.with_name)
        mean, scale, weight, _, end = self._plain
        shares = stack.round_scores(np.clip((x - mean) / scale, -end, end) * weight)
        names = np.array(features.FEATURES, object)
        names = names if self.with_name else names[~features.OF_THE_NAME]
        orders = np.argsort(-np.abs(shares), axis=1, kind="stable")
        return [
            [(name, share) for name, share in zip(names[order], row[order].tolist(), strict=True) if share]
            for order, row in zip(orders, shares, strict=True)
        ]

    # --- file ---------------------------------------------------------------------------------------------------------

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "texts": self.texts,
            "judge": self.judge,
            "threshold": float(self.threshold),
            "with_name": bool(self.with_name),
            "facts": json.dumps(self.facts, sort_keys=True),
            "features": list(features.FEATURES),
        }

    def _named(self) -> Model:
        """Give the model its name: a short hash of everything that it decides by."""
        digest = hashlib.sha256()
        for part in _numbers_of(self):
            digest.update(part)
        return dataclasses.replace(self, version=digest.hexdigest()[:12])

    def save(self, path: str | Path) -> None:
        """Write the model with skops; the archive's comment ends in the SHA-256 of all that is before it."""
        content = {**self._content(), "version": self.version, "made_with": _libraries()}
        buffer = io.BytesIO()
        skops.io.dump(content, buffer, compression=zipfile.ZIP_DEFLATED)
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.comment = _SEAL + b"0" * _DIGEST_BYTES
        body = buffer.getvalue()[:-_DIGEST_BYTES]
        artifacts.atomic_write(Path(path), body + hashlib.sha256(body).hexdigest().encode())

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Read a model.

        Parameters
        ----------
        path : str or Path
            What :meth:`save` wrote.

        Returns
        -------
        Model

        Raises
        ------
        ModelError
            When the file is missing, was changed, is of another format or version, or holds other types than ours.
        """
        path = Path(path)
        data = _unsealed(path)
        try:
            content = skops.io.loads(data, trusted=list(TRUSTED))
        except _UNREADABLE as error:
            raise ModelError(f"{_whose(path)} Got {type(error).__name__}: {error}. {_WAY_OUT}") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ModelError(f"{_whose(path)} Got another content. {_WAY_OUT}")
        if content.get("features") != list(features.FEATURES):
            raise ModelError(f"{_whose(path)} Got one of another version: its features differ. {_WAY_OUT}")
        facts = json.loads(content["facts"])
        model = cls(
            content["texts"], content["judge"], content["threshold"], content["with_name"], facts
        )._named()
        if model.version != content["version"]:
            raise ModelError(
                f"{_whose(path)} Got version {model.version}, it says {content['version']}. {_WAY_OUT}"
            )
        return model


_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, zipfile.BadZipFile)
_WAY_OUT = "Run 03_eda_train again to make it."


def _whose(path: Path) -> str:
    return f"{paths.show(path)} must be a model that this version of wikisieve wrote ({FORMAT})."


def _unsealed(path: Path) -> bytes:
    """Read a model's file and check its seal."""
    if not path.is_file():
        raise ModelError(f"There must be a model at {paths.show(path)}. Got no file. {_WAY_OUT}")
    data = path.read_bytes()
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if not body.endswith(_SEAL):
        raise ModelError(
            f"{_whose(path)} Got a file without its seal: cut, or made by something else. {_WAY_OUT}"
        )
    actual = hashlib.sha256(body).hexdigest()
    if actual.encode() != digest:
        raise ModelError(
            f"{_whose(path)} Got a changed file: its SHA-256 begins with {actual[:12]}. {_WAY_OUT}"
        )
    return data


def _libraries() -> str:
    return f"scikit-learn {sklearn.__version__}, skops {skops.__version__}, numpy {np.__version__}"


def _numbers_of(model: Model) -> list[bytes]:
    """Everything that decides, as bytes, for the version."""
    parts = [
        FORMAT.encode(),
        repr((model.threshold, model.with_name)).encode(),
        "\n".join(features.FEATURES).encode(),
    ]
    for estimator in (model.texts, *(step for _, step in model.judge.steps)):
        for name in sorted(vars(estimator)):
            if name.endswith("_") and not name.startswith("__"):
                value = vars(estimator)[name]
                if isinstance(value, np.ndarray | float | int):
                    parts.append(name.encode() + np.ascontiguousarray(value).tobytes())
    return parts
