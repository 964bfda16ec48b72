// How large the constants are that a runtime computes when it opens a graph.
//
// ONNX Runtime evaluates every node whose inputs are all constant. A few bytes of `ConstantOfShape` can ask for
// terabytes.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <variant>

#include "onnx_schema.h"
#include "result.h"

namespace ctxrt::core {

// Numbers of elements stop growing here.
inline constexpr std::int64_t kUncountable = std::int64_t{1} << 62;

// What is known of a value: nothing; its tensor; if it is computed from constants, at most how many elements.
using KnownValue = std::variant<std::monostate, const onnx::Tensor*, std::int64_t>;

// The values that a node can see: those of its graph and of the graphs around it.
class Scope {
 public:
  explicit Scope(const Scope* outer) : outer_(outer) {}

  const KnownValue* find(const std::string& name) const;
  // False if the name is taken.
  bool define(const std::string& name, KnownValue value);

 private:
  const Scope* outer_;
  std::unordered_map<std::string, KnownValue> values_;
};

std::int64_t bounded_product(std::int64_t a, std::int64_t b);

// What is known of the outputs of `node`, which the runtime computes at opening if all its inputs are constant; nodes
// with graphs inside never are. `graph-size`, where the number of elements can't be told.
Result<KnownValue> constant_value(const onnx::Node& node, const Scope& scope);

}  // namespace ctxrt::core
