// Arrays: contiguous, row-major, in the byte order of the machine; copies share the numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "result.h"

namespace ctxrt::core {

// The dtypes of a manifest, and float64, which callers may hand in.
enum class DType { float32, float16, int64, int32, boolean, float64 };

std::size_t item_bytes(DType dtype);
std::string_view dtype_name(DType dtype);
std::optional<DType> find_dtype(std::string_view name);

using Shape = std::vector<std::int64_t>;

// "(2, 16, 384)"
std::string describe(const Shape& shape);

struct Tensor {
  DType dtype = DType::float32;
  Shape shape;
  std::shared_ptr<const std::byte> data;  // kept alive by every tensor that shows a part of it

  std::size_t count() const;
  std::size_t bytes() const { return count() * item_bytes(dtype); }
  template <class T>
  std::span<const T> as() const {
    return {reinterpret_cast<const T*>(data.get()), count()};
  }
};

using Tensors = std::map<std::string, Tensor, std::less<>>;

// A new tensor whose bytes `fill` writes.
Tensor make_tensor(DType dtype, Shape shape, const std::function<void(std::byte*)>& fill);

// (a, b, …) -> (b, …), a view.
Tensor row_of(const Tensor& tensor, std::size_t index);

// (b, …) -> (1, b, …), a view.
Tensor with_batch(Tensor tensor);

// Positions start..stop-1 of `axis`; a view where they lie together.
Tensor slice(const Tensor& tensor, std::size_t axis, std::int64_t start, std::int64_t stop);

// The positions `indices` of `axis`.
Tensor take(const Tensor& tensor, std::size_t axis, std::span<const std::int64_t> indices);

// `axis` lengthened to `length`, filled with `value`.
Tensor pad(const Tensor& tensor, std::size_t axis, std::int64_t length, double value);

// Tensors of one dtype joined along `axis`; their other sizes are equal.
Tensor concatenate(std::span<const Tensor> parts, std::size_t axis);

// (…) x n -> (n, …)
Tensor stack(std::span<const Tensor> parts);

// Every number as float64.
std::vector<double> to_doubles(const Tensor& tensor);

// Numbers rounded to `dtype`.
Tensor from_doubles(std::span<const double> numbers, DType dtype, Shape shape);

// The same numbers in another dtype, if none is lost: whole numbers stay equal, floats may be rounded to floats.
std::optional<Tensor> cast(const Tensor& tensor, DType wanted);

}  // namespace ctxrt::core
