// `manifest.json`: the same nouns as ctx_runtime/{bucket,resource_profile,manifest}.py.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "result.h"
#include "tensor.h"

namespace ctxrt::core {

// The newest bundle format that this code reads.
inline constexpr std::int64_t kFormat = 1;

// A size of a symbolic shape: a number, or one of these.
inline constexpr std::int64_t kBatch = -1;
inline constexpr std::int64_t kLength = -2;
inline constexpr std::int64_t kCapacity = -3;  // of a cache; in decoder graphs only

enum class Role { tokens, mask, segment_ids, data };
enum class Fusion { concat, mean, max, attention, learned };
enum class OverflowPolicy { segment, truncate, sliding, error };
enum class ShareWeights { mmap, off };
enum class Precision { fp32, fp16, bf16, int8, int4 };
enum class Backend {
  onnxruntime_cpu,
  onnxruntime_cuda,
  onnxruntime_tensorrt,
  onnxruntime_tensorrt_rtx,
  tensorrt,
  tensorrt_rtx
};
enum class Form { masked, unmasked };
enum class FusionGraph { segment, fuse, finish };
// Which graph a session runs: a form of a bucket's own, or one of the fusion, as the longest bucket runs.
using GraphForm = std::variant<Form, FusionGraph>;

// In the order of the enumerations.
inline constexpr std::array<std::string_view, 4> kPolicies{"segment", "truncate", "sliding", "error"};
inline constexpr std::array<std::string_view, 5> kPrecisions{"fp32", "fp16", "bf16", "int8", "int4"};
inline constexpr std::array<std::string_view, 6> kBackends{
    "onnxruntime-cpu",          "onnxruntime-cuda", "onnxruntime-tensorrt",
    "onnxruntime-tensorrt-rtx", "tensorrt",         "tensorrt-rtx"};

std::string_view name_of(Precision precision);
std::string_view name_of(Backend backend);
std::string_view name_of(OverflowPolicy policy);
std::string_view name_of(Form form);
std::string_view name_of(GraphForm form);
std::optional<Backend> find_backend(std::string_view name);

struct TensorSpec {
  std::string name;
  DType dtype = DType::float32;
  Shape shape;  // (kBatch, kLength, 384)

  // The axis that grows with the input; none for one row for the whole input.
  std::optional<std::size_t> length_axis() const;
  // The shape of `batch` rows of `length` tokens.
  Shape sized(std::int64_t batch, std::int64_t length) const;
};

struct InputSpec : TensorSpec {
  double pad = 0;
  Role role = Role::data;
};

struct OutputSpec : TensorSpec {
  Fusion fusion = Fusion::mean;
  bool normalized = false;
};

struct Tolerance {
  double max_abs = 0;
  double min_cosine = 0;
};

// Bytes of intermediate results of one row of n tokens: per_token * n + per_token_pair * n * n.
struct Activation {
  std::int64_t per_token = 0;
  std::int64_t per_token_pair = 0;

  double bytes_for(std::int64_t batch, std::int64_t length) const {
    return static_cast<double>(batch) * static_cast<double>(length) *
           (static_cast<double>(per_token) + static_cast<double>(per_token_pair) * static_cast<double>(length));
  }
};

struct RopeScaling {
  std::string kind;
  double factor = 1;

  friend bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

struct SubNetwork {
  std::optional<std::int64_t> layers, heads, ffn;
  std::optional<RopeScaling> position_resolution;

  friend bool operator==(const SubNetwork&, const SubNetwork&) = default;
};

struct BatchRange {
  std::int64_t min = 1, opt = 1, max = 8;
};

// An inclusive range of lengths in tokens, its resolved plan and its files.
struct Bucket {
  std::int64_t min_length = 0, max_length = 0, opt_length = 0;
  BatchRange batch;
  Precision precision = Precision::fp32;
  std::int64_t threads = 0;
  std::optional<std::int64_t> memory_budget;  // bytes
  std::optional<double> time_budget_ms;       // of one row
  std::vector<Backend> backends;
  std::optional<SubNetwork> subnetwork;
  std::string graph;
  std::optional<std::string> unmasked_graph;
  Tolerance tolerance;
  std::optional<std::string> golden;
  Activation activation, masked_activation;

