#include "tensor.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "half.h"

namespace ctxrt::core {
namespace {

struct DTypeFacts {
  DType dtype;
  std::string_view name;
  std::size_t bytes;
};

constexpr std::array kDTypeFacts = {
    DTypeFacts{DType::float32, "float32", 4}, DTypeFacts{DType::float16, "float16", 2},
    DTypeFacts{DType::int64, "int64", 8},     DTypeFacts{DType::int32, "int32", 4},
    DTypeFacts{DType::boolean, "bool", 1},    DTypeFacts{DType::float64, "float64", 8},
};

bool is_float(DType dtype) { return dtype == DType::float32 || dtype == DType::float16 || dtype == DType::float64; }

// A tensor seen along one axis: `outer` blocks of `size` positions of `inner` bytes.
struct AxisView {
  std::size_t outer = 1, size, inner;

  AxisView(const Tensor& tensor, std::size_t axis) : size(tensor.shape[axis]), inner(item_bytes(tensor.dtype)) {
    for (std::size_t i = 0; i < axis; ++i) outer *= tensor.shape[i];
    for (std::size_t i = axis + 1; i < tensor.shape.size(); ++i) inner *= tensor.shape[i];
  }
};

Shape resized(Shape shape, std::size_t axis, std::int64_t size) {
  shape[axis] = size;
  return shape;
}

std::shared_ptr<const std::byte> at(const Tensor& tensor, std::size_t offset) {
  return {tensor.data, tensor.data.get() + offset};
}

// Calls `use` with a value of the C++ type that holds `dtype`.
template <class Use>
auto with_type(DType dtype, Use use) {
  switch (dtype) {
    case DType::float32:
      return use(float{});
    case DType::float16:
      return use(Half{});
    case DType::int64:
      return use(std::int64_t{});
    case DType::int32:
      return use(std::int32_t{});
    case DType::boolean:
      return use(bool{});
    case DType::float64:
      break;
  }
  return use(double{});
}

// Whole numbers in another type; false if one changes, or if the types are not of whole numbers.
template <class From, class To>
bool copy_integers(std::span<const From> numbers, To* target) {
  if constexpr (std::is_integral_v<From> && std::is_integral_v<To>) {
    return std::all_of(numbers.begin(), numbers.end(), [&](From number) {
      *target = static_cast<To>(number);
      return static_cast<std::int64_t>(*target++) == static_cast<std::int64_t>(number);
    });
  }
  return numbers.empty();
}

}  // namespace

std::size_t item_bytes(DType dtype) { return kDTypeFacts[static_cast<std::size_t>(dtype)].bytes; }

std::string_view dtype_name(DType dtype) { return kDTypeFacts[static_cast<std::size_t>(dtype)].name; }

std::optional<DType> find_dtype(std::string_view name) {
  const auto found =
      std::find_if(kDTypeFacts.begin(), kDTypeFacts.end(), [&](const auto& facts) { return facts.name == name; });
  if (found == kDTypeFacts.end()) return std::nullopt;
  return found->dtype;
}

std::string describe(const Shape& shape) {
  std::string out = "(";
  for (const auto size : shape) out += text(out.size() > 1 ? ", " : "", size);
  return out + ")";
}

std::size_t Tensor::count() const {
  std::size_t product = 1;
  for (const auto size : shape) product *= static_cast<std::size_t>(size);
  return product;
}

Tensor make_tensor(DType dtype, Shape shape, const std::function<void(std::byte*)>& fill) {
  Tensor tensor{dtype, std::move(shape), nullptr};
  const std::shared_ptr<std::byte[]> memory(new std::byte[std::max<std::size_t>(tensor.bytes(), 1)]);
  fill(memory.get());
  tensor.data = {memory, memory.get()};
  return tensor;
}

Tensor row_of(const Tensor& tensor, std::size_t index) {
  const AxisView view(tensor, 0);
  return {tensor.dtype, {tensor.shape.begin() + 1, tensor.shape.end()}, at(tensor, index * view.inner)};
}

Tensor with_batch(Tensor tensor) {
  tensor.shape.insert(tensor.shape.begin(), 1);
  return tensor;
}

Tensor slice(const Tensor& tensor, std::size_t axis, std::int64_t start, std::int64_t stop) {
  const AxisView view(tensor, axis);
  Shape shape = resized(tensor.shape, axis, stop - start);
  if (view.outer == 1) return {tensor.dtype, std::move(shape), at(tensor, start * view.inner)};
  const std::size_t width = (stop - start) * view.inner;
  return make_tensor(tensor.dtype, std::move(shape), [&](std::byte* out) {
    for (std::size_t block = 0; block < view.outer; ++block) {
      std::memcpy(out + block * width, tensor.data.get() + (block * view.size + start) * view.inner, width);
    }
  });
}

Tensor take(const Tensor& tensor, std::size_t axis, std::span<const std::int64_t> indices) {
  const AxisView view(tensor, axis);
  return make_tensor(tensor.dtype, resized(tensor.shape, axis, std::ssize(indices)), [&](std::byte* out) {
    for (std::size_t block = 0; block < view.outer; ++block) {
      for (const auto index : indices) {
        std::memcpy(out, tensor.data.get() + (block * view.size + index) * view.inner, view.inner);
        out += view.inner;
      }
    }
  });
}

Tensor pad(const Tensor& tensor, std::size_t axis, std::int64_t length, double value) {
  const AxisView view(tensor, axis);
  const Tensor filler = from_doubles(std::array{value}, tensor.dtype, {1});
  const std::size_t item = item_bytes(tensor.dtype), kept = view.size * view.inner, whole = length * view.inner;
  return make_tensor(tensor.dtype, resized(tensor.shape, axis, length), [&](std::byte* out) {
    for (std::size_t block = 0; block < view.outer; ++block, out += whole) {
      std::memcpy(out, tensor.data.get() + block * kept, kept);
      for (std::size_t done = kept; done < whole; done += item) std::memcpy(out + done, filler.data.get(), item);
    }
  });
}

Tensor concatenate(std::span<const Tensor> parts, std::size_t axis) {
  std::int64_t length = 0;
  for (const auto& part : parts) length += part.shape[axis];
  return make_tensor(parts[0].dtype, resized(parts[0].shape, axis, length), [&](std::byte* out) {
    const std::size_t outer = AxisView(parts[0], axis).outer;
    for (std::size_t block = 0; block < outer; ++block) {
      for (const auto& part : parts) {
        const AxisView view(part, axis);
        const std::size_t width = view.size * view.inner;
        if (width != 0) std::memcpy(out, part.data.get() + block * width, width);
        out += width;
      }
    }
  });
}

Tensor stack(std::span<const Tensor> parts) {
  if (parts.size() == 1) return with_batch(parts[0]);
  std::vector<Tensor> rows;
  rows.reserve(parts.size());
  for (const auto& part : parts) rows.push_back(with_batch(part));
  return concatenate(rows, 0);
}

std::vector<double> to_doubles(const Tensor& tensor) {
  return with_type(tensor.dtype, [&](auto type) {
    const auto numbers = tensor.as<decltype(type)>();
    std::vector<double> out(numbers.size());
    std::transform(numbers.begin(), numbers.end(), out.begin(),
                   [](auto number) { return static_cast<double>(number); });
    return out;
  });
}

Tensor from_doubles(std::span<const double> numbers, DType dtype, Shape shape) {
  return make_tensor(dtype, std::move(shape), [&](std::byte* out) {
    with_type(dtype, [&](auto type) {
      using T = decltype(type);
      std::transform(numbers.begin(), numbers.end(), reinterpret_cast<T*>(out),
                     [](double number) { return static_cast<T>(number); });
    });
  });
}

std::optional<Tensor> cast(const Tensor& tensor, DType wanted) {
  if (tensor.dtype == wanted) return tensor;
  if (is_float(tensor.dtype) && !is_float(wanted)) return std::nullopt;
  if (is_float(wanted)) return from_doubles(to_doubles(tensor), wanted, tensor.shape);
  bool same = true;
  auto converted = make_tensor(wanted, tensor.shape, [&](std::byte* out) {
    with_type(tensor.dtype, [&](auto from) {
      with_type(wanted, [&](auto to) {
        same = copy_integers(tensor.as<decltype(from)>(), reinterpret_cast<decltype(to)*>(out));
      });
    });
  });
  if (!same) return std::nullopt;
  return converted;
}

}  // namespace ctxrt::core
