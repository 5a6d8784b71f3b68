"""The plan: which prompts share a batch, and that everything that can change a row changes the batch's digest."""

import copy
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gentrace.errors import StudyError
from gentrace.studies import SpecError, load_spec, parse_spec
from gentrace.studies import plan as planning
from gentrace.studies.changes import explain
from gentrace.studies.models import identify
from gentrace.studies.plan import Models, Plan, draw_seed, make_plan
from gentrace.studies.prompts import read_prompts
from gentrace.studies.spec import Spec
from tests.studies.made import WORDS, made_spec


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(Path.cwd())


def planned(spec: Spec, models: Models) -> Plan:
    return make_plan(spec, read_prompts(spec), models, folders=[Path(__file__).parent])


def test_batches_are_of_similar_length_and_cover_everything_once(models: Models) -> None:
    plan = planned(made_spec(seeds=[3, 4]), models)
    assert len(plan.generations) == 7 * 2 * 2
    assert [one.number for one in plan.generations] == list(range(28))
    numbers = [one.number for batch in plan.batches for one in batch.generations]
    assert sorted(numbers) == list(range(28))
    assert len({one.whose.generation for one in plan.generations}) == 28
    for start in range(0, len(plan.batches), 3):
        lengths = [one.prompt_tokens for batch in plan.batches[start : start + 3] for one in batch.generations]
        assert lengths == sorted(lengths, reverse=True)
        assert [len(batch.generations) for batch in plan.batches[start : start + 3]] == [3, 3, 1]
    tokenizer = models.get(plan.spec.models[0]).tokenizer
    for one in plan.generations:
        assert one.prompt_tokens == len(tokenizer(one.prompt.text)["input_ids"])


