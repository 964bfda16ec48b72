// The part of ONNX's file format that a bundle's graphs use; the same as ctx_runtime/onnx_schema.py.
//
// Absent on purpose, and so refused: functions, training information, sparse tensors, quantization annotations, device
// configurations, attributes that refer to a function's, types other than tensors, segmented tensors, and numbers in
// any form but `raw_data` or external data. Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "protobuf.h"

namespace ctxrt::core::onnx {

struct Entry {
  std::string key, value;
};
void describe(Entry& message, auto&& field) {
  field(1, message.key);
  field(2, message.value);
}

struct Tensor {
  std::vector<std::int64_t> dims;
  std::int64_t data_type = 0;
  std::string name;
  std::optional<Bytes> raw_data, doc_string;
  std::vector<Entry> external_data;
  std::int64_t data_location = 0;  // 1: external
  std::vector<Bytes> metadata_props;
};
void describe(Tensor& message, auto&& field) {
  field(1, message.dims);
  field(2, message.data_type);
  field(8, message.name);
  field(9, message.raw_data);
  field(12, message.doc_string);
  field(13, message.external_data);
  field(14, message.data_location);
  field(16, message.metadata_props);
}

// `g` and `graphs` hold a Graph each.
struct Attribute {
  std::string name;
  Floats f{{}, false};
  std::int64_t i = 0;
  std::optional<Bytes> s;
  std::optional<Tensor> t;
  std::optional<Bytes> g;
  Floats floats;
  std::vector<std::int64_t> ints;
  std::vector<Bytes> strings;
  std::vector<Tensor> tensors;
  std::vector<Bytes> graphs;
  std::optional<Bytes> doc_string;
  std::int64_t type = 0;
};
void describe(Attribute& message, auto&& field) {
  field(1, message.name);
  field(2, message.f);
  field(3, message.i);
  field(4, message.s);
  field(5, message.t);
  field(6, message.g);
  field(7, message.floats);
  field(8, message.ints);
  field(9, message.strings);
  field(10, message.tensors);
  field(11, message.graphs);
  field(13, message.doc_string);
  field(20, message.type);
}

// An empty input name is an optional input that is left out.
struct Node {
  std::vector<std::string> input, output;
  std::string name, op_type;
  std::vector<Attribute> attribute;
  std::optional<Bytes> doc_string;
  std::string domain;
  std::vector<Bytes> metadata_props;
};
void describe(Node& message, auto&& field) {
  field(1, message.input);
  field(2, message.output);
  field(3, message.name);
  field(4, message.op_type);
  field(5, message.attribute);
  field(6, message.doc_string);
  field(7, message.domain);
  field(9, message.metadata_props);
}

// A size, or the name of one that varies.
struct Dimension {
  std::int64_t dim_value = 0;
  std::string dim_param;
  std::optional<Bytes> denotation;
};
void describe(Dimension& message, auto&& field) {
  field(1, message.dim_value);
  field(2, message.dim_param);
  field(3, message.denotation);
}

struct TensorShape {
  std::vector<Dimension> dim;
};
void describe(TensorShape& message, auto&& field) { field(1, message.dim); }

struct TensorType {
  std::int64_t elem_type = 0;
  std::optional<TensorShape> shape;
};
void describe(TensorType& message, auto&& field) {
  field(1, message.elem_type);
  field(2, message.shape);
}

struct Type {
  std::optional<TensorType> tensor_type;
  std::optional<Bytes> denotation;
};
void describe(Type& message, auto&& field) {
  field(1, message.tensor_type);
  field(6, message.denotation);
}

struct ValueInfo {
  std::string name;
  std::optional<Type> type;
  std::optional<Bytes> doc_string;
  std::vector<Bytes> metadata_props;
};
void describe(ValueInfo& message, auto&& field) {
  field(1, message.name);
  field(2, message.type);
  field(3, message.doc_string);
  field(4, message.metadata_props);
}

// The types of intermediate values are not decoded.
struct Graph {
  std::vector<Node> node;
  std::string name;
  std::vector<Tensor> initializer;
  std::optional<Bytes> doc_string;
  std::vector<ValueInfo> input, output;
  std::vector<Bytes> value_info, metadata_props;
};
void describe(Graph& message, auto&& field) {
  field(1, message.node);
  field(2, message.name);
  field(5, message.initializer);
  field(10, message.doc_string);
  field(11, message.input);
  field(12, message.output);
  field(13, message.value_info);
  field(16, message.metadata_props);
}

struct OperatorSet {
  std::string domain;
  std::int64_t version = 0;
};
void describe(OperatorSet& message, auto&& field) {
  field(1, message.domain);
  field(2, message.version);
}

struct Model {
  std::int64_t ir_version = 0;
  std::string producer_name, producer_version, domain;
  std::int64_t model_version = 0;
  std::optional<Bytes> doc_string;
  std::optional<Graph> graph;
  std::vector<OperatorSet> opset_import;
  std::vector<Bytes> metadata_props;
};
void describe(Model& message, auto&& field) {
  field(1, message.ir_version);
  field(2, message.producer_name);
  field(3, message.producer_version);
  field(4, message.domain);
  field(5, message.model_version);
  field(6, message.doc_string);
  field(7, message.graph);
  field(8, message.opset_import);
  field(14, message.metadata_props);
}

}  // namespace ctxrt::core::onnx
