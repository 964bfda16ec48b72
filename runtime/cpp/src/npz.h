// numpy's npz files: a zip of npy arrays, version 1.0, in C order.
#pragma once

#include <optional>
#include <string_view>

#include "files.h"
#include "result.h"
#include "tensor.h"

namespace ctxrt::core {

struct NpyHeader {
  DType dtype = DType::float32;
  Shape shape;
  std::size_t data = 0;  // where the numbers start
};

// The header of an npy file, of which at least the header is there; none if it is not of the kind above.
std::optional<NpyHeader> parse_npy_header(Bytes file);

// The arrays of an npz file of at most `max_bytes` unpacked; the error is of the kind `input`.
Result<Tensors> read_npz(const Path& path, std::size_t max_bytes);

// Writes `arrays`, stored.
Status write_npz(const Path& path, const Tensors& arrays);

}  // namespace ctxrt::core
