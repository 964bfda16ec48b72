#include "onnx_scan.h"

#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <string_view>
#include <unordered_set>

#include "constant_size.h"
#include "onnx_schema.h"

namespace ctxrt::core {
namespace {

constexpr std::int64_t kMaxFields = 2'000'000;
constexpr int kMaxDepth = 8;
// Elements that may be computed from constants alone when a graph opens, beside 4 for each byte of the weights.
constexpr std::int64_t kMaxComputedElements = 1 << 24;

// Bits of an element by TensorProto.DataType; 0: refused, as strings and complex numbers are.
constexpr std::array<int, 27> kBits{0, 32, 8,  8, 16, 16, 32, 64, 0, 8, 16, 64, 32, 64,
                                    0, 0,  16, 8, 8,  8,  8,  4,  4, 4, 8,  2,  2};
constexpr std::string_view kContrib = "com.microsoft";

// The operators of `com.microsoft` that a graph may use. Others read files or call back into the host.
const std::unordered_set<std::string_view>& contrib_operators() {
  static const std::unordered_set<std::string_view> operators{"Attention",
                                                              "BiasGelu",
                                                              "DequantizeLinear",
                                                              "DynamicQuantizeMatMul",
                                                              "FastGelu",
                                                              "FusedMatMul",
                                                              "GatherBlockQuantized",
                                                              "Gelu",
                                                              "GroupQueryAttention",
                                                              "MatMulIntegerToFloat",
                                                              "MatMulNBits",
                                                              "MultiHeadAttention",
                                                              "QAttention",
                                                              "QuickGelu",
                                                              "QuantizeLinear",
                                                              "RotaryEmbedding",
                                                              "SimplifiedLayerNormalization",
                                                              "SkipLayerNormalization",
                                                              "SkipSimplifiedLayerNormalization"};
  return operators;
}

// Operators that may leave an input out, by an empty name; ONNX Runtime ends the process at some others that do.
const std::unordered_set<std::string_view>& may_leave_input_out() {
  static const std::unordered_set<std::string_view> operators{"Attention",
                                                              "Clip",
                                                              "DequantizeLinear",
                                                              "GatherBlockQuantized",
                                                              "GroupQueryAttention",
                                                              "Loop",
                                                              "MatMulNBits",
                                                              "MultiHeadAttention",
                                                              "Pad",
                                                              "QAttention",
                                                              "QuantizeLinear",
                                                              "Resize",
                                                              "RotaryEmbedding",
                                                              "SkipLayerNormalization",
                                                              "SkipSimplifiedLayerNormalization",
                                                              "Slice"};
  return operators;
}

std::int64_t bits_of(std::int64_t data_type) {
  return data_type > 0 && data_type < std::ssize(kBits) ? kBits[static_cast<std::size_t>(data_type)] : 0;
}

std::int64_t data_type_of(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return 1;
    case DType::float16:
      return 10;
    case DType::int64:
      return 7;
    case DType::int32:
      return 6;
    case DType::boolean:
      return 9;
    case DType::float64:
      break;
  }
  return 11;
}

std::string domain_of(const std::string& domain) { return domain == "ai.onnx" ? "" : domain; }

bool matches(const onnx::Dimension& dimension, std::int64_t size) {
  if (size < 0) {
    const char* name = size == kBatch ? "batch" : size == kLength ? "length" : "capacity";
    return dimension.dim_value == 0 && dimension.dim_param == name;
  }
  return dimension.dim_value == size && dimension.dim_param.empty();
}

bool matches(const onnx::ValueInfo& value, const TensorSpec& spec) {
  if (!value.type || !value.type->tensor_type || !value.type->tensor_type->shape) return false;
  const auto& dims = value.type->tensor_type->shape->dim;
  return value.type->tensor_type->elem_type == data_type_of(spec.dtype) &&
         std::equal(dims.begin(), dims.end(), spec.shape.begin(), spec.shape.end(),
                    [](const auto& dimension, std::int64_t size) { return matches(dimension, size); });
}

// A whole number in decimal as a weight range has it: no sign, no leading zero, at most 18 digits.
std::optional<std::int64_t> decimal(const std::string& digits) {
  const bool sound = !digits.empty() && digits.size() <= 18 && (digits == "0" || digits[0] != '0') &&
                     std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!sound) return std::nullopt;
  return std::stoll(digits);
}

// One walk over a model; `stored_` and `computed_` are what it has found so far.
class Scan {
 public:
  Scan(const std::string& path, const GraphContract& contract) : path_(path), contract_(contract) {}

