#include "manifest_reader.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "json.h"
#include "names.h"

namespace ctxrt::core {
namespace {

using Words = std::span<const std::string_view>;

constexpr int kMaxNesting = 32;
constexpr std::size_t kAny = std::numeric_limits<std::size_t>::max();
constexpr Range kPositive{1, std::numeric_limits<std::int64_t>::max()};
constexpr Range kNotNegative{0, std::numeric_limits<std::int64_t>::max()};
constexpr Range kTokens{1, 1 << 24};
constexpr Range kBatchSize{1, 4096};

// In the order of the enumerations.
constexpr std::array<std::string_view, 5> kDTypes{"float32", "float16", "int64", "int32", "bool"};
constexpr std::array<std::string_view, 4> kRoles{"tokens", "mask", "segment-ids", "data"};
constexpr std::array<std::string_view, 5> kFusions{"concat", "mean", "max", "attention", "learned"};
constexpr std::array<std::string_view, 2> kShareWeights{"mmap", "off"};
constexpr std::array<std::string_view, 3> kRopeKinds{"linear", "ntk", "yarn"};
constexpr std::array<std::string_view, 4> kSourceKinds{"huggingface", "safetensors", "module", "adaptive"};

template <class Enum>
Enum read_choice(const Value& value, Words words) {
  return static_cast<Enum>(value.choice(words));
}

std::string read_name(const Value& value) {
  auto name = value.string();
  if (!is_name(name)) value.refuse("expected a name of 1 to 256 of A-Z a-z 0-9 _ . : / -");
  return name;
}

std::string read_sha256(const Value& value) {
  auto digits = value.string();
  const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (digits.size() != 64 || !std::all_of(digits.begin(), digits.end(), hex))
    value.refuse("expected 64 hexadecimal digits");
  return digits;
}

std::string read_path(const Value& value) { return value.string(1, 512); }

template <class Read>
auto read_nullable(const Value& value, Read read) -> std::optional<decltype(read(value))> {
  if (value.is_null()) return std::nullopt;
  return read(value);
}

double read_quality(const Value& value) {
  const double quality = value.number();
  if (quality < -1e9 || quality > 1e9) value.refuse("expected -1e9 to 1e9");
  return quality;
}

double read_milliseconds(const Value& value) {
  const double milliseconds = value.number();
  if (milliseconds <= 0 || milliseconds > 1e9) value.refuse("expected more than 0 and at most 1e9");
  return milliseconds;
}

template <class Read>
auto read_all(const Value& value, std::size_t min, std::size_t max, Read read) {
  std::vector<decltype(read(value))> out;
  for (const auto& element : value.elements(min, max)) out.push_back(read(element));
  return out;
}

std::int64_t read_dim(const Value& value, bool symbolic) {
  constexpr std::array<std::string_view, 2> words{"batch", "length"};
  if (symbolic) return value.choice(words) == 0 ? kBatch : kLength;
  return value.integer(kPositive);
}

void read_tensor(Object& object, const Value& where, TensorSpec& spec) {
  spec.name = read_name(object.required("name"));
  spec.dtype = read_choice<DType>(object.required("dtype"), kDTypes);
  spec.shape =
      read_all(object.required("shape"), 1, 8, [](const Value& dim) { return read_dim(dim, dim.is_string()); });
  const auto batches = std::count(spec.shape.begin(), spec.shape.end(), kBatch);
  const auto lengths = std::count(spec.shape.begin(), spec.shape.end(), kLength);
  if (spec.shape.empty() || spec.shape[0] != kBatch || batches > 1 || lengths > 1) {
    where.refuse("expected a shape (batch, …) with at most one length");
  }
}

InputSpec read_input(const Value& value) {
  Object object(value);
  InputSpec spec;
  read_tensor(object, value, spec);
  spec.pad = object.required("pad").number();
  if (const auto role = object.optional("role")) spec.role = read_choice<Role>(*role, kRoles);
  object.finish();
  return spec;
}

OutputSpec read_output(const Value& value) {
  Object object(value);
  OutputSpec spec;
  read_tensor(object, value, spec);
  spec.fusion = read_choice<Fusion>(object.required("fusion"), kFusions);
  if (const auto normalized = object.optional("normalized")) spec.normalized = normalized->boolean();
  object.finish();
  return spec;
}

BatchRange read_batch(const Value& value) {
  Object object(value);
  BatchRange range;
  if (const auto min = object.optional("min")) range.min = min->integer(kBatchSize);
  if (const auto opt = object.optional("opt")) range.opt = opt->integer(kBatchSize);
  if (const auto max = object.optional("max")) range.max = max->integer(kBatchSize);
  object.finish();
  if (range.min > range.opt || range.opt > range.max) value.refuse("expected min <= opt <= max");
  return range;
}

Tolerance read_tolerance(const Value& value) {
  Object object(value);
  const auto max_abs = object.required("max_abs"), min_cosine = object.required("min_cosine");
  object.finish();
  const Tolerance tolerance{max_abs.number(), min_cosine.number()};
  if (tolerance.max_abs <= 0) max_abs.refuse("expected more than 0");
  if (tolerance.min_cosine < -1 || tolerance.min_cosine > 1) min_cosine.refuse("expected -1 to 1");
  return tolerance;
}

Activation read_activation(const Value& value) {
  Object object(value);
  Activation activation;
  if (const auto token = object.optional("per_token")) activation.per_token = token->integer(kNotNegative);
  if (const auto pair = object.optional("per_token_pair")) activation.per_token_pair = pair->integer(kNotNegative);
  object.finish();
  return activation;
}

RopeScaling read_position_resolution(const Value& value) {
  Object object(value);
  const auto kind = object.required("kind").choice(kRopeKinds);
  const auto factor = object.required("factor");
  object.finish();
  if (factor.number() < 1 || factor.number() > 1024) factor.refuse("expected 1 to 1024");
  return {std::string(kRopeKinds[kind]), factor.number()};
}

SubNetwork read_subnetwork(const Value& value) {
  Object object(value);
  SubNetwork part;
  const auto size = [&](const char* key, std::int64_t most) -> std::optional<std::int64_t> {
    const auto found = object.optional(key);
    if (!found || found->is_null()) return std::nullopt;
    return found->integer({1, most});
  };
  part.layers = size("layers", 4096);
  part.heads = size("heads", 4096);
  part.ffn = size("ffn", 1 << 20);
  if (const auto scaling = object.optional("position_resolution"))
    part.position_resolution = read_nullable(*scaling, read_position_resolution);
  object.finish();
  return part;
}

// The network and precision that a bucket runs, as BucketPlan.network in Python: "fp32-l3-linear2".
std::string network_of(const Bucket& bucket) {
  std::string name(name_of(bucket.precision));
  if (!bucket.subnetwork) return name;
  const auto& part = *bucket.subnetwork;
  if (part.layers) name += text("-l", *part.layers);
  if (part.heads) name += text("-h", *part.heads);
  if (part.ffn) name += text("-f", *part.ffn);
  if (part.position_resolution) {
    std::array<char, 32> factor{};
    std::snprintf(factor.data(), factor.size(), "%g", part.position_resolution->factor);
    name += text("-", part.position_resolution->kind, factor.data());
  }
  return name;
}

Bucket read_bucket(const Value& value) {
  Object object(value);
  Bucket bucket;
  bucket.min_length = object.required("min_length").integer(kTokens);
  bucket.max_length = object.required("max_length").integer(kTokens);
  bucket.opt_length = object.required("opt_length").integer(kTokens);
  bucket.batch = read_batch(object.required("batch"));
  bucket.precision = read_choice<Precision>(object.required("precision"), kPrecisions);
  bucket.threads = object.required("threads").integer({0, 1024});
  bucket.memory_budget = read_nullable(object.required("memory_budget"), [](const Value& bytes) {
    return bytes.integer({1, std::int64_t{1} << 50});
  });
  if (const auto budget = object.optional("time_budget_ms"))
    bucket.time_budget_ms = read_nullable(*budget, read_milliseconds);
  bucket.backends = read_all(object.required("backends"), 1, kAny,
                             [](const Value& name) { return read_choice<Backend>(name, kBackends); });
  bucket.subnetwork = read_nullable(object.required("subnetwork"), read_subnetwork);
  bucket.graph = read_path(object.required("graph"));
  bucket.unmasked_graph = read_nullable(object.required("unmasked_graph"), read_path);
  bucket.tolerance = read_tolerance(object.required("tolerance"));
  bucket.golden = read_nullable(object.required("golden"), read_path);
  if (const auto activation = object.optional("activation")) bucket.activation = read_activation(*activation);
  if (const auto masked = object.optional("masked_activation")) bucket.masked_activation = read_activation(*masked);
  object.finish();
  if (bucket.min_length > bucket.opt_length || bucket.opt_length > bucket.max_length) {
    value.refuse("expected min_length <= opt_length <= max_length");
  }
  bucket.name = text("ctx-", bucket.max_length);
  bucket.network = network_of(bucket);
  return bucket;
}

FusionRecord read_fusion(const Value& value) {
  Object object(value);
  FusionRecord fusion;
  fusion.segment = read_path(object.required("segment"));
  fusion.fuse = read_path(object.required("fuse"));
  fusion.finish = read_nullable(object.required("finish"), read_path);
  fusion.hidden_size = object.required("hidden_size").integer(kPositive);
  fusion.summaries = object.required("summaries").integer(kPositive);
  fusion.prefix = object.required("prefix").integer({0, 64});
  fusion.suffix = object.required("suffix").integer({0, 64});
  fusion.golden = read_nullable(object.required("golden"), read_path);
  object.finish();
  return fusion;
}

DecoderRecord read_decoder(const Value& value) {
  constexpr std::array<std::string_view, 2> forms{"attention", "gqa"}, dtypes{"float32", "float16"};
  constexpr Range ids{0, std::numeric_limits<std::int32_t>::max()};
  const auto id = [&](const Value& token) { return token.integer(ids); };
  Object object(value);
  DecoderRecord decoder;
  if (const auto chunk = object.optional("chunk")) decoder.chunk = chunk->integer({1, 1 << 16});
  if (const auto sinks = object.optional("sinks")) decoder.sinks = sinks->integer({0, 1024});
  if (const auto reserve = object.optional("reserve")) decoder.reserve = reserve->integer({1, 1 << 20});
  decoder.form = read_choice<DecoderForm>(object.required("form"), forms);
  decoder.layers = object.required("layers").integer({1, 4096});
  decoder.kv_heads = object.required("kv_heads").integer({1, 4096});
  decoder.head_size = object.required("head_size").integer({1, 1 << 16});
  decoder.cache_dtype = object.required("cache_dtype").choice(dtypes) == 0 ? DType::float32 : DType::float16;
  decoder.vocab_size = object.required("vocab_size").integer({1, std::numeric_limits<std::int32_t>::max()});
  decoder.sliding_window =
      read_nullable(object.required("sliding_window"), [](const Value& window) { return window.integer(kTokens); });
  decoder.bos_token_id = read_nullable(object.required("bos_token_id"), id);
  decoder.eos_token_ids = read_all(object.required("eos_token_ids"), 0, 64, id);
  decoder.chat_template = read_nullable(object.required("chat_template"), read_path);
  object.finish();
  return decoder;
}

QualityRecord read_quality_record(const Value& value) {
  Object object(value);
  QualityRecord record;
  record.min_length = object.required("min_length").integer(kTokens);
  record.max_length = object.required("max_length").integer(kTokens);
  record.subnetwork = read_nullable(object.required("subnetwork"), read_subnetwork);
  record.metric = read_name(object.required("metric"));
  record.value = read_quality(object.required("value"));
  record.loss = read_nullable(object.required("loss"), [](const Value& loss) { return loss.number(); });
  record.examples = object.required("examples").integer(kPositive);
  record.latency_ms = read_nullable(object.required("latency_ms"), read_milliseconds);
  object.finish();
  if (record.min_length > record.max_length) value.refuse("expected min_length <= max_length");
  return record;
}

EngineRecord read_engine(const Value& value) {
  constexpr std::array<std::string_view, 2> backends{"tensorrt", "tensorrt-rtx"};
  Object object(value);
  EngineRecord engine;
  engine.backend = object.required("backend").choice(backends) == 0 ? Backend::tensorrt : Backend::tensorrt_rtx;
  engine.targets = read_all(object.required("targets"), 1, kAny, read_name);
  engine.file = read_path(object.required("file"));
  engine.library_version = object.required("library_version").string();
  engine.network = object.required("network").string();
  const auto profiles = object.required("optimization_profiles");
  for (const auto& [bucket, index] : profiles.entries())
    engine.optimization_profiles[bucket] = index.integer(kNotNegative);
  if (engine.optimization_profiles.empty()) profiles.refuse("expected at least one bucket");
  if (const auto stripped = object.optional("stripped")) engine.stripped = stripped->boolean();
  object.finish();
  return engine;
}

SpecialTokens read_special_tokens(const Value& value) {
  const auto id = [](const Value& token) { return token.integer(); };
  Object object(value);
  SpecialTokens tokens;
  if (const auto prefix = object.optional("prefix")) tokens.prefix = read_all(*prefix, 0, 64, id);
  if (const auto suffix = object.optional("suffix")) tokens.suffix = read_all(*suffix, 0, 64, id);
  object.finish();
  return tokens;
}

SourceRecord read_source(const Value& value) {
  Object object(value);
  SourceRecord source{std::string(kSourceKinds[object.required("kind").choice(kSourceKinds)]),
                      read_sha256(object.required("sha256"))};
  object.finish();
  return source;
}

Overflow read_overflow(const Value& value) {
  Object object(value);
  Overflow overflow;
  if (const auto policy = object.optional("policy")) overflow.policy = read_choice<OverflowPolicy>(*policy, kPolicies);
  if (const auto overlap = object.optional("overlap")) overflow.overlap = overlap->integer({0, 1 << 20});
  if (const auto fusion = object.optional("fusion")) {
    constexpr std::array poolings{Fusion::mean, Fusion::max, Fusion::attention};
    overflow.fusion = poolings[fusion->choice(Words(kFusions).subspan(1, poolings.size()))];
  }
  object.finish();
  return overflow;
}

FileRecord read_file(const Value& value) {
  Object object(value);
  FileRecord file{read_path(object.required("path")), object.required("bytes").integer(kNotNegative),
                  read_sha256(object.required("sha256"))};
  object.finish();
  return file;
}

std::map<std::string, std::string> read_toolchain(const Value& value) {
  std::map<std::string, std::string> versions;
  for (const auto& [name, version] : value.entries()) versions[name] = version.string();
  return versions;
}

template <class Spec>
bool names_differ(const std::vector<Spec>& specs) {
  std::set<std::string> names;
  return std::all_of(specs.begin(), specs.end(), [&](const Spec& spec) { return names.insert(spec.name).second; });
}

// Whether a segment has a token of its own beside `framing` tokens and the overlap.
void check_room(const Manifest& manifest, std::int64_t framing, Problems& problems) {
  const auto& overflow = manifest.overflow;
  if (overflow.policy == OverflowPolicy::segment && overflow.overlap + framing >= manifest.max_length()) {
    problems.add("", text("segments of ", manifest.max_length(), " tokens leave no room beside ", framing,
                          " special tokens and an overlap of ", overflow.overlap));
  }
}

// What holds between `fusion`, `quality` and the outputs.
void check_fusion(const Manifest& manifest, Problems& problems) {
  if (manifest.min_quality && manifest.quality.empty()) problems.add("", "min_quality needs a table of quality");
  bool any_by_token = false;
  for (const auto& output : manifest.outputs) {
    const bool by_token = output.length_axis().has_value(), learned = output.fusion == Fusion::learned;
    any_by_token |= by_token;
    if (learned && by_token) problems.add("", "an output with a length can't be learned: it is joined token by token");
    if (learned && !manifest.fusion) {
      problems.add("", text(output.name, " is learned, but the bundle has no graphs of a fusion"));
    }
    if (manifest.fusion && !by_token && !learned) {
      problems.add("", "with a fusion, every output without a length is learned");
    }
  }
  if (!manifest.fusion) return;
  if (manifest.fusion->finish.has_value() != any_by_token) {
    problems.add("", "the fusion has a graph to finish outputs with a length exactly if there are any");
  }
  check_room(manifest, manifest.fusion->prefix + manifest.fusion->suffix, problems);
  constexpr std::array<std::string_view, 5> states{"hidden", "summary", "summaries", "contexts", "context"};
  const auto check_name = [&](const TensorSpec& spec) {
    if (std::find(states.begin(), states.end(), spec.name) != states.end()) {
      problems.add("", text("'", spec.name, "' is what the graphs of the fusion call a state of their own"));
    }
  };
  std::for_each(manifest.inputs.begin(), manifest.inputs.end(), check_name);
  std::for_each(manifest.outputs.begin(), manifest.outputs.end(), check_name);
}

bool equals(const TensorSpec& spec, const TensorSpec& other) {
  return spec.name == other.name && spec.dtype == other.dtype && spec.shape == other.shape;
}

// What holds between `decoder` and the rest.
void check_decoder(const Manifest& manifest, Problems& problems) {
  const auto policy = manifest.overflow.policy;
  if (!manifest.decoder) {
    if (policy == OverflowPolicy::sliding) {
      problems.add("", "the overflow policy sliding is one of causal language models");
    }
    return;
  }
  const auto& decoder = *manifest.decoder;
  if (policy != OverflowPolicy::sliding && policy != OverflowPolicy::error) {
    problems.add("", text("a causal language model can't ", name_of(policy), " what is too long"));
  }
  if (policy == OverflowPolicy::sliding && decoder.sinks + 2 > manifest.max_length()) {
    problems.add("", text("a cache of ", manifest.max_length(), " tokens has no room beside ", decoder.sinks, " sinks"));
  }
  const auto& inputs = manifest.inputs;
  const auto& outputs = manifest.outputs;
  const bool one_each = inputs.size() == 1 && equals(inputs[0], decoder.inputs()[0]) && outputs.size() == 1 &&
                        equals(outputs[0], decoder.outputs()[0]) && inputs[0].role == Role::tokens;
  const bool unmasked = std::any_of(manifest.buckets.begin(), manifest.buckets.end(),
                                    [](const Bucket& bucket) { return bucket.unmasked_graph.has_value(); });
  if (!one_each || unmasked || manifest.fusion) {
    problems.add("", "a causal language model takes input_ids, gives logits and has one graph for a bucket");
  }
}

void check_planned_inputs(const Manifest& manifest, Problems& problems) {
  const auto& planned = manifest.planned_inputs;
  const auto wanted = manifest.buckets.size() + 1;
  const auto some = [](std::int64_t inputs) { return inputs > 0; };
  if (!planned || (planned->size() == wanted && std::any_of(planned->begin(), planned->end(), some))) return;
  problems.add("planned_inputs", text("expected ", wanted, " counts, one for each bucket and one for longer inputs"));
}

// What holds between the fields.
void check_manifest(const Manifest& manifest, Problems& problems) {
  const auto& inputs = manifest.inputs;
  if (!names_differ(inputs)) problems.add("", "two inputs have the same name");
  if (!names_differ(manifest.outputs)) problems.add("", "two outputs have the same name");
  if (std::none_of(inputs.begin(), inputs.end(), [](const auto& spec) { return spec.length_axis().has_value(); })) {
    problems.add("", "no input has a length axis");
  }
  for (const auto role : {Role::tokens, Role::mask}) {
    const auto count =
        std::count_if(inputs.begin(), inputs.end(), [role](const auto& spec) { return spec.role == role; });
    if (count > 1) problems.add("", text("more than one input has the role ", kRoles[static_cast<std::size_t>(role)]));
  }
  const auto framing = std::ssize(manifest.special_tokens.prefix) + std::ssize(manifest.special_tokens.suffix);
  check_room(manifest, framing, problems);
  check_fusion(manifest, problems);
  check_decoder(manifest, problems);
  check_planned_inputs(manifest, problems);
}

Manifest read_manifest(const Value& value, Problems& problems) {
  Object object(value);
  Manifest manifest;
  manifest.format = object.required("format").integer(kPositive);
  manifest.name = read_name(object.required("name"));
  manifest.task = read_name(object.required("task"));
  manifest.source = read_source(object.required("source"));
  manifest.toolchain = read_toolchain(object.required("toolchain"));
  manifest.inputs = read_all(object.required("inputs"), 1, 64, read_input);
  manifest.outputs = read_all(object.required("outputs"), 1, 64, read_output);
  manifest.padding_invariant = object.required("padding_invariant").boolean();
  manifest.special_tokens = read_special_tokens(object.required("special_tokens"));
  manifest.buckets = read_all(object.required("buckets"), 1, 64, read_bucket);
  if (const auto engines = object.optional("engines")) manifest.engines = read_all(*engines, 0, 256, read_engine);
  if (const auto fusion = object.optional("fusion")) manifest.fusion = read_nullable(*fusion, read_fusion);
  if (const auto decoder = object.optional("decoder")) manifest.decoder = read_nullable(*decoder, read_decoder);
  if (const auto quality = object.optional("quality")) {
    manifest.quality = read_all(*quality, 0, 4096, read_quality_record);
  }
  if (const auto floor = object.optional("min_quality")) manifest.min_quality = read_nullable(*floor, read_quality);
  manifest.overflow = read_overflow(object.required("overflow"));
  manifest.session_budget =
      read_nullable(object.required("session_budget"), [](const Value& bytes) { return bytes.integer(kPositive); });
  manifest.share_weights = read_choice<ShareWeights>(object.required("share_weights"), kShareWeights);
  manifest.weights = read_nullable(object.required("weights"), read_path);
  manifest.tokenizer = read_nullable(object.required("tokenizer"), read_path);
  manifest.parity_report = read_nullable(object.required("parity_report"), read_path);
  if (const auto planned = object.optional("planned_inputs")) {
    manifest.planned_inputs = read_nullable(*planned, [](const Value& counts) {
      return read_all(counts, 2, 65, [](const Value& inputs) { return inputs.integer(kNotNegative); });
    });
  }
  manifest.files = read_all(object.required("files"), 0, 4096, read_file);
  object.finish();
  if (problems.first().empty()) check_manifest(manifest, problems);
  return manifest;
}

}  // namespace

Result<Manifest> parse_manifest(std::string_view data) {
  if (data.size() > kMaxManifestBytes) {
    return bundle_error("manifest-syntax", text("manifest.json has more than ", kMaxManifestBytes, " bytes"));
  }
  const auto parsed = parse_json(data, kMaxNesting);
  if (!parsed) return bundle_error("manifest-syntax", text("manifest.json is not JSON: ", parsed.error().message));
  const Json& json = *parsed;
  if (!json.is_object()) return bundle_error("manifest-schema", "manifest.json is not an object");
  if (json.contains("format") && json["format"].is_number_integer() && json["format"].get<std::int64_t>() > kFormat) {
    return bundle_error("format-unsupported",
                        text("the bundle has format ", json["format"].get<std::int64_t>(),
                             ", this reader knows formats up to ", kFormat),
                        "install a newer ctxrt");
  }
  Problems problems;
  auto manifest = read_manifest(Value(json, "", problems), problems);
  if (!problems.first().empty()) return bundle_error("manifest-schema", text("manifest.json: ", problems.first()));
  return manifest;
}

}  // namespace ctxrt::core
