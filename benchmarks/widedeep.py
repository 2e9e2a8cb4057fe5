"""`WideDeep` and `FTTransformer` of pytorch-widedeep, trained by its own Trainer: deep.py runs this in
an environment of its own, with pytorch-widedeep and none of Penstock.

Takes the three parts of a split as Parquet files, writes the audit part's probabilities.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_widedeep import Trainer
from pytorch_widedeep.callbacks import EarlyStopping
from pytorch_widedeep.models import FTTransformer, TabMlp, Wide, WideDeep
from pytorch_widedeep.preprocessing import TabPreprocessor, WidePreprocessor

LABEL = "__label"


def prepared(model: dict[str, Any], parts: dict[str, pd.DataFrame]) -> tuple[WideDeep, dict[str, Any]]:
    """Builds the network, and the inputs of each part, all fitted on the training part."""
    columns = [name for name in parts["train"] if name != LABEL]
    numbers = [name for name in columns if parts["train"][name].dtype.kind == "f"]
    categories = [name for name in columns if name not in numbers]
    for rows in parts.values():
        rows[categories] = rows[categories].fillna("missing")
    tokens = model["type"] == "ft_transformer"
    tabular = TabPreprocessor(
        cat_embed_cols=categories,
        continuous_cols=numbers,
        cols_to_scale=numbers,
        with_attention=tokens,
        verbose=0,
    )
    tabular.fit(parts["train"])
    inputs = {part: {"X_tab": tabular.transform(rows)} for part, rows in parts.items()}
    told = {"column_idx": tabular.column_idx, "cat_embed_input": tabular.cat_embed_input}
    if tokens:
        deep = FTTransformer(
            **told,
            continuous_cols=numbers,
            input_dim=model["d"],
            n_blocks=model["blocks"],
            n_heads=model["heads"],
            attn_dropout=model["attention_dropout"],
            ff_dropout=model["ffn_dropout"],
        )
        network = WideDeep(deeptabular=deep)
    else:
        wide = WidePreprocessor(categories, [tuple(cross) for cross in model["crosses"]])
        wide.fit(parts["train"])
        for part, rows in parts.items():
            inputs[part]["X_wide"] = wide.transform(rows)
        deep = TabMlp(
            **told,
            continuous_cols=numbers,
            mlp_hidden_dims=model["hidden"],
            mlp_dropout=model["dropout"],
        )
        network = WideDeep(wide=Wide(input_dim=int(wide.wide_dim)), deeptabular=deep)
    return network, inputs


def trained(model: dict[str, Any], trainer: dict[str, Any], parts: dict[str, pd.DataFrame], seed: int) -> Any:
    """Probabilities of the audit part."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network, inputs = prepared(model, parts)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=trainer["optimizer"]["learning_rate"],
        weight_decay=trainer["optimizer"]["weight_decay"],
    )
    stopping = EarlyStopping(patience=trainer["early_stopping"]["patience"], restore_best_weights=True)
    loop = Trainer(
        network, objective="binary", optimizers=optimizer, callbacks=[stopping], verbose=0, seed=seed
    )
    with_labels = {
        part: {**inputs[part], "target": parts[part][LABEL].to_numpy()} for part in ("train", "validation")
    }
    loop.fit(
        X_train=with_labels["train"],
        X_val=with_labels["validation"],
        n_epochs=trainer["epochs"],
        batch_size=trainer["batch_size"],
    )
    return loop.predict_proba(**inputs["audit"], batch_size=512)[:, 1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("plan", help="model, trainer and seed as JSON")
    chosen = parser.parse_args()
    plan = json.loads(chosen.plan)
    parts = {
        part: pd.read_parquet(chosen.folder / f"{part}.parquet") for part in ("train", "validation", "audit")
    }
    found = trained(plan["model"], plan["trainer"], parts, plan["seed"])
    np.save(chosen.folder / "theirs.npy", found)


if __name__ == "__main__":
    main()