  // Derived when the manifest is read.
  std::string name;     // "ctx-512"
  std::string network;  // buckets with the same one share sessions: "fp32-l3"
};

// The graphs that run a row longer than every bucket, in segments of the longest bucket's tokens.
struct FusionRecord {
  std::string segment;                // the inputs without the mask -> summary, and hidden if there is a finish
  std::string fuse;                   // the summaries of all segments -> the learned outputs, and contexts likewise
  std::optional<std::string> finish;  // hidden, context of one segment -> the outputs with a length
  std::int64_t hidden_size = 0, summaries = 0;
  std::int64_t prefix = 0, suffix = 0;  // tokens of a row that frame each of its segments
  std::optional<std::string> golden;

  // The file of a graph.
  const std::string& path(FusionGraph graph) const;
  // What the graphs hand on: `hidden`, and `summary`, `context` of a segment or `summaries`, `contexts` of all.
  TensorSpec state(const std::string& name) const;
};

// How good a sub-network is on inputs of min_length..max_length tokens; higher is better.
struct QualityRecord {
  std::int64_t min_length = 0, max_length = 0;
  std::optional<SubNetwork> subnetwork;
  std::string metric;
  double value = 0;
  std::optional<double> loss;
  std::int64_t examples = 0;
  std::optional<double> latency_ms;
};

enum class DecoderForm { attention, gqa };

// What the graphs of a causal language model are, and where its texts end.
struct DecoderRecord {
  std::int64_t chunk = 512, sinks = 4, reserve = 256;  // tokens
  DecoderForm form = DecoderForm::attention;
  std::int64_t layers = 0, kv_heads = 0, head_size = 0;
  DType cache_dtype = DType::float32;
  std::int64_t vocab_size = 0;
  std::optional<std::int64_t> sliding_window;
  std::optional<std::int64_t> bos_token_id;
  std::vector<std::int64_t> eos_token_ids;
  std::optional<std::string> chat_template;

  // What a graph may take; which of that it must; what it gives.
  std::vector<TensorSpec> inputs() const;
  std::vector<std::string> required() const;
  std::vector<TensorSpec> outputs() const;
  // Of the cache for `batch` rows of `capacity` tokens.
  std::int64_t cache_bytes(std::int64_t batch, std::int64_t capacity) const;
};

struct EngineRecord {
  Backend backend = Backend::tensorrt;
  std::vector<std::string> targets;
  std::string file;
  std::string library_version;
  std::string network;
  std::map<std::string, std::int64_t> optimization_profiles;  // by bucket
  bool stripped = false;
};

struct SpecialTokens {
  std::vector<std::int64_t> prefix, suffix;
};

struct SourceRecord {
  std::string kind, sha256;
};

struct Overflow {
  OverflowPolicy policy = OverflowPolicy::segment;
  std::int64_t overlap = 32;
  Fusion fusion = Fusion::mean;
};

struct FileRecord {
  std::string path;
  std::int64_t bytes = 0;
  std::string sha256;
};

struct Manifest {
  std::int64_t format = 0;
  std::string name, task;
  SourceRecord source;
  std::map<std::string, std::string> toolchain;
  std::vector<InputSpec> inputs;
  std::vector<OutputSpec> outputs;
  bool padding_invariant = false;
  SpecialTokens special_tokens;
  std::vector<Bucket> buckets;
  std::vector<EngineRecord> engines;
  std::optional<FusionRecord> fusion;
  std::optional<DecoderRecord> decoder;
  std::vector<QualityRecord> quality;
  std::optional<double> min_quality;
  Overflow overflow;
  std::optional<std::int64_t> session_budget;  // bytes
  ShareWeights share_weights = ShareWeights::mmap;
  std::optional<std::string> weights, tokenizer, parity_report;
  std::optional<std::vector<std::int64_t>> planned_inputs;  // in each bucket, and last those longer than all
  std::vector<FileRecord> files;

  const InputSpec* find_role(Role role) const;
  // What a graph of the fusion gives.
  std::vector<TensorSpec> outputs_of(FusionGraph graph) const;
  // The longest input, in tokens, that runs without segments.
  std::int64_t max_length() const { return buckets.back().max_length; }
};

// Index of the smallest bucket that holds `length` tokens; none if it is longer than all.
std::optional<std::size_t> find_bucket(const std::vector<Bucket>& buckets, std::int64_t length);

// Holds an output of a run to its spec; `backend` if it has another shape.
Status check_shape(const Tensor& output, const TensorSpec& spec, std::int64_t batch, std::int64_t length);

// Whether the memory budget of `bucket` takes `batch` rows of `length` tokens in a graph of `form`.
bool fits_budget(const Bucket& bucket, Form form, std::int64_t batch, std::int64_t length);

}  // namespace ctxrt::core
