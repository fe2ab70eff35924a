"""The contract, point 5: however the model is run, the result is that of the plain pass.

Cached generation, left padding, rows with different adapters in one batch, beams, torch.compile, continuous batching.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import BY_NAME, FAMILIES, Family
from helpers import attach, outputs, randomise, zero_init
from peft import PeftModel, get_peft_model
from torch import Tensor

from zerogate import ZeroInitConfig

CAUSAL = [family for family in FAMILIES if family.generates]
MIXED = ["llama-grouped", "gpt2", "gptj", "bloom", "falcon-new", "falcon-alibi", "mpt", "gemma2"]
GREEDY: dict[str, Any] = dict(max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
every_causal = pytest.mark.parametrize("family", CAUSAL, ids=lambda f: f.name)


@every_causal
def test_cached_generation_equals_uncached(family: Family) -> None:
    model = attach(family, num_layers=2)
    ids = family.inputs()["input_ids"][:2]
    cached = model.generate(input_ids=ids, **GREEDY, output_logits=True, return_dict_in_generate=True)
    tokens = ids
    for step in range(GREEDY["max_new_tokens"]):
        with torch.no_grad():
            logits = model(input_ids=tokens, use_cache=False).logits[:, -1]
        torch.testing.assert_close(cached.logits[step].to(logits.dtype), logits, rtol=1e-4, atol=1e-5)
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
    assert torch.equal(cached.sequences, tokens)


@every_causal
def test_a_left_padded_batch_equals_its_rows_alone(family: Family) -> None:
    model = attach(family, num_layers=2)
    ids = family.inputs()["input_ids"][:2]
    short = ids[1:, 3:]
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    padded = model.generate(input_ids=ids * mask, attention_mask=mask, **GREEDY)
    for row, alone in [(0, ids[:1]), (1, short)]:
        out = model.generate(input_ids=alone, attention_mask=torch.ones_like(alone), **GREEDY)
        assert torch.equal(padded[row, ids.shape[1] :], out[0, alone.shape[1] :])


# --- rows with different adapters ---------------------------------------------------------------------------

NAMES = ["first", "__base__", "second"]


def three_adapters(family: Family) -> PeftModel:
    """Adapters of different K, L and activation; "third" has K of "first", so that some mixes need no mask."""
    model = get_peft_model(family.model(), zero_init(family, num_layers=3, prompt_length=3), adapter_name="first")
    model.add_adapter("second", zero_init(family, num_layers=1, prompt_length=5, gate_activation="identity"))
    model.add_adapter("third", zero_init(family, num_layers=2, prompt_length=3, gate_per="layer"))
    for seed, name in enumerate(["first", "second", "third"]):
        randomise(model, seed, name)
    return model.eval()


def alone(model: PeftModel, name: str, run: Any) -> Any:
    if name == "__base__":
        with model.disable_adapter():
            return run()
    model.set_adapter(name)
    return run()


@pytest.mark.parametrize("names", [NAMES, ["third", "first", "__base__"], ["second"] * 3, ["__base__"] * 3], ids=str)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_a_mixed_batch_equals_its_rows_alone(family: Family, names: list[str]) -> None:
    if family.name in ("clip-both", "clip-vision-side"):
        pytest.skip("its output compares each image with each text: a row has no result of its own")
    model = three_adapters(family)
    mixed = outputs(family, model, adapter_names=names)
    for row, name in enumerate(names):
        expected = alone(model, name, lambda: outputs(family, model))[row]
        torch.testing.assert_close(mixed[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}, {"num_return_sequences": 2}],
    ids=str,
)
@pytest.mark.parametrize("name", MIXED)
def test_mixed_generation_equals_its_rows_alone(name: str, settings: dict[str, Any]) -> None:
    family = BY_NAME[name]
    model = three_adapters(family)
    ids = family.inputs()["input_ids"]
    each = settings.get("num_return_sequences", 1)
    sampled = {"do_sample": True, "top_k": 1} if settings == {"num_return_sequences": 2} else {}  # greedy has no copies
    run = {**GREEDY, **settings, **sampled}
    mixed = model.generate(input_ids=ids, adapter_names=NAMES, **run)
    for row, adapter in enumerate(NAMES):
        one = alone(model, adapter, lambda row=row: model.generate(input_ids=ids[row : row + 1], **run))
        assert torch.equal(mixed[row * each : (row + 1) * each], one)


def test_mixed_generation_takes_beams_from_a_generation_config() -> None:
    from transformers import GenerationConfig

    family = BY_NAME["llama-grouped"]
    model = three_adapters(family)
    ids = family.inputs()["input_ids"]
    config = GenerationConfig(**GREEDY, num_beams=2)
    expected = model.generate(input_ids=ids, adapter_names=NAMES, **GREEDY, num_beams=2)
    assert torch.equal(model.generate(input_ids=ids, adapter_names=NAMES, generation_config=config), expected)
    assert torch.equal(model.generate(ids, config, adapter_names=NAMES), expected)
    model.generation_config.num_beams = 2
    settings = {key: value for key, value in GREEDY.items()}
    assert torch.equal(model.generate(input_ids=ids, adapter_names=NAMES, **settings), expected)


def test_mixed_generation_of_an_encoder_decoder() -> None:
    """Whisper's encoder runs before the rows are repeated for beams, its decoder after."""
    family = BY_NAME["whisper-encoder"]
    model = three_adapters(family)
    features = family.inputs()["input_features"]
    run = dict(max_new_tokens=4, num_beams=2, do_sample=False, eos_token_id=None)
    mixed = model.generate(input_features=features, adapter_names=NAMES, **run)
    for row, adapter in enumerate(NAMES):
        one = alone(model, adapter, lambda row=row: model.generate(input_features=features[row : row + 1], **run))
        assert torch.equal(mixed[row], one[0])