  Result<std::vector<StoredTensor>> run(Bytes data) {
    onnx::Model model;
    if (!decoder_.decode(data, model)) return undecodable();
    if (!model.graph) return syntax("holds no graph");
    std::set<std::string> domains;
    for (const auto& entry : model.opset_import) {
      if (!domains.insert(domain_of(entry.domain)).second) return syntax("imports an operator set twice");
    }
    CTXRT_CHECK(check_values("input", model.graph->input, contract_.inputs));
    CTXRT_CHECK(check_values("output", model.graph->output, contract_.outputs));
    const auto& inputs = model.graph->input;
    for (const auto& name : contract_.required) {
      if (std::none_of(inputs.begin(), inputs.end(), [&](const auto& value) { return value.name == name; })) {
        return bundle_error("graph-inputs", text(path_, " does not take the input '", name, "'"));
      }
    }
    if (model.graph->output.size() != contract_.outputs.size()) {
      return bundle_error("graph-inputs", path_ + " lacks an output of the manifest");
    }
    CTXRT_CHECK(check_graph(*model.graph, nullptr, 0));
    return std::move(stored_);
  }

 private:
  Error syntax(const std::string& what) const { return bundle_error("graph-syntax", text(path_, " ", what)); }

  Error undecodable() const {
    if (decoder_.too_many_fields())
      return bundle_error("graph-size", text(path_, " has more than ", kMaxFields, " fields"));
    return syntax("is not an ONNX file of the supported form: " + decoder_.problem());
  }

  // Compares the inputs or outputs of a graph with those of the manifest.
  Status check_values(std::string_view kind, const std::vector<onnx::ValueInfo>& values,
                      const std::vector<TensorSpec>& specs) const {
    std::set<std::string> names;
    for (const auto& value : values) {
      const auto spec =
          std::find_if(specs.begin(), specs.end(), [&](const auto& one) { return one.name == value.name; });
      if (!names.insert(value.name).second)
        return bundle_error("graph-inputs", text(path_, " has an ", kind, " twice"));
      if (spec == specs.end()) {
        return bundle_error("graph-inputs", text(path_, ": the ", kind, " '", value.name, "' is not in the manifest"));
      }
      if (!matches(value, *spec)) {
        return bundle_error("graph-inputs",
                            text(path_, ": the ", kind, " '", value.name, "' has not the manifest's dtype and shape"));
      }
    }
    return Unit{};
  }

  // Checks a graph and those inside it; `outer` holds the values that it can see.
  Status check_graph(const onnx::Graph& graph, const Scope* outer, int depth) {
    if (depth > kMaxDepth) {
      return bundle_error("graph-size", text(path_, " nests graphs more than ", kMaxDepth, " deep"));
    }
    Scope scope(outer);
    for (const auto& value : graph.input) CTXRT_CHECK(define(value.name, {}, scope));
    for (const auto& tensor : graph.initializer) {
      CTXRT_CHECK(check_tensor(tensor, depth == 0));
      CTXRT_CHECK(define(tensor.name, &tensor, scope));
    }
    for (const auto& node : graph.node) CTXRT_CHECK(check_node(node, scope, depth));
    return Unit{};
  }

  Status check_node(const onnx::Node& node, Scope& scope, int depth) {
    const std::string domain = domain_of(node.domain);
    const bool contrib = domain == kContrib;
    if ((!domain.empty() && !contrib) || (contrib && !contrib_operators().contains(node.op_type))) {
      return syntax(text("uses the operator ", node.op_type, " of '", domain, "', which is not supported"));
    }
    for (const auto& name : node.input) {
      if (name.empty() && !may_leave_input_out().contains(node.op_type)) {
        return syntax(text("has ", node.op_type, " '", node.name, "', which leaves an input out"));
      }
      if (!name.empty() && scope.find(name) == nullptr) {
        return syntax(text("has ", node.op_type, " '", node.name, "' before its input"));
      }
    }
    for (const auto& attribute : node.attribute) CTXRT_CHECK(check_attribute(attribute, scope, depth));
    CTXRT_ASSIGN(const KnownValue value, constant_value(node, scope));
    if (const auto* elements = std::get_if<std::int64_t>(&value)) CTXRT_CHECK(count(node, *elements));
    for (const auto& name : node.output) {
      if (!name.empty()) CTXRT_CHECK(define(name, value, scope));
    }
    return Unit{};
  }

  Status count(const onnx::Node& node, std::int64_t elements) {
    computed_ = std::min(computed_ + elements, kUncountable);
    if (computed_ <= kMaxComputedElements + 4 * contract_.weights_bytes) return Unit{};
    return bundle_error("graph-size", text(path_, ": ", node.op_type, " '", node.name, "' computes a constant of ",
                                           elements, " elements"));
  }

