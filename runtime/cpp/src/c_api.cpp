// The C interface: handles over the C++ classes, and errors as codes.
#include <cstring>

#include "c_api.h"
#include "parity.h"

namespace core = ctxrt::core;

struct ctxrt_result {
  core::RunResult result;
};
struct ctxrt_explanation {
  core::Explanation explanation;
};
struct ctxrt_stats {
  core::Stats stats;
};
struct ctxrt_report {
  core::ParityReport report;
};

namespace {

using core::check_index;
using core::check_pointers;
using core::Error;
using core::ErrorKind;
using core::guarded;
using core::Result;
using core::Tensor;
using core::Tensors;
using core::text;
using core::Unit;

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): each thread's own
thread_local Error last_error{ErrorKind::internal, "", "", ""};

ctxrt_status status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::input:
      return CTXRT_ERROR_INPUT;
    case ErrorKind::too_long:
      return CTXRT_ERROR_TOO_LONG;
    case ErrorKind::bundle:
      return CTXRT_ERROR_BUNDLE;
    case ErrorKind::backend:
      return CTXRT_ERROR_BACKEND;
    case ErrorKind::memory_budget:
      return CTXRT_ERROR_MEMORY_BUDGET;
    case ErrorKind::time_budget:
      return CTXRT_ERROR_TIME_BUDGET;
    case ErrorKind::quality:
      return CTXRT_ERROR_QUALITY;
    case ErrorKind::missing_part:
      return CTXRT_ERROR_MISSING_PART;
    case ErrorKind::cancelled:
      return CTXRT_ERROR_CANCELLED;
    case ErrorKind::closed:
    case ErrorKind::internal:
      break;
  }
  return CTXRT_ERROR_INTERNAL;
}

// Shows the caller's array without copying it.
Result<Tensor> view(const ctxrt_tensor& given) {
  if (given.name == nullptr || (given.shape == nullptr && given.rank > 0) || given.rank > 8) {
    return core::input_error("an input needs a name and a shape of at most 8 sizes");
  }
  if (given.dtype < CTXRT_FLOAT32 || given.dtype > CTXRT_FLOAT64) {
    return core::input_error(text("input '", given.name, "' has an unknown dtype"));
  }
  Tensor tensor{static_cast<core::DType>(given.dtype), {given.shape, given.shape + given.rank}, nullptr};
  std::int64_t count = 1;
  for (const auto size : tensor.shape) {
    if (size < 0 || (size > 0 && count > (std::int64_t{1} << 40) / size)) {
      return core::input_error(text("input '", given.name, "' has an impossible shape ", core::describe(tensor.shape)));
    }
    count *= size;
  }
  if (given.data == nullptr && count > 0) return core::input_error(text("input '", given.name, "' has no data"));
  tensor.data = {std::shared_ptr<void>(), static_cast<const std::byte*>(given.data)};
  return tensor;
}

Result<Tensors> view(const ctxrt_inputs& given) {
  if (given.count > 0) CTXRT_CHECK(check_pointers(given.tensors));
  Tensors tensors;
  for (std::size_t i = 0; i < given.count; ++i) {
    CTXRT_ASSIGN(auto tensor, view(given.tensors[i]));
    if (!tensors.emplace(given.tensors[i].name, std::move(tensor)).second) {
      return core::input_error(text("input '", given.tensors[i].name, "' is given twice"));
    }
  }
  return tensors;
}

ctxrt_tensor shown(const std::string& name, const Tensor& tensor) {
  return {name.c_str(), static_cast<ctxrt_dtype>(tensor.dtype), tensor.shape.data(), tensor.shape.size(),
          tensor.data.get()};
}

Result<core::Runtime::Options> options_of(const ctxrt_options* given) {
  core::Runtime::Options options;
  if (given == nullptr) return options;
  if (given->share_weights == CTXRT_SHARE_MMAP) options.share_weights = core::ShareWeights::mmap;
  if (given->share_weights == CTXRT_SHARE_OFF) options.share_weights = core::ShareWeights::off;
  if (given->check == CTXRT_CHECK_FULL) options.check = core::Check::full;
  if (given->check == CTXRT_CHECK_SIZES) options.check = core::Check::sizes;
  if (given->min_quality != 0) options.min_quality = given->min_quality;
  if (given->session_budget != 0) {
    constexpr std::uint64_t most = std::uint64_t{1} << 62;
    options.session_budget = static_cast<std::int64_t>(std::min(given->session_budget, most));
  }
  if (given->backend_count > 0) CTXRT_CHECK(check_pointers(given->backends));
  for (std::size_t i = 0; i < given->backend_count; ++i) {
    const std::string name = given->backends[i] == nullptr ? "" : given->backends[i];
    const auto backend = core::find_backend(name);
    if (!backend) return core::input_error(text("unknown backend '", name, "'"));
    options.backends.push_back(*backend);
  }
  return options;
}

}  // namespace

