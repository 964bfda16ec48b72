// What the C++ runtime adds to a bare ONNX Runtime run of the same graph, and
// to opening it.
//
//   cpp_dispatch run BUNDLE LENGTH REPEAT      one JSON object: microseconds of
//   both, interleaved cpp_dispatch open BUNDLE bare|changed|full|sizes LENGTH
//   milliseconds from nothing to the first answer, wall and CPU
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <string>
#include <vector>

#include "ort_library.h"
#include "runtime.h"

namespace {

using Clock = std::chrono::steady_clock;
using ctxrt::core::OrtLibrary;

double since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// Of all threads of the process.
double cpu_us() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

void must(bool done, const std::string& what) {
  if (done) return;
  std::cerr << what << "\n";
  std::exit(1);
}

// A session as ONNX Runtime's own examples open it, with the options that the
// runtime uses.
class BareSession {
 public:
  BareSession(const OrtLibrary& library, const std::string& graph, const std::vector<std::string>& outputs, int threads)
      : library_(library), api_(library.api()), outputs_(outputs) {
    OrtSessionOptions* options = nullptr;
    check(api_.CreateSessionOptions(&options));
    check(api_.SetIntraOpNumThreads(options, threads));
    check(api_.SetSessionGraphOptimizationLevel(options, ORT_ENABLE_BASIC));
    check(api_.AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"));
    check(api_.CreateSession(library.env(), graph.c_str(), options, &session_));
    api_.ReleaseSessionOptions(options);
    check(api_.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory_));
    OrtAllocator* allocator = nullptr;
    std::size_t inputs = 0;
    check(api_.GetAllocatorWithDefaultOptions(&allocator));
    check(api_.SessionGetInputCount(session_, &inputs));
    for (std::size_t i = 0; i < inputs; ++i) {
      char* name = nullptr;
      check(api_.SessionGetInputName(session_, i, allocator, &name));
      inputs_.emplace_back(name);
      allocator->Free(allocator, name);
    }
  }

  // Every input is the same row of ids, since only time is measured.
  void run(std::vector<std::int64_t>& ids) {
    const std::array<std::int64_t, 2> shape{1, std::ssize(ids)};
    std::vector<OrtValue*> values(inputs_.size(), nullptr), results(outputs_.size(), nullptr);
    std::vector<const char*> names, output_names;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      names.push_back(inputs_[i].c_str());
      std::int64_t* numbers = inputs_[i] == "input_ids" ? ids.data() : zeros(ids.size());
      check(api_.CreateTensorWithDataAsOrtValue(memory_, numbers, ids.size() * 8, shape.data(), 2,
                                                ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, &values[i]));
    }
    for (const auto& name : outputs_) output_names.push_back(name.c_str());
    check(api_.Run(session_, nullptr, names.data(), values.data(), values.size(), output_names.data(), results.size(),
                   results.data()));
    for (OrtValue* value : values) api_.ReleaseValue(value);
    for (OrtValue* value : results) api_.ReleaseValue(value);
  }

 private:
  void check(OrtStatus* status) const {
    must(static_cast<bool>(library_.check(status, "bare session")), "a bare session fails");
  }

  std::int64_t* zeros(std::size_t count) {
    if (zeros_.size() < count) zeros_.assign(count, 0);
    return zeros_.data();
  }

  const OrtLibrary& library_;
  const OrtApi& api_;
  std::vector<std::string> outputs_, inputs_;
  OrtSession* session_ = nullptr;
  OrtMemoryInfo* memory_ = nullptr;
  std::vector<std::int64_t> zeros_;
};

ctxrt::core::Tensors row(std::vector<std::int64_t>& ids) {
  const std::shared_ptr<void> borrowed;
  return {{"input_ids",
           {ctxrt::core::DType::int64, {std::ssize(ids)}, {borrowed, reinterpret_cast<const std::byte*>(ids.data())}}}};
}