def test_a_mixed_pass_leaves_nothing_behind() -> None:
    family = BY_NAME["llama-grouped"]
    model = three_adapters(family)
    before = outputs(family, model)
    outputs(family, model, adapter_names=NAMES)
    assert torch.equal(outputs(family, model), before)
    with pytest.raises(ValueError, match="2 entries for a batch of 3"):
        outputs(family, model, adapter_names=["first", "second"])
    assert torch.equal(outputs(family, model), before)


def test_whole_modules_beside_the_prompts_are_each_rows_own() -> None:
    """`modules_to_save`: a norm of some adapters, with beams; adapters without one and the base have the base's."""
    family = BY_NAME["llama-grouped"]
    model = get_peft_model(family.model(), zero_init(family, modules_to_save=["norm"]), adapter_name="first")
    model.add_adapter("second", zero_init(family, modules_to_save=["norm"]))
    model.add_adapter("third", zero_init(family))
    generator = torch.Generator().manual_seed(0)
    for seed, name in enumerate(["first", "second", "third"]):
        randomise(model, seed, name)
        for key, parameter in model.named_parameters():
            if f"modules_to_save.{name}" in key:
                parameter.data = torch.rand(parameter.shape, generator=generator) * 3
    model.eval()
    ids = torch.cat([family.inputs()["input_ids"], family.inputs()["input_ids"][:1]])
    names = ["second", "__base__", "third", "first"]
    for active in ("first", "third"):
        model.set_adapter(active)
        with torch.no_grad():
            mixed = model(input_ids=ids, adapter_names=names).logits
        said = model.generate(input_ids=ids, adapter_names=names, num_beams=2, **GREEDY)
        for row, name in enumerate(names):

            def one(row: int = row) -> Any:
                with torch.no_grad():
                    logits = model(input_ids=ids[row : row + 1]).logits[0]
                return logits, model.generate(input_ids=ids[row : row + 1], num_beams=2, **GREEDY)[0]

            logits, tokens = alone(model, name, one)
            torch.testing.assert_close(mixed[row], logits, rtol=1e-5, atol=1e-5)
            assert torch.equal(said[row], tokens)
        model.set_adapter(active)
    with model.disable_adapter(), torch.no_grad():
        plain = model(input_ids=ids).logits
        assert torch.equal(model(input_ids=ids, adapter_names=names).logits, plain)


