#include "golden_vectors.h"

#include <algorithm>

#include "npz.h"

namespace ctxrt::core {
namespace {

constexpr std::size_t kMaxBytes = 256 << 20;

// Takes an array away, which must be there with a dtype and a shape.
Result<Tensor> take(Tensors& arrays, const std::string& name, DType dtype, const Shape& shape) {
  const auto found = arrays.extract(name);
  if (!found) return input_error("it has no array " + name);
  const Tensor& array = found.mapped();
  if (array.dtype != dtype || array.shape != shape) {
    return input_error(text("the array ", name, " is ", dtype_name(array.dtype), " ", describe(array.shape),
                            ", expected ", dtype_name(dtype), " ", describe(shape)));
  }
  return array;
}

Result<std::vector<std::int64_t>> take_numbers(Tensors& arrays, const std::string& name, std::int64_t count,
                                               std::int64_t low, std::int64_t high) {
  CTXRT_ASSIGN(const auto array, take(arrays, name, DType::int64, {count}));
  const auto numbers = array.as<std::int64_t>();
  const auto outside = [&](std::int64_t number) { return number < low || number > high; };
  if (numbers.empty() || std::any_of(numbers.begin(), numbers.end(), outside)) {
    return input_error(text("the numbers of ", name, " are not in ", low, " ... ", high));
  }
  return std::vector<std::int64_t>(numbers.begin(), numbers.end());
}

// The size of an axis of an array; 0 if it is not there.
std::int64_t size_of(const Tensors& arrays, const std::string& name, std::size_t axis) {
  const auto found = arrays.find(name);
  return found == arrays.end() || found->second.shape.size() <= axis ? 0 : found->second.shape[axis];
}

// One case, whose arrays are taken away.
Result<GoldenCase> take_case(Tensors& arrays, const std::string& prefix, const Manifest& manifest,
                             std::int64_t shortest) {
  const auto first = std::find_if(manifest.inputs.begin(), manifest.inputs.end(),
                                  [](const auto& spec) { return spec.length_axis().has_value(); });
  const std::string shown = text(prefix, ".in.", first->name), positions = prefix + ".positions";
  const std::int64_t batch = size_of(arrays, shown, 0);
  GoldenCase one;
  one.padded_to = size_of(arrays, shown, *first->length_axis());
  for (const auto& spec : manifest.inputs) {
    CTXRT_ASSIGN(one.inputs[spec.name],
                 take(arrays, text(prefix, ".in.", spec.name), spec.dtype, spec.sized(batch, one.padded_to)));
  }
  CTXRT_ASSIGN(one.lengths, take_numbers(arrays, prefix + ".lengths", batch, shortest, one.padded_to));
  std::int64_t stored = one.padded_to;
  if (arrays.contains(positions)) {
    stored = size_of(arrays, positions, 0);
    CTXRT_ASSIGN(one.positions, take_numbers(arrays, positions, stored, 0, one.padded_to - 1));
    const auto descends = std::adjacent_find(one.positions->begin(), one.positions->end(), std::greater_equal<>());
    if (one.positions->front() != 0 || descends != one.positions->end())
      return input_error(positions + " do not ascend from 0");
  }
  for (const auto& spec : manifest.outputs) {
    CTXRT_ASSIGN(one.outputs[spec.name],
                 take(arrays, text(prefix, ".out.", spec.name), spec.dtype, spec.sized(batch, stored)));
  }
  return one;
}

Result<std::vector<GoldenCase>> take_cases(Tensors arrays, const Manifest& manifest, std::int64_t shortest) {
  std::vector<GoldenCase> cases;
  while (!arrays.empty() || cases.empty()) {
    CTXRT_ASSIGN(auto one, take_case(arrays, text("case", cases.size()), manifest, shortest));
    cases.push_back(std::move(one));
  }
  return cases;
}

}  // namespace

Result<std::vector<GoldenCase>> read_golden(const Path& path, const Manifest& manifest, std::int64_t shortest) {
  auto arrays = read_npz(path, kMaxBytes);
  auto cases =
      arrays ? take_cases(*std::move(arrays), manifest, shortest) : Result<std::vector<GoldenCase>>(arrays.error());
  if (cases) return cases;
  return bundle_error("golden-syntax",
                      text(path.filename().string(), " is not a plain npz of cases: ", cases.error().message));
}

}  // namespace ctxrt::core
