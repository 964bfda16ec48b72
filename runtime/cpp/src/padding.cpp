#include "padding.h"

#include <algorithm>
#include <array>
#include <optional>

namespace ctxrt::core {
namespace {

struct Sizes {
  std::optional<std::int64_t> batch, length;
};

bool may_be_left_out(Role role) { return role == Role::mask || role == Role::segment_ids; }

std::string names_of(const Manifest& manifest) {
  std::string names;
  for (const auto& spec : manifest.inputs) names += (names.empty() ? "" : ", ") + spec.name;
  return names;
}

Status check_names(const Tensors& given, const Manifest& manifest) {
  const auto known = [&](const std::string& name) {
    return std::any_of(manifest.inputs.begin(), manifest.inputs.end(),
                       [&](const auto& spec) { return spec.name == name; });
  };
  for (const auto& [name, tensor] : given) {
    if (!known(name)) return input_error(text("unknown input '", name, "'"), "the bundle takes " + names_of(manifest));
  }
  for (const auto& spec : manifest.inputs) {
    if (!given.contains(spec.name) && !may_be_left_out(spec.role)) {
      return input_error(text("input '", spec.name, "' is missing"), "the bundle takes " + names_of(manifest));
    }
  }
  return Unit{};
}

// A symbolic size as words: "batch", "length" or the number.
std::string word_of(std::int64_t size) {
  if (size == kBatch) return "batch";
  return size == kLength ? "length" : std::to_string(size);
}

Error shape_error(const InputSpec& spec, const Shape& found, const Sizes& sizes, bool batched) {
  std::string expected;
  for (std::size_t i = batched ? 0 : 1; i < spec.shape.size(); ++i) {
    expected += (expected.empty() ? "" : ", ") + word_of(spec.shape[i]);
  }
  std::string known;
  if (batched && sizes.batch) known += text(", batch = ", *sizes.batch);
  if (spec.length_axis() && sizes.length) known += text(", length = ", *sizes.length);
  const Shape shown(found.begin() + (batched || found.empty() ? 0 : 1), found.end());
  return input_error(text("input '", spec.name, "' has shape ", describe(shown), ", expected (", expected, ")", known));
}

// Holds `tensor` to the spec's rank and sizes; `sizes` collects batch and length.
Status check_shape(const InputSpec& spec, const Tensor& tensor, Sizes& sizes, bool batched) {
  bool fits = tensor.shape.size() == spec.shape.size();
  for (std::size_t i = 0; fits && i < spec.shape.size(); ++i) {
    std::int64_t expected = spec.shape[i];
    if (expected < 0) {
      auto& known = expected == kBatch ? sizes.batch : sizes.length;
      expected = known ? *known : *(known = tensor.shape[i]);
    }
    fits = tensor.shape[i] == expected;
  }
  if (!fits) return shape_error(spec, tensor.shape, sizes, batched);
  return Unit{};
}

// The length of each row by its mask (batch, length), ones followed by zeros.
Result<std::vector<std::int64_t>> lengths_by_mask(const InputSpec& spec, const Tensor& mask) {
  const auto numbers = to_doubles(mask);
  const std::int64_t longest = mask.shape[1];
  std::vector<std::int64_t> lengths;
  for (auto row = numbers.begin(); row != numbers.end(); row += longest) {
    const auto end = std::find(row, row + longest, 0.0);
    const bool sound = std::all_of(row, end, [](double number) { return number == 1.0; }) &&
                       std::all_of(end, row + longest, [](double number) { return number == 0.0; });
    if (!sound) {
      return input_error(text("input '", spec.name, "' must be ones followed by zeros in every row"),
                         "pad on the right, not on the left");
    }
    if (end == row) return input_error(text("a row of '", spec.name, "' has no ones: the row is empty"));
    lengths.push_back(end - row);
  }
  return lengths;
}

Tensor zeros(DType dtype, const Shape& shape) {
  const Tensor wanted{dtype, shape, nullptr};
  return make_tensor(dtype, shape, [&](std::byte* out) { std::fill_n(out, wanted.bytes(), std::byte{0}); });
}

// Every input of the manifest as (batch, length, …) in its own dtype, without those that may be left out.
Result<std::vector<Tensor>> checked_arrays(const Tensors& given, const Manifest& manifest, Sizes& sizes,
                                           bool& batched) {
  std::vector<Tensor> arrays(manifest.inputs.size());
  bool first = true;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const auto& spec = manifest.inputs[i];
    const auto found = given.find(spec.name);
    if (found == given.end()) continue;
    if (std::exchange(first, false)) batched = found->second.shape.size() == spec.shape.size();
    const Tensor array = batched ? found->second : with_batch(found->second);
    CTXRT_CHECK(check_shape(spec, array, sizes, batched));
    auto converted = cast(array, spec.dtype);
    if (!converted) {
      return input_error(text("input '", spec.name, "' is ", dtype_name(array.dtype), ", which does not fit ",
                              dtype_name(spec.dtype)));
    }
    arrays[i] = *std::move(converted);
  }
  return arrays;
}

Status check_tokens(const std::vector<Tensor>& arrays, const Manifest& manifest) {
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    if (manifest.inputs[i].role != Role::tokens) continue;
    const auto ids = to_doubles(arrays[i]);
    if (std::any_of(ids.begin(), ids.end(), [](double id) { return id < 0; })) {
      return input_error(text("input '", manifest.inputs[i].name, "' has a negative token id"));
    }
  }
  return Unit{};
}