ctxrt_status core::fail(Error error) {
  const ctxrt_status status = status_of(error.kind);
  last_error = std::move(error);
  return status;
}

const char* ctxrt_error_message(void) { return last_error.message.c_str(); }
const char* ctxrt_error_hint(void) { return last_error.hint.c_str(); }
const char* ctxrt_error_code(void) { return last_error.code.c_str(); }
const char* ctxrt_version(void) { return CTXRT_VERSION; }

ctxrt_status ctxrt_open(const char* path, const ctxrt_options* options, ctxrt_runtime** runtime) {
  return guarded([&]() -> core::Status {
    CTXRT_CHECK(check_pointers(path, runtime));
    CTXRT_ASSIGN(const auto chosen, options_of(options));
    CTXRT_ASSIGN(auto opened, core::Runtime::open(path, chosen));
    core::DispatcherOptions verifying{chosen.backends, opened->bundle().manifest.share_weights, std::nullopt};
    *runtime = new ctxrt_runtime{std::move(opened), std::move(verifying)};
    return Unit{};
  });
}

void ctxrt_close(ctxrt_runtime* runtime) { delete runtime; }

const char* ctxrt_manifest_sha256(const ctxrt_runtime* runtime) {
  return runtime->runtime->bundle().manifest_sha256.c_str();
}

int64_t ctxrt_max_length(const ctxrt_runtime* runtime) { return runtime->runtime->bundle().manifest.max_length(); }

ctxrt_cancel* ctxrt_cancel_new(void) { return new (std::nothrow) ctxrt_cancel; }

void ctxrt_cancel_now(ctxrt_cancel* cancel) {
  if (cancel != nullptr) cancel->token.cancel();
}

void ctxrt_cancel_free(ctxrt_cancel* cancel) { delete cancel; }

ctxrt_status ctxrt_run(ctxrt_runtime* runtime, const ctxrt_inputs* inputs, ctxrt_cancel* cancel,
                       ctxrt_result** result) {
  return ctxrt_run_many(runtime, inputs, 1, cancel, result);
}

ctxrt_status ctxrt_run_many(ctxrt_runtime* runtime, const ctxrt_inputs* inputs, size_t count, ctxrt_cancel* cancel,
                            ctxrt_result** results) {
  return guarded([&]() -> core::Status {
    CTXRT_CHECK(check_pointers(runtime, inputs, results));
    std::vector<Tensors> views;
    for (std::size_t i = 0; i < count; ++i) {
      CTXRT_ASSIGN(auto tensors, view(inputs[i]));
      views.push_back(std::move(tensors));
    }
    CTXRT_ASSIGN(auto ran, runtime->runtime->run(views, cancel == nullptr ? nullptr : &cancel->token));
    std::vector<std::unique_ptr<ctxrt_result>> handles;
    handles.reserve(ran.size());
    for (auto& result : ran) handles.push_back(std::make_unique<ctxrt_result>(ctxrt_result{std::move(result)}));
    for (std::size_t i = 0; i < count; ++i) results[i] = handles[i].release();
    return Unit{};
  });
}

void ctxrt_result_free(ctxrt_result* result) { delete result; }

size_t ctxrt_result_outputs(const ctxrt_result* result) { return result->result.outputs.size(); }

ctxrt_status ctxrt_result_output(const ctxrt_result* result, size_t index, ctxrt_tensor* output) {
  return guarded([&]() -> core::Status {
    CTXRT_CHECK(check_pointers(result, output));
    CTXRT_CHECK(check_index(index, result->result.outputs.size()));
    const auto found = std::next(result->result.outputs.begin(), static_cast<std::ptrdiff_t>(index));
    *output = shown(found->first, found->second);
    return Unit{};
  });
}

ctxrt_status ctxrt_result_find(const ctxrt_result* result, const char* name, ctxrt_tensor* output) {
  return guarded([&]() -> core::Status {
    CTXRT_CHECK(check_pointers(result, name, output));
    const auto found = result->result.outputs.find(std::string_view(name));
    if (found == result->result.outputs.end()) return core::input_error(text("the bundle has no output '", name, "'"));
    *output = shown(found->first, found->second);
    return Unit{};
  });
}

size_t ctxrt_result_rows(const ctxrt_result* result) { return result->result.dispatch.size(); }

