// Looks through an ONNX file without loading it: ONNX Runtime gets only what keeps the rules of FORMAT.md.
//
// ONNX Runtime itself takes external data from anywhere, of any length, and computes constants of any size when it
// opens a graph.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "files.h"
#include "manifest.h"
#include "weight_ranges.h"

namespace ctxrt::core {

inline constexpr std::size_t kMaxGraphBytes = 64 << 20;

// What the manifest says of a graph.
struct GraphContract {
  std::vector<TensorSpec> inputs;       // those that it may take
  std::vector<std::string> required;    // those that it must take: the mask of a graph for padded rows, a cache
  std::vector<TensorSpec> outputs;      // those that it gives, all of them
  std::optional<std::string> weights;   // the name of the weight file beside it; none if it may have no external data
  std::int64_t weights_bytes = 0;
};

// Checks the ONNX file `data`, called `path` in errors; the tensors that it reads of the weight file. `graph-syntax`,
// `graph-size`, `graph-inputs`, `weight-location`, `weight-range`.
Result<std::vector<StoredTensor>> scan_graph(const std::string& path, Bytes data, const GraphContract& contract);

}  // namespace ctxrt::core
