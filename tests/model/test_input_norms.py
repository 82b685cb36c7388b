"""States as the next block reads them: the input norm of the next block, against what its attention really gets."""

import pytest
import torch

from pipeline.model.layer_stack import LayerStack

WIDTH = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "vocab_size": 64}
PRE_NORM = {
    "llama": {**WIDTH, "intermediate_size": 64, "num_key_value_heads": 4},
    "gpt_neox": {**WIDTH, "intermediate_size": 64},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 3, "vocab_size": 64},
}
POST_NORM = {"bert": {**WIDTH, "intermediate_size": 64}, "olmo2": {**WIDTH, "intermediate_size": 64}}


def stack_of(kind: str, config: dict[str, int]) -> tuple[LayerStack, torch.nn.Module]:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    module = AutoModel.from_config(AutoConfig.for_model(kind, **config)).eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return LayerStack(module, "encoder" if kind == "bert" else "decoder"), module


@pytest.mark.parametrize("kind", PRE_NORM)
def test_pre_norm_blocks_read_the_state_after_their_first_norm(kind: str) -> None:
    stack, module = stack_of(kind, PRE_NORM[kind])
    ids, states, read = torch.arange(20)[None], {}, []
    attention = [part for name, part in module.named_modules() if name.endswith((".self_attn", ".attention", ".attn"))]
    hooks = [
        part.register_forward_pre_hook(
            lambda _, args, kwargs: read.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        for part in attention
    ]
    stack.forward_and_capture(ids, lambda layer, state: states.__setitem__(layer, state.clone()))
    for hook in hooks:
        hook.remove()
    for layer in range(3):
        normed = stack.read_by_next_block(layer)
        assert normed is not None
        with torch.inference_mode():
            torch.testing.assert_close(normed(states[layer][0]), read[layer][0])
        assert not torch.allclose(states[layer][0], read[layer][0])


@pytest.mark.parametrize("kind", POST_NORM)
def test_post_norm_blocks_read_the_state_itself(kind: str) -> None:
    stack, _ = stack_of(kind, POST_NORM[kind])
    states = torch.randn(7, 32)
    for layer in range(3):
        normed = stack.read_by_next_block(layer)
        assert normed is not None
        assert torch.equal(normed(states), states)


@pytest.mark.parametrize("kind", [*PRE_NORM, *POST_NORM])
def test_no_block_reads_the_last_state(kind: str) -> None:
    stack, _ = stack_of(kind, (PRE_NORM | POST_NORM)[kind])
    assert stack.read_by_next_block(3) is None
    assert stack.read_by_next_block(4) is None
