"""Every registered measure's columns, computed again from eager attention in plain NumPy, SciPy and networkx.

Nothing of `gentrace.analysis` is used for the second computation: a transformers forward over the saved token ids gives
attention, logits and value vectors, and the definitions are written down once more.
"""

import warnings
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import jensenshannon
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from gentrace.analysis import measures
from gentrace.demo import load
from gentrace.studies import Study, open_study
from tests.oracle import full_forward
from tests.studies.made import made_spec, run

SETTING = {"name": "warm", "do_sample": True, "temperature": 0.8, "top_k": 40, "top_p": 0.9, "max_new_tokens": 7}
ROWS = [
    {"text": "The red cat saw the red", "mood": "calm"},
    {"text": "Tom and Sam, Tom and", "mood": "glad"},
    {"text": "Once", "mood": "calm"},
]
TOLERANCE = 5e-5
"""Of float32 kernels that differ; distances are up to 15 times that."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    out = tmp_path_factory.mktemp("again") / "study"
    asked = [{"measure": name} for name in measures() if not name.startswith("made_")]
    partial = {"hold_position": True, "method": "pearson", "resamples": 50}
    asked += [
        {"measure": "surprise_correlation", "name": "partial", "options": partial},
        {"measure": "token_surprise", "name": "bits", "options": {"unit": "bits", "under": "sampler"}},
        {"measure": "attention_entropy", "name": "new", "options": {"queries": "generated", "unit": "bits"}},
    ]
    spec = made_spec(
        prompts={"rows": ROWS, "factors": ["mood"]},
        decoding=[SETTING, {"max_new_tokens": 1}],
        measures=asked,
        keep={"traces": True, "values": True, "steps": True},
    )
    summary, said = run(spec, out)
    assert summary.ok, said
    return open_study(out)


class Again:
    """One generation, from its token ids alone."""

    def __init__(self, ids: list[int], prompt: int) -> None:
        """Run the model over the tokens that were fed."""
        model: Any = load("story")[0]
        vectors: list[np.ndarray] = []
        hooks = [
            block.attn.c_attn.register_forward_hook(lambda _, __, out: vectors.append(out[0].double().numpy()))
            for block in model.transformer.h
        ]
        layers, logits = full_forward(model, torch.tensor(ids[:-1]))
        for hook in hooks:
            hook.remove()
        self.ids, self.prompt, self.count = np.array(ids), prompt, len(ids) - 1
        self.weights = torch.stack(layers).double().numpy()
        heads = self.weights.shape[1]
        size = vectors[0].shape[1] // 3
        split = [one[:, 2 * size :].reshape(self.count, heads, -1).transpose(1, 0, 2) for one in vectors]
        self.norms = np.linalg.norm(np.stack(split), axis=-1)
        self.logits = logits.double()
        self.logprobs = self.logits.log_softmax(-1).numpy()

    def tokens(self, *, sampled: bool) -> dict[str, np.ndarray]:
        """Column → value at each position."""
        rows, came = np.arange(self.count), self.ids[1:]
        own = self.logprobs[rows, came]
        warped = self.logits
        for warper in (TemperatureLogitsWarper(0.8), TopKLogitsWarper(40), TopPLogitsWarper(0.9)) if sampled else ():
            warped = warper(torch.tensor(self.ids[None]), warped)
        drawn = warped.log_softmax(-1).numpy()[rows, came]
        drawn[: self.prompt - 1] = np.nan
        entropy = -(np.exp(self.logprobs) * self.logprobs).sum(-1)
        rank = (self.logprobs > own[:, None]).sum(-1)
        found = {"token_surprise": -own, "token_entropy": entropy, "token_rank": rank, "bits": -drawn / np.log(2)}
        found |= {"logprob": own, "entropy": entropy, "sampled_logprob": drawn}
        return {name: np.concatenate([[np.nan], values]) for name, values in found.items()}

    def rows(self) -> dict[str, np.ndarray]:
        """Column → ``[layer, head, query]``."""
        weights, prompt, ids = self.weights, self.prompt, self.ids[:-1]
        query, key = np.arange(self.count)[:, None], np.arange(self.count)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -np.where(weights > 0, weights * np.log(weights), 0).sum(-1)
        same, followed = ids[:, None] == ids, ids[:, None] == np.concatenate([[-1], ids[:-1]])
        found = {
            "attention_entropy": entropy,
            "mean_distance": (weights * np.abs(query - key)).sum(-1),
            "first_token_mass": weights[..., 0],
            "sink_mass": weights[..., 0],
            "learned_sink_mass": weights[..., 0] * 0,
            "span_mass.prompt": weights[..., :prompt].sum(-1),
            "span_mass.generated": weights[..., prompt:].sum(-1),
            "span_mass.other": weights[..., 0] * 0,
            "value_norms": self.norms,
            "value_weighted_attention.prompt": (weights * self.norms[:, :, None])[..., :prompt].sum(-1),
            "value_weighted_attention.generated": (weights * self.norms[:, :, None])[..., prompt:].sum(-1),
            "new": np.where(key >= prompt - 1, entropy / np.log(2), np.nan),
        }
        for name, expected in (
            ("previous_token", query - 1 == key),
            ("duplicate_token", same & (key < query)),
            ("induction", followed & (key < query)),
        ):
            found[f"{name}_mass"] = np.where(expected.any(-1), (weights * expected).sum(-1), np.nan)
        back = np.full(weights.shape[:3], np.nan)
        for row in range(prompt, self.count):
            old, new = weights[:, :, row, :prompt].mean(-1), weights[:, :, row, prompt : row + 1].mean(-1)
            back[:, :, row] = old / (old + new)
        return found | {"lookback_ratio": back}

    def mixing(self) -> np.ndarray:
        """``[layer, query, key]`` averaged heads beside a residual connection."""
        return 0.5 * np.eye(self.count) + 0.5 * self.weights.mean(1)

    def flow(self) -> tuple[float, float]:
        """What the last row can get from the prompt and from the rest, as shares."""
        graph: Any = nx.DiGraph()
        for level, matrix in enumerate(self.mixing()):
            for query, key in zip(*np.nonzero(matrix), strict=True):
                graph.add_edge((level + 1, int(query)), (level, int(key)), capacity=matrix[query, key])
        top = (len(self.weights), self.count - 1)
        flows = np.array([nx.maximum_flow_value(graph, top, (0, key)) for key in range(self.count)])
        return flows[: self.prompt].sum() / flows.sum(), flows[self.prompt :].sum() / flows.sum()

    def distances(self) -> np.ndarray:
        """``[head of any layer]`` mean distance in bits from all other heads."""
        flat = self.weights.reshape(-1, self.count, self.count)
        square = np.array(
            [[np.mean(jensenshannon(one, other, base=2, axis=-1) ** 2) for other in flat] for one in flat]
        )
        return square.sum(1) / (len(flat) - 1)


def average(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.nanmean(values, -1)


def own(frame: pd.DataFrame, generation: str, *order: str) -> pd.DataFrame:
    return frame[frame["generation"] == generation].sort_values(list(order))


def test_every_column_of_heads_and_tokens(study: Study) -> None:
    tokens, heads = study.tokens(), study.heads()
    checked = {*study.factors, "generation", "model", "decoding", "seed", "prompt_id", "layer", "head"}
    checked |= {"position", "id", "text", "generated", "rank"}
    for row in study.generations().to_dict("records"):
        mine, table = own(tokens, row["generation"], "position"), own(heads, row["generation"], "layer", "head")
        again = Again(mine["id"].tolist(), row["prompt_tokens"])
        for name, values in again.tokens(sampled=row["decoding"] == "warm").items():
            np.testing.assert_allclose(mine[name], values, atol=TOLERANCE, err_msg=name)
            checked.add(name)
        assert mine["rank"].tolist()[1:] == mine["token_rank"].tolist()[1:]
        for name, values in again.rows().items():
            far = 15 if name == "mean_distance" else 1
            np.testing.assert_allclose(table[name], average(values).reshape(-1), atol=far * TOLERANCE, err_msg=name)
            steps = np.array([list(one) for one in table[f"{name}.steps"]])
            np.testing.assert_allclose(
                steps, values.reshape(len(table), -1)[:, : steps.shape[1]], atol=far * TOLERANCE, err_msg=name
            )
            checked |= {name, f"{name}.steps"}
        for name in ("previous_token", "duplicate_token", "induction"):
            np.testing.assert_allclose(table[f"{name}_score"], table[f"{name}_mass"], atol=1e-12)
            checked.add(f"{name}_score")
        np.testing.assert_allclose(table["head_distance"], again.distances(), atol=TOLERANCE)
        rollout = np.linalg.multi_dot([*again.mixing()[::-1]])
        fed = mine.iloc[:-1]
        np.testing.assert_allclose(fed["attention_rollout.prompt"], rollout[:, : again.prompt].sum(-1), atol=TOLERANCE)
        np.testing.assert_allclose(
            fed["attention_rollout.generated"], rollout[:, again.prompt :].sum(-1), atol=TOLERANCE
        )
        flows = fed[["attention_flow.prompt", "attention_flow.generated"]]
        assert flows.iloc[-1].tolist() == pytest.approx(again.flow(), abs=TOLERANCE)
        assert flows.iloc[:-1].isna().all(axis=None)
        checked |= {"head_distance", *flows.columns, "attention_rollout.prompt", "attention_rollout.generated"}
    statistics = {f"{name}.{one}" for name in ("surprise_correlation", "partial") for one in
                  ("correlation", "low", "high", "p", "p_adjusted", "count")}  # fmt: skip
    assert {*tokens.columns, *heads.columns} == checked | statistics


def test_every_correlation(study: Study) -> None:
    tokens, heads = study.tokens(), study.heads()
    for row in study.generations(decoding="warm").to_dict("records"):
        surprise = own(tokens, row["generation"], "position")["token_surprise"].to_numpy()[1:]
        table, position = own(heads, row["generation"], "layer", "head"), np.arange(len(surprise))

        def left(values: np.ndarray, position: np.ndarray = position) -> np.ndarray:
            return values - np.polyval(np.polyfit(position, values, 1), position)

        trace = study.trace(row["generation"])
        attention = torch.stack([trace.attention(info.index) for info in trace.layers]).double()
        attention /= attention.sum(-1, keepdim=True)
        entropy = torch.special.entr(attention).sum(-1).reshape(len(table), -1).numpy()
        ranks = [stats.spearmanr(one, surprise).statistic for one in entropy]
        np.testing.assert_allclose(table["surprise_correlation.correlation"], ranks, atol=1e-9)
        partial = [stats.pearsonr(left(one), left(surprise)).statistic for one in entropy]
        np.testing.assert_allclose(table["partial.correlation"], partial, atol=1e-9)
        for name in ("surprise_correlation", "partial"):
            p = table[f"{name}.p"].to_numpy()
            smallest = np.sort(p) * len(p) / (np.arange(len(p)) + 1)
            expected = np.minimum.accumulate(smallest[::-1])[::-1][stats.rankdata(p, "ordinal").astype(int) - 1]
            np.testing.assert_allclose(table[f"{name}.p_adjusted"], np.minimum(expected, 1), rtol=1e-12)
            assert (table[f"{name}.count"] == len(surprise)).all()
            assert (table[f"{name}.low"] <= table[f"{name}.correlation"]).all()
            assert (table[f"{name}.correlation"] <= table[f"{name}.high"]).all()
