#include <algorithm>
#include <chrono>
#include <fstream>
#include <sstream>

#include "commands.h"
#include "npz.h"
#include "tables.h"

namespace ctxrt::command {
namespace {

using core::input_error;
using core::Result;
using core::Status;
using core::Tensor;
using core::Tensors;
using core::text;

constexpr std::size_t kMaxInputBytes = std::size_t{1} << 32;
constexpr std::size_t kMaxPrinted = 1024;  // outputs of more numbers are not printed as JSON

// NAME:DTYPE:SHAPE:FILE; a name may hold colons.
Status read_raw(const std::string& given, Tensors& inputs) {
  std::vector<std::string> parts;
  std::istringstream words(given);
  for (std::string part; std::getline(words, part, ':');) parts.push_back(part);
  const auto dtype = parts.size() == 4 ? core::find_dtype(parts[1]) : std::nullopt;
  if (!dtype) return input_error(text("expected NAME:DTYPE:SHAPE:FILE, not '", given, "'"));
  CTXRT_ASSIGN(const auto shape, parse_numbers(parts[2]));
  CTXRT_ASSIGN(const auto bytes, core::read_file(parts[3], kMaxInputBytes));
  const Tensor expected{*dtype, shape, nullptr};
  if (bytes.size() != expected.bytes()) {
    return input_error(text(parts[3], " has ", bytes.size(), " bytes, its shape needs ", expected.bytes()));
  }
  inputs[parts[0]] =
      core::make_tensor(*dtype, shape, [&](std::byte* out) { std::copy(bytes.begin(), bytes.end(), out); });
  return core::Unit{};
}

Result<std::unique_ptr<core::Runtime>> open_runtime(const Arguments& arguments) {
  core::Runtime::Options options;
  CTXRT_ASSIGN(options.min_quality, arguments.decimal("--min-quality"));
  return core::Runtime::open(arguments.bundle, options);
}

Result<Tensors> read_inputs(const Arguments& arguments) {
  Tensors inputs;
  if (const auto file = arguments.find("--input")) {
    CTXRT_ASSIGN(inputs, core::read_npz(*file, kMaxInputBytes));
  }
  for (const auto& raw : arguments.all("--raw")) CTXRT_CHECK(read_raw(raw, inputs));
  if (inputs.empty()) return input_error("no input is given", "use --input or --raw");
  return inputs;
}

Status write_outputs(const Arguments& arguments, const Tensors& outputs) {
  if (const auto file = arguments.find("--output")) CTXRT_CHECK(core::write_npz(*file, outputs));
  if (const auto folder = arguments.find("--raw-output")) {
    for (const auto& [name, tensor] : outputs) {
      std::ofstream file(core::Path(*folder) / (name + ".bin"), std::ios::binary);
      file.write(reinterpret_cast<const char*>(tensor.data.get()), static_cast<std::streamsize>(tensor.bytes()));
      if (!file.flush()) return input_error(text(*folder, "/", name, ".bin can't be written"));
    }
  }
  return core::Unit{};
}

nlohmann::ordered_json described(const Tensor& tensor) {
  nlohmann::ordered_json json{{"shape", tensor.shape}, {"dtype", core::dtype_name(tensor.dtype)}};
  if (tensor.count() <= kMaxPrinted) json["values"] = core::to_doubles(tensor);
  return json;
}

void print_result(const core::RunResult& result) {
  std::vector<Cells> rows{{"length", "bucket", "backend", "padding", "segments", "ms", "reason"}};
  for (const auto& one : result.dispatch) {
    rows.push_back({text(one.length), one.bucket, std::string(core::name_of(one.backend)), text(one.padding),
                    text(one.segments), fixed(one.ms, 1), one.reason});
  }
  print_table(rows);
  std::vector<Cells> outputs{{"output", "dtype", "shape", "first values"}};
  for (const auto& [name, tensor] : result.outputs) {
    std::string first;
    const auto numbers = core::to_doubles(tensor);
    for (std::size_t i = 0; i < std::min<std::size_t>(4, numbers.size()); ++i) first += fixed(numbers[i], 4) + " ";
    outputs.push_back({name, std::string(core::dtype_name(tensor.dtype)), core::describe(tensor.shape), first});
  }
  print_table(outputs);
}

// `batch` rows of `length` tokens; what an input holds does not change its latency.
Tensors bench_inputs(const core::Manifest& manifest, std::int64_t batch, std::int64_t length) {
  Tensors inputs;
  for (const auto& spec : manifest.inputs) {
    if (spec.role == core::Role::mask) continue;
    const core::Shape shape = spec.sized(batch, length);
    const std::vector<double> ones(Tensor{spec.dtype, shape, nullptr}.count(), 1.0);
    inputs[spec.name] = core::from_doubles(ones, spec.dtype, shape);
  }
  return inputs;
}

}  // namespace

Result<int> run(const Arguments& arguments) {
  CTXRT_ASSIGN(const auto inputs, read_inputs(arguments));
  CTXRT_ASSIGN(const auto runtime, open_runtime(arguments));
  CTXRT_ASSIGN(const auto results, runtime->run({&inputs, 1}));
  const auto& result = results.front();
  CTXRT_CHECK(write_outputs(arguments, result.outputs));
  if (!arguments.has("--json")) {
    print_result(result);
    return 0;
  }
  nlohmann::ordered_json json;
  for (const auto& [name, tensor] : result.outputs) json["outputs"][name] = described(tensor);
  for (const auto& one : result.dispatch) json["dispatch"].push_back(to_json(one));
  print_json(json);
  return 0;
}

Result<int> explain(const Arguments& arguments) {
  if (!arguments.has("--length")) return input_error("--length is missing");
  CTXRT_ASSIGN(const auto length, arguments.number("--length", 1));
  CTXRT_ASSIGN(const auto batch, arguments.number("--batch", 1));
  CTXRT_ASSIGN(const auto runtime, open_runtime(arguments));
  CTXRT_ASSIGN(const auto told, runtime->explain(length, batch));
  const std::string backend(core::name_of(told.backend));
  if (arguments.has("--json")) {
    print_json({{"length", told.length},
                {"bucket", told.bucket},
                {"backend", backend},
                {"segments", told.segments},
                {"reason", told.reason}});
  } else {
    print_table({{"length", "bucket", "backend", "segments", "reason"},
                 {text(told.length), told.bucket, backend, text(told.segments), told.reason}});
  }
  return 0;
}

Result<int> bench(const Arguments& arguments) {
  CTXRT_ASSIGN(const auto batch, arguments.number("--batch", 1));
  CTXRT_ASSIGN(const auto repeat, arguments.number("--repeat", 50));
  CTXRT_ASSIGN(const auto runtime, core::Runtime::open(arguments.bundle, {}));
  const auto& manifest = runtime->bundle().manifest;
  std::vector<std::int64_t> lengths;
  for (const auto& bucket : manifest.buckets) lengths.push_back(bucket.max_length);
  if (const auto given = arguments.find("--lengths")) {
    CTXRT_ASSIGN(lengths, parse_numbers(*given));
  }
  std::vector<Cells> rows{{"length", "batch", "bucket", "segments", "p50 ms", "p95 ms", "tokens/s"}};
  auto json = nlohmann::ordered_json::array();
  for (const auto length : lengths) {
    const Tensors inputs = bench_inputs(manifest, batch, length);
    CTXRT_ASSIGN(const auto warm, runtime->run({&inputs, 1}));
    std::vector<double> ms;
    for (std::int64_t i = 0; i < repeat; ++i) {
      const auto started = std::chrono::steady_clock::now();
      CTXRT_CHECK(runtime->run({&inputs, 1}));
      ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started).count());
    }
    std::sort(ms.begin(), ms.end());
    const double p50 = ms[ms.size() / 2], p95 = ms[ms.size() * 95 / 100];
    const auto& how = warm.front().dispatch.front();
    const double rate = static_cast<double>(length * batch) / p50 * 1e3;
    rows.push_back(
        {text(length), text(batch), how.bucket, text(how.segments), fixed(p50, 3), fixed(p95, 3), fixed(rate, 0)});
    json.push_back({{"length", length},
                    {"batch", batch},
                    {"bucket", how.bucket},
                    {"segments", how.segments},
                    {"p50_ms", p50},
                    {"p95_ms", p95},
                    {"tokens_per_second", rate}});
  }
  if (arguments.has("--json")) {
    print_json({{"lengths", json}});
  } else {
    print_table(rows);
  }
  return 0;
}

}  // namespace ctxrt::command