  Status define(const std::string& name, KnownValue value, Scope& scope) const {
    if (scope.define(name, value)) return Unit{};
    return syntax(text("defines '", name, "' twice"));
  }

  Status check_attribute(const onnx::Attribute& attribute, const Scope& scope, int depth) {
    // ONNX Runtime ends the process on some integers beyond 32 bits, and on some negative counts.
    const std::int64_t lowest = attribute.name == "batch_dims" ? 0 : std::numeric_limits<std::int32_t>::min();
    if (attribute.i < lowest || attribute.i > std::numeric_limits<std::int32_t>::max()) {
      return syntax(text("has the attribute '", attribute.name, "' of ", attribute.i));
    }
    if (attribute.t) CTXRT_CHECK(check_tensor(*attribute.t, false));
    for (const auto& tensor : attribute.tensors) CTXRT_CHECK(check_tensor(tensor, false));
    if (attribute.g) CTXRT_CHECK(check_inner_graph(*attribute.g, scope, depth));
    for (const auto& bytes : attribute.graphs) CTXRT_CHECK(check_inner_graph(bytes, scope, depth));
    return Unit{};
  }

  Status check_inner_graph(Bytes bytes, const Scope& scope, int depth) {
    onnx::Graph graph;
    if (!decoder_.decode(bytes, graph)) return undecodable();
    return check_graph(graph, &scope, depth + 1);
  }

  // Checks that a tensor's bytes are all there, in the file or in the weight file, and no more.
  Status check_tensor(const onnx::Tensor& tensor, bool initializer) {
    const std::int64_t bits = bits_of(tensor.data_type);
    if (bits == 0 || std::any_of(tensor.dims.begin(), tensor.dims.end(), [](std::int64_t size) { return size < 0; })) {
      return syntax(text("has a tensor '", tensor.name, "' without the dtype or shape of a tensor"));
    }
    std::int64_t elements = std::count(tensor.dims.begin(), tensor.dims.end(), 0) == 0 ? 1 : 0;
    for (const auto size : tensor.dims) elements = bounded_product(elements, size);
    const std::int64_t bytes = bounded_product(elements, bits) / 8 + (bounded_product(elements, bits) % 8 != 0 ? 1 : 0);
    if (tensor.data_location == 1 && !tensor.raw_data) return check_external(tensor, bytes, initializer);
    const std::int64_t held = tensor.raw_data ? std::ssize(*tensor.raw_data) : 0;
    if (tensor.data_location != 0 || !tensor.external_data.empty() || held != bytes) {
      return syntax(text("has a tensor '", tensor.name, "' without its ", bytes, " bytes of data"));
    }
    return Unit{};
  }

  Status check_external(const onnx::Tensor& tensor, std::int64_t bytes, bool initializer) {
    const std::string where = text(path_, ": tensor '", tensor.name, "'");
    std::map<std::string, std::string> entries;
    for (const auto& entry : tensor.external_data) entries[entry.key] = entry.value;
    if (!entries.contains("location") || entries["location"] != contract_.weights) {
      return bundle_error("weight-location", where + " does not lie in the bundle's weight file");
    }
    if (tensor.external_data.size() != 3 || !entries.contains("offset") || !entries.contains("length")) {
      return bundle_error("weight-range", where + " needs a location, an offset and a length, once each");
    }
    const auto offset = decimal(entries["offset"]), length = decimal(entries["length"]);
    if (!offset || !length)
      return bundle_error("weight-range", where + " has no number of bytes where one is expected");
    if (*length != bytes || bytes == 0) {
      return bundle_error("weight-range", text(where, " has ", *length, " bytes, its shape needs ", bytes));
    }
    if (*offset % std::max<std::int64_t>(bits_of(tensor.data_type) / 8, 1) != 0) {
      return bundle_error("weight-range", text(where, " starts at ", *offset, ", in the middle of an element"));
    }
    if (*offset + *length > contract_.weights_bytes) {
      return bundle_error("weight-range", where + " ends past the end of the weight file");
    }
    stored_.push_back({tensor.name, path_, tensor.data_type, tensor.dims, *offset, *length, initializer});
    return Unit{};
  }

  const std::string& path_;
  const GraphContract& contract_;
  Decoder decoder_{kMaxFields};
  std::vector<StoredTensor> stored_;
  std::int64_t computed_ = 0;
};

}  // namespace

Result<std::vector<StoredTensor>> scan_graph(const std::string& path, Bytes data, const GraphContract& contract) {
  if (data.size() > kMaxGraphBytes) {
    return bundle_error("graph-size", text(path, " has more than ", kMaxGraphBytes, " bytes"));
  }
  return Scan(path, contract).run(data);
}

}  // namespace ctxrt::core
