// Inputs of an application -> checked rows; rows -> a padded batch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "manifest.h"
#include "result.h"
#include "tensor.h"

namespace ctxrt::core {

// One input of its own length.
struct Row {
  std::vector<Tensor> arrays;  // one for each input of the manifest, without a batch axis; the mask's is empty
  std::int64_t length = 0;     // tokens

  // Only the positions `indices` of every input that has a length axis.
  Row take(std::span<const std::int64_t> indices, const std::vector<InputSpec>& inputs) const;
};

struct Rows {
  std::vector<Row> rows;
  bool batched = false;  // they came with a batch axis
};

// The rows of arrays (batch, length, …), or (length, …) for a single row. A mask says where each row ends; the mask
// and segment ids may be left out.
Result<Rows> read_rows(const Tensors& given, const Manifest& manifest);

// Feeds (batch, longest, …) padded with each input's pad value, with the mask if `masked`.
Tensors stack_rows(std::span<const Row* const> rows, const std::vector<InputSpec>& inputs, bool masked);

// Outputs (batch, length, …) from those of rows without a batch axis; token outputs of shorter rows end in zeros.
Tensors join_rows(std::span<const Tensors> rows, const std::vector<OutputSpec>& outputs, std::int64_t length);

}  // namespace ctxrt::core
