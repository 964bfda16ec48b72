// The C++ face of ctxrt: header-only, over the C interface, so that compilers and standard libraries may differ.
//
//   ctxrt::Runtime runtime("minilm.bundle");
//   ctxrt::Result result = runtime.run({ctxrt::input<std::int64_t>("input_ids", ids, {length})});
//   std::span<const float> embedding = result.output("sentence_embedding").values<float>();
//
// Threads: as ctxrt.h says. A Runtime may be used from any number of threads at once; moving or destroying it must be
// alone.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "ctxrt.h"

namespace ctxrt {

// What a call throws: `what()` is one line that says what is wrong.
class Failure : public std::runtime_error {
 public:
  explicit Failure(ctxrt_status status)
      : std::runtime_error(ctxrt_error_message()),
        status_(status),
        hint_(ctxrt_error_hint()),
        code_(ctxrt_error_code()) {}

  ctxrt_status status() const { return status_; }
  // One line that says what to do; may be empty.
  const std::string& hint() const { return hint_; }
  // Of a bundle that is not sound: the rule of FORMAT.md that it breaks.
  const std::string& code() const { return code_; }

 private:
  ctxrt_status status_;
  std::string hint_, code_;
};

namespace detail {

inline void check(ctxrt_status status) {
  if (status != CTXRT_OK) throw Failure(status);
}

template <class Handle, void (*Free)(Handle*)>
struct Freed {
  void operator()(Handle* handle) const { Free(handle); }
};
template <class Handle, void (*Free)(Handle*)>
using Owned = std::unique_ptr<Handle, Freed<Handle, Free>>;

template <class T>
constexpr ctxrt_dtype dtype_of() {
  if constexpr (std::is_same_v<T, float>) return CTXRT_FLOAT32;
  if constexpr (std::is_same_v<T, double>) return CTXRT_FLOAT64;
  if constexpr (std::is_same_v<T, std::int64_t>) return CTXRT_INT64;
  if constexpr (std::is_same_v<T, std::int32_t>) return CTXRT_INT32;
  if constexpr (std::is_same_v<T, bool>) return CTXRT_BOOL;
  if constexpr (std::is_same_v<T, std::uint16_t>) return CTXRT_FLOAT16;  // its bits
}

}  // namespace detail

// An input, whose numbers and name stay the caller's until the run is over.
struct Input {
  const char* name;
  ctxrt_dtype dtype;
  const void* data;
  std::vector<std::int64_t> shape;
};

// `numbers` as (batch, length, …), or (length, …) for a single row.
template <class T>
Input input(const char* name, std::span<const T> numbers, std::vector<std::int64_t> shape) {
  std::size_t count = 1;
  for (const auto size : shape) count *= static_cast<std::size_t>(size);
  if (count != numbers.size())
    throw std::invalid_argument(std::string(name) + ": the shape has not the size of the numbers");
  return {name, detail::dtype_of<T>(), numbers.data(), std::move(shape)};
}

// An output; valid as long as its Result.
class Output {
 public:
  explicit Output(const ctxrt_tensor& tensor) : tensor_(tensor) {}

  std::string_view name() const { return tensor_.name; }
  ctxrt_dtype dtype() const { return tensor_.dtype; }
  std::span<const std::int64_t> shape() const { return {tensor_.shape, tensor_.rank}; }

  // The numbers, row-major; throws std::invalid_argument where T is not the output's dtype.
  template <class T>
  std::span<const T> values() const {
    if (detail::dtype_of<T>() != tensor_.dtype) throw std::invalid_argument("the output has another dtype");
    std::size_t count = 1;
    for (const auto size : shape()) count *= static_cast<std::size_t>(size);
    return {static_cast<const T*>(tensor_.data), count};
  }

 private:
  ctxrt_tensor tensor_;
};

// Outputs by name, and how each row was run.
class Result {
 public:
  explicit Result(ctxrt_result* handle) : handle_(handle) {}

  Output output(const char* name) const {
    ctxrt_tensor tensor{};
    detail::check(ctxrt_result_find(handle_.get(), name, &tensor));
    return Output(tensor);
  }
  std::size_t rows() const { return ctxrt_result_rows(handle_.get()); }
  // Its strings are valid as long as this.
  ctxrt_dispatch dispatch(std::size_t row = 0) const {
    ctxrt_dispatch dispatch{};
    detail::check(ctxrt_result_dispatch(handle_.get(), row, &dispatch));
    return dispatch;
  }