Tensor mask_of(std::span<const Row* const> rows, DType dtype, std::int64_t longest) {
  std::vector<double> ones;
  ones.reserve(rows.size() * longest);
  for (const Row* row : rows) {
    ones.insert(ones.end(), row->length, 1.0);
    ones.insert(ones.end(), longest - row->length, 0.0);
  }
  return from_doubles(ones, dtype, {std::ssize(rows), longest});
}

}  // namespace

Row Row::take(std::span<const std::int64_t> indices, const std::vector<InputSpec>& inputs) const {
  Row taken{arrays, std::ssize(indices)};
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto axis = inputs[i].length_axis();
    if (axis && arrays[i].data) taken.arrays[i] = core::take(arrays[i], *axis - 1, indices);
  }
  return taken;
}

Result<Rows> read_rows(const Tensors& given, const Manifest& manifest) {
  CTXRT_CHECK(check_names(given, manifest));
  Sizes sizes;
  Rows result;
  CTXRT_ASSIGN(auto arrays, checked_arrays(given, manifest, sizes, result.batched));
  const std::int64_t batch = sizes.batch.value_or(0), longest = sizes.length.value_or(0);
  if (batch == 0 || longest == 0)
    return input_error("the input is empty", "give at least one row of at least one token");
  CTXRT_CHECK(check_tokens(arrays, manifest));
  std::vector<std::int64_t> lengths(batch, longest);
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const auto& spec = manifest.inputs[i];
    if (spec.role == Role::mask && arrays[i].data) {
      CTXRT_ASSIGN(lengths, lengths_by_mask(spec, arrays[i]));
      arrays[i] = {};
    } else if (spec.role == Role::segment_ids && !arrays[i].data) {
      arrays[i] = zeros(spec.dtype, {batch, longest});
    }
  }
  for (std::int64_t index = 0; index < batch; ++index) {
    Row row{std::vector<Tensor>(arrays.size()), lengths[index]};
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      if (!arrays[i].data) continue;
      row.arrays[i] = row_of(arrays[i], index);
      if (const auto axis = manifest.inputs[i].length_axis())
        row.arrays[i] = slice(row.arrays[i], *axis - 1, 0, row.length);
    }
    result.rows.push_back(std::move(row));
  }
  return result;
}

Tensors stack_rows(std::span<const Row* const> rows, const std::vector<InputSpec>& inputs, bool masked) {
  std::int64_t longest = 0;
  for (const Row* row : rows) longest = std::max(longest, row->length);
  Tensors feeds;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto& spec = inputs[i];
    if (spec.role == Role::mask) {
      if (masked) feeds.emplace(spec.name, mask_of(rows, spec.dtype, longest));
      continue;
    }
    std::vector<Tensor> parts;
    parts.reserve(rows.size());
    for (const Row* row : rows) {
      const auto axis = spec.length_axis();
      const bool shorter = axis && row->length < longest;
      parts.push_back(shorter ? pad(row->arrays[i], *axis - 1, longest, spec.pad) : row->arrays[i]);
    }
    feeds.emplace(spec.name, stack(parts));
  }
  return feeds;
}

Tensors join_rows(std::span<const Tensors> rows, const std::vector<OutputSpec>& outputs, std::int64_t length) {
  Tensors joined;
  for (const auto& spec : outputs) {
    std::vector<Tensor> parts;
    for (const auto& row : rows) {
      const Tensor& part = row.find(spec.name)->second;
      const auto axis = spec.length_axis();
      const bool shorter = axis && part.shape[*axis - 1] < length;
      parts.push_back(shorter ? pad(part, *axis - 1, length, 0) : part);
    }
    joined.emplace(spec.name, stack(parts));
  }
  return joined;
}

}  // namespace ctxrt::core
