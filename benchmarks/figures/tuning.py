"""Figures of the tuner and of training by several workers, of what their benchmarks found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.figures.figure import Figure


def of_trials(found: dict[str, Any]) -> Iterator[Figure]:
    ours, theirs = found["penstock"], found["optuna"]
    ratio, of_processor = (ours[name] / theirs[name] for name in ("rest_s", "processor_s"))
    yield Figure(
        f"{found['trials']} trials after the first, two at once, against plain Optuna with two processes",
        "1.10 ×",
        "1.0 ×",
        f"{ours['rest_s']:.1f} s, {theirs['rest_s']:.1f} s: {ratio:.2f} ×; processor time of all"
        f" {of_processor:.2f} ×",
        ratio <= 1.10,
        ratio <= 1.0,
    )
    memory = ours["memory"] / 1e9
    yield Figure(
        "processes of two trials at once: memory (PSS)",
        "1.5 GB",
        "1.1 GB",
        f"{memory:.2f} GB, Optuna's {theirs['memory'] / 1e9:.2f} GB",
        memory <= 1.5,
        memory <= 1.1,
    )


def of_studies(found: dict[str, Any]) -> Iterator[Figure]:
    for what, key, unit, must, aim in (
        ("from a study's request to the first report of a trial", "first_s", "s", 15, 8),
        ("the same, trials on a local Ray", "first_on_ray_s", "s", 35, 25),
        (f"`tune` on credit-risk, {found['trials']} trials, to the verdict", "verdict_s", "s", 360, 180),
        ("a study with two trials at once over the stack: memory (PSS)", "memory", "GB", 1.5, 1.1),
    ):
        value = found[key] / (1e9 if unit == "GB" else 1)
        measured = f"{value:.3g} {unit}"
        yield Figure(what, f"{must} {unit}", f"{aim} {unit}", measured, value <= must, value <= aim)


def of_workers(found: dict[str, Any]) -> Iterator[Figure]:
    small, wide = found["small"], found["wide"]
    ratio, faster = small["epoch_s"] / small["by_hand_s"], wide["one_s"] / wide["two_s"]
    yield Figure(
        "two workers against a loop by hand of two gloo processes, an epoch of a small network",
        "1.10 ×",
        "1.025 ×",
        f"{small['epoch_s']:.2f} s, {small['by_hand_s']:.2f} s: {ratio:.2f} ×",
        ratio <= 1.10,
        ratio <= 1.025,
    )
    yield Figure(
        "two workers against one, a thread each, an epoch of a wide network",
        "1.4 × faster",
        "1.7 ×",
        f"{wide['two_s']:.2f} s, {wide['one_s']:.2f} s: {faster:.2f} ×",
        faster >= 1.4,
        faster >= 1.7,
    )
    for what, key, must, aim in (
        ("from a run's request to the first epoch of two workers", "first_s", 20, 12),
        ("the same, workers on a local Ray", "first_on_ray_s", 30, 20),
    ):
        value = found[key]
        yield Figure(what, f"{must} s", f"{aim} s", f"{value:.1f} s", value <= must, value <= aim)


def of_auto(found: dict[str, Any]) -> Iterator[Figure]:
    name, worst = max(
        ((name, one["auto_s"] / one["all_s"]) for name, one in found.items()), key=lambda one: one[1]
    )
    yield Figure(
        "`auto` against one worker with all cores' threads, the examples and a wide network: the slowest",
        "1.05 ×",
        "1.0 ×",
        f"{worst:.3f} ×: {name}",
        worst <= 1.05,
        worst <= 1.0,
    )


def each_auto(found: dict[str, Any]) -> Iterator[str]:
    yield "| training | `auto` | all threads | | `auto` chose |"
    yield "|---|---|---|---|---|"
    for name, one in found.items():
        auto, every = one["auto_s"], one["all_s"]
        yield f"| {name} | {auto:.2f} s | {every:.2f} s | {auto / every:.3f} × | {one['because']} |"


def of_searches(found: list[dict[str, Any]]) -> Iterator[Figure]:
    """Yields figures of one split of credit-risk; of losses 51 in one objective, so that a must of 0.002 of
    the card's form with its 5 is 0.0004 of a loss.
    """
    for row in found:
        several = row["search"] == "genetic"
        said = f"{row['mean']:.4f} − {row['random']:.4f}, {row['measured']:+.4f}"
        if several:
            said = f"{row['measured']:.2f} × (of the front of all random ones {row['inner']:.2f} ×)"
        yield Figure(
            f"{row['search']}, {row['trials']} trials, against as many drawn from {row['pool']} random ones:"
            f" {'hypervolume' if several else 'lowest loss, difference, 95 % upper bound'}",
            "0.95 ×" if several else "+0.0004",
            "1.05 ×" if several else "0",
            f"{said}; {row['seeds']} seeds, {row['won']:.0%} of pairs won",
            row["kept"],
            row["measured"] >= 1.05 if several else row["measured"] <= 0,
        )


def of_picks(found: list[dict[str, Any]]) -> Iterator[Figure]:
    for row in found:
        few = row["splits"] < row["of"]
        wanted = f" of {row['of']}" if few else ""
        splits = f"{row['splits']}{wanted} splits of {row['data']}, {row['trials']} trials"
        if row["figure"] == "pick":
            adult = row["data"] == "adult-income"
            yield Figure(
                f"AUROC on audit rows of what `tune` picks less the file's own, {splits}",
                "≥ −0.002 (lower bound)" + ("; 0.925" if adult else ""),
                "≥ +0.002 (lower bound)" + ("; 0.9275" if adult else ""),
                f"{row['auroc']:.5f} − {row['own']:.5f} = {row['difference']:+.4f} [{row['lower']:+.4f},"
                f" {row['upper']:+.4f}]; own kept {row['stayed']} times"
                + ("; too few splits to say" if few else ""),
                row["kept"],
                row["lower"] >= 0.002 and (not adult or row["auroc"] >= 0.9275),
            )
        else:
            yield Figure(
                f"ASHA against no pruner, {splits}: processor time; audit log loss of the pick",
                "0.6 ×; +0.005",
                "0.4 ×",
                f"{row['asha_s']:.0f} s, {row['whole_s']:.0f} s: {row['share']:.2f} ×; {row['loss']:+.4f}",
                row["kept"],
                row["share"] <= 0.4,
            )