def test_draws_follow_from_seed_and_prompt_alone(models: Models) -> None:
    words = [{"word": word, "size": 0} for word in reversed(WORDS)]
    prompts = {"rows": words, "template": "Once there was a {word}.", "factors": ["size"]}
    one, other = planned(made_spec(), models), planned(made_spec(prompts=prompts, batch_size=2), models)
    draws = {generation.prompt.id: generation.draw for generation in one.generations}
    assert {generation.prompt.id: generation.draw for generation in other.generations} == draws
    # By hand: the first eight bytes of SHA-256 of "7:cat", without the lowest bit.
    assert draw_seed(7, "cat") == int(hashlib.sha256(b"7:cat").hexdigest()[:16], 16) // 2
    assert draw_seed(8, "cat") != draw_seed(7, "cat") != draw_seed(7, "dog")


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "max_new_tokens": ({"decoding": {"max_new_tokens": 7}}, "decoding.max_new_tokens was 6, is 7"),
    "an option": (
        {"decoding": {"max_new_tokens": 6, "options": {"bad_words_ids": [[5]]}}},
        "decoding.bad_words_ids is new",
    ),
    "seed": ({"seeds": 1}, "seed was 0, is 1"),
    "layers": ({"layers": [0]}, "layers was None, is [0]"),
    "keep": ({"keep": {"steps": True}}, "keep.steps was False, is True"),
    "measures": ({"measures": []}, "measure attention_entropy was attention_entropy, is gone; measure token_surprise"),
    "a measure": ({"measures": ["attention_entropy", "mean_distance"]}, "measure mean_distance is new"),
    "an option of a measure": (
        {"measures": ["attention_entropy", {"measure": "token_surprise", "options": {"unit": "bits"}}]},
        "measure token_surprise.unit is new: bits",
    ),
    "batch size": ({"batch_size": 4}, "other prompts share the batch"),
    "threads": ({"threads": 1}, "threads was None, is 1"),
    "kernel": ({"models": {"name": "story", "kernel": "eager"}}, "model.kernel was sdpa, is eager"),
    "dtype": ({"models": {"name": "story", "dtype": "bfloat16"}}, "model.dtype was float32, is bfloat16"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_row_changes_the_digest_and_is_named(change: str, models: Models) -> None:
    values, reason = CHANGES[change]
    base = planned(made_spec(decoding={"max_new_tokens": 6}), models)
    plan = planned(made_spec(**{"decoding": {"max_new_tokens": 6}, **values}), models)
    assert not {batch.hash for batch in base.batches} & {batch.hash for batch in plan.batches}
    lines = explain([batch.ingredients for batch in base.batches], [batch.ingredients for batch in plan.batches])
    assert any(reason in line for line in lines), lines


@pytest.mark.parametrize("values", [{"name": "other"}, {"max_failures": 3}, {"models": [{"name": "story"}]}])
def test_what_changes_no_row_changes_no_digest(values: dict[str, Any], models: Models) -> None:
    assert planned(made_spec(**values), models).hash == planned(made_spec(), models).hash


def test_versions_and_weights_count(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    base = planned(made_spec(), models)
    monkeypatch.setattr(planning, "version", lambda name: "0.0")
    assert not {batch.hash for batch in planned(made_spec(), models).batches} & {batch.hash for batch in base.batches}
    loaded = models.get(base.spec.models[0])
    changed = copy.deepcopy(loaded.model)
    with torch.no_grad():
        changed.lm_head.weight[5, 5] += 1e-3
    before, after = loaded.identity, identify(loaded.spec, changed, loaded.tokenizer)
    assert [name for name in before if before[name] != after[name]] == ["weights"]


def test_factors_and_texts_count_only_where_they_stand(models: Models) -> None:
    def rows(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        found = [{"word": word, "size": len(word)} for word in WORDS]
        change(found[0])
        return {"rows": found, "template": "Once there was a {word}.", "factors": ["size"]}

    base = {batch.hash for batch in planned(made_spec(), models).batches}
    other = {batch.hash for batch in planned(made_spec(prompts=rows(lambda row: row.update(size=99))), models).batches}
    # One batch of each of the two settings.
    assert len(base - other) == 2
    assert len(base & other) == 4


def test_what_cannot_be_generated_is_in_no_batch(models: Models) -> None:
    plan = planned(parse_spec({"models": "story", "prompts": ["Once", "", "baby " * 3000]}), models)
    refused = {one.prompt.index: one.refused for one in plan.refused()}
    assert refused[1] == "the prompt has no tokens"
    assert "more than the model's context of" in str(refused[2])
    assert [one.prompt.index for batch in plan.batches for one in batch.generations] == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = 'story'\nprompts = ['a']\nlayers = [0, 9]\n", "s.toml:3:14: story has layers 0 … 3, not 9"),
        (
            "models = 'story'\nprompts = ['a']\nkeep = {heads = [[1, 4]]}\n",
            "s.toml:3:18: story has layers 0 … 3 with heads",
        ),
        ("models = 'story'\nprompts = ['']\n", "s.toml:1:10: no prompt fits story: the prompt has no tokens"),
    ],
)
def test_what_the_model_does_not_have_is_named_with_its_line(
    text: str, message: str, models: Models, tmp_path: Path
) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(SpecError) as caught:
        planned(load_spec(tmp_path / "s.toml"), models)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"models": "./nowhere"}, "there is no such folder"),
        ({"models": "minilm-like/none"}, "minilm-like/none"),
        ({"models": {"name": "story", "kernel": "nonsense"}}, "choosing kernel 'nonsense' for story"),
        ({"measures": "no_such_module:f"}, "importing the measure no_such_module:f"),
        ({"measures": "json:no_such"}, "json has no function 'no_such'; it has dump, "),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_error(
    values: dict[str, Any], message: str, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(StudyError, match=message):
        planned(made_spec(**values), models)


def test_a_worker_elsewhere_can_be_given_its_work(models: Models) -> None:
    plan = planned(made_spec(measures=["gentrace.analysis:sink_mass"]), models)
    recipe, batch = pickle.loads(pickle.dumps((plan.recipe, plan.batches[0])))
    assert recipe == plan.recipe
    assert batch == plan.batches[0]
    assert planning.digest(batch.ingredients) == batch.hash
