"""Figures of models: their quality beside others', their graphs, what `init` and the defaults give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.figures.figure import Figure


def of_quality(found: list[dict[str, Any]]) -> Iterator[Figure]:
    for row in found:
        logistic = row["against"] == "logistic"
        yield Figure(
            f"AUROC {row['data']} against {row['against']}, {row['seeds']} seeds, paired",
            "≥ −0.01 (lower bound)" if logistic else "–",
            "–" if logistic else "≥ −0.01 (lower bound)",
            f"{row['auroc']:.4f} − {row['its_auroc']:.4f} = {row['difference']:+.4f} [{row['lower']:+.4f},"
            f" {row['upper']:+.4f}]",
            not logistic or row["lower"] >= -0.01,
            logistic or row["lower"] >= -0.01,
        )


def by_splits(found: list[dict[str, Any]]) -> Iterator[str]:
    """Seconds of each model, and its difference for splits that share rows."""
    yield "Intervals of what a new sample of people might give, splits sharing rows (Nadeau and Bengio 2003):"
    yield ""
    yield "| data | seconds a model | AUROC | against | difference |"
    yield "|---|---|---|---|---|"
    for row in found:
        lower, upper = row["nadeau_bengio"]
        yield (
            f"| {row['data']} | {row['seconds']:.1f} | {row['auroc']:.4f} | {row['against']} |"
            f" {row['difference']:+.4f} [{lower:+.4f}, {upper:+.4f}] |"
        )


def of_parity(found: dict[str, float]) -> Iterator[Figure]:
    for pair, apart in (
        ("torch, ONNX Runtime", "torch_onnxruntime"),
        ("ONNX Runtime, Triton through Envoy", "onnxruntime_triton"),
    ):
        yield Figure(
            f"probabilities: {pair}, {found['rows']:,} rows",
            "1e-6",
            "–",
            f"{found[apart]:.1e}",
            found[apart] <= 1e-6,
        )


def of_trees(found: dict[str, Any]) -> Iterator[Figure]:
    measured = (
        f"{found['auroc']:.4f} − {found['its_auroc']:.4f} = {found['difference']:+.4f}"
        f" [{found['lower']:+.4f}, {found['upper']:+.4f}]"
    )
    yield Figure(
        f"AUROC adult-income, trees against scikit-learn's boosting, {found['seeds']} seeds, paired",
        "≥ −0.003 (lower bound)",
        "≥ 0 (lower bound)",
        measured,
        found["lower"] >= -0.003,
        found["lower"] >= 0,
    )
    for what, unit, value, must, aim in (
        ("trees: one row in ONNX Runtime, processor time", "µs", found["row_us"], 100, 60),
        ("trees: graph", "MB", found["graph_mb"], 2, 0.8),
    ):
        yield Figure(
            what, f"{must} {unit}", f"{aim} {unit}", f"{value:.3g} {unit}", value <= must, value <= aim
        )
    yield Figure(
        "probabilities: LightGBM, ONNX Runtime, 48,842 rows",
        "1e-6",
        "–",
        f"{found['parity']:.1e}",
        found["parity"] <= 1e-6,
    )


def of_anomalies(found: dict[str, Any]) -> Iterator[Figure]:
    yield Figure(
        f"AUROC Shuttle, autoencoder on normal rows, the worst of {found['seeds']} seeds",
        "0.99",
        "–",
        f"{found['worst']:.4f}",
        found["worst"] >= 0.99,
    )
    yield Figure(
        f"AUROC Shuttle, autoencoder against Mahalanobis, {found['seeds']} seeds, paired",
        "–",
        "≥ 0 (lower bound)",
        f"{found['autoencoder']:.4f} − {found['mahalanobis']:.4f} = {found['difference']:+.4f}"
        f" [{found['lower']:+.4f}, {found['upper']:+.4f}]; isolation forest"
        f" {found['isolation_forest']:.4f}",
        kept=True,
        aim_reached=found["lower"] >= 0,
    )
    yield Figure(
        "probabilities: torch, ONNX Runtime, autoencoder on Shuttle",
        "1e-6",
        "–",
        f"{found['parity']:.1e}",
        found["parity"] <= 1e-6,
    )


def of_tables(found: list[dict[str, Any]]) -> Iterator[Figure]:
    for one in found:
        catboost = one["against"] == "catboost"
        yield Figure(
            f"errors of a file's defaults on {one['tables']} tables, against {one['against']}'s defaults",
            "–" if catboost else "≤ 1.01 (upper bound)",
            "≤ 1.00 (upper bound)" if catboost else "–",
            f"{one['ratio']:.3f} [{one['lower']:.3f}, {one['upper']:.3f}]",
            catboost or one["upper"] <= 1.01,
            not catboost or one["upper"] <= 1.0,
        )


def of_first_guesses(found: dict[str, Any]) -> Iterator[Figure]:
    for which, words in (("known", ""), ("held_out", " not seen before")):
        of, count = found[which], len(found[which]["tables"])
        who, types = f"`init`, {count} tables{words}", of["types"]
        yield Figure(f"{who}: types of columns", "95 %", "all", f"{types:.1%}", types >= 0.95, types == 1)
        for key, what in (
            ("target", "target with its type"),
            ("named", "entity, id and time"),
            ("protected", "protected columns"),
            ("leaks", "two planted leaks, the target named"),
        ):
            right = of[key]
            yield Figure(
                f"{who}: {what}",
                f"{0.9 * count:.0f}",
                f"{count}",
                f"{right:g}",
                right >= 0.9 * count,
                right == count,
            )


def of_first_models(found: dict[str, Any]) -> Iterator[Figure]:
    tables, mean, worst = found["tables"], found["mean"], found["worst"]
    yield Figure(
        f"models of `init`'s files against the better of linear and boosted, {len(tables)} tables,"
        f" {tables[0]['splits']} splits, paired",
        "−0.01 on the mean, −0.03 at worst",
        "≥ 0 on the mean",
        f"{mean:+.4f} on the mean, {worst:+.4f} at worst",
        mean >= -0.01 and worst >= -0.03,
        mean >= 0,
    )


def of_strength(found: dict[str, Any]) -> Iterator[Figure]:
    for by in ("sex", "race"):
        large, small = found[by]["512"], found[by]["64"]
        yield Figure(
            f"`fairness.strength` 0.3 by {by}, batches of 512, of 64, {found['seeds']} seeds",
            "0.03 apart",
            "–",
            f"{large:.3f}, {small:.3f}",
            abs(large - small) <= 0.03,
        )


def of_texts(found: dict[str, Any]) -> Iterator[Figure]:
    reviews = found["reviews"]
    yield Figure(
        f"accuracy text-reviews, text_cnn against TF-IDF and logistic regression, {reviews['seeds']} seeds,"
        " paired",
        "≥ −0.01 (lower bound)",
        "≥ 0 (lower bound)",
        (
            f"{reviews['accuracy']:.4f} − {reviews['its_accuracy']:.4f} = {reviews['difference']:+.4f}"
            f" [{reviews['lower']:+.4f}, {reviews['upper']:+.4f}]"
        ),
        reviews["lower"] >= -0.01,
        reviews["lower"] >= 0,
    )
    yield Figure(
        "probabilities: torch, ONNX Runtime, text-reviews",
        "1e-6",
        "–",
        f"{reviews['parity']:.1e}",
        reviews["parity"] <= 1e-6,
    )
    for name, data in (("mlp", "adult-income"), ("text_cnn", "text-reviews")):
        row = found[name]
        yield Figure(
            f"training rows a second, {name} on {data}, against a loop by hand, processor time",
            "0.8",
            "0.95",
            f"{row['ours']:,.0f} / {row['by_hand']:,.0f} = {row['ratio']:.2f}",
            row["ratio"] >= 0.8,
            row["ratio"] >= 0.95,
        )


def of_deep(found: list[dict[str, Any]]) -> Iterator[Figure]:
    for row in found:
        yield Figure(
            f"AUROC adult-income, {row['family']} against pytorch-widedeep's, mean of {row['seeds']} seeds",
            "≥ −0.003",
            "–",
            f"{row['auroc']:.4f} − {row['its_auroc']:.4f} = {row['difference']:+.4f}",
            row["difference"] >= -0.003,
        )


def of_audits(found: dict[str, float]) -> Iterator[Figure]:
    seconds, memory = found["seconds"], found["peak_mb"]
    yield Figure(
        "audit of 1,000,000 rows in 4 groups, 1,000 draws",
        "60 s; 1 GB",
        "20 s; 0.6 GB",
        f"{seconds:.0f} s; {memory / 1000:.2f} GB",
        seconds <= 60 and memory <= 1000,
        seconds <= 20 and memory <= 600,
    )
    yield Figure(
        "of 14,653 rows, against Fairlearn's MetricFrame with four rates, 1,000 draws",
        "–",
        "–",
        f"{found['ours_s']:.1f} s, {found['metric_frame_s']:.0f} s",
        True,
    )
