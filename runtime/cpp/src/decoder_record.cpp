// The interface of decoder graphs: the same as ctx_runtime/decoder.py.
#include <algorithm>

#include "manifest.h"

namespace ctxrt::core {
namespace {

void add_cache(const DecoderRecord& decoder, const std::string& when, std::vector<TensorSpec>& specs) {
  const Shape shape{kBatch, decoder.kv_heads, kCapacity, decoder.head_size};
  for (std::int64_t layer = 0; layer < decoder.layers; ++layer) {
    for (const char* kind : {"_key.", "_value."}) {
      specs.push_back({when + kind + std::to_string(layer), decoder.cache_dtype, shape});
    }
  }
}

}  // namespace

std::vector<TensorSpec> DecoderRecord::inputs() const {
  std::vector<TensorSpec> specs{{"input_ids", DType::int64, {kBatch, kLength}},
                                {"position_ids", DType::int64, {kBatch, kLength}},
                                {"last", DType::int64, {kBatch}}};
  if (form == DecoderForm::attention) {
    const Shape seen{kBatch, 1, kLength, kCapacity};
    specs.push_back({"write_indices", DType::int64, {kBatch}});
    specs.push_back({"mask", DType::boolean, seen});
    if (sliding_window) specs.push_back({"mask_sliding", DType::boolean, seen});
  } else {
    specs.push_back({"seqlens_k", DType::int32, {kBatch}});
    specs.push_back({"total_sequence_length", DType::int32, {1}});
  }
  add_cache(*this, "past", specs);
  return specs;
}

std::vector<std::string> DecoderRecord::required() const {
  std::vector<std::string> names;
  for (const auto& spec : inputs()) {
    if (spec.name != "position_ids" && spec.name != "mask" && spec.name != "mask_sliding") names.push_back(spec.name);
  }
  return names;
}

std::vector<TensorSpec> DecoderRecord::outputs() const {
  std::vector<TensorSpec> specs{{"logits", DType::float32, {kBatch, vocab_size}}};
  add_cache(*this, "present", specs);
  return specs;
}

std::int64_t DecoderRecord::cache_bytes(std::int64_t batch, std::int64_t capacity) const {
  return 2 * layers * batch * kv_heads * capacity * head_size * static_cast<std::int64_t>(item_bytes(cache_dtype));
}

}  // namespace ctxrt::core