 private:
  detail::Owned<ctxrt_result, ctxrt_result_free> handle_;
};

// Stops the runs that it was given to, from any thread; once cancelled it stays so.
class Cancel {
 public:
  Cancel() : handle_(ctxrt_cancel_new()) {
    if (!handle_) throw std::bad_alloc();
  }
  void now() { ctxrt_cancel_now(handle_.get()); }
  ctxrt_cancel* get() const { return handle_.get(); }

 private:
  detail::Owned<ctxrt_cancel, ctxrt_cancel_free> handle_;
};

// Where an input would run; its strings are valid as long as this.
class Explanation {
 public:
  explicit Explanation(ctxrt_explanation* handle) : handle_(handle) {}
  ctxrt_dispatch get() const {
    ctxrt_dispatch dispatch{};
    ctxrt_explanation_get(handle_.get(), &dispatch);
    return dispatch;
  }

 private:
  detail::Owned<ctxrt_explanation, ctxrt_explanation_free> handle_;
};

// What ran so far and what is open now; its strings are valid as long as this.
class Stats {
 public:
  explicit Stats(ctxrt_stats* handle) : handle_(handle) { ctxrt_stats_pool(handle, &pool_); }

  const ctxrt_pool_stats& pool() const { return pool_; }
  ctxrt_bucket_stats bucket(std::size_t index) const {
    ctxrt_bucket_stats bucket{};
    detail::check(ctxrt_stats_bucket(handle_.get(), index, &bucket));
    return bucket;
  }
  ctxrt_fallback fallback(std::size_t index) const {
    ctxrt_fallback fallback{};
    detail::check(ctxrt_stats_fallback(handle_.get(), index, &fallback));
    return fallback;
  }

 private:
  detail::Owned<ctxrt_stats, ctxrt_stats_free> handle_;
  ctxrt_pool_stats pool_{};
};

// The bundle's golden vectors, run here.
class Report {
 public:
  explicit Report(ctxrt_report* handle) : handle_(handle) {}
  bool passed() const { return ctxrt_report_passed(handle_.get()) == 1; }
  std::size_t cases() const { return ctxrt_report_cases(handle_.get()); }
  ctxrt_parity_case parity_case(std::size_t index) const {
    ctxrt_parity_case one{};
    detail::check(ctxrt_report_case(handle_.get(), index, &one));
    return one;
  }

 private:
  detail::Owned<ctxrt_report, ctxrt_report_free> handle_;
};

// How text is generated; by default the likeliest token each time, until the model ends the text. See ctxrt.h.
struct GenerationOptions {
  std::int64_t max_new_tokens = 0;
  double temperature = 0;
  std::int64_t top_k = 0;
  double top_p = 0, min_p = 0;
  double repetition_penalty = 0;
  std::optional<std::uint64_t> seed{};
  std::vector<std::int64_t> stop_ids{};
  std::optional<std::int64_t> logprobs{};  // each token's, and those of this many of the likeliest
};

// Called for each token as it comes; false ends the answer. What it throws ends it too, and comes out of `generate`.
using OnToken = std::function<bool(const ctxrt_token&)>;

// An answer: the ids of its tokens, and how it was generated. What it shows is valid as long as this.
class Generation {
 public:
  explicit Generation(ctxrt_generation* handle) : handle_(handle) {}

  std::span<const std::int64_t> ids() const {
    std::size_t count = 0;
    const std::int64_t* first = ctxrt_generation_ids(handle_.get(), &count);
    return {first, count};
  }
  ctxrt_token token(std::size_t index) const {
    ctxrt_token token{};
    detail::check(ctxrt_generation_token(handle_.get(), index, &token));
    return token;
  }
  ctxrt_generation_dispatch dispatch() const {
    ctxrt_generation_dispatch dispatch{};
    ctxrt_generation_get(handle_.get(), &dispatch);
    return dispatch;
  }

 private:
  detail::Owned<ctxrt_generation, ctxrt_generation_free> handle_;
};

namespace detail {

// A callback of C++ behind one of C, which no exception leaves.
struct TokenCallback {
  const OnToken& on_token;
  std::exception_ptr thrown;

