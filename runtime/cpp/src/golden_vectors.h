// Golden vectors of a bucket: a plain npz of cases, inputs and what PyTorch answered.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "files.h"
#include "manifest.h"
#include "result.h"
#include "tensor.h"

namespace ctxrt::core {

// One stored run of rows padded to one length.
struct GoldenCase {
  Tensors inputs, outputs;                             // every one of the manifest, with its dtype and shape
  std::vector<std::int64_t> lengths;                   // tokens of each row
  std::int64_t padded_to = 0;                          // tokens
  std::optional<std::vector<std::int64_t>> positions;  // token outputs are stored at these only, ascending from 0
};

// The cases of an npz, at least one, which holds nothing else; a row has at least `shortest` tokens. `golden-syntax`.
Result<std::vector<GoldenCase>> read_golden(const Path& path, const Manifest& manifest, std::int64_t shortest = 1);

}  // namespace ctxrt::core
