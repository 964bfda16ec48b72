"""What the standard operators can't express is refused with the reason; what they can is kept, never dropped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from ctx_export.decoding.graph import export_decoder
from ctx_runtime.errors import ExportError

TINY = {
    "vocab_size": 31, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip


def model_of(kind, **settings):
    config = transformers.AutoConfig.for_model(kind, **TINY | settings)
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def test_learned_sinks_are_refused():
    model = model_of("gpt_oss", num_local_experts=2, num_experts_per_tok=1, sliding_window=8)
    with pytest.raises(ExportError, match=r"with s_aux can't be exported"):
        export_decoder(model)


def test_scaling_by_the_length_of_the_input_is_refused():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(ExportError, match="'dynamic' scaling"):
        export_decoder(model_of("llama", rope_parameters=rope))


def test_a_state_that_is_no_cache_is_refused():
    config = transformers.MambaConfig(vocab_size=31, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(ExportError, match="caches of different kinds or sizes"):
        export_decoder(transformers.MambaForCausalLM(config).eval())


def test_soft_capped_scores_are_kept():
    model = model_of("gemma2", attn_logit_softcapping=5.0, final_logit_softcapping=3.0, sliding_window=8)
    nodes = [node for node in export_decoder(model).graph.graph if node.op_type == "Attention"]
    np.testing.assert_allclose([node.attributes["softcap"].as_float() for node in nodes], 5.0)


def test_a_model_is_left_as_it_was():
    model, ids = model_of("llama"), torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        export_decoder(model)
        after = model(input_ids=ids).logits
    assert torch.equal(before, after)