ctxrt_status ctxrt_result_dispatch(const ctxrt_result* result, size_t row, ctxrt_dispatch* dispatch) {
  return guarded([&]() -> core::Status {
    CTXRT_CHECK(check_pointers(result, dispatch));
    CTXRT_CHECK(check_index(row, result->result.dispatch.size()));
    const auto& one = result->result.dispatch[row];
    *dispatch = {one.length, one.bucket.c_str(), core::name_of(one.backend).data(), one.padding, one.segments,
                 one.ms,     one.reason.c_str()};
    return Unit{};
  });
}

ctxrt_status ctxrt_explain(ctxrt_runtime* runtime, int64_t length, int64_t batch, ctxrt_explanation** explanation) {
  return guarded([&]() -> core::Status {
    CTXRT_CHECK(check_pointers(runtime, explanation));
    CTXRT_ASSIGN(auto told, runtime->runtime->explain(length, batch));
    *explanation = new ctxrt_explanation{std::move(told)};
    return Unit{};
  });
}

void ctxrt_explanation_get(const ctxrt_explanation* explanation, ctxrt_dispatch* dispatch) {
  const auto& told = explanation->explanation;
  *dispatch = {told.length, told.bucket.c_str(), core::name_of(told.backend).data(), 0, told.segments,
               0,           told.reason.c_str()};
}

void ctxrt_explanation_free(ctxrt_explanation* explanation) { delete explanation; }

ctxrt_status ctxrt_stats_new(const ctxrt_runtime* runtime, ctxrt_stats** stats) {
  return guarded([&]() -> core::Status {
    CTXRT_CHECK(check_pointers(runtime, stats));
    *stats = new ctxrt_stats{runtime->runtime->stats()};
    return Unit{};
  });
}

void ctxrt_stats_free(ctxrt_stats* stats) { delete stats; }

void ctxrt_stats_pool(const ctxrt_stats* stats, ctxrt_pool_stats* pool) {
  const auto& state = stats->stats.pool;
  *pool = {state.open_sessions, state.resident_bytes, state.evictions, stats->stats.buckets.size(),
           state.fallbacks.size()};
}

ctxrt_status ctxrt_stats_bucket(const ctxrt_stats* stats, size_t index, ctxrt_bucket_stats* bucket) {
  return guarded([&]() -> core::Status {
    CTXRT_CHECK(check_pointers(stats, bucket));
    CTXRT_CHECK(check_index(index, stats->stats.buckets.size()));
    const auto& [name, one] = *std::next(stats->stats.buckets.begin(), static_cast<std::ptrdiff_t>(index));
    *bucket = {name.c_str(), one.runs, one.rows, one.tokens, one.padding, one.seconds, one.fused};
    return Unit{};
  });
}

ctxrt_status ctxrt_stats_fallback(const ctxrt_stats* stats, size_t index, ctxrt_fallback* fallback) {
  return guarded([&]() -> core::Status {
    CTXRT_CHECK(check_pointers(stats, fallback));
    CTXRT_CHECK(check_index(index, stats->stats.pool.fallbacks.size()));
    const auto& one = stats->stats.pool.fallbacks[index];
    *fallback = {one.bucket.c_str(), core::name_of(one.backend).data(), one.reason.c_str()};
    return Unit{};
  });
}

ctxrt_status ctxrt_verify(ctxrt_runtime* runtime, ctxrt_report** report) {
  return guarded([&]() -> core::Status {
    CTXRT_CHECK(check_pointers(runtime, report));
    CTXRT_ASSIGN(auto measured, core::verify(runtime->runtime->bundle(), runtime->verifying));
    *report = new ctxrt_report{std::move(measured)};
    return Unit{};
  });
}

void ctxrt_report_free(ctxrt_report* report) { delete report; }

int ctxrt_report_passed(const ctxrt_report* report) { return report->report.passed() ? 1 : 0; }

size_t ctxrt_report_cases(const ctxrt_report* report) { return report->report.cases.size(); }

ctxrt_status ctxrt_report_case(const ctxrt_report* report, size_t index, ctxrt_parity_case* parity_case) {
  return guarded([&]() -> core::Status {
    CTXRT_CHECK(check_pointers(report, parity_case));
    CTXRT_CHECK(check_index(index, report->report.cases.size()));
    const auto& one = report->report.cases[index];
    *parity_case = {one.bucket.c_str(), one.length(), std::ssize(one.lengths),
                    one.max_abs,        one.cosine,   one.passed ? 1 : 0};
    return Unit{};
  });
}