  static int call(const ctxrt_token* token, void* user_data) noexcept {
    auto* self = static_cast<TokenCallback*>(user_data);
    try {
      return self->on_token(*token) ? 0 : 1;
    } catch (...) {
      self->thrown = std::current_exception();
      return 1;
    }
  }
};

}  // namespace detail

// An opened bundle.
class Runtime {
 public:
  explicit Runtime(const std::string& bundle, const ctxrt_options& options = {}) {
    ctxrt_runtime* opened = nullptr;
    detail::check(ctxrt_open(bundle.c_str(), &options, &opened));
    handle_.reset(opened);
  }

  // Runs one input of any length.
  Result run(const std::vector<Input>& inputs, const Cancel* cancel = nullptr) {
    return std::move(run_many({&inputs, 1}, cancel).front());
  }

  // Runs several inputs, batched by the runtime; one result each.
  std::vector<Result> run_many(std::span<const std::vector<Input>> inputs, const Cancel* cancel = nullptr) {
    std::vector<std::vector<ctxrt_tensor>> tensors;
    std::vector<ctxrt_inputs> views;
    for (const auto& one : inputs) {
      auto& list = tensors.emplace_back();
      for (const auto& given : one)
        list.push_back({given.name, given.dtype, given.shape.data(), given.shape.size(), given.data});
      views.push_back({list.data(), list.size()});
    }
    std::vector<ctxrt_result*> handles(inputs.size(), nullptr);
    detail::check(ctxrt_run_many(handle_.get(), views.data(), views.size(), cancel == nullptr ? nullptr : cancel->get(),
                                 handles.data()));
    return {handles.begin(), handles.end()};
  }

  // Answers a prompt of token ids, in a bundle of a causal language model.
  Generation generate(std::span<const std::int64_t> ids, const GenerationOptions& options = {},
                      const OnToken& on_token = {}, const Cancel* cancel = nullptr) {
    const ctxrt_generation_options given{options.max_new_tokens,
                                         options.temperature,
                                         options.top_k,
                                         options.top_p,
                                         options.min_p,
                                         options.repetition_penalty,
                                         options.seed ? &*options.seed : nullptr,
                                         options.stop_ids.data(),
                                         options.stop_ids.size(),
                                         options.logprobs ? 1 : 0,
                                         options.logprobs.value_or(0)};
    detail::TokenCallback callback{on_token, nullptr};
    ctxrt_generation* answered = nullptr;
    const ctxrt_status status =
        ctxrt_generate(handle_.get(), ids.data(), ids.size(), &given, on_token ? detail::TokenCallback::call : nullptr,
                       &callback, cancel == nullptr ? nullptr : cancel->get(), &answered);
    detail::check(status);
    Generation generation(answered);
    if (callback.thrown) std::rethrow_exception(callback.thrown);
    return generation;
  }

  // Where `batch` rows of `length` tokens would run, and why.
  Explanation explain(std::int64_t length, std::int64_t batch = 1) {
    ctxrt_explanation* told = nullptr;
    detail::check(ctxrt_explain(handle_.get(), length, batch, &told));
    return Explanation(told);
  }
  Stats stats() const {
    ctxrt_stats* told = nullptr;
    detail::check(ctxrt_stats_new(handle_.get(), &told));
    return Stats(told);
  }
  Report verify() {
    ctxrt_report* measured = nullptr;
    detail::check(ctxrt_verify(handle_.get(), &measured));
    return Report(measured);
  }
  std::string_view manifest_sha256() const { return ctxrt_manifest_sha256(handle_.get()); }
  std::int64_t max_length() const { return ctxrt_max_length(handle_.get()); }

 private:
  detail::Owned<ctxrt_runtime, ctxrt_close> handle_;
};

// Turns text into a bundle's inputs. ctxrt brings none: the core takes token ids, and an application gives the
// tokenizer that its model was trained with.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // The token ids of a text, special tokens included, never truncated.
  virtual std::vector<std::int64_t> encode(std::string_view text) const = 0;
};

// Runs text through a tokenizer; `tokens` is the name of the bundle's input of token ids.
inline Result run_text(Runtime& runtime, const Tokenizer& tokenizer, std::string_view text,
                       const char* tokens = "input_ids") {
  const std::vector<std::int64_t> ids = tokenizer.encode(text);
  return runtime.run({input<std::int64_t>(tokens, ids, {static_cast<std::int64_t>(ids.size())})});
}

}  // namespace ctxrt
