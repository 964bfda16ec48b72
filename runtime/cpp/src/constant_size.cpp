#include "constant_size.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <unordered_set>

namespace ctxrt::core {
namespace {

using Operators = std::unordered_set<std::string_view>;

constexpr std::int64_t kRank = 8;
constexpr std::int64_t kInt64 = 7;

// Operators that give no more elements than they take in all, but for a shape.
const Operators& no_larger() {
  static const Operators operators{"Abs",
                                   "Cast",
                                   "CastLike",
                                   "Ceil",
                                   "Clip",
                                   "Cos",
                                   "DequantizeLinear",
                                   "Erf",
                                   "Exp",
                                   "Flatten",
                                   "Floor",
                                   "Gelu",
                                   "Identity",
                                   "Log",
                                   "Neg",
                                   "Not",
                                   "QuantizeLinear",
                                   "Reciprocal",
                                   "ReduceMax",
                                   "ReduceMean",
                                   "ReduceMin",
                                   "ReduceProd",
                                   "ReduceSum",
                                   "Relu",
                                   "Reshape",
                                   "Round",
                                   "Shape",
                                   "Sigmoid",
                                   "Sign",
                                   "Sin",
                                   "Size",
                                   "Slice",
                                   "Softmax",
                                   "Sqrt",
                                   "Squeeze",
                                   "Tanh",
                                   "Transpose",
                                   "Trilu",
                                   "Unsqueeze",
                                   "Concat",
                                   "LayerNormalization"};
  return operators;
}

// Operators that give at most the product of the elements that they take.
const Operators& broadcasting() {
  static const Operators operators{"Add",      "And",         "Div",
                                   "Equal",    "Gather",      "GatherElements",
                                   "GatherND", "Greater",     "GreaterOrEqual",
                                   "Less",     "LessOrEqual", "MatMul",
                                   "Max",      "Min",         "Mod",
                                   "Mul",      "Or",          "Pow",
                                   "Sub",      "Where"};
  return operators;
}

// At most how many elements; a dimension of none counts as one, for what is made from the others.
std::int64_t elements(const KnownValue& value) {
  if (const auto* count = std::get_if<std::int64_t>(&value)) return *count;
  std::int64_t product = 1;
  for (const auto size : std::get<const onnx::Tensor*>(value)->dims)
    product = bounded_product(product, std::max<std::int64_t>(size, 1));
  return product;
}

// The elements of a shape that a small int64 tensor of the file holds.
Result<std::int64_t> elements_of_shape(const onnx::Node& node, const KnownValue& value) {
  const auto* tensor = std::get_if<const onnx::Tensor*>(&value);
  if (tensor == nullptr || !(*tensor)->raw_data || (*tensor)->data_type != kInt64 ||
      (*tensor)->raw_data->size() % 8 != 0) {
    return bundle_error("graph-size", text(node.op_type, " '", node.name, "' takes a shape that can't be told"));
  }
  std::int64_t product = 1;
  for (Bytes left = *(*tensor)->raw_data; !left.empty(); left = left.subspan(8)) {
    std::int64_t size = 0;
    std::memcpy(&size, left.data(), 8);
    product = bounded_product(product, std::max<std::int64_t>(size, 1));
  }
  return product;
}

KnownValue value_of_constant(const onnx::Node& node) {
  std::int64_t longest = 1;
  for (const auto& attribute : node.attribute) {
    if (attribute.t) return &*attribute.t;
    std::int64_t length = std::ssize(attribute.ints);
    for (const auto& piece : attribute.floats.pieces) length += std::ssize(piece) / 4;
    longest = std::max(longest, length);
  }
  return longest;
}

}  // namespace

const KnownValue* Scope::find(const std::string& name) const {
  const auto found = values_.find(name);
  if (found != values_.end()) return &found->second;
  return outer_ == nullptr ? nullptr : outer_->find(name);
}

bool Scope::define(const std::string& name, KnownValue value) {
  return find(name) == nullptr && values_.emplace(name, value).second;
}

std::int64_t bounded_product(std::int64_t a, std::int64_t b) {
  if (a == 0 || b == 0) return 0;
  return a > kUncountable / b ? kUncountable : a * b;
}

Result<KnownValue> constant_value(const onnx::Node& node, const Scope& scope) {
  std::vector<KnownValue> inputs;
  bool all_known = true;
  for (const auto& name : node.input) {
    if (name.empty()) continue;
    inputs.push_back(*scope.find(name));
    all_known = all_known && inputs.back().index() != 0;
  }
  if (node.op_type == "Constant" && inputs.empty()) return value_of_constant(node);
  const bool has_graphs = std::any_of(node.attribute.begin(), node.attribute.end(),
                                      [](const auto& attribute) { return attribute.g || !attribute.graphs.empty(); });
  if (inputs.empty() || !all_known || has_graphs) return KnownValue{};
  std::int64_t sum = 0, product = 1;
  for (const auto& input : inputs) {
    sum = std::min(sum + elements(input), kUncountable);
    product = bounded_product(product, elements(input));
  }
  if (no_larger().contains(node.op_type)) {
    return KnownValue{bounded_product(std::max(sum, kRank), std::ssize(node.output))};
  }
  if (broadcasting().contains(node.op_type)) return KnownValue{product};
  if (node.op_type == "ConstantOfShape" || node.op_type == "Expand") {
    const bool expands = node.op_type == "Expand";
    CTXRT_ASSIGN(const std::int64_t shape, elements_of_shape(node, expands ? inputs.back() : inputs.front()));
    return KnownValue{expands ? bounded_product(elements(inputs.front()), shape) : shape};
  }
  return bundle_error("graph-size",
                      text(node.op_type, " '", node.name, "' takes only constants: compute it in the build"));
}

}  // namespace ctxrt::core