std::string unmasked_graph(const ctxrt::core::Bundle& bundle) {
  return bundle.path(*bundle.manifest.buckets.back().unmasked_graph).string();
}

std::vector<std::string> output_names(const ctxrt::core::Manifest& manifest) {
  std::vector<std::string> names;
  for (const auto& spec : manifest.outputs) names.push_back(spec.name);
  return names;
}

double quantile(std::vector<double> numbers, double share) {
  std::sort(numbers.begin(), numbers.end());
  return numbers[static_cast<std::size_t>(share * static_cast<double>(numbers.size() - 1))];
}

void measure_runs(const std::string& path, std::int64_t length, int repeat) {
  auto opened = ctxrt::core::Runtime::open(path, {});
  must(static_cast<bool>(opened), "the bundle does not open");
  auto& runtime = **opened;
  const auto library = OrtLibrary::get();
  must(static_cast<bool>(library), "ONNX Runtime is not found");
  BareSession bare(**library, unmasked_graph(runtime.bundle()), output_names(runtime.bundle().manifest),
                   static_cast<int>(runtime.bundle().manifest.buckets.front().threads));
  std::vector<std::int64_t> ids(length, 7);
  const auto inputs = row(ids);
  std::vector<double> in_bare, in_runtime, inside;
  for (int i = 0; i < repeat + 20; ++i) {
    auto start = Clock::now();
    bare.run(ids);
    const double bare_us = since(start);
    start = Clock::now();
    const auto results = runtime.run({&inputs, 1});
    const double runtime_us = since(start);
    must(static_cast<bool>(results), "a run fails");
    if (i < 20) continue;
    in_bare.push_back(bare_us);
    in_runtime.push_back(runtime_us);
    inside.push_back(runtime_us - results->front().dispatch.front().ms * 1e3);
  }
  std::cout << "{\"bare_us\": " << quantile(in_bare, 0.1) << ", \"runtime_us\": " << quantile(in_runtime, 0.1)
            << ", \"outside_the_session_us\": " << quantile(inside, 0.5) << "}\n";
}

ctxrt::core::Check check_named(const std::string& name) {
  if (name == "full") return ctxrt::core::Check::full;
  return name == "sizes" ? ctxrt::core::Check::sizes : ctxrt::core::Check::changed;
}

// Prints what has passed since it was made.
class Stopwatch {
 public:
  void print() const {
    std::cout << "{\"ms\": " << since(start_) / 1e3 << ", \"cpu_ms\": " << (cpu_us() - cpu_start_) / 1e3 << "}\n";
  }

 private:
  Clock::time_point start_ = Clock::now();
  double cpu_start_ = cpu_us();
};

// Up to the first answer: what was opened is given back afterwards.
void measure_opening(const std::string& path, const std::string& how, std::int64_t length) {
  std::vector<std::int64_t> ids(length, 7);
  const Stopwatch watch;
  if (how == "bare") {
    const auto library = OrtLibrary::get();
    must(static_cast<bool>(library), "ONNX Runtime is not found");
    BareSession bare(**library, path + "/graphs/ctx-512.unmasked.onnx", {"last_hidden_state", "sentence_embedding"}, 0);
    bare.run(ids);
    watch.print();
  } else {
    ctxrt::core::Runtime::Options options;
    options.check = check_named(how);
    const auto runtime = ctxrt::core::Runtime::open(path, options);
    const auto inputs = row(ids);
    must(runtime && (*runtime)->run({&inputs, 1}), "the first run fails");
    watch.print();
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  must(words.size() == 4, "cpp_dispatch run BUNDLE LENGTH REPEAT | open BUNDLE bare|changed|full|sizes LENGTH");
  if (words[0] == "run") {
    measure_runs(words[1], std::stoll(words[2]), std::stoi(words[3]));
  } else {
    measure_opening(words[1], words[2], std::stoll(words[3]));
  }
}
