// What an application holds: open a bundle, run inputs of any length, ask why, close.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "batching.h"
#include "bundle.h"
#include "choosing.h"
#include "dispatch.h"
#include "fusing.h"
#include "generator.h"
#include "padding.h"
#include "segmenting.h"

namespace ctxrt::core {

// How one row was run.
struct Dispatch {
  std::int64_t length = 0;  // tokens
  std::string bucket;       // that ran it, or its segments
  Backend backend = Backend::onnxruntime_cpu;
  std::int64_t padding = 0;  // tokens that were added to it
  std::int64_t segments = 1;
  double ms = 0;       // wall time of the runs that the row had a part in
  std::string reason;  // why this bucket; says so where the row was cut or truncated
};

// Outputs have a batch axis if the inputs had one; token outputs of shorter rows are zero beyond their length.
struct RunResult {
  Tensors outputs;
  std::vector<Dispatch> dispatch;  // one a row
};

struct Explanation {
  std::int64_t length;
  std::string bucket;
  Backend backend;
  std::int64_t segments;
  std::string reason;
};

struct BucketStats {
  std::int64_t runs = 0;  // of a graph; every segment of a longer row is one
  std::int64_t rows = 0;
  std::int64_t fused = 0;  // rows whose segments the model fused itself
  std::int64_t tokens = 0, padding = 0;
  double seconds = 0;
};

struct Stats {
  std::map<std::string, BucketStats> buckets;
  PoolState pool;
};

// An opened bundle. Every method may be called from several threads at once.
class Runtime {
 public:
  struct Options {
    std::optional<ShareWeights> share_weights;   // by default what the bundle says
    std::optional<std::int64_t> session_budget;  // bytes; by default what the bundle says
    std::vector<Backend> backends;               // for every bucket; by default what each bucket says
    Check check = Check::changed;
    std::optional<double> min_quality;  // the least that an input is run with; by default what the bundle says
  };

  // Verifies a bundle and holds it; graphs are opened on first use.
  static Result<std::unique_ptr<Runtime>> open(const Path& path, const Options& options);

  const Bundle& bundle() const { return *bundle_; }
  // Runs rows of any length; several inputs are batched together, one result each.
  Result<std::vector<RunResult>> run(std::span<const Tensors> inputs, CancelToken* cancel = nullptr);
  // Answers a prompt of token ids, where the bundle is of a causal language model; see Generator.
  Result<Generation> generate(std::span<const std::int64_t> ids, const GenerationSettings& settings,
                              const OnToken& on_token = {}, CancelToken* cancel = nullptr);
  // Where `batch` rows of `length` tokens would run, and why. Opens the session to know its backend.
  Result<Explanation> explain(std::int64_t length, std::int64_t batch);
  Stats stats() const;
  // Later runs fail; those under way finish.
  void close() { closed_ = true; }

 private:
  struct Answer {
    Tensors outputs;  // without a batch axis
    Dispatch dispatch;
  };
  // What becomes of a row: its segments, the length to run, and a note if it is too long.
  struct Cut {
    std::optional<SegmentPlan> plan;
    std::int64_t length;
    std::string note;
  };

  Runtime(std::unique_ptr<Bundle> bundle, DispatcherOptions options, std::optional<double> min_quality);
  const Manifest& manifest() const { return bundle_->manifest; }
  Form form_alone() const;
  Status check_open() const;
  Result<Cut> overflow(std::int64_t length, Framing framing) const;
  Result<Cut> split(const Row& row, std::vector<Row>& parts) const;
  bool fuses(std::int64_t length) const { return fuser_ && length > manifest().max_length(); }
  Result<std::vector<Answer>> run_rows(std::span<const Row* const> rows, CancelToken* cancel);
  Result<std::vector<Answer>> run_in_buckets(std::span<const Row* const> rows, CancelToken* cancel);
  Result<Answer> run_fused(const Row& row, CancelToken* cancel);
  Result<std::vector<Answer>> run_jobs(const std::vector<Job>& jobs, CancelToken* cancel);
  Status run_batch(const std::vector<Job>& jobs, std::span<const std::size_t> batch, CancelToken* cancel,
                   std::vector<Answer>& answers);
  Tensors outputs_of_row(const Tensors& outputs, std::size_t index, std::int64_t length) const;
  Answer fused(const Row& row, const SegmentPlan& plan, std::span<Answer> answers) const;
  RunResult gathered(std::span<Answer> answers, bool batched) const;
  void count(const std::string& bucket, std::span<const Row* const> rows, std::int64_t longest, double seconds);
  void count_fused(const Dispatch& run);

  std::unique_ptr<Bundle> bundle_;
  Chooser chooser_;
  Dispatcher dispatcher_;
  std::optional<Fuser> fuser_;          // where rows longer than every bucket are fused by the model
  std::optional<Generator> generator_;  // of a causal language model
  mutable std::mutex stats_mutex_;
  std::map<std::string, BucketStats> stats_;
  std::atomic<bool> closed_{false};
};

}  // namespace ctxrt::core