def test_heads_are_each_rows_own() -> None:
    """A task's head, which PEFT trains with each adapter of a classifier, over what is pooled, [B, C]."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_labels=3
    )
    settings: dict[str, Any] = {"task_type": "SEQ_CLS", "prompt_length": 3}
    torch.manual_seed(0)
    model = get_peft_model(BertForSequenceClassification(config), ZeroInitConfig(**settings), adapter_name="first")
    model.add_adapter("second", ZeroInitConfig(**settings))
    for seed, name in enumerate(["first", "second"]):
        randomise(model, seed, name)
        for key, parameter in model.named_parameters():
            if f"modules_to_save.{name}" in key:
                torch.nn.init.normal_(parameter)
    ids = torch.randint(1, 61, (3, 7))
    model.eval()
    with torch.no_grad():
        mixed = model(input_ids=ids, adapter_names=["second", "first", "second"]).logits
        for row, name in enumerate(["second", "first", "second"]):
            model.set_adapter(name)
            torch.testing.assert_close(mixed[row], model(input_ids=ids).logits[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama-grouped", "gpt2"])
def test_the_first_thing_a_model_does_may_be_to_go_on_from_one_token(name: str) -> None:
    family = BY_NAME[name]
    one = torch.tensor([[1]])
    expected = attach(family)
    outputs(family, expected)
    assert torch.equal(attach(family).generate(input_ids=one, **GREEDY), expected.generate(input_ids=one, **GREEDY))


def test_a_device_is_known_after_a_move() -> None:
    """As a trainer does it: the adapter first, then the move. Here from no memory at all to the CPU."""
    family = BY_NAME["llama"]
    features = torch.randn(3, 1, 6)
    settings: dict[str, Any] = {"image_layers": [1], "image_channels": 6, "image_hidden": 4}
    expected = attach(family, **settings)
    with torch.device("meta"):
        moved = get_peft_model(family.model(), zero_init(family, **settings)).to_empty(device="cpu")
    moved.load_state_dict(expected.state_dict())
    moved.get_base_model().model.rotary_emb = expected.get_base_model().model.rotary_emb  # not in a state dict
    given = {"image_features": features}
    assert torch.equal(outputs(family, moved.eval(), **given), outputs(family, expected, **given))


# --- compiled -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-grouped", "qwen3", "gptj", "bloom", "falcon-new", "bert"])
def test_compiled_equals_eager(name: str) -> None:
    """One graph, no break, in inference and in training; the seam's Python is traced, not run."""
    family = BY_NAME[name]
    model = attach(family, num_layers=2)
    expected = outputs(family, model)
    family.result(model(**family.inputs())).pow(2).mean().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    torch._dynamo.reset()
    base = model.get_base_model()
    compiled = torch.compile(base, fullgraph=True, backend="aot_eager")
    inputs = {**family.inputs(), **({"use_cache": False} if family.generates else {})}
    with torch.no_grad():
        torch.testing.assert_close(family.result(compiled(**inputs)), expected, rtol=1e-5, atol=1e-5)
    model.zero_grad()
    family.result(compiled(**inputs)).pow(2).mean().backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[parameter_name], rtol=1e-4, atol=1e-6)
    randomise(model, 9)  # what the graph was traced with is not baked in
    with torch.no_grad():
        torch.testing.assert_close(family.result(compiled(**inputs)), outputs(family, model), rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


# --- other base attention, and continuous batching ----------------------------------------------------------


@pytest.mark.slow
def test_flex_attention() -> None:
    family = BY_NAME["llama-grouped"]
    model = family.model(attention="flex_attention")
    try:
        plain = outputs(family, model)
    except (RuntimeError, NotImplementedError, torch._dynamo.exc.TorchDynamoException) as error:
        pytest.skip(f"flex_attention of the plain base does not run here: {type(error).__name__}: {str(error)[:200]}")
    adapted = attach(family, model)
    ours = outputs(family, adapted)
    torch.testing.assert_close(ours, outputs(family, attach(family)), rtol=1e-4, atol=1e-5)
    assert (ours - plain).abs().max() > 1e-3


@pytest.mark.slow
def test_continuous_batching_gives_the_tokens_of_solo_generation() -> None:
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    family = BY_NAME["llama-grouped"]
    model = attach(family)
    base = model.get_base_model()
    prompts = [family.inputs()["input_ids"][i, : 4 + i].tolist() for i in range(3)]
    config = GenerationConfig(max_new_tokens=5, do_sample=False, eos_token_id=-1, pad_token_id=0)
    small = ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=64)  # else most of the memory
    results = base.generate_batch(
        inputs=prompts, generation_config=config, continuous_batching_config=small, progress_bar=False
    )
    together = [list(results[key].generated_tokens) for key in sorted(results, key=lambda k: int(k.rpartition("_")[2]))]
    for prompt, tokens in zip(prompts, together, strict=True):
        solo = model.generate(input_ids=torch.tensor([prompt]), **GREEDY)[0, len(prompt) :]
        assert tokens == solo.tolist()
    with model.disable_adapter():
        plain = model.generate(input_ids=torch.tensor([prompts[0]]), **GREEDY)[0, len(prompts[0]) :]
    assert together[0] != plain.tolist()  # the adapter was in the path


