// Where tensors lie in the weight file, and the rules that hold for all graphs of a bundle together.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "result.h"
#include "tensor.h"

namespace ctxrt::core {

// A tensor of a graph whose numbers are `length` bytes of the weight file from `offset` on.
struct StoredTensor {
  std::string name, graph;
  std::int64_t data_type = 0;  // TensorProto.DataType
  Shape shape;
  std::int64_t offset = 0, length = 0;
  bool initializer = false;  // of the outermost graph

  std::int64_t end() const { return offset + length; }
};

// Two ranges are apart, or one holds the other; one that no other holds is aligned: `weight-overlap`, `weight-range`.
Status check_ranges(std::vector<StoredTensor> tensors);

}  // namespace ctxrt::core