# --- prompts in the text's own softmax ----------------------------------------------------------------------


def vanilla_by_hand(q_BTHD: Tensor, k: Tensor, v: Tensor, prompt_k: Tensor, prompt_v: Tensor, scale: float) -> Tensor:
    """One softmax over the prompts and the causal text, one head and one query at a time: [B, T, H * D]."""
    B, T, H, _ = q_BTHD.shape
    G = k.shape[2]
    out = torch.zeros_like(q_BTHD, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            g = h // (H // G)
            for t in range(T):
                keys = torch.cat([prompt_k[:, g], k[b, : t + 1, g].double()])
                values = torch.cat([prompt_v[:, g], v[b, : t + 1, g].double()])
                out[b, t, h] = torch.softmax(keys @ q_BTHD[b, t, h].double() * scale, 0) @ values
    return out.flatten(2)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama-grouped", "gptj", "gpt2"])
def test_vanilla_equals_one_softmax_by_hand(name: str, attention: str) -> None:
    if name == "gptj" and attention == "sdpa":
        pytest.skip("GPT-J has one attention of its own")
    family = BY_NAME[name]
    plain = family.model(attention=attention)
    model = attach(family, family.model(attention=attention), attention="vanilla", num_layers=1)
    assert not any(".gate." in n for n, _ in model.named_parameters())
    block = family.block_names(plain)[-1]
    module: Any = plain.get_submodule(block)
    prompt = model.get_base_model().get_submodule(block).zero_init.prompt["default"].detach().double()
    prompt_k, prompt_v = family.keys_values(module, prompt)
    seen: dict[str, Tensor] = {}

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        seen["q"] = family.query(module, hidden, kwargs)
        flat_k, flat_v = family.keys_values(module, hidden.double().flatten(0, 1))
        k, v = (x.unflatten(0, hidden.shape[:2]) for x in (flat_k, flat_v))
        if name == "gptj":
            saved, module.q_proj = module.q_proj, module.k_proj  # the same rotation, for keys
            k = family.query(module, hidden, kwargs)
            module.q_proj = saved
        elif name != "gpt2":
            from families import rotate_halves

            k = rotate_halves(k.float(), *kwargs["position_embeddings"])
        seen["k"], seen["v"] = k, v

    def replace(_: Any, args: Any) -> Any:
        out = vanilla_by_hand(seen["q"], seen["k"], seen["v"], prompt_k, prompt_v, family.scale(module))
        return (out.to(args[0].dtype), *args[1:])

    module.register_forward_pre_hook(keep, with_kwargs=True)
    family.output_projection(plain, block).register_forward_pre_hook(replace)
    torch.testing.assert_close(outputs(family, model), outputs(family, plain), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.vanilla], ids=lambda f: f.name)
def test_vanilla_trains_and_generates(family: Family) -> None:
    model = attach(family, attention="vanilla", num_layers=2)
    base = outputs(family, family.model())
    assert (outputs(family, model) - base).abs().max() > 1e-3
    family.result(model(**family.inputs())).pow(2).mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    if family.generates:
        ids = family.inputs()["input_ids"][:1]
        tokens = ids
        for _ in range(3):
            with torch.no_grad():
                logits = model(input_ids=tokens, use_cache=False).logits[:, -1]
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
        settings = {**GREEDY, "max_new_tokens": 3}
        assert torch.equal(model.generate(input_ids=ids, **settings), tokens)
        if family.name in ("llama-grouped", "qwen3"):
            assert torch.equal(model.generate(input_ids=ids, cache_implementation="static", **settings), tokens)
